"""The cache: its weight, its policies, and exact counts under threads."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godb_arrow import LFU, LRU, TTL, LRUCache
from godb_arrow.memory.lru import CacheEntry, EvictionPolicy

POLICIES: list[EvictionPolicy] = [LRU(), LFU(), TTL(60)]

operations = st.lists(
    st.tuples(st.sampled_from(["get", "put", "remove", "shrink"]), st.integers(0, 6),
              st.integers(0, 12)),
)  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@given(operations)
def test_it_holds_what_was_put_last_and_never_too_much(
    policy: EvictionPolicy, steps: list[tuple[str, int, int]]
) -> None:
    evicted = []
    cache: LRUCache[int, object] = LRUCache(20, policy, lambda key, value: evicted.append(key))
    model: dict[int, tuple[object, int]] = {}
    hits = misses = 0
    for what, key, size in steps:
        if what == "put":
            value = object()
            assert cache.put(key, value, size)
            model[key] = (value, size)
        elif what == "get":
            found = cache.get(key)
            assert found is None or found is model[key][0]
            hits, misses = hits + (found is not None), misses + (found is None)
        elif what == "remove":
            cache.remove(key)
            model.pop(key, None)
        else:
            cache.shrink(size)
            assert cache.bytes <= size
        for gone in model.keys() - set(cache):
            assert gone in evicted
            del model[gone]
        assert set(cache) == model.keys()
        assert cache.bytes == sum(weight for _, weight in model.values()) <= 20
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.evictions) == (hits, misses, len(evicted))
    assert (stats.values, stats.bytes) == (len(cache), cache.bytes)


@given(operations)
def test_the_least_recently_used_goes_first(steps: list[tuple[str, int, int]]) -> None:
    cache: LRUCache[int, int] = LRUCache(20)
    model: OrderedDict[int, int] = OrderedDict()
    for what, key, size in steps:
        if what == "put":
            cache.put(key, key, size)
            model.pop(key, None)
            model[key] = size
            while sum(model.values()) > 20:
                model.popitem(last=False)
        elif what == "get" and cache.get(key) is not None:
            model.move_to_end(key)
        assert set(cache) == set(model)


def test_the_least_frequently_used_goes_first() -> None:
    cache: LRUCache[str, int] = LRUCache(3, LFU())
    for key in "abc":
        cache.put(key, 1, 1)
    for key in "aabcc":
        cache.get(key)
    cache.put("d", 1, 1)
    assert set(cache) == {"a", "c", "d"}


def test_what_is_too_old_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    cache: LRUCache[str, int] = LRUCache(3, TTL(10))
    cache.put("a", 1, 1)
    now += 9
    assert cache.get("a") == 1
    now += 2
    assert cache.get("a") is None
    assert len(cache) == 0


class _Tracked:
    """A key or a value that a weak reference can follow."""


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize("how", ["remove", "replace", "replace by one that is too large", "evict"])
def test_removed_values_are_freed_after_an_eviction(policy: EvictionPolicy, how: str) -> None:
    cache: LRUCache[int, _Tracked] = LRUCache(1000, policy)
    references = []
    for key in range(11):  # the eleventh evicts the first, so that a round of the policy is there
        value = _Tracked()
        references.append(weakref.ref(value))
        cache.put(key, value, 100)
    del value
    for key in range(11):
        if how == "remove":
            cache.remove(key)
        elif how == "evict":
            cache.shrink(0)
        else:
            cache.put(key, _Tracked(), 1 if how == "replace" else 1001)
    gc.collect()
    assert [reference() for reference in references] == [None] * 11


def test_removed_keys_do_not_pile_up_after_an_eviction() -> None:
    cache: LRUCache[_Tracked, int] = LRUCache(1000)
    references = []
    for _ in range(1001):
        key = _Tracked()
        references.append(weakref.ref(key))
        cache.put(key, 0, 1)
    del key
    for key in list(cache)[10:]:
        cache.remove(key)
    del key
    gc.collect()
    assert sum(reference() is not None for reference in references) <= 2 * len(cache)
    assert len(cache) == 10
    cache.shrink(3)
    assert len(cache) == 3


def test_what_is_larger_than_the_limit_is_not_held() -> None:
    cache: LRUCache[str, int] = LRUCache(10)
    cache.put("a", 1, 5)
    assert not cache.put("a", 2, 11)
    assert cache.get("a") is None


def test_a_policy_of_ones_own() -> None:
    class LargestFirst:
        def rank(self, entry: CacheEntry) -> int:
            return -entry.size

        def lifetime(self) -> float | None:
            return None

    cache: LRUCache[str, int] = LRUCache(10, LargestFirst())
    for key, size in (("a", 2), ("b", 6), ("c", 2), ("d", 2)):
        cache.put(key, 1, size)
    assert set(cache) == {"a", "c", "d"}


def test_counts_are_exact_under_threads() -> None:
    cache: LRUCache[int, int] = LRUCache(50)
    gets = 20_000
    found = [0] * 8

    def work(thread: int) -> None:
        chance = random.Random(thread)
        for _ in range(gets):
            found[thread] += cache.get(chance.randrange(100)) is not None
            if chance.random() < 0.1:
                cache.put(chance.randrange(100), 1, 1)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert stats.hits == sum(found)
    assert stats.hits + stats.misses == 8 * gets
    assert stats.bytes == stats.values <= 50


class Curious:
    """A policy that uses the cache while it ranks: here and from another thread."""

    cache: LRUCache[int, object]

    def rank(self, entry: CacheEntry) -> int:
        self.cache.get(entry.key)
        thread = threading.Thread(target=self.cache.stats, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "a lock is held while the policy ranks"
        return entry.tick

    def lifetime(self) -> float | None:
        return None


def test_no_lock_is_held_while_a_policy_ranks() -> None:
    policy = Curious()
    evicted: list[int] = []
    cache: LRUCache[int, object] = LRUCache(5, policy, lambda key, _: evicted.append(key))
    policy.cache = cache
    for key in range(8):
        assert cache.put(key, key, 1)
    assert len(cache) == cache.bytes == 5
    assert cache.shrink(2) == 3
    assert len(cache) == 2
    assert sorted([*cache, *evicted]) == list(range(8))


class Failing:
    def rank(self, entry: CacheEntry) -> int:
        raise ValueError(entry.key)

    def lifetime(self) -> float | None:
        return None


def test_a_policy_that_raises_leaves_the_cache_usable() -> None:
    cache: LRUCache[int, object] = LRUCache(3, Failing())
    for key in range(3):
        assert cache.put(key, key, 1)
    with pytest.raises(ValueError, match="0"):
        cache.put(3, 3, 1)
    assert sorted(cache) == [0, 1, 2]
    assert cache.bytes == 3
    cache.remove(1)
    assert cache.put(3, 3, 1)
