"""Cache with a limit in bytes and a choice of eviction policies."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

from godb_arrow.display import quantity, table_of, vars_of
from godb_arrow.errors import InvalidOption
from godb_arrow.extensions import extension, extension_names, unknown_name
from godb_arrow.options import parse_duration

__all__ = [
    "LFU",
    "LRU",
    "TTL",
    "CacheEntry",
    "CacheStats",
    "EvictionPolicy",
    "LRUCache",
    "check_policy",
]


logger = logging.getLogger(__name__)

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

# An entry is a list, because a list is created several times faster than an object.
_VALUE, _SIZE, _TICK, _ENTRY_KEY, _USES, _BORN = range(6)
_TICK_OF = itemgetter(_TICK)
_METHODS = ("rank", "lifetime")  # of an eviction policy
_MAX_RANKINGS = 4  # rankings by a policy for one eviction
_Entry = list[Any]


class CacheEntry(NamedTuple):
    """Cache entry as an eviction policy sees it.

    Attributes
    ----------
    key : hashable
        Key of the value.
    size : int
        Size in bytes.
    tick : int
        Time of the last use, in operations of the cache.
    uses : int
        Number of times the value was read.
    born : float
        Time when the value was added, in seconds of ``time.monotonic()``.
    """

    key: Any
    size: int
    tick: int
    uses: int
    born: float


class EvictionPolicy(Protocol):
    """Order in which cached values are evicted.

    Entries are ranked in batches. Entries added or used in between are kept until the next
    ranking.

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
        """Return the rank of an entry; the lowest is evicted first."""
        ...

    def lifetime(self) -> float | None:
        """Return the maximum age of a value in seconds; None for no limit."""
        ...


class LRU:
    """Policy that evicts the least recently used value first.

    Examples
    --------
    >>> cache = LRUCache(2, LRU())
    >>> _ = cache.put("a", 1, 1), cache.put("b", 2, 1), cache.get("a"), cache.put("c", 3, 1)
    >>> sorted(cache)
    ['a', 'c']
    """

    def rank(self, entry: CacheEntry) -> int:
        """Return the time of the last use."""
        return entry.tick

    def lifetime(self) -> float | None:
        """Return None, for no limit."""
        return None


class LFU:
    """Policy that evicts the least frequently used value first, and the older of equals.

    Examples
    --------
    >>> cache = LRUCache(2, LFU())
    >>> _ = cache.put("a", 1, 1), cache.get("a"), cache.put("b", 2, 1), cache.put("c", 3, 1)
    >>> sorted(cache)
    ['a', 'c']
    """

    def rank(self, entry: CacheEntry) -> tuple[int, int]:
        """Return the number of uses and the time of the last."""
        return (entry.uses, entry.tick)

    def lifetime(self) -> float | None:
        """Return None, for no limit."""
        return None


class TTL:
    """Policy that evicts the oldest value first and returns no value beyond its lifetime.

    Parameters
    ----------
    seconds : float
        Lifetime of a value in seconds.

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
        """Return the time when the value was added."""
        return entry.born

    def lifetime(self) -> float | None:
        """Return the lifetime in seconds."""
        return self.seconds


_POLICIES: dict[str, Callable[..., EvictionPolicy]] = {"lru": LRU, "lfu": LFU, "ttl": TTL}
_POLICY_GROUP = "godb_arrow.eviction_policies"


def check_policy(policy: object) -> EvictionPolicy | None:
    """Return an eviction policy, given the policy, its name, or None for the default.

    Parameters
    ----------
    policy : EvictionPolicy, str or None
        Name of a policy, such as ``"lfu"``, ``"ttl:60s"`` or one that another package adds.
        After a colon it has the lifetime of values.

    Raises
    ------
    InvalidOption
        No policy has the name, or the object lacks ``rank`` or ``lifetime``.

    Examples
    --------
    >>> check_policy("ttl:5min").lifetime()
    300.0
    """
    if isinstance(policy, str):
        name, colon, lifetime = policy.strip().lower().partition(":")
        make = _POLICIES.get(name) or extension(_POLICY_GROUP, name)
        if make is None or (name == "ttl" and not colon):
            raise unknown_name(
                "eviction_policy",
                policy,
                ["lru", "lfu", "ttl:60s", *extension_names(_POLICY_GROUP)],
            )
        arguments = [parse_duration("eviction_policy", lifetime)] if colon else []
        try:
            policy = make(*arguments)
        except TypeError as error:
            raise InvalidOption(
                f"eviction_policy is {policy!r}: {error}", advice=f"write {name!r}"
            ) from error
    if isinstance(policy, type) or not (
        policy is None or all(callable(getattr(policy, name, None)) for name in _METHODS)
    ):
        raise InvalidOption(
            f"eviction_policy is {policy!r}",
            advice="give LRU(), LFU(), TTL(60), or an object with the methods rank and lifetime",
        )
    return cast("EvictionPolicy | None", policy)


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts of a cache since it was created.

    Attributes
    ----------
    values, bytes : int
        Number of cached values and their bytes.
    hits, misses, evictions : int
        Number of hits, misses and evictions.
    """

    values: int
    bytes: int
    hits: int
    misses: int
    evictions: int

    def _repr_html_(self) -> str:
        return table_of("cache", vars_of(self))


class LRUCache(Generic[_Key, _Value]):
    """Thread-safe cache with a limit in bytes.

    Reading takes no lock: it only records the use in the entry, and eviction sorts by it.

    Parameters
    ----------
    limit : int
        Maximum bytes of all values.
    policy : EvictionPolicy, optional
        :class:`LRU` (the default), :class:`LFU`, :class:`TTL` or a custom policy.
    on_evict : callable, optional
        Function called with key and value of each evicted entry, without a lock held.

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
        # Ticks and keys, the next to evict last. A round has no values, so removed ones are freed.
        self._round: list[tuple[int, _Key]] = []
        self._removed = 0  # entries of the round that were removed since
        self._bytes = 0
        self._evictions = 0
        self._ticks = itertools.count(1)  # next() on it is atomic
        self._tick = self._ticks.__next__
        self._missed = itertools.count()
        self._miss = self._missed.__next__
        self._puts = 0

    @property
    def limit(self) -> int:
        """Maximum bytes of all values."""
        return self._limit

    @property
    def bytes(self) -> int:
        """Bytes of all values."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: _Key) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[_Key]:
        return iter(list(self._entries))

    def get(self, key: _Key) -> _Value | None:
        """Return the value of a key, or None."""
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
        """Add a value, replacing the key's earlier one and evicting others as needed.

        Parameters
        ----------
        key : hashable
            Key of the value.
        value : object
            Value to cache.
        size : int
            Size of the value in bytes.

        Returns
        -------
        bool
            Whether the value is cached; a value larger than the limit is not.
        """
        if size > self._limit:
            self._forget(key, None)
            return False
        entries = self._entries
        evicted: list[_Entry] = []
        rankings = 0
        try:
            while True:
                with self._lock:
                    entry = self._entry(key)
                    if entry is not None:
                        if entry[_SIZE] == size and self._is_lru:
                            self._puts += 1
                            entry[_VALUE] = value
                            entry[_TICK] = self._tick()
                            return True
                        self._drop(key, entry)
                    if self._bytes + size > self._limit:
                        evicted += self._evict(self._limit - size, rankings)
                    if self._bytes + size <= self._limit:
                        self._puts += 1
                        entries[key] = [value, size, self._tick(), key, 0, self._clock()]
                        self._bytes += size
                        return True
                self._rank()
                rankings += 1
        finally:
            if evicted:
                self._tell(evicted)

    def shrink(self, size: int) -> int:
        """Evict until the values have at most so many bytes, and return the bytes evicted."""
        evicted: list[_Entry] = []
        rankings = 0
        try:
            while True:
                with self._lock:
                    evicted += self._evict(size, rankings)
                    if self._bytes <= size or not self._entries:
                        return sum(entry[_SIZE] for entry in evicted)
                self._rank()
                rankings += 1
        finally:
            self._tell(evicted)

    def remove(self, key: _Key) -> None:
        """Remove a key, if it is cached."""
        self._forget(key, None)

    def _forget(self, key: _Key, entry: _Entry | None) -> None:
        with self._lock:
            cached = self._entries.get(key)
            if cached is not None and (entry is None or cached is entry):
                self._drop(key, cached)

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

    def __repr__(self) -> str:
        policy = type(self._policy).__name__
        held = f"{len(self)} values of {quantity(self._bytes)}"
        return f"<{type(self).__name__} {policy}, {held}, limit {quantity(self._limit)}>"

    def _repr_html_(self) -> str:
        known = {"policy": type(self._policy).__name__, "limit": quantity(self._limit)}
        return table_of("cache", {**known, **vars_of(self.stats())})

    def stats(self) -> CacheStats:
        """Return exact counts."""
        with self._lock:
            return CacheStats(
                values=len(self._entries),
                bytes=self._bytes,
                hits=_next_of(self._ticks) - 1 - self._puts,
                misses=_next_of(self._missed),
                evictions=self._evictions,
            )

    def _evict(self, size: int, rankings: int) -> list[_Entry]:
        """Evict ranked entries down to a size, as far as entries are ranked.

        The caller holds the lock, under which no policy of the caller runs. After
        `_MAX_RANKINGS` rankings the order of last use decides: an entry that is used between its
        ranking and its eviction needs another ranking.
        """
        entries = self._entries
        evicted = []
        while self._bytes > size and entries:
            if not self._round:
                if not self._is_lru and rankings < _MAX_RANKINGS:
                    break
                recent = sorted(entries.values(), key=_TICK_OF, reverse=True)
                self._round = [(entry[_TICK], entry[_ENTRY_KEY]) for entry in recent]
                self._removed = 0
            tick, key = self._round.pop()
            entry = entries.get(key)
            if entry is not None and entry[_TICK] == tick:  # no two entries share a tick
                del entries[key]
                self._bytes -= entry[_SIZE]
                self._evictions += 1
                evicted.append(entry)
        return evicted

    def _rank(self) -> None:
        """Rank all entries by the policy, without the lock: the policy may use the cache."""
        entries = [
            CacheEntry(key, size, tick, uses, born)
            for _, size, tick, key, uses, born in list(self._entries.values())
        ]
        entries.sort(key=self._policy.rank, reverse=True)
        with self._lock:
            if not self._round:  # another thread may have ranked them meanwhile
                self._round = [(entry.tick, entry.key) for entry in entries]
                self._removed = 0

    def _tell(self, evicted: list[_Entry]) -> None:
        if evicted:
            logger.debug(
                "evicted %d values, %d bytes", len(evicted), sum(e[_SIZE] for e in evicted)
            )
        for entry in evicted:
            if self._on_evict is not None:
                self._on_evict(entry[_ENTRY_KEY], entry[_VALUE])


def _next_of(counter: itertools.count[int]) -> int:
    """Return what ``next()`` would return, without advancing the counter."""
    return int(repr(counter)[len("count(") : -1])
