"""Where copies come from and go to: files, folders, data directories, tables and databases."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.dataset as ds

from godb_arrow import codec
from godb_arrow.connectors.files import (
    DOCUMENT_FORMATS,
    FORMATS,
    documents_of,
    export_documents,
    export_file,
    flattened,
    format_of,
    has_no_children,
    open_file,
)
from godb_arrow.documents.loading import load_run
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.errors import (
    CollectionNotFound,
    CollectionRequired,
    FieldNotFound,
    InvalidOption,
    SourceNotFound,
    UnsupportedType,
    storage_errors,
)
from godb_arrow.file.collection import open_godb
from godb_arrow.file.writing import IfExists, write_godb
from godb_arrow.query.filters import Filter
from godb_arrow.query.projection import narrow
from godb_arrow.query.scannable import Scannable
from godb_arrow.schema import is_json, storage_schema
from godb_arrow.storage.object_store import Expected
from godb_arrow.storage.source import Source

__all__ = [
    "Count",
    "Data",
    "Documents",
    "Mode",
    "Origin",
    "Target",
    "counted",
    "origin_of",
    "target_of",
]

Mode = Literal["error", "append", "overwrite", "upsert"]
Count = Callable[[int], Any]

_STAGED = ".godb-arrow-"
_ROW_GROUP = 1 << 17  # rows that are in memory before they are written


class Documents:
    """Documents as they are stored, with their schema: what a GODB file takes byte by byte."""

    def __init__(self, schema: pa.Schema, runs: Iterator[codec.Entries]) -> None:
        self.schema = schema
        self._runs = runs

    def stored_entries(self) -> Iterator[codec.Entries]:
        """The documents, in runs; once."""
        return self._runs

    def __iter__(self) -> Iterator[dict[Any, Any]]:
        for run in self._runs:
            yield from load_run(run)


Data: TypeAlias = Documents | Iterator[dict[Any, Any]] | pa.RecordBatchReader


def counted(data: Data, count: Count) -> Data:
    """The same data, counted as it goes by."""

    def tallied(parts: Iterable[Any]) -> Iterator[Any]:
        for part in parts:
            yield part
            count(len(part))

    if isinstance(data, Documents):
        return Documents(data.schema, tallied(data.stored_entries()))
    if isinstance(data, pa.RecordBatchReader):
        return pa.RecordBatchReader.from_batches(data.schema, tallied(data))

    def documents() -> Iterator[dict[str, Any]]:
        for document in data:
            yield document
            count(1)

    return documents()


# --- where from -------------------------------------------------------------------------------


class Origin(ABC):
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


class _OfCollection(Origin):
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
    ) -> Iterator[Data]:
        collection = self._collection
        if as_documents and columns is None:
            yield Documents(collection.schema, collection.stored_entries(filter))
            return
        with collection.stream_batches(columns, filter, **self._options) as reader:
            yield reader


class _OfDocuments(Origin):
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
    ) -> Iterator[Data]:
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


class _OfColumns(Origin):
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
    ) -> Iterator[Data]:
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


def origin_of(given: Any, batch_size: int | None) -> Origin:
    """Where an address, a collection or a stream of anything gives documents."""
    from godb_arrow.connectors.databases import is_database, open_sql

    if isinstance(given, Scannable):
        return _OfCollection(given, given.name, batch_size)
    if not isinstance(given, (str, os.PathLike)):
        return _of_stream(given, batch_size)
    name = os.fspath(given)
    place, part = _split(name)
    if is_database(place):
        return _OfColumns(name, lambda: open_sql(place, _needed(part, name)), batch_size)
    if _is_folder(place):
        return _of_folder(name, place, part, batch_size)
    if place.endswith(".godb"):
        return _OfCollection(open_godb(place, part), name, batch_size)
    kind = format_of(place)
    if kind in DOCUMENT_FORMATS:
        Source(place).size()  # that it is there
        return _OfDocuments(name, lambda: open_file(place), batch_size)
    return _OfColumns(name, lambda: open_file(place), batch_size)


def _of_stream(given: Any, batch_size: int | None) -> Origin:
    from godb_arrow.documents.rows import rows_of

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


def _of_folder(name: str, place: str, part: str | None, batch_size: int | None) -> Origin:
    if os.path.isdir(os.path.join(place, "_delta_log")):
        from godb_arrow.connectors.databases import deltalake_module

        dataset = deltalake_module().DeltaTable(place).to_pyarrow_dataset()
    elif os.path.isdir(os.path.join(place, "collections")):
        return _OfEngine(place, _needed(part, name), name, batch_size)
    else:
        dataset = ds.dataset(place, format="parquet", partitioning="hive")

    @contextmanager
    def opened() -> Iterator[pa.RecordBatchReader]:
        with storage_errors("read", place):
            yield dataset.scanner().to_reader()

    return _OfColumns(name, opened, batch_size, dataset.count_rows())


class _OfEngine(Origin):
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
    ) -> Iterator[Data]:
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


class Target(ABC):
    """Where documents go."""

    takes_documents = False

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def exists(self) -> bool:
        """Whether it is there already."""

    @abstractmethod
    def write(self, data: Data, mode: Mode) -> None:
        """Write it all or nothing."""

    def size(self) -> int | None:
        """Bytes that it has, where that is known."""
        return None

    def refuse(self, mode: Mode, advice: str) -> InvalidOption:
        """The error for a mode that this target cannot do."""
        return InvalidOption(f"mode {mode!r} is not possible for {self.name}", advice=advice)


def target_of(
    name: str, format: str | None, partition_by: list[str], id_column: str | None
) -> Target:
    """Where an address takes documents."""
    from godb_arrow.connectors.databases import DeltaTarget, SqlTarget, is_database

    place, part = _split(name)
    if is_database(place):
        return SqlTarget(name, place, _needed(part, name), id_column)
    extension = os.path.splitext(place)[1].lower()
    if format == "delta" or (format is None and os.path.isdir(os.path.join(place, "_delta_log"))):
        return DeltaTarget(name, place, partition_by)
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


class _GodbTarget(Target):
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

    def write(self, data: Data, mode: Mode) -> None:
        write_godb(
            data, self._place, self._collection,
            if_exists=_IF_EXISTS[mode], id_column=self._id_column,
        )  # fmt: skip

    def size(self) -> int | None:
        return Source(self._place).size()


class _EngineTarget(Target):
    takes_documents = True

    def __init__(self, name: str, place: str, part: str, id_column: str | None) -> None:
        super().__init__(name)
        self._place, self._collection, self._id_column = place, part, id_column

    def exists(self) -> bool:
        if not os.path.isdir(os.path.join(self._place, "collections")):
            return False
        with StorageEngine(self._place, read_only=True) as engine:
            return self._collection in engine

    def write(self, data: Data, mode: Mode) -> None:
        name = self._collection
        with StorageEngine(self._place) as engine:
            if mode in ("append", "upsert") and name in engine:
                insert = engine.upsert_many if mode == "upsert" else engine.insert_many
                found = iter(data) if isinstance(data, Documents) else data
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


class _FileTarget(Target):
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

    def write(self, data: Data, mode: Mode) -> None:
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


class _FolderTarget(Target):
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

    def write(self, data: Data, mode: Mode) -> None:
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
