"""State of one collection: its base, the overlay of unsaved changes, and its journal records."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.directory.journal import Receipt
from godb_arrow.directory.records import Record, sensible
from godb_arrow.documents.ids import IdSequence
from godb_arrow.engine.constraints import Claims, Constraints
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.info import CollectionState
from godb_arrow.engine.lifecycle import dropped_error
from godb_arrow.engine.pending import PendingRecords, Settings, next_id_of
from godb_arrow.engine.validation import Validator
from godb_arrow.errors import EngineClosed, error_context
from godb_arrow.file.hints import CollectionHint, JournalPosition
from godb_arrow.options import CompressionName
from godb_arrow.recorded_schema import describe_schema
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.overlay import Overlay, PlannedChange
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["CollectionStore", "planned_change"]


_NO_POSITION = JournalPosition()
_LOCK_ORDERS = itertools.count()
_Setting = TypeVar("_Setting")


class CollectionStore:
    """Documents of a collection: an immutable base under an overlay of changes.

    The lock guards all attributes.

    Parameters
    ----------
    context : EngineContext
        Context of the engine.
    name : str
        Name of the collection.
    base : Base
        Its saved documents.
    settings : Settings, optional
        Indexes, rules and compression, default those that the base records.
    position : JournalPosition
        Last journal record of the collection.
    stale : bool
        Whether the base must be rewritten although no document changed, default False.
    attached : bool
        Whether the base was copied from elsewhere, default False. Its sequence number then belongs
        to another journal.

    Attributes
    ----------
    overlay : Overlay
        Unsaved changes.
    count : int or None
        Number of documents; None until :meth:`prepare`.
    changes : int
        Number of changes since the engine was opened.
    changed_bytes : int
        Bytes of memory of the overlay.
    needs : int or None
        Oldest record without documents that the next checkpoint saves, such as a rename.
    former : list of str
        Files under other names, which the next checkpoint removes.
    lock_order : int
        Number by which a thread acquires the locks of several collections, in ascending order.
    form : {"file", "folder", None}
        Form of the next base, default by its size.
    is_dropped, is_sealed : bool
        Whether the collection was dropped, and whether it refuses changes since the engine closes.
    max_given_id : int
        Max number that a caller chose as an id.
    sequence : IdSequence or None
        Sequence of generated ids; None until :meth:`id_sequence`.
    shared : int
        Sequence number of the last transaction.
    read_end : tuple
        End of the journal when it was read for the documents; only for an engine that reads.
    """

    def __init__(
        self,
        context: EngineContext,
        name: str,
        base: Base,
        *,
        settings: Settings | None = None,
        position: JournalPosition = _NO_POSITION,
        stale: bool = False,
        attached: bool = False,
    ) -> None:
        self.context = context
        self.name = name
        self.base = base
        self.overlay = Overlay()
        self.lock, self.lock_order = threading.RLock(), next(_LOCK_ORDERS)
        self.count: int | None = None
        self.changes = self.changed_bytes = 0
        self.position = position
        self.attached = attached
        self.needs: int | None = None
        self.former: list[str] = []
        self.stale = stale
        self.form: str | None = None
        self.is_dropped = self.is_sealed = False
        self.last_modified: float | None = None
        self.last_accessed: float | None = None
        self.accesses = 0
        self.max_given_id = self.shared = 0
        self.sequence: IdSequence | None = None
        self.read_end = context.directory.read_end
        self._settings = settings or Settings()
        self._pending = PendingRecords()

    # --- state --------------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        """Whether the collection has changes that are in no file."""
        return bool(self.stale or self._pending.records or self.former or len(self.overlay))

    @property
    def state(self) -> CollectionState:
        """State of the documents."""
        if self.is_dirty:
            return CollectionState.DIRTY
        if self.base.is_loading:
            return CollectionState.LOADING
        return CollectionState.LOADED if self.base.is_loaded else CollectionState.UNLOADED

    @property
    def is_ready(self) -> bool:
        """Whether the collection is prepared for reading, and open."""
        return not (
            self.count is None or self._pending.records or self.is_dropped or self.is_sealed
        )

    @property
    def is_unconstrained(self) -> bool:
        """Whether the collection is known to demand nothing of its documents."""
        return self._settings.constraints is None

    @property
    def known_indexes(self) -> tuple[str, ...]:
        """Indexed fields; none before they are read."""
        return self._settings.indexes or ()

    @property
    def was_read(self) -> bool:
        """Whether the base was read, and the collection was not dropped."""
        return self.count is not None and not self.is_dropped

    @property
    def paths(self) -> list[str]:
        """Files of the collection, those under former names included."""
        return [path for path in (self.base.path, *self.former) if path is not None]

    @property
    def stored_position(self) -> JournalPosition:
        """Last journal record that the base contains."""
        return _NO_POSITION if self.attached else self.base.hint.position

    def position_of(self, base: Base) -> JournalPosition:
        """Return the last journal record that a base and all changes since contain."""
        return self.position if self.position.number else base.hint.position

    def check_present(self) -> None:
        """Raise if the collection was dropped, or refuses changes since the engine closes.

        Raises
        ------
        CollectionNotFound, EngineClosed
        """
        if self.is_dropped:
            raise dropped_error(self.name, self.context.directory.read_only)
        if self.is_sealed:
            raise EngineClosed("the engine was closed", advice="open another engine")

    # --- reading ------------------------------------------------------------------------------

    def reading(self) -> error_context:
        """Begin a verb that reads.

        Returns
        -------
        error_context
            Adds operation and collection to errors.

        Raises
        ------
        EngineClosed, ForkedProcess
        """
        self.context.lifecycle.check_open()
        with self.lock:
            self.note_access()
        return error_context("read", collection=self.name)

    def writing(self, operation: str) -> error_context:
        """Begin a verb that writes.

        Parameters
        ----------
        operation : str
            The verb, for errors.

        Returns
        -------
        error_context
            Adds operation and collection to errors.

        Raises
        ------
        EngineClosed, ForkedProcess, ReadOnly
        """
        self.context.lifecycle.check_writable()
        with self.lock:
            self.note_access()
        return error_context(operation, collection=self.name)

    def note_access(self) -> None:
        """Count an access; the caller holds the lock."""
        self.accesses += 1
        self.last_accessed = time.time()

    def documents(self) -> int:
        """Return the number of documents."""
        with self.lock:
            self.check_present()
            self.prepare()
            assert self.count is not None
            return self.count

    def snapshot(self) -> Snapshot:
        """Return the current documents as a snapshot."""
        with self.lock:
            self.check_present()
            self.prepare()
            return self.freeze()

    def freeze(self) -> Snapshot:
        """Return the prepared documents as a snapshot, also while the engine closes."""
        assert self.count is not None
        position = self.position_of(self.base)
        columns = None if self.count else self._settings.columns
        return Snapshot(self.base, self.overlay, self.count, position, columns)

    @contextmanager
    def pinned_base(self) -> Iterator[Base]:
        """Keep the files of the base while the context lasts."""
        self.context.lifecycle.check_process()
        with self.lock:
            self.check_present()
            base = self.base
            pin = base.pin()
        try:
            yield base
        finally:
            del pin

    # --- ids ----------------------------------------------------------------------------------

    def ids(self) -> IdSequence:
        """Return the sequence of generated ids, from a verb."""
        self.context.lifecycle.check_process()
        with self.lock:
            self.check_present()
            return self.id_sequence()

    def id_sequence(self) -> IdSequence:
        """Return the sequence of generated ids."""
        with self.lock:
            self.prepare()
            if self.sequence is None:
                of_base = next_id_of(self.base, self.context.directory)
                self.sequence = IdSequence(max(of_base, self._pending.min_next_id))
            return self.sequence

    # --- settings -----------------------------------------------------------------------------

    def indexes(self) -> tuple[str, ...]:
        """Return the indexed fields."""
        return self._read(Settings.read_indexes)

    def rules(self) -> bytes:
        """Return the packed rules."""
        return self._read(Settings.read_rules)

    def compression(self) -> CompressionName:
        """Return the compression of new files."""
        return self._read(Settings.read_compression)

    def _read(self, setting: Callable[[Settings, CollectionHint], _Setting]) -> _Setting:
        with self.lock:
            if self.is_dropped:
                raise dropped_error(self.name, self.context.directory.read_only)
            self.prepare()
            return setting(self._settings, self.base.hint)

    def constraints(self) -> Constraints | None:
        """Return what the collection demands of its documents; None if it demands nothing."""
        with self.lock:  # no other thread changes a setting meanwhile
            return self._settings.read_constraints(self.indexes, self.rules)

    def validator(self) -> Validator | None:
        """Return what validates documents, if anything does."""
        constraints = self.constraints()
        return None if constraints is None else constraints.validator

    def claim(self, versions: Mapping[str, bytes | None]) -> Claims | None:
        """Check that documents may be put and deleted, by id; the caller holds the lock."""
        constraints = self.constraints()
        return None if constraints is None else constraints.claim(self.base, self.overlay, versions)

    def change_setting(self, meta: dict[str, Any], validator: Validator | None = None) -> None:
        """Journal and change a setting, as a record describes it; the caller holds the lock."""
        number = self._set(meta, [])
        if validator is not None:
            self._settings.validator = validator
        self.context.sync(number)

    def set_columns(self, schema: pa.Schema) -> int | None:
        """Journal and set the schema of a collection without documents.

        The caller holds the lock.

        Parameters
        ----------
        schema : pyarrow.Schema
            Schema of a table without rows.

        Returns
        -------
        int or None
            Sequence number of the change.
        """
        described = {"n": self.id_sequence().next_id, "k": [0], "f": describe_schema(schema)}
        return self._set({"op": "write", **described}, [b""])

    def _set(self, meta: dict[str, Any], parts: Sequence[bytes]) -> int | None:
        def apply(number: int | None) -> None:
            self._settings.replay(meta)
            self.note_setting(number)

        return self.journaled({**meta, "c": self.name}, parts, apply).number or None

    def forget_settings(self) -> None:
        """Take all settings from the base; its rules may still need a model that was given."""
        self._settings = Settings(validator=self._settings.validator)

    def note_setting(self, number: int | None) -> None:
        """Note a change of no document; the next checkpoint saves it."""
        if self.needs is None:
            self.needs = number
        self.stale = True

    def note_record(self, position: JournalPosition) -> None:
        """Note a journal record of the collection as a whole, which the next base contains."""
        with self.lock:
            if position.run != self.position.run or position.number > self.position.number:
                self.position = position

    def rename(self, name: str, position: JournalPosition) -> None:
        """Rename the collection; the next checkpoint moves its files."""
        self.name = name
        self.note_setting(position.number)
        self.note_record(position)

    # --- changes ------------------------------------------------------------------------------

    def write_few(
        self, versions: Mapping[str, bytes | None], superseded: list[int], added: int
    ) -> int | None:
        """Put and delete documents; the caller holds the lock.

        Parameters
        ----------
        versions : mapping of str to bytes or None
            New bytes by id; None deletes.
        superseded : list of int
            Rows of the base with the former documents.
        added : int
            Change of the number of documents.

        Returns
        -------
        int or None
            Sequence number of the change.
        """
        puts = [codec.pack(key) + raw for key, raw in versions.items() if raw is not None]
        deleted = [key for key, raw in versions.items() if raw is None]
        next_id = self.id_sequence().next_id
        meta = {"op": "write", "n": next_id, "k": [len(puts)], "d": deleted}
        if puts and added <= 0:  # A verb that puts few documents inserts all or replaces all.
            meta["u"] = True
        claims = self.claim(versions)
        plan = self.overlay.plan_change(versions, superseded)
        return self.commit(meta, [b"".join(puts)], plan, added, claims)

    def commit(
        self,
        meta: dict[str, Any],
        parts: Sequence[bytes],
        plan: PlannedChange,
        added: int,
        claims: Claims | None,
    ) -> int | None:
        """Journal a change of documents and apply it: both or, on an error, neither.

        The caller holds the lock.

        Parameters
        ----------
        meta, parts : dict, sequence of bytes
            The record.
        plan : callable
            Applies the change to the overlay.
        added : int
            Change of the number of documents.
        claims : Claims or None
            Values of unique indexes that the documents get.

        Returns
        -------
        int or None
            Sequence number of the change.
        """
        described = {**meta, "c": self.name}
        apply = planned_change(self, plan, added, claims)
        return self.journaled(described, parts, apply).number or None

    def journaled(
        self, meta: dict[str, Any], parts: Sequence[bytes], apply: PlannedChange
    ) -> Receipt:
        """Journal a change and apply it: both or, on an error, neither.

        The caller holds the lock. An interrupt between the two completes the change. Therefore a
        second call of `apply` changes nothing. The number of the receipt is 0 without a record.
        """
        receipt, journal = Receipt(), self.context.directory.journal
        try:
            if self.context.options.durability == "checkpoint":
                receipt.number = 0  # from here on the change happened
            else:
                self.position = journal.position(journal.append(self, meta, parts, receipt))
            apply(receipt.number or None)
        except BaseException:
            if receipt.number is not None:
                if receipt.number:
                    self.position = journal.position(receipt.number)
                apply(receipt.number or None)
            raise
        return receipt

    def account(self) -> None:
        """Count the bytes of the overlay, and of its unique values."""
        self.changed_bytes = self.overlay.size + self._settings.unique_bytes(self.overlay)
        self.context.memory.set_changes(self, self.changed_bytes)

    def recount(self) -> None:
        """Count the bytes of the overlay again, after searches built keys of its documents."""
        with self.lock:
            if not self.is_dropped:
                self.account()

    def restate(self, base: Base) -> None:
        """Replace the base by one with other documents; the caller holds the lock."""
        assert self.count is not None
        count = self.count + base.live - self.base.live
        changes, now = self.changes + 1, time.time()
        # One statement: no interrupt comes between.
        self.base, self.count, self.changes, self.last_modified = base, count, changes, now

    # --- recovery -----------------------------------------------------------------------------

    def replay(self, record: Record) -> None:
        """Note a journal record; the first use applies it."""
        self._pending.records.append(record)
        self.position = record.position

    def note_file(self) -> JournalPosition:
        """Return the position of the base, and remember it.

        A writer that saves the collection later puts all changes of the journal into the file.
        """
        position = self.base.hint.position
        if self.attached:
            return _NO_POSITION  # the copy stays open: a save removes it
        self._pending.noted = position
        self.base.close_if_idle()
        return position

    def prepare(self) -> None:
        """Count the documents and apply the records of the journal, before the first use."""
        pending = self._pending
        if self.count is not None and not pending.records:
            return
        base, overlay, sequence, count = self.base, self.overlay, self.sequence, self.count
        directory = self.context.directory
        if count is None:
            count = base.live
            directory.check_place()
        records = pending.missing_from(self.stored_position, directory.holds)
        if records:
            overlay, sequence = Overlay(), None
            first_new = next_id_of(base, directory) if pending.have_ranges(records) else 0
            for record in records:
                with sensible(record):
                    if not pending.apply(record, overlay, first_new):
                        self._settings.replay(record.meta)
                        self.note_setting(record.number)
            overlay.rebase(base)
            snapshot = Snapshot(base, overlay, count, self.position_of(base))
            changed = sum(len(run) for run in snapshot.overlay_runs())
            count = base.count - len(snapshot.superseded_rows()) + changed
        elif pending.records and not directory.read_only:
            directory.journal.release(self, self.needs)
        # One statement: no interrupt comes between.
        self.overlay, self.sequence, self.count, pending.records = overlay, sequence, count, []
        self.account()

    # --- end ----------------------------------------------------------------------------------

    def drop(self) -> None:
        """Make handles raise: the collection was dropped."""
        self.is_dropped = True
        self.changed_bytes = 0
        self.context.memory.set_changes(self, 0)
        self.base.forget()

    def take_over(self, found: CollectionStore | None) -> bool:
        """Replace the state by the state that another process saved.

        Parameters
        ----------
        found : CollectionStore or None
            The current state; None if the collection does not exist any longer.

        Returns
        -------
        bool
            Whether the state differs from the state before.
        """
        if found is None:
            self.drop()
            return True
        with self.lock:
            before = self.base
            if found.base.has_same_files(before):
                return False
            self.base, self._pending = found.base, found._pending
            self.position, self.attached = found.position, found.attached
            self._settings = found._settings
            self.needs, self.stale, self.read_end = found.needs, found.stale, found.read_end
            self.overlay, self.count, self.sequence = Overlay(), None, None
            self.account()
        before.forget()
        return True

    def set_sealed(self, is_sealed: bool) -> None:
        """Refuse changes since the engine closes, or accept them again."""
        with self.lock:
            self.is_sealed = is_sealed


def planned_change(
    store: CollectionStore, plan: PlannedChange, added: int, claims: Claims | None
) -> PlannedChange:
    """Plan a change with what counts the documents; the caller holds the lock."""
    assert store.count is not None
    count, changes, now = store.count + added, store.changes + 1, time.time()

    def apply(number: int | None) -> None:
        plan(number)
        if claims is not None:
            claims.note()
        store.count, store.changes, store.last_modified = count, changes, now
        store._settings.columns = None if count else store._settings.columns
        store.account()

    return apply
