"""Permission bits: one rule, whatever the umask, which is never changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.outside import mode
from support.processes import run_python

import godb_arrow
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.modes import Access
from godb_arrow.storage.replace import replace_file

UMASKS = [0o000, 0o002, 0o022, 0o027, 0o077]


def run(umask: int, code: str, *arguments: object) -> None:
    """Run code in a process with a umask."""
    done = run_python(f"import os, sys; os.umask({umask})\n{code}", *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("umask", UMASKS)
def test_a_new_file_has_what_the_umask_leaves_and_a_replaced_one_keeps_its_mode(
    tmp_path: Path, umask: int
) -> None:
    modes = (0o600, 0o640, 0o664, 0o444, 0o755)
    for kept in modes:
        (tmp_path / f"{kept:o}").write_bytes(b"")
        (tmp_path / f"{kept:o}").chmod(kept)
    write = "import godb_arrow\nfor path in sys.argv[1:]: " + (
        "godb_arrow.write_godb([{'a': 1}], path, 'c', if_exists='replace')"
    )
    run(umask, write, tmp_path / "new", *(tmp_path / f"{kept:o}" for kept in modes))
    assert mode(tmp_path / "new") == 0o666 & ~umask
    for kept in modes:
        assert mode(tmp_path / f"{kept:o}") == kept


def test_the_umask_is_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(mask: int) -> int:
        raise AssertionError("the umask belongs to the whole process")

    monkeypatch.setattr(os, "umask", fail)
    godb_arrow.write_godb([{"a": 1}], tmp_path / "x.godb", "c")
    with godb_arrow.StorageEngine(tmp_path / "data", part_size="1KiB") as engine:
        engine.create_collection("c").insert_many([{"n": n} for n in range(1000)])
        engine.backup(tmp_path / "backups")
        engine.replicate_to(tmp_path / "copy")
    godb_arrow.restore_backup(tmp_path / "backups", tmp_path / "restored")


def test_a_file_is_as_private_while_it_is_written(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")
    target.chmod(0o640)
    with replace_file(target) as stream:
        stream.write(b"new")
        (temporary,) = set(tmp_path.iterdir()) - {target}
        assert mode(temporary) & 0o077 == 0
    with replace_file(tmp_path / "y", access=Access(0o600)) as stream:
        stream.write(b"new")
        (temporary,) = set(tmp_path.iterdir()) - {target}
        assert mode(temporary) == 0o600


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (Access(0o644), Access(0o640), 0o640),
        (Access(0o660), Access(0o606), 0o600),
        (Access(0o640, 1), Access(0o640), 0o640),
        (Access(0o640, 1), Access(0o640, 2), 0o600),
        (Access(0o664, 1), Access(0o664, 2), 0o644),
        (Access(0o444), Access(0o222), 0o600),
    ],
)
def test_two_files_grant_together_what_both_grant(
    first: Access, second: Access, together: int
) -> None:
    assert (first & second).new_file == (second & first).new_file == together


def test_the_bits_of_a_group_are_for_that_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"")
    given: list[int] = []

    def give(descriptor: int, user: int, group: int) -> None:
        assert user == -1
        if group == 1:
            raise PermissionError(1, "not a member")
        given.append(group)

    monkeypatch.setattr(os, "fchown", give)
    for access, expected in (
        (Access(0o640, os.getgid()), 0o640),
        (Access(0o640, 1), 0o600),  # the group is another one, and cannot be given
        (Access(0o664, 1), 0o644),
        (Access(0o644, 1), 0o644),
        (Access(0o640, 2), 0o640),
    ):
        path.chmod(0o666)
        with path.open() as file:
            access.restrict(file.fileno())
        assert mode(path) == expected
    assert given == [2]


@pytest.mark.parametrize("umask", UMASKS)
def test_a_folder_limits_the_files_in_it(tmp_path: Path, umask: int) -> None:
    code = (
        "from godb_arrow.storage.folder import open_folder\n"
        "for path in sys.argv[1:]:\n"
        "    folder = open_folder(path).folder('inner')\n"
        "    folder.make()\n"
        "    with folder.replace('x') as stream: stream.write(b'x')\n"
    )
    limits = (0o700, 0o750, 0o755, 0o770)
    for limit in limits:
        (tmp_path / f"{limit:o}").mkdir()
        (tmp_path / f"{limit:o}").chmod(limit)
    run(umask, code, *(tmp_path / f"{limit:o}" for limit in limits))
    for limit in limits:
        root = tmp_path / f"{limit:o}"
        assert mode(root / "inner" / "x") == (0o666 & ~umask & limit) | 0o600 & ~umask
        assert mode(root / "inner") == 0o777 & ~umask & limit


def test_a_mode_that_cannot_be_changed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x").write_bytes(b"")
    (tmp_path / "x").chmod(0o644)

    def fail(*_: Any) -> None:
        raise PermissionError(1, "another user owns the file")

    monkeypatch.setattr(os, "fchmod", fail)
    open_folder(str(tmp_path)).restrict("x", Access(0o600))
    assert "keeps its mode" in caplog.text
