"""Updates of the documents that match a filter: all of them or, on an error, none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.codec.predicate import Predicate
from godb_arrow.documents.encoding import Encoded
from godb_arrow.documents.loading import load_chunks
from godb_arrow.engine.checked_writer import CheckedWriter
from godb_arrow.engine.packed_ids import PackedIds
from godb_arrow.engine.store import CollectionStore
from godb_arrow.engine.writer import CollectionWriter, naming_document
from godb_arrow.errors import InvalidDocument, InvalidUpdate, error_context
from godb_arrow.memory.limit import Counted
from godb_arrow.query.filters import Filter, RowFilter, compiled
from godb_arrow.query.sort_order import Sort, parse_sort
from godb_arrow.query.update import Update, equalities_of
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.find import check_named, matching
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.sorting import SortedDocuments, sorted_matching

__all__ = ["CollectionUpdater", "UpdateResult", "Wanted"]

_MAX_ATTEMPTS = 3
"""Attempts until a filter is evaluated while other writers wait."""


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """Numbers of an update by a filter.

    Attributes
    ----------
    matched : int
        Number of documents that the filter matched.
    modified : int
        Number of documents that changed.
    upserted : str or None
        Id of the document that an upsert inserted.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     users = engine.create_collection("users")
    ...     _ = users.insert_many([{"n": 1}, {"n": 2}])
    ...     users.update_many(None, {"$max": {"n": 2}})
    UpdateResult(matched=2, modified=1, upserted=None)
    """

    matched: int
    modified: int
    upserted: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Documents to update.

    Attributes
    ----------
    filter : pyarrow.compute.Expression, mapping or None
        Filter; None for all documents.
    update : Update
        The changes.
    only_first : bool
        Whether to update the first document only.
    sort : str, sequence, mapping or None
        Order in which a document is the first.
    upsert : bool
        Whether to insert a document if none matches.
    """

    filter: Filter | None
    update: Update
    only_first: bool = False
    sort: Sort | None = None
    upsert: bool = False


@dataclass(slots=True)
class _Found:
    """Documents that a filter matched, and the changed ones among them."""

    counted: Counted
    ids: PackedIds  # of the changed documents
    matched: int = 0
    changed: list[Encoded] = field(default_factory=list)
    size: int = 0
    is_large: bool = False  # so that the changed documents were dropped
    before: dict[Any, Any] | None = None  # the first document, and the same after the update
    after: dict[Any, Any] | None = None


class CollectionUpdater:
    """Updates documents of a collection by filters.

    Parameters
    ----------
    store : CollectionStore
        State of the collection.
    writer : CollectionWriter
        Makes changes that are larger than memory.
    checked : CheckedWriter
        Makes other changes.
    """

    def __init__(
        self, store: CollectionStore, writer: CollectionWriter, checked: CheckedWriter
    ) -> None:
        self._store = store
        self._writer = writer
        self._checked = checked

    def update(self, wanted: Wanted) -> tuple[UpdateResult, _Found]:
        """Update the documents that match a filter.

        Returns
        -------
        tuple
            Numbers, and what was found.
        """
        store = self._store
        condition = compiled(wanted.filter)
        with store.writing("update"):
            with error_context("update", collection=store.name):
                if isinstance(condition, Predicate) and not wanted.upsert:
                    check_named(self._snapshot(), condition)
            size = 0
            for attempt in itertools.count():
                if attempt >= _MAX_ATTEMPTS and not self._runs_code(condition):
                    break
                done, size = self._attempt(wanted, condition, size, is_locked=False)
                if done is not None:
                    return done
            # Other threads change the collection repeatedly: now they wait. A RowFilter and a model
            # are code of the caller, which must not run under a lock. Memory is reserved before,
            # since saving other collections may need the lock.
            with self._checked.reserved(2 * size), store.lock:
                done, _ = self._attempt(wanted, condition, size, is_locked=True)
            assert done is not None
            return done

    def _runs_code(self, condition: Filter | None) -> bool:
        """Return whether an update runs code of the caller."""
        validator = self._store.validator()
        return isinstance(condition, RowFilter) or (validator is not None and validator.runs_code)

    def _snapshot(self) -> Snapshot:
        with self._store.reading():
            return self._store.snapshot()

    def _attempt(
        self, wanted: Wanted, condition: Filter | None, size: int, *, is_locked: bool
    ) -> tuple[tuple[UpdateResult, _Found] | None, int]:
        """Update once; return None if the collection changed meanwhile, and the changed bytes."""
        store, checked = self._store, self._checked
        with store.lock:
            snapshot, version = self._snapshot(), store.changes
        found = self._find(snapshot, wanted, condition, is_locked=is_locked)
        if not found.matched and wanted.upsert:
            document = wanted.update.inserted(equalities_of(wanted.filter))
            identity = checked.insert_new(document, version, is_reserved=is_locked)
            if identity is None:
                return None, size
            found.after = codec.with_id(document, identity)
            return (UpdateResult(0, 0, identity), found), size
        if found.is_large:
            self._writer.replace_in_files(found.ids, self._change_of(wanted.update))
        elif found.changed:
            ids = [text for texts in found.ids.texts() for text in texts]
            if not checked.put_back(found.changed, ids, version, is_reserved=is_locked):
                return None, found.size
        return (UpdateResult(found.matched, len(found.ids)), found), found.size

    def _change_of(self, update: Update) -> Any:
        def change(key: str, before: bytes) -> dict[Any, Any]:
            document = codec.with_id(codec.load(before), key)
            update.apply(document)
            return document

        return change

    def _find(
        self, snapshot: Snapshot, wanted: Wanted, condition: Filter | None, *, is_locked: bool
    ) -> _Found:
        memory = self._store.context.memory
        found = _Found(Counted(memory), PackedIds(memory))
        for entries, rows in self._matches(snapshot, wanted, condition):
            if wanted.only_first and len(rows):
                rows = np.asarray(rows, np.int64)[:1]
                found.before = next(load_chunks(entries, rows))[0]
            if wanted.only_first or not self._patch(found, entries, rows, wanted.update):
                self._change(found, entries, rows, wanted.update)
            if not is_locked and self._writer.is_larger_than_memory(found.size):
                found.is_large = True
            if found.is_large:  # They are made again while files are written.
                found.changed.clear()
                found.counted.release()
            if wanted.only_first and found.matched:
                break
        return found

    def _patch(self, found: _Found, entries: codec.Entries, rows: Rows, update: Update) -> bool:
        """Change documents of a run in MessagePack; return False if they must be decoded."""
        if update.patch is None:
            return False
        patched = codec.patch_documents(entries, np.asarray(rows, np.int64), update.patch)
        if patched is None:
            return False
        found.matched += len(rows)
        if len(patched.changed):
            encoded = self._checked.patched(patched.data, len(patched.changed))
            found.changed.append(encoded)
            found.ids.add_array(encoded.ids)
            found.size += len(patched.data)
            found.counted.add(writes=len(patched.data))
        return True

    def _change(self, found: _Found, entries: codec.Entries, rows: Rows, update: Update) -> None:
        """Change documents of a run as dicts."""
        changed: list[dict[Any, Any]] = []
        for documents in load_chunks(entries, rows):
            found.matched += len(documents)
            changed += _modified(documents, update)
            found.after = documents[0]
        if changed:
            encoded = self._checked.encoded(changed)
            found.changed += encoded
            for run in encoded:
                found.ids.add_array(run.ids)
            found.size += _size_of(entries, rows)
            found.counted.add(writes=sum(len(run.chunk) for run in encoded))

    def _matches(
        self, snapshot: Snapshot, wanted: Wanted, condition: Filter | None
    ) -> Iterator[tuple[codec.Entries, Rows]]:
        indexed = self._store.indexes()
        if wanted.sort is None:
            return matching(snapshot, condition, indexed)
        order = SortedDocuments(parse_sort(wanted.sort), 1)
        return sorted_matching(snapshot, condition, indexed, order)


def _size_of(entries: codec.Entries, rows: Rows) -> int:
    """Return the bytes of some entries."""
    sizes = np.diff(np.frombuffer(entries.bounds, np.int64)[::2])
    return int(sizes[np.asarray(rows, np.int64)].sum())


def _modified(documents: list[dict[Any, Any]], update: Update) -> list[dict[Any, Any]]:
    """Change documents in place, and return those that changed."""
    document: dict[Any, Any] = {}
    apply = update.apply
    modified = []
    try:
        for document in documents:
            if apply(document):
                modified.append(document)
    except (InvalidDocument, InvalidUpdate):
        with naming_document(document[ID_FIELD]):
            raise
    return modified
