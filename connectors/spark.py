"""Collections in Spark: ``spark.read.format("godb")``, and ``df.write.format("godb")``.

Register it once with a session: ``spark.dataSource.register(GodbDataSource)``. Options:

- ``collection``: which one; may be left out where there is one only.
- ``columns``: names separated by commas, of those that are decoded (Spark does not say which it
  uses).

A path or URL is a data directory, a GODB file, or several of these separated by commas.

``spark.readStream.format("godb")`` reads what is added to a collection of a data directory that has
several files: each save is there once, in the next micro-batch. A document that was changed comes
again; what was deleted does not. ``startingVersion`` is "earliest" (everything that is there comes
first) or "latest". The writer must keep its versions (``keep_versions``, ``part_grace``) for longer
than the query may be away.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from godb_arrow.connectors import missing
from godb_arrow.engine.fragments import Fragment, fragments_of, fragments_since, latest_version
from godb_arrow.engine.part_writer import PartWriter, WriteMode, commit_parts
from godb_arrow.errors import InvalidOption
from godb_arrow.query.projection import project
from godb_arrow.schema import ID_FIELD, storage_schema
from godb_arrow.snapshots.part_folder import WrittenPart

try:
    from pyspark import TaskContext
    from pyspark.sql import datasource as spark
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
    from pyspark.sql.types import StructType
except ImportError as error:
    raise missing("spark", "PySpark") from error

__all__ = ["GodbDataSource"]


def _spark_field(field: pa.Field) -> pa.Field:
    """A field in a type that Spark has."""
    if pa.types.is_null(field.type):
        return field.with_type(pa.string())
    if pa.types.is_uint64(field.type):
        return field.with_type(pa.decimal128(20, 0))
    if pa.types.is_timestamp(field.type):
        return field.with_type(pa.timestamp("us", field.type.tz))
    return field


def _spark_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([_spark_field(field) for field in storage_schema(schema)])


class GodbDataSource(spark.DataSource):
    """GODB as a data source of Spark 4.

    Parameters
    ----------
    options : dict
        What Spark hands over.

    Examples
    --------
    >>> GodbDataSource.name()
    'godb'
    """

    @classmethod
    def name(cls) -> str:
        """What ``format`` takes."""
        return "godb"

    def _sources(self) -> list[str]:
        path = self.options.get("path")
        if not path:
            raise InvalidOption("there is no path", advice='give it to load or save: "data"')
        found = [part.strip().removeprefix("file:") for part in path.split(",")]
        # Spark's names of S3, as Hadoop has them.
        return [re.sub(r"^s3[an]://", "s3://", one) for one in found]

    def _found(self) -> tuple[list[Fragment], pa.Schema]:
        fragments, schema = fragments_of(self._sources(), self.options.get("collection"))
        columns = self.options.get("columns")
        if columns:
            schema = project(schema, [name.strip() for name in columns.split(",")], None).schema
        return fragments, schema

    def schema(self) -> StructType:
        """The schema that was saved."""
        return from_arrow_schema(_spark_schema(self._found()[1]))

    def reader(self, schema: StructType) -> _Reader:
        """A reader of the saved documents."""
        fragments, found = self._found()
        return _Reader(fragments, found, to_arrow_schema(schema, timezone="UTC"))

    def streamReader(self, schema: StructType) -> _StreamReader:  # noqa: N802
        """A reader of what is added to a collection."""
        (directory,) = self._sources()
        wanted = to_arrow_schema(schema, timezone="UTC")
        starting = self.options.get("startingVersion", "earliest")
        if starting not in ("earliest", "latest"):
            raise InvalidOption(f"startingVersion is {starting!r}", advice="use earliest or latest")
        return _StreamReader(
            directory, self.options.get("collection"), starting, self._found()[1], wanted
        )

    def writer(self, schema: StructType, overwrite: bool) -> _Writer:
        """A writer to a collection of a data directory."""
        name = self.options.get("collection")
        if not name:
            raise InvalidOption("there is no collection", advice='give option("collection", …)')
        (directory,) = self._sources()
        mode: WriteMode = "overwrite" if overwrite else "append"
        has_ids = ID_FIELD in schema.names
        return _Writer(PartWriter.of(directory, name, mode, generate_ids=not has_ids), mode)


@dataclass
class _Share(spark.InputPartition):
    """The fragment that a task reads."""

    fragment: Fragment


class _Reader(spark.DataSourceReader):
    def __init__(self, fragments: list[Fragment], own: pa.Schema, wanted: pa.Schema) -> None:
        self._fragments = fragments
        self._own = own
        self._wanted = wanted
        self._conditions: list[pc.Expression] = []

    def pushFilters(self, filters: list[spark.Filter]) -> Iterable[spark.Filter]:  # noqa: N802
        """Take the filters that mean the same here and there; Spark applies the others."""
        for one in filters:
            condition = _expression(one, self._own)
            if condition is None:
                yield one
            else:
                self._conditions.append(condition)

    def partitions(self) -> Sequence[spark.InputPartition]:
        """One for each file."""
        return [_Share(fragment) for fragment in self._fragments]

    def read(self, partition: spark.InputPartition) -> Iterator[pa.RecordBatch]:
        """The record batches of a file."""
        assert isinstance(partition, _Share)
        condition = reduce(lambda a, b: a & b, self._conditions) if self._conditions else None
        return _read(partition.fragment, self._own, self._wanted, condition)


def _read(
    fragment: Fragment, own: pa.Schema, wanted: pa.Schema, condition: pc.Expression | None = None
) -> Iterator[pa.RecordBatch]:
    """The record batches of a fragment, in types that Spark has."""
    names = wanted.names
    schema = pa.schema([own.field(name) for name in names])
    needed = schema if condition is None else project(own, names, condition).decoded
    with fragment.open().stream_batches(names, condition, needed) as reader:
        for batch in reader:
            plain = batch.cast(storage_schema(batch.schema))
            yield plain.cast(wanted, safe=False)


class _StreamReader(spark.DataSourceStreamReader):
    """Offsets are versions of the collection."""

    def __init__(
        self,
        directory: str,
        collection: str | None,
        starting: str,
        own: pa.Schema,
        wanted: pa.Schema,
    ) -> None:
        self._place = directory, collection
        self._starting = starting
        self._own = own
        self._wanted = wanted

    def initialOffset(self) -> dict[str, int]:  # noqa: N802
        """Before everything that there is, or behind it."""
        return {"version": 0} if self._starting == "earliest" else self.latestOffset()

    def latestOffset(  # noqa: N802
        self, start: dict[str, int] | None = None, limit: object = None
    ) -> dict[str, int]:
        """The version that was saved last."""
        return {"version": latest_version(*self._place)}

    def partitions(
        self, start: dict[str, int], end: dict[str, int]
    ) -> Sequence[spark.InputPartition]:
        """One for each file with new documents."""
        found = fragments_since(*self._place, start["version"], end["version"])
        return [_Share(fragment) for fragment in found]

    def read(self, partition: spark.InputPartition) -> Iterator[pa.RecordBatch]:
        """The record batches of a file."""
        assert isinstance(partition, _Share)
        return _read(partition.fragment, self._own, self._wanted)


def _expression(one: spark.Filter, schema: pa.Schema) -> pc.Expression | None:
    """A filter of Spark as an expression of Arrow; None where they do not mean the same."""
    if isinstance(one, spark.Not):
        inner = _expression(one.child, schema)
        return None if inner is None else ~inner
    path: tuple[str, ...] = getattr(one, "attribute", ())
    if len(path) != 1 or path[0] not in schema.names:
        return None
    kind = storage_schema(schema).field(path[0]).type
    field = pc.field(path[0])
    if isinstance(one, spark.IsNull):
        return field.is_null()
    if isinstance(one, spark.IsNotNull):
        return field.is_valid()
    # Of reals NaN equals itself in Spark, and is greater than anything; others differ there, too.
    exact = pa.types.is_int64(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind)
    if not exact:
        return None
    try:
        if isinstance(one, spark.In):
            known = [value for value in one.value if value is not None]
            return field.isin(pa.array(known, kind)) if known else None
        value = pa.scalar(getattr(one, "value", None), kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    if not value.is_valid:
        return None
    for of, compare in (
        (spark.EqualTo, field == value),
        (spark.GreaterThan, field > value),
        (spark.GreaterThanOrEqual, field >= value),
        (spark.LessThan, field < value),
        (spark.LessThanOrEqual, field <= value),
    ):
        if isinstance(one, of):
            return compare
    return None


@dataclass
class _Message(spark.WriterCommitMessage):
    """What a task wrote."""

    written: list[WrittenPart]


class _Writer(spark.DataSourceArrowWriter):
    def __init__(self, writer: PartWriter, mode: WriteMode) -> None:
        self._writer = writer
        self._mode = mode

    def write(self, iterator: Iterator[pa.RecordBatch]) -> _Message:
        """Write a task's rows as files that nobody knows yet."""
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
        """Make what all tasks wrote part of the collection, at once."""
        written = [part for one in messages if isinstance(one, _Message) for part in one.written]
        commit_parts(self._writer.directory, self._writer.collection, written, self._mode)

    def abort(self, messages: Sequence[spark.WriterCommitMessage | None]) -> None:
        """Nothing is named: the files are removed some time."""


def _storable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A record batch without what only Spark's Arrow has."""
    fields = [field.with_metadata(None) for field in batch.schema]
    return pa.RecordBatch.from_arrays(batch.columns, schema=pa.schema(fields))
