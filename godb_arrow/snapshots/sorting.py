"""Sorted documents of a snapshot: by an index, as the first few, or merged from sorted files."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from godb_arrow.snapshots.sorted_file import ENTRY, SIZE, SortedFile, sizes_of, sliced, text_of

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["SortedDocuments", "sampled", "sorted_matching", "sorted_tables"]

_MAX_SHARE = 8
"""Part of the memory limit that sorting takes before it writes a file, one in so many."""

_MIN_SORTED_BYTES = 1 << 20
_ROWS_PER_RUN = 2048
"""Documents of a run of sorted documents."""

_MAX_BATCH_BYTES = 1 << 20
"""Max bytes of the keys of a batch in a file of sorted documents."""

_FILES_AT_ONCE = 16
"""Files of sorted documents that are merged together, keys of each in memory."""

_MIN_FILES_AT_ONCE = 4
"""Files that are merged together although their keys are large."""

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
        self._merged_bytes = self._max_bytes // 2  # of documents that are merged together
        self._tables: list[pa.Table] = []
        self._bytes = self._rows = 0
        self._counted = 0  # bytes that the memory limit counts
        # A file of a level was merged of several files of the level before.
        self._levels: list[list[SortedFile]] = [[]]
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
        after = {**(self._after or {}), ENTRY: b""}
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
        self._write_file(0, _taken(table, order.to_numpy().astype(np.int64), self._merged_bytes))
        self._bytes = self._rows = 0
        del table
        if self._is_full(self._levels[0]):
            self._merge_level(0)
        self._memory.tidy()

    def _is_full(self, files: Sequence[SortedFile]) -> bool:
        """Return whether files are as many as are merged together."""
        most = _FILES_AT_ONCE
        if sum(file.head_bytes for file in files) > self._max_bytes:
            most = min(_MIN_FILES_AT_ONCE, most)
        return len(files) >= most

    def _write_file(self, level: int, tables: Iterator[pa.Table]) -> None:
        """Write sorted tables to a file of a level."""
        file = SortedFile(self._batch_bytes)
        self._levels[level].append(file)
        file.write(tables)

    def _merge_level(self, level: int) -> None:
        """Merge the files of a level into one of the next level."""
        if level + 1 == len(self._levels):
            self._levels.append([])
        self._write_file(level + 1, self._merged(self._levels[level]))
        self._close(level)
        if self._is_full(self._levels[level + 1]):
            self._merge_level(level + 1)

    def _files(self) -> list[SortedFile]:
        """Return all files, as few as are merged together if their keys are large."""
        for level in range(len(self._levels) - 1):
            files = [file for level in self._levels for file in level]
            if sum(file.head_bytes for file in files) <= self._max_bytes:
                break
            if self._levels[level]:
                self._merge_level(level)
        return [file for level in self._levels for file in level]

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
        for table in self._merged(self._files()):
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

    def _merged(self, runs: Sequence[SortedFile]) -> Iterator[pa.Table]:
        """Merge sorted files: keys of each are in memory, and the documents that come next."""
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
            sizes = joined.column(SIZE).to_numpy()[chosen]
            keys = joined.drop_columns(SIZE)
            del joined
            for start, end in sliced(sizes, self._merged_bytes):
                entries = _next_entries(runs, at[start:end], sizes[start:end])
                table = keys.take(pa.array(chosen[start:end])).append_column(ENTRY, entries)
                del entries
                merged += table.get_total_buffer_size()
                if merged > self._max_bytes:
                    merged = 0
                    self._memory.tidy()
                yield table
                del table
            del keys
            runs = [
                run for run, count in zip(runs, counts.tolist(), strict=True) if run.skip(count)
            ]

    def close(self) -> None:
        """Release memory and files."""
        self._tables = []
        self._count(0)
        for level in range(len(self._levels)):
            self._close(level)


def _next_entries(
    runs: Sequence[SortedFile], at: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> pa.Array:
    """Return the next documents of files in the order of a merge.

    Parameters
    ----------
    runs : sequence of SortedFile
        The files.
    at : array of int64
        Number of the file of each document.
    sizes : array of int64
        Bytes of each document.
    """
    by_run = np.argsort(at, kind="stable")  # as the documents are read
    read = np.bincount(at, sizes, len(runs)).astype(np.int64).tolist()
    data = b"".join([run.read_entries(size) for run, size in zip(runs, read, strict=True) if size])
    starts = np.empty(len(at), np.int64)
    starts[by_run] = np.cumsum(sizes[by_run]) - sizes[by_run]
    if len(set(at.tolist())) > 1:
        data = codec.gather(data, starts, starts + sizes)
    return _texts(sizes, data)


def _taken(table: pa.Table, order: Rows, max_bytes: int) -> Iterator[pa.Table]:
    """Yield rows of a table in an order, in tables with a bounded number of bytes of documents."""
    entries, keys = table.column(ENTRY), table.drop_columns(ENTRY)
    (chunk,) = entries.chunks
    data, sizes = text_of(chunk), sizes_of(entries)
    starts = np.cumsum(sizes) - sizes
    for start, end in sliced(sizes[order], max_bytes):
        rows = order[start:end]
        # Not by Arrow, which keeps freed memory of this size.
        found = codec.gather(data, starts[rows], starts[rows] + sizes[rows])
        yield keys.take(pa.array(rows)).append_column(ENTRY, _texts(sizes[rows], found))


def _texts(sizes: npt.NDArray[np.int64], data: bytes) -> pa.Array:
    """Return texts whose bytes come one after the other."""
    edges = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=edges[1:])
    buffers = [None, pa.py_buffer(edges), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(sizes), buffers)


def _table_of(entries: codec.Entries, columns: dict[str, Any]) -> pa.Table:
    """Return documents as a table: key columns, ids, and entries."""
    edges = np.ascontiguousarray(np.frombuffer(entries.bounds, np.int64)[::2])
    buffers = [None, pa.py_buffer(edges), pa.py_buffer(entries.data)]
    data = pa.Array.from_buffers(pa.large_binary(), len(entries), buffers)
    ids = ids_of(entries).cast(pa.large_binary())
    return pa.table({**columns, "id": ids, ENTRY: data})


def _entries_of(table: pa.Table) -> codec.Entries:
    """Return the documents of a table."""
    chunks = table.column(ENTRY).chunks
    return scan(b"".join(map(text_of, chunks)), table.num_rows)


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
