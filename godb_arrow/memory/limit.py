"""Memory limit of an engine: cached views, unsaved changes, streams and inserts."""

from __future__ import annotations

import ctypes
import threading
import weakref
from functools import cache
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from godb_arrow.memory.buffers import forget_buffers
from godb_arrow.memory.lru import EvictionPolicy, LRUCache
from godb_arrow.options import DEFAULT_DOCUMENT_BYTES
from godb_arrow.parallel import available_cores

__all__ = ["Counted", "IdleFile", "Memory", "give_back", "idle_files"]


_MIN_RUN_BYTES = 256 << 10
_MAX_RUN_BYTES = 8 << 20
_BYTES_PER_PIECE = 7 << 18  # most pieces of a file are smaller
_BYTES_PER_THREAD = 32 << 20
_MAX_IDLE_FILES = 200
_MIN_FILES = 8
_IDLE_FILES_DIVISOR, _OPEN_FILES_DIVISOR = 5, 3  # of the number of files a process may have open
_LOW_LIMIT_BYTES = 64 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_… of glibc's malloc.h
_MAX_MMAP_THRESHOLD = 32 << 20  # glibc takes no more
_KEPT_BYTES = 64 << 20  # of each heap
_LARGE_BUFFER_BYTES = 256 << 10
_HEAPS = 2
_CORES_PER_HEAP = 2
_RUNS_AHEAD = 3  # of a stream that reads ahead
_STREAMS_DIVISOR = 4  # part of the limit up to which streams read ahead, one in so many


_File = TypeVar("_File")


class IdleFile(Protocol):
    """Owner of an open file that can be opened again."""

    def close_if_idle(self) -> None:
        """Close the file, unless it is in use."""
        ...


def _close(_: int, file: IdleFile) -> None:
    file.close_if_idle()


def idle_files() -> LRUCache[int, IdleFile]:
    """Return a cache of open files that closes those that were not used for longest."""
    limit = max(_MIN_FILES, min(_MAX_IDLE_FILES, _allowed_files() // _IDLE_FILES_DIVISOR))
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
    """Memory accounting of an engine, with one limit in bytes.

    Views are cached as far as the limit allows. Unsaved changes have no other copy and are never
    evicted.

    Parameters
    ----------
    limit : int
        Memory limit in bytes.
    policy : EvictionPolicy, optional
        Order in which views are evicted.
    max_document_bytes : int
        Maximum bytes of a document that is read from a file, default 64 MiB.
    use_hints : bool
        Whether readers use what files record of their documents, default True.

    Attributes
    ----------
    cache : LRUCache
        Cached views. The first part of a key names the owner.
    files : LRUCache
        Idle open files, whose number is limited for each process.
    peak : int
        Peak memory use in bytes.
    is_closed : bool
        Whether files are closed as soon as they are idle.
    run_bytes : int
        Bytes that are read from a file at once. Each stream has several such reads in flight.
    threads : int
        Number of threads of a stream or checkpoint: fewer than cores where memory is short.

    Examples
    --------
    >>> memory = Memory(100)
    >>> memory.hold((1, "view"), "…", 60)
    True
    >>> memory.reserve("users", 50, 100), memory.set_changes("users", 50)
    (True, None)
    >>> memory.release("users")
    >>> memory.used, len(memory.cache)
    (50, 0)
    """

    def __init__(
        self,
        limit: int,
        policy: EvictionPolicy | None = None,
        max_document_bytes: int = DEFAULT_DOCUMENT_BYTES,
        use_hints: bool = True,
    ) -> None:
        self.limit = limit
        self.use_hints = use_hints
        self.max_document_bytes = max_document_bytes
        self.cache: LRUCache[tuple[Any, str], Any] = LRUCache(limit, policy)
        self.files = idle_files()
        self._most_open = max(_MIN_FILES, _allowed_files() // _OPEN_FILES_DIVISOR)
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self.is_closed = False
        # Reentrant: the garbage collector drops streams on any thread, also inside this lock.
        self._lock = threading.RLock()
        self._released = threading.Condition(self._lock)
        self._waiting = 0  # threads that wait for a release
        self._changes = self._streams = self._views = self._writes = self._reserved = 0
        self._reservations: dict[int, int] = {}
        self._changes_of: dict[int, int] = {}
        self.peak = 0
        if limit < _LOW_LIMIT_BYTES:
            keep_heaps_small()
        pieces = min(limit // 4, _BYTES_PER_PIECE)
        self.run_bytes = min(max(limit // 32, pieces, _MIN_RUN_BYTES), _MAX_RUN_BYTES)
        self.threads = max(1, min(available_cores(), limit // _BYTES_PER_THREAD))

    @property
    def changes(self) -> int:
        """Bytes of unsaved changes."""
        return self._changes

    @property
    def streams(self) -> int:
        """Bytes of documents and batches in streams, also of those to be cached at their end."""
        return self._streams + self._views

    @property
    def writes(self) -> int:
        """Bytes of documents that inserts and uploads collect."""
        return self._writes

    @property
    def used(self) -> int:
        """Bytes in use in total."""
        return self._changes + self.streams + self._writes + self.cache.bytes

    @property
    def room(self) -> int:
        """Bytes available if all views were evicted; not below 0."""
        held = self._changes + self._reserved + self.streams + self._writes
        return max(0, self.limit - held)

    def may_read_ahead(self) -> bool:
        """Return whether streams have room for documents that no caller asked for yet."""
        # Views to be cached do not count: a stream that builds one reads ahead, too.
        ahead = _RUNS_AHEAD * self.run_bytes
        return self._streams + ahead <= self.limit // _STREAMS_DIVISOR

    def reserve(self, owner: object, size: int, limit: int) -> bool:
        """Reserve bytes for a change, if all changes stay within a limit, and evict views for it.

        The caller holds no lock: a policy of the caller may run.

        Parameters
        ----------
        owner : object
            Owner of the reservation, for :meth:`release`.
        size : int
            Bytes that the change will take.
        limit : int
            Maximum bytes of all changes, including reserved ones.

        Returns
        -------
        bool
            Whether the bytes are reserved, until :meth:`release`.
        """
        with self._lock:
            total = self._reserved + size
            if self._changes + total > limit:
                return False
            # An interrupt cannot divide this single statement.
            self._reservations[id(owner)], self._reserved = size, total
        if self.used + self._reserved > self.limit:
            self.cache.shrink(self.room)
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
        """Wait while changes of other threads reserve the bytes that a change needs.

        Returns
        -------
        bool
            False if nothing is reserved, so that waiting does not help.
        """
        with self._lock:  # in C, so that an interrupt cannot lose it
            if not self._reserved:
                return False
            self._waiting += 1
            try:
                self._released.wait_for(lambda: not self._reserved or size <= self.room)
            finally:
                self._waiting -= 1
            return True

    def may_build(self, size: int) -> bool:
        """Return whether a stream has room for more bytes of a view that it builds."""
        return size <= self.room and self.streams + size <= self.limit // 2

    def take(self, *, streams: int = 0, views: int = 0, writes: int = 0) -> None:
        """Add bytes to what is in use; negative numbers subtract.

        Parameters
        ----------
        streams : int
            Bytes of documents and batches that wait in streams.
        views : int
            Bytes of batches that streams collect to cache them.
        writes : int
            Bytes of documents that inserts and uploads collect.
        """
        with self._lock:
            self._streams += streams
            self._views += views
            self._writes += writes
        if streams + views + writes > 0:
            self._make_room()

    def set_changes(self, owner: object, size: int) -> None:
        """Set the bytes that the unsaved changes of a collection use.

        Nothing is evicted, since the caller holds the collection's lock: views were evicted when
        the bytes were reserved.
        """
        with self._lock:
            before = self._changes_of.get(id(owner), 0)
            total = self._changes - before + size
            # A single statement, so that an interrupt cannot separate the two.
            self._changes_of[id(owner)], self._changes = size, total
            if not size:
                del self._changes_of[id(owner)]
        self.peak = max(self.peak, self.used)

    def add_changes(self, owner: object, size: int) -> bool:
        """Add bytes of unsaved changes, if no view must be evicted and nothing saved for them.

        Parameters
        ----------
        owner : object
            Owner of the changes, as for :meth:`set_changes`.
        size : int
            Bytes to add.

        Returns
        -------
        bool
            Whether the bytes are added.
        """
        with self._lock:
            total = self._changes + size
            wanted = total + self._reserved
            used = total + self.streams + self._writes + self.cache.bytes
            if wanted > self.limit // 2 or used + self._reserved > self.limit:
                return False
            changes_of = self._changes_of.get(id(owner), 0) + size
            # A single statement, so that an interrupt cannot separate the two.
            self._changes_of[id(owner)], self._changes = changes_of, total
        self.peak = max(self.peak, used)
        return True

    def hold(self, key: tuple[Any, str], value: Any, size: int) -> bool:
        """Cache a view if there is room for it, evicting others."""
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
        """Return unused memory to the system after a stream, where the limit is low."""
        if self.limit < _LOW_LIMIT_BYTES:
            give_back()

    def _make_room(self) -> None:
        used = self.used
        if used > self.limit:
            self.cache.shrink(self.room)
            used = self.used
        self.peak = max(self.peak, used)


class Counted:
    """Count of the bytes of one value that a stream or a writer has.

    A value that is abandoned is no longer counted when its count is collected, on any thread.

    Parameters
    ----------
    memory : Memory
        Memory that counts the bytes.
    streams, views, writes : int
        Bytes, as for :meth:`Memory.take`.

    Examples
    --------
    >>> memory = Memory(100)
    >>> counted = Counted(memory, streams=40)
    >>> memory.used, counted.release(), memory.used
    (40, None, 0)
    """

    __slots__ = ("_memory", "_streams", "_views", "_writes")

    def __init__(
        self, memory: Memory, *, streams: int = 0, views: int = 0, writes: int = 0
    ) -> None:
        self._memory = memory
        self._streams = self._views = self._writes = 0
        self.add(streams=streams, views=views, writes=writes)

    def add(self, *, streams: int = 0, views: int = 0, writes: int = 0) -> None:
        """Count more bytes."""
        self._streams += streams
        self._views += views
        self._writes += writes
        self._memory.take(streams=streams, views=views, writes=writes)

    def release(self) -> None:
        """Count the bytes no longer."""
        streams, self._streams = self._streams, 0
        views, self._views = self._views, 0
        writes, self._writes = self._writes, 0
        if streams or views or writes:
            self._memory.take(streams=-streams, views=-views, writes=-writes)

    __del__ = release


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


@cache
def keep_heaps_small() -> None:
    """Make malloc keep little freed memory, in the whole process.

    glibc returns large buffers to the system at first. Once a large buffer was freed, glibc raises
    its threshold and keeps buffers of that size in its heaps. It has a heap for each thread, and
    memory that one thread freed is of no use to the others. The memory of freed columns goes back,
    too.
    """
    forget_buffers(closed=True)
    _set_malloc({_MMAP_THRESHOLD: _LARGE_BUFFER_BYTES, _ARENA_MAX: _HEAPS})


def keep_freed_memory() -> None:
    """Make malloc keep freed memory for the next piece of a file, in the whole process.

    By default, memory of this size goes back to the system, which clears each page that it gives
    again. Threads share heaps, because one thread frees what another one allocated.
    """
    heaps = max(1, available_cores() // _CORES_PER_HEAP)
    _set_malloc(
        {_MMAP_THRESHOLD: _MAX_MMAP_THRESHOLD, _TRIM_THRESHOLD: _KEPT_BYTES, _ARENA_MAX: heaps}
    )


def _set_malloc(options: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and _trim() is not None:  # the numbers of the options are glibc's
        for option, value in options.items():
            mallopt(option, value)


def give_back() -> None:
    """Return unused buffers, and memory that the C library and Arrow cache, to the system.

    Both cache several MiB for each thread that ever allocated. With many threads this adds up to
    more than the limit of an engine.
    """
    forget_buffers()
    pa.default_memory_pool().release_unused()
    trim = _trim()
    if trim is not None:
        trim(0)
