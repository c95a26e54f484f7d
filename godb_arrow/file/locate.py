"""Locating a collection in a GODB file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.runs import Run
from godb_arrow.errors import (
    CollectionNotFound,
    CollectionRequired,
    CorruptFile,
    error_context,
)
from godb_arrow.file.format import TAIL_SIZE, is_sealed, read_header
from godb_arrow.file.hints import CollectionHint, read_hints
from godb_arrow.file.piece_index import read_piece_index
from godb_arrow.file.pieces import CollectionPieces
from godb_arrow.file.reader import CollectionSection, GodbReader, ValueSection
from godb_arrow.options import ReadOptions
from godb_arrow.parallel import available_cores, ordered_map
from godb_arrow.query.projection import Projection
from godb_arrow.schema import DocumentSummary, infer_schema
from godb_arrow.storage.source import Location, Source, open_source

__all__ = ["StoredCollection", "join_summary", "locate"]


_SMALL_FILE = 256 << 10
_MAX_KEPT = 512 << 20

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
    opened : Source or None
        The file, where it was opened for this object only: see :meth:`close`.
    """

    source: Source
    name: str
    count: int
    hint: CollectionHint | None
    options: ReadOptions
    opened: Source | None = None
    _found: dict[str, CollectionPieces | None] = field(default_factory=dict)

    def close(self) -> None:
        """Close the file, where it was opened for this object only."""
        if self.opened is not None:
            self.opened.close()

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
                    if section.count != self.count:
                        raise CorruptFile(
                            f"the collection has {section.count} documents; the file records "
                            f"{self.count}",
                            offset=reader.offset,
                        )
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
                join_summary(summary, found, entries)
                seen += len(entries)
                if kept is not None and self.options.sample is None:
                    kept.add(entries)
                if self.options.sample is not None and seen >= self.options.sample:
                    break
            return infer_schema(summary, self.options.on_conflict)


def join_summary(summary: DocumentSummary, found: DocumentSummary, entries: codec.Entries) -> None:
    """Join what was found of entries alone into the summary of those before and these.

    Of more fields than are kept, the summary decides which.
    """
    if found.is_partial:
        codec.infer(entries, summary)
    else:
        summary.merge(found)


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
        A local path is open until :meth:`StoredCollection.close`, so that all reads see one file.

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
                    if len(hints) > 1:  # the collection may be far from the file's front
                        name = _choose(list(hints), collection)
                        hint = hints[name]
                        return StoredCollection(source, name, hint.count, hint, options)
            elif section.name == collection or (collection is None and section.siblings == 1):
                recorded = hints.get(section.name)
                if recorded is not None and recorded.count != section.count:
                    logger.warning("%s: its hints are wrong; not used", source.name)
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
        f"the file has {len(names)} collections", advice=f"name one of them: {shown}"
    )
