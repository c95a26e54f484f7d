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
_MAX_VALUES = 1 << 22  # of the columns of a batch, nulls included
_WAITING_BYTES, _MAX_WAITING_BYTES = 64 << 10, 1 << 20
"""Bytes of changes that are Python objects at once, at first and of many changes."""

_WAITING_SHARE = 8  # of all changes, one in so many
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
        self._most: float = math.inf if max_changes is None else max_changes
        self._max_bytes = max(_MIN_BYTES, memory.limit // _MAX_SHARE) if is_bounded else math.inf
        self._waiting: list[tuple[ChangeUnit, Row]] = []
        self._entries: list[bytes] = []
        self._columns: list[list[pa.Array]] = [[] for _ in _CHANGE_COLUMNS]
        self._packed = self._bytes = self._waiting_bytes = 0
        self._summary = DocumentSummary()
        self._counted = Counted(memory)

    def __len__(self) -> int:
        return self._packed + len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether the changes are enough for a batch, by their number, bytes or values."""
        return len(self) >= self._most or self._bytes >= self._max_bytes

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
        waiting, unit = self._waiting, begun.unit
        size, waiting_bytes = self._bytes, self._waiting_bytes
        room = self._max_bytes if split else math.inf
        left = self._most - len(self) if split else math.inf
        most_waiting = min(_MAX_WAITING_BYTES, max(_WAITING_BYTES, size // _WAITING_SHARE))
        is_over = True
        for row, is_last in begun.rows:
            waiting.append((unit, row))
            left -= 1
            added = _BYTES_PER_CHANGE + len(row[3] or b"")
            size += added
            waiting_bytes += added
            if waiting_bytes > most_waiting:
                self._pack(waiting_bytes)
                waiting_bytes = 0
                most_waiting = min(_MAX_WAITING_BYTES, max(_WAITING_BYTES, size // _WAITING_SHARE))
                left = self._most - len(self) if split else math.inf
            if not is_last and (left <= 0 or size >= room):
                is_over = False
                break
        self._bytes, self._waiting_bytes = size, waiting_bytes
        return is_over

    def _pack(self, size: int) -> None:
        """Pack the changes that wait, and count their bytes."""
        rows, fields = self._waiting, [*_CHANGE_COLUMNS]
        texts = [(_NO_DOCUMENT if row[3] is None else row[3]) for _, row in rows]
        ids = [codec.pack(row[2] or "") for _, row in rows]
        entries = b"".join(chain.from_iterable(zip(ids, texts, strict=True)))
        codec.infer(scan(entries, len(rows)), self._summary)
        self._entries.append(entries)
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
        if self._most < math.inf:
            self._most = min(self._most, _MAX_VALUES // max(1, len(self._summary.fields)))
        self._packed += len(rows)
        self._counted.add(streams=size)
        rows.clear()

    def take(self) -> tuple[bytes, DocumentSummary, list[pa.Array]]:
        """Return entries, their summary and the columns of the changes, and release them."""
        if self._waiting:
            self._pack(self._waiting_bytes)
        entries, self._entries = self._entries, []
        columns = [
            pa.chunked_array(parts, field.type).combine_chunks()
            for parts, field in zip(self._columns, _CHANGE_COLUMNS, strict=True)
        ]
        return b"".join(entries), self._summary, columns


def batch_of(changes: GatheredChanges) -> pa.RecordBatch:
    """Return changes as a record batch: columns of the changes, then fields of the documents."""
    chunk, summary, columns = changes.take()
    entries = scan(chunk, len(changes))
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
