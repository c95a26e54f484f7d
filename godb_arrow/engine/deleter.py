"""Deletions of one collection: all documents of a call or, on an error, none."""

from __future__ import annotations

import itertools

from godb_arrow.codec.predicate import Predicate
from godb_arrow.documents.ids import pack_ids
from godb_arrow.engine.claims import prepare_ids
from godb_arrow.engine.packed_ids import DocumentIds, PackedIds
from godb_arrow.engine.pending import MAX_SINGLE_DELETIONS
from godb_arrow.engine.saver import Saver
from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import document_not_found, error_context
from godb_arrow.query.filters import Filter, RowFilter, compiled
from godb_arrow.snapshots.deletions import DeletedIds, IdRows
from godb_arrow.snapshots.find import check_named, matching
from godb_arrow.snapshots.overlay import weight
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["CollectionDeleter"]


_MAX_DELETE_ATTEMPTS = 3  # until a filter is evaluated while other writers wait


class CollectionDeleter:
    """Deletes documents of a collection.

    Parameters
    ----------
    store : CollectionStore
        State of the collection.
    saver : Saver
        Reserves memory.
    """

    def __init__(self, store: CollectionStore, saver: Saver) -> None:
        self._store = store
        self._saver = saver
        self._context = store.context

    def delete(self, identity: str) -> None:
        """Delete a document.

        Raises
        ------
        DocumentNotFound
        """
        self._context.lifecycle.check_writable()
        with self._saver.reserved(weight(identity, None)):
            deleted = self._delete([identity])
        if not deleted:
            raise document_not_found(identity)

    def delete_many(self, filter: Filter | None, *, check_fields: bool) -> int:
        """Delete the documents that match a filter, and return their number."""
        self._context.lifecycle.check_writable()
        store = self._store
        condition = compiled(filter)
        if check_fields and isinstance(condition, Predicate):
            with error_context("delete", collection=store.name):
                check_named(self._snapshot(), condition)
        for attempt in itertools.count():
            if attempt >= _MAX_DELETE_ATTEMPTS and not isinstance(condition, RowFilter):
                break
            with store.lock:
                snapshot, version = self._snapshot(), store.changes
            ids = self._matching_packed(snapshot, condition)
            self._context.lifecycle.check_writable()
            size = ids.weight + min(len(ids), snapshot.changes) * weight("", None)
            with self._saver.reserved(size):
                deleted = self._delete_packed(ids, version)
            if deleted is not None:
                return deleted
        # Other threads change the collection repeatedly: now they wait. A RowFilter is code of the
        # caller, which must not run under a lock, so it is tried again instead.
        with self._saver.reserved(size), store.lock:
            return self._delete_packed(self._matching_packed(self._snapshot(), condition)) or 0

    def _snapshot(self) -> Snapshot:
        with self._store.reading():
            return self._store.snapshot()

    def first_ids(self, filter: Filter, most: int) -> list[str]:
        """Return the ids of documents that match a filter, at most some of them."""
        with error_context("delete", collection=self._store.name):
            found = matching(self._snapshot(), compiled(filter), self._store.indexes())
            ids = (run.id(int(row)) for run, rows in found for row in rows)
            return [*itertools.islice(ids, most)]

    def _matching_packed(self, snapshot: Snapshot, condition: Filter | None) -> PackedIds:
        ids = PackedIds(self._context.memory)
        with error_context("delete", collection=self._store.name):
            for run, rows in matching(snapshot, condition, self._store.indexes()):
                ids.add(run, rows)
        return ids

    def _delete_packed(self, ids: PackedIds, version: int | None = None) -> int | None:
        """Delete existing documents; see :meth:`_delete`."""
        if len(ids) <= MAX_SINGLE_DELETIONS:
            return self._delete([text for texts in ids.texts() for text in texts], version)
        store = self._store
        with store.writing("delete"):
            prepare_ids(store)
            with store.lock:
                store.check_present()
                store.prepare()
                if version not in (None, store.changes):
                    return None
                unsaved: list[str] = []
                stored = IdRows()
                for texts in ids.texts():
                    changed = store.overlay.find_any(dict.fromkeys(texts))
                    unsaved += [key for key, found in changed.items() if found is not None]
                    stored.add(store.base, [key for key in texts if key not in changed])
                if not unsaved and not stored.count:
                    return 0
                number = self._journaled(DeletedIds(stored.ids(), stored.rows()), unsaved)
            self._context.sync(number)
            return stored.count + len(unsaved)

    def _delete(self, ids: list[str], version: int | None = None) -> int | None:
        """Delete existing documents; return None if the collection changed since a version."""
        store = self._store
        with store.writing("delete"):
            prepare_ids(store)
            with store.lock:
                store.check_present()
                store.prepare()
                if version not in (None, store.changes):
                    return None
                changed = store.overlay.find_any(dict.fromkeys(ids))
                stored = store.base.rows_of([key for key in ids if key not in changed])
                deleted = [key for key, found in changed.items() if found is not None]
                deleted += stored
                if not deleted:
                    return 0
                superseded = [row for rows in stored.values() for row in rows]
                # A file of another program may have an id twice.
                added = len(stored) - len(superseded) - len(deleted)
                number = store.write_few(dict.fromkeys(deleted), superseded, added)
            self._context.sync(number)
            return len(deleted)

    def _journaled(self, deleted: DeletedIds, unsaved: list[str]) -> int | None:
        """Journal and apply the deletion of saved and unsaved documents; return its number."""
        store = self._store
        ids = DocumentIds([deleted.packed, pack_ids(unsaved)])
        meta = {"op": "write", "n": store.id_sequence().next_id, "k": [0], "d": ids}
        plan = store.overlay.plan_delete(deleted, unsaved)
        removed = len(deleted.rows) + len(unsaved)  # rows, of which an id may have several
        return store.commit(meta, [b""], plan, -removed, None)
