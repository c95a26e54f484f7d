"""Files of other formats, with columns or with documents.

NDJSON has all values of documents, in the form of :mod:`godb_arrow.codec.jsontext`. BSON files are
read and written like those from ``mongodump``, with the extra ``mongo``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa

from godb_arrow.codec.values import wire_values
from godb_arrow.connectors.arrays import GrowingDictionaries
from godb_arrow.connectors.columns import fit_columns, restore_columns
from godb_arrow.connectors.etl.formats import (
    added_format,
    check_format,
    check_options,
    compressed,
    compression_of_name,
    decompressed,
    decompressed_file,
    is_document_format,
)
from godb_arrow.documents.json_lines import lines_of
from godb_arrow.documents.json_source import JsonSource
from godb_arrow.errors import GodbError, InvalidOption, UnsupportedType, error_context
from godb_arrow.query.extended_json import document_from_json
from godb_arrow.storage.object_store import Expected
from godb_arrow.storage.replace import replace_file
from godb_arrow.storage.source import Source

__all__ = [
    "documents_of",
    "export_documents",
    "export_file",
    "open_file",
]


NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})

Progress = Callable[[int], object]
"""Function that is called with a number of written rows."""


def export_file(
    reader: pa.RecordBatchReader,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    progress: Progress | None = None,
    expected: Expected = None,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> int:
    """Write record batches to a file atomically.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
        Rows to write.
    path : path or URL
        File to write.
    format : str, optional
        Format of the file, such as "parquet" or "ndjson"; by the name's extension by default.
    progress : callable, optional
        Function that is called with a number of rows, as they are written.
    expected : str, "absent" or None
        Version of a URL to replace, "absent" if no file may exist, or None for no condition.
    options : mapping
        Options of the format, such as the descriptor of Protobuf.

    Returns
    -------
    int
        Number of rows written.

    Raises
    ------
    UnsupportedType
        The format cannot store a column. The error names the column.

    Examples
    --------
    >>> import tempfile, os, godb_arrow
    >>> reader = pa.table({"a": [1, 2]}).to_reader()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_file(reader, os.path.join(folder, "a.parquet"))
    2
    """
    name = os.fspath(path)
    format = check_format(path, format)
    if is_document_format(format):
        return export_documents(
            reader, path, format=format, progress=progress, expected=expected, options=options
        )
    check_options(options, (format, "write"))
    added = added_format(format)
    if added is not None:
        tally = _Tally(progress)
        with error_context("export to", name), replace_file(path, expected=expected) as stream:
            added.written(stream, tally.reader(reader), options)
        return tally.count
    reader = fit_columns(reader, format)
    rows = 0
    with error_context("export to", name), replace_file(path, expected=expected) as file:
        try:
            with (
                compressed(file, name) as stream,
                _WRITERS[format](stream, reader.schema) as write,
            ):
                for batch in reader:
                    write(batch)
                    rows += batch.num_rows
                    if progress is not None:
                        progress(batch.num_rows)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise UnsupportedType(
                f"{format} cannot store these columns: {error}",
                advice="choose other columns, or another format",
            ) from error
    return rows


def export_documents(
    documents: Any,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    progress: Progress | None = None,
    expected: Expected = None,
    before: Any = (),
    options: Mapping[str, Any] = NO_OPTIONS,
) -> int:
    """Write documents to an NDJSON or BSON file atomically.

    Parameters
    ----------
    documents : collection, RecordBatchReader or iterable of dict
        Documents to write. Documents of a collection are written without loss.
    path : path or URL
        File to write.
    format : str, optional
        Format of the file, such as "ndjson"; by the name's extension by default.
    progress : callable, optional
        Function that is called with a number of documents, as they are written.
    expected, options
        See :func:`export_file`.
    before : iterable of dict
        Documents to write first; none by default.

    Returns
    -------
    int
        Number of documents written.

    Raises
    ------
    InvalidDocument
        BSON cannot store a value. The error names the document.

    Examples
    --------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_documents([{"n": 1}], os.path.join(folder, "a.ndjson"))
    1
    """
    name = os.fspath(path)
    format = check_format(path, format)
    if not is_document_format(format):
        raise InvalidOption(f"the format {format} has columns", advice="give a RecordBatchReader")
    check_options(options, (format, "write"))
    added = added_format(format)
    if added is not None:
        tally = _Tally(progress)
        with error_context("export to", name), replace_file(path, expected=expected) as stream:
            is_reader = isinstance(documents, pa.RecordBatchReader)
            rows = documents_of(documents) if is_reader else documents
            added.written(stream, tally.documents(itertools.chain(before, rows)), options)
        return tally.count
    count = 0
    with (
        error_context("export to", name),
        replace_file(path, expected=expected) as file,
        compressed(file, name) as stream,
    ):
        sources = (before, documents) if before else (documents,)
        encoded = itertools.chain.from_iterable(map(_ENCODERS[format], sources))
        for part, more in _as_array(encoded) if format == "json" else encoded:
            stream.write(part)
            count += more
            if progress is not None:
                progress(more)
    return count


class _Tally:
    """Count of the rows that a writer of another module takes."""

    def __init__(self, progress: Progress | None) -> None:
        self.count = 0
        self._progress = progress

    def _add(self, more: int) -> None:
        self.count += more
        if self._progress is not None:
            self._progress(more)

    def documents(self, documents: Iterable[Any]) -> Iterator[Any]:
        """Yield the documents, and count them."""
        for document in documents:
            yield document
            self._add(1)

    def reader(self, reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """Return a reader of the same batches, which counts their rows."""

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in reader:
                yield batch
                self._add(batch.num_rows)

        return pa.RecordBatchReader.from_batches(reader.schema, batches())


def documents_of(reader: pa.RecordBatchReader) -> Iterator[dict[str, Any]]:
    """Convert rows to documents, with the values that GODB stores.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
        Rows to convert.

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


def _ndjson(documents: Any) -> Iterator[tuple[bytes, int]]:
    return lines_of(documents)


def _as_array(parts: Iterator[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    """Yield lines of JSON as one array of objects, with an object on each line."""
    before = b"[\n"
    for lines, count in parts:
        if lines:
            # A line feed inside of a string is escaped.
            yield before + lines.rstrip(b"\n").replace(b"\n", b",\n"), count
            before = b",\n"
    yield (b"\n]\n" if before == b",\n" else b"[]\n"), 0


def _bson(documents: Any) -> Iterator[tuple[bytes, int]]:
    from godb_arrow.connectors.etl.bson import BsonSource, encode, encode_runs
    from godb_arrow.connectors.etl.bson_types import recorded_types

    if isinstance(documents, BsonSource):
        yield from ((raw, 1) for raw in documents.encoded())
        return
    types = recorded_types(getattr(documents, "schema", None))
    stored = getattr(documents, "stored_entries", None)
    if stored is not None:
        yield from encode_runs(stored(), types)
        return
    is_reader = isinstance(documents, pa.RecordBatchReader)
    for document in documents_of(documents) if is_reader else documents:
        yield encode(document, types), 1


_ENCODERS: dict[str, Callable[[Any], Iterator[tuple[bytes, int]]]] = {
    "ndjson": _ndjson,
    "json": _ndjson,
    "bson": _bson,
}
"""Functions that encode documents, with the number of documents in each part."""

_Write: TypeAlias = "Callable[[pa.RecordBatch], Any]"


@contextmanager
def _parquet(stream: BinaryIO, schema: pa.Schema) -> Iterator[_Write]:
    from pyarrow.parquet import ParquetWriter

    with ParquetWriter(stream, schema) as writer:
        yield writer.write_batch


@contextmanager
def _ipc(stream: BinaryIO, schema: pa.Schema) -> Iterator[_Write]:
    growing = GrowingDictionaries(schema)
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.ipc.new_file(stream, schema, options=options) as writer:
        yield lambda batch: writer.write_batch(growing.encode(batch))


@contextmanager
def _csv(stream: BinaryIO, schema: pa.Schema) -> Iterator[_Write]:
    from pyarrow.csv import CSVWriter

    with CSVWriter(stream, schema) as writer:
        yield writer.write_batch


_WRITERS: dict[str, Callable[..., Any]] = {
    "parquet": _parquet,
    "ipc": _ipc,
    "csv": _csv,
}


@contextmanager
def open_file(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    extended: bool = False,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> Iterator[pa.RecordBatchReader | JsonSource | Iterator[dict[str, Any]]]:
    """Open a file of another format, for :func:`godb_arrow.write_godb`.

    Parameters
    ----------
    path : path or URL
        The file.
    format : str, optional
        Format of the file, such as "parquet" or "ndjson"; by the name's extension by default.
    extended : bool
        Whether JSON has the forms of MongoDB's extended JSON, default False.
    options : mapping
        Options of the format, such as the descriptor of Protobuf.

    Yields
    ------
    pyarrow.RecordBatchReader or iterator of dict
        Documents of NDJSON and BSON, record batches of the other formats.

    Raises
    ------
    InvalidDocument
        A line of NDJSON is not a JSON object. The error has its number.
    InvalidOption
        The file does not have this format.

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
    format = check_format(path, format)
    check_options(options, (format, "read"))
    added = added_format(format)
    source = Source(path)
    with error_context("read", source.name), ExitStack() as stack:
        if compression_of_name(source.name) is not None and format == "csv":
            # A first pass finds the types.
            source = Source(stack.enter_context(decompressed_file(source)))
        stream = stack.enter_context(source.open())
        if added is not None:
            yield added.opened(stream, source.name, options)
            return
        if format in ("ndjson", "json"):
            convert = document_from_json if extended else None
            text = decompressed(stream, source.name)
            yield JsonSource(text, source.name, convert=convert)
            return
        if format == "bson":
            from godb_arrow.connectors.etl.bson import BsonSource

            yield BsonSource(stream, source.name)
            return
        try:
            if format == "csv":
                from godb_arrow.connectors.etl.csv import open_csv

                reader = open_csv(source, stream)
            else:
                reader = _open_columns(stream, format, stack)
        except pa.ArrowInvalid as error:
            raise _not_of_format(format, error) from error
        guarded = pa.RecordBatchReader.from_batches(reader.schema, _guarded(reader, format))
        yield restore_columns(guarded)


def _open_columns(stream: BinaryIO, format: str, stack: ExitStack) -> Any:
    if format == "parquet":
        from pyarrow.parquet import ParquetFile

        file = ParquetFile(stream)
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
