"""Choice of the pieces or parts that may have documents that match a predicate.

Statistics name candidates only. Of each condition they say whether any document may match, and
whether any may fail to match, since a negation swaps the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import msgpack
import pyarrow as pa

from godb_arrow.codec.columns import UNITS
from godb_arrow.codec.predicate import (
    AllOf,
    AnyOf,
    Bound,
    Condition,
    Exists,
    HasType,
    Matches,
    Not,
    OneOf,
    Order,
    Predicate,
    ValueType,
)
from godb_arrow.query.predicate import named_paths
from godb_arrow.query.statistics import bounds_of

__all__ = ["Known", "may_match_predicate"]

_NANOSECONDS = 10**9
_NANOSECONDS_PER_DAY = 86_400 * _NANOSECONDS
_EXACT_FLOATS = 2**53
"""Magnitude below which all integers are floats, too."""


class Known(NamedTuple):
    """Values of a field in some documents.

    Attributes
    ----------
    numbers, strings, binaries, moments, booleans : tuple or None
        Min and max of the values of a kind, if there are any. Moments are nanoseconds since 1970.
    nans : int
        Number of NaN.
    nulls : int
        Number of documents where the field is null or absent.
    others : int
        Number of values without bounds, such as lists, maps and long texts.
    """

    numbers: tuple[Any, Any] | None = None
    strings: tuple[Any, Any] | None = None
    binaries: tuple[Any, Any] | None = None
    moments: tuple[Any, Any] | None = None
    booleans: tuple[Any, Any] | None = None
    nans: int = 0
    nulls: int = 0
    others: int = 0


class _Possible(NamedTuple):
    """Whether documents may match, and whether documents may fail to match."""

    match: bool
    fail: bool


_ANY = _Possible(match=True, fail=True)
_Bounds = Mapping[str, Known | None]


def may_match_predicate(statistics: pa.RecordBatch, predicate: Predicate) -> list[bool]:
    """Return for each piece whether documents in it may match a predicate.

    Parameters
    ----------
    statistics : pyarrow.RecordBatch
        Statistics, with a row for each piece.
    predicate : Predicate
        The predicate.

    Returns
    -------
    list of bool

    Examples
    --------
    >>> from godb_arrow.query.predicate import compile_filter
    >>> from godb_arrow.query.statistics import per_piece, statistics_of
    >>> fields = pa.schema({"n": pa.int64()})
    >>> batches = [pa.record_batch({"n": [1, 5]}), pa.record_batch({"n": [6, 9]})]
    >>> found = per_piece([statistics_of(batch, fields) for batch in batches], [0, 1], fields)
    >>> may_match_predicate(found, compile_filter({"n": {"$gt": 7}}))
    [False, True]
    """
    columns = {
        name: known
        for name in named_paths(predicate)
        if (known := _known(statistics, name)) is not None
    }
    if not columns:
        return [True] * statistics.num_rows
    pieces = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [_possible(predicate.condition, bounds).match for bounds in pieces]


def _known(statistics: pa.RecordBatch, name: str) -> list[Known | None] | None:
    """Return the bounds of a field in each piece, as values by kind; None if it has none."""
    found = bounds_of(statistics, name)
    if found is None:
        return None
    low, high, nulls = found
    kind = low.type
    typed = _TYPED.get(_family(kind))
    if typed is None:
        return None
    if pa.types.is_temporal(kind):  # of times Python does not know all
        ticks = pa.int32() if kind.bit_width == 32 else pa.int64()
        low, high = low.view(ticks), high.view(ticks)
    rows = zip(low.to_pylist(), high.to_pylist(), nulls.to_pylist(), strict=True)
    return [
        None if count is None else Known(nulls=count) if least is None or most is None
        else typed(least, most, count, kind)
        for least, most, count in rows
    ]  # fmt: skip


def _family(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "numbers"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "strings"
    if pa.types.is_boolean(kind):
        return "booleans"
    return "moments" if pa.types.is_timestamp(kind) or pa.types.is_date(kind) else ""


def _moments(low: int, high: int, nulls: int, kind: pa.DataType) -> Known:
    """Return bounds of moments, which columns cut towards the past."""
    if pa.types.is_date32(kind):
        unit = _NANOSECONDS_PER_DAY
    else:
        unit = _NANOSECONDS // (1_000 if pa.types.is_date64(kind) else UNITS[kind.unit])
    rest = _NANOSECONDS_PER_DAY if pa.types.is_date(kind) else unit
    return Known(moments=(low * unit, high * unit + rest - 1), nulls=nulls)


_TYPED: dict[str, Callable[[Any, Any, int, pa.DataType], Known]] = {
    "numbers": lambda low, high, nulls, _: Known(numbers=_widened(low, high), nulls=nulls),
    "strings": lambda low, high, nulls, _: Known(strings=(low, high), nulls=nulls),
    "booleans": lambda low, high, nulls, _: Known(booleans=(low, high), nulls=nulls),
    "moments": _moments,
}


def _widened(low: Any, high: Any) -> tuple[Any, Any]:
    """Return bounds of numbers that also hold for integers which a column of floats rounded."""
    if isinstance(low, float) and abs(low) >= _EXACT_FLOATS:
        low = math.nextafter(low, -math.inf)
    if isinstance(high, float) and abs(high) >= _EXACT_FLOATS:
        high = math.nextafter(high, math.inf)
    return low, high


def _possible(condition: Condition, bounds: _Bounds) -> _Possible:
    if isinstance(condition, AllOf):
        found = [_possible(one, bounds) for one in condition.conditions]
        return _Possible(all(one.match for one in found), any(one.fail for one in found))
    if isinstance(condition, AnyOf):
        found = [_possible(one, bounds) for one in condition.conditions]
        return _Possible(any(one.match for one in found), all(one.fail for one in found))
    if isinstance(condition, Not):
        return _Possible(*reversed(_possible(condition.condition, bounds)))
    # A dotted path may lead through values that have no bounds.
    known = None if condition.path is None or "." in condition.path else bounds.get(condition.path)
    test = _TESTS.get(type(condition))
    if known is None or known.others or test is None:
        return _ANY
    return test(condition, known)


def _one_of(condition: OneOf, known: Known) -> _Possible:
    found = [_equals(literal, known) for literal in condition.literals]
    return _Possible(any(one.match for one in found), all(one.fail for one in found))


def _equals(literal: Any, known: Known) -> _Possible:
    kinds = sum(map(bool, (*_pairs(known), known.nans, known.nulls)))
    if literal is None:
        return _Possible(bool(known.nulls), kinds > bool(known.nulls))
    if isinstance(literal, (float, Decimal)) and math.isnan(literal):
        return _Possible(bool(known.nans), kinds > bool(known.nans))
    pair, value = _comparable(literal, known)
    if pair is None:
        return _ANY if isinstance(literal, Decimal) else _Possible(match=False, fail=True)
    match = bool(pair[0] <= value <= pair[1])
    is_all = match and pair[0] == value == pair[1] and kinds == 1
    if isinstance(literal, Decimal) and known.strings is not None:
        return _ANY
    return _Possible(match, not is_all)


def _bound(condition: Bound, known: Known) -> _Possible:
    literal, order = condition.literal, condition.order
    kinds = sum(map(bool, (*_pairs(known), known.nans, known.nulls)))
    if isinstance(literal, (float, Decimal)) and math.isnan(literal):
        return _Possible(bool(known.nans and order & Order.EQUAL), fail=True)
    if isinstance(literal, Decimal) and known.strings is not None:
        return _ANY
    pair, value = _comparable(literal, known)
    if pair is None:
        return _Possible(match=False, fail=True)
    low, high = pair
    equal = bool(order & Order.EQUAL)
    if order & Order.GREATER:
        match, is_all = high > value or (equal and high == value), low > value
        is_all = is_all or (equal and low == value)
    else:
        match, is_all = low < value or (equal and low == value), high < value
        is_all = is_all or (equal and high == value)
    return _Possible(match, not is_all or kinds > 1)


def _exists(condition: Exists, known: Known) -> _Possible:
    del condition  # null values exist, too
    return _Possible(match=True, fail=bool(known.nulls))


def _has_type(condition: HasType, known: Known) -> _Possible:
    numbers = known.numbers is not None or bool(known.nans)
    kinds = (
        (ValueType.NULL, bool(known.nulls)),
        (ValueType.BOOL, known.booleans is not None),
        (ValueType.INT | ValueType.FLOAT, numbers),
        (ValueType.STRING, known.strings is not None),
        (ValueType.BINARY, known.binaries is not None),
        (ValueType.TIMESTAMP, known.moments is not None),
    )
    return _Possible(any(there and bool(condition.types & kind) for kind, there in kinds), True)


def _matches(condition: Matches, known: Known) -> _Possible:
    del condition
    return _Possible(match=known.strings is not None, fail=True)


_TESTS: dict[type, Callable[[Any, Known], _Possible]] = {
    OneOf: _one_of,
    Bound: _bound,
    Exists: _exists,
    HasType: _has_type,
    Matches: _matches,
}


def _pairs(known: Known) -> tuple[tuple[Any, Any] | None, ...]:
    return known.numbers, known.strings, known.binaries, known.moments, known.booleans


def _comparable(literal: Any, known: Known) -> tuple[tuple[Any, Any] | None, Any]:
    """Return the bounds of values of a literal's kind, and the literal as one of these."""
    if isinstance(literal, bool):
        return known.booleans, literal
    if isinstance(literal, (int, float, Decimal)):
        if isinstance(literal, Decimal):
            literal = Fraction(literal) if literal.is_finite() else float(literal)
        return known.numbers, literal
    if isinstance(literal, str):
        # Code points have the order of their bytes; Python compares surrogates otherwise.
        pair = known.strings and tuple(_raw(text) for text in known.strings)
        return pair, _raw(literal)  # type: ignore[return-value]
    if isinstance(literal, bytes):
        return known.binaries, literal
    if isinstance(literal, msgpack.Timestamp):
        return known.moments, literal.seconds * _NANOSECONDS + literal.nanoseconds
    return None, literal


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
