"""Reading a directory that another process writes, and following its changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from godb_arrow.engine.catalog import Catalog
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.open_collection import OpenCollection
from godb_arrow.engine.replay import Replay, collection_of_file
from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import GodbError, SourceNotFound
from godb_arrow.snapshots.base import Base

__all__ = ["Refresher", "read_directory"]


_MAX_READ_ATTEMPTS = 20  # for files that another process replaces repeatedly
_MAX_OVERTAKEN_READS = 10  # of a directory whose files are newer than its journal
_MAX_LISTINGS = 50  # of a directory that another process changes repeatedly

_Found = TypeVar("_Found")


def read_directory(context: EngineContext) -> Replay:
    """Read the collections of a directory that another process may change meanwhile."""
    overtaken = 0
    for _ in range(_MAX_LISTINGS):
        with suppress(SourceNotFound):  # a file was removed after it was listed
            found = _read_once(context)
            overtaken += 1
            if overtaken == _MAX_OVERTAKEN_READS or not _is_overtaken(context, found.needs):
                return found
    return _read_once(context)


def _read_once(context: EngineContext) -> Replay:
    files, records = context.directory.look()
    return Replay(context, Catalog(files, collection_of_file(context)), records)


def _is_overtaken(context: EngineContext, collections: Iterable[OpenCollection]) -> bool:
    """Return whether a file of collections is newer than the journal that was read."""
    positions = []
    for collection in collections:
        try:
            positions.append(collection.store.note_file())
        except SourceNotFound:  # it has become a folder, or was renamed or dropped
            return True
        except GodbError:  # the first use of the collection raises it
            continue
    return context.directory.is_overtaken(positions)


class Refresher:
    """Current files for the collections of an engine that only reads.

    Parameters
    ----------
    context : EngineContext
        Context of the engine.
    catalog : Catalog
        Its collections.
    """

    def __init__(self, context: EngineContext, catalog: Catalog) -> None:
        self._context = context
        self._catalog = catalog
        self._refreshing = threading.Lock()  # one thread at a time reads the directory

    def read(
        self, store: CollectionStore, function: Callable[..., _Found], *arguments: Any
    ) -> _Found:
        """Call a function that reads a collection, again if another process removed its files.

        The caller does not hold the lock of the collection, unless this engine writes.

        Parameters
        ----------
        store : CollectionStore
            The collection.
        function : callable
            Reads it.
        *arguments
            Arguments of the function.
        """
        for _ in range(_MAX_READ_ATTEMPTS):
            base = store.base
            try:
                return function(*arguments)
            except SourceNotFound:
                if not self._refresh(store, base):
                    raise
                store.check_present()
        return function(*arguments)

    def refresh_names(self) -> bool:
        """Read the names of the collections again.

        Returns
        -------
        bool
            False if this engine writes, so that there are no other names.
        """
        return self._refresh(None, None)

    def _refresh(self, store: CollectionStore | None, base: Base | None) -> bool:
        """Read the directory again.

        Parameters
        ----------
        store : CollectionStore or None
            A collection whose files were removed, and which adopts the current files.
        base : Base or None
            The removed files.

        Returns
        -------
        bool
            Whether the collection has other files now; False if this engine writes.
        """
        if not self._context.directory.read_only:
            return False
        with self._refreshing:
            if store is not None and store.base is not base:
                return True  # another thread read the directory
            self._context.lifecycle.check_open()
            found = read_directory(self._context).catalog
            if store is not None:
                current = found.get(store.name)
                if not store.take_over(None if current is None else current.store):
                    return False
            with self._catalog.lock:
                self._catalog.update(found)
            return True
