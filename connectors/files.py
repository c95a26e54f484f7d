"""Files of other formats, as record batches: Parquet, Arrow IPC, CSV and NDJSON.

NDJSON keeps what documents have (:mod:`godb_arrow.codec.jsontext` says how); the others hold
columns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from godb_arrow.codec.jsontext import from_json_text, to_json_text
from godb_arrow.codec.values import wire_values
from godb_arrow.errors import (
    GodbError,
    InvalidDocument,
    InvalidOption,
    UnsupportedType,
    error_context,
)
from godb_arrow.schema import is_json
from godb_arrow.storage import Source, replace_file

__all__ = ["FORMATS", "export_file", "format_of", "open_file"]

_CSV_BLOCK = 16 << 20  # column types are those of the first block

Progress = Callable[[int], object]
"""Called with a number of rows that were written."""

FORMATS: dict[str, str] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "ipc",
    ".feather": "ipc",
    ".ipc": "ipc",
    ".csv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}
"""The format for each file name's extension."""


def format_of(path: str | os.PathLike[str]) -> str:
    """The format of a file, by its name.

    Raises
    ------
    InvalidOption
        The extension is none of :data:`FORMATS`.

    Examples
    --------
    >>> format_of("users.parquet")
    'parquet'
    """
    name = os.fspath(path)
    extension = os.path.splitext(name)[1].lower()
    if extension not in FORMATS:
        raise InvalidOption(
            f"no format is known for {name!r}", advice=f"end the name in {', '.join(FORMATS)}"
        )
    return FORMATS[extension]


def export_file(
    reader: pa.RecordBatchReader,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Write record batches to a file, which is replaced at once or not at all.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
        The rows.
    path : path or URL
        Where to write.
    format : {"parquet", "ipc", "csv", "ndjson"}, optional
        By the name's extension, if left out.
    progress : callable, optional
        Called with a number of rows, as they are written.

    Returns
    -------
    int
        How many rows were written.

    Raises
    ------
    UnsupportedType
        The format cannot hold a column; the message names it.

    Examples
    --------
    >>> import tempfile, os, godb_arrow
    >>> reader = pa.table({"a": [1, 2]}).to_reader()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_file(reader, os.path.join(folder, "a.parquet"))
    2
    """
    name = os.fspath(path)
    format = format or format_of(path)
    if format not in _WRITERS:
        raise InvalidOption(f"format is {format!r}", advice=f"use one of {', '.join(_WRITERS)}")
    rows = 0
    with error_context("export to", name), replace_file(path) as stream:
        try:
            with _WRITERS[format](stream, reader.schema) as write:
                for batch in reader:
                    write(batch)
                    rows += batch.num_rows
                    if progress is not None:
                        progress(batch.num_rows)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise UnsupportedType(
                f"{format} cannot hold these columns: {error}",
                advice="choose columns, or another format",
            ) from error
    return rows


_Write = Callable[[pa.RecordBatch], Any]


@contextmanager
def _parquet(stream: BinaryIO, schema: pa.Schema) -> Iterator[_Write]:
    plan = _Flattened(schema, _has_no_children, "an empty struct")
    with pyarrow.parquet.ParquetWriter(stream, plan.schema) as writer:
        yield lambda batch: writer.write_batch(plan.apply(batch))


@contextmanager
def _ipc(stream: BinaryIO, schema: pa.Schema) -> Iterator[_Write]:
    with pa.ipc.new_file(stream, schema) as writer:
        yield writer.write_batch


@contextmanager
def _csv(stream: BinaryIO, schema: pa.Schema) -> Iterator[_Write]:
    plan = _Flattened(schema, _is_nested_or_binary, "nested or binary")
    with pyarrow.csv.CSVWriter(stream, plan.schema) as writer:
        yield lambda batch: writer.write_batch(plan.apply(batch))


@contextmanager
def _ndjson(stream: BinaryIO, schema: pa.Schema) -> Iterator[_Write]:
    names = schema.names

    def write(batch: pa.RecordBatch) -> None:
        columns = [
            wire_values(column, name) for name, column in zip(names, batch.columns, strict=True)
        ]
        rows = zip(*columns, strict=True) if columns else iter([()] * batch.num_rows)
        for row in rows:
            document = dict(zip(names, row, strict=True))
            stream.write(to_json_text(document).encode() + b"\n")

    yield write


_WRITERS: dict[str, Callable[..., Any]] = {
    "parquet": _parquet,
    "ipc": _ipc,
    "csv": _csv,
    "ndjson": _ndjson,
}


class _Flattened:
    """Turns the columns that a format cannot hold into JSON text."""

    def __init__(
        self, schema: pa.Schema, unfit: Callable[[pa.DataType], bool], reason: str
    ) -> None:
        self.reason = reason
        self._unfit = [unfit(field.type) for field in schema]
        fields = []
        for field, is_unfit in zip(schema, self._unfit, strict=True):
            if is_unfit or is_json(field.type):
                fields.append(pa.field(field.name, pa.string(), field.nullable))
            else:
                fields.append(field)
        self.schema = pa.schema(fields, metadata=schema.metadata)

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = []
        for column, is_unfit, field in zip(batch.columns, self._unfit, self.schema, strict=True):
            if is_unfit:
                values = wire_values(column, field.name)
                texts = [None if value is None else to_json_text(value) for value in values]
                columns.append(pa.array(texts, pa.string()))
            else:
                columns.append(column.storage if is_json(column.type) else column)
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _has_no_children(data_type: pa.DataType) -> bool:
    """Parquet has no way to store a struct without fields, at any depth."""
    if pa.types.is_struct(data_type):
        children = list(data_type)
        return not children or any(_has_no_children(child.type) for child in children)
    if pa.types.is_map(data_type):
        return _has_no_children(data_type.item_type)
    if pa.types.is_nested(data_type) and data_type.num_fields == 1:
        return _has_no_children(data_type.value_type)
    return False


def _is_nested_or_binary(data_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_nested(data_type)
        or pa.types.is_binary(data_type)
        or pa.types.is_fixed_size_binary(data_type)
        or pa.types.is_large_binary(data_type)
    )


@contextmanager
def open_file(
    path: str | os.PathLike[str], *, format: str | None = None
) -> Iterator[pa.RecordBatchReader | Iterator[dict[str, Any]]]:
    """Open a file of another format, for :func:`godb_arrow.write_godb`.

    Parameters
    ----------
    path : path or URL
        The file.
    format : {"parquet", "ipc", "csv", "ndjson"}, optional
        By the name's extension, if left out.

    Yields
    ------
    pyarrow.RecordBatchReader or iterator of dict
        NDJSON gives documents, the others record batches.

    Raises
    ------
    InvalidDocument
        A line of NDJSON is not a JSON object; the message has its number.
    InvalidOption
        The file is not of that format.

    Examples
    --------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.parquet")
    ...     rows = export_file(pa.table({"a": [1, 2]}).to_reader(), path)
    ...     with open_file(path) as reader:
    ...         reader.read_all().num_rows
    2
    """
    format = format or format_of(path)
    source = Source(path)
    if format not in _WRITERS:
        raise InvalidOption(f"format is {format!r}", advice=f"use one of {', '.join(_WRITERS)}")
    with error_context("read", source.name), ExitStack() as stack:
        stream = stack.enter_context(source.open())
        if format == "ndjson":
            yield _lines(stream, source.name)
            return
        try:
            reader = _open_columns(stream, format, stack)
        except pa.ArrowInvalid as error:
            raise _not_of_format(format, error) from error
        yield pa.RecordBatchReader.from_batches(reader.schema, _guarded(reader, format))


def _open_columns(stream: BinaryIO, format: str, stack: ExitStack) -> Any:
    if format == "parquet":
        file = pyarrow.parquet.ParquetFile(stream)
        return pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches())
    if format == "csv":
        options = pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK)
        return pyarrow.csv.open_csv(stream, read_options=options)
    ipc = stack.enter_context(pa.ipc.open_file(stream))
    batches = (ipc.get_batch(index) for index in range(ipc.num_record_batches))
    return pa.RecordBatchReader.from_batches(ipc.schema, batches)


def _guarded(reader: pa.RecordBatchReader, format: str) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except pa.ArrowInvalid as error:
        raise _not_of_format(format, error) from error


def _not_of_format(format: str, error: Exception) -> GodbError:
    return InvalidOption(f"the file is not valid {format}: {error}", advice="give format=")


def _lines(stream: BinaryIO, name: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            document = from_json_text(line)
        except (ValueError, RecursionError) as error:
            raise InvalidDocument(
                f"line {number} of {name} is not JSON: {error}",
                advice="NDJSON has one JSON object a line",
            ) from error
        if not isinstance(document, dict):
            raise InvalidDocument(
                f"line {number} of {name} is no JSON object", advice="mend that line"
            )
        yield document
