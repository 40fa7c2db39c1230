import dataclasses
import sys
import zipfile
import zipimport
from collections import Counter
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.adapters.batches import gathered, task, units
from udfs.adapters.gpu import Engine
from udfs.adapters.reading import scan, tally
from udfs.adapters.screening import cut_placements, place_clips, screen_units
from udfs.keysets import EVERY_DRAW, clip_keys, draws
from udfs.screening import placement_type
from udfs.units import Unit
from udfs.vectors import pack

SCANNED = pa.schema(
    {
        **dict.fromkeys(("id", "source"), pa.string()),
        "embedding": pa.binary(),
        "dim": pa.int32(),
        "reason": pa.string(),
        **dict.fromkeys(("draw", "clips"), pa.int64()),
        "segment": pa.int32(),
        "draws": pa.binary(),
    }
)


T = TypeVar("T")


@dataclasses.dataclass
class Held(Generic[T]):
    """Stands in for a Spark broadcast."""

    value: T


def screened(x: np.ndarray, centroids: np.ndarray, basis: np.ndarray, eps: float, blocks: np.ndarray) -> pa.Table:
    """The survivors of rows that come in batches of 50, screened in cells that are cut into blocks."""
    clips = pa.table({"id": [f"{n}" for n in range(len(x))], "embedding": pack(x)}).to_batches(50)
    placed = pa.Table.from_batches(place_clips(Held(centroids), Held(basis), eps, Engine())(clips))
    assert placed["id"].drop_null().to_pylist() == [f"{n}" for n in range(len(x))]
    m = basis.shape[1]
    cut = cut_placements(Held(blocks), m)(placed.filter(placed["cell"].is_valid()).to_batches())
    units = pa.Table.from_batches(cut).sort_by([(name, "ascending") for name in ("cell", "a", "b")])
    found = pa.Table.from_batches(screen_units(m, len(centroids), 1 - eps, Engine())(units.to_batches(max_chunksize=3)))
    return found.filter(found["key"].is_valid())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 120),
    st.sampled_from([3, 8, 300]),
    st.integers(1, 12),
    st.integers(1, 9),
    st.sampled_from([1e-3, 0.01, 0.1, 0.5]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_both_clips_of_a_similar_pair_survive_in_a_common_cell(
    n: int, dim: int, k: int, m: int, eps: float, cut: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim))
    x[n // 2 :] = x[: n - n // 2]  # pairs at about the distance of eps, and some bit-identical ones
    near = rng.standard_normal((n - n // 2, dim)) * rng.integers(2, size=(n - n // 2, 1))
    x[n // 2 :] += np.sqrt(2 * eps) * near
    x[rng.random(n) < 0.1] = x[0]
    vectors = x.astype(np.float32)
    centroids = (rng.standard_normal((k, dim)) / np.sqrt(dim)).astype(np.float32)
    basis = np.linalg.qr(rng.standard_normal((dim, min(m, dim))))[0]  # not the data's: sketches that tell little
    blocks = rng.integers(1, 4, size=k) if cut else np.ones(k, np.int64)
    found = screened(vectors, centroids, basis, eps, blocks)

    keys = {int(key): n for n, key in enumerate(clip_keys(pa.array([f"{n}" for n in range(n)])).view(np.int64))}
    survives = np.zeros((n, k), bool)
    survives[[keys[key] for key in found["key"].to_pylist()], found["cell"].to_pylist()] = True
    together = (survives.astype(int) @ survives.T.astype(int)) > 0
    unit = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    similar = unit @ unit.T >= 1 - eps
    np.fill_diagonal(similar, False)
    assert together[similar].all()


def test_equal_sketches_do_not_hide_the_partners_of_another_cell() -> None:
    basis = np.eye(4)[:, :1]  # tells nothing of what lies in the other three directions
    a, b = [0, 1, 0, 0], [0, 0, 1, 0]
    c = [1e-4, 0, 1, 0]  # the partner of b, in whose cell a is not
    centroids = np.array([a, b], np.float32)
    found = screened(np.array([a, b, c], np.float32), centroids, basis, 1e-4, np.ones(2, np.int64))
    keys = clip_keys(pa.array(["1", "2"])).view(np.int64)
    assert set(keys.tolist()) <= set(found.filter(found["cell"].to_numpy() == 1)["key"].to_pylist())


def test_of_bit_identical_clips_one_travels() -> None:
    x = np.repeat(np.eye(3, dtype=np.float32), [5, 1, 1], axis=0)
    clips = pa.record_batch({"id": list("abcdefg"), "embedding": pack(x)})
    _, cells = place_clips(Held(np.eye(3, dtype=np.float32)), Held(np.eye(3)), 0.01, Engine())([clips])
    assert cells.column("homes").to_pylist() == [5, 1, 1]
    assert cells.column("travelling").to_pylist() == [1, 1, 1]
    found = screened(x, np.eye(3, dtype=np.float32), np.eye(3), 0.01, np.ones(3, np.int64))
    keys = clip_keys(pa.array(list("01234"))).view(np.int64).tolist()
    survived = list(zip(*(found[name].to_pylist() for name in ("key", "cell", "copy")), strict=True))
    assert survived == [(keys[0], 0, False), *((key, 0, True) for key in keys[1:])]


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


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_units_are_gathered_until_they_are_large_enough(sizes: list[int], least: int) -> None:
    batches = [pa.record_batch({"n": pa.array([size])}) for size in sizes]
    groups = [
        [b.column("n")[0].as_py() for b in g] for g in gathered(batches, least, lambda b: b.column("n")[0].as_py())
    ]
    assert [size for group in groups for size in group] == sizes
    assert all(sum(group) >= least for group in groups[:-1])
    assert all(sum(group[:-1]) < least for group in groups)


@pytest.mark.parametrize("engine", [Engine(), Engine(gpu=True)])
def test_units_are_screened_together_by_their_placements(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows they come packed in, a task holds no more of them than it needs."""
    monkeypatch.setattr(Engine, "attach", lambda _: None)
    monkeypatch.setattr("udfs.adapters.gpu._GATHERED_ROWS", 25)
    together: list[list[int]] = []

    def screen(codes: np.ndarray, _min_score: float, compared: list[Unit]) -> tuple[np.ndarray, int]:
        together.append([len(unit.home) for unit in compared])
        return np.zeros(len(codes), bool), 0

    monkeypatch.setattr("udfs.adapters.screening.survivors", screen)
    monkeypatch.setattr("udfs.adapters.screening.survivors_on_gpu", screen)
    kind = placement_type(3, 9)
    packed = [bytes(10 * kind.itemsize)] * 9
    nothing = pa.nulls(9, pa.binary())
    number = pa.array(range(9), pa.int32())
    rows = {"cell": number, "a": number, "b": number, "placements": packed, "near": nothing, "repeated": nothing}
    list(screen_units(3, 9, 0.9, engine)([pa.record_batch(rows)]))
    assert together == ([[10, 10, 10]] * 3 if engine.gpu else [[10]] * 9)


def test_the_scan_keeps_what_the_sample_and_the_rejects_need() -> None:
    ids = pa.array([f"clip {n}" for n in range(1000)] + [None])
    columns = {
        "id": ids,
        "source": ids,
        "embedding": pa.array([b"x"] * 1001, pa.binary()),
        "dim": pa.array([1] * 900 + [2] * 101, pa.int32()),
        "reason": pa.array([None] * 980 + ["zero_norm"] * 20 + ["null"]),
        "rank_0": pa.array(range(1001)),
    }
    limit = EVERY_DRAW // 4
    whole, counts, segments = scan(7, limit)([pa.record_batch(columns)])
    rows = whole.to_pylist()
    draw = dict(zip(ids.to_pylist(), draws(ids, 7).tolist(), strict=True))
    drawn = [n for n in range(980) if draw[f"clip {n}"] <= limit]
    assert 200 < len(drawn) < 300
    assert [row["rank_0"] for row in rows] == [*drawn, *range(980, 1001)]
    assert [row["embedding"] for row in rows] == [b"x"] * len(drawn) + [None] * 21
    assert all(row["draw"] == draw[row["id"]] for row in rows)
    assert {(c["reason"], c["dim"], c["clips"]) for c in counts.to_pylist()} == {
        (None, 1, 900), (None, 2, 80), ("zero_norm", 2, 20), ("null", 2, 1),
    }  # fmt: skip
    assert segments.column("draws").drop_null().nbytes > 0
    everything, _, _ = scan(7, EVERY_DRAW)([pa.record_batch(columns)])
    assert len(everything) == 1001
    assert everything.select(list(columns)).equals(pa.record_batch(columns))


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=60), st.integers(1, 20))
def test_the_tally_counts_and_finds_ids_that_come_twice(clips: list[tuple[int, bool]], size: int) -> None:
    """Whatever the batches; a rejected clip's id does not count."""
    kinds = pa.table(
        {
            "id": pa.array([f"{n}" for n, _ in clips], pa.string()),
            "source": pa.nulls(len(clips), pa.string()),
            "embedding": pa.nulls(len(clips), pa.binary()),
            "dim": pa.array([n % 2 for n, _ in clips], pa.int32()),
            "reason": pa.array([None if usable else "null" for _, usable in clips], pa.string()),
        }
    )
    scanned = pa.Table.from_batches(scan(1, 0)(kinds.to_batches(max_chunksize=size)), SCANNED)
    rows = [row for batch in tally(scanned.to_batches()) for row in batch.to_pylist()]
    counted = {(row["reason"], row["dim"]): row["clips"] for row in rows if row["repeats"] is None}
    assert counted == Counter((None if usable else "null", n % 2) for n, usable in clips)
    usable = [n for n, good in clips if good]
    assert sum(row["repeats"] or 0 for row in rows) == len(usable) - len(set(usable))


def test_a_task_leaves_no_reader_of_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("something.py", "")
    monkeypatch.syspath_prepend(str(archive))
    sys.path_importer_cache[str(archive)] = zipimport.zipimporter(str(archive))
    list(task(lambda batches: iter(batches))([]))
    assert str(archive) not in sys.path_importer_cache
