"""Bodies that are no LZ4 block: zstd frames, or bytes as they are.

Such a body is zstd frames, one behind the other, and then bytes that are stored as they are: what
follows the last frame, or everything. A MessagePack map, or the top-level keys that stand at its
end, never begin with the four bytes that a zstd frame does. Each frame says how many bytes it
decodes to, and these are few, so that memory is bounded whatever a file claims.

The frames: RFC 8878, https://www.rfc-editor.org/rfc/rfc8878#section-3.1.1
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from godb_arrow.codec.reference.lz4 import Piece, damaged_piece
from godb_arrow.errors import CorruptFile

__all__ = [
    "FrameDecoder",
    "compress_frames",
    "frame_parts",
    "store",
    "stored_parts",
]

_MAGIC = b"\x28\xb5\x2f\xfd"
_LEVEL = 3
_FRAME = 4 << 20  # bytes that a frame decodes to, at most
_MOST_FRAME = _FRAME + (64 << 10)  # and that it has, at most
_MOST_HEAD = 18
_RLE, _RESERVED = 1, 3


class _Frame(NamedTuple):
    length: int
    size: int


def _cut_off(at: int) -> CorruptFile:
    return CorruptFile("the file ends inside a zstd frame", offset=at, where="file")


def _bad_frame(at: int, problem: str) -> CorruptFile:
    return CorruptFile(f"a zstd frame {problem}", offset=at, where="file")


def _frame_at(data: bytes, start: int, at: int) -> _Frame | None:
    """The frame that begins at `start`; None where more bytes are needed. Errors say `at`."""
    if len(data) < start + 5:
        return None
    descriptor = data[start + 4]
    size_flag, single = descriptor >> 6, descriptor >> 5 & 1
    if descriptor & 0b1011:
        raise _bad_frame(at, "needs a dictionary, or is of another kind")
    position = start + 5 + (not single)
    width = 1 << size_flag if size_flag or single else 0
    if not width:
        raise _bad_frame(at, "does not say how many bytes it decodes to")
    if len(data) < position + width:
        return None
    size = int.from_bytes(data[position : position + width], "little") + (256 * (width == 2))
    if size > _FRAME:
        raise _bad_frame(at, f"claims {size} bytes; at most {_FRAME} are allowed")
    position += width
    last = False
    while not last:
        if position - start > _MOST_FRAME:
            raise _bad_frame(at, "has no end")
        if len(data) < position + 3:
            return None
        head = int.from_bytes(data[position : position + 3], "little")
        last, kind = bool(head & 1), head >> 1 & 3
        if kind == _RESERVED:
            raise _bad_frame(at, "has a block of an unknown kind")
        position += 3 + (1 if kind == _RLE else head >> 3)
    position += 4 * (descriptor >> 2 & 1)
    return _Frame(position - start, size) if len(data) >= position else None


def _decompress(data: bytes, start: int, frame: _Frame, at: int) -> bytes:
    if not frame.size:
        return b""
    try:
        found: bytes = pa.decompress(
            pa.py_buffer(data).slice(start, frame.length), frame.size, "zstd", asbytes=True
        )
    except (pa.ArrowException, OSError) as error:
        raise _bad_frame(at, "is damaged") from error
    return found


class FrameDecoder:
    """Decode a body of zstd frames and stored bytes, given in pieces.

    Parameters
    ----------
    stored : bool
        Whether there are no frames at all.

    Examples
    --------
    >>> decoder = FrameDecoder()
    >>> body = iter([compress_frames(b"abc" * 9)[0], b"def"])
    >>> decoder.gather(b"", 99, lambda: next(body, b""))
    b'abcabcabcabcabcabcabcabcabcdef'
    """

    def __init__(self, *, stored: bool = False) -> None:
        self._stored = stored
        self._input = b""
        self._position = 0  # bytes of the body before the input

    def gather(self, window: bytes, count: int, fetch: Callable[[], bytes]) -> bytes:
        """Add at least `count` decoded bytes to a window, unless the body ends."""
        parts = [window]
        while count > 0:
            part = self._next(fetch)
            if not part:
                break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _next(self, fetch: Callable[[], bytes]) -> bytes:
        """The next bytes; none at the end."""
        while not self._stored:
            begins = self._input[:4]
            if begins == _MAGIC:
                frame = _frame_at(self._input, 0, self._position)
                if frame is not None:
                    found = _decompress(self._input, 0, frame, self._position)
                    self._input = self._input[frame.length :]
                    self._position += frame.length
                    if found:
                        return found
                    continue
            elif len(begins) == 4:
                break
            more = fetch()
            if not more:
                if begins == _MAGIC:
                    raise _cut_off(self._position)
                break
            self._input += more
        self._stored = True
        found, self._input = self._input or fetch(), b""
        self._position += len(found)
        return found


def compress_frames(content: bytes, *_: object) -> tuple[bytes, bytes]:
    """Compress a piece to zstd frames; there are no literals behind them."""
    codec = pa.Codec("zstd", compression_level=_LEVEL)
    parts = (content[at : at + _FRAME] for at in range(0, len(content), _FRAME))
    return b"".join(codec.compress(part, asbytes=True) for part in parts), b""


def store(content: bytes, *_: object) -> tuple[bytes, bytes]:
    """A piece as it is."""
    return content, b""


def frame_parts(data: bytes | memoryview, pieces: Sequence[Piece]) -> Iterator[bytes]:
    """What pieces that are zstd frames decode to, in parts."""
    data = bytes(data)
    for piece in pieces:
        yield from _decode_frames(data, piece)


def _decode_frames(data: bytes, piece: Piece) -> Iterator[bytes]:
    at, end, left = piece.at, piece.at + piece.length, piece.size
    while at < end:
        frame = _frame_at(data, at, at) if data[at : at + 4] == _MAGIC else None
        if frame is None or frame.length > end - at or frame.size > left:
            raise damaged_piece(piece)
        yield _decompress(data, at, frame, at)
        at += frame.length
        left -= frame.size
    if left or piece.skip or piece.tail:
        raise damaged_piece(piece)


def stored_parts(data: bytes | memoryview, pieces: Sequence[Piece]) -> Iterator[bytes | memoryview]:
    """Pieces that are as they were."""
    for piece in pieces:
        if piece.skip or piece.tail or piece.length != piece.size or (
            len(data) < piece.at + piece.length
        ):  # fmt: skip
            raise damaged_piece(piece)
        yield data[piece.at : piece.at + piece.length]
