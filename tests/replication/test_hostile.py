"""Sealed backups that lie: restoring opens and writes nothing outside of the folders given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import forge
from support.processes import run_python

import godb_arrow
from godb_arrow import GodbError, restore_backup

CONTENT = forge.godb_file(forge.collection("users", [{"n": 1}]))


def place(folder: Path, name: str = "users.godb", **fields: Any) -> Path:
    """Make a backup of one file."""
    file = forge.BackupFile(name, CONTENT, fields)
    return forge.write_tree(folder / "backup", forge.backup([file], {"users": 1}))


def refusal(folder: Path, source: Path) -> GodbError:
    with pytest.raises(GodbError) as caught:
        restore_backup(source, folder / "restored")
    assert not (folder / "restored").exists()
    return caught.value


@pytest.mark.parametrize("digest", ["{folder}/{name}", "../../../../../../../..{folder}/{name}"])
def test_a_digest_does_not_lead_out_of_the_backup(tmp_path: Path, digest: str) -> None:
    (tmp_path / "private").write_bytes(b"secret")
    errors = []
    for name in ("private", "absent"):
        source = place(tmp_path / name[:1], digest=digest.format(folder=tmp_path, name=name))
        errors.append(refusal(tmp_path, source))
    assert type(errors[0]) is type(errors[1]) is godb_arrow.CorruptFile, "not opened at all"


def test_a_device_is_not_copied(tmp_path: Path) -> None:
    code = """
import resource, signal, sys, godb_arrow
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 20, 16 << 20))
try:
    godb_arrow.restore_backup(*sys.argv[1:])
except godb_arrow.CorruptFile:
    print("refused")
"""
    done = run_python(code, place(tmp_path, digest="/dev/zero"), tmp_path / "restored")
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1, 0, -1])
def test_a_file_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    assert isinstance(refusal(tmp_path, place(tmp_path, size=size)), godb_arrow.CorruptFile)


@pytest.mark.parametrize("name", ["../users.godb", "/users.godb", "a//b.godb", "", "."])
def test_a_name_does_not_lead_out_of_the_data_directory(tmp_path: Path, name: str) -> None:
    assert isinstance(refusal(tmp_path, place(tmp_path, name)), godb_arrow.CorruptFile)


def test_other_content_under_a_digest_is_refused(tmp_path: Path) -> None:
    file = forge.BackupFile("users.godb", CONTENT, stored=CONTENT[:-1] + b"\x00")
    source = forge.write_tree(tmp_path / "backup", forge.backup([file], {"users": 1}))
    assert isinstance(refusal(tmp_path, source), godb_arrow.ChecksumMismatch)
