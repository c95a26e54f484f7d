"""Components of an engine: created together when it opens, and ended together when it closes."""

from __future__ import annotations

from godb_arrow.directory.data_directory import DataDirectory
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.expirer import Expirer
from godb_arrow.engine.followers import Followers
from godb_arrow.engine.former_files import FormerFiles
from godb_arrow.engine.lifecycle import Lifecycle
from godb_arrow.engine.naming import CollectionNaming
from godb_arrow.engine.recovery import Recovered, recover
from godb_arrow.engine.refresher import Refresher, read_directory
from godb_arrow.engine.saver import Saver
from godb_arrow.engine.stats import StatsReader
from godb_arrow.engine.workers import BackgroundFailure, Workers
from godb_arrow.errors import GodbError, error_context
from godb_arrow.memory.limit import Memory
from godb_arrow.options import EngineOptions

__all__ = ["EngineComponents"]


_SYNCER, _SAVER, _COMPACTOR, _EXPIRER = "journal-sync", "saver", "compactor", "expirer"
_COMPACTOR_SECONDS = 10.0
_EXPIRER_SECONDS = 60.0


class EngineComponents:
    """Components of an engine over an open directory.

    Parameters
    ----------
    options : EngineOptions
        Options of the engine.
    directory : DataDirectory
        The directory. It is closed if this raises.
    memory : Memory
        Memory limit.

    Attributes
    ----------
    lifecycle : Lifecycle
        State of the engine. It is not open before :meth:`start`.
    context : EngineContext
        What the components share.
    catalog : Catalog
        The collections.
    saver, expirer, naming, refresher, stats, followers
        Saving, expiry, names, reading again, statistics, replication.
    workers, syncer : Workers
        Workers that callers start and stop, and workers that always run.
    failure : BackgroundFailure
        Error of a worker, for the next save.
    """

    def __init__(self, options: EngineOptions, directory: DataDirectory, memory: Memory) -> None:
        self.options = options
        self.directory = directory
        directory.keeps_changes = options.keep_changes, options.keep_changes_for
        self.memory = memory
        self.lifecycle = Lifecycle(directory.path, read_only=directory.read_only)
        self.workers, self.syncer, self.failure = Workers(), Workers(), BackgroundFailure()
        self.followers = Followers(directory, options.durability, self.syncer, self.failure)
        self.context = EngineContext(options, directory, memory, self.lifecycle, self.followers)
        try:
            self._create()
        except BaseException:
            directory.close()
            raise

    def _create(self) -> None:
        context = self.context
        with error_context("open", self.directory.path):
            recovered = self._recover()
        self.catalog = recovered.catalog
        self.former_files = recovered.former_files
        self.saver = Saver(context, self.catalog, self.former_files, self.workers, self.failure)
        self.expirer = Expirer(context, self.catalog, self.saver, self.workers, self.failure)
        self.naming = CollectionNaming(context, self.catalog, self.former_files, self.saver)
        self.refresher = Refresher(context, self.catalog)
        self.stats = StatsReader(
            context,
            self.catalog,
            self.saver,
            self.expirer,
            (self.workers, self.syncer),
            recovered.records,
        )

    def _recover(self) -> Recovered:
        if not self.directory.read_only:
            return recover(self.context)
        found = read_directory(self.context)
        return Recovered(found.catalog, FormerFiles(self.directory, found.catalog), found.count)

    def start(self) -> None:
        """Open the engine: start the syncer, and add the other workers."""
        self.lifecycle.is_closed = False
        if self.directory.read_only:
            return
        if self.options.background_save is not None:
            self.workers.add(_SAVER, self.options.background_save, self.saver.save_in_background)
        if self.options.durability == "interval":
            self.syncer.add(_SYNCER, self.options.sync_interval, self.saver.sync_in_background)
            self.syncer.start()
        self.workers.add(_COMPACTOR, _COMPACTOR_SECONDS, self.saver.compact_in_background)
        self.workers.add(_EXPIRER, _EXPIRER_SECONDS, self.expirer.expire_in_background)

    def is_own_thread(self) -> bool:
        """Return whether the caller runs on the thread of a worker."""
        return self.workers.has_current_thread() or self.syncer.has_current_thread()

    def close(self, *, discard: bool) -> None:
        """Save all changes, and end all components; on an error in saving, stay open.

        Parameters
        ----------
        discard : bool
            Whether to close without saving.

        Raises
        ------
        GodbError
        """
        were_running = self.workers.running
        self.workers.stop()
        try:
            with self.catalog.lock:
                self.lifecycle.is_closing = True
            for collection in self.catalog.used():
                collection.store.set_sealed(True)
            failed = None if discard or self.directory.read_only else self.saver.save_all()
            if failed is not None:
                raise failed
        except BaseException:
            for collection in self.catalog.used():
                collection.store.set_sealed(False)
            self.lifecycle.is_closing = False
            if were_running:
                self.workers.start()
            raise
        # After an interrupt from here on, every verb but close() is refused.
        self.syncer.stop()
        self.followers.end()
        for stream in list(self.context.streams):
            stream.abort(self.lifecycle.check_open)
        for collection in self.catalog.used():
            collection.checkpointer.end()
        self.memory.close()
        try:
            self.directory.close(stored=not discard)
        except GodbError:
            self.lifecycle.is_closed = True
            raise
        self.lifecycle.is_closed = True
