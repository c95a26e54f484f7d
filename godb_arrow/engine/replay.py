"""Replay of the journal: names and unsaved changes of the collections of a directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from godb_arrow.directory.names import check_name
from godb_arrow.directory.records import LOST, TRANSACTION, UNLISTED, Record, sensible
from godb_arrow.engine.catalog import Catalog
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.former_files import is_replaced
from godb_arrow.engine.name_history import NameHistory
from godb_arrow.engine.open_collection import OpenCollection
from godb_arrow.engine.pending import Settings
from godb_arrow.errors import GodbError, SourceNotFound
from godb_arrow.file.hints import JournalPosition
from godb_arrow.snapshots.base import Base

__all__ = ["Replay", "collection_of_file"]


logger = logging.getLogger(__name__)


def collection_of_file(context: EngineContext) -> Callable[[str, str], OpenCollection]:
    """Return a function that makes a collection from its name and the path of its file."""
    read_end = context.directory.read_end

    def make(name: str, path: str) -> OpenCollection:
        made = OpenCollection(context, name, context.directory.base(path))
        made.store.read_end = read_end  # A later read of the directory may be under way.
        return made

    return make


class Replay:
    """Collections of a data directory by their files, with the changes of the journal.

    Parameters
    ----------
    context : EngineContext
        Context of the engine.
    catalog : Catalog
        Collections by their files. Records add, rename and remove entries.
    records : sequence of Record
        All records of the journal, in order.

    Attributes
    ----------
    needs : dict of OpenCollection to int
        Sequence number of the oldest record that each collection needs.
    dropped_files : list of str
        Files of dropped collections.
    moved : list of OpenCollection
        Collections with a file under another name than their own.
    count : int
        Number of records.

    Raises
    ------
    CorruptFile, InvalidCollectionName
        No engine writes such a record.
    """

    def __init__(self, context: EngineContext, catalog: Catalog, records: Sequence[Record]) -> None:
        self.catalog = catalog
        self.needs: dict[OpenCollection, int] = {}
        self.dropped_files: list[str] = []
        self.moved: list[OpenCollection] = []
        self.count = len(records)
        self._context = context
        self._has_lost = False  # whether a repair removed records
        self._covered: dict[OpenCollection, OpenCollection] = {}  # files, by what has their name
        self._names = NameHistory(records, context.directory.holds)
        for record in records:
            with sensible(record):
                self._apply(record)

    def _apply(self, record: Record) -> None:
        op, attached = record.meta["op"], self._context.directory.attached_files
        if op == UNLISTED:
            return  # a file has the changes, or they did not happen
        if op == LOST:
            logger.warning("changes %d to %d are lost", record.number, record.last)
            self._has_lost = True
            return
        if op == "attach" and "files" in record.meta:
            for name, file in record.meta["files"].items():
                self._add(record, check_name(name), attached.recovered_base(file, name))
            return
        if op == TRANSACTION:
            for part in record.of_collections():
                self._change(part, check_name(part.meta["c"]))
            return
        name = check_name(record.meta["c"])
        if op == "create":
            self._add(record, name, Base(self._context.memory))
        elif op == "attach":  # version 0.1 left the file where it was
            self._add(record, name, attached.named_base(record.meta["path"], record.meta["as"]))
        else:
            self._change(record, name)

    def _add(self, record: Record, name: str, base: Base) -> None:
        """Replay a record that creates a collection, or attaches one from a file."""
        present, covered = self.catalog.get(name), self._covered_by(name)
        first = record.number
        if present is not None and covered is not None:
            if self._takes(covered, name, record, unread=True):
                self.catalog[name] = covered
                return
            first = self.needs.pop(present, first)
        if base.is_refused:
            logger.warning("collection %r: %s", name, base.refusal)
        collection = OpenCollection(
            self._context,
            name,
            base,
            settings=Settings.created_by(record.meta),
            position=record.position,
            stale=True,
            attached=base.path is not None,
        )
        if "x" in record.meta and not self._is_later(present, name, record):
            self._replace(present, collection, record)
        elif covered is not None:
            self._covered[collection] = covered
        self.catalog[name] = collection
        self.moved.append(collection)
        self.needs[collection] = first

    def _is_later(self, present: OpenCollection | None, name: str, record: Record) -> bool:
        """Return whether a name has the file of a collection that takes it after a record."""
        if present is None or present.path in self._context.directory.paths_of(name):
            is_last = self._names.is_last(name, record)
            return not is_last or (
                present is not None and self._contains(present, record, unread=False)
            )
        return False

    def _replace(
        self, present: OpenCollection | None, collection: OpenCollection, record: Record
    ) -> None:
        """Note the files of the collection that an attached one replaces.

        They may be there partly, after a kill, or another file may have replaced them.
        """
        if present is None:
            collection.store.former = self._remainder(collection.name, None)
        elif is_replaced(present.store, record.meta["x"]):
            self._covered[collection] = present
        else:
            collection.store.former = present.store.paths
            if present in self._covered:
                self._covered[collection] = self._covered.pop(present)

    def _change(self, record: Record, name: str) -> None:
        op = record.meta["op"]
        collection = self.catalog.get(name)
        if collection is None:
            if op in ("drop", "rename"):
                self.dropped_files += self._remainder(name, None)
            if not self._has_lost or op in ("drop", "rename"):
                return  # a later record drops it, and its file was removed
            collection = self.catalog[name] = OpenCollection(
                self._context, name, Base(self._context.memory), stale=True
            )
        if op in ("drop", "rename") and self._contains(collection, record, unread=False):
            return
        if op == "drop":
            self._remove(collection, record)
            return
        if op == "rename":
            new_name = check_name(record.meta["to"])
            target = self._covered_by(new_name)
            if target is not None and self._takes(target, new_name, record, unread=False):
                self._remove(collection, record)  # its new file exists beside the former one
                return
            if self._is_replaced(collection, record):
                base = Base(self._context.memory)
                collection = OpenCollection(self._context, new_name, base, stale=True)
            else:
                self.dropped_files += self._remainder(name, None)
                self._discard(collection)
                collection.store.rename(new_name, record.position)
                if not self._is_later(target, new_name, record):
                    collection.store.former += self._remainder(new_name, target)
                elif target is not None:
                    self._covered[collection] = target
            self.moved.append(collection)
            self.catalog[new_name] = collection
        else:
            collection.store.replay(record)
        self.needs.setdefault(collection, record.number)

    def _remove(self, collection: OpenCollection, record: Record) -> None:
        """Remove the collection of a record, and note its file, unless another file replaces it."""
        if self._is_replaced(collection, record):
            return
        self.dropped_files += [*collection.store.paths, *self._remainder(collection.name, None)]
        self._discard(collection)
        self.needs.pop(collection, None)

    def _is_replaced(self, collection: OpenCollection, record: Record) -> bool:
        """Return whether another file replaces the file of a collection that a record removes.

        Then the file becomes a collection of its own, without the earlier records of the journal.
        Records of version 0.1.0 have no size of the file.
        """
        path = collection.path
        if path is None or "x" not in record.meta:
            return False
        if not is_replaced(collection.store, record.meta["x"]):
            return False
        logger.warning("%s replaces the file of a former collection, and stays", path)
        self.needs.pop(collection, None)
        name = collection.name
        self.catalog[name] = collection_of_file(self._context)(name, path)
        return True

    def _remainder(self, name: str, target: OpenCollection | None) -> list[str]:
        """Return the folder of a name that a killed process has partly written or removed.

        It has files without a manifest. A save of a renamed collection also leaves earlier versions
        under the new name, which are no collection.

        Parameters
        ----------
        name : str
            The name.
        target : OpenCollection or None
            Collection of the folder, which contains no record of the name.
        """
        directory = self._context.directory
        *_, path = directory.paths_of(name)
        with suppress(GodbError):  # A damaged or refused folder stays.
            folder = directory.folder(path)
            if not directory.keeps_journal or not folder.content.check():
                return []
            if not folder.versions():
                return [path]
            if target is not None and target.path == path:
                return [path] if directory.wrote(target.store.base.hint) else []
        return []

    def _discard(self, collection: OpenCollection) -> None:
        """Remove a name, or return it to the file that the collection covered."""
        name = collection.name
        del self.catalog[name]
        covered = self._covered.pop(collection, None)
        if covered is not None:
            self.catalog[name] = covered

    def _covered_by(self, name: str) -> OpenCollection | None:
        """Return the collection that a name returns to when it is dropped or renamed."""
        present = self.catalog.get(name)
        while present is not None and present in self._covered:
            present = self._covered[present]
        return present

    def _takes(
        self, collection: OpenCollection, name: str, record: Record, *, unread: bool
    ) -> bool:
        """Return whether the file of a collection contains a record by which it has its name."""
        position = self._position(collection)
        return unread if position is None else self._names.has_taken(name, position, record)

    def _contains(self, collection: OpenCollection, record: Record, *, unread: bool) -> bool:
        """Return whether the file of a collection contains a record.

        A damaged file must not keep the directory closed: `unread` is the answer for it, and the
        first use of the collection raises the error.
        """
        position = self._position(collection)
        return unread if position is None else self._context.directory.holds(position, record)

    @staticmethod
    def _position(collection: OpenCollection) -> JournalPosition | None:
        """Return the last record that the file of a collection contains; None if it is damaged."""
        try:
            return collection.store.stored_position
        except SourceNotFound:
            raise  # a reader reads the directory again
        except GodbError:
            return None
