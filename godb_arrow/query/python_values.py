"""Arrow columns as Python values without rounding: integers beside nulls stay integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.codec.wire import map_lists
from godb_arrow.query.comparable import plain_array, plain_type

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["object_column", "python_values", "would_round"]


def would_round(kind: pa.DataType) -> bool:
    """Return whether Arrow's own conversion changes values inside a nested type.

    It makes floats of integers beside nulls, makes lists of maps, and lacks some types.
    """
    types = pa.types
    if types.is_struct(kind) or types.is_map(kind):
        return True
    if types.is_nested(kind):
        item = kind.value_type
        is_safe = types.is_floating(item) or types.is_string(item) or types.is_temporal(item)
        return not is_safe or would_round(item)
    return False


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return values as Python objects; as NumPy's, where Python has no such moment or zone.

    Examples
    --------
    >>> python_values(pa.array([1 << 40], pa.timestamp("s")))
    [np.datetime64('36812-02-20T00:36:16')]
    """
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except (OverflowError, ValueError, LookupError):  # of unknown zones, pytz raises a KeyError
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        return [value for chunk in chunks for value in _objects(chunk)]


def object_column(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Return values as an array of Python objects.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        Column of any type.

    Returns
    -------
    array of object
        Structs and maps are dicts, lists are arrays, null is None.

    Examples
    --------
    >>> object_column(pa.chunked_array([[{"a": 1}, {"a": None}]])).tolist()
    [{'a': 1}, {'a': None}]
    """
    objects = np.empty(len(column), object)
    position = 0
    for chunk in column.chunks:
        objects[position : position + len(chunk)] = _filled(_objects(chunk))
        position += len(chunk)
    return objects


def _filled(values: list[Any]) -> npt.NDArray[np.object_]:
    """Return objects as an array, also where all are arrays of one length."""
    filled = np.empty(len(values), object)
    for position, value in enumerate(values):
        filled[position] = value
    return filled


def _objects(array: pa.Array) -> list[Any]:
    types = pa.types
    kind = array.type
    if types.is_struct(kind):
        names = [field.name for field in kind]
        found = codec.to_dicts(names, list(map(_objects, array.flatten())), len(array))
    elif types.is_map(kind):
        found = _maps(array)
    elif types.is_nested(kind):
        found = _lists(array)
    elif plain_type(kind) is not kind:
        return _objects(plain_array(array))
    elif types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        zero = pa.scalar(0).cast(kind)
        found = array.fill_null(zero).to_numpy(zero_copy_only=False).tolist()
    elif types.is_string(kind):
        return array.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]
    else:
        return _others(array)
    if array.null_count:
        for row in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist():
            found[row] = None
    return found


def _others(array: pa.Array) -> list[Any]:
    try:
        return array.to_pylist()  # type: ignore[no-any-return]
    except (OverflowError, ValueError, LookupError):  # moments that datetime has not, or zones
        values = list(array.to_numpy(zero_copy_only=False))
        return [None if np.isnat(value) else value for value in values]


def _lists(array: pa.Array) -> list[Any]:
    lengths = pc.list_value_length(array)
    ends = np.cumsum(lengths.fill_null(0).to_numpy(zero_copy_only=False))
    return np.split(_elements(array.flatten()), ends)[: len(array)]


def _elements(array: pa.Array) -> npt.NDArray[Any]:
    """Return the elements of lists: numbers and times in their own dtype, if no null is beside."""
    types = pa.types
    kind = array.type
    is_number = types.is_integer(kind) or types.is_boolean(kind)
    if types.is_floating(kind) or types.is_temporal(kind) or (is_number and not array.null_count):
        found: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return found
    return _filled(_objects(array))


def _maps(array: pa.Array) -> list[Any]:
    lists = map_lists(array)
    entries = lists.flatten()
    keys, items = _objects(entries.field(0)), _objects(entries.field(1))
    found = []
    start = 0
    for length in lists.value_lengths().fill_null(0).to_pylist():
        found.append(
            dict(zip(keys[start : start + length], items[start : start + length], strict=True))
        )
        start += length
    return found
