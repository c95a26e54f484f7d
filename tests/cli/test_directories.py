"""Commands on a data directory that is not there: the nearest name, and nothing is made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from godb_arrow import SourceNotFound, StorageEngine
from godb_arrow.cli.command import main
from godb_arrow.engine.part_writer import commit_parts
from godb_arrow.storage.nearest import nearest_path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a data directory, a backup of it, and some files beside."""
    with StorageEngine(tmp_path / "shop") as engine:
        engine.create_collection("users").insert({"name": "Ada"})
        engine.backup(tmp_path / "backups")
    (tmp_path / "sheep").mkdir()
    (tmp_path / "sheep.txt").write_text("no directory")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("command", [
    "backup shp new", "compact shp", "pack shp users", "compression shp users zstd",
    "versions shp users", "versions shp users --restore 1", "serve shp --insecure --port 0",
    "serve shp --insecure --port 0 --read-only", "follow shp new --once", "follower shp",
    "promote shp", "verify shp/collections/users.godb", "info shp/collections/users.godb",
    "copy shp#users new.parquet", "export shp/collections/users.godb new",
    "backup shp/ new", "backup ../shp new",
])  # fmt: skip
def test_a_misspelt_directory_is_not_made(command: str, place: Path) -> None:
    before = listing(place)
    if ".." in command:
        os.chdir(place / "sheep")
    result = run(*command.split())
    assert result.exit_code == 2
    assert result.output.startswith("godb-arrow: ")
    assert "shop" in result.output
    assert "did you mean" in result.output
    assert listing(place) == before


@pytest.mark.parametrize("command", [
    "backup sheep new", "compact sheep", "serve sheep --insecure --port 0", "compact backups",
    "compact nowhere/at/all", "compact sheep.txt", "compact .", "restore sheep new",
])  # fmt: skip
def test_a_folder_that_is_no_data_directory_stays_as_it_is(command: str, place: Path) -> None:
    before = listing(place)
    result = run(*command.split())
    assert result.exit_code == 2
    assert listing(place) == before


def test_a_misspelt_backup_is_named(place: Path) -> None:
    result = run("restore", "backup", "new")
    assert result.exit_code == 2
    assert "did you mean backups?" in result.output
    assert not (place / "new").exists()


def test_commands_work_on_what_is_there(place: Path) -> None:
    for command in ("backup shop new", "compact shop", "compression shop users zstd",
                    "restore new copy", "versions copy users"):  # fmt: skip
        result = run(*command.split())
        assert result.exit_code == 0, result.output
    with StorageEngine("copy", create=False) as engine:
        assert engine.find_all("users") == [{"_id": "1", "name": "Ada"}]


@pytest.mark.parametrize("read_only", [False, True])
def test_an_engine_that_must_not_make_its_directory(read_only: bool, place: Path) -> None:
    for name in ("shp", "sheep", place / "shp"):
        with pytest.raises(SourceNotFound, match=r"did you mean .*shop\?"):
            StorageEngine(name, create=False, read_only=read_only)
    assert not (place / "shp").exists()
    assert listing(place / "sheep") == []
    with pytest.raises(SourceNotFound, match="check the path"):
        StorageEngine(f"memory://{place.name}/nothing", create=False, read_only=read_only)
    with StorageEngine(f"memory://{place.name}/shop") as engine:
        engine.create_collection("users").insert({"name": "Ada"})
    with StorageEngine(f"memory://{place.name}/shop", create=False, read_only=read_only) as engine:
        assert engine.count("users") == 1
    with pytest.raises(SourceNotFound, match=f"did you mean memory://{place.name}/shop"):
        StorageEngine(f"memory://{place.name}/shp", create=False, read_only=read_only)


def test_parts_are_committed_to_a_directory_that_is_there(place: Path) -> None:
    with pytest.raises(SourceNotFound, match="shop"):
        commit_parts("shp", "users", [])
    assert not (place / "shp").exists()


def test_the_nearest_path(place: Path) -> None:
    assert nearest_path("shp") == "shop"
    assert nearest_path("shp", os.path.isfile) is None
    assert nearest_path("shep.txt", os.path.isfile) == "sheep.txt"
    assert nearest_path("shp/collections/user.godb") == "shop/collections/users.godb"
    assert nearest_path("shp/collections/nothing") is None
    assert nearest_path("shop/collection/user.godb") == "shop/collections/users.godb"
    assert nearest_path(str(place / "zzz")) is None
    assert nearest_path("/") is None
    assert nearest_path("sheep.txt/x") is None
