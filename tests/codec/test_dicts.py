"""Documents as dicts: the kernel and the reference codec agree on every value and on damage."""

from __future__ import annotations

import datetime as dt
import random
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.settings import examples
from support.strategies import raw_values

from godb_arrow import CorruptFile, LimitExceeded, codec
from godb_arrow.codec.reference import dicts as reference
from godb_arrow.documents.loading import load_chunks

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
from differential import check_dicts, corpus, mutate

native = pytest.importorskip("godb_arrow.codec.native")

HEADS = [b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff", b"\xc7\x08\xff", b"\xc8\x00\x04\xff"]


@pytest.fixture(params=[True, False], ids=["slots", "public"], autouse=True)
def slots(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Decode with the known layout of dicts, and with Python's public functions."""
    native._native.use_slots(request.param)
    yield request.param
    native._native.use_slots(True)


def entries_of(documents: list[Any]) -> codec.Entries:
    raw = b"".join(
        codec.pack(str(index)) + msgpack.packb(document, unicode_errors="surrogateescape")
        for index, document in enumerate(documents)
    )
    return codec.scan_entries(raw, 0, len(documents), len(raw) + 1, 0)


names = st.sampled_from(["a", "b", "c", "_id", "é", "k" * 31, "k" * 32, "d" * 300])
maps = st.dictionaries(names, raw_values, max_size=5)


@settings(max_examples=examples(50, long=3000))
@given(st.lists(maps, max_size=6), st.randoms(use_true_random=False))
def test_documents_are_the_same_dicts(documents: list[Any], rng: random.Random) -> None:
    documents += [dict(rng.sample(list(one.items()), len(one))) for one in documents] * 2
    check_dicts(entries_of(documents), rng)


@given(raw_values)
def test_values_are_the_same(value: Any) -> None:
    raw = msgpack.packb(value, unicode_errors="surrogateescape")
    assert repr(native.load(raw)) == repr(reference.load(raw))


def test_damaged_documents_are_refused_by_both() -> None:
    rng = random.Random(5)
    seeds = corpus()
    for _ in range(1_500):
        raw = mutate(rng.choice(seeds), seeds, rng)
        outcomes = []
        for module in (native, reference):
            try:
                outcomes.append(repr(module.load(raw)))
            except CorruptFile as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1], raw.hex()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x82\xa1a\x01\xd9\x01a\x02",  # and with another head
        b"\x83\x01a\xcb\x3f\xf0\0\0\0\0\0\0b\xc3c",  # equal numbers
        b"\x81\x91\x01\x02",  # a key that is a list
        b"\x81\xd6\xff\0\0\0\1\x02",  # a key that is a timestamp
        b"\x81\xa1t\xd6\xff\0\0\0\1",
        b"\x81\xa1t\xc7\x04\xff\0\0\0\1",
        b"\x81\xa1t\xc8\x00\x04\xff\0\0\0\1",
        b"\x81\xa1t\xc9\0\0\0\x08\xff\0\0\0\0\0\0\0\1",
        b"\x81\xa1t\xd7\xff" + b"\xff" * 8,  # too many nanoseconds
        b"\x81\xa1t\xc7\x0c\xff" + (999_999_000).to_bytes(4, "big") + b"\x80" + bytes(7),
        b"\x81\xa1x\xd4\x05a\xa0",
        b"\x81\xa1x\xd4\xfba",  # a reserved extension
        b"\x81\xa1x" + b"\x91" * 200 + b"\x01",
        b"\x81\xa1x" + b"\x91" * 2000 + b"\x01",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff\x01",
        b"\x81\xa1x\xdb\xff\xff\xff\xffab",
        b"\x81\xa2\xc3\x28\xa3\xed\xa0\x80",  # not UTF-8
        b"\x81\xa1x\xc1",
        b"\x80\x80",
        b"",
    ],
)
def test_rare_documents(raw: bytes) -> None:
    for _ in range(3):
        outcomes = []
        for module in (native, reference):
            try:
                outcomes.append(repr(module.load(raw)))
            except (CorruptFile, RecursionError) as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "moment",
    [
        dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999),
        dt.datetime(1969, 12, 31, 23, 59, 59, 999_999), dt.datetime(2000, 2, 29, 12),
        dt.datetime(1900, 3, 1), dt.datetime(1600, 2, 29), dt.datetime(1970, 1, 1),
    ],
)  # fmt: skip
def test_moments(moment: dt.datetime) -> None:
    moment = moment.replace(tzinfo=dt.UTC)
    assert native.load(codec.pack({"t": moment})) == {"t": moment}


def test_moments_of_any_day() -> None:
    rng = random.Random(3)
    for _ in range(500):
        stamp = msgpack.Timestamp(rng.randrange(-63_000_000_000, 254_000_000_000), 0)
        raw = msgpack.packb({"t": stamp})
        assert native.load(raw) == reference.load(raw)


def test_documents_get_the_id_of_their_collection() -> None:
    documents = [
        {"_id": "0", "a": 1}, {"a": 1}, {"a": 1, "_id": "x"}, {"_id": b"3"}, {"_id": 4, "b": 1},
        {}, {b"_id": "6"},
    ]  # fmt: skip
    loaded = [one for chunk in load_chunks(entries_of(documents)) for one in chunk]
    expected = [codec.with_id(one, str(index)) for index, one in enumerate(documents)]
    assert [list(one.items()) for one in loaded] == [list(one.items()) for one in expected]


def test_documents_before_a_damaged_one_are_loaded() -> None:
    entries = entries_of([{"a": index} for index in range(100)])
    damaged = bytearray(entries.data)
    damaged[entries.bounds[2 * 70 + 1]] = 0xC1
    chunks = load_chunks(codec.Entries(bytes(damaged), entries.bounds))
    loaded: list[Any] = []
    with pytest.raises(CorruptFile, match="'70'"):
        loaded.extend(one for chunk in chunks for one in chunk)
    assert [one["a"] for one in loaded] == list(range(70))
    rows = np.array([3, 71, 99], np.uint64)
    assert [[one["a"] for one in chunk] for chunk in load_chunks(entries, rows)] == [[3, 71, 99]]


def test_loaded_documents_are_not_shared_and_lose_no_reference() -> None:
    entries = entries_of([{"a": "text", "b": [1, {"c": None}], "c": 1.5} for _ in range(50)])
    none = sys.getrefcount(None)
    for _ in range(30):
        first, second = (native.load_documents(entries, None, 0) for _ in range(2))
        first[0]["a"] = "changed"
        first[0]["b"][1]["d"] = first[0]
        del first[1]["c"]
        assert second == native.load_documents(entries, None, 0)
        assert second[1]["a"] == "text"
        del first, second
    assert abs(sys.getrefcount(None) - none) < 200  # Counted only before Python 3.12.


def test_memory_stays_bounded_with_new_keys_in_each_document() -> None:
    def load(number: int) -> None:
        raw = codec.pack({f"key {number} {at}": {f"deep {number}": at} for at in range(10)})
        assert len(native.load(raw)) == 10

    for number in range(500):
        load(number)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(500, 3_000):
        load(number)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 300_000


class Numbers(codec.ChunkIterator):  # type: ignore[name-defined, misc]
    """Iterator over three lists."""

    def __init__(self) -> None:
        super().__init__()
        self.lists = [[1, 2], [], [3]]

    def _fill(self) -> None:
        if not self.lists:
            raise StopIteration
        self.give(self.lists.pop(0))


class Doubled(Numbers):
    """Iterator with a method of its own."""

    def __next__(self) -> Any:
        return 2 * super().__next__()


def test_chunks_are_iterated_one_by_one() -> None:
    numbers = Numbers()
    assert next(numbers) == 1
    assert numbers.has_items
    assert list(numbers) == [2, 3]
    assert next(numbers, None) is None
    assert list(Doubled()) == [2, 4, 6]
    assert list(reference.ChunkIterator()) == []


# --- keys that collide in a dict --------------------------------------------------------------

PRIMES = [11400714785074694791, 14029467366897019727, 2870177450012600261]  # of a tuple's hash
INVERSES = [pow(PRIMES[0], -1, 1 << 64), pow(PRIMES[1], -1, 1 << 64)]
WORD = (1 << 64) - 1


def turned(word: int) -> int:
    """Return the word before CPython rotates and multiplies it."""
    word = word * INVERSES[0] & WORD
    return (word >> 31 | word << 33) & WORD


def colliding_pairs(count: int) -> list[tuple[int, int]]:
    """Return seconds and nanoseconds whose tuples have the same hash in CPython."""
    pairs: list[tuple[int, int]] = []
    nanoseconds = 0
    while len(pairs) < count:
        start = turned(0x1234567890ABCDEF) - nanoseconds * PRIMES[1] & WORD
        seconds = (turned(start) - PRIMES[2]) * INVERSES[1] & WORD
        if seconds < (1 << 61) - 1:
            pairs.append((seconds, nanoseconds))
        nanoseconds += 1
    return pairs


@pytest.mark.parametrize("kind", ["timestamps", "arrays", "maps", "nested arrays"])
def test_keys_that_collide_are_refused(kind: str) -> None:
    pairs = colliding_pairs(2000)
    assert len(set(map(hash, pairs))) == 1
    keys: list[bytes] = {
        "timestamps": [
            b"\xc7\x0c\xff" + nanos.to_bytes(4, "big") + seconds.to_bytes(8, "big")
            for seconds, nanos in pairs
        ],
        "arrays": [msgpack.packb(pair) for pair in pairs],
        "maps": [msgpack.packb({pair[0]: pair[1]}) for pair in pairs],
        "nested arrays": [msgpack.packb([pair]) for pair in pairs],
    }[kind]
    value = b"\xde" + len(keys).to_bytes(2, "big") + b"".join(key + b"\x01" for key in keys)
    for data in (b"\x81\xa1m" + value, b"\x82\xa1a\x01\xa1m\x91" + value):
        with pytest.raises(LimitExceeded, match="collide"):
            codec.load(data)
        entry = codec.pack("7") + data
        with pytest.raises(LimitExceeded, match="document '7'"):
            [*load_chunks(codec.scan_entries(entry, 0, 1, len(entry) + 1, 0))]


def test_keys_that_do_not_collide_are_tuples() -> None:
    moments = [msgpack.Timestamp(n, 500) for n in range(2000)]
    assert codec.load(msgpack.packb({"m": dict.fromkeys(moments, 1)}))["m"] == dict.fromkeys(
        moments, 1
    )
    pairs = [(n, n) for n in range(2000)]
    assert codec.load(msgpack.packb({"m": dict.fromkeys(pairs, 1)}))["m"] == dict.fromkeys(pairs, 1)
    many = b"\xde\x07\xd0" + b"\x92\x01\x01\x01" * 2000  # one key, many times
    assert codec.load(b"\x81\xa1m" + many) == {"m": {(1, 1): 1}}


def test_equal_keys_take_little_memory() -> None:
    count = 1 << 20
    data = b"\xdf" + count.to_bytes(4, "big") + b"\x01\x01" * count
    tracemalloc.start()
    try:
        assert codec.load(data) == {1: 1}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if codec.BACKEND == "native":
        assert peak < 1 << 20
