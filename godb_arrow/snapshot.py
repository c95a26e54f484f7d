"""What a reader sees: an immutable base, and a frozen overlay of changes to it."""

from __future__ import annotations

import itertools
import sys
import threading
from bisect import bisect_right, insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.encoding import ids_of, number_of, pack_ids
from godb_arrow.errors import GodbError
from godb_arrow.format import CollectionHint
from godb_arrow.memory import Memory
from godb_arrow.options import ReadOptions
from godb_arrow.parallel import ordered_map
from godb_arrow.reading import StoredCollection, locate
from godb_arrow.schema import DocumentSummary, infer_schema
from godb_arrow.storage import HeldFile

__all__ = ["Base", "Documents", "IdIndex", "Overlay", "Snapshot"]

Rows = npt.NDArray[np.int64]
Version = bytes | int | None
"""A document in an overlay: its bytes, its row among the bulk entries, or deleted."""

_OBJECT_BYTES = 104  # of a dict's slot, and a reference here and there
_NUMBERS = itertools.count(1)
_NO_ROWS: Rows = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class IdIndex:
    """Where the ids of a base are: a sorted hash and the row of each, 16 bytes a document.

    Attributes
    ----------
    hashes : array of uint64
        Sorted.
    rows : array of int64
        The row of each hash.
    greatest : int
        The greatest id that is a number.
    """

    hashes: npt.NDArray[np.uint64]
    rows: Rows
    greatest: int

    @classmethod
    def build(cls, ids: Iterable[pa.Array]) -> IdIndex:
        """Index ids, given in order as binary arrays."""
        found = [codec.survey_ids(array) for array in ids]
        hashes = np.frombuffer(b"".join(hashes for hashes, _ in found), np.uint64)
        order = np.argsort(hashes, kind="stable")
        greatest = max((number for _, number in found), default=0)
        return cls(hashes[order], order.astype(np.int64), greatest)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self.hashes.nbytes + self.rows.nbytes

    def candidates_of(self, identity: str) -> Rows:
        """Rows that may have an id."""
        wanted = np.uint64(codec.hash_id(identity))
        first = at = int(self.hashes.searchsorted(wanted))
        while at < len(self.hashes) and self.hashes[at] == wanted:
            at += 1
        return self.rows[first:at]

    def candidates(self, ids: pa.Array) -> tuple[Rows, Rows]:
        """Rows that may have one of some ids, and which of the ids each may have."""
        wanted = np.frombuffer(codec.survey_ids(ids)[0], np.uint64)
        first = np.searchsorted(self.hashes, wanted, "left")
        last = np.searchsorted(self.hashes, wanted, "right")
        hits = np.flatnonzero(last > first)
        if not len(hits):
            return _NO_ROWS, _NO_ROWS
        spans = [self.rows[first[hit] : last[hit]] for hit in hits]
        return np.concatenate(spans), np.repeat(hits, [len(span) for span in spans])


@dataclass(frozen=True, slots=True)
class Documents:
    """The entries of a base, in memory.

    Attributes
    ----------
    runs : list of Entries
        In order.
    starts : list of int
        The row of each run's first document.
    """

    runs: list[codec.Entries]
    starts: list[int]

    @property
    def nbytes(self) -> int:
        """Bytes that they hold."""
        return sum(len(run.data) + 8 * len(run.bounds) for run in self.runs)

    def locate(self, row: int) -> tuple[codec.Entries, int]:
        """The run that has a row, and its index there."""
        run = bisect_right(self.starts, row) - 1
        return self.runs[run], row - self.starts[run]


class Base:
    """The documents of a collection's file, or none; immutable.

    The file is opened at first use and stays open, so that it can be replaced or removed
    while somebody reads.

    Parameters
    ----------
    memory : Memory
        Holds what is read, as far as there is room.
    path : str, optional
        The file; without one the base is empty.
    name : str, optional
        The collection's name in the file; None where the file has one only.
    """

    def __init__(
        self,
        memory: Memory,
        path: str | None = None,
        name: str | None = None,
    ) -> None:
        self.path = path
        self._name = name
        self._options = ReadOptions(batch_bytes=memory.run_bytes, threads=memory.threads)
        self.memory = memory
        self._key = next(_NUMBERS)
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._stored: StoredCollection | None = None
        self._count: int | None = 0 if path is None else None
        self._schema: pa.Schema | None = None
        self._summary: DocumentSummary | None = None

    # --- the file -----------------------------------------------------------------------------

    def open(self) -> StoredCollection:
        """The collection in its file, which is open from now on."""
        assert self.path is not None
        with self._lock:
            if self._stored is None:
                self._stored = locate(HeldFile(self.path), self._name, self._options)
            return self._stored

    def close(self) -> None:
        """Let go of the file; snapshots that read it keep it open."""
        with self._lock:
            self._stored = None

    @property
    def hint(self) -> CollectionHint:
        """What the file records."""
        if self.path is None:
            return CollectionHint(0, plain=True)
        return self.open().hint or CollectionHint(self.count)

    @property
    def count(self) -> int:
        """How many documents it has."""
        if self._count is None:
            hint = self.open().hint
            self._count = hint.count if hint else sum(len(run) for run in self.open().entries())
        return self._count

    @property
    def file_size(self) -> int:
        """Bytes of the file."""
        return 0 if self.path is None else self.open().source.size() or 0

    # --- what is held in memory ---------------------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        """Whether the documents are in memory."""
        return self.path is None or self._documents_key in self.memory.cache

    @property
    def is_loading(self) -> bool:
        """Whether the documents are being read into memory."""
        return self._loading.locked()

    @property
    def _documents_key(self) -> tuple[int, str]:
        return self._key, "documents"

    def forget(self) -> None:
        """Give up what is held in memory."""
        for key in self.memory.cache:
            if key[0] == self._key:
                self.memory.cache.remove(key)

    def held_bytes(self) -> int:
        """Bytes that are held in memory."""
        return self.memory.held(self._key)

    def documents(self) -> Documents | None:
        """The documents in memory; None when there is no room for them."""
        found: Documents | None = self.memory.cache.get(self._documents_key)
        if found is not None:
            return found
        if self.path is None:
            return Documents([], [])
        size = self.hint.size
        if size is not None and size > self.memory.room_for_one:
            return None
        with self._loading:
            found = self.memory.cache.get(self._documents_key)
            return found or self._load()

    def _load(self) -> Documents | None:
        documents = Documents([], [])
        rows = size = 0
        for run in self.open().entries():
            documents.starts.append(rows)
            documents.runs.append(run)
            rows += len(run)
            size += len(run.data) + 8 * len(run.bounds)
            if size > self.memory.room_for_one:
                return None
        self.memory.hold(self._documents_key, documents, documents.nbytes)
        return documents

    def runs(self) -> Iterator[tuple[int, codec.Entries]]:
        """The entries in runs, and the row of each run's first."""
        if self.path is None:
            return
        held: Documents | None = self.memory.cache.get(self._documents_key)
        row = 0
        for run in self.open().entries() if held is None else held.runs:
            yield row, run
            row += len(run)

    def ids(self) -> IdIndex:
        """Where the ids are."""
        key = (self._key, "ids")
        found: IdIndex | None = self.memory.cache.get(key)
        if found is None:
            runs = (run for _, run in self.runs())
            threads = self.open().threads() if self.path else 1
            found = IdIndex.build(ordered_map(ids_of, runs, threads))
            self.memory.hold(key, found, found.nbytes)
        return found

    def view(self, kind: str) -> Any:
        """Something else that is held in memory for this base, or None."""
        return self.memory.cache.get((self._key, kind))

    def hold(self, kind: str, value: Any, size: int) -> None:
        """Hold something in memory for this base, as long as there is room."""
        self.memory.hold((self._key, kind), value, size)

    # --- documents ----------------------------------------------------------------------------

    def rows_of(self, ids: Collection[str]) -> dict[str, list[int]]:
        """The rows of those of some ids that it has: of each one, but for files of others."""
        if self.path is None or not ids:
            return {}
        rows, _ = self.ids().candidates(pack_ids(ids))
        if not len(rows):
            return {}
        rows = np.unique(rows)
        wanted = frozenset(ids)
        found: dict[str, list[int]] = {}
        for row, (run, index) in zip(rows.tolist(), self.entries_at(rows), strict=True):
            identity = run.id(index)
            if identity in wanted:  # else another id has the same hash
                found.setdefault(identity, []).append(row)
        return found

    def has(self, identity: str) -> bool:
        """Whether there is a document with an id."""
        if self.path is None or not len(self.ids().candidates_of(identity)):
            return False
        return self.find(identity) is not None

    def find(self, identity: str) -> bytes | None:
        """The bytes of a document; of several with that id the last."""
        documents = self.documents()
        rows = self.ids().candidates_of(identity)
        if documents is None:
            found = [run.document(i) for run, i in self.entries_at(np.sort(rows))
                     if run.id(i) == identity]  # fmt: skip
            return found[-1] if found else None
        for row in rows[::-1].tolist():
            run, index = documents.locate(row)
            if run.id(index) == identity:
                return run.document(index)
        return None

    def document(self, row: int) -> bytes:
        """The bytes of the document in a row."""
        ((run, index),) = self.entries_at(np.array([row]))
        return run.document(index)

    def entries_at(self, rows: Rows) -> Iterator[tuple[codec.Entries, int]]:
        """The runs that have some rows, given in order, and the index of each there."""
        documents = self.documents()
        if documents is not None:
            yield from (documents.locate(int(row)) for row in rows)
            return
        at = 0
        for start, run in self.runs():
            while at < len(rows) and rows[at] < start + len(run):
                yield run, int(rows[at]) - start
                at += 1
            if at == len(rows):
                return

    # --- its schema ---------------------------------------------------------------------------

    def summary(self) -> DocumentSummary:
        """The kinds of value in its documents."""
        if self._summary is None:
            summary = DocumentSummary()
            threads = self.open().threads() if self.path else 1
            runs = (run for _, run in self.runs())
            for found in ordered_map(summarize, runs, threads):
                summary.merge(found)
            self._summary = summary
        return self._summary

    def schema(self) -> pa.Schema:
        """The schema of its documents."""
        if self._schema is None:
            recorded = self.hint.schema
            self._schema = infer_schema(self.summary()) if recorded is None else recorded
        return self._schema


def summarize(entries: codec.Entries) -> DocumentSummary:
    """The kinds of value in documents."""
    summary = DocumentSummary()
    codec.infer(entries, summary)
    return summary


def fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type are values of another as they are."""
    if found.equals(wanted) or pa.types.is_null(found):
        return True
    if pa.types.is_integer(found) and pa.types.is_float64(wanted):
        return True
    if pa.types.is_struct(found) and pa.types.is_struct(wanted):
        return fields_fit(found, wanted)
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return fits(found.value_type, wanted.value_type)
    return False


def fields_fit(found: Iterable[pa.Field], wanted: Iterable[pa.Field]) -> bool:
    """Whether documents with some fields are documents of a schema, as they are."""
    types = {field.name: field for field in wanted}
    return all(
        field.name in types
        and fits(field.type, types[field.name].type)
        and (types[field.name].nullable or not field.nullable)
        for field in found
    )


# --- changes ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Layer:
    """Changes, newest last; frozen as soon as a snapshot has it."""

    versions: dict[str, Version] = field(default_factory=dict)
    shadows: list[int] = field(default_factory=list)  # rows of the base that are no more
    first: int | None = None  # the journal's record of its first change
    size: int = 0
    singles: bool = False  # whether there are others than those inserted in bulk
    ranges: list[_Bulk] = field(default_factory=list)  # with generated ids, in their order

    def find(self, identity: str) -> Version | bool:
        """The version of a document; False when it is not here."""
        version = self.versions.get(identity, False)
        if version is not False or not self.ranges:
            return version
        number = number_of(identity)
        if number is None:
            return False
        at = bisect_right(self.ranges, number, key=_first_id) - 1
        bulk = self.ranges[at]
        row = number - _first_id(bulk)
        return bulk.start + row if at >= 0 and row < len(bulk.entries) else False

    def __len__(self) -> int:
        return len(self.versions) + sum(len(bulk.entries) for bulk in self.ranges)


@dataclass(slots=True)
class _Bulk:
    """Entries that were inserted at once, and their rows' numbers in the overlay.

    Where the ids are generated ones that follow each other, only the first is noted.
    """

    start: int
    entries: codec.Entries
    schema: pa.Schema | None
    first_id: int | None = None


def _first_id(bulk: _Bulk) -> int:
    assert bulk.first_id is not None
    return bulk.first_id


class Overlay:
    """The changes to a base. Whoever changes it holds the collection's lock."""

    def __init__(self) -> None:
        self._layers: list[_Layer] = []
        self._active = _Layer()
        self._bulks: list[_Bulk] = []
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
        return version if isinstance(version, bytes) else _bulk_document(self._bulks, version)

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
        self._bulks.append(_Bulk(self._rows, entries, schema))
        layer.versions.update(zip(ids, range(self._rows, self._rows + len(ids)), strict=True))
        self._rows += len(ids)
        layer.size += len(entries.data) + 8 * len(entries.bounds) + _bulk_overhead(ids)
        layer.shadows.extend(shadows)

    def add_range(
        self, first_id: int, entries: codec.Entries, schema: pa.Schema | None, number: int | None
    ) -> None:
        """Put documents that have generated ids, each one more than the one before."""
        layer = self._active
        self._note(layer, number)
        bulk = _Bulk(self._rows, entries, schema, first_id)
        self._bulks.append(bulk)
        insort(layer.ranges, bulk, key=_first_id)
        self._rows += len(entries)
        layer.size += len(entries.data) + 8 * len(entries.bounds)

    @staticmethod
    def _note(layer: _Layer, number: int | None) -> None:
        if layer.first is None:
            layer.first = number

    def freeze(self) -> tuple[tuple[_Layer, ...], list[_Bulk]]:
        """The changes until now, which stay as they are."""
        if len(self._active):
            self._layers.append(self._active)
            self._active = _Layer()
            self._merge()
        return tuple(self._layers), self._bulks[:]

    def _merge(self) -> None:
        """Keep the layers few: the last take in those that are not much larger."""
        layers = self._layers
        while len(layers) - self._pinned >= 2:
            older, newer = layers[-2:]
            if 2 * len(newer.versions) < len(older.versions):
                return
            merged = _Layer(
                dict(older.versions), older.shadows + newer.shadows, older.first,
                older.size + newer.size, older.singles or newer.singles,
                sorted(older.ranges + newer.ranges, key=_first_id),
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


def _bulk_of(bulks: list[_Bulk], row: int) -> _Bulk:
    return bulks[bisect_right(bulks, row, key=lambda one: one.start) - 1]


def _bulk_document(bulks: list[_Bulk], row: int) -> bytes:
    bulk = _bulk_of(bulks, row)
    return bulk.entries.document(row - bulk.start)


# --- both together ----------------------------------------------------------------------------


class Snapshot:
    """A collection as it was at one moment, whatever happens to it since.

    Parameters
    ----------
    base : Base
        Its file, which must be open.
    overlay : Overlay
        The changes, which are frozen here.
    count : int
        How many documents there are.
    record : int
        The journal's last record that is in it.

    Attributes
    ----------
    changes : int
        How many changes the overlay has.
    """

    def __init__(self, base: Base, overlay: Overlay, count: int, record: int) -> None:
        self.base = base
        self.count = count
        self.record = record
        self._layers, self._bulks = overlay.freeze()
        self.changes = len(overlay)
        self._lock = threading.Lock()
        self._versions: dict[str, Version] | None = None
        self._runs: list[codec.Entries] | None = None
        self._schema: pa.Schema | None = None
        self._dead: Rows | None = None

    @property
    def is_clean(self) -> bool:
        """Whether there are no changes to the base."""
        return not self._layers

    def versions(self) -> dict[str, Version]:
        """The changed documents, in the order of their last change."""
        with self._lock:
            if self._versions is None:
                merged: dict[str, Version] = {}
                for layer in self._layers:
                    if not merged:
                        merged = dict(layer.versions)
                        continue
                    for identity, version in layer.versions.items():
                        merged.pop(identity, None)
                        merged[identity] = version
                self._versions = merged
            return self._versions

    def dead_rows(self) -> Rows:
        """The rows of the base that were changed or deleted, in order."""
        if self._dead is None:
            shadows = [row for layer in self._layers for row in layer.shadows]
            self._dead = np.unique(np.array(shadows, np.int64))
        return self._dead

    def dead_in(self, start: int, count: int) -> Rows:
        """Those of them in a run of the base, counted from its start."""
        dead = self.dead_rows()
        first, last = np.searchsorted(dead, (start, start + count))
        return dead[first:last] - start

    def overlay_runs(self) -> list[codec.Entries]:
        """The entries of the changed documents, in runs."""
        versions = self.versions()
        with self._lock:
            if self._runs is None:
                ranges = [bulk for layer in self._layers for bulk in layer.ranges]
                self._runs = [*_range_runs(versions, ranges), *_runs_of(versions, self._bulks)]
            return self._runs

    def live_count(self) -> int:
        """How many documents there are, counted anew."""
        changed = sum(len(run) for run in self.overlay_runs())
        found = self.base.count - len(self.dead_rows()) + changed
        if found != self.count:  # writing it would lose documents
            raise GodbError(
                f"{found} documents were found where {self.count} were counted",
                advice="nothing was written; this is an error of godb_arrow: please report it",
            )
        return found

    def schema(self) -> pa.Schema:
        """The join of all documents."""
        if self._schema is None:
            self._schema = self._find_schema()
        return self._schema

    def _find_schema(self) -> pa.Schema:
        declared = self._declared_schema()
        if declared is not None:
            return declared
        summary = DocumentSummary()
        for run in self.overlay_runs():
            codec.infer(run, summary)
        if self.base.count == len(self.dead_rows()):
            return infer_schema(summary)
        schema = self.base.schema()
        if fields_fit(infer_schema(summary), schema):
            return schema
        summary.merge(self.base.summary())
        return infer_schema(summary)

    def _declared_schema(self) -> pa.Schema | None:
        """The schema that all tables had that were inserted, if nothing else was."""
        if self.is_clean:
            return self.base.schema()
        if any(layer.singles for layer in self._layers):
            return None
        schemas = [bulk.schema for bulk in self._bulks]
        first = self.base.schema() if self.base.count else None
        for schema in schemas:
            if schema is None:
                return None
            if first is None:
                first = schema
            elif not schema.equals(first, check_metadata=True) and not fields_fit(schema, first):
                return None
        return first

    def entries(self) -> Iterator[codec.Entries]:
        """All entries in runs: the base's without those that changed, then these."""
        for start, run in self.base.runs():
            yield without(run, self.dead_in(start, len(run)))
        yield from self.overlay_runs()

    def raw(self) -> Iterator[memoryview]:
        """The bytes of all entries, copied nowhere."""
        for start, run in self.base.runs():
            view, bounds = run.raw(), run.bounds
            at = first = bounds[0]
            for index in self.dead_in(start, len(run)).tolist():
                if bounds[2 * index] > at:
                    yield view[at - first : bounds[2 * index] - first]
                at = bounds[2 * index + 2]
            if bounds[-1] > at:
                yield view[at - first :]
        yield from (run.raw() for run in self.overlay_runs())


def without(entries: codec.Entries, dead: Rows) -> codec.Entries:
    """Entries without some of them."""
    if not len(dead):
        return entries
    bounds = np.frombuffer(entries.bounds, np.int64)
    edges = np.empty(2 * len(dead) + 2, np.int64)
    edges[0], edges[-1] = bounds[0], bounds[-1]
    edges[1:-1:2], edges[2:-1:2] = bounds[2 * dead], bounds[2 * dead + 2]
    view = memoryview(entries.data)
    kept = [view[first:last] for first, last in edges.reshape(-1, 2).tolist()]
    return scan(b"".join(kept), len(entries) - len(dead))


def scan(data: bytes, count: int) -> codec.Entries:
    """Entries that are there whole, with their bounds."""
    return codec.scan_entries(data, 0, count, len(data) + 1, 0)


def gather(entries: Iterable[tuple[codec.Entries, int]]) -> codec.Entries:
    """Some entries of some runs, as one run."""
    pieces = [run.data[run.bounds[2 * i] : run.bounds[2 * i + 2]] for run, i in entries]
    return scan(b"".join(pieces), len(pieces))


_RUN = 16_384


def _range_runs(versions: dict[str, Version], ranges: list[_Bulk]) -> Iterator[codec.Entries]:
    """The documents with generated ids that were inserted in bulk and not changed since."""
    if not ranges:
        return
    numbers = sorted(number for one in versions if (number := number_of(one)) is not None)
    changed = np.array(numbers, np.int64)
    for bulk in sorted(ranges, key=_first_id):
        first = _first_id(bulk)
        low, high = np.searchsorted(changed, (first, first + len(bulk.entries)))
        yield without(bulk.entries, changed[low:high] - first)


def _runs_of(versions: dict[str, Version], bulks: list[_Bulk]) -> Iterator[codec.Entries]:
    """The documents of an overlay; neighbours that were inserted at once stay as they are."""
    pieces: list[bytes] = []
    first = after = -1  # rows of neighbours
    end = -1  # of their bulk
    for identity, version in versions.items():
        if isinstance(version, int):
            if version == after and version < end:
                after += 1
                continue
            if pieces:
                yield scan(b"".join(pieces), len(pieces))
                pieces = []
            if first >= 0:
                yield _neighbours(bulks, first, after)
            first, after = version, version + 1
            bulk = _bulk_of(bulks, version)
            end = bulk.start + len(bulk.entries)
        elif version is not None:
            pieces.append(codec.pack(identity) + version)
            if first >= 0:
                yield _neighbours(bulks, first, after)
                first = after = -1
            if len(pieces) == _RUN:
                yield scan(b"".join(pieces), len(pieces))
                pieces = []
    if first >= 0:
        yield _neighbours(bulks, first, after)
    if pieces:
        yield scan(b"".join(pieces), len(pieces))


def _neighbours(bulks: list[_Bulk], first: int, after: int) -> codec.Entries:
    bulk = _bulk_of(bulks, first)
    low, high = first - bulk.start, after - bulk.start
    if high - low == len(bulk.entries):
        return bulk.entries
    return codec.Entries(bulk.entries.data, bulk.entries.bounds[2 * low : 2 * high + 1])
