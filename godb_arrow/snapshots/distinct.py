"""Distinct values of a field in the documents that match a filter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgpack
import numpy as np

from godb_arrow import codec
from godb_arrow.codec.field_values import FieldValues, ValueKind, parts_of
from godb_arrow.documents.loading import load_entry
from godb_arrow.query.filters import Filter
from godb_arrow.query.sort_order import text_column
from godb_arrow.query.value_order import identity_of, place_of
from godb_arrow.snapshots.find import matching
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["distinct_values"]

_WHOLE = (ValueKind.MAP, ValueKind.EXTENSION)


def distinct_values(
    snapshot: Snapshot, field: str, condition: Filter | None, indexed: Sequence[str]
) -> list[Any]:
    """Return the distinct values of a field: of lists, their elements.

    Parameters
    ----------
    snapshot : Snapshot
        The documents.
    field : str
        Field, or a dotted path into maps.
    condition : pyarrow.compute.Expression, mapping or None
        Filter; None for all documents.
    indexed : sequence of str
        Fields that have an index.

    Returns
    -------
    list
        Values in the order in which they sort. Numbers that are equal count once.
    """
    parts = parts_of(field)
    found: dict[Any, Any] = {}
    for entries, rows in matching(snapshot, condition, indexed):
        if len(rows) < len(entries):
            entries = codec.take(entries, np.asarray(rows, np.int64))
        values = codec.field_values(entries, parts)
        whole = _rows_with_containers(values)
        _add_scalars(found, values, whole)
        for row in whole.tolist():
            document = load_entry(entries, row)
            for value in _elements(_values_at(document, parts)):
                found.setdefault(identity_of(value), value)
    return sorted(found.values(), key=_place)


def _rows_with_containers(values: FieldValues) -> Any:
    """Return the rows that have maps, extensions, or lists in lists among their values."""
    rows = values.rows[np.isin(values.kinds, _WHOLE)]
    lists, counts = np.unique(values.rows[values.kinds == ValueKind.ARRAY], return_counts=True)
    return np.union1d(rows, lists[counts > 1])


def _add_scalars(found: dict[Any, Any], values: FieldValues, without: Any) -> None:
    is_kept = ~np.isin(values.rows, without)
    for kind in ValueKind:
        mask = is_kept & (values.kinds == kind)
        if kind in (ValueKind.ABSENT, ValueKind.ARRAY) or not mask.any():
            continue
        for value in _scalars(kind, values, mask):
            found.setdefault(identity_of(value), value)


def _scalars(kind: ValueKind, values: FieldValues, mask: Any) -> Iterable[Any]:
    words = values.words[mask]
    if kind is ValueKind.NULL:
        return [None]
    if kind in (ValueKind.FALSE, ValueKind.TRUE):
        return [kind is ValueKind.TRUE]
    if kind is ValueKind.INT:
        return np.unique(words.view(np.int64)).tolist()  # type: ignore[no-any-return]
    if kind is ValueKind.ABOVE_INT64:
        return np.unique(words).tolist()  # type: ignore[no-any-return]
    if kind is ValueKind.FLOAT:
        return np.unique(words.view(np.float64)).tolist()  # type: ignore[no-any-return]
    if kind is ValueKind.MOMENT:
        pairs = np.unique(np.stack([words.view(np.int64), values.sizes[mask]], 1), axis=0)
        moments = (msgpack.Timestamp(*pair) for pair in pairs.tolist())
        return [codec.load(codec.pack({"v": moment}))["v"] for moment in moments]
    texts = text_column(values, mask).unique().to_pylist()
    return [text.decode() for text in texts] if kind is ValueKind.STRING else texts


def _values_at(value: Any, parts: Sequence[str]) -> Iterator[Any]:
    """Yield the values that a dotted name leads to, as filters read it."""
    if not parts:
        yield value
    elif isinstance(value, dict):
        for count in range(len(parts), 0, -1):  # a key that has dots comes first
            name = ".".join(parts[:count])
            if name in value:
                yield from _values_at(value[name], parts[count:])
                return
    elif isinstance(value, list):
        for element in value:
            if isinstance(element, dict):
                yield from _values_at(element, parts)


def _elements(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _place(value: Any) -> tuple[Any, ...]:
    """Return a key that sorts scalars as documents are sorted, and containers last."""
    return isinstance(value, (dict, list, msgpack.ExtType)), place_of(value)
