"""Journal records of one collection that wait for its first use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.compression import check_compression
from godb_arrow.codec.entries import no_rows
from godb_arrow.directory.data_directory import DataDirectory
from godb_arrow.directory.records import Record
from godb_arrow.documents.ids import pack_ids
from godb_arrow.engine.constraints import Constraints
from godb_arrow.engine.rules import Rules
from godb_arrow.engine.validation import Validator, restored_validator, stored_validator
from godb_arrow.file.hints import CollectionHint, JournalPosition
from godb_arrow.former_ipc import read_former_schema
from godb_arrow.options import CompressionName
from godb_arrow.recorded_schema import restore_schema
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.deletions import DeletedIds
from godb_arrow.snapshots.entry_runs import scan
from godb_arrow.snapshots.index_names import definitions_of
from godb_arrow.snapshots.overlay import Overlay, PlannedChange

__all__ = [
    "MAX_SINGLE_DELETIONS",
    "PendingRecords",
    "Settings",
    "are_few",
    "next_id_of",
    "plan_delete",
    "plan_put",
]


MAX_SINGLE_DELETIONS = 1_024
"""Documents that one change deletes, up to which the overlay has an object for each."""

_UNREAD = Constraints(())
_MAX_CLAIMED_ID = 1 << 56  # ids; no engine generated that many
_MAX_SINGLE_DOCUMENTS = 64  # documents of one change that the overlay stores one by one


class PendingRecords:
    """Records that were read from the journal and are not applied yet.

    Attributes
    ----------
    records : list of Record
        The records in order.
    noted : JournalPosition or None
        Position of the base when the journal was read.
    min_next_id : int
        Min number of the next generated id, by the applied records.
    """

    __slots__ = ("min_next_id", "noted", "records")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.noted: JournalPosition | None = None
        self.min_next_id = 1

    def missing_from(
        self,
        stored: JournalPosition,
        is_stored: Callable[[JournalPosition, Record], bool],
    ) -> list[Record]:
        """Return the records that a base does not contain.

        Parameters
        ----------
        stored : JournalPosition
            Position of the base.
        is_stored : callable
            Returns whether a position contains a record.
        """
        missing = [record for record in self.records if not is_stored(stored, record)]
        return missing if self.noted in (None, stored) else []

    @staticmethod
    def have_ranges(records: Sequence[Record]) -> bool:
        """Return whether a record has a range of generated ids."""
        return any("g" in record.meta for record in records)

    def apply(self, record: Record, overlay: Overlay, first_new: int) -> bool:
        """Apply a record to an overlay.

        Parameters
        ----------
        record : Record
            The record.
        overlay : Overlay
            Receives the documents.
        first_new : int
            The base has no generated id from this number on.

        Returns
        -------
        bool
            False if the record changes a setting and no document.
        """
        meta = record.meta
        if meta["op"] != "write":
            return False
        self.min_next_id = max(self.min_next_id, meta["n"])
        schema = _schema_in(meta)
        if schema is not None and meta["k"] == [0]:  # a table without rows
            return False
        for count, part in zip(meta["k"], record.parts, strict=True):
            if not count:
                continue
            entries = scan(part, count)
            if "g" in meta and meta["g"] >= first_new:  # the base has none of these ids
                plan = overlay.plan_range(meta["g"], entries, schema)
            else:
                plan = plan_put(overlay, entries, list(entries.ids()), schema, [])
            plan(record.number)
        if meta.get("d"):
            plan_delete(overlay, meta["d"])(record.number)
        return True


@dataclass(slots=True)
class Settings:
    """Settings of a collection that no document has.

    Attributes
    ----------
    indexes : tuple of str or None
        Indexed fields, or None for those that the base records.
    rules : bytes or None
        Packed rules, or None for those that the base records.
    validator : Validator or None
        What validates documents, if it was set since the collection was opened. It counts while
        the rules record it.
    compression : str or None
        Compression of new files, or None for the compression that the base records.
    columns : pyarrow.Schema or None
        Schema of a table without rows that was inserted, until there are documents.
    constraints : Constraints or None
        What indexes and rules demand, once it was read.
    """

    indexes: tuple[str, ...] | None = None
    compression: CompressionName | None = None
    columns: pa.Schema | None = None
    rules: bytes | None = None
    validator: Validator | None = None
    constraints: Constraints | None = field(default=_UNREAD, repr=False)

    @classmethod
    def created_by(cls, meta: Mapping[str, Any]) -> Settings:
        """Return the settings of a collection that a record creates, attaches or replaces."""
        indexes = tuple(meta["i"]) if "i" in meta else None
        return cls(indexes, meta.get("z"), rules=meta.get("r"))

    def unique_bytes(self, overlay: Overlay) -> int:
        """Return the bytes of memory for the unique values of an overlay."""
        return 0 if self.constraints is None else self.constraints.size_over(overlay)

    def read_indexes(self, hint: CollectionHint) -> tuple[str, ...]:
        """Return the indexed fields, given what the base records."""
        if self.indexes is None:
            self.indexes = hint.indexes
        return self.indexes

    def read_compression(self, hint: CollectionHint) -> CompressionName:
        """Return the compression of new files, given what the base records."""
        if self.compression is None:
            self.compression = hint.compression
        return self.compression

    def read_rules(self, hint: CollectionHint) -> bytes:
        """Return the packed rules, given what the base records."""
        if self.rules is None:
            self.rules = hint.rules
        return self.rules

    def read_constraints(
        self, indexes: Callable[[], Iterable[str]], rules: Callable[[], bytes]
    ) -> Constraints | None:
        """Return the constraints, given functions that return the indexed fields and the rules."""
        if self.constraints is _UNREAD:
            unique = [index for index in definitions_of(indexes()) if index.unique]
            stored, validator = Rules.unpack(rules()).validation, self.validator
            if stored is None:
                validator = None
            elif validator is None or stored_validator(validator) != stored:
                validator = restored_validator(stored)
            self.constraints = Constraints(unique, validator) if unique or validator else None
        return self.constraints

    def replay(self, meta: Mapping[str, Any]) -> None:
        """Change a setting as the record of a journal describes it."""
        if meta["op"] == "index":
            self.indexes = tuple(meta["i"])
            self.constraints = _UNREAD
        elif meta["op"] == "rules":
            self.rules, self.validator, self.constraints = meta["r"], None, _UNREAD
            if "i" in meta:
                self.indexes = tuple(meta["i"])
        elif meta["op"] == "compression":
            self.compression = check_compression(meta["z"]).name
        elif meta["op"] == "write":
            self.columns = _schema_in(meta)


def are_few(ids: Sequence[str], schema: pa.Schema | None) -> bool:
    """Return whether the overlay stores documents one by one, and not as a run of entries."""
    return len(ids) <= _MAX_SINGLE_DOCUMENTS and schema is None


def plan_put(
    overlay: Overlay,
    entries: codec.Entries,
    ids: list[str],
    schema: pa.Schema | None,
    superseded: list[int],
) -> PlannedChange:
    """Plan to put documents into an overlay.

    Parameters
    ----------
    overlay : Overlay
        Receives the documents.
    entries : Entries
        The documents.
    ids : list of str
        Their ids.
    schema : pyarrow.Schema or None
        Their schema, if known.
    superseded : list of int
        Rows of the base with the former documents.
    """
    if are_few(ids, schema):
        versions = {identity: entries.document(index) for index, identity in enumerate(ids)}
        return overlay.plan_change(versions, superseded)
    return overlay.plan_add(ids, entries, schema, superseded)


def plan_delete(overlay: Overlay, ids: list[str]) -> PlannedChange:
    """Plan to delete documents of a base that is not known yet."""
    if len(ids) <= MAX_SINGLE_DELETIONS:
        return overlay.plan_change(dict.fromkeys(ids), [])
    changed = overlay.find_any(dict.fromkeys(ids))
    unchanged = pack_ids(dict.fromkeys(key for key in ids if key not in changed))
    return overlay.plan_delete(DeletedIds(unchanged, no_rows()), changed)


def _schema_in(meta: Mapping[str, Any]) -> pa.Schema | None:
    """Return the schema that a record of the journal has for its documents."""
    if "s" in meta:  # of version 0.1.0
        return read_former_schema(meta["s"])
    return restore_schema(meta["f"]) if "f" in meta else None


def next_id_of(base: Base, directory: DataDirectory) -> int:
    """Return the next generated id by the base alone.

    Another program's record is checked, since an id must not be generated twice.
    """
    hint = base.hint
    if hint.next_id is not None and directory.wrote(hint):
        return hint.next_id
    first_unused = base.max_id() + 1
    claimed = hint.next_id or 1
    return claimed if first_unused < claimed <= _MAX_CLAIMED_ID else first_unused
