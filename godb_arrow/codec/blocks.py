"""One LZ4 block of any length, compressed in pieces on several threads.

A piece needs only the 64 KiB before it, so that pieces can be compressed at the same time. What
is left of each behind its last match are literals of the next piece's first sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from godb_arrow.codec.reference_lz4 import extension, join
from godb_arrow.parallel import ordered_map

__all__ = ["CompressPiece", "compress_block"]

_HISTORY = 64 << 10
_PIECE = 1 << 20

CompressPiece = Callable[[bytes, int, int | None, bool], tuple[bytes, bytes]]


def compress_block(
    compress: CompressPiece,
    chunks: Iterator[bytes | memoryview],
    *,
    max_ratio: int | None = None,
    high: bool = False,
    threads: int = 1,
    ending: bytes = b"",
    reserve: int = 0,
) -> Iterator[bytes]:
    """Compress bytes to one raw LZ4 block that ends with literals.

    Parameters
    ----------
    compress : callable
        A codec's ``compress_piece``.
    chunks : iterator of bytes
        What to compress.
    max_ratio : int, optional
        The block never decodes to more than this many times its size: where the data are too
        regular, some are stored as literals. go-db allocates ten times the size of a body.
    high : bool
        Search longer for better matches (LZ4 HC): smaller, many times slower, read as fast.
    threads : int
        How many threads compress.
    ending : bytes
        Further bytes at the end, stored as they are.
    reserve : int
        How many literal bytes the caller appends to the block itself.

    Yields
    ------
    bytes
        The block, but for the reserved bytes.

    Examples
    --------
    >>> from godb_arrow.codec.reference_lz4 import BlockDecoder, compress_piece
    >>> block = b"".join(compress_block(compress_piece, iter([b"abc" * 99])))
    >>> BlockDecoder().decode(block) == b"abc" * 99
    True
    """

    def work(piece: tuple[bytes, int]) -> tuple[bytes, bytes]:
        return compress(*piece, max_ratio, high)

    waiting = b""
    for sequences, literals in ordered_map(work, _pieces(chunks), threads):
        joined, waiting = join(waiting, sequences, literals)
        if joined:
            yield joined
    waiting += ending
    count = len(waiting) + reserve
    yield bytes([min(count, 15) << 4]) + extension(count) + waiting


def _pieces(chunks: Iterator[bytes | memoryview]) -> Iterator[tuple[bytes, int]]:
    """The bytes in pieces, each behind the history that it needs, and where it begins there."""
    history = b""
    gathered: list[bytes | memoryview] = []
    size = 0
    for chunk in chunks:
        for at in range(0, len(chunk), _PIECE):
            part = memoryview(chunk)[at : at + _PIECE]
            gathered.append(part)
            size += len(part)
            if size >= _PIECE:
                window = b"".join([history, *gathered])
                yield window, len(history)
                history, gathered, size = window[-_HISTORY:], [], 0
    if size:
        yield b"".join([history, *gathered]), len(history)
