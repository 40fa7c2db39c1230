import numpy as np
import pytest

from jobs.options import parse
from jobs.planning import auto_clusters, look_rows, make_plan, training_rows
from udfs.cells import Cells
from udfs.sketches import principal_basis
from udfs.vectors import squared_norms, unit_rows

PATHS = ("--input-embeddings-path", "in", "--output-path", "out")
OPTIONS = parse(PATHS)


def test_more_clips_get_more_clusters_of_more_clips() -> None:
    sizes = [1, 20, 1000, 60_000, 10**6, 10**8, 10**10]
    clusters = [auto_clusters(rows, 384) for rows in sizes]
    assert clusters == sorted(clusters)
    assert clusters[0] == 1
    assert 100 < clusters[4] < 500
    per_cluster = [rows / k for rows, k in zip(sizes, clusters, strict=True)]
    assert per_cluster[2:] == sorted(per_cluster[2:])
    assert auto_clusters(10**6, 2048) < auto_clusters(10**6, 128)


def test_the_sample_stays_within_its_bytes() -> None:
    many = 10**9
    assert training_rows(many, 10, OPTIONS, 384, gpu=False) == 2560
    assert look_rows(384) == 20_000
    assert training_rows(many, 10**5, OPTIONS, 384, gpu=False) * 4 * 384 <= 512 << 20
    assert training_rows(many, 10**6, OPTIONS, 384, gpu=False) == 10**6  # k-means needs a row for each
    assert training_rows(many, 10**5, OPTIONS, 384, gpu=True) == 256 * 10**5
    assert training_rows(many, 10, parse([*PATHS, "--kmeans-sample-rows", "500"]), 384, gpu=False) == 500
    everything = parse([*PATHS, "--kmeans-sample-rows", "all"])
    assert training_rows(many, 10, everything, 384, gpu=True) == many
    assert training_rows(many, 10, everything, 384, gpu=False) * 4 * 384 <= 512 << 20


@pytest.mark.parametrize(
    ("eps", "rows", "two_passes"),
    [(0.001, 10**7, True), (0.01, 10**7, True), (0.9, 10**7, False), (0.01, 1200, False)],
)
def test_sketches_go_first_where_they_pay(eps: float, rows: int, two_passes: bool) -> None:
    rng = np.random.default_rng(0)  # no near-duplicates, and most of the length in twenty directions
    x = (rng.standard_normal((500, 384)) * np.where(np.arange(384) < 20, 5, 1)).astype(np.float32)
    unit = unit_rows(x, squared_norms(x))
    placed = Cells(unit[:3].copy(), eps).place(x, near=True)
    plan = make_plan(unit, placed, principal_basis(unit), rows, 1 - eps, 0)
    assert plan.two_passes == two_passes
    assert 0 <= plan.surviving_fraction <= 1
    assert plan.screen_coordinates < 384


def test_pairs_in_the_sample_stand_for_more_and_groups_for_themselves() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1000, 384)) * np.where(np.arange(384) < 20, 5, 1)).astype(np.float32)
    x[1] = x[0] * np.float32(1.001)  # a pair: 0.2% of the sample, which is 1% of the clips
    x[500:800] = x[500] + np.float32(0.001) * x[500:800]  # a group: 30%
    unit = unit_rows(x, squared_norms(x))
    placed = Cells(unit[:1].copy()).place(x)
    plan = make_plan(unit, placed, principal_basis(unit), 100_000, 0.99, 0)
    assert plan.pairs_per_clip == pytest.approx(50_000)
    assert plan.surviving_fraction == pytest.approx(0.2 + 0.3, abs=1e-9)
