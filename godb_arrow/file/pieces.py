"""The pieces of a file: what can be decompressed by itself, found by an index at the file's end.

A body is one LZ4 block, which can only be decoded from its beginning. But where the writer cuts
it into pieces that begin with a whole document and refer to nothing before them, a piece can be
decoded by itself, once it is known where it is. So pieces are read on several threads at the same
time, and those that are not needed are not read at all.

The index says of each piece how many bytes of the file and of the body it has, how many literals
of it stand behind its sequences, how many documents it has, and a checksum of these. Where a
piece begins follows from those before: pieces that are read one after the other give what reading
from the beginning gives, whatever the index says.

In front of the index are the sizes of the documents, of each piece on its own. With them a reader
that looks at a few fields only goes from document to document, and not through all of each. They
are there where no document of a piece has a key twice, so that the front of one, up to a field,
says what that is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from typing import BinaryIO

import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from godb_arrow import codec
from godb_arrow.codec.compression import Compression
from godb_arrow.codec.entries import Chunk, MeasuredEntries
from godb_arrow.codec.reference.lz4 import Piece
from godb_arrow.codec.runs import Loan, Run
from godb_arrow.errors import ChecksumMismatch, CorruptFile
from godb_arrow.file.body import read_exactly
from godb_arrow.memory.buffers import COMPRESSED, DECODED
from godb_arrow.options import ReadOptions
from godb_arrow.query.statistics import Row, may_match, unpack_statistics

__all__ = ["UNUSABLE", "CollectionPieces", "StoredPiece"]

_SIZES_AT_ONCE = 1 << 20  # bytes of packed sizes that are read together
UNUSABLE = (KeyError, TypeError, AttributeError, ValueError, msgpack.UnpackException)


@dataclass(frozen=True, slots=True)
class CollectionPieces:
    """The pieces of one collection.

    Attributes
    ----------
    name : str
        The collection.
    count : int
        How many documents it has.
    before : list of Piece
        What stands in front of them in the file.
    pieces : list of Piece
        Where its pieces are in the file.
    documents : list of int
        How many documents each has.
    checksums : list of int
        The XXH3-64 of each one's bytes in the body.
    behind : list of int
        At most how many literals the sequence behind each has.
    packed_statistics : bytes
        Their statistics; empty, if there are none.
    compression : Compression
        How they are compressed.
    sizes : list of int
        Where the packed sizes of each one's documents begin in the file, and where they end; empty,
        if there are none.
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

    def statistics(self) -> pa.RecordBatch | None:
        """The statistics, a row for each piece; None where there are none."""
        if not self.packed_statistics:
            return None
        return unpack_statistics(self.packed_statistics, len(self.pieces))

    def matching(
        self, condition: pc.Expression | None, needed: Collection[str], schema: pa.Schema
    ) -> list[bool] | None:
        """Which pieces may have documents that a filter keeps; None when it could be any."""
        statistics = self.statistics() if condition is not None and needed else None
        if statistics is None:
            return None
        return may_match(statistics, condition, needed, schema)

    @property
    def largest(self) -> int:
        """Bytes of the largest piece."""
        return max(piece.size for piece in self.pieces)

    def is_right(self, stream: BinaryIO) -> bool:
        """Whether the collection begins where its first piece does, with so many documents.

        Of a collection behind others, that is seen from its name and count in front of it.
        """
        head = _packed_head(self.name, self.count)
        first = len(self.before) == 1
        piece = self.before[-1]
        if piece.size > _MAX_FRONT:
            return False
        try:
            data = _read(stream, piece, piece, self.pieces[0].size + self.behind[0])
            front = self.compression.decode_pieces(data, [piece._replace(at=0)])
        except CorruptFile:
            return False
        return _without_front(front) == head if first else front == head

    def rows(self) -> list[int]:
        """The row of each piece's first document, and how many rows there are."""
        return [0, *accumulate(self.documents)]

    def with_rows(self, rows: npt.NDArray[np.int64]) -> list[bool]:
        """Which pieces have any of some rows, given in order."""
        edges = np.searchsorted(rows, self.rows())
        found: list[bool] = (edges[1:] > edges[:-1]).tolist()
        return found

    def read(
        self,
        stream: BinaryIO,
        options: ReadOptions,
        fields: tuple[str, ...] = (),
        wanted: Sequence[bool] | None = None,
    ) -> Iterator[Run]:
        """Read pieces in order, as many at once as the options allow.

        Parameters
        ----------
        stream : binary file
            The file, at its beginning.
        options : ReadOptions
            ``batch_size`` and ``batch_bytes`` count here.
        fields : tuple of str
            As for :meth:`~godb_arrow.file.reader.CollectionSection.entries`.
        wanted : sequence of bool, optional
            Which pieces are needed; all, if left out.

        Yields
        ------
        Run
            Loading it decompresses it and checks it.

        Raises
        ------
        CorruptFile
            The file ends too early.
        """
        rows = self.rows()
        front = sum(piece.size for piece in self.before)
        sizes = _SizeReader(stream, self.sizes if fields else [])
        bases = [front, *accumulate((piece.size for piece in self.pieces), initial=front)][1:]
        for first, last in self._groups(options, wanted):
            begin, end = self.pieces[first], self.pieces[last - 1]
            packed = sizes.of(first, last)
            data = _read_into(stream, begin, end, self.behind[last - 1])
            run = _StoredRun(self, first, last, bases[first], fields, data, packed)
            yield Run(rows[first], rows[last] - rows[first], run.load, run.measured, run.lend)

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
        """Read the pieces one by one, to be written to another file."""
        sizes = _SizeReader(stream, self.sizes)
        for index, piece in enumerate(self.pieces):
            data = _read(stream, piece, piece, self.behind[index])
            yield StoredPiece(self, index, data, b"".join(sizes.of(index, index + 1)))

    def _decode(self, data: bytes | memoryview, first: int, last: int) -> bytes:
        with self._relative(first, last) as pieces:
            decoded = self.compression.decode_pieces(data, pieces)
        self._check(decoded, first, last)
        return decoded

    def _decode_into(self, data: memoryview, first: int, last: int, into: memoryview) -> None:
        with self._relative(first, last) as pieces:
            self.compression.decode_pieces_into(data, pieces, into)
        self._check(into, first, last)

    @contextmanager
    def _relative(self, first: int, last: int) -> Iterator[list[Piece]]:
        """Some pieces, counted from the first one; offsets in errors count in the file."""
        start = self.pieces[first].at
        try:
            yield [piece._replace(at=piece.at - start) for piece in self.pieces[first:last]]
        except CorruptFile as error:
            error.offset += start
            raise

    def _check(self, decoded: bytes | memoryview, first: int, last: int) -> None:
        view = memoryview(decoded)
        at = 0
        for piece, checksum in zip(
            self.pieces[first:last], self.checksums[first:last], strict=True
        ):
            if xxhash.xxh3_64_intdigest(view[at : at + piece.size]) != checksum:
                raise ChecksumMismatch(
                    "the bytes differ from those that were written: a piece's checksum is "
                    "another one",
                    offset=piece.at,
                    where="file",
                )
            at += piece.size


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """One piece, as its file has it."""

    _pieces: CollectionPieces
    _index: int
    _data: bytes
    sizes: bytes  # of its documents, packed, as the file says

    def __len__(self) -> int:
        return self._pieces.documents[self._index]

    def entries(self) -> codec.Entries:
        """Its documents."""
        return _scan(0, self._pieces._decode(self._data, self._index, self._index + 1), len(self))

    def chunk(self, statistics: Row) -> Chunk:
        """All of it, checked, as it was compressed."""
        decoded = self._pieces._decode(self._data, self._index, self._index + 1)
        piece = self._pieces.pieces[self._index]._replace(at=0)
        documents = self._pieces.documents[self._index]
        compression = self._pieces.compression
        made = compression.cut_out(self._data, piece)
        is_right = codec.unpack_sizes([self.sizes], [documents], [piece.size]) is not None
        sizes = self.sizes if is_right else b""
        return Chunk(decoded, documents, statistics, made, compression.flags, sizes)


class _SizeReader:
    """Reads the packed sizes of pieces' documents, of many pieces at once: they are elsewhere."""

    def __init__(self, stream: BinaryIO, edges: Sequence[int]) -> None:
        self._stream = stream
        self._edges = edges
        self._start = 0
        self._data = b""

    def of(self, first: int, last: int) -> list[bytes]:
        """Those of some pieces; none where they are not known."""
        edges = self._edges[first : last + 1]
        if not edges:
            return []
        if not self._start <= edges[0] <= edges[-1] <= self._start + len(self._data):
            self._start = edges[0]
            end = min(max(edges[-1], self._start + _SIZES_AT_ONCE), self._edges[-1])
            self._stream.seek(self._start)
            self._data = read_exactly(self._stream, end - self._start)
        at = self._start
        return [self._data[begin - at : end - at] for begin, end in pairwise(edges)]


_MAX_FRONT = 64 << 20


@dataclass(frozen=True, slots=True)
class _StoredRun:
    """Consecutive pieces as they were read, in memory that others use after them."""

    pieces: CollectionPieces
    first: int
    last: int
    base: int
    fields: tuple[str, ...]
    data: memoryview
    sizes: list[bytes]

    def load(self) -> codec.Entries:
        decoded = self.pieces._decode(self.data, self.first, self.last)
        COMPRESSED.give(self.data)
        return _scan(self.base, decoded, self._count(), self.fields)

    def lend(self) -> Loan:
        view = self._decode()
        entries = _scan(self.base, view, self._count(), self.fields)
        return Loan(entries, partial(DECODED.give, view))

    def measured(self) -> MeasuredEntries | None:
        counts = self.pieces.documents[self.first : self.last]
        edges = codec.unpack_sizes(self.sizes, counts, self._totals()) if self.sizes else None
        if edges is None:
            return None
        view = self._decode()
        release = partial(DECODED.give, view)
        return MeasuredEntries(view, edges, self.base, partial(_scan, self.base), release)

    def _count(self) -> int:
        return sum(self.pieces.documents[self.first : self.last])

    def _totals(self) -> list[int]:
        return [piece.size for piece in self.pieces.pieces[self.first : self.last]]

    def _decode(self) -> memoryview:
        view = DECODED.take(sum(self._totals()))
        self.pieces._decode_into(self.data, self.first, self.last, view)
        COMPRESSED.give(self.data)
        return view


def _scan(
    base: int, data: bytes | memoryview, count: int, fields: tuple[str, ...] = ()
) -> codec.Entries:
    """So many entries that are there whole."""
    entries = codec.scan_entries(data, 0, count, len(data) + 1, base, fields)
    if len(entries) != count or entries.bounds[-1] != len(data):
        raise CorruptFile(
            f"the index promises {count} documents here, and there are others", offset=base
        )
    return entries


def _read(stream: BinaryIO, first: Piece, last: Piece, behind: int) -> bytes:
    """The bytes from a piece to the end of another."""
    at, size = _extent(first, last, behind)
    stream.seek(at)
    return read_exactly(stream, size)


def _extent(first: Piece, last: Piece, behind: int) -> tuple[int, int]:
    """Where pieces begin in a file, and how many bytes they have there."""
    head = 2 + (last.skip + last.tail + behind) // 255
    return first.at, last.at - first.at + last.length + head + last.skip + last.tail


def _read_into(stream: BinaryIO, first: Piece, last: Piece, behind: int) -> memoryview:
    """The same bytes, in memory that is used again."""
    at, size = _extent(first, last, behind)
    stream.seek(at)
    readinto = getattr(stream, "readinto", None)
    if readinto is None:
        return memoryview(read_exactly(stream, size))
    view = COMPRESSED.take(size)
    filled = 0
    while filled < size:
        count = readinto(view[filled:])
        if not count:
            return view[:filled]
        filled += count
    return view


def _packed_head(name: str, count: int) -> bytes:
    head: bytes = msgpack.Packer().pack_map_header(count)
    return codec.pack(name) + head


def _without_front(body: bytes) -> bytes | None:
    """What follows the head of the collections at a body's beginning."""
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
