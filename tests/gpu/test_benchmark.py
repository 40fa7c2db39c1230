import numpy as np
import pytest

from scripts.bench.gpu_cells import cell, compare
from scripts.bench.rivals import curator_match
from tests.reference import brute_force, real_embeddings
from udfs.device import to_gpu, to_host
from udfs.vectors import squared_norms, unit_rows

pytestmark = pytest.mark.usefixtures("gpu")


def test_the_contenders_find_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    rows = cell(real_embeddings()[1][:400], 300, 400)
    compare(rows, [0.01], 31, 1)
    columns = capsys.readouterr().out.strip().strip("|").split("|")
    assert columns[0].strip() == "300"
    assert columns[-1].strip() == "0"


def test_curators_algorithm_finds_the_highest_cosine_with_an_earlier_row() -> None:
    x = real_embeddings()[1][:100].astype(np.float32)
    best = to_host(curator_match(to_gpu(unit_rows(x, squared_norms(x))), batch=32))
    expected = [score or 0.0 for score in brute_force(x, 0.0)[1]]
    np.testing.assert_allclose(best, expected, atol=1e-5)
