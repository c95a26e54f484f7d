"""Predicates on columns that have the values of documents exactly.

Columns that were decoded before need not be decoded again for a filter. They answer a predicate
only where they lose nothing: integers, strings and booleans, and floats that are no rounded
integers. Everything else is left to the documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.codec.predicate import (
    AllOf,
    AnyOf,
    Bound,
    Condition,
    Matches,
    Not,
    OneOf,
    Order,
    Predicate,
    exact_number,
    is_container,
    names_odd_key,
)

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["select_in_columns"]

_EXACT_FLOATS = 2.0**53
"""Magnitude from which on a float may be a rounded integer."""
_MAX_COMPARED = 8
"""Max literals that a column of floats is compared with."""


class _Inexact(Exception):
    """Raised where columns do not tell which documents match."""


def select_in_columns(batch: pa.RecordBatch, predicate: Predicate) -> npt.NDArray[np.int64] | None:
    """Find the rows of decoded documents that match a predicate.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Columns of documents, of inferred types.
    predicate : Predicate
        The condition.

    Returns
    -------
    array of int64 or None
        The indices of the rows that match, in order. None if the columns do not tell.

    Examples
    --------
    >>> from godb_arrow.query.predicate import compile_filter
    >>> batch = pa.record_batch({"n": [1, 2, None]})
    >>> select_in_columns(batch, compile_filter({"n": {"$gt": 1.5}})).tolist()
    [1]
    """
    try:
        mask = _mask(predicate.condition, batch)
    except _Inexact:
        return None
    rows: npt.NDArray[np.int64] = pc.indices_nonzero(mask).to_numpy().astype(np.int64)
    return rows


def _mask(condition: Condition, batch: pa.RecordBatch) -> pa.Array:
    """Return for each row whether a condition holds, without nulls."""
    if isinstance(condition, AllOf):
        return _joined(pc.and_, True, (_mask(one, batch) for one in condition.conditions), batch)
    if isinstance(condition, AnyOf):
        return _joined(pc.or_, False, (_mask(one, batch) for one in condition.conditions), batch)
    if isinstance(condition, Not):
        return pc.invert(_mask(condition.condition, batch))
    path = condition.path
    if path is None or "." in path or path not in batch.schema.names or names_odd_key(path):
        raise _Inexact
    column = batch.column(path)
    if isinstance(condition, OneOf):
        mask = _one_of(condition, column)
        return pc.fill_null(mask, None in condition.literals)
    if isinstance(condition, Bound):
        return pc.fill_null(_bound(condition, column), False)
    if isinstance(condition, Matches) and pa.types.is_string(column.type):
        return pc.fill_null(pc.match_substring_regex(column, condition.pattern), False)
    raise _Inexact


def _joined(
    join: Callable[[pa.Array, pa.Array], pa.Array],
    start: bool,
    masks: Iterable[pa.Array],
    batch: pa.RecordBatch,
) -> pa.Array:
    found = list(masks)
    return reduce(join, found) if found else pa.repeat(start, batch.num_rows)


def _one_of(condition: OneOf, column: pa.Array) -> pa.Array:
    kind = column.type
    literals = [one for one in condition.literals if one is not None and not is_container(one)]
    if pa.types.is_null(kind):
        return column.cast(pa.bool_())
    if pa.types.is_boolean(kind):
        return _in([one for one in literals if type(one) is bool], column)
    if pa.types.is_string(kind):
        if any(type(one) is Decimal for one in literals):
            raise _Inexact
        return _in([one for one in literals if type(one) is str and _is_utf8(one)], column)
    numbers = [exact_number(one) for one in literals if type(one) in (int, float, Decimal)]
    if pa.types.is_integer(kind):
        whole = [one for one in numbers if type(one) is int or _is_whole(one)]
        low, high = _limits(kind)
        return _in([int(one) for one in whole if one is not None and low <= one <= high], column)
    _check_exact(column)
    floats = {float(one) for one in numbers if one is not None and float(one) == one}
    has_nan = any(type(one) is float and math.isnan(one) for one in numbers)
    if len(floats) > _MAX_COMPARED:
        raise _Inexact
    masks = [pc.equal(column, pa.scalar(one, kind)) for one in floats]
    if has_nan:
        masks.append(pc.is_nan(column))
    return reduce(pc.or_, masks) if masks else _nothing(column)


def _is_whole(number: Any) -> bool:
    return type(number) is float and number.is_integer()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _in(values: list[Any], column: pa.Array) -> pa.Array:
    """Return for each row whether it is one of some values, and null for nulls."""
    if not values:
        return _nothing(column)
    if len(values) == 1:
        return pc.equal(column, pa.scalar(values[0], column.type))
    found = pc.is_in(column, pa.array(values, column.type))
    return pc.if_else(column.is_valid(), found, None) if column.null_count else found


def _nothing(column: pa.Array) -> pa.Array:
    """Return false for each row, and null for nulls."""
    if not column.null_count:
        return pa.repeat(False, len(column))
    return pc.if_else(column.is_valid(), pa.scalar(False), pa.scalar(None, pa.bool_()))


_COMPARE: dict[Order, str] = {
    Order.LESS: "less",
    Order.LESS | Order.EQUAL: "less_equal",
    Order.GREATER: "greater",
    Order.GREATER | Order.EQUAL: "greater_equal",
}


def _compare(order: Order, column: pa.Array, bound: pa.Scalar) -> pa.Array:
    found: pa.Array = getattr(pc, _COMPARE[order])(column, bound)
    return found


def _bound(condition: Bound, column: pa.Array) -> pa.Array:
    kind, literal, order = column.type, condition.literal, condition.order
    if pa.types.is_null(kind) or pa.types.is_boolean(kind):
        return _nothing(column)
    if pa.types.is_string(kind):
        if type(literal) is Decimal or (type(literal) is str and not _is_utf8(literal)):
            raise _Inexact
        if type(literal) is not str:
            return _nothing(column)
        return _compare(order, column, pa.scalar(literal, kind))
    is_number = type(literal) in (int, float, Decimal)
    if not pa.types.is_integer(kind):
        _check_exact(column)
    if not is_number:
        return _nothing(column)
    if math.isnan(literal) or math.isinf(literal):
        raise _Inexact
    exact = Fraction(literal)
    if pa.types.is_integer(kind):
        return _bound_of_integers(column, order, exact)
    try:
        nearest = float(exact)
    except OverflowError:
        raise _Inexact from None
    if Fraction(nearest) != exact:
        raise _Inexact
    return _compare(order, column, pa.scalar(nearest, kind))


def _bound_of_integers(column: pa.Array, order: Order, exact: Fraction) -> pa.Array:
    below = math.floor(exact)
    if below != exact:  # no integer is equal
        order = Order.GREATER if order & Order.GREATER else Order.LESS | Order.EQUAL
    low, high = _limits(column.type)
    if not low <= below <= high:
        raise _Inexact
    return _compare(order, column, pa.scalar(below, column.type))


def _limits(kind: pa.DataType) -> tuple[int, int]:
    if pa.types.is_signed_integer(kind):
        return -(1 << (kind.bit_width - 1)), (1 << (kind.bit_width - 1)) - 1
    return 0, (1 << kind.bit_width) - 1


def _check_exact(column: pa.Array) -> None:
    """Raise unless a column has floats, none of which may be a rounded integer."""
    if not pa.types.is_float64(column.type):
        raise _Inexact
    if pc.any(pc.greater_equal(pc.abs(column), _EXACT_FLOATS)).as_py():
        raise _Inexact
