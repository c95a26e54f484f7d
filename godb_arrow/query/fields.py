"""Paths of fields, which are dotted names in nested columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from godb_arrow.display import kind_of
from godb_arrow.errors import FieldNotFound, InvalidOption, UnsupportedType
from godb_arrow.schema import ID_FIELD, is_json, is_partial

__all__ = [
    "FieldPath",
    "check_columns",
    "check_names",
    "column_at",
    "field_at",
    "is_storable",
    "is_utf8",
    "may_have",
    "path_of",
    "paths_of",
    "shown_names",
    "unknown_field",
]


_MAX_SHOWN_NAMES = 20  # fields in a message

FieldPath = tuple[str, ...]


def check_columns(columns: Sequence[str] | None) -> None:
    """Check that columns are names.

    Raises
    ------
    InvalidOption
        They are one string, a mapping, or no strings.
    """
    if columns is None:
        return
    if isinstance(columns, str):
        raise InvalidOption(f"columns is the string {columns!r}", advice="give a list of names")
    if isinstance(columns, Mapping):
        raise InvalidOption(
            "columns is a mapping, which keeps or drops fields of documents",
            advice="give a list of names; find takes mappings",
        )
    if not isinstance(columns, Iterable):
        raise InvalidOption(f"columns is {kind_of(columns)}", advice="give a list of names")
    for name in columns:
        if not isinstance(name, str):
            raise InvalidOption(f"columns names the field {name!r}", advice="give strings")


def is_utf8(text: str) -> bool:
    """Return whether a text has no surrogates, as names of columns have none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_storable(text: str) -> bool:
    """Return whether documents can have a text: its surrogates are raw bytes."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def path_of(schema: pa.Schema, name: str) -> FieldPath:
    """Return the path for a name: a field of that name, or a dotted path into structs and maps.

    Raises
    ------
    FieldNotFound
        The schema has no such field.
    """
    if not name.isascii() and not is_utf8(name):  # A column has no such name.
        raise unknown_field(schema, name)
    if schema.get_field_index(name) >= 0:  # Its names would be listed again for each column.
        return (name,)
    path: list[str] = []
    fields: Iterable[pa.Field] = schema
    rest = name
    while rest:
        names = {field.name: field for field in fields}
        head = next((n for n in names if rest == n or rest.startswith(f"{n}.")), None)
        if head is None:
            break
        path.append(head)
        rest = rest[len(head) + 1 :]
        kind = names[head].type
        while rest and pa.types.is_map(kind):  # any key may be in a map
            kind = kind.item_type
            is_last = not (pa.types.is_struct(kind) or pa.types.is_map(kind))
            key, _, rest = (rest, "", "") if is_last else rest.partition(".")
            path.append(key)
        fields = kind if pa.types.is_struct(kind) else ()
    if path and not rest:
        return tuple(path)
    raise unknown_field(schema, name)


def unknown_field(schema: pa.Schema, name: str) -> FieldNotFound:
    """Return the error for a field that a schema lacks, which names the nearest ones."""
    if is_partial(schema):
        return FieldNotFound(
            f"the documents have no field {name!r} that becomes a column",
            advice="check the name, or give schema= with this field and its type",
        )
    known = paths_of(schema)
    import difflib

    close = difflib.get_close_matches(name, known, n=3)
    shown = ", ".join(map(repr, close)) if close else shown_names(known)
    return FieldNotFound(
        f"field {name!r} does not exist",
        advice=f"did you mean {shown}?" if close else f"the fields are {shown}",
    )


def shown_names(names: Sequence[str]) -> str:
    """Return names for a message, cut where they are many.

    Examples
    --------
    >>> shown_names(["a", "b"]), shown_names([str(n) for n in range(99)])[-20:]
    ("'a', 'b'", "18', '19', … 79 more")
    """
    shown = ", ".join(map(repr, names[:_MAX_SHOWN_NAMES]))
    left = len(names) - _MAX_SHOWN_NAMES
    return f"{shown}, … {left} more" if left > 0 else shown


def may_have(schema: pa.Schema, path: str) -> bool:
    """Return whether documents of a schema may have a value at a path.

    Paths go through maps and lists of them. Mixed values may be anything.

    Examples
    --------
    >>> schema = pa.schema({"tags": pa.list_(pa.struct({"name": pa.string()}))})
    >>> may_have(schema, "tags.name"), may_have(schema, "tags.nmae")
    (True, False)
    """
    return path == ID_FIELD or is_partial(schema) or _leads_on(schema, path)


def _leads_on(fields: Iterable[pa.Field], path: str) -> bool:
    for field in fields:
        if field.name == path:
            return True
        if path.startswith(f"{field.name}."):
            kind = field.type
            while pa.types.is_list(kind) or pa.types.is_large_list(kind):
                kind = kind.value_type
            if is_json(kind) or pa.types.is_map(kind):
                return True
            if pa.types.is_struct(kind) and _leads_on(kind, path[len(field.name) + 1 :]):
                return True
    return False


def paths_of(schema: pa.Schema) -> list[str]:
    """Return the names of all fields, with the dotted paths of those inside structs."""

    def walk(fields: Iterable[pa.Field], prefix: str) -> Iterable[str]:
        for field in fields:
            yield prefix + field.name
            if pa.types.is_struct(field.type):
                yield from walk(field.type, f"{prefix}{field.name}.")

    return list(walk(schema, ""))


def field_at(schema: pa.Schema, name: str) -> pa.Field:
    """Return the field with a name or dotted path.

    Raises
    ------
    FieldNotFound
        The schema has no such field.
    """
    return column_at(schema, path_of(schema, name))


def column_at(schema: pa.Schema, path: FieldPath) -> pa.Field:
    """Return the field at a path of a schema."""
    field = schema.field(path[0])
    for name in path[1:]:
        kind = field.type
        field = pa.field(name, kind.item_type) if pa.types.is_map(kind) else kind.field(name)
    return field


def check_names(schema: pa.Schema) -> None:
    """Check that the Arrow C interface carries all names: they end at U+0000 there.

    Raises
    ------
    UnsupportedType
    """
    for name in paths_of(schema):
        if "\0" in name:
            raise UnsupportedType(
                f"the name of field {name!r} has U+0000, where names end in Arrow's C interface",
                advice="choose other columns, or read this one with read_table or read_documents",
            )
