"""Bodies of zstd frames and stored bytes, instead of an LZ4 block.

Such a body is a row of zstd frames, and then bytes that are stored uncompressed, or only these.
Neither a MessagePack map nor the top-level keys at its end begin with the four bytes of a zstd
frame. Each frame declares how many bytes it decodes to. The number is limited, so that memory is
bounded for any file.

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
_FRAME_BYTES = 4 << 20  # max bytes that a frame decodes to
_MAX_FRAME_BYTES = _FRAME_BYTES + (64 << 10)  # max bytes of the frame itself
_MAX_HEAD_BYTES = 18
_RLE, _RESERVED = 1, 3


class _Frame(NamedTuple):
    length: int
    size: int


def _cut_off(at: int) -> CorruptFile:
    return CorruptFile("the file ends inside a zstd frame", offset=at, where="file")


def _bad_frame(at: int, problem: str) -> CorruptFile:
    return CorruptFile(f"a zstd frame {problem}", offset=at, where="file")


def _frame_at(data: bytes, start: int, at: int) -> _Frame | None:
    """Return the frame at `start`, or None if more bytes are needed; errors name offset `at`."""
    if len(data) < start + 5:
        return None
    descriptor = data[start + 4]
    size_flag, single = descriptor >> 6, descriptor >> 5 & 1
    if descriptor & 0b1011:
        raise _bad_frame(at, "needs a dictionary, or is of another kind")
    position = start + 5 + (not single)
    width = 1 << size_flag if size_flag or single else 0
    if not width:
        raise _bad_frame(at, "does not declare how many bytes it decodes to")
    if len(data) < position + width:
        return None
    size = int.from_bytes(data[position : position + width], "little") + (256 * (width == 2))
    if size > _FRAME_BYTES:
        raise _bad_frame(at, f"claims {size} bytes; at most {_FRAME_BYTES} are allowed")
    position += width
    last = False
    while not last:
        if position - start > _MAX_FRAME_BYTES:
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
        decompressed: bytes = pa.decompress(
            pa.py_buffer(data).slice(start, frame.length), frame.size, "zstd", asbytes=True
        )
    except (pa.ArrowException, OSError) as error:
        raise _bad_frame(at, "is damaged") from error
    return decompressed


class FrameDecoder:
    """Decoder of a body of zstd frames and stored bytes, fed in pieces.

    Parameters
    ----------
    stored : bool
        Whether the body has no frames.

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
        """Return the next bytes, or none at the end."""
        while not self._stored:
            begins = self._input[:4]
            if begins == _MAGIC:
                frame = _frame_at(self._input, 0, self._position)
                if frame is not None:
                    output = _decompress(self._input, 0, frame, self._position)
                    self._input = self._input[frame.length :]
                    self._position += frame.length
                    if output:
                        return output
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
        output, self._input = self._input or fetch(), b""
        self._position += len(output)
        return output


def compress_frames(content: bytes, *_: object) -> tuple[bytes, bytes]:
    """Compress a piece to zstd frames, with no literals after them."""
    codec = pa.Codec("zstd", compression_level=_LEVEL)
    parts = (content[at : at + _FRAME_BYTES] for at in range(0, len(content), _FRAME_BYTES))
    return b"".join(codec.compress(part, asbytes=True) for part in parts), b""


def store(content: bytes, *_: object) -> tuple[bytes, bytes]:
    """Return a piece unchanged."""
    return content, b""


def frame_parts(data: bytes | memoryview, pieces: Sequence[Piece]) -> Iterator[bytes]:
    """Yield parts of the decoded content of pieces that are zstd frames."""
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
    """Yield the content of pieces that are stored uncompressed."""
    for piece in pieces:
        is_plain = not piece.skip and not piece.tail and piece.length == piece.size
        if not is_plain or len(data) < piece.at + piece.length:
            raise damaged_piece(piece)
        yield data[piece.at : piece.at + piece.length]
