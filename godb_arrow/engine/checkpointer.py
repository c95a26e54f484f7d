"""Checkpoints of one collection: unsaved changes become its next base."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from godb_arrow.directory.records import NO_VERSION, UNLISTED
from godb_arrow.directory.snapshot_writer import place_for, save_snapshot
from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import EngineClosed, GodbError, StorageError, error_context
from godb_arrow.options import CompressionName
from godb_arrow.query.statistics import Row
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.manifest import Manifest
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.storage.object_store import is_url

__all__ = ["Checkpointer"]


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Saving:
    """A checkpoint under way, with the state to restore if it fails."""

    snapshot: Snapshot
    target: str
    name: str
    next_id: int
    indexes: tuple[str, ...]
    rules: bytes
    compression: CompressionName
    changes: int
    needs: int | None
    stale: bool
    form: str | None


class Checkpointer:
    """Writes the files of a collection, one writer at a time.

    Parameters
    ----------
    store : CollectionStore
        State of the collection.
    """

    def __init__(self, store: CollectionStore) -> None:
        self._store = store
        self._context = store.context
        self._storing = threading.Lock()  # one writer of files at a time
        self._saving: _Saving | None = None
        self._is_ended = False

    @property
    def needs_saving(self) -> bool:
        """Whether changes are in no file, or are being saved by another thread."""
        # A checkpoint takes the changes from the store, and returns them if it fails.
        store = self._store
        return store.is_dirty or self._storing.locked() or store.is_dirty

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Exclude other writers of files of the collection.

        Raises
        ------
        EngineClosed
            The engine was closed before.
        ForkedProcess
            The engine belongs to the parent process.
        """
        self._context.lifecycle.check_process()
        with self._storing:
            if self._is_ended:
                raise EngineClosed("the engine was closed", advice="open another engine")
            yield

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Allow no change and no checkpoint while the context lasts."""
        with self.storing(), self._store.lock:
            self._store.check_present()
            yield

    def end(self) -> None:
        """Write no file any longer, after the current writer: the engine is closed."""
        with self._storing, self._store.lock:
            self._store.is_sealed = self._is_ended = True
            self._store.base.forget()

    def checkpoint(self) -> bool:
        """Write the changes to files, if there are any.

        Readers and writers continue.

        Returns
        -------
        bool
            Whether a file was written.

        Raises
        ------
        StorageError
            The disk refused. File, changes and journal are unchanged, unless ``applied`` is
            "unknown". Then the file has the changes, and a power cut may still bring back the file
            before, for which the journal keeps them.
        """
        self._context.lifecycle.check_process()
        if not self._store.is_dirty:
            return False
        with self.storing(), error_context("save", collection=self._store.name):
            return self.checkpoint_now()

    def checkpoint_now(self) -> bool:
        """Write the changes to files, if there are any; the caller is storing."""
        store, journal = self._store, self._context.directory.journal
        stored: Base | None = None
        try:
            with store.lock:
                if store.is_dropped or not store.is_dirty:
                    return False
                store.prepare()
                if not store.is_dirty:  # the file had all changes of the journal
                    return False
                saving = self._begin()
            stored = self._write(saving)
            with store.lock:
                self._adopt(stored)
        except BaseException as error:
            self._fail(stored, error)
            raise
        saving.snapshot.base.forget(stored)
        changes = saving.changes
        del saving
        # The journal must know of the former name as long as that file exists.
        self.remove_former()
        with store.lock:
            needed = [number for number in (store.overlay.first, store.needs) if number is not None]
            journal.release(store, min(needed, default=None))
        logger.info("saved %r: %d documents, %d changes", store.name, stored.live, changes)
        self.sweep()
        return True

    def remove_former(self) -> None:
        """Remove the files under other names; nothing needs them any longer."""
        former = self._store.former
        for path in former[:]:
            self._context.directory.remove(path)
            former.remove(path)

    def _begin(self) -> _Saving:
        """Take the changes for a checkpoint; later changes wait for the next one."""
        store, directory = self._store, self._context.directory
        # These may read the file, and fail.
        next_id = store.id_sequence().next_id
        indexes, rules, compression = store.indexes(), store.rules(), store.compression()
        snapshot = store.freeze()
        part_size, versions = self._context.options.part_size, self._context.options.versions
        target = place_for(
            directory, store.name, snapshot, part_size, store.form, versions=versions
        )
        if target != store.base.path and target not in store.former:
            store.former.append(target)  # the next checkpoint removes it if this one fails
        saving = _Saving(
            snapshot,
            target,
            store.name,
            next_id,
            indexes,
            rules,
            compression,
            store.changes,
            store.needs,
            store.stale,
            store.form,
        )
        store.overlay.pin()
        # One statement: no interrupt comes between.
        self._saving, store.needs, store.stale, store.form = saving, None, False, None
        return saving

    def _write(self, saving: _Saving) -> Base:
        if self._store.shared:
            self._context.directory.journal.sync_shared(self._store.shared)
        has_unlisted = self._context.options.durability == "checkpoint" and saving.snapshot.changes
        stored = save_snapshot(
            self._context.directory,
            saving.target,
            saving.name,
            saving.snapshot,
            saving.next_id,
            saving.indexes,
            saving.rules,
            saving.compression,
            self._context.options.part_size,
            _announcer(self._store, saving.snapshot.base) if has_unlisted else None,
        )
        if self._store.overlay.has_ids_to_find:
            stored.prepare_ids()  # otherwise writers would wait for them
        if not self._store.is_sealed:
            with suppress(GodbError):  # the next change raises it
                constraints = self._store.constraints()
                if constraints is not None:
                    constraints.prepare(stored)  # for the same reason
        return stored

    def _fail(self, stored: Base | None, error: BaseException) -> None:
        """Continue with the file that exists after an error, and with all changes."""
        store = self._store
        with store.lock:
            saving, self._saving = self._saving, None
            if saving is None:
                return
            if store.needs is None or (saving.needs or store.needs) < store.needs:
                store.needs = saving.needs
            store.stale = store.stale or saving.stale
            store.form = store.form or saving.form
            if store.base is saving.snapshot.base:
                if stored is None:
                    stored = self._replaced_file(saving)
                if stored is None:
                    store.overlay.unpin()
                    return
                self._adopt(stored)
            # The file was replaced. Until a save succeeds, the former file may come back.
            first = self._context.directory.journal.needed(store)
            store.stale = True
            store.needs = first if store.needs is None else store.needs
            if isinstance(error, GodbError):
                error.applied = "unknown"

    def _replaced_file(self, saving: _Saving) -> Base | None:
        """Return the file that a failed checkpoint wrote; None if it replaced no file.

        On an object store the file may come from another writer, which the next save detects.
        """
        if is_url(saving.target):
            return None
        try:
            found = self._context.directory.base(saving.target)
            hint, before = found.hint, saving.snapshot.base
            is_new = saving.target != before.path or hint.fingerprint != before.hint.fingerprint
            same = (found.live, hint.position) == (saving.snapshot.count, saving.snapshot.position)
            return found if is_new and same else None
        except GodbError:
            return None

    def _adopt(self, stored: Base) -> None:
        """Make a new file the base, and drop the changes that it contains."""
        store = self._store
        before = store.base.path
        former = [path for path in (*store.former, before) if path not in (None, stored.path)]
        overlay = store.overlay.after_checkpoint(stored)
        state = stored, overlay, former, None, False
        # One statement: no interrupt comes between.
        store.base, store.overlay, store.former, self._saving, store.attached = state
        store.account()

    def commit_manifest(
        self,
        before: PartedBase,
        wanted: tuple[Manifest, Sequence[Row | None]],
        *,
        has_changes: bool = True,
    ) -> None:
        """Make a manifest the state of the collection, on disk and here; or, on an error, not.

        The caller is storing and holds the lock.

        Parameters
        ----------
        before : PartedBase
            The current base.
        wanted : tuple
            The manifest, and the statistics of its parts.
        has_changes : bool
            Whether documents change, so that readers of changes must compare the versions.

        Raises
        ------
        GodbError
            ``applied`` is "unknown" if the manifest replaced the former one.
        """
        store, folder = self._store, before.folder
        announce = _announcer(store, before) if has_changes else None
        try:
            store.restate(PartedBase(folder, folder.commit(*wanted, announce)))
        except BaseException as error:
            if store.base is before:
                with suppress(GodbError):
                    current = folder.current()
                    if current.has_same_parts(wanted[0]):
                        store.restate(PartedBase(folder, current))
            if store.base is not before and isinstance(error, GodbError):
                error.applied = "unknown"
            raise

    def sweep(self) -> None:
        """Remove files that no version and no reader needs."""
        base, options = self._store.base, self._context.options
        if isinstance(base, PartedBase):
            try:
                base.folder.sweep(options.keep_versions, options.part_grace)
            except StorageError:
                logger.warning(
                    "unused files of %r cannot be removed yet", self._store.name, exc_info=True
                )


def _announcer(store: CollectionStore, before: Base) -> Callable[[Manifest | None], None]:
    """Return a function that journals a version whose changes the journal does not list.

    The record precedes the version, so that no change is missed. Recovery does not need it. It
    names both versions by their times, since a later collection may have the same name and numbers.
    """
    directory, key = store.context.directory, object()

    def announce(manifest: Manifest | None) -> None:
        if not directory.keeps_journal or directory.journal.is_broken:
            return
        meta = {"op": UNLISTED, "c": store.name, "v": 0, "from": None}
        if manifest is not None:
            meta |= {"v": manifest.version, "at": manifest.created}
        if isinstance(before, PartedBase):
            meta["from"] = before.manifest.created
        elif not before.live:
            meta["from"] = NO_VERSION
        directory.journal.append(key, meta)
        directory.journal.release(key, None)

    return announce
