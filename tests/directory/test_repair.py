"""Repair: every whole record of a damaged journal is kept, and nothing is thrown away."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.engines import crash
from support.journals import as_version_1

import godb_arrow
from godb_arrow import CorruptFile, StorageEngine
from godb_arrow.directory.journal import Journal
from godb_arrow.directory.journal_reader import read_journal
from godb_arrow.directory.repair import find_damage, repair_journal


def written(folder: Path, segments: int = 3, records: int = 4) -> list[Path]:
    """A directory whose journal has several segments; returns their paths."""
    (folder / "journal").mkdir(parents=True)
    for _ in range(segments):
        journal = Journal(str(folder / "journal"))
        list(journal.recover())
        for n in range(records):
            journal.append("key", {"op": "write", "c": "c", "n": n, "k": []}, [b"x" * 100])
        journal.close()
    return sorted((folder / "journal").iterdir())


def numbers(folder: Path) -> list[int]:
    return [record.number for record in read_journal(str(folder / "journal"))
            if record.meta["op"] != "lost"]  # fmt: skip


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_a_sound_journal_stays_as_it_is(tmp_path: Path) -> None:
    paths = written(tmp_path)
    before = [path.read_bytes() for path in paths]
    repair = repair_journal(tmp_path)
    assert (repair.kept, repair.lost, repair.damage, repair.set_aside) == (12, 0, [], [])
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("segment", range(3))
def test_records_before_and_after_the_damage_are_kept(segment: int, tmp_path: Path) -> None:
    paths = written(tmp_path)
    size = (paths[segment].stat().st_size - 64) // 4
    lost = 4 * segment + 2
    flip(paths[segment], 64 + size + 50)
    damaged = paths[segment].read_bytes()
    with pytest.raises(CorruptFile, match="godb-arrow repair"):
        numbers(tmp_path)
    repair = repair_journal(tmp_path)
    assert (repair.kept, repair.lost) == (11, 1)
    assert [one.offset for one in repair.damage][:1] == [64 + size]
    assert [Path(one).read_bytes() for one in repair.set_aside] == [damaged]
    assert numbers(tmp_path) == [n for n in range(1, 13) if n != lost]
    assert find_damage(str(tmp_path / "journal"))[0] == []
    journal = Journal(str(tmp_path / "journal"))
    list(journal.recover())
    assert journal.append("key", {}) == 13
    journal.close()


@pytest.mark.parametrize("version", [1, 2])
def test_any_flipped_bit_loses_no_other_record(version: int, tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path / "data")
    engine.create_collection("c")
    for n in range(5):
        engine.insert("c", {"n": n})
    crash(engine)
    if version == 1:
        as_version_1(tmp_path / "data")
    journal = tmp_path / "data" / "journal"
    path = min(journal.iterdir())
    good = path.read_bytes()
    for at in range(0, len(good), 3):
        flip(path, at)
        repair = repair_journal(tmp_path / "data")
        assert repair.damage
        assert repair.kept >= 5, at
        with StorageEngine(tmp_path / "data", read_only=True) as engine:
            assert len(engine.find_all("c")) >= 4
        for other in journal.iterdir():
            other.unlink()
        path.write_bytes(good)


@pytest.mark.parametrize("segment", range(3))
@pytest.mark.parametrize("how", ["header", "missing", "cut", "empty", "zeros"])
def test_damaged_segments(how: str, segment: int, tmp_path: Path) -> None:
    paths = written(tmp_path)
    whole = paths[segment].read_bytes()
    inside = [4 * segment + n for n in (1, 2, 3, 4)]
    kept: list[int] = [n for n in range(1, 13) if n not in inside]
    if how == "header":
        flip(paths[segment], 20)
        kept += inside
    elif how == "missing":
        paths[segment].unlink()
    elif how == "cut":
        paths[segment].write_bytes(whole[:-150])
        kept += inside[:3]
    elif how == "empty":
        paths[segment].write_bytes(b"")
    else:
        paths[segment].write_bytes(bytes(len(whole)))
    if segment == 2 and how != "header":  # the end of the journal: nothing tells of more
        assert numbers(tmp_path) == kept or how == "cut"
        return
    if (segment, how) == (0, "missing"):
        assert numbers(tmp_path) == kept  # as a journal that was trimmed
        return
    with pytest.raises(CorruptFile):
        numbers(tmp_path)
    repair = repair_journal(tmp_path)
    assert repair.damage
    assert numbers(tmp_path) == sorted(kept)
    assert repair.kept == len(kept)


def test_an_engine_opens_with_what_is_whole(tmp_path: Path) -> None:
    """The record that made the collection is lost, and its documents are there."""
    engine = StorageEngine(tmp_path)
    engine.create_collection("saved").insert({"n": 0})
    engine["saved"].checkpoint()
    engine.create_collection("c")
    ids = [engine.insert("c", {"n": n}) for n in range(5)]
    engine.update("saved", "1", {"n": 1})
    expected = engine.find_all("c")
    crash(engine)
    path = min((tmp_path / "journal").iterdir())
    data = path.read_bytes()
    flip(path, data.index(b"create", data.index(b"create") + 1))
    with pytest.raises(CorruptFile):
        StorageEngine(tmp_path)
    with pytest.raises(CorruptFile):
        StorageEngine(tmp_path, read_only=True)
    assert repair_journal(tmp_path).lost == 1
    for _ in range(2):
        with StorageEngine(tmp_path) as engine:
            assert engine.find_all("c") == expected
            assert engine.get("saved", "1")["n"] == 1
            assert engine["c"].next_id == len(ids) + 1
    assert list((tmp_path / "journal").glob("*.damaged"))


def test_what_files_hold_counts_after_a_repair(tmp_path: Path) -> None:
    """The run of the journal stays the same: what was saved is not replayed."""
    engine = StorageEngine(tmp_path)
    engine.create_collection("c").insert({"n": "old"})
    engine.update("c", "1", {"n": "new"})
    engine.create_collection("other")
    engine["c"].checkpoint()
    crash(engine)
    path = min((tmp_path / "journal").iterdir())
    data = path.read_bytes()
    flip(path, data.rindex(b"other"))
    repair_journal(tmp_path)
    with StorageEngine(tmp_path) as engine:
        assert engine.get("c", "1")["n"] == "new"
        assert len(engine["c"]._store.overlay) == 0
        assert engine.collections() == ["c"]


def test_what_cannot_be_repaired_is_said(tmp_path: Path) -> None:
    with pytest.raises(godb_arrow.SourceNotFound, match="no journal"):
        repair_journal(tmp_path)
    with StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("c")
        with pytest.raises(godb_arrow.DirectoryLocked):
            repair_journal(tmp_path / "data")
        engine.replicate_to(tmp_path / "copy")
    with pytest.raises(godb_arrow.ReadOnly, match="follower"):
        repair_journal(tmp_path / "copy")


def test_a_repair_can_be_done_again(tmp_path: Path) -> None:
    paths = written(tmp_path)
    for at, kept in ((70, 11), (300, 10)):
        flip(paths[1], at)
        repair = repair_journal(tmp_path)
        assert repair.kept == kept
    assert len(list((tmp_path / "journal").glob("*.damaged*"))) == 2


def test_a_follower_says_that_the_source_is_damaged(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    engine = StorageEngine(source)
    engine.create_collection("c").insert({"n": 1})
    with godb_arrow.Follower(source, target) as follower:
        follower.step()
    engine.insert("c", {"n": 2})
    engine.insert("c", {"n": 3})
    crash(engine)
    path = max((source / "journal").iterdir(), key=lambda one: one.stat().st_size)
    shutil.copy(path, tmp_path / "good")
    flip(path, path.stat().st_size - 40)
    with (
        pytest.raises(CorruptFile, match=path.name),
        godb_arrow.Follower(source, target) as follower,
    ):
        follower.step()
    with StorageEngine(target, read_only=True) as reader:
        assert [one["n"] for one in reader.find_all("c")] == [1, 2], "what is whole was copied"
    shutil.copy(tmp_path / "good", path)
    with godb_arrow.Follower(source, target) as follower:
        follower.step()
    with StorageEngine(target, read_only=True) as reader:
        assert [one["n"] for one in reader.find_all("c")] == [1, 2, 3]


def test_records_that_make_no_sense_are_an_error_of_ours(tmp_path: Path) -> None:
    """Checksums are right: another program wrote the journal."""
    wrong: list[dict[str, Any]] = [
        {}, {"op": 7}, {"op": "write"}, {"op": "write", "c": "c"}, {"op": "create"},
        {"op": "attach", "c": "x"}, {"op": "attach", "files": {"x": "../../etc/passwd"}},
        {"op": "attach", "files": {"x": "/etc/passwd"}}, {"op": "attach", "files": 7},
        {"op": "attach", "files": {7: "a" * 32 + ".attached"}}, {"op": "rename", "c": "c"},
        {"op": "create", "c": 7}, {"op": "rename", "c": "c", "to": 7},
        {"op": "lost"}, {"op": "lost", "to": 0}, {"op": "index", "c": "c", "i": 7},
        {"op": "write", "c": "c", "n": "x", "k": [1]},
        {"op": "write", "c": "c", "n": 1, "k": [1, 2, 3]},
        {"op": "write", "c": "c", "n": 2, "k": [5], "s": b"no schema"},
        {"op": "compression", "c": "c", "z": "best"},
    ]  # fmt: skip
    for number, meta in enumerate(wrong):
        folder = tmp_path / str(number)
        (folder / "journal").mkdir(parents=True)
        journal = Journal(str(folder / "journal"))
        list(journal.recover())
        journal.append("key", {"op": "create", "c": "c"})
        journal.append("key", meta, [b"\xa11\x80"])
        journal.close()
        with (
            pytest.raises(godb_arrow.GodbError),
            StorageEngine(folder, read_only=True) as engine,
        ):
            engine.find_all("c")
            raise AssertionError(meta)


def test_a_source_whose_journal_was_being_trimmed_is_followed(tmp_path: Path) -> None:
    """Its first segment is not needed any more, and was never on the disk as it was written."""
    source, target = tmp_path / "source", tmp_path / "target"
    engine = StorageEngine(source)
    engine.create_collection("c").insert_many([{"n": n} for n in range(10)])
    first = min((source / "journal").iterdir())
    kept = first.read_bytes()
    engine.save()
    engine.insert("c", {"n": 10})
    crash(engine)
    assert not first.exists()
    first.write_bytes(kept[:-40])
    assert godb_arrow.verify_godb(source).problems == []
    with godb_arrow.Follower(source, target) as follower:
        follower.step()
    for folder in (target, source):
        with StorageEngine(folder, read_only=True) as reader:
            assert len(reader.find_all("c")) == 11
    last = max((source / "journal").iterdir())
    good = last.read_bytes()
    flip(last, len(good) - 5)
    assert repair_journal(source).kept == 0
    with StorageEngine(source, read_only=True) as reader:
        assert len(reader.find_all("c")) == 10, "the first segment is still not needed"
    last.write_bytes(good)
    StorageEngine(source).close()
    assert not first.exists()
