"""Replay of the journal: which collections there are, and what is in no file yet."""

from __future__ import annotations

import logging

from godb_arrow.directory.names import check_name
from godb_arrow.directory.segments import LOST, Record, sensible
from godb_arrow.engine.catalog import Catalog
from godb_arrow.engine.collection import Collection
from godb_arrow.engine.services import Services
from godb_arrow.snapshots.base import Base

__all__ = ["Replay"]


logger = logging.getLogger(__name__)


class Replay:
    """Collections of a data directory by their files, with the changes of the journal.

    Parameters
    ----------
    services : Services
        Services of the engine.
    collections : Catalog
        Collections by their files. Records add, rename and remove entries.

    Attributes
    ----------
    needs : dict of Collection to int
        Sequence number of the oldest record that each collection needs.
    leftovers : list of str
        Files of dropped collections.
    moved : list of Collection
        Collections with a file under another name than their own.
    count : int
        Number of records.
    """

    def __init__(self, services: Services, collections: Catalog) -> None:
        self.collections = collections
        self.needs: dict[Collection, int] = {}
        self.leftovers: list[str] = []
        self.moved: list[Collection] = []
        self.count = 0
        self._services = services
        self._has_lost = False  # the journal was repaired, and lacks changes

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
        op, directory = record.meta["op"], self._services.directory
        if op == LOST:
            logger.warning("changes %d to %d are lost", record.number, record.last)
            self._has_lost = True
            return
        if op == "attach" and "files" in record.meta:
            for name, file in record.meta["files"].items():
                self._add(record, check_name(name), directory.recovered_base(file, name))
            return
        name = check_name(record.meta["c"])
        if op == "create":
            self._add(record, name, Base(self._services.memory))
        elif op == "attach":  # version 0.1 left the file where it was
            self._add(record, name, directory.attached(record.meta["path"], record.meta["as"]))
        else:
            self._change(record, name)

    def _add(self, record: Record, name: str, base: Base) -> None:
        """Replay that a collection was created, or taken in from a file."""
        present = self.collections.get(name)
        if present is not None:
            if present.holds(record):
                return
            self.needs.pop(present, None)
        if base.is_refused:
            logger.warning("collection %r: %s", name, base.refusal)
        collection = Collection(
            self._services, name, base, compression=record.meta.get("z"),
            position=record.position, stale=True, attached=base.path is not None,
        )  # fmt: skip
        self.collections[name] = collection
        self.moved.append(collection)
        self.needs[collection] = record.number

    def _change(self, record: Record, name: str) -> None:
        op = record.meta["op"]
        collection = self.collections.get(name)
        if collection is None:
            if not self._has_lost or op in ("drop", "rename"):
                return  # dropped later, and its file is gone
            collection = self.collections[name] = Collection(
                self._services, name, Base(self._services.memory), stale=True
            )
        if op in ("drop", "rename") and collection.holds(record):
            return
        if op == "drop":
            self._remove(collection)
            return
        if op == "rename":
            new_name = check_name(record.meta["to"])
            target = self.collections.get(new_name)
            if target is not None and target.holds(record):
                self._remove(collection)  # its new file is there, and the old one is left
                return
            del self.collections[name]
            self.moved.append(collection)
            collection.mark_renamed(new_name, record.position)
            self.collections[new_name] = collection
        else:
            collection.replay(record)
        self.needs.setdefault(collection, record.number)

    def _remove(self, collection: Collection) -> None:
        if collection.path is not None:
            self.leftovers.append(collection.path)
        del self.collections[collection.name]
        self.needs.pop(collection, None)
