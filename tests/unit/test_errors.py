from jobs.errors import one_line

PYTHON = """An exception was thrown from the Python worker. Please see the stack trace below.
Traceback (most recent call last):
  File "udfs/parquet.py", line 77, in _opened
    raise ValueError(f"{part.uri} cannot be read") from e
ValueError: file:/in/part-0.parquet cannot be read: Corrupt data.

"""


def test_of_a_traceback_the_error_is_shown_and_else_the_first_line() -> None:
    assert one_line(PYTHON) == "ValueError: file:/in/part-0.parquet cannot be read: Corrupt data."
    assert one_line("Path does not exist\n\tat org.apache.spark.Error: x") == "Path does not exist"
    assert one_line("one\njava.io.IOException: two") == "one"
    assert one_line(" ") == ""


def test_the_error_of_a_barrier_task_is_found_behind_its_stage() -> None:
    message = """Job aborted due to stage failure: Could not recover from a failed barrier ResultStage...
org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "core.py", line 852, in _train_udf
ModuleNotFoundError: No module named 'cupy'

\tat org.apache.spark.api.python.BasePythonRunner(PythonRunner.scala:1)
"""
    assert one_line(message) == "ModuleNotFoundError: No module named 'cupy'"
