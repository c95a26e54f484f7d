"""Saving: checkpoints of all collections, on demand, in the background and for memory."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

from godb_arrow.engine.catalog import Catalog
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.former_files import FormerFiles
from godb_arrow.engine.open_collection import OpenCollection
from godb_arrow.engine.workers import BackgroundFailure, Workers
from godb_arrow.errors import GodbError, MemoryLimitExceeded, StorageError
from godb_arrow.memory.limit import give_back

__all__ = ["MAX_JOURNAL_BYTES", "Reservation", "Saver"]


logger = logging.getLogger(__name__)

MAX_JOURNAL_BYTES = 256 << 20
"""Bytes of the journal from which on a change saves collections first."""
_COMPACTION_BYTES = 256 << 20  # files that one run of the compactor writes


class Saver:
    """Checkpoints the collections of an engine.

    Parameters
    ----------
    context : EngineContext
        Context of the engine.
    catalog : Catalog
        Its collections.
    former_files : FormerFiles
        Files to remove.
    workers : Workers
        Background workers. While they run, compaction is left to them.
    failure : BackgroundFailure
        Receives errors that no caller sees.

    Attributes
    ----------
    checkpoints, failed_checkpoints : int
        Number of checkpoints that wrote files, and of those that failed.
    """

    def __init__(
        self,
        context: EngineContext,
        catalog: Catalog,
        former_files: FormerFiles,
        workers: Workers,
        failure: BackgroundFailure,
    ) -> None:
        self._context = context
        self._catalog = catalog
        self._former_files = former_files
        self._workers = workers
        self._failure = failure
        self._relieving, self._saving = threading.Lock(), threading.Lock()
        self.checkpoints = self.failed_checkpoints = 0

    def save_all(self) -> GodbError | None:
        """Checkpoint all collections that changed.

        Returns
        -------
        GodbError or None
            The first error; the other collections are saved all the same.
        """
        failed: GodbError | None = None
        with self._catalog.lock:
            self._former_files.remove_all()
            collections = [
                collection
                for collection in self._catalog.used()
                if collection.checkpointer.needs_saving
            ]
        for collection in collections:
            if collection.store.base.is_refused:
                continue  # its changes stay in the journal
            try:
                self.checkpoint(collection)
            except Exception as error:  # of any kind: the other collections are saved
                logger.warning("saving %r failed: %s", collection.name, error)
                failed = failed or _as_godb_error(error, collection.name)
        try:
            self._context.directory.journal.trim()
        except StorageError as error:
            failed = failed or error
        return failed

    def checkpoint(self, collection: OpenCollection) -> None:
        """Checkpoint a collection."""
        with self._saving:  # one at a time, since each takes memory
            try:
                if collection.checkpointer.checkpoint():
                    self.checkpoints += 1
                    if not self._workers.running:
                        collection.maintainer.compact(pause=lambda: True)
                    give_back()
            except GodbError:
                self.failed_checkpoints += 1
                raise

    # --- background ---------------------------------------------------------------------------

    def save_in_background(self) -> None:
        """Checkpoint all collections that changed; the next save raises an error of this one."""
        failed = self.save_all()
        if failed is not None:
            self._failure.error = failed
            raise failed

    def sync_in_background(self) -> None:
        """Sync the journal; the next save raises an error of this."""
        try:
            self._context.directory.journal.sync()
        except GodbError as error:
            self._failure.note(error)
            raise

    def compact_in_background(self) -> None:
        """Compact collections until a budget of bytes is written."""
        left = _COMPACTION_BYTES

        def pause() -> bool:
            return left <= 0

        with self._catalog.lock:
            collections = self._catalog.used()
        for collection in collections:
            left -= collection.maintainer.compact(pause=pause)
            if pause():
                return

    # --- memory -------------------------------------------------------------------------------

    def reserved(self, size: int) -> Reservation:
        """Reserve memory for a change until it is made and counted.

        The caller holds no lock of a collection, since saving other collections may need it.

        Parameters
        ----------
        size : int
            Bytes of the change.

        Returns
        -------
        Reservation
            A context; entering it raises MemoryLimitExceeded if there is no room.
        """
        return Reservation(self, size)

    def reserve(self, owner: object, size: int) -> None:
        """Reserve memory for a change; save collections until there is room.

        Parameters
        ----------
        owner : object
            Owner of the reservation.
        size : int
            Bytes of the change.

        Raises
        ------
        MemoryLimitExceeded
        """
        memory = self._context.memory
        is_short = self._context.directory.journal.size <= MAX_JOURNAL_BYTES
        if is_short and memory.reserve(owner, size, memory.limit // 2):
            return
        failed = self._make_room(size)
        while not memory.reserve(owner, size, memory.limit - memory.streams):
            if size > memory.limit or not memory.wait_for_release(size):
                raise MemoryLimitExceeded(
                    f"the change takes {size} bytes, and {memory.room} of "
                    f"max_memory={memory.limit} are left",
                    advice="change fewer documents at a time, or raise max_memory",
                ) from failed
            failed = self._make_room(size)

    def release(self, owner: object) -> None:
        """Release the memory that an owner reserved."""
        self._context.memory.release(owner)

    def relieve(self) -> None:
        """Save collections if memory is full, so that the caller can collect documents."""
        memory = self._context.memory
        if memory.changes and not memory.room:
            self._make_room(memory.limit // 2)

    def _make_room(self, size: int) -> GodbError | None:
        """Save collections, those with the most changes first, until a change has room.

        Also save when the journal has grown large by changes that superseded each other.

        Returns
        -------
        GodbError or None
            The error, if a checkpoint failed.
        """
        memory, journal = self._context.memory, self._context.directory.journal
        half = memory.limit // 2
        failed: GodbError | None = None
        with self._relieving:
            if journal.size > MAX_JOURNAL_BYTES:
                failed = self.save_all()
            with self._catalog.lock:
                used = self._catalog.used()
            changed = [collection for collection in used if collection.store.changed_bytes]
            changed.sort(key=lambda collection: collection.store.changed_bytes, reverse=True)
            for collection in changed:
                if memory.changes + size <= half or not collection.store.changed_bytes:
                    break
                try:
                    self.checkpoint(collection)
                except GodbError as error:
                    failed = error
                    break
            with suppress(StorageError):  # the next save raises it
                journal.trim()
        if failed is not None:
            logger.warning("saving under memory pressure failed: %s", failed)
            self._failure.note(failed)
        return failed


class Reservation:
    """Memory that is reserved for a change while the context lasts.

    Parameters
    ----------
    saver : Saver
        Reserves the memory.
    size : int
        Bytes of the change.
    """

    # A class and no generator, since every insert enters one.
    __slots__ = ("_saver", "_size")

    def __init__(self, saver: Saver, size: int) -> None:
        self._saver = saver
        self._size = size

    def __enter__(self) -> None:
        try:
            self._saver.reserve(self, self._size)
        except BaseException:
            self._saver.release(self)
            raise

    def __exit__(self, *_: object) -> None:
        self._saver.release(self)


def _as_godb_error(error: Exception, name: str) -> GodbError:
    """Return the error of a collection that cannot be saved."""
    if isinstance(error, GodbError):
        return error
    raised = GodbError(
        f"the collection cannot be saved: {error!r}",
        advice="the changes stay in the journal; drop the collection, or report the error",
    )
    raised.operation, raised.collection = "save", name
    raised.__cause__ = error
    return raised
