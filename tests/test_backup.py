"""Backups: full, then of what is new; consistent while writers run; checked when restored."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from test_parts import grown, numbers, open_engine, values

import godb_arrow
from godb_arrow import StorageEngine, list_backups, restore_backup


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
