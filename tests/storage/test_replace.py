"""Where bytes live: replacing a file at once, and names for files."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godb_arrow import AccessDenied, StorageError
from godb_arrow.directory.names import file_name
from godb_arrow.storage.replace import replace_file
from godb_arrow.storage.source import Source


def test_a_file_is_synced_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "fdatasync", "replace"):
        real = getattr(os, name)

        def record(*arguments: Any, _real: Any = real, _name: str = name) -> Any:
            kind = ""
            if _name != "replace":
                kind = " folder" if stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else " file"
            calls.append(_name + kind)
            return _real(*arguments)

        monkeypatch.setattr(f"godb_arrow.storage.local.os.{name}", record)
    with replace_file(tmp_path / "x") as stream:
        stream.write(b"new")
    assert calls == ["fdatasync file", "replace", "fsync folder"]


def test_mode_and_links_are_kept(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(real)
    with replace_file(link) as stream:
        stream.write(b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_new_file_has_the_mode_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with replace_file(tmp_path / "x") as stream:
        stream.write(b"new")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_readers_see_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")
    with Source(target).open() as reading:
        with replace_file(target) as stream:
            stream.write(b"new")
            assert target.read_bytes() == b"old"
        assert reading.read() == b"old"
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(PermissionError(13, "denied"), AccessDenied), (OSError(5, "I/O error"), StorageError)],
)
def test_errors_of_the_system_are_ours_with_their_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: OSError, expected: type[Exception]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("godb_arrow.storage.local.os.replace", fail)
    with pytest.raises(expected, match="write") as caught, replace_file(tmp_path / "x"):
        pass
    assert isinstance(caught.value, OSError)
    assert caught.value.__cause__ is raised
    assert caught.value.errno == raised.errno
    assert os.listdir(tmp_path) == []


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 127 + "x")
    with replace_file(target) as stream:
        stream.write(b"new")
    assert target.read_bytes() == b"new"


names = st.text(max_size=20) | st.sampled_from(
    ["", ".", "..", "a/b", "a\\b", "%", "%2E", "\0", "é"]
)
escaped = st.binary(max_size=6).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@given(st.one_of(names.filter(lambda n: n.encode("utf-8", "replace").decode() == n), escaped))
def test_any_name_becomes_a_file_name_that_stays_in_its_folder(name: str) -> None:
    found = file_name(name)
    assert found not in {"", ".", ".."}
    assert not set("/\\\0") & set(found)
    assert not found.startswith(".")
    found.encode()


@given(st.lists(names.filter(str.isprintable), min_size=2, max_size=2, unique=True))
def test_different_names_become_different_file_names(pair: list[str]) -> None:
    assert file_name(pair[0]) != file_name(pair[1])


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("users", "naïve name", "名前", "a-b_c.d", "v1.2"):
        assert file_name(name) == name


@pytest.mark.parametrize("suffix", ["tmp", "lock"])
def test_what_a_killed_writer_left_is_removed(tmp_path: Path, suffix: str) -> None:
    def left(name: str, age: float) -> Path:
        path = tmp_path / f".godb-arrow-{name}.{suffix}"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age, time.time() - age))
        return path

    old, young, locked = left("a" * 16, 3600), left("b" * 16, 1), left("c" * 16, 3600)
    others = [tmp_path / "other.tmp", left("notes", 3600), left("a" * 15, 3600)]
    for other in others:
        other.write_bytes(b"somebody's")
        os.utime(other, (0, 0))
    code = (
        "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX);"
        "print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(locked)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with replace_file(tmp_path / "new") as stream:
            stream.write(b"x")
        assert not old.exists()
        assert young.exists()
        assert locked.exists(), "its writer is alive"
        assert all(other.exists() for other in others)
        holder.communicate()


def test_a_file_that_is_being_written_is_locked(tmp_path: Path) -> None:
    with replace_file(tmp_path / "new") as stream:
        stream.write(b"x")
        (path,) = tmp_path.iterdir()
        with path.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
