"""Compression methods of a body, and the flags that stand for them in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from godb_arrow import codec
from godb_arrow.codec import frames
from godb_arrow.codec.blocks import literal_head
from godb_arrow.codec.frames import Frames
from godb_arrow.codec.reference.lz4 import Piece, cut_out
from godb_arrow.errors import InvalidOption
from godb_arrow.extensions import extension, extension_names
from godb_arrow.options import COMPRESSION_GROUP, CompressionName, split_compression

__all__ = ["EXTENSION_FLAGS", "BodyDecoder", "Compression", "check_compression", "compression_of"]

_GO_DB = ("go-db", "godb_arrow")

_NAMES = ("none", "zstd", "lz4")
_NO_LEVELS = (None,) * len(_NAMES)

_MAX_RATIO = 10  # go-db allocates ten times the size of a body


class BodyDecoder(Protocol):
    """Decoder of a body from its beginning."""

    def fill(
        self, buffer: memoryview, start: int, end: int, limit: int, fetch: Callable[[], bytes]
    ) -> int:
        """Decode into a buffer; see :class:`godb_arrow.codec.filling.FillingDecoder`."""
        ...


@dataclass(frozen=True, slots=True)
class Compression:
    """Method to compress and decompress a body.

    Attributes
    ----------
    name : str
        Name of the method, as for :func:`~godb_arrow.write_godb`.
    flags : int
        Flags in the header. Methods that are decoded in the same way share them.
    readers : tuple of str
        Programs that read the file.
    decoder : callable
        Function that returns a decoder of a body from its beginning.
    compress : callable
        Function that compresses a piece; see ``compress_piece`` of the codecs.
    decode_pieces, decode_pieces_into : callable
        Functions that decode pieces, with the codecs' signatures.
    cut_out : callable
        Function that returns a piece as ``compress`` returned it.
    literal_head : callable
        Function that returns the bytes before a number of stored bytes at the end of the body.
    max_expansion : int
        Maximum ratio of the sizes of the body and the file.
    """

    name: CompressionName
    flags: int
    readers: tuple[str, ...]
    decoder: Callable[[], BodyDecoder]
    compress: Callable[[bytes], tuple[bytes, bytes]]
    decode_pieces: Callable[[bytes | memoryview, Sequence[Piece]], bytes]
    decode_pieces_into: Callable[[memoryview, Sequence[Piece], memoryview], None]
    cut_out: Callable[[bytes, Piece], tuple[bytes, bytes]]
    literal_head: Callable[[int], bytes]
    max_expansion: int


def _cut_plain(data: bytes, piece: Piece) -> tuple[bytes, bytes]:
    return data[piece.at : piece.at + piece.length], b""


def _of_parts(
    parts: Callable[[bytes | memoryview, Sequence[Piece]], Iterator[Any]],
) -> tuple[
    Callable[[bytes | memoryview, Sequence[Piece]], bytes],
    Callable[[memoryview, Sequence[Piece], memoryview], None],
]:
    """Return two functions that decode pieces, based on one that yields parts."""

    def decode_into(data: memoryview, pieces: Sequence[Piece], into: memoryview) -> None:
        at = 0
        for part in parts(data, pieces):
            into[at : at + len(part)] = part
            at += len(part)

    return lambda data, pieces: b"".join(parts(data, pieces)), decode_into


_MAX_EXPANSION_ZSTD = 1 << 15  # A zstd block of 128 KiB may take 4 bytes.
_MAX_EXPANSION_EXTENSION = 4 << 20  # A frame of 4 MiB may take a few bytes.
EXTENSION_FLAGS = range(128, 256)
"""Flags of compressions that other packages add."""


def _lz4(name: CompressionName, *, high: bool, level: int = 0) -> Compression:
    return Compression(
        name,
        0,
        _GO_DB,
        codec.BlockDecoder,
        lambda content: codec.compress_piece(content, _MAX_RATIO, high, level),
        codec.decode_pieces,
        codec.decode_pieces_into,
        cut_out,
        literal_head,
        max_expansion=255,
    )


def _framed(name: CompressionName, flags: int, kind: Frames, max_expansion: int) -> Compression:
    return Compression(
        name,
        flags,
        _GO_DB[1:],
        lambda: frames.FrameDecoder(kind),
        frames.compress_frames(kind),
        *_of_parts(frames.frame_parts(kind)),
        _cut_plain,
        lambda count: b"",
        max_expansion,
    )


def _stored() -> Compression:
    return Compression(
        "none",
        2,
        _GO_DB[1:],
        lambda: frames.FrameDecoder(None),
        frames.store,
        *_of_parts(frames.stored_parts),
        _cut_plain,
        lambda count: b"",
        max_expansion=1,
    )


def _of_extension(name: str, level: int | None, shown: CompressionName) -> Compression:
    """Return a compression that another package adds.

    Raises
    ------
    InvalidOption
        Its object lacks a function, or has flags outside of the range for extensions.
    """
    added = extension(COMPRESSION_GROUP, name)
    flags: Any = getattr(added, "flags", None)
    functions = [getattr(added, function, None) for function in ("compress", "decompress")]
    if flags not in EXTENSION_FLAGS or not all(map(callable, functions)):
        raise InvalidOption(
            f"the extension {name!r} is no compression",
            advice="it needs flags from 128 to 255, compress(data, level) and "
            "decompress(data, size)",
        )
    kind = frames.ExtensionFrames(
        name, lambda content: added.compress(content, level), added.decompress
    )
    return _framed(shown, flags, kind, _MAX_EXPANSION_EXTENSION)


@lru_cache
def _compression(name: str, level: int | None) -> Compression:
    shown = name if level is None else f"{name}:{level}"
    if name in ("lz4", "lz4hc"):
        return _lz4(shown, high=name == "lz4hc", level=level or 0)
    if name == "zstd":
        return _framed(shown, 1, frames.ZstdFrames(level), _MAX_EXPANSION_ZSTD)
    return _stored() if name == "none" else _of_extension(name, level, shown)


_OF_FLAGS = {scheme.flags: scheme for scheme in map(_compression, _NAMES, _NO_LEVELS)}


def check_compression(name: object) -> Compression:
    """Return the compression with a name, such as "zstd" or "zstd:19".

    Raises
    ------
    InvalidOption
        No compression has that name or level.

    Examples
    --------
    >>> check_compression("zstd").readers, check_compression("zstd:19").flags
    (('godb_arrow',), 1)
    """
    return _compression(*split_compression("compression", name))


def compression_of(flags: int) -> Compression | None:
    """Return the compression for the flags of a file, or None if they are unknown.

    Examples
    --------
    >>> compression_of(0).name, compression_of(1).name, compression_of(99)
    ('lz4', 'zstd', None)
    """
    if flags in EXTENSION_FLAGS:
        for name in extension_names(COMPRESSION_GROUP):
            added = _compression(name, None)
            if added.flags == flags:
                return added
    return _OF_FLAGS.get(flags)
