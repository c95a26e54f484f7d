"""Overlay of a collection: the documents put and deleted since its base was saved."""

from __future__ import annotations

import sys
from bisect import insort
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Rows, no_rows
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.deletions import DeletedIds, joined, rows_among
from godb_arrow.snapshots.frozen import FrozenOverlay
from godb_arrow.snapshots.layers import Bulk, Layer, Version, bulk_document, bulk_of, first_id

__all__ = ["Overlay", "PlannedChange", "bulk_weight", "weight"]


PlannedChange = Callable[[int | None], None]
"""Function that applies a change, given the sequence number of its record in the journal."""

_OBJECT_BYTES = 104  # of a slot in a dict, and of references


class Overlay:
    """Changes to a base, made by threads that have the collection's lock."""

    def __init__(self) -> None:
        self._layers: list[Layer] = []
        self._active = Layer()
        self._bulks: list[Bulk] = []
        self._rows = 0
        self._pinned = 0  # number of first layers that a checkpoint is storing
        self._frozen: FrozenOverlay | None = None  # the changes so far, until the next one
        self.key_bytes = 0  # of the sorted keys of the changes, as far as they were counted

    @property
    def size(self) -> int:
        """Memory use of the changes in bytes, with the sorted keys that searches built."""
        if self._frozen is not None:
            self.key_bytes = self._frozen.key_bytes
        return sum(layer.size for layer in self._layers) + self._active.size + self.key_bytes

    @property
    def first(self) -> int | None:
        """Sequence number of the oldest change."""
        for layer in (*self._layers, self._active):
            if layer.first is not None:
                return layer.first
        return None

    def __len__(self) -> int:
        return sum(map(len, self._layers)) + len(self._active)

    def find(self, identity: str) -> Version | bool:
        """Return the version of a document, or False if it is unchanged."""
        active = self._active
        if not self._layers and not active.versions:
            return active.find(identity) if active.ranges or active.deletions else False
        for layer in (self._active, *reversed(self._layers)):
            version = layer.find(identity)
            if version is not False:
                return version
        return False

    def find_any(self, ids: Mapping[str, Any]) -> dict[str, Version]:
        """Return the versions of the given documents that changed."""
        versions: dict[str, Version] = {}
        for layer in (*self._layers, self._active):
            versions |= layer.find_any(ids)
        return versions

    def document(self, version: bytes | int) -> bytes:
        """Return the bytes of a version."""
        return version if isinstance(version, bytes) else bulk_document(self._bulks, version)

    def plan_change(
        self, versions: Mapping[str, bytes | None], superseded: Sequence[int]
    ) -> PlannedChange:
        """Plan to put and delete documents.

        Parameters
        ----------
        versions : mapping of str to bytes or None
            New documents, and None for deleted ones.
        superseded : sequence of int
            Rows of the base that are superseded or deleted for the first time.

        Returns
        -------
        PlannedChange
            Function that applies the change, given the sequence number of its record. It is
            idempotent, so that a change can be completed after an interrupt. No other change may
            come between.
        """
        layer, count = self._active, len(self._active.superseded)
        size = layer.size
        for identity, version in versions.items():
            before = layer.versions.get(identity, 0)
            if not isinstance(before, int):
                size -= weight(identity, before)
            size += weight(identity, version)
        singles = layer.singles or any(version is not None for version in versions.values())

        def apply(number: int | None) -> None:
            self._frozen = None
            for identity, version in versions.items():
                layer.versions.pop(identity, None)  # An updated document moves to the end.
                layer.versions[identity] = version
            layer.superseded[count:] = superseded
            layer.note(number, size, singles)

        return apply

    def plan_insert(self, identity: str, document: bytes, size: int) -> PlannedChange | None:
        """Plan to put one document without a version; see :meth:`plan_change`.

        Parameters
        ----------
        identity : str
            Document id.
        document : bytes
            The document.
        size : int
            Its :func:`weight`.

        Returns
        -------
        PlannedChange or None
            None if the document has a version, as a deleted one has.
        """
        layer = self._active
        if identity in layer.versions:
            return None
        total = layer.size + size

        def apply(number: int | None) -> None:
            self._frozen = None
            layer.versions[identity] = document
            layer.note(number, total, True)

        return apply

    def plan_delete(self, deleted: DeletedIds, versions: Collection[str] = ()) -> PlannedChange:
        """Plan to delete many documents; see :meth:`plan_change`.

        Parameters
        ----------
        deleted : DeletedIds
            Saved documents, none of which has a version.
        versions : collection of str
            Documents that have one.
        """
        layer = self._active
        change = self.plan_change(dict.fromkeys(versions), ())
        deletions = joined([*layer.deletions, deleted])
        added = sum(found.nbytes for found in deletions)
        added -= sum(found.nbytes for found in layer.deletions)

        def apply(number: int | None) -> None:
            change(number)  # sets the size without the deletions, also the second time
            layer.deletions, layer.size = deletions, layer.size + added

        return apply

    def plan_add(
        self,
        ids: list[str],
        entries: codec.Entries,
        schema: pa.Schema | None,
        superseded: Sequence[int],
    ) -> PlannedChange:
        """Plan to put documents whose entries stay together; see :meth:`plan_change`."""
        layer, count = self._active, len(self._active.superseded)
        first, bulks = self._rows, len(self._bulks)
        bulk = Bulk(first, entries, schema)
        versions = dict(zip(ids, range(first, first + len(ids)), strict=True))
        size = layer.size + bulk_weight(entries, ids)

        def apply(number: int | None) -> None:
            self._frozen = None
            self._bulks[bulks:] = [bulk]
            self._rows = first + len(ids)
            layer.versions.update(versions)
            layer.superseded[count:] = superseded
            layer.note(number, size, layer.singles)

        return apply

    def plan_range(
        self, first_number: int, entries: codec.Entries, schema: pa.Schema | None
    ) -> PlannedChange:
        """Plan to put documents with consecutive generated ids; see :meth:`plan_change`."""
        layer = self._active
        first, bulks = self._rows, len(self._bulks)
        bulk = Bulk(first, entries, schema, first_number)
        ranges = layer.ranges[:]
        insort(ranges, bulk, key=first_id)
        size = layer.size + bulk_weight(entries)

        def apply(number: int | None) -> None:
            self._frozen = None
            self._bulks[bulks:] = [bulk]
            self._rows = first + len(entries)
            layer.ranges = ranges
            layer.note(number, size, layer.singles)

        return apply

    def freeze(self) -> FrozenOverlay:
        """Freeze the changes so far, and return them: the same object until the next change."""
        if self._frozen is None:
            if len(self._active):
                self._layers, self._active = [*self._layers, self._active], Layer()
                self._merge()
            self._frozen = FrozenOverlay(tuple(self._layers), self._bulks[:], len(self))
        return self._frozen

    @classmethod
    def over(cls, frozen: FrozenOverlay) -> Overlay:
        """Return an overlay with frozen changes, whose own changes stay apart."""
        after = cls()
        after._layers, after._bulks = list(frozen.layers), frozen.bulks[:]
        after._rows = max((bulk.start + len(bulk.entries) for bulk in frozen.bulks), default=0)
        after._pinned = len(frozen.layers)
        return after

    @property
    def own_size(self) -> int:
        """Memory use of the changes since :meth:`over` in bytes."""
        return sum(layer.size for layer in (*self._layers[self._pinned :], self._active))

    def find_frozen(self, identity: str) -> bytes | bool | None:
        """Return a document among the frozen changes; False if they have none of the id."""
        for layer in reversed(self._layers[: self._pinned]):
            version = layer.find(identity)
            if version is not False:
                return None if version is None else self.document(version)
        return False

    def own_versions(self) -> dict[str, bytes | None]:
        """Return the documents put and deleted since :meth:`over`, in their order."""
        merged: dict[str, bytes | None] = {}
        for layer in (*self._layers[self._pinned :], self._active):
            for bulk in layer.ranges:
                first = first_id(bulk)
                for index in range(len(bulk.entries)):
                    merged[str(first + index)] = bulk.entries.document(index)
            for deleted in layer.deletions:
                merged.update(dict.fromkeys(deleted))
            for identity, version in layer.versions.items():
                merged.pop(identity, None)
                merged[identity] = None if version is None else self.document(version)
        return merged

    def _merge(self) -> None:
        """Merge the last layers into those that are not much larger, to keep the layers few."""
        layers = self._layers
        while len(layers) - self._pinned >= 2:
            older, newer = layers[-2:]
            if 2 * len(newer) < len(older):
                return
            merged = Layer(
                dict(older.versions),
                older.superseded + newer.superseded,
                older.first,
                older.size + newer.size,
                older.singles or newer.singles,
                sorted(older.ranges + newer.ranges, key=first_id),
                joined([*older.deletions, *newer.deletions]),
            )
            for identity, version in newer.versions.items():
                merged.versions.pop(identity, None)
                merged.versions[identity] = version
            layers[-2:] = [merged]

    def pin(self) -> None:
        """Keep the layers that are now frozen apart from later ones."""
        self._pinned = len(self._layers)

    def unpin(self) -> None:
        """Release the layers that a failed checkpoint pinned."""
        self._pinned = 0

    def after_checkpoint(self, stored: Base) -> Overlay:
        """Return the changes that are newer than the base that a checkpoint stored."""
        after = Overlay()
        after._layers, after._active = self._layers[self._pinned :], self._active
        after._rows = self._rows
        layers = [*after._layers, after._active]
        versions = (version for layer in layers for version in layer.versions.values())
        used = {version for version in versions if isinstance(version, int)}
        used.update(bulk.start for layer in layers for bulk in layer.ranges)
        first_row = min(used, default=self._rows)
        after._bulks = [b for b in self._bulks if b.start + len(b.entries) > first_row]
        if len(after):
            after.rebase(stored)
        return after

    def large_bulks(self, least: int) -> list[Bulk]:
        """Return the bulks that have at least so many documents."""
        return [bulk for bulk in self._bulks if len(bulk.entries) >= least]

    def small_versions(self, least: int) -> Iterator[tuple[str, bytes | int]]:
        """Yield the current documents with their ids, without :meth:`large_bulks`."""
        for layer in (*self._layers, self._active):
            for bulk in layer.ranges:
                for row in range(len(bulk.entries) if len(bulk.entries) < least else 0):
                    identity = str(first_id(bulk) + row)
                    if self.find(identity) == bulk.start + row:
                        yield identity, bulk.start + row
            for identity, version in layer.versions.items():
                is_large = isinstance(version, int) and (
                    len(bulk_of(self._bulks, version).entries) >= least
                )
                if version is not None and not is_large and self.find(identity) is version:
                    yield identity, version

    @property
    def has_ids_to_find(self) -> bool:
        """Whether changes that are not pinned need the rows of their ids in a new base."""
        layers = (*self._layers[self._pinned :], self._active)
        return any(layer.versions or layer.deletions for layer in layers)

    def deleted(self) -> Iterator[str]:
        """Yield the ids of documents that were deleted."""
        versions: dict[str, Version] = {}
        for layer in (*self._layers, self._active):
            versions.update(layer.versions)
        yield from (identity for identity, version in versions.items() if version is None)
        for layer in (*self._layers, self._active):
            for deleted in layer.deletions:
                yield from (identity for identity in deleted if identity not in versions)

    def generated_ids(self) -> Iterator[int]:
        """Yield the generated ids of documents that were inserted in bulk."""
        for layer in (*self._layers, self._active):
            for bulk in layer.ranges:
                yield from range(first_id(bulk), first_id(bulk) + len(bulk.entries))

    def renumbered(self, deleted: Rows) -> Overlay:
        """Return the changes over a base from which deleted rows were removed."""
        after = Overlay()
        after._bulks, after._rows, after._pinned = self._bulks[:], self._rows, self._pinned
        layers = []
        for layer in (*self._layers, self._active):
            rows = np.array(layer.superseded, np.int64)
            layers.append(
                replace(
                    layer,
                    superseded=(rows - deleted.searchsorted(rows)).tolist(),
                    deletions=tuple(
                        found.with_rows(found.rows - deleted.searchsorted(found.rows))
                        for found in layer.deletions
                    ),
                )
            )
        *after._layers, after._active = layers
        return after

    def rebase(self, base: Base) -> None:
        """Find the superseded and deleted rows of a new base."""
        seen = no_rows()
        layers = []
        for layer in (*self._layers, self._active):
            deletions = []
            for deleted in layer.deletions:
                rows = np.setdiff1d(rows_among(base, deleted), seen)
                deletions.append(deleted.with_rows(rows))
                seen = np.union1d(seen, rows)
            rows = np.setdiff1d(rows_among(base, layer.versions), seen)
            seen = np.union1d(seen, rows)
            # Snapshots may have the old layer, with rows of the base before.
            layers.append(replace(layer, superseded=rows.tolist(), deletions=tuple(deletions)))
        *self._layers, self._active = layers
        self._frozen = None


def weight(identity: str, version: bytes | None) -> int:
    """Return the memory use of a document, or of its deletion, in an overlay in bytes."""
    return sys.getsizeof(identity) + sys.getsizeof(version) + _OBJECT_BYTES


def bulk_weight(entries: codec.Entries, ids: list[str] | None = None) -> int:
    """Return the memory use of entries that were inserted together, in an overlay in bytes.

    Parameters
    ----------
    entries : Entries
        The documents.
    ids : list of str, optional
            Ids of the documents, unless they are consecutive generated ids.
    """
    size = len(entries.data) + 8 * len(entries.bounds)
    return size if ids is None else size + _overhead(ids)


def _overhead(ids: list[str]) -> int:
    sample = ids[:: max(1, len(ids) // 100)]
    average = sum(map(sys.getsizeof, sample)) / max(1, len(sample))
    return int(len(ids) * (average + _OBJECT_BYTES + 32))
