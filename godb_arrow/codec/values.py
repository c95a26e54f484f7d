"""Conversion of Python values and Arrow arrays to MessagePack, and of documents to dicts.

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
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pyarrow as pa
import pyarrow.compute as pc

from godb_arrow.codec.columns import UNITS
from godb_arrow.codec.jsontext import from_json_text
from godb_arrow.errors import CorruptFile, DepthExceeded, InvalidDocument, UnsupportedType
from godb_arrow.options import MAX_DEPTH
from godb_arrow.schema import is_json

__all__ = [
    "check_map_type",
    "check_struct_type",
    "load",
    "load_entries",
    "load_pairs",
    "pack",
    "pack_entry",
    "wire_values",
]

_TIMESTAMP_HEADS = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")


def load(data: bytes) -> dict[Any, Any]:
    """Decode one document without loss.

    Parameters
    ----------
    data : bytes
        Document in MessagePack.

    Returns
    -------
    dict
        Document. Timestamps are ``datetime`` in UTC, or ``msgpack.Timestamp`` where a datetime
        cannot hold them (nanoseconds, years outside 1 to 9999). A string that is not UTF-8 has
        surrogate escapes for the bytes, as file names have in Python. Other extension types are
        ``msgpack.ExtType``. Keys that Python cannot hash are tuples.

    Raises
    ------
    CorruptFile
        The bytes are not valid MessagePack.

    Examples
    --------
    >>> load(msgpack.packb({"name": "Zoë"}))
    {'name': 'Zoë'}
    """
    try:
        try:
            document = _unpack(data)
        except TypeError:  # a map key that is a list or a map
            document = _unpack(data, object_pairs_hook=_hashable_keys)
    except (ValueError, msgpack.UnpackException, OverflowError, TypeError) as error:
        raise CorruptFile(f"not valid MessagePack: {error}", offset=0) from error
    if any(head in data for head in _TIMESTAMP_HEADS):
        document = _with_datetimes(document)
    return document  # type: ignore[no-any-return]


def load_entries(data: bytes, count: int) -> list[Any] | None:
    """Decode ids and documents of entries at once, in turn.

    Parameters
    ----------
    data : bytes
        Bytes of the entries, one after the other.
    count : int
        Number of entries.

    Returns
    -------
    list or None
        Documents as :func:`load` returns them; None if a document must be decoded on its own.
    """
    if any(head in data for head in _TIMESTAMP_HEADS):
        return None
    try:
        entries: list[Any] = _unpack(b"\xdd" + (2 * count).to_bytes(4, "big") + data)
    except (ValueError, msgpack.UnpackException, OverflowError, TypeError):
        return None
    return entries


def load_pairs(data: bytes) -> Any:
    """Decode one value, with maps as tuples of pairs and timestamps as ``msgpack.Timestamp``."""
    return _unpack(data, object_pairs_hook=tuple)


def _unpack(data: bytes, **options: Any) -> Any:
    return msgpack.unpackb(
        data,
        raw=False,
        unicode_errors="surrogateescape",
        strict_map_key=False,
        timestamp=0,
        **options,
    )


def _hashable_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_hashable(key): value for key, value in pairs}


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_hashable(element) for element in value)
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in value.items())
    return value


def _with_datetimes(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _with_datetimes(item) for key, item in value.items()}
    if kind is list:
        return [_with_datetimes(item) for item in value]
    if kind is msgpack.Timestamp and value.nanoseconds % 1000 == 0:
        try:
            return value.to_datetime()
        except (OverflowError, ValueError):
            return value
    return value


def pack_entry(identity: str, document: dict[Any, Any]) -> bytes:
    """Pack an entry of a collection: the id and the document, in MessagePack."""
    return pack(identity) + pack(document)


def pack(value: Any) -> bytes:
    """Encode a value as MessagePack.

    Parameters
    ----------
    value : object
        Document or part of one. NumPy scalars and arrays, pandas timestamps and missing values,
        dates, times, timedeltas, decimals and UUIDs are stored by the module's table. A datetime
        without a zone is taken as UTC.

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
        packed: bytes = msgpack.packb(
            value, default=_default, datetime=True, unicode_errors="surrogateescape"
        )
    except (ValueError, OverflowError, TypeError) as error:
        path = _find_invalid(value, "")
        raise InvalidDocument(
            f"the value at {path or 'the top'} cannot be stored: {error}",
            advice="convert it to a string, number, bool, bytes, datetime, list or dict",
        ) from error
    return packed


def _check_depth(document: Any) -> None:
    pending: list[tuple[Any, int]] = [(document, 1)]
    while pending:
        container, depth = pending.pop()
        children = container.values() if isinstance(container, dict) else container
        for child in children:
            if isinstance(child, (dict, list, tuple)):
                if depth == MAX_DEPTH:
                    raise DepthExceeded(
                        f"the document nests deeper than {MAX_DEPTH} levels",
                        advice="store it flatter",
                    )
                pending.append((child, depth + 1))


def _find_invalid(value: Any, path: str) -> str | None:
    """Return the path to the first value that cannot be packed by itself."""
    children: Iterator[tuple[str, Any]]
    if isinstance(value, dict):
        children = ((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        children = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    else:
        children = iter(())
    for child_path, child in children:
        try:
            msgpack.packb(child, default=_default, datetime=True, unicode_errors="surrogateescape")
        except (ValueError, OverflowError, TypeError):
            return _find_invalid(child, child_path)
    return path


def _default(value: Any) -> Any:
    """Replace a value that MessagePack does not have by one that it has."""
    kind = type(value)
    if kind.__name__ in ("NAType", "NaTType") and kind.__module__.startswith("pandas."):
        return None  # checked before datetime, because NaT is a datetime
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
        return ticks * 1_000 + getattr(value, "nanoseconds", 0)
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, uuid.UUID):
        return str(value)
    if kind.__module__ == "numpy":
        return _from_numpy(value)
    raise TypeError(f"the type {kind.__name__}")


def _from_numpy(value: Any) -> Any:
    if value.dtype.kind == "M":
        ticks = value.astype("datetime64[ns]").astype("int64")
        if value.shape:
            return [None if tick == -(2**63) else _nanoseconds(tick) for tick in ticks.tolist()]
        return None if ticks == -(2**63) else _nanoseconds(int(ticks))
    if value.dtype.kind == "m":
        return value.astype("timedelta64[ns]").astype("int64").tolist()
    if value.dtype.kind in "biufSUO":
        return value.tolist()
    raise TypeError(f"the NumPy type {value.dtype}")


def _stamp(value: dt.datetime) -> Any:
    if value.tzinfo is None:
        value = value.replace(tzinfo=dt.UTC)
    delta = value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    nanoseconds = delta.microseconds * 1_000 + getattr(delta, "nanoseconds", 0)
    return msgpack.Timestamp(delta.days * 86_400 + delta.seconds, nanoseconds)


def _nanoseconds(ticks: int) -> msgpack.Timestamp:
    return msgpack.Timestamp(*divmod(ticks, 10**9))


_Writer = Callable[[pa.Array, str], list[Any]]


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
            return [None if text is None else from_json_text(text) for text in stored]
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
