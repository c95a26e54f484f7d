"""Packed sizes of a piece's entries, with which a reader finds an entry without scanning others.

Packed sizes begin with the number of bits of each size (0, 4, 8, 16 or 32) and the min size in
four bytes. The sizes less the min and the XXH3-64 of all this follow. Entries of a piece are mostly
of similar size, so that four or eight bits are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xxhash

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["most_packed", "pack_if_worthwhile", "pack_sizes", "packed_head", "unpack_sizes"]

HEAD_SIZE = 5
_MIN_ENTRY_BYTES = 2  # limits the number of entries that a file can claim, and their memory
_FOOT_BYTES = 8
_TYPES = {8: "u1", 16: "<u2", 32: "<u4"}


def pack_sizes(sizes: npt.NDArray[np.uint32]) -> bytes:
    """Pack the sizes of entries.

    Parameters
    ----------
    sizes : array of uint32
        Bytes of each entry.

    Returns
    -------
    bytes

    Examples
    --------
    >>> packed = pack_sizes(np.array([40, 42, 41], np.uint32))
    >>> len(packed), unpack_sizes([packed], [3], [123]).tolist()
    (15, [0, 40, 82, 123])
    """
    least = int(sizes.min())
    more = sizes - np.uint32(least)
    most = int(more.max())
    bits = 0 if most == 0 else 4 if most < 16 else 8 if most < 256 else 16 if most < 65536 else 32
    if bits == 0:
        body = b""
    elif bits == 4:
        low, high = more[::2].astype("u1"), more[1::2].astype("u1")
        low[: len(high)] |= high << 4
        body = low.tobytes()
    else:
        body = more.astype(_TYPES[bits]).tobytes()
    packed = bytes([bits]) + least.to_bytes(4, "little") + body
    return packed + xxhash.xxh3_64_digest(packed)


def most_packed(size: int) -> int:
    """Return the max bytes of packed sizes for entries of `size` bytes in total."""
    return size // 8 + 16


def pack_if_worthwhile(sizes: npt.NDArray[np.uint32]) -> bytes:
    """Pack the sizes of entries, or return nothing where the result would be too large."""
    packed = pack_sizes(sizes)
    return packed if len(packed) <= most_packed(int(sizes.sum(dtype=np.int64))) else b""


def packed_head(packed: bytes, count: int, total: int) -> tuple[int, int] | None:
    """Return the bits of each size and the min size, or None if these are of other entries."""
    if len(packed) < HEAD_SIZE + _FOOT_BYTES or _MIN_ENTRY_BYTES * count > total:
        return None
    if xxhash.xxh3_64_digest(packed[:-_FOOT_BYTES]) != packed[-_FOOT_BYTES:]:
        return None
    bits, least = packed[0], int.from_bytes(packed[1:HEAD_SIZE], "little")
    if bits not in (0, 4, *_TYPES):
        return None
    right = len(packed) == HEAD_SIZE + (count * bits + 7) // 8 + _FOOT_BYTES
    return (bits, least) if right else None


def unpack_sizes(
    packed: Sequence[bytes], counts: Sequence[int], totals: Sequence[int]
) -> npt.NDArray[np.int64] | None:
    """Return the offsets where the entries of consecutive pieces begin and end.

    Parameters
    ----------
    packed : sequence of bytes
        Result of :func:`pack_sizes` for each piece.
    counts : sequence of int
        Number of entries of each piece.
    totals : sequence of int
        Bytes of the entries of each piece.

    Returns
    -------
    array of int64 or None
        Edges, one more than there are entries. None where the bytes are damaged, or are the sizes
        of other entries.
    """
    edges = [np.zeros(1, np.int64)]
    for sizes, count, total in zip(packed, counts, totals, strict=True):
        head = packed_head(sizes, count, total)
        if head is None:
            return None
        ends = np.cumsum(_more(sizes[HEAD_SIZE:-_FOOT_BYTES], head[0], count) + head[1])
        if ends[-1] != total:
            return None
        edges.append(ends + edges[-1][-1])
    return np.concatenate(edges)


def _more(body: bytes, bits: int, count: int) -> npt.NDArray[np.int64]:
    if bits == 0:
        return np.zeros(count, np.int64)
    if bits == 4:
        pairs = np.frombuffer(body, "u1")
        return np.column_stack((pairs & 15, pairs >> 4)).ravel()[:count].astype(np.int64)
    return np.frombuffer(body, _TYPES[bits]).astype(np.int64)
