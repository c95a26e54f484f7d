"""Background workers: functions that run periodically, and their statistics."""

from __future__ import annotations

import atexit

# Saving at exit may import pandas, which needs this module, and it cannot be imported at exit.
import concurrent.futures.thread  # noqa: F401
import logging
import signal
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from godb_arrow.display import table_of, vars_of
from godb_arrow.errors import GodbError, InvalidOption, WorkerNotFound

__all__ = ["BackgroundFailure", "Worker", "WorkerHealth", "Workers", "close_at_exit"]


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """Statistics of a worker.

    Attributes
    ----------
    name : str
        Name of the worker.
    running : bool
        Whether its thread exists.
    interval : float
        Seconds between two runs.
    runs, failures : int
        Number of runs, and number of failed runs.
    last_run : float or None
        Time of the last run, in seconds since the epoch.
    last_seconds : float or None
        Duration of the last run in seconds.
    last_error : str or None
        Message of the last failure.
    last_failed : bool
        Whether the last run failed.
    age : float or None
        Seconds since the beginning of the last run, or since the worker was started; None if it is
        not running and has never run.
    """

    name: str
    running: bool
    interval: float
    runs: int
    failures: int
    last_run: float | None
    last_seconds: float | None
    last_error: str | None
    last_failed: bool = False
    age: float | None = None

    def _repr_html_(self) -> str:
        return table_of(f"worker {self.name}", vars_of(self))


class Worker:
    """A function that runs periodically on a thread of its own.

    Parameters
    ----------
    name : str
        Name of the worker, for its thread and for messages.
    interval : float
        Seconds from the end of one run to the beginning of the next.
    function : callable
        Called without arguments. Its errors are logged and counted.
    """

    def __init__(self, name: str, interval: float, function: Callable[[], Any]) -> None:
        self.name = name
        self.interval = interval
        self._function = function
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._runs = self._failures = 0
        self._last_run: float | None = None
        self._last_seconds: float | None = None
        self._last_error: str | None = None
        self._last_failed = False
        self._started: float | None = None

    def start(self) -> None:
        """Start the thread, unless it exists."""
        with self._lock:
            if self._thread is None:
                self._stopping = threading.Event()
                self._thread = threading.Thread(
                    target=_loop,
                    args=(weakref.ref(self), self._stopping, self.interval),
                    name=f"godb-arrow-{self.name}",
                    daemon=True,
                )
                self._started = time.time()
                try:
                    self._thread.start()
                except RuntimeError:  # the interpreter shuts down
                    self._thread = None

    def stop(self) -> None:
        """Stop the thread after its current run."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stopping.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def is_current_thread(self) -> bool:
        """Return whether the caller runs on the thread of the worker."""
        return self._thread is threading.current_thread()

    def run_once(self) -> None:
        """Run the function on this thread, and record the result."""
        self._last_run = time.time()
        started = time.perf_counter()
        error: Exception | None = None
        try:
            self._function()
        except Exception as raised:
            logger.exception("the background worker %r failed", self.name)
            error = raised
        self._last_seconds = time.perf_counter() - started
        self._runs += 1
        self._last_failed = error is not None
        if error is not None:
            self._failures += 1
            self._last_error = f"{type(error).__name__}: {error}"

    def health(self) -> WorkerHealth:
        """Return the statistics of the worker."""
        since = self._last_run if self._last_run is not None else self._started
        return WorkerHealth(
            self.name,
            self._thread is not None,
            self.interval,
            self._runs,
            self._failures,
            self._last_run,
            self._last_seconds,
            self._last_error,
            self._last_failed,
            None if since is None else max(0.0, time.time() - since),
        )


def _loop(worker: weakref.ref[Worker], stopping: threading.Event, interval: float) -> None:
    """Run a worker until it is stopped, or until it is not referenced elsewhere."""
    while not stopping.wait(interval):
        found = worker()
        if found is None:
            return
        found.run_once()
        del found


class Workers:
    """Workers of an engine, started and stopped together.

    Examples
    --------
    >>> workers = Workers()
    >>> workers.add("tidy", 60, lambda: None)
    >>> workers.start()
    >>> [health.running for health in workers.health()]
    [True]
    >>> workers.stop()
    """

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._lock = threading.RLock()
        self._running = False

    @property
    def running(self) -> bool:
        """Whether the workers are started."""
        return self._running

    def has_current_thread(self) -> bool:
        """Return whether the caller runs on the thread of a worker."""
        with self._lock:
            return any(worker.is_current_thread() for worker in self._workers.values())

    def add(self, name: str, interval: float, function: Callable[[], Any]) -> None:
        """Add a worker; it starts with the others, or now if they are started."""
        if not callable(function):
            raise InvalidOption(f"{function!r} cannot be called", advice="give a function")
        if not isinstance(name, str):
            raise InvalidOption(f"the name of a worker is {name!r}", advice="give a string")
        with self._lock:
            if name in self._workers:
                raise InvalidOption(
                    f"there is a worker {name!r} already", advice="choose another name"
                )
            worker = self._workers[name] = Worker(name, interval, function)
            if self._running:
                worker.start()

    def remove(self, name: str) -> None:
        """Stop a worker and remove it.

        Raises
        ------
        WorkerNotFound
        """
        with self._lock:
            if name not in self._workers:
                raise WorkerNotFound(
                    f"there is no worker {name!r}",
                    advice=f"the workers are {sorted(self._workers)}",
                )
            worker = self._workers.pop(name)
        worker.stop()

    def start(self) -> None:
        """Start all workers that are not started."""
        with self._lock:
            self._running = True
            for worker in self._workers.values():
                worker.start()

    def stop(self) -> None:
        """Stop all workers, each after its current run."""
        with self._lock:
            self._running = False
            workers = list(self._workers.values())
        for worker in workers:
            worker.stop()

    def health(self) -> list[WorkerHealth]:
        """Return the statistics of each worker."""
        with self._lock:
            return [worker.health() for worker in self._workers.values()]


class BackgroundFailure:
    """Error of the background that no caller has seen yet; the next save or close raises it.

    Attributes
    ----------
    error : GodbError or None
        The error, if there is one.
    """

    def __init__(self) -> None:
        self.error: GodbError | None = None

    def note(self, error: GodbError) -> None:
        """Keep an error, unless an earlier one is kept."""
        self.error = self.error or error

    def take(self) -> GodbError | None:
        """Return the error, and forget it."""
        error, self.error = self.error, None
        return error


class _AtExit:
    """Objects to close when the interpreter exits."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self._installed = False

    def add(self, closable: Any) -> None:
        self._open.add(closable)
        if self._installed:
            return
        self._installed = True
        atexit.register(self._close_all)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _on_sigterm)

    def _close_all(self) -> None:
        for closable in list(self._open):
            try:
                closable.close()
            except Exception:
                logger.exception("closing %r at exit failed", closable)


_at_exit = _AtExit()


def close_at_exit(closable: Any) -> None:
    """Close an object when the interpreter exits, or receives SIGTERM.

    A handler of the application for SIGTERM is not replaced. The handler that is installed here
    raises ``SystemExit``.

    Parameters
    ----------
    closable : object
        Object with ``close()``, which may be called twice. It is referenced weakly.
    """
    _at_exit.add(closable)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
