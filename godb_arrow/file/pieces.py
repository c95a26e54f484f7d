"""Pieces of a file, which are decompressed independently of each other.

An LZ4 block can only be decoded from its beginning. So the writer cuts it into pieces that begin
with a whole document and refer to no earlier bytes. An index at the file's end has the positions of
the pieces. Readers decode several pieces on different threads, and skip the pieces that they do not
need.

The index has the size of each piece in the file and in the body, and the number of literals after
its sequences. It also has the number of documents and a checksum. The offset of a piece is the sum
of the lengths of earlier pieces. So reading all pieces in order is the same as reading the file
from its beginning, even if the index is wrong.

Before the index are the sizes of all documents, packed for each piece. With these a reader that
needs few fields skips from document to document, and stops at the last field it needs. Sizes are
recorded only for pieces whose documents have no repeated keys, so that the first value of a field
is the valid one. A reader compares them with the documents before it uses them, and remembers it
as long as the file is open.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import msgpack
import numpy as np
import xxhash

from godb_arrow import codec
from godb_arrow.codec.compression import Compression
from godb_arrow.codec.entries import Chunk, MeasuredEntries, UnscannedEntries
from godb_arrow.codec.reference.lz4 import Piece
from godb_arrow.codec.runs import Run
from godb_arrow.errors import ChecksumMismatch, CorruptFile
from godb_arrow.file.body import read_exactly
from godb_arrow.file.checked import CheckedRecords, chosen_pieces
from godb_arrow.file.piece_window import PieceReader, PieceWindow
from godb_arrow.memory.buffers import COMPRESSED, DECODED
from godb_arrow.options import ReadOptions
from godb_arrow.query.contradiction import contradiction
from godb_arrow.query.projection import Projection
from godb_arrow.query.statistics import Row, Statistics, unpack_statistics

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["UNUSABLE", "CollectionPieces", "StoredPiece"]

logger = logging.getLogger(__name__)

_SIZES_READ_BYTES = 1 << 20  # packed sizes that are read together
_MAX_HEAD_BYTES = 64 << 20  # of the body before the first piece of a collection
Edges: TypeAlias = "npt.NDArray[np.int64]"
UNUSABLE = (KeyError, TypeError, AttributeError, ValueError, msgpack.UnpackException)


@dataclass(frozen=True, slots=True)
class CollectionPieces:
    """Pieces of one collection.

    Attributes
    ----------
    name : str
        Name of the collection.
    count : int
        Number of its documents.
    before : list of Piece
        Earlier pieces of the file.
    pieces : list of Piece
        Positions of the collection's pieces in the file.
    documents : list of int
        Number of documents of each piece.
    checksums : list of int
        XXH3-64 of each piece's bytes in the body.
    behind : list of int
        Max number of literals in the sequence after each piece.
    packed_statistics : bytes
        Packed statistics; empty if there are none.
    compression : Compression
        Compression of the pieces.
    sizes : list of int
        Offsets in the file between the packed sizes of the pieces; empty if there are none.
    runs : dict of str to tuple
        Offset in the file, length and checksum of the run of each indexed field.
    checked : CheckedRecords
        Records that were compared with the documents.
    """

    name: str
    count: int
    before: list[Piece]
    pieces: list[Piece]
    documents: list[int]
    checksums: list[int]
    behind: list[int]
    packed_statistics: bytes
    compression: Compression
    sizes: list[int] = field(default_factory=list)
    runs: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    checked: CheckedRecords = field(default_factory=CheckedRecords)

    def statistics(self) -> Statistics | None:
        """Return the statistics with a row for each piece, or None if there are none."""
        if not self.packed_statistics:
            return None
        return unpack_statistics(self.packed_statistics, len(self.pieces))

    def matching(self, projection: Projection, stream: BinaryIO) -> list[bool] | None:
        """Return which pieces may have documents that match a filter, or None for all.

        The statistics of skipped pieces are compared with documents; see
        :mod:`godb_arrow.file.checked`.
        """
        if projection.condition is None or self.checked.statistics_lie:
            return None
        statistics = self.statistics()
        if statistics is None:
            return None
        found = projection.may_match(statistics)
        skipped = [index for index, needed in enumerate(found) if not needed]
        wrong = self._lies_about(stream, statistics, skipped, projection.filtered_fields)
        if wrong is None:
            return found
        logger.warning("collection %r: statistics are wrong about %s", self.name, wrong)
        self.checked.statistics_lie = True
        return None

    def _lies_about(
        self,
        stream: BinaryIO,
        statistics: Statistics,
        skipped: Sequence[int],
        names: Collection[str],
    ) -> str | None:
        """Compare the statistics of skipped pieces with documents, and return one that is wrong."""
        known = self.checked.described
        fields = [name for name in statistics.names if name.partition(".")[0] in names]
        unknown = [one for one in skipped if not known.issuperset((one, name) for name in fields)]
        sizes = [self.pieces[index].size for index in unknown]
        is_sampled = self.checked.sampled.issuperset(fields)
        reader = PieceReader(stream)
        for index in chosen_pieces(unknown, sizes, is_sampled=is_sampled):
            bounds = ((name, statistics.bounds(name)[index]) for name in fields)
            row = {name: found for name, found in bounds if found is not None}
            piece = self.pieces[index]
            stored = StoredPiece(self, index, reader.read([piece], self.behind[index]), b"")
            wrong = contradiction(row, stored.entries())
            if wrong is not None:
                return wrong
            known.update((index, name) for name in fields)
            self.checked.sampled.update(fields)
        return None

    def read_run(self, stream: BinaryIO, field_name: str) -> bytes | None:
        """Read the run of an indexed field; return None if there is none, or a damaged one."""
        if field_name not in self.runs:
            return None
        at, size, checksum = self.runs[field_name]
        stream.seek(at)
        data = read_exactly(stream, size)
        return data if xxhash.xxh3_64_intdigest(data) == checksum else None

    @property
    def size(self) -> int:
        """Size of the documents in bytes."""
        return sum(piece.size for piece in self.pieces)

    @property
    def largest(self) -> int:
        """Size of the largest piece in bytes."""
        return max(piece.size for piece in self.pieces)

    def is_right(self, stream: BinaryIO) -> bool:
        """Return whether the collection begins at its first piece, with this number of documents.

        The bytes before a collection are its name and the number of its documents. Collections
        without documents may come before.
        """
        first = len(self.before) == 1
        expected = _packed_head(self.name, self.count)
        piece = self.before[-1]
        if piece.size > _MAX_HEAD_BYTES:
            return False
        try:
            window = PieceReader(stream).read([piece], self.pieces[0].size + self.behind[0])
            head = self.compression.decode_pieces(window.data, window.pieces)
        except CorruptFile:
            return False
        own = _after_collections_head(head) if first else head
        return own is not None and _after_empty(own, len(expected)) == expected

    def rows(self) -> list[int]:
        """Return the row of each piece's first document, followed by the number of rows."""
        return [0, *accumulate(self.documents)]

    def with_rows(self, rows: npt.NDArray[np.int64]) -> list[bool]:
        """Return which pieces have any of some rows, given in order."""
        edges = np.searchsorted(rows, self.rows())
        has_rows: list[bool] = (edges[1:] > edges[:-1]).tolist()
        return has_rows

    def read(
        self,
        stream: BinaryIO,
        options: ReadOptions,
        fields: tuple[str, ...] = (),
        wanted: Sequence[bool] | None = None,
    ) -> Iterator[Run]:
        """Read pieces in order, as many in one run as the options allow.

        Parameters
        ----------
        stream : binary file
            The file, at its beginning.
        options : ReadOptions
            Options, of which ``batch_size`` and ``batch_bytes`` limit a run.
        fields : tuple of str
            See :meth:`~godb_arrow.file.reader.CollectionSection.entries`.
        wanted : sequence of bool, optional
            Whether each piece is needed; all by default.

        Yields
        ------
        Run
            Pieces that are decompressed and checked when the run is loaded.

        Raises
        ------
        CorruptFile
            The file ends too early.
        """
        rows = self.rows()
        front = sum(piece.size for piece in self.before)
        use_sizes = bool(fields) and not self.checked.sizes_lie
        sizes = _SizeReader(stream, self.sizes if use_sizes else [])
        bases = [front, *accumulate((piece.size for piece in self.pieces), initial=front)][1:]
        reader = PieceReader(stream)
        for first, last in self._groups(options, wanted):
            packed = sizes.of(first, last)
            window = reader.read(self.pieces[first:last], self.behind[last - 1], reuse=True)
            run = _StoredRun(self, first, last, bases[first], fields, window, packed)
            count = rows[last] - rows[first]
            yield Run(rows[first], count, run.load, run.measured, run.unscanned)

    def _groups(
        self, options: ReadOptions, wanted: Sequence[bool] | None
    ) -> Iterator[tuple[int, int]]:
        first, count, size = 0, 0, 0
        for index, piece in enumerate(self.pieces):
            needed = wanted is None or wanted[index]
            more = count + self.documents[index] > options.batch_size
            if first < index and (not needed or more or size + piece.size > options.batch_bytes):
                yield first, index
                first, count, size = index, 0, 0
            if not needed:
                first = index + 1
                continue
            count += self.documents[index]
            size += piece.size
        if first < len(self.pieces):
            yield first, len(self.pieces)

    def stored(self, stream: BinaryIO) -> Iterator[StoredPiece]:
        """Read the pieces one by one, to write them to another file."""
        sizes, reader = _SizeReader(stream, self.sizes), PieceReader(stream)
        for index, piece in enumerate(self.pieces):
            window = reader.read([piece], self.behind[index])
            yield StoredPiece(self, index, window, b"".join(sizes.of(index, index + 1)))

    def _decode(self, window: PieceWindow, first: int, last: int) -> bytes:
        with _offsets_of(window):
            decoded = self.compression.decode_pieces(window.data, window.pieces)
        self._check(decoded, first, last)
        return decoded

    def _decode_into(self, window: PieceWindow, first: int, last: int, into: memoryview) -> None:
        with _offsets_of(window):
            self.compression.decode_pieces_into(memoryview(window.data), window.pieces, into)
        self._check(into, first, last)

    def sizes_hold(self, view: memoryview, edges: Edges, first: int, last: int) -> bool:
        """Return whether entries begin and end at `edges`, and have no repeated keys."""
        at, start = 0, 0
        for index in range(first, last):
            end, stop = at + self.pieces[index].size, start + self.documents[index]
            if index not in self.checked.measured:
                found = codec.measure(view[at:end], self.documents[index])
                if found is None or not np.array_equal(found, np.diff(edges[start : stop + 1])):
                    logger.warning("collection %r: ignoring sizes, which are wrong", self.name)
                    self.checked.sizes_lie = True
                    return False
                self.checked.measured.add(index)
            at, start = end, stop
        return True

    def _check(self, decoded: bytes | memoryview, first: int, last: int) -> None:
        view = memoryview(decoded)
        at = 0
        for piece, checksum in zip(
            self.pieces[first:last], self.checksums[first:last], strict=True
        ):
            if xxhash.xxh3_64_intdigest(view[at : at + piece.size]) != checksum:
                raise ChecksumMismatch(
                    "a piece does not match its checksum: the file changed after it was written",
                    offset=piece.at,
                    where="file",
                )
            at += piece.size


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """Piece in its compressed form."""

    _pieces: CollectionPieces
    _index: int
    _window: PieceWindow
    sizes: bytes  # packed sizes of the documents, as the file records them

    def __len__(self) -> int:
        return self._pieces.documents[self._index]

    def entries(self) -> codec.Entries:
        """Return the documents."""
        return _scan(0, self._pieces._decode(self._window, self._index, self._index + 1), len(self))

    def chunk(self, statistics: Row) -> Chunk:
        """Return the piece as a chunk that keeps its compressed form, after a check."""
        decoded = self._pieces._decode(self._window, self._index, self._index + 1)
        (piece,) = self._window.pieces
        documents = self._pieces.documents[self._index]
        compression = self._pieces.compression
        compressed = compression.cut_out(bytes(self._window.data), piece)
        is_right = codec.unpack_sizes([self.sizes], [documents], [piece.size]) is not None
        sizes = self.sizes if is_right else b""
        return Chunk(decoded, documents, statistics, compressed, compression.flags, sizes)


class _SizeReader:
    """Reader of the packed sizes of documents, which reads those for many pieces together."""

    def __init__(self, stream: BinaryIO, edges: Sequence[int]) -> None:
        self._stream = stream
        self._edges = edges
        self._start = 0
        self._data = b""

    def of(self, first: int, last: int) -> list[bytes]:
        """Return the packed sizes for some pieces, or an empty list if they are unknown."""
        edges = self._edges[first : last + 1]
        if not edges:
            return []
        if not self._start <= edges[0] <= edges[-1] <= self._start + len(self._data):
            self._start = edges[0]
            end = min(max(edges[-1], self._start + _SIZES_READ_BYTES), self._edges[-1])
            self._stream.seek(self._start)
            self._data = read_exactly(self._stream, end - self._start)
        at = self._start
        return [self._data[begin - at : end - at] for begin, end in pairwise(edges)]


@dataclass(frozen=True, slots=True)
class _StoredRun:
    """Consecutive pieces in their compressed form, in a buffer that is reused."""

    pieces: CollectionPieces
    first: int
    last: int
    base: int
    fields: tuple[str, ...]
    window: PieceWindow
    sizes: list[bytes]

    def load(self) -> codec.Entries:
        decoded = self.pieces._decode(self.window, self.first, self.last)
        self._release()
        return _scan(self.base, decoded, self._count(), self.fields)

    def unscanned(self) -> UnscannedEntries:
        view = self._decode()
        self._release()
        scan = partial(_scan, self.base, fields=self.fields)
        return UnscannedEntries(view, self._count(), scan, partial(DECODED.give, view))

    def measured(self) -> MeasuredEntries | None:
        pieces, indices = self.pieces, range(self.first, self.last)
        checked = pieces.checked
        # A comparison costs as much as a scan. Pieces that are read once are scanned.
        if not self.sizes or checked.sizes_lie or not checked.read_before.issuperset(indices):
            checked.read_before.update(indices)
            return None
        edges = codec.unpack_sizes(
            self.sizes, pieces.documents[self.first : self.last], self._totals()
        )
        if edges is None:
            return None
        view = self._decode()
        if not pieces.sizes_hold(view, edges, self.first, self.last):
            DECODED.give(view)
            return None
        self._release()
        release = partial(DECODED.give, view)
        return MeasuredEntries(view, edges, self.base, partial(_scan, self.base), release)

    def _release(self) -> None:
        if isinstance(self.window.data, memoryview):
            COMPRESSED.give(self.window.data)

    def _count(self) -> int:
        return sum(self.pieces.documents[self.first : self.last])

    def _totals(self) -> list[int]:
        return [piece.size for piece in self.pieces.pieces[self.first : self.last]]

    def _decode(self) -> memoryview:
        view = DECODED.take(sum(self._totals()))
        self.pieces._decode_into(self.window, self.first, self.last, view)
        return view


def _scan(
    base: int, data: bytes | memoryview, count: int, fields: tuple[str, ...] = ()
) -> codec.Entries:
    """Scan bytes that must be a given number of whole entries."""
    entries = codec.scan_entries(data, 0, count, len(data) + 1, base, fields)
    if len(entries) != count or entries.bounds[-1] != len(data):
        raise CorruptFile(
            f"the index records {count} documents here, but the file has others", offset=base
        )
    return entries


@contextmanager
def _offsets_of(window: PieceWindow) -> Iterator[None]:
    """Convert the offsets of errors in a window to offsets in the file."""
    try:
        yield
    except CorruptFile as error:
        error.offset += window.start
        raise


def _packed_head(name: str, count: int) -> bytes:
    head: bytes = msgpack.Packer().pack_map_header(count)
    return codec.pack(name) + head


def _after_collections_head(body: bytes) -> bytes | None:
    """Return the bytes after the head of the collections at a body's beginning."""
    unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape", max_buffer_size=0)
    unpacker.feed(body)
    try:
        for _ in range(unpacker.read_map_header()):
            if unpacker.unpack() == "collections":
                unpacker.read_map_header()
                return body[unpacker.tell() :]
            unpacker.skip()
    except (*UNUSABLE, msgpack.OutOfData):
        pass
    return None


def _after_empty(body: bytes, size: int) -> bytes | None:
    """Return the last bytes of a body, if only collections without documents come before."""
    unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape", max_buffer_size=0)
    unpacker.feed(body)
    try:
        while unpacker.tell() < len(body) - size:
            if not isinstance(unpacker.unpack(), str) or unpacker.read_map_header():
                return None
    except (*UNUSABLE, msgpack.OutOfData):
        return None
    return body[unpacker.tell() :]
