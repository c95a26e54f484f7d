"""The identity of a data directory: there from the first time on that it is written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import fsspec
import pytest

from godb_arrow import CorruptFile, StorageEngine, list_backups, promote
from godb_arrow.replication.follower import Follower

NAME = "godb_arrow.id"


def identity(folder: Path) -> str:
    text = (folder / NAME).read_text().strip()
    assert len(text) == 32 and int(text, 16) >= 0
    return text


def test_a_directory_keeps_its_identity(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    StorageEngine(folder).close()
    known = identity(folder)
    with StorageEngine(folder) as engine:
        engine.create_collection("c").insert({"n": 1})
    assert identity(folder) == known
    shutil.copytree(folder, tmp_path / "copy")
    StorageEngine(tmp_path / "copy").close()
    assert identity(tmp_path / "copy") == known, "a copy continues the same data"
    StorageEngine(tmp_path / "other").close()
    assert identity(tmp_path / "other") != known
    with Follower(folder, tmp_path / "target") as follower:
        follower.step()
    following = identity(tmp_path / "target")
    promote(tmp_path / "target")
    assert len({known, following, identity(tmp_path / "target")}) == 3


def test_a_directory_of_version_0_1_0_gets_one_when_it_is_written(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        engine.create_collection("c").insert({"n": 1})
    (tmp_path / NAME).unlink()
    with StorageEngine(tmp_path, read_only=True) as engine:
        assert len(engine["c"]) == 1
    assert not (tmp_path / NAME).exists()
    StorageEngine(tmp_path).close()
    assert identity(tmp_path)


@pytest.mark.parametrize("kind", ["empty", "text", "folder", "link", "pipe"])
def test_a_damaged_identity_is_an_error(tmp_path: Path, kind: str) -> None:
    """It is not replaced unseen, since followers know it; readers do not need it."""
    with StorageEngine(tmp_path) as engine:
        engine.create_collection("c").insert({"n": 1})
    path = tmp_path / NAME
    path.rename(tmp_path / "away")
    if kind in ("empty", "text"):
        path.write_text("" if kind == "empty" else "g" * 32)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "away")
    else:
        os.mkfifo(path)
    with pytest.raises(CorruptFile, match="identity"):
        StorageEngine(tmp_path)
    with StorageEngine(tmp_path, read_only=True) as engine:
        assert len(engine["c"]) == 1
    if kind == "folder":
        path.rmdir()
    else:
        path.unlink()
    with StorageEngine(tmp_path) as engine:
        assert len(engine["c"]) == 1


def test_a_directory_on_an_object_store_has_one(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/data"
    files, path = fsspec.core.url_to_fs(url)
    StorageEngine(url).close()
    known = files.cat(f"{path}/{NAME}")
    StorageEngine(url).close()
    assert files.cat(f"{path}/{NAME}") == known and len(known.strip()) == 32


def test_backups_tell_of_which_directory_they_are(tmp_path: Path) -> None:
    """Files of another one are compared by their bytes, although names, sizes and times agree."""
    for name in ("one", "two"):
        with StorageEngine(tmp_path / name) as engine:
            engine.create_collection("c").insert({"text": name})
        os.utime(tmp_path / name / "collections" / "c.godb", ns=(10**18, 10**18))
        with StorageEngine(tmp_path / name) as engine:
            engine.backup(tmp_path / "backups")
    assert [backup.copied_files for backup in list_backups(tmp_path / "backups")] == [1, 1]
    described = [
        json.loads(path.read_text()) for path in sorted((tmp_path / "backups/backups").iterdir())
    ]
    assert [one["identity"] for one in described] == [
        identity(tmp_path / name) for name in ("one", "two")
    ]
