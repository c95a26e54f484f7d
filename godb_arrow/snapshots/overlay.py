"""The changing side of a collection: documents put and deleted since its file was written."""

from __future__ import annotations

import itertools
import sys
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.documents.ids import number_of
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.id_index import Rows

__all__ = ["Bulk", "Layer", "Overlay", "Version", "bulk_document", "bulk_of", "first_id"]


Version = bytes | int | None
"""A document in an overlay: its bytes, its row among the bulk entries, or deleted."""

_OBJECT_BYTES = 104  # of a dict's slot, and a reference here and there


@dataclass(slots=True)
class Layer:
    """Changes, newest last; frozen as soon as a snapshot has it."""

    versions: dict[str, Version] = field(default_factory=dict)
    shadows: list[int] = field(default_factory=list)  # rows of the base that are no more
    first: int | None = None  # the journal's record of its first change
    size: int = 0
    singles: bool = False  # whether there are others than those inserted in bulk
    ranges: list[Bulk] = field(default_factory=list)  # with generated ids, in their order

    def find(self, identity: str) -> Version | bool:
        """The version of a document; False when it is not here."""
        version = self.versions.get(identity, False)
        if version is not False or not self.ranges:
            return version
        number = number_of(identity)
        if number is None:
            return False
        at = bisect_right(self.ranges, number, key=first_id) - 1
        bulk = self.ranges[at]
        row = number - first_id(bulk)
        return bulk.start + row if at >= 0 and row < len(bulk.entries) else False

    def __len__(self) -> int:
        return len(self.versions) + sum(len(bulk.entries) for bulk in self.ranges)


@dataclass(slots=True)
class Bulk:
    """Entries that were inserted at once, and their rows' numbers in the overlay.

    Where the ids are generated ones that follow each other, only the first is noted.
    """

    start: int
    entries: codec.Entries
    schema: pa.Schema | None
    first_id: int | None = None


def first_id(bulk: Bulk) -> int:
    """The first of the generated ids of entries that have them."""
    assert bulk.first_id is not None
    return bulk.first_id


class Overlay:
    """The changes to a base. Whoever changes it holds the collection's lock."""

    def __init__(self) -> None:
        self._layers: list[Layer] = []
        self._active = Layer()
        self._bulks: list[Bulk] = []
        self._rows = 0
        self._pinned = 0  # layers at the front that a checkpoint is storing

    @property
    def size(self) -> int:
        """Bytes that the changes take."""
        return sum(layer.size for layer in self._layers) + self._active.size

    @property
    def first(self) -> int | None:
        """The journal's record of the oldest change."""
        for layer in (*self._layers, self._active):
            if layer.first is not None:
                return layer.first
        return None

    def __len__(self) -> int:
        return sum(map(len, self._layers)) + len(self._active)

    def find(self, identity: str) -> Version | bool:
        """The version of a document; False when it was not changed."""
        for layer in (self._active, *reversed(self._layers)):
            version = layer.find(identity)
            if version is not False:
                return version
        return False

    def find_any(self, ids: Mapping[str, Any]) -> dict[str, Version]:
        """The versions of those of some documents that were changed."""
        found: dict[str, Version] = {}
        for layer in (*self._layers, self._active):
            if layer.ranges:
                versions = ((one, layer.find(one)) for one in ids)
                found |= {one: version for one, version in versions if version is not False}
            elif not ids.keys().isdisjoint(layer.versions.keys()):
                found |= {one: layer.versions[one] for one in ids.keys() & layer.versions.keys()}
        return found

    def document(self, version: bytes | int) -> bytes:
        """The bytes of a version."""
        return version if isinstance(version, bytes) else bulk_document(self._bulks, version)

    def change(
        self, versions: Mapping[str, bytes | None], shadows: Iterable[int], number: int | None
    ) -> None:
        """Put and delete documents.

        Parameters
        ----------
        versions : mapping of str to bytes or None
            New documents, and None for deleted ones.
        shadows : iterable of int
            Rows of the base that have changed for the first time.
        number : int or None
            The journal's record of the change.
        """
        layer = self._active
        self._note(layer, number)
        for identity, version in versions.items():
            before = layer.versions.pop(identity, 0)  # an updated document moves to the end
            if not isinstance(before, int):
                layer.size -= _weight(identity, before)
            layer.versions[identity] = version
            layer.size += _weight(identity, version)
            layer.singles = layer.singles or version is not None
        layer.shadows.extend(shadows)

    def add(
        self,
        ids: list[str],
        entries: codec.Entries,
        schema: pa.Schema | None,
        shadows: Iterable[int],
        number: int | None,
    ) -> None:
        """Put documents, as entries that stay together."""
        layer = self._active
        self._note(layer, number)
        self._bulks.append(Bulk(self._rows, entries, schema))
        layer.versions.update(zip(ids, range(self._rows, self._rows + len(ids)), strict=True))
        self._rows += len(ids)
        layer.size += len(entries.data) + 8 * len(entries.bounds) + _bulk_overhead(ids)
        layer.shadows.extend(shadows)

    def add_range(
        self, first: int, entries: codec.Entries, schema: pa.Schema | None, number: int | None
    ) -> None:
        """Put documents that have generated ids, each one more than the one before."""
        layer = self._active
        self._note(layer, number)
        bulk = Bulk(self._rows, entries, schema, first)
        self._bulks.append(bulk)
        insort(layer.ranges, bulk, key=first_id)
        self._rows += len(entries)
        layer.size += len(entries.data) + 8 * len(entries.bounds)

    @staticmethod
    def _note(layer: Layer, number: int | None) -> None:
        if layer.first is None:
            layer.first = number

    def freeze(self) -> tuple[tuple[Layer, ...], list[Bulk]]:
        """The changes until now, which stay as they are."""
        if len(self._active):
            self._layers.append(self._active)
            self._active = Layer()
            self._merge()
        return tuple(self._layers), self._bulks[:]

    def _merge(self) -> None:
        """Keep the layers few: the last take in those that are not much larger."""
        layers = self._layers
        while len(layers) - self._pinned >= 2:
            older, newer = layers[-2:]
            if 2 * len(newer.versions) < len(older.versions):
                return
            merged = Layer(
                dict(older.versions), older.shadows + newer.shadows, older.first,
                older.size + newer.size, older.singles or newer.singles,
                sorted(older.ranges + newer.ranges, key=first_id),
            )  # fmt: skip
            for identity, version in newer.versions.items():
                merged.versions.pop(identity, None)
                merged.versions[identity] = version
            layers[-2:] = [merged]

    def pin(self) -> None:
        """Keep the layers that are frozen now apart from later ones."""
        self._pinned = len(self._layers)

    def unpin(self) -> None:
        """A checkpoint did not succeed."""
        self._pinned = 0

    def drop_pinned(self) -> None:
        """A checkpoint holds the pinned layers: go on with the later ones."""
        self._layers = self._layers[self._pinned :]
        self._pinned = 0
        layers = [*self._layers, self._active]
        used = {version for layer in layers for version in layer.versions.values()
                if isinstance(version, int)}  # fmt: skip
        used.update(bulk.start for layer in layers for bulk in layer.ranges)
        least = min(used, default=self._rows)
        self._bulks = [b for b in self._bulks if b.start + len(b.entries) > least]

    @property
    def has_ids_to_find(self) -> bool:
        """Whether a new base must be asked for ids of changes that are not pinned."""
        return any(layer.versions for layer in (*self._layers[self._pinned :], self._active))

    def generated_ids(self) -> Iterator[int]:
        """The ids of documents that were inserted in bulk, with generated ids."""
        for layer in (*self._layers, self._active):
            for bulk in layer.ranges:
                yield from range(first_id(bulk), first_id(bulk) + len(bulk.entries))

    def renumber(self, gone: Rows) -> None:
        """Take note that rows of the base were left out, which were no more: others follow up."""
        layers = []
        for layer in (*self._layers, self._active):
            rows = np.array(layer.shadows, np.int64)
            layers.append(replace(layer, shadows=(rows - gone.searchsorted(rows)).tolist()))
        *self._layers, self._active = layers

    def rebase(self, base: Base) -> None:
        """Find anew which rows of a base are no more."""
        seen: set[int] = set()
        layers = []
        for layer in (*self._layers, self._active):
            rows = set(itertools.chain(*base.rows_of(layer.versions).values())) - seen
            seen |= rows
            # Snapshots may have the layer, with the rows of the base before.
            layers.append(replace(layer, shadows=sorted(rows)))
        *self._layers, self._active = layers


def _weight(identity: str, version: bytes | None) -> int:
    return sys.getsizeof(identity) + sys.getsizeof(version) + _OBJECT_BYTES


def _bulk_overhead(ids: list[str]) -> int:
    sample = ids[:: max(1, len(ids) // 100)]
    average = sum(map(sys.getsizeof, sample)) / max(1, len(sample))
    return int(len(ids) * (average + _OBJECT_BYTES + 32))


def bulk_of(bulks: list[Bulk], row: int) -> Bulk:
    """The entries that have a row of the overlay."""
    return bulks[bisect_right(bulks, row, key=lambda one: one.start) - 1]


def bulk_document(bulks: list[Bulk], row: int) -> bytes:
    """The bytes of the document in a row of the overlay."""
    bulk = bulk_of(bulks, row)
    return bulk.entries.document(row - bulk.start)
