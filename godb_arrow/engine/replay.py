"""Replay of the journal: names and unsaved changes of the collections of a directory."""

from __future__ import annotations

import logging
from collections.abc import Callable

from godb_arrow.directory.names import check_name
from godb_arrow.directory.records import LOST, Record, sensible
from godb_arrow.engine.catalog import Catalog
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.former_files import foreign_bytes
from godb_arrow.engine.open_collection import OpenCollection
from godb_arrow.snapshots.base import Base

__all__ = ["Replay", "collection_of_file"]


logger = logging.getLogger(__name__)


def collection_of_file(context: EngineContext) -> Callable[[str, str], OpenCollection]:
    """Return a function that makes a collection from its name and the path of its file."""

    def make(name: str, path: str) -> OpenCollection:
        return OpenCollection(context, name, context.directory.base(path))

    return make


class Replay:
    """Collections of a data directory by their files, with the changes of the journal.

    Parameters
    ----------
    context : EngineContext
        Context of the engine.
    catalog : Catalog
        Collections by their files. Records add, rename and remove entries.

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
    """

    def __init__(self, context: EngineContext, catalog: Catalog) -> None:
        self.catalog = catalog
        self.needs: dict[OpenCollection, int] = {}
        self.dropped_files: list[str] = []
        self.moved: list[OpenCollection] = []
        self.count = 0
        self._context = context
        self._has_lost = False  # whether a repair removed records

    def apply(self, record: Record) -> None:
        """Apply the next record.

        Raises
        ------
        CorruptFile, InvalidCollectionName
            No engine writes such a record.
        """
        self.count += 1
        with sensible(record):
            self._apply(record)

    def _apply(self, record: Record) -> None:
        op, attached = record.meta["op"], self._context.directory.attached_files
        if op == LOST:
            logger.warning("changes %d to %d are lost", record.number, record.last)
            self._has_lost = True
            return
        if op == "attach" and "files" in record.meta:
            for name, file in record.meta["files"].items():
                self._add(record, check_name(name), attached.recovered_base(file, name))
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
        present = self.catalog.get(name)
        if present is not None:
            if present.store.contains(record):
                return
            self.needs.pop(present, None)
        if base.is_refused:
            logger.warning("collection %r: %s", name, base.refusal)
        collection = OpenCollection(
            self._context,
            name,
            base,
            compression=record.meta.get("z"),
            position=record.position,
            stale=True,
            attached=base.path is not None,
        )
        self.catalog[name] = collection
        self.moved.append(collection)
        self.needs[collection] = record.number

    def _change(self, record: Record, name: str) -> None:
        op = record.meta["op"]
        collection = self.catalog.get(name)
        if collection is None:
            if not self._has_lost or op in ("drop", "rename"):
                return  # a later record drops it, and its file was removed
            collection = self.catalog[name] = OpenCollection(
                self._context, name, Base(self._context.memory), stale=True
            )
        if op in ("drop", "rename") and collection.store.contains(record):
            return
        if op == "drop":
            if foreign_bytes(collection.store) not in (None, record.meta.get("x")):
                logger.warning(
                    "%s replaces the dropped collection %r; it stays", collection.path, name
                )
                return
            self._remove(collection)
            return
        if op == "rename":
            new_name = check_name(record.meta["to"])
            target = self.catalog.get(new_name)
            if target is not None and target.store.contains(record):
                self._remove(collection)  # its new file exists beside the former one
                return
            del self.catalog[name]
            self.moved.append(collection)
            collection.store.rename(new_name, record.position)
            self.catalog[new_name] = collection
        else:
            collection.store.replay(record)
        self.needs.setdefault(collection, record.number)

    def _remove(self, collection: OpenCollection) -> None:
        if collection.path is not None:
            self.dropped_files.append(collection.path)
        del self.catalog[collection.name]
        self.needs.pop(collection, None)
