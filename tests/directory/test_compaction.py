"""Which parts are joined: counts of parts and of bytes written, over thousands of saves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from godb_arrow import StorageEngine
from godb_arrow.directory.compaction import FAN, choose_parts
from godb_arrow.snapshots.manifest import Part

PART_SIZE = 128 << 20
MEBIBYTE = 1 << 20


class Saves:
    """Parts that saves add and compaction joins, without their files."""

    def __init__(self, *sizes: int) -> None:
        self.parts: list[Part] = []
        self.written = self.most_parts = self.most_written = 0
        self._numbers = iter(range(1, 1 << 40))
        for size in sizes:
            self._add(size)

    def _part(self, size: int) -> Part:
        return Part(next(self._numbers), 1000, size, 1)

    def _add(self, size: int) -> None:
        self.parts.append(self._part(size))

    def save(self, sizes: Iterable[int]) -> None:
        """Add parts of some sizes, one by one, and join what is chosen after each."""
        for size in sizes:
            self._add(size)
            written = 0
            while (chosen := choose_parts(self.parts, PART_SIZE)) is not None:
                first, last = chosen
                joined = sum(part.live_size for part in self.parts[first:last])
                count = -(-joined // PART_SIZE)
                assert count < last - first
                self.parts[first:last] = [self._part(joined // count) for _ in range(count)]
                written += joined
            self.written += written
            self.most_written = max(self.most_written, written)
            self.most_parts = max(self.most_parts, len(self.parts))


@pytest.mark.parametrize("mebibytes", [10, 63, 64, 70, 90, 120])
def test_small_parts_after_a_larger_one_are_joined_without_it(mebibytes: int) -> None:
    saves = Saves(mebibytes * MEBIBYTE)
    saves.save([100] * 3000)
    assert (saves.parts[0].number, saves.parts[0].size) == (1, mebibytes * MEBIBYTE)
    assert saves.most_parts < 60
    assert saves.written < 4 * 100 * 3000
    tiny = [Part(number, 1, 100, 300) for number in range(2, 5000)]
    for thorough in (False, True):
        assert choose_parts([Part(1, 1000, mebibytes * MEBIBYTE, 1), *tiny], PART_SIZE,
                            thorough=thorough) == (1, 4999)  # fmt: skip


def _mixed(*sizes: int, saves: int) -> Iterator[int]:
    """Saves of which each FAN-th is of the next size."""
    for number in range(1, saves + 1):
        level = 0
        while number % FAN == 0 and level < len(sizes) - 1:
            number //= FAN
            level += 1
        yield sizes[level]


@pytest.mark.parametrize("sizes", [
    (100, 20_000), (100, 20_000, 300_000), (100, 300_000, 20_000), (100, 5_000_000),
])  # fmt: skip
def test_parts_that_are_stuck_between_larger_ones_are_joined(sizes: tuple[int, ...]) -> None:
    saves = Saves()
    saves.save(_mixed(*sizes, saves=3000))
    full = sum(part.size for part in saves.parts) // (PART_SIZE * 3 // 4)
    assert saves.most_parts < 100 + 2 * full
    assert saves.written < 5 * sum(_mixed(*sizes, saves=3000))


def test_half_full_parts_and_what_nothing_is_gained_from_stay_apart() -> None:
    large = [Part(number, 1000, 70 * MEBIBYTE, 1) for number in range(20)]
    few = [Part(number, 1, 100, 300) for number in range(FAN - 1)]
    assert choose_parts(large, PART_SIZE, thorough=True) is None
    assert choose_parts([*large, *few], PART_SIZE) is None
    assert choose_parts([*few, *large], PART_SIZE) is None
    assert choose_parts([*large, *few], PART_SIZE, thorough=True) == (20, 35)
    assert choose_parts([*large, few[0]], PART_SIZE, thorough=True) is None


def test_an_engine_joins_small_parts_after_a_half_full_one(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, part_size="64KiB", part_grace=0.001) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": n, "text": "x" * 50} for n in range(550)])
        collection.to_folder()
        (size,) = [part.size for part in collection._store.base.manifest.parts]
        assert 0.5 < size / (64 << 10) < 0.75
        for n in range(40):
            collection.insert({"n": n})
            engine.save()
            assert collection.versions()[-1].parts <= 1 + 2 + FAN
        engine.compact()
        assert collection.versions()[-1].parts == 2
        assert len(collection) == 590
