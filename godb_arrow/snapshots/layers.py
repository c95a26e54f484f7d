"""Layers of an overlay: changes in their order, and documents that were inserted together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.documents.ids import number_of
from godb_arrow.snapshots.deletions import DeletedIds
from godb_arrow.snapshots.entry_runs import scan
from godb_arrow.snapshots.held import UnsavedDocuments

__all__ = [
    "Bulk",
    "Layer",
    "Version",
    "bulk_document",
    "bulk_of",
    "first_id",
    "runs_of",
]

_RUN_DOCUMENTS = 16_384  # that are joined in a run
_MAX_COPIED = 64  # neighbours that are copied into a run with others

Version = bytes | int | None
"""Document in an overlay: its bytes, its row among the bulk entries, or None if deleted."""


@dataclass(slots=True)
class Layer:
    """Changes in their order, which are frozen as soon as a snapshot has them."""

    versions: dict[str, Version] = field(default_factory=dict)
    superseded: list[int] = field(default_factory=list)  # superseded or deleted rows of the base
    first: int | None = None  # sequence number of the first change
    size: int = 0
    singles: bool = False  # whether some changes are no bulk inserts
    ranges: list[Bulk] = field(default_factory=list)  # consecutive generated ids, in order
    deletions: tuple[DeletedIds, ...] = ()  # of saved documents, before all versions of their ids
    _documents: UnsavedDocuments | None = field(default=None, init=False, repr=False)
    _rows: Rows | None = field(default=None, init=False, repr=False)
    _row_set: codec.RowSet | None = field(default=None, init=False, repr=False)

    def documents(self, bulks: list[Bulk]) -> UnsavedDocuments:
        """Return the documents of a frozen layer, without its ranges, in their order."""
        if self._documents is None:
            self._documents = UnsavedDocuments([*runs_of(self.versions, bulks)])
        return self._documents

    def superseded_rows(self) -> Rows:
        """Return the superseded or deleted rows of a frozen layer, in order."""
        if self._rows is None:
            rows = [deleted.rows for deleted in self.deletions]
            # Other threads see the array when it is assigned, so it is sorted before.
            self._rows = np.sort(np.concatenate([np.array(self.superseded, np.int64), *rows]))
        return self._rows

    @property
    def has_superseded(self) -> bool:
        """Whether rows of the base are superseded or deleted."""
        return bool(self.superseded) or any(len(deleted.rows) for deleted in self.deletions)

    def superseded_set(self) -> codec.RowSet:
        """Return the superseded or deleted rows of a frozen layer as a set."""
        if self._row_set is None:
            self._row_set = codec.RowSet(self.superseded_rows())
        return self._row_set

    def note(self, number: int | None, size: int, singles: bool) -> None:
        """Count a change, given its sequence number, its size, and whether it is a single one."""
        first = number if self.first is None else self.first
        self.first, self.size, self.singles = first, size, singles

    def find(self, identity: str) -> Version | bool:
        """Return the version of a document, or False if the layer has none."""
        version = self.versions.get(identity, False)
        if version is False and self.ranges:
            version = self._find_in_ranges(identity)
        if version is False and self.deletions:
            return None if any(identity in deleted for deleted in self.deletions) else False
        return version

    def _find_in_ranges(self, identity: str) -> int | bool:
        number = number_of(identity)
        if number is None:
            return False
        at = bisect_right(self.ranges, number, key=first_id) - 1
        bulk = self.ranges[at]
        row = number - first_id(bulk)
        return bulk.start + row if at >= 0 and row < len(bulk.entries) else False

    def find_any(self, ids: Mapping[str, Any]) -> dict[str, Version]:
        """Return the versions of the given documents that the layer has."""
        found: dict[str, Version] = {}
        for deleted in self.deletions:
            found.update(dict.fromkeys(deleted.among(ids)))
        for identity in ids if self.ranges else ():
            row = self._find_in_ranges(identity)
            if row is not False:
                found[identity] = row
        if not ids.keys().isdisjoint(self.versions.keys()):
            for identity in ids.keys() & self.versions.keys():
                found[identity] = self.versions[identity]
        return found

    def __len__(self) -> int:
        count = len(self.versions)
        if self.ranges:
            count += sum(len(one.entries) for one in self.ranges)
        return count + sum(map(len, self.deletions)) if self.deletions else count


@dataclass(slots=True)
class Bulk:
    """Entries that were inserted together, and their rows in the overlay.

    Of consecutive generated ids, only the first is recorded.
    """

    start: int
    entries: codec.Entries
    schema: pa.Schema | None
    first_id: int | None = None
    _documents: UnsavedDocuments | None = field(default=None, init=False, repr=False)

    def documents(self) -> UnsavedDocuments:
        """Return the entries as documents that are searched by index."""
        if self._documents is None:
            self._documents = UnsavedDocuments([self.entries])
        return self._documents


def first_id(bulk: Bulk) -> int:
    """Return the first of the consecutive generated ids of entries."""
    assert bulk.first_id is not None
    return bulk.first_id


def bulk_of(bulks: list[Bulk], row: int) -> Bulk:
    """Return the bulk entries that have a row of the overlay."""
    return bulks[bisect_right(bulks, row, key=lambda bulk: bulk.start) - 1]


def bulk_document(bulks: list[Bulk], row: int) -> bytes:
    """Return the bytes of the document in a row of the overlay."""
    bulk = bulk_of(bulks, row)
    return bulk.entries.document(row - bulk.start)


def runs_of(versions: dict[str, Version], bulks: list[Bulk]) -> Iterator[codec.Entries]:
    """Yield the documents of an overlay, in runs of neighbours that were inserted together.

    Few neighbours are copied into a run with the documents around them, since each run costs time.
    """
    joined = _JoinedEntries()
    first = after = -1  # rows of neighbours
    end = -1  # of the bulk entries with these rows
    for identity, version in versions.items():
        if isinstance(version, int):
            if version == after and version < end:
                after += 1
                continue
            if first >= 0:
                yield from joined.add_neighbours(_neighbours(bulks, first, after))
            first, after = version, version + 1
            bulk = bulk_of(bulks, version)
            end = bulk.start + len(bulk.entries)
        elif version is not None:
            if first >= 0:
                yield from joined.add_neighbours(_neighbours(bulks, first, after))
                first = after = -1
            yield from joined.add(codec.pack(identity) + version, 1)
    if first >= 0:
        yield from joined.add_neighbours(_neighbours(bulks, first, after))
    yield from joined.rest()


class _JoinedEntries:
    """Entries that are copied into runs."""

    def __init__(self) -> None:
        self._pieces: list[bytes | memoryview] = []
        self._count = 0

    def add_neighbours(self, entries: codec.Entries) -> Iterator[codec.Entries]:
        """Add entries of one run; yield them as they are if they are many."""
        if len(entries) <= _MAX_COPIED:
            yield from self.add(entries.raw(), len(entries))
        else:
            yield from self.rest()
            yield entries

    def add(self, data: bytes | memoryview, count: int) -> Iterator[codec.Entries]:
        """Add entries; yield a run when it is large enough."""
        self._pieces.append(data)
        self._count += count
        if self._count >= _RUN_DOCUMENTS:
            yield from self.rest()

    def rest(self) -> Iterator[codec.Entries]:
        """Yield the entries that were added last."""
        if self._count:
            yield scan(b"".join(self._pieces), self._count)
            self._pieces, self._count = [], 0


def _neighbours(bulks: list[Bulk], first: int, after: int) -> codec.Entries:
    bulk = bulk_of(bulks, first)
    return bulk.entries.between(first - bulk.start, after - bulk.start)
