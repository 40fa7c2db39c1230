"""Reasons a clip is rejected for, one word each, as written to rejected/."""

UNREADABLE = "unreadable"
NOT_AN_ARRAY = "not_an_array"
WRONG_DTYPE = "wrong_dtype"
WRONG_DIMENSION = "wrong_dimension"
NOT_FINITE = "not_finite"
ZERO_NORM = "zero_norm"
NULL = "null"
HIDDEN_NAME = "hidden_name"
TOO_LARGE = "too_large"
BAD_ID = "bad_id"
DUPLICATE_ID = "duplicate_id"


class RejectedError(Exception):
    """Carries a reason out of the readers."""
