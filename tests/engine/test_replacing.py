"""A collection whose documents are all replaced has the former ones or the new ones."""

from __future__ import annotations

import datetime as dt
import errno
import itertools
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.disks import FaultyDisk, RecordingDisk, after_power_cut, put, using
from support.engines import crash
from support.settings import LONG

import godb_arrow
from godb_arrow import (
    ChangesLost,
    CollectionNotFound,
    DuplicateValue,
    Follower,
    SchemaViolation,
    StorageEngine,
    WriteConflict,
    promote,
)
from godb_arrow.connectors.etl import copy
from godb_arrow.engine.replacing import replace_collection
from godb_arrow.storage.local import Disk
from godb_arrow.storage.object_store import RemoteStore

_CALLS = ("replace", "unlink", "remove_folder")  # of the disk, before which CI tries a kill
_FORMS = ["file", "folder", "attached", "renamed", "unsaved"]
OLD, NEW = {f"o{n}": n for n in range(5)}, {f"n{n}": n for n in range(3)}


def rows(documents: dict[str, int]) -> list[dict[str, Any]]:
    return [{"_id": key, "v": n} for key, n in documents.items()]


def written(folder: Path) -> str:
    """Return a file with the new documents."""
    path = folder / "new.godb"
    godb_arrow.write_godb(rows(NEW), path, "b")
    return str(path)


def constrained(folder: Path, form: str) -> StorageEngine:
    """Return an engine with a collection that has all settings, in a form."""
    engine = StorageEngine(
        folder, durability="commit", versions="all" if form == "folder" else "large"
    )
    if form == "attached":
        godb_arrow.write_godb(rows(OLD), folder.parent / "old.godb", "b")
        engine.load_collection_metadata(folder.parent / "old.godb")
        made = engine["b"]
    else:
        made = engine.create_collection("a" if form == "renamed" else "b", compression="zstd")
        made.insert_many(rows(OLD))
    made.create_index("v", unique=True)
    made.create_index("other")
    made.create_ttl("at", "1 day")
    made.set_validation(pa.schema([("v", pa.int64())]), allow_extra=True)
    engine.create_collection("c").insert({"_id": "1"})
    if form not in ("attached", "unsaved"):
        engine.save()
    if form == "folder":
        made.delete("o4")
        engine.save()
        made.insert({"_id": "o4", "v": 4})
    if form == "renamed":
        engine.rename_collection("a", "b")
    return engine


def state(engine: StorageEngine, *, form: str) -> dict[str, int]:
    """Return the documents of a collection, after a check of its settings."""
    assert engine.collections() == ["b", "c"]
    found = engine["b"]
    assert found.ttl == {"at": dt.timedelta(days=1)}
    assert found.validation is not None
    assert {*found._store.indexes()} >= {"at", "other"}
    if not engine._components.directory.read_only:
        with pytest.raises(DuplicateValue):
            found.insert({"_id": "x", "v": 1})
        with pytest.raises(SchemaViolation):
            found.insert({"_id": "x", "v": "text"})
    if form != "attached":
        assert found._store.compression() == "zstd"
    return {document["_id"]: document["v"] for document in found}


def check(engine: StorageEngine, *, form: str, is_new: bool | None = None) -> bool:
    documents = state(engine, form=form)
    assert documents in ([OLD, NEW] if is_new is None else [NEW if is_new else OLD])
    assert engine["c"].get("1") == {"_id": "1"}
    return documents == NEW


class CopyingDisk(FaultyDisk):
    """Copies a directory before each call, as a kill at that moment leaves it."""

    def __init__(self, folder: Path, copies: Path) -> None:
        super().__init__()
        self._folder, self._copies = folder, copies
        self.copies: list[Path] = []

    def _call(self, name: str) -> None:
        super()._call(name)
        if LONG or (name in _CALLS and self.calls[-2:-1] != [name]):
            self.copies.append(self._copies / str(len(self.calls)))
            shutil.copytree(self._folder, self.copies[-1])


def killed(tmp_path: Path, form: str) -> list[Path]:
    """Return a directory as kills in a replacement and the save after it leave it."""
    engine = constrained(tmp_path / "data", form)
    path = written(tmp_path)
    disk = CopyingDisk(tmp_path / "data", tmp_path / "copies")
    with using(disk):
        replace_collection(engine, "b", path)
        engine.save()
    assert check(engine, form=form)
    engine.close()
    return disk.copies


@pytest.mark.parametrize("form", _FORMS)
def test_a_kill_leaves_the_former_documents_or_the_new_ones(tmp_path: Path, form: str) -> None:
    copies, found = killed(tmp_path, form), []
    for number, place in enumerate(copies):
        with StorageEngine(place, read_only=True) as reader:
            is_new = check(reader, form=form)
        found.append(is_new)
        if LONG or number == len(copies) // 2:
            with Follower(place, tmp_path / f"f{number}") as follower:
                follower.step()
            promote(tmp_path / f"f{number}")
            with StorageEngine(tmp_path / f"f{number}") as engine:
                check(engine, form=form, is_new=is_new)
        engine = StorageEngine(place)
        check(engine, form=form, is_new=is_new)
        if number % 2:
            crash(engine)
        else:
            engine.close()
        with StorageEngine(place) as engine:
            engine.save()
            check(engine, form=form, is_new=is_new)
        with StorageEngine(place) as engine:
            check(engine, form=form, is_new=is_new)
        assert len(list((place / "collections").iterdir())) == 2
        assert godb_arrow.verify_godb(place).ok
    assert found == sorted(found)
    assert found[-1]


AFTER: dict[str, Callable[[StorageEngine, str], object]] = {
    "drop": lambda engine, _: engine.drop_collection("b"),
    "rename": lambda engine, _: engine.rename_collection("b", "third"),
    "change": lambda engine, _: engine.upsert_many("b", [{"_id": "n0", "v": 9}]),
    "replace": lambda engine, path: replace_collection(engine, "b", path),
    "another": lambda engine, _: engine.create_collection("a").insert({"_id": "other"}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("form", "after"),
    [*itertools.product(_FORMS, AFTER)]
    if LONG
    else [("folder", "drop"), ("renamed", "another"), ("file", "replace"), ("folder", "rename")],
)
def test_nothing_comes_back_after_a_kill(tmp_path: Path, form: str, after: str) -> None:
    path = written(tmp_path)
    for place in killed(tmp_path, form):
        engine = StorageEngine(place)
        AFTER[after](engine, path)
        wanted = {name: [*engine[name]] for name in engine.collections()}
        crash(engine)
        for _ in range(2):
            with StorageEngine(place) as engine:
                assert {name: [*engine[name]] for name in engine.collections()} == wanted
                engine.save()
        assert len(list((place / "collections").iterdir())) == len(wanted)


class KeepingDisk(Disk):
    """Refuses to remove files."""

    def unlink(self, path: str) -> None:
        raise OSError(errno.EACCES, "refused", path)


@pytest.mark.parametrize("form", _FORMS if LONG else ["folder"])
def test_kills_before_and_after_a_recovery(tmp_path: Path, form: str) -> None:
    """The first kill is before the former files are removed, the second one in the next save."""
    engine, path = constrained(tmp_path / "data", form), written(tmp_path)
    with using(KeepingDisk()):
        replace_collection(engine, "b", path)
    crash(engine)
    disk = CopyingDisk(tmp_path / "data", tmp_path / "copies")
    with using(disk), StorageEngine(tmp_path / "data") as engine:
        present = {path.name for path in (tmp_path / "data" / "collections").iterdir()}
        assert not present & {"a.godb", "b.godb", "b.parts"}
        engine.save()
    for place in disk.copies:
        with StorageEngine(place) as engine:
            check(engine, form=form, is_new=True)
            engine.save()
        with StorageEngine(place) as engine:
            check(engine, form=form, is_new=True)


@pytest.mark.parametrize("is_recovered", [False, True])
def test_former_files_that_stay_do_not_come_back(tmp_path: Path, is_recovered: bool) -> None:
    path = written(tmp_path)
    crash(constrained(tmp_path / "data", "renamed"))
    engine = StorageEngine(tmp_path / "data")  # The record of the name is in a segment before.
    with using(KeepingDisk()):
        replace_collection(engine, "b", path)
        if is_recovered:
            crash(engine)
            engine = StorageEngine(tmp_path / "data")
        for _ in range(2):
            with suppress(godb_arrow.StorageError):
                engine.save()
            with suppress(godb_arrow.StorageError), using(Disk()):
                engine._components.directory.journal.trim()
        crash(engine)
    with StorageEngine(tmp_path / "data") as engine:
        check(engine, form="renamed", is_new=True)


@pytest.mark.parametrize("form", _FORMS if LONG else ["file", "folder"])
def test_a_power_cut_leaves_the_former_documents_or_the_new_ones(tmp_path: Path, form: str) -> None:
    folder, path = tmp_path / "data", written(tmp_path)
    for part in ("collections", "journal"):
        (folder / part).mkdir(parents=True)
    disk = RecordingDisk(str(folder))
    with using(disk):
        engine = constrained(folder, form)
        first = len(disk.cuts)
        replace_collection(engine, "b", path)
        acknowledged = len(disk.cuts)
        engine.save()
        crash(engine)
    number = random.Random(5)
    for index in range(first, len(disk.cuts), 1 if LONG else 17):
        for how in ("least", "most", "any"):
            target = tmp_path / "cut"
            put(after_power_cut(disk.cuts[index][1], how, number), str(folder), target)
            with StorageEngine(target) as engine:
                is_new = check(engine, form=form)
                assert is_new or index < acknowledged
                engine.save()
                check(engine, form=form, is_new=is_new)
            assert len(list((target / "collections").iterdir())) == 2, (index, how)
            shutil.rmtree(target)


@pytest.mark.parametrize("form", _FORMS if LONG else ["file", "folder"])
def test_an_error_of_the_disk_changes_nothing(tmp_path: Path, form: str) -> None:
    fail_at, path = 0, written(tmp_path)
    while True:
        folder = tmp_path / str(fail_at)
        engine = constrained(folder, form)
        disk = FaultyDisk(fail_at, errno.ENOSPC)
        applied = "no"
        with using(disk):
            try:
                replace_collection(engine, "b", path)
                applied = "yes"
            except godb_arrow.GodbError as error:
                applied = error.applied
        is_new = check(engine, form=form)
        assert applied == "unknown" or is_new == (applied == "yes")
        with suppress(godb_arrow.StorageError):
            engine.save()
        check(engine, form=form, is_new=is_new)
        engine.close()
        with StorageEngine(folder) as engine:
            check(engine, form=form, is_new=is_new)
        if disk.failed is None:
            return
        shutil.rmtree(folder)
        fail_at += 1 if LONG else 9


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    engine = constrained(tmp_path / "data", "file")
    for name, documents, error in (
        ("b", [{"_id": "x", "v": 1}, {"_id": "y", "v": 1}], DuplicateValue),
        ("b", [{"_id": "x", "v": "text"}], SchemaViolation),
        ("other", [{"_id": "x", "v": 1}], CollectionNotFound),
    ):
        godb_arrow.write_godb(documents, tmp_path / "wrong.godb", name)
        with pytest.raises(error):
            replace_collection(engine, "b", tmp_path / "wrong.godb")
        check(engine, form="file", is_new=False)
        assert len(list((tmp_path / "data" / "collections").iterdir())) == 2
    with pytest.raises(CollectionNotFound):
        replace_collection(engine, "missing", written(tmp_path))
    engine.close()


def test_readers_and_followers_see_one_of_the_two(tmp_path: Path) -> None:
    engine = constrained(tmp_path / "data", "folder")
    replica = engine.replicate_to(tmp_path / "follower", mode="acknowledged")
    handle = engine["b"]
    stream = handle.stream(batch_size=2)
    with (
        StorageEngine(tmp_path / "data", read_only=True) as early,
        StorageEngine(tmp_path / "data", read_only=True) as late,
        engine.changes() as changes,
    ):
        check(early, form="folder", is_new=False)
        replace_collection(engine, "b", written(tmp_path))
        assert sum(batch.num_rows for batch in stream) == len(OLD)
        with pytest.raises(CollectionNotFound):
            len(handle)
        with pytest.raises(ChangesLost):
            list(changes)
        check(late, form="folder", is_new=True)
        with StorageEngine(replica.target, read_only=True) as reader:
            check(reader, form="folder", is_new=True)
        engine.save()
        check(late, form="folder", is_new=True)
        replica.step()
        with StorageEngine(replica.target, read_only=True) as reader:
            check(reader, form="folder", is_new=True)
    engine.close()


def test_a_killed_copy_leaves_the_settings(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    constrained(folder, "file").close()
    path = folder / "collections" / "b.godb"
    path.chmod(0o640)
    disk = CopyingDisk(folder, tmp_path / "copies")
    with using(disk):
        copy(rows(NEW), f"{folder}#b", if_exists="replace", progress=False)
    for place in [*disk.copies, folder]:
        with StorageEngine(place) as engine:
            check(engine, form="file", is_new=True if place is folder else None)
    assert path.stat().st_mode & 0o777 == 0o640


def in_a_store(url: str, form: str) -> None:
    constrained(url, form).close()  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_kill_on_an_object_store(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, copies = f"/replaced-{form}/data", []
    files = pytest.importorskip("fsspec").filesystem("memory")
    in_a_store(f"memory:/{place}", form)

    def copying(do: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            copies.append(f"/replaced-{form}/{len(copies)}")
            files.copy(place, copies[-1], recursive=True)
            return do(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for verb in ("put", "remove"):
            patch.setattr(RemoteStore, verb, copying(getattr(RemoteStore, verb)))
        copy(rows(NEW), f"memory:/{place}#b", if_exists="replace", progress=False)
    found = []
    for url in (f"memory:/{path}" for path in [*copies, place]):
        with StorageEngine(url, read_only=True) as reader:
            found.append(check(reader, form=form))
        for _ in range(2):
            with StorageEngine(url) as engine:
                check(engine, form=form, is_new=found[-1])
        assert godb_arrow.verify_godb(url).ok
    assert found == ([False, True] if form == "file" else sorted(found))
    assert found[-1]


def test_two_writers_on_an_object_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("fsspec")
    url = "memory://replaced-by-two"
    in_a_store(url, "file")
    with StorageEngine(url) as first, StorageEngine(url) as second:
        replace_collection(first, "b", written(tmp_path))
        second.insert("b", {"_id": "other", "v": 100})
        second.save()
        with pytest.raises(WriteConflict):
            first.save()
        caplog.clear()  # The record of the error holds the open file.
        first.drop_collection("b")
        first.create_collection("b").insert({"_id": "again"})
        first.save()
        replace_collection(first, "b", written(tmp_path))
        first.save()
        first.upsert_many("b", rows(NEW))
        first.save()
        assert len(first["b"]) == len(NEW)
