import numpy as np
import pytest

from jobs.kmeans import train
from tests.reference import f32
from udfs.cells import Cells


@pytest.mark.parametrize("seed", range(25))
def test_five_blobs_become_five_clusters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centers = np.eye(5, 32)
    blob = np.repeat(np.arange(5), [400, 100, 30, 10, 5])
    sample = (centers[blob] + 0.02 * rng.standard_normal((len(blob), 32))).astype(np.float32)
    cluster = Cells(train(sample, 5, seed)).place(sample).home
    assert len({(b, c) for b, c in zip(blob, cluster, strict=True)}) == 5


def test_more_clusters_than_distinct_rows_gives_the_distinct_rows() -> None:
    sample = f32([[3, 0], [0, 2], [3, 0], [0, 2], [3, 0]])
    assert train(sample, 4, 0).tolist() == [[1, 0], [0, 1]]


def test_the_same_sample_gives_the_same_centroids() -> None:
    sample = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)
    first = train(sample, 7, 3)
    assert first.shape == (7, 16)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, train(sample, 7, 3))
