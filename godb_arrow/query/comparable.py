"""Columns in types whose values Arrow counts and compares, and their values in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.codec.columns import UNITS

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["as_comparable", "as_numbers", "as_python", "leaf_of", "plain_array", "plain_type"]

_SECONDS_PER_DAY = 86_400


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of dictionaries, runs and extension types."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def plain_array(array: pa.Array) -> pa.Array:
    """Return the values of dictionaries, runs and extension types."""
    while True:
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        elif pa.types.is_dictionary(array.type):
            array = array.dictionary.take(array.indices)
        elif pa.types.is_run_end_encoded(array.type):
            array = pc.run_end_decode(array)
        else:
            return array


def leaf_of(batch: pa.RecordBatch, path: tuple[str, ...]) -> pa.Array:
    """Return the plain values of a field inside structs."""
    array = plain_array(batch.column(path[0]))
    for name in path[1:]:
        array = plain_array(pc.struct_field(array, [name]))
    return array


def as_comparable(array: pa.Array) -> pa.Array:
    """Return plain values in a type that Arrow counts and orders.

    Parameters
    ----------
    array : pyarrow.Array
        Values of a plain type without children.

    Returns
    -------
    pyarrow.Array
        Times of all kinds are their ticks.

    Examples
    --------
    >>> as_comparable(pa.array([5], pa.duration("s"))).type
    DataType(int64)
    """
    types = pa.types
    kind = array.type
    if types.is_float16(kind):
        return array.cast(pa.float32())
    if types.is_temporal(kind):
        return array.cast(pa.int64() if kind.bit_width == 64 else pa.int32())
    if types.is_fixed_size_binary(kind) or types.is_binary_view(kind):
        return array.cast(pa.binary())
    if types.is_string_view(kind):
        return array.cast(pa.string())
    return array


def as_python(values: pa.Array, kind: pa.DataType) -> list[Any]:
    """Return comparable values as Python values of their own type.

    Parameters
    ----------
    values : pyarrow.Array
        What :func:`as_comparable` returned.
    kind : pyarrow.DataType
        The plain type of the column.

    Returns
    -------
    list
        Times outside the years of ``datetime``, or in an unknown zone, are values of NumPy.
    """
    if not pa.types.is_temporal(kind):
        return values.to_pylist()  # type: ignore[no-any-return]
    times = values.cast(kind)
    try:
        return times.to_pylist()  # type: ignore[no-any-return]
    except (OverflowError, ValueError, LookupError):
        return [_numpy_time(ticks, kind) for ticks in values.to_pylist()]


def _numpy_time(ticks: int | None, kind: pa.DataType) -> Any:
    if ticks is None:
        return None
    if pa.types.is_timestamp(kind):
        return np.datetime64(ticks, kind.unit)
    if pa.types.is_duration(kind):
        return np.timedelta64(ticks, kind.unit)
    return np.datetime64(ticks, "D" if pa.types.is_date32(kind) else "ms")


def as_numbers(values: pa.Array, kind: pa.DataType) -> npt.NDArray[np.float64]:
    """Return comparable values as floats; times in seconds.

    Parameters
    ----------
    values : pyarrow.Array
        What :func:`as_comparable` returned, without nulls.
    kind : pyarrow.DataType
        The plain type of the column: numbers or times.

    Returns
    -------
    array of float
    """
    if pa.types.is_decimal(kind):
        values = values.cast(pa.float64())
    found: npt.NDArray[np.float64] = values.to_numpy(zero_copy_only=False).astype(np.float64)
    if pa.types.is_date32(kind):
        return found * _SECONDS_PER_DAY
    if pa.types.is_date64(kind):
        return found / UNITS["ms"]
    return found / UNITS[kind.unit] if pa.types.is_temporal(kind) else found
