"""The array functions on a GPU find the same as on the host."""

import gc
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

import udfs.similarity
from tests.gpu.emulated import emulation
from tests.reference import brute_force, f32, real_embeddings
from udfs import device
from udfs.adapters.batches import ArrowFunction
from udfs.adapters.gpu import Engine
from udfs.adapters.matching import match_units, send_clips
from udfs.adapters.screening import place_clips, screen_units
from udfs.cells import Cells
from udfs.device import memory_limit, out_of_memory, to_gpu, to_host
from udfs.ranking import rank_columns
from udfs.screening import survivors, survivors_on_gpu
from udfs.similarity import match_earlier, match_on_gpu
from udfs.sketches import principal_basis, sketch
from udfs.units import Borders, Sweep, Unit, halves
from udfs.vectors import Doubles, Matrix, cosines, first_of_equal_rows, pack, pair_dots, squared_norms, unit_rows

pytestmark = pytest.mark.usefixtures("gpu")


def without_tensor_cores(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("udfs.tensor_screen.tensor_cores", lambda: False)


def some_basis(x: Matrix, m: int) -> Doubles:
    return np.ascontiguousarray(principal_basis(unit_rows(x, squared_norms(x)))[:, :m])


def some_units(n: int, seed: int) -> list[Unit]:
    """Three units of n rows, the second cut into blocks, the third with borders."""
    rng = np.random.default_rng(seed)
    a, b = n // 3, n // 2
    near = np.argwhere(rng.random((n - b, 5)) < 0.3)
    return [
        Unit(rng.random(a) < 0.7),
        Unit(rng.random(b - a) < 0.7, rng.random(b - a) < 0.5),
        Unit(rng.random(n - b) < 0.7, borders=Borders(rng.integers(5, size=n - b), near[:, 0], near[:, 1])),
    ]


@pytest.mark.parametrize("dim", [1, 3, 31, 32, 100, 128, 129, 384, 1000])
def test_scores_are_the_same_to_the_last_bit(dim: int) -> None:
    rng = np.random.default_rng(dim)
    x = (rng.standard_normal((40, dim)) * np.exp2(rng.integers(-60, 60, size=(40, 1)))).astype(np.float32)
    i, j = rng.integers(40, size=(2, 70))
    there = to_gpu(x)
    assert to_host(pair_dots(there, to_gpu(i), there, to_gpu(j))).tolist() == pair_dots(x, i, x, j).tolist()
    sq = squared_norms(x)
    assert to_host(squared_norms(there)).tolist() == sq.tolist()
    score = cosines(there, to_gpu(i), there, to_gpu(j), to_gpu(sq), to_gpu(sq))
    assert to_host(score).tolist() == cosines(x, i, x, j, sq, sq).tolist()
    np.testing.assert_array_equal(to_host(unit_rows(there, to_gpu(sq))), unit_rows(x, sq))


def test_equal_rows_find_their_first() -> None:
    rows = f32([[1, 2], [2, 1], [1, 2], [2, 1], [1, 2], [1, 3], [0, -0.0], [0, 0]])
    x = rows + f32([[1, 0]])
    there = to_gpu(x)
    assert to_host(first_of_equal_rows(there, squared_norms(there))).tolist() == [0, 1, 0, 1, 0, 5, 6, 6]


@pytest.mark.parametrize("eps", [None, 0.01, 0.1])
@pytest.mark.parametrize("near", [False, True])
def test_clips_are_placed_alike(eps: float | None, near: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = real_embeddings()[1][:500].astype(np.float32)
    centroids = x[::25] + np.float32(0.01)
    centroids[3] = centroids[4]  # close calls
    monkeypatch.setattr("udfs.device._GPU_CHUNK", 7000)
    here = Cells(centroids, eps).place(x, near=near)
    there = Cells(to_gpu(centroids), eps).place(to_gpu(x), near=near).on_host()
    np.testing.assert_array_equal(there.home, here.home)
    np.testing.assert_array_equal(there.distance, here.distance)
    for name in ("near_rows", "near_cells", "visits"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))


@pytest.mark.parametrize("tensor", [True, False])
@pytest.mark.parametrize("m", [0, 15, 47, 383])
@pytest.mark.parametrize("eps", [0.1, 0.05, 0.01, 0.001])
def test_real_embeddings_match_alike(eps: float, m: int, tensor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not tensor:
        without_tensor_cores(monkeypatch)
    rows = real_embeddings()[1][:300]
    x = rows.astype(np.float32)
    basis = some_basis(x, m)
    match, score, counts = match_on_gpu(rows, 1 - eps, basis, [Unit(np.ones(300, bool))])
    here, here_score, here_counts = match_earlier(x, 1 - eps, basis)
    assert match.tolist() == here.tolist() == brute_force(x, 1 - eps)[0]
    np.testing.assert_array_equal(score, here_score)
    assert counts["pairs"] == here_counts["pairs"]


@pytest.mark.parametrize("tensor", [True, False])
def test_many_units_at_once_match_alike(tensor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not tensor:
        without_tensor_cores(monkeypatch)
    x = real_embeddings()[1][:600].astype(np.float32)
    units, basis = some_units(600, 0), some_basis(x, 31)
    found, here = match_on_gpu(x, 0.9, basis, units), match_earlier(x, 0.9, basis, units)
    np.testing.assert_array_equal(found[0], here[0])
    np.testing.assert_array_equal(found[1], here[1])
    start = 0
    for unit in units:  # and each as it would alone
        own = slice(start, start + len(unit.home))
        alone = match_earlier(x[own], 0.9, basis, [unit])[0]
        assert (found[0][own] - np.where(alone >= 0, start, 0)).tolist() == alone.tolist()
        start = own.stop


@pytest.mark.parametrize("tensor", [True, False])
@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
def test_dense_groups_are_told_apart_in_full_tiles(noise: float, tensor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not tensor:
        without_tensor_cores(monkeypatch)
    monkeypatch.setattr("udfs.similarity._LISTED", 500)
    monkeypatch.setattr("udfs.similarity.GPU_TILE_ROWS", 64)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 128)).astype(np.float32)
    x[100:300] = x[0] + np.float32(noise) * x[100:300]
    x = x[rng.permutation(400)]
    units, basis = [Unit(rng.random(400) < 0.8)], some_basis(x, 15)
    dense = 0

    def counted(self: udfs.similarity._Matcher, *args: object) -> None:
        nonlocal dense
        dense += 1
        plainly(self, *args)  # type: ignore[arg-type]

    plainly = udfs.similarity._Matcher._dense
    monkeypatch.setattr(udfs.similarity._Matcher, "_dense", counted)
    match, score, counts = match_on_gpu(x, 0.9, basis, units)
    assert dense > 10
    assert counts["scored"] < 12_000  # of some 20,000 pairs of the group
    here, here_score, _ = match_earlier(x, 0.9, basis, units)
    np.testing.assert_array_equal(match, here)
    np.testing.assert_array_equal(score, here_score)


def test_pairs_just_above_the_threshold_survive_half_precision() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    off = rng.standard_normal((200, 16))
    off -= np.einsum("ij,ij->i", off, x)[:, None] * x
    off /= np.linalg.norm(off, axis=1, keepdims=True)
    cosine = 0.99 + 1e-6
    rows = np.concatenate([x, cosine * x + np.sqrt(1 - cosine**2) * off]).astype(np.float32)
    basis = np.eye(16)[:, :15]
    match, score, _ = match_on_gpu(rows, 0.99, basis, [Unit(np.ones(400, bool))])
    assert match[200:].tolist() == list(range(200))
    assert score[200:].tolist() == match_earlier(rows, 0.99, basis)[1][200:].tolist()
    codes = sketch(unit_rows(rows, squared_norms(rows)), basis)
    assert survivors_on_gpu(codes, 0.99, [Unit(np.ones(400, bool))])[0].all()


def test_copies_cost_no_pairs_and_find_their_first() -> None:
    x = np.repeat(np.eye(3, 16, dtype=np.float32), 200, axis=0)
    match, score, counts = match_on_gpu(x, 0.5, some_basis(x, 2), [Unit(np.ones(600, bool))])
    assert match[[0, 1, 199, 200, 201, 599]].tolist() == [-1, 0, 0, -1, 200, 400]
    assert score[1] == 1.0
    assert counts["pairs"] == 3


@pytest.mark.parametrize("tensor", [True, False])
@pytest.mark.parametrize("eps", [0.1, 0.01])
def test_no_row_that_matches_is_screened_out(eps: float, tensor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not tensor:
        without_tensor_cores(monkeypatch)
    x = real_embeddings()[1][:600].astype(np.float32)
    units = some_units(600, 1)
    codes = sketch(unit_rows(x, squared_norms(x)), some_basis(x, 47))
    found, pairs = survivors_on_gpu(codes, 1 - eps, units)
    here, here_pairs = survivors(codes, 1 - eps, units)
    assert pairs == here_pairs
    score = match_earlier(x, 1 - eps, units=units)[1]
    assert found[score < 1].all()  # copies among guests match without being compared
    assert found[here].all()  # half precision has the wider margin
    assert found.sum() < here.sum() + 60


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("limit", [700_000, 2_000_000])
@pytest.mark.parametrize("gpu", ["emulated"], indirect=True)  # libraries on a card need more than so little
def test_work_that_exceeds_the_memory_is_cut(limit: int, copies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = real_embeddings()[1][:600].astype(np.float32)
    if copies:
        units = [Unit(np.ones(250, bool)), Unit(np.ones(350, bool))]
    else:  # not all are compared here, though copies match wherever they come together
        x += np.float32(1e-4) * np.random.default_rng(0).standard_normal(x.shape, dtype=np.float32)
        units = some_units(600, 2)
    basis = some_basis(x, 15)
    monkeypatch.setattr("udfs.similarity._LISTED", 1 << 10)
    here = match_earlier(x, 0.9, basis, units)
    codes = sketch(unit_rows(x, squared_norms(x)), basis)
    whole = survivors_on_gpu(codes, 0.9, units)
    pool = emulation().get_default_memory_pool()
    gc.collect()
    pool.set_limit(pool.used_bytes() + limit)
    cut = 0

    def counted(sweeps: Sequence[Sweep]) -> tuple[list[Sweep], list[Sweep]]:
        nonlocal cut
        cut += 1
        return halves(sweeps)

    monkeypatch.setattr("udfs.parts.halves", counted)
    found = match_on_gpu(x, 0.9, basis, units)
    assert cut
    np.testing.assert_array_equal(found[0], here[0])
    np.testing.assert_array_equal(found[1], here[1])
    some = survivors_on_gpu(codes, 0.9, units)
    assert (some[0].tolist(), some[1]) == (whole[0].tolist(), whole[1])


@pytest.mark.parametrize("gpu", ["emulated"], indirect=True)
def test_too_little_memory_for_two_rows_is_said() -> None:
    x = np.random.default_rng(0).standard_normal((9, 1000)).astype(np.float32)
    emulation().get_default_memory_pool().set_limit(5000)
    with pytest.raises(MemoryError, match="may use 5000 bytes cannot hold two rows"):
        match_on_gpu(x, 0.9, np.empty((1000, 0)), [Unit(np.ones(9, bool))])


@pytest.mark.parametrize("gpu", ["emulated"], indirect=True)
def test_the_limit_is_a_share_of_what_is_free() -> None:
    assert memory_limit() == int((1 << 30) * 0.9)
    device._limit_memory.cache_clear()
    device.use_gpu(0, 0.25)
    assert memory_limit() == int((1 << 30) * 0.25 * 0.9)
    assert issubclass(out_of_memory(), MemoryError)


@pytest.mark.parametrize("which", ["hard", "random"])
def test_the_adapters_give_the_same_rows(which: str) -> None:
    pytest.importorskip("pyspark")  # tells a task its GPU
    ids = [f"clip {n}" for n in range(500)]
    rows = real_embeddings()[1][:500]
    rows[100:110] = rows[100]
    x = rows.astype(np.float32)
    centroids, basis = x[::50].copy(), some_basis(x, 31)
    rank = rank_columns(which, [])
    clips = [pa.record_batch({"id": ids[:300], "embedding": pack(rows[:300])})]
    clips += [pa.record_batch({"id": ids[300:], "embedding": pack(x[300:])})]

    def table(function: ArrowFunction, source: list[pa.RecordBatch]) -> pa.Table:
        return pa.Table.from_batches(function(source))

    def by_unit(found: pa.Table) -> list[pa.RecordBatch]:
        in_order = found.sort_by([(name, "ascending") for name in ("cell", "a", "b")])
        return list(in_order.to_batches(max_chunksize=90))

    def everything(engine: Engine) -> tuple[pa.Table, pa.Table, pa.Table]:
        placed = table(place_clips(Held(centroids), Held(basis), 0.05, engine), clips)
        by_cell = placed.filter(placed["cell"].is_valid())
        zero = pa.array(np.zeros(len(by_cell), np.int32))
        in_units = by_cell.append_column("a", zero).append_column("b", zero)
        found = table(screen_units(31, len(centroids), 0.95, engine), by_unit(in_units))
        send = send_clips(Held(centroids), 0.05, None, rank, 1, Held(np.full(10, 2)), engine)
        matched = table(match_units(Held(basis), 0.95, rank, engine), by_unit(table(send, clips)))
        return placed, found.sort_by([("cell", "ascending"), ("key", "ascending")]), matched

    here, there = everything(Engine()), everything(Engine(gpu=True, scheduled=False))
    assert there[0].drop(["placements"]).equals(here[0].drop(["placements"]))
    both = set(zip(here[1]["cell"].to_pylist(), here[1]["key"].to_pylist(), strict=True))
    assert both <= set(zip(there[1]["cell"].to_pylist(), there[1]["key"].to_pylist(), strict=True))
    matched = [found.filter(found["cosine_sim_score"].is_valid()) for found in (here[2], there[2])]
    a, b = (sorted(map(str, found.to_pylist())) for found in matched)
    assert a == b
    assert len(a) > 50


class Held:
    """Stands in for a Spark broadcast."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value
