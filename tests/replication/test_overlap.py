"""Targets inside of a data directory, or around it, are refused before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from support.outside import tree

import godb_arrow
from godb_arrow import (
    DirectoryLocked,
    Follower,
    GodbError,
    InvalidOption,
    StorageEngine,
    restore_backup,
)
from godb_arrow.connectors.etl import copy
from godb_arrow.storage.nesting import is_inside

OVERLAPS: dict[str, Callable[[Path], str]] = {
    "itself": str,
    "a folder inside": lambda data: str(data / "backups"),
    "the folder of collections": lambda data: str(data / "collections"),
    "the folder of a collection": lambda data: str(data / "collections" / "users.parts"),
    "a new folder deep inside": lambda data: str(data / "a" / "b" / "c"),
    "the folder around it": lambda data: str(data.parent),
    "a link to it": lambda data: str(data.parent.parent / "link"),
    "inside by a link": lambda data: str(data.parent.parent / "link" / "b"),
    "around it by a link": lambda data: str(data.parent.parent / "above"),
    "a relative path": lambda data: os.path.join(os.path.relpath(data), "b"),
    "a relative path with dots": lambda data: os.path.join(os.path.relpath(data), "x", "..", "b"),
    "a URL of a file": lambda data: f"file://{data}/b",
    "a URL of the folder around it": lambda data: f"file://{data.parent}",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with one collection, in a folder that has links beside it."""
    data = tmp_path / "holder" / "data"
    with StorageEngine(data) as engine:
        engine.create_collection("users").insert({"n": 1})
    (tmp_path / "link").symlink_to(data)
    (tmp_path / "above").symlink_to(data.parent)
    return data


def contents(folder: Path) -> dict[str, bytes | str]:
    """Return the content of everything in a folder."""
    return {name: content for name, (_, _, content) in tree(folder).items()}


def test_a_backup_stays_out_of_its_source(data: Path) -> None:
    with StorageEngine(data) as engine:
        before = tree(data.parent)
        for name, place in OVERLAPS.items():
            with pytest.raises(InvalidOption, match="the target of a backup"):
                engine.backup(place(data))
            assert tree(data.parent) == before, name
        engine.backup(data.parent / "backups")  # beside it


def test_a_follower_stays_out_of_its_source(data: Path) -> None:
    before = tree(data.parent)
    for name, place in OVERLAPS.items():
        for replace in (False, True):
            with pytest.raises(InvalidOption, match="the target of a follower"):
                Follower(data, place(data), replace=replace)
        assert tree(data.parent) == before, name
    with StorageEngine(data) as engine:
        for place in OVERLAPS.values():
            with pytest.raises(InvalidOption):
                engine.replicate_to(place(data))


def test_a_restore_stays_out_of_live_directories(data: Path, tmp_path: Path) -> None:
    with StorageEngine(data) as engine:
        engine.backup(tmp_path / "backups")
        before = tree(tmp_path)
        for name, place in OVERLAPS.items():
            with pytest.raises(GodbError):
                restore_backup(tmp_path / "backups", place(data))
            assert tree(tmp_path) == before, name


def test_a_restore_stays_out_of_the_backups(data: Path, tmp_path: Path) -> None:
    with StorageEngine(data) as engine:
        engine.backup(tmp_path / "backups")
    with pytest.raises(InvalidOption, match="inside of the folder of backups"):
        restore_backup(tmp_path / "backups", tmp_path / "backups" / "files" / "x")
    with pytest.raises(InvalidOption, match="cannot be restored"):
        restore_backup(tmp_path / "backups", "memory://restored")


def test_copies_of_one_directory_do_not_nest_in_another(data: Path, tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "other") as engine:
        with pytest.raises(InvalidOption, match="inside of the data directory"):
            engine.backup(data / "backups")
        with pytest.raises(InvalidOption, match="inside of the data directory"):
            engine.replicate_to(data / "copy")


@pytest.mark.parametrize("target", ["memory://apart/d", "memory://apart/d/b", "memory://apart/"])
def test_a_backup_stays_out_of_a_remote_source(target: str) -> None:
    with StorageEngine("memory://apart/d") as engine:
        with pytest.raises(InvalidOption, match="the target of a backup"):
            engine.backup(target)
        assert engine.backup("memory://apart/d2").number >= 1


def test_places_compare_by_their_store(tmp_path: Path) -> None:
    assert not is_inside(str(tmp_path), "memory://apart")
    assert not is_inside("memory://apart/d2", "memory://apart/d")
    assert not is_inside("https://host/d/b", "memory://host/d")


def test_file_urls_name_local_folders(tmp_path: Path) -> None:
    with StorageEngine(f"file://{tmp_path}/data") as engine:
        engine.create_collection("users").insert({"n": 1})
        engine.backup(f"file://{tmp_path}/backups")
    restore_backup(f"file://{tmp_path}/backups", f"file://{tmp_path}/restored")
    Follower(f"file://{tmp_path}/data", f"file://{tmp_path}/copy").close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["backups", "copy", "data", "restored"]


WRITES: dict[str, Callable[[StorageEngine, str], object]] = {
    "write_godb": lambda _, path: godb_arrow.write_godb([{"_id": "9"}], path, "users"),
    "append": lambda _, path: godb_arrow.write_godb([{}], path, "users", if_exists="append"),
    "save_to_file": lambda engine, path: engine.save_to_file(path),
    "copy": lambda _, path: copy(pa.table({"a": [1]}), f"{path}#users", if_exists="replace"),
    "copy_ndjson": lambda _, path: copy(
        pa.table({"a": [1]}), path, format="ndjson", if_exists="replace"
    ),
}


@pytest.mark.parametrize("form", ["{}/data", "{}/link", "file://{}/data"])
def test_files_of_an_open_directory_are_not_replaced(tmp_path: Path, form: str) -> None:
    with StorageEngine(tmp_path / "data", part_size="4KiB") as engine:
        engine.create_collection("users").insert({"n": 1})
        engine.create_collection("large").insert_many({"t": str(n) * 40} for n in range(100))
        engine.save()
        (tmp_path / "link").symlink_to(tmp_path / "data")
        before = contents(tmp_path)
        place = form.format(tmp_path)
        for write in WRITES.values():
            with pytest.raises(DirectoryLocked, match="an engine has open"):
                write(engine, f"{place}/collections/users.godb")
            for inner in ("collections/large.parts/00000001.godb", "journal/00000001.journal"):
                with pytest.raises(InvalidOption, match="part of the data directory"):
                    write(engine, f"{place}/{inner}")
        assert contents(tmp_path) == before
        for write in WRITES.values():
            write(engine, str(tmp_path / "data" / "users.godb"))  # a file of the caller


def test_a_file_of_a_closed_directory_is_replaced(data: Path) -> None:
    path = data / "collections" / "users.godb"
    godb_arrow.write_godb([{"_id": "9", "n": 5}], path, "users")
    with StorageEngine(data) as engine:
        assert engine.find_all("users") == [{"_id": "9", "n": 5}]
        with StorageEngine(data, read_only=True), pytest.raises(DirectoryLocked):
            godb_arrow.write_godb([{"n": 6}], path, "users")
