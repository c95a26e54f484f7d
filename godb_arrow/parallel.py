"""Work on several threads, with the results in order."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from godb_arrow.errors import ForkedProcess

__all__ = ["OrderedMap", "available_cores", "ordered_map"]

_THREAD_NAME = "godb-arrow-worker"

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered_map(
    function: Callable[[_Item], _Result],
    items: Iterator[_Item],
    threads: int,
    ahead: int = 1,
    may_wait: Callable[[], bool] = lambda: True,
) -> OrderedMap[_Result]:
    """Apply a function to items on several threads, and return the results in the items' order.

    Each thread takes one item at a time and works on it, so that creating items and working on
    them overlap. At most ``threads + ahead`` results wait for the caller. A thread ends when no
    item is left for it, so a caller that stops early leaves no thread running.

    Parameters
    ----------
    function : callable
        Work on an item. It should release the GIL while it runs.
    items : iterator
        Source of the items. It is closed at the end, if it has ``close()``.
    threads : int
        Number of threads. With 1, the caller's thread does the work.
    ahead : int
        Number of results that may wait beside those in work, so that the threads continue while
        the caller uses a result.
    may_wait : callable
        Returns whether results may wait, default always. While they may not, the next item is
        worked on when the caller asks for it. The function takes no lock.

    Returns
    -------
    OrderedMap
        Iterator of the results. An error of `items` or `function` is raised after the results
        that precede it.

    Examples
    --------
    >>> list(ordered_map(abs, iter([-1, 2, -3]), threads=2))
    [1, 2, 3]
    """
    return OrderedMap(_Work(function, items, threads, ahead, may_wait))


class _Failed:
    """Error in place of a result."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class OrderedMap(Iterator[_Result]):
    """Iterator of the results of :func:`ordered_map`, for one thread at a time.

    An iterator that is dropped before its end stops its threads without waiting for them. It
    takes no lock, because the garbage collector may drop it on any thread, inside any lock.
    """

    def __init__(self, work: _Work[Any, _Result]) -> None:
        self._work = work

    def __next__(self) -> _Result:
        try:
            return self._work.next()
        except BaseException:
            self._work.stop()
            raise

    def close(self) -> None:
        """Stop the threads, wait for them, and close the items."""
        self._work.stop()

    def __del__(self) -> None:
        self._work.abandon()


class _Work(Generic[_Item, _Result]):
    def __init__(
        self,
        function: Callable[[_Item], _Result],
        items: Iterator[_Item],
        threads: int,
        ahead: int,
        may_wait: Callable[[], bool],
    ) -> None:
        self._may_wait = may_wait
        self._function = function
        self._items = items
        self._threads = threads
        self._ahead = ahead
        self._process = os.getpid()
        self._taking = threading.Lock()  # held while a thread takes an item
        # Guards the attributes below. A lock in C cannot be lost to an interrupt, as the lock of a
        # threading.Condition can: a signal may come inside of its methods, which are in Python.
        self._lock = threading.RLock()
        self._changed: SimpleQueue[None] = SimpleQueue()  # wakes the caller
        self._running: set[threading.Thread] = set()
        self._results: dict[int, _Result | _Failed] = {}
        self._started = 0  # number of items taken
        self._given = 0  # number of results returned to the caller
        self._ended = False  # set when the items end or the caller stops
        self._is_awaited = False  # set while the caller waits for a result

    def next(self) -> _Result:
        """Return the next result, or raise StopIteration."""
        if self._process != os.getpid():
            raise ForkedProcess(
                "the stream belongs to the parent process", advice="open it in this process"
            )
        while self._threads > 1:
            with self._lock:
                if not (self._running or self._started > self._given or self._may_wait()):
                    break  # No result may wait, so that threads would not help.
                self._is_awaited = True
                self._start_threads()
                if self._given in self._results:
                    self._is_awaited = False
                    result = self._results.pop(self._given)
                    self._given += 1
                    if isinstance(result, _Failed):
                        raise result.error
                    return result
                if self._threads == 1:
                    break
                if self._ended and self._given == self._started:
                    raise StopIteration
            self._changed.get()
        if self._ended:
            raise StopIteration
        return self._function(next(self._items))

    def stop(self) -> None:
        """End the threads, wait for them, and close the items.

        A thread of such a work does not wait: the garbage collector runs on it, perhaps while the
        thread has what the others wait for.
        """
        if self._process != os.getpid():
            return
        if threading.current_thread().name == _THREAD_NAME:
            self.abandon()
            return
        with self._lock:
            self._ended = True
            running = list(self._running)
        for thread in running:
            # An interrupt may have kept a thread from its start.
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join()
        with self._lock:
            self._results.clear()
            self._given = self._started
            self._notify()
        close = getattr(self._items, "close", None)
        if close is not None:
            close()

    def abandon(self) -> None:
        """Tell the threads to end; the last one drops the items, which closes them."""
        self._ended = True

    def _notify(self) -> None:
        """Wake the caller, if it waits; the lock is held."""
        if self._is_awaited:
            self._changed.put(None)

    def _has_room(self) -> bool:
        waiting = self._started - self._given
        limit = self._threads + self._ahead if self._may_wait() else int(self._is_awaited)
        return not self._ended and waiting < limit

    def _start_threads(self) -> None:
        while self._has_room() and len(self._running) < self._threads:
            thread = threading.Thread(target=self._run, name=_THREAD_NAME, daemon=True)
            try:
                self._running.add(thread)  # before start(), so that an interrupt cannot lose it
                thread.start()
            except RuntimeError:  # The interpreter is shutting down; use the caller's thread.
                self._running.discard(thread)
                if not self._running:
                    self._threads = 1
                return
            except BaseException:
                if thread.ident is None:
                    self._running.discard(thread)
                raise

    def _run(self) -> None:
        while True:
            with self._taking:
                with self._lock:
                    if not self._has_room():
                        self._running.discard(threading.current_thread())
                        self._notify()
                        return
                    index = self._started
                taken = self._take()
                with self._lock:
                    if taken is None:
                        self._ended = True
                        self._running.discard(threading.current_thread())
                        self._notify()
                        return
                    self._started += 1
                    self._ended = self._ended or isinstance(taken, _Failed)
            result = taken if isinstance(taken, _Failed) else self._apply(taken[0])
            del taken
            with self._lock:
                self._results[index] = result
                self._notify()
            del result

    def _take(self) -> tuple[_Item] | _Failed | None:
        try:
            return (next(self._items),)
        except StopIteration:
            return None
        except BaseException as error:
            return _Failed(error)

    def _apply(self, item: _Item) -> _Result | _Failed:
        try:
            return self._function(item)
        except BaseException as error:
            return _Failed(error)
