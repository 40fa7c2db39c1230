"""Small files and folders on any Hadoop filesystem, from the driver."""

import contextlib
import json
import os
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from jobs.errors import JobError, one_line


@dataclass(frozen=True)
class Entry:
    """A file or folder in a listing."""

    name: str
    is_dir: bool
    modified: int  # ms since 1970, by the storage's clock


class Storage:
    """Reads, writes and lists through Hadoop's FileSystem: local paths, hdfs://, s3a:// and the rest alike."""

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        self._jvm: Any = spark._jvm
        self._conf: Any = spark._jsc.hadoopConfiguration()
        self._schemas: dict[str, StructType] = {}

    def _open(self, uri: str) -> tuple[Any, Any]:
        try:
            path = self._jvm.org.apache.hadoop.fs.Path(uri)
            return path.getFileSystem(self._conf), path
        except Py4JJavaError as e:
            raise JobError(f"{uri}: {java_message(e)}") from None

    def qualified(self, uri: str) -> str:
        """The path with its scheme and host, and local links resolved, for comparing paths."""
        local = self.local_path(uri)
        if local:
            return f"file:{os.path.realpath(local)}"
        filesystem, path = self._open(uri)
        return str(filesystem.makeQualified(path).toString()).rstrip("/")

    def lies_in(self, uri: str, folder: str) -> bool:
        """Whether a path is a folder or lies below it."""
        return f"{self.qualified(uri)}/".startswith(f"{self.qualified(folder).rstrip('/')}/")

    def local_path(self, uri: str) -> str | None:
        """The absolute path on this machine's disks; None for any other storage."""
        filesystem, path = self._open(uri)
        whole = filesystem.makeQualified(path).toUri()
        return str(whole.getPath()) if whole.getScheme() == "file" else None

    def exists(self, uri: str) -> bool:
        filesystem, path = self._open(uri)
        try:
            return bool(filesystem.exists(path))
        except Py4JJavaError as e:
            raise JobError(f"{uri}: {java_message(e)}") from None

    def is_file(self, uri: str) -> bool:
        filesystem, path = self._open(uri)
        return self.exists(uri) and bool(filesystem.getFileStatus(path).isFile())

    def entries(self, uri: str, limit: int) -> list[Entry]:
        """The first `limit` entries of a folder, sorted by name; none of one that is not there."""
        filesystem, path = self._open(uri)
        found: list[Entry] = []
        if not filesystem.exists(path):
            return found
        listing = filesystem.listStatusIterator(path)
        while len(found) < limit and listing.hasNext():
            status = listing.next()
            name, modified = status.getPath().getName(), int(status.getModificationTime())
            found.append(Entry(name, bool(status.isDirectory()), modified))
        return sorted(found, key=lambda entry: entry.name)

    def glob(self, uri: str, pattern: str) -> list[str]:
        """The paths below `uri` that match a Hadoop glob; `uri` itself is taken literally."""
        filesystem, path = self._open(f"{escape_glob(uri.rstrip('/'))}/{pattern}")
        return [str(status.getPath().toString()) for status in filesystem.globStatus(path) or []]

    def read(self, uri: str) -> bytes:
        filesystem, path = self._open(uri)
        stream = filesystem.open(path)
        try:
            return bytes(self._jvm.org.apache.commons.io.IOUtils.toByteArray(stream))
        finally:
            stream.close()

    def write(self, uri: str, content: bytes) -> None:
        filesystem, path = self._open(uri)
        filesystem.setWriteChecksum(False)  # no .crc files beside the results on a local disk
        stream = filesystem.create(path, True)
        try:
            stream.write(content)
        finally:
            stream.close()

    def modified(self, uri: str) -> int:
        """When a file was last written, in ms since 1970, by the storage's clock."""
        filesystem, path = self._open(uri)
        return int(filesystem.getFileStatus(path).getModificationTime())

    def delete(self, uri: str) -> None:
        """Delete a file or a whole folder; a missing one is fine."""
        filesystem, path = self._open(uri)
        self._schemas.pop(uri, None)
        filesystem.delete(path, True)

    def delete_if_empty(self, uri: str) -> None:
        """Delete a folder that holds nothing; any other stays."""
        filesystem, path = self._open(uri)
        with contextlib.suppress(Py4JJavaError):
            filesystem.delete(path, False)

    def size(self, uri: str) -> int:
        """Bytes of all files below a path."""
        filesystem, path = self._open(uri)
        return int(filesystem.getContentSummary(path).getLength())

    def traffic(self) -> tuple[int, int]:
        """Bytes that Spark's tasks have read from files and written to shuffles, since the session began."""
        context: Any = self._spark.sparkContext._jsc
        context.sc().listenerBus().waitUntilEmpty()
        executors = context.sc().statusStore().executorList(False)
        each = [executors.apply(n) for n in range(executors.size())]
        return sum(e.totalInputBytes() for e in each), sum(e.totalShuffleWrite() for e in each)

    def table(self, uri: str, schema: str | None = None) -> DataFrame:
        """A Parquet table that this job wrote."""
        known = schema or self._schemas.get(uri)
        if known:
            return self._spark.read.schema(known).parquet(escape_glob(uri))
        table = self._spark.read.parquet(escape_glob(uri))
        self._schemas[uri] = table.schema  # finding it out takes Spark a job each time
        return table

    def write_table(self, table: DataFrame, uri: str) -> None:
        """Write an intermediate Parquet table: quick to write and read once, since packed values hardly compress."""
        writer = table.write.option("compression", "none").option("parquet.enable.dictionary", "false")
        writer.mode("overwrite").parquet(uri)

    def write_output(self, table: DataFrame, uri: str, *folders: str) -> None:
        """Write a Parquet table of the results, with a folder for each value of the columns `folders`.

        Whatever lay there goes first, also where the session would overwrite only the folders it writes to.
        """
        self.delete(uri)
        table.write.mode("overwrite").option("partitionOverwriteMode", "static").partitionBy(*folders).parquet(uri)

    def read_json(self, uri: str) -> dict[str, Any] | None:
        """The object in a JSON file; None when there is no such file, or only a half-written one."""
        try:
            value = json.loads(self.read(uri))
        except ValueError:
            return None
        except Py4JJavaError as e:
            if "FileNotFound" in str(e.java_exception.getClass().getName()):
                return None
            raise
        return value if isinstance(value, dict) else None

    def write_json(self, uri: str, value: dict[str, Any]) -> None:
        self.write(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def escape_glob(uri: str) -> str:
    """A path that Spark and Hadoop would expand, written so that it means itself."""
    return "".join(f"\\{c}" if c in "\\{}[]*?" else c for c in uri)


def java_message(error: Exception) -> str:
    """One line of the innermost cause of a Java exception; of any other the first line."""
    if not isinstance(error, Py4JJavaError):
        return one_line(str(error))
    cause = error.java_exception
    while cause.getCause() is not None:
        cause = cause.getCause()
    return one_line(str(cause.getMessage() or cause.toString()))
