"""Every call of the disk fails once, and the power is cut after each: nothing is lost."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import LONG
from disks import FaultyDisk, RecordingDisk, after_power_cut, put, using
from test_engine_model import crash

import godb_arrow
from godb_arrow import GodbError, StorageEngine, StorageError

Documents = dict[str, Any]
ABSENT = None


class Promises:
    """What each document may be: one value once that was acknowledged, else the one before, too."""

    def __init__(self) -> None:
        self.allowed: dict[tuple[str, str], list[Any]] = {}
        self.together: list[list[tuple[str, str]]] = []

    def copy(self) -> Promises:
        made = Promises()
        made.allowed = {key: list(values) for key, values in self.allowed.items()}
        made.together = list(self.together)
        return made

    def expect(self, changes: dict[tuple[str, str], Any], done: bool) -> None:
        # What changes later goes its own way.
        self.together = [[one for one in keys if one not in changes] for keys in self.together]
        for key, value in changes.items():
            before = self.allowed.get(key, [ABSENT])
            self.allowed[key] = [value] if done else [*before, value]
        if len(changes) > 2 and not done:
            self.together.append(list(changes))

    def check(self, engine: StorageEngine) -> None:
        found: dict[tuple[str, str], Any] = {}
        for name in engine.collections():
            for document in engine[name]:
                key = (name, document["_id"])
                assert key not in found, "twice"
                found[key] = document["v"]
            assert len(engine[name]) == sum(key[0] == name for key in found)
        assert found.keys() <= self.allowed.keys()
        for key, values in self.allowed.items():
            assert found.get(key, ABSENT) in values, f"{key} is {found.get(key)}, not of {values}"
        for keys in self.together:
            assert len({key in found for key in keys}) == 1, "a part of a batch"


Step = tuple[Callable[[StorageEngine], Any], dict[tuple[str, str], Any]]


def steps() -> Iterator[Step]:
    """What is done, and what must be there then."""
    yield lambda e: e.create_collection("a"), {}
    for n in range(3):
        yield (
            lambda e, n=n: e.insert("a", {"_id": f"s{n}", "v": n}),
            {("a", f"s{n}"): n},
        )
    yield lambda e: e.save(), {}
    yield lambda e: e.update("a", "s0", {"v": "new"}), {("a", "s0"): "new"}
    yield lambda e: e.delete("a", "s1"), {("a", "s1"): ABSENT}
    batch = [{"_id": f"b{n}", "v": n} for n in range(100)]
    yield lambda e: e.insert_many("a", batch), {("a", d["_id"]): d["v"] for d in batch}
    yield lambda e: e["a"].checkpoint(), {}
    yield lambda e: e.create_collection("old"), {}
    yield lambda e: e.insert("old", {"_id": "1", "v": 1}), {("old", "1"): 1}
    yield lambda e: e.save(), {}
    yield (
        lambda e: e.rename_collection("old", "new"),
        {("old", "1"): ABSENT, ("new", "1"): 1},
    )
    yield lambda e: e.create_collection("old"), {}
    yield lambda e: e.insert("old", {"_id": "2", "v": 2}), {("old", "2"): 2}
    yield lambda e: e.drop_collection("new"), {("new", "1"): ABSENT}
    yield lambda e: e.save(), {}
    yield lambda e: e.replace("a", "s2", {"v": "last"}), {("a", "s2"): "last"}


def steps_of_parts() -> Iterator[Step]:
    """The same, with collections that have several files."""
    yield from steps()
    for first in (0, 40):
        batch = [{"_id": f"p{n}", "v": n, "text": "x" * 40} for n in range(first, first + 40)]
        yield (
            lambda e, batch=batch: e.insert_many("a", batch),
            {("a", d["_id"]): d["v"] for d in batch},
        )
        yield lambda e: e.save(), {}
    yield (
        lambda e: e.update_many("a", {f"p{n}": {"v": "new"} for n in range(0, 40, 20)}),
        {("a", f"p{n}"): "new" for n in range(0, 40, 20)},
    )
    yield lambda e: e.delete("a", "p1"), {("a", "p1"): ABSENT}
    yield lambda e: e["a"].checkpoint(), {}
    yield lambda e: e.delete("a", "p2"), {("a", "p2"): ABSENT}
    yield lambda e: e.compact("a"), {}
    yield lambda e: e.delete("a", "p3"), {("a", "p3"): ABSENT}
    last = {"v": "last"}
    yield lambda e: e.update("a", "p4", last), {("a", "p4"): "last"}
    yield lambda e: e.save(), {}
    yield lambda e: e.pack("a"), {}
    yield lambda e: e.delete("a", "p5"), {("a", "p5"): ABSENT}
    yield lambda e: e.save(), {}


STEPS = {128 << 20: steps, 1 << 10: steps_of_parts}
SIZES = pytest.mark.parametrize("part_size", STEPS)


def open_engine(folder: Path, part_size: int = 128 << 20) -> StorageEngine:
    return StorageEngine(
        folder, durability="commit", part_size=part_size, keep_versions=2, part_grace=0.001
    )


def run(engine: StorageEngine, promises: Promises) -> list[GodbError]:
    errors = []
    for step, changes in STEPS[engine.options.part_size]():
        try:
            step(engine)
        except GodbError as error:
            errors.append(error)
            promises.expect(changes, done=False)
        else:
            promises.expect(changes, done=True)
    return errors


def calls_of(folder: Path, part_size: int) -> int:
    disk = FaultyDisk()
    with using(disk):
        engine = open_engine(folder, part_size)
        assert not run(engine, Promises())
        engine.close()
    return len(disk.calls)


FAULTS = [
    ("EIO", errno.EIO, False),
    ("short", errno.ENOSPC, True),
    ("ENOSPC", errno.ENOSPC, False),
    ("EACCES", errno.EACCES, False),
    ("EINTR", errno.EINTR, False),
]


@SIZES
@pytest.mark.parametrize(("name", "code", "short"), FAULTS if LONG else FAULTS[:2])
def test_each_call_of_the_disk_fails_once_and_nothing_is_lost(
    name: str, code: int, short: bool, part_size: int, tmp_path: Path
) -> None:
    total = calls_of(tmp_path / "count", part_size)
    assert total > 50
    seen = 0
    every = 1 if LONG else max(1, total // 40)  # of the many calls for parts
    for fail_at in range(0, total, every):
        folder = tmp_path / "run"
        disk = FaultyDisk(fail_at, code, short)
        promises = Promises()
        engine = None
        with using(disk):
            try:
                engine = open_engine(folder, part_size)
                errors = run(engine, promises)
            except GodbError as error:
                errors = [error]
        assert disk.failed or fail_at >= total - 20, "the call did not come"
        if errors:
            seen += 1
            assert any(isinstance(error, StorageError) for error in errors), errors
            if code == errno.ENOSPC and disk.failed != "close":
                assert any(isinstance(error, godb_arrow.DiskFull) for error in errors)
        if engine is not None:
            promises.check(engine)
            if fail_at % 2:
                engine.close()  # the disk is well again
            else:
                crash(engine)
        with open_engine(folder, part_size) as again:
            promises.check(again)
        shutil.rmtree(folder)
    assert seen > 10


@SIZES
def test_each_call_of_the_disk_fails_while_it_recovers(part_size: int, tmp_path: Path) -> None:
    promises = Promises()
    with using(FaultyDisk()):
        engine = open_engine(tmp_path / "made", part_size)
        run(engine, promises)
        crash(engine)
    journal = max((tmp_path / "made" / "journal").iterdir())
    with journal.open("ab") as stream:
        stream.write(b"torn")
    fail_at = 0
    while True:
        folder = tmp_path / "run"
        shutil.copytree(tmp_path / "made", folder)
        disk = FaultyDisk(fail_at)
        with using(disk):
            if disk.failed is None and fail_at > 100:
                raise AssertionError("recovery takes too many calls")
            try:
                crash(open_engine(folder, part_size))
            except StorageError:
                assert disk.failed
        with open_engine(folder, part_size) as again:
            promises.check(again)
        shutil.rmtree(folder)
        if disk.failed is None:
            break
        fail_at += 1
    assert fail_at > 3  # calls


@SIZES
def test_the_power_is_cut_after_each_call_and_what_was_acknowledged_is_there(
    part_size: int, tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    for part in ("collections", "journal"):
        (folder / part).mkdir(parents=True)
    disk = RecordingDisk(str(folder))
    promised: list[Promises] = [Promises()]
    with using(disk):
        engine = open_engine(folder, part_size)
        for step, changes in STEPS[part_size]():
            # From here on until it is acknowledged, it may be there or not.
            between = promised[-1].copy()
            between.expect(changes, done=False)
            promised.append(between)
            disk.acknowledged = len(promised) - 1
            step(engine)
            after = promised[-2].copy()
            after.expect(changes, done=True)
            promised.append(after)
            disk.acknowledged = len(promised) - 1
            disk._remember()
        crash(engine)
    assert len(disk.cuts) > 50
    number = random.Random(7)
    every = 1 if LONG else max(1, len(disk.cuts) // 60)
    for index, (acknowledged, state) in list(enumerate(disk.cuts))[::every]:
        for how in ["least", "most", *["any"] * (20 if LONG else 1)]:
            target = tmp_path / "cut"
            put(after_power_cut(state, how, number), str(folder), target)
            try:
                with open_engine(target, part_size) as again:
                    promised[acknowledged].check(again)
            except (AssertionError, GodbError) as error:
                raise AssertionError(f"cut {index} of {len(disk.cuts)}, {how}: {error}") from error
            shutil.rmtree(target)
