"""A cache that is weighed in bytes, and forgets what its policy ranks lowest."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

__all__ = ["LFU", "LRU", "TTL", "CacheEntry", "CacheStats", "EvictionPolicy", "LRUCache"]


logger = logging.getLogger(__name__)

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class CacheEntry(NamedTuple):
    """What a policy ranks a value by.

    Attributes
    ----------
    key : hashable
        The value's key.
    size : int
        Bytes.
    tick : int
        When it was put or got last, in operations of the cache.
    uses : int
        How often it was got.
    born : float
        When it was put, in seconds of ``time.monotonic()``.
    """

    key: Any
    size: int
    tick: int
    uses: int
    born: float


class EvictionPolicy(Protocol):
    """Which value goes first.

    Values are ranked in rounds: all at once, and when each was evicted, or was used since, all
    again. So what is put or used in a round is safe until the next.

    Examples
    --------
    >>> class LargestFirst:
    ...     def rank(self, entry):
    ...         return -entry.size
    ...     def lifetime(self):
    ...         return None
    >>> cache = LRUCache(10, LargestFirst())
    >>> _ = cache.put("large", "…", 8), cache.put("small", "…", 1), cache.put("new", "…", 3)
    >>> sorted(cache)
    ['new', 'small']
    """

    def rank(self, entry: CacheEntry) -> Any:
        """What is lowest goes first."""
        ...

    def lifetime(self) -> float | None:
        """For how many seconds a value is given out; None for as long as it is held."""
        ...


class LRU:
    """The value that was not used for longest goes first.

    Examples
    --------
    >>> cache = LRUCache(2, LRU())
    >>> _ = cache.put("a", 1, 1), cache.put("b", 2, 1), cache.get("a"), cache.put("c", 3, 1)
    >>> sorted(cache)
    ['a', 'c']
    """

    def rank(self, entry: CacheEntry) -> int:
        """When it was used last."""
        return entry.tick

    def lifetime(self) -> float | None:
        """No limit."""
        return None


class LFU:
    """The value that was used least often goes first, and of equals the older.

    Examples
    --------
    >>> cache = LRUCache(2, LFU())
    >>> _ = cache.put("a", 1, 1), cache.get("a"), cache.put("b", 2, 1), cache.put("c", 3, 1)
    >>> sorted(cache)
    ['a', 'c']
    """

    def rank(self, entry: CacheEntry) -> tuple[int, int]:
        """How often it was used, and when last."""
        return (entry.uses, entry.tick)

    def lifetime(self) -> float | None:
        """No limit."""
        return None


class TTL:
    """The oldest value goes first, and none is given out after its time.

    Parameters
    ----------
    seconds : float
        How long a value lives.

    Examples
    --------
    >>> import time
    >>> cache = LRUCache(10, TTL(0.001))
    >>> _ = cache.put("a", 1, 1)
    >>> time.sleep(0.01)
    >>> print(cache.get("a"))
    None
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def rank(self, entry: CacheEntry) -> float:
        """When it was put."""
        return entry.born

    def lifetime(self) -> float | None:
        """The seconds."""
        return self.seconds


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts of a cache since it was made.

    Attributes
    ----------
    values, bytes : int
        What it holds.
    hits, misses, evictions : int
        What happened.
    """

    values: int
    bytes: int
    hits: int
    misses: int
    evictions: int


# An entry is a list, which is made several times faster than an object.
_VALUE, _SIZE, _TICK, _ENTRY_KEY, _USES, _BORN = range(6)
_Entry = list[Any]


class LRUCache(Generic[_Key, _Value]):
    """A thread-safe cache with a limit in bytes.

    Getting takes no lock: an entry only notes when it was used, and eviction sorts that out.

    Parameters
    ----------
    limit : int
        Bytes that the values may have together.
    policy : EvictionPolicy, optional
        :class:`LRU` (the default), :class:`LFU`, :class:`TTL`, or your own.
    on_evict : callable, optional
        Called with the key and the value of each that is evicted, without a lock held.

    Examples
    --------
    >>> cache = LRUCache(100)
    >>> cache.put("a", "value", 60)
    True
    >>> cache.put("b", "value", 60)
    True
    >>> cache.get("a"), cache.get("b")
    (None, 'value')
    >>> cache.stats()
    CacheStats(values=1, bytes=60, hits=1, misses=1, evictions=1)
    """

    def __init__(
        self,
        limit: int,
        policy: EvictionPolicy | None = None,
        on_evict: Callable[[_Key, _Value], None] | None = None,
    ) -> None:
        self._limit = limit
        self._policy: EvictionPolicy = policy or LRU()
        self._lifetime = self._policy.lifetime()
        self._is_lru = type(self._policy) is LRU
        self._clock: Callable[[], float] = float if self._is_lru else time.monotonic
        self._on_evict = on_evict
        self._entries: dict[_Key, _Entry] = {}
        self._entry = self._entries.get
        self._lock = threading.Lock()
        # Ticks and keys, the next to evict last. A round holds no value, so a removed one is freed.
        self._round: list[tuple[int, _Key]] = []
        self._removed = 0  # entries of the round that were removed since
        self._bytes = 0
        self._evictions = 0
        self._ticks = itertools.count(1)  # next() of it is one step, which no thread divides
        self._tick = self._ticks.__next__
        self._missed = itertools.count()
        self._miss = self._missed.__next__
        self._puts = 0

    @property
    def limit(self) -> int:
        """Bytes that the values may have together."""
        return self._limit

    @property
    def bytes(self) -> int:
        """Bytes that the values have."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: _Key) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[_Key]:
        return iter(list(self._entries))

    def get(self, key: _Key) -> _Value | None:
        """The value of a key, or None."""
        entry = self._entry(key)
        if entry is None:
            self._miss()
            return None
        if not self._is_lru:
            if self._lifetime is not None and time.monotonic() - entry[_BORN] > self._lifetime:
                self._forget(key, entry)
                self._miss()
                return None
            entry[_USES] += 1
        entry[_TICK] = self._tick()
        value: _Value = entry[_VALUE]
        return value

    def put(self, key: _Key, value: _Value, size: int) -> bool:
        """Hold a value, in place of the key's earlier one; others go as far as needed.

        Parameters
        ----------
        key : hashable
            The key.
        value : object
            The value.
        size : int
            Its bytes.

        Returns
        -------
        bool
            Whether it is held: a value that is larger than the limit is not.
        """
        if size > self._limit:
            self._forget(key, None)
            return False
        evicted = None
        entries = self._entries
        with self._lock:
            self._puts += 1
            found = self._entry(key)
            if found is not None and found[_SIZE] == size and self._is_lru:
                found[_VALUE] = value
                found[_TICK] = self._tick()
                return True
            if found is not None:
                self._drop(key, found)
            if self._bytes + size > self._limit:
                evicted = self._evict(self._limit - size)
            entries[key] = [value, size, self._tick(), key, 0, self._clock()]
            self._bytes += size
        if evicted:
            self._tell(evicted)
        return True

    def shrink(self, size: int) -> int:
        """Evict until the values have at most so many bytes; returns how many bytes went."""
        with self._lock:
            before = self._bytes
            evicted = self._evict(size)
            freed = before - self._bytes
        self._tell(evicted)
        return freed

    def remove(self, key: _Key) -> None:
        """Forget a key, if it is there."""
        self._forget(key, None)

    def _forget(self, key: _Key, entry: _Entry | None) -> None:
        with self._lock:
            found = self._entries.get(key)
            if found is not None and (entry is None or found is entry):
                self._drop(key, found)

    def _drop(self, key: _Key, entry: _Entry) -> None:
        """Forget an entry; the caller holds the lock."""
        del self._entries[key]
        self._bytes -= entry[_SIZE]
        self._removed += 1
        if 2 * self._removed > len(self._round):  # each removal pays for two entries of the round
            current = self._entry
            self._round = [
                (tick, key)
                for tick, key in self._round
                if (found := current(key)) is not None and found[_TICK] == tick
            ]
            self._removed = 0

    def size_of(self, key: _Key) -> int:
        """Return the bytes of a key's value; 0 where the cache has none."""
        entry = self._entries.get(key)
        return 0 if entry is None else int(entry[_SIZE])

    def stats(self) -> CacheStats:
        """Exact counts."""
        with self._lock:
            return CacheStats(
                values=len(self._entries),
                bytes=self._bytes,
                hits=_next_of(self._ticks) - 1 - self._puts,
                misses=_next_of(self._missed),
                evictions=self._evictions,
            )

    def _evict(self, size: int) -> list[_Entry]:
        entries = self._entries
        evicted = []
        while self._bytes > size and entries:
            if not self._round:
                self._round = [(entry[_TICK], entry[_ENTRY_KEY]) for entry in self._ranked()]
                self._removed = 0
            tick, key = self._round.pop()
            entry = entries.get(key)
            if entry is not None and entry[_TICK] == tick:  # no two entries share a tick
                del entries[key]
                self._bytes -= entry[_SIZE]
                self._evictions += 1
                evicted.append(entry)
        return evicted

    def _ranked(self) -> list[_Entry]:
        """All entries, with the one to go first at the end."""
        entries = list(self._entries.values())
        if self._is_lru:
            return sorted(entries, key=itemgetter(_TICK), reverse=True)
        rank = self._policy.rank

        def rank_of(entry: _Entry) -> Any:
            _, size, tick, key, uses, born = entry
            return rank(CacheEntry(key, size, tick, uses, born))

        return sorted(entries, key=rank_of, reverse=True)

    def _tell(self, evicted: list[_Entry]) -> None:
        for entry in evicted:
            if self._on_evict is not None:
                self._on_evict(entry[_ENTRY_KEY], entry[_VALUE])


def _next_of(counter: itertools.count[int]) -> int:
    """What next() would give, without taking it."""
    return int(repr(counter)[len("count(") : -1])
