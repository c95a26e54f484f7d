"""Conversion of documents to columns and back on msgpack and pyarrow, written for readability.

A faster codec must return the same results. Maps are decoded as tuples of pairs, so that keys of
every type keep their own identity, and a list is always an array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.codec.columns import ColumnPlan, Core, DecodePlan
from godb_arrow.codec.entries import Entries, MeasuredEntries, UnscannedEntries
from godb_arrow.codec.jsontext import is_utf8, to_json_text
from godb_arrow.codec.reference.cells import Cells, TooSparse, too_sparse, width_of
from godb_arrow.errors import CorruptFile, DepthExceeded, LimitExceeded, TypeMismatch
from godb_arrow.schema import ID_FIELD, DocumentSummary, FieldSummary, Kind

__all__ = [
    "Pairs",
    "decode",
    "decode_front",
    "decode_unscanned",
    "document_pairs",
    "field_name",
    "infer",
    "invalid_document",
    "mismatch_error",
    "text_extremes",
    "to_dicts",
    "too_large",
    "type_name",
    "unknown_field",
]

_MIN_INT64, _MAX_INT64, _MAX_UINT64 = -(2**63), 2**63 - 1, 2**64 - 1
_MIN_NS_SECOND, _MAX_NS_SECOND = _MIN_INT64 // 10**9, _MAX_INT64 // 10**9
_MIN_US_SECOND, _MAX_US_SECOND = _MIN_INT64 // 10**6, _MAX_INT64 // 10**6

_TYPE_NAMES: dict[type, str] = {
    bool: "bool",
    float: "float",
    bytes: "binary",
    list: "array",
    tuple: "map",
    msgpack.Timestamp: "timestamp",
    msgpack.ExtType: "extension type",
    type(None): "nil",
}


# --- Decoding -------------------------------------------------------------------------------

Pairs = tuple[tuple[Any, Any], ...]
"""Keys and values of a map, in order."""


def document_pairs(entries: Entries, index: int) -> Pairs:
    """Return the keys and values of a document; maps in it are tuples of pairs, too.

    Raises
    ------
    CorruptFile
        The bytes are not valid MessagePack.
    """
    try:
        pairs: Pairs = msgpack.unpackb(
            entries.document(index),
            raw=False,
            unicode_errors="surrogateescape",
            strict_map_key=False,
            object_pairs_hook=tuple,
            timestamp=0,
        )
    except (ValueError, msgpack.UnpackException, OverflowError, TypeError) as error:
        raise invalid_document(entries, index) from error
    return pairs


def invalid_document(entries: Entries, index: int) -> CorruptFile:
    """Return the error for a document with an invalid extension, such as a bad timestamp."""
    return CorruptFile(
        f"document {entries.id(index)!r} is not valid MessagePack",
        offset=entries.base + entries.bounds[2 * index + 1],
    )


def field_name(key: Any) -> str:
    """Return the column or struct field for a map key; JSON text if it is no UTF-8 string."""
    if type(key) is str and is_utf8(key):
        return key
    return to_json_text(key)


def infer(entries: Entries, summary: DocumentSummary) -> None:
    """Join the kinds of value in documents into a summary.

    Parameters
    ----------
    entries : Entries
        Documents to summarize.
    summary : DocumentSummary
        Summary of earlier documents, extended in place.
    """
    for index in range(len(entries)):
        document = entries.id(index)
        _observe(summary.field(ID_FIELD), document, document)
        for key, value in document_pairs(entries, index):
            name = key if type(key) is str and key in summary.fields else field_name(key)
            if name == ID_FIELD:
                continue
            if name is not key:
                summary.add(Kind.ODD_KEY, document)
            _observe(summary.field(name), value, document)


def _observe(summary: FieldSummary, value: Any, document: str) -> None:
    kind = type(value)
    if kind is str:
        summary.add(Kind.STRING if is_utf8(value) else Kind.BINARY, document)
    elif kind is int:
        if value < 0:
            summary.add(Kind.NEGATIVE, document)
        else:
            summary.add(Kind.UNSIGNED if value <= _MAX_INT64 else Kind.ABOVE_INT64, document)
    elif kind is float:
        summary.add(Kind.FLOAT, document)
    elif value is None:
        summary.add(Kind.NULL, document)
    elif kind is bool:
        summary.add(Kind.BOOL, document)
    elif kind is tuple:
        summary.add(Kind.MAP, document)
        for key, child in value:
            name = key if type(key) is str and key in summary.fields else field_name(key)
            if name is not key:
                summary.add(Kind.ODD_KEY, document)
            _observe(summary.field(name), child, document)
    elif kind is list:
        summary.add(Kind.ARRAY, document)
        for element in value:
            _observe(summary.element(), element, document)
    elif kind is bytes:
        summary.add(Kind.BINARY, document)
    elif kind is msgpack.Timestamp:
        _observe_timestamp(summary, value, document)
    else:
        summary.add(Kind.EXTENSION, document)


def _observe_timestamp(summary: FieldSummary, value: msgpack.Timestamp, document: str) -> None:
    summary.add(Kind.TIMESTAMP, document)
    if value.nanoseconds % 1000:
        summary.add(Kind.NEEDS_NANOSECONDS, document)
    if not _fits(value, 10**9):
        summary.add(Kind.OUTSIDE_NANOSECONDS, document)
    if not _fits(value, 10**6):
        summary.add(Kind.OUTSIDE_MICROSECONDS, document)


def _ticks(value: msgpack.Timestamp, unit: int) -> int:
    """Return the units since 1970, rounded towards the past."""
    return int(value.seconds * unit + value.nanoseconds * unit // 10**9)


def _fits(value: msgpack.Timestamp, unit: int) -> bool:
    return _MIN_INT64 <= _ticks(value, unit) <= _MAX_INT64


class _Mismatch(Exception):
    def __init__(self, expected: str, found: str) -> None:
        super().__init__()
        self.expected = expected
        self.found = found
        self.path: list[str] = []


_Converter = Callable[[Any], Any]


def decode(entries: Entries, plan: DecodePlan) -> list[pa.Array]:
    """Decode documents into the core arrays of a plan.

    Parameters
    ----------
    entries : Entries
        Documents to decode.
    plan : DecodePlan
        Columns to decode.

    Returns
    -------
    list of pyarrow.Array
        Arrays of type ``core_type``, one for each column.

    Raises
    ------
    TypeMismatch
        A value does not fit, and the plan does not replace it by null.
    CorruptFile
        The bytes of a document are not valid MessagePack.
    """
    names = [column.name for column in plan.columns]
    cells = Cells(entries.bounds[-1] - entries.bounds[0])
    converters = [_converter(column, plan, cells) for column in plan.columns]
    known = {*names, ID_FIELD} if plan.strict else None
    values: list[list[Any]] = [[] for _ in names]
    columns = list(zip(names, converters, values, strict=True))
    for index in range(len(entries)):
        pairs = document_pairs(entries, index)
        if plan.is_guess:
            pairs = tuple(pair for pair in pairs if pair[0] != ID_FIELD)
        fields = _fields(pairs)
        if plan.is_guess and len(fields) < len(pairs):
            raise mismatch_error(entries.id(index), "", "each key once", "one twice")
        fields[ID_FIELD] = entries.id(index)
        if known is not None and not known.issuperset(fields):
            unknown = next(name for name in fields if name not in known)
            raise unknown_field(entries.id(index), unknown)
        for name, convert, column in columns:
            try:
                column.append(convert(fields.get(name)))
            except _Mismatch as mismatch:
                path = name + "".join(reversed(mismatch.path))
                raise mismatch_error(
                    entries.id(index), path, mismatch.expected, mismatch.found
                ) from None
            except TooSparse:
                raise too_sparse(entries.id(index), name) from None
    return [
        _array(column, plan_column.core_type)
        for column, plan_column in zip(values, plan.columns, strict=True)
    ]


def unknown_field(document: str, path: str) -> TypeMismatch:
    """Return the error for a field that a recorded schema would hide."""
    return TypeMismatch(f"document {document!r} has a field {path!r} that the schema does not name")


def too_large() -> LimitExceeded:
    """Return the error for a column that is too large for one record batch."""
    return LimitExceeded(
        "a column of one record batch has more than 2 GiB of text or binary",
        advice="use a smaller batch_size or batch_bytes",
    )


def mismatch_error(document: str, path: str, expected: str, found: str) -> TypeMismatch:
    """Return the error for a value that does not fit a schema."""
    return TypeMismatch(
        f"document {document!r}, field {path!r}: expected {expected}, found {found}",
        advice='change the schema, or use on_mismatch="null"',
    )


def _fields(pairs: Pairs) -> dict[str, Any]:
    """Return a map's values by field name; the last of equal keys wins, as in go-db."""
    return {
        key if type(key) is str and key.isascii() else field_name(key): value
        for key, value in pairs
    }


def _array(values: list[Any], data_type: pa.DataType) -> pa.Array:
    array = pa.array(values, type=data_type)
    if isinstance(array, pa.ChunkedArray):
        raise too_large()
    return array


def _converter(column: ColumnPlan, plan: DecodePlan, cells: Cells) -> _Converter:
    if column.core is Core.LIST:
        convert = _list_converter(column, plan, cells)
    elif column.core is Core.STRUCT:
        convert = _struct_converter(column, plan, cells)
    elif column.core is Core.MAP:
        convert = _map_converter(column, plan, cells)
    elif column.core is Core.TIMESTAMP:
        convert = _timestamp_converter(column)
    elif column.exact and plan.is_guess and column.core is Core.FLOAT64:
        convert = _only_float64
    elif column.exact and column.core in _EXACT_SCALARS:
        convert = _EXACT_SCALARS[column.core]
    else:
        convert = _SCALARS[column.core]
    if plan.on_mismatch == "error":
        return convert

    def or_null(value: Any) -> Any:
        try:
            return convert(value)
        except _Mismatch:
            return None

    return or_null


def _null(value: Any) -> Any:
    if value is None:
        return None
    raise _Mismatch("null", type_name(value))


def _bool(value: Any) -> Any:
    if value is None or type(value) is bool:
        return value
    raise _Mismatch("bool", type_name(value))


def _integer(expected: str, low: int, high: int, *, exact: bool = False) -> _Converter:
    def convert(value: Any) -> Any:
        kind = type(value)
        if kind is int and low <= value <= high:
            return value
        if value is None:
            return None
        # go-db's HTTP interface stores every number as a float.
        if not exact and kind is float and value.is_integer() and low <= value <= high:
            return int(value)
        raise _Mismatch(expected, type_name(value))

    return convert


def _float64(value: Any) -> Any:
    kind = type(value)
    if kind is float or value is None:
        return value
    if kind is int:
        return float(value)
    raise _Mismatch("float64", type_name(value))


def _only_float64(value: Any) -> Any:
    if type(value) is int:
        raise _Mismatch("float64", type_name(value))
    return _float64(value)


def _exact_float64(value: Any) -> Any:
    if type(value) is int and int(float(value)) != value:
        raise _Mismatch("float64", type_name(value))
    return _float64(value)


def _string(value: Any) -> Any:
    if value is None or (type(value) is str and is_utf8(value)):
        return value
    raise _Mismatch("string", type_name(value))


def _binary(value: Any) -> Any:
    kind = type(value)
    if kind is bytes or value is None:
        return value
    if kind is str:
        return value.encode("utf-8", "surrogateescape")
    raise _Mismatch("binary", type_name(value))


def _json(value: Any) -> Any:
    return None if value is None else to_json_text(value)


_SCALARS: dict[Core, _Converter] = {
    Core.NULL: _null,
    Core.BOOL: _bool,
    Core.INT64: _integer("int64", _MIN_INT64, _MAX_INT64),
    Core.UINT64: _integer("uint64", 0, _MAX_UINT64),
    Core.FLOAT64: _float64,
    Core.STRING: _string,
    Core.BINARY: _binary,
    Core.JSON: _json,
}


_EXACT_SCALARS: dict[Core, _Converter] = {
    Core.INT64: _integer("int64", _MIN_INT64, _MAX_INT64, exact=True),
    Core.UINT64: _integer("uint64", 0, _MAX_UINT64, exact=True),
    Core.FLOAT64: _exact_float64,
}


def _timestamp_converter(column: ColumnPlan) -> _Converter:
    nano = 10**9 // column.unit

    def convert(value: Any) -> Any:
        if value is None:
            return None
        is_cut = column.exact and type(value) is msgpack.Timestamp and value.nanoseconds % nano
        if type(value) is msgpack.Timestamp and _fits(value, column.unit) and not is_cut:
            return _ticks(value, column.unit)
        raise _Mismatch(str(column.core_type), type_name(value))

    return convert


def _list_converter(column: ColumnPlan, plan: DecodePlan, cells: Cells) -> _Converter:
    item = _converter(column.children[0], plan, cells)

    def convert(value: Any) -> Any:
        if value is None:
            return None
        if type(value) is not list:
            raise _Mismatch("list", type_name(value))
        elements: list[Any] = []
        try:
            for element in value:
                elements.append(item(element))  # noqa: PERF401 (counts up to a misfit)
        except _Mismatch as mismatch:
            mismatch.path.append(f"[{len(elements)}]")
            raise
        return elements

    return convert


def _struct_converter(column: ColumnPlan, plan: DecodePlan, cells: Cells) -> _Converter:
    children = [(child.name, _converter(child, plan, cells)) for child in column.children]
    known = {name for name, _ in children} if plan.strict else None
    width = width_of(column)

    def convert(value: Any) -> Any:
        if value is None:
            cells.add(width)
            return None
        if type(value) is not tuple:
            raise _Mismatch("struct", type_name(value))
        cells.add(len(children))
        fields = _fields(value)
        if plan.is_guess and len(fields) < len(value):
            raise _Mismatch("each key once", "one twice")
        if known is not None and not known.issuperset(fields):
            unknown = next(name for name in fields if name not in known)
            raise _Mismatch("a struct without it", f"the field {unknown!r}")
        converted = {}
        name = ""
        try:
            for name, child in children:
                converted[name] = child(fields.get(name))
        except _Mismatch as mismatch:
            mismatch.path.append(f".{name}")
            raise
        return converted

    return convert


def _map_converter(column: ColumnPlan, plan: DecodePlan, cells: Cells) -> _Converter:
    item = _converter(column.children[0], plan, cells)

    def convert(value: Any) -> Any:
        if value is None:
            return None
        if type(value) is not tuple:
            raise _Mismatch("map", type_name(value))
        entries = []
        name = ""
        try:
            for key, element in value:
                name = field_name(key)
                entries.append((name, item(element)))
        except _Mismatch as mismatch:
            mismatch.path.append(f".{name}")
            raise
        return entries

    return convert


def type_name(value: Any) -> str:
    """Describe a decoded value for messages, with short values shown."""
    if type(value) is str:
        return "string" if is_utf8(value) else "string that is not UTF-8"
    if type(value) is int:
        return f"int {value}"
    if type(value) is float:
        return f"float {value!r}"
    return _TYPE_NAMES.get(type(value), type(value).__name__)


# --- Encoding -------------------------------------------------------------------------------


def decode_unscanned(entries: UnscannedEntries, plan: DecodePlan) -> list[pa.Array] | None:
    """Decode whole entries while they are located, or return None where that does not work.

    Parameters
    ----------
    entries : UnscannedEntries
        Documents to decode.
    plan : DecodePlan
        Columns to decode.

    Returns
    -------
    list of pyarrow.Array or None
        Arrays as :func:`decode` returns them. None where the entries are damaged or others than
        expected, or a value does not fit. The entries must then be scanned and decoded, which
        raises the error.
    """
    try:
        return decode(entries.entries(), plan)
    except (CorruptFile, DepthExceeded, LimitExceeded, TypeMismatch):
        return None


def decode_front(measured: MeasuredEntries, plan: DecodePlan) -> list[pa.Array] | None:
    """Decode the fields of a plan, reading documents only up to these fields.

    Parameters
    ----------
    measured : MeasuredEntries
        Documents, none of which has a key twice.
    plan : DecodePlan
        Columns to decode.

    Returns
    -------
    list of pyarrow.Array or None
        Arrays as :func:`decode` returns them. None where the sizes are wrong, a value does not
        fit, or nothing is gained. The entries must then be decoded one by one.
    """
    if plan.strict or all(column.name == ID_FIELD for column in plan.columns):
        return None
    try:
        entries = measured.entries()
        found = np.frombuffer(entries.bounds, np.int64)[::2]
        return decode(entries, plan) if np.array_equal(found, measured.edges) else None
    except (CorruptFile, DepthExceeded, LimitExceeded, TypeMismatch):
        return None


def text_extremes(texts: pa.Array) -> tuple[int, int]:
    """Return the rows of the min and max text that is not null, by their bytes.

    Parameters
    ----------
    texts : pyarrow.StringArray
        Texts, which may include nulls.

    Returns
    -------
    least, greatest : int
        Rows of the two texts; -1 where all are null.
    """
    bounds = pc.min_max(texts.cast(pa.binary()))
    if not bounds["min"].is_valid:
        return -1, -1
    return texts.index(bounds["min"].cast(texts.type)).as_py(), texts.index(
        bounds["max"].cast(texts.type)
    ).as_py()


def to_dicts(names: Sequence[str], columns: Sequence[list[Any]], count: int) -> list[Any]:
    """Convert columns, which are lists of objects, to rows as dicts.

    Parameters
    ----------
    names : sequence of str
        Keys of the dicts.
    columns : sequence of list
        Values of each key.
    count : int
        Number of rows.

    Returns
    -------
    list of dict
    """
    if not columns:
        return [{} for _ in range(count)]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
