"""Threads that wait for a sync of their records: one syncs, and the others wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["CommitQueue"]

_MAX_WAIT_SECONDS = 1.0


class _Waiter:
    __slots__ = ("leads", "number", "woken")

    def __init__(self, number: int) -> None:
        self.number = number
        self.leads = False
        self.woken = threading.Lock()
        self.woken.acquire(blocking=False)


class CommitQueue:
    """Queue of threads, the first of which syncs.

    Only speed depends on the queue: a thread that is not woken, since an interrupt ended another
    one, syncs by itself after a second.

    Parameters
    ----------
    is_durable : callable
        Returns whether a power cut keeps the record of a sequence number.

    Examples
    --------
    >>> synced = set()
    >>> queue = CommitQueue(synced.__contains__)
    >>> queue.leads(1)
    True
    >>> synced.add(1)
    >>> queue.pass_on()
    >>> queue.leads(1)
    False
    """

    __slots__ = ("_has_leader", "_is_durable", "_lock", "_waiters")

    def __init__(self, is_durable: Callable[[int], bool]) -> None:
        self._is_durable = is_durable
        self._lock = threading.Lock()
        self._waiters: list[_Waiter] = []
        self._has_leader = False

    def leads(self, number: int) -> bool:
        """Wait until a record is durable, or until the caller must sync it.

        Parameters
        ----------
        number : int
            Sequence number of the record.

        Returns
        -------
        bool
            Whether the caller syncs, and then calls :meth:`pass_on`.
        """
        with self._lock:
            if self._is_durable(number):
                return False
            if not self._has_leader:
                self._has_leader = True
                return True
            waiter = _Waiter(number)
            self._waiters.append(waiter)
        try:
            is_woken = waiter.woken.acquire(timeout=_MAX_WAIT_SECONDS)
        except BaseException:
            if not self._leave(waiter):
                self.pass_on()
            raise
        if is_woken:
            return waiter.leads
        return not self._leave(waiter) or not self._is_durable(number)

    def _leave(self, waiter: _Waiter) -> bool:
        """Remove a waiting thread; return False if it was to sync next."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            return not waiter.leads

    def pass_on(self) -> None:
        """Wake the threads whose records are durable, and the one that syncs next."""
        with self._lock:
            waiting, done = self._waiters, [w for w in self._waiters if self._is_durable(w.number)]
            self._waiters = [waiter for waiter in waiting if waiter not in done]
            self._has_leader = bool(self._waiters)
            if self._waiters:
                leader = self._waiters.pop(0)
                leader.leads = True
                leader.woken.release()
        for waiter in done:
            waiter.woken.release()
