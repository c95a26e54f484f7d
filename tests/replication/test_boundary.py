"""Backups and followers are boundaries: hostile ones lead nowhere, and no copy reveals more."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import xxhash
from support.engines import grown, open_engine
from support.outside import LINKS, OTHERS, mode, plant, readable_by_others, run_with_umask, tree
from support.settings import LONG

import godb_arrow
from godb_arrow import (
    CorruptFile,
    Follower,
    FormatError,
    GodbError,
    StorageEngine,
    StorageError,
    follower_status,
    list_backups,
    promote,
    restore_backup,
)

KINDS = [*LINKS, *OTHERS]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that was closed, with a small collection and one of several files."""
    folder = tmp_path_factory.mktemp("closed") / "data"
    with open_engine(folder) as engine:
        grown(engine, 2)
        engine.create_collection("users").insert({"n": 1})
    return folder


@pytest.fixture
def data(tmp_path: Path, closed: Path) -> Path:
    """A data directory to be used."""
    return Path(shutil.copytree(closed, tmp_path / "data"))


@pytest.fixture
def backups(tmp_path: Path, data: Path) -> Path:
    with open_engine(data) as engine:
        engine.backup(tmp_path / "backups")
    return tmp_path / "backups"


def description_of(backups: Path) -> Path:
    return backups / "backups" / "00000001.json"


def forge(backups: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the description of a backup, with a checksum that fits."""
    path = description_of(backups)
    found = json.loads(path.read_bytes())
    del found["checksum"]
    change(found)
    packed = json.dumps(found, sort_keys=True).encode()
    found["checksum"] = xxhash.xxh3_64_hexdigest(packed)
    path.write_text(json.dumps(found))


def file_with(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found["files"][0].update(changes)


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "an absolute digest": file_with(digest="/dev/zero"),
    "a pipe's digest": file_with(digest="../../pipe"),
    "a URL as digest": file_with(digest="memory://boundary/secret"),
    "a short digest": file_with(digest="0" * 31),
    "an upper digest": file_with(digest="A" * 32),
    "no text as digest": file_with(digest=7),
    "an absolute name": file_with(name="/tmp/x.godb"),
    "a name above": file_with(name="../x.godb"),
    "a name far above": file_with(name="users.parts/../../../x.godb"),
    "a name elsewhere": file_with(name="../journal/00000001.journal"),
    "a name of a journal": file_with(name="00000001.journal"),
    "a hidden name": file_with(name=".users.godb"),
    "a name in a folder": file_with(name="folder/users.godb"),
    "a name that is no part": file_with(name="users.parts/notes.godb"),
    "a name with a backslash": file_with(name="..\\users.godb"),
    "a name with a null": file_with(name="users\0.godb"),
    "a surrogate": file_with(name="\ud800.godb"),
    "a long name": file_with(name="x" * 300 + ".godb"),
    "a URL as name": file_with(name="memory://boundary/x.godb"),
    "an empty name": file_with(name=""),
    "no text as name": file_with(name=["users.godb"]),
    "a size below 0": file_with(size=-1),
    "a size that is no number": file_with(size="348"),
    "a mode below 0": file_with(mode=-1),
    "no size": lambda found: found["files"][0].pop("size"),
    "no files": lambda found: found.pop("files"),
    "a file twice": lambda found: found["files"].append(found["files"][0]),
    "a file that is a list": lambda found: found["files"].append([1]),
    "another number": lambda found: found.update(number=7),
    "a time that is none": lambda found: found.update(created=1e300),
    "a time that is text": lambda found: found.update(created="now"),
    "a count that is none": lambda found: found.update(collections={"users": "many"}),
    "collections that are none": lambda found: found.update(collections=[]),
    "copies that are none": lambda found: found.update(copied_size=None),
    "another format": lambda found: found.update(format=2),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_description_is_refused_before_a_file_is_opened(
    tmp_path: Path, backups: Path, what: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with fsspec.open("memory://boundary/secret", "wb") as stream:
        stream.write(b"secret")
    forge(backups, FORGED[what])
    before = tree(tmp_path)
    for use in (
        lambda: restore_backup(backups, tmp_path / "new" / "restored"),
        lambda: list_backups(backups),
    ):
        with pytest.raises(CorruptFile, match=r"description of the backup is damaged.*another"):
            use()
    with StorageEngine(tmp_path / "data") as engine, pytest.raises(CorruptFile):
        engine.backup(backups)
    after = tree(tmp_path)
    assert {name for name in after if not name.startswith("data")} == {
        name for name in before if not name.startswith("data")
    }


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000, b'{"format": 1}'])
def test_a_description_may_hold_anything(tmp_path: Path, backups: Path, content: bytes) -> None:
    description_of(backups).write_bytes(content)
    with pytest.raises(CorruptFile, match="damaged"):
        restore_backup(backups, tmp_path / "restored")


@pytest.mark.parametrize("size", [0, 10, 10**6, 10**15])
def test_a_file_of_another_size_is_refused(tmp_path: Path, backups: Path, size: int) -> None:
    forge(backups, file_with(size=size))
    before = tree(tmp_path)
    with pytest.raises(godb_arrow.ChecksumMismatch):
        restore_backup(backups, tmp_path / "new" / "deep" / "restored")
    assert tree(tmp_path) == before, "nothing is left, not even a folder above"


def test_no_more_is_read_than_a_file_may_have(tmp_path: Path, backups: Path) -> None:
    found = json.loads(description_of(backups).read_bytes())["files"][0]
    file = backups / "files" / found["digest"][:2] / found["digest"]
    os.truncate(file, 1 << 26)
    with pytest.raises(godb_arrow.ChecksumMismatch):
        restore_backup(backups, tmp_path / "restored")
    os.truncate(file, 1 << 40)  # without end, for a disk
    with pytest.raises(StorageError, match="sparse"):
        restore_backup(backups, tmp_path / "restored")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["a file", "a folder of files", "files", "backups", "00000001"])
def test_what_leads_out_of_a_backup_is_refused(
    tmp_path: Path, backups: Path, place: str, kind: str
) -> None:
    first = json.loads(description_of(backups).read_bytes())["files"][0]["digest"]
    path = {
        "a file": backups / "files" / first[:2] / first,
        "a folder of files": backups / "files" / first[:2],
        "files": backups / "files",
        "backups": backups / "backups",
        "00000001": description_of(backups),
    }[place]
    path.rename(tmp_path / "moved")
    plant(kind, path, tmp_path / "moved")  # to the very content that is right
    before = tree(tmp_path)
    with pytest.raises(StorageError, match="expected a "):
        restore_backup(backups, tmp_path / "restored")
    assert tree(tmp_path) == before
    before = tree(tmp_path / "moved") if (tmp_path / "moved").is_dir() else {}
    with open_engine(tmp_path / "data") as engine:
        engine.insert("users", {"n": 2})
        if place not in ("a file", "a folder of files"):  # which may hold none of the new files
            with pytest.raises(GodbError):
                engine.backup(backups)
    if (tmp_path / "moved").is_dir():
        assert tree(tmp_path / "moved") == before


def test_a_backup_may_be_reached_by_links(tmp_path: Path, backups: Path) -> None:
    (tmp_path / "link").symlink_to(backups)
    (tmp_path / "empty").mkdir(mode=0o700)
    (tmp_path / "target").symlink_to(tmp_path / "empty")
    restore_backup(tmp_path / "link", tmp_path / "target")
    assert (tmp_path / "target").is_symlink() and mode(tmp_path / "empty") == 0o700
    with StorageEngine(tmp_path / "target") as engine:
        assert engine.find_all("users") == [{"_id": "1", "n": 1}]


def test_a_restore_that_is_interrupted_leaves_nothing(
    tmp_path: Path, backups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godb_arrow.storage import local

    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "new" / "restored", tmp_path / "empty"):
        before = tree(tmp_path)
        calls = iter(range(100))
        for name in ("write", "replace"):
            original = getattr(local.Disk, name)

            def interrupted(*arguments: Any, _original: Any = original, _calls: Any = calls) -> Any:
                if next(_calls) == 3:
                    raise KeyboardInterrupt
                return _original(*arguments)

            monkeypatch.setattr(local.Disk, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            restore_backup(backups, target)
        monkeypatch.undo()
        assert tree(tmp_path) == before


def test_a_file_that_is_missing_in_a_backup_is_copied_again(tmp_path: Path, backups: Path) -> None:
    for file in (backups / "files").rglob("*"):
        if file.is_file():
            file.unlink()
    with open_engine(tmp_path / "data") as engine:
        assert engine.backup(backups).copied_files > 3
    restore_backup(backups, tmp_path / "restored", 2)


# --- followers --------------------------------------------------------------------------------

SOURCES = [
    "collections",
    "journal",
    "collections/users.godb",
    "collections/other.godb",
    "collections/c.parts",
    "collections/other.parts",
    "collections/c.parts/00000001.godb",
    "collections/c.parts/99999999.manifest",
    "journal/00000001.journal",
    "journal/99999999.journal",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", SOURCES)
def test_a_source_that_leads_out_is_refused(
    tmp_path: Path, data: Path, place: str, kind: str
) -> None:
    path = data / place
    moved = tmp_path / "moved" / path.name
    moved.parent.mkdir()
    if path.exists():
        path.rename(moved)
    elif path.suffix == ".parts":
        moved.mkdir()
    else:
        moved.write_bytes(b"private")
    plant(kind, path, moved)
    before = tree(tmp_path / "moved")
    # A folder that is missing is no source at all.
    with (
        pytest.raises(StorageError, match=r"expected a |no data directory"),
        Follower(data, tmp_path / "copy") as follower,
    ):
        follower.step()
    assert tree(tmp_path / "moved") == before
    copied = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert not any(path.read_bytes() == b"private" for path in copied)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [*SOURCES, "follower.json", "godb_arrow.lock"])
def test_a_follower_that_leads_out_is_refused(
    tmp_path: Path, data: Path, place: str, kind: str
) -> None:
    copy, outside = tmp_path / "copy", tmp_path / "outside"
    with Follower(data, copy) as follower:
        follower.step()
    with open_engine(data) as engine:  # there is something to copy, and to remove
        engine.insert("users", {"n": 2})
        engine.insert("c", {"n": 2000})
        engine.save()
        engine.compact()
    path = copy / place
    outside.mkdir()
    moved = outside / path.name
    if path.exists():
        path.rename(moved)
    elif path.suffix == ".parts":
        moved.mkdir()
    else:
        moved.write_bytes(b"private")
    plant(kind, path, moved)
    before = tree(outside)
    with pytest.raises(GodbError), Follower(data, copy) as follower:
        follower.step()
    for use in (lambda: promote(copy), lambda: follower_status(copy)):
        if place in ("follower.json", "journal", "journal/99999999.journal"):
            with pytest.raises(StorageError):
                use()
    assert tree(outside) == before


def test_a_source_may_be_reached_by_a_link(tmp_path: Path, data: Path) -> None:
    (tmp_path / "source").symlink_to(data)
    (tmp_path / "real").mkdir()
    (tmp_path / "copy").symlink_to(tmp_path / "real")
    with Follower(tmp_path / "source", tmp_path / "copy") as follower:
        follower.step()
    assert follower_status(tmp_path / "copy").consistent
    with StorageEngine(tmp_path / "copy", read_only=True) as engine:
        assert engine.find_all("users") == [{"_id": "1", "n": 1}]


def test_a_follower_deletes_no_file_that_it_did_not_name(tmp_path: Path, data: Path) -> None:
    copy = tmp_path / "copy"
    with Follower(data, copy) as follower:
        follower.step()
    temporary = ".godb-arrow-0123456789abcdef.tmp"
    kept = [copy / "notes.txt", copy / "other" / temporary, copy / "other" / "x.godb",
            copy / "collections" / "notes.txt", copy / "collections" / ".godb-arrow-x.tmp",
            copy / "collections" / "c.parts" / "thesis.tex",
            copy / "collections" / "old.parts" / "20240101-notes.godb",
            copy / "journal" / "1.journal"]  # fmt: skip
    ours = [copy / "collections" / temporary, copy / "collections" / "c.parts" / temporary]
    for path in (*kept, *ours):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    with open_engine(data) as engine:
        engine.drop_collection("c")
    with Follower(data, copy) as follower:
        follower.step()
    assert [path for path in kept if not path.exists()] == []
    assert [path for path in ours if path.exists()] == []
    with StorageEngine(copy, read_only=True) as engine:
        assert engine.collections() == ["users"]


def test_a_follower_on_an_object_store_deletes_no_object_that_it_did_not_name(data: Path) -> None:
    store, url = fsspec.filesystem("memory"), "memory://boundary/copy"
    store.rm("/boundary", recursive=True) if store.exists("/boundary") else None
    with Follower(data, url) as follower:
        follower.step()
    kept = [f"/boundary/copy/{name}" for name in
            ("journal/notes.txt", "journal/00000001.notes", "collections/notes.txt",
             "collections/c.parts/notes.txt")]  # fmt: skip
    for path in kept:
        store.pipe(path, b"kept")
    with open_engine(data) as engine:
        engine.drop_collection("c")
        engine.insert("users", {"n": 2})
    with Follower(data, url) as follower:
        follower.step()
        follower._journal.replace([])
    promote(url)
    assert [path for path in kept if not store.exists(path)] == []


@pytest.mark.parametrize("name", ["notes.txt", "c.parts/notes.txt", "folder/x.godb", "../x.godb"])
def test_a_follower_that_names_files_of_others_is_damaged(data: Path, name: str) -> None:
    store = fsspec.filesystem("memory")
    place = f"/boundary/{xxhash.xxh3_64_hexdigest(name.encode())}"
    url = f"memory:/{place}"
    with Follower(data, url) as follower:
        follower.step()
    state = json.loads(store.cat(f"{place}/follower.json"))
    state["files"][name] = [1, 1]
    store.pipe(f"{place}/follower.json", json.dumps(state).encode())
    store.pipe(f"{place}/collections/{name}", b"kept")
    with pytest.raises(FormatError, match="damaged"), Follower(data, url) as follower:
        follower.step()
    assert store.exists(f"{place}/collections/{name}")


# --- modes ------------------------------------------------------------------------------------


def copied(data: Path, target: Path) -> None:
    """Make a follower, a backup and a restored directory, and work with them."""
    with open_engine(data) as engine:
        engine.insert("users", {"password": "hunter2"})
        engine.replicate_to(target / "copy", mode="acknowledged")
        engine.insert("users", {"password": "hunter2"})
        engine.insert("c", {"password": "hunter2"})
        engine.backup(target / "backups")
        engine.insert("c", {"password": "hunter2"})
        engine.backup(target / "backups")
    restore_backup(target / "backups", target / "restored")
    promote(target / "copy")
    for name in ("copy", "restored"):
        with open_engine(target / name) as engine:
            engine.insert("users", {"password": "hunter2"})
            engine.insert("c", {"password": "hunter2"})
            engine.save()
            engine.insert("c", {"password": "hunter2"})


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077] if LONG else [0o000])
@pytest.mark.parametrize("what", ["files", "data directory"])
def test_no_copy_is_more_readable_than_the_file(
    tmp_path: Path, data: Path, umask: int, what: str
) -> None:
    if what == "files":
        for path in (data / "collections").rglob("*.*"):
            if path.is_file():
                path.chmod(0o600)
    else:
        data.chmod(0o700)
    target = tmp_path / "target"
    target.mkdir()
    run_with_umask(umask, copied, data, target)
    found = {path.suffix for path in target.rglob("*") if path.is_file()}
    assert found >= {".godb", ".ids", ".manifest", ".journal", ".json", ""}
    readable = [name for name in readable_by_others(target) if not name.endswith("follower.json")]
    assert readable == []


@pytest.mark.parametrize("what", ["files", "data directory"])
def test_a_follower_that_nobody_opened_is_as_private(tmp_path: Path, data: Path, what: str) -> None:
    (data / "collections" / "users.godb").chmod(0o600 if what == "files" else 0o644)
    data.chmod(0o755 if what == "files" else 0o700)
    with open_engine(data) as engine:
        engine.insert("users", {"password": "hunter2"})
        with Follower(data, tmp_path / "copy") as follower:
            follower.step()
        engine.insert("users", {"password": "hunter2"})
        with Follower(data, tmp_path / "copy") as follower:
            follower.step()
    readable = readable_by_others(tmp_path / "copy")
    assert not [name for name in readable if "journal" in name or "users" in name]


def test_copies_have_the_modes_of_ordinary_files(tmp_path: Path, data: Path) -> None:
    """What nobody protected is as readable as the umask says, and so are its copies."""
    data.chmod(0o755)
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(0o755)
    for path in data.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    run_with_umask(0o022, copied, data, target)
    for path in target.rglob("*"):
        assert mode(path) == (0o755 if path.is_dir() else 0o644), path


def test_a_file_that_was_protected_later_is_protected_in_its_copies(
    tmp_path: Path, data: Path
) -> None:
    backups, copy = tmp_path / "backups", tmp_path / "copy"
    with open_engine(data) as engine, Follower(data, copy) as follower:
        follower.step()
        engine.backup(backups)
        assert readable_by_others(backups) and readable_by_others(copy)
        for path in (data / "collections").rglob("*.*"):
            if path.is_file():
                path.chmod(0o600)
        assert engine.backup(backups).copied_files == 0
        for name in ("users", "c"):
            engine.insert(name, {"password": "hunter2"})
        engine.save()
        follower.step()
    files = [name for name in readable_by_others(backups) if name != "backups/00000001.json"]
    assert files == []
    new = [path for path in copy.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert new and not any(mode(path) & 0o077 for path in new)


def test_a_backup_on_an_object_store_remembers_modes(tmp_path: Path, data: Path) -> None:
    place = "memory://boundary/backups"
    store = fsspec.filesystem("memory")
    store.rm("/boundary/backups", recursive=True) if store.exists("/boundary/backups") else None
    (data / "collections" / "users.godb").chmod(0o600)
    with open_engine(data) as engine:
        engine.backup(place)
    restore_backup(place, tmp_path / "restored")
    assert mode(tmp_path / "restored" / "collections" / "users.godb") == 0o600
    for path in (tmp_path / "restored" / "collections" / "c.parts").iterdir():
        assert mode(path) == mode(data / "collections" / "c.parts" / path.name)
