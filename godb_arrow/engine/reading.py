"""Reading functions for all places that have collections: files, data directories, and several."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias, Unpack, cast

import pyarrow as pa

from godb_arrow.engine.places import (
    Handle,
    Place,
    file_of,
    open_place,
    opened,
    opened_engine,
    place_of,
)
from godb_arrow.errors import InvalidOption, error_context
from godb_arrow.file import reading
from godb_arrow.keywords import explain_keywords
from godb_arrow.options import ReadKeywords
from godb_arrow.query.filters import Filter
from godb_arrow.storage.several import places_of
from godb_arrow.storage.source import Location, Source
from godb_arrow.storage.url_options import StorageOptions, made_with_options, with_options

__all__ = [
    "Sources",
    "list_collections",
    "open_godb",
    "read_document",
    "read_documents",
    "read_schema",
    "read_table",
    "scan_godb",
]

Sources: TypeAlias = Location | Source | Sequence[Location]
"""File, data directory or folder of a collection, or several of them."""


@explain_keywords
def scan_godb(
    source: Sources,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    schema: pa.Schema | None = None,
    storage_options: StorageOptions = None,
    **options: Unpack[ReadKeywords],
) -> pa.RecordBatchReader:
    """Stream a collection as Arrow record batches, in constant memory.

    Parameters
    ----------
    source : path, URL, bytes or open binary file, or a list of them
        The GODB file: a local path, a URL that fsspec knows, the bytes themselves, or a file
        opened in binary mode. It may also be a data directory, as in ``"data#users"``. Several
        places are read as one collection, given as a list or with wildcards (``"logs/*.godb"``).
    collection : str, optional
        Name of the collection. Optional if there is only one.
    columns : sequence of str, optional
        Fields to read, and dotted paths into structs (``"user.geo.cc"``); all by default. Other
        fields are not decoded into columns.
    filter : pyarrow.compute.Expression or mapping, optional
        Documents to keep; all by default. In ``{"city": "Berlin"}`` a value stands for equality,
        a list for any of its values, and None for null.
    schema : pyarrow.Schema, optional
        Schema of the batches, inferred by default. Fields outside it are not decoded, and absent
        ones are null.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL, such as ``{"anon": True}``.
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
    with ExitStack() as stack:
        stack.enter_context(with_options(source, storage_options))
        place = file_of(source, collection)
        if place is not None:
            return reading.scan_godb(
                place.location, place.collection, columns=columns, filter=filter, schema=schema,
                **options,
            )  # fmt: skip
        handle = open_place(source, collection, options, stack)
        reader = handle.stream_batches(columns, filter, schema, **options)
        return pa.RecordBatchReader.from_batches(reader.schema, _batches(reader, stack.pop_all()))


def _batches(reader: pa.RecordBatchReader, opened: ExitStack) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a reader, and close what was opened for it at their end."""
    with opened, reader:
        yield from reader


@explain_keywords
def read_table(
    source: Sources,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    schema: pa.Schema | None = None,
    storage_options: StorageOptions = None,
    **options: Unpack[ReadKeywords],
) -> pa.Table:
    """Read a collection as an Arrow table.

    Parameters
    ----------
    source, collection, columns, filter, schema, storage_options, **options
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
    with with_options(source, storage_options):
        place = file_of(source, collection)
        if place is not None:
            return reading.read_table(
                place.location, place.collection, columns=columns, filter=filter, schema=schema,
                **options,
            )  # fmt: skip
        with opened(source, collection, options, None) as handle:
            return handle.stream_batches(columns, filter, schema, **options).read_all()


@explain_keywords
def read_schema(
    source: Sources,
    collection: str | None = None,
    *,
    storage_options: StorageOptions = None,
    **options: Unpack[ReadKeywords],
) -> pa.Schema:
    """Return the schema of a collection's record batches.

    Parameters
    ----------
    source, collection, storage_options, **options
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
    with with_options(source, storage_options):
        place = file_of(source, collection)
        if place is not None:
            return reading.read_schema(place.location, place.collection, **options)
        with opened(source, collection, options, None) as handle:
            return handle.schema


@explain_keywords
def read_documents(
    source: Sources,
    collection: str | None = None,
    *,
    storage_options: StorageOptions = None,
    **options: Unpack[ReadKeywords],
) -> Iterator[dict[Any, Any]]:
    """Iterate over a collection's documents as dicts, exactly as they are stored.

    Parameters
    ----------
    source, collection, storage_options, **options
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
    with ExitStack() as stack:
        stack.enter_context(with_options(source, storage_options))
        place = file_of(source, collection)
        if place is not None:
            return reading.read_documents(place.location, place.collection, **options)
        handle = open_place(source, collection, options, stack)
        return _documents(handle, stack.pop_all())


def _documents(handle: Handle, opened: ExitStack) -> Iterator[dict[Any, Any]]:
    """Yield the documents of a handle, and close what was opened for it at their end."""
    with opened:
        yield from handle


@explain_keywords
def read_document(
    source: Sources,
    identity: str,
    collection: str | None = None,
    *,
    storage_options: StorageOptions = None,
    **options: Unpack[ReadKeywords],
) -> dict[Any, Any]:
    """Read one document by its id, without decoding any other.

    Parameters
    ----------
    source, collection, storage_options, **options
        See :func:`scan_godb`.
    identity : str
        Id of the document.

    Returns
    -------
    dict
        The document, as :func:`read_documents` returns it. If the source repeats the id, the last
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
    with with_options(source, storage_options):
        place = file_of(source, collection)
        if place is not None:
            return reading.read_document(place.location, identity, place.collection, **options)
        with opened(source, collection, options, None) as handle:
            return handle.get(identity)


def list_collections(source: Sources, *, storage_options: StorageOptions = None) -> dict[str, int]:
    """List the collections of a file with the number of documents of each.

    Parameters
    ----------
    source, storage_options
        See :func:`scan_godb`.

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
    with with_options(source, storage_options):
        places = places_of(source)
        if places is not None:
            counts: dict[str, int] = {}
            for place in places:
                for name, count in list_collections(place).items():
                    counts[name] = counts.get(name, 0) + count
            return counts
        return _list(place_of(cast("Location", source)))


def _list(place: Place) -> dict[str, int]:
    if place.kind == "directory":
        with opened_engine(place.location) as engine:
            names = engine.collections() if place.collection is None else [place.collection]
            return {name: len(engine[name]) for name in names}
    if place.kind == "parts":
        with opened(place.location, place.collection, {}, None) as handle:
            return {handle.name: len(handle)}
    counts = reading.list_collections(place.location)
    if place.collection is None:
        return counts
    if place.collection not in counts:
        reading.read_schema(place.location, place.collection)  # raises the error
    return {place.collection: counts[place.collection]}


@explain_keywords
def open_godb(
    source: Sources,
    collection: str | None = None,
    *,
    storage_options: StorageOptions = None,
    **options: Unpack[ReadKeywords],
) -> Handle:
    """Open a collection for repeated reading.

    Parameters
    ----------
    source, collection, storage_options, **options
        See :func:`scan_godb`.

    Returns
    -------
    FileCollection, Collection, CollectionVersion or JoinedCollection
        Handle of a file, of a data directory, of the folder of a collection, or of several places.

    Raises
    ------
    CollectionNotFound, CollectionRequired, FormatError, StorageError

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada", "age": 36}], file, "users")
    1
    >>> users = godb_arrow.open_godb(file.getvalue())
    >>> import pyarrow as pa
    >>> pa.table(users).num_rows  # any consumer of an Arrow stream
    1
    """
    if isinstance(collection, (list, tuple)):
        raise InvalidOption(
            "collection is a list of names", advice="call open_godb once for each name"
        )
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    with error_context("open", name):
        return made_with_options(
            source, storage_options, lambda: open_place(source, collection, options)
        )
