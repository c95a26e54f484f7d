"""Order of documents by some of their fields, and keys that sort like it.

One order holds across all kinds of values, as in MongoDB: an empty list, null and absent, NaN,
numbers, strings, maps, binary, booleans, moments, extensions. Numbers compare exactly, strings by
code point. Maps are equal to each other, and so are extensions. A list counts by its min element in
ascending order, and by its max element in descending order. A list in it counts by its elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.codec.field_values import FieldValues, ValueKind, parts_of
from godb_arrow.errors import InvalidOption
from godb_arrow.query.fields import is_storable
from godb_arrow.query.value_order import Rank

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "KEY_TYPES",
    "Sort",
    "SortKey",
    "key_columns",
    "parse_sort",
    "sort_indices",
    "text_column",
]

Sort: TypeAlias = "str | Sequence[str | tuple[Any, ...]] | Mapping[str, Any]"
"""Order of documents: a field, several fields, or fields with directions."""

_DIRECTIONS: dict[Any, bool] = {1: False, -1: True, "ascending": False, "descending": True}
_NULLS = {"first": True, "last": False}
_ADVICE = 'give a field, such as "age" or "-age", or a mapping such as {"age": -1}'

_LAST = 255
"""Rank of nulls that sort after all values."""

_RANKS = np.zeros(max(ValueKind) + 1, np.uint8)
for _kind, _rank in {
    ValueKind.ABSENT: Rank.NULL,
    ValueKind.NULL: Rank.NULL,
    ValueKind.FALSE: Rank.BOOL,
    ValueKind.TRUE: Rank.BOOL,
    ValueKind.INT: Rank.NUMBER,
    ValueKind.ABOVE_INT64: Rank.NUMBER,
    ValueKind.FLOAT: Rank.NUMBER,
    ValueKind.STRING: Rank.STRING,
    ValueKind.BINARY: Rank.BINARY,
    ValueKind.MOMENT: Rank.MOMENT,
    ValueKind.ARRAY: Rank.EMPTY,
    ValueKind.MAP: Rank.MAP,
    ValueKind.EXTENSION: Rank.OTHER,
}.items():
    _RANKS[_kind] = _rank

_SIGN = np.uint64(1 << 63)
_ABOVE_UINT64, _ABOVE_INT64 = 2.0**64, 2.0**63
_PARTS = ("rank", "key", "rest", "text")
"""Columns of one sort key: kind of the value, its coarse key, what the key rounds off, its text."""


KEY_TYPES = {
    "rank": pa.uint8(),
    "key": pa.uint64(),
    "rest": pa.int64(),
    "text": pa.large_binary(),
    "id": pa.large_binary(),
}
"""Arrow types of the columns of a sort key, and of the id."""


class SortKey(NamedTuple):
    """Field of an order.

    Attributes
    ----------
    field : str
        Field, or a dotted path into maps.
    descending : bool
        Whether larger values come first.
    nulls_first : bool
        Whether null and absent come before all values.
    """

    field: str
    descending: bool
    nulls_first: bool


def parse_sort(sort: Sort) -> tuple[SortKey, ...]:
    """Return the keys of an order.

    Parameters
    ----------
    sort : str, sequence or mapping
        A field, with ``-`` before its name for descending order, or several of them. A tuple has a
        field, a direction, and ``"first"`` or ``"last"`` for nulls. A mapping has directions by
        field. Directions are 1, -1, "ascending" and "descending".

    Raises
    ------
    InvalidOption
    """
    items: Iterable[Any]
    if isinstance(sort, str):
        items = [sort]
    elif isinstance(sort, Mapping):
        items = sort.items()
    elif isinstance(sort, Sequence) and not isinstance(sort, bytes):
        items = sort
    else:
        raise InvalidOption(f"sort is {sort!r}", advice=_ADVICE)
    keys = [_key_of(item) for item in items]
    if not keys:
        raise InvalidOption("sort names no field", advice=_ADVICE)
    repeated = [
        key.field for at, key in enumerate(keys) if key.field in [k.field for k in keys[:at]]
    ]
    if repeated:
        raise InvalidOption(f"sort names the field {repeated[0]!r} twice", advice="name it once")
    return tuple(keys)


def _key_of(item: Any) -> SortKey:
    field, direction, nulls = item, 1, None
    if isinstance(item, str) and item.startswith("-"):
        field, direction = item[1:], -1
    elif isinstance(item, (tuple, list)) and 2 <= len(item) <= 3:
        field, direction, nulls = (*item, None)[:3]
    if not isinstance(field, str) or not field or not is_storable(field):
        raise InvalidOption(f"sort has {item!r}", advice=_ADVICE)
    is_known = isinstance(direction, (int, str)) and not isinstance(direction, bool)
    if not is_known or direction not in _DIRECTIONS:
        raise InvalidOption(
            f"the direction of {field!r} is {direction!r}",
            advice='give 1 or "ascending", -1 or "descending"',
        )
    descending = _DIRECTIONS[direction]
    if nulls is not None and (not isinstance(nulls, str) or nulls not in _NULLS):
        raise InvalidOption(f"nulls of {field!r} are {nulls!r}", advice='give "first" or "last"')
    return SortKey(field, descending, not descending if nulls is None else _NULLS[nulls])


def key_columns(entries: codec.Entries, keys: Sequence[SortKey]) -> dict[str, Any]:
    """Return the columns by which documents are sorted, four for each key.

    Parameters
    ----------
    entries : Entries
        The documents.
    keys : sequence of SortKey
        The order.

    Returns
    -------
    dict of str to array
        NumPy arrays, and Arrow arrays of texts.
    """
    columns: dict[str, Any] = {}
    for at, key in enumerate(keys):
        found = _values_of(codec.field_values(entries, parts_of(key.field)))
        if len(found.rows) > len(entries):
            found = _one_each(found, descending=key.descending)
        ranks = found.columns[0]
        if key.nulls_first is key.descending:
            ranks = np.where(ranks == Rank.NULL, np.uint8(_LAST), ranks)
        for part, column in zip(_PARTS, (ranks, *found.columns[1:]), strict=True):
            columns[f"{part} {at}"] = column
    return columns


def sort_indices(table: pa.Table, keys: Sequence[SortKey], ties: Sequence[str] = ()) -> pa.Array:
    """Return the indices that sort a table of key columns.

    Parameters
    ----------
    table : pyarrow.Table
        Columns of :func:`key_columns`, and others.
    keys : sequence of SortKey
        The order.
    ties : sequence of str
        Columns that order documents with equal keys, ascending.
    """
    wanted = [
        (f"{part} {at}", "descending" if key.descending else "ascending")
        for at, key in enumerate(keys)
        for part in _PARTS
    ]
    wanted = [one for one in wanted if not _is_constant(table.column(one[0]))]
    wanted += [(name, "ascending") for name in ties]
    if not wanted:
        return pa.array(np.arange(table.num_rows))
    return pc.sort_indices(table.select([name for name, _ in wanted]), wanted)


def _is_constant(column: pa.ChunkedArray) -> bool:
    if pa.types.is_large_binary(column.type):
        return not any(pc.max(pc.binary_length(chunk)).as_py() for chunk in column.chunks)
    extremes = pc.min_max(column)
    return bool(extremes["min"] == extremes["max"])


class _Values(NamedTuple):
    """Values of a field with the row of each, as columns that sort like them."""

    rows: npt.NDArray[np.uint32]
    columns: tuple[Any, ...]


def _values_of(values: FieldValues) -> _Values:
    kinds, words = values.kinds, values.words
    ranks = _RANKS[kinds]
    keys = np.zeros(len(kinds), np.uint64)
    rest = np.zeros(len(kinds), np.int64)
    keys[kinds == ValueKind.TRUE] = 1
    for kind, dtype in ((ValueKind.INT, np.int64), (ValueKind.ABOVE_INT64, np.uint64)):
        mask = kinds == kind
        if mask.any():
            floats = words[mask].view(dtype).astype(np.float64)
            keys[mask] = _ordered(floats)
            rest[mask] = (words[mask] - _rounded(floats)).view(np.int64)
    mask = kinds == ValueKind.FLOAT
    if mask.any():
        floats = words[mask].view(np.float64)
        is_nan = np.isnan(floats)
        keys[mask] = np.where(is_nan, np.uint64(0), _ordered(floats))
        ranks[mask] = np.where(is_nan, np.uint8(Rank.NAN), np.uint8(Rank.NUMBER))
    mask = kinds == ValueKind.MOMENT
    if mask.any():
        keys[mask], rest[mask] = words[mask] ^ _SIGN, values.sizes[mask]
    return _Values(values.rows, (ranks, keys, rest, _texts_of(values)))


def _ordered(floats: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Return integers that have the order of floats; both zeros have one."""
    bits = (floats + 0.0).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _rounded(floats: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Return the bits of the integers that floats are, modulo 2**64."""
    below = np.where(np.abs(floats) < _ABOVE_INT64, floats, 0.0).astype(np.int64).view(np.uint64)
    is_above = (floats >= _ABOVE_INT64) & (floats < _ABOVE_UINT64)
    above = np.where(is_above, floats, 0.0).astype(np.uint64)
    is_min = floats == -_ABOVE_INT64
    return np.where(is_min, _SIGN, np.where(is_above, above, below))


def text_column(values: FieldValues, mask: npt.NDArray[np.bool_]) -> pa.Array:
    """Return the bytes of the chosen values, which are texts."""
    sizes = values.sizes[mask].astype(np.int64)
    first = values.words[mask].astype(np.int64)
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    data = codec.gather(values.data, first, first + sizes) if len(first) else b""
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(sizes), buffers)


def _texts_of(values: FieldValues) -> pa.Array:
    """Return the texts among values, and empty texts for other values."""
    mask = (values.kinds == ValueKind.STRING) | (values.kinds == ValueKind.BINARY)
    if mask.all():
        return text_column(values, mask)
    offsets = np.zeros(len(mask) + 1, np.int64)
    np.cumsum(np.where(mask, values.sizes, 0), out=offsets[1:])
    data = text_column(values, mask).buffers()[2]
    buffers = [None, pa.py_buffer(offsets), data]
    return pa.Array.from_buffers(pa.large_binary(), len(mask), buffers)


def _one_each(found: _Values, *, descending: bool) -> _Values:
    """Keep the first value of each row in an order: of a list, its min or max element."""
    ranks, keys, rest, texts = found.columns
    counts = np.bincount(found.rows)
    kept = np.flatnonzero((counts[found.rows] == 1) | (ranks != Rank.EMPTY))
    missing = np.setdiff1d(np.arange(len(counts)), found.rows[kept])  # lists of empty lists
    if len(missing):
        firsts = np.searchsorted(found.rows, missing)
        kept = np.sort(np.concatenate([kept, firsts]))
    columns = [ranks[kept], keys[kept], rest[kept], texts.take(pa.array(kept))]
    table = pa.table([found.rows[kept], *columns], names=["row", *_PARTS])
    direction = "descending" if descending else "ascending"
    order = pc.sort_indices(table, [("row", "ascending"), *((part, direction) for part in _PARTS)])
    table = table.take(order)
    _, firsts = np.unique(table.column("row").to_numpy(), return_index=True)
    chosen = table.take(pa.array(firsts)).combine_chunks()
    numbers = [chosen.column(part).to_numpy() for part in _PARTS[:3]]
    text = chosen.column("text")
    text = text.chunk(0) if text.num_chunks else pa.array([], pa.large_binary())
    return _Values(chosen.column("row").to_numpy(), (*numbers, text))
