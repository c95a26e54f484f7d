"""Collections in Spark: ``spark.read.format("godb")``, and ``df.write.format("godb")``.

Register the source once with ``spark.dataSource.register(GodbDataSource)``. Options are:

- ``collection``: name of the collection, optional if there is only one.
- ``columns``: names of the columns to decode, separated by commas, since Spark does not tell which
  columns it uses.
- ``storageOptions``: JSON object of keyword arguments for the file system of a URL.

Filters are applied by Spark. It keeps a pushed filter with the table, so that later queries of the
same DataFrame would miss rows.

A path or URL is a data directory, a GODB file, or several of these separated by commas.

``spark.readStream.format("godb")`` reads the documents that are added to a collection with several
files in a data directory. Each save is one micro-batch. A changed document is read again, and a
deleted one is not reported. ``startingVersion`` is "earliest", which begins with all existing
documents, or "latest". The writer must keep its versions (``keep_versions``, ``part_grace``) for
longer than the query may be interrupted.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from godb_arrow.connectors import missing
from godb_arrow.connectors.columns import convert_batch, fit_schema
from godb_arrow.engine.fragments import Fragment, fragments_of, fragments_since, latest_version
from godb_arrow.engine.part_writer import PartWriter, commit_parts
from godb_arrow.errors import InvalidOption
from godb_arrow.options import IfExists
from godb_arrow.query.projection import project
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.part_file import WrittenPart
from godb_arrow.storage.url_options import StorageOptions

try:
    from pyspark import TaskContext
    from pyspark.sql import datasource as spark
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
    from pyspark.sql.types import StructType
except ImportError as error:
    raise missing("spark", "PySpark") from error

__all__ = ["GodbDataSource"]


class GodbDataSource(spark.DataSource):
    """GODB as a data source of Spark 4.

    Parameters
    ----------
    options : dict
        Options that Spark passes.

    Examples
    --------
    >>> GodbDataSource.name()
    'godb'
    """

    @classmethod
    def name(cls) -> str:
        """Return the name of the format."""
        return "godb"

    def _sources(self) -> list[str]:
        path = self.options.get("path")
        if not path:
            raise InvalidOption("the path is missing", advice='give it to load or save: "data"')
        sources = [part.strip().removeprefix("file:") for part in path.split(",")]
        # Hadoop has other names for S3.
        return [re.sub(r"^s3[an]://", "s3://", source) for source in sources]

    def _storage_options(self) -> StorageOptions:
        text = self.options.get("storageOptions")
        if text is None:
            return None
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise InvalidOption(
                "storageOptions is no JSON object", advice='give a text such as {"anon": true}'
            )
        return found

    def _located(self) -> tuple[list[Fragment], pa.Schema]:
        fragments, schema = fragments_of(
            self._sources(), self.options.get("collection"), storage_options=self._storage_options()
        )
        columns = self.options.get("columns")
        if columns:
            schema = project(schema, [name.strip() for name in columns.split(",")], None).schema
        return fragments, schema

    def schema(self) -> StructType:
        """Return the saved schema."""
        return from_arrow_schema(fit_schema(self._located()[1], "spark"))

    def reader(self, schema: StructType) -> _Reader:
        """Return a reader of the saved documents."""
        fragments, own = self._located()
        return _Reader(fragments, own, to_arrow_schema(schema, timezone="UTC"))

    def streamReader(self, schema: StructType) -> _StreamReader:  # noqa: N802
        """Return a reader of documents that are added to a collection."""
        (directory,) = self._sources()
        wanted = to_arrow_schema(schema, timezone="UTC")
        starting = self.options.get("startingVersion", "earliest")
        if starting not in ("earliest", "latest"):
            raise InvalidOption(f"startingVersion is {starting!r}", advice="use earliest or latest")
        return _StreamReader(
            directory,
            self.options.get("collection"),
            self._storage_options(),
            starting,
            self._located()[1],
            wanted,
        )

    def writer(self, schema: StructType, overwrite: bool) -> _Writer:
        """Return a writer to a collection of a data directory."""
        name = self.options.get("collection")
        if not name:
            raise InvalidOption(
                "the collection is missing", advice='give it with option("collection", …)'
            )
        (directory,) = self._sources()
        if_exists: IfExists = "replace" if overwrite else "append"
        has_ids = ID_FIELD in schema.names
        parts = PartWriter.of(
            directory,
            name,
            if_exists,
            generate_ids=not has_ids,
            storage_options=self._storage_options(),
        )
        return _Writer(parts, if_exists)


@dataclass
class _Share(spark.InputPartition):
    """Fragment that a task reads."""

    fragment: Fragment


class _Reader(spark.DataSourceReader):
    def __init__(self, fragments: list[Fragment], own: pa.Schema, wanted: pa.Schema) -> None:
        self._fragments = fragments
        self._own = own
        self._wanted = wanted

    def partitions(self) -> Sequence[spark.InputPartition]:
        """Return a partition for each file."""
        return [_Share(fragment) for fragment in self._fragments]

    def read(self, partition: spark.InputPartition) -> Iterator[pa.RecordBatch]:
        """Yield the record batches of a file."""
        if not isinstance(partition, _Share):  # Spark's own, where there are no files
            return iter(())
        return _read(partition.fragment, self._own, self._wanted)


def _read(fragment: Fragment, own: pa.Schema, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a fragment, in types that Spark has."""
    schema = pa.schema([own.field(name) for name in wanted.names])
    with fragment.open().stream_batches(wanted.names, None, schema) as reader:
        for batch in reader:
            yield convert_batch(batch, wanted)


class _StreamReader(spark.DataSourceStreamReader):
    """Reader of a stream whose offsets are versions of the collection."""

    def __init__(
        self,
        directory: str,
        collection: str | None,
        storage_options: StorageOptions,
        starting: str,
        own: pa.Schema,
        wanted: pa.Schema,
    ) -> None:
        self._place = directory, collection
        self._storage_options = storage_options
        self._starting = starting
        self._own = own
        self._wanted = wanted

    def initialOffset(self) -> dict[str, int]:  # noqa: N802
        """Return the offset before all documents, or after them."""
        return {"version": 0} if self._starting == "earliest" else self.latestOffset()

    def latestOffset(  # noqa: N802
        self, start: dict[str, int] | None = None, limit: object = None
    ) -> dict[str, int]:
        """Return the version that was saved last."""
        options = self._storage_options
        return {"version": latest_version(*self._place, storage_options=options)}

    def partitions(
        self, start: dict[str, int], end: dict[str, int]
    ) -> Sequence[spark.InputPartition]:
        """Return a partition for each file with new documents."""
        since, until = start["version"], end["version"]
        options = self._storage_options
        fragments = fragments_since(*self._place, since, until, storage_options=options)
        return [_Share(fragment) for fragment in fragments]

    def read(self, partition: spark.InputPartition) -> Iterator[pa.RecordBatch]:
        """Yield the record batches of a file."""
        if not isinstance(partition, _Share):  # Spark's own, where there are no files
            return iter(())
        return _read(partition.fragment, self._own, self._wanted)


@dataclass
class _Message(spark.WriterCommitMessage):
    """Files that a task wrote."""

    written: list[WrittenPart]


class _Writer(spark.DataSourceArrowWriter):
    def __init__(self, writer: PartWriter, if_exists: IfExists) -> None:
        self._writer = writer
        self._if_exists = if_exists

    def write(self, iterator: Iterator[pa.RecordBatch]) -> _Message:
        """Write a task's rows as files that no manifest names yet."""
        context = TaskContext.get()
        assert context is not None
        first = next(iterator, None)
        if first is None:
            return _Message([])
        batches = (_storable(batch) for batch in itertools.chain([first], iterator))
        schema = _storable(first).schema
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        return _Message(self._writer.write(reader, context.partitionId()))

    def commit(self, messages: Sequence[spark.WriterCommitMessage | None]) -> None:
        """Add the files of all tasks to the collection atomically."""
        sent = (message for message in messages if isinstance(message, _Message))
        written = [part for message in sent for part in message.written]
        commit_parts(
            self._writer.directory,
            self._writer.collection,
            written,
            self._if_exists,
            storage_options=self._writer.storage_options,
        )

    def abort(self, messages: Sequence[spark.WriterCommitMessage | None]) -> None:
        """Do nothing, since a later save removes files that no manifest names."""


def _storable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Drop the parts of a record batch that only Spark's Arrow has."""
    fields = [field.with_metadata(None) for field in batch.schema]
    return pa.RecordBatch.from_arrays(batch.columns, schema=pa.schema(fields))
