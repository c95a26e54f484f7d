"""Mapping filters as JSON: MongoDB's extended JSON, for command lines and tickets.

===============================================  ===============================================
JSON                                             value
===============================================  ===============================================
``{"$date": "2024-02-29T06:30:00.25Z"}``         moment; without a zone in UTC
``{"$date": 1709188200250}``                     moment in milliseconds since 1970
``{"$timestamp": {"t": 1709188200, "i": 1}}``    moment in seconds since 1970
``{"$numberInt": "5"}``, ``$numberLong``         integer
``{"$numberDouble": "NaN"}``                     float, also Infinity and -Infinity
``{"$numberDecimal": "1.50"}``                   decimal
``{"$binary": {"base64": "AA==", ...}}``         binary
``{"$uuid": "…"}``, ``{"$oid": "…"}``            text
``{"$undefined": true}``                         None
===============================================  ===============================================

The forms of :mod:`godb_arrow.codec.jsontext` are understood, too: ``$bytes``, ``$time``,
``$float``, ``$ext`` and ``$map``.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import msgpack

from godb_arrow import codec
from godb_arrow.codec.jsontext import from_json_text, to_json_text
from godb_arrow.errors import DepthExceeded, InvalidDocument, InvalidFilter

__all__ = ["document_from_json", "filter_from_json", "filter_to_json", "parse_literal"]

_MILLISECONDS = 1_000
_NANOSECONDS_PER_MILLISECOND = 1_000_000
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?)?\s*(Z|[+-]\d\d:?\d\d)?"
)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def parse_literal(text: str) -> Any:
    """Read a value of a command line: JSON, or else the text itself.

    Parameters
    ----------
    text : str
        A JSON value with the forms of extended JSON, or a bare word.

    Returns
    -------
    object
        Value or operators of a mapping filter.

    Examples
    --------
    >>> parse_literal("30"), parse_literal("Rome"), parse_literal('{"$gte": 30}')
    (30, 'Rome', {'$gte': 30})
    """
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text
    return filter_from_json(found)


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def filter_from_json(value: Any) -> Any:
    """Return a filter, or a part of one, with the values that forms of extended JSON stand for.

    Raises
    ------
    InvalidFilter
        A form has a wrong value.

    Examples
    --------
    >>> filter_from_json({"n": {"$gt": {"$numberLong": "5"}}})
    {'n': {'$gt': 5}}
    """
    if isinstance(value, list):
        return [filter_from_json(one) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 or "$timestamp" in value:
        ((name, inner), *_) = value.items()
        convert = _FORMS.get(name)
        if convert is not None:
            try:
                return convert(inner)
            except (ValueError, TypeError, KeyError, OverflowError, InvalidOperation) as error:
                raise InvalidFilter(
                    f"{json.dumps(value)[:80]} is no value of extended JSON",
                    advice=f"write {name} as in the documentation of MongoDB",
                ) from error
        if name in _OWN_FORMS:
            return from_json_text(json.dumps(value))
    return {name: filter_from_json(inner) for name, inner in value.items()}


def document_from_json(value: Any) -> Any:
    """Return a document with the values that forms of extended JSON stand for.

    Raises
    ------
    InvalidDocument
        A form has a wrong value.

    Examples
    --------
    >>> document_from_json({"_id": {"$oid": "507f1f77bcf86cd799439011"}, "n": {"$numberLong": "5"}})
    {'_id': '507f1f77bcf86cd799439011', 'n': 5}
    """
    try:
        return filter_from_json(value)
    except InvalidFilter as error:
        raise InvalidDocument(error.message, advice=error.advice) from error


def filter_to_json(value: Any) -> Any:
    """Return a mapping filter, or a part of one, in the types of JSON.

    Raises
    ------
    InvalidFilter
        A value cannot be stored, so that no document can have it.

    Examples
    --------
    >>> filter_to_json({"at": {"$lt": dt.date(2024, 2, 29)}, "data": [b"x", None]})
    {'at': {'$lt': {'$time': '2024-02-29T00:00:00Z'}}, 'data': [{'$bytes': '78'}, None]}
    """
    if isinstance(value, Mapping):
        is_form = len(value) == 1 and next(iter(value)) in {*_FORMS, *_OWN_FORMS}
        if is_form or not all(isinstance(name, str) for name in value):
            pairs = [[filter_to_json(name), filter_to_json(one)] for name, one in value.items()]
            return {"$map": pairs}
        return {name: filter_to_json(one) for name, one in value.items()}
    if isinstance(value, (bool, int, str, type(None))):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Decimal):
        return {"$numberDecimal": str(value)}
    if isinstance(value, (list, tuple, set, frozenset)) and not isinstance(value, msgpack.ExtType):
        return [filter_to_json(one) for one in value]
    try:
        stored = codec.load_pairs(codec.pack(value))
    except (InvalidDocument, DepthExceeded) as error:
        raise InvalidFilter(
            f"a filter compares with {str(value)[:80]!r}, which no document can hold: "
            f"{error.message}",
            advice="compare with a value that can be stored",
        ) from error
    found: Any = json.loads(to_json_text(stored))
    return found


# --- forms --------------------------------------------------------------------------------------


def _date(value: Any) -> Any:
    if isinstance(value, dict):
        value = int(value["$numberLong"])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds, rest = divmod(int(value), _MILLISECONDS)
        return msgpack.Timestamp(seconds, rest * _NANOSECONDS_PER_MILLISECOND)
    found = _DATE.fullmatch(value)
    if found is None:
        raise ValueError(value)
    day, time, fraction, zone = found.groups()
    moment = dt.datetime.fromisoformat(f"{day}T{time or '00:00:00'}{zone or 'Z'}")
    seconds = (moment - _EPOCH) // dt.timedelta(seconds=1)
    return msgpack.Timestamp(seconds, int((fraction or "0").ljust(9, "0")))


def _timestamp(value: Any) -> Any:
    return msgpack.Timestamp(int(value["t"]), 0)


def _binary(value: Any) -> bytes:
    text = value["base64"] if isinstance(value, dict) else value
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(text) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


_FORMS: dict[str, Callable[[Any], Any]] = {
    "$date": _date,
    "$timestamp": _timestamp,
    "$numberInt": lambda value: int(_text(value)),
    "$numberLong": lambda value: int(_text(value)),
    "$numberDouble": lambda value: float(_text(value)),
    "$numberDecimal": lambda value: Decimal(_text(value)),
    "$binary": _binary,
    "$uuid": _text,
    "$oid": _text,
    "$undefined": lambda value: None,
}
_OWN_FORMS = frozenset(("$bytes", "$time", "$float", "$ext", "$map"))
