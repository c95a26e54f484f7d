"""Compression methods of a body, and the flags that stand for them in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from godb_arrow import codec
from godb_arrow.codec import frames
from godb_arrow.codec.blocks import literal_head
from godb_arrow.codec.reference.lz4 import Piece, cut_out
from godb_arrow.errors import InvalidOption
from godb_arrow.options import CompressionName

__all__ = ["Compression", "check_compression", "compression_of"]

_GO_DB = ("go-db", "godb_arrow")

_MAX_RATIO = 10  # go-db allocates ten times the size of a body


class _Decoder(Protocol):
    def gather(self, window: bytes, count: int, fetch: Callable[[], bytes]) -> bytes: ...


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
    decoder: Callable[[], _Decoder]
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


def _lz4(name: CompressionName, *, high: bool) -> Compression:
    return Compression(
        name,
        0,
        _GO_DB,
        codec.BlockDecoder,
        lambda content: codec.compress_piece(content, _MAX_RATIO, high),
        codec.decode_pieces,
        codec.decode_pieces_into,
        cut_out,
        literal_head,
        max_expansion=255,
    )


_ALL: dict[str, Compression] = {
    scheme.name: scheme
    for scheme in (
        _lz4("lz4", high=False),
        _lz4("lz4hc", high=True),
        Compression(
            "zstd",
            1,
            _GO_DB[1:],
            frames.FrameDecoder,
            frames.compress_frames,
            *_of_parts(frames.frame_parts),
            _cut_plain,
            lambda count: b"",
            max_expansion=1 << 15,  # a zstd block of 128 KiB may take 4 bytes
        ),
        Compression(
            "none",
            2,
            _GO_DB[1:],
            lambda: frames.FrameDecoder(stored=True),
            frames.store,
            *_of_parts(frames.stored_parts),
            _cut_plain,
            lambda count: b"",
            max_expansion=1,
        ),
    )
}
_OF_FLAGS = {scheme.flags: scheme for scheme in reversed(_ALL.values())}


def check_compression(name: object) -> Compression:
    """Return the compression with a name.

    Raises
    ------
    InvalidOption
        No compression has that name.

    Examples
    --------
    >>> check_compression("zstd").readers
    ('godb_arrow',)
    """
    scheme = _ALL.get(name) if isinstance(name, str) else None
    if scheme is None:
        raise InvalidOption(
            f"compression is {name!r}", advice=f"use one of {', '.join(get_args(CompressionName))}"
        )
    return scheme


def compression_of(flags: int) -> Compression | None:
    """Return the compression for the flags of a file, or None if they are unknown.

    Examples
    --------
    >>> compression_of(0).name, compression_of(1).name, compression_of(99)
    ('lz4', 'zstd', None)
    """
    return _OF_FLAGS.get(flags)
