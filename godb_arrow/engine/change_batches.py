"""Changes as record batches."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.engine.change_units import BegunUnit, ChangeUnit, Row
from godb_arrow.memory.limit import Counted, Memory
from godb_arrow.query.projection import project
from godb_arrow.schema import ID_FIELD, DocumentSummary, infer_schema
from godb_arrow.snapshots.entry_runs import scan

__all__ = ["GatheredChanges", "batch_of"]

_MAX_SHARE = 8
"""Part of the memory limit that changes take before their batch ends, one in so many."""

_MIN_BYTES = 1 << 20
_WAITING_BYTES = 1 << 20  # of changes that are Python objects at once
_BYTES_PER_CHANGE = 64  # beside the document
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


class GatheredChanges:
    """Changes that become one record batch: packed, and counted.

    Parameters
    ----------
    memory : Memory
        Memory that counts the bytes.
    max_changes : int, optional
        Number of changes that are enough for a batch, default any number of changes and bytes.
    """

    def __init__(self, memory: Memory, max_changes: int | None = None) -> None:
        is_bounded = max_changes is not None
        self._max_changes = math.inf if max_changes is None else max_changes
        self._max_bytes = max(_MIN_BYTES, memory.limit // _MAX_SHARE) if is_bounded else math.inf
        self._waiting: list[tuple[ChangeUnit, Row]] = []
        self._entries: list[bytes] = []
        self._columns: list[list[pa.Array]] = [[] for _ in _CHANGE_COLUMNS]
        self._packed = self._bytes = 0
        self._counted = Counted(memory)

    def __len__(self) -> int:
        return self._packed + len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether the changes are enough for a batch, by their number or bytes."""
        return len(self) >= self._max_changes or self._bytes >= self._max_bytes

    def add(self, begun: BegunUnit, *, split: bool) -> bool:
        """Add rows of a unit.

        Parameters
        ----------
        begun : BegunUnit
            The unit.
        split : bool
            Whether to stop before its last row when the changes are enough for a batch.

        Returns
        -------
        bool
            Whether the last row was added.
        """
        if begun.unit is None:
            return True
        waiting, unit, is_over = self._waiting, begun.unit, True
        size, packed = self._bytes, self._bytes
        room = self._max_bytes if split else math.inf
        left = self._max_changes - len(self) if split else math.inf
        for row, is_last in begun.rows:
            waiting.append((unit, row))
            size += _BYTES_PER_CHANGE + len(row[3] or b"")
            left -= 1
            if size - packed > _WAITING_BYTES:
                self._pack()
                packed = size
            if not is_last and (left <= 0 or size >= room):
                is_over = False
                break
        self._pack()
        self._counted.add(streams=size - self._bytes)
        self._bytes = size
        return is_over

    def _pack(self) -> None:
        if not self._waiting:
            return
        rows, fields = self._waiting, [*_CHANGE_COLUMNS]
        texts = [(_NO_DOCUMENT if row[3] is None else row[3]) for _, row in rows]
        ids = [codec.pack(row[2] or "") for _, row in rows]
        self._entries.append(b"".join(chain.from_iterable(zip(ids, texts, strict=True))))
        values: list[list[Any]] = [
            [row[0] for _, row in rows],
            [unit.sequence for unit, _ in rows],
            [unit.time for unit, _ in rows],
            [unit.is_net for unit, _ in rows],
            [row[1] for _, row in rows],
            [row[2] for _, row in rows],
        ]
        for column, field, found in zip(self._columns, fields, values, strict=True):
            column.append(pa.array(found, field.type))
        self._packed += len(rows)
        rows.clear()

    def take(self) -> tuple[bytes, list[pa.Array]]:
        """Return the entries and the columns of the changes, and release them."""
        entries, self._entries = self._entries, []
        columns = [
            pa.chunked_array(parts, field.type).combine_chunks()
            for parts, field in zip(self._columns, _CHANGE_COLUMNS, strict=True)
        ]
        return b"".join(entries), columns


def batch_of(changes: GatheredChanges) -> pa.RecordBatch:
    """Return changes as a record batch: columns of the changes, then fields of the documents."""
    chunk, columns = changes.take()
    entries, summary = scan(chunk, len(changes)), DocumentSummary()
    codec.infer(entries, summary)
    projection = project(infer_schema(summary), None, None)
    documents = projection.apply(
        codec.decode_batch(entries, codec.plan_columns(projection.decoded))
    )
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
