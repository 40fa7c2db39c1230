"""The engine of a task: where its arrays lie and, on a GPU, which one that is."""

import dataclasses
import os
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from udfs.device import gpu_count, to_gpu, use_gpu
from udfs.vectors import Matrix, packed_rows, unpack

_GATHERED_ROWS = 1 << 17  # of small units that share the launches of a GPU


@dataclasses.dataclass(frozen=True)
class Engine:
    """What computes: the CPU, or the GPU that a task is given."""

    gpu: bool = False
    share: float = 1.0  # of a GPU's memory that one task may use
    scheduled: bool = True  # whether Spark assigns GPUs to tasks; it does not in local mode

    @property
    def name(self) -> str:
        return "gpu" if self.gpu else "cpu"

    @property
    def gathered_rows(self) -> int:
        """How many rows of units to gather before they are worked on together."""
        return _GATHERED_ROWS if self.gpu else 1

    def attach(self) -> None:
        """In a task, before its first array: compute on the task's GPU.

        Raises RuntimeError when the task has none.
        """
        if self.gpu:
            use_gpu(_task_gpu(self.scheduled), self.share)

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array where the engine computes."""
        return to_gpu(array) if self.gpu else array

    def vectors(self, packed: pa.Array, dim: int) -> Matrix:
        """(n, dim) float32 where the engine computes, as `unpack` has it on the host."""
        if not self.gpu:
            return unpack(packed, dim)
        return to_gpu(packed_rows(packed, dim)).astype(np.float32, copy=False)


def _task_gpu(scheduled: bool) -> int:
    """The number of this task's GPU among those that the process sees.

    CUDA_VISIBLE_DEVICES, where set, numbers them anew from 0; Spark's addresses are those of the machine.
    """
    from pyspark import TaskContext  # here, so that kernels can be tested where there is no Spark

    context: Any = TaskContext.get()
    resources = context.resources() if context else {}
    addresses = resources["gpu"].addresses if "gpu" in resources else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = None if visible is None else [number.strip() for number in visible.split(",") if number.strip()]
    if numbers is not None and addresses and addresses[0] in numbers:
        return numbers.index(addresses[0])
    if numbers is None and addresses:
        return int(addresses[0])
    count = gpu_count()
    if count == 0 or (numbers is None and scheduled):
        raise RuntimeError(
            "--engine gpu: a task found no GPU: set spark.executor.resource.gpu.amount and "
            "spark.task.resource.gpu.amount (see docs/gpu.md), and install CuPy for the executors' Python"
        )
    return int(context.partitionId()) % count if context else 0
