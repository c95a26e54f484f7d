"""One body of any length, compressed in pieces on several threads.

No piece refers to what comes before it, so that pieces can be compressed, and later be found and
decoded, at the same time. What is left of each behind its last match are literals of the next
piece's first sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import xxhash

from godb_arrow.codec.reference.lz4 import extension, put_in_front
from godb_arrow.parallel import ordered_map

__all__ = ["Compressed", "Content", "compress_block", "literal_head"]


class Content(NamedTuple):
    """What a piece of a block will decode to.

    Attributes
    ----------
    data : bytes
        The bytes.
    compressed : tuple of bytes or None
        What ``compress_piece`` made of them, where they were a piece before.
    documents : int
        How many documents they are, and nothing else; else 0.
    sizes : bytes
        The packed sizes of these, where they are known.
    """

    data: bytes
    compressed: tuple[bytes, bytes] | None = None
    documents: int = 0
    sizes: bytes = b""


class Compressed(NamedTuple):
    """What became of a piece of a block.

    Attributes
    ----------
    length : int
        Bytes of its sequences; they follow those of the piece before.
    tail : int
        Literals behind them, at the beginning of the next sequence that there is.
    size : int
        Bytes that it was compressed from.
    checksum : int
        The XXH3-64 of what it was compressed from.
    sizes : bytes
        The packed sizes of its documents, where they are known.
    """

    length: int
    tail: int
    size: int
    checksum: int
    sizes: bytes = b""


def literal_head(count: int) -> bytes:
    """What stands before the literals that end an LZ4 block."""
    return bytes([min(count, 15) << 4]) + extension(count)


def compress_block(
    compress: Callable[[bytes], tuple[bytes, bytes]],
    pieces: Iterator[Content],
    *,
    threads: int = 1,
    ending: Callable[[list[Compressed]], bytes] = lambda compressed: b"",
    reserve: int = 0,
    head: Callable[[int], bytes] = literal_head,
    measure: Callable[[bytes, int], bytes] = lambda data, documents: b"",
) -> Iterator[bytes | memoryview]:
    """Compress pieces to one raw LZ4 block that ends with literals, or another kind of body.

    Parameters
    ----------
    compress : callable
        Makes of a piece its sequences, and the literals behind them.
    pieces : iterator of Content
        What to compress.
    threads : int
        How many threads compress.
    ending : callable
        Gets what became of each piece; returns further bytes at the end, stored as they are.
    reserve : int
        How many literal bytes the caller appends to the block itself.
    head : callable
        What stands before so many literals.
    measure : callable
        Gives the packed sizes of so many documents.

    Yields
    ------
    bytes or memoryview
        The block, but for the reserved bytes.

    Examples
    --------
    >>> from godb_arrow.codec.reference.lz4 import BlockDecoder, compress_piece
    >>> def compress(data): return compress_piece(data, None, False)
    >>> block = b"".join(compress_block(compress, iter([Content(b"abc" * 99)])))
    >>> BlockDecoder().decode(block) == b"abc" * 99
    True
    """

    def work(piece: Content) -> tuple[Compressed, bytes, bytes]:
        data, compressed, documents, sizes = piece
        sequences, literals = compressed or compress(data)
        if documents and not sizes:
            sizes = measure(data, documents)
        checksum = xxhash.xxh3_64_intdigest(data)
        return Compressed(0, len(literals), len(data), checksum, sizes), sequences, literals

    compressed: list[Compressed] = []
    waiting = b""
    for made, sequences, literals in ordered_map(work, pieces, threads):
        length = 0
        if sequences:
            # The rest is large: it is not copied for the sake of what comes before it.
            front, rest = put_in_front(waiting, sequences)
            waiting, length = b"", len(front) + len(rest)
            if front:
                yield front
            yield rest
        waiting += literals
        compressed.append(made._replace(length=length))
    waiting += ending(compressed)
    yield head(len(waiting) + reserve) + waiting
