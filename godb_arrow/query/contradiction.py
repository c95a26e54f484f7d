"""Comparison of recorded statistics with documents, for ``verify``."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.field_values import ValueBounds
from godb_arrow.query.bounds import Bounds
from godb_arrow.query.statistics import KINDS, Row, decode_statistics
from godb_arrow.schema import json_type

__all__ = ["contradiction"]

_MAX_INT64 = 2**63 - 1


def contradiction(
    row: Row, entries: codec.Entries, values: Mapping[str, ValueBounds] | None = None
) -> str | None:
    """Return a field that statistics are wrong about, with what documents have there.

    Parameters
    ----------
    row : mapping of str to Bounds
        The statistics.
    entries : Entries
        The documents.
    values : mapping of str to ValueBounds, optional
        Bounds of all values, if they were found before.
    """
    fields = pa.schema([(name, _type_of(bounds)) for name, bounds in row.items()])
    found = decode_statistics(entries, fields, values) or {}
    for name, bounds in row.items():
        if name not in found:
            return f"{name!r}"
        if not _agrees(bounds, found[name]):
            return f"{name!r}: {_shown(found[name])}"
    return None


def _type_of(bounds: Bounds) -> pa.DataType:
    """Return a type that values within bounds mostly have, so that they are decoded at once."""
    known = [kind for kind, pair in zip(KINDS, bounds[:5], strict=True) if pair is not None]
    if len(known) != 1 or bounds.others:
        return json_type()
    if bounds.numbers is not None:
        if any(type(end) is float for end in bounds.numbers) or bounds.nans:
            return pa.float64()
        return pa.int64() if bounds.numbers[1] <= _MAX_INT64 else pa.uint64()
    types = {"strings": pa.string(), "moments": pa.timestamp("ns"), "booleans": pa.bool_()}
    return types.get(known[0], json_type())


def _agrees(recorded: Bounds, found: Bounds) -> bool:
    """Return whether bounds hold; values without bounds may be among them, but not the reverse."""
    if recorded.others:
        return recorded.nulls >= found.nulls
    return recorded.includes(found)


def _shown(bounds: Bounds) -> str:
    known = [f"{pair[0]!r} to {pair[1]!r}" for pair in bounds[:5] if pair is not None]
    return ", ".join([*known, f"{bounds.nulls} nulls"])
