"""Files that a data directory still has of dropped and of renamed collections."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from godb_arrow.directory.data_directory import DataDirectory
from godb_arrow.engine.catalog import Catalog
from godb_arrow.engine.open_collection import OpenCollection
from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import GodbError, SourceNotFound, StorageError
from godb_arrow.snapshots.parted_base import PartedBase

__all__ = ["FormerFiles", "is_replaced", "remove_replaced", "stored_bytes"]


logger = logging.getLogger(__name__)


class FormerFiles:
    """Files that are to be removed, or that a collection has under a former name.

    Parameters
    ----------
    directory : DataDirectory
        The data directory.
    catalog : Catalog
        Collections of the engine.
    dropped : iterable of str
        Files of collections that were dropped before the engine was opened.
    """

    def __init__(
        self, directory: DataDirectory, catalog: Catalog, dropped: Iterable[str] = ()
    ) -> None:
        self._directory = directory
        self._catalog = catalog
        self._dropped: dict[str, CollectionStore | None] = dict.fromkeys(dropped)
        self._renamed: dict[str, OpenCollection] = {}  # files, until their collection is saved

    def __len__(self) -> int:
        return len(self._dropped) + len(self._renamed)

    def note_dropped(self, paths: Iterable[str], owner: CollectionStore) -> None:
        """Note the files of a dropped collection."""
        self._dropped.update(dict.fromkeys(paths, owner))

    def note_renamed(self, collection: OpenCollection) -> None:
        """Note the files that a collection keeps under other names until it is saved.

        So that creating a collection need not ask all other collections for their files. A file
        that the collection wrote in place of a dropped one stays.
        """
        paths = collection.store.paths
        self._renamed.update(dict.fromkeys(paths, collection))
        for path in self._dropped.keys() & paths:
            self._forget_dropped(path)

    def remove_all(self) -> None:
        """Remove all files of dropped collections, and forget files that were moved."""
        for path in list(self._dropped):
            self._remove(path)
        for path, owner in list(self._renamed.items()):
            if path not in owner.store.paths:
                del self._renamed[path]

    def remove_dropped(self, paths: Iterable[str], owner: CollectionStore) -> None:
        """Remove the files of a dropped collection; a save tries again what fails here."""
        removed = list(paths)
        for path in removed:
            self._remove(path)
        if not removed:
            self._directory.journal.release(owner, None)

    def _remove(self, path: str) -> None:
        heir = self._catalog.of_stem(self._directory.stem_of(path))
        if heir is not None and heir.path not in self._directory.paths_of(heir.name):
            return  # the next save of the heir replaces the file
        try:
            if heir is None or heir.path != path:
                self._directory.remove(path)
        except StorageError:
            logger.warning("the file of a dropped collection stays for now", exc_info=True)
            return
        self._forget_dropped(path)

    def _forget_dropped(self, path: str) -> None:
        owner = self._dropped.pop(path)
        if owner not in self._dropped.values():
            self._directory.journal.release(owner, None)

    def free(
        self,
        name: str,
        save: Callable[[OpenCollection], None],
        owner: OpenCollection | None = None,
    ) -> None:
        """Free the files that a collection will have of former documents.

        Parameters
        ----------
        name : str
            Name that the collection will have.
        save : callable
            Saves a renamed collection, so that its files move.
        owner : OpenCollection, optional
            Collection that gets the name, and keeps its own files.
        """
        for path in self._directory.paths_of(name):
            other = self._renamed.get(path)
            if other is not None and other is not owner:
                if path in other.store.paths:
                    save(other)
                del self._renamed[path]
            if path in self._dropped:
                self._directory.remove(path)
                self._forget_dropped(path)


def remove_replaced(collection: OpenCollection) -> None:
    """Remove the files of the collection that a collection replaces.

    The journal names the new file on the disk. The next save tries again what fails here.
    """
    try:
        collection.checkpointer.remove_former()
    except StorageError:
        logger.warning("the file of a replaced collection stays for now", exc_info=True)


def stored_bytes(store: CollectionStore) -> int | None:
    """Return the size of the file of a collection in bytes; None for other collections.

    A file that cannot be read has no size either, so that its collection can be dropped.
    """
    if store.base.path is None or store.attached:
        return None
    try:
        return store.base.file_size
    except GodbError:
        return None


def is_replaced(store: CollectionStore, size: int | None) -> bool:
    """Return whether another program put a file in place of the file of a former collection.

    Parameters
    ----------
    store : CollectionStore
        Collection of the file that is present.
    size : int or None
        Size of the former file in bytes, as :func:`stored_bytes` returned it.
    """
    directory = store.context.directory
    if store.base.path is None or store.attached:
        return False
    try:
        if directory.knows(store.stored_position):
            return False
        # A compaction changes the size of a folder, and adds no record to what it contains.
        if isinstance(store.base, PartedBase) and directory.wrote(store.base.hint):
            return False
    except SourceNotFound:
        raise  # a reader reads the directory again
    except GodbError:
        pass  # a damaged file is compared by its size
    return stored_bytes(store) != size
