"""Old backups are deleted; what stays is whole, whatever is killed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.disks import FaultyDisk, using

import godb_arrow
from godb_arrow import (
    InvalidOption,
    StorageEngine,
    VersionNotFound,
    WriteConflict,
    delete_backups,
    list_backups,
)
from godb_arrow.replication import backup as backups


def numbers(place: Path) -> list[int]:
    return [info.number for info in list_backups(place)]


def files(place: Path) -> set[str]:
    return {path.name for path in (place / "files").rglob("*") if path.is_file()}


def backed_up(tmp_path: Path, times: int) -> Path:
    place = tmp_path / "backups"
    with StorageEngine(tmp_path / "data", part_size="64KiB", part_grace="1ms") as engine:
        events = engine.create_collection("events")
        engine.create_collection("users").insert({"n": 1})
        for first in range(times):
            events.insert_many({"n": first * 1000 + n, "t": "x" * 50} for n in range(1000))
            engine.compact()
            engine.backup(place)
    return place


def test_a_backup_keeps_the_last_ones(tmp_path: Path) -> None:
    place = backed_up(tmp_path, 4)
    before = files(place)
    with StorageEngine(tmp_path / "data") as engine:
        engine.insert("users", {"n": 2})
        info = engine.backup(place, keep=2)
    assert numbers(place) == [4, info.number] == [4, 5]
    assert before - files(place), "files of older backups only"
    assert not godb_arrow.verify_godb(place).problems
    for number in (4, 5):
        godb_arrow.restore_backup(place, tmp_path / str(number), number)
        with StorageEngine(tmp_path / str(number)) as restored:
            assert (len(restored["events"]), len(restored["users"])) == (4000, number - 3)
    named = {file.digest for file in backups.BackupPlace(str(place)).read(4).files}
    named |= {file.digest for file in backups.BackupPlace(str(place)).read(5).files}
    assert files(place) == named


def test_chosen_backups_are_deleted(tmp_path: Path) -> None:
    place = backed_up(tmp_path, 3)
    assert delete_backups(place, [2, 2]) == [2]
    assert numbers(place) == [1, 3]
    assert delete_backups(place, keep=5) == []
    with pytest.raises(VersionNotFound, match="no backup 7"):
        delete_backups(place, [1, 7])
    assert numbers(place) == [1, 3]
    assert not godb_arrow.verify_godb(place).problems


@pytest.mark.parametrize(
    ("chosen", "keep"), [(None, None), ([1], 1), (None, 0), (None, True), (None, -1)]
)
def test_the_choice_must_be_clear(
    tmp_path: Path, chosen: Sequence[int] | None, keep: int | None
) -> None:
    with pytest.raises(InvalidOption):
        delete_backups(tmp_path, chosen, keep=keep)


def test_a_failed_deletion_leaves_whole_backups(tmp_path: Path) -> None:
    place = backed_up(tmp_path, 3)
    for fails in range(60):
        with using(FaultyDisk(fails)):
            try:
                delete_backups(place, keep=1)
                done = True
            except godb_arrow.GodbError:
                done = False
        assert not godb_arrow.verify_godb(place).problems
        if done:
            break
    assert numbers(place) == [3]


def test_a_backup_notices_that_its_files_were_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = backed_up(tmp_path, 1)
    digest = backups._digest

    def deleting(source: backups._StoredSource) -> str:
        for path in (place / "files").rglob("*"):
            if path.is_file():
                path.unlink()
        return digest(source)

    monkeypatch.setattr(backups, "_digest", deleting)
    with StorageEngine(tmp_path / "data") as engine:
        engine.insert("users", {"n": 2})
        with pytest.raises(WriteConflict, match="back up again"):
            engine.backup(place)
    assert numbers(place) == [1]


def test_the_command_keeps_the_last_ones(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from godb_arrow.cli import main

    place = backed_up(tmp_path, 2)
    run = CliRunner().invoke(main, ["backup", str(tmp_path / "data"), str(place), "--keep", "1"])
    assert run.exit_code == 0, run.output
    assert numbers(place) == [3]
