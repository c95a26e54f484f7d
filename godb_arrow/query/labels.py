"""Labels, categories and frequencies of pandas as JSON, and back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

__all__ = [
    "describe_categories",
    "describe_frequency",
    "describe_labels",
    "rebuild_categories",
    "rebuild_frequency",
    "rebuild_labels",
]

_MAX_LABELS = 10_000  # of columns whose labels are recorded


def describe_labels(labels: pd.Index) -> dict[str, Any] | None:
    """Describe the labels of columns.

    Parameters
    ----------
    labels : pandas.Index
        Labels of the columns of a DataFrame.

    Returns
    -------
    dict or None
        Values of JSON; None for plain texts, which need no description, and for labels that
        JSON does not hold.

    Examples
    --------
    >>> describe_labels(pd.Index([1, 2]))
    {'kind': 'plain', 'name': None, 'dtype': 'int64', 'values': [1, 2]}
    """
    if len(labels) > _MAX_LABELS:
        return None
    is_plain = type(labels) is pd.Index and labels.name is None
    if is_plain and all(type(label) is str for label in labels):
        return None
    return _describe(labels)


def describe_categories(dtype: Any) -> dict[str, Any] | None:
    """Describe categories that Arrow has no dictionaries of: intervals, periods, and none at all.

    Parameters
    ----------
    dtype : dtype
        Dtype of a column, or of a level of an index.

    Returns
    -------
    dict or None
        Values of JSON; None for other dtypes, and for categories that JSON does not hold.

    Examples
    --------
    >>> describe_categories(pd.CategoricalDtype([]))["ordered"]
    False
    """
    if not isinstance(dtype, pd.CategoricalDtype) or dtype.categories is None:
        return None
    categories = dtype.categories
    is_nested = isinstance(categories, (pd.IntervalIndex, pd.PeriodIndex))
    if len(categories) > _MAX_LABELS or (len(categories) and not is_nested):
        return None
    described = _describe(categories)
    return described and {"values": described, "ordered": bool(dtype.ordered)}


def rebuild_categories(description: Any, column: pa.ChunkedArray) -> pd.Categorical | None:
    """Return a column as the categories that :func:`describe_categories` described.

    Parameters
    ----------
    description : dict
        Description of the categories.
    column : pyarrow.ChunkedArray
        Plain values.

    Returns
    -------
    pandas.Categorical or None
        None if the description is damaged, or does not have one of the values.
    """
    try:
        dtype = pd.CategoricalDtype(_rebuild(description["values"]), description["ordered"])
        codes = np.full(len(column), -1)
        valid = column.is_valid().to_numpy()
        if valid.any():  # pandas rounds the nulls of intervals
            codes[valid] = dtype.categories.get_indexer(column.drop_null().to_pandas())
            if (codes[valid] < 0).any():
                return None
        return pd.Categorical.from_codes(codes, dtype=dtype)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, pa.ArrowException):
        return None


def describe_frequency(index: Any) -> str | None:
    """Return the frequency of an index of times as text; None without one."""
    if not isinstance(index, (pd.DatetimeIndex, pd.TimedeltaIndex)):
        return None
    return index.freqstr


def rebuild_frequency(text: Any, index: pd.Index) -> None:
    """Set the frequency of an index, if its values have it."""
    if isinstance(text, str) and isinstance(index, (pd.DatetimeIndex, pd.TimedeltaIndex)):
        with suppress(TypeError, ValueError, OverflowError):
            index.freq = text  # type: ignore[misc, assignment]


def _describe(labels: pd.Index) -> dict[str, Any] | None:
    if not _is_json(labels.name):
        return None
    found: dict[str, Any] = {"kind": "plain", "name": labels.name}
    if isinstance(labels, pd.MultiIndex):
        levels = [_describe(labels.get_level_values(level)) for level in range(labels.nlevels)]
        return None if None in levels else {**found, "kind": "multi", "levels": levels}
    if isinstance(labels, pd.CategoricalIndex):
        categories = _describe(labels.categories)
        codes = labels.codes.tolist()
        category = {"categories": categories, "codes": codes, "ordered": bool(labels.ordered)}
        return None if categories is None else {**found, "kind": "category", **category}
    if isinstance(labels, pd.IntervalIndex):
        left, right = _describe(pd.Index(labels.left)), _describe(pd.Index(labels.right))
        interval = {"left": left, "right": right, "closed": labels.closed}
        return None if left is None or right is None else {**found, "kind": "interval", **interval}
    if isinstance(labels, pd.PeriodIndex):
        return {**found, "kind": "period", "freq": labels.freqstr, "values": labels.asi8.tolist()}
    if isinstance(labels, (pd.DatetimeIndex, pd.TimedeltaIndex)):
        zone = getattr(labels, "tz", None)
        times = {"unit": labels.unit, "freq": labels.freqstr, "zone": zone and str(zone)}
        kind = "datetime" if isinstance(labels, pd.DatetimeIndex) else "timedelta"
        return {**found, "kind": kind, **times, "values": labels.asi8.tolist()}
    values = labels.tolist()
    if not all(map(_is_json, values)):
        return None
    return {**found, "dtype": str(labels.dtype), "values": values}


def _is_json(value: Any) -> bool:
    return value is None or type(value) in (str, int, float, bool)


def rebuild_labels(
    description: dict[str, Any], names: Sequence[str], present: Sequence[str]
) -> pd.Index | None:
    """Rebuild the labels of some columns.

    Parameters
    ----------
    description : dict
        What :func:`describe_labels` returned.
    names : sequence of str
        Names of all columns that were described, in their order.
    present : sequence of str
        Names of the columns that need labels.

    Returns
    -------
    pandas.Index or None
        A column that was not described keeps its name. None if the description is damaged.

    Examples
    --------
    >>> description = describe_labels(pd.Index([1, 2]))
    >>> [str(label) for label in rebuild_labels(description, ["1", "2"], ["2", "_id"])]
    ['2', '_id']
    """
    try:
        labels: pd.Index = _rebuild(description)
        positions = {name: position for position, name in enumerate(names)}
        if len(labels) != len(names):
            return None
        if list(names) == list(present):
            return labels
        if all(name in positions for name in present):
            return labels[[positions[name] for name in present]] if present else labels[:0]
        levels = labels.nlevels
        found: list[Any] = [
            labels[positions[name]]
            if name in positions
            else name
            if levels == 1
            else (name, *[""] * (levels - 1))
            for name in present
        ]
        if levels > 1:
            labels = pd.MultiIndex.from_tuples(found, names=labels.names)
        else:
            labels = pd.Index(found, dtype=object, name=labels.name)
        return labels
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _rebuild(found: dict[str, Any]) -> Any:
    kind, name = found["kind"], found["name"]
    if kind == "multi":
        return pd.MultiIndex.from_arrays([_rebuild(level) for level in found["levels"]])
    if kind == "category":
        categories = _rebuild(found["categories"])
        values = pd.Categorical.from_codes(found["codes"], categories, found["ordered"])
        return pd.CategoricalIndex(values, name=name)
    if kind == "interval":
        left, right = _rebuild(found["left"]), _rebuild(found["right"])
        return pd.IntervalIndex.from_arrays(left, right, closed=found["closed"], name=name)
    if kind == "period":
        periods: Any = pd.PeriodIndex
        return periods.from_ordinals(found["values"], freq=found["freq"], name=name)
    if kind == "plain":
        return pd.Index(found["values"], dtype=found["dtype"], name=name)
    ticks = np.array(found["values"], np.int64)
    if kind == "timedelta":
        return pd.TimedeltaIndex(ticks.view(f"m8[{found['unit']}]"), freq=found["freq"], name=name)
    moments = pd.DatetimeIndex(ticks.view(f"M8[{found['unit']}]"), name=name)
    if found["zone"] is not None:
        moments = moments.tz_localize("UTC").tz_convert(found["zone"])
    return pd.DatetimeIndex(moments, freq=found["freq"])
