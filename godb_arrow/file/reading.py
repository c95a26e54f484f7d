"""GODB files read as record batches, tables, schemas and documents."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Unpack

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.runs import Run
from godb_arrow.documents.loading import load_entry, load_run
from godb_arrow.errors import (
    TypeMismatch,
    document_not_found,
    error_context,
)
from godb_arrow.file.format import TAIL_SIZE, is_sealed
from godb_arrow.file.hints import read_hints
from godb_arrow.file.locate import KeptEntries, StoredCollection, locate
from godb_arrow.file.reader import CollectionSection, GodbReader
from godb_arrow.keywords import explain_keywords
from godb_arrow.options import ReadKeywords, ReadOptions
from godb_arrow.parallel import ordered_map
from godb_arrow.query.decoder import ProjectionDecoder
from godb_arrow.query.filters import Filter
from godb_arrow.query.projection import project, with_wanted
from godb_arrow.schema import check_complete
from godb_arrow.storage.source import Location, Source, open_source

__all__ = [
    "list_collections",
    "read_document",
    "read_documents",
    "read_schema",
    "read_table",
    "recorded_schema",
    "scan_godb",
]

_INFER = "infer it from all documents, with use_hints=False and sample=None"

logger = logging.getLogger(__name__)


@explain_keywords
def scan_godb(
    source: Location | Source,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    schema: pa.Schema | None = None,
    **options: Unpack[ReadKeywords],
) -> pa.RecordBatchReader:
    """Stream a collection as Arrow record batches, in constant memory.

    Parameters
    ----------
    source : path, URL, bytes or open binary file
        The GODB file: a local path, a URL that fsspec knows, the bytes themselves, or a file
        opened in binary mode.
    collection : str, optional
        Name of the collection. Optional if the file has only one.
    columns : sequence of str, optional
        Fields to read, and dotted paths into structs (``"user.geo.cc"``); all by default. Other
        fields are not decoded into columns.
    filter : pyarrow.compute.Expression or mapping, optional
        Documents to keep; all by default. In ``{"city": "Berlin"}`` a value stands for equality,
        a list for any of its values, and None for null.
    schema : pyarrow.Schema, optional
        Schema of the batches, inferred by default. Fields outside it are not decoded, and absent
        ones are null.
    **options
        The fields of :class:`~godb_arrow.options.ReadOptions`: ``batch_size`` (documents),
        ``batch_bytes``, ``max_document_bytes``, ``on_conflict``, ``on_mismatch``, ``sample``
        (documents), ``use_hints`` and ``threads``.

    Returns
    -------
    pyarrow.RecordBatchReader
        Single-pass reader with ``__arrow_c_stream__``. When it is exhausted, all its batches are
        checked against the file's checksums, if it has any.

    Raises
    ------
    GodbError
        The call fails, or a later read does. See :mod:`godb_arrow.errors`.

    Notes
    -----
    Without `schema`, and without a schema that godb_arrow recorded in the file, the documents are
    read twice. The first time, the schema is inferred.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada", "age": 36}], file, "users")
    1
    >>> with godb_arrow.scan_godb(file.getvalue(), columns=["age"]) as reader:
    ...     for batch in reader:
    ...         print(batch.num_rows, batch.schema.names)
    1 ['age']
    """
    target = locate(source, collection, ReadOptions(**options))
    try:
        return _scan(target, columns, filter, schema)
    except BaseException:
        target.close()
        raise


def _scan(
    target: StoredCollection,
    columns: Sequence[str] | None,
    condition: Filter | None,
    schema: pa.Schema | None,
    kept: KeptEntries | None = None,
) -> pa.RecordBatchReader:
    with error_context("read", target.source.name, target.name):
        options = target.options
        # A recorded or sampled schema must not hide fields that it lacks.
        is_given = schema is not None
        strict = not is_given and columns is None
        if schema is None:
            schema = target.schema(kept)
            if columns is None:
                check_complete(schema)
            schema = with_wanted(schema, columns, condition, target.entries)
            if options.sample is not None and options.on_mismatch == "null":
                strict = False
        projection = project(schema, columns, condition)
        # Statistics know no misfits, which an expression sees as nulls and a predicate as values.
        usable = not is_given or options.on_mismatch == "error" or projection.predicate is not None
        decoder = ProjectionDecoder(
            projection,
            strict=strict,
            on_mismatch=options.on_mismatch if is_given or options.sample else "error",
            exact=not is_given and options.sample is None,
        )
    in_memory = kept and kept.take()
    runs = (
        map(Run.of, in_memory)
        if in_memory
        else target.runs(decoder.fields, target.pieces_matching(projection) if usable else None)
    )

    def decode(run: Run) -> pa.RecordBatch:
        try:
            return decoder.decode_run(run)
        except TypeMismatch as error:
            if not is_given:
                error.advice = "the recorded or sampled schema does not fit: " + _INFER
            raise

    def batches() -> Iterator[pa.RecordBatch]:
        with closing(target), error_context("read", target.source.name, target.name):
            rows = 0
            for batch in ordered_map(decode, runs, target.threads(), decoder.ahead):
                rows += batch.num_rows
                for start in range(0, batch.num_rows, options.batch_size):
                    yield batch.slice(start, options.batch_size)
            if not rows:
                yield from decoder.no_rows()

    return pa.RecordBatchReader.from_batches(projection.schema, batches())


@explain_keywords
def read_table(
    source: Location | Source,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    schema: pa.Schema | None = None,
    **options: Unpack[ReadKeywords],
) -> pa.Table:
    """Read a collection as an Arrow table.

    Parameters
    ----------
    source, collection, columns, filter, schema, **options
        See :func:`scan_godb`.

    Returns
    -------
    pyarrow.Table

    Raises
    ------
    GodbError
        See :mod:`godb_arrow.errors`.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada"}, {"name": "Bob"}], file, "users")
    2
    >>> godb_arrow.read_table(file.getvalue()).column("name").to_pylist()
    ['Ada', 'Bob']
    """
    chosen = ReadOptions(**options)
    with closing(locate(source, collection, chosen)) as located:
        target = replace(located, opened=None)  # The collection may be read twice.
        try:
            return _scan(target, columns, filter, schema, KeptEntries()).read_all()
        except TypeMismatch:
            if schema is not None or target.hint is None:
                raise
            logger.warning(
                "%s, collection %r: the recorded schema does not fit the documents; inferring it",
                target.source.name,
                target.name,
            )
            target = replace(target, hint=None)
            return _scan(target, columns, filter, None, KeptEntries()).read_all()


@explain_keywords
def read_schema(
    source: Location | Source,
    collection: str | None = None,
    **options: Unpack[ReadKeywords],
) -> pa.Schema:
    """Return the schema of a collection's record batches.

    Parameters
    ----------
    source, collection, **options
        See :func:`scan_godb`.

    Returns
    -------
    pyarrow.Schema
        Recorded schema if godb_arrow wrote the file, else inferred from all documents.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"age": 1}, {"age": 1.5}], file, "users")
    2
    >>> godb_arrow.read_schema(file.getvalue()).field("age").type
    DataType(double)
    """
    with closing(locate(source, collection, ReadOptions(**options))) as target:
        return project(target.schema(), None, None).schema


def recorded_schema(
    source: Location | Source, collection: str | None = None, **options: Unpack[ReadKeywords]
) -> pa.Schema | None:
    """Return the schema that a file records of a collection; None if it records none.

    Parameters
    ----------
    source, collection, **options
        See :func:`scan_godb`.

    Returns
    -------
    pyarrow.Schema or None
        The documents are not read.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"age": 1}], file, "users")
    1
    >>> recorded_schema(file.getvalue()).names
    ['_id', 'age']
    """
    with closing(locate(source, collection, ReadOptions(**options))) as target:
        return None if target.hint is None else target.hint.schema


@explain_keywords
def read_documents(
    source: Location | Source,
    collection: str | None = None,
    **options: Unpack[ReadKeywords],
) -> Iterator[dict[Any, Any]]:
    """Iterate over a collection's documents as dicts, exactly as they are stored.

    Parameters
    ----------
    source, collection, **options
        See :func:`scan_godb`.

    Returns
    -------
    iterator of dict
        Documents in the file's order, with their id as ``_id``. Timestamps are ``datetime`` in
        UTC, or ``msgpack.Timestamp`` outside of its range. Strings that are not UTF-8 have
        surrogate escapes. Extension types are ``msgpack.ExtType``.

    Raises
    ------
    GodbError
        The call fails, or a later read does.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada"}], file, "users")
    1
    >>> list(godb_arrow.read_documents(file.getvalue()))
    [{'_id': '1', 'name': 'Ada'}]
    """
    target = locate(source, collection, ReadOptions(**options))
    return _documents(target)


def _documents(target: StoredCollection) -> Iterator[dict[Any, Any]]:
    with closing(target), error_context("read", target.source.name, target.name):
        for entries in target.entries():
            yield from load_run(entries)


@explain_keywords
def read_document(
    source: Location | Source,
    identity: str,
    collection: str | None = None,
    **options: Unpack[ReadKeywords],
) -> dict[Any, Any]:
    """Read one document by its id, without decoding any other.

    Parameters
    ----------
    source, collection, **options
        See :func:`scan_godb`.
    identity : str
        Id of the document.

    Returns
    -------
    dict
        The document, as :func:`read_documents` returns it. If the file repeats the id, the last
        document counts, as in go-db.

    Raises
    ------
    DocumentNotFound
        The collection has no document with this id.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada"}, {"name": "Bob"}], file, "users")
    2
    >>> godb_arrow.read_document(file.getvalue(), "2")
    {'_id': '2', 'name': 'Bob'}
    """

    def find(run: Run) -> dict[Any, Any] | None:
        entries = run.load()
        index = codec.find_entry(entries, identity)
        return None if index < 0 else load_entry(entries, index)

    with (
        closing(locate(source, collection, ReadOptions(**options))) as target,
        error_context("read", target.source.name, target.name),
    ):
        matches = [match for match in ordered_map(find, target.runs(), target.threads()) if match]
        if not matches:
            raise document_not_found(identity)
        return matches[-1]


def list_collections(source: Location | Source) -> dict[str, int]:
    """List the collections of a file with the number of documents of each.

    Parameters
    ----------
    source : path, URL, bytes or open binary file
        The GODB file.

    Returns
    -------
    dict of str to int

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada"}], file, "users")
    1
    >>> godb_arrow.list_collections(file.getvalue())
    {'users': 1}
    """
    source = open_source(source)
    with error_context("list", source.name):
        held = source.held()
        try:
            return _collections_in(held)
        finally:
            if held is not source:
                held.close()


def _collections_in(source: Source) -> dict[str, int]:
    counts: dict[str, int] = {}
    hinted: dict[str, int] | None = None
    sealed = is_sealed(source.tail(TAIL_SIZE))
    with source.open() as stream:
        for section in GodbReader(stream, source.size()).sections():
            if isinstance(section, CollectionSection):
                # The first collection is at the front: a hint that says otherwise is ignored.
                if hinted is not None and hinted.get(section.name) == section.count:
                    return hinted
                hinted = None
                counts[section.name] = section.count
            elif section.key == "metadata" and sealed:
                hints = read_hints(section.read())
                hinted = {name: hint.count for name, hint in hints.items()} or None
    return counts
