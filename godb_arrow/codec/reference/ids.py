"""Document ids: their hashes, their numbers, and their order."""

from __future__ import annotations

import itertools
import struct
import sys

import numpy as np
import pyarrow as pa

from godb_arrow.arrow_compute import pc

__all__ = [
    "MAX_NUMBER",
    "has_equal",
    "hash_id",
    "id_number",
    "ids_ascend",
    "sort_hashes",
    "survey_ids",
]

MAX_NUMBER = 1 << 62
"""Bound of generated ids; a number below it plus a count of documents fits into 64 bits."""

_MAX_DIGITS = len(str(MAX_NUMBER))
_MAX_UINT64 = 2**64 - 1

# Multipliers of the hash of an id, the same as in the kernel.
_SIZE_FACTOR, _WORD_FACTOR, _REST_FACTOR = (
    0x9E3779B97F4A7C15,
    0xFF51AFD7ED558CCD,
    0xC4CEB9FE1A85EC53,
)


def survey_ids(ids: pa.Array) -> tuple[bytes, int]:
    """Hash document ids, and find the max number among them.

    Id files store these hashes, so every codec computes the same ones.

    Parameters
    ----------
    ids : pyarrow.BinaryArray
        Ids, in UTF-8.

    Returns
    -------
    hashes : bytes
        Hashes of 64 bits, one for each id.
    greatest : int
        Max number among the ids, as of :func:`id_number`; 0 if there is none.
    """
    greatest = 0
    hashes = bytearray()
    for raw in ids.to_pylist():
        hashes += _hash_of(raw).to_bytes(8, sys.byteorder)
        greatest = max(greatest, id_number(raw))
    return bytes(hashes), greatest


def id_number(identity: bytes) -> int:
    """Return the number of an id that consists of digits.

    Parameters
    ----------
    identity : bytes
        Document id.

    Returns
    -------
    int
        Value of decimal digits without leading zeros, if it is below :data:`MAX_NUMBER`; else 0.
        Any other id never equals a generated one.
    """
    if not identity.isdigit() or identity[:1] == b"0" or len(identity) > _MAX_DIGITS:
        return 0
    number = int(identity)
    return number if number < MAX_NUMBER else 0


def ids_ascend(ids: pa.Array) -> int | None:
    """Check whether ids ascend, by size and then by bytes, and find the max number among them.

    Ascending ids are all different, which is then known without remembering them.

    Parameters
    ----------
    ids : pyarrow.BinaryArray
        Ids, in UTF-8.

    Returns
    -------
    int or None
        Max number among the ids, as of :func:`survey_ids`; None where ids do not ascend.
    """
    texts = ids.to_pylist()
    keys = [(len(raw), raw) for raw in texts]
    if any(before >= after for before, after in itertools.pairwise(keys)):
        return None
    return max(map(id_number, texts), default=0)


def hash_id(identity: str) -> int:
    """Return the hash that :func:`survey_ids` computes for an id."""
    return _hash_of(identity.encode("utf-8", "surrogateescape"))


def _hash_of(raw: bytes) -> int:
    """Return the hash of an id: its words of 8 bytes are mixed in, then the bytes after them."""
    value = _SIZE_FACTOR * (len(raw) + 1) & _MAX_UINT64
    words = len(raw) // 8
    for word in struct.unpack_from(f"<{words}Q", raw):
        value = (value ^ word) * _WORD_FACTOR & _MAX_UINT64
        value ^= value >> 32
    rest = int.from_bytes(raw[8 * words :], "little")
    value = (value ^ rest) * _REST_FACTOR & _MAX_UINT64
    value ^= value >> 29
    value = value * _SIZE_FACTOR & _MAX_UINT64
    return value ^ value >> 32


def sort_hashes(hashes: bytes) -> tuple[bytes, bytes]:
    """Sort hashes of ids.

    Parameters
    ----------
    hashes : bytes
        Hashes as :func:`survey_ids` returns them.

    Returns
    -------
    hashes, places : bytes
        The hashes in order, and the place that each had, in 8 bytes. Equal hashes stay in the order
        of their places.
    """
    values = np.frombuffer(hashes, np.uint64)
    order = np.argsort(values, kind="stable")
    return values[order].tobytes(), order.astype(np.uint64).tobytes()


def has_equal(hashes: bytes | bytearray) -> bool:
    """Return whether two hashes of ids are equal.

    Parameters
    ----------
    hashes : bytes
        Hashes as :func:`survey_ids` returns them.

    Returns
    -------
    bool
    """
    count = len(hashes) // 8
    values = pa.Array.from_buffers(pa.uint64(), count, [None, pa.py_buffer(bytes(hashes))])
    return bool(pc.count_distinct(values).as_py() != count)
