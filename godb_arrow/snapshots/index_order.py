"""First rows of one file in the order of a field, from the index of the field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.query.sort_order import SortKey
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.indexes import sorted_keys

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["first_rows"]

_MAX_ROWS_SHARE = 8
"""Rows of a file, one in so many, up to which an index is faster than reading all documents."""

_MIN_ROWS = 1_000

_Group: TypeAlias = "tuple[npt.NDArray[np.uint32], Callable[[int], bool]]"
"""Rows in the order of their keys, and a function for whether a key equals the key before."""


def first_rows(file: Base, key: SortKey, most: int, deleted: Rows) -> Rows | None:
    """Return rows among which the first documents of a file are.

    Parameters
    ----------
    file : Base
        One file.
    key : SortKey
        The order.
    most : int
        Number of wanted documents.
    deleted : array of int64
        Deleted rows, in order.

    Returns
    -------
    array of int64 or None
        None if the index does not tell, or names too many.
    """
    keys = sorted_keys(file, key.field)
    if keys.has_lists or keys.others:
        return None
    limit = max(_MIN_ROWS, file.count // _MAX_ROWS_SHARE)
    is_live = np.ones(file.count, bool)
    is_live[deleted] = False
    found: list[npt.NDArray[np.uint32]] = []
    total = live = 0
    for rows, is_equal in _groups(keys, key):
        counted = np.cumsum(is_live[rows])
        end = min(int(np.searchsorted(counted, most - live)) + 1, len(rows))
        while end < len(rows) and total + end <= limit and is_equal(end):
            end += 1
        found.append(rows[:end])
        total += end
        live += int(is_live[rows[:end]].sum())
        if total > limit:
            return None
        if live >= most:
            break
    return np.concatenate([np.empty(0, np.int64), *found]).astype(np.int64)


def _groups(keys: codec.SortedKeys, key: SortKey) -> Iterator[_Group]:
    """Yield the rows of each kind of value, in the order of the kinds."""
    numbers, texts, packed = keys.arrays()
    rows = [np.frombuffer(found, np.uint32) for found in packed]
    number, moment, string, binary, false, true, nan, null, _ = rows
    words = [np.frombuffer(found, np.uint64) for found in numbers]
    kinds: list[_Group] = [
        (nan, _always),
        (number, _equal_words(words[0])),
        (string, _equal_texts(*texts[0])),
        (binary, _equal_texts(*texts[1])),
        (false, _always),
        (true, _always),
        (moment, _equal_words(words[1])),
    ]
    if key.descending:
        kinds = [_reversed(*group) for group in reversed(kinds)]
    yield from [(null, _always), *kinds] if key.nulls_first else [*kinds, (null, _always)]


def _always(at: int) -> bool:
    del at
    return True


def _reversed(rows: npt.NDArray[np.uint32], is_equal: Callable[[int], bool]) -> _Group:
    return rows[::-1], lambda at: is_equal(len(rows) - at)


def _equal_words(words: npt.NDArray[np.uint64]) -> Callable[[int], bool]:
    return lambda at: bool(words[at] == words[at - 1])


def _equal_texts(ends: bytes, blob: bytes) -> Callable[[int], bool]:
    edges = np.frombuffer(ends, np.uint32)
    return lambda at: blob[edges[at - 1] : edges[at]] == blob[edges[at] : edges[at + 1]]
