"""Bodies of frames and stored bytes, instead of an LZ4 block.

Such a body is a row of frames, and then bytes that are stored uncompressed, or only these. Neither
a MessagePack map nor the top-level keys at its end begin with the four bytes of a frame. Each frame
declares how many bytes it decodes to. The number is limited, so that memory is bounded for any
file.

A frame of a compression that another package adds has a head of 12 bytes. These are
``C1 47 41 58``, the compressed length, and the decoded length, both ``uint32`` little-endian. No
value of MessagePack begins with ``C1``.

The frames of zstd: RFC 8878, https://www.rfc-editor.org/rfc/rfc8878#section-3.1.1
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import pyarrow as pa

from godb_arrow.codec.filling import FillingDecoder
from godb_arrow.codec.reference.lz4 import Piece, damaged_piece
from godb_arrow.errors import CorruptFile

__all__ = [
    "ZSTD",
    "ExtensionFrames",
    "FrameDecoder",
    "Frames",
    "ZstdFrames",
    "compress_frames",
    "frame_parts",
    "store",
    "stored_parts",
]

_MAGIC = b"\x28\xb5\x2f\xfd"
_DEFAULT_LEVEL = 3
_EXTENSION_MAGIC = b"\xc1GAX"
_EXTENSION_HEAD_BYTES = 12
_FRAME_BYTES = 4 << 20  # max bytes that a frame decodes to
_MAX_FRAME_BYTES = _FRAME_BYTES + (64 << 10)  # max bytes of the frame itself
_MAX_BLOCKS = 1 << 12  # of a frame; a block may have no content
_MAX_HEAD_BYTES = 18
_RLE, _RESERVED = 1, 3


class _Frame(NamedTuple):
    length: int
    size: int


def _cut_off(at: int) -> CorruptFile:
    return CorruptFile("the file ends inside a compressed frame", offset=at, where="file")


def _bad_frame(at: int, problem: str, name: str = "zstd") -> CorruptFile:
    return CorruptFile(f"a {name} frame {problem}", offset=at, where="file")


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
    last, blocks = False, 0
    while not last:
        blocks += 1
        if blocks > _MAX_BLOCKS:
            raise _bad_frame(at, f"has more than {_MAX_BLOCKS:,} blocks")
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


class Frames(Protocol):
    """Frames of one compression.

    Attributes
    ----------
    magic : bytes
        First four bytes of each frame.
    """

    magic: bytes

    def frame_at(self, data: bytes, start: int, at: int) -> _Frame | None:
        """Return the frame at `start`, or None if more bytes are needed; errors name `at`."""
        ...

    def decompress(self, data: bytes, start: int, frame: _Frame, at: int) -> bytes:
        """Return the content of a frame."""
        ...

    def compress(self, content: bytes) -> bytes:
        """Return a frame with some content."""
        ...


class ZstdFrames:
    """Frames of zstd.

    Parameters
    ----------
    level : int, optional
        Level of zstd from 1 to 22, default 3.
    """

    magic = _MAGIC

    def __init__(self, level: int | None = None) -> None:
        self._level = level or _DEFAULT_LEVEL

    def frame_at(self, data: bytes, start: int, at: int) -> _Frame | None:
        """Return the frame at `start`, or None if more bytes are needed; errors name `at`."""
        return _frame_at(data, start, at)

    def decompress(self, data: bytes, start: int, frame: _Frame, at: int) -> bytes:
        """Return the content of a frame."""
        return _decompress(data, start, frame, at)

    def compress(self, content: bytes) -> bytes:
        """Return a frame with some content."""
        frame: bytes = pa.Codec("zstd", compression_level=self._level).compress(
            content, asbytes=True
        )
        return frame


ZSTD = ZstdFrames()


class ExtensionFrames:
    """Frames of a compression that another package adds.

    Parameters
    ----------
    name : str
        Name of the compression, for errors.
    compress : callable
        Function that compresses bytes.
    decompress : callable
        Function that decompresses bytes, given the number of bytes that it must return.

    Examples
    --------
    >>> import zlib
    >>> frames = ExtensionFrames("zlib", zlib.compress, lambda data, size: zlib.decompress(data))
    >>> frame = frames.compress(b"abc" * 99)
    >>> frames.decompress(frame, 0, frames.frame_at(frame, 0, 0), 0) == b"abc" * 99
    True
    """

    magic = _EXTENSION_MAGIC

    def __init__(
        self,
        name: str,
        compress: Callable[[bytes], bytes],
        decompress: Callable[[bytes, int], bytes],
    ) -> None:
        self._name = name
        self._compress = compress
        self._decompress = decompress

    def frame_at(self, data: bytes, start: int, at: int) -> _Frame | None:
        """Return the frame at `start`, or None if more bytes are needed; errors name `at`."""
        if len(data) < start + _EXTENSION_HEAD_BYTES:
            return None
        length = int.from_bytes(data[start + 4 : start + 8], "little")
        size = int.from_bytes(data[start + 8 : start + 12], "little")
        if size > _FRAME_BYTES or length > 2 * _MAX_FRAME_BYTES:
            raise _bad_frame(at, f"claims {max(size, length)} bytes", self._name)
        length += _EXTENSION_HEAD_BYTES
        return _Frame(length, size) if len(data) >= start + length else None

    def decompress(self, data: bytes, start: int, frame: _Frame, at: int) -> bytes:
        """Return the content of a frame."""
        try:
            content = self._decompress(
                data[start + _EXTENSION_HEAD_BYTES : start + frame.length], frame.size
            )
        except Exception as error:  # Another package may raise anything for damaged bytes.
            raise _bad_frame(at, f"is damaged: {error}", self._name) from error
        if len(content) != frame.size:
            raise _bad_frame(at, f"decodes to {len(content)} bytes, not {frame.size}", self._name)
        return bytes(content)

    def compress(self, content: bytes) -> bytes:
        """Return a frame with some content."""
        packed = self._compress(content)
        lengths = len(packed).to_bytes(4, "little") + len(content).to_bytes(4, "little")
        return self.magic + lengths + packed


class FrameDecoder(FillingDecoder):
    """Decoder of a body of frames and stored bytes, fed in pieces.

    Parameters
    ----------
    frames : Frames or None
        Kind of the frames; None if the body has no frames.

    Examples
    --------
    >>> decoder = FrameDecoder(ZSTD)
    >>> body = iter([ZSTD.compress(b"abc" * 9), b"def"])
    >>> buffer = memoryview(bytearray(99))
    >>> end = decoder.fill(buffer, 0, 0, 99, lambda: next(body, b""))
    >>> bytes(buffer[:end])
    b'abcabcabcabcabcabcabcabcabcdef'
    """

    def __init__(self, frames: Frames | None) -> None:
        super().__init__()
        self._frames = frames
        self._input = b""
        self._position = 0  # bytes of the body before the input

    def _next(self, fetch: Callable[[], bytes]) -> bytes:
        while self._frames is not None:
            begins = self._input[:4]
            if begins == self._frames.magic:
                frame = self._frames.frame_at(self._input, 0, self._position)
                if frame is not None:
                    output = self._frames.decompress(self._input, 0, frame, self._position)
                    self._input = self._input[frame.length :]
                    self._position += frame.length
                    if output:
                        return output
                    continue
            elif len(begins) == 4:
                break
            more = fetch()
            if not more:
                if begins == self._frames.magic:
                    raise _cut_off(self._position)
                break
            self._input += more
        self._frames = None
        output, self._input = self._input or fetch(), b""
        self._position += len(output)
        return output


def compress_frames(frames: Frames) -> Callable[..., tuple[bytes, bytes]]:
    """Return a function that compresses a piece to frames, with no literals after them."""

    def compress(content: bytes, *_: object) -> tuple[bytes, bytes]:
        parts = (content[at : at + _FRAME_BYTES] for at in range(0, len(content), _FRAME_BYTES))
        return b"".join(map(frames.compress, parts)), b""

    return compress


def store(content: bytes, *_: object) -> tuple[bytes, bytes]:
    """Return a piece unchanged."""
    return content, b""


def frame_parts(
    frames: Frames,
) -> Callable[[bytes | memoryview, Sequence[Piece]], Iterator[bytes]]:
    """Return a function that yields parts of the decoded content of pieces that are frames."""

    def parts(data: bytes | memoryview, pieces: Sequence[Piece]) -> Iterator[bytes]:
        data = bytes(data)
        for piece in pieces:
            yield from _decode_frames(frames, data, piece)

    return parts


def _decode_frames(frames: Frames, data: bytes, piece: Piece) -> Iterator[bytes]:
    at, end, left = piece.at, piece.at + piece.length, piece.size
    while at < end:
        is_frame = data[at : at + 4] == frames.magic
        frame = frames.frame_at(data, at, at) if is_frame else None
        if frame is None or frame.length > end - at or frame.size > left:
            raise damaged_piece(piece)
        yield frames.decompress(data, at, frame, at)
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
