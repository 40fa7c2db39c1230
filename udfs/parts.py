"""Work cut to what a GPU's memory holds."""

from collections.abc import Callable, Sequence

import numpy as np

from udfs.device import memory_limit, out_of_memory, release_memory
from udfs.units import Sweep, among, halves
from udfs.vectors import Indices


def in_parts(sweeps: Sequence[Sweep], rows: int, row_bytes: int, work: Callable[[Indices, list[Sweep]], None]) -> None:
    """Call work(part_rows, part_sweeps) for parts that together make up the sweeps of so many rows.

    part_rows: (p,) the rows a part needs, which its sweeps number from 0 on. A part whose rows, at `row_bytes` each,
    exceed the memory of the GPU is cut in halves before it is tried, and one for which `work` runs out of memory
    afterwards; so `work` may be called again for rows it has seen, and must do nothing before it has succeeded.

    Raises MemoryError when a part that cannot be cut further does not fit.
    """
    fits = memory_limit() // row_bytes
    left = [list(sweeps)]
    while left:
        part = left.pop()
        used = np.zeros(rows, bool)
        for some in part:
            used[some[0]] = used[some[1]] = True
        if np.count_nonzero(used) <= max(fits, 2) and _done(work, np.flatnonzero(used), among(part, used)):
            continue
        release_memory()
        try:
            left += halves(part)
        except ValueError:
            raise MemoryError(
                f"a GPU of which this task may use {memory_limit()} bytes cannot hold two rows of {row_bytes} bytes"
            ) from None


def _done(work: Callable[[Indices, list[Sweep]], None], rows: Indices, sweeps: list[Sweep]) -> bool:
    """Whether there was memory enough. Outside of it nothing holds on to what an exception keeps alive."""
    try:
        work(rows, sweeps)
    except out_of_memory():
        return False
    return True
