"""The data directory is a boundary: nothing outside is opened, followed, changed or deleted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.engines import crash, grown, open_engine
from support.outside import LINKS, OTHERS, mode, plant, readable_by_others, run_with_umask, tree
from support.settings import LONG

import godb_arrow
from godb_arrow import GodbError, StorageEngine, StorageError
from godb_arrow.directory.journal import Journal
from godb_arrow.engine.fragments import fragments_of
from godb_arrow.engine.part_writer import PartWriter, commit_parts

SECRET = 42
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
def folder(tmp_path: Path, closed: Path) -> Path:
    """A data directory to be used."""
    return Path(shutil.copytree(closed, tmp_path / "data"))


@pytest.fixture
def outside(tmp_path: Path, closed: Path) -> Path:
    """A folder with files of all kinds of a data directory, which must stay unchanged."""
    folder = tmp_path / "outside"
    shutil.copytree(closed, folder / "data")
    secret = folder / "data" / "collections" / "users.godb"
    godb_arrow.write_godb([{"secret": SECRET}], secret, "users")
    for name in ("thesis.tex", "photo.jpg"):
        (folder / name).write_bytes(name.encode())
    return folder


def used(folder: Path, **options: Any) -> list[dict[str, Any]]:
    """Read and change everything that a data directory lets be read and changed."""
    found: list[dict[str, Any]] = []
    try:
        engine = open_engine(folder, **options)
    except GodbError as error:
        assert str(error)
        return found
    changes: list[Callable[[str], object]] = [
        lambda name: found.extend(engine[name].find_all()),
        lambda name: engine.insert(name, {"n": 2}),
        lambda _: engine.save(),
        engine.compact,
        engine.pack,
        lambda name: engine.rename_collection(name, f"{name} renamed"),
        lambda _: engine.save(),
        lambda name: engine.drop_collection(f"{name} renamed"),
        engine.create_collection,
        lambda _: engine.save(),
    ]
    for name in engine.collections():
        for change in changes:
            try:
                change(name)
            except GodbError:
                continue
    engine.close(discard=True)
    return found


PLACES = [
    "collections",
    "journal",
    "godb_arrow.lock",
    "follower.json",
    "collections/users.godb",
    "collections/other.godb",
    "collections/c.parts",
    "collections/users.parts",
    "collections/c.parts/00000001.godb",
    "collections/c.parts/00000001.ids",
    "collections/c.parts/99999999.manifest",
    "collections/c.parts/99999999.godb",
    "collections/.godb-arrow-0123456789abcdef.tmp",
    "collections/c.parts/.godb-arrow-0123456789abcdef.tmp",
    "journal/00000001.journal",
    "journal/00000009.journal",
]


def counterpart(outside: Path, place: str) -> Path:
    """Return a file or folder outside that fits a place."""
    data = outside / "data"
    if place == "journal":
        return data / "journal"
    if place == "collections":
        return data / "collections"
    suffix = Path(place).suffix
    found = {
        ".godb": data / "collections" / "users.godb",
        ".parts": data / "collections" / "c.parts",
        ".ids": data / "collections" / "c.parts" / "00000001.ids",
        ".manifest": max((data / "collections" / "c.parts").glob("*.manifest")),
        ".journal": max((data / "journal").iterdir()),
    }
    return found.get(suffix, outside / "thesis.tex")


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_outside_is_read_changed_or_deleted(
    folder: Path,
    outside: Path,
    place: str,
    kind: str,
    read_only: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    planted = folder / place
    if planted.is_dir():
        shutil.rmtree(planted)
    elif planted.exists():
        planted.unlink()
    plant(kind, planted, counterpart(outside, place))
    before = tree(outside)
    found = used(folder, read_only=read_only)
    assert tree(outside) == before
    assert not any(document.get("secret") == SECRET for document in found)
    assert os.path.lexists(planted)
    caplog.clear()  # tracebacks keep files open


def test_a_file_that_is_a_link_is_an_error_that_names_it(folder: Path, outside: Path) -> None:
    for name, kind in (("x", "godb"), ("y", "parts")):
        target = outside / "data" / "collections" / f"{name}.{kind}"
        with open_engine(outside / "data") as engine:
            engine.create_collection(name).insert({"secret": SECRET})
            if kind == "parts":
                engine[name].to_folder()
        plant("link", folder / "collections" / target.name, target)
    with StorageEngine(folder) as engine:
        assert engine.collections() == ["c", "users", "x", "y"]
        for name in ("x", "y"):
            with pytest.raises(
                StorageError, match=rf"{name}\..*found a symbolic link; move the data"
            ):
                engine.find_all(name)
        assert engine.insert("users", {"n": 2}) == "2", "the others work"
    for name in ("x", "y"):
        with pytest.raises(StorageError, match=rf"{name}\..*found a symbolic link"):
            fragments_of(folder, name)


def test_a_newer_state_that_is_a_link_is_not_replaced_by_an_older_one(
    tmp_path: Path, folder: Path
) -> None:
    parts = folder / "collections" / "c.parts"
    newest = max(parts.glob("*.manifest"))
    newest.rename(tmp_path / "moved")
    newest.symlink_to(tmp_path / "moved")
    with StorageEngine(folder, read_only=True) as engine, pytest.raises(StorageError, match="link"):
        engine.count("c")


def test_the_directory_itself_may_be_reached_by_a_link(tmp_path: Path, folder: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    with open_engine(link) as engine:
        assert engine.data_dir == str(link)
        assert engine.insert("users", {"n": 2}) == "2"
        engine.insert("c", {"n": 2000})
    with StorageEngine(link, read_only=True) as engine:
        assert len(engine["users"]) == 2 and len(engine["c"]) == 2001
    assert fragments_of(link, "users")[0][0].documents == 2


def foreign(folder: Path) -> list[Path]:
    """Files in the folder of a collection that godb_arrow did not name."""
    names = [
        "thesis.tex", "20240101-notes.godb", "20240101.godb.bak", "1.ids", "000000001.manifest",
        "٠٠٠٠٠٠٠١.godb", ".godb-arrow-notes", ".godb-arrow-notes.tmp", ".godb-arrow-notes.godb",
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
        os.utime(folder / name, (0, 0))
    (folder / "folder").mkdir()
    return [folder / name for name in (*names, "folder")]


def test_files_that_we_did_not_name_are_never_deleted(folder: Path) -> None:
    kept = foreign(folder / "collections" / "c.parts")
    kept += foreign(folder / "collections" / "users.parts")  # beside users.godb
    kept += foreign(folder / "collections" / "nothing.parts")
    for name in (".godb-arrow-notes.tmp", ".hidden.godb", "notes.txt"):
        (folder / "collections" / name).write_bytes(b"")
        kept.append(folder / "collections" / name)
    (folder / "journal" / "1.journal").write_bytes(b"")
    kept.append(folder / "journal" / "1.journal")
    with open_engine(folder, keep_versions=1) as engine:
        assert engine.collections() == ["c", "users"]
        engine.insert("c", {"n": 2000})
        engine.save()
        engine.delete_many("c", {"n": list(range(1500))})
        engine.save()
        assert engine.compact("c")
        engine.rename_collection("users", "people")
        engine.pack("c")
    with open_engine(folder) as engine:
        assert len(engine["c"]) == 501
        engine["c"].to_folder()
        engine.drop_collection("c")
        engine.create_collection("c").insert({"n": 1})
    with open_engine(folder) as engine:
        assert engine.find_all("c") == [{"_id": "1", "n": 1}]
    assert [str(path) for path in kept if not path.exists()] == []


def test_the_older_of_two_states_goes_only_if_the_newer_one_is_sound(folder: Path) -> None:
    shutil.copy(folder / "collections" / "users.godb", folder / "collections" / "c.godb")
    newest = max((folder / "collections" / "c.parts").glob("*.manifest"))
    whole = newest.read_bytes()
    newest.write_bytes(b"damaged")
    for _ in range(2):
        with StorageEngine(folder) as engine, pytest.raises(GodbError):
            engine.find_all("c")
        assert (folder / "collections" / "c.godb").exists()
    newest.write_bytes(whole)
    with StorageEngine(folder) as engine:
        assert len(engine["c"]) == 2000
    assert not (folder / "collections" / "c.godb").exists()


# --- the journal ------------------------------------------------------------------------------


def journalled(folder: Path, path: object, name: str = "x") -> None:
    """Write a journal that attaches a file, as version 0.1 did, and changes its collection."""
    for part in ("collections", "journal"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    journal = Journal(str(folder / "journal"))
    list(journal.recover())
    journal.append(name, {"op": "attach", "c": name, "path": path, "as": "c"})
    journal.append(name, {"op": "write", "c": name, "n": 2, "k": [0], "d": ["gone"]}, [b""])
    journal.close()


@pytest.fixture
def private(tmp_path: Path) -> Path:
    path = tmp_path / "private.godb"
    documents = [{"_id": "gone", "secret": 1}, {"_id": "1", "secret": SECRET}]
    godb_arrow.write_godb(documents, path, "c")
    return path


PATHS: list[Callable[[Path, Path], object]] = [
    lambda folder, private: str(private),
    lambda folder, private: f"file://{private}",
    lambda folder, private: "memory://boundary/private.godb",
    lambda folder, private: "../private.godb",
    lambda folder, private: f"{folder}/collections/../../private.godb",
    lambda folder, private: "collections/../../private.godb",
    lambda folder, private: "link/private.godb",
    lambda folder, private: f"{folder}/link.godb",
    lambda folder, private: "pipe.godb",
    lambda folder, private: "private.godb\0",
    lambda folder, private: "",
    lambda folder, private: ".",
    lambda folder, private: None,
    lambda folder, private: [str(private)],
]


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_a_path_outside_in_the_journal_is_refused_at_use(
    tmp_path: Path,
    folder: Path,
    private: Path,
    path: Callable[[Path, Path], object],
    read_only: bool,
) -> None:
    shutil.copy(private, tmp_path / "other.godb")
    godb_arrow.write_godb([{"secret": SECRET}], "memory://boundary/private.godb", "c")
    plant("link", folder / "link", tmp_path)
    plant("link", folder / "link.godb", private)
    plant("named pipe", folder / "pipe.godb", private)
    journalled(folder, path(folder, private))
    with StorageEngine(folder, read_only=read_only) as engine:
        assert engine.collections() == ["c", "users", "x"]
        for use in (engine.find_all, engine.count, engine.info):
            with pytest.raises(StorageError, match=r"outside of the data directory|expected a "):
                use("x")
        assert engine.find_all("users") == [{"_id": "1", "n": 1}], "the others work"
        if not read_only:
            engine.insert("users", {"n": 2})
            engine.save()
            saved = godb_arrow.read_documents(folder / "collections" / "users.godb")
            assert len(list(saved)) == 2
    if read_only:
        return
    with StorageEngine(folder) as engine:
        assert engine.collections() == ["c", "users", "x"], "the journal still has it"
        engine.drop_collection("x")
    with StorageEngine(folder) as engine:
        assert engine.collections() == ["c", "users"]
    assert private.exists()


@pytest.mark.parametrize("path", [PATHS[0], PATHS[2]])
def test_a_journal_that_is_trusted_brings_the_file_into_the_directory(
    tmp_path: Path, private: Path, path: Callable[[Path, Path], object]
) -> None:
    shutil.copyfile(private, tmp_path / "copy.godb")
    documents = godb_arrow.read_documents(private)
    godb_arrow.write_godb(documents, "memory://boundary/private.godb", "c")
    folder = tmp_path / "data"
    journalled(folder, path(folder, private))
    with StorageEngine(folder, trust_journal=True) as engine:
        assert engine.find_all("x") == [{"_id": "1", "secret": SECRET}]
    private.unlink()
    with StorageEngine(folder) as engine:
        assert engine.find_all("x") == [{"_id": "1", "secret": SECRET}]


@pytest.mark.parametrize("through_link", [True, False])
@pytest.mark.parametrize("place", ["x.godb", "collections/y.godb", "{}/inner/x.godb"])
def test_a_path_inside_is_opened(
    tmp_path: Path, private: Path, place: str, through_link: bool
) -> None:
    folder, opened = tmp_path / "data", tmp_path / ("link" if through_link else "data")
    (tmp_path / "link").symlink_to(folder)
    path = place.format(folder if through_link else opened)
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(private, folder / path)
    journalled(folder, path)
    with StorageEngine(opened) as engine:
        assert engine.find_all("x") == [{"_id": "1", "secret": SECRET}]
    with StorageEngine(opened) as engine:
        assert engine.find_all("x") == [{"_id": "1", "secret": SECRET}]


# --- modes ------------------------------------------------------------------------------------


def protected(folder: Path) -> None:
    """Let only the owner read the files of collections, as their owner would."""
    for path in (folder / "collections").rglob("*.*"):
        if path.is_file():
            path.chmod(0o600)


def everything(folder: Path) -> None:
    """Have all kinds of files written from protected collections."""
    with open_engine(folder, keep_versions=1) as engine:
        engine.insert("users", {"password": "hunter2"})
        engine.insert("c", {"password": "hunter2"})
        engine.save()
        engine.insert_many("c", [{"password": "hunter2", "text": "x" * 50} for _ in range(1000)])
        engine.compact()
        engine.rename_collection("users", "people")
        engine.rename_collection("c", "d")
        engine.save()
        engine["people"].to_folder()
        engine.pack("d")
        engine.insert("d", {"password": "hunter2"})
        engine.save_to_file(folder / "exported.godb")
        engine.restore("people", engine.versions("people")[-1].version)
        crash(engine)
    with open_engine(folder) as engine:
        engine.insert("people", {"password": "hunter2"})
        engine.save()
    writer = PartWriter.of(folder, "people")
    commit_parts(folder, "people", writer.write([{"password": "hunter2"}], 1))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077] if LONG else [0o000, 0o027])
@pytest.mark.parametrize("what", ["files", "folder of collections", "data directory"])
def test_nothing_is_more_readable_than_the_collections_files(
    folder: Path, umask: int, what: str
) -> None:
    if what == "files":
        protected(folder)
    elif what == "data directory":
        folder.chmod(0o700)
    else:
        (folder / "collections").chmod(0o700)
    before = {path for path in folder.rglob("*") if path.is_file()}
    run_with_umask(umask, everything, folder)
    after = {str(path.relative_to(folder)) for path in folder.rglob("*")
             if path.is_file() and path not in before}  # fmt: skip
    assert {Path(name).suffix for name in after} >= {".godb", ".ids", ".manifest", ".journal"}
    assert [name for name in readable_by_others(folder) if name in after] == []


def test_a_journal_that_was_readable_is_so_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with StorageEngine(folder) as engine:
        engine.create_collection("users").insert({"n": 1})
    assert any(mode(path) & 0o044 for path in (folder / "journal").iterdir())
    (folder / "collections" / "users.godb").chmod(0o600)
    with StorageEngine(folder) as engine:
        engine.insert("users", {"password": "hunter2"})
        assert [oct(mode(path)) for path in (folder / "journal").iterdir()] == ["0o600", "0o600"]
        engine.create_collection("more").insert({"n": 1})
        engine.save()
    assert mode(folder / "collections" / "users.godb") == 0o600


def test_a_mode_that_is_changed_while_the_engine_is_open_counts_from_the_next_save(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    with open_engine(folder) as engine:
        engine.create_collection("users").insert({"n": 1})
        engine.create_collection("c").to_folder()
        engine.save()
        protected(folder)
        for name in ("users", "c"):
            engine.insert(name, {"n": 2})
            engine.delete(name, "1") if name == "users" else None
            engine[name].checkpoint()
        assert readable_by_others(folder) == []
        engine.delete("c", "1")
        engine["c"].checkpoint()
        assert readable_by_others(folder) == []


def test_a_collection_that_was_attached_is_as_private_as_its_file(tmp_path: Path) -> None:
    path = tmp_path / "private.godb"
    godb_arrow.write_godb([{"n": 1}], path, "users")
    path.chmod(0o600)
    with StorageEngine(tmp_path / "data") as engine:
        engine.load_collection_metadata(path)
        engine.insert("users", {"password": "hunter2"})
        assert readable_by_others(tmp_path / "data") == []
        engine.save()
    assert readable_by_others(tmp_path / "data") == []
