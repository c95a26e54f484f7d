"""Min and max values of one field in some documents, from columns or from the values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.codec.columns import UNITS
from godb_arrow.codec.field_values import FieldValues, ValueBounds, ValueKind
from godb_arrow.schema import NANOSECONDS_PER_DAY, NANOSECONDS_PER_SECOND, is_json, is_text

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "Bounds",
    "bounds_in",
    "bounds_of_ascending",
    "bounds_of_column",
    "bounds_of_values",
]

_MAX_TEXT = 64  # bytes of a text's bound; of longer ones nothing is known
_EXACT_FLOATS = 2**53  # below this magnitude, all integers are floats


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


def bounds_of_ascending(column: pa.Array) -> Bounds | None:
    """Return the bounds of texts that ascend, where all have the same size; else None."""
    first, last = column[0], column[-1]
    if not pa.types.is_string(column.type) or not first.is_valid or not last.is_valid:
        return None
    sizes = len(first.as_buffer()), len(last.as_buffer())
    if not sizes[0] == sizes[1] <= _MAX_TEXT:
        return None
    return Bounds(strings=(first.as_py(), last.as_py()))


def bounds_of_column(column: pa.Array) -> Bounds | None:
    """Return the bounds of a column; None for JSON text, which must be read value by value."""
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


def bounds_of_values(values: FieldValues) -> Bounds:
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


# --- from the bounds that the codec finds -----------------------------------------------------


def bounds_in(values: ValueBounds, data_type: pa.DataType, count: int) -> Bounds | None:
    """Return the bounds of a field as its decoded values have them.

    Parameters
    ----------
    values : ValueBounds
        Bounds of all values of the field.
    data_type : pyarrow.DataType
        Type of its column.
    count : int
        Number of documents.

    Returns
    -------
    Bounds or None
        None where a key is repeated, so that the documents must be decoded.
    """
    if values.values != values.documents:
        return None
    nulls = values.nulls + count - values.documents
    if values.strings is not None and is_text(data_type):
        number, _, low, high = values.strings
        if number + values.nulls == values.values:  # no value of another kind
            return _string_bounds(number, low, high, nulls)
    found = _mixed_bounds(values, nulls)
    if found.numbers is not None and pa.types.is_floating(data_type):
        return found._replace(numbers=_as_floats(*found.numbers))
    return found


def _string_bounds(count: int, low: bytes, high: bytes, nulls: int) -> Bounds:
    """Return the bounds of strings, as `bounds_of_column` does."""
    if max(len(low), len(high)) > _MAX_TEXT:
        return Bounds(nulls=nulls, others=count)
    return Bounds(strings=(low.decode(), high.decode()), nulls=nulls)


def _as_floats(low: int | float, high: int | float) -> tuple[int | float, int | float]:
    """Return numbers as floats, if these hold all integers between them."""
    is_exact = low >= -_EXACT_FLOATS and high <= _EXACT_FLOATS
    return (float(low), float(high)) if is_exact else (low, high)


def _mixed_bounds(values: ValueBounds, nulls: int) -> Bounds:
    """Return the bounds of values of all kinds, as `bounds_of_values` does."""
    strings, long = _short_texts(values.strings)
    binaries, more = _short_texts(values.binaries)
    return Bounds(
        _number_ends(values),
        None if strings is None else (strings[0].decode(), strings[1].decode()),
        binaries,
        _moments(values),
        _booleans(values),
        values.nans,
        nulls,
        values.others + long + more,
    )


def _short_texts(texts: tuple[int, int, bytes, bytes] | None) -> tuple[Any, int]:
    """Return min and max of texts, or None and their number where one is too long."""
    if texts is None:
        return None, 0
    count, longest, low, high = texts
    return (None, count) if longest > _MAX_TEXT else ((low, high), 0)


def _number_ends(values: ValueBounds) -> Any:
    pairs = (values.integers, values.above_int64, values.floats)
    ends = [end for pair in pairs if pair is not None for end in pair]
    return (min(ends), max(ends)) if ends else None


def _moments(values: ValueBounds) -> tuple[int, int] | None:
    if values.moments is None:
        return None
    low, high = (seconds * NANOSECONDS_PER_SECOND + rest for seconds, rest in values.moments)
    return low, high


def _booleans(values: ValueBounds) -> tuple[bool, bool] | None:
    return (not values.falses, bool(values.trues)) if values.trues or values.falses else None
