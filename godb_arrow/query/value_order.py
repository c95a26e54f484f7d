"""Equality and order of single values, as documents are filtered and sorted."""

from __future__ import annotations

import datetime as dt
import enum
import math
import struct
from typing import Any

import msgpack

__all__ = ["Rank", "identity_of", "place_of"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class Rank(enum.IntEnum):
    """Kinds of values in the order in which they sort."""

    EMPTY = 1  # a list without elements, where a list counts by an element
    NULL = 2
    NAN = 3
    NUMBER = 4
    STRING = 5
    MAP = 6
    LIST = 7
    BINARY = 8
    BOOL = 9
    MOMENT = 10
    OTHER = 11


def identity_of(value: Any) -> str | bytes:
    """Return a key that equal values share, such as numbers, and maps in any order of their keys.

    Keys are text or bytes, which Python hashes with a secret of the process. It has none for tuples
    and numbers, so values could be chosen to make a dict slow.

    Parameters
    ----------
    value : object
        Value of a loaded document.

    Returns
    -------
    str or bytes
    """
    return value if type(value) is str else _packed_identity(value)


def _packed_identity(value: Any) -> bytes:
    """Return the kind of a value in one byte, followed by bytes that equal values share."""
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, float):
        if math.isnan(value):
            return b"n"
        if not value.is_integer():
            return b"r" + struct.pack(">d", value)
    if isinstance(value, (int, float)):
        return b"i" + format(int(value), "x").encode()
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, msgpack.ExtType):
        content: bytes = value.data
        return b"x" + struct.pack("b", value.code) + content
    if isinstance(value, (list, tuple)):
        return b"l" + b"".join(map(_sized, map(_packed_identity, value)))
    if isinstance(value, dict):
        pairs = (
            _sized(_packed_identity(key)) + _sized(_packed_identity(inner))
            for key, inner in value.items()
        )
        return b"m" + b"".join(sorted(pairs))
    place = place_of(value)
    return b"o" + repr(value if place[0] is Rank.OTHER else place).encode("utf-8", "replace")


def _sized(identity: bytes) -> bytes:
    return len(identity).to_bytes(8, "little") + identity


def place_of(value: Any) -> tuple[Any, ...]:
    """Return a key that sorts values of all kinds: null, numbers, strings, maps, lists, and so on.

    Maps have one place, and so have extensions. Lists sort by their elements.
    """
    if value is None:
        return (Rank.NULL,)
    if isinstance(value, bool):
        return Rank.BOOL, value
    if isinstance(value, (int, float)):
        return (Rank.NAN,) if math.isnan(value) else (Rank.NUMBER, value)
    if isinstance(value, str):
        return Rank.STRING, value
    if isinstance(value, dict):
        return (Rank.MAP,)
    if isinstance(value, bytes):
        return Rank.BINARY, value
    if isinstance(value, dt.datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
        return Rank.MOMENT, (moment - _EPOCH) // _MICROSECOND * 1000
    if isinstance(value, msgpack.Timestamp):
        return Rank.MOMENT, value.seconds * 10**9 + value.nanoseconds
    if isinstance(value, list):
        return Rank.LIST, tuple(map(place_of, value))
    return (Rank.OTHER,)
