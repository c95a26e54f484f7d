"""Equality and order of single values, as documents are filtered and sorted."""

from __future__ import annotations

import datetime as dt
import enum
import math
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


def identity_of(value: Any) -> Any:
    """Return a key that equal values share, such as numbers, and maps in any order of their keys.

    Parameters
    ----------
    value : object
        Value of a loaded document.

    Returns
    -------
    hashable
    """
    if isinstance(value, bool):
        return (bool, value)
    if isinstance(value, float) and math.isnan(value):
        return (float, "nan")
    if isinstance(value, dict):
        return (dict, frozenset((key, identity_of(inner)) for key, inner in value.items()))
    if isinstance(value, (list, tuple)) and not isinstance(value, msgpack.ExtType):
        return (list, tuple(map(identity_of, value)))
    if isinstance(value, (dt.datetime, msgpack.Timestamp)):
        return place_of(value)
    return value


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
