"""Files of other formats: Parquet, Arrow IPC and CSV hold columns; NDJSON and BSON, documents.

NDJSON keeps what documents have (:mod:`godb_arrow.codec.jsontext` says how). BSON files are those
of ``mongodump``; they need the extra ``mongo``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from godb_arrow.codec.jsontext import from_json_text, to_json_text
from godb_arrow.codec.values import wire_values
from godb_arrow.connectors.etl.columns import fit_columns, restore_columns
from godb_arrow.connectors.etl.csv import open_csv
from godb_arrow.errors import (
    GodbError,
    InvalidDocument,
    InvalidOption,
    UnsupportedType,
    error_context,
)
from godb_arrow.storage.object_store import Expected
from godb_arrow.storage.replace import replace_file
from godb_arrow.storage.source import Source

__all__ = [
    "DOCUMENT_FORMATS",
    "FORMATS",
    "documents_of",
    "export_documents",
    "export_file",
    "format_of",
    "open_file",
]


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
    ".bson": "bson",
}
"""The format for each file name's extension."""

DOCUMENT_FORMATS = frozenset({"ndjson", "bson"})
"""Formats that hold documents; the others hold columns."""


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
            f"no format is known for {name!r}",
            advice=f"end the name in .godb, {', '.join(FORMATS)}",
        )
    return FORMATS[extension]


def export_file(
    reader: pa.RecordBatchReader,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    progress: Progress | None = None,
    expected: Expected = None,
) -> int:
    """Write record batches to a file, which is replaced at once or not at all.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
        The rows.
    path : path or URL
        Where to write.
    format : {"parquet", "ipc", "csv", "ndjson", "bson"}, optional
        By the name's extension, if left out.
    progress : callable, optional
        Called with a number of rows, as they are written.
    expected : str, "absent" or None
        Of a URL: the version that is replaced, nothing at all, or whatever is there.

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
    format = _checked_format(path, format)
    if format in DOCUMENT_FORMATS:
        return export_documents(
            documents_of(reader), path, format=format, progress=progress, expected=expected
        )
    reader = fit_columns(reader, format)
    rows = 0
    with error_context("export to", name), replace_file(path, expected=expected) as stream:
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


def export_documents(
    documents: Iterable[dict[str, Any]],
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    progress: Progress | None = None,
    expected: Expected = None,
) -> int:
    """Write documents to an NDJSON or BSON file, which is replaced at once or not at all.

    Parameters
    ----------
    documents : iterable of dict
        The documents.
    path : path or URL
        Where to write.
    format : {"ndjson", "bson"}, optional
        By the name's extension, if left out.
    progress : callable, optional
        Called with a number of documents, as they are written.
    expected : str, "absent" or None
        As for :func:`export_file`.

    Returns
    -------
    int
        How many documents were written.

    Raises
    ------
    InvalidDocument
        BSON cannot hold a value; the message has the document.

    Examples
    --------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_documents([{"n": 1}], os.path.join(folder, "a.ndjson"))
    1
    """
    name = os.fspath(path)
    encode = _ENCODERS[_checked_format(path, format)]()
    count = 0
    with error_context("export to", name), replace_file(path, expected=expected) as stream:
        for document in documents:
            stream.write(encode(document))
            count += 1
            if progress is not None and count % _REPORTED == 0:
                progress(_REPORTED)
        if progress is not None:
            progress(count % _REPORTED)
    return count


def _checked_format(path: str | os.PathLike[str], format: str | None) -> str:
    format = format or format_of(path)
    known = [*_WRITERS, *_ENCODERS]
    if format not in known:
        raise InvalidOption(f"format is {format!r}", advice=f"use one of {', '.join(known)}")
    return format


def documents_of(reader: pa.RecordBatchReader) -> Iterator[dict[str, Any]]:
    """The rows as documents, with the values that GODB would store.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
        Record batches.

    Yields
    ------
    dict

    Examples
    --------
    >>> list(documents_of(pa.table({"a": [1]}).to_reader()))
    [{'a': 1}]
    """
    names = reader.schema.names
    for batch in reader:
        columns = [
            wire_values(column, name) for name, column in zip(names, batch.columns, strict=True)
        ]
        rows = zip(*columns, strict=True) if columns else iter([()] * batch.num_rows)
        for row in rows:
            yield dict(zip(names, row, strict=True))


def _ndjson() -> Callable[[dict[str, Any]], bytes]:
    return lambda document: to_json_text(document).encode() + b"\n"


def _bson() -> Callable[[dict[str, Any]], bytes]:
    from godb_arrow.connectors.etl.bson import encode

    return encode


_ENCODERS: dict[str, Callable[[], Callable[[dict[str, Any]], bytes]]] = {
    "ndjson": _ndjson,
    "bson": _bson,
}
_REPORTED = 1000

_Write = Callable[[pa.RecordBatch], Any]


@contextmanager
def _parquet(stream: BinaryIO, schema: pa.Schema) -> Iterator[_Write]:
    with pyarrow.parquet.ParquetWriter(stream, schema) as writer:
        yield writer.write_batch


@contextmanager
def _ipc(stream: BinaryIO, schema: pa.Schema) -> Iterator[_Write]:
    with pa.ipc.new_file(stream, schema) as writer:
        yield writer.write_batch


@contextmanager
def _csv(stream: BinaryIO, schema: pa.Schema) -> Iterator[_Write]:
    with pyarrow.csv.CSVWriter(stream, schema) as writer:
        yield writer.write_batch


_WRITERS: dict[str, Callable[..., Any]] = {
    "parquet": _parquet,
    "ipc": _ipc,
    "csv": _csv,
}


@contextmanager
def open_file(
    path: str | os.PathLike[str], *, format: str | None = None
) -> Iterator[pa.RecordBatchReader | Iterator[dict[str, Any]]]:
    """Open a file of another format, for :func:`godb_arrow.write_godb`.

    Parameters
    ----------
    path : path or URL
        The file.
    format : {"parquet", "ipc", "csv", "ndjson", "bson"}, optional
        By the name's extension, if left out.

    Yields
    ------
    pyarrow.RecordBatchReader or iterator of dict
        NDJSON and BSON give documents, the others record batches.

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
    format = _checked_format(path, format)
    source = Source(path)
    with error_context("read", source.name), ExitStack() as stack:
        stream = stack.enter_context(source.open())
        if format == "ndjson":
            yield _lines(stream, source.name)
            return
        if format == "bson":
            from godb_arrow.connectors.etl.bson import decode_file

            yield decode_file(stream, source.name)
            return
        try:
            if format == "csv":
                reader = open_csv(source, stream)
            else:
                reader = _open_columns(stream, format, stack)
        except pa.ArrowInvalid as error:
            raise _not_of_format(format, error) from error
        guarded = pa.RecordBatchReader.from_batches(reader.schema, _guarded(reader, format))
        yield restore_columns(guarded)


def _open_columns(stream: BinaryIO, format: str, stack: ExitStack) -> Any:
    if format == "parquet":
        file = pyarrow.parquet.ParquetFile(stream)
        return pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches())
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
