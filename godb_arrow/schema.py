"""Inference of the Arrow type of a field from its values.

A codec reads documents and keeps a :class:`FieldSummary` of each field, which joins the kinds of
its values. Joining is commutative and associative, so documents may be read in any order and in
parallel. :func:`infer_type` turns a summary into an Arrow type by this table:

==========================================  ================================================
values seen                                 Arrow type
==========================================  ================================================
only nil, or absent                         null
bool                                        bool
int in int64                                int64
non-negative int, some above 2^63-1         uint64
float, or float and int                     float64
str, valid UTF-8                            string
bin, str with invalid UTF-8, or both        binary
timestamp                                   timestamp[us, UTC]; [ns, UTC] when a value needs
                                            it and all fit
array                                       list<join of the elements>
map                                         struct of the joins; above 200 distinct keys with
                                            one joined value type: map<string, T>
anything else joined                        JSON text (``arrow.json`` on string)
==========================================  ================================================

Extension types other than the timestamp also become JSON text. So do timestamps outside the
range of microseconds in an int64, and containers nested deeper than Arrow's C interface allows.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from enum import IntFlag

import pyarrow as pa

from godb_arrow.colliding_names import first_names, names_collide
from godb_arrow.errors import LimitExceeded, TypeConflict
from godb_arrow.options import OnConflict
from godb_arrow.recorded_schema import CATEGORIES_KEY, FORMER_KEY

__all__ = [
    "ID_FIELD",
    "NANOSECONDS_PER_DAY",
    "NANOSECONDS_PER_SECOND",
    "FieldSummary",
    "Kind",
    "check_complete",
    "fields_fit",
    "has_json",
    "infer_schema",
    "infer_type",
    "is_json",
    "is_partial",
    "is_text",
    "needs_review",
    "nesting",
    "reviewed",
    "rounded_fields",
    "shown_schema",
    "storage_schema",
    "with_rounded",
    "without_categories",
    "without_mark",
]

ID_FIELD = "_id"

NANOSECONDS_PER_SECOND = 10**9
NANOSECONDS_PER_DAY = 86_400 * NANOSECONDS_PER_SECOND

MAP_FROM_KEYS = 200
"""Number of distinct keys above which a map field becomes a map column, if one type fits all."""

MAX_STRUCT_KEYS = 10_000
"""Number of distinct keys above which a map field always becomes a map column."""

MAX_COLUMNS = 100_000
"""Maximum number of distinct top-level fields that inference makes columns of.

Documents may have more."""

_PARTIAL = b"godb_arrow:partial"
_ROUNDED = b"godb_arrow:rounded"  # JSON list of fields that inference itself may round

PANDAS_DETAILS = "godb_arrow"
"""Key, in what Arrow records for pandas, of what Arrow itself does not restore."""

MAX_ARROW_LEVELS = 60
"""Maximum levels of nesting in a column; deeper containers become JSON text.

The C data interface of Arrow C++ carries 63, and consumers add some of their own."""


@functools.cache
def json_type() -> pa.DataType:
    """Return the ``arrow.json`` type of columns with JSON text."""
    return pa.json_(pa.string())


def is_json(data_type: pa.DataType) -> bool:
    """Return whether an Arrow type is the ``arrow.json`` extension."""
    return isinstance(data_type, pa.JsonType)


def has_json(data_type: pa.DataType) -> bool:
    """Return whether a type is JSON text, or has JSON text inside."""
    children = (data_type.field(index).type for index in range(data_type.num_fields))
    return is_json(data_type) or any(map(has_json, children))


def is_text(data_type: pa.DataType) -> bool:
    """Return whether a type is one of Arrow's string types."""
    return bool(
        pa.types.is_string(data_type)
        or pa.types.is_large_string(data_type)
        or pa.types.is_string_view(data_type)
    )


def storage_schema(schema: pa.Schema) -> pa.Schema:
    """Replace extension types (JSON text) by their storage types, at every depth.

    Systems that do not know the extension types can cast record batches and readers to it.
    """
    return pa.schema([_storage_field(field) for field in schema], metadata=schema.metadata)


def _storage_field(field: pa.Field) -> pa.Field:
    return field.with_type(_storage_type(field.type))


def _storage_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _storage_type(kind.storage_type)
    if pa.types.is_struct(kind):
        return pa.struct([_storage_field(child) for child in kind])
    if pa.types.is_map(kind):
        return pa.map_(_storage_field(kind.key_field), _storage_field(kind.item_field))
    if pa.types.is_list(kind):
        return pa.list_(_storage_field(kind.value_field))
    return kind


class Kind(IntFlag):
    """Kinds of value that a field holds."""

    NULL = 1
    BOOL = 2
    NEGATIVE = 4
    UNSIGNED = 8  # 0 to 2^63-1
    ABOVE_INT64 = 16
    FLOAT = 32
    STRING = 64
    BINARY = 128  # bin, or str that is not UTF-8
    TIMESTAMP = 256
    ARRAY = 512
    MAP = 1024
    EXTENSION = 2048
    # Details of TIMESTAMP
    NEEDS_NANOSECONDS = 4096
    OUTSIDE_NANOSECONDS = 8192
    OUTSIDE_MICROSECONDS = 16384
    # Detail of MAP
    ODD_KEY = 32768  # a key that is not a UTF-8 string


# Plain ints: the flags are tested once per value, and IntFlag arithmetic is slow.
_INTEGER = int(Kind.NEGATIVE | Kind.UNSIGNED | Kind.ABOVE_INT64)
_NUMBER = _INTEGER | int(Kind.FLOAT)
_TEXT = int(Kind.STRING | Kind.BINARY)

# Kinds that one Arrow type holds together, with their name in messages.
_FAMILIES: tuple[tuple[int, str], ...] = (
    (int(Kind.BOOL), "bool"),
    (_NUMBER, "number"),
    (_TEXT, "text"),
    (int(Kind.TIMESTAMP), "timestamp"),
    (int(Kind.ARRAY), "array"),
    (int(Kind.MAP), "map"),
    (int(Kind.EXTENSION), "extension type"),
)

_KIND_NAMES: tuple[tuple[int, str], ...] = (
    (int(Kind.BOOL), "bool"),
    (int(Kind.NEGATIVE), "negative int"),
    (int(Kind.UNSIGNED), "int"),
    (int(Kind.ABOVE_INT64), "int above 2^63-1"),
    (int(Kind.FLOAT), "float"),
    (int(Kind.STRING), "string"),
    (int(Kind.BINARY), "binary"),
    (int(Kind.TIMESTAMP), "timestamp"),
    (int(Kind.ARRAY), "array"),
    (int(Kind.MAP), "map"),
    (int(Kind.EXTENSION), "extension type"),
)


class FieldSummary:
    """Summary of the values of one field, joined over the documents read.

    Attributes
    ----------
    kinds : int
        Flags of :class:`Kind` seen.
    first : dict of int to str
        Id of the first document with each flag.
    item : FieldSummary or None
        Join of the elements of all arrays.
    fields : dict of str to FieldSummary
        Joins of the values of all maps, by key, in the order first seen.
    values : FieldSummary or None
        Join of the values of all maps, once their keys are too many to keep.
    """

    __slots__ = ("fields", "first", "item", "kinds", "values")

    def __init__(self) -> None:
        self.kinds = 0
        self.first: dict[int, str] = {}
        self.item: FieldSummary | None = None
        self.fields: dict[str, FieldSummary] = {}
        self.values: FieldSummary | None = None

    def add(self, flag: int, document: str) -> None:
        """Record that a value of this kind was seen."""
        if not self.kinds & flag:
            self.kinds |= flag
            self.first[flag] = document

    def field(self, name: str) -> FieldSummary:
        """Return the summary for one key of a map, creating it when it is new."""
        if self.values is not None:
            return self.values
        summary = self.fields.get(name)
        if summary is None:
            summary = FieldSummary()
            self.fields[name] = summary
            if len(self.fields) > MAX_STRUCT_KEYS:
                self.values = self._joined_values()
                self.fields = {}
                return self.values
        return summary

    def element(self) -> FieldSummary:
        """Return the summary for the elements of arrays."""
        if self.item is None:
            self.item = FieldSummary()
        return self.item

    def merge(self, other: FieldSummary) -> None:
        """Join the summary of later documents into this one."""
        self.kinds |= other.kinds
        for flag, document in other.first.items():
            self.first.setdefault(flag, document)
        if other.item is not None:
            self.element().merge(other.item)
        if other.values is not None and self.values is None:
            self.values = self._joined_values()
            self.fields = {}
        if other.values is not None and self.values is not None:
            self.values.merge(other.values)
        for name, summary in other.fields.items():
            self.field(name).merge(summary)

    def _joined_values(self) -> FieldSummary:
        joined = FieldSummary()
        for summary in self.fields.values():
            joined.merge(summary)
        return joined


class DocumentSummary(FieldSummary):
    """Summary of whole documents, whose fields become columns and never a map.

    Parameters
    ----------
    names : iterable of str
        Fields that are kept before all others, where documents have more than are kept.
    limit : int, optional
        Maximum number of fields that are kept, with the id; ``MAX_COLUMNS`` by default.

    Attributes
    ----------
    is_partial : bool
        Whether the documents have further fields, which are not in the summary.
    """

    __slots__ = ("is_partial", "limit")

    def __init__(self, names: Iterable[str] = (), limit: int | None = None) -> None:
        super().__init__()
        self.limit = MAX_COLUMNS if limit is None else limit
        self.is_partial = False
        for name in names:
            self.field(name)

    def field(self, name: str) -> FieldSummary:
        """Return the summary for one top-level field, creating it when it is new."""
        summary = self.fields.get(name)
        if summary is None:
            summary = FieldSummary()
            if len(self.fields) < self.limit:
                self.fields[name] = summary
            else:
                self.is_partial = True
        return summary

    def merge(self, other: FieldSummary) -> None:
        """Merge the summary of later documents into this one.

        The result is exact if the other one is not partial.
        """
        super().merge(other)
        if isinstance(other, DocumentSummary):
            self.is_partial = self.is_partial or other.is_partial


def infer_type(summary: FieldSummary, level: int = 0) -> pa.DataType:
    """Return the Arrow type for a summary of values.

    Parameters
    ----------
    summary : FieldSummary
        Join of the field's values.
    level : int
        Number of Arrow types that enclose this one.

    Returns
    -------
    pyarrow.DataType

    Examples
    --------
    >>> summary = FieldSummary()
    >>> summary.add(Kind.UNSIGNED, "1")
    >>> summary.add(Kind.FLOAT, "2")
    >>> infer_type(summary)
    DataType(double)
    """
    kinds = summary.kinds
    families = [flags for flags, _ in _FAMILIES if kinds & flags]
    if not families:
        return pa.null()
    if len(families) > 1 or _is_number_conflict(kinds):
        return json_type()
    if kinds & Kind.BOOL:
        return pa.bool_()
    if kinds & _NUMBER:
        if kinds & Kind.FLOAT:
            return pa.float64()
        return pa.uint64() if kinds & Kind.ABOVE_INT64 else pa.int64()
    if kinds & _TEXT:
        return pa.binary() if kinds & Kind.BINARY else pa.string()
    if kinds & Kind.TIMESTAMP:
        if kinds & Kind.OUTSIDE_MICROSECONDS:
            return json_type()
        nanoseconds = kinds & Kind.NEEDS_NANOSECONDS and not kinds & Kind.OUTSIDE_NANOSECONDS
        return pa.timestamp("ns" if nanoseconds else "us", tz="UTC")
    if level >= MAX_ARROW_LEVELS or kinds & Kind.EXTENSION:
        return json_type()
    if kinds & Kind.ARRAY:
        item = summary.item
        return pa.list_(pa.null() if item is None else infer_type(item, level + 1))
    return _map_type(summary, level)


def _map_type(summary: FieldSummary, level: int) -> pa.DataType:
    values = summary.values
    if values is None and len(summary.fields) > MAP_FROM_KEYS:
        joined = summary._joined_values()
        if not is_json(infer_type(joined, level + 2)):
            values = joined
    if values is not None:
        # A map counts twice: it holds a struct of key and value.
        return pa.map_(pa.string(), infer_type(values, level + 2))
    if names_collide(summary.fields):
        return json_type()
    return pa.struct(
        [pa.field(name, infer_type(child, level + 1)) for name, child in summary.fields.items()]
    )


def _is_number_conflict(kinds: int) -> bool:
    """Return whether values are both negative and above 2^63-1, which no integer type holds."""
    return bool(kinds & Kind.NEGATIVE and kinds & Kind.ABOVE_INT64 and not kinds & Kind.FLOAT)


def infer_schema(summary: FieldSummary, on_conflict: OnConflict = "json") -> pa.Schema:
    """Return the schema of the summarized documents, with ``_id`` first.

    Parameters
    ----------
    summary : FieldSummary
        Join of the documents.
    on_conflict : {"json", "error"}
        Treatment of a field whose values no single Arrow type can hold.

    Returns
    -------
    pyarrow.Schema

    Raises
    ------
    TypeConflict
        A field needs several types and `on_conflict` is "error". The message names them, and a
        document for each.

    Examples
    --------
    >>> infer_schema(DocumentSummary()).names
    ['_id']
    """
    if on_conflict == "error":
        for path, conflict in _conflicts(summary, ""):
            raise TypeConflict(
                f"field {path!r} holds {conflict}",
                advice='use on_conflict="json" to get such fields as JSON text, or give schema=',
            )
    collide = names_collide(summary.fields)
    names = first_names(summary.fields) if collide else summary.fields
    identity = summary.fields.get(ID_FIELD)
    fields = [pa.field(ID_FIELD, pa.string() if identity is None else infer_type(identity))]
    fields += [
        pa.field(name, infer_type(summary.fields[name])) for name in names if name != ID_FIELD
    ]
    metadata = {}
    if collide or (isinstance(summary, DocumentSummary) and summary.is_partial):
        metadata[_PARTIAL] = b"1"
    rounded = [name for name in names if _may_round(summary.fields[name])]
    if rounded:
        metadata[_ROUNDED] = json.dumps(rounded).encode()
    return pa.schema(fields, metadata=metadata or None)


def _may_round(summary: FieldSummary) -> bool:
    """Return whether the type of a field holds some of its values rounded.

    These are floats beside large integers, and nanoseconds beside moments of distant years.
    """
    kinds = summary.kinds
    if kinds & Kind.FLOAT and kinds & _INTEGER:
        return True
    if kinds & Kind.NEEDS_NANOSECONDS and kinds & Kind.OUTSIDE_NANOSECONDS:
        return True
    children = [*summary.fields.values(), summary.item, summary.values]
    return any(child is not None and _may_round(child) for child in children)


def rounded_fields(schema: pa.Schema) -> frozenset[str]:
    """Return the fields whose inferred type holds some values rounded."""
    packed = (schema.metadata or {}).get(_ROUNDED)
    try:
        names = json.loads(packed) if packed is not None else []
    except (ValueError, RecursionError):
        return frozenset()
    if not isinstance(names, list):
        return frozenset()
    return frozenset(name for name in names if isinstance(name, str))


def needs_review(schema: pa.Schema) -> bool:
    """Return whether the documents decide which fields of a recorded schema hold rounded values.

    Schemas of version 0.1.0 do not say it.
    """
    if not schema.metadata or FORMER_KEY not in schema.metadata:
        return False
    return any(_is_roundable(field.type) for field in schema)


def _is_roundable(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_is_roundable(kind.field(index).type) for index in range(kind.num_fields))
    return bool(pa.types.is_float64(kind) or kind == pa.timestamp("us", "UTC"))


def reviewed(schema: pa.Schema, summary: FieldSummary) -> pa.Schema:
    """Return a recorded schema with what a summary of the documents says of rounded values."""
    inferred = infer_schema(summary)
    return with_rounded(schema, rounded_fields(inferred))


def with_rounded(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """Return a schema that says which of its fields hold some values rounded."""
    notes = (_ROUNDED, FORMER_KEY)
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key not in notes}
    kept = [name for name in dict.fromkeys(names) if name in schema.names]
    if kept:
        metadata[_ROUNDED] = json.dumps(kept).encode()
    return schema.with_metadata(metadata) if metadata else schema.remove_metadata()


def shown_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema without the notes that only godb_arrow reads."""
    if schema.metadata and not schema.metadata.keys().isdisjoint((_ROUNDED, FORMER_KEY)):
        schema = with_rounded(schema, ())
    for index, field in enumerate(schema):
        if field.metadata and CATEGORIES_KEY in field.metadata:
            schema = schema.set(index, without_categories(field))
    return schema


def without_categories(field: pa.Field) -> pa.Field:
    """Return a field without its recorded categories."""
    metadata = {key: value for key, value in (field.metadata or {}).items()
                if key != CATEGORIES_KEY}  # fmt: skip
    return field.with_metadata(metadata or None)


def is_partial(schema: pa.Schema) -> bool:
    """Return whether documents have further fields, which the schema does not name."""
    return bool(schema.metadata and _PARTIAL in schema.metadata)


def check_complete(schema: pa.Schema) -> None:
    """Check that all fields of the documents become columns.

    Raises
    ------
    LimitExceeded
        The documents have more fields.
    """
    if is_partial(schema):
        raise LimitExceeded(
            f"the documents have more than {MAX_COLUMNS} distinct fields, or fields that collide",
            advice="name the fields that you need with columns= or schema=",
        )


def without_mark(schema: pa.Schema) -> pa.Schema:
    """Return a schema without the mark of a partial one, for chosen columns."""
    if not is_partial(schema):
        return schema
    metadata = {key: value for key, value in schema.metadata.items() if key != _PARTIAL}
    return schema.with_metadata(metadata or None)


def _conflicts(summary: FieldSummary, path: str) -> Iterator[tuple[str, str]]:
    kinds = summary.kinds
    families = [flags for flags, _ in _FAMILIES if kinds & flags]
    if len(families) > 1 or _is_number_conflict(kinds):
        seen = [
            f"{name} (first in document {summary.first[flag]!r})"
            for flag, name in _KIND_NAMES
            if kinds & flag
        ]
        yield path, " and ".join(seen)
        return
    if summary.item is not None:
        yield from _conflicts(summary.item, f"{path}[]")
    prefix = f"{path}." if path else ""
    for name, child in summary.fields.items():
        yield from _conflicts(child, prefix + name)
    if summary.values is not None:
        yield from _conflicts(summary.values, f"{prefix}*")


def nesting(data_type: pa.DataType) -> int:
    """Return the depth of nesting of a type, which is itself the first level."""
    level = 0
    types = [data_type]
    while types:
        level += 1
        nested = [kind for kind in types if pa.types.is_nested(kind)]
        types = [kind.field(index).type for kind in nested for index in range(kind.num_fields)]
    return level


def fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Return whether values of one type are values of another without conversion."""
    if found.equals(wanted) or pa.types.is_null(found):
        return True
    if pa.types.is_struct(found) and pa.types.is_struct(wanted):
        return fields_fit(found, wanted)
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return fits(found.value_type, wanted.value_type)
    return False


def fields_fit(found: Iterable[pa.Field], wanted: Iterable[pa.Field]) -> bool:
    """Return whether documents with some fields fit a schema without conversion."""
    types = {field.name: field for field in wanted}
    is_open = isinstance(wanted, pa.Schema) and is_partial(wanted)
    if isinstance(found, pa.Schema) and is_partial(found):
        # A wanted field may be among the fields of the documents that are not known.
        is_open = is_open and types.keys() <= set(found.names)
        if not is_open:
            return False
    known = (field for field in found if not is_open or field.name in types)
    return all(
        field.name in types
        and fits(field.type, types[field.name].type)
        and (types[field.name].nullable or not field.nullable)
        for field in known
    )
