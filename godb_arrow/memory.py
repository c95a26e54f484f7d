"""The memory that an engine may take: cached views, unsaved changes and stream buffers."""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from typing import Any

from godb_arrow.lru import EvictionPolicy, LRUCache
from godb_arrow.parallel import available_cores

__all__ = ["Memory", "give_back"]

_LEAST_RUN = 256 << 10
_MOST_RUN = 8 << 20
_OF_A_THREAD = 32 << 20


class Memory:
    """One limit in bytes for all that an engine holds.

    Views are held as far as the rest leaves room; what has no other copy is never given up.

    Parameters
    ----------
    limit : int
        Bytes.
    policy : EvictionPolicy, optional
        Which views go first.

    Attributes
    ----------
    cache : LRUCache
        The views: the first part of a key says whose they are.
    peak : int
        The most bytes that were taken at a time.
    run_bytes : int
        Bytes that are read from a file at once: several runs are on their way in each stream.
    threads : int
        How many threads work for one stream or checkpoint: with little memory, fewer than cores.

    Examples
    --------
    >>> memory = Memory(100)
    >>> memory.hold((1, "view"), "…", 60)
    True
    >>> memory.take("changes", 50)
    >>> memory.used, len(memory.cache)
    (50, 0)
    """

    def __init__(self, limit: int, policy: EvictionPolicy | None = None) -> None:
        self.limit = limit
        self.cache: LRUCache[tuple[Any, str], Any] = LRUCache(limit, policy)
        self._lock = threading.Lock()
        self._taken: dict[str, int] = {"changes": 0, "streams": 0}
        self.peak = 0
        self.run_bytes = min(max(limit // 32, _LEAST_RUN), _MOST_RUN)
        self.threads = max(1, min(available_cores(), limit // _OF_A_THREAD))

    def taken(self, purpose: str) -> int:
        """Bytes that changes or streams have."""
        return self._taken[purpose]

    @property
    def used(self) -> int:
        """Bytes that are taken in all."""
        return sum(self._taken.values()) + self.cache.bytes

    @property
    def room(self) -> int:
        """Bytes that are left, were all views given up."""
        return self.limit - sum(self._taken.values())

    @property
    def room_for_one(self) -> int:
        """Bytes that one view may have."""
        return max(0, self.room)

    def take(self, purpose: str, size: int) -> None:
        """Count bytes (or fewer, when negative) for ``"changes"`` or ``"streams"``."""
        with self._lock:
            self._taken[purpose] += size
        self._make_room()

    def hold(self, key: tuple[Any, str], value: Any, size: int) -> bool:
        """Hold a view, if there is room for it; others go first."""
        if size > self.room_for_one:
            return False
        held = self.cache.put(key, value, size)
        self._make_room()
        return held

    def held(self, owner: Any) -> int:
        """Bytes of the views of one owner."""
        return self.cache.size_of(lambda key: key[0] == owner)

    def _make_room(self) -> None:
        room = max(0, self.room)
        if self.cache.bytes > room:
            self.cache.shrink(room)
        self.peak = max(self.peak, self.used)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Give what was freed back to the system, where its C library keeps it.

    glibc keeps several MiB for each thread that once took memory, which adds up beyond the limit
    of an engine that many threads use.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
