"""Lifetime of an engine: changes, closing, background workers, statistics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self

from godb_arrow.directory.data_directory import JournalEnd
from godb_arrow.engine.added_workers import added_worker
from godb_arrow.engine.change_token import ChangeToken
from godb_arrow.engine.changes import ChangeFeed, begin_token, token_at_end
from godb_arrow.engine.components import EngineComponents
from godb_arrow.engine.health import EngineHealth, health_of
from godb_arrow.engine.processes import close_later, forget_engine
from godb_arrow.engine.stats import EngineStats, MemoryStats
from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import InvalidCursor
from godb_arrow.options import parse_duration

if TYPE_CHECKING:
    import datetime as dt

__all__ = ["EngineLifetime"]


class EngineLifetime:
    """Engine as a resource: it is closed, runs workers, and counts what it does.

    Parameters
    ----------
    components : EngineComponents
        Components of the engine.
    """

    def __init__(self, components: EngineComponents) -> None:
        self._components = components
        self._lifecycle = components.lifecycle
        self._closing = threading.RLock()

    # --- changes ------------------------------------------------------------------------------

    def changes(
        self,
        since: str | None = None,
        *,
        collections: Iterable[str] | None = None,
        follow: bool = False,
    ) -> ChangeFeed:
        """Return the changes of all collections after a token, in order.

        A transaction of several collections is one unit. See :meth:`Collection.changes`, which can
        also compare versions.

        Parameters
        ----------
        since : str, optional
            Token of an earlier feed, default now.
        collections : iterable of str, optional
            Names of the collections, default all.
        follow : bool
            Whether to wait for later changes, default False.

        Returns
        -------
        ChangeFeed

        Raises
        ------
        InvalidCursor
            The text is no token of all collections.
        ChangesLost
            In the feed: the changes cannot be listed. A snapshot has their result.
        """
        self._lifecycle.check_open()
        parts = self._components

        def now() -> ChangeToken:
            directory = parts.directory
            end = _oldest_end(parts) if directory.read_only else directory.journal_end()
            return token_at_end(directory, end)

        token = begin_token(since, now)
        if token.collection is not None:
            raise InvalidCursor(
                f"the token is of the collection {token.collection!r}",
                advice="give it to the feed of the collection",
            )
        names = None if collections is None else frozenset(collections)

        def store_of(name: str) -> CollectionStore | None:
            collection = parts.catalog.get(name)
            return None if collection is None else collection.store

        return ChangeFeed(parts.context, store_of, token, names=names, follow=follow)

    # --- closing ------------------------------------------------------------------------------

    def close(self, *, discard: bool = False) -> None:
        """Save all changes, stop the workers, and release the lock of the directory.

        Closing twice does nothing. An engine that cannot save stays open, so that no change is
        lost: close it again when the disk has room. In a forked child this only releases the
        child's copies of descriptors.

        Parameters
        ----------
        discard : bool
            Whether to close without saving, default False. The next engine recovers the changes
            from the journal. On an object store, unsaved changes are lost.

        Raises
        ------
        GodbError
            A collection could not be saved, now or in the background before.
        """
        if self._lifecycle.is_forked or self._lifecycle.is_closed:
            return
        # A worker that closes the engine must not wait for a thread that stops the worker.
        if not self._closing.acquire(blocking=not self._components.is_own_thread()):
            return
        try:
            if not self._lifecycle.is_closed:
                self._components.close(discard=discard)
                forget_engine(self)
        finally:
            self._closing.release()
        error = None if discard else self._components.failure.take()
        if error is not None:
            raise error

    def __del__(self) -> None:
        lifecycle = getattr(self, "_lifecycle", None)  # missing if opening failed
        if lifecycle is not None and not lifecycle.is_closed and not lifecycle.is_forked:
            close_later(self)

    def _forget_in_child(self) -> None:
        """Refuse all verbs in a forked child."""
        self._lifecycle.is_forked = True
        self._components.directory.forget_in_child()

    def __enter__(self) -> Self:
        self._lifecycle.check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the engine is closed."""
        return self._lifecycle.is_closed

    @property
    def data_dir(self) -> str:
        """Data directory."""
        return self._components.directory.path

    # --- background workers -------------------------------------------------------------------

    def start_background_workers(self) -> None:
        """Start the saver, if there is one, the compactor, and added workers."""
        self._lifecycle.check_open()
        self._components.workers.start()

    def stop_background_workers(self) -> None:
        """Stop the background workers, each after its current run."""
        self._lifecycle.check_process()
        self._components.workers.stop()

    def add_worker(
        self,
        name: str,
        interval: float | str | dt.timedelta | None = None,
        function: Callable[[], Any] | None = None,
    ) -> None:
        """Call a function periodically in the background.

        Parameters
        ----------
        name : str
            Name of the worker, for :meth:`stats` and messages.
        interval : float, timedelta or str
            Time between two calls, such as ``"30s"``. Optional for a worker of another package.
        function : callable
            Called without arguments. Its errors are logged and counted. By default, another
            package adds a worker of this name by an entry point, see ``docs/extension_points.md``.

        Raises
        ------
        InvalidOption
            A worker has the name already, or no package adds one of this name.
        """
        self._lifecycle.check_open()
        if function is None:
            interval, function = added_worker(self, name, interval)
        self._components.workers.add(name, parse_duration("interval", interval), function)

    def remove_worker(self, name: str) -> None:
        """Stop a worker and remove it.

        Parameters
        ----------
        name : str
            Name of the worker.

        Raises
        ------
        WorkerNotFound
        """
        self._lifecycle.check_process()
        self._components.workers.remove(name)

    # --- statistics ---------------------------------------------------------------------------

    def memory_stats(self) -> MemoryStats:
        """Return the memory use of the engine."""
        self._lifecycle.check_process()
        return self._components.stats.memory()

    def health(self) -> EngineHealth:
        """Return what is wrong with the engine, and the numbers that an operator needs.

        Workers that fail or are stuck, errors of the background, followers that fall behind, a full
        disk and full memory are problems. No document is read.

        Returns
        -------
        EngineHealth
        """
        self._lifecycle.check_open()
        parts = self._components
        return health_of(
            self.data_dir, parts.stats.engine(), parts.failure.error, parts.followers.all()
        )

    def stats(self) -> EngineStats:
        """Return statistics of the engine: memory, workers, checkpoints, journal."""
        self._lifecycle.check_process()
        return self._components.stats.engine()


def _oldest_end(parts: EngineComponents) -> JournalEnd:
    """Return the end of the oldest read of the journal that a collection of a reader is from."""
    ends = [collection.store.read_end for collection in parts.catalog.used()]
    return min([*ends, parts.directory.read_end], key=lambda end: end[1] or (0, 0))
