"""Sorted documents of a snapshot: by an index, as the first few, or merged from sorted files."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.documents.ids import ids_of
from godb_arrow.memory.limit import Memory
from godb_arrow.parallel import ordered_map
from godb_arrow.query.filters import Filter
from godb_arrow.query.selection import without_rows
from godb_arrow.query.sort_order import SortKey, key_columns, sort_indices
from godb_arrow.snapshots.entry_runs import gathered, scan
from godb_arrow.snapshots.find import matching
from godb_arrow.snapshots.index_order import first_rows
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["SortedDocuments", "sampled", "sorted_matching", "sorted_tables"]

_MAX_SHARE = 8
"""Part of the memory limit that sorting takes before it writes a file, one in so many."""

_MIN_SORTED_BYTES = 1 << 20
_ROWS_PER_RUN = 2048
"""Documents of a run of sorted documents."""

_MAX_BATCH_BYTES = 1 << 20
"""Max bytes of a batch in a file of sorted documents."""

_FILES_AT_ONCE = 16
"""Files of sorted documents that are merged together, two batches of each in memory."""

_MIN_KEPT_ROWS = 4096
"""Documents that are collected before those beyond the limit are dropped."""

_MAX_GATHERED = 16_384
_DOCUMENTS_PER_THREAD = 10_000


@dataclass(frozen=True, slots=True)
class SortedDocuments:
    """Order of documents, and how many of them are wanted.

    Attributes
    ----------
    keys : tuple of SortKey
        Order of the documents. Equal ones are ordered by id.
    most : int or None
        Max number of documents, default all.
    after : mapping or None
        Key columns and id of a document after which the wanted ones come.
    """

    keys: tuple[SortKey, ...]
    most: int | None = None
    after: dict[str, Any] | None = None


def sorted_matching(
    snapshot: Snapshot,
    condition: Filter | None,
    indexed: Sequence[str],
    wanted: SortedDocuments,
) -> Generator[tuple[codec.Entries, Rows], None, None]:
    """Yield the documents that match a filter in an order, as entries and their indices.

    Memory is bounded. Sorted documents beyond a part of the memory limit are written to temporary
    files, which are merged.

    Parameters
    ----------
    snapshot : Snapshot
        Snapshot to read.
    condition : pyarrow.compute.Expression, mapping or None
        Filter; None for all documents.
    indexed : sequence of str
        Fields that have an index.
    wanted : SortedDocuments
        The order.

    Yields
    ------
    tuple of Entries and array of int64
    """
    with closing(sorted_tables(snapshot, condition, indexed, wanted)) as tables:
        for entries, _ in tables:
            yield entries, np.arange(len(entries))


def sorted_tables(
    snapshot: Snapshot,
    condition: Filter | None,
    indexed: Sequence[str],
    wanted: SortedDocuments,
) -> Generator[tuple[codec.Entries, pa.Table], None, None]:
    """Yield sorted documents with their key columns; see :func:`sorted_matching`."""
    if wanted.most == 0 or not snapshot.count:
        return
    matches = _by_index(snapshot, condition, indexed, wanted)
    if matches is None:
        matches = matching(snapshot, condition, indexed)
    memory = snapshot.base.memory
    is_large = codec.BACKEND == "native" and snapshot.count >= _DOCUMENTS_PER_THREAD
    sorter = _Sorter(wanted, memory)
    try:
        for table in ordered_map(sorter.table_of, matches, memory.threads if is_large else 1):
            sorter.add(table)
        for table in sorter.sorted():
            entries = _entries_of(table)
            yield entries, table
    finally:
        sorter.close()
        memory.tidy()


def _by_index(
    snapshot: Snapshot,
    condition: Filter | None,
    indexed: Sequence[str],
    wanted: SortedDocuments,
) -> Iterator[tuple[codec.Entries, Rows]] | None:
    """Return documents that have the first ones among them, if an index names them."""
    (key, *others) = wanted.keys
    is_possible = condition is None and not others
    if not is_possible or wanted.most is None or key.field not in indexed:
        return None
    most, superseded = wanted.most, snapshot.superseded_rows()
    found: list[Rows] = []
    for start, file in snapshot.base.files():
        if file.count:
            live = snapshot.superseded_in(start, file.count)
            rows = first_rows(file, key, most, live, wanted.after)
            if rows is None:
                return None
            found.append(rows + start)
    rows = np.concatenate(found) if found else np.empty(0, np.int64)
    return _named(snapshot, without_rows(np.sort(rows), superseded))


def _named(snapshot: Snapshot, rows: Rows) -> Iterator[tuple[codec.Entries, Rows]]:
    found = snapshot.base.entries_at(rows) if len(rows) else iter(())
    for run in gathered(found, _MAX_GATHERED, snapshot.base.memory.run_bytes):
        yield run, np.arange(len(run))
    for run in snapshot.overlay_parts():
        yield run, np.arange(len(run))


class _Sorter:
    """Sorts tables of documents in bounded memory."""

    def __init__(self, wanted: SortedDocuments, memory: Memory) -> None:
        self._keys, self._most, self._after = wanted.keys, wanted.most, wanted.after
        self._memory = memory
        self._max_bytes = max(_MIN_SORTED_BYTES, memory.limit // _MAX_SHARE)
        self._batch_bytes = min(_MAX_BATCH_BYTES, self._max_bytes // (2 * _FILES_AT_ONCE))
        self._tables: list[pa.Table] = []
        self._bytes = self._rows = 0
        self._counted = 0  # bytes that the memory limit counts
        # A file of a level was merged of several files of the level before.
        self._levels: list[list[_SortedFile]] = [[]]
        self._worst: tuple[int, int] | None = None  # rank and key of the last wanted document
        self._lock = threading.Lock()

    def table_of(self, match: tuple[codec.Entries, Rows]) -> pa.Table:
        """Return the documents of a run that may be wanted, with their key columns."""
        entries, rows = match
        if len(rows) < len(entries):
            entries = codec.take(entries, np.asarray(rows, np.int64))
        columns = key_columns(entries, self._keys)
        worst = self._worst
        if worst is not None:
            kept = self._not_beyond(columns, worst)
            if len(kept) < len(entries):
                entries = codec.take(entries, kept)
                columns = key_columns(entries, self._keys)
        table = _table_of(entries, columns)
        if self._after is not None:
            table = self._cut_front(table)
        if self._most is not None and table.num_rows > self._most:
            table = table.take(self._order_of(table).slice(0, self._most))
        return table

    def _not_beyond(self, columns: dict[str, Any], worst: tuple[int, int]) -> Rows:
        """Return the rows that do not come after the last wanted document by the first key."""
        ranks, keys = columns["rank 0"], columns["key 0"]
        rank, key = np.uint8(worst[0]), np.uint64(worst[1])
        if self._keys[0].descending:
            kept = (ranks > rank) | ((ranks == rank) & (keys >= key))
        else:
            kept = (ranks < rank) | ((ranks == rank) & (keys <= key))
        return np.flatnonzero(kept)

    def _cut_front(self, table: pa.Table) -> pa.Table:
        """Drop the documents up to the one after which the wanted ones come."""
        after = {**(self._after or {}), "entry": b""}
        columns = {field.name: pa.array([after[field.name]], field.type) for field in table.schema}
        order = self._order_of(pa.concat_tables([table, pa.table(columns)])).to_numpy()
        at = int(np.flatnonzero(order == table.num_rows)[0])
        return table.take(pa.array(order[at + 1 :]))

    def _order_of(self, table: pa.Table) -> pa.Array:
        return sort_indices(table, self._keys, ["id"])

    def add(self, table: pa.Table) -> None:
        """Add documents."""
        if not table.num_rows:
            return
        self._tables.append(table)
        self._rows += table.num_rows
        self._bytes += table.get_total_buffer_size()
        if self._most is not None and self._rows > max(2 * self._most, _MIN_KEPT_ROWS):
            self._cut(self._most)
        if self._bytes > self._max_bytes:
            if self._most is not None and self._rows > self._most:
                self._cut(self._most)
            if 2 * self._bytes > self._max_bytes:
                self._write()
        self._count(self._bytes)

    def _count(self, size: int) -> None:
        self._memory.take(streams=size - self._counted)
        self._counted = size

    def _sorted_table(self) -> pa.Table:
        table = pa.concat_tables(self._tables)
        order = self._order_of(table)
        return table.take(order if self._most is None else order.slice(0, self._most))

    def _cut(self, most: int) -> None:
        """Drop the documents beyond the limit."""
        table = self._sorted_table().combine_chunks()
        self._tables, self._rows = [table], table.num_rows
        self._bytes = table.get_total_buffer_size()
        if table.num_rows == most:
            last = table.slice(most - 1, 1)
            self._worst = last.column("rank 0")[0].as_py(), last.column("key 0")[0].as_py()

    def _write(self) -> None:
        """Write the documents so far to a sorted file."""
        # Arrow would join the chunks for each batch.
        table = pa.concat_tables(self._tables).combine_chunks()
        self._tables = []
        order = self._order_of(table)
        if self._most is not None:
            order = order.slice(0, self._most)
        per_batch = max(1, self._batch_bytes * len(order) // max(1, self._bytes))
        starts = range(0, len(order), per_batch)
        self._write_file(0, (table.take(order.slice(start, per_batch)) for start in starts))
        self._bytes = self._rows = 0
        del table
        if len(self._levels[0]) == _FILES_AT_ONCE:
            self._merge_level(0)
        self._memory.tidy()

    def _write_file(self, level: int, tables: Iterator[pa.Table]) -> None:
        """Write sorted tables to a file of a level."""
        first = next(tables)
        file = tempfile.TemporaryFile(prefix="godb-arrow-sort-")  # noqa: SIM115 (closed by close)
        written = _SortedFile(file)
        self._levels[level].append(written)
        with pa.ipc.new_stream(file, first.schema) as writer:
            for table in chain((first,), tables):
                writer.write_table(table.combine_chunks())
                written.batches += 1

    def _merge_level(self, level: int) -> None:
        """Merge the files of a level into one of the next level."""
        if level + 1 == len(self._levels):
            self._levels.append([])
        self._write_file(level + 1, self._merged(self._levels[level]))
        self._close(level)
        if len(self._levels[level + 1]) == _FILES_AT_ONCE:
            self._merge_level(level + 1)

    def _close(self, level: int) -> None:
        for file in self._levels[level]:
            file.close()
        self._levels[level] = []

    def sorted(self) -> Iterator[pa.Table]:
        """Yield all documents in order, in tables."""
        if not any(self._levels):
            yield from self._from_memory()
            return
        if self._tables:
            self._write()
            self._count(0)
        left = self._most
        for table in self._merged([file for level in self._levels for file in level]):
            for start in range(0, table.num_rows, _ROWS_PER_RUN):
                part = table.slice(start, _ROWS_PER_RUN)
                if left is not None:
                    part = part.slice(0, left)
                    left -= part.num_rows
                yield part
                if left == 0:
                    return

    def _from_memory(self) -> Iterator[pa.Table]:
        if not self._tables:
            return
        table = pa.concat_tables(self._tables)
        order = self._order_of(table)
        if self._most is not None:
            order = order.slice(0, self._most)
        for start in range(0, len(order), _ROWS_PER_RUN):
            yield table.take(order.slice(start, _ROWS_PER_RUN))

    def _merged(self, runs: Sequence[_SortedFile]) -> Iterator[pa.Table]:
        """Merge sorted files: a batch of each is in memory."""
        for run in runs:
            run.begin()
        merged = 0  # bytes since Arrow returned unused memory
        while runs:
            joined = pa.concat_tables([run.head for run in runs])
            order = self._order_of(joined).to_numpy().astype(np.int64)
            ends = np.cumsum([run.head.num_rows for run in runs])
            places = np.empty(len(order), np.int64)
            places[order] = np.arange(len(order))
            # Rows after the last row of a head may be preceded by rows that are still in its file.
            lasts = [
                int(places[end - 1]) for end, run in zip(ends, runs, strict=True) if run.has_more
            ]
            chosen = order[: min(lasts) + 1] if lasts else order
            at = np.searchsorted(ends, chosen, "right")
            counts = np.bincount(at, minlength=len(runs))
            # Arrow joins all chunks of texts to take a few. The chosen rows begin each head.
            del joined
            table = pa.concat_tables(
                [run.head.slice(0, count) for run, count in zip(runs, counts.tolist(), strict=True)]
            )
            before = np.cumsum(counts) - counts - (ends - np.diff(ends, prepend=0))
            table = table.take(pa.array(chosen + before[at]))
            merged += table.get_total_buffer_size()
            if merged > self._max_bytes:
                merged = 0
                self._memory.tidy()
            yield table
            del table
            runs = [
                run for run, count in zip(runs, counts.tolist(), strict=True) if run.skip(count)
            ]

    def close(self) -> None:
        """Release memory and files."""
        self._tables = []
        self._count(0)
        for level in range(len(self._levels)):
            self._close(level)


class _SortedFile:
    """File of sorted documents, read batch by batch.

    Attributes
    ----------
    batches : int
        Number of batches that are written and not read.
    head : pyarrow.Table
        Rows that are read and not skipped.
    """

    head: pa.Table

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.batches = 0

    @property
    def has_more(self) -> bool:
        """Whether the file has rows after the head."""
        return self.batches > 0

    def begin(self) -> None:
        """Read the first batch."""
        self._file.seek(0)
        self._reader = pa.ipc.open_stream(self._file)
        self._read()

    def _read(self) -> None:
        self.batches -= 1
        self.head = pa.Table.from_batches([self._reader.read_next_batch()])

    def skip(self, count: int) -> bool:
        """Skip rows of the head; return whether rows are left."""
        self.head = self.head.slice(count)
        if not self.head.num_rows:
            if not self.batches:
                return False
            del self.head  # before the next one takes memory
            self._read()
        return True

    def close(self) -> None:
        """Release memory and the file."""
        self.head = self._reader = None
        self._file.close()


def _table_of(entries: codec.Entries, columns: dict[str, Any]) -> pa.Table:
    """Return documents as a table: key columns, ids, and entries."""
    edges = np.ascontiguousarray(np.frombuffer(entries.bounds, np.int64)[::2])
    buffers = [None, pa.py_buffer(edges), pa.py_buffer(entries.data)]
    data = pa.Array.from_buffers(pa.large_binary(), len(entries), buffers)
    ids = ids_of(entries).cast(pa.large_binary())
    return pa.table({**columns, "id": ids, "entry": data})


def _entries_of(table: pa.Table) -> codec.Entries:
    """Return the documents of a table."""
    chunks = table.column("entry").chunks
    return scan(b"".join(map(_text_of, chunks)), table.num_rows)


def _text_of(texts: pa.Array) -> bytes:
    """Return the bytes of all texts, one after the other."""
    if not len(texts):
        return b""
    _, ends, data = texts.buffers()
    offsets = np.frombuffer(ends, np.int64, len(texts) + 1, texts.offset * 8)
    return b"" if data is None else bytes(data[int(offsets[0]) : int(offsets[-1])])


def sampled(snapshot: Snapshot, numbers: Sequence[int]) -> Iterator[codec.Entries]:
    """Yield documents by their numbers, in order, counted over the base and then the changes.

    Parameters
    ----------
    snapshot : Snapshot
        The documents.
    numbers : sequence of int
        Numbers from 0, ascending.
    """
    chosen = np.array(numbers, np.int64)
    live = np.delete(np.arange(snapshot.base.count), snapshot.superseded_rows())
    rows = live[chosen[chosen < len(live)]]
    found = snapshot.base.entries_at(rows) if len(rows) else iter(())
    yield from gathered(found, _MAX_GATHERED, snapshot.base.memory.run_bytes)
    chosen = chosen[chosen >= len(live)] - len(live)
    for run in snapshot.overlay_runs():
        inside = chosen[chosen < len(run)]
        if len(inside):
            yield codec.take(run, inside)
        chosen = chosen[len(inside) :] - len(run)
