"""Match: clips to the units they are matched in, and units to partial matches."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from udfs.adapters.batches import (
    ArrowFunction,
    Batches,
    Broadcast,
    columns_of,
    filled,
    gathered,
    joined,
    record_batch,
    units,
)
from udfs.adapters.gpu import Engine
from udfs.cells import Cells
from udfs.device import to_host
from udfs.keysets import Keys, KeySet, clip_keys, placement_keys
from udfs.ranking import RankColumn, Values, rank_order, seeded_hash
from udfs.similarity import match_earlier, match_on_gpu
from udfs.units import Unit, cut
from udfs.vectors import Doubles, Indices, Matrix, first_of_equal_rows, packed_rows, squared_norms, unpack

_FOLLOWER_CELLS = 256  # spread over so many groups, which need not meet anyone


def send_clips(
    centroids: Broadcast[Matrix],
    eps: float | None,
    keyset: Broadcast[KeySet] | None,
    rank: Sequence[RankColumn],
    seed: int,
    blocks: Broadcast[Indices],
    engine: Engine,
) -> ArrowFunction:
    """(id, embedding, --rank-by columns) to (UNIT_COLUMNS, home, second, leader_id, embedding, columns of rank): one
    row for each unit that a clip is to be matched in.

    Only placements in the key set are sent, or all of them where that is None. Of a batch's bit-identical
    clips the earliest in rank leads; the others follow it without embedding, to numbers below zero.
    """

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        engine.attach()
        cells = Cells(engine.put(centroids.value), eps)
        wanted = None if keyset is None else keyset.value
        for batch in batches:
            keys = clip_keys(batch.column("id"))
            if wanted is not None:
                some = wanted.contains(keys)
                batch, keys = batch.filter(pa.array(some)), keys[some]
            if len(batch):
                yield _sent(batch, keys, cells, wanted, rank, seed, blocks.value, engine)

    return run


def _sent(
    batch: pa.RecordBatch,
    keys: Keys,
    cells: Cells,
    wanted: KeySet | None,
    rank: Sequence[RankColumn],
    seed: int,
    blocks: Indices,
    engine: Engine,
) -> pa.RecordBatch:
    vectors = engine.vectors(batch.column("embedding"), cells.centroids.shape[1])
    x_sq = squared_norms(vectors)
    placement = cells.place(vectors, x_sq).on_host()
    columns = {**columns_of(batch), "cosine_dist_to_cent": pa.array(placement.distance)}
    if any(column.name == "random_rank" for column in rank):
        columns["random_rank"] = pa.array(seeded_hash(batch.column("id").to_pylist(), seed))
    order = _rank_order(columns, rank)
    leader = np.empty_like(order)
    there = engine.put(order)
    leader[order] = order[to_host(first_of_equal_rows(vectors[there], x_sq[there]))]
    leads = leader == np.arange(len(leader))

    rows = np.r_[np.arange(len(keys)), placement.guest_rows]
    cell = np.r_[placement.home, placement.guest_cells]
    home = np.arange(len(rows)) < len(keys)
    sent = leads[rows]
    if wanted is not None:
        sent &= wanted.contains(placement_keys(keys[rows], cell))
    followers = np.flatnonzero(~leads)
    spread = -1 - (keys[followers] % np.uint64(_FOLLOWER_CELLS)).astype(np.int64)
    rows, cell = np.r_[rows[sent], followers], np.r_[cell[sent], spread]
    home = np.r_[home[sent], np.ones(len(followers), bool)]
    part, first_block, second_block, second = cut(keys[rows].view(np.int64), cell, blocks)
    rows = rows[part]

    follows = ~leads[rows]
    embedding = columns.pop("embedding")
    return record_batch(
        cell=pa.array(cell[part], pa.int32()),
        a=pa.array(first_block, pa.int32()),
        b=pa.array(second_block, pa.int32()),
        home=pa.array(home[part]),
        second=pa.array(second),
        leader_id=columns["id"].take(pa.array(leader[rows], mask=~follows)),
        embedding=embedding.take(pa.array(rows, mask=follows)),
        **{column.name: columns[column.name].take(pa.array(rows)) for column in rank},
    )


def match_units(
    basis: Broadcast[Doubles], min_score: float, rank: Sequence[RankColumn], engine: Engine
) -> ArrowFunction:
    """(UNIT_COLUMNS, home, second, leader_id, embedding, columns of rank), sorted by unit, to partial matches.

    Those have id, max_id, cosine_sim_score and max_<name> for each column of rank. A follower has its leader_id
    instead; the last row of a task holds nothing but its counts, `pairs` and `scored`.
    """

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        engine.attach()
        axes, counts = basis.value, {"pairs": 0, "scored": 0}
        types: dict[str, pa.DataType] = {}
        for group in gathered(units(batches), engine.gathered_rows):
            types = types or {f"max_{column.name}": group[0].column(column.name).type for column in rank}
            followers = [unit for unit in group if unit.column("cell")[0].as_py() < 0]
            for unit in followers:
                yield _partials(types, id=unit.column("id"), leader_id=unit.column("leader_id"))
            if len(followers) == len(group):
                continue
            compared = [unit for unit in group if unit.column("cell")[0].as_py() >= 0]
            ranked = [unit.take(pa.array(_rank_order(columns_of(unit), rank))) for unit in compared]
            clips = joined(ranked)
            packed, of = clips.column("embedding"), [_compared(unit) for unit in ranked]
            if engine.gpu:
                match, score, work = match_on_gpu(packed_rows(packed, len(axes)), min_score, axes, of)
            else:
                match, score, work = match_earlier(unpack(packed, len(axes)), min_score, axes, of)
            counts = {name: count + work[name] for name, count in counts.items()}
            later = np.flatnonzero(match >= 0)
            best = clips.take(pa.array(match[later]))
            yield _partials(
                types,
                id=clips.column("id").take(pa.array(later)),
                cosine_sim_score=pa.array(score[later]),
                **{f"max_{column.name}": best.column(column.name) for column in rank},
            )
        if types:
            yield _partials(types, **{name: pa.array([count], pa.int64()) for name, count in counts.items()})

    return run


def _partials(types: dict[str, pa.DataType], **columns: pa.Array) -> pa.RecordBatch:
    """A batch of partial matches with the columns of `types`, null where not given."""
    fixed = {"id": pa.string(), "leader_id": pa.string(), "cosine_sim_score": pa.float64()}
    return filled(columns, {**fixed, **types, "pairs": pa.int64(), "scored": pa.int64()})


def _compared(unit: pa.RecordBatch) -> Unit:
    """What a unit compares."""
    home, second = (unit.column(name).to_numpy(zero_copy_only=False) for name in ("home", "second"))
    return Unit(home, second if unit.column("a")[0] != unit.column("b")[0] else None)


def _rank_order(columns: Mapping[str, pa.Array], rank: Sequence[RankColumn]) -> Indices:
    def values(name: str) -> Values:
        column = columns[name]
        return column.to_numpy() if name == "cosine_dist_to_cent" else column.to_pandas()

    return rank_order([(values(column.name), column.descending) for column in rank])
