"""Own types of columns that a format lacks, as text in the metadata of their fields.

A format without dictionaries holds their values, one without extension types their storage, and so
on. The metadata of the field describes the column's own type and its categories, so that a later
copy restores both.
"""

from __future__ import annotations

import json

import pyarrow as pa

from godb_arrow.connectors.arrays import is_bytes
from godb_arrow.query.comparable import plain_type
from godb_arrow.recorded_schema import CATEGORIES_KEY, describe_schema, restore_schema
from godb_arrow.schema import is_json, is_text, without_categories

__all__ = ["MARK", "OWN_TYPE", "describe_own", "own_field"]

MARK = b"godb_arrow.type"
"""Field metadata with the name of a type that a format replaced by another one."""

OWN_TYPE = b"godb_arrow.own_type"
"""Field metadata with the description of a type, as JSON."""


def describe_own(own: pa.Field, fitted: pa.Field, *, has_sizes: bool) -> pa.Field:
    """Describe the type of a column in the field that a format holds, where the format lacks it.

    Parameters
    ----------
    own : pyarrow.Field
        Field of the column, perhaps with its categories.
    fitted : pyarrow.Field
        Field of the format.
    has_sizes : bool
        Whether the format has extension types, and lists and texts of fixed and of large size.

    Returns
    -------
    pyarrow.Field
        Unchanged if the format has the type, or holds it in a form that cannot be converted back.
    """
    fitted = without_categories(fitted)
    if not _lacks(own.type, has_sizes) or not _is_convertible(own.type, fitted):
        return fitted
    try:
        described = describe_schema(pa.schema([own.with_name("own"), fitted.with_name("held")]))
        text = json.dumps(described["fields"])
    except (TypeError, ValueError):  # a parameter of an extension type that is no text
        return fitted
    metadata = {key: value for key, value in (fitted.metadata or {}).items() if key != MARK}
    return fitted.with_metadata({**metadata, OWN_TYPE: text.encode()})


def own_field(field: pa.Field) -> pa.Field | None:
    """Return the field that the metadata of a field describes; None without a description."""
    text = (field.metadata or {}).get(OWN_TYPE)
    if text is None:
        return None
    try:
        own, held = restore_schema({"fields": json.loads(text)})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, pa.ArrowException):
        return None
    if not _is_alike(field.type, held.type):  # another program changed the column
        return None
    metadata = {key: value for key, value in field.metadata.items() if key != OWN_TYPE}
    if own.metadata and CATEGORIES_KEY in own.metadata:
        metadata[CATEGORIES_KEY] = own.metadata[CATEGORIES_KEY]
    return field.with_type(own.type).with_metadata(metadata or None)


def _lacks(kind: pa.DataType, has_sizes: bool) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return True
    if isinstance(kind, pa.BaseExtensionType):
        return not has_sizes and not is_json(kind)
    if not has_sizes and (
        types.is_fixed_size_binary(kind)
        or types.is_fixed_size_list(kind)
        or types.is_large_list(kind)
        or types.is_large_string(kind)
        or types.is_large_binary(kind)
    ):
        return True
    return any(_lacks(kind.field(index).type, has_sizes) for index in range(kind.num_fields))


def _is_convertible(own: pa.DataType, fitted: pa.Field) -> bool:
    """Return whether values of a format's field become values of a column's own type again."""
    types = pa.types
    kind = own
    while types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        if is_json(kind):
            return True
        kind = kind.value_type if types.is_dictionary(kind) else kind.storage_type
    is_text = types.is_string(fitted.type) or types.is_large_string(fitted.type)
    if is_text and (types.is_nested(kind) or types.is_decimal(kind) or types.is_null(kind)):
        return bool(types.is_struct(kind) and not kind.num_fields)
    if kind.num_fields != fitted.type.num_fields:
        return bool(types.is_dictionary(fitted.type))
    children = zip(_fields(kind), _fields(fitted.type), strict=True)
    return all(_is_convertible(mine.type, field) for mine, field in children)


def _is_alike(kind: pa.DataType, held: pa.DataType) -> bool:
    """Return whether a format may return columns of one type in the other one."""
    kind, held = plain_type(kind), plain_type(held)
    if kind.num_fields or held.num_fields:
        return kind.num_fields == held.num_fields and all(
            _is_alike(mine.type, field.type)
            for mine, field in zip(_fields(kind), _fields(held), strict=True)
        )
    types = pa.types
    families = (is_text, is_bytes, types.is_timestamp, types.is_decimal)
    return kind.equals(held) or any(test(kind) and test(held) for test in families)


def _fields(kind: pa.DataType) -> list[pa.Field]:
    return [kind.field(index) for index in range(kind.num_fields)]
