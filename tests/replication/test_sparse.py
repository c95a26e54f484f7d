"""Files whose size is far above their bytes on the disk are neither copied nor read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import xxhash
from support.engines import open_engine

import godb_arrow
from godb_arrow import CorruptFile, Follower, GodbError, StorageEngine, StorageError, restore_backup
from godb_arrow.storage.holes import check_dense

_HUGE_BYTES = 1 << 40
KINDS = [
    "collections/large.parts/*.godb",
    "collections/large.parts/*.ids",
    "collections/large.parts/*.manifest",
    "collections/small.godb",
    "collections/*.attached",
    "journal/*.journal",
    "changes/*.journal",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a file of each kind, as a killed engine leaves it."""
    folder = tmp_path_factory.mktemp("sparse")
    godb_arrow.write_godb([{"_id": "1", "n": 1}], folder / "file.godb", "attached")
    with open_engine(folder / "data", part_size="16KiB", keep_versions=3) as engine:
        large = engine.create_collection("large")
        for _ in range(2):
            large.insert_many({"t": str(n) * 30} for n in range(300))
            engine.save()
        engine.create_collection("small").insert({"n": 1})
        engine.save()
        engine.load_collection_metadata(folder / "file.godb")
        engine.create_collection("unsaved").insert({"n": 2})
        shutil.copytree(folder / "data", folder / "killed")
    return folder / "killed"


def is_as_before(target: Path) -> bool:
    """Return whether a target has no large file."""
    return all(path.lstat().st_size < 1 << 20 for path in target.rglob("*"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["backup", "follow"])
def test_a_sparse_file_is_not_copied(tmp_path: Path, directory: Path, kind: str, verb: str) -> None:
    data = Path(shutil.copytree(directory, tmp_path / "data"))
    os.truncate(sorted(data.glob(kind))[-1], _HUGE_BYTES)
    needs_none = verb == "backup" and kind.startswith("changes")
    try:
        if verb == "follow":
            with Follower(data, tmp_path / "target") as follower:
                follower.step()
        else:
            with StorageEngine(data) as engine:
                try:
                    engine.backup(tmp_path / "target")
                finally:
                    engine.drop_collection("attached")  # It cannot be saved while it is sparse.
    except StorageError as error:
        assert "sparse" in str(error)
    else:
        assert needs_none
    assert is_as_before(tmp_path / "target")


def test_verify_names_a_sparse_file(tmp_path: Path, directory: Path) -> None:
    data = Path(shutil.copytree(directory, tmp_path / "data"))
    os.truncate(data / "collections" / "small.godb", _HUGE_BYTES)
    report = godb_arrow.verify_godb(data)
    assert any("sparse" in problem for problem in report.problems), report


@pytest.mark.parametrize(("ending", "change"), [(".godb", 4096), (".ids", -1)])
def test_a_part_has_the_size_that_its_manifest_records(
    tmp_path: Path, directory: Path, ending: str, change: int
) -> None:
    data = Path(shutil.copytree(directory, tmp_path / "data"))
    part = sorted((data / "collections" / "large.parts").glob(f"*{ending}"))[-1]
    os.truncate(part, part.stat().st_size + change)
    with Follower(data, tmp_path / "target") as follower, pytest.raises(CorruptFile) as raised:
        follower.step()
    assert "its manifest records" in str(raised.value)
    with StorageEngine(data) as engine, pytest.raises(CorruptFile):
        engine.backup(tmp_path / "backups")
    assert not (tmp_path / "backups" / "backups").exists()


def test_a_sparse_file_is_not_restored(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("small").insert({"n": 1})
        engine.backup(tmp_path / "backups")
    (stored,) = (path for path in (tmp_path / "backups" / "files").rglob("*") if path.is_file())
    os.truncate(stored, _HUGE_BYTES)
    description = tmp_path / "backups" / "backups" / "00000001.json"
    content = json.loads(description.read_bytes())
    content["files"][0]["size"] = _HUGE_BYTES
    del content["checksum"]
    packed = json.dumps(content, sort_keys=True).encode()
    content["checksum"] = xxhash.xxh3_64_hexdigest(packed)
    description.write_text(json.dumps(content))
    with pytest.raises(StorageError, match="sparse"):
        restore_backup(tmp_path / "backups", tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_a_sparse_file_is_not_attached(tmp_path: Path) -> None:
    path = tmp_path / "file.godb"
    godb_arrow.write_godb([{"_id": "1", "n": 1}], path, "users")
    os.truncate(path, _HUGE_BYTES)
    with StorageEngine(tmp_path / "data") as engine:
        with pytest.raises(GodbError):
            engine.load_collection_metadata(path)
        assert engine.collections() == []
    assert is_as_before(tmp_path / "data")


def test_the_bytes_on_the_disk_decide(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open(path, "w+b") as file:
        for at in range(0, 1 << 20, 1 << 16):
            file.seek(at)
            file.write(b"x")
        file.seek(7)
        check_dense(str(path), file.fileno())  # Small holes do no harm.
        file.truncate(64 << 20)
        check_dense(str(path), file.fileno())
        file.truncate(_HUGE_BYTES)
        with pytest.raises(StorageError, match=rf"sparse: it has {_HUGE_BYTES} bytes"):
            check_dense(str(path), file.fileno())
        assert file.tell() == 7
