"""Reads of single documents and searches by indexes, which take microseconds.

Context managers and closures are avoided here, since each adds to the cost of a small read.
"""

from __future__ import annotations

from typing import Any

from godb_arrow.codec import load, plain_filter, with_id
from godb_arrow.engine.refresher import Refresher
from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import DocumentNotFound, GodbError, document_not_found, place_error
from godb_arrow.query.filters import Filter
from godb_arrow.snapshots.point import load_found, search_memory

__all__ = ["PointReader"]


class PointReader:
    """Reads of few documents of one collection.

    Parameters
    ----------
    store : CollectionStore
        State of the collection.
    refresher : Refresher
        Reads the directory again where another process writes it.
    """

    __slots__ = ("_refresher", "_store")

    def __init__(self, store: CollectionStore, refresher: Refresher) -> None:
        self._store = store
        self._refresher = refresher

    def get(self, identity: str) -> dict[Any, Any]:
        """Return a document.

        Raises
        ------
        DocumentNotFound
        """
        store = self._store
        try:
            found = self._refresher.read(store, self._find, identity)
            if found is None:
                raise document_not_found(identity)
            return with_id(load(found), identity)
        except GodbError as error:
            place_error(error, "read", store.name)
            raise

    def get_or(self, identity: str, default: Any) -> Any:
        """Return a document, or a default if it does not exist."""
        try:
            return self.get(identity)
        except DocumentNotFound:
            return default

    def has(self, identity: str) -> bool:
        """Return whether a document exists."""
        store = self._store
        try:
            return self._refresher.read(store, self._find, identity) is not None
        except GodbError as error:
            place_error(error, "read", store.name)
            raise

    def _find(self, identity: str) -> bytes | None:
        """Return the bytes of a document, or None."""
        store = self._store
        store.context.lifecycle.check_open()
        with store.lock:
            store.note_access()
            if not store.is_ready:
                store.check_present()
                store.prepare()
            version = store.overlay.find(identity)
            if version is not False:
                return None if version is None else store.overlay.document(version)
            base = store.base
            held = base.find_held(identity)
            if not isinstance(held, bool):
                return held
            pin = base.pin()  # noqa: F841 (keeps the file open until this returns)
        return base.find(identity)

    def find(self, filter: Filter | None, limit: int) -> list[dict[Any, Any]] | None:
        """Return the first documents that match, all with -1, if indexes in memory answer alone.

        Returns
        -------
        list of dict or None
            None where a snapshot must be searched.
        """
        found = self._search(filter, limit, counts=False)
        return None if found is None else load_found(*found)

    def count(self, filter: Filter | None) -> int | None:
        """Return the number of documents that match; None where a snapshot must be searched."""
        found = self._search(filter, -1, counts=True)
        return None if found is None else found[0]

    def _search(
        self, filter: Filter | None, limit: int, *, counts: bool
    ) -> tuple[int, bytes] | None:
        store = self._store
        indexes = store.known_indexes
        query = plain_filter(filter) if indexes else None
        if query is None:
            return None
        store.context.lifecycle.check_open()
        with store.lock:
            if not store.is_ready:
                return None  # a snapshot prepares the collection, or raises
            base, unsaved = store.base, store.overlay.freeze()
            store.note_access()
        found = search_memory(query, filter, base, unsaved, indexes, limit, counts=counts)
        if unsaved.changes and unsaved.key_bytes != store.overlay.key_bytes:
            store.recount()
        if found is None:
            with store.lock:
                store.accesses -= 1  # The snapshot counts the access.
        return found
