"""Frozen changes of an overlay, which all snapshots share until the next change."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.documents.ids import number_of
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.entry_runs import without
from godb_arrow.snapshots.held import UnsavedDocuments
from godb_arrow.snapshots.layers import Bulk, Layer, Version, first_id, runs_of

__all__ = ["FrozenOverlay", "Unsaved"]


class Unsaved(NamedTuple):
    """Unsaved documents that are searched together.

    Attributes
    ----------
    documents : UnsavedDocuments
        The documents.
    newer : tuple of mapping
        Later changes by id, by which some of the documents are superseded or deleted.
    """

    documents: UnsavedDocuments
    newer: tuple[Collection[str], ...]

    def is_current(self, identity: str) -> bool:
        """Return whether no later change supersedes a document."""
        return not any(identity in changes for changes in self.newer)


class FrozenOverlay:
    """Changes to a base at one moment, unaffected by later changes.

    Parameters
    ----------
    layers : tuple of Layer
        The changes, the oldest first.
    bulks : list of Bulk
        Documents that were inserted together.
    changes : int
        Number of changes.
    """

    def __init__(self, layers: tuple[Layer, ...], bulks: list[Bulk], changes: int) -> None:
        self.layers = layers
        self.bulks = bulks
        self.changes = changes
        self._lock = threading.Lock()
        self._versions: dict[str, Version] | None = None
        self._runs: list[codec.Entries] | None = None
        self._run_data: frozenset[int] = frozenset()  # identities of the bytes of these runs
        self._sources: tuple[Unsaved, ...] | None = None
        self._row_sets: tuple[codec.RowSet, ...] | None = None
        # Of a base, whose number is first.
        self._superseded: tuple[int, Rows] | None = None
        self._schema: tuple[int, pa.Schema] | None = None

    def versions(self) -> dict[str, Version]:
        """Return the changed documents, in the order of their last change.

        It does not have deletions of many saved documents.
        """
        with self._lock:
            if self._versions is None:
                filled = [layer.versions for layer in self.layers if layer.versions]
                if len(filled) == 1:  # Many deletions are not copied.
                    self._versions = filled[0]
                    return self._versions
                merged: dict[str, Version] = {}
                for layer in self.layers:
                    if not merged:
                        merged = dict(layer.versions)
                        continue
                    for identity, version in layer.versions.items():
                        merged.pop(identity, None)
                        merged[identity] = version
                self._versions = merged
            return self._versions

    def runs(self) -> list[codec.Entries]:
        """Return the entries of the changed documents, in runs."""
        versions = self.versions()
        with self._lock:
            if self._runs is None:
                ranges = [bulk for layer in self.layers for bulk in layer.ranges]
                self._runs = [*_range_runs(versions, ranges), *runs_of(versions, self.bulks)]
                self._run_data = frozenset(id(run.data) for run in self._runs)
            return self._runs

    def has_run_of(self, data: object) -> bool:
        """Return whether a run has these bytes, without building the runs."""
        return id(data) in self._run_data

    def sources(self) -> tuple[Unsaved, ...]:
        """Return the documents of :meth:`runs` in the same order, superseded ones included."""
        if self._sources is None:
            layers = [layer.versions for layer in self.layers]
            ranges = [(bulk, at) for at, layer in enumerate(self.layers) for bulk in layer.ranges]
            sources = [
                Unsaved(bulk.documents(), _not_empty(layers[at:]))
                for bulk, at in sorted(ranges, key=lambda found: first_id(found[0]))
            ]
            for at, layer in enumerate(self.layers):
                if layer.versions:
                    documents = layer.documents(self.bulks)
                    sources.append(Unsaved(documents, _not_empty(layers[at + 1 :])))
            self._sources = tuple(sources)
        return self._sources

    @property
    def key_bytes(self) -> int:
        """Bytes of the sorted keys that searches built."""
        return sum(source.documents.key_bytes for source in self._sources or ())

    def row_sets(self) -> tuple[codec.RowSet, ...]:
        """Return the superseded and deleted rows of the base, in sets."""
        if self._row_sets is None:
            self._row_sets = tuple(
                layer.superseded_set() for layer in self.layers if layer.has_superseded
            )
        return self._row_sets

    def superseded_rows(self, base: Base) -> Rows:
        """Return the superseded and deleted rows of a base, in order."""
        known = self._superseded
        if known is None or known[0] != base.number:
            runs = [layer.superseded_rows() for layer in self.layers if layer.has_superseded]
            known = self._superseded = base.number, _joined(base.deleted, runs)
        return known[1]

    def schema(self, base: Base) -> pa.Schema | None:
        """Return the schema over a base that :meth:`note_schema` was told, or None."""
        known = self._schema
        return None if known is None or known[0] != base.number else known[1]

    def note_schema(self, base: Base, schema: pa.Schema) -> None:
        """Keep the schema of all documents over a base."""
        self._schema = base.number, schema


def _joined(rows: Rows, runs: Sequence[Rows]) -> Rows:
    """Return the rows of sorted arrays in order, each once."""
    if not runs:
        return rows
    # The stable sort merges sorted runs in linear time.
    joined = np.sort(np.concatenate([rows, *runs]), kind="stable")
    is_first = np.ones(len(joined), bool)
    np.not_equal(joined[1:], joined[:-1], out=is_first[1:])
    return joined if is_first.all() else joined[is_first]


def _not_empty(changes: Sequence[dict[str, Version]]) -> tuple[Collection[str], ...]:
    return tuple(found for found in changes if found)


def _range_runs(versions: dict[str, Version], ranges: list[Bulk]) -> Iterator[codec.Entries]:
    """Yield the documents with generated ids that were inserted in bulk and are unchanged."""
    if not ranges:
        return
    numbers = sorted(number for key in versions if (number := number_of(key)) is not None)
    changed = np.array(numbers, np.int64)
    for bulk in sorted(ranges, key=first_id):
        first = first_id(bulk)
        low, high = np.searchsorted(changed, (first, first + len(bulk.entries)))
        yield without(bulk.entries, changed[low:high] - first)
