"""Choice of a compound index for a filter, and the ranges of its keys to search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from godb_arrow.query.predicate import Range
from godb_arrow.snapshots.index_names import MAX_KEY_BYTES, compound_of
from godb_arrow.snapshots.value_keys import bounds_of, max_text_bytes

__all__ = ["CompoundSearch", "are_alike", "choose_compound", "plain_conditions"]

_MAX_RANGES = 64
"""Max ranges of keys that a filter searches; the rest of the fields then is not searched."""

_Conditions = Sequence[Sequence[Range]]
_LAST = b"\xff"
_PLAIN = (str, int, float)
_UNKEYED = (None, None)
"""Documents with lists, maps and extension values."""


class CompoundSearch(NamedTuple):
    """Search in the keys of a compound index.

    Attributes
    ----------
    name : str
        Name of the keys.
    fields : tuple of str
        Fields of the index.
    ranges : list of tuple
        First and last key of each range.
    covered : list of sequence of Range
        Conditions that the ranges express.
    """

    name: str
    fields: tuple[str, ...]
    ranges: list[tuple[bytes | None, bytes | None]]
    covered: list[Sequence[Range]]


def choose_compound(names: Iterable[str], conditions: _Conditions) -> CompoundSearch | None:
    """Return the search in the compound index that covers most conditions.

    Parameters
    ----------
    names : iterable of str
        Names of all indexes.
    conditions : sequence of sequence of Range
        Conditions, each with ranges in one of which a matching document has a value.

    Returns
    -------
    CompoundSearch or None
        None without a compound index that is better than the indexes of single fields.
    """
    known = frozenset(names)
    best: CompoundSearch | None = None
    for name in known:
        fields = compound_of(name)
        if not fields:
            continue
        found = _search(name, fields, conditions)
        least = 1 if fields[0] in known else 0
        if len(found.covered) > max(least, 0 if best is None else len(best.covered)):
            best = found
    return best


def plain_conditions(filter: Any) -> list[tuple[Range, ...]] | None:
    """Return the conditions of a simple filter without compiling it; None for another filter.

    The conditions equal those by :func:`~godb_arrow.query.predicate.alternatives`. The literals are
    those that documents store unchanged.
    """
    if type(filter) is not dict:
        return None
    found: list[tuple[Range, ...]] = []
    for path, condition in filter.items():
        if type(path) is not str or path.startswith("$"):
            return None
        if type(condition) is not dict:
            condition = {"$eq": condition}
        for operator, literal in condition.items():
            if type(literal) not in _PLAIN or (type(literal) is float and math.isnan(literal)):
                return None
            if operator == "$eq":
                found.append((Range(path, literal, literal),))
            elif operator in ("$gt", "$gte"):
                found.append((Range(path, literal, None),))
            elif operator in ("$lt", "$lte"):
                found.append((Range(path, None, literal),))
            else:
                return None
    return found


def _search(name: str, fields: tuple[str, ...], conditions: _Conditions) -> CompoundSearch:
    text_bytes = max_text_bytes(len(fields), MAX_KEY_BYTES)
    prefixes, covered = [b""], []
    last: list[tuple[bytes, bytes]] = [(b"", b"")]
    for field in fields:
        own = [ranges for ranges in conditions if all(one.field == field for one in ranges)]
        used, bounds, are_points = _bounds_of_field(own, text_bytes)
        if not used or len(prefixes) * len(bounds) > _MAX_RANGES:
            break
        covered += used
        if not are_points:
            last = bounds
            break
        prefixes = [prefix + key for prefix in prefixes for key, _ in bounds]
    ranges: list[tuple[bytes | None, bytes | None]] = [
        (
            (prefix + low)[:MAX_KEY_BYTES],
            (prefix + high).ljust(MAX_KEY_BYTES, _LAST)[:MAX_KEY_BYTES],
        )
        for prefix in prefixes
        for low, high in last
    ]
    return CompoundSearch(name, fields, [*ranges, _UNKEYED], covered)


def _bounds_of_field(
    conditions: _Conditions, text_bytes: int
) -> tuple[list[Sequence[Range]], list[tuple[bytes, bytes]], bool]:
    """Return conditions on one field, the ranges of keys, and whether each range is one key."""
    for ranges in sorted(conditions, key=len):
        if ranges and all(_is_point(one) for one in ranges):
            bounds = _joined(bounds_of(one.low, one.high, text_bytes) for one in ranges)
            if bounds is not None:
                return [ranges], bounds, all(low == high for low, high in bounds)
    low = high = None
    used: list[Sequence[Range]] = []
    for ranges in conditions:
        one = ranges[0]
        if len(ranges) > 1 or (low if one.high is None else high) is not None:
            continue
        if used and not are_alike(high if low is None else low, _literal(one)):
            continue
        # A document with a key has one value, so both bounds hold for the same.
        low = one.low if low is None else low
        high = one.high if high is None else high
        used.append(ranges)
    found = bounds_of(low, high, text_bytes) if used else None
    return (used, found, False) if found is not None else ([], [], False)


def _is_point(one: Range) -> bool:
    return one.low is one.high or (type(one.low) is type(one.high) and bool(one.low == one.high))


def _literal(one: Range) -> Any:
    return one.high if one.low is None else one.low


def _joined(
    found: Iterable[list[tuple[bytes, bytes]] | None],
) -> list[tuple[bytes, bytes]] | None:
    joined: list[tuple[bytes, bytes]] = []
    for bounds in found:
        if bounds is None:
            return None
        joined += bounds
    return joined


def are_alike(first: Any, second: Any) -> bool:
    """Return whether two literals are of one kind."""
    numbers = (int, float)
    return type(first) is type(second) or (
        isinstance(first, numbers) and isinstance(second, numbers)
    )
