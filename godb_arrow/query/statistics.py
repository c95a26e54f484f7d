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
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.codec.columns import UNITS
from godb_arrow.codec.field_values import FieldValues, ValueKind
from godb_arrow.errors import GodbError
from godb_arrow.former_ipc import read_former_batch
from godb_arrow.schema import NANOSECONDS_PER_DAY, NANOSECONDS_PER_SECOND, is_json, is_text

__all__ = [
    "KINDS",
    "Bounds",
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


class Bounds(NamedTuple):
    """Values of a field in some documents.

    Attributes
    ----------
    numbers : tuple of int or float, or None
        Min and max of the numbers that are not NaN; None where there are none.
    strings : tuple of str, or None
        The same of strings, by code point.
    binaries : tuple of bytes, or None
        The same of binary values.
    moments : tuple of int, or None
        The same of moments, in nanoseconds since 1970.
    booleans : tuple of bool, or None
        The same of booleans.
    nans : int
        Number of NaN.
    nulls : int
        Number of documents where the field is null or absent.
    others : int
        Number of values without bounds: lists, maps, long texts, and so on.
    """

    numbers: tuple[int | float, int | float] | None = None
    strings: tuple[str, str] | None = None
    binaries: tuple[bytes, bytes] | None = None
    moments: tuple[int, int] | None = None
    booleans: tuple[bool, bool] | None = None
    nans: int = 0
    nulls: int = 0
    others: int = 0

    def joined(self, other: Bounds) -> Bounds:
        """Return the bounds of the documents of both."""
        pairs = [_join(mine, its) for mine, its in zip(self[:5], other[:5], strict=True)]
        counts = [mine + its for mine, its in zip(self[5:], other[5:], strict=True)]
        return Bounds(*pairs, *counts)

    def includes(self, other: Bounds) -> bool:
        """Return whether the bounds hold for documents that have exactly these."""
        return all(
            its is None or _holds(mine, its) for mine, its in zip(self[:5], other[:5], strict=True)
        ) and all(mine >= its for mine, its in zip(self[5:], other[5:], strict=True))


def _holds(bounds: Any, other: Any) -> bool:
    return bounds is not None and bool(bounds[0] <= other[0] and other[1] <= bounds[1])


def _join(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return min(first[0], second[0]), max(first[1], second[1])


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
            bounds = _ends(column) if field.name == ascending else None
            if bounds is None:
                bounds = _column_bounds(column)
            if bounds is not None:
                found[field.name] = bounds
    return found


def _ends(column: pa.Array) -> Bounds | None:
    """Return the bounds of texts that ascend, where all have the same size; else None."""
    first, last = column[0], column[-1]
    if not pa.types.is_string(column.type) or not first.is_valid or not last.is_valid:
        return None
    sizes = len(first.as_buffer()), len(last.as_buffer())
    if not sizes[0] == sizes[1] <= _MAX_TEXT:
        return None
    return Bounds(strings=(first.as_py(), last.as_py()))


def _column_bounds(column: pa.Array) -> Bounds | None:
    data_type, nulls = column.type, column.null_count
    if is_json(data_type):
        return None
    if nulls == len(column):
        return Bounds(nulls=nulls)
    if is_text(data_type):
        return _text_bounds(column, nulls)
    if pa.types.is_floating(data_type) or pa.types.is_integer(data_type):
        return _number_bounds(_numbers(column), nulls)
    if pa.types.is_boolean(data_type):
        return Bounds(booleans=(not column.false_count, bool(column.true_count)), nulls=nulls)
    ticks, scale = _numbers(column), _nanoseconds_of_tick(data_type)
    return Bounds(moments=(int(ticks.min()) * scale, int(ticks.max()) * scale), nulls=nulls)


def _text_bounds(column: pa.Array, nulls: int) -> Bounds:
    if pa.types.is_string(column.type):
        least, greatest = codec.text_extremes(column)
        texts = column[least], column[greatest]
    else:
        found = pc.min_max(column)
        texts = found["min"], found["max"]
    if any(len(text.as_buffer()) > _MAX_TEXT for text in texts):
        return Bounds(nulls=nulls, others=len(column) - nulls)
    return Bounds(strings=(texts[0].as_py(), texts[1].as_py()), nulls=nulls)


def _number_bounds(values: npt.NDArray[Any], nulls: int) -> Bounds:
    low, high = values[values.argmin()], values[values.argmax()]
    nans = 0
    if np.isnan(low):
        is_nan = np.isnan(values)
        nans = int(is_nan.sum())
        if nans == len(values):
            return Bounds(nans=nans, nulls=nulls)
        values = values[~is_nan]
        low, high = values.min(), values.max()
    return Bounds(numbers=(low.item(), high.item()), nans=nans, nulls=nulls)


def _dtype_of(data_type: pa.DataType) -> np.dtype[Any]:
    types = pa.types
    kind = "f" if types.is_floating(data_type) else "u" if str(data_type)[0] == "u" else "i"
    return np.dtype(f"{kind}{data_type.bit_width // 8}")


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    """Return the values of a column that are not null; Arrow would import its kernels first."""
    dtype = _dtype_of(column.type)
    valid, values = column.buffers()
    start = column.offset * dtype.itemsize
    numbers: npt.NDArray[Any] = np.frombuffer(values, dtype, len(column), start)
    if not column.null_count:
        return numbers
    count = column.offset + len(column)
    bits = np.unpackbits(np.frombuffer(valid, np.uint8), count=count, bitorder="little")
    present: npt.NDArray[Any] = numbers[bits[column.offset :].view(bool)]
    return present


def _nanoseconds_of_tick(data_type: pa.DataType) -> int:
    """Return the nanoseconds of a tick of a timestamp or date."""
    if pa.types.is_date32(data_type):
        return NANOSECONDS_PER_DAY
    unit = "ms" if pa.types.is_date64(data_type) else data_type.unit
    return int(NANOSECONDS_PER_SECOND // UNITS[unit])


def decode_statistics(entries: codec.Entries, fields: pa.Schema) -> Row | None:
    """Compute the statistics of entries; None for damaged ones.

    Fields of mixed values, and those that do not fit their type, are read value by value.
    """
    try:
        typed = pa.schema([field for field in fields if not is_json(field.type)])
        try:
            found = dict(
                statistics_of(
                    codec.decode_batch(entries, codec.plan_columns(typed, exact=True)), typed
                )
            )
        except GodbError:
            found, typed = {}, pa.schema([])
        for field in fields:
            if field.name not in typed.names:
                values = codec.field_values(entries, [field.name])
                found[field.name] = _value_bounds(values)
        return found
    except GodbError:
        return None


def _value_bounds(values: FieldValues) -> Bounds:
    """Return the bounds of values of all kinds; a list has none, and its elements count not."""
    kinds = values.kinds
    # The elements of a list come after it, in the same row.
    first = np.ones(len(kinds), bool)
    first[1:] = values.rows[1:] != values.rows[:-1]
    seen = [kinds == kind for kind in ValueKind]
    nulls = int((first & (seen[ValueKind.ABSENT] | seen[ValueKind.NULL])).sum())
    lists = np.unique(values.rows[seen[ValueKind.ARRAY]])
    inside = np.isin(values.rows, lists)
    others = int((first & (inside | seen[ValueKind.MAP] | seen[ValueKind.EXTENSION])).sum())
    usable = ~inside
    numbers, nans = _joined_numbers(values, usable)
    strings, long = _joined_texts(values, usable & seen[ValueKind.STRING])
    binaries, more = _joined_texts(values, usable & seen[ValueKind.BINARY])
    moments = _joined_moments(values, usable & seen[ValueKind.MOMENT])
    no, yes = ((usable & seen[kind]).any() for kind in (ValueKind.FALSE, ValueKind.TRUE))
    return Bounds(
        numbers,
        None if strings is None else (strings[0].decode(), strings[1].decode()),
        binaries,
        moments,
        (not no, bool(yes)) if no or yes else None,
        nans,
        nulls,
        others + long + more,
    )


def _joined_numbers(values: FieldValues, usable: npt.NDArray[np.bool_]) -> tuple[Any, int]:
    nans = 0
    ends: list[int | float] = []
    for kind, dtype in (
        (ValueKind.INT, np.int64),
        (ValueKind.ABOVE_INT64, np.uint64),
        (ValueKind.FLOAT, np.float64),
    ):
        numbers = values.words[usable & (values.kinds == kind)].view(dtype)
        if kind is ValueKind.FLOAT:
            is_nan = np.isnan(numbers)
            nans = int(is_nan.sum())
            numbers = numbers[~is_nan]
        if len(numbers):
            ends += [numbers.min().item(), numbers.max().item()]
    return (min(ends), max(ends)) if ends else None, nans


def _joined_texts(values: FieldValues, chosen: npt.NDArray[np.bool_]) -> tuple[Any, int]:
    places = np.flatnonzero(chosen)
    if not len(places):
        return None, 0
    if int(values.sizes[places].max()) > _MAX_TEXT:
        return None, len(places)
    texts = {values.text(place) for place in places.tolist()}
    return (min(texts), max(texts)), 0


def _joined_moments(values: FieldValues, chosen: npt.NDArray[np.bool_]) -> Any:
    seconds = values.words[chosen].view(np.int64)
    if not len(seconds):
        return None
    rest = values.sizes[chosen]
    order = np.lexsort((rest, seconds))
    ends = [
        int(seconds[at]) * NANOSECONDS_PER_SECOND + int(rest[at]) for at in (order[0], order[-1])
    ]
    return (ends[0], ends[1])


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
    bounds = _column_bounds(pa.array([least, greatest], least.type))
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
