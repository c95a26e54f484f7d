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
    names_odd_key,
)
from godb_arrow.query.bounds import Bounds
from godb_arrow.query.predicate import named_paths
from godb_arrow.query.statistics import Statistics
from godb_arrow.schema import NANOSECONDS_PER_SECOND

__all__ = ["may_match_predicate"]


class _Possible(NamedTuple):
    """Whether documents may match, and whether documents may fail to match."""

    match: bool
    fail: bool


_ANY = _Possible(match=True, fail=True)
_Bounds = Mapping[str, Bounds]


def may_match_predicate(statistics: Statistics, predicate: Predicate) -> list[bool]:
    """Return for each piece whether documents in it may match a predicate.

    Parameters
    ----------
    statistics : Statistics
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
    >>> import pyarrow as pa
    >>> fields = pa.schema({"n": pa.int64()})
    >>> batches = [pa.record_batch({"n": [1, 5]}), pa.record_batch({"n": [6, 9]})]
    >>> found = per_piece([statistics_of(batch, fields) for batch in batches], [0, 1], fields)
    >>> may_match_predicate(found, compile_filter({"n": {"$gt": 7}}))
    [False, True]
    """
    known = {
        name: statistics.bounds(name) for name in named_paths(predicate) if name in statistics.names
    }
    if not known:
        return [True] * len(statistics)
    return [
        _possible(
            predicate.condition,
            {name: found for name, bounds in known.items() if (found := bounds[piece]) is not None},
        ).match
        for piece in range(len(statistics))
    ]


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
    path = condition.path
    if path is None or "." in path or names_odd_key(path):
        return _ANY
    known = bounds.get(path)
    test = _TESTS.get(type(condition))
    if known is None or known.others or test is None:
        return _ANY
    return test(condition, known)


def _one_of(condition: OneOf, known: Bounds) -> _Possible:
    found = [_equals(literal, known) for literal in condition.literals]
    return _Possible(any(one.match for one in found), all(one.fail for one in found))


def _equals(literal: Any, known: Bounds) -> _Possible:
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


def _bound(condition: Bound, known: Bounds) -> _Possible:
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


def _exists(condition: Exists, known: Bounds) -> _Possible:
    del condition  # null values exist, too
    return _Possible(match=True, fail=bool(known.nulls))


def _has_type(condition: HasType, known: Bounds) -> _Possible:
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


def _matches(condition: Matches, known: Bounds) -> _Possible:
    del condition
    return _Possible(match=known.strings is not None, fail=True)


_TESTS: dict[type, Callable[[Any, Bounds], _Possible]] = {
    OneOf: _one_of,
    Bound: _bound,
    Exists: _exists,
    HasType: _has_type,
    Matches: _matches,
}


def _pairs(known: Bounds) -> tuple[tuple[Any, Any] | None, ...]:
    return known.numbers, known.strings, known.binaries, known.moments, known.booleans


def _comparable(literal: Any, known: Bounds) -> tuple[tuple[Any, Any] | None, Any]:
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
        return known.moments, literal.seconds * NANOSECONDS_PER_SECOND + literal.nanoseconds
    return None, literal


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
