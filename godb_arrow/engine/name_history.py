"""Collections that had each name, over the records of a journal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from godb_arrow.directory.records import Record, sensible
from godb_arrow.file.hints import JournalPosition

__all__ = ["NameHistory"]


_NAMING = ("create", "attach", "drop", "rename")  # operations of records


class NameHistory:
    """Collections that had each name: a name passes on by ``create``, ``rename`` and ``drop``.

    A file contains records by their sequence numbers. If its name belonged to another collection
    before, the earlier records of that name are no records of the file.

    Parameters
    ----------
    records : iterable of Record
        All records of the journal, in order.
    holds : callable
        Returns whether a file with a position contains a record, by their sequence numbers.
    """

    def __init__(
        self, records: Iterable[Record], holds: Callable[[JournalPosition, Record], bool]
    ) -> None:
        self._holds = holds
        self._new_owner = itertools.count().__next__
        # The owners of each name with the records that made them the owner; None for no owner.
        self._owners: dict[str, list[tuple[Record | None, int | None]]] = {}
        self._takers: dict[tuple[str, int], int] = {}  # by the name and the sequence number
        self._last: dict[str, tuple[int, int]] = {}  # the last owner, and its first record
        self._found: dict[tuple[str, JournalPosition], int | None] = {}
        for record in records:
            if record.meta.get("op") in _NAMING:
                with sensible(record):
                    self._note(record)

    def _note(self, record: Record) -> None:
        meta = record.meta
        op = meta["op"]
        if op in ("create", "attach"):
            for name in meta["files"] if "files" in meta else [meta["c"]]:
                # A file that replaces a collection is a later state of it.
                owner = self._of_name(name)[-1][1] if "x" in meta else None
                self._take(record, name, self._new_owner() if owner is None else owner)
        elif op == "drop":
            self._release(record, meta["c"])
        else:
            self._take(record, meta["to"], self._release(record, meta["c"]))

    def _take(self, record: Record, name: str, owner: int) -> None:
        self._of_name(name).append((record, owner))
        self._takers[name, record.number] = owner
        if self._last.get(name, (None,))[0] != owner:
            self._last[name] = owner, record.number

    def _release(self, record: Record, name: str) -> int:
        """Note that a name has no owner from a record on, and return its owner until then."""
        owners = self._of_name(name)
        _, owner = owners[-1]
        owners.append((record, None))
        return self._new_owner() if owner is None else owner

    def _of_name(self, name: str) -> list[tuple[Record | None, int | None]]:
        if name not in self._owners:
            self._owners[name] = [(None, self._new_owner())]  # from before the journal
        return self._owners[name]

    def has_taken(self, name: str, position: JournalPosition, record: Record) -> bool:
        """Return whether a file contains the record by which its collection took the name.

        Parameters
        ----------
        name : str
            Name of the file.
        position : JournalPosition
            Last record that the file contains.
        record : Record
            Record that creates or attaches a collection of this name, or renames one to it.
        """
        if not self._holds(position, record):
            return False
        return self._owner_at(name, position) == self._takers.get((name, record.number))

    def is_last(self, name: str, record: Record) -> bool:
        """Return whether no other collection takes a name after the one that takes it here."""
        return self._last[name][1] <= record.number

    def _owner_at(self, name: str, position: JournalPosition) -> int | None:
        """Return the collection that a file of a name has, or None if the journal does not say.

        A killed save of a renamed collection leaves a folder with its earlier positions, at which
        another collection had the name.
        """
        key = name, position
        if key not in self._found:
            owners = self._owners[name]
            at = max(
                index
                for index, (record, _) in enumerate(owners)
                if record is None or self._holds(position, record)
            )
            owner = owners[at][1]
            later = {other for _, other in owners[at:]} - {None, owner}
            self._found[key] = None if later else owner
        return self._found[key]
