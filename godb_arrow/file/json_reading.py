"""JSON text read as tables, by the type rules of documents."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.runs import Run
from godb_arrow.documents.encoding import Encoded, threads
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.json_source import JsonSource
from godb_arrow.errors import error_context
from godb_arrow.keywords import explain_keywords
from godb_arrow.options import MAX_DOCUMENT_BYTES, OnMismatch
from godb_arrow.parallel import ordered_map
from godb_arrow.query.decoder import ProjectionDecoder
from godb_arrow.query.extended_json import document_from_json
from godb_arrow.query.filters import Filter
from godb_arrow.query.projection import project, with_wanted
from godb_arrow.schema import ID_FIELD, DocumentSummary, check_complete, infer_schema
from godb_arrow.storage.source import Location, open_source
from godb_arrow.storage.url_options import StorageOptions, with_options

__all__ = ["read_ndjson"]


@explain_keywords
def read_ndjson(
    source: Location,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    schema: pa.Schema | None = None,
    on_mismatch: OnMismatch = "error",
    extended: bool = False,
    storage_options: StorageOptions = None,
) -> pa.Table:
    """Read JSON text as an Arrow table, with the types that a GODB file of it would have.

    The text is NDJSON, one array of objects, or one object after the other. It is parsed on all
    cores, and its types are inferred from all documents.

    Parameters
    ----------
    source : path, URL, bytes or open binary file
        The text, in UTF-8. Values such as ``{"$time": …}`` have the form of ``godb-arrow cat``.
    columns : sequence of str, optional
        Fields to read, and dotted paths into structs; all by default.
    filter : pyarrow.compute.Expression or mapping, optional
        Rows to keep; all by default.
    schema : pyarrow.Schema, optional
        Schema of the fields; inferred by default.
    on_mismatch : {"error", "null"}
        Treatment of a value that does not fit `schema`, default "error".
    extended : bool
        Whether the text has the forms of MongoDB's extended JSON, default False.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.

    Returns
    -------
    pyarrow.Table
        A row for each document. Where a document has an ``_id``, ids are strings, and the other
        documents get numbers as in a collection.

    Raises
    ------
    InvalidDocument
        The text is not JSON, or a value cannot be stored. The error has line and column.
    TypeMismatch
        A value does not fit `schema`.

    Examples
    --------
    >>> import godb_arrow
    >>> table = godb_arrow.read_ndjson(b'{"name": "Ada", "age": 36}\\n{"name": "Bob"}\\n')
    >>> table.to_pydict()
    {'name': ['Ada', 'Bob'], 'age': [36, None]}
    """
    with with_options(source, storage_options):
        opened = open_source(source)
    with error_context("read", opened.name):
        with opened.open() as stream:
            convert = document_from_json if extended else None
            documents = JsonSource(stream, opened.name, convert=convert)
            runs, summary = _encoded(documents, infer=schema is None)
        is_given = schema is not None
        if schema is None:
            schema = infer_schema(summary)
            if columns is None:
                check_complete(schema)
            if not any(run.given for run in runs):
                schema = pa.schema([field for field in schema if field.name != ID_FIELD])
            schema = with_wanted(schema, columns, filter, lambda: (run.entries() for run in runs))
        projection = project(schema, columns, filter)
        decoder = ProjectionDecoder(
            projection, strict=False, on_mismatch=on_mismatch if is_given else "error", exact=False
        )

        def decode(run: Encoded) -> pa.RecordBatch:
            return decoder.decode_run(Run.of(run.entries()))

        batches = list(ordered_map(decode, iter(runs), threads()))
    return pa.Table.from_batches(batches, projection.schema)


def _encoded(source: JsonSource, *, infer: bool) -> tuple[list[Encoded], DocumentSummary]:
    """Return the documents of a source, and the summary of their types."""

    def prepare(encoded: Encoded) -> Encoded:
        if not infer:
            return encoded
        summary = DocumentSummary()
        codec.infer(encoded.entries(), summary)
        return encoded._replace(summary=summary)

    summary = DocumentSummary()
    runs = []
    for run in source.encode_documents(ID_FIELD, IdSequence(), MAX_DOCUMENT_BYTES, prepare):
        runs.append(run._replace(summary=None))
        if run.summary is not None and not run.summary.is_partial:
            summary.merge(run.summary)
        elif infer:
            codec.infer(run.entries(), summary)
    return runs, summary
