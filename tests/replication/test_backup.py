"""Backups: full, then of what is new; consistent while writers run; checked when restored."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.disks import FaultyDisk, RecordingDisk, after_power_cut, put, using
from support.engines import grown, numbers, open_engine, values
from support.processes import start
from support.settings import LONG

import godb_arrow
from godb_arrow import StorageEngine, StorageError, list_backups, restore_backup
from godb_arrow.storage.local import Disk


def test_only_what_is_new_travels_and_any_backup_is_restored(tmp_path: Path) -> None:
    place = tmp_path / "backups"
    with open_engine(tmp_path / "data") as engine:
        collection = grown(engine)
        engine.create_collection("small").insert({"n": 1})
        first = engine.backup(place)
        assert first.collections == {"c": 6000, "small": 1}
        assert first.copied_files == first.files > 10
        again = engine.backup(place)
        assert (again.copied_files, again.files) == (0, first.files)
        collection.insert_many(numbers(6000, 100))
        collection.delete("1")
        third = engine.backup(place)
        assert third.copied_files == 3, "a part, its ids, and the manifest"
        assert third.copied_size < first.size / 3
        assert [info.number for info in list_backups(place)] == [1, 2, 3]
    restore_backup(place, tmp_path / "last")
    restore_backup(place, tmp_path / "first", 1)
    with StorageEngine(tmp_path / "last") as engine:
        assert sorted(values(engine["c"])) == list(range(1, 6100))
        assert engine["c"].insert({"n": 0}) == "6101"
        assert engine.find_all("small") == [{"_id": "1", "n": 1}]
    with StorageEngine(tmp_path / "first", read_only=True) as engine:
        assert values(engine["c"]) == list(range(6000))
    for path in (tmp_path / "last" / "collections").iterdir():
        assert not godb_arrow.verify_godb(path).problems


def test_paths_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with StorageEngine("data") as engine:
        engine.create_collection("users").insert({"n": 1})
        engine.backup("backups")
        engine.backup("new/backups")
        engine.replicate_to("copy")
    for place in ("backups", "new/backups"):
        restore_backup(place, f"restored/{place}")
        with StorageEngine(f"restored/{place}") as engine:
            assert engine.find_all("users") == [{"_id": "1", "n": 1}]
    assert not godb_arrow.verify_godb("copy/collections/users.godb").problems


def test_backups_on_an_object_store(tmp_path: Path) -> None:
    place = "memory://backup-test/here"
    with open_engine(tmp_path / "data") as engine:
        grown(engine, 3)
        engine.backup(place)
        assert engine.backup(place).copied_files == 0
    assert len(list_backups(place)) == 2
    restore_backup(place, tmp_path / "restored")
    with StorageEngine(tmp_path / "restored") as engine:
        assert values(engine["c"]) == list(range(3000))


def test_a_backup_is_consistent_while_writers_run(tmp_path: Path) -> None:
    with open_engine(tmp_path / "data", keep_versions=1, background_save="20ms") as engine:
        collection = grown(engine, 2)
        engine.start_background_workers()
        stop = threading.Event()

        def write() -> None:
            number = 2000
            while not stop.is_set():
                collection.insert_many(numbers(number, 50))
                number += 50
                engine.compact()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(5):
                engine.backup(tmp_path / "backups")
        finally:
            stop.set()
            writer.join()
    for info in list_backups(tmp_path / "backups"):
        folder = tmp_path / f"restored{info.number}"
        restore_backup(tmp_path / "backups", folder, info.number)
        with StorageEngine(folder) as engine:
            found = sorted(values(engine["c"]))
            assert found == list(range(info.collections["c"]))
            assert len(found) % 50 == 0


def test_damaged_backups_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "backups"
    with open_engine(tmp_path / "data") as engine:
        grown(engine, 3)
        engine.backup(place)
    with pytest.raises(godb_arrow.TargetExists):
        restore_backup(place, tmp_path / "data")
    with pytest.raises(godb_arrow.VersionNotFound, match="there are 1"):
        restore_backup(place, tmp_path / "new", 7)
    with pytest.raises(godb_arrow.SourceNotFound):
        restore_backup(tmp_path / "nowhere", tmp_path / "new")
    file = max((place / "files").rglob("*"), key=lambda path: path.stat().st_size)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(godb_arrow.ChecksumMismatch):
        restore_backup(place, tmp_path / "new")
    file.unlink()
    with pytest.raises(godb_arrow.SourceNotFound):
        restore_backup(place, tmp_path / "new")
    file.write_bytes(whole)
    description = place / "backups" / "00000001.json"
    text = description.read_text()
    escaping = json.loads(text)
    escaping["files"][0]["name"] = "../../outside"
    description.write_text(json.dumps(escaping))
    with pytest.raises(godb_arrow.CorruptFile):
        restore_backup(place, tmp_path / "new")
    description.write_text(text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backups", "data"]
    restore_backup(place, tmp_path / "new")


def states(folder: Path) -> Iterator[tuple[StorageEngine, set[int]]]:
    """An engine now and then, and the values that its collection has."""
    with open_engine(folder) as engine:
        collection = grown(engine, saves=2)
        yield engine, set(range(2000))
        collection.insert_many(numbers(2000, 10))
        collection.delete("1")
        yield engine, set(range(1, 2010))
        collection.compact(thorough=True)
        collection.delete("2")
        yield engine, set(range(2, 2010))


def check_backups(place: Path, expected: list[set[int]], target: Path) -> int:
    """Each backup that is listed is one of these, whole; returns how many there are."""
    infos = list_backups(place) if place.exists() else []
    for info in infos:
        restore_backup(place, target, info.number)
        with StorageEngine(target, read_only=True) as engine:
            assert set(values(engine["c"])) == expected[info.number - 1]
        shutil.rmtree(target)
    return len(infos)


def test_each_call_of_the_disk_fails_once_while_a_backup_is_made(tmp_path: Path) -> None:
    """What was there stays, and the next one is as good as any."""
    failures = 0
    for fail_at in itertools.count() if LONG else range(0, 60, 7):
        place = tmp_path / f"backups-{fail_at}"
        expected: list[set[int]] = []
        disk = None
        for number, (engine, found) in enumerate(states(tmp_path / f"data-{fail_at}")):
            engine.save()
            if number == 1:
                disk = FaultyDisk(fail_at, short=bool(fail_at % 2))
                with using(disk), suppress(StorageError):
                    engine.backup(place)
                    expected.append(found)
                if len(expected) == 1 and len(list_backups(place)) == 2:
                    expected.append(found)  # it failed when it was done
                check_backups(place, expected, tmp_path / "target")
                failures += disk.failed is not None
            else:
                expected.append(found)
                engine.backup(place)
        assert check_backups(place, expected, tmp_path / "target") == len(expected)
        shutil.rmtree(place)
        assert disk is not None
        if disk.failed is None:
            break
    assert failures > 2
    if LONG:
        print(json.dumps({"calls that failed": failures}))


def test_the_power_is_cut_while_a_backup_is_made(tmp_path: Path) -> None:
    place, rng = tmp_path / "backups", random.Random(1)
    disk, expected = RecordingDisk(str(place)), []
    for engine, found in states(tmp_path / "data"):
        engine.save()
        expected.append(found)
        with using(disk):
            engine.backup(place)
        disk.acknowledged += 1
    cuts = disk.cuts if LONG else rng.sample(disk.cuts, 12)
    for acknowledged, state in cuts:
        for how in ("least", "any", "most"):
            again = tmp_path / "again"
            put(after_power_cut(state, how, rng), str(place), again)
            assert check_backups(again, expected, tmp_path / "target") >= acknowledged
            shutil.rmtree(again)


def test_two_backups_at_the_same_time_get_two_numbers(tmp_path: Path) -> None:
    place = tmp_path / "backups"
    first, second = StorageEngine(tmp_path / "first"), StorageEngine(tmp_path / "second")
    first.create_collection("first").insert({"n": 1})
    second.create_collection("second").insert({"n": 2})
    numbers_of: list[int] = []

    class Overtaken(Disk):
        def open(self, path: str, flags: int, mode: int = 0o666) -> int:
            if Path(path).parent.name == "backups" and not numbers_of:
                numbers_of.append(0)
                numbers_of[0] = second.backup(place).number
            return super().open(path, flags, mode)

    with using(Overtaken()):
        numbers_of.append(first.backup(place).number)
    assert numbers_of == [1, 2]
    assert [info.collections for info in list_backups(place)] == [{"second": 1}, {"first": 1}]
    first.close()
    second.close()


def test_a_process_that_makes_backups_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, itertools; from godb_arrow import StorageEngine\n"
        "engine = StorageEngine(sys.argv[1], part_size='1KiB', durability='commit')\n"
        "c = engine['c'] if 'c' in engine else engine.create_collection('c')\n"
        "for n in itertools.count(len(c)):\n"
        "    c.insert({'_id': str(n), 'n': n}); engine.backup(sys.argv[2]); print(n, flush=True)\n"
    )
    data, place, rng = tmp_path / "data", tmp_path / "backups", random.Random(3)
    for kill in range(40 if LONG else 2):
        process = start(code, data, place, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        last = [*process.stdout.read().split("\n")[:-1], None][-2:][0]
        process.wait()
        process.stdout.close()
        infos = list_backups(place)
        assert len(infos) > kill
        restore_backup(place, tmp_path / "target")
        with StorageEngine(tmp_path / "target", read_only=True) as engine:
            found = sorted(values(engine["c"]))
            assert found == list(range(len(found)))
            assert last is None or len(found) > int(last)
        shutil.rmtree(tmp_path / "target")
