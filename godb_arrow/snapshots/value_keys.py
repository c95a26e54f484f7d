"""Keys of documents: the values of one or several fields as bytes that are equal and ordered alike.

Two values have equal keys exactly if a filter on the one finds the other. Within a kind, keys have
the order of their values. The key of several values is the keys of each, one after the other.

==========  ==================================================================================
kind        after the byte of the kind
==========  ==================================================================================
null        nothing; an absent field is null
NaN         nothing
number      the nearest float, then what is left of an integer
string      the bytes, with an end
binary      the bytes, with an end
false       nothing
true        nothing
moment      seconds, then nanoseconds
==========  ==================================================================================
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.codec.entries import Rows
from godb_arrow.codec.field_values import FieldValues, ValueKind, parts_of

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "MAX_DOCUMENT_KEYS",
    "NULL_KEY",
    "DocumentKeys",
    "FieldReader",
    "TooManyKeys",
    "UnkeyedValue",
    "bounds_of",
    "document_keys",
    "key_of",
    "load_plain",
    "max_text_bytes",
]

MAX_DOCUMENT_KEYS = 10_000
"""Max keys of one document in a unique index of several fields."""
NULL_KEY = b"\x05"
_NAN, _NUMBER, _STRING, _BINARY, _FALSE, _TRUE, _MOMENT = (
    bytes([kind * 16]) for kind in range(1, 8)
)
_END = b"\0\0"  # of a text
_ESCAPED = b"\0\xff"  # a zero byte in a text
_MAX_INT64, _MAX_UINT64 = 2**63 - 1, 2**64 - 1
_SIGN = 1 << 63
_MAX_INT32 = 2**31 - 1
_MAX_REST = 1 << 15  # of an integer, beside the nearest float
_LAST = b"\xff"
_TEXTS: dict[str, Any] = {"use_bin_type": True, "unicode_errors": "surrogateescape"}

_CONSTANTS = {
    ValueKind.ABSENT: NULL_KEY,
    ValueKind.NULL: NULL_KEY,
    ValueKind.FALSE: _FALSE,
    ValueKind.TRUE: _TRUE,
}
_NULLS = (ValueKind.ABSENT, ValueKind.NULL)
_UNKEYED = (ValueKind.MAP, ValueKind.EXTENSION)


class UnkeyedValue(Exception):
    """Signal that a value has no key: a map, or an extension value."""


class TooManyKeys(UnkeyedValue):
    """Signal that the lists of a document have too many combinations of values."""


@dataclass(frozen=True, slots=True)
class DocumentKeys:
    """Keys of documents.

    Attributes
    ----------
    rows : array of int64
        Row of the document of each key, in order.
    keys : pyarrow.BinaryArray
        The keys.
    has_null : array of bool
        Whether a value is null or absent, for each key.
    several : array of int64
        Rows of the documents with a list, in order. They have no key here.
    unkeyed : array of int64
        Rows of the documents with a map or an extension value, in order. They have no key.
    """

    rows: Rows
    keys: pa.BinaryArray
    has_null: npt.NDArray[np.bool_]
    several: Rows
    unkeyed: Rows


def max_text_bytes(fields: int, limit: int) -> int:
    """Return the bytes of each text in a key of several fields that has a limited size."""
    return limit // fields - len(_STRING + _END)


# --- documents in runs --------------------------------------------------------------------------


def document_keys(
    entries: codec.Entries, fields: Sequence[str], text_bytes: int | None = None
) -> DocumentKeys:
    """Return the keys of documents.

    Parameters
    ----------
    entries : Entries
        The documents.
    fields : sequence of str
        The fields.
    text_bytes : int, optional
        Max bytes of a text in a key, default all.
    """
    count = len(entries)
    is_unkeyed, is_several, is_null = (np.zeros(count, bool) for _ in range(3))
    columns = []
    for field in fields:
        values = codec.field_values(entries, parts_of(field))
        is_unkeyed[values.rows[np.isin(values.kinds, _UNKEYED)]] = True
        is_several[values.rows[values.kinds == ValueKind.ARRAY]] = True
        is_null[values.rows[np.isin(values.kinds, _NULLS)]] = True
        is_several |= np.bincount(values.rows, minlength=count) > 1
        columns.append(values)
    is_several &= ~is_unkeyed
    is_left = ~(is_unkeyed | is_several)
    keys = [_single_keys(values, is_left, text_bytes) for values in columns]
    joined = keys[0] if len(keys) == 1 else pc.binary_join_element_wise(*keys, b"")
    return DocumentKeys(
        np.flatnonzero(is_left),
        joined,
        is_null[is_left],
        np.flatnonzero(is_several),
        np.flatnonzero(is_unkeyed),
    )


def _single_keys(
    values: FieldValues, is_left: npt.NDArray[np.bool_], text_bytes: int | None
) -> pa.BinaryArray:
    """Return the keys of the documents that have one value each, in order."""
    chosen = np.flatnonzero(is_left[values.rows])
    kinds, words, sizes = values.kinds[chosen], values.words[chosen], values.sizes[chosen]
    places, parts = [], []

    def add(where: Rows, keys: pa.Array) -> None:
        if len(where):
            places.append(where)
            parts.append(keys)

    for kind, key in _CONSTANTS.items():
        where = np.flatnonzero(kinds == kind)
        add(where, pa.repeat(pa.scalar(key, pa.binary()), len(where)))
    for kind in (ValueKind.INT, ValueKind.ABOVE_INT64, ValueKind.FLOAT):
        where = np.flatnonzero(kinds == kind)
        numbers, rest = _numbers(kind, words[where])
        is_nan = np.isnan(numbers)
        add(where[is_nan], pa.repeat(pa.scalar(_NAN, pa.binary()), int(is_nan.sum())))
        add(where[~is_nan], _number_keys(numbers[~is_nan], rest[~is_nan]))
    where = np.flatnonzero(kinds == ValueKind.MOMENT)
    add(where, _moment_keys(words[where], sizes[where]))
    for kind, head in ((ValueKind.STRING, _STRING), (ValueKind.BINARY, _BINARY)):
        where = np.flatnonzero(kinds == kind)
        add(where, _text_keys(values, chosen[where], head, text_bytes))
    if not parts:
        return pa.array([], pa.binary())
    order = np.argsort(np.concatenate(places), kind="stable")
    return pa.concat_arrays(parts).take(pa.array(order))


def _numbers(
    kind: ValueKind, words: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the nearest floats, and what is left of integers."""
    if kind == ValueKind.FLOAT:
        return words.view(np.float64), np.zeros(len(words), np.int64)
    if kind == ValueKind.INT:
        signed = words.view(np.int64)
        floats = signed.astype(np.float64)
        is_out = floats >= _SIGN
        nearest = np.where(is_out, 0, floats).astype(np.int64).view(np.uint64)
        nearest[is_out] = _SIGN
    else:
        floats = words.astype(np.float64)
        is_out = floats > _MAX_UINT64 - 1024  # 2^64 is 0 in 64 bits
        nearest = np.where(is_out, 0, floats).astype(np.uint64)
    return floats, (words - nearest).view(np.int64)


def _number_keys(numbers: npt.NDArray[np.float64], rest: npt.NDArray[np.int64]) -> pa.BinaryArray:
    bits = (numbers + 0.0).view(np.uint64)
    sign = np.uint64(_SIGN)
    ordered = np.where(bits & sign, ~bits, bits | sign).astype(">u8")
    rests = (rest + _MAX_REST).astype(">u2")
    return _fixed_keys(_NUMBER, ordered, rests)


def _moment_keys(
    seconds: npt.NDArray[np.uint64], nanoseconds: npt.NDArray[np.uint32]
) -> pa.BinaryArray:
    ordered = (seconds ^ np.uint64(_SIGN)).astype(">u8")
    return _fixed_keys(_MOMENT, ordered, nanoseconds.astype(">u4"))


def _fixed_keys(kind: bytes, *columns: npt.NDArray[Any]) -> pa.BinaryArray:
    """Return keys of a fixed size: the byte of a kind, then the bytes of columns."""
    count = len(columns[0])
    bytes_ = [column.view(np.uint8).reshape(count, column.itemsize) for column in columns]
    table = np.concatenate([np.full((count, 1), kind[0], np.uint8), *bytes_], axis=1)
    ends = np.arange(count + 1, dtype=np.int32) * np.int32(table.shape[1])
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(table))]
    return pa.Array.from_buffers(pa.binary(), count, buffers)


def _text_keys(
    values: FieldValues, chosen: Rows, head: bytes, text_bytes: int | None
) -> pa.BinaryArray:
    texts = _texts(values, chosen, text_bytes)
    escaped = pc.replace_substring(texts, b"\0", _ESCAPED)
    if text_bytes is not None:
        escaped = pc.binary_slice(escaped, 0, text_bytes)
    return pc.binary_join_element_wise(head, escaped, _END, b"")


def _texts(values: FieldValues, chosen: Rows, most: int | None) -> pa.BinaryArray:
    """Return texts, or at most so many bytes of each."""
    starts, sizes = values.words[chosen].astype(np.int64), values.sizes[chosen].astype(np.int64)
    if most is not None:
        sizes = np.minimum(sizes, most)
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    if total > _MAX_INT32:
        return pa.array([values.text(index, most) for index in chosen.tolist()], pa.binary())
    places = np.repeat(starts - ends + sizes, sizes) + np.arange(total)
    data = np.frombuffer(values.data, np.uint8)[places]
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(chosen), buffers)


# --- single documents ---------------------------------------------------------------------------


class FieldReader:
    """Reader of the keys of single documents, as :func:`document_keys` has them, and of lists.

    Parameters
    ----------
    fields : sequence of str
        The fields.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._names = [_names_of(parts_of(field)) for field in fields]

    def keys(self, document: Mapping[Any, Any]) -> list[bytes]:
        """Return the keys of a document; none if one of its fields is null or absent.

        Parameters
        ----------
        document : mapping
            The document, as :func:`load_plain` returns it.

        Raises
        ------
        UnkeyedValue
            A value is a map or an extension value.
        TooManyKeys
            Lists in several fields have more combinations than a document may have.
        """
        columns = self._columns(document)
        if len(columns) == 1:
            return [*columns[0]]
        return [b"".join(parts) for parts in product(*columns)]

    def value_of(self, document: Mapping[Any, Any], key: bytes) -> Any:
        """Return the value of a document that has a key; a tuple for several fields.

        Moments are as in documents that callers read.
        """
        columns = self._columns(document)
        for parts in product(*columns):
            if b"".join(parts) == key:
                values = [column[part] for column, part in zip(columns, parts, strict=True)]
                loaded = tuple(codec.load(msgpack.packb({"": values}, **_TEXTS))[""])
                return loaded[0] if len(loaded) == 1 else loaded
        return None

    def _columns(self, document: Mapping[Any, Any]) -> list[dict[bytes, Any]]:
        """Return the values of each field by their keys, without null."""
        columns = []
        for names in self._names:
            values: dict[bytes, Any] = {}
            for value in _values_at(document, names):
                values.setdefault(key_of(value), value)
            values.pop(NULL_KEY, None)
            columns.append(values)
        if len(columns) > 1 and math.prod(map(len, columns)) > MAX_DOCUMENT_KEYS:
            raise TooManyKeys
        return columns


_Names: TypeAlias = list[tuple[str, "_Names | None"]]


def _names_of(parts: list[str]) -> _Names:
    """Return the keys that lead to a field, each with the keys inside of it."""
    return [
        (".".join(parts[:count]), _names_of(parts[count:]) if count < len(parts) else None)
        for count in range(1, len(parts) + 1)
    ]


def _values_at(document: Mapping[Any, Any], names: _Names) -> Iterator[Any]:
    """Yield the values of a field, with the elements of lists in place of lists."""
    for name, inner in names:
        if name not in document:
            continue
        value = document[name]
        if inner is None:
            if type(value) is list:
                yield from _elements(value)
            else:
                yield value
        elif type(value) is dict:
            yield from _values_at(value, inner)
        elif type(value) is list:
            for element in value:
                if type(element) is dict:
                    yield from _values_at(element, inner)


def _elements(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if type(value) is list:
            yield from _elements(value)
        else:
            yield value


def load_plain(document: bytes) -> dict[Any, Any]:
    """Return a document with the values that :func:`key_of` takes."""
    try:
        found: dict[Any, Any] = msgpack.unpackb(
            document,
            raw=False,
            strict_map_key=False,
            unicode_errors="surrogateescape",
            timestamp=0,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        return codec.load(document)  # which says what is damaged
    return found


def key_of(value: Any) -> bytes:
    """Return the key of one value.

    Raises
    ------
    UnkeyedValue
        It is a map or an extension value.
    """
    kind = type(value)
    if kind is str:
        try:
            raw = value.encode()
        except UnicodeEncodeError:
            return _text_key(_BINARY, value.encode("utf-8", "surrogateescape"))
        return _text_key(_STRING, raw)
    if kind is int:
        return _int_key(value)
    if kind is float:
        return _NAN if math.isnan(value) else _float_key(value, 0)
    if value is None:
        return NULL_KEY
    if kind is bool:
        return _TRUE if value else _FALSE
    if kind is bytes:
        return _text_key(_BINARY, value)
    if kind is msgpack.Timestamp:
        return _MOMENT + struct.pack(">QI", value.seconds + _SIGN, value.nanoseconds)
    raise UnkeyedValue


def _text_key(head: bytes, raw: bytes) -> bytes:
    return head + (raw.replace(b"\0", _ESCAPED) if b"\0" in raw else raw) + _END


def _int_key(value: int) -> bytes:
    nearest = float(value)
    return _float_key(nearest, value - int(nearest))


def _float_key(number: float, rest: int) -> bytes:
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))
    return _NUMBER + struct.pack(
        ">QH", bits ^ _MAX_UINT64 if bits >> 63 else bits | _SIGN, rest + _MAX_REST
    )


# --- ranges of a filter -------------------------------------------------------------------------


def bounds_of(low: Any, high: Any, text_bytes: int) -> list[tuple[bytes, bytes]] | None:
    """Return the ranges of keys in which the values between two literals are.

    Parameters
    ----------
    low, high : object
        Min and max literal, or None; two times None is null or absent.
    text_bytes : int
        Max bytes of a text in a key.

    Returns
    -------
    list of tuple of bytes, or None
        First key, and what the last key begins with. None for a literal without a key.
    """
    if low is None and high is None:
        return [(NULL_KEY, NULL_KEY)]
    literal = high if low is None else low
    if isinstance(literal, str):
        return [_text_bounds(head, low, high, text_bytes) for head in (_STRING, _BINARY)]
    if isinstance(literal, bytes):
        return [_text_bounds(_BINARY, low, high, text_bytes)]
    if isinstance(literal, bool) or (isinstance(literal, float) and math.isnan(literal)):
        key = key_of(literal)
        return [(key, key)]
    if type(literal) in (int, float):
        return [
            (
                _NUMBER if low is None else _number_bound(low, 0),
                _NUMBER + _LAST * 10 if high is None else _number_bound(high, -1),
            )
        ]
    if isinstance(literal, msgpack.Timestamp):
        first = _MOMENT if low is None else _moment_bound(low, 0)
        return [(first, _MOMENT + _LAST * 12 if high is None else _moment_bound(high, -1))]
    return None


def _text_bounds(head: bytes, low: Any, high: Any, text_bytes: int) -> tuple[bytes, bytes]:
    def key(text: str | bytes) -> bytes:
        raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        return head + raw.replace(b"\0", _ESCAPED)[:text_bytes]

    if low is not None and low == high:
        return key(low) + _END, key(low) + _END
    return head if low is None else key(low), head + _LAST if high is None else key(high)


def _number_bound(number: int | float, edge: int) -> bytes:
    """Return the key of a number; of one that no document has, the nearest key to an edge."""
    if isinstance(number, float):
        return _float_key(number, 0)
    if -_SIGN <= number <= _MAX_UINT64:
        return _int_key(number)
    try:
        nearest = float(number)
    except OverflowError:
        nearest = math.inf if number > 0 else -math.inf
    return _float_key(nearest, -_MAX_REST if edge == 0 else _MAX_REST - 1)


def _moment_bound(moment: msgpack.Timestamp, edge: int) -> bytes:
    seconds = min(max(moment.seconds, -_SIGN), _MAX_INT64)
    nanoseconds = moment.nanoseconds if seconds == moment.seconds else (2**32 - 1) * -edge
    return _MOMENT + struct.pack(">QI", seconds + _SIGN, nanoseconds)
