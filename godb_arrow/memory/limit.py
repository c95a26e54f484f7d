"""The memory that an engine may take: cached views, unsaved changes and stream buffers."""

from __future__ import annotations

import ctypes
import threading
import weakref
from functools import cache
from typing import Any, Protocol, TypeVar

from godb_arrow.memory.buffers import forget_buffers
from godb_arrow.memory.lru import EvictionPolicy, LRUCache
from godb_arrow.options import DEFAULT_DOCUMENT_BYTES
from godb_arrow.parallel import available_cores

__all__ = ["IdleFile", "Memory", "give_back", "idle_files"]


_LEAST_RUN = 256 << 10
_MOST_RUN = 8 << 20
_OF_A_PIECE = 7 << 18  # bytes that most pieces of a file are below
_OF_A_THREAD = 32 << 20
_MOST_FILES = 200  # open files that are not in use
_FEWEST_FILES = 8
_PART_IDLE, _PART_USED = 5, 3  # divisors of the number of files that a process may have open
_SHORT = 64 << 20
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE = 256 << 10


_File = TypeVar("_File")


class IdleFile(Protocol):
    """Owner of an open file that can be opened again."""

    def close_if_idle(self) -> None:
        """Close the file unless it is in use."""
        ...


def _close(_: int, file: IdleFile) -> None:
    file.close_if_idle()


def idle_files() -> LRUCache[int, IdleFile]:
    """Return a cache of open files that closes those that were not used for longest."""
    limit = max(_FEWEST_FILES, min(_MOST_FILES, _allowed_files() // _PART_IDLE))
    return LRUCache(int(limit), on_evict=_close)


def _allowed_files() -> float:
    """Return how many files this process may have open."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return float("inf")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft


class Memory:
    """One limit in bytes for all that an engine holds.

    Views are held as far as the rest leaves room; what has no other copy is never given up.

    Parameters
    ----------
    limit : int
        Bytes.
    policy : EvictionPolicy, optional
        Which views go first.
    max_document_bytes : int
        Max bytes of a document that is read from a file, default 64 MiB.

    Attributes
    ----------
    cache : LRUCache
        The views: the first part of a key says whose they are.
    files : LRUCache
        Files that stay open although they are not in use: a process may have only so many.
    peak : int
        The most bytes that were taken at a time.
    is_closed : bool
        Whether no file stays open any more that is not in use.
    run_bytes : int
        Bytes that are read from a file at once: several runs are on their way in each stream.
    threads : int
        How many threads work for one stream or checkpoint: with little memory, fewer than cores.

    Examples
    --------
    >>> memory = Memory(100)
    >>> memory.hold((1, "view"), "…", 60)
    True
    >>> memory.set_changes("users", 50)
    >>> memory.used, len(memory.cache)
    (50, 0)
    """

    def __init__(
        self,
        limit: int,
        policy: EvictionPolicy | None = None,
        max_document_bytes: int = DEFAULT_DOCUMENT_BYTES,
    ) -> None:
        self.limit = limit
        self.max_document_bytes = max_document_bytes
        self.cache: LRUCache[tuple[Any, str], Any] = LRUCache(limit, policy)
        self.files = idle_files()
        self._most_open = max(_FEWEST_FILES, _allowed_files() // _PART_USED)
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self.is_closed = False
        # Reentrant: the garbage collector drops streams on any thread, also inside this lock.
        self._lock = threading.RLock()
        self._released = threading.Condition(self._lock)
        self._waiting = 0  # threads that wait for a release
        self._changes = self._streams = self._reserved = 0
        self._reservations: dict[int, int] = {}
        self._changes_of: dict[int, int] = {}
        self.peak = 0
        if limit < _SHORT:
            keep_large_apart()
        pieces = min(limit // 4, _OF_A_PIECE)
        self.run_bytes = min(max(limit // 32, pieces, _LEAST_RUN), _MOST_RUN)
        self.threads = max(1, min(available_cores(), limit // _OF_A_THREAD))

    @property
    def changes(self) -> int:
        """Bytes that changes have."""
        return self._changes

    @property
    def streams(self) -> int:
        """Bytes that wait in streams."""
        return self._streams

    @property
    def used(self) -> int:
        """Bytes that are taken in all."""
        return self._changes + self._streams + self.cache.bytes

    @property
    def room(self) -> int:
        """Bytes that are left, were all views given up; not below 0."""
        return max(0, self.limit - self._changes - self._reserved - self._streams)

    def reserve(self, owner: object, size: int, limit: int) -> bool:
        """Reserve bytes for a change, if all changes stay within a limit.

        Parameters
        ----------
        owner : object
            Owner of the reservation, for :meth:`release`.
        size : int
            Bytes that the change will take.
        limit : int
            Max bytes of all changes, with those that are reserved.

        Returns
        -------
        bool
            Whether they are reserved, until :meth:`release`.
        """
        with self._lock:
            total = self._reserved + size
            if self._changes + total > limit:
                return False
            # One statement: no interrupt comes between.
            self._reservations[id(owner)], self._reserved = size, total
            return True

    def release(self, owner: object) -> None:
        """Release the bytes that an owner reserved, if there are any."""
        with self._lock:
            total = self._reserved - self._reservations.get(id(owner), 0)
            self._reservations[id(owner)], self._reserved = 0, total
            del self._reservations[id(owner)]
            if self._waiting:
                self._released.notify_all()

    def wait_for_release(self, size: int) -> bool:
        """Wait while changes of other threads reserve what another one needs.

        Returns
        -------
        bool
            False where nothing is reserved, so that waiting does not help.
        """
        with self._released:
            if not self._reserved:
                return False
            self._waiting += 1
            try:
                self._released.wait_for(lambda: not self._reserved or size <= self.room)
            finally:
                self._waiting -= 1
            return True

    def take(self, *, streams: int) -> None:
        """Count bytes of batches that wait in streams, or fewer when negative."""
        with self._lock:
            self._streams += streams
        if streams > 0:
            self._make_room()

    def set_changes(self, owner: object, size: int) -> None:
        """Count the bytes that the unsaved changes of a collection take, in place of its last."""
        with self._lock:
            before = self._changes_of.get(id(owner), 0)
            total = self._changes - before + size
            # One statement: no interrupt comes between.
            self._changes_of[id(owner)], self._changes = size, total
            if not size:
                del self._changes_of[id(owner)]
        if size > before:
            self._make_room()

    def hold(self, key: tuple[Any, str], value: Any, size: int) -> bool:
        """Hold a view, if there is room for it; others go first."""
        if size > self.room:
            return False
        held = self.cache.put(key, value, size)
        self._make_room()
        return held

    def close(self) -> None:
        """Release the views, and close all files as soon as nothing reads them."""
        self.is_closed = True
        self.cache.shrink(0)
        self.files.shrink(0)

    def opened(self, file: _File) -> _File:
        """Count an open file until it is collected, and return it."""
        self._open.add(file)
        return file

    def has_room_for_files(self, count: int) -> bool:
        """Return whether so many more files may be open at once; idle ones are closed first."""
        if len(self._open) + count > self._most_open:
            self.files.shrink(0)
        return len(self._open) + count <= self._most_open

    def tidy(self) -> None:
        """After a stream: where memory is short, give back what it does not need any more."""
        if self.limit < _SHORT:
            give_back()

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
    """Have large buffers go back to the system when they are freed, for the whole process.

    glibc does so in the beginning, but once one was freed it keeps others of its size among the
    small ones, for each thread.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and _trim() is not None:  # glibc: others have other numbers
        mallopt(_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Give back to the system what is kept for later: buffers, and what its C library keeps.

    glibc keeps several MiB for each thread that once took memory, which adds up beyond the limit
    of an engine that many threads use.
    """
    forget_buffers()
    trim = _trim()
    if trim is not None:
        trim(0)
