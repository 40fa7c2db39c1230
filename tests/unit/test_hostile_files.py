"""Clip files made to harm: no code runs, nothing large is allocated, and there is always an answer."""

import os
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.target import check, corpus, seeds
from tests.reference import f32
from udfs import reasons
from udfs.decode import MAX_BYTES, decode_clip

GOOD = pickle.dumps(f32([0.5, -1, 2]), protocol=4)


class Call:
    """Pickles as a call."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


def test_what_fuzzing_found_is_answered() -> None:
    assert len(corpus()) > 50
    for name, content in [*seeds(), *corpus()]:
        check(name, content)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for call, *args in (
        (os.system, f"touch {trace}"),
        (eval, f"open({str(trace)!r}, 'w')"),
        (exec, f"open({str(trace)!r}, 'w')"),
        (open, str(trace), "w"),
        (getattr, os, "system"),
        (np.load, str(trace), None, True),
        (np.ndarray, (10**12,)),
    ):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            try:
                content = pickle.dumps(Call(call, *args), protocol)
            except TypeError:  # a module cannot be pickled
                content = b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93."
            assert check("clip.pickle", content).reason == reasons.NOT_AN_ARRAY
    assert not trace.exists()


def test_an_array_with_code_in_its_state_is_no_array(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    reconstruct, args, state = cast("tuple[Any, ...]", np.ones(3, np.float32).__reduce__())
    for n in range(len(state)):
        hostile = [*state[:n], Call(os.system, f"touch {trace}"), *state[n + 1 :]]

        class Array:
            def __reduce__(self, hostile: list[Any] = hostile) -> Any:
                return reconstruct, args, tuple(hostile)

        assert check("clip.pickle", pickle.dumps(Array())).reason == reasons.NOT_AN_ARRAY
    assert not trace.exists()


def test_what_stands_for_a_name_takes_no_state() -> None:
    for name in (b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode"):
        assert check("clip.pickle", b"\x80\x02c" + name + b"\nK\x01b.").reason == reasons.NOT_AN_ARRAY


def ops(*names: str) -> bytes:
    return b"".join(getattr(pickle, name) for name in names)


ENCODED = b"\x80\x02c_codecs\nencode\nX\x00\x00\x10\x00" + b"a" * (1 << 20) + b"X\x06\x00\x00\x00latin1\x86q\x00"
BOMBS = {
    "a byte array of 2**60": b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"abc.",
    "bytes of 2**62": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
    "text of 2**31": b"\x80\x04X" + struct.pack("<I", (1 << 31) - 1) + b"abc.",
    "a far memo index": b"\x80\x02Nr" + struct.pack("<I", (1 << 32) - 1) + b".",
    "a million marks": ops("MARK") * 1_000_000,
    "a million tuples in each other": ops("EMPTY_TUPLE") + ops("TUPLE1") * 1_000_000 + b".",
    "a list doubled again and again": b"(lp0\n" + b"(g0\ng0\nlp0\n" * 10_000 + b".",
    "a dict of colliding keys": b"}(" + b"".join(b"I%d\nN" % (n * (2**61 - 1)) for n in range(5000)) + b"u.",
    "one text encoded again and again": ENCODED + b"Rh\x00" * 1_000_000 + b".",
    "one text encoded by many calls": b"\x80\x02c_codecs\nencode\nq\x01"
    + ENCODED[ENCODED.index(b"X") :] + b"R" + b"h\x01h\x00R" * 100 + b".",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "an array of huge lengths": GOOD.replace(b"K\x03\x85", b"(" + b"\x8a\xff" * 2 + b"\xff" * 253 + b"t"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_does_not_become_large(bomb: str) -> None:
    content = BOMBS[bomb]
    for name in ("clip.pickle", "clip.npy"):
        assert check(name, content).reason in (reasons.NOT_AN_ARRAY, reasons.UNREADABLE)


def test_a_clip_is_not_rejected_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("udfs.unpickler.build_array", short)
    with pytest.raises(MemoryError):
        decode_clip("clip.pickle", GOOD)


def test_the_length_of_a_frame_is_not_believed() -> None:
    check("clip.pickle", b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + GOOD[11:])


def npy(header: str, version: bytes = b"\x01\x00", data: bytes = b"") -> bytes:
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header.encode("latin1") + data


HEADER = "{'descr': %s, 'fortran_order': False, 'shape': %s, }\n"
HEADERS = {
    "a shape of a million millions": npy(HEADER % ("'<f4'", "(1000000, 1000000)")),
    "a shape of nothing times much": npy(HEADER % ("'<f4'", f"(0, {10**18})")),
    "a negative shape": npy(HEADER % ("'<f4'", "(-1,)")),
    "a shape of a thousand axes": npy(HEADER % ("'<f4'", "(" + "1," * 1000 + ")"), data=b"1234"),
    "a number of 5,000 digits": npy(HEADER % ("'<f4'", f"({'9' * 5000},)")),
    "a shape of floats": npy(HEADER % ("'<f4'", "(1.0,)"), data=b"1234"),
    "a header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "a header of 9,000 brackets": npy("[" * 9000),
    "a header of 9,000 signs": npy("-" * 9000 + "1"),
    "a call in the header": npy(HEADER % ("__import__('os').system('x')", "(1,)")),
    "objects": npy(HEADER % ("'|O'", "(1,)"), data=GOOD),
    "a type of 2 GiB": npy(HEADER % ("'V2147483647'", "(1,)")),
    "a type in a type": npy(HEADER % ("[('a', '<f4', (1000, 1000, 1000))]", "(1,)")),
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_hostile_header_is_no_array(header: str) -> None:
    assert check("clip.npy", HEADERS[header]).reason in (reasons.UNREADABLE, reasons.WRONG_DTYPE)


def test_large_files_and_vectors_are_refused_unread() -> None:
    assert decode_clip("clip.npy", bytes(MAX_BYTES + 1)).reason == reasons.TOO_LARGE
    longest = npy(HEADER % ("'<f2'", f"({MAX_BYTES // 2 - 100},)"), data=b"\x00\x3c" * (MAX_BYTES // 2 - 100))
    assert len(longest) <= MAX_BYTES
    assert decode_clip("clip.npy", longest).reason == reasons.TOO_LARGE


OPCODES = {op.code.encode("latin1"): op for op in pickletools.opcodes}
ARGUMENTS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"numpy\nndarray\n", b"numpy\ndtype\n", b"os\nsystem\n", b"_codecs\nencode\n", b"\x03abc", b"0\n"]
    ),
    st.integers(0, 2**64 - 1).map(lambda n: struct.pack("<Q", n)),
)
PROGRAMS = st.lists(st.tuples(st.sampled_from(sorted(OPCODES)), ARGUMENTS).map(b"".join), max_size=40).map(b"".join)


@settings(max_examples=1500)
@given(PROGRAMS, st.integers(0, len(GOOD)), st.integers(0, len(GOOD)))
def test_any_opcodes_are_answered(program: bytes, start: int, stop: int) -> None:
    check("clip.pickle", GOOD[:start] + program + GOOD[stop:])


@settings(max_examples=1500)
@given(st.sampled_from(seeds()), st.binary(max_size=40), st.integers(0, 400), st.integers(0, 400))
def test_any_bytes_are_answered(seed: tuple[str, bytes], noise: bytes, start: int, stop: int) -> None:
    name, content = seed
    check(name, content[:start] + noise + content[stop:])
