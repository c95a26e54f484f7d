"""Compression of a body of any length, in pieces on several threads.

No piece refers to earlier bytes, so pieces can be compressed, located and decoded independently.
Literals after the last match of a piece become part of the next piece's first sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import xxhash

from godb_arrow.codec.reference.lz4 import extension, put_in_front
from godb_arrow.parallel import ordered_map

__all__ = ["Compressed", "Content", "compress_block", "literal_head"]


class Content(NamedTuple):
    """Content of a piece of a block, before compression.

    Attributes
    ----------
    data : bytes
        Bytes of the content.
    compressed : tuple of bytes or None
        Result of ``compress_piece``, if the content was a piece of another file.
    documents : int
        Number of documents, if the content is nothing else; otherwise 0.
    sizes : bytes
        Packed sizes of the documents, where they are known.
    """

    data: bytes
    compressed: tuple[bytes, bytes] | None = None
    documents: int = 0
    sizes: bytes = b""


class Compressed(NamedTuple):
    """Place, size and checksum of a compressed piece of a block.

    Attributes
    ----------
    length : int
        Bytes of its sequences, which follow the sequences of the piece before.
    tail : int
        Number of literals after its sequences, at the beginning of the next sequence.
    size : int
        Bytes before compression.
    checksum : int
        XXH3-64 of the bytes before compression.
    sizes : bytes
        Packed sizes of its documents, where they are known.
    """

    length: int
    tail: int
    size: int
    checksum: int
    sizes: bytes = b""


def literal_head(count: int) -> bytes:
    """Return the bytes that precede the literals at the end of an LZ4 block."""
    return bytes([min(count, 15) << 4]) + extension(count)


def compress_block(
    compress: Callable[[bytes], tuple[bytes, bytes]],
    pieces: Iterator[Content],
    *,
    threads: int = 1,
    ending: Callable[[list[Compressed]], Sequence[bytes]] = lambda compressed: (),
    reserve: int = 0,
    head: Callable[[int], bytes] = literal_head,
    measure: Callable[[bytes, int], bytes] = lambda data, documents: b"",
) -> Iterator[bytes | memoryview]:
    """Compress pieces to one raw LZ4 block that ends with literals, or to another kind of body.

    Parameters
    ----------
    compress : callable
        Function that compresses a piece to its sequences and the literals after them.
    pieces : iterator of Content
        Pieces to compress.
    threads : int
        Number of threads that compress.
    ending : callable
        Function that takes each compressed piece, and returns bytes to store uncompressed at the
        end, in parts.
    reserve : int
        Number of literal bytes that the caller appends to the block.
    head : callable
        Function that returns the bytes that precede a number of literals.
    measure : callable
        Function that returns the packed sizes of a number of documents.

    Yields
    ------
    bytes or memoryview
        Parts of the block, without the reserved bytes.

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
            # The rest is large and is not copied to join it with the bytes before it.
            front, rest = put_in_front(waiting, sequences)
            waiting, length = b"", len(front) + len(rest)
            if front:
                yield front
            yield rest
        waiting += literals
        compressed.append(made._replace(length=length))
    last = ending(compressed)
    yield head(len(waiting) + sum(map(len, last)) + reserve) + waiting
    yield from last
