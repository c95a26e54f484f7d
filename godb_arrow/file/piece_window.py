"""Reading of consecutive pieces of a body, without the bytes of their neighbours.

In an LZ4 block, literals of neighbouring pieces are one run, as far as there is no match between
them. So documents that do not compress are one run of literals, which may be as long as the file. A
window begins at its own first literal, under a new head. The literals before are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from godb_arrow.codec.reference.lz4 import Piece, damaged_piece, extension
from godb_arrow.file.body import read_exactly
from godb_arrow.memory.buffers import COMPRESSED

__all__ = ["PieceReader", "PieceWindow"]

_MAX_SKIPPED_BYTES = 64 << 10  # literals of earlier pieces that are read with a piece
_HEAD_READ_BYTES = 8 << 10
_CONTINUED_LENGTH = 15  # nibble of a token, after which bytes of the length follow


@dataclass(frozen=True, slots=True)
class PieceWindow:
    """Compressed bytes of consecutive pieces.

    Attributes
    ----------
    data : bytes or memoryview
        The bytes.
    pieces : list of Piece
        Positions of the pieces in these bytes.
    start : int
        Offset in the file of the first piece, for errors.
    """

    data: bytes | memoryview
    pieces: list[Piece]
    start: int


class PieceReader:
    """Reader of windows, which remembers the head of the last long run of literals.

    Parameters
    ----------
    stream : binary file
        The file.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._run: tuple[int, int, int, int] | None = None  # offset, token, size of head, count

    def read(self, pieces: Sequence[Piece], behind: int, *, reuse: bool = False) -> PieceWindow:
        """Read consecutive pieces.

        Parameters
        ----------
        pieces : sequence of Piece
            Positions of the pieces in the file.
        behind : int
            Max number of literals in the sequence after the last piece.
        reuse : bool
            Whether the bytes are in a buffer that the caller releases, default False.

        Raises
        ------
        CorruptFile
            The file ends too early, or the literals of the first piece are missing.
        """
        first, last = pieces[0], pieces[-1]
        if first.skip > _MAX_SKIPPED_BYTES:
            return self._inside_run(pieces, behind, reuse)
        data = self._bytes(b"", first.at, _end_of(last, behind), reuse)
        moved = [piece._replace(at=piece.at - first.at) for piece in pieces]
        return PieceWindow(data, moved, first.at)

    def _inside_run(self, pieces: Sequence[Piece], behind: int, reuse: bool) -> PieceWindow:
        """Read pieces of which the first begins far inside of a run of literals."""
        first, last = pieces[0], pieces[-1]
        token, head_bytes, count = self._head_at(first.at)
        start = first.at + head_bytes + first.skip
        if not last.length and last.at == first.at:  # All of the pieces are literals of the run.
            own = last.skip + last.tail - first.skip
            end = start + own
        else:
            own = count - first.skip
            end = _end_of(last, behind)
        if own < 0 or first.skip + own > count or end < start:
            raise damaged_piece(first)
        head = bytes([min(own, _CONTINUED_LENGTH) << 4 | token & 15]) + extension(own)
        less = head_bytes + first.skip - len(head)
        moved = [
            piece._replace(at=piece.at - first.at - less)
            if piece.at > first.at
            else piece._replace(
                at=0,
                length=max(0, piece.length - less) if piece.length else 0,
                skip=piece.skip - first.skip,
            )
            for piece in pieces
        ]
        return PieceWindow(self._bytes(head, start, end, reuse), moved, first.at)

    def _head_at(self, at: int) -> tuple[int, int, int]:
        """Return token, size of the head, and number of literals of the run at an offset."""
        if self._run is None or self._run[0] != at:
            self._stream.seek(at)
            token = read_exactly(self._stream, 1)
            count, size, byte = token[0] >> 4 if token else 0, 1, 255
            if count == _CONTINUED_LENGTH:
                while byte == 255:
                    block = read_exactly(self._stream, _HEAD_READ_BYTES)
                    full = len(block) - len(block.lstrip(b"\xff"))
                    byte = block[full] if full < len(block) else 255 if block else 0
                    count += 255 * full + (byte if byte < 255 else 0)
                    size += full + (byte < 255)
            self._run = (at, token[0] if token else 0, size, count)
        return self._run[1:]

    def _bytes(self, head: bytes, start: int, end: int, reuse: bool) -> bytes | memoryview:
        """Return a head, and the bytes from an offset of the file up to another one."""
        self._stream.seek(start)
        readinto = getattr(self._stream, "readinto", None)
        if not reuse or readinto is None:
            return head + read_exactly(self._stream, end - start)
        size = len(head) + end - start
        view = COMPRESSED.take(size)
        view[: len(head)] = head
        filled = len(head)
        while filled < size:
            count = readinto(view[filled:])
            if not count:
                return view[:filled]
            filled += count
        return view


def _end_of(last: Piece, behind: int) -> int:
    """Return the offset after the last byte that decoding a piece may need."""
    skip = 0 if last.length else last.skip  # Sequences begin with the literals to skip.
    head = 2 + (skip + last.tail + behind) // 255
    return last.at + last.length + head + skip + last.tail
