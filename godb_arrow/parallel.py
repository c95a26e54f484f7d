"""Work on several threads, with the results in order."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["available_cores", "ordered_map"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered_map(
    function: Callable[[_Item], _Result],
    items: Iterator[_Item],
    threads: int,
    ahead: int = 1,
) -> Iterator[_Result]:
    """Apply a function to items on several threads, and give the results in the items' order.

    Each thread takes an item, one at a time, and works on it, so that making items and working
    on them overlap. At most ``threads + ahead`` results wait to be taken; a thread that has nothing
    more to do ends, so that a caller who stops in the middle leaves no thread behind.

    Parameters
    ----------
    function : callable
        What to do with an item; it should release the GIL while it works.
    items : iterator
        Closed at the end, if it can be.
    threads : int
        With 1 there are no threads at all.
    ahead : int
        How many results may wait beside those that are worked on. Where the caller has work of its
        own with each, the threads do not have to wait for that.

    Yields
    ------
    object
        The results. An error of the iterator or of the function is raised in its place, after
        the results before it.

    Examples
    --------
    >>> list(ordered_map(abs, iter([-1, 2, -3]), threads=2))
    [1, 2, 3]
    """
    if threads == 1:
        for item in items:
            yield function(item)
        return
    work = _Work(function, items, threads, ahead)
    try:
        yield from work.results()
    finally:
        work.stop()


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


class _Work(Generic[_Item, _Result]):
    def __init__(
        self,
        function: Callable[[_Item], _Result],
        items: Iterator[_Item],
        threads: int,
        ahead: int,
    ) -> None:
        self._function = function
        self._items = items
        self._threads = threads
        self._ahead = ahead
        self._taking = threading.Lock()  # one thread at a time takes an item
        self._changed = threading.Condition()  # guards all that follows
        self._running: set[threading.Thread] = set()
        self._results: dict[int, _Result | _Failed] = {}
        self._started = 0  # items that were taken
        self._given = 0  # results that the caller has
        self._ended = False  # no more items, or no more wanted

    def results(self) -> Iterator[_Result]:
        while True:
            with self._changed:
                self._start_threads()
                while self._given not in self._results:
                    if self._ended and self._given == self._started:
                        return
                    self._changed.wait()
                result = self._results.pop(self._given)
                self._given += 1
            if isinstance(result, _Failed):
                raise result.error
            yield result
            del result

    def stop(self) -> None:
        with self._changed:
            self._ended = True
            running = list(self._running)
        for thread in running:
            thread.join()
        close = getattr(self._items, "close", None)
        if close is not None:
            close()

    def _has_room(self) -> bool:
        waiting = self._started - self._given
        return not self._ended and waiting < self._threads + self._ahead

    def _start_threads(self) -> None:
        while self._has_room() and len(self._running) < self._threads:
            thread = threading.Thread(target=self._run, name="godb-arrow-worker", daemon=True)
            thread.start()
            self._running.add(thread)  # it cannot end before: that takes the lock we hold

    def _run(self) -> None:
        while True:
            with self._taking:
                with self._changed:
                    if not self._has_room():
                        self._running.discard(threading.current_thread())
                        self._changed.notify()
                        return
                    index = self._started
                taken = self._take()
                with self._changed:
                    if taken is None:
                        self._ended = True
                        self._running.discard(threading.current_thread())
                        self._changed.notify()
                        return
                    self._started += 1
                    self._ended = self._ended or isinstance(taken, _Failed)
            result = taken if isinstance(taken, _Failed) else self._apply(taken[0])
            del taken
            with self._changed:
                self._results[index] = result
                self._changed.notify()
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
