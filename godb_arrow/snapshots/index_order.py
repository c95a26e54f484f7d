"""First rows of one file in the order of a field, from the index of the field."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.query.sort_order import SortKey, key_columns
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


def first_rows(
    file: Base, key: SortKey, most: int, deleted: Rows, after: Mapping[str, Any] | None = None
) -> Rows | None:
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
    after : mapping, optional
        Key columns of a document after which the wanted ones come; default none.

    Returns
    -------
    array of int64 or None
        None if the index does not tell, or names too many.
    """
    if after is not None and file.count <= _MIN_ROWS:
        return np.arange(file.count)  # Reading all of them is as fast.
    keys = sorted_keys(file, key.field)
    if keys.has_lists or keys.others:
        return None
    limit = max(_MIN_ROWS, file.count // _MAX_ROWS_SHARE)
    is_live = np.ones(file.count, bool)
    is_live[deleted] = False
    found: list[npt.NDArray[np.uint32]] = []
    total = live = 0
    groups = list(_groups(keys, key))
    if after is not None:
        groups, equal = _groups_after(file, key, groups, after)
        most += int(is_live[equal].sum())
    for rows, is_equal in groups:
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


def _groups_after(
    file: Base, key: SortKey, groups: list[_Group], after: Mapping[str, Any]
) -> tuple[list[_Group], npt.NDArray[np.uint32]]:
    """Cut off the rows before a document's key.

    The keys of an index may be coarser than the order. So all rows that have a key in common with
    the first row, or with the row before it, remain.

    Returns
    -------
    groups : list
        The rows from the first one on that may come after the document.
    equal : array of uint32
        The rows among them that may have the document's key.
    """
    sought = after["rank 0"], after["key 0"], after["text 0"]
    known: dict[int, tuple[int, int, bytes]] = {}  # A key takes the decoding of a piece.

    def key_of(row: np.uint32) -> tuple[int, int, bytes]:
        found = known.get(int(row))
        if found is None:
            found = known[int(row)] = _key_of(file, int(row), key)
        return found

    def is_reached(row: np.uint32) -> bool:
        return key_of(row) <= sought if key.descending else key_of(row) >= sought

    def is_passed(row: np.uint32) -> bool:
        return key_of(row) < sought if key.descending else key_of(row) > sought

    left: list[_Group] = []
    equal: list[npt.NDArray[np.uint32]] = []
    for rows, is_equal in groups:
        start = max(0, bisect_left(rows, True, key=is_reached) - 1)
        while start and is_equal(start):
            start -= 1
        near = start + 1  # Few rows have the same key.
        while near < len(rows) and not is_passed(rows[near]):
            near += near - start
        end = bisect_left(rows, True, start, min(near, len(rows)), key=is_passed)
        end = min(len(rows), end + 1)
        while end < len(rows) and is_equal(end):
            end += 1
        equal.append(rows[start:end])
        left.append((rows[start:], partial(_shifted, is_equal, start)))
    return left, np.concatenate([np.empty(0, np.uint32), *equal])


def _shifted(is_equal: Callable[[int], bool], start: int, at: int) -> bool:
    return is_equal(start + at)


def _key_of(file: Base, row: int, key: SortKey) -> tuple[int, int, bytes]:
    """Return the rank, key and text of a document in an order."""
    ((entries, index),) = file.entries_at(np.array([row], np.int64))
    columns = key_columns(codec.take(entries, np.array([index], np.int64)), (key,))
    text: bytes = columns["text 0"][0].as_py()
    return int(columns["rank 0"][0]), int(columns["key 0"][0]), text


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
