"""Conversion of a value to JSON text and back, without loss.

A value that JSON cannot express becomes a map with one reserved key, as in go-db's test files:

===========================  ==========================================================
value                        JSON
===========================  ==========================================================
bin, str that is not UTF-8   ``{"$bytes": "hex"}``
timestamp                    ``{"$time": "2024-02-29T06:30:00.25Z"}``; outside the years 1
                             to 9999 ``{"$time": [seconds, nanoseconds]}``
NaN, infinities              ``{"$float": "NaN"}``, ``"Inf"``, ``"-Inf"``
other extension types        ``{"$ext": [code, "hex"]}``
map with other than UTF-8    ``{"$map": [[key, value], ...]}``, also for a map that would be
keys                         mistaken for one of these forms
===========================  ==========================================================

A float is written with a point or an exponent, an integer without.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import msgpack

__all__ = [
    "from_json_text",
    "from_reserved",
    "is_utf8",
    "timestamp_text",
    "to_json_text",
    "to_reserved",
]

_quote: Callable[[str], str] = json.JSONEncoder(ensure_ascii=False).encode
_RESERVED = frozenset(("$bytes", "$time", "$float", "$ext", "$map"))
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_FIRST_SECOND = -62_135_596_800  # 0001-01-01T00:00:00Z
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z


def is_utf8(text: str) -> bool:
    """Return whether a string was valid UTF-8 when it was decoded with ``surrogateescape``."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def timestamp_text(seconds: int, nanoseconds: int) -> str | None:
    """Return the RFC 3339 text of a UTC timestamp, or None outside the years 1 to 9999."""
    if not _FIRST_SECOND <= seconds <= _LAST_SECOND:
        return None
    text = (_EPOCH + dt.timedelta(seconds=seconds)).strftime("%m-%dT%H:%M:%S")
    year = (_EPOCH + dt.timedelta(seconds=seconds)).year
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return f"{year:04d}-{text}{fraction}Z"


def to_json_text(value: Any, *, plain: bool = False) -> str:
    """Write a decoded MessagePack value as JSON text.

    Parameters
    ----------
    value : object
        Document or part of one, as :func:`godb_arrow.codec.load` returns it. Maps may also be
        tuples of pairs.
    plain : bool
        Whether to write timestamps as plain strings, binary as base64, and NaN and infinities as
        null, for programs that know only JSON. They are then the same as strings and nil.

    Returns
    -------
    str

    Examples
    --------
    >>> to_json_text({"a": [1, 1.0, None, b"\\x00"]})
    '{"a":[1,1.0,null,{"$bytes":"00"}]}'
    """
    return "".join(_write(value, plain))


def _write(value: Any, plain: bool) -> Iterable[str]:
    kind = type(value)
    if kind is str:
        if is_utf8(value):
            return (_quote(value),)
        return _bytes(value.encode("utf-8", "surrogateescape"), plain)
    if kind is int:
        return (str(value),)
    if kind is float:
        return (_float(value, plain),)
    if value is None:
        return ("null",)
    if kind is bool:
        return ("true" if value else "false",)
    if kind is list:
        parts = ["["]
        for element in value:
            parts.extend(_write(element, plain))
            parts.append(",")
        return _closed(parts, "]")
    if kind is dict:
        return _map(list(value.items()), plain)
    if kind is tuple:
        return _map(value, plain)
    if kind is bytes:
        return _bytes(value, plain)
    if kind is msgpack.Timestamp:
        return (_time(value.seconds, value.nanoseconds, plain),)
    if isinstance(value, dt.datetime):
        stamp = msgpack.Timestamp.from_datetime(value)
        return (_time(stamp.seconds, stamp.nanoseconds, plain),)
    if kind is msgpack.ExtType:
        return (f'{{"$ext":[{value.code},"{value.data.hex()}"]}}',)
    raise TypeError(f"MessagePack has no value of the type {kind.__name__}")


def _closed(parts: list[str], end: str) -> list[str]:
    if len(parts) > 1:
        parts[-1] = end
    else:
        parts.append(end)
    return parts


def _map(pairs: Any, plain: bool) -> Iterable[str]:
    named = all(type(key) is str and is_utf8(key) for key, _ in pairs)
    if not named or (len(pairs) == 1 and pairs[0][0] in _RESERVED and not plain):
        parts = ['{"$map":[']
        for key, value in pairs:
            parts.append("[")
            parts.extend(_write(key, plain))
            parts.append(",")
            parts.extend(_write(value, plain))
            parts.append("]")
            parts.append(",")
        return _closed(parts, "]}")
    parts = ["{"]
    for key, value in pairs:
        parts.append(_quote(key))
        parts.append(":")
        parts.extend(_write(value, plain))
        parts.append(",")
    return _closed(parts, "}")


def _float(value: float, plain: bool) -> str:
    if math.isfinite(value):
        return repr(value)
    if plain:
        return "null"
    return f'{{"$float":"{"NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"}"}}'


def _bytes(value: bytes, plain: bool) -> Iterable[str]:
    if plain:
        import base64

        return (f'"{base64.b64encode(value).decode()}"',)
    return (f'{{"$bytes":"{value.hex()}"}}',)


def _time(seconds: int, nanoseconds: int, plain: bool) -> str:
    text = timestamp_text(seconds, nanoseconds)
    if text is None:
        return f'{{"$time":[{seconds},{nanoseconds}]}}'
    return f'"{text}"' if plain else f'{{"$time":"{text}"}}'


def from_json_text(text: str | bytes) -> Any:
    """Read the text that :func:`to_json_text` wrote.

    Parameters
    ----------
    text : str or bytes
        JSON text of one value.

    Returns
    -------
    object
        Value, with timestamps as ``msgpack.Timestamp`` and extensions as ``msgpack.ExtType``.

    Raises
    ------
    ValueError
        The text is not JSON.

    Examples
    --------
    >>> from_json_text('{"a":{"$bytes":"00"}}')
    {'a': b'\\x00'}
    """
    return json.loads(text, object_hook=_special)


def to_reserved(found: dict[str, Any]) -> dict[str, Any]:
    """Return the form of a map that would be mistaken for a reserved form.

    Examples
    --------
    >>> to_reserved({"$time": "now"})
    {'$map': [['$time', 'now']]}
    """
    return {"$map": [list(pair) for pair in found.items()]}


def from_reserved(found: dict[str, Any], known: frozenset[str] = _RESERVED) -> Any:
    """Return the value that a reserved form stands for, or the same map.

    Parameters
    ----------
    found : dict
        Any map.
    known : frozenset of str
        Reserved keys to replace.

    Returns
    -------
    object

    Examples
    --------
    >>> from_reserved({"$bytes": "00"})
    b'\\x00'
    """
    return _special(found) if len(found) == 1 and next(iter(found)) in known else found


def _special(found: dict[str, Any]) -> Any:
    if len(found) != 1:
        return found
    ((key, value),) = found.items()
    if key not in _RESERVED:
        return found
    try:
        return _SPECIAL[key](value)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError, IndexError):
        return found  # a map that only looks reserved


def _parse_time(value: Any) -> msgpack.Timestamp:
    if isinstance(value, list):
        return msgpack.Timestamp(*value)
    whole, _, fraction = value.removesuffix("Z").partition(".")
    moment = dt.datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=dt.UTC)
    delta = moment - _EPOCH
    return msgpack.Timestamp(delta.days * 86_400 + delta.seconds, int(fraction.ljust(9, "0")[:9]))


def _parse_map(value: Any) -> dict[Any, Any]:
    return {_hashable(key): item for key, item in value}


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_hashable(element) for element in value)
    if isinstance(value, dict):
        return tuple((_hashable(key), _hashable(item)) for key, item in value.items())
    return value


_SPECIAL: dict[str, Callable[[Any], Any]] = {
    "$bytes": bytes.fromhex,
    "$time": _parse_time,
    "$float": {
        "NaN": math.nan,
        "Inf": math.inf,
        "-Inf": -math.inf,
        "Infinity": math.inf,
        "-Infinity": -math.inf,
    }.__getitem__,
    "$ext": lambda value: msgpack.ExtType(value[0], bytes.fromhex(value[1])),
    "$map": _parse_map,
}
