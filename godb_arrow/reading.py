"""GODB files as record batches, tables, schemas and documents."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.runs import Run
from godb_arrow.encoding import with_id
from godb_arrow.errors import (
    CollectionNotFound,
    CollectionRequired,
    CorruptFile,
    DocumentNotFound,
    TypeMismatch,
    error_context,
)
from godb_arrow.format import (
    TAIL_SIZE,
    CollectionHint,
    CollectionSection,
    GodbReader,
    ValueSection,
    is_sealed,
    read_header,
    read_hints,
    read_piece_index,
)
from godb_arrow.options import ReadKeywords, ReadOptions
from godb_arrow.parallel import available_cores, ordered_map
from godb_arrow.pieces import CollectionPieces
from godb_arrow.projection import Filter, Projection, ProjectionDecoder, project
from godb_arrow.schema import ID_FIELD, DocumentSummary, infer_schema
from godb_arrow.storage.source import Location, Source, open_source

__all__ = [
    "StoredCollection",
    "list_collections",
    "load_entry",
    "load_run",
    "locate",
    "read_document",
    "read_documents",
    "read_schema",
    "read_table",
    "scan_godb",
]

_SMALL_FILE = 256 << 10
_MAX_KEPT = 512 << 20
_INFER = "infer it from all documents, with use_hints=False and sample=None"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredCollection:
    """A collection in a file, to be read.

    Attributes
    ----------
    source : Source
        The file.
    name : str
        The collection's name there.
    count : int
        How many documents it has.
    hint : CollectionHint or None
        What the file records of it.
    options : ReadOptions
        How to read.
    """

    source: Source
    name: str
    count: int
    hint: CollectionHint | None
    options: ReadOptions
    _found: dict[str, CollectionPieces | None] = field(default_factory=dict)

    def entries(self, fields: tuple[str, ...] = ()) -> Iterator[codec.Entries]:
        """Its documents in runs, in memory; the next ones are read ahead, where that is cheap."""
        return ordered_map(Run.loaded, self.runs(fields), self.ahead())

    def ahead(self) -> int:
        """How many threads are worthwhile for loading runs and nothing else."""
        pieces = self.pieces()
        return self.threads() if pieces is not None and self._fits(pieces) else 1

    def _fits(self, pieces: CollectionPieces) -> bool:
        """Whether every piece has no more bytes than a batch may have."""
        return pieces.largest <= self.options.batch_bytes

    def runs(
        self, fields: tuple[str, ...] = (), wanted: Sequence[bool] | None = None
    ) -> Iterator[Run]:
        """Its documents in runs, to be loaded by whoever works on them.

        Everything that is loaded was checked, by the end at the latest. The places of values of
        some fields are noted on the way, for who looks at these first. Of its pieces, those that
        are not wanted are left out.
        """
        with error_context("read", self.source.name, self.name), self.source.open() as stream:
            pieces = self.pieces()
            if pieces is not None and (wanted is not None or self._fits(pieces)):
                yield from pieces.read(stream, self.options, fields, wanted)
                return
            reader = GodbReader(stream, self.source.size())
            row = 0
            for section in reader.sections():
                if isinstance(section, CollectionSection) and section.name == self.name:
                    for entries in section.entries(self.options, fields):
                        yield Run.of(entries, row)
                        row += len(entries)

    def pieces_with(self, rows: npt.NDArray[np.int64]) -> Sequence[bool] | None:
        """Which pieces have any of some rows; None where that is not known."""
        pieces = self.pieces()
        return None if pieces is None else pieces.with_rows(rows)

    def pieces_matching(self, projection: Projection) -> Sequence[bool] | None:
        """Which pieces may have documents that a filter keeps; None when it could be any."""
        if projection.implied is None:
            return None
        pieces = self.pieces()
        if pieces is None:
            return None
        found = pieces.matching(projection.implied, projection.needed, projection.decoded)
        return None if found is None or all(found) else found

    def pieces(self) -> CollectionPieces | None:
        """Its pieces, where the file has an index of them that can be used."""
        if self.hint is None:  # the file has none, or shall not be trusted
            return None
        if self.name not in self._found:
            self._found[self.name] = self._find_pieces()
        return self._found[self.name]

    def _find_pieces(self) -> CollectionPieces | None:
        size = self.source.size()
        if size is not None and size < _SMALL_FILE:
            return None
        index = read_piece_index(self.source.tail)
        if index is None:
            return None
        with self.source.open() as stream:
            compression = read_header(stream).compression
            pieces = index.find(self.name, self.count, stream.tell(), size, compression)
            if pieces is None or pieces.largest > self.options.max_document_bytes:
                return None
            if not pieces.is_right(stream):
                logger.warning("%s: the index of its pieces is wrong; not used", self.source.name)
                return None
        return pieces

    def threads(self) -> int:
        """How many threads are worthwhile."""
        if codec.BACKEND == "reference":
            return 1  # Python code runs on one core
        size = self.source.size()
        if size is not None and size < _SMALL_FILE:
            return 1
        return self.options.threads or available_cores()

    def schema(self, kept: KeptEntries | None = None) -> pa.Schema:
        """The recorded schema, or else that of the documents."""
        if self.hint is not None and self.hint.schema is not None:
            return self.hint.schema
        summary = DocumentSummary()
        seen = 0

        def infer(run: Run) -> tuple[codec.Entries, DocumentSummary]:
            entries, found = run.load(), DocumentSummary()
            codec.infer(entries, found)
            return entries, found

        with error_context("read", self.source.name, self.name):
            for entries, found in ordered_map(infer, self.runs(), self.threads()):
                summary.merge(found)
                seen += len(entries)
                if kept is not None and self.options.sample is None:
                    kept.add(entries)
                if self.options.sample is not None and seen >= self.options.sample:
                    break
            return infer_schema(summary, self.options.on_conflict)


class KeptEntries:
    """Decompressed documents that need not be read a second time, as far as they are few."""

    def __init__(self) -> None:
        self.entries: list[codec.Entries] = []
        self._room = _MAX_KEPT

    def add(self, entries: codec.Entries) -> None:
        self._room -= len(entries.data)
        if self._room >= 0:
            self.entries.append(entries)
        else:
            self.entries.clear()

    def take(self) -> Iterator[codec.Entries] | None:
        """The documents, each run given up when it was used; None when they were too many."""
        if self._room < 0 or not self.entries:
            return None
        runs = iter(self.entries)
        self.entries = []
        return runs


def locate(
    location: Location | Source, collection: str | None, options: ReadOptions
) -> StoredCollection:
    """Find a collection in a file, reading no more than its front where that has hints.

    Parameters
    ----------
    location : path, URL, bytes, open binary file or Source
        The file.
    collection : str or None
        Its name; None where the file has one only.
    options : ReadOptions
        How it will be read.

    Returns
    -------
    StoredCollection

    Raises
    ------
    CollectionNotFound, CollectionRequired, FormatError, StorageError
    """
    source = open_source(location)
    with error_context("read", source.name, collection):
        counts: dict[str, int] = {}
        trusted = options.use_hints and is_sealed(source.tail(TAIL_SIZE))
        with source.open() as stream:
            for section in GodbReader(stream, source.size()).sections():
                if isinstance(section, ValueSection):
                    if section.key == "metadata" and trusted:
                        hints = read_hints(section.read())
                        if hints:
                            name = _choose(list(hints), collection)
                            hint = hints[name]
                            return StoredCollection(source, name, hint.count, hint, options)
                elif section.name == collection or (collection is None and section.siblings == 1):
                    return StoredCollection(source, section.name, section.count, None, options)
                else:
                    counts[section.name] = section.count
        name = _choose(list(counts), collection)
        return StoredCollection(source, name, counts[name], None, options)


def _choose(names: Sequence[str], collection: str | None) -> str:
    shown = ", ".join(repr(name) for name in names[:20]) + (", …" if len(names) > 20 else "")
    if collection is not None:
        if collection in names:
            return collection
        raise CollectionNotFound(
            f"there is no collection {collection!r}",
            advice=f"the collections are {shown}" if names else "the file has no collections",
        )
    if len(names) == 1:
        return names[0]
    if not names:
        raise CollectionRequired("the file has no collections", advice="write one with write_godb")
    raise CollectionRequired(
        f"the file has {len(names)} collections", advice=f"name one of them: {shown}"
    )


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
        The GODB file: a local path, any URL that fsspec knows, the bytes themselves, or a file
        opened in binary mode.
    collection : str, optional
        Which collection. May be left out when the file has one only.
    columns : sequence of str, optional
        Fields to read, and dotted paths into structs (``"user.geo.cc"``); all, if left out.
        What is not asked for is not decoded into columns.
    filter : pyarrow.compute.Expression or mapping, optional
        Which documents to keep; ``{"city": "Berlin"}`` stands for an equality, a list for any
        of its values, None for null.
    schema : pyarrow.Schema, optional
        Instead of the inferred one. Fields outside it are not decoded; absent ones are null.
    **options
        The fields of :class:`~godb_arrow.options.ReadOptions`: ``batch_size`` (documents),
        ``batch_bytes``, ``max_document_bytes``, ``on_conflict``, ``on_mismatch``, ``sample``
        (documents), ``use_hints`` and ``threads``.

    Returns
    -------
    pyarrow.RecordBatchReader
        Single-pass; it has ``__arrow_c_stream__``. When it is exhausted, all that it gave was
        checked against the file's checksums, as far as it has any.

    Raises
    ------
    GodbError
        When the call itself fails, or while reading: see :mod:`godb_arrow.errors`.

    Notes
    -----
    Without a `schema`, and without one that godb_arrow recorded in the file, the documents are
    read twice: once to infer the schema.

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
    return _scan(target, columns, filter, schema)


def _scan(
    target: StoredCollection,
    columns: Sequence[str] | None,
    condition: Filter | None,
    schema: pa.Schema | None,
    kept: KeptEntries | None = None,
) -> pa.RecordBatchReader:
    with error_context("read", target.source.name, target.name):
        options = target.options
        # A recorded or sampled schema must not hide what it does not name.
        given = schema is not None
        strict = not given and columns is None
        if schema is None:
            schema = target.schema(kept)
            if options.sample is not None and options.on_mismatch == "null":
                strict = False
        projection = project(schema, columns, condition)
        decoder = ProjectionDecoder(
            projection,
            strict=strict,
            on_mismatch=options.on_mismatch if given or options.sample else "error",
        )
    in_memory = kept and kept.take()
    runs = (
        map(Run.of, in_memory)
        if in_memory
        else target.runs(decoder.fields, target.pieces_matching(projection))
    )

    def decode(run: Run) -> pa.RecordBatch:
        try:
            return decoder.decode_run(run)
        except TypeMismatch as error:
            if not given:
                error.advice = "the recorded or sampled schema does not fit: " + _INFER
            raise

    def batches() -> Iterator[pa.RecordBatch]:
        with error_context("read", target.source.name, target.name):
            for batch in ordered_map(decode, runs, target.threads(), decoder.ahead):
                for start in range(0, batch.num_rows, options.batch_size):
                    yield batch.slice(start, options.batch_size)

    return pa.RecordBatchReader.from_batches(projection.schema, batches())


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
        As for :func:`scan_godb`.

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
    target = locate(source, collection, chosen)
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


def read_schema(
    source: Location | Source,
    collection: str | None = None,
    **options: Unpack[ReadKeywords],
) -> pa.Schema:
    """The schema of a collection's record batches.

    Parameters
    ----------
    source, collection, **options
        As for :func:`scan_godb`.

    Returns
    -------
    pyarrow.Schema
        The recorded one, where godb_arrow wrote the file; else inferred from all documents.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"age": 1}, {"age": 1.5}], file, "users")
    2
    >>> godb_arrow.read_schema(file.getvalue()).field("age").type
    DataType(double)
    """
    target = locate(source, collection, ReadOptions(**options))
    schema = target.schema()
    return project(schema, None, None).schema


def read_documents(
    source: Location | Source,
    collection: str | None = None,
    **options: Unpack[ReadKeywords],
) -> Iterator[dict[Any, Any]]:
    """Iterate over a collection's documents as dicts, exactly as they are stored.

    Parameters
    ----------
    source, collection, **options
        As for :func:`scan_godb`.

    Returns
    -------
    iterator of dict
        In the file's order. ``_id`` is the id under which the collection has the document.
        Timestamps are ``datetime`` in UTC, or ``msgpack.Timestamp`` where a datetime cannot
        hold them; strings that are not UTF-8 have surrogate escapes; extension types are
        ``msgpack.ExtType``.

    Raises
    ------
    GodbError
        When the call itself fails, or while reading.

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
    with error_context("read", target.source.name, target.name):
        for entries in target.entries():
            yield from load_run(entries)


def read_document(
    source: Location | Source,
    identity: str,
    collection: str | None = None,
    **options: Unpack[ReadKeywords],
) -> dict[Any, Any]:
    """Read one document by its id; no other is decoded.

    Parameters
    ----------
    source, collection, **options
        As for :func:`scan_godb`.
    identity : str
        The document id.

    Returns
    -------
    dict
        As :func:`read_documents` gives it. Should the file have the id twice, the last one
        counts, as in go-db.

    Raises
    ------
    DocumentNotFound
        The collection has no such document.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada"}, {"name": "Bob"}], file, "users")
    2
    >>> godb_arrow.read_document(file.getvalue(), "2")
    {'_id': '2', 'name': 'Bob'}
    """
    target = locate(source, collection, ReadOptions(**options))

    def find(run: Run) -> dict[Any, Any] | None:
        entries = run.load()
        index = codec.find_entry(entries, identity)
        return None if index < 0 else load_entry(entries, index)

    with error_context("read", target.source.name, target.name):
        found = [one for one in ordered_map(find, target.runs(), target.threads()) if one]
        if not found:
            raise DocumentNotFound(
                f"there is no document {identity!r}", advice="document ids are strings, such as '1'"
            )
        return found[-1]


def load_entry(entries: codec.Entries, index: int) -> dict[Any, Any]:
    """One document as a dict, under the id that the collection has it."""
    identity = entries.id(index)
    try:
        document = codec.load(entries.document(index))
    except CorruptFile as error:
        error.offset += entries.base + entries.bounds[2 * index + 1]
        error.message = f"document {identity!r} is {error.message}"
        raise
    return with_id(document, identity)


def load_run(entries: codec.Entries) -> Iterator[dict[Any, Any]]:
    """All documents of a run as dicts, each under the id that the collection has it."""
    loaded = codec.load_entries(bytes(entries.raw()), len(entries))
    if loaded is None:
        for index in range(len(entries)):
            yield load_entry(entries, index)
        return
    for identity, document in zip(loaded[::2], loaded[1::2], strict=True):
        if document.get(ID_FIELD) == identity:
            yield document
        else:
            yield with_id(document, identity)


def list_collections(source: Location | Source) -> dict[str, int]:
    """The collections of a file, and how many documents each has.

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
    found: dict[str, int] = {}
    with error_context("list", source.name):
        sealed = is_sealed(source.tail(TAIL_SIZE))
        with source.open() as stream:
            for section in GodbReader(stream, source.size()).sections():
                if isinstance(section, CollectionSection):
                    found[section.name] = section.count
                elif section.key == "metadata" and sealed:
                    hints = read_hints(section.read())
                    if hints:
                        return {name: hint.count for name, hint in hints.items()}
    return found
