"""Checks that a declared type holds decoded values exactly: what it would change is a mismatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.schema import NANOSECONDS_PER_DAY

__all__ = ["Convert", "checked"]

Convert: TypeAlias = "Callable[[pa.Array], pa.Array]"

_DECIMAL_TEXT = r'^(-?(0|[1-9][0-9]*)|"-?(0|[1-9][0-9]*)(\.[0-9]+)?")$'
"""JSON of a decimal as documents hold it: an integer, or a text without leading zeros."""


def checked(target: pa.DataType, convert: Convert) -> Convert:
    """Return a converter that raises where it would round, cut or change a value.

    Parameters
    ----------
    target : pyarrow.DataType
        Type without children that the converter returns.
    convert : callable
        The converter.

    Returns
    -------
    callable
        It raises ``pyarrow.ArrowInvalid``.
    """
    types = pa.types
    if types.is_float16(target) or types.is_float32(target):
        return lambda array: _same_numbers(array, convert(array))
    if types.is_date(target):
        return lambda array: _same_moments(array, convert(array))
    if types.is_time(target):
        return lambda array: convert(_times_of_day(array))
    if types.is_decimal(target):
        return lambda array: convert(_decimals(array))
    return convert


def _refuse(problem: str) -> pa.ArrowInvalid:
    return pa.ArrowInvalid(problem)


def _all(found: pa.Array) -> bool:
    return pc.all(found).as_py() is not False  # null where there are no values


def _same_numbers(array: pa.Array, converted: pa.Array) -> pa.Array:
    same = pc.equal(converted.cast(array.type), array)
    if not _all(pc.or_(same, pc.is_nan(array))):
        raise _refuse(f"{converted.type} would round a number")
    return converted


def _same_moments(array: pa.Array, converted: pa.Array) -> pa.Array:
    if not _all(pc.equal(converted.cast(array.type), array)):
        raise _refuse("a moment is no midnight")
    return converted


def _times_of_day(array: pa.Array) -> pa.Array:
    ends = pc.min_max(array)
    low, high = ends["min"].as_py(), ends["max"].as_py()
    if low is not None and not 0 <= low <= high < NANOSECONDS_PER_DAY:
        raise _refuse("a number is no time of day")
    return array


def _decimals(array: pa.Array) -> pa.Array:
    if not _all(pc.match_substring_regex(array, _DECIMAL_TEXT)):
        raise _refuse("a value is no decimal")
    return array
