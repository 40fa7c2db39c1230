from hypothesis import given
from hypothesis import strategies as st

from jobs.readers import deal


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(1, 100), st.integers(1, 100))
def test_every_byte_is_dealt_once_and_no_task_gets_too_much(sizes: list[int], most: int, least: int) -> None:
    files = [(f"file:///{n}", f"/{n}", size) for n, size in enumerate(sizes)]
    tasks = deal(files, most, min(least, most))
    for n, size in enumerate(sizes):
        parts = [part for task in tasks for part in task if part.path == f"/{n}"]
        assert sum(part.stop - part.start for part in parts) == size
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert all(sum(max(part.stop - part.start, min(least, most)) for part in task) <= most for task in tasks)
    assert all(len(task) for task in tasks) or not sizes
