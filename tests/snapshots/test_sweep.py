"""Superseded files of a folder: which are removed when, and what thousands of saves cost."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.disks import CountingDisk, using
from support.engines import values
from support.settings import LONG

from godb_arrow import StorageEngine


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> CountingDisk:
    disk = CountingDisk()
    listdir = os.listdir

    def counted(path: Any = ".") -> list[str]:
        names = listdir(path)
        disk.counts["listings"] += 1
        disk.counts["names"] += len(names)
        return names

    monkeypatch.setattr(os, "listdir", counted)
    return disk


@pytest.mark.parametrize("grace", [600, 0.001])
def test_many_small_saves_cost_as_much_as_few(
    grace: float, disk: CountingDisk, tmp_path: Path
) -> None:
    rounds: list[Counter[str]] = []
    saves = 128 if LONG else 64
    with using(disk), StorageEngine(tmp_path, part_grace=grace) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": n} for n in range(1000)])
        collection.to_folder()
        for _ in range(4):
            disk.counts.clear()
            for n in range(saves):
                collection.insert({"n": n})
                engine.save()
            rounds.append(Counter(disk.counts))
        files = os.listdir(tmp_path / "collections" / "c.parts")
        assert len(collection) == 1000 + 4 * saves
    first, *_, last = rounds
    for what in ("open", "fsync", "unlink", "bytes"):
        assert last[what] <= 1.5 * first[what], what
    assert last["listings"] <= 2
    assert last["names"] <= max(2 * len(files), 200)
    if grace < 1:
        assert len(files) < 150


def test_files_that_no_version_names_are_removed_when_they_are_old(tmp_path: Path) -> None:
    folder = tmp_path / "collections" / "c.parts"
    with StorageEngine(tmp_path, part_grace=3600, keep_versions=1) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": n} for n in range(10)])
        collection.to_folder()
        leftovers = ["00000077.godb", "00000077.ids", f".godb-arrow-{0:032x}.godb"]
        for name in leftovers:
            (folder / name).write_bytes(b"")
        (folder / "notes.txt").write_bytes(b"")
        engine.save()
    with StorageEngine(tmp_path, part_grace=3600, keep_versions=1) as engine:
        engine["c"].insert({"n": 10})
        engine.save()  # lists the folder: they are young
        assert set(leftovers) <= set(os.listdir(folder))
        for name in leftovers:
            os.utime(folder / name, (0, 0))
    with StorageEngine(tmp_path, part_grace=3600, keep_versions=1) as engine:
        engine["c"].insert({"n": 11})
        engine.save()
        assert not set(leftovers) & set(os.listdir(folder))
        assert (folder / "notes.txt").exists()
        assert values(engine["c"]) == list(range(12))


def test_young_files_are_removed_later_without_another_listing(
    disk: CountingDisk, tmp_path: Path
) -> None:
    folder = tmp_path / "collections" / "c.parts"
    with StorageEngine(tmp_path) as engine:
        engine.create_collection("c").insert({"n": 0})
        engine["c"].to_folder()
        (folder / "00000077.godb").write_bytes(b"")
    with StorageEngine(tmp_path) as engine:
        base_folder = engine._components.directory.folder(str(folder))
        base_folder.sweep(5, 3600)
        assert (folder / "00000077.godb").exists()
        disk.counts.clear()
        base_folder.sweep(5, -3600)  # as if an hour had passed
        assert not (folder / "00000077.godb").exists()
        assert not disk.counts["listings"]


def test_restored_files_stay_when_the_versions_between_go(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, part_grace=0.001, keep_versions=2) as engine:
        collection = engine.create_collection("c")
        collection.insert({"n": 0})
        collection.to_folder()
        wanted = collection.versions()[-1].version
        collection.delete_many(None)
        engine.save()
        collection.restore(wanted)
        for n in range(1, 6):
            collection.insert({"n": n})
            engine.save()
        assert values(collection) == list(range(6))
        assert len(collection.versions()) == 2
    with StorageEngine(tmp_path) as engine:
        assert values(engine["c"]) == list(range(6))


def test_a_name_that_is_used_again_begins_with_an_empty_folder(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, part_grace=0.001) as engine:
        for round_ in range(3):
            collection = engine.create_collection("c")
            collection.insert({"n": round_})
            collection.to_folder()
            collection.insert({"n": round_ + 10})
            engine.save()
            assert values(collection) == [round_, round_ + 10]
            engine.drop_collection("c")
        assert not engine._components.directory._folders
        assert os.listdir(tmp_path / "collections") == []
