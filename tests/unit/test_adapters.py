import sys
import zipfile
import zipimport
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from udfs.adapters.batches import task, units
from udfs.adapters.reading import keep_drawn
from udfs.adapters.screening import gather_sketches, place_clips
from udfs.keysets import EVERY_DRAW, draws
from udfs.screening import placement_type
from udfs.vectors import pack


class Held:
    """Stands in for a Spark broadcast."""

    def __init__(self, value: object) -> None:
        self.value = value


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


def test_the_rows_of_a_unit_come_together_wherever_batches_end() -> None:
    unit = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1], [2, 0, 0], [2, 1, 1], [2, 1, 1]])
    rows = pa.table({**{name: unit[:, n] for n, name in enumerate("cab")}, "x": [bytes([n]) for n in range(7)]})
    rows = rows.rename_columns(["cell", "a", "b", "x"])
    for size in (1, 2, 3, 7):
        found = [u.column("x").to_pylist() for u in units(rows.to_batches(max_chunksize=size))]
        assert found == [[b"\0"], [b"\1", b"\2", b"\3"], [b"\4"], [b"\5", b"\6"]]
    joined = list(units(rows.to_batches(max_chunksize=1)))[1]
    assert joined.schema.field("x").type == pa.large_binary()  # may hold more than 2 GiB
    assert list(units([])) == []


def test_the_scan_keeps_what_the_sample_and_the_rejects_need() -> None:
    ids = pa.array([f"clip {n}" for n in range(1000)] + [None])
    reason = pa.array([None] * 980 + ["zero_norm"] * 20 + ["null"])
    columns = {"id": ids, "source": ids, "embedding": pa.array([b"x"] * 1001), "reason": reason}
    limit = EVERY_DRAW // 4
    (kept,) = keep_drawn(7, limit)([pa.record_batch(columns)])
    rows = kept.to_pylist()
    assert [row["draw"] for row in rows] == draws(ids, 7).tolist()
    assert all((row["embedding"] is not None) == (row["draw"] <= limit) for row in rows)
    assert all((row["id"] is not None) == (row["draw"] <= limit) for row in rows[:980])
    assert all(row["id"] == row["source"] == f"clip {n}" for n, row in enumerate(rows[980:1000], 980))
    assert 200 < sum(row["embedding"] is not None for row in rows) < 300
    (whole,) = keep_drawn(7, EVERY_DRAW)([pa.record_batch(columns)])
    assert whole.drop_columns(["draw"]).equals(pa.record_batch(columns))


def test_a_task_leaves_no_reader_of_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("something.py", "")
    monkeypatch.syspath_prepend(str(archive))
    sys.path_importer_cache[str(archive)] = zipimport.zipimporter(str(archive))
    list(task(lambda batches: iter(batches))([]))
    assert str(archive) not in sys.path_importer_cache
