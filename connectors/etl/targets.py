"""Targets of a copy that godb_arrow writes: GODB files, data directories, other files, folders."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa

from godb_arrow.connectors.columns import fit_columns
from godb_arrow.connectors.etl.base import Data, Target
from godb_arrow.connectors.etl.files import (
    NO_OPTIONS,
    export_documents,
    export_file,
    open_file,
)
from godb_arrow.connectors.etl.formats import chosen_options, is_document_format
from godb_arrow.connectors.etl.partitions import write_partitions
from godb_arrow.connectors.fitting import fit_column
from godb_arrow.documents.json_lines import terminal_lines
from godb_arrow.errors import (
    CollectionExists,
    CollectionNotFound,
    FieldNotFound,
    InvalidOption,
    SourceNotFound,
    UnsupportedType,
    WriteConflict,
    storage_errors,
)
from godb_arrow.file.collection import open_godb
from godb_arrow.file.writing import write_godb
from godb_arrow.options import IfExists
from godb_arrow.query.fields import shown_names
from godb_arrow.storage.lock import lock_file, try_lock
from godb_arrow.storage.object_store import Expected
from godb_arrow.storage.source import Source, spool

__all__ = ["FileTarget", "FolderTarget", "GodbTarget", "StandardOutput"]


STAGED = ".godb-arrow-"
_BEFORE = "-before"  # suffix of a folder until the new one has replaced it
_ROW_GROUP_ROWS = 1 << 17  # gathered in memory before they are written


class GodbTarget(Target):
    """Collection of a GODB file."""

    takes_documents = True

    def __init__(self, name: str, place: str, part: str | None, id_column: str | None) -> None:
        super().__init__(name)
        self.place = place
        self.collection = part or os.path.basename(place).removesuffix(".godb")
        self._id_column = id_column

    def exists(self) -> bool:
        """Return whether the target exists."""
        try:
            open_godb(self.place, self.collection)
        except (SourceNotFound, CollectionNotFound):
            return False
        return True

    def write(self, data: Data, if_exists: IfExists) -> None:
        """Write all documents or none."""
        try:
            write_godb(
                data,
                self.place,
                self.collection,
                if_exists=if_exists,
                id_column=self._id_column,
            )
        except CollectionExists as error:  # Another writer created the collection meanwhile.
            raise self.refuse_existing() from error

    def size(self) -> int | None:
        """Return the size in bytes."""
        return Source(self.place).size()


class StandardOutput(Target):
    """Standard output, which gets a file when it is complete."""

    def __init__(self, name: str, format: str, options: Mapping[str, Any] = NO_OPTIONS) -> None:
        super().__init__(name)
        self.format: str = format
        self._options = chosen_options(format, options, "write")
        self.takes_documents = is_document_format(format)

    def exists(self) -> bool:
        """Return whether the target exists."""
        return False

    def write(self, data: Data, if_exists: IfExists) -> None:
        """Write all documents or none."""
        with tempfile.NamedTemporaryFile(prefix="godb-arrow-") as temporary:
            if isinstance(data, pa.RecordBatchReader):
                export_file(data, temporary.name, format=self.format, options=self._options)
            else:
                export_documents(data, temporary.name, format=self.format, options=self._options)
            with open(temporary.name, "rb") as complete:  # the file was replaced
                if self.format == "ndjson":
                    while lines := complete.readlines(1 << 20):
                        sys.stdout.buffer.write(terminal_lines(b"".join(lines)))
                else:
                    shutil.copyfileobj(complete, sys.stdout.buffer, 1 << 20)
        sys.stdout.flush()


class FileTarget(Target):
    """File of another format."""

    def __init__(
        self, name: str, place: str, format: str, options: Mapping[str, Any] = NO_OPTIONS
    ) -> None:
        super().__init__(name)
        self.place = place
        self.format: str = format
        self._options = chosen_options(format, options, "write")
        self._read_options = chosen_options(format, options, "read")
        self.takes_documents = is_document_format(format)
        self._expected: Expected = None  # version of the file when it was first checked

    def exists(self) -> bool:
        """Return whether the target exists."""
        try:
            source = Source(self.place)
            source.size()
            self._expected = source.version()
        except SourceNotFound:
            self._expected = "absent"
            return False
        return True

    def write(self, data: Data, if_exists: IfExists) -> None:
        """Write all documents or none."""
        if if_exists == "upsert":
            raise self.refuse(if_exists, "copy to a GODB file or a database")
        if if_exists == "append":
            # The source may be slow, so the target is locked only while it is written.
            with self._staged(data) as added, lock_file(self.place):
                self._append(added)
            return
        try:
            self._export(data)
        except WriteConflict as error:
            if self._expected == "absent":  # Another writer created the file meanwhile.
                raise self.refuse_existing() from error
            raise

    @contextmanager
    def _staged(self, data: Data) -> Iterator[Data]:
        """Yield the same data from a temporary file."""
        if isinstance(data, pa.RecordBatchReader):
            with spool() as file:
                with pa.ipc.new_stream(file, data.schema) as writer:
                    for batch in data:
                        writer.write_batch(batch)
                file.seek(0)
                yield pa.ipc.open_stream(file)
            return
        with tempfile.NamedTemporaryFile(prefix="godb-arrow-") as temporary:
            export_documents(data, temporary.name, format=self.format, options=self._options)
            with open_file(
                temporary.name, format=self.format, options=self._read_options
            ) as documents:
                assert not isinstance(documents, pa.RecordBatchReader)
                yield documents

    def _append(self, data: Data) -> None:
        """Write the rows of the locked file, then the new rows."""
        if not self.exists():
            self._export(data)
            return
        with open_file(self.place, format=self.format, options=self._read_options) as before:
            if isinstance(before, pa.RecordBatchReader):
                assert isinstance(data, pa.RecordBatchReader)
                self._export(_chained(before, data, self.format))
                return
            self._export_documents(data, before)

    def _export(self, data: Any) -> None:
        if isinstance(data, pa.RecordBatchReader):
            export_file(
                data,
                self.place,
                format=self.format,
                expected=self._expected,
                options=self._options,
            )
        else:
            self._export_documents(data)

    def _export_documents(self, data: Any, before: Any = ()) -> None:
        place, format, expected = self.place, self.format, self._expected
        export_documents(
            data, place, format=format, expected=expected, before=before, options=self._options
        )

    def size(self) -> int | None:
        """Return the size in bytes."""
        return Source(self.place).size()


def _chained(
    first: pa.RecordBatchReader, second: pa.RecordBatchReader, format: str
) -> pa.RecordBatchReader:
    """Concatenate the rows of a file and new rows, in the types of the file."""
    if second.schema.names != first.schema.names:
        raise UnsupportedType(
            f"the new columns are {shown_names(second.schema.names)}, and the file has "
            f"{shown_names(first.schema.names)}",
            advice='choose columns, or use if_exists="replace"',
        )
    has_types = format != "csv"
    if not has_types:
        second = fit_columns(second, format)
    fields = [
        new.with_name(old.name) if pa.types.is_null(old.type) else old
        for old, new in zip(first.schema, second.schema, strict=True)
    ]
    schema = pa.schema(fields, metadata=first.schema.metadata)

    def fitted() -> Iterator[pa.RecordBatch]:
        for batch in itertools.chain(first, second):
            columns = [
                _fitted(column, field, has_types=has_types)
                for column, field in zip(batch.columns, schema, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, fitted())


def _fitted(column: pa.Array, field: pa.Field, *, has_types: bool) -> pa.Array:
    """Convert a column of new rows to the type of the rows of a file."""
    try:
        if not has_types and pa.types.is_string(field.type):
            return column.cast(field.type)  # the same characters
        return fit_column(column, field.type)
    except (pa.ArrowException, ValueError) as error:
        raise UnsupportedType(
            f"the new values of column {field.name!r} do not fit the type of the file: {error}",
            advice='choose columns, or use if_exists="replace"',
        ) from error


class FolderTarget(Target):
    """Folder of Parquet files, which is replaced as a whole."""

    def __init__(self, name: str, place: str, partition_by: list[str]) -> None:
        super().__init__(name)
        if "://" in place:
            raise InvalidOption(
                f"{place} cannot be replaced as a whole",
                advice='copy to a local folder, or to a Delta table with format="delta"',
            )
        self.place = os.path.abspath(place)
        self.partition_by = partition_by

    def exists(self) -> bool:
        """Return whether the target exists."""
        return os.path.lexists(self.place)

    def write(self, data: Data, if_exists: IfExists) -> None:
        """Write all documents or none."""
        if if_exists in ("append", "upsert") and self.exists():
            raise self.refuse(if_exists, 'append to a Delta table instead, with format="delta"')
        assert isinstance(data, pa.RecordBatchReader)
        missing_columns = set(self.partition_by) - set(data.schema.names)
        if missing_columns:
            raise FieldNotFound(
                f"the column {sorted(missing_columns)} of partition_by does not exist",
                advice=f"the columns are {shown_names(data.schema.names)}",
            )

        def fill(staged: str) -> None:
            reader = fit_columns(data, "parquet")
            self.write_rows(staged, reader)
            if self.partition_by:
                write_partitions(staged, reader.schema, self.partition_by)

        self.exchange(fill, if_exists)

    def write_rows(self, staged: str, reader: pa.RecordBatchReader, prefix: str = "part") -> None:
        """Write rows to files of a staged folder, which may have others."""
        import pyarrow.dataset as ds  # imported late, because it imports pandas

        ds.write_dataset(
            reader,
            staged,
            format="parquet",
            basename_template=f"{prefix}-{{i}}.parquet",
            existing_data_behavior="overwrite_or_ignore",
            partitioning=self.partition_by or None,
            partitioning_flavor="hive" if self.partition_by else None,
            max_partitions=1 << 16,
            max_open_files=256,
            max_rows_per_group=_ROW_GROUP_ROWS,
        )

    def exchange(self, fill: Callable[[str], None], if_exists: IfExists) -> None:
        """Replace the folder by a staged one, which a function fills."""
        parent, stem = os.path.split(self.place)
        with storage_errors("write", self.place), ExitStack() as stack:
            os.makedirs(parent, exist_ok=True)
            with lock_file(self.place):
                staged = stack.enter_context(staged_in(parent, f"{STAGED}{stem}-", self.place))
            try:
                fill(staged)
                _sync_tree(staged)
                with lock_file(self.place):
                    if not self.exists():
                        os.rename(staged, self.place)
                    elif if_exists == "error":  # Another writer created the folder meanwhile.
                        raise self.refuse_existing()
                    else:
                        before = f"{staged}{_BEFORE}"
                        os.rename(self.place, before)
                        os.rename(staged, self.place)
                        shutil.rmtree(before)
            except pa.ArrowException as error:
                raise UnsupportedType(f"Parquet cannot store the data: {error}") from error

    def size(self) -> int:
        """Return the size in bytes."""
        return sum(
            os.path.getsize(os.path.join(folder, name))
            for folder, _, names in os.walk(self.place)
            for name in names
        )


@contextmanager
def staged_in(parent: str, prefix: str, target: str | None = None) -> Iterator[str]:
    """Create a temporary folder for data, and remove the folders of killed copies.

    Parameters
    ----------
    parent : str
        Parent of the new folder.
    prefix : str
        Beginning of the names of such folders.
    target : str, optional
        Folder that the new one will replace. If a copy was killed while it exchanged both, the
        former folder is restored.
    """
    for name in sorted(os.listdir(parent)):
        path = os.path.join(parent, name)
        if not name.startswith(prefix) or not os.path.isdir(path) or os.path.islink(path):
            continue
        if name.endswith(_BEFORE) and target is not None and not os.path.lexists(target):
            os.rename(path, target)
        else:
            _remove_abandoned(path)
    folder = os.path.join(parent, f"{prefix}{secrets.token_hex(8)}")
    os.mkdir(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try_lock(descriptor)  # Other copies do not remove the folder while it is locked.
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(folder: str) -> None:
    """Remove the folder of a killed copy, which no process has locked."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if try_lock(descriptor):
            shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def _sync_tree(folder: str) -> None:
    for inner, _, names in os.walk(folder):
        for path in [inner, *(os.path.join(inner, name) for name in names)]:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
