"""Locating a collection in a GODB file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.runs import Run
from godb_arrow.errors import (
    CollectionNotFound,
    CollectionRequired,
    CorruptFile,
    error_context,
)
from godb_arrow.file.checked import EXACT_BYTES, checked_records, chosen_pieces
from godb_arrow.file.format import TAIL_SIZE, is_sealed, read_header
from godb_arrow.file.hints import CollectionHint, read_hints
from godb_arrow.file.piece_index import read_piece_index
from godb_arrow.file.pieces import CollectionPieces
from godb_arrow.file.reader import CollectionSection, GodbReader, ValueSection
from godb_arrow.options import ReadOptions
from godb_arrow.parallel import available_cores, ordered_map
from godb_arrow.query.contradiction import contradiction
from godb_arrow.query.projection import Projection
from godb_arrow.query.statistics import Row
from godb_arrow.schema import (
    DocumentSummary,
    has_json,
    infer_schema,
    is_partial,
    needs_review,
    reviewed,
    rounded_fields,
)
from godb_arrow.storage.source import Location, Source, open_source

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["StoredCollection", "join_summary", "locate"]


_Result = TypeVar("_Result")

_SMALL_FILE_BYTES = 256 << 10
_MAX_MAPPED_BYTES = 4 << 20  # of a run that is worked on as a whole
_GUESSED_DOCUMENTS = 4096  # whose schema others are expected to have
_MAX_CACHED_BYTES = 512 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredCollection:
    """Collection in a file, located for reading.

    Attributes
    ----------
    source : Source
        The file.
    name : str
        Name of the collection in the file.
    count : int
        Number of documents.
    hint : CollectionHint or None
        Hint that the file records.
    options : ReadOptions
        Options for reading.
    opened : Source or None
        The file, if it was opened for this object only (see :meth:`close`).
    """

    source: Source
    name: str
    count: int
    hint: CollectionHint | None
    options: ReadOptions
    opened: Source | None = None
    _found: dict[str, CollectionPieces | None] = field(default_factory=dict)

    def close(self) -> None:
        """Close the file, if it was opened for this object only."""
        if self.opened is not None:
            self.opened.close()

    def without_records(self) -> StoredCollection:
        """Return the collection without what the file records of its documents.

        What it records of a data directory and its journal is kept.
        """
        hint = self.hint
        if hint is not None:
            hint = replace(hint, recorded=None, size=None, next_id=None)
        return replace(self, hint=hint, _found={self.name: None})

    def entries(self, fields: tuple[str, ...] = ()) -> Iterator[codec.Entries]:
        """Yield the documents in runs, which are read ahead where threads help."""
        return ordered_map(Run.loaded, self.runs(fields), self.ahead())

    def map_entries(self, function: Callable[[codec.Entries], _Result]) -> Iterator[_Result]:
        """Apply a function to the documents in short runs, and yield the results in order.

        The thread that loads a run works on it, while it is in the cache of the thread's core.
        """
        pieces = self.pieces()
        if pieces is None or pieces.largest > _MAX_MAPPED_BYTES:
            short = (part for entries in self.entries() for part in entries.split())
            return ordered_map(function, short, self.threads())
        return ordered_map(lambda run: function(run.load()), self.runs(), self.threads())

    def ahead(self) -> int:
        """Return the number of threads that help with loading runs and nothing else."""
        pieces = self.pieces()
        return self.threads() if pieces is not None and self._fits(pieces) else 1

    def _fits(self, pieces: CollectionPieces) -> bool:
        """Return whether no piece has more bytes than a batch may have."""
        return pieces.largest <= self.options.batch_bytes

    def runs(
        self,
        fields: tuple[str, ...] = (),
        wanted: Sequence[bool] | None = None,
        *,
        unscanned: bool = False,
    ) -> Iterator[Run]:
        """Yield the documents in runs, which the caller loads.

        Everything is checked by the end of the iteration at the latest. The positions of values of
        `fields` are recorded for a caller that decodes these first. Pieces that are not `wanted`
        are skipped. A caller that decodes documents `unscanned` gets them without their bounds
        where that is faster.
        """
        with error_context("read", self.source.name, self.name), self.source.open() as stream:
            pieces = self.pieces()
            if pieces is not None and (wanted is not None or self._fits(pieces)):
                yield from pieces.read(stream, self.options, fields, wanted)
                return
            reader = GodbReader(stream, self.source.size())
            for section in reader.sections():
                if isinstance(section, CollectionSection) and section.name == self.name:
                    if section.count != self.count:
                        raise CorruptFile(
                            f"the collection has {section.count} documents, but the file records "
                            f"{self.count}",
                            offset=reader.offset,
                        )
                    counted = unscanned and codec.BACKEND == "native"
                    yield from section.runs(self.options, fields, unscanned=counted)

    def pieces_with(self, rows: npt.NDArray[np.int64]) -> Sequence[bool] | None:
        """Return which pieces have any of some rows, or None if it is unknown."""
        pieces = self.pieces()
        return None if pieces is None else pieces.with_rows(rows)

    def pieces_matching(self, projection: Projection) -> Sequence[bool] | None:
        """Return which pieces may have documents that match a filter, or None for all."""
        if projection.condition is None:
            return None
        pieces = self.pieces()
        if pieces is None:
            return None
        with error_context("read", self.source.name, self.name), self.source.open() as stream:
            found = pieces.matching(projection, stream)
        return None if found is None or all(found) else found

    def contradiction(self, row: Row) -> str | None:
        """Compare statistics of all documents with some of these, and return one that is wrong.

        All pieces are compared if they are small, else a random one.
        """
        pieces = self.pieces()
        wanted = None
        if pieces is not None:
            sizes = [piece.size for piece in pieces.pieces]
            chosen = chosen_pieces(range(len(sizes)), sizes)
            wanted = [index in chosen for index in range(len(sizes))]
        found = (contradiction(row, run.load()) for run in self.runs(wanted=wanted))
        return next((wrong for wrong in found if wrong is not None), None)

    def index_run(self, field: str) -> bytes | None:
        """Return the stored run of an index.

        None if there is none, or a damaged one. The index of a small collection is built from its
        documents instead.
        """
        pieces = self.pieces()
        if pieces is None or field not in pieces.runs or pieces.size <= EXACT_BYTES:
            return None
        with self.source.open() as stream:
            return pieces.read_run(stream, field)

    def pieces(self) -> CollectionPieces | None:
        """Return the pieces, or None if the file has no valid index of them."""
        if self.hint is None:  # The file has no hints, or they are not trusted.
            return None
        if self.name not in self._found:
            self._found[self.name] = self._find_pieces()
        return self._found[self.name]

    def _find_pieces(self) -> CollectionPieces | None:
        size = self.source.size()
        if size is not None and size < _SMALL_FILE_BYTES:
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
                logger.warning("%s: ignoring the index of pieces, which is wrong", self.source.name)
                return None
        return replace(pieces, checked=checked_records(self.source, self.name))

    def threads(self) -> int:
        """Return the number of threads that help with decoding."""
        if codec.BACKEND == "reference":
            return 1  # The reference codec holds the GIL.
        size = self.source.size()
        if size is not None and size < _SMALL_FILE_BYTES:
            return 1
        return self.options.threads or available_cores()

    def schema(self, kept: KeptEntries | None = None) -> pa.Schema:
        """Return the recorded schema, or infer it from the documents."""
        recorded = None if self.hint is None else self.hint.schema
        if recorded is not None and not needs_review(recorded):
            return recorded
        summary = DocumentSummary()
        seen = 0

        def infer(run: Run) -> tuple[codec.Entries, DocumentSummary]:
            entries, own = run.load(), DocumentSummary()
            codec.infer(entries, own)
            return entries, own

        with error_context("read", self.source.name, self.name):
            for entries, own in ordered_map(infer, self.runs(), self.threads()):
                join_summary(summary, own, entries)
                seen += len(entries)
                if kept is not None and self.options.sample is None:
                    kept.add(entries)
                if self.options.sample is not None and seen >= self.options.sample:
                    break
            if recorded is not None:
                return reviewed(recorded, summary)
            return infer_schema(summary, self.options.on_conflict)

    def guessed_schema(self) -> pa.Schema | None:
        """Infer the schema of the first documents, which others are expected to have.

        Returns
        -------
        pyarrow.Schema or None
            None where all documents have to be inspected, or where a schema is recorded.
        """
        is_recorded = self.hint is not None and self.hint.schema is not None
        if is_recorded or self.options.sample is not None or self.count <= _GUESSED_DOCUMENTS:
            return None
        options = replace(self.options, batch_size=min(self.options.batch_size, _GUESSED_DOCUMENTS))
        summary = DocumentSummary()
        with error_context("read", self.source.name, self.name):
            runs = replace(self, options=options).runs()
            for run in islice(runs, 1):
                codec.infer(run.load(), summary)
        schema = infer_schema(summary)
        return schema if _can_be_guessed(schema) else None


def _can_be_guessed(schema: pa.Schema) -> bool:
    """Return whether documents that fit an inferred schema exactly do not change it.

    JSON text does not tell the kinds of its values. In a field with rounded values all values are
    read as they are rounded, which tells their kinds only of a field without others inside.
    """
    rounded = rounded_fields(schema)
    return not is_partial(schema) and all(
        not has_json(field.type) and not (field.name in rounded and pa.types.is_nested(field.type))
        for field in schema
    )


def join_summary(summary: DocumentSummary, own: DocumentSummary, entries: codec.Entries) -> None:
    """Merge the summary of some entries into the summary of earlier ones.

    If their own summary lacks fields, the entries are summarized again.
    """
    if own.is_partial:
        codec.infer(entries, summary)
    else:
        summary.merge(own)


class KeptEntries:
    """Decompressed documents that are cached for a second reading, up to a limit."""

    def __init__(self) -> None:
        self.entries: list[codec.Entries] = []
        self._room = _MAX_CACHED_BYTES

    def add(self, entries: codec.Entries) -> None:
        self._room -= len(entries.data)
        if self._room >= 0:
            self.entries.append(entries)
        else:
            self.entries.clear()

    def take(self) -> Iterator[codec.Entries] | None:
        """Yield the documents and release each run, or return None if they are too many."""
        if self._room < 0 or not self.entries:
            return None
        runs = iter(self.entries)
        self.entries = []
        return runs


def locate(
    location: Location | Source, collection: str | None, options: ReadOptions
) -> StoredCollection:
    """Find a collection in a file, reading only the beginning of a file with hints.

    Parameters
    ----------
    location : path, URL, bytes, open binary file or Source
        The file.
    collection : str or None
        Name of the collection; None if the file has only one.
    options : ReadOptions
        Options for reading.

    Returns
    -------
    StoredCollection
        Location of the collection. A local file is open until :meth:`StoredCollection.close`, so
        that all reads see the same file.

    Raises
    ------
    CollectionNotFound, CollectionRequired, FormatError, StorageError
    """
    source = open_source(location)
    with error_context("read", source.name, collection):
        held = source.held()
        if held is source:
            return _locate(source, collection, options)
        try:
            return replace(_locate(held, collection, options), opened=held)
        except BaseException:
            held.close()
            raise


def _locate(source: Source, collection: str | None, options: ReadOptions) -> StoredCollection:
    counts: dict[str, int] = {}
    hints: dict[str, CollectionHint] = {}
    trusted = options.use_hints and is_sealed(source.tail(TAIL_SIZE))
    with source.open() as stream:
        for section in GodbReader(stream, source.size()).sections():
            if isinstance(section, ValueSection):
                if section.key == "metadata" and trusted:
                    hints = read_hints(section.read())
                    if len(hints) > 1:  # The collection may begin far from the file's beginning.
                        name = _choose(list(hints), collection)
                        hint = hints[name]
                        return StoredCollection(source, name, hint.count, hint, options)
            elif section.name == collection or (collection is None and section.siblings == 1):
                recorded = hints.get(section.name)
                if recorded is not None and recorded.count != section.count:
                    logger.warning("%s: ignoring its hints, which are wrong", source.name)
                    recorded = None
                return StoredCollection(source, section.name, section.count, recorded, options)
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
        f"the file has {len(names)} collections", advice=f"give one of the names {shown}"
    )
