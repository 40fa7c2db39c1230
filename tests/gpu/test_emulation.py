"""What stands in for CuPy refuses what CuPy cannot do, or does otherwise than NumPy."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.gpu.emulated import emulation

x = emulation().ascontiguousarray(emulation().empty((3, 4)))
x[...] = 1.5
here = np.ones((3, 4))


@pytest.mark.parametrize(
    "use",
    [
        lambda: x + here,
        lambda: here * x,
        lambda: np.concatenate([x, here]),
        lambda: x.__array__(),
        lambda: np.maximum.at(x, np.zeros(1, int), 2.0),
        lambda: np.add.reduceat(x, [0]),
        lambda: np.full(3, 1.0, like=x),
        lambda: np.unique(x, axis=0),
        lambda: np.lexsort((x[0], x[1])),
        lambda: x.max(initial=0.0),
        lambda: np.max(x, initial=0.0),
        lambda: np.add(x, 1, where=x > 1),
        lambda: list(range(np.argmax(x))),
        lambda: x[: np.argmax(x)],
    ],
)
def test_it_is_refused(use: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        use()


def test_a_numpy_array_is_not_assigned_to_a_slice() -> None:
    with pytest.raises(ValueError, match="not assigned"):
        x[:2] = here[:2]


def test_reductions_stay_on_the_gpu() -> None:
    for result in (x.max(), x.sum(axis=0), np.count_nonzero(x > 1), np.median(x), x[0, 0]):
        assert type(result) is type(x)
    assert float(x.max()) == 1.5
    assert type(x.get()) is np.ndarray
