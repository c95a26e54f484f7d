"""Changes as record batches."""

from __future__ import annotations

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.engine.change_units import ChangeUnit, Row
from godb_arrow.query.projection import project
from godb_arrow.schema import ID_FIELD, DocumentSummary, infer_schema
from godb_arrow.snapshots.entry_runs import scan

__all__ = ["batch_of"]

_NO_DOCUMENT = b"\x80"  # an empty map
_CHANGE_COLUMNS = pa.schema(
    [
        ("_operation", pa.string()),
        ("_sequence", pa.int64()),
        ("_time", pa.timestamp("us", "UTC")),
        ("_net", pa.bool_()),
        ("_collection", pa.string()),
        (ID_FIELD, pa.string()),
    ]
)


def batch_of(rows: list[tuple[ChangeUnit, Row]]) -> pa.RecordBatch:
    """Return changes as a record batch: columns of the changes, then fields of the documents."""
    chunk = b"".join(
        [codec.pack(row[2] or "") + (_NO_DOCUMENT if row[3] is None else row[3]) for _, row in rows]
    )
    entries, summary = scan(chunk, len(rows)), DocumentSummary()
    codec.infer(entries, summary)
    projection = project(infer_schema(summary), None, None)
    documents = projection.apply(
        codec.decode_batch(entries, codec.plan_columns(projection.decoded))
    )
    values = [
        [row[0] for _, row in rows],
        [unit.sequence for unit, _ in rows],
        [unit.time for unit, _ in rows],
        [unit.is_net for unit, _ in rows],
        [row[1] for _, row in rows],
        [row[2] for _, row in rows],
    ]
    columns = [pa.array(v, field.type) for v, field in zip(values, _CHANGE_COLUMNS, strict=True)]
    fields = _named([field for field in documents.schema if field.name != ID_FIELD])
    columns += [documents.column(name) for name in documents.schema.names if name != ID_FIELD]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([*_CHANGE_COLUMNS, *fields]))


def _named(fields: list[pa.Field]) -> list[pa.Field]:
    """Return fields with names that no column of the changes has, and no other field."""
    taken = {*_CHANGE_COLUMNS.names, *(field.name for field in fields)}
    named = []
    for field in fields:
        name = field.name
        if name in _CHANGE_COLUMNS.names:
            while name in taken:
                name += "_"
            taken.add(name)
        named.append(field.with_name(name))
    return named
