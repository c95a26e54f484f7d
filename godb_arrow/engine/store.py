"""What is under a collection's verbs: its file, its changes, the journal, and checkpoints."""

from __future__ import annotations

import html
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.compression import check_compression
from godb_arrow.directory.journal import Receipt
from godb_arrow.directory.segments import Record, sensible
from godb_arrow.directory.snapshot_writer import place_for, save_snapshot
from godb_arrow.documents.encoding import Encoded
from godb_arrow.documents.ids import IdSequence, number_of, repeated_ids
from godb_arrow.engine.info import CollectionInfo, CollectionState, moment
from godb_arrow.engine.services import Services
from godb_arrow.errors import (
    CollectionNotFound,
    DuplicateId,
    EngineClosed,
    GodbError,
    SourceNotFound,
    StorageError,
    error_context,
)
from godb_arrow.file.hints import JournalPosition
from godb_arrow.options import CompressionName
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.overlay import (
    Overlay,
    PlannedChange,
    Version,
    bulk_weight,
    weight,
)
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot, scan
from godb_arrow.storage.object_store import is_url

__all__ = ["CollectionStore"]


logger = logging.getLogger(__name__)

_NO_POSITION = JournalPosition()
_MOST_CLAIMED_ID = 1 << 56  # no engine gave so many ids
_DOCUMENTS_KEPT_SINGLY = 64
_TRIES = 20  # to read files that another process replaces all the time

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class _Saving:
    """What a checkpoint writes, and what it must leave behind if it fails."""

    snapshot: Snapshot
    target: str
    name: str
    next_id: int
    indexes: tuple[str, ...]
    compression: CompressionName
    changes: int
    needs: int | None
    stale: bool
    form: str | None


class CollectionStore:
    """Documents that change, over a file that does not.

    Parameters
    ----------
    services : Services
        What the engine's collections share.
    name : str
        The collection's name.
    base : Base
        Its file.
    indexes : tuple of str, optional
        The fields that have an index; the file says it, if left out.
    compression : str, optional
        How its files are compressed; the file says it, if left out.
    position : JournalPosition
        The journal's last record of this collection.
    stale : bool
        Whether the file must be written though no document changed.
    attached : bool
        Whether the file was taken in: its sequence number belongs to another journal.
    """

    def __init__(
        self,
        services: Services,
        name: str,
        base: Base,
        *,
        indexes: tuple[str, ...] | None = None,
        compression: CompressionName | None = None,
        position: JournalPosition = _NO_POSITION,
        stale: bool = False,
        attached: bool = False,
    ) -> None:
        self._services = services
        self._name = name
        self._base = base
        self._overlay = Overlay()
        self._lock = threading.RLock()  # guards all that follows
        self._storing = threading.Lock()  # one checkpoint at a time
        self._count: int | None = None
        self._sequence: IdSequence | None = None
        self._greatest_given = 0  # of the ids that callers chose
        self._indexes = indexes
        self._compression = compression
        self._position = position  # the journal's last record of this collection
        self._attached = attached
        self._least_next_id = 1  # by what the journal had
        self._needs: int | None = None  # the oldest one beside the overlay's, such as a rename
        self._former: list[str] = []  # files under other names, to be removed
        self._stale = stale  # whether the file must be written though no document changed
        self._form: str | None = None  # what it shall be then, however large: a file or a folder
        self._changes = 0
        self._replayed: list[Record] = []
        self._noted: JournalPosition | None = None  # of the file when the journal was read
        self._taken = 0
        self._saving: _Saving | None = None  # what a checkpoint is writing
        self._dropped = False
        self._sealed = False  # the engine is being closed: nothing changes any more
        self._ended = False  # and nothing is written any more
        self._last_modified: float | None = None
        self._last_accessed: float | None = None
        self._accesses = 0

    # --- what it is ---------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._name

    @property
    def state(self) -> CollectionState:
        """Where its documents are."""
        if self.is_dirty:
            return CollectionState.DIRTY
        if self._base.is_loading:
            return CollectionState.LOADING
        return CollectionState.LOADED if self._base.is_loaded else CollectionState.UNLOADED

    @property
    def is_dirty(self) -> bool:
        """Whether it changed since its file was written."""
        return bool(self._stale or self._replayed or self._former or len(self._overlay))

    @property
    def needs_saving(self) -> bool:
        """Whether it changed since its file was written, or is being saved by another thread."""
        # The other thread takes the changes over, and gives them back if it fails.
        return self.is_dirty or self._storing.locked() or self.is_dirty

    @property
    def is_refused(self) -> bool:
        """Whether its file is outside of the data directory, and must not be opened."""
        return self._base.is_refused

    @property
    def dirty_documents(self) -> int:
        """How many documents changed since the file was written."""
        return len(self._overlay)

    @property
    def changed_bytes(self) -> int:
        """Bytes of memory that its changes take."""
        return self._taken

    @property
    def next_id(self) -> int:
        """The number that the next generated document id gets."""
        return self._current(lambda: self._ids().next_id)

    @property
    def indexes(self) -> tuple[str, ...]:
        """The fields that have an index."""
        self._services.check_process()
        return self._current(self._find_indexes)

    def _find_indexes(self) -> tuple[str, ...]:
        with self._lock:
            self._check_not_dropped()
            self._prepare()
            if self._indexes is None:
                self._indexes = self._base.hint.indexes
            return self._indexes

    @property
    def compression(self) -> CompressionName:
        """How its files are compressed when they are written the next time."""
        self._services.check_process()
        return self._current(self._find_compression)

    def _find_compression(self) -> CompressionName:
        with self._lock:
            self._check_not_dropped()
            self._prepare()
            if self._compression is None:
                self._compression = self._base.hint.compression
            return self._compression

    def info(self) -> CollectionInfo:
        """What is known without reading the documents."""
        return self._current(self._find_info)

    def _find_info(self) -> CollectionInfo:
        documents = len(self)
        with self.held_base() as base:
            return CollectionInfo(
                name=self._name,
                state=self.state,
                documents=documents,
                disk_bytes=base.file_size,
                memory_bytes=base.held_bytes() + self._taken,
                last_modified=moment(self._last_modified or base.modified),
                last_accessed=moment(self._last_accessed),
                access_count=self._accesses,
            )

    def __len__(self) -> int:
        self._services.check_open()
        return self._current(self._find_count)

    def _find_count(self) -> int:
        with self._lock:
            self._check_there()
            self._prepare()
            assert self._count is not None
            return self._count

    def __repr__(self) -> str:
        if self._dropped:
            return f"<Collection {self._name!r}, dropped>"
        return f"<Collection {self._name!r}, {self.state.value}>"

    def _repr_html_(self) -> str:
        if self._dropped:
            return f"<pre>{html.escape(repr(self))}</pre>"
        return self.info()._repr_html_()

    def snapshot(self) -> Snapshot:
        """The collection as it is now, whatever happens to it later."""
        with self._reading():
            return self._current(self._take_snapshot)

    def _take_snapshot(self) -> Snapshot:
        with self._lock:
            self._check_there()
            self._prepare()
            return self._snapshot()

    def _snapshot(self) -> Snapshot:
        assert self._count is not None
        return Snapshot(self._base, self._overlay, self._count, self._position_of(self._base))

    def _position_of(self, base: Base) -> JournalPosition:
        """Return the journal's last record that a base and all changes to it have."""
        return self._position if self._position.number else base.hint.position

    def _reading(self) -> error_context:
        self._services.check_open()
        self._note_access()
        return error_context("read", collection=self._name)

    def _find(self, identity: str) -> bytes | None:
        """The bytes of a document."""
        return self._current(lambda: self._find_document(identity))

    def _find_document(self, identity: str) -> bytes | None:
        with self._lock:
            self._check_there()
            self._prepare()
            version = self._overlay.find(identity)
            if version is not False:
                return None if version is None else self._overlay.document(version)
            base = self._base
            pin = base.pin()  # noqa: F841 (it works by being there)
        return base.find(identity)

    def _current(self, read: Callable[[], _Found]) -> _Found:
        """Read; again from the current files, where another process removed those known here.

        The caller does not hold the lock, unless this engine is the one that writes.
        """
        for _ in range(_TRIES):
            base = self._base
            try:
                return read()
            except SourceNotFound:
                if not self._services.look_again(self, base):
                    raise
                self._check_there()
        return read()

    def _has(self, identity: str, given: bool) -> bool:
        """Whether there is a document with an id that a caller chose, or that was generated."""
        number = number_of(identity)
        if given and number is not None:
            self._greatest_given = max(self._greatest_given, number)
        version = self._overlay.find(identity)
        if version is not False:
            return version is not None
        # Nobody has a generated id, but for who chose that very number meanwhile.
        chosen = given or (number is not None and number <= self._greatest_given)
        return chosen and self._base.has(identity)

    def _next_id(self) -> int:
        return self._sequence_of_ids().next_id

    def _ids(self) -> IdSequence:
        """Return the sequence of ids that no document had."""
        self._services.check_process()
        with self._lock:
            self._check_there()
            return self._sequence_of_ids()

    def _sequence_of_ids(self) -> IdSequence:
        with self._lock:
            self._prepare()
            if self._sequence is None:
                self._sequence = IdSequence(max(self._next_id_of_base(), self._least_next_id))
            return self._sequence

    def _next_id_of_base(self) -> int:
        """Return the next generated id by the file alone.

        What another program recorded is checked: an id must not be given twice.
        """
        hint = self._base.hint
        if hint.next_id is not None and self._services.directory.wrote(hint):
            return hint.next_id
        least = self._base.greatest_id() + 1
        claimed = hint.next_id or 1
        return claimed if least < claimed <= _MOST_CLAIMED_ID else least

    def _put(
        self, encoded: Encoded, ids: list[str], schema: pa.Schema | None, *, replace: bool
    ) -> None:
        entries = encoded.entries()
        given = encoded.given
        if (
            not given
            and len(ids) > _DOCUMENTS_KEPT_SINGLY
            and int(ids[-1]) - int(ids[0]) == len(ids) - 1
        ):
            if self._put_range(int(ids[0]), entries, schema, encoded.chunk):
                return
            given = True
        if self._are_few(ids, schema):
            size = sum(weight(one, entries.document(index)) for index, one in enumerate(ids))
        else:
            size = bulk_weight(entries, ids)
        with self._services.reserved(size):
            number = self._put_reserved(encoded, entries, ids, schema, given, replace)
        self._sync(number)

    def _put_reserved(
        self,
        encoded: Encoded,
        entries: codec.Entries,
        ids: list[str],
        schema: pa.Schema | None,
        given: bool,
        replace: bool,
    ) -> int | None:
        """Put documents for which memory is reserved; the journal's record, if there is one."""
        positions = dict.fromkeys(ids)
        if len(positions) < len(ids) and not replace:
            raise DuplicateId(repeated_ids(ids)[:10])
        sequence = self._ids()
        greatest = codec.survey_ids(encoded.ids)[1]
        if given:
            sequence.see_greatest(greatest)
            with self.held_base() as base:
                base.prepare_ids()  # no other thread has to wait for it
        with self._lock:
            self._check_there()
            if given:
                self._greatest_given = max(self._greatest_given, greatest)
            # Nobody has a generated id, but for who chose that very number meanwhile.
            given = given or int(ids[0]) <= self._greatest_given
            changed = self._overlay.find_any(positions)
            shadows = self._base.rows_of(positions) if given else {}
            for identity in changed:
                shadows.pop(identity, None)
            there = {i for i, version in changed.items() if version is not None}
            there.update(shadows)
            if there and not replace:
                raise DuplicateId(
                    sorted(there)[:10], advice="replace them with upsert_many, or leave them out"
                )
            rows = [row for found in shadows.values() for row in found]
            repeated = sum(len(found) - 1 for found in shadows.values())
            return self._commit(
                self._bulk_meta(len(ids), schema),
                [encoded.chunk],
                _plan(self._overlay, entries, ids, schema, rows),
                len(positions) - len(there) - repeated,
            )

    def _put_range(
        self, first_id: int, entries: codec.Entries, schema: pa.Schema | None, chunk: bytes
    ) -> bool:
        """Put documents with generated ids; False if somebody may have chosen one meanwhile."""
        with self._services.reserved(bulk_weight(entries)), self._lock:
            self._check_there()
            if first_id <= self._greatest_given:
                return False
            meta = self._bulk_meta(len(entries), schema) | {"g": first_id}
            plan = self._overlay.plan_range(first_id, entries, schema)
            number = self._commit(meta, [chunk], plan, len(entries))
        self._sync(number)
        return True

    def _bulk_meta(self, count: int, schema: pa.Schema | None) -> dict[str, Any]:
        meta: dict[str, Any] = {"op": "write", "n": self._next_id(), "k": [count]}
        if schema is not None:
            meta["s"] = schema.serialize().to_pybytes()
        return meta

    @staticmethod
    def _are_few(ids: list[str], schema: pa.Schema | None) -> bool:
        """Whether the overlay keeps documents one by one, and not as entries."""
        return len(ids) <= _DOCUMENTS_KEPT_SINGLY and schema is None

    def _state_of(self, ids: Iterable[str]) -> tuple[Base, dict[str, Version]]:
        """What some documents are stored as: equal to the state before if no change came between.

        The caller holds the lock.
        """
        return self._base, self._overlay.find_any(dict.fromkeys(ids))

    def _present(self, ids: Iterable[str]) -> tuple[dict[str, bytes], list[int], int]:
        """The bytes of those documents that are there, and the rows and number of the base's."""
        wanted = dict.fromkeys(ids)
        changed: dict[str, Version] = self._overlay.find_any(wanted)
        found = {
            key: self._overlay.document(version)
            for key, version in changed.items()
            if version is not None
        }
        stored = self._base.find_all([key for key in wanted if key not in changed])
        found.update((key, raw) for key, (_, raw) in stored.items())
        return found, [row for rows, _ in stored.values() for row in rows], len(stored)

    def _write_few(
        self, versions: Mapping[str, bytes | None], shadows: list[int], added: int
    ) -> int | None:
        """Put and delete documents in place of some rows; there are so many more afterwards."""
        puts = [codec.pack(key) + raw for key, raw in versions.items() if raw is not None]
        deleted = [key for key, raw in versions.items() if raw is None]
        meta = {"op": "write", "n": self._next_id(), "k": [len(puts)], "d": deleted}
        plan = self._overlay.plan_change(versions, shadows)
        return self._commit(meta, [b"".join(puts)], plan, added)

    def _set_indexes(self, fields: tuple[str, ...]) -> None:
        def apply(number: int | None) -> None:
            self._indexes = fields
            self._note_setting(number)

        self._sync(self._journaled({"op": "index", "i": list(fields)}, [], apply))

    def set_compression(self, compression: CompressionName) -> None:
        """Choose how its files are compressed from now on.

        The file of a small collection is written anew with the next save. Of a collection that
        has several files, those that are there stay as they are until they are joined.

        Parameters
        ----------
        compression : {"lz4", "lz4hc", "zstd", "none"}
            As of :func:`~godb_arrow.write_godb`.

        Raises
        ------
        InvalidOption

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
        ...     users = engine.create_collection("users")
        ...     users.set_compression("zstd")
        ...     users.compression
        'zstd'
        """
        with self._writing("set the compression"), self._lock:
            self._check_there()
            check_compression(compression)
            if compression != self.compression:

                def apply(number: int | None) -> None:
                    self._compression = compression
                    self._note_setting(number)

                number = self._journaled({"op": "compression", "z": compression}, [], apply)
                self._sync(number)

    def _note_setting(self, number: int | None) -> None:
        """Note a change that is none of documents; the next save writes it."""
        self._note_need(number)
        self._stale = True

    # --- under the verbs ----------------------------------------------------------------------

    def _writing(self, operation: str) -> error_context:
        self._services.check_writable()
        self._note_access()
        return error_context(operation, collection=self._name)

    def _note_access(self) -> None:
        with self._lock:
            self._accesses += 1
            self._last_accessed = time.time()

    def _check_there(self) -> None:
        self._check_not_dropped()
        if self._sealed:
            raise EngineClosed("the engine was closed", advice="open another one")

    def _check_not_dropped(self) -> None:
        if self._dropped:
            if self._services.directory.read_only:
                raise CollectionNotFound(
                    f"another process dropped or renamed the collection {self._name!r}",
                    advice="see collections() for the names",
                )
            raise CollectionNotFound(
                f"the collection {self._name!r} was dropped", advice="create it again"
            )

    def _commit(
        self,
        meta: dict[str, Any],
        parts: Sequence[bytes],
        plan: PlannedChange,
        added: int,
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
            Number of documents that the collection has more afterwards.
        """
        assert self._count is not None
        count, changes, now = self._count + added, self._changes + 1, time.time()

        def apply(number: int | None) -> None:
            plan(number)
            self._count, self._changes, self._last_modified = count, changes, now
            self._account()

        return self._journaled(meta, parts, apply)

    def _journaled(
        self, meta: dict[str, Any], parts: Sequence[bytes], apply: PlannedChange
    ) -> int | None:
        """Journal a change and apply it: both or, on an error, neither; the caller holds the lock.

        An interrupt between the two completes the change, which `apply` allows for: applied a
        second time, it changes nothing.
        """
        receipt, journal = Receipt(), self._services.directory.journal
        try:
            if self._services.options.durability == "checkpoint":
                receipt.number = 0  # from here on the change happened
            else:
                journal.append(self, {**meta, "c": self._name}, parts, receipt)
                self._position = journal.position(cast(int, receipt.number))
            apply(receipt.number or None)
        except BaseException:
            if receipt.number is not None:
                if receipt.number:
                    self._position = journal.position(receipt.number)
                apply(receipt.number or None)
            raise
        return receipt.number or None

    def _sync(self, number: int | None) -> None:
        if number is None:
            return
        if self._services.options.durability == "commit":
            self._services.directory.journal.sync(number)
        self._services.acknowledge(number)

    def _account(self) -> None:
        self._taken = self._overlay.size
        self._services.memory.set_changes(self, self._taken)

    def _note_need(self, number: int | None) -> None:
        if self._needs is None:
            self._needs = number

    # --- recovery -----------------------------------------------------------------------------

    def replay(self, record: Record) -> None:
        """Take a change from the journal; it counts from the first use on."""
        self._replayed.append(record)
        self._position = record.position

    @property
    def stored_position(self) -> JournalPosition:
        """The last record of the journal that the file holds."""
        return _NO_POSITION if self._attached else self._base.hint.position

    def note_file(self) -> JournalPosition:
        """Return the position of the file, and remember it.

        A writer that saves the collection later puts all changes of the journal into the file.
        """
        position = self._base.hint.position
        if self._attached:
            return _NO_POSITION  # the copy stays open: a save removes it
        self._noted = position
        self._base.close_if_idle()
        return position

    def holds(self, record: Record) -> bool:
        """Return whether the file holds a record of the journal."""
        return self._services.directory.holds(self.stored_position, record)

    def _prepare(self) -> None:
        """Before the first use: count, and apply what the journal had."""
        if self._count is not None and not self._replayed:
            return
        base, overlay, sequence = self._base, self._overlay, self._sequence
        count = self._count
        if count is None:
            count = base.live
            self._services.directory.check_place()
        stored, directory = self.stored_position, self._services.directory
        records = [record for record in self._replayed if not directory.holds(stored, record)]
        if self._noted not in (None, stored):
            records = []
        if records:
            overlay, sequence = Overlay(), None
            has_ranges = any("g" in record.meta for record in records)
            least_new = self._next_id_of_base() if has_ranges else 0
            for record in records:
                with sensible(record):
                    self._replay_one(record, overlay, least_new)
            overlay.rebase(base)
            snapshot = Snapshot(base, overlay, count, self._position_of(base))
            changed = sum(len(run) for run in snapshot.overlay_runs())
            count = base.count - len(snapshot.dead_rows()) + changed
        elif self._replayed and not directory.read_only:
            directory.journal.release(self, self._needs)
        # One statement: no interrupt comes between.
        self._overlay, self._sequence, self._count, self._replayed = overlay, sequence, count, []
        self._account()

    def _replay_one(self, record: Record, overlay: Overlay, least_new: int) -> None:
        """Apply a record to an overlay; the file has no generated id from `least_new` on."""
        meta = record.meta
        if meta["op"] == "index":
            self._indexes = tuple(meta["i"])
        elif meta["op"] == "compression":
            self._compression = check_compression(meta["z"]).name
        if meta["op"] != "write":
            self._note_setting(record.number)
            return
        self._least_next_id = max(self._least_next_id, meta["n"])
        schema = None
        if "s" in meta:
            schema = pa.ipc.read_schema(pa.py_buffer(meta["s"]))
        for count, part in zip(meta["k"], record.parts, strict=True):
            if not count:
                continue
            entries = scan(part, count)
            if "g" in meta and meta["g"] >= least_new:  # the file has none of them
                plan = overlay.plan_range(meta["g"], entries, schema)
            else:
                plan = _plan(overlay, entries, list(entries.ids()), schema, [])
            plan(record.number)
        if meta.get("d"):
            overlay.plan_change(dict.fromkeys(meta["d"]), [])(record.number)

    # --- saving -------------------------------------------------------------------------------

    def checkpoint(self) -> bool:
        """Write the file, if anything changed; returns whether it was written.

        Writers and readers go on meanwhile.

        Raises
        ------
        StorageError
            The disk refused. The file, the changes and the journal are as they were, unless
            ``applied`` is "unknown": then the file has the changes, and a power cut may still
            bring back the one before, for which the journal keeps them.
        """
        self._services.check_process()
        if not self.is_dirty:
            return False
        with self.storing(), error_context("save", collection=self._name):
            return self._checkpoint()

    def _checkpoint(self) -> bool:
        """Write the file, if anything changed. The caller is storing."""
        stored: Base | None = None
        try:
            with self._lock:
                if self._dropped or not self.is_dirty:
                    return False
                self._prepare()
                if not self.is_dirty:  # the file had all that the journal had
                    return False
                saving = self._begin_saving()
            stored = self._write(saving)
            with self._lock:
                self._adopt(stored)
        except BaseException as error:
            self._saving_failed(stored, error)
            raise
        saving.snapshot.base.forget(stored)
        taken = saving.changes
        del saving
        # The journal must know of the earlier name as long as that file is there.
        for path in self._former[:]:
            self._services.directory.remove(path)
            self._former.remove(path)
        with self._lock:
            needed = [one for one in (self._overlay.first, self._needs) if one is not None]
            self._services.directory.journal.release(self, min(needed, default=None))
        logger.info("saved %r: %d documents, %d changes", self._name, stored.live, taken)
        self._sweep()
        return True

    def _begin_saving(self) -> _Saving:
        """Note what a checkpoint saves; later changes are for the next one."""
        options, directory = self._services.options, self._services.directory
        # These may read the file, and fail.
        next_id, indexes, compression = self._next_id(), self.indexes, self.compression
        snapshot = self._snapshot()
        target = place_for(directory, self._name, snapshot, options.part_size, self._form)
        if target != self._base.path and target not in self._former:
            self._former.append(target)  # should it not become ours, it must not stay
        saving = _Saving(
            snapshot, target, self._name, next_id, indexes, compression,
            self._changes, self._needs, self._stale, self._form,
        )  # fmt: skip
        self._overlay.pin()
        # One statement: no interrupt comes between.
        self._saving, self._needs, self._stale, self._form = saving, None, False, None
        return saving

    def _write(self, saving: _Saving) -> Base:
        options, directory = self._services.options, self._services.directory
        stored = save_snapshot(
            directory, saving.target, saving.name, saving.snapshot, saving.next_id,
            saving.indexes, saving.compression, options.part_size,
        )  # fmt: skip
        if self._overlay.has_ids_to_find:
            stored.prepare_ids()  # they are needed to adopt it, while writers wait
        return stored

    def _saving_failed(self, stored: Base | None, error: BaseException) -> None:
        """After an error go on with the file that is there, with all changes in the journal."""
        with self._lock:
            saving, self._saving = self._saving, None
            if saving is None:
                return
            if self._needs is None or (saving.needs or self._needs) < self._needs:
                self._needs = saving.needs
            self._stale = self._stale or saving.stale
            self._form = self._form or saving.form
            if self._base is saving.snapshot.base:
                if stored is None:
                    stored = self._replaced_file(saving)
                if stored is None:
                    self._overlay.unpin()
                    return
                self._adopt(stored)
            # The file was replaced. Until a save succeeds, the one before may come back.
            first = self._services.directory.journal.needed(self)
            self._stale = True
            self._needs = first if self._needs is None else self._needs
            if isinstance(error, GodbError):
                error.applied = "unknown"

    def _replaced_file(self, saving: _Saving) -> Base | None:
        """Return the file that a failed checkpoint wrote; None if it did not replace the former.

        On an object store the file may be that of another writer: the next save finds out.
        """
        if is_url(saving.target):
            return None
        try:
            found = self._services.directory.base(saving.target)
            hint, before = found.hint, saving.snapshot.base
            is_new = saving.target != before.path or hint.fingerprint != before.hint.fingerprint
            same = (found.live, hint.position) == (saving.snapshot.count, saving.snapshot.position)
            return found if is_new and same else None
        except GodbError:
            return None

    def _sweep(self) -> None:
        """Remove files that no state and no reader needs; what cannot be removed stays for now."""
        base, options = self._base, self._services.options
        if isinstance(base, PartedBase):
            try:
                base.folder.sweep(options.keep_versions, options.part_grace)
            except StorageError:
                logger.warning("files of %r that nobody needs stay", self._name, exc_info=True)

    def _adopt(self, stored: Base) -> None:
        """Go on with a new file."""
        before = self._base.path
        former = [path for path in (*self._former, before) if path not in (None, stored.path)]
        overlay = self._overlay.after_checkpoint(stored)
        # One statement: no interrupt comes between.
        self._base, self._overlay, self._former, self._saving, self._attached = (
            stored, overlay, former, None, False,
        )  # fmt: skip
        self._account()

    def note_record(self, position: JournalPosition) -> None:
        """The journal has a record of it as a whole: what is saved from now on holds that."""
        with self._lock:
            if position.run != self._position.run or position.number > self._position.number:
                self._position = position

    def mark_dropped(self) -> None:
        """Make handles raise: the engine dropped the collection."""
        self._dropped = True
        self._taken = 0
        self._services.memory.set_changes(self, 0)
        self._base.forget()

    @property
    def was_read(self) -> bool:
        """Whether its file was read, and is still that of the collection."""
        return self._count is not None and not self._dropped

    def is_over(self, base: Base | None) -> bool:
        """Whether its documents are those of a base."""
        return self._base is base

    def take_over(self, found: CollectionStore | None) -> bool:
        """Go on with what was found in the directory, where this engine only reads.

        Parameters
        ----------
        found : CollectionStore or None
            The collection as it is now; None where there is none of its name.

        Returns
        -------
        bool
            Whether that is another state than the one here.
        """
        if found is None:
            self.mark_dropped()
            return True
        with self._lock:
            before = self._base
            if found._base.has_same_files(before):
                return False
            self._base, self._replayed = found._base, found._replayed
            self._position, self._attached = found._position, found._attached
            self._least_next_id, self._noted = found._least_next_id, found._noted
            self._indexes, self._compression = found._indexes, found._compression
            self._needs, self._stale = found._needs, found._stale
            self._overlay, self._count, self._sequence = Overlay(), None, None
            self._account()
        before.forget()
        return True

    def seal(self) -> None:
        """Refuse further changes: the engine is being closed."""
        with self._lock:
            self._sealed = True

    def unseal(self) -> None:
        """Accept changes again: the engine could not be closed."""
        with self._lock:
            self._sealed = False

    def end(self) -> None:
        """Refuse to write files, after what is being written: the engine is closed."""
        with self._storing, self._lock:
            self._sealed = self._ended = True
            self._base.forget()

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Be the only one who writes files of the collection.

        Raises
        ------
        EngineClosed
            The engine was closed before.
        ForkedProcess
            The engine belongs to the parent process.
        """
        self._services.check_process()
        with self._storing:
            if self._ended:
                raise EngineClosed("the engine was closed", advice="open another one")
            yield

    def mark_renamed(self, name: str, position: JournalPosition) -> None:
        """The engine renamed it: the file follows with the next checkpoint."""
        self._name = name
        self._stale = True
        self._note_need(position.number)
        self.note_record(position)

    @property
    def path(self) -> str | None:
        """The file that it is over."""
        return self._base.path

    @property
    def paths(self) -> list[str]:
        """That file, and those that it had under other names and that are still there."""
        return [path for path in (self._base.path, *self._former) if path is not None]

    @contextmanager
    def held_base(self) -> Iterator[Base]:
        """What was saved last; its files stay meanwhile."""
        self._services.check_process()
        with self._lock:
            self._check_there()
            base = self._base
            pin = base.pin()
        try:
            yield base
        finally:
            del pin

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Nobody changes or saves the collection meanwhile."""
        with self.storing(), self._lock:
            self._check_there()
            yield


def _plan(
    overlay: Overlay,
    entries: codec.Entries,
    ids: list[str],
    schema: pa.Schema | None,
    shadows: list[int],
) -> PlannedChange:
    """Plan to put documents: a few of them one by one, others as entries that stay together."""
    if len(ids) <= _DOCUMENTS_KEPT_SINGLY and schema is None:
        versions = {one: entries.document(index) for index, one in enumerate(ids)}
        return overlay.plan_change(versions, shadows)
    return overlay.plan_add(ids, entries, schema, shadows)
