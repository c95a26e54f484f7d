"""A renamed collection keeps its versions and tags, whatever happens before it is saved."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.disks import FaultyDisk, RecordingDisk, after_power_cut, put, using
from support.engines import crash
from support.settings import LONG

import godb_arrow
from godb_arrow import Follower, StorageEngine, StorageError, promote
from godb_arrow.engine.former_files import FormerFiles
from godb_arrow.snapshots.manifest import manifest_name, read_manifest
from godb_arrow.storage.folder import open_folder

NAMES = [("old", "new"), ("o" * 240, "n" * 250)]  # long names are recorded in the files only
_EVERY = 13  # calls of the disk, of which one is tried unless GODB_ARROW_LONG is set
Versions = dict[int, list[str]]


def opened(folder: Path, **options: Any) -> StorageEngine:
    return StorageEngine(folder, versions="all", **options)


def ids(collection: Any) -> list[str]:
    return sorted(document["_id"] for document in collection)


def versions_of(engine: StorageEngine, name: str) -> Versions:
    found = engine[name]
    return {info.version: ids(found.at_version(info.version)) for info in found.versions()}


def grown(folder: Path, name: str, **options: Any) -> tuple[StorageEngine, Versions]:
    """Return an engine with a collection of some versions, one tag, and an unsaved change."""
    engine = opened(folder, **options)
    users = engine.create_collection(name)
    users.insert_many([{"_id": f"a{n}", "n": n} for n in range(3)])
    engine.tag(name, "first")
    users.insert({"_id": "b"})
    engine.save()
    users.delete("a1")
    users.update("a2", {"n": 7})
    engine.save()
    users.insert({"_id": "unsaved"})
    return engine, versions_of(engine, name)


NOW = ["a0", "a2", "b", "unsaved"]


def check(engine: StorageEngine, name: str, versions: Versions) -> None:
    """Check a renamed collection, saved or not."""
    assert engine.collections() == [name]
    assert ids(engine[name]) == NOW
    found = versions_of(engine, name)
    assert {number: found.get(number) for number in versions} == versions
    assert engine[name].get("a2")["n"] == 7
    assert ids(engine.snapshot(name, tag="first")) == ["a0", "a1", "a2"]
    assert engine.snapshot(name, tag="first").get("a2")["n"] == 2


def saved(engine: StorageEngine) -> StorageEngine:
    engine.save()
    return engine


def reopened(engine: StorageEngine) -> StorageEngine:
    engine.close()
    return opened(engine.data_dir)


def recovered(engine: StorageEngine) -> StorageEngine:
    crash(engine)
    return opened(engine.data_dir)


def recovered_and_saved(engine: StorageEngine) -> StorageEngine:
    return saved(recovered(engine))


def compacted(engine: StorageEngine) -> StorageEngine:
    engine[engine.collections()[0]].compact(thorough=True)
    return saved(engine)


def read_only(engine: StorageEngine) -> StorageEngine:
    crash(engine)
    return opened(engine.data_dir, read_only=True)


@pytest.mark.parametrize("names", NAMES if LONG else NAMES[:1], ids=lambda names: names[0][:3])
@pytest.mark.parametrize(
    "state",
    [lambda engine: engine, saved, reopened, recovered, recovered_and_saved, compacted, read_only],
    ids=["unsaved", "saved", "reopened", "recovered", "recovered_and_saved", "compacted", "reader"],
)
def test_versions_and_tags_have_the_new_name(
    tmp_path: Path, state: Callable[[StorageEngine], StorageEngine], names: tuple[str, str]
) -> None:
    engine, versions = grown(tmp_path / "data", names[0])
    engine.rename_collection(*names)
    engine = state(engine)
    check(engine, names[1], versions)
    if state is not read_only:
        found = engine[names[1]]
        found.restore(min(versions))
        assert ids(found) == ["a0", "a1", "a2"]
        found.restore(max(versions_of(engine, names[1])) - 1)
        check(engine, names[1], versions)
        found.untag("first")
    engine.close()
    assert godb_arrow.verify_godb(tmp_path / "data").ok


def test_a_collection_that_is_renamed_twice(tmp_path: Path) -> None:
    engine, versions = grown(tmp_path, "a")
    for before, after, is_saved in (
        ("a", "b", False), ("b", "c", True), ("c", "a", True), ("a", "b", True), ("b", "a", False),
    ):  # fmt: skip
        engine.rename_collection(before, after)
        if is_saved:
            engine.save()
        check(engine, after, versions)
    engine = recovered_and_saved(engine)
    check(engine, "a", versions)
    assert [one.name for one in (tmp_path / "collections").iterdir()] == ["a.parts"]
    engine.close()


def test_kept_versions_are_counted_across_names(tmp_path: Path) -> None:
    with opened(tmp_path, keep_versions=2, part_grace="1ms") as engine:
        engine.create_collection("a")
        for number in range(4):
            engine.insert("a", {"_id": str(number)})
            engine.save()
        engine.rename_collection("a", "b")
        engine.insert("b", {"_id": "4"})
        engine.save()
        assert len(versions_of(engine, "b")) == 2
        numbers = list(versions_of(engine, "b"))
        engine.insert("b", {"_id": "5"})
        engine.save()
        assert list(versions_of(engine, "b")) == [numbers[-1], numbers[-1] + 1]


def test_a_damaged_version_is_no_obstacle(tmp_path: Path) -> None:
    engine, versions = grown(tmp_path, "old")
    folder = tmp_path / "collections" / "old.parts"
    manifests = sorted(folder.glob("*.manifest"))
    assert len(manifests) == len(versions)
    manifests[1].write_bytes(b"damaged")
    engine.rename_collection("old", "new")
    engine.save()
    assert ids(engine["new"]) == NOW
    assert ids(engine.snapshot("new", tag="first")) == ["a0", "a1", "a2"]
    engine.close()


def test_a_version_without_its_files_is_no_obstacle(tmp_path: Path) -> None:
    engine, versions = grown(tmp_path, "old")
    engine = compacted(engine)
    newest = max(versions_of(engine, "old"))
    (tmp_path / "collections" / "old.parts" / "00000001.godb").unlink()
    engine.rename_collection("old", "new")
    engine.save()
    assert ids(engine["new"]) == NOW
    kept = {info.version for info in engine["new"].versions()}
    assert newest in kept
    assert min(versions) not in kept, "it needs the file that is missing"
    engine.close()


def test_manifests_have_the_new_name_and_no_more_readers(tmp_path: Path) -> None:
    engine, versions = grown(tmp_path, "old")
    private = min(versions)
    (tmp_path / "collections" / "old.parts" / manifest_name(private)).chmod(0o600)
    engine.rename_collection("old", "new")
    engine.save()
    engine.close()
    folder = tmp_path / "collections" / "new.parts"
    content = open_folder(str(folder))
    for version in versions:
        assert read_manifest(content, version).name == "new"
    assert (folder / manifest_name(private)).stat().st_mode & 0o077 == 0


class CopyingDisk(FaultyDisk):
    """Copies a directory before each call, as a kill at that moment leaves it."""

    def __init__(self, folder: Path, copies: Path) -> None:
        super().__init__()
        self._folder, self._copies = folder, copies
        self.copies: list[Path] = []

    def _call(self, name: str) -> None:
        super()._call(name)
        if LONG or len(self.calls) % _EVERY == 0:
            self.copies.append(self._copies / str(len(self.calls)))
            shutil.copytree(self._folder, self.copies[-1])


def killed_copies(tmp_path: Path, names: tuple[str, str]) -> tuple[list[Path], Versions]:
    """Return a directory as kills in the save after a renaming leave it."""
    engine, versions = grown(tmp_path / "data", names[0])
    engine.rename_collection(*names)
    disk = CopyingDisk(tmp_path / "data", tmp_path / "copies")
    with using(disk):
        engine.save()
    engine.close()
    assert len(disk.copies) >= 4
    return disk.copies, versions


@pytest.mark.parametrize("names", NAMES if LONG else NAMES[1:], ids=lambda names: names[0][:3])
def test_a_kill_in_the_save_after_a_renaming(tmp_path: Path, names: tuple[str, str]) -> None:
    copies, versions = killed_copies(tmp_path, names)
    name = names[1]
    for number, copy in enumerate(copies):
        with opened(copy, read_only=True) as reader:
            check(reader, name, versions)
        if LONG or number == 3:
            with Follower(copy, tmp_path / f"f{number}") as follower:
                follower.step()
            promote(tmp_path / f"f{number}")
            with opened(tmp_path / f"f{number}") as engine:
                check(engine, name, versions)
        with opened(copy) as engine:
            check(engine, name, versions)
            if number % 2:
                engine[name].compact(thorough=True)  # numbers new files in the former folder
                engine[name].upsert_many([{"_id": "b"}])
                crash(engine)
        with opened(copy) as engine:
            engine.save()
            check(engine, name, versions)
        with opened(copy) as engine:
            check(engine, name, versions)
        assert len(list((copy / "collections").iterdir())) == 1
        assert godb_arrow.verify_godb(copy).ok


def killed_while_dropped(engine: StorageEngine) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FormerFiles, "remove_dropped", lambda *_: None)
        engine.drop_collection("new")


AFTER: dict[str, Callable[[StorageEngine], object]] = {
    "drop": lambda engine: engine.drop_collection("new"),
    "drop, killed": killed_while_dropped,
    "rename": lambda engine: engine.rename_collection("new", "third"),
    "rename back": lambda engine: engine.rename_collection("new", "old"),
    "pack": lambda engine: engine["new"].pack(),
    "another": lambda engine: engine.create_collection("old").insert({"_id": "other"}),
}  # fmt: skip


@pytest.mark.parametrize("after", AFTER)
def test_nothing_comes_back_after_a_kill(tmp_path: Path, after: str) -> None:
    """What the killed save had written of the new name is removed with the next change of it."""
    copies, _ = killed_copies(tmp_path, ("old", "new"))
    for copy in copies:
        engine = opened(copy)
        AFTER[after](engine)
        state = {name: ids(engine[name]) for name in engine.collections()}
        crash(engine)
        for _ in range(2):
            with opened(copy) as engine:
                assert {name: ids(engine[name]) for name in engine.collections()} == state
                engine.save()
        assert len(list((copy / "collections").iterdir())) == len(state)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC] if LONG else [errno.ENOSPC])
def test_a_failing_save_after_a_renaming_is_repeated(tmp_path: Path, code: int) -> None:
    fail_at = 0
    while True:
        folder = tmp_path / str(fail_at)
        engine, versions = grown(folder, "old")
        engine.rename_collection("old", "new")
        disk = FaultyDisk(fail_at, code)
        with using(disk), suppress(StorageError):
            engine.save()
        check(engine, "new", versions)
        if fail_at % 2:
            engine = recovered(engine)
            check(engine, "new", versions)
        engine.save()
        check(engine, "new", versions)
        assert len(list((folder / "collections").iterdir())) == 1
        engine.close()
        shutil.rmtree(folder)
        if disk.failed is None:
            break
        fail_at += 1 if LONG else 23
    assert fail_at >= 40


def test_files_of_a_killed_save_are_not_taken_for_later_ones(tmp_path: Path) -> None:
    """A kill leaves parts in the new folder, and a merge in the former one has their numbers."""
    folder = tmp_path / "data"
    engine = opened(folder)
    found = engine.create_collection("old")
    for part in range(3):
        found.insert_many([{"_id": f"{part}.{n}", "n": n} for n in range(20)])
        engine.save()
    found.insert({"_id": "unsaved"})
    engine.rename_collection("old", "new")
    disk = CopyingDisk(folder, tmp_path / "copies")
    with using(disk):
        engine.save()
    engine.close()
    for copy in disk.copies:
        with opened(copy) as engine:
            engine["new"].delete_many({"n": {"$lt": 15}})
            engine["new"].compact(thorough=True)
            wanted = ids(engine["new"])
            engine.save()
            assert ids(engine["new"]) == wanted
        with opened(copy) as engine:
            assert ids(engine["new"]) == wanted
            assert len(wanted) == 16
        assert godb_arrow.verify_godb(copy).ok


def test_a_power_cut_in_the_save_after_a_renaming(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for part in ("collections", "journal"):
        (folder / part).mkdir(parents=True)
    disk = RecordingDisk(str(folder))
    with using(disk):
        engine, versions = grown(folder, "old", durability="commit")
        engine.rename_collection("old", "new")
        first = len(disk.cuts)
        engine.save()
        crash(engine)
    number = random.Random(5)
    for index in range(first, len(disk.cuts), 1 if LONG else 20):
        for how in ("least", "most", "any"):
            target = tmp_path / "cut"
            put(after_power_cut(disk.cuts[index][1], how, number), str(folder), target)
            with opened(target) as engine:
                check(engine, "new", versions)
                engine.save()
                check(engine, "new", versions)
            assert len(list((target / "collections").iterdir())) == 1, (index, how)
            shutil.rmtree(target)


def test_on_an_object_store_versions_end_with_the_name() -> None:
    """Without a journal, a kill would show an earlier version under the new name."""
    pytest.importorskip("fsspec")
    engine, _ = grown("memory://renamed-versions", "old")  # type: ignore[arg-type]
    engine.rename_collection("old", "new")
    engine.save()
    assert ids(engine["new"]) == NOW
    assert len(engine["new"].versions()) == 1
    assert [info.tags for info in engine["new"].versions()] == [()]
    engine.close()


def test_a_reader_finds_the_new_name(tmp_path: Path) -> None:
    engine, versions = grown(tmp_path, "old")
    with opened(tmp_path, read_only=True) as reader:
        assert ids(reader["old"].at_version(min(versions))) == ["a0", "a1", "a2"]
        engine.rename_collection("old", "new")
        engine.save()
        found = versions_of(reader, "new")
        assert {number: found[number] for number in versions} == versions
        assert ids(reader["new"]) == NOW
        with pytest.raises(godb_arrow.CollectionNotFound):
            reader["old"]
    engine.close()


def test_changes_continue_across_names(tmp_path: Path) -> None:
    with opened(tmp_path, keep_changes="1MB") as engine:
        users = engine.create_collection("old")
        users.insert({"_id": "a"})
        engine.save()
        token = users.snapshot().token
        users.restore(users.versions()[-1].version)  # no records, but versions to compare
        users.insert({"_id": "b"})
        engine.rename_collection("old", "new")
        users.insert({"_id": "c"})
        engine.save()
        found = [change.id for change in users.changes(since=token) if change.id is not None]
        assert sorted(set(found)) == ["b", "c"]
