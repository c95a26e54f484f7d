"""Min and max values of pieces and parts, so that a filter need not read all of them.

A field has separate bounds for its numbers, strings, binary values, moments and booleans. Values
that are NaN, that are null or absent, or that have no bounds, are counted. Statistics stay valid
when documents are deleted.

They are recorded in plain MessagePack, with a list of minima and one of maxima for each field and
kind. Each list has an element for each piece.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.field_values import ValueBounds
from godb_arrow.errors import GodbError
from godb_arrow.former_ipc import read_former_batch
from godb_arrow.query.bounds import (
    Bounds,
    bounds_in,
    bounds_of_ascending,
    bounds_of_column,
    bounds_of_values,
)
from godb_arrow.schema import NANOSECONDS_PER_DAY, NANOSECONDS_PER_SECOND, is_json, is_text

__all__ = [
    "KINDS",
    "Row",
    "Statistics",
    "covered",
    "decode_statistics",
    "pack_statistics",
    "per_piece",
    "row_of",
    "statistics_of",
    "unpack_statistics",
]


_MAX_FIELDS = 64
_MAX_TEXT = 64  # bytes of a text's bound; of longer ones nothing is known
KINDS = ("numbers", "strings", "binaries", "moments", "booleans")
"""Kinds of values that have bounds of their own, in the order of :class:`Bounds`."""

_COUNTS = ("nans", "others")
_EXACT_FLOATS = 2**53  # below this magnitude, all integers are floats
_MAX_INT64 = 2**63 - 1
_IPC_START = b"\xff\xff\xff\xff"  # of statistics that version 0.1.0 wrote


def covered(schema: pa.Schema) -> pa.Schema:
    """Return the fields of a schema that have statistics.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of a collection.

    Returns
    -------
    pyarrow.Schema

    Examples
    --------
    >>> covered(pa.schema({"age": pa.int64(), "tags": pa.list_(pa.string())})).names
    ['age']
    """
    fields = (pa.field(field.name, field.type) for field in schema if _is_ordered(field.type))
    return pa.schema(list(itertools.islice(fields, _MAX_FIELDS)))


def _is_ordered(data_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(data_type)
        or pa.types.is_floating(data_type)
        or pa.types.is_boolean(data_type)
        or is_text(data_type)
        or pa.types.is_timestamp(data_type)
        or pa.types.is_date(data_type)
        or is_json(data_type)  # of mixed values
    )


Row = Mapping[str, Bounds]
"""Statistics of some documents: bounds of those fields of which anything is known."""


class Statistics:
    """Statistics of the pieces of a file, or of the parts of a collection.

    Parameters
    ----------
    count : int
        Number of pieces.
    fields : mapping of str to mapping
        Lists of each field, with an element for each piece. ``nulls`` has None where nothing is
        known, ``nans`` and ``others`` are optional, and each kind of values has a pair of lists.
    """

    def __init__(self, count: int, fields: Mapping[str, Mapping[str, Any]]) -> None:
        self._count = count
        self._fields = fields
        self._bounds: dict[str, list[Bounds | None]] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def names(self) -> list[str]:
        """Fields that have statistics."""
        return list(self._fields)

    def bounds(self, name: str) -> list[Bounds | None]:
        """Return the bounds of a field in each piece; None where nothing is known."""
        found = self._bounds.get(name)
        if found is None:
            found = self._bounds[name] = _bounds_in(self._fields.get(name), self._count)
        return found

    def packed(self) -> bytes:
        """Return the statistics in MessagePack."""
        found: bytes = msgpack.packb({"pieces": self._count, "fields": self._fields})
        return found


def _bounds_in(field: Any, count: int) -> list[Bounds | None]:
    """Return the bounds that lists have; nothing is known where these make no sense."""
    try:
        counts = [field.get("nans", [0] * count), field["nulls"], field.get("others", [0] * count)]
        pairs = [_unpacked(kind, field.get(kind)) for kind in KINDS]
        if any(pair is not None and len(pair) != 2 for pair in pairs):
            return [None] * count
        ends = [
            zip(itertools.repeat(None, count)) if pair is None else zip(*pair, strict=True)
            for pair in pairs
        ]
        rows = zip(*ends, *counts, strict=True)
        found = [_checked(row) for row in rows]
    except (KeyError, TypeError, ValueError, AttributeError):
        return [None] * count
    return found if len(found) == count else [None] * count


def _unpacked(kind: str, pair: Any) -> Any:
    """Return recorded minima and maxima; a moment is recorded as seconds and nanoseconds."""
    if kind != "moments" or pair is None:
        return pair
    return [[None if end is None else _moment_of(*end) for end in ends] for ends in pair]


def _moment_of(seconds: Any, nanoseconds: Any) -> int:
    if type(seconds) is not int or type(nanoseconds) is not int:
        raise TypeError("a moment has no numbers")
    return seconds * NANOSECONDS_PER_SECOND + nanoseconds


_TYPES: tuple[tuple[type, ...], ...] = ((int, float), (str,), (bytes,), (int,), (bool,))


def _checked(row: tuple[Any, ...]) -> Bounds | None:
    *pairs, nans, nulls, others = row
    if nulls is None:
        return None
    if any(type(count) is not int or count < 0 for count in (nans, nulls, others)):
        return None
    found: list[Any] = []
    for pair, types in zip(pairs, _TYPES, strict=True):
        if all(end is None for end in pair):
            found.append(None)
        elif all(type(end) in types for end in pair) and pair[0] <= pair[1]:
            found.append(pair)
        else:
            return None
    numbers, strings, binaries, moments, booleans = found
    return Bounds(numbers, strings, binaries, moments, booleans, nans, nulls, others)


# --- making them ------------------------------------------------------------------------------


def statistics_of(batch: pa.RecordBatch, fields: pa.Schema, ascending: str | None = None) -> Row:
    """Compute the statistics of documents from their columns.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        The documents' columns.
    fields : pyarrow.Schema
        Result of :func:`covered`.
    ascending : str, optional
        A field whose texts each come after the one before, by size and then by bytes.

    Returns
    -------
    dict of str to Bounds

    Examples
    --------
    >>> fields = pa.schema({"age": pa.int64()})
    >>> found = statistics_of(pa.record_batch({"age": [36, None, 41]}), fields)
    >>> found["age"].numbers, found["age"].nulls
    ((36, 41), 1)
    """
    found = {}
    for field in fields:
        index = batch.schema.get_field_index(field.name)
        if index >= 0 and batch.schema.field(index).type.equals(field.type):
            column = batch.column(index)
            bounds = bounds_of_ascending(column) if field.name == ascending else None
            if bounds is None:
                bounds = bounds_of_column(column)
            if bounds is not None:
                found[field.name] = bounds
    return found


def decode_statistics(
    entries: codec.Entries,
    fields: pa.Schema,
    values: Mapping[str, ValueBounds] | None = None,
) -> Row | None:
    """Compute the statistics of entries; None for damaged ones.

    Fields of mixed values, and those that do not fit their type, are read value by value.

    Parameters
    ----------
    entries : Entries
        The documents.
    fields : pyarrow.Schema
        Result of :func:`covered`.
    values : mapping of str to ValueBounds, optional
        Bounds of all values, if they were found with the kinds of values.

    Returns
    -------
    dict of str to Bounds, or None
    """
    try:
        if not values:
            values = codec.value_bounds(entries, fields.names)
        found = {}
        for field in fields:
            bounds = _known_bounds(values.get(field.name), field.type, len(entries))
            found[field.name] = bounds or _decoded_bounds(entries, field)
        return found
    except GodbError:
        return None


def _known_bounds(values: ValueBounds | None, data_type: pa.DataType, count: int) -> Bounds | None:
    """Return the bounds of a field; None where the documents must be decoded."""
    return Bounds(nulls=count) if values is None else bounds_in(values, data_type, count)


def _decoded_bounds(entries: codec.Entries, field: pa.Field) -> Bounds:
    """Return the bounds of a field of which a document has several values."""
    fields = pa.schema([field])
    if not is_json(field.type):
        try:
            batch = codec.decode_batch(entries, codec.plan_columns(fields, exact=True))
            found = statistics_of(batch, fields).get(field.name)
            if found is not None:
                return found
        except GodbError:
            pass  # A value does not fit the type.
    return bounds_of_values(codec.field_values(entries, [field.name]))


def row_of(statistics: Statistics, piece: int) -> Row:
    """Return the statistics of one piece."""
    found = {}
    for name in statistics.names:
        bounds = statistics.bounds(name)[piece]
        if bounds is not None:
            found[name] = bounds
    return found


def per_piece(rows: Sequence[Row | None], pieces: Sequence[int], fields: pa.Schema) -> Statistics:
    """Join the statistics of chunks to statistics of the pieces that contain them.

    Parameters
    ----------
    rows : sequence of Row or None
        The statistics of each chunk; None where nothing is known.
    pieces : sequence of int
        The piece of each chunk, in order.
    fields : pyarrow.Schema
        Result of :func:`covered`.

    Returns
    -------
    Statistics
        A row for each piece.
    """
    edges = [index for index, piece in enumerate(pieces) if not index or piece != pieces[index - 1]]
    spans = list(itertools.pairwise([*edges, len(pieces)]))
    columns = {}
    for name in fields.names:
        chunks = [None if row is None else row.get(name) for row in rows]
        joined = [_joined(chunks[first:last]) for first, last in spans]
        if any(one is not None for one in joined):
            columns[name] = _columns_of(joined)
    return Statistics(len(spans), columns)


def _joined(chunks: Sequence[Bounds | None]) -> Bounds | None:
    """Return the bounds of chunks together; None where the bounds of a chunk are unknown."""
    found: Bounds | None = None
    for bounds in chunks:
        if bounds is None:
            return None
        found = bounds if found is None else found.joined(bounds)
    return found


def _columns_of(pieces: Sequence[Bounds | None]) -> dict[str, Any]:
    """Return lists with an element for each piece, but those that say nothing."""
    found: dict[str, Any] = {"nulls": [None if one is None else one.nulls for one in pieces]}
    for name in _COUNTS:
        counts = [0 if one is None else getattr(one, name) for one in pieces]
        if any(counts):
            found[name] = counts
    for kind in KINDS:
        pairs = [None if one is None else getattr(one, kind) for one in pieces]
        if any(pair is not None for pair in pairs):
            found[kind] = [[_recorded(kind, pair, end) for pair in pairs] for end in (0, 1)]
    return found


def _recorded(kind: str, pair: Any, end: int) -> Any:
    if pair is None:
        return None
    return list(divmod(pair[end], NANOSECONDS_PER_SECOND)) if kind == "moments" else pair[end]


# --- recording them ---------------------------------------------------------------------------


def pack_statistics(statistics: Statistics) -> bytes:
    """Return statistics in MessagePack."""
    return statistics.packed()


def unpack_statistics(packed: bytes, count: int) -> Statistics | None:
    """Return packed statistics; None where they make no sense, or are of other pieces."""
    if packed.startswith(_IPC_START):
        return _former_statistics(packed, count)
    try:
        found = msgpack.unpackb(packed)
        fields = found["fields"]
        if found["pieces"] != count or not all(isinstance(name, str) for name in fields):
            return None
        if not all(isinstance(field, dict) for field in fields.values()):
            return None
    except (KeyError, TypeError, ValueError, AttributeError, msgpack.UnpackException):
        return None
    return Statistics(count, fields)


def _former_statistics(packed: bytes, count: int) -> Statistics | None:
    """Return statistics that version 0.1.0 wrote, as three columns of each field."""
    batch = read_former_batch(packed)
    if batch is None or batch.num_rows != count or len(batch.schema) % 3:
        return None
    names = batch.schema.names
    if len(set(names)) < len(names):
        return None
    fields = {}
    for index in range(0, len(names), 3):
        name = names[index].removesuffix("\0least")
        if names[index : index + 3] != [f"{name}\0{end}" for end in ("least", "greatest", "nulls")]:
            return None
        least, greatest, nulls = batch.columns[index : index + 3]
        if least.type != greatest.type or nulls.type != pa.int64() or not _is_ordered(least.type):
            return None
        pieces = [_former_bounds(*row) for row in zip(least, greatest, nulls, strict=True)]
        fields[name] = _columns_of(pieces)
    return Statistics(count, fields)


def _former_bounds(least: pa.Scalar, greatest: pa.Scalar, nulls: pa.Scalar) -> Bounds | None:
    if not nulls.is_valid:
        return None
    if not least.is_valid:
        return Bounds(nulls=nulls.as_py())
    bounds = bounds_of_column(pa.array([least, greatest], least.type))
    if bounds is None:
        return None
    return bounds._replace(
        numbers=bounds.numbers and _unrounded(*bounds.numbers),
        moments=bounds.moments and (bounds.moments[0], bounds.moments[1] + NANOSECONDS_PER_DAY),
        nulls=nulls.as_py(),
    )


def _unrounded(low: int | float, high: int | float) -> tuple[int | float, int | float]:
    """Return bounds that also hold for integers which a column of floats rounded."""
    if isinstance(low, float) and abs(low) >= _EXACT_FLOATS:
        low = math.nextafter(low, -math.inf)
    if isinstance(high, float) and abs(high) >= _EXACT_FLOATS:
        high = math.nextafter(high, math.inf)
    return low, high
