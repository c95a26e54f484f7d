"""Conversion of Python values and Arrow arrays to MessagePack.

Arrow types that MessagePack does not have are stored like this:

=======================  ====================================================================
Arrow type               in the document
=======================  ====================================================================
date, timestamp          timestamp; one without a zone is stored as if it were UTC
time                     int, nanoseconds since midnight
duration                 int, nanoseconds (as Go's ``time.Duration``)
decimal                  string
dictionary               its values
``arrow.json``           the value that the text stands for
other extension types    their storage
=======================  ====================================================================
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.codec.columns import UNITS
from godb_arrow.codec.jsontext import from_json_text
from godb_arrow.errors import DepthExceeded, InvalidDocument, UnsupportedType
from godb_arrow.options import MAX_DEPTH
from godb_arrow.schema import NANOSECONDS_PER_DAY, is_json

__all__ = [
    "check_map_type",
    "check_struct_type",
    "pack",
    "stored_value",
    "wire_values",
]

_REFUSALS = (ValueError, OverflowError, TypeError, BufferError)
"""Errors of a value that cannot be packed."""

_DOUBLE_BYTES = 8
_SHOWN_CHARACTERS = 40  # of a text in a message
_SHOWN_BITS = 4096  # Python refuses to write longer integers as text
_MAX_ZEROS = 10_000  # that the exponent of a decimal adds; BSON needs up to 6,176
_NAT = -(2**63)  # ticks of NumPy's missing times
_NANOSECONDS_PER_TICK = {
    "W": (7 * NANOSECONDS_PER_DAY, 1),
    "D": (NANOSECONDS_PER_DAY, 1),
    "h": (3_600 * 10**9, 1),
    "m": (60 * 10**9, 1),
    "s": (10**9, 1),
    "ms": (10**6, 1),
    "us": (10**3, 1),
    "ns": (1, 1),
    "ps": (1, 10**3),
    "fs": (1, 10**6),
    "as": (1, 10**9),
}
"""Nanoseconds of a tick of NumPy's units, as a multiplier and a divisor."""

_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_DAYS_OF_400_YEARS = 146_097
_PLAIN_TYPES = frozenset((str, int, float, bool, bytes, type(None), dt.datetime))


def pack(value: Any) -> bytes:
    """Encode a value as MessagePack.

    Parameters
    ----------
    value : object
        Document or part of one: values of MessagePack, and mappings of any type. Values of NumPy,
        pandas and Arrow, dates, times, timedeltas, decimals, UUIDs and object ids are stored by
        the module's table. A datetime without a zone is taken as UTC.

    Returns
    -------
    bytes

    Raises
    ------
    InvalidDocument
        A value cannot be stored; the message has its path.
    DepthExceeded
        The value nests deeper than 128 levels.

    Examples
    --------
    >>> pack({"a": 1})
    b'\\x81\\xa1a\\x01'
    """
    if isinstance(value, dict):
        _check_depth(value)
    try:
        return _packed(value)
    except _REFUSALS as error:
        path = _find_invalid(value, "")
        raise InvalidDocument(
            f"the value at {path or 'the top'} cannot be stored: {error}",
            advice="convert it to a string, number, bool, bytes, datetime, list or dict",
        ) from error


def _packed(value: Any) -> bytes:
    packed: bytes = msgpack.packb(
        value, default=stored_value, datetime=True, unicode_errors="surrogateescape"
    )
    return packed


def _check_depth(document: Any) -> None:
    pending: list[tuple[Any, int]] = [(document, 1)]
    while pending:
        container, depth = pending.pop()
        for child in container.values() if isinstance(container, Mapping) else container:
            if type(child) in _PLAIN_TYPES:
                continue
            if isinstance(child, np.ndarray) and child.dtype.kind == "O":
                child = child.tolist()
            if isinstance(child, (dict, list, tuple, Mapping)) and not isinstance(child, pa.Scalar):
                if depth == MAX_DEPTH:
                    raise DepthExceeded(
                        f"the document nests deeper than {MAX_DEPTH} levels",
                        advice="reduce the nesting",
                    )
                pending.append((child, depth + 1))


def _find_invalid(value: Any, path: str) -> str | None:
    """Return the path to the first value that cannot be packed by itself."""
    children: Iterator[tuple[str, Any]]
    if isinstance(value, Mapping) and not isinstance(value, pa.Scalar):
        children = (
            (f"{path}.{_shown(key)}" if path else _shown(key), item) for key, item in value.items()
        )
    elif isinstance(value, (list, tuple)):
        children = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    else:
        children = iter(())
    for child_path, child in children:
        try:
            _packed(child)
        except _REFUSALS:
            return _find_invalid(child, child_path)
    return path


def _shown(key: Any) -> str:
    """Return a key as text for a path."""
    try:
        return str(key)
    except ValueError:  # an integer of many digits
        return f"<{type(key).__name__}>"


def stored_value(value: Any) -> Any:
    """Return a value that MessagePack has for one that it lacks.

    Raises
    ------
    TypeError
        There is none; the message describes the value.
    """
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    if kind.__name__ in ("NAType", "NaTType") and library == "pandas":
        return None  # checked before datetime, because NaT is a datetime
    if library == "pandas" and hasattr(value, "asm8"):
        return _from_numpy(value.asm8)  # a timestamp or timedelta of any unit
    if isinstance(value, dt.datetime):
        return _stamp(value)
    if isinstance(value, dt.date):
        return msgpack.Timestamp((value - dt.date(1970, 1, 1)).days * 86_400, 0)
    if isinstance(value, dt.time):
        if value.tzinfo is not None:
            raise TypeError("a time of day with a zone")
        seconds = (value.hour * 60 + value.minute) * 60 + value.second
        return (seconds * 1_000_000 + value.microsecond) * 1_000
    if isinstance(value, dt.timedelta):
        ticks = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
        return _duration(ticks, 1_000, 1)
    if isinstance(value, int):
        digits = len(str(abs(value))) if value.bit_length() < _SHOWN_BITS else "many"
        raise TypeError(f"the integer of {digits} digits does not fit in 64 bits")
    if isinstance(value, decimal.Decimal):
        return plain_decimal(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, (pa.Scalar, pa.Array, pa.ChunkedArray)):  # scalars of maps are mappings
        return _from_arrow(value)
    if isinstance(value, Mapping):
        return dict(value)
    if library == "numpy":
        return _from_numpy(value)
    if library == "pandas" and hasattr(value, "tolist"):
        return value.tolist()  # a Series, an index or an array
    if library == "bson":
        return _from_bson(value)
    raise TypeError(f"the type {kind.__name__}")


def plain_decimal(value: decimal.Decimal) -> str:
    """Return a decimal as text without an exponent.

    Raises
    ------
    TypeError
        The exponent adds so many zeros that a few bytes would become very many.
    """
    if value.is_finite():
        exponent = value.as_tuple().exponent
        assert isinstance(exponent, int)
        if max(exponent, -value.adjusted()) > _MAX_ZEROS:
            raise TypeError(f"the decimal with the exponent {exponent}")
    return format(value, "f")


def _from_bson(value: Any) -> Any:
    """Return an object id as its 24 hexadecimal digits, and a decimal as text."""
    name = type(value).__name__
    if name == "ObjectId":
        return str(value)
    if name == "Decimal128":
        return plain_decimal(value.to_decimal())
    raise TypeError(f"the type {name} of BSON")


def _from_arrow(value: pa.Scalar | pa.Array | pa.ChunkedArray) -> Any:
    try:
        if isinstance(value, pa.ChunkedArray):
            return [item for chunk in value.chunks for item in wire_values(chunk, "an array")]
        if isinstance(value, pa.Array):
            return wire_values(value, "an array")
        return wire_values(pa.array([value], value.type), "a scalar")[0]
    except (UnsupportedType, pa.ArrowException) as error:
        raise TypeError(f"the Arrow type {value.type}") from error


def _from_numpy(value: Any) -> Any:
    data_type: Any = getattr(value, "dtype", None)
    kind: str = "" if data_type is None else data_type.kind
    if kind == "M":
        return _map_items(value.astype(np.int64).tolist(), _moments(data_type))
    if kind == "m":
        return _map_items(value.astype(np.int64).tolist(), _durations(data_type))
    if kind == "f" and data_type.itemsize > _DOUBLE_BYTES:
        doubles = value.astype(np.float64)
        if not ((doubles == value) | np.isnan(value)).all():
            raise TypeError(f"a {data_type} that a float of 64 bits would round")
        return doubles.tolist()
    if kind and kind in "biufSUOT":
        return value.tolist()
    raise TypeError(f"the NumPy type {data_type or type(value).__name__}")


def _map_items(values: Any, function: Callable[[int], Any]) -> Any:
    """Apply a function to ticks in nested lists; what NumPy calls NaT becomes None."""
    if isinstance(values, list):
        return [_map_items(value, function) for value in values]
    return None if values == _NAT else function(values)


def _moments(data_type: np.dtype[Any]) -> Callable[[int], Any]:
    """Return the function from ticks of a ``datetime64`` to timestamps."""
    unit, count = np.datetime_data(data_type)
    if unit in ("Y", "M"):
        months = 12 * count if unit == "Y" else count
        return lambda ticks: _timestamp(_days_of_month(ticks * months) * 86_400, 0)
    if unit not in _NANOSECONDS_PER_TICK:
        return _refusal("a NumPy time without a unit")
    multiplier, divisor = _NANOSECONDS_PER_TICK[unit]

    def moment(ticks: int) -> msgpack.Timestamp:
        seconds, rest = divmod(ticks * count * multiplier, 10**9 * divisor)
        nanoseconds, finer = divmod(rest, divisor)
        if finer:
            raise TypeError("a moment finer than a nanosecond")
        return _timestamp(seconds, nanoseconds)

    return moment


def _timestamp(seconds: int, nanoseconds: int) -> msgpack.Timestamp:
    if not -(2**63) <= seconds < 2**63:
        raise TypeError("a moment that does not fit in 64 bits of seconds")
    return msgpack.Timestamp(seconds, nanoseconds)


def _durations(data_type: np.dtype[Any]) -> Callable[[int], int]:
    """Return the function from ticks of a ``timedelta64`` to nanoseconds."""
    unit, count = np.datetime_data(data_type)
    if unit in ("Y", "M"):
        return _refusal(f"a duration in {'years' if unit == 'Y' else 'months'}")
    if unit not in _NANOSECONDS_PER_TICK:
        return _refusal("a NumPy duration without a unit")
    multiplier, divisor = _NANOSECONDS_PER_TICK[unit]
    return lambda ticks: _duration(ticks * count, multiplier, divisor)


def _refusal(words: str) -> Callable[[int], Any]:
    """Return a function that refuses each value; missing values remain possible."""

    def refuse(ticks: int) -> Any:
        raise TypeError(words)

    return refuse


def _duration(ticks: int, multiplier: int, divisor: int) -> int:
    nanoseconds, finer = divmod(ticks * multiplier, divisor)
    if finer:
        raise TypeError("a duration finer than a nanosecond")
    if not -(2**63) <= nanoseconds < 2**63:
        raise TypeError("a duration that does not fit in 64 bits of nanoseconds")
    return nanoseconds


def _days_of_month(months: int) -> int:
    """Return the days from 1970 to the first of a month, in the Gregorian calendar."""
    year, month = divmod(months + 1970 * 12, 12)
    # The days of a cycle of 400 years are always the same.
    cycles, year = divmod(year - 1, 400)
    return dt.date(year + 1, month + 1, 1).toordinal() - _EPOCH_DAY + cycles * _DAYS_OF_400_YEARS


def _stamp(value: dt.datetime) -> Any:
    if value.tzinfo is None:
        value = value.replace(tzinfo=dt.UTC)
    delta = value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return msgpack.Timestamp(delta.days * 86_400 + delta.seconds, delta.microseconds * 1_000)


_Writer: TypeAlias = "Callable[[pa.Array, str], list[Any]]"


def wire_values(array: pa.Array, path: str) -> list[Any]:
    """Convert an Arrow array to values that MessagePack has, by the module's table.

    Parameters
    ----------
    array : pyarrow.Array
        Column of a record batch.
    path : str
        Name of the column, for messages.

    Returns
    -------
    list
        Values, one for each row; None for null.

    Raises
    ------
    UnsupportedType
        Documents cannot hold the type; the message names the column.

    Examples
    --------
    >>> wire_values(pa.array([1.5, None]), "x")
    [1.5, None]
    """
    types = pa.types
    data_type = array.type
    if isinstance(data_type, pa.BaseExtensionType):
        stored = wire_values(array.storage, path)
        if is_json(data_type):
            return [None if text is None else _from_json(text, path) for text in stored]
        return stored
    if types.is_dictionary(data_type):
        return wire_values(array.dictionary_decode(), path)
    if types.is_run_end_encoded(data_type):
        return wire_values(pc.run_end_decode(array), path)
    if types.is_decimal(data_type):
        return [None if value is None else format(value, "f") for value in array.to_pylist()]
    if types.is_timestamp(data_type):
        return _timestamps(array.cast(pa.int64()), UNITS[data_type.unit])
    if types.is_date32(data_type):
        return _timestamps(array.cast(pa.int32()), 1, 86_400)
    if types.is_date64(data_type):
        return _timestamps(array.cast(pa.int64()), 1_000)
    if types.is_time(data_type):
        return _integers(array, pa.time64("ns"), path)
    if types.is_duration(data_type):
        return _integers(array, pa.duration("ns"), path)
    if types.is_struct(data_type):
        return _structs(array, path)
    if types.is_map(data_type):
        return _maps(array, path)
    if hasattr(data_type, "value_field") or types.is_list_view(data_type):
        return _lists(array, path)
    if types.is_union(data_type) or types.is_interval(data_type):
        raise UnsupportedType(
            f"column {path!r}: documents cannot hold the type {data_type}",
            advice="cast the column to another type",
        )
    values: list[Any] = array.to_pylist()
    if types.is_float16(data_type):
        return [None if value is None else float(value) for value in values]
    return values


def _from_json(text: str, path: str) -> Any:
    try:
        return from_json_text(text)
    except (ValueError, RecursionError) as error:
        shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
        raise UnsupportedType(
            f"column {path!r}: {shown!r} is not JSON: {error}",
            advice="cast the column to a string, or correct its text",
        ) from error


def _timestamps(ticks: pa.Array, unit: int, scale: int = 1) -> list[Any]:
    nano = 10**9 // unit
    values: list[Any] = []
    for tick in ticks.to_pylist():
        if tick is None:
            values.append(None)
        else:
            seconds, rest = divmod(tick * scale, unit)
            values.append(msgpack.Timestamp(seconds, rest * nano))
    return values


def _integers(array: pa.Array, nanoseconds: pa.DataType, path: str) -> list[Any]:
    try:
        values: list[Any] = array.cast(nanoseconds).cast(pa.int64()).to_pylist()
    except pa.ArrowInvalid as error:
        raise UnsupportedType(
            f"column {path!r}: a {array.type} value does not fit in nanoseconds",
            advice="cast the column to a number",
        ) from error
    return values


def _structs(array: pa.Array, path: str) -> list[Any]:
    check_struct_type(array.type, path)
    names = [field.name for field in array.type]
    columns = [
        wire_values(child, f"{path}.{name}")
        for child, name in zip(array.flatten(), names, strict=True)
    ]
    rows = zip(*columns, strict=True) if columns else iter([()] * len(array))
    return [
        dict(zip(names, row, strict=True)) if valid else None
        for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)
    ]


def check_struct_type(data_type: pa.DataType, path: str) -> None:
    """Refuse a struct that has two fields of the same name."""
    names = [field.name for field in data_type]
    if len(set(names)) != len(names):
        raise UnsupportedType(
            f"column {path!r}: the struct has fields of the same name", advice="rename them"
        )


def check_map_type(data_type: pa.DataType, path: str) -> None:
    """Refuse a map with keys other than strings."""
    key_type = data_type.key_type
    if not (pa.types.is_string(key_type) or pa.types.is_large_string(key_type)):
        raise UnsupportedType(
            f"column {path!r}: documents cannot hold maps with keys of type {key_type}",
            advice="cast the keys to strings",
        )


def _lists(array: pa.Array, path: str) -> list[Any]:
    elements = iter(wire_values(array.flatten(), f"{path}[]"))
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        lengths = [size if valid else None for valid in array.is_valid().to_pylist()]
    else:
        lengths = pc.list_value_length(array).to_pylist()
    return [
        None if length is None else [next(elements) for _ in range(length)] for length in lengths
    ]


def _maps(array: pa.Array, path: str) -> list[Any]:
    check_map_type(array.type, path)
    keys = array.keys.to_pylist()
    items = wire_values(array.items, f"{path}.*")
    offsets = array.offsets.to_pylist()
    values: list[Any] = []
    for index, valid in enumerate(array.is_valid().to_pylist()):
        span = slice(offsets[index], offsets[index + 1])
        pairs = list(zip(keys[span], items[span], strict=True))
        if len(dict(pairs)) != len(pairs):
            raise UnsupportedType(
                f"column {path!r}: a map has the same key twice", advice="drop one of the two"
            )
        values.append(dict(pairs) if valid else None)
    return values
