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


def open_engine(folder: Path) -> StorageEngine:
    return StorageEngine(folder, durability="commit")


def run(engine: StorageEngine, promises: Promises) -> list[GodbError]:
    errors = []
    for step, changes in steps():
        try:
            step(engine)
        except GodbError as error:
            errors.append(error)
            promises.expect(changes, done=False)
        else:
            promises.expect(changes, done=True)
    return errors


def calls_of(folder: Path) -> int:
    disk = FaultyDisk()
    with using(disk):
        engine = open_engine(folder)
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


@pytest.mark.parametrize(("name", "code", "short"), FAULTS if LONG else FAULTS[:2])
def test_each_call_of_the_disk_fails_once_and_nothing_is_lost(
    name: str, code: int, short: bool, tmp_path: Path
) -> None:
    total = calls_of(tmp_path / "count")
    assert total > 50
    seen = 0
    for fail_at in range(total):
        folder = tmp_path / "run"
        disk = FaultyDisk(fail_at, code, short)
        promises = Promises()
        engine = None
        with using(disk):
            try:
                engine = open_engine(folder)
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
        with open_engine(folder) as again:
            promises.check(again)
        shutil.rmtree(folder)
    assert seen > 10


def test_each_call_of_the_disk_fails_while_it_recovers(tmp_path: Path) -> None:
    promises = Promises()
    with using(FaultyDisk()):
        engine = open_engine(tmp_path / "made")
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
                crash(open_engine(folder))
            except StorageError:
                assert disk.failed
        with open_engine(folder) as again:
            promises.check(again)
        shutil.rmtree(folder)
        if disk.failed is None:
            break
        fail_at += 1
    assert fail_at > 3


def test_the_power_is_cut_after_each_call_and_what_was_acknowledged_is_there(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "made"
    for part in ("collections", "journal"):
        (folder / part).mkdir(parents=True)
    disk = RecordingDisk(str(folder))
    promised: list[Promises] = [Promises()]
    with using(disk):
        engine = open_engine(folder)
        for step, changes in steps():
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
    for index, (acknowledged, state) in enumerate(disk.cuts):
        for how in ["least", "most", *["any"] * (20 if LONG else 1)]:
            target = tmp_path / "cut"
            put(after_power_cut(state, how, number), str(folder), target)
            try:
                with open_engine(target) as again:
                    promised[acknowledged].check(again)
            except (AssertionError, GodbError) as error:
                raise AssertionError(f"cut {index} of {len(disk.cuts)}, {how}: {error}") from error
            shutil.rmtree(target)
