"""Arrow batches in and out: the types of adapters, and what all of them need."""

import sys
import zipimport
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa

from udfs.units import run_starts

Batches = Iterable[pa.RecordBatch]
ArrowFunction = Callable[[Batches], Iterator[pa.RecordBatch]]
T_co = TypeVar("T_co", covariant=True)

UNIT_COLUMNS = "cell int, a int, b int"

_SPARK_TYPES = {
    pa.string(): "string",
    pa.binary(): "binary",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float64(): "double",
}


class Broadcast(Protocol[T_co]):
    """A Spark broadcast."""

    @property
    def value(self) -> T_co: ...


def task(*functions: ArrowFunction) -> ArrowFunction:
    """What `mapInArrow` is given: one function after the other, batch by batch."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for function in functions:
            batches = function(batches)
        yield from batches
        _forget_archives()

    return run


def _forget_archives() -> None:
    """Drop the import system's readers of zip archives; the next import of something new makes them again.

    Before each task a PySpark worker calls `importlib.invalidate_caches`, and such a reader then reads the whole
    directory of its archive again: 0.2 s a task for pyspark.zip alone.
    """
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter):
            del sys.path_importer_cache[path]


def record_batch(**columns: pa.Array) -> pa.RecordBatch:
    """A batch of columns of one length, in this order."""
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def filled(columns: Mapping[str, pa.Array], types: Mapping[str, pa.DataType]) -> pa.RecordBatch:
    """A batch of columns of these types, null where not given."""
    n = len(next(iter(columns.values())))
    return record_batch(
        **{name: columns[name].cast(kind) if name in columns else pa.nulls(n, kind) for name, kind in types.items()}
    )


def ddl(types: Mapping[str, pa.DataType]) -> str:
    """The same columns as Spark's schema text."""
    return ", ".join(f"{name} {_SPARK_TYPES[kind]}" for name, kind in types.items())


def columns_of(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """The columns by name."""
    return dict(zip(batch.schema.names, batch.columns, strict=True))


def units(batches: Batches) -> Iterator[pa.RecordBatch]:
    """The rows of one unit after the other, from rows sorted by unit."""
    held: list[pa.RecordBatch] = []
    unit: tuple[int, ...] = ()
    for batch in batches:
        keys = np.stack([batch.column(name).to_numpy() for name in ("cell", "a", "b")], axis=1)
        starts = run_starts(keys)
        for start, stop in zip(starts, np.r_[starts[1:], len(keys)], strict=True):
            if held and tuple(keys[start]) != unit:
                yield joined(held)
                held = []
            unit = tuple(keys[start])
            held.append(batch.slice(start, stop - start))
    if held:
        yield joined(held)


def gathered(
    batches: Iterable[pa.RecordBatch], least: int, size: Callable[[pa.RecordBatch], int] = len
) -> Iterator[list[pa.RecordBatch]]:
    """Batches in lists whose sizes add up to `least`, but for the last; none is longer than that takes."""
    held: list[pa.RecordBatch] = []
    total = 0
    for batch in batches:
        held.append(batch)
        total += size(batch)
        if total >= least:
            yield held
            held, total = [], 0
    if held:
        yield held


def joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Batches of the same columns as one."""
    if len(batches) == 1:
        return batches[0]
    # A plain binary column ends at 2 GiB, where joining it would leave several chunks.
    fields = [f.with_type(pa.large_binary()) if pa.types.is_binary(f.type) else f for f in batches[0].schema]
    (whole,) = pa.Table.from_batches(batches).cast(pa.schema(fields)).combine_chunks().to_batches()
    return whole
