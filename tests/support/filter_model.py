"""A plain-Python model of mapping filters, which shares no code with the package.

It works on documents as :func:`godb_arrow.read_documents` returns them, and is as slow as it is
short. ``godb_arrow.query.predicate`` has the table of the meaning.
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
import uuid
from fractions import Fraction
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MISSING = object()
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def matches(document: dict[Any, Any], filter: dict[str, Any]) -> bool:
    """Return whether a document matches a filter."""
    return _filter(document, filter, top=True)


def _filter(fields: dict[Any, Any], filter: dict[str, Any], top: bool) -> bool:
    results = []
    for name, wanted in filter.items():
        if name == "$and":
            results.append(all(_filter(fields, one, top) for one in wanted))
        elif name == "$or":
            results.append(any(_filter(fields, one, top) for one in wanted))
        elif name == "$nor":
            results.append(not any(_filter(fields, one, top) for one in wanted))
        elif name == "$not":
            results.append(not _filter(fields, wanted, top))
        else:
            results.append(_condition(_find(fields, name), wanted, top and name == "_id"))
    return all(results)


def _find(fields: Any, path: str) -> list[Any]:
    """Return all values at a path."""
    if path in fields:
        return [fields[path]]
    parts = path.split(".")
    for end in range(1, len(parts)):
        head, rest = ".".join(parts[:end]), ".".join(parts[end:])
        if head in fields:
            inner = fields[head]
            inside = inner if isinstance(inner, list) else [inner]
            return [v for one in inside if isinstance(one, dict) for v in _find(one, rest)]
    return []


def _condition(values: list[Any], wanted: Any, is_id: bool) -> bool:
    if isinstance(wanted, dict) and wanted and all(str(k).startswith("$") for k in wanted):
        return all(_operator(values, name, operand, is_id) for name, operand in wanted.items())
    is_list = isinstance(wanted, (list, tuple, set, frozenset, np.ndarray))
    if is_list and not isinstance(wanted, msgpack.ExtType):  # which is a tuple
        return _operator(values, "$in", list(wanted), is_id)
    return _operator(values, "$eq", wanted, is_id)


def _operator(values: list[Any], name: str, operand: Any, is_id: bool) -> bool:
    if name == "$ne":
        return not _operator(values, "$eq", operand, is_id)
    if name == "$nin":
        return not _operator(values, "$in", operand, is_id)
    if name == "$not":
        return not _condition(values, operand, is_id)
    if name == "$exists":
        return bool(values) == operand
    if name == "$in":
        return any(_operator(values, "$eq", one, is_id) for one in operand)
    if name == "$all":
        return bool(operand) and all(_has(values, one, is_id) for one in operand)
    if name == "$eq":
        if is_id and isinstance(operand, (int, np.integer)) and not isinstance(operand, bool):
            operand = str(operand)
        if _is_null(operand) and not values:
            return True
        return any(
            _equal(value, operand)
            or (
                isinstance(value, list)
                and type(operand) not in (list, tuple, dict)
                and any(_equal(one, operand) for one in value)
            )
            for value in values
        )
    if name == "$size":
        return any(isinstance(value, list) and len(value) == operand for value in values)
    if name == "$elemMatch":
        return any(
            isinstance(value, list) and any(_element(one, operand) for one in value)
            for value in values
        )
    test = {
        "$gt": lambda value: _order(value, operand) == 1,
        "$lt": lambda value: _order(value, operand) == -1,
        "$gte": lambda value: _order(value, operand) in (0, 1),
        "$lte": lambda value: _order(value, operand) in (0, -1),
        "$type": lambda value: _type(value) & _types(operand),
        "$regex": lambda value: isinstance(value, str) and _matches(value, operand),
    }[name]
    return any(
        test(value) or (isinstance(value, list) and any(map(test, value))) for value in values
    )


def _has(values: list[Any], operand: Any, is_id: bool) -> bool:
    if isinstance(operand, dict) and list(operand) == ["$elemMatch"]:
        return _operator(values, "$elemMatch", operand["$elemMatch"], is_id)
    if _operator(values, "$eq", operand, is_id):
        return True
    return any(isinstance(v, list) and any(_equal(one, operand) for one in v) for v in values)


def _element(element: Any, operand: dict[str, Any]) -> bool:
    names = {"$and", "$or", "$nor"}
    if operand and all(name.startswith("$") and name not in names for name in operand):
        return _condition([element], operand, is_id=False)
    return isinstance(element, dict) and _filter(element, operand, top=False)


# --- values -------------------------------------------------------------------------------------


def _is_null(literal: Any) -> bool:
    return literal is None or (isinstance(literal, np.datetime64) and np.isnat(literal))


def plain(value: Any) -> Any:
    """Convert a value or literal to few types, with moments as tuples of a tag and nanoseconds."""
    if isinstance(value, np.datetime64):
        if np.isnat(value):
            return None
        return "moment", int(value.astype("datetime64[ns]").astype("int64"))
    if isinstance(value, np.timedelta64):
        return int(value.astype("timedelta64[ns]").astype("int64"))
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, msgpack.Timestamp):
        return "moment", value.seconds * 10**9 + value.nanoseconds
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
        return "moment", (aware - _EPOCH) // dt.timedelta(microseconds=1) * 1000
    if isinstance(value, dt.date):
        return "moment", (value - dt.date(1970, 1, 1)).days * 86_400 * 10**9
    if isinstance(value, dt.time):
        whole = dt.timedelta(hours=value.hour, minutes=value.minute, seconds=value.second,
                             microseconds=value.microsecond)  # fmt: skip
        return whole // dt.timedelta(microseconds=1) * 1000
    if isinstance(value, dt.timedelta):
        return value // dt.timedelta(microseconds=1) * 1000
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, msgpack.ExtType):
        return "extension", value.code, value.data
    if isinstance(value, (tuple, list)):
        return [plain(one) for one in value]
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, decimal.Decimal)) and not isinstance(value, bool)


def _decimal(text: Any) -> decimal.Decimal | None:
    """Return the decimal that a text stores, or None for other values."""
    if not isinstance(text, str) or not text.isascii():
        return None
    whole, point, fraction = text.removeprefix("-").partition(".")
    is_one = whole.isdigit() and (not point or fraction.isdigit())
    return decimal.Decimal(text) if is_one else None


def _equal(value: Any, literal: Any, inside: bool = False) -> bool:
    if isinstance(literal, decimal.Decimal):
        if inside:  # a map or list is compared as it is stored
            literal = format(literal, "f")
        elif _decimal(value) is not None:
            return _decimal(value) == literal
    if isinstance(literal, dict) and not isinstance(value, dict):
        return False
    if isinstance(value, dict):
        if not isinstance(literal, dict) or value.keys() != literal.keys():
            return False
        return all(_equal(item, literal[key], inside=True) for key, item in value.items())
    if isinstance(value, list):
        literals = list(literal) if type(literal) in (list, tuple) else None
        return (
            literals is not None
            and len(literals) == len(value)
            and all(_equal(a, b, inside=True) for a, b in zip(value, literals, strict=True))
        )
    value, literal = plain(value), plain(literal)
    if _is_number(value) and _is_number(literal):
        if math.isnan(value) or math.isnan(literal):
            return math.isnan(value) and math.isnan(literal)
        if math.isinf(value) or math.isinf(literal):
            return (
                float(value) == float(literal)
                if math.isinf(value) == math.isinf(literal)
                else False
            )
        return Fraction(value) == Fraction(literal)
    return type(value) is type(literal) and bool(value == literal)


def _order(value: Any, literal: Any) -> int | None:
    """Return -1, 0 or 1 by the order of a value and a literal, or None without an order."""
    value, literal = plain(value), plain(literal)
    if isinstance(literal, decimal.Decimal) and _decimal(value) is not None:
        value = _decimal(value)
    if _is_number(value) and _is_number(literal):
        if math.isnan(value) or math.isnan(literal):
            return 0 if math.isnan(value) and math.isnan(literal) else None
        if not math.isinf(value):
            value = Fraction(value)
        if not math.isinf(literal):
            literal = Fraction(literal)
    elif isinstance(value, str) and isinstance(literal, str):
        value, literal = (one.encode("utf-8", "surrogateescape") for one in (value, literal))
    elif not (
        (isinstance(value, bytes) and isinstance(literal, bytes))
        or (isinstance(value, tuple) and isinstance(literal, tuple)
            and value[0] == literal[0] == "moment")
    ):  # fmt: skip
        return None
    return (value > literal) - (value < literal)


_BITS = {"null": 1, "bool": 2, "int": 4, "float": 8, "number": 12, "string": 16, "binary": 32,
         "timestamp": 64, "array": 128, "map": 256, "extension": 512}  # fmt: skip


def _types(names: Any) -> int:
    bits = 0
    for name in [names] if isinstance(names, str) else names:
        bits |= _BITS[name]
    return bits


def _type(value: Any) -> int:
    kinds = {type(None): "null", bool: "bool", int: "int", float: "float", str: "string",
             bytes: "binary", list: "array", dict: "map", dt.datetime: "timestamp",
             msgpack.Timestamp: "timestamp", msgpack.ExtType: "extension"}  # fmt: skip
    return _BITS[kinds[type(value)]]


def _matches(text: str, pattern: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return bool(pc.match_substring_regex(pa.array([text]), pattern)[0].as_py())
