"""Threads that wait for a sync of their records: one syncs, and the others wait for it."""

from __future__ import annotations

import threading
from typing import Protocol

__all__ = ["CommitQueue", "Durability"]

_MAX_WAIT_SECONDS = 1.0


class Durability(Protocol):
    """Journal that knows which records are durable."""

    def is_durable(self, number: int) -> bool:
        """Return whether a power cut keeps a record."""


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

    Examples
    --------
    >>> class Nothing:
    ...     def is_durable(self, number):
    ...         return False
    >>> queue = CommitQueue()
    >>> queue.leads(1, Nothing())
    True
    >>> queue.pass_on(1)
    """

    __slots__ = ("_has_leader", "_lock", "_waiters")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: list[_Waiter] = []
        self._has_leader = False

    def leads(self, number: int, durability: Durability) -> bool:
        """Wait until a record is durable, or until the caller must sync it.

        Parameters
        ----------
        number : int
            Sequence number of the record.
        durability : Durability
            The journal.

        Returns
        -------
        bool
            Whether the caller syncs, and then calls :meth:`pass_on`.
        """
        with self._lock:
            if durability.is_durable(number):
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
                self.pass_on(0)
            raise
        if is_woken:
            return waiter.leads
        return not self._leave(waiter) or not durability.is_durable(number)

    def _leave(self, waiter: _Waiter) -> bool:
        """Remove a waiting thread; return False if it was to sync next."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            return not waiter.leads

    def pass_on(self, durable: int) -> None:
        """Wake the threads whose records are durable, and the one that syncs next.

        Parameters
        ----------
        durable : int
            Sequence number of the last durable record.
        """
        with self._lock:
            done = [waiter for waiter in self._waiters if waiter.number <= durable]
            self._waiters = [waiter for waiter in self._waiters if waiter.number > durable]
            self._has_leader = bool(self._waiters)
            if self._waiters:
                leader = self._waiters.pop(0)
                leader.leads = True
                leader.woken.release()
        for waiter in done:
            waiter.woken.release()
