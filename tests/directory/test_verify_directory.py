"""Whole data directories and backups: sound ones are sound, and any damage is found."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from support.engines import crash, grown, open_engine

import godb_arrow
from godb_arrow import StorageEngine, verify_godb
from godb_arrow.directory.journal import Journal
from godb_arrow.directory.repair import repair_journal


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A data directory with everything that one may have."""
    folder = tmp_path / "data"
    godb_arrow.write_godb([{"n": 1}], tmp_path / "out.godb", "attached")
    engine = open_engine(folder)
    grown(engine, 3)
    engine.create_collection("small").insert_many([{"n": n} for n in range(50)])
    engine.save()
    engine.load_collection_metadata(tmp_path / "out.godb")
    engine.insert_many("small", [{"n": n} for n in range(50)])
    engine.delete("c", "7")
    engine.insert("attached", {"n": 2})
    crash(engine)
    return folder


def files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "godb_arrow.lock"]  # fmt: skip


def test_a_sound_directory(directory: Path) -> None:
    seen: list[int] = []
    report = verify_godb(directory, progress=seen.append)
    assert report.problems == []
    assert report.notes == []
    assert {(one.name, one.count) for one in report.collections} >= {
        ("attached", 1), ("c", 3000), ("small", 50),
    }  # fmt: skip
    assert sum(seen) == 3051
    assert report.size and report.size > 10_000
    with open_engine(directory):
        pass
    assert verify_godb(str(directory) + os.sep).problems == []


def test_any_flipped_byte_of_any_file_is_found(directory: Path) -> None:
    number = random.Random(3)
    kinds = set()
    for path in files(directory):
        good = path.read_bytes()
        for _ in range(2):
            at = number.randrange(len(good))
            path.write_bytes(good[:at] + bytes([good[at] ^ 0x08]) + good[at + 1 :])
            report = verify_godb(directory)
            if path.name != "godb_arrow.id":  # another UUID is a UUID
                assert report.problems, (path.name, at)
                assert path.name in report.problems[0] or path.stem in report.problems[0]
                kinds.add(path.suffix)
        path.write_bytes(good)
    assert kinds == {".godb", ".ids", ".manifest", ".journal", ".attached"}
    assert verify_godb(directory).ok


def test_missing_files_are_found(directory: Path) -> None:
    for pattern, problem in (
        ("c.parts/*1.ids", "ids"),
        ("c.parts/*1.godb", "the file does not exist"),
        ("c.parts/*.manifest", ""),
    ):
        found = sorted((directory / "collections").glob(pattern))
        shutil.copytree(directory, directory.parent / "kept")
        for path in found:
            path.unlink()
        report = verify_godb(directory)
        assert any(problem in one for one in report.problems), report.problems
        shutil.rmtree(directory)
        shutil.move(directory.parent / "kept", directory)


def test_an_older_version_that_lacks_a_file_is_found(directory: Path) -> None:
    with open_engine(directory, part_grace=600) as engine:
        engine.compact("c")
    parts = directory / "collections" / "c.parts"
    assert verify_godb(directory).ok
    (parts / "00000001.godb").unlink()
    (parts / "00000001.ids").unlink()
    assert "names 00000001.godb, which is missing" in str(verify_godb(directory).problems)


def test_every_damaged_place_of_the_journal_is_named(directory: Path) -> None:
    path = max((directory / "journal").iterdir(), key=lambda one: one.stat().st_size)
    data = bytearray(path.read_bytes())
    data[90] ^= 1
    data[-30] ^= 1
    path.write_bytes(data)
    problems = verify_godb(directory).problems
    assert len(problems) == 2
    assert all(path.name in one and "byte" in one for one in problems)
    repair_journal(directory)
    report = verify_godb(directory)
    assert report.ok
    assert any("lacks changes" in note for note in report.notes)
    assert any("set aside" in note for note in report.notes)


def test_a_torn_tail_is_no_damage(directory: Path) -> None:
    path = max((directory / "journal").iterdir(), key=lambda one: one.stat().st_size)
    with path.open("ab") as stream:
        stream.write(b"torn")
    report = verify_godb(directory)
    assert report.ok
    assert report.notes == ["the journal ends with 4 bytes that a crash left unfinished"]


def test_records_that_make_no_sense_are_found(tmp_path: Path) -> None:
    for name in ("collections", "journal"):
        (tmp_path / name).mkdir()
    journal = Journal(str(tmp_path / "journal"))
    list(journal.recover())
    journal.append("key", {"op": "write", "c": "c", "n": 2, "k": [1]}, [b"\xa11\x81\xa1a\xc1"])
    journal.append("key", {"op": "write", "c": "c", "n": 2, "k": [1]}, [b"\xa11\x80"])
    journal.append("key", {"op": "explode"})
    journal.close()
    problems = verify_godb(tmp_path).problems
    assert [one.split(":")[1].strip() for one in problems] == ["record 1", "record 3"]


def test_other_files_are_notes(directory: Path) -> None:
    (directory / "collections" / "notes.txt").write_text("mine")
    (directory / "collections" / ".godb-arrow-0.tmp").write_text("left")
    report = verify_godb(directory)
    assert report.ok
    assert len(report.notes) == 2


def test_a_damaged_identity_and_follower_are_found(directory: Path) -> None:
    with open_engine(directory) as engine:
        engine.replicate_to(directory.parent / "copy")
    target = directory.parent / "copy"
    assert verify_godb(target).ok
    (directory / "godb_arrow.id").write_text("nothing")
    (target / "follower.json").write_text("{")
    assert "identity of the data directory" in verify_godb(directory).problems[0]
    assert "follower.json" in verify_godb(target).problems[0]
    (directory / "godb_arrow.id").unlink()
    with open_engine(directory) as engine:
        assert len(engine["c"]) == 2999
        engine.insert("c", {"n": 1})
    assert verify_godb(directory).ok


@pytest.mark.parametrize("name", ["collections/c.parts", "collections", "journal"])
def test_links_are_problems_and_not_followed(directory: Path, name: str) -> None:
    (directory / name).rename(directory.parent / "elsewhere")
    (directory / name).symlink_to(directory.parent / "elsewhere")
    problems = verify_godb(directory).problems
    assert len(problems) == 1
    assert "symbolic link" in problems[0]


# --- backups ----------------------------------------------------------------------------------


@pytest.fixture
def place(directory: Path) -> Path:
    """Two backups in one place."""
    folder = directory.parent / "backups"
    with open_engine(directory) as engine:
        engine.backup(folder)
        engine.insert("c", {"n": 1})
        engine.backup(folder)
    return folder


def test_sound_backups(place: Path) -> None:
    report = verify_godb(place)
    assert report.problems == []
    assert [(one.name, one.count) for one in report.collections] == [
        ("attached", 2), ("c", 3000), ("small", 100),
    ]  # fmt: skip


def test_damage_of_backups_is_found(place: Path) -> None:
    number = random.Random(5)
    for path in files(place):
        good = path.read_bytes()
        at = number.randrange(len(good))
        for content in (good[:at] + bytes([good[at] ^ 2]) + good[at + 1 :], good[:-1], None):
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            report = verify_godb(place)
            if content is not None or path.suffix != ".json":
                assert report.problems, path
            path.write_bytes(good)
    assert verify_godb(place).ok


def test_a_file_that_was_damaged_before_its_backup_is_found(
    directory: Path, tmp_path: Path
) -> None:
    with open_engine(directory) as engine:
        engine.save()
    path = next((directory / "collections").glob("c.parts/*1.godb"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with open_engine(directory) as engine:
        engine.backup(tmp_path / "backups")
    assert "00000001.godb" in str(verify_godb(tmp_path / "backups").problems)


def test_a_description_that_names_other_places_is_found(place: Path) -> None:
    from godb_arrow.replication import backup

    path = place / "backups" / "00000001.json"
    found = json.loads(path.read_text())
    del found["checksum"]
    found["files"][0]["digest"] = "/dev/zero"
    path.write_text(json.dumps({**found, "checksum": backup._checksum(found)}))
    assert "digest '/dev/zero'" in verify_godb(place).problems[0]


def test_directories_and_backups_on_an_object_store(tmp_path: Path) -> None:
    place, target = "memory://verified/data", "memory://verified/backups"
    with StorageEngine(place, part_size="16KiB") as engine:
        grown(engine, 3)
        engine.backup(target)
    report = verify_godb(place)
    assert report.problems == []
    assert [one.count for one in report.collections] == [3000]
    assert verify_godb(target).problems == []
    with StorageEngine(tmp_path) as local:
        local.create_collection("a").insert({"n": 1})
        with godb_arrow.Follower(tmp_path, "memory://verified/copy") as follower:
            follower.step()
    assert verify_godb("memory://verified/copy").problems == []
