"""The ways in which a body is compressed, and what the flags of a file say of them."""

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


class _Decoder(Protocol):
    def gather(self, window: bytes, count: int, fetch: Callable[[], bytes]) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Compression:
    """How a body becomes the bytes of a file, and back.

    Attributes
    ----------
    name : str
        As it is given to :func:`~godb_arrow.write_godb`.
    flags : int
        What the header says. Different ways to compress may have the same: a file is read alike.
    readers : tuple of str
        Programs that read the file.
    decoder : callable
        Makes what decodes a body from its beginning.
    compress : callable
        Makes of a piece what stands in the file; see ``compress_piece`` of the codecs.
    decode_pieces, decode_pieces_into : callable
        As those of the codecs.
    cut_out : callable
        What ``compress`` made of a piece.
    literal_head : callable
        What stands before so many bytes that are stored as they are, at the end of the body.
    max_expansion : int
        A byte of the file stands for at most this many of the body.
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


_MAX_RATIO = 10  # go-db allocates ten times the size of a body


def _cut_plain(data: bytes, piece: Piece) -> tuple[bytes, bytes]:
    return data[piece.at : piece.at + piece.length], b""


def _of_parts(
    parts: Callable[[bytes | memoryview, Sequence[Piece]], Iterator[Any]],
) -> tuple[
    Callable[[bytes | memoryview, Sequence[Piece]], bytes],
    Callable[[memoryview, Sequence[Piece], memoryview], None],
]:
    """Two ways to decode pieces, of what gives them in parts."""

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
    one.name: one
    for one in (
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
            max_expansion=1 << 15,  # a block of 128 KiB takes 4 bytes
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
_OF_FLAGS = {one.flags: one for one in reversed(_ALL.values())}


def check_compression(name: object) -> Compression:
    """The compression of a name.

    Raises
    ------
    InvalidOption
        There is none.

    Examples
    --------
    >>> check_compression("zstd").readers
    ('godb_arrow',)
    """
    found = _ALL.get(name) if isinstance(name, str) else None
    if found is None:
        raise InvalidOption(
            f"compression is {name!r}", advice=f"use one of {', '.join(get_args(CompressionName))}"
        )
    return found


def compression_of(flags: int) -> Compression | None:
    """The compression that a file's flags say; None where they say something unknown.

    Examples
    --------
    >>> compression_of(0).name, compression_of(1).name, compression_of(99)
    ('lz4', 'zstd', None)
    """
    return _OF_FLAGS.get(flags)
