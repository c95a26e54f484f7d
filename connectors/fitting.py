"""Columns that get a type which earlier rows have fixed."""

from __future__ import annotations

from functools import partial

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.connectors.arrays import as_json_texts, is_bytes
from godb_arrow.documents.normalize import convert_children
from godb_arrow.query.comparable import plain_array
from godb_arrow.schema import is_json, is_text

__all__ = ["fit_column", "is_moment"]

_MAX_WIDE_DIGITS = 76  # of decimal256


def fit_column(array: pa.Array, target: pa.DataType, *, drop_fields: bool = False) -> pa.Array:
    """Convert a column to a type that earlier rows have fixed, if that changes no value.

    Parameters
    ----------
    array : pyarrow.Array
        New values.
    target : pyarrow.DataType
        Type of the earlier values. Fields of structs are found by their names.
    drop_fields : bool
        Whether to drop fields of structs that the type lacks, default False, which refuses them.

    Returns
    -------
    pyarrow.Array

    Raises
    ------
    ValueError, pyarrow.ArrowException
        The type does not hold the values.

    Examples
    --------
    >>> fit_column(pa.array([1, None]), pa.float64()).to_pylist()
    [1.0, None]
    >>> fit_column(pa.array([0.5]), pa.int64())
    Traceback (most recent call last):
    ...
    ValueError: the type double becomes int64, which changes values
    """
    types = pa.types
    if array.type.equals(target):
        return array
    if array.null_count == len(array):
        return pa.nulls(len(array), target)
    if types.is_dictionary(target):
        return fit_column(array, target.value_type).dictionary_encode().cast(target)
    if is_json(target) or (is_json(array.type) and is_text(target)):
        texts = as_json_texts(array)
        return pa.ExtensionArray.from_storage(target, texts) if is_json(target) else texts
    array = plain_array(array)
    if array.type.equals(target):
        return array
    if types.is_struct(array.type) and types.is_struct(target):
        return _fit_struct(array, target, drop_fields)
    if types.is_nested(array.type) or types.is_nested(target):
        return _fit_elements(array, target, drop_fields)
    if not any(is_kind(array.type) and is_kind(target) for is_kind in _FAMILIES):
        raise ValueError(f"the type {array.type} is not {target}")
    if types.is_integer(array.type) and types.is_decimal(target):
        array = array.cast(pa.decimal256(_MAX_WIDE_DIGITS, target.scale))
    fitted = array.cast(target, safe=types.is_decimal(target))
    if not _is_equal(fitted.cast(array.type, safe=False), array):
        raise ValueError(f"the type {array.type} becomes {target}, which changes values")
    return fitted


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def is_moment(kind: pa.DataType) -> bool:
    """Return whether the values of a type are moments or dates."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_time(kind))


def _is_duration(kind: pa.DataType) -> bool:
    return bool(pa.types.is_duration(kind))


_FAMILIES = (_is_number, is_moment, _is_time, _is_duration, is_text, is_bytes)
"""Tests of types whose values are compared with each other."""


def _is_equal(array: pa.Array, other: pa.Array) -> bool:
    """Return whether two arrays have the same values; NaN equals NaN."""
    if array.equals(other):
        return True
    if not pa.types.is_floating(array.type):
        return False
    same = pc.or_kleene(pc.equal(array, other), pc.and_(pc.is_nan(array), pc.is_nan(other)))
    return bool(pc.all(same.fill_null(True)).as_py())


def _fit_struct(array: pa.StructArray, target: pa.StructType, drop_fields: bool) -> pa.Array:
    children = {field.name: child for field, child in zip(array.type, array.flatten(), strict=True)}
    fitted = [
        fit_column(children.pop(field.name), field.type, drop_fields=drop_fields)
        if field.name in children
        else pa.nulls(len(array), field.type)
        for field in target
    ]
    for name, child in children.items():
        if not drop_fields and child.null_count < len(child):
            raise ValueError(f"the field {name!r} is new")
    if not fitted:
        return array.cast(target)
    mask = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(fitted, fields=list(target), mask=mask)


def _fit_elements(array: pa.Array, target: pa.DataType, drop_fields: bool) -> pa.Array:
    types = pa.types
    if not (types.is_map(array.type) and types.is_map(target)):
        if not (_is_list(array.type) and _is_list(target)):
            raise ValueError(f"the type {array.type} is not {target}")
        if types.is_large_list(array.type) != types.is_large_list(target):
            of_list = pa.large_list if types.is_large_list(target) else pa.list_
            array = array.cast(of_list(array.type.value_field))
    return convert_children(array, target, partial(fit_column, drop_fields=drop_fields))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
