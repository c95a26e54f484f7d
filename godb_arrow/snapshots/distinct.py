"""Distinct values of a field in the documents that match a filter."""

from __future__ import annotations

import heapq
import itertools
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import IO, Any

import msgpack
import numpy as np

from godb_arrow import codec
from godb_arrow.codec.field_values import FieldValues, ValueKind, parts_of
from godb_arrow.documents.loading import load_entry
from godb_arrow.memory.limit import Counted, Memory
from godb_arrow.query.filters import Filter
from godb_arrow.query.sort_order import text_column
from godb_arrow.query.value_order import identity_of, place_of
from godb_arrow.snapshots.entry_runs import scan
from godb_arrow.snapshots.find import matching
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["distinct_values"]

_WHOLE = (ValueKind.MAP, ValueKind.EXTENSION)

_MAX_SHARE = 8
"""Part of the memory limit that distinct values take before they are written, one in so many."""

_MIN_VALUES_BYTES = 1 << 20
_BYTES_PER_VALUE = 300  # beside its identity: slots, and the key by which it is sorted
_VALUES_AT_ONCE = 4_096  # that become Python objects together
_BLOCK_BYTES = 8 << 10  # of a temporary file that are read together, of each run
_BLOCK = struct.Struct("<II")  # bytes and number of values


def distinct_values(
    snapshot: Snapshot, field: str, condition: Filter | None, indexed: Sequence[str]
) -> list[Any]:
    """Return the distinct values of a field: of lists, their elements.

    Parameters
    ----------
    snapshot : Snapshot
        The documents.
    field : str
        Field, or a dotted path into maps.
    condition : pyarrow.compute.Expression, mapping or None
        Filter; None for all documents.
    indexed : sequence of str
        Fields that have an index.

    Returns
    -------
    list
        Values in the order in which they sort. Numbers that are equal count once.
    """
    parts = parts_of(field)
    with closing(_Distinct(snapshot.base.memory)) as found:
        for entries, rows in matching(snapshot, condition, indexed):
            if len(rows) < len(entries):
                entries = codec.take(entries, np.asarray(rows, np.int64))
            values = codec.field_values(entries, parts)
            whole = _rows_with_containers(values)
            for scalars in _scalars_of(values, whole):
                found.add(scalars)
            for row in whole.tolist():
                document = load_entry(entries, row)
                found.add(_elements(_values_at(document, parts)))
        return found.sorted()


class _Distinct:
    """Distinct values in bounded memory: sorted runs of them are written to a temporary file.

    Of equal values, the first one counts.

    Parameters
    ----------
    memory : Memory
        Memory that counts the values while they are collected.
    """

    def __init__(self, memory: Memory) -> None:
        self._max_bytes = max(_MIN_VALUES_BYTES, memory.limit // _MAX_SHARE)
        self._found: dict[str | bytes, Any] = {}
        self._bytes = 0  # of the values in memory
        self._counted = Counted(memory)
        self._file: IO[bytes] | None = None
        self._runs: list[tuple[int, int]] = []  # where each begins and ends in the file

    def add(self, values: Iterable[Any]) -> None:
        """Add values, unless equal ones are there."""
        found, size_of = self._found, sys.getsizeof
        room = self._max_bytes - self._bytes
        for value in values:
            identity = identity_of(value)
            if identity not in found:
                found[identity] = value
                room -= _BYTES_PER_VALUE + size_of(identity)
                if room < 0:
                    self._write()
                    room = self._max_bytes
        self._count(self._max_bytes - room)

    def _count(self, size: int) -> None:
        if size != self._bytes:
            self._counted.add(streams=size - self._bytes)
            self._bytes = size

    def _in_order(self) -> list[Any]:
        return sorted(self._found.values(), key=_place)

    def _write(self) -> None:
        """Write the values so far as a sorted run."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="godb-arrow-distinct-")  # noqa: SIM115 (closed by close)
        begin = self._file.tell()
        entries: list[bytes] = []
        size = 0
        for value in self._in_order():
            entries.append(codec.pack("") + codec.pack({"v": value}))
            size += len(entries[-1])
            if size >= _BLOCK_BYTES:
                self._write_block(entries)
                entries, size = [], 0
        if entries:
            self._write_block(entries)
        self._runs.append((begin, self._file.tell()))
        self._found.clear()

    def _write_block(self, entries: list[bytes]) -> None:
        assert self._file is not None
        block = b"".join(entries)
        self._file.write(_BLOCK.pack(len(block), len(entries)))
        self._file.write(block)

    def _run(self, at: int, end: int) -> Iterator[Any]:
        """Yield the values of a run in order; a block of them is in memory."""
        assert self._file is not None
        while at < end:
            self._file.seek(at)
            size, count = _BLOCK.unpack(self._file.read(_BLOCK.size))
            entries = scan(self._file.read(size), count)
            at += _BLOCK.size + size
            for index in range(count):
                yield codec.load(entries.document(index))["v"]

    def sorted(self) -> list[Any]:
        """Return all values in order."""
        if self._file is None:
            return self._in_order()
        if self._found:
            self._write()
        runs = [self._run(at, end) for at, end in self._runs]
        # Equal values come in the order of their runs, so that the first one counts.
        groups = itertools.groupby(heapq.merge(*runs, key=_place), _place)
        return [value for _, group in groups for value in _without_equal(group)]

    def close(self) -> None:
        """Release memory and the file."""
        self._found = {}
        self._counted.release()
        if self._file is not None:
            self._file.close()


def _without_equal(values: Iterable[Any]) -> Iterable[Any]:
    """Return the first of equal values; unequal ones may have one place, such as maps."""
    found: dict[str | bytes, Any] = {}
    for value in values:
        found.setdefault(identity_of(value), value)
    return found.values()


def _rows_with_containers(values: FieldValues) -> Any:
    """Return the rows that have maps, extensions, or lists in lists among their values."""
    rows = values.rows[np.isin(values.kinds, _WHOLE)]
    lists, counts = np.unique(values.rows[values.kinds == ValueKind.ARRAY], return_counts=True)
    return np.union1d(rows, lists[counts > 1])


def _scalars_of(values: FieldValues, without: Any) -> Iterator[list[Any]]:
    """Yield the different values of each kind in the other rows, some at a time."""
    is_kept = ~np.isin(values.rows, without)
    for kind in ValueKind:
        mask = is_kept & (values.kinds == kind)
        if kind in (ValueKind.ABSENT, ValueKind.ARRAY) or not mask.any():
            continue
        found = _unique(kind, values, mask)
        for start in range(0, len(found), _VALUES_AT_ONCE):
            yield _objects(kind, found[start : start + _VALUES_AT_ONCE])


def _unique(kind: ValueKind, values: FieldValues, mask: Any) -> Any:
    """Return the different ones of values of a kind, as an array."""
    if kind in (ValueKind.STRING, ValueKind.BINARY):
        return text_column(values, mask).unique()
    words = values.words[mask]
    if kind is ValueKind.FLOAT:
        return np.unique(words.view(np.float64))
    if kind is ValueKind.ABOVE_INT64:
        return np.unique(words)
    numbers = words.view(np.int64)
    if kind is ValueKind.MOMENT:
        return np.unique(np.stack([numbers, values.sizes[mask]], 1), axis=0)
    return np.unique(numbers if kind is ValueKind.INT else numbers[:1])


def _objects(kind: ValueKind, found: Any) -> list[Any]:
    """Return values as Python objects."""
    if kind is ValueKind.NULL:
        return [None]
    if kind in (ValueKind.FALSE, ValueKind.TRUE):
        return [kind is ValueKind.TRUE]
    objects: list[Any] = found.tolist()
    if kind is ValueKind.MOMENT:
        moments = (msgpack.Timestamp(*pair) for pair in objects)
        return [codec.load(codec.pack({"v": moment}))["v"] for moment in moments]
    return [text.decode() for text in objects] if kind is ValueKind.STRING else objects


def _values_at(value: Any, parts: Sequence[str]) -> Iterator[Any]:
    """Yield the values that a dotted name leads to, as filters read it."""
    if not parts:
        yield value
    elif isinstance(value, dict):
        for count in range(len(parts), 0, -1):  # a key that has dots comes first
            name = ".".join(parts[:count])
            if name in value:
                yield from _values_at(value[name], parts[count:])
                return
    elif isinstance(value, list):
        for element in value:
            if isinstance(element, dict):
                yield from _values_at(element, parts)


def _elements(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _place(value: Any) -> tuple[Any, ...]:
    """Return a key that sorts scalars as documents are sorted, and containers last."""
    return isinstance(value, (dict, list, msgpack.ExtType)), place_of(value)
