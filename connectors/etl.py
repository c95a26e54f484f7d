"""Copies between GODB and everything else: files, folders, tables and databases.

An *address* is a path or URL, with ``#name`` behind it where there is more than one thing in it::

    shop.godb#orders                 a collection of a file
    data#orders                      a collection of an engine's data directory
    users.parquet, users.ndjson, …   a file: Parquet, Arrow IPC, CSV, NDJSON, BSON
    s3://bucket/users.parquet        the same, on any file system that fsspec knows
    lake/users                       a folder of Parquet files, or a Delta table
    sqlite:///shop.db#users          a table of a database that has an ADBC driver
"""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import secrets
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import pyarrow as pa
import pyarrow.dataset as ds

from godb_arrow import codec
from godb_arrow.connectors import missing
from godb_arrow.connectors.files import (
    DOCUMENT_FORMATS,
    FORMATS,
    documents_of,
    export_documents,
    export_file,
    flattened,
    format_of,
    has_no_children,
    is_nested_or_binary,
    open_file,
)
from godb_arrow.display import progress_bar, quantity
from godb_arrow.engine import StorageEngine
from godb_arrow.errors import (
    CollectionNotFound,
    CollectionRequired,
    FieldNotFound,
    InvalidOption,
    SourceNotFound,
    StorageError,
    TargetExists,
    UnsupportedType,
    error_context,
    storage_errors,
)
from godb_arrow.projection import Filter, narrow
from godb_arrow.reading import load_run
from godb_arrow.remote import Expected
from godb_arrow.scannable import Scannable, open_godb
from godb_arrow.schema import ID_FIELD, is_json, storage_schema
from godb_arrow.storage import Source
from godb_arrow.writing import IfExists, write_godb

__all__ = ["CopySummary", "copy"]

logger = logging.getLogger(__name__)

Mode = Literal["error", "append", "overwrite", "upsert"]
Count = Callable[[int], Any]

_STAGED = ".godb-arrow-"
_ROW_GROUP = 1 << 17  # rows that are in memory before they are written


@dataclass(frozen=True, slots=True)
class CopySummary:
    """What a copy did.

    Attributes
    ----------
    source, target : str
        From where, and to where.
    documents : int
        How many documents or rows were copied.
    bytes : int or None
        Bytes of the target afterwards, where that is known.
    seconds : float
        How long it took.
    conflicts : list of str
        Fields of mixed types, which are JSON text as columns.
    """

    source: str
    target: str
    documents: int
    bytes: int | None
    seconds: float
    conflicts: list[str]

    @property
    def rate(self) -> float:
        """Documents a second."""
        return self.documents / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        size = "" if self.bytes is None else f", {quantity(self.bytes)}"
        mixed = f", mixed types in {', '.join(self.conflicts)}" if self.conflicts else ""
        return (
            f"{self.source} → {self.target}: {self.documents:,} documents{size}, "
            f"{self.seconds:.1f} s, {self.rate:,.0f}/s{mixed}"
        )


def copy(
    source: str | os.PathLike[str] | Scannable | Any,
    target: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    batch_size: int | None = None,
    mode: Mode = "error",
    id_column: str | None = None,
    partition_by: Sequence[str] = (),
    format: str | None = None,
    progress: bool = True,
) -> CopySummary:
    """Copy documents or rows from one place to another, in constant memory.

    The target has all of it afterwards, or what it had before (or nothing, where a collection of
    a data directory was being overwritten): a copy that failed or was killed is run again.
    Between documents (GODB, NDJSON, BSON) nothing is changed on the way; to columns, the types
    are those of :func:`~godb_arrow.read_schema`.

    Parameters
    ----------
    source : path, URL, Collection, DataFrame, Table or Arrow stream
        Where from: see :mod:`godb_arrow.connectors.etl` for addresses.
    target : path or URL
        Where to.
    columns : sequence of str, optional
        Fields to copy, and dotted paths into structs; all, if left out.
    filter : pyarrow.compute.Expression or mapping, optional
        Which documents.
    batch_size : int, optional
        Documents in a record batch, at most.
    mode : {"error", "append", "overwrite", "upsert"}
        What to do when the target is there: an error; put the documents behind (files are
        written anew for that); in its place; or each in the place of the one with the same
        ``_id``, which GODB and databases can.
    id_column : str, optional
        The field with the ids, where it is not ``_id``.
    partition_by : sequence of str
        Columns by whose values a folder of Parquet files, or a Delta table, is parted.
    format : str, optional
        What the target is, where its name does not tell: ``"parquet"``, ``"delta"``, ….
    progress : bool
        Whether to show a progress bar, in a terminal or a notebook.

    Returns
    -------
    CopySummary
        It is logged, too.

    Raises
    ------
    TargetExists
        The target is there, with ``mode="error"``.
    GodbError
        See :mod:`godb_arrow.errors`; the target is as it was.

    Examples
    --------
    >>> import os, tempfile, godb_arrow
    >>> folder = tempfile.mkdtemp()
    >>> users = os.path.join(folder, "users.godb")
    >>> _ = godb_arrow.write_godb([{"name": "Ada", "age": 36}, {"name": "Bob"}], users, "users")
    >>> target = os.path.join(folder, "users.parquet")
    >>> copy(users, target, columns=["name"], progress=False).documents
    2
    """
    if mode not in get_args(Mode):
        raise InvalidOption(f"mode is {mode!r}", advice=f"use one of {', '.join(get_args(Mode))}")
    started = time.perf_counter()
    to = _target(os.fspath(target), format, list(partition_by), id_column)
    with error_context("copy to", to.name):
        origin = _source(source, batch_size)
        if mode == "error" and to.exists():
            raise TargetExists(
                "it is there already", advice='use mode="append", "overwrite" or "upsert"'
            )
        with (
            progress_bar(origin.total(), shown=progress) as count,
            origin.opened(to.takes_documents, columns, filter) as data,
        ):
            documents = 0

            def note(more: int) -> None:
                nonlocal documents
                documents += more
                count(more)

            to.write(_counted(data, note), mode)
    summary = CopySummary(
        origin.name,
        to.name,
        documents,
        to.size(),
        time.perf_counter() - started,
        origin.conflicts(),
    )
    logger.info("copied %s", summary)
    return summary


class _Documents:
    """Documents as they are stored, with their schema: what a GODB file takes byte by byte."""

    def __init__(self, schema: pa.Schema, runs: Iterator[codec.Entries]) -> None:
        self.schema = schema
        self._runs = runs

    def stored_entries(self) -> Iterator[codec.Entries]:
        return self._runs

    def __iter__(self) -> Iterator[dict[Any, Any]]:
        for run in self._runs:
            yield from load_run(run)


_Data: TypeAlias = _Documents | Iterator[dict[Any, Any]] | pa.RecordBatchReader


def _counted(data: _Data, count: Count) -> _Data:
    """The same data, counted as it goes by."""

    def tallied(parts: Iterable[Any]) -> Iterator[Any]:
        for part in parts:
            yield part
            count(len(part))

    if isinstance(data, _Documents):
        return _Documents(data.schema, tallied(data.stored_entries()))
    if isinstance(data, pa.RecordBatchReader):
        return pa.RecordBatchReader.from_batches(data.schema, tallied(data))

    def documents() -> Iterator[dict[str, Any]]:
        for document in data:
            yield document
            count(1)

    return documents()


# --- where from -------------------------------------------------------------------------------


class _Source(ABC):
    """Where documents come from."""

    name: str

    def total(self) -> int | None:
        """How many documents there are, where that is known."""
        return None

    def conflicts(self) -> list[str]:
        """The fields of mixed types."""
        return []

    @abstractmethod
    def opened(
        self, as_documents: bool, columns: Sequence[str] | None, filter: Filter | None
    ) -> Any:
        """The documents, or record batches of them, as a context."""


class _OfCollection(_Source):
    def __init__(self, collection: Scannable, name: str, batch_size: int | None) -> None:
        self.name = name
        self._collection = collection
        self._options: Any = {} if batch_size is None else {"batch_size": batch_size}

    def total(self) -> int:
        return len(self._collection)

    def conflicts(self) -> list[str]:
        return [field.name for field in self._collection.schema if is_json(field.type)]

    @contextmanager
    def opened(
        self, as_documents: bool, columns: Sequence[str] | None, filter: Filter | None
    ) -> Iterator[_Data]:
        collection = self._collection
        if as_documents and columns is None:
            yield _Documents(collection.schema, collection.stored_entries(filter))
            return
        with collection.stream_batches(columns, filter, **self._options) as reader:
            yield reader


class _OfDocuments(_Source):
    """Documents that are not in a GODB file: for columns, they go through a temporary one."""

    def __init__(self, name: str, open: Callable[[], Any], batch_size: int | None) -> None:
        self.name = name
        self._open = open
        self._batch_size = batch_size
        self._mixed: list[str] = []

    def conflicts(self) -> list[str]:
        return self._mixed

    @contextmanager
    def opened(
        self, as_documents: bool, columns: Sequence[str] | None, filter: Filter | None
    ) -> Iterator[_Data]:
        with self._open() as documents:
            if as_documents and columns is None and filter is None:
                yield documents
                return
            with tempfile.TemporaryDirectory(prefix="godb-arrow-") as folder:
                path = os.path.join(folder, "documents.godb")
                write_godb(documents, path, "documents")
                inner = _OfCollection(open_godb(path), self.name, self._batch_size)
                self._mixed = inner.conflicts()
                with inner.opened(as_documents, columns, filter) as data:
                    yield data


class _OfColumns(_Source):
    """Record batches; the opener gets the columns that are wanted, all of them with None."""

    def __init__(
        self, name: str, open: Callable[[], Any], batch_size: int | None, total: int | None = None
    ) -> None:
        self.name = name
        self._open = open
        self._batch_size = batch_size
        self._total = total

    def total(self) -> int | None:
        return self._total

    @contextmanager
    def opened(
        self, as_documents: bool, columns: Sequence[str] | None, filter: Filter | None
    ) -> Iterator[_Data]:
        with self._open() as reader:
            narrowed = narrow(reader, columns, filter)
            size = self._batch_size
            if size is None:
                yield narrowed
                return
            cut = (
                batch.slice(at, size) for batch in narrowed for at in range(0, batch.num_rows, size)
            )
            yield pa.RecordBatchReader.from_batches(narrowed.schema, cut)


def _source(given: Any, batch_size: int | None) -> _Source:
    if isinstance(given, Scannable):
        return _OfCollection(given, given.name, batch_size)
    if not isinstance(given, (str, os.PathLike)):
        return _of_stream(given, batch_size)
    name = os.fspath(given)
    place, part = _split(name)
    if _is_database(place):
        return _OfColumns(name, lambda: _open_sql(place, _needed(part, name)), batch_size)
    if _is_folder(place):
        return _of_folder(name, place, part, batch_size)
    if place.endswith(".godb"):
        return _OfCollection(open_godb(place, part), name, batch_size)
    kind = format_of(place)
    if kind in DOCUMENT_FORMATS:
        Source(place).size()  # that it is there
        return _OfDocuments(name, lambda: open_file(place), batch_size)
    return _OfColumns(name, lambda: open_file(place), batch_size)


def _of_stream(given: Any, batch_size: int | None) -> _Source:
    from godb_arrow.encoding import rows_of

    name = f"<{type(given).__name__}>"
    rows = rows_of(given, None)

    @contextmanager
    def opened() -> Iterator[Any]:
        if rows.schema is None:
            yield iter(rows.documents)
        else:
            yield pa.RecordBatchReader.from_batches(rows.schema, iter(rows.batches))

    kind = _OfDocuments if rows.schema is None else _OfColumns
    return kind(name, opened, batch_size)


def _of_folder(name: str, place: str, part: str | None, batch_size: int | None) -> _Source:
    if os.path.isdir(os.path.join(place, "_delta_log")):
        dataset = _delta().DeltaTable(place).to_pyarrow_dataset()
    elif os.path.isdir(os.path.join(place, "collections")):
        return _OfEngine(place, _needed(part, name), name, batch_size)
    else:
        dataset = ds.dataset(place, format="parquet", partitioning="hive")

    @contextmanager
    def opened() -> Iterator[pa.RecordBatchReader]:
        with storage_errors("read", place):
            yield dataset.scanner().to_reader()

    return _OfColumns(name, opened, batch_size, dataset.count_rows())


class _OfEngine(_Source):
    """A collection of a data directory, which is open only while it is read."""

    def __init__(self, place: str, collection: str, name: str, batch_size: int | None) -> None:
        self.name = name
        self._place, self._collection, self._batch_size = place, collection, batch_size
        with self._source() as source:
            self._total, self._mixed = source.total(), source.conflicts()

    @contextmanager
    def _source(self) -> Iterator[_OfCollection]:
        with StorageEngine(self._place, read_only=True) as engine:
            yield _OfCollection(engine[self._collection], self.name, self._batch_size)

    def total(self) -> int:
        return self._total

    def conflicts(self) -> list[str]:
        return self._mixed

    @contextmanager
    def opened(
        self, as_documents: bool, columns: Sequence[str] | None, filter: Filter | None
    ) -> Iterator[_Data]:
        with self._source() as source, source.opened(as_documents, columns, filter) as data:
            yield data


def _split(name: str) -> tuple[str, str | None]:
    place, separator, part = name.rpartition("#")
    return (place, part) if separator else (name, None)


def _needed(part: str | None, name: str) -> str:
    if part is None:
        raise CollectionRequired(
            f"{name} may hold several collections or tables", advice=f"write {name}#NAME"
        )
    return part


def _is_folder(place: str) -> bool:
    return "://" not in place and os.path.isdir(place)


# --- where to ---------------------------------------------------------------------------------


class _Target(ABC):
    """Where documents go."""

    takes_documents = False

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def exists(self) -> bool:
        """Whether it is there already."""

    @abstractmethod
    def write(self, data: _Data, mode: Mode) -> None:
        """Write it all or nothing."""

    def size(self) -> int | None:
        """Bytes that it has, where that is known."""
        return None

    def refuse(self, mode: Mode, advice: str) -> InvalidOption:
        return InvalidOption(f"mode {mode!r} is not possible for {self.name}", advice=advice)


def _target(
    name: str, format: str | None, partition_by: list[str], id_column: str | None
) -> _Target:
    place, part = _split(name)
    if _is_database(place):
        return _SqlTarget(name, place, _needed(part, name), id_column)
    extension = os.path.splitext(place)[1].lower()
    if format == "delta" or (format is None and os.path.isdir(os.path.join(place, "_delta_log"))):
        return _DeltaTarget(name, place, partition_by)
    if format == "godb" or extension == ".godb":
        return _GodbTarget(name, place, part, id_column)
    if format == "engine" or os.path.isdir(os.path.join(place, "collections")):
        return _EngineTarget(name, place, _needed(part, name), id_column)
    if partition_by or (format == "parquet" and extension not in FORMATS) or _is_folder(place):
        return _FolderTarget(name, place, partition_by)
    return _FileTarget(name, place, format or format_of(place))


_IF_EXISTS: dict[Mode, IfExists] = {
    "error": "fail",
    "append": "append",
    "overwrite": "replace",
    "upsert": "upsert",
}


class _GodbTarget(_Target):
    takes_documents = True

    def __init__(self, name: str, place: str, part: str | None, id_column: str | None) -> None:
        super().__init__(name)
        self._place = place
        self._collection = part or os.path.basename(place).removesuffix(".godb")
        self._id_column = id_column

    def exists(self) -> bool:
        try:
            open_godb(self._place, self._collection)
        except (SourceNotFound, CollectionNotFound):
            return False
        return True

    def write(self, data: _Data, mode: Mode) -> None:
        write_godb(
            data, self._place, self._collection,
            if_exists=_IF_EXISTS[mode], id_column=self._id_column,
        )  # fmt: skip

    def size(self) -> int | None:
        return Source(self._place).size()


class _EngineTarget(_Target):
    takes_documents = True

    def __init__(self, name: str, place: str, part: str, id_column: str | None) -> None:
        super().__init__(name)
        self._place, self._collection, self._id_column = place, part, id_column

    def exists(self) -> bool:
        if not os.path.isdir(os.path.join(self._place, "collections")):
            return False
        with StorageEngine(self._place, read_only=True) as engine:
            return self._collection in engine

    def write(self, data: _Data, mode: Mode) -> None:
        name = self._collection
        with StorageEngine(self._place) as engine:
            if mode in ("append", "upsert") and name in engine:
                insert = engine.upsert_many if mode == "upsert" else engine.insert_many
                found = iter(data) if isinstance(data, _Documents) else data
                insert(name, found, id_column=self._id_column)
                return
            # It comes as a whole: a file beside the others, which the engine takes in.
            with tempfile.TemporaryDirectory(prefix=_STAGED, dir=self._place) as folder:
                path = os.path.join(folder, "copy.godb")
                write_godb(data, path, name, id_column=self._id_column)
                if name in engine:
                    engine.drop_collection(name)
                engine.load_collection_metadata(path)
                engine.save()


class _FileTarget(_Target):
    def __init__(self, name: str, place: str, format: str) -> None:
        super().__init__(name)
        self._place, self._format = place, format
        self.takes_documents = format in DOCUMENT_FORMATS
        self._expected: Expected = None  # of what is there when it was looked at

    def exists(self) -> bool:
        try:
            source = Source(self._place)
            source.size()
            self._expected = source.version()
        except SourceNotFound:
            self._expected = "absent"
            return False
        return True

    def write(self, data: _Data, mode: Mode) -> None:
        if mode == "upsert":
            raise self.refuse(mode, "copy to a GODB file or a database")
        if mode == "append" and self.exists():
            with open_file(self._place, format=self._format) as before:
                if isinstance(before, pa.RecordBatchReader):
                    assert isinstance(data, pa.RecordBatchReader)
                    self._export(_chained(before, data))
                    return
                rows = documents_of(data) if isinstance(data, pa.RecordBatchReader) else data
                self._export(itertools.chain(before, rows))
                return
        self._export(data)

    def _export(self, data: Any) -> None:
        if isinstance(data, pa.RecordBatchReader):
            export_file(data, self._place, format=self._format, expected=self._expected)
        else:
            export_documents(data, self._place, format=self._format, expected=self._expected)

    def size(self) -> int | None:
        return Source(self._place).size()


def _chained(first: pa.RecordBatchReader, second: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Both, with the columns of the first."""
    try:
        fitted = flattened(second, lambda _: False).cast(storage_schema(first.schema))
    except (pa.ArrowException, ValueError) as error:
        raise UnsupportedType(
            f"the columns do not fit those that are there: {error}",
            advice='choose columns, or use mode="overwrite"',
        ) from error
    plain = flattened(first, lambda _: False)
    return pa.RecordBatchReader.from_batches(plain.schema, itertools.chain(plain, fitted))


class _FolderTarget(_Target):
    """A folder of Parquet files, which takes the place of another as a whole."""

    def __init__(self, name: str, place: str, partition_by: list[str]) -> None:
        super().__init__(name)
        if "://" in place:
            raise InvalidOption(
                f"{place} cannot be replaced as a whole",
                advice='copy to a local folder, or to a Delta table with format="delta"',
            )
        self._place = os.path.abspath(place)
        self._partition_by = partition_by

    def exists(self) -> bool:
        return os.path.lexists(self._place)

    def write(self, data: _Data, mode: Mode) -> None:
        if mode in ("append", "upsert") and self.exists():
            raise self.refuse(mode, 'a Delta table can be appended to: format="delta"')
        assert isinstance(data, pa.RecordBatchReader)
        missing_columns = set(self._partition_by) - set(data.schema.names)
        if missing_columns:
            raise FieldNotFound(
                f"there is no column {sorted(missing_columns)} to part by",
                advice=f"the columns are {', '.join(data.schema.names)}",
            )
        parent, stem = os.path.split(self._place)
        prefix = f"{_STAGED}{stem}-"
        with storage_errors("write", self._place):
            os.makedirs(parent, exist_ok=True)
            for left in os.listdir(parent):  # of copies that were killed
                if left.startswith(prefix):
                    shutil.rmtree(os.path.join(parent, left))
            staged = os.path.join(parent, f"{prefix}{secrets.token_hex(8)}")
            try:
                reader = flattened(data, has_no_children)
                ds.write_dataset(
                    reader,
                    staged,
                    format="parquet",
                    partitioning=self._partition_by or None,
                    partitioning_flavor="hive" if self._partition_by else None,
                    max_partitions=1 << 16,
                    max_open_files=256,
                    max_rows_per_group=_ROW_GROUP,
                )
                _sync_tree(staged)
                if self.exists():
                    before = f"{staged}-before"
                    os.rename(self._place, before)
                    os.rename(staged, self._place)
                    shutil.rmtree(before)
                else:
                    os.rename(staged, self._place)
            except pa.ArrowException as error:
                raise UnsupportedType(f"Parquet cannot hold it: {error}") from error
            finally:
                shutil.rmtree(staged, ignore_errors=True)

    def size(self) -> int:
        return sum(
            os.path.getsize(os.path.join(folder, name))
            for folder, _, names in os.walk(self._place)
            for name in names
        )


def _sync_tree(folder: str) -> None:
    for inner, _, names in os.walk(folder):
        for path in [inner, *(os.path.join(inner, name) for name in names)]:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


# --- Delta ------------------------------------------------------------------------------------


def _delta() -> Any:
    try:
        import deltalake
    except ImportError as error:
        raise missing("delta", "deltalake") from error
    return deltalake


class _DeltaTarget(_Target):
    """A Delta table: each copy is one version of it."""

    def __init__(self, name: str, place: str, partition_by: list[str]) -> None:
        super().__init__(name)
        self._delta = _delta()
        self._place = place
        self._partition_by = partition_by

    def exists(self) -> bool:
        return bool(self._delta.DeltaTable.is_deltatable(self._place))

    def write(self, data: _Data, mode: Mode) -> None:
        assert isinstance(data, pa.RecordBatchReader)
        reader = flattened(data, lambda kind: pa.types.is_null(kind) or has_no_children(kind))
        try:
            if mode == "upsert" and self.exists():
                if ID_FIELD not in reader.schema.names:
                    raise FieldNotFound(f"there is no {ID_FIELD!r}", advice="copy it, too")
                merge = self._delta.DeltaTable(self._place).merge(
                    reader,
                    predicate=f"target.{ID_FIELD} = source.{ID_FIELD}",
                    source_alias="source",
                    target_alias="target",
                )
                merge.when_matched_update_all().when_not_matched_insert_all().execute()
            else:
                self._delta.write_deltalake(
                    self._place,
                    reader,
                    mode="overwrite"
                    if mode == "overwrite"
                    else "append"
                    if mode == "append"
                    else "error",
                    schema_mode="overwrite" if mode == "overwrite" else None,
                    partition_by=self._partition_by or None,
                )
        except self._delta.exceptions.DeltaError as error:
            raise StorageError(f"the Delta table was not written: {error}") from error


# --- databases --------------------------------------------------------------------------------

_DRIVERS = {
    "sqlite": "adbc_driver_sqlite.dbapi",
    "postgresql": "adbc_driver_postgresql.dbapi",
    "snowflake": "adbc_driver_snowflake.dbapi",
    "flightsql": "adbc_driver_flightsql.dbapi",
}


def _is_database(place: str) -> bool:
    return place.partition("://")[0] in _DRIVERS


def _connect(place: str) -> Any:
    scheme, _, rest = place.partition("://")
    try:
        driver: Any = importlib.import_module(_DRIVERS[scheme])
    except ImportError as error:
        raise missing("sql", f"the ADBC driver for {scheme}") from error
    # sqlite:///shop.db is a relative path and sqlite:////shop.db an absolute one.
    return driver.connect(rest.removeprefix("/") if scheme == "sqlite" else place)


@contextmanager
def _sql_errors(what: str) -> Iterator[None]:
    from adbc_driver_manager import Error

    try:
        yield
    except Error as error:
        raise StorageError(f"the database refused to {what}: {error}") from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _open_sql(place: str, table: str) -> Iterator[pa.RecordBatchReader]:
    with _sql_errors("read"), _connect(place) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {_quoted(table)}")
        yield cursor.fetch_record_batch()


class _SqlTarget(_Target):
    """A table of a database: each copy is one transaction."""

    def __init__(self, name: str, place: str, table: str, id_column: str | None) -> None:
        super().__init__(name)
        self._place, self._table = place, table
        self._id_column = id_column or ID_FIELD

    def exists(self) -> bool:
        with _sql_errors("look at the table"), _connect(self._place) as connection:
            return self._is_there(connection)

    def _is_there(self, connection: Any) -> bool:
        from adbc_driver_manager import Error

        try:
            connection.adbc_get_table_schema(self._table)
        except Error:
            return False
        return True

    def write(self, data: _Data, mode: Mode) -> None:
        assert isinstance(data, pa.RecordBatchReader)
        reader = flattened(data, lambda kind: is_nested_or_binary(kind) and not _is_bytes(kind))
        with (
            _sql_errors("write"),
            _connect(self._place) as connection,
            connection.cursor() as cursor,
        ):
            there = self._is_there(connection)
            if mode == "upsert" and there:
                self._upsert(cursor, reader)
            else:
                if mode == "overwrite" and there:
                    cursor.execute(f"DROP TABLE {_quoted(self._table)}")
                cursor.adbc_ingest(
                    self._table, reader, mode="append" if mode == "append" and there else "create"
                )
            connection.commit()

    def _upsert(self, cursor: Any, reader: pa.RecordBatchReader) -> None:
        key, table = _quoted(self._id_column), _quoted(self._table)
        if self._id_column not in reader.schema.names:
            raise FieldNotFound(f"there is no {self._id_column!r}", advice="copy it, too")
        staged = f"godb_arrow_{secrets.token_hex(8)}"
        columns = ", ".join(_quoted(name) for name in reader.schema.names)
        cursor.adbc_ingest(staged, reader, mode="create")
        cursor.execute(f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {_quoted(staged)})")
        cursor.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {_quoted(staged)}")
        cursor.execute(f"DROP TABLE {_quoted(staged)}")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
