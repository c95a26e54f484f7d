"""Every call of the disk fails once, and the power is cut after each: nothing is lost."""

from __future__ import annotations

import errno
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.disks import FaultyDisk, RecordingDisk, after_power_cut, put, using
from support.engines import Promises, crash, steps, steps_of_parts
from support.settings import LONG

import godb_arrow
from godb_arrow import GodbError, StorageEngine, StorageError

Documents = dict[str, Any]


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
    every = 1 if LONG else max(1, total // 10)  # of the many calls for parts
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
    assert seen > 2


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
    every = 1 if LONG else max(1, len(disk.cuts) // 25)
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


def test_the_power_is_cut_before_the_journal_is_synced_and_nothing_is_damaged(
    tmp_path: Path,
) -> None:
    """Saving begins a new segment: the one before may never get to the disk, and is not needed."""
    folder = tmp_path / "made"
    for part in ("collections", "journal"):
        (folder / part).mkdir(parents=True)
    disk = RecordingDisk(str(folder))
    saved = 0
    with using(disk):
        engine = StorageEngine(folder, sync_interval="1h")
        engine.create_collection("c")
        for step in range(6):
            engine.insert_many("c", [{"n": n, "text": "x" * 40} for n in range(20 * step)])
            engine.insert("c", {"n": step})
            disk.acknowledged = saved
            if step % 2:
                engine.save()
                saved = len(engine["c"])
        crash(engine)
    number = random.Random(13)
    for index, (least, state) in enumerate(disk.cuts):
        for how in ("least", "any", "any"):
            target = tmp_path / "cut"
            put(after_power_cut(state, how, number), str(folder), target)
            assert not godb_arrow.verify_godb(target).problems, f"cut {index}, {how}"
            with StorageEngine(target) as again:
                assert not least or len(again.find_all("c")) >= least, f"cut {index}, {how}"
            shutil.rmtree(target)
