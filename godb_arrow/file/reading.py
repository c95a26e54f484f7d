"""GODB files read as record batches, tables, schemas and documents."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Unpack

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.codec.runs import Run
from godb_arrow.documents.loading import load_chunks, load_entry
from godb_arrow.errors import (
    LimitExceeded,
    TypeMismatch,
    document_not_found,
    error_context,
)
from godb_arrow.file.format import TAIL_SIZE, is_sealed
from godb_arrow.file.hints import read_hints
from godb_arrow.file.locate import KeptEntries, StoredCollection, locate
from godb_arrow.file.reader import CollectionSection, GodbReader
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


def scan_godb(
    source: Location | Source,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    schema: pa.Schema | None = None,
    **options: Unpack[ReadKeywords],
) -> pa.RecordBatchReader:
    """Stream a collection of a file; see :func:`godb_arrow.scan_godb`."""
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
    guess: pa.Schema | None = None,
) -> pa.RecordBatchReader:
    with error_context("read", target.source.name, target.name):
        options = target.options
        # A recorded or sampled schema must not hide fields that it lacks.
        is_given = schema is not None
        strict = not is_given and columns is None
        if schema is None:
            schema = target.schema(kept) if guess is None else guess
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
            is_guess=guess is not None,
        )
    in_memory = kept and kept.take()
    if in_memory:
        runs: Iterator[Run] = map(Run.of, in_memory)
    else:
        wanted = target.pieces_matching(projection) if usable else None
        runs = target.runs(decoder.fields, wanted, unscanned=decoder.takes_unscanned)

    parts = decoder.split(((run, None) for run in runs), options.batch_bytes)

    def decode(part: tuple[Run, Rows | None]) -> pa.RecordBatch:
        try:
            return decoder.decode_run(part[0])
        except TypeMismatch as error:
            if not is_given:
                error.advice = "the recorded or sampled schema does not fit: " + _INFER
            raise

    def batches() -> Iterator[pa.RecordBatch]:
        with closing(target), error_context("read", target.source.name, target.name):
            rows = 0
            for batch in ordered_map(decode, parts, target.threads(), decoder.ahead):
                rows += batch.num_rows
                for start in range(0, batch.num_rows, options.batch_size):
                    yield batch.slice(start, options.batch_size)
            if not rows:
                yield from decoder.no_rows()

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
    """Read a collection of a file; see :func:`godb_arrow.read_table`."""
    chosen = ReadOptions(**options)
    with closing(locate(source, collection, chosen)) as located:
        target = replace(located, opened=None)  # The collection may be read twice.
        if schema is None and columns is None and filter is None:
            table = _read_as_guessed(target)
            if table is not None:
                return table
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


def _read_as_guessed(target: StoredCollection) -> pa.Table | None:
    """Read a collection with the schema of its first documents, if inference gives no other.

    So documents are read and decoded once, instead of being inspected before.
    """
    guess = target.guessed_schema()
    if guess is None:
        return None
    try:
        return _scan(target, None, None, None, guess=guess).read_all()
    except (TypeMismatch, LimitExceeded):
        return None


def read_schema(
    source: Location | Source,
    collection: str | None = None,
    **options: Unpack[ReadKeywords],
) -> pa.Schema:
    """Return the schema of a collection of a file; see :func:`godb_arrow.read_schema`."""
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


def read_documents(
    source: Location | Source,
    collection: str | None = None,
    **options: Unpack[ReadKeywords],
) -> Iterator[dict[Any, Any]]:
    """Iterate over the documents of a file; see :func:`godb_arrow.read_documents`."""
    target = locate(source, collection, ReadOptions(**options))
    return _DocumentIterator(_chunks(target))


def _chunks(target: StoredCollection) -> Generator[list[dict[Any, Any]], None, None]:
    with closing(target), error_context("read", target.source.name, target.name):
        for entries in target.entries():
            yield from load_chunks(entries)


class _DocumentIterator(codec.ChunkIterator):
    """Iterator over the documents of a file, which are decoded in lists."""

    def __init__(self, chunks: Generator[list[dict[Any, Any]], None, None]) -> None:
        super().__init__()
        self._chunks = chunks

    def _fill(self) -> None:
        self.give(next(self._chunks))

    def close(self) -> None:
        """Close the file; the iterator ends."""
        self.give([])
        self._chunks.close()


def read_document(
    source: Location | Source,
    identity: str,
    collection: str | None = None,
    **options: Unpack[ReadKeywords],
) -> dict[Any, Any]:
    """Read one document of a file; see :func:`godb_arrow.read_document`."""

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
    """List the collections of a file; see :func:`godb_arrow.list_collections`."""
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
