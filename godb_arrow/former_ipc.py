"""Arrow IPC in the metadata of version 0.1.0: schemas, dictionaries and statistics.

Later versions write plain values. The bytes are untrusted: they are bounded, never decompressed,
and checked before anything uses them.
"""

from __future__ import annotations

import pyarrow as pa

from godb_arrow.ipc_header import read_ipc_header
from godb_arrow.recorded_schema import FORMER_CATEGORIES_KEY, FORMER_KEY, with_categories

__all__ = ["read_former_batch", "read_former_schema"]

_MAX_DICTIONARY_BYTES = 1 << 20
_MAX_SCHEMA_BYTES = 1 << 20  # about 10,000 fields, whose names may all collide
_UNUSABLE = (OSError, ValueError, IndexError, EOFError, TypeError)


def read_former_schema(data: bytes) -> pa.Schema:
    """Return a schema that version 0.1.0 recorded, with the categories of its dictionaries.

    Raises
    ------
    pyarrow.ArrowException, OSError, ValueError, TypeError
        The bytes are no schema.
    """
    if len(data) > _MAX_SCHEMA_BYTES:
        raise ValueError("the schema is too large")
    schema = pa.ipc.read_schema(pa.py_buffer(data))
    if len(set(schema.names)) < len(schema):
        raise ValueError("two fields have the same name")
    for index, field in enumerate(schema):
        if field.metadata and FORMER_CATEGORIES_KEY in field.metadata:
            schema = schema.set(index, _converted(field))
    return schema.with_metadata({**(schema.metadata or {}), FORMER_KEY: b"1"})


def _converted(field: pa.Field) -> pa.Field:
    metadata = dict(field.metadata)
    packed = metadata.pop(FORMER_CATEGORIES_KEY)
    field = field.with_metadata(metadata or None)
    if not pa.types.is_dictionary(field.type) or len(packed) > _MAX_DICTIONARY_BYTES:
        return field
    batch = read_former_batch(packed)
    if batch is None or batch.num_columns != 1 or batch.column(0).type != field.type.value_type:
        return field
    return with_categories(field, batch.column(0))


def read_former_batch(data: bytes) -> pa.RecordBatch | None:
    """Return the first record batch of an IPC stream; None for bytes that make no sense."""
    try:
        messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(data))
        message = messages.read_next_message()
        if len(message.metadata) > _MAX_SCHEMA_BYTES:
            return None
        schema = pa.ipc.read_schema(message)
        message = messages.read_next_message()
        if message.type != "record batch" or read_ipc_header(bytes(message.metadata)).is_compressed:
            return None
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except (StopIteration, pa.ArrowException, *_UNUSABLE):
        return None
    return batch
