"""Files inside a folder: nothing in the folder leads out of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.outside import LINKS, OTHERS, plant, tree

from godb_arrow import SourceNotFound, StorageError
from godb_arrow.storage import inside
from godb_arrow.storage.folder import Folder, open_folder
from godb_arrow.storage.inside import number_in, open_inside, open_to_read
from godb_arrow.storage.replace import temporary_name

FOUND = {
    "link": "a symbolic link",
    "dangling link": "a symbolic link",
    "named pipe": "a named pipe",
    "socket": "a socket",
    "folder": "a folder",
}
CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC

VERBS: dict[str, Callable[[Folder, str], object]] = {
    "open": lambda folder, name: folder.open(name).__enter__(),
    "hold": lambda folder, name: folder.hold(name),
    "replace": lambda folder, name: folder.replace(name),
    "remove": lambda folder, name: folder.remove(name),
    "rename": lambda folder, name: folder.rename(name, "new"),
    "size": lambda folder, name: folder.size(name),
    "modified": lambda folder, name: folder.modified(name),
    "access of": lambda folder, name: folder.access_of(name),
    "restrict": lambda folder, name: folder.restrict(name, folder.access()),
}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with a file, which must stay unchanged."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_bytes(b"private")
    return folder


@pytest.mark.parametrize("kind", [*LINKS, *OTHERS, "folder"])
def test_only_regular_files_are_opened(tmp_path: Path, outside: Path, kind: str) -> None:
    place = tmp_path / "folder" / "x"
    plant(kind, place, outside / "file")
    before = tree(tmp_path)
    for use in (
        lambda: open_to_read(str(place)),
        lambda: open_inside(str(place), os.O_WRONLY),
        lambda: open_inside(str(place), CREATE),
    ):
        with pytest.raises(StorageError, match=f"{place}.*found {FOUND[kind]}; "):
            use()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", [*LINKS, "named pipe"])
def test_no_verb_of_a_folder_follows_a_file(
    tmp_path: Path, outside: Path, kind: str, verb: str
) -> None:
    plant(kind, tmp_path / "folder" / "x", outside / "file")
    before = tree(tmp_path)
    with pytest.raises(StorageError, match=FOUND[kind]):
        VERBS[verb](open_folder(str(tmp_path / "folder")), "x")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("verb", [*VERBS, "names", "files", "make", "remove empty"])
@pytest.mark.parametrize("depth", [1, 2])
def test_no_verb_follows_a_folder(tmp_path: Path, outside: Path, verb: str, depth: int) -> None:
    target = outside if depth == 1 else tmp_path / "between"
    (tmp_path / "between").mkdir()
    (tmp_path / "between" / "inner").mkdir()
    (tmp_path / "between" / "inner" / "file").write_bytes(b"private")
    plant("link", tmp_path / "folder" / "link", target)
    folder = open_folder(str(tmp_path / "folder")).folder("link")
    folder = folder.folder("inner") if depth == 2 else folder
    verbs = VERBS | {
        "names": lambda folder, name: folder.names(),
        "files": lambda folder, name: folder.files(lambda name: True),
        "make": lambda folder, name: folder.make(),
        "remove empty": lambda folder, name: folder.remove_empty(),
    }
    before = tree(tmp_path)
    with pytest.raises(StorageError, match="expected a folder, found a symbolic link"):
        verbs[verb](folder, "file")
    assert tree(tmp_path) == before


def test_the_folder_itself_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    folder = open_folder(str(tmp_path / "link")).folder("inner")
    with folder.replace("x") as stream:
        stream.write(b"new")
    with folder.open("x") as stream:
        assert stream.read() == b"new"
    assert folder.names() == folder.files(lambda name: True) == ["x"]
    folder.remove("x")
    assert folder.remove_empty() and not (tmp_path / "real" / "inner").exists()


def test_a_link_that_comes_after_the_check_is_not_followed(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "regular_file", lambda path: None)
    (tmp_path / "x").symlink_to(outside / "file")
    os.mkfifo(tmp_path / "pipe")
    before = tree(outside)
    for flags in (os.O_WRONLY, CREATE):
        for name in ("x", "pipe"):
            with pytest.raises(OSError, match=r"symbolic links|No such device"):
                open_inside(str(tmp_path / name), flags)
    with pytest.raises(StorageError, match="found a named pipe"):
        open_to_read(str(tmp_path / "pipe"))
    assert tree(outside) == before


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path)).folder("inner")
    assert folder.names() == folder.files(lambda name: True) == []
    assert folder.remove_empty()
    for verb in ("open", "hold", "remove", "size"):
        with pytest.raises(SourceNotFound):
            VERBS[verb](folder, "x")


def test_only_files_that_are_ours_are_listed(tmp_path: Path, outside: Path) -> None:
    names = [temporary_name(), temporary_name()]
    plant("link", tmp_path / "folder" / names[0], outside / "file")
    (tmp_path / "folder" / names[1]).write_bytes(b"")
    (tmp_path / "folder" / "notes").write_bytes(b"")
    folder = open_folder(str(tmp_path / "folder"))
    assert folder.files(lambda name: name != "notes") == [names[1]]


@given(st.integers(0, 10**20))
def test_a_number_is_found_in_the_name_that_it_gives(number: int) -> None:
    assert number_in(f"{number:08d}.godb", ".godb") == number
    assert number_in(f"0{number:08d}.godb", ".godb") is None
    assert number_in(f"{number:08d}.godb.bak", ".godb") is None


@pytest.mark.parametrize("name", ["1.godb", "²²²²²²²².godb", "٠٠٠٠٠٠٠١.godb", "-0000001.godb",
                                  "20240101-notes.godb", "0000_001.godb", ".godb", ""])  # fmt: skip
def test_other_names_have_no_number(name: str) -> None:
    assert number_in(name, ".godb") is None
