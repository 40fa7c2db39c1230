import types
from collections.abc import Callable

import pytest

from udfs.adapters.gpu import Engine, _task_gpu


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """given(addresses, visible, gpus, partition): what Spark assigns, CUDA_VISIBLE_DEVICES, how many GPUs CUDA sees."""

    def set_up(addresses: list[str], visible: str | None, gpus: int, partition: int = 0) -> None:
        resources = {"gpu": types.SimpleNamespace(addresses=addresses)} if addresses else {}
        context = types.SimpleNamespace(resources=lambda: resources, partitionId=lambda: partition)
        monkeypatch.setattr("pyspark.TaskContext.get", lambda: context)
        monkeypatch.setattr("udfs.adapters.gpu.gpu_count", lambda: gpus)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return set_up


@pytest.mark.parametrize(
    ("addresses", "visible", "gpus", "partition", "expected"),
    [
        (["3"], None, 8, 5, 3),  # the machine's numbers
        (["3"], "2, 3", 2, 5, 1),  # numbered anew
        (["0"], "5", 1, 5, 0),  # a container's only GPU
        (["GPU-b"], "GPU-a,GPU-b", 2, 0, 1),
        ([], "0,1", 2, 5, 1),  # not assigned by Spark: in turns
    ],
)
def test_a_task_computes_on_the_gpu_it_is_given(
    given: Callable[..., None], addresses: list[str], visible: str | None, gpus: int, partition: int, expected: int
) -> None:
    given(addresses, visible, gpus, partition)
    assert _task_gpu(scheduled=True) == expected


def test_in_local_mode_tasks_take_the_gpus_in_turns(given: Callable[..., None]) -> None:
    for partition in range(4):
        given([], None, 2, partition)
        assert _task_gpu(scheduled=False) == partition % 2


@pytest.mark.parametrize(("visible", "gpus", "scheduled"), [(None, 2, True), (None, 0, False), ("", 0, True)])
def test_a_task_without_a_gpu_says_what_to_set(
    given: Callable[..., None], visible: str | None, gpus: int, scheduled: bool
) -> None:
    given([], visible, gpus)
    with pytest.raises(RuntimeError, match=r"found no GPU: set spark\.executor\.resource\.gpu\.amount and"):
        _task_gpu(scheduled)


def test_the_cpu_engine_asks_for_none() -> None:
    Engine().attach()
    assert (Engine().name, Engine(gpu=True).name) == ("cpu", "gpu")
