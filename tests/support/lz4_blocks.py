"""Sequences of raw LZ4 blocks, cut so that compressed pieces join to one block."""

from __future__ import annotations

import lz4.block

MAX_RATIO = 10  # decoded bytes for each byte of a block: go-db allocates so many


def compress_lz4(data: bytes, *, high: bool = False) -> tuple[bytes, bytes]:
    """Return the sequences of a piece, and the literals after its last match.

    Bytes at the front stay literals if the piece would decode to more than `MAX_RATIO` times its
    size.
    """
    mode = "high_compression" if high else "default"
    stored = 0
    while True:
        block = lz4.block.compress(data[stored:], mode=mode, store_size=False)
        last = _last_sequence(block)
        sequences, literals = block[:last], block[_literals(block, last)[0] :]
        lacking = -(-(len(data) + 64) // MAX_RATIO) - stored - len(sequences) - len(literals)
        if min(lacking, len(data) - stored) <= 0:
            break
        stored = min(stored + lacking, len(data))
    return (with_literals(data[:stored], sequences), literals) if sequences else (b"", data)


def with_literals(waiting: bytes, sequences: bytes) -> bytes:
    """Put literals before the first sequence of a block."""
    at, own = _literals(sequences, 0)
    head = literal_head(len(waiting) + own)
    return bytes([head[0] | sequences[0] & 15]) + head[1:] + waiting + sequences[at:]


def literal_head(count: int) -> bytes:
    """Return the token of a sequence, and the bytes that extend the count of its literals."""
    if count < 15:
        return bytes([count << 4])
    return b"\xf0" + b"\xff" * ((count - 15) // 255) + bytes([(count - 15) % 255])


def _literals(block: bytes, at: int) -> tuple[int, int]:
    """Return where the literals of a sequence begin, and their count."""
    count = block[at] >> 4
    return _extended(block, at + 1) if count == 15 else (at + 1, count)


def _extended(block: bytes, at: int) -> tuple[int, int]:
    """Return where an extended length ends, and the length."""
    length = 15 + block[at]
    while block[at] == 255:
        at += 1
        length += block[at]
    return at + 1, length


def _last_sequence(block: bytes) -> int:
    """Return where the last sequence of a block begins, which has no match."""
    at = 0
    while True:
        start, count = _literals(block, at)
        following = start + count + 2
        if following > len(block):
            return at
        if block[at] & 15 == 15:
            following, _ = _extended(block, following)
        at = following
