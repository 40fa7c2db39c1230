from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.readers import deal
from udfs.adapters import FilePart, gather_sketches, parquet_outline, place_clips, read_parquet
from udfs.screening import placement_type
from udfs.vectors import pack


class Held:
    """Stands in for a Spark broadcast."""

    def __init__(self, value: object) -> None:
        self.value = value


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


def test_the_parts_of_a_file_hold_its_rows_once(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    table = pa.table(
        {"clip.no": np.arange(1000), "v e": pa.array(rows.tolist(), pa.list_(pa.float32())), "x": rows[:, 0]}
    )
    path = str(tmp_path / "x.parquet")
    pq.write_table(table, path, row_group_size=90)
    assert parquet_outline([path, path], "v e") == (2000, 8)
    size = Path(path).stat().st_size
    seen: list[str] = []
    for start in range(0, size, 7000):
        tasks = Held([[FilePart("file:///x", path, start, min(start + 7000, size))]])
        for batch in read_parquet(tasks, "clip.no", "v e")([pa.record_batch({"id": [0]})]):  # type: ignore[arg-type]
            assert batch.schema.names == ["id", "source", "embedding", "dim", "reason"]
            for i, value in zip(batch.column("id").to_pylist(), batch.column("embedding"), strict=True):
                assert value.as_py() == rows[int(i)].tobytes()
                seen.append(i)
    assert sorted(map(int, seen)) == list(range(1000))


def test_sketches_are_gathered_by_unit() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 16)).astype(np.float32)
    basis = np.ascontiguousarray(np.linalg.qr(rng.standard_normal((16, 16)))[0][:, :7])
    centroids = rng.standard_normal((5, 16)).astype(np.float32) / 4
    clips = pa.record_batch({"id": [f"{n}" for n in range(200)], "embedding": pack(x)})
    (placed,) = place_clips(Held(centroids), Held(basis), 0.05)([clips])  # type: ignore[arg-type]
    blocks = np.array([1, 2, 1, 1, 3])
    gathered = list(gather_sketches(Held(blocks), 7)([placed]))  # type: ignore[arg-type]
    units = [(u["cell"], u["a"], u["b"]) for batch in gathered for u in batch.to_pylist()]
    assert units == sorted(set(units))
    travelled = sum(
        len(np.frombuffer(value.as_py(), placement_type(7)))
        for batch in gathered
        for value in batch.column("placements")
    )
    cells = np.concatenate([placed.column("cluster_id").to_numpy(), placed.column("guests").flatten().to_numpy()])
    assert travelled == blocks[cells].sum() > 200


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 3)])
def test_any_kind_of_list_column_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    rows = [[1.0, 2.0, 3.0], [0.5, 0.25, 4.0]]
    path = str(tmp_path / "x.parquet")
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": pa.array(rows, kind)}), path)
    assert parquet_outline([path], "embedding") == (2, 3)
    tasks = Held([[FilePart("file:///x", path, 0, Path(path).stat().st_size)]])
    (batch,) = read_parquet(tasks, "id", "embedding")([pa.record_batch({"id": [0]})])  # type: ignore[arg-type]
    assert [np.frombuffer(v, np.float32).tolist() for v in batch.column("embedding").to_pylist()] == rows
    assert batch.column("source").to_pylist() == ["file:///x"] * 2
