"""Columns of JSON text that only carry values: their types are the types of the values."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.schema import DocumentSummary, infer_schema, is_json

__all__ = ["VALUES", "take_value_fields", "with_value_types"]

VALUES = {b"godb_arrow.values": b"json"}
"""Metadata of a field of JSON text that carries values.

Without it, a column of the type ``arrow.json`` is read as JSON text again.
"""


def take_value_fields(schema: pa.Schema) -> tuple[pa.Schema, frozenset[str]]:
    """Return a schema without the metadata :data:`VALUES`, and the names of fields that had it.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of rows to write.

    Examples
    --------
    >>> schema = pa.schema([pa.field("a", pa.json_(), metadata=VALUES), pa.field("b", pa.int64())])
    >>> take_value_fields(schema)[1]
    frozenset({'a'})
    """
    names = set()
    for index, field in enumerate(schema):
        metadata = field.metadata or {}
        if is_json(field.type) and not metadata.keys().isdisjoint(VALUES):
            names.add(field.name)
            kept = {key: value for key, value in metadata.items() if key not in VALUES}
            schema = schema.set(index, field.with_metadata(kept or None))
    return schema, frozenset(names)


def with_value_types(
    schema: pa.Schema, names: Collection[str], entries: codec.Entries
) -> pa.Schema:
    """Return a schema in which some fields have the types of their values.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of rows to write.
    names : collection of str
        Fields that carry values.
    entries : codec.Entries
        The rows as documents. A field that all of them lack becomes null.
    """
    if not names:
        return schema
    summary = DocumentSummary(names)
    codec.infer(entries, summary)
    inferred = infer_schema(summary)
    types = {field.name: field.type for field in inferred}
    fields = [
        field.with_type(types.get(field.name, pa.null())) if field.name in names else field
        for field in schema
    ]
    return pa.schema(fields, metadata=schema.metadata)
