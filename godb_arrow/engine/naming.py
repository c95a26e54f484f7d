"""Creating, dropping, renaming, attaching and replacing collections."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from godb_arrow.codec.compression import check_compression
from godb_arrow.directory.journal import Receipt
from godb_arrow.directory.names import check_name
from godb_arrow.directory.places import full_path
from godb_arrow.engine.catalog import Catalog
from godb_arrow.engine.claims import check_base
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.former_files import FormerFiles, remove_replaced, stored_bytes
from godb_arrow.engine.open_collection import OpenCollection
from godb_arrow.engine.pending import Settings
from godb_arrow.engine.saver import Saver
from godb_arrow.errors import (
    CollectionExists,
    CollectionNotFound,
    GodbError,
    ReplicationFailed,
    error_context,
)
from godb_arrow.file.reading import list_collections
from godb_arrow.options import CompressionName
from godb_arrow.snapshots.base import Base

__all__ = ["CollectionNaming"]


class CollectionNaming:
    """Changes the names of an engine's collections: each change as a whole or not at all.

    The lock of the catalog comes before the lock of a collection.

    Parameters
    ----------
    context : EngineContext
        Context of the engine.
    catalog : Catalog
        Its collections.
    former_files : FormerFiles
        Files of dropped and of renamed collections.
    saver : Saver
        Saves a renamed collection whose former file is in the way.
    """

    def __init__(
        self, context: EngineContext, catalog: Catalog, former_files: FormerFiles, saver: Saver
    ) -> None:
        self._context = context
        self._catalog = catalog
        self._former_files = former_files
        self._saver = saver

    def create(self, name: str, compression: CompressionName | None) -> OpenCollection:
        """Create an empty collection.

        Parameters
        ----------
        name : str
            Name of the collection.
        compression : str or None
            Compression of its files, default as the engine's.

        Raises
        ------
        CollectionExists, InvalidCollectionName
        """
        self._context.lifecycle.check_writable()
        with error_context("create", collection=name if isinstance(name, str) else None):
            check_name(name)
            chosen = check_compression(compression or self._context.options.compression).name
            with self._catalog.lock:
                self._check_free(name)
                self._former_files.free(name, self._saver.checkpoint)
                base = Base(self._context.memory)
                collection = OpenCollection(
                    self._context, name, base, settings=Settings((), chosen), stale=True
                )

                def apply(_: int) -> None:
                    self._catalog[name] = collection

                self._journal(collection, {"op": "create", "c": name, "z": chosen}, apply)
                return collection

    def drop(self, find: Callable[[], OpenCollection], *, if_empty: bool) -> None:
        """Drop a collection; open streams still read it.

        Parameters
        ----------
        find : callable
            Returns the collection. Called under the lock.
        if_empty : bool
            Whether to keep a collection that has documents.

        Raises
        ------
        ReplicationFailed
        """
        with self._catalog.lock:
            collection = find()
            store = collection.store
            with collection.checkpointer.at_rest():
                if if_empty and store.documents():
                    return
                name, paths = store.name, store.paths
                # By the size, recovery tells this file from another one that replaces it.
                meta = {"op": "drop", "c": name, "x": stored_bytes(store)}

                def apply(_: int) -> None:
                    self._former_files.note_dropped(paths, store)
                    self._catalog.discard(name)
                    store.drop()

                self._context.followers.check()
                try:
                    self._journal(collection, meta, apply)
                except ReplicationFailed:
                    self._former_files.remove_dropped(paths, store)
                    raise
                self._former_files.remove_dropped(paths, store)

    def rename(self, find: Callable[[], OpenCollection], new_name: str) -> None:
        """Rename a collection; open handles and streams remain valid.

        Parameters
        ----------
        find : callable
            Returns the collection. Called under the lock.
        new_name : str
            New name.

        Raises
        ------
        CollectionExists, InvalidCollectionName
        """
        check_name(new_name)
        with self._catalog.lock:
            collection = find()
            self._check_free(new_name)
            self._former_files.free(new_name, self._saver.checkpoint, collection)
            with collection.checkpointer.at_rest():
                name = collection.name

                def apply(number: int) -> None:
                    self._former_files.note_renamed(collection)
                    self._catalog[new_name] = collection
                    self._catalog.discard(name)
                    position = self._context.directory.journal.position(number)
                    collection.store.rename(new_name, position)

                size = stored_bytes(collection.store)
                meta = {"op": "rename", "c": name, "to": new_name, "x": size}
                self._journal(collection, meta, apply)

    def attach(self, path: str | os.PathLike[str]) -> dict[str, int]:
        """Attach the collections of a file: all of them or, on an error, none.

        Parameters
        ----------
        path : path or URL
            A GODB file. It is copied into the data directory.

        Returns
        -------
        dict of str to int
            Number of documents by name.

        Raises
        ------
        CollectionExists, InvalidCollectionName
        """
        with self._copied(path) as (bases, undo):
            counts = {name: base.count for name, base in bases.items()}
            with self._catalog.lock:
                for name in bases:
                    self._check_free(name)
                    self._former_files.free(name, self._saver.checkpoint)
                if bases:
                    self._attach(bases, undo)
            return counts

    def replace(self, find: Callable[[], OpenCollection], path: str) -> None:
        """Replace all documents of a collection by the documents of a file, which is copied.

        One record of the journal has the copy and the settings, which stay. So a crash leaves the
        former collection or the new one. Handles of the former one raise, as after a drop; open
        streams still read it. On an object store the next save replaces the files.

        Parameters
        ----------
        find : callable
            Returns the collection. Called under the lock.
        path : path
            A GODB file with one collection of the same name.

        Raises
        ------
        CollectionNotFound
            The file has other collections.
        DuplicateValue, InvalidDocument, MissingValidator
            The documents of the file do not fulfil what the collection demands.
        """
        with self._copied(path) as (bases, undo), self._catalog.lock:
            collection = find()
            name = collection.name
            if [*bases] != [name]:
                raise CollectionNotFound(
                    f"the file has the collections {[*bases]}, and not {name!r} alone",
                    advice="write a file with this collection",
                )
            with collection.checkpointer.at_rest():
                check_base(collection.store, bases[name])
                self._context.followers.check()
                new = self._replace(collection, bases[name], undo)
                if self._context.directory.keeps_journal:
                    remove_replaced(new)
        self._context.followers.acknowledge(None)  # followers need the file, too

    def _replace(self, collection: OpenCollection, base: Base, undo: ExitStack) -> OpenCollection:
        """Replace a collection by one with a file of the data directory.

        The caller holds the locks.
        """
        store, directory = collection.store, self._context.directory
        name, journal = store.name, directory.journal
        directory.restrict(base.access())
        settings = Settings(
            store.indexes(), store.compression(), rules=store.rules(), validator=store.validator()
        )
        new = OpenCollection(
            self._context, name, base, settings=settings, stale=True, attached=True
        )
        new.store.former = store.paths
        new.store.form = directory.note_replaced(store.base)
        needed = journal.needed(store)  # As long as the former files exist.

        def apply(number: int) -> None:
            undo.pop_all()  # the journal names the file
            journal.release(new.store, number if needed is None else needed)
            new.store.note_record(journal.position(number))
            self._catalog[name] = new
            self._former_files.note_renamed(new)
            store.drop()
            journal.release(store, None)

        meta = {
            "op": "attach",
            "files": {name: os.path.basename(base.path or "")},
            "x": stored_bytes(store),
            "i": [*store.indexes()],
            "r": store.rules(),
            "z": store.compression(),
        }
        self._journal(new, meta, apply)
        return new

    @contextmanager
    def _copied(self, path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Base], ExitStack]]:
        """Copy a file into the data directory, for the context or until the journal names it.

        Yields
        ------
        tuple
            Documents of its collections by name, and what removes the copy.
        """
        self._context.lifecycle.check_writable()
        attached, location = self._context.directory.attached_files, full_path(path)
        with error_context("load", location), ExitStack() as undo:
            copy = attached.attach(location)
            files: dict[str, str] = {}
            undo.callback(lambda: attached.detach({copy, *files.values()}))
            try:
                for name in list_collections(copy):
                    check_name(name)
                    files[name] = attached.attach_again(copy) if files else copy
                bases = {name: attached.base(file, name) for name, file in files.items()}
                for base in bases.values():
                    base.open()
            except GodbError as error:
                error.source = location  # and not its copy
                raise
            yield bases, undo

    def _attach(self, bases: Mapping[str, Base], undo: ExitStack) -> None:
        """Add collections with files of the data directory; the caller holds the lock."""
        directory = self._context.directory
        collections = {
            name: OpenCollection(self._context, name, base, stale=True, attached=True)
            for name, base in bases.items()
        }
        for base in bases.values():
            directory.restrict(base.access())

        def apply(number: int) -> None:
            undo.pop_all()  # the journal names the files
            for name, collection in collections.items():
                directory.journal.release(collection.store, number)
                collection.store.note_record(directory.journal.position(number))
                self._catalog[name] = collection
                self._former_files.note_renamed(collection)

        names = {name: os.path.basename(base.path or "") for name, base in bases.items()}
        first = next(iter(collections.values()))
        self._journal(first, {"op": "attach", "files": names}, apply)
        self._context.followers.acknowledge(None)  # followers need the files, too

    def _check_free(self, name: str) -> None:
        if name in self._catalog:
            raise CollectionExists(
                f"there is a collection {name!r}", advice="choose another name, or drop it first"
            )

    def _journal(
        self, collection: OpenCollection, meta: dict[str, Any], apply: Callable[[int], None]
    ) -> None:
        """Journal a change of a collection as a whole and apply it: both or, on an error, neither.

        The record is synced whatever the durability. If syncing fails, the change is visible, and
        the error says that it may not survive a power cut. The caller holds the lock.
        """
        self._context.lifecycle.check_writable()  # no other thread closes the engine from here on
        journal, store = self._context.directory.journal, collection.store
        receipt = Receipt()
        try:
            number = journal.append(store, meta, receipt=receipt)
            store.note_record(journal.position(number))
            apply(number)
        except BaseException:
            if receipt.number is not None:
                store.note_record(journal.position(receipt.number))
                apply(receipt.number)
            raise
        journal.sync(number)
        self._context.followers.acknowledge(number)
