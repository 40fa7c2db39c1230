import errno
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from udfs import decode
from udfs.parquet import FilePart, has_footer, outline, pack_list_column, read_part, text_column


def whole(path: Path) -> FilePart:
    return FilePart("file:///x", str(path), 0, path.stat().st_size)


def test_the_parts_of_a_file_hold_its_rows_once(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    lists = pa.array(rows.tolist(), pa.list_(pa.float32()))
    table = pa.table({"clip.no": np.arange(1000), "v e": lists, "x": rows[:, 0]})
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, row_group_size=90)
    assert outline([whole(path)] * 2, "v e") == (2000, 8)
    size = path.stat().st_size
    seen: list[str] = []
    for start in range(0, size, 7000):
        part = FilePart("file:///x", str(path), start, min(start + 7000, size))
        for ids, embeddings in read_part(part, "clip.no", "v e"):
            packed, _, _ = pack_list_column(embeddings)
            for i, value in zip(ids.to_pylist(), packed, strict=True):
                assert value.as_py() == rows[int(i)].tobytes()
                seen.append(i)
    assert sorted(map(int, seen)) == list(range(1000))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 3),
        pa.fixed_shape_tensor(pa.float32(), (3,)),
    ],
)  # fmt: skip
def test_any_kind_of_list_column_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    rows = [[1.0, 2.0, 3.0], [0.5, 0.25, 4.0]]
    lists = pa.array(rows, pa.list_(pa.float32(), 3))
    column = pa.ExtensionArray.from_storage(kind, lists) if isinstance(kind, pa.ExtensionType) else lists.cast(kind)
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": column}), path)
    assert outline([whole(path)], "embedding") == (2, 3)
    ((ids, embeddings),) = read_part(whole(path), "id", "embedding")
    assert ids.to_pylist() == ["a", "b"]
    assert [np.frombuffer(v, np.float32).tolist() for v in pack_list_column(embeddings)[0].to_pylist()] == rows


def test_a_missing_column_is_null(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": [[1.0], [2.0]]}), path)
    ((ids, _),) = read_part(whole(path), "other", "embedding")
    assert ids.null_count == 2
    ((ids, lists),) = read_part(whole(path), "id", "other")
    assert (ids.to_pylist(), lists.null_count) == (["a", "b"], 2)
    ((ids, lists),) = read_part(whole(path), "one", "other")
    assert ids.null_count == lists.null_count == 2
    assert outline([whole(path)], "other") == (2, 0)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    rows = np.random.default_rng(0).standard_normal((1000, 8))
    pq.write_table(pa.table({"id": [str(n) for n in range(1000)], "embedding": rows.tolist()}), path)
    content = bytearray(path.read_bytes())
    content[100:20_000] = bytes(19_900)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="file:///x cannot be read as Parquet: "):
        list(read_part(whole(path), "id", "embedding"))
    path.write_bytes(content[:-4])
    with pytest.raises(ValueError, match="file:///x cannot be read as Parquet: "):
        outline([whole(path)], "embedding")


def test_a_file_is_not_damaged_where_the_machine_is_short_of_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ["a"]}), path)
    assert has_footer(str(path))
    assert has_footer(path.read_bytes())
    assert not has_footer(path.read_bytes()[:-1])
    assert not has_footer(str(tmp_path / "none"))
    for error in (OSError(errno.EMFILE, "Too many open files"), pa.ArrowMemoryError("malloc failed")):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(pq, "ParquetFile", fail)
        with pytest.raises(type(error)):
            has_footer(str(path))
        if isinstance(error, OSError):
            with pytest.raises(OSError, match="Too many open files"):
                outline([whole(path)], "embedding")


def test_lists_of_a_billion_equal_values_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    lists = pa.array([np.ones(3 * decode.MAX_DIM, np.float32)] * 2, pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": lists}), path)
    assert path.stat().st_size < 100_000
    for read in (lambda: outline([whole(path)], "embedding"), lambda: list(read_part(whole(path), "id", "embedding"))):
        with pytest.raises(ValueError, match=r"file:///x cannot be read .* hold 6291456 values, more than the 2097152"):
            read()


def test_long_embeddings_come_in_small_batches(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    lists = pa.array([np.ones(1 << 20, np.float32)] * 20, pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": [str(n) for n in range(20)], "embedding": lists}), path)
    assert [len(ids) for ids, _ in read_part(whole(path), "id", "embedding")] == [8, 8, 4]


def test_ids_that_are_no_text_are_told_apart() -> None:
    raw = pa.array([b"ok", b"d\xc3\xa9", b"bad \xff", None, b"", b"\xed\xa0\x80"], pa.binary())
    buffers = raw.buffers()
    ids, are_text = text_column(pa.StringArray.from_buffers(6, buffers[1], buffers[2], buffers[0], raw.null_count))
    assert ids.to_pylist()[:5] == ["ok", "dé", "bad \ufffd", None, ""]
    assert are_text.to_pylist() == [True, True, False, True, True, False]
    assert text_column(pa.array(["a", None]))[1].to_pylist() == [True, True]
