"""Followers keep what they have when their source vanishes, or when another one is in its place."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner
from support.disks import using
from support.settings import LONG

import godb_arrow
from godb_arrow import (
    CorruptFile,
    Follower,
    SourceNotFound,
    StorageEngine,
    StorageError,
    TargetExists,
    follower_status,
    promote,
)
from godb_arrow.cli.command import main
from godb_arrow.replication import follower
from godb_arrow.storage.local import Disk

Content = dict[str, list[int]]
OPTIONS: Any = {"part_size": "4KiB", "part_grace": 0.001}
IDENTITY = "godb_arrow.id"


def content(place: Path | str) -> Content:
    with StorageEngine(place, read_only=True) as engine:
        return {name: [one["n"] for one in engine[name]] for name in engine.collections()}


def filled(folder: Path, name: str = "users", first: int = 0) -> Path:
    """A data directory with a small and a large collection, and with records of a journal."""
    with StorageEngine(folder, **OPTIONS) as engine:
        engine.create_collection(name).insert_many([{"n": n} for n in range(first, first + 10)])
        rows = [{"n": n, "text": "x" * 100} for n in range(first, first + 100)]
        engine.create_collection("large").insert_many(rows)
        engine.save()
        engine.insert(name, {"n": first + 10})
        engine.close(discard=True)
    return folder


def nothing(place: Path) -> None:
    """The folder is gone."""


def mount_point(place: Path) -> None:
    """What is left of it when a disk is not mounted."""
    place.mkdir()


def empty_directory(place: Path) -> None:
    """An engine was started on the mount point."""
    StorageEngine(place).close()


def another(place: Path) -> None:
    """The wrong disk is mounted."""
    filled(place, "others", 1000)


def without_identity(place: Path) -> None:
    """A folder that looks like a data directory."""
    (place / "collections").mkdir(parents=True)
    (place / "journal").mkdir()


def alike(place: Path) -> None:
    """Another directory that was made by the same calls."""
    filled(place)


def damaged(place: Path) -> None:
    """The identity cannot be read."""
    filled(place)
    (place / IDENTITY).write_bytes(b"\0" * 32)


REPLACED = [nothing, mount_point, empty_directory, another, without_identity, alike, damaged]
Replaced = Callable[[Path], None]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "godb_arrow.lock"
    }


def stored(url: str) -> dict[str, bytes]:
    files, path = fsspec.core.url_to_fs(url)
    return {name: files.cat(name) for name in files.find(path)}


class Gone:
    """A source that is away, with something else in its place, while the block runs."""

    def __init__(self, source: Path, replaced: Replaced) -> None:
        self.source = source
        self.away = source.with_name("away")
        self._replaced = replaced

    def __enter__(self) -> None:
        os.rename(self.source, self.away)
        self._replaced(self.source)

    def __exit__(self, *_: object) -> None:
        if self.source.exists():
            shutil.rmtree(self.source)
        os.rename(self.away, self.source)


@pytest.mark.parametrize("replaced", REPLACED)
@pytest.mark.parametrize("remote", [False, True])
def test_a_follower_refuses_another_directory(
    tmp_path: Path, replaced: Replaced, remote: bool
) -> None:
    source = filled(tmp_path / "source")
    target = f"memory://{tmp_path.name}/target" if remote else str(tmp_path / "target")
    expected = content(source)
    with Follower(source, target) as following:
        following.step()
        before = stored(target) if remote else tree(Path(target))
        with Gone(source, replaced):
            for use in (following.step, following.ship, following.step):
                with pytest.raises(godb_arrow.GodbError) as caught:
                    use()
                assert isinstance(caught.value, SourceNotFound | CorruptFile)
                assert caught.value.advice and str(source) in str(caught.value)
            assert (stored(target) if remote else tree(Path(target))) == before
            assert follower_status(target).consistent
            assert follower_status(target).behind_bytes is None or replaced is mount_point
    with Gone(source, replaced):
        before = stored(target) if remote else tree(Path(target))
        with pytest.raises((SourceNotFound, CorruptFile)):
            Follower(source, target)
        done = CliRunner().invoke(main, ["follow", str(source), target, "--once"])
        assert done.exit_code == 2 and str(source) in done.output
        assert (stored(target) if remote else tree(Path(target))) == before
        assert content(target) == expected
    with StorageEngine(source, **OPTIONS) as engine:
        engine.insert("users", {"n": -1})
        engine.save()
    with Follower(source, target) as following:
        following.step()
    assert content(target) == content(source) != expected


class Vanishing(Disk):
    """Has the source vanish before one of the calls."""

    def __init__(self, source: Path, replaced: Replaced, at: int) -> None:
        self.gone = Gone(source, replaced)
        self.calls = 0
        self.at = at

    def __getattribute__(self, name: str) -> Any:
        if hasattr(Disk, name) and not name.startswith("_") and name != "write_all":
            self.calls += 1
            if self.calls - 1 == self.at:
                with using(Disk()):
                    self.gone.__enter__()
        return super().__getattribute__(name)


@pytest.mark.parametrize("replaced", [nothing, mount_point, another])
def test_the_source_vanishes_in_the_middle_of_a_step(tmp_path: Path, replaced: Replaced) -> None:
    """Before any call of the disk: the follower stays whole, or is as new as the source was."""
    first, second = filled(tmp_path / "first"), tmp_path / "second"
    shutil.copytree(first, second)
    with StorageEngine(second, **OPTIONS) as engine:
        engine.drop_collection("users")
        engine.create_collection("new").insert({"n": 1})
        engine.delete_many("large", {"n": list(range(0, 100, 3))})
        engine.save()
        engine.compact()
    kept = tmp_path / "kept"
    source = tmp_path / "source"
    shutil.copytree(first, source)
    with Follower(source, kept) as following:
        following.step()
    states = [content(first), content(second)]
    refused = 0
    for at in itertools.count(step=1 if LONG else 7):
        target = tmp_path / f"target-{at}"
        shutil.copytree(kept, target)
        shutil.rmtree(source)
        shutil.copytree(second, source)
        disk = Vanishing(source, replaced, at)
        with Follower(source, target) as following, using(disk):
            try:
                following.step()
            except StorageError:
                refused += 1
        try:
            assert content(target) in states
        except StorageError as error:
            assert "being updated" in str(error)
        if disk.calls <= at:
            break
        disk.gone.__exit__()
        with Follower(source, target) as following:
            following.step()
        assert content(target) == states[1]
    assert refused > 2


@pytest.mark.parametrize("replaced", [nothing, mount_point, empty_directory, another])
@pytest.mark.parametrize("late", [False, True])
def test_the_source_vanishes_while_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: Replaced, late: bool
) -> None:
    source, target = filled(tmp_path / "source"), tmp_path / "target"
    with Follower(source, target) as following:
        following.step()
        expected = content(target)
        original = follower.list_stored
        gone = Gone(source, replaced)

        def list_and_vanish(folder: Any) -> Any:
            vanishes = folder.path.startswith(str(source)) and not gone.away.exists()
            if vanishes and not late:
                gone.__enter__()
            found = original(folder)
            if vanishes and late:
                gone.__enter__()
            return found

        with monkeypatch.context() as patched:
            patched.setattr(follower, "list_stored", list_and_vanish)
            with pytest.raises(SourceNotFound):
                following.step()
        assert content(target) == expected and follower_status(target).consistent
        gone.__exit__()
        following.step()
        assert content(target) == expected


def test_an_engine_that_replicates_refuses_too(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with StorageEngine(source) as engine:
        engine.create_collection("users").insert({"n": 1})
        engine.replicate_to(target, mode="acknowledged", interval="1h")
        before = tree(target)
        (source / IDENTITY).rename(source / "away")
        with pytest.raises(godb_arrow.ReplicationFailed) as caught:
            engine.insert("users", {"n": 2})
        assert isinstance(caught.value.__cause__, SourceNotFound)
        assert tree(target) == before
        (source / "away").rename(source / IDENTITY)
        engine.insert("users", {"n": 3})
        assert content(target) == content(source) == {"users": [1, 2, 3]}
    other = tmp_path / "other"
    with StorageEngine(other) as engine:
        with pytest.raises(TargetExists, match="follows another data directory"):
            engine.replicate_to(target)
        assert content(target) == content(source)
        engine.replicate_to(target, replace=True)
        assert content(target) == {}


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_replaced_is_given_up_as_a_whole(tmp_path: Path, remote: bool) -> None:
    """Nothing of the former content stays, though files and records look alike."""
    source, other = filled(tmp_path / "source"), filled(tmp_path / "other", "others")
    target = f"memory://{tmp_path.name}/target" if remote else str(tmp_path / "target")
    with Follower(source, target) as following:
        following.step()
    with pytest.raises(TargetExists):
        Follower(other, target)
    assert content(target) == content(source)
    with Follower(other, target, replace=True) as following:
        following.step()
    assert content(target) == content(other)
    promote(target)
    with pytest.raises(TargetExists):
        Follower(source, target)
    with Follower(source, target, replace=True) as following:
        following.step()
    assert content(target) == content(source)


def forget_identity(follower: Path) -> None:
    """Make the file of a follower as version 0.1.0 wrote it."""
    path = follower / "follower.json"
    state = json.loads(path.read_text())
    del state["identity"]
    path.write_text(json.dumps(state))


@pytest.mark.parametrize("changed", ["nothing", "the journal", "a file", "everything"])
def test_a_follower_of_version_0_1_0(tmp_path: Path, changed: str) -> None:
    """It takes the identity of a source that has something in common with it."""
    source, target = filled(tmp_path / "source"), tmp_path / "target"
    (source / IDENTITY).unlink()
    with Follower(source, target) as following:
        following.step()
    forget_identity(target)
    with Gone(source, another), pytest.raises(SourceNotFound, match="nothing in common"):
        Follower(source, target)
    with Gone(source, mount_point), pytest.raises(SourceNotFound):
        Follower(source, target)
    with StorageEngine(source, **OPTIONS) as engine:
        if changed == "the journal":
            engine.insert("users", {"n": 11})
        elif changed == "a file":
            engine.insert("users", {"n": 11})
            engine.save()
        elif changed == "everything":
            for name in ("users", "large"):
                engine.drop_collection(name)
            engine.save()
        engine.close(discard=True)
    if changed == "everything":
        with pytest.raises(SourceNotFound, match="replace=True"):
            Follower(source, target)
        with Follower(source, target, replace=True) as following:
            following.step()
    else:
        with Follower(source, target) as following:
            following.step()
    assert content(target) == content(source)
    known = json.loads((target / "follower.json").read_text())["identity"]
    assert known == (source / IDENTITY).read_text().strip()
    with Gone(source, alike), pytest.raises(SourceNotFound, match="is not the data directory"):
        Follower(source, target)


def test_a_follower_that_was_promoted_goes_its_own_way(tmp_path: Path) -> None:
    source, first, second = (filled(tmp_path / "source"), tmp_path / "1", tmp_path / "2")
    with Follower(source, first) as following, Follower(source, second) as other:
        following.step()
        other.step()
    expected = content(source)
    promote(first)
    with StorageEngine(first) as engine:
        engine.drop_collection("users")
    shutil.rmtree(source)
    os.rename(first, source)  # takes the place of the machine that failed
    with pytest.raises(SourceNotFound, match="is not the data directory"):
        Follower(source, second)
    assert content(second) == expected
    with Follower(source, second, replace=True) as other:
        other.step()
    assert content(second) == content(source) != expected


def test_a_follower_of_a_follower(tmp_path: Path) -> None:
    source, first, second = (filled(tmp_path / "source"), tmp_path / "1", tmp_path / "2")
    for _ in range(3):
        with Follower(source, first) as following:
            following.step()
        with Follower(first, second) as following:
            following.step()
        assert content(second) == content(source)
        with StorageEngine(source, **OPTIONS) as engine:
            for name in engine.collections():
                engine.insert(name, {"n": 0})
    other = filled(tmp_path / "other", "others")
    with Follower(other, first, replace=True) as following:
        following.step()
    with pytest.raises(SourceNotFound, match="is not the data directory"):
        Follower(first, second)


class Reading(Disk):
    """Reads a follower before each call."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.found: list[Content | None] = []

    def __getattribute__(self, name: str) -> Any:
        if hasattr(Disk, name) and not name.startswith("_") and name != "write_all":
            try:
                self.found.append(content(self.target))
            except StorageError as error:
                assert "being updated" in str(error)
                self.found.append(None)
        return super().__getattribute__(name)


def test_a_collection_that_was_made_again_has_files_of_the_same_names(tmp_path: Path) -> None:
    """At no moment has the follower the manifest of one with the files of the other."""
    source, target = filled(tmp_path / "source"), tmp_path / "target"
    with Follower(source, target) as following:
        following.step()
        reading = StorageEngine(target, read_only=True)
        states = [content(source)]
        with StorageEngine(source, **OPTIONS) as engine:
            engine.drop_collection("large")
            rows = [{"n": n + 1000, "text": "x" * 100} for n in range(100)]
            engine.create_collection("large").insert_many(rows)
            engine.save()
        states.append(content(source))
        disk = Reading(target)
        with using(disk):
            following.step()
        assert content(target) == states[1]
        assert [one["n"] for one in reading["large"]] == states[1]["large"]
        reading.close()
    assert all(one is None or one in states for one in disk.found)
    assert None in disk.found and states[0] in disk.found


def test_a_reader_notices_that_its_directory_is_gone(tmp_path: Path) -> None:
    """It does not say that collections were dropped."""
    source = filled(tmp_path / "source")
    for replaced in (nothing, mount_point, another):
        with StorageEngine(source, read_only=True) as engine:
            users = [one["n"] for one in engine["users"]]
            with Gone(source, replaced):
                with pytest.raises(StorageError, match="was removed or replaced"):
                    engine["large"].find_all()
                with pytest.raises(StorageError, match="was removed or replaced"):
                    engine["nothing"]
                assert [one["n"] for one in engine["users"]] == users, "that is open"
            assert len(engine["large"]) == 100
            assert engine.collections() == ["large", "users"]
