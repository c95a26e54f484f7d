"""Memory limit of an engine: cached views, unsaved changes and stream buffers."""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from typing import Any, Protocol

from godb_arrow.memory.buffers import forget_buffers
from godb_arrow.memory.lru import EvictionPolicy, LRUCache
from godb_arrow.parallel import available_cores

__all__ = ["IdleFile", "Memory", "give_back"]


_MIN_RUN_BYTES = 256 << 10
_MAX_RUN_BYTES = 8 << 20
_BYTES_PER_PIECE = 7 << 18  # most pieces of a file are smaller
_BYTES_PER_THREAD = 32 << 20
_MAX_OPEN_FILES = 200
_LOW_LIMIT_BYTES = 64 << 20
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE_BUFFER_BYTES = 256 << 10


class IdleFile(Protocol):
    """File object that can close its file and open it again."""

    def close_if_idle(self) -> None:
        """Close the file, unless it is in use."""
        ...


def _close(_: int, file: IdleFile) -> None:
    file.close_if_idle()


class Memory:
    """Memory accounting of an engine, with one limit in bytes.

    Views are cached as far as the limit allows. Unsaved changes have no other copy and are never
    evicted.

    Parameters
    ----------
    limit : int
        Memory limit in bytes.
    policy : EvictionPolicy, optional
        Order in which views are evicted.

    Attributes
    ----------
    cache : LRUCache
        Cached views. The first part of a key names the owner.
    files : LRUCache
        Open files, whose number is limited for each process.
    peak : int
        Peak memory use in bytes.
    run_bytes : int
        Bytes that are read from a file at once. Each stream has several such reads in flight.
    threads : int
        Number of threads of a stream or checkpoint: fewer than cores where memory is short.

    Examples
    --------
    >>> memory = Memory(100)
    >>> memory.hold((1, "view"), "…", 60)
    True
    >>> memory.set_changes("users", 50)
    >>> memory.used, len(memory.cache)
    (50, 0)
    """

    def __init__(self, limit: int, policy: EvictionPolicy | None = None) -> None:
        self.limit = limit
        self.cache: LRUCache[tuple[Any, str], Any] = LRUCache(limit, policy)
        self.files: LRUCache[int, IdleFile] = LRUCache(_MAX_OPEN_FILES, on_evict=_close)
        # Reentrant: the garbage collector drops streams on any thread, also inside this lock.
        self._lock = threading.RLock()
        self._changes = self._streams = 0
        self._changes_of: dict[int, int] = {}
        self.peak = 0
        if limit < _LOW_LIMIT_BYTES:
            keep_large_apart()
        pieces = min(limit // 4, _BYTES_PER_PIECE)
        self.run_bytes = min(max(limit // 32, pieces, _MIN_RUN_BYTES), _MAX_RUN_BYTES)
        self.threads = max(1, min(available_cores(), limit // _BYTES_PER_THREAD))

    @property
    def changes(self) -> int:
        """Bytes of unsaved changes."""
        return self._changes

    @property
    def streams(self) -> int:
        """Bytes of batches that wait in streams."""
        return self._streams

    @property
    def used(self) -> int:
        """Bytes in use in total."""
        return self._changes + self._streams + self.cache.bytes

    @property
    def room(self) -> int:
        """Bytes available if all views were evicted; not below 0."""
        return max(0, self.limit - self._changes - self._streams)

    def take(self, *, streams: int) -> None:
        """Add bytes of batches that wait in streams; a negative number subtracts."""
        with self._lock:
            self._streams += streams
        if streams > 0:
            self._make_room()

    def set_changes(self, owner: object, size: int) -> None:
        """Set the bytes that the unsaved changes of a collection use."""
        with self._lock:
            before = self._changes_of.get(id(owner), 0)
            total = self._changes - before + size
            # A single statement, so that an interrupt cannot separate the two.
            self._changes_of[id(owner)], self._changes = size, total
            if not size:
                del self._changes_of[id(owner)]
        if size > before:
            self._make_room()

    def hold(self, key: tuple[Any, str], value: Any, size: int) -> bool:
        """Cache a view if there is room for it, evicting others."""
        if size > self.room:
            return False
        held = self.cache.put(key, value, size)
        self._make_room()
        return held

    def tidy(self) -> None:
        """Return unused memory to the system after a stream, where the limit is low."""
        if self.limit < _LOW_LIMIT_BYTES:
            give_back()

    def held(self, owner: Any) -> int:
        """Return the bytes of the views of one owner."""
        return self.cache.size_of(lambda key: key[0] == owner)

    def _make_room(self) -> None:
        used = self.used
        if used > self.limit:
            self.cache.shrink(self.room)
            used = self.used
        self.peak = max(self.peak, used)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


@cache
def keep_large_apart() -> None:
    """Make malloc return large buffers to the system when they are freed, in the whole process.

    glibc does so at first. Once a large buffer was freed, glibc raises its threshold and keeps
    buffers of that size in its heaps, one for each thread.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and _trim() is not None:  # the number of the option is glibc's
        mallopt(_MMAP_THRESHOLD, _LARGE_BUFFER_BYTES)


def give_back() -> None:
    """Return unused buffers, and memory that the C library caches, to the system.

    glibc caches several MiB for each thread that ever allocated. With many threads this adds up
    to more than the limit of an engine.
    """
    forget_buffers()
    trim = _trim()
    if trim is not None:
        trim(0)
