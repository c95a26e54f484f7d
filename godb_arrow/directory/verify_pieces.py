"""Checks of the pieces of a file and of what its index records of them, for ``verify``.

A file is first verified in one pass, which decodes each piece once, on several threads. Only a file
that is valid in every respect passes. Any other file is verified in two passes, which tell what is
wrong. The first one reads the body from its beginning, as a reader without the index does. The
second one reads the pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np
import xxhash

from godb_arrow import codec
from godb_arrow.codec.compression import Compression
from godb_arrow.directory.reports import CollectionReport, FileReport, Progress
from godb_arrow.directory.verify_entries import CheckedRun, CollectionCheck, threads_for
from godb_arrow.directory.verify_records import problems_of_index
from godb_arrow.errors import CorruptFile, FormatError
from godb_arrow.file.format import TAIL_SIZE, is_sealed, read_header
from godb_arrow.file.piece_index import PieceIndex, read_piece_index
from godb_arrow.file.pieces import CollectionPieces, StoredPiece
from godb_arrow.file.piecewise import PiecewiseDecoder
from godb_arrow.file.reader import CollectionSection
from godb_arrow.options import MAX_DOCUMENT_BYTES
from godb_arrow.parallel import ordered_map
from godb_arrow.query.contradiction import contradiction
from godb_arrow.query.statistics import Statistics, row_of
from godb_arrow.storage.source import Source

__all__ = ["OnePass", "check_pieces"]


class _CheckedPiece(NamedTuple):
    run: CheckedRun
    has_sizes: bool  # whether the recorded sizes are right
    wrong: str | None  # statistic


class OnePass:
    """Check of a file in one pass, which adds a problem or raises an error if anything is wrong.

    The problems are not those to report: two passes find these.

    Parameters
    ----------
    source : Source
        The file.
    stream : binary file
        The file, for its pieces.
    report : FileReport
        Report to complete.
    index : PieceIndex
        Index of the pieces.
    progress : callable
        Function that is called with a number of checked documents.
    """

    def __init__(
        self, stream: BinaryIO, report: FileReport, index: PieceIndex, progress: Progress
    ) -> None:
        self._stream = stream
        self._report = report
        self._index = index
        self._progress = progress
        self._compression = read_header(stream).compression
        self._origin = stream.tell()

    @classmethod
    @contextmanager
    def of(cls, source: Source, report: FileReport, progress: Progress) -> Iterator[OnePass | None]:
        """Open a file, and yield None if it has no index of pieces."""
        sealed = is_sealed(source.tail(TAIL_SIZE))
        index = read_piece_index(source.tail) if sealed else None
        if index is None:
            yield None
            return
        with source.open() as stream:
            yield cls(stream, report, index, progress)

    def decoder(self, compression: Compression) -> PiecewiseDecoder:
        """Return the decoder of the body."""
        self._decoder = PiecewiseDecoder(
            self._index, self._stream, self._origin, self._report.size, compression
        )
        return self._decoder

    def check(self, collection: CollectionReport, section: CollectionSection) -> None:
        """Check a collection of the body, which is read up to its documents."""
        check = CollectionCheck(self._report, collection, self._progress)
        if section.count:
            pieces = _find(self._index, collection, self._origin, self._report, self._compression)
            if pieces is None or not pieces.is_right(self._stream):
                raise _wrong()
            if pieces.largest > MAX_DOCUMENT_BYTES:
                raise _wrong()
            self._decoder.skip(len(pieces.before), len(pieces.pieces))
            section.follow(self._documents(pieces, collection, check))
        check.finish(_wrong_ids)

    def _documents(
        self, pieces: CollectionPieces, collection: CollectionReport, check: CollectionCheck
    ) -> Iterator[memoryview]:
        """Yield the decoded bytes of each piece, after its checks."""
        statistics = pieces.statistics()
        if statistics is None and pieces.packed_statistics:
            raise _wrong()
        runs = _IndexRuns(pieces, collection)
        checked = ordered_map(
            partial(_check_piece_once, check.plan, statistics),
            enumerate(pieces.stored(self._stream)),
            threads_for(collection.count),
        )
        for run, has_sizes, wrong in checked:
            if not has_sizes or wrong is not None:
                raise _wrong()
            check.add(run)
            if not self._report.ok:
                raise _wrong()
            runs.add(run.entries)
            yield run.entries.raw()
        runs.finish(self._report, self._stream)

    def finish(self, ending: set[str]) -> None:
        """Check the index as a whole, given the keys of the records at the end of the body."""
        names = [collection.name for collection in self._report.collections]
        for problem in problems_of_index(self._index, names, ending):
            self._report.add_problem(problem)


def _wrong() -> CorruptFile:
    return CorruptFile("the file is not valid", offset=0)


def _wrong_ids() -> NoReturn:
    raise _wrong()


def _find(
    index: PieceIndex,
    collection: CollectionReport,
    origin: int,
    report: FileReport,
    compression: Compression,
) -> CollectionPieces | None:
    return index.find(collection.name, collection.count, origin, report.size, compression)


def _check_piece_once(
    plan: codec.DecodePlan | None,
    statistics: Statistics | None,
    numbered: tuple[int, StoredPiece],
) -> _CheckedPiece:
    """Check a piece, and what the file records of it."""
    number, piece = numbered
    entries = piece.entries()
    row = None if statistics is None else row_of(statistics, number)
    run = CheckedRun.of(entries, plan, has_bounds=row is not None)
    has_sizes = not piece.sizes or (run.is_measurable and _are_edges_of(piece.sizes, entries))
    wrong = None if row is None else contradiction(row, entries, run.values)
    return _CheckedPiece(run, has_sizes, wrong)


def _are_edges_of(packed: bytes, entries: codec.Entries) -> bool:
    """Return whether packed sizes fit scanned entries, which begin at 0."""
    bounds = np.frombuffer(entries.bounds, np.int64)
    edges = codec.unpack_sizes([packed], [len(entries)], [int(bounds[-1])])
    return edges is not None and np.array_equal(edges, bounds[::2])


class _IndexRuns:
    """Check of the runs of indexed fields, which a file has for its readers."""

    def __init__(self, pieces: CollectionPieces, collection: CollectionReport) -> None:
        self._pieces = pieces
        self._collection = collection
        self._builders = {}
        if pieces.runs:
            # These import much that files without indexes do not need.
            from godb_arrow.snapshots.index_names import keys_builder

            self._builders = {name: keys_builder(name) for name in pieces.runs}

    def add(self, entries: codec.Entries) -> None:
        """Add the keys of the next documents."""
        for builder in self._builders.values():
            builder.add(entries)

    def finish(self, report: FileReport, stream: BinaryIO) -> None:
        """Compare the runs with the keys of all documents."""
        if not self._builders:
            return
        from godb_arrow.snapshots.index_names import shown_name
        from godb_arrow.snapshots.index_run import unpack_run

        where = f"collection {self._collection.name!r}"
        for name, builder in self._builders.items():
            packed = self._pieces.read_run(stream, name)
            stored = None if packed is None else unpack_run(packed, self._collection.count)
            if stored is None:
                report.add_problem(f"{where}: the {shown_name(name)} is damaged")
            elif not _has_keys(stored, builder.keys()):
                report.add_problem(f"{where}: the {shown_name(name)} leads to other documents")


def check_pieces(source: Source, report: FileReport, ending: set[str]) -> None:
    """Check that reading by pieces has the same result as reading from the beginning."""
    index = read_piece_index(source.tail) if report.sealed else None
    names = [collection.name for collection in report.collections]
    for problem in problems_of_index(index, names, ending) if report.sealed else ():
        report.add_problem(problem)
    if index is None:
        return
    with source.open() as stream:
        compression = read_header(stream).compression
        origin = stream.tell()
        for collection in report.collections:
            if not collection.count:
                continue
            where = f"collection {collection.name!r}"
            pieces = _find(index, collection, origin, report, compression)
            if pieces is None or not pieces.is_right(stream):
                report.add_problem(f"{where}: the index of pieces does not fit")
                continue
            content = xxhash.xxh3_64()
            statistics = pieces.statistics()
            if statistics is None and pieces.packed_statistics:
                report.add_problem(f"{where}: the statistics of pieces are damaged")
            runs = _IndexRuns(pieces, collection)
            try:
                checked = ordered_map(
                    partial(_check_piece, statistics),
                    enumerate(pieces.stored(stream)),
                    threads_for(collection.count),
                )
                for number, (entries, has_sizes, wrong) in enumerate(checked):
                    content.update(entries.raw())
                    runs.add(entries)
                    if not has_sizes:
                        report.add_problem(
                            f"{where}: the sizes of the documents of piece {number} are wrong"
                        )
                    if wrong is not None:
                        report.add_problem(
                            f"{where}: the statistics of piece {number} are wrong about {wrong}"
                        )
            except FormatError as error:
                report.add_problem(f"{where}: the index of pieces is wrong: {error}")
                continue
            if content.intdigest() != collection.digest:
                report.add_problem(f"{where}: the index of pieces leads to other documents")
                continue
            runs.finish(report, stream)


def _has_keys(stored: codec.SortedKeys, right: codec.SortedKeys) -> bool:
    """Return whether a stored run has the keys that the documents have."""
    return stored.arrays() == right.arrays() and stored.has_lists >= right.has_lists


def _check_piece(
    statistics: Statistics | None, numbered: tuple[int, StoredPiece]
) -> tuple[codec.Entries, bool, str | None]:
    """Return the entries of a piece, whether its sizes are right, and a wrong statistic."""
    number, piece = numbered
    entries = piece.entries()
    has_sizes = not piece.sizes or _are_sizes_of(piece.sizes, entries)
    wrong = None
    if statistics is not None:
        wrong = contradiction(row_of(statistics, number), entries)
    return entries, has_sizes, wrong


def _are_sizes_of(packed: bytes, entries: codec.Entries) -> bool:
    data = bytes(entries.raw())
    edges = codec.unpack_sizes([packed], [len(entries)], [len(data)])
    sizes = codec.measure(data, len(entries))
    return edges is not None and sizes is not None and np.array_equal(np.diff(edges), sizes)
