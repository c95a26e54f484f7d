"""Decoder of a body whose pieces of documents are decoded elsewhere.

All pieces in order are the same bytes as the body, up to the records at its end. A piece has whole
sequences of an LZ4 block, or whole frames, and refers to no bytes before itself. Each piece begins
where the one before ends. So a program that decodes each piece, and finds its size right, has
decoded the same bytes as a reader of the whole body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from godb_arrow.codec.compression import Compression
from godb_arrow.codec.reference.lz4 import Piece
from godb_arrow.errors import CorruptFile
from godb_arrow.file.piece_index import PieceIndex
from godb_arrow.file.piece_window import PieceReader

__all__ = ["PiecewiseDecoder"]

_MAX_REPEATED_BYTES = 1 << 20  # literals before the end that are decoded twice
_MAX_PIECE_BYTES = 64 << 20  # of a piece without documents


class PiecewiseDecoder:
    """Decoder of a body, except of its documents.

    The output stops before pieces of documents, until the caller says that it decoded them.

    Parameters
    ----------
    index : PieceIndex
        Index of the pieces.
    stream : binary file
        The file, which another reader of the body does not use.
    block_start : int
        Offset of the body in the stream.
    file_size : int or None
        Size of the file in bytes, if it is known.
    compression : Compression
        Compression of the body.

    Raises
    ------
    CorruptFile
        A file cannot have such pieces.
    """

    def __init__(
        self,
        index: PieceIndex,
        stream: BinaryIO,
        block_start: int,
        file_size: int | None,
        compression: Compression,
    ) -> None:
        places = index.places(block_start, file_size, compression)
        if places is None or not places[0]:
            raise _misplaced(block_start)
        self._pieces, self._behind = places
        self._documents = [False] * len(self._pieces)
        for first, count in index.collections.values():
            self._documents[first : first + count] = [True] * count
        self._reader = PieceReader(stream)
        self._block_start = block_start
        self._compression = compression
        self._next = 0  # piece
        self._left = memoryview(b"")  # decoded bytes of a piece that the buffer had no room for
        self._rest = _Rest(compression, self._pieces[-1], block_start)

    def skip(self, first: int, count: int) -> None:
        """Continue after pieces of documents, which the caller decoded.

        Raises
        ------
        CorruptFile
            These pieces are not the next ones.
        """
        if self._left or first != self._next:
            raise _misplaced(self._block_start)
        self._next += count

    def fill(
        self, buffer: memoryview, start: int, end: int, limit: int, fetch: Callable[[], bytes]
    ) -> int:
        """Decode into a buffer; see :class:`godb_arrow.codec.filling.FillingDecoder`."""
        while end < limit and (self._left or self._next < len(self._pieces)):
            if not self._left:
                if self._documents[self._next]:
                    return end
                self._left = memoryview(self._decoded(self._next))
                self._next += 1
            count = min(limit - end, len(self._left))
            buffer[end : end + count] = self._left[:count]
            self._left = self._left[count:]
            end += count
        return self._rest.fill(buffer, start, end, limit, fetch) if end < limit else end

    def _decoded(self, index: int) -> bytes:
        piece = self._pieces[index]
        if piece.size > _MAX_PIECE_BYTES:
            raise _misplaced(piece.at)
        window = self._reader.read([piece], self._behind[index])
        return self._compression.decode_pieces(window.data, window.pieces)


class _Rest:
    """Decoder of the body after the last piece, which refers to no bytes before."""

    def __init__(self, compression: Compression, last: Piece, block_start: int) -> None:
        self._decoder = compression.decoder()
        self._unread = last.at + last.length - block_start  # bytes of the pieces
        self._repeated = last.tail + (0 if last.length else last.skip)
        self._count = 0  # of decoded bytes
        self._input = b""
        if self._repeated > _MAX_REPEATED_BYTES:
            raise _misplaced(last.at)

    def fill(
        self, buffer: memoryview, start: int, end: int, limit: int, fetch: Callable[[], bytes]
    ) -> int:
        def more() -> bytes:
            data, self._input = self._input or fetch(), b""
            return data

        while self._unread:
            data = fetch()
            if not data:
                raise _misplaced(0)
            used = min(self._unread, len(data))
            self._unread -= used
            self._input = data[used:]
        if self._repeated:  # The last piece ends with literals of the first sequence.
            scratch = memoryview(bytearray(self._repeated))
            if self._decoder.fill(scratch, 0, 0, self._repeated, more) < self._repeated:
                raise _misplaced(0)
            self._repeated = 0
        before = end
        end = self._decoder.fill(buffer, max(start, end - self._count), end, limit, more)
        self._count += end - before
        return end


def _misplaced(at: int) -> CorruptFile:
    return CorruptFile("the index of pieces does not fit", offset=at, where="file")
