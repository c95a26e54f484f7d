"""Files of other engines: their numbers mean nothing here, and no acknowledged change is lost."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.disks import FaultyDisk, RecordingDisk, after_power_cut, put, using
from support.engines import crash, grown, open_engine, values
from support.handmade import file_of, mapping, string
from support.journals import as_version_1, with_hint

import godb_arrow
from godb_arrow import (
    Follower,
    GodbError,
    StorageEngine,
    StorageError,
    promote,
    restore_backup,
)
from godb_arrow.codec.entries import Chunk
from godb_arrow.file.hints import CollectionHint
from godb_arrow.file.writer import CollectionData, write_file

Documents = dict[str, dict[Any, Any]]


def documents(engine: StorageEngine, name: str = "users") -> Documents:
    found = engine.find_all(name)
    assert len({one["_id"] for one in found}) == len(found) == len(engine[name])
    return {one["_id"]: one for one in found}


def busy(folder: Path, count: int = 50, **options: Any) -> StorageEngine:
    """An engine whose journal has gone through many numbers."""
    engine = open_engine(folder, **options)
    users = engine.create_collection("users")
    for n in range(count):
        users.insert({"n": n})
    return engine


def attached(base: Path, folder: Path) -> None:
    with busy(base / "one") as one:
        one.save_to_file(base / "all.godb")
    with StorageEngine(folder) as engine:
        engine.load_collection_metadata(base / "all.godb")


def attached_by_0_1(base: Path, folder: Path) -> None:
    attached(base, folder)
    engine = StorageEngine(folder)
    engine.drop_collection("users")
    with busy(base / "two"):
        pass
    with_hint(base / "two" / "collections" / "users.godb", lambda hint: replace(hint, run=b""))
    engine.load_collection_metadata(base / "two" / "collections" / "users.godb")
    crash(engine)


def copied_in(base: Path, folder: Path) -> None:
    with busy(base / "one"):
        pass
    StorageEngine(folder).close()
    shutil.copy(base / "one" / "collections" / "users.godb", folder / "collections")


def copied_parts(base: Path, folder: Path) -> None:
    with open_engine(base / "one") as engine:
        grown(engine)
        engine.rename_collection("c", "users")
    StorageEngine(folder).close()
    shutil.copytree(
        base / "one" / "collections" / "users.parts", folder / "collections" / "users.parts"
    )


def restored(base: Path, folder: Path) -> None:
    with busy(base / "one") as engine:
        engine.backup(base / "backups")
    restore_backup(base / "backups", folder)


def promoted(base: Path, folder: Path) -> None:
    with busy(base / "one") as engine:
        engine.save()
        engine.insert("users", {"n": "in the journal only"})
        with Follower(base / "one", folder) as follower:
            follower.step()
    promote(folder)


def promoted_and_overwritten(base: Path, folder: Path) -> None:
    """The source goes on, and a later file of it comes to the promoted follower."""
    promoted(base, folder)
    with StorageEngine(base / "one") as engine:
        for n in range(100):
            engine.insert("users", {"n": -n})
    shutil.copy(base / "one" / "collections" / "users.godb", folder / "collections")


def copy_of_a_directory(base: Path, folder: Path) -> None:
    """Two copies of one directory go on, and a file of one comes to the other."""
    with busy(base / "one"):
        pass
    shutil.copytree(base / "one", folder)
    with StorageEngine(base / "one") as engine:
        for n in range(100):
            engine.insert("users", {"n": -n})
    shutil.copy(base / "one" / "collections" / "users.godb", folder / "collections")


def without_its_journal(base: Path, folder: Path) -> None:
    with busy(folder):
        pass
    shutil.rmtree(folder / "journal")


def without_numbers(base: Path, folder: Path) -> None:
    (folder / "collections").mkdir(parents=True)
    users = mapping(*((string(str(n)), mapping((string("n"), bytes([n])))) for n in range(1, 9)))
    body = mapping((string("collections"), mapping((string("users"), users))))
    (folder / "collections" / "users.godb").write_bytes(file_of(body))


ORIGINS = [
    attached, attached_by_0_1, copied_in, copied_parts, restored, promoted,
    promoted_and_overwritten, copy_of_a_directory, without_its_journal, without_numbers,
]  # fmt: skip


@pytest.mark.parametrize("durability", ["commit", "interval"])
@pytest.mark.parametrize("origin", ORIGINS)
def test_what_is_written_to_a_file_of_others_survives_a_crash(
    origin: Callable[[Path, Path], None], durability: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    origin(tmp_path, folder)
    engine = StorageEngine(folder, durability=durability)
    expected = documents(engine)
    before = len(expected)
    for kind in ("first", "second", "third"):
        new = engine.insert("users", {"n": kind})
        assert new not in expected
        expected[new] = {"_id": new, "n": kind}
        for identity in engine.insert_many("users", [{"n": n} for n in range(100)]):
            assert identity not in expected
            expected[identity] = engine.get("users", identity)
        engine.delete("users", "2") if kind == "first" else None
        expected.pop("2", None)
        engine.update("users", "3", {"n": kind})
        expected["3"]["n"] = kind
        assert documents(engine) == expected
        crash(engine)
        with StorageEngine(folder, read_only=True) as reader:
            assert documents(reader) == expected
        engine = StorageEngine(folder, durability=durability)
        assert documents(engine) == expected
        if kind == "second":
            engine["users"].checkpoint()
    engine.close()
    assert len(expected) == before + 302
    with StorageEngine(folder) as engine:
        assert documents(engine) == expected
    assert godb_arrow.verify_godb(folder).problems == []


def test_a_file_that_is_copied_in_keeps_the_records_of_its_predecessor(tmp_path: Path) -> None:
    engine = busy(tmp_path / "data", 5)
    engine.save()
    engine.insert("users", {"_id": "new", "n": "new"})
    engine.delete("users", "1")
    crash(engine)
    with busy(tmp_path / "other", 200):
        pass
    shutil.copy(
        tmp_path / "other" / "collections" / "users.godb", tmp_path / "data" / "collections"
    )
    with StorageEngine(tmp_path / "data") as engine:
        found = documents(engine)
        assert found["new"]["n"] == "new" and "1" not in found
        assert len(found) == 200


@pytest.mark.parametrize("keep", ["hints", "nothing"])
def test_replaying_twice_changes_nothing(keep: str, tmp_path: Path) -> None:
    """The journal comes back after a save; the files say nothing, so all of it is replayed."""
    folder = tmp_path / "data"
    engine = open_engine(folder)
    users = engine.create_collection("users")
    users.insert_many([{"n": n} for n in range(300)])
    engine.save()
    users.insert_many([{"n": n} for n in range(300, 400)])
    users.insert_many([{"_id": f"x{n}", "n": n} for n in range(80)])
    users.insert({"_id": "500", "n": 500})
    users.update_by_id({"7": {"n": -7}, "350": {"n": -350}})
    users.replace("8", {"m": 8})
    for identity in ("2", "302", "x3"):
        users.delete(identity)
    users.insert({"n": 1000})
    users.create_index("n")
    users.set_compression("zstd")
    engine.create_collection("second").insert({"n": 1})
    engine.rename_collection("second", "third")
    engine.create_collection("fourth").insert({"n": 1})
    engine.drop_collection("fourth")
    expected = {name: documents(engine, name) for name in engine.collections()}
    crash(engine)
    shutil.copytree(folder / "journal", tmp_path / "journal")
    for _ in range(3):
        with open_engine(folder) as engine:
            assert {name: documents(engine, name) for name in engine.collections()} == expected
            assert engine["users"].indexes == ("n",)
            assert engine["users"].compression == "zstd"
            next_id = engine["users"].next_id
        shutil.rmtree(folder / "journal")
        shutil.copytree(tmp_path / "journal", folder / "journal")
        if keep == "nothing":
            for path in (folder / "collections").glob("*.godb"):
                found = godb_arrow.read_documents(path)
                godb_arrow.write_godb(list(found), path, path.stem)
        assert next_id == 502


def test_numbers_that_a_power_cut_took_back_are_used_again(tmp_path: Path) -> None:
    """A file may hold changes that the journal lost: later ones with their numbers still count."""
    folder = tmp_path / "data"
    engine = busy(folder, 5)
    engine.save()
    kept = tmp_path / "journal"
    shutil.copytree(folder / "journal", kept)
    for n in range(10):
        engine.insert("users", {"n": n})
    engine["users"].checkpoint()
    crash(engine)
    shutil.rmtree(folder / "journal")
    shutil.copytree(kept, folder / "journal")
    engine = StorageEngine(folder)
    for n in range(3):
        engine.insert("users", {"_id": f"new{n}", "n": n})
    crash(engine)
    with StorageEngine(folder) as engine:
        assert len(documents(engine)) == 18


@pytest.mark.parametrize("saved", [True, False])
def test_a_directory_of_0_1_opens_without_loss(saved: bool, tmp_path: Path) -> None:
    engine = busy(tmp_path, 20)
    grown(engine, 3)
    if saved:
        engine["users"].checkpoint()
    engine.update("users", "1", {"n": "changed"})
    engine.insert_many("users", [{"n": n} for n in range(100)])
    engine.delete("c", "5")
    engine.create_collection("gone").insert({"n": 1})
    engine.drop_collection("gone")
    expected = {name: documents(engine, name) for name in engine.collections()}
    crash(engine)
    as_version_1(tmp_path)
    with open_engine(tmp_path, read_only=True) as engine:
        assert {name: documents(engine, name) for name in engine.collections()} == expected
    for _ in range(2):
        engine = open_engine(tmp_path)
        assert {name: documents(engine, name) for name in engine.collections()} == expected
        new = engine.insert("users", {"n": "new"})
        assert new not in expected["users"]
        expected["users"][new] = {"_id": new, "n": "new"}
        crash(engine)
    with open_engine(tmp_path) as engine:
        assert {name: documents(engine, name) for name in engine.collections()} == expected


def test_the_numbers_of_a_directory_of_0_1_count_for_its_own_journal(tmp_path: Path) -> None:
    engine = busy(tmp_path, 20)
    engine.update("users", "1", {"n": "old"})
    engine.update("users", "1", {"n": "new"})
    engine["users"].checkpoint()
    crash(engine)
    as_version_1(tmp_path)
    with StorageEngine(tmp_path) as engine:
        assert not engine["users"].is_dirty or len(engine["users"]._store.overlay) == 0
        assert engine.get("users", "1")["n"] == "new"
        engine["users"].checkpoint()
        assert len(engine["users"]._store.overlay) == 0
        assert engine.stats().checkpoints == 0, "the file held everything"


def test_a_collection_that_was_created_and_saved_stays_with_any_durability(
    tmp_path: Path,
) -> None:
    engine = StorageEngine(tmp_path)
    engine.create_collection("users")
    engine.create_collection("other").insert({"n": 1})
    engine["users"].checkpoint()
    crash(engine)
    engine = StorageEngine(tmp_path, durability="checkpoint")
    engine.insert("users", {"n": 1})
    engine["users"].checkpoint()
    crash(engine)
    with StorageEngine(tmp_path) as engine:
        assert len(engine["users"]) == 1


# --- load_collection_metadata -----------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A file with two collections."""
    path = tmp_path / "two.godb"
    godb_arrow.write_godb([{"n": n} for n in range(5)], path, "a")
    godb_arrow.write_godb([{"n": n} for n in range(7)], path, "b", if_exists="append")
    return path


def counts(engine: StorageEngine) -> dict[str, int]:
    return {name: len(engine.find_all(name)) for name in engine.collections()}


@pytest.mark.parametrize("how", ["deleted", "truncated", "replaced", "overwritten"])
def test_what_becomes_of_the_file_does_not_matter(how: str, two: Path, tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path / "data")
    assert engine.load_collection_metadata(two) == {"a": 5, "b": 7}
    if how == "deleted":
        two.unlink()
    elif how == "replaced":
        two.unlink()
        godb_arrow.write_godb([{"n": "other"}], two, "a")
    elif how == "truncated":
        os.truncate(two, 20)
    else:
        two.write_bytes(b"\xff" * two.stat().st_size)
    engine.insert("b", {"n": "new"})
    crash(engine)
    with StorageEngine(tmp_path / "data", read_only=True) as reader:
        assert counts(reader) == {"a": 5, "b": 8}
    engine = StorageEngine(tmp_path / "data")
    engine["a"].checkpoint()
    crash(engine)
    with StorageEngine(tmp_path / "data") as engine:
        assert counts(engine) == {"a": 5, "b": 8}
    assert sorted(os.listdir(tmp_path / "data" / "collections")) == ["a.godb", "b.godb"]


def test_a_url_is_copied(tmp_path: Path) -> None:
    place = "memory://attached/x.godb"
    godb_arrow.write_godb([{"n": 1}], place, "a")
    engine = StorageEngine(tmp_path)
    engine.load_collection_metadata(place)
    crash(engine)
    godb_arrow.write_godb([{"n": 1}, {"n": 2}], place, "a")
    with StorageEngine(tmp_path) as engine:
        assert counts(engine) == {"a": 1}


def test_no_record_names_a_place_outside(two: Path, tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path / "data")
    engine.load_collection_metadata(two)
    crash(engine)
    journal = b"".join(path.read_bytes() for path in (tmp_path / "data" / "journal").iterdir())
    assert os.fsencode(tmp_path) not in journal
    assert os.fsencode(two.name) not in journal


def test_nothing_is_taken_in_that_fails(two: Path, tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("b")
        with pytest.raises(godb_arrow.CollectionExists):
            engine.load_collection_metadata(two)
        for path, content in (("bad", b"GODB\x01\0\0\0\xff"), ("empty", b""), ("none", None)):
            if content is not None:
                (tmp_path / path).write_bytes(content)
            with pytest.raises(GodbError) as raised:
                engine.load_collection_metadata(tmp_path / path)
            assert path in str(raised.value)
            assert ".attached" not in str(raised.value)
        assert engine.collections() == ["b"]
        assert not list((tmp_path / "data").rglob("*.attached"))


def test_what_a_crash_left_of_taking_in_is_removed(two: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    engine = StorageEngine(folder)
    engine.load_collection_metadata(two)
    left = folder / "collections" / f"{'a' * 32}.attached"
    foreign = folder / "collections" / "mine.attached"
    shutil.copy(two, left)
    shutil.copy(two, foreign)
    crash(engine)
    with StorageEngine(folder) as engine:
        assert not left.exists()
        assert counts(engine) == {"a": 5, "b": 7}
    assert foreign.exists(), "it was not named by an engine"


def test_taking_in_is_replayed_with_renaming_and_dropping(two: Path, tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path / "data")
    engine.load_collection_metadata(two)
    engine.rename_collection("a", "c")
    engine.insert("c", {"n": "new"})
    engine.drop_collection("b")
    crash(engine)
    engine = StorageEngine(tmp_path / "data")
    assert counts(engine) == {"c": 6}
    engine["c"].checkpoint()
    engine.load_collection_metadata(two)
    crash(engine)
    with StorageEngine(tmp_path / "data") as engine:
        assert counts(engine) == {"a": 5, "b": 7, "c": 6}


def test_a_copy_is_no_more_readable_than_the_file(two: Path, tmp_path: Path) -> None:
    two.chmod(0o600)
    engine = StorageEngine(tmp_path / "data")
    engine.load_collection_metadata(two)
    for path in (tmp_path / "data").rglob("*.attached"):
        assert path.stat().st_mode & 0o777 == 0o600
    engine.close()


@pytest.mark.parametrize("mode", ["asynchronous", "acknowledged"])
def test_a_follower_gets_what_was_taken_in(mode: Any, two: Path, tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path / "data")
    replica = engine.replicate_to(tmp_path / "copy", mode=mode, interval="1h")
    engine.load_collection_metadata(two)
    engine.insert("a", {"n": "new"})
    if mode == "asynchronous":
        replica.step()
    with StorageEngine(tmp_path / "copy", read_only=True) as reader:
        assert counts(reader) == {"a": 6, "b": 7}
    crash(engine)
    shutil.rmtree(tmp_path / "data")
    replica._follower.close()
    promote(tmp_path / "copy")
    with StorageEngine(tmp_path / "copy") as engine:
        assert counts(engine) == {"a": 6, "b": 7}
    assert not list((tmp_path / "copy").rglob("*.attached"))


def test_a_follower_begins_after_what_was_taken_in_was_saved(two: Path, tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path / "data")
    engine.create_collection("other").insert({"n": 1})
    engine.load_collection_metadata(two)
    for name in ("a", "b"):
        engine[name].checkpoint()  # the journal still has the record
    with Follower(tmp_path / "data", tmp_path / "copy") as follower:
        follower.step()
        with StorageEngine(tmp_path / "copy", read_only=True) as reader:
            assert counts(reader) == {"a": 5, "b": 7, "other": 1}
    engine.close()


def test_a_follower_gets_what_is_taken_in_while_it_lists_files(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godb_arrow.replication import follower as module

    original = module.list_stored
    waiting = []
    engine = StorageEngine(tmp_path / "data")
    engine.create_collection("other").insert({"n": 1})

    def listed(folder: str) -> Any:
        found = original(folder)
        if waiting:
            waiting.pop()()
        return found

    def take_in_and_save() -> None:
        engine.load_collection_metadata(two)
        engine.save()

    monkeypatch.setattr(module, "list_stored", listed)
    with Follower(tmp_path / "data", tmp_path / "copy") as follower:
        follower.step()
        for action in (lambda: engine.load_collection_metadata(two), take_in_and_save):
            waiting.append(action)
            follower.step()
            with StorageEngine(tmp_path / "copy", read_only=True) as reader:
                assert counts(reader) == {"a": 5, "b": 7, "other": 1}
            engine.drop_collection("a")
            engine.drop_collection("b")
    engine.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_each_call_of_the_disk_fails_while_a_file_is_taken_in(
    code: int, two: Path, tmp_path: Path
) -> None:
    for fail_at in range(100):
        folder = tmp_path / str(fail_at)
        engine = StorageEngine(folder)
        engine.create_collection("other").insert({"n": 1})
        disk = FaultyDisk(fail_at, code)
        with using(disk):
            try:
                engine.load_collection_metadata(two)
            except StorageError:
                assert disk.failed
        found = counts(engine)
        assert found in ({"other": 1}, {"a": 5, "b": 7, "other": 1})
        if fail_at % 2:
            engine.close()
        else:
            crash(engine)
        with StorageEngine(folder) as engine:
            again = counts(engine)
            # After a failed sync the record may be there.
            assert again in (found, {"a": 5, "b": 7, "other": 1})
        left = {path.name for path in (folder / "collections").iterdir()}
        assert left == {f"{name}.godb" for name in again}
        if disk.failed is None:
            assert found == {"a": 5, "b": 7, "other": 1}
            break
    assert 9 < fail_at < 99


@pytest.mark.parametrize("how", ["least", "most", "any"])
def test_the_power_is_cut_while_a_file_is_taken_in(how: str, two: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    for part in ("collections", "journal"):
        (folder / part).mkdir(parents=True)
    disk = RecordingDisk(str(folder))
    with using(disk):
        engine = StorageEngine(folder, durability="commit")
        engine.load_collection_metadata(two)
        disk.acknowledged = 1
        disk._remember()
        engine.insert("a", {"n": "new"})
        disk.acknowledged = 2
        disk._remember()
        engine["a"].checkpoint()
        engine.save()
        crash(engine)
    number = random.Random(11)
    for index, (acknowledged, state) in enumerate(disk.cuts):
        target = tmp_path / "cut"
        put(after_power_cut(state, how, number), str(folder), target)
        with StorageEngine(target) as again:
            found = counts(again)
            expected = [{}, {"a": 5, "b": 7}, {"a": 6, "b": 7}][acknowledged:]
            assert found in expected, f"cut {index} of {len(disk.cuts)}"
        shutil.rmtree(target)


def test_files_are_taken_in_on_an_object_store(two: Path) -> None:
    place = "memory://attached-there/data"
    with StorageEngine(place) as engine:
        engine.load_collection_metadata(two)
        two.unlink()
        engine.insert("a", {"n": "new"})
    with StorageEngine(place) as engine:
        assert counts(engine) == {"a": 6, "b": 7}


# --- numbers that lie -------------------------------------------------------------------------


def lying(path: Path, hint: CollectionHint, ids: tuple[str, ...] = ("1", "2", "5")) -> None:
    data = b"".join(string(one) + mapping((string("a"), b"\1")) for one in ids)
    with path.open("wb") as stream:
        write_file(stream, [CollectionData(path.stem, len(ids), [Chunk(data, len(ids))], hint)])


LIES = {
    "next id too small": {"next_id": 1},
    "next id in use": {"next_id": 5},
    "next id negative": {"next_id": -7},
    "next id zero": {"next_id": 0},
    "next id at the end": {"next_id": 2**63 - 1},
    "next id past the end": {"next_id": 2**64 - 1},
    "next id huge": {"next_id": 2**62},
    "count too small": {"count": 1},
    "count too large": {"count": 1000},
    "count huge": {"count": 2**63},
    "size negative": {"size": -1},
    "size huge": {"size": 2**62},
    "record huge": {"record": 2**63},
    "record large": {"record": 2**62},
    "version huge": {"version": 2**64 - 1},
    "version large": {"version": 2**62},
}


@pytest.mark.parametrize("place", ["attached", "copied in"])
@pytest.mark.parametrize("lie", LIES)
def test_numbers_of_foreign_files_are_checked(lie: str, place: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    numbers: dict[str, Any] = {"count": 3, "next_id": 6, **LIES[lie]}
    path = tmp_path / "evil.godb"
    lying(path, CollectionHint(**numbers))
    if place == "copied in":
        StorageEngine(folder).close()
        shutil.copy(path, folder / "collections")
    engine = StorageEngine(folder)
    if place == "attached":
        assert engine.load_collection_metadata(path) == {"evil": 3}
    engine.create_collection("mine").insert({"precious": 1})
    assert len(engine["evil"]) == 3
    given = [engine["evil"].insert({"a": 2})]
    given += engine["evil"].insert_many([{"a": n} for n in range(100)])
    assert len({*given, "1", "2", "5"}) == 104
    assert all(0 < int(one) < 2**57 for one in given)
    crash(engine)
    engine = StorageEngine(folder)
    assert len(documents(engine, "evil")) == 104
    engine.save()
    new = engine["evil"].insert({"a": 3})
    assert new not in given
    engine.close()
    with StorageEngine(folder) as engine:
        assert len(documents(engine, "evil")) == 105
        assert engine.find_all("mine") == [{"_id": "1", "precious": 1}]
    files = sorted(path.name for path in (folder / "collections").rglob("*.godb"))
    assert files == ["evil.godb", "mine.godb"], "a size does not cut it into parts"
    assert godb_arrow.verify_godb(folder).problems == []


def test_one_bad_file_blocks_no_other(tmp_path: Path) -> None:
    """The documents of a file cannot be read; the others are saved all the same."""
    path = tmp_path / "bad.godb"
    godb_arrow.write_godb([{"n": n, "text": "x" * 50} for n in range(1000)], path, "bad")
    data = bytearray(path.read_bytes())
    data[-60] ^= 0xFF
    path.write_bytes(data)
    engine = StorageEngine(tmp_path / "data")
    engine.load_collection_metadata(path)
    engine.create_collection("mine").insert({"precious": 1})
    for _ in range(2):
        with pytest.raises(GodbError):
            engine.save()
    assert (tmp_path / "data" / "collections" / "mine.godb").exists()
    with pytest.raises(GodbError):
        engine.close()
    engine.drop_collection("bad")
    engine.save()
    engine.close()
    with StorageEngine(tmp_path / "data") as engine:
        assert engine.collections() == ["mine"]
    assert not list((tmp_path / "data").rglob("*.attached"))


def test_any_error_of_one_collection_leaves_the_others_to_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godb_arrow.engine import checkpointer

    engine = StorageEngine(tmp_path)
    for name in ("a", "b", "c"):
        engine.create_collection(name).insert({"n": 1})
    original = checkpointer.save_snapshot

    def failing(directory: Any, target: str, name: str, *rest: Any) -> Any:
        if name == "b":
            raise OverflowError("a number of it is too large")
        return original(directory, target, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpointer, "save_snapshot", failing)
        with pytest.raises(GodbError, match="too large") as raised:
            engine.save()
        assert isinstance(raised.value.__cause__, OverflowError)
        assert raised.value.collection == "b"
        assert sorted(os.listdir(tmp_path / "collections")) == ["a.godb", "c.godb"]
    engine.close()
    assert len(os.listdir(tmp_path / "collections")) == 3


def test_a_file_that_lies_about_its_count_never_becomes_a_damaged_one(tmp_path: Path) -> None:
    """Of a file with several collections the counts are seen late: saving says so."""
    path = tmp_path / "two.godb"
    entry = string("1") + mapping((string("a"), b"\1"))
    with path.open("wb") as stream:
        write_file(stream, [
            CollectionData(name, 1, [Chunk(entry, 1)], CollectionHint(count, 2))
            for name, count in (("a", 1), ("b", 7))
        ])  # fmt: skip
    engine = StorageEngine(tmp_path / "data")
    engine.load_collection_metadata(path)
    with pytest.raises(GodbError, match="7"):
        engine.save()
    assert os.path.exists(tmp_path / "data" / "collections" / "a.godb")
    assert not os.path.exists(tmp_path / "data" / "collections" / "b.godb")
    engine.close(discard=True)


# --- versions that compete --------------------------------------------------------------------


def test_a_file_of_others_beside_a_folder_changes_nothing(tmp_path: Path) -> None:
    """However often a file was saved elsewhere, it does not count, and is not removed."""
    with open_engine(tmp_path) as engine:
        grown(engine, 3)
    lying(tmp_path / "collections" / "c.godb", CollectionHint(3, 6, version=10**6))
    for _ in range(2):
        with open_engine(tmp_path) as engine:
            assert sorted(values(engine["c"])) == list(range(3000))
    assert (tmp_path / "collections" / "c.godb").exists()
    assert any("both exist" in note for note in godb_arrow.verify_godb(tmp_path).notes)


def test_a_folder_of_others_beside_a_file_changes_nothing(tmp_path: Path) -> None:
    with open_engine(tmp_path / "other") as engine:
        grown(engine, 3)
    with StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("c").insert({"n": "mine"})
    shutil.copytree(
        tmp_path / "other" / "collections" / "c.parts",
        tmp_path / "data" / "collections" / "c.parts",
    )
    with StorageEngine(tmp_path / "data") as engine:
        assert [one["n"] for one in engine.find_all("c")] == ["mine"]
    assert len(os.listdir(tmp_path / "data" / "collections" / "c.parts")) > 2


@pytest.mark.parametrize("origin", [restored, copied_in])
def test_a_file_that_a_crash_left_beside_its_folder_does_not_come_back(
    origin: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """Another directory's engine wrote the file, and ours superseded it."""
    folder = tmp_path / "data"
    origin(tmp_path, folder)
    file = folder / "collections" / "users.godb"
    kept = file.read_bytes()
    with open_engine(folder, part_size="1KiB") as engine:
        engine.insert("users", {"n": "new"})
        engine["users"].to_folder()
        expected = documents(engine)
    assert not file.exists()
    file.write_bytes(kept)
    with open_engine(folder) as engine:
        assert documents(engine) == expected
        assert not file.exists()
        engine.drop_collection("users")
    with open_engine(folder) as engine:
        assert engine.collections() == []


def test_a_collection_grows_beside_a_folder_of_others(tmp_path: Path) -> None:
    with open_engine(tmp_path / "other") as engine:
        grown(engine, 5)
        engine.rename_collection("c", "users")
    parts = tmp_path / "data" / "collections" / "users.parts"
    busy(tmp_path / "data").close()
    shutil.copytree(tmp_path / "other" / "collections" / "users.parts", parts)
    for _ in range(2):
        with open_engine(tmp_path / "data") as engine:
            engine["users"].to_folder()
            assert len(documents(engine)) == 50


def test_a_reader_that_opens_while_a_writer_begins_again_sees_no_older_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the journal and the file, another run of the journal saves the file."""
    from godb_arrow.directory import data_directory

    engine = busy(tmp_path, 5)
    engine.save()
    engine.update("users", "1", {"n": "old"})
    crash(engine)
    original = data_directory.read_journal
    done: list[bool] = []

    def read(*arguments: Any) -> Any:
        yield from original(*arguments)
        if not done:
            done.append(True)
            with StorageEngine(tmp_path) as writer:
                writer.update("users", "1", {"n": "new"})

    monkeypatch.setattr(data_directory, "read_journal", read)
    with StorageEngine(tmp_path, read_only=True) as reader:
        assert done
        assert reader.get("users", "1")["n"] == "new"


def test_a_reader_that_uses_a_file_late_sees_no_older_state(tmp_path: Path) -> None:
    engine = busy(tmp_path, 5)
    engine.save()
    engine.update("users", "1", {"n": "old"})
    engine.insert("users", {"_id": "x", "n": "in the journal"})
    crash(engine)
    with StorageEngine(tmp_path, read_only=True) as reader:
        with StorageEngine(tmp_path) as writer:
            writer.update("users", "1", {"n": "new"})
            writer.delete("users", "x")
        assert reader.get("users", "1")["n"] == "new"
        assert len(documents(reader)) == 5


def left(folder: Path, before: Callable[[StorageEngine], Any]) -> None:
    """Leave a directory whose journal has the records of some changes."""
    StorageEngine(folder).close()
    engine = StorageEngine(folder)
    engine.create_collection("keep").insert({"_id": "1"})
    before(engine)
    crash(engine)


def create(engine: StorageEngine, *, save: bool = False) -> None:
    engine.create_collection("users").insert({"_id": "old"})
    if save:
        engine.save()


def rename(engine: StorageEngine) -> None:
    create(engine, save=True)
    engine.rename_collection("users", "people")
    engine["people"].checkpoint()


REMOVALS: dict[str, Callable[[StorageEngine], Any]] = {
    "never saved": lambda e: (create(e), e.drop_collection("users")),
    "saved": lambda e: (create(e, save=True), e.drop_collection("users")),
    "saved, and changed": lambda e: (
        create(e, save=True), e["users"].insert({"n": 1}), e.drop_collection("users")
    ),
    "dropped twice": lambda e: (
        create(e, save=True), e.drop_collection("users"), create(e), e.drop_collection("users")
    ),
    "renamed": rename,
    "renamed and dropped": lambda e: (rename(e), e.drop_collection("people")),
}  # fmt: skip


@pytest.mark.parametrize("journal", ["whole", "without the creation"])
@pytest.mark.parametrize("removal", REMOVALS)
def test_a_file_that_is_put_in_place_of_a_former_collection_stays(
    removal: str, journal: str, tmp_path: Path
) -> None:
    """A crash leaves the record of the removal in the journal, which is replayed beside it."""
    folder = tmp_path / "data"
    if journal == "whole":
        left(folder, REMOVALS[removal])
    else:
        with StorageEngine(folder) as engine:
            engine.create_collection("keep")
            if removal != "never saved":
                create(engine, save=True)
        engine = StorageEngine(folder)
        if "renamed" in removal:
            engine.rename_collection("users", "people")
            engine["people"].checkpoint()
            if "dropped" in removal:
                engine.drop_collection("people")
        elif removal == "never saved":
            create(engine)
            engine.drop_collection("users")
        else:
            engine.drop_collection("users")
        crash(engine)
    place = folder / "collections" / "users.godb"
    assert not place.exists()
    godb_arrow.write_godb([{"_id": "new"}], place, "users")
    with StorageEngine(folder, read_only=True) as reader:
        assert reader.find_all("users") == [{"_id": "new"}]
    for _ in range(2):
        with StorageEngine(folder) as engine:
            assert engine.find_all("users") == [{"_id": "new"}]
            with pytest.raises(godb_arrow.CollectionExists):
                engine.create_collection("users")
            engine.save()


@pytest.mark.parametrize("damage", ["garbage", "missing", "link"])
def test_a_collection_whose_file_cannot_be_read_is_dropped(damage: str, tmp_path: Path) -> None:
    place = tmp_path / "data" / "collections" / "users.godb"
    with StorageEngine(tmp_path / "data") as engine:
        create(engine)
    place.unlink()
    if damage == "garbage":
        place.write_bytes(b"garbage")
    elif damage == "link":
        place.symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").write_bytes(b"garbage")
    engine = StorageEngine(tmp_path / "data")
    if "users" in engine:
        engine.drop_collection("users")
    crash(engine)
    for _ in range(2):
        with StorageEngine(tmp_path / "data") as engine:
            assert "users" not in engine or damage == "link"


def test_a_damaged_file_at_the_name_of_a_record_keeps_no_directory_closed(tmp_path: Path) -> None:
    left(tmp_path / "data", create)
    place = tmp_path / "data" / "collections" / "users.godb"
    place.write_bytes(b"garbage")
    with StorageEngine(tmp_path / "data", read_only=True) as engine:
        assert engine.get("keep", "1") == {"_id": "1"}
    engine = StorageEngine(tmp_path / "data")
    with pytest.raises(GodbError):
        engine.find_all("users")
    engine.insert("keep", {"_id": "2"})
    with pytest.raises(GodbError):  # the records of the damaged collection cannot be saved
        engine.close()
    engine.close(discard=True)
    assert place.read_bytes() == b"garbage"
    place.unlink()
    with StorageEngine(tmp_path / "data") as engine:
        assert engine.count("keep") == 2
        assert engine.get("users", "old") == {"_id": "old"}


@pytest.mark.parametrize("later", [False, True], ids=["at once", "after the journal was trimmed"])
@pytest.mark.parametrize("part_size", [1 << 10, 1 << 27], ids=["parts", "file"])
def test_a_dropped_collection_whose_files_stayed_does_not_come_back(
    part_size: int, later: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise godb_arrow.StorageError("busy")

    engine = StorageEngine(tmp_path / "data", part_size=part_size)
    engine.create_collection("A").insert_many([{"n": n} for n in range(500)])
    engine.save()
    engine.create_collection("other")
    if later:
        crash(engine)
        engine = StorageEngine(tmp_path / "data", part_size=part_size)
    with monkeypatch.context() as patch:
        patch.setattr(type(engine._components.context.directory), "remove", refuse)
        engine.drop_collection("A")
        engine.insert("other", {"n": 1})
        engine.save()
        crash(engine)
    for _ in range(2):
        with StorageEngine(tmp_path / "data", part_size=part_size) as engine:
            assert engine.collections() == ["other"]


def test_a_collection_that_was_renamed_and_dropped_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise godb_arrow.StorageError("busy")

    with StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("A").insert({"n": 1})
    engine = StorageEngine(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(type(engine._components.context.directory), "remove", refuse)
        engine.rename_collection("A", "B")
        engine.drop_collection("B")
        crash(engine)
    with StorageEngine(tmp_path / "data") as engine:
        assert engine.collections() == []
        engine.create_collection("A")
    with StorageEngine(tmp_path / "data") as engine:
        assert engine.collections() == ["A"]
        assert engine.count("A") == 0


def test_a_file_of_others_that_was_dropped_does_not_come_back(tmp_path: Path) -> None:
    StorageEngine(tmp_path / "data").close()
    place = tmp_path / "data" / "collections" / "users.godb"
    godb_arrow.write_godb([{"_id": "others"}], place, "users")
    whole = place.read_bytes()
    engine = StorageEngine(tmp_path / "data")
    engine.drop_collection("users")
    crash(engine)
    place.write_bytes(whole)  # as if the process had died before it removed the file
    with StorageEngine(tmp_path / "data") as engine:
        assert engine.collections() == []
    assert not place.exists()


@pytest.mark.parametrize("thorough", [True, False])
def test_a_renamed_folder_that_was_compacted_before_its_save_keeps_its_documents(
    thorough: bool, tmp_path: Path
) -> None:
    with StorageEngine(tmp_path, part_size=2000) as engine:
        engine.create_collection("c").to_folder()
        for part in range(6):
            engine.upsert_many("c", [{"_id": f"{part}-{n}", "n": n} for n in range(80)])
            engine.save()
        engine["c"].delete_many({"n": {"$lt": 30}})
        engine.save()
        engine.create_collection("z")
        engine.save()  # The journal forgets the run that saved the folder.
    engine = StorageEngine(tmp_path, part_size=2000)
    engine["c"].insert({"_id": "first"})
    engine.rename_collection("c", "r")
    crash(engine)
    engine = StorageEngine(tmp_path, part_size=2000)
    engine["r"].compact(thorough=thorough)
    engine["r"].insert({"_id": "second"})
    wanted = sorted(one["_id"] for one in engine["r"].find())
    crash(engine)
    with StorageEngine(tmp_path, part_size=2000) as engine:
        assert counts(engine) == {"r": 302, "z": 0}
        assert sorted(one["_id"] for one in engine["r"].find()) == wanted
