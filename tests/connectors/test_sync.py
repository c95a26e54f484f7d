"""Incremental copies: a target equals its source after each run, whatever was killed before."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lz4.block
import msgpack
import pytest
from click.testing import CliRunner
from support.processes import start
from support.settings import LONG

import godb_arrow
from godb_arrow import (
    DuplicateId,
    InvalidCursor,
    InvalidDocument,
    InvalidOption,
    StorageEngine,
    StorageError,
    TargetExists,
    WriteConflict,
    codec,
    open_godb,
)
from godb_arrow.cli import main
from godb_arrow.connectors.etl import copy
from godb_arrow.directory.synced_file import SyncedFile
from godb_arrow.snapshots.readable import snapshot_of

KILLS = 75 if LONG else 1
COPIER = """
import sys
from godb_arrow.connectors.etl import copy
print("ready", flush=True)
while True:
    copy(sys.argv[1], sys.argv[2], format=sys.argv[3] or None, mode="sync", progress=False)
"""


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


needs_sql = pytest.mark.skipif(not has("adbc_driver_sqlite"), reason="needs the driver of SQLite")
needs_delta = pytest.mark.skipif(not has("deltalake"), reason="needs deltalake")

Rows = dict[str, Any]


def in_engine(target: str) -> Rows:
    place, _, name = target.partition("#")
    with StorageEngine(place, read_only=True) as engine:
        return {document["_id"]: document for document in engine[name]}


def in_file(target: str) -> Rows:
    return {document["_id"]: document for document in open_godb(target)}


def in_log(target: str) -> Rows:
    """Return the documents after all changes of a log, each of which must fit."""
    rows: Rows = {}
    last = 0
    for line in Path(target).read_text().splitlines()[1:]:
        change = json.loads(line)
        if "token" in change:
            continue
        operation = change["operation"]
        if operation in ("drop", "reset"):
            rows.clear()
            continue
        assert change.get("sequence", last) >= last
        last = change.get("sequence", last)
        if not change.get("net"):
            assert (change["id"] in rows) == (operation != "insert"), change
        if operation == "delete":
            del rows[change["id"]]
        else:
            rows[change["id"]] = change["document"]
    return rows


def in_table(target: str) -> Rows:
    import sqlite3

    place, _, name = target.removeprefix("sqlite:///").partition("#")
    with sqlite3.connect(place) as connection:
        cursor = connection.execute(f'SELECT * FROM "{name}"')
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    connection.close()
    assert len({row["_id"] for row in rows}) == len(rows), "twice"
    return {row["_id"]: {k: v for k, v in row.items() if v is not None} for row in rows}


def in_delta(target: str) -> Rows:
    import deltalake

    rows = deltalake.DeltaTable(target).to_pyarrow_table().to_pylist()
    assert len({row["_id"] for row in rows}) == len(rows), "twice"
    return {row["_id"]: {k: v for k, v in row.items() if v is not None} for row in rows}


def in_folder(target: str) -> Rows:
    from godb_arrow.connectors.etl.partitions import open_parquet_folder

    rows = open_parquet_folder(target).to_table().to_pylist()
    assert len({row["_id"] for row in rows}) == len(rows), "twice"
    return {row["_id"]: {k: v for k, v in row.items() if v is not None} for row in rows}


TARGETS = [
    pytest.param("lake", "parquet", in_folder, id="parquet"),
    pytest.param("copy#people", None, in_engine, id="engine"),
    pytest.param("people.godb", None, in_file, id="godb"),
    pytest.param("users.ndjson", None, in_log, id="ndjson"),
    pytest.param("sqlite:///users.db#people", None, in_table, id="sqlite", marks=needs_sql),
    pytest.param("users-table", "delta", in_delta, id="delta", marks=needs_delta),
]


def change(users: Any, rng: random.Random) -> None:
    """Make some changes of all kinds."""
    for _ in range(rng.randrange(1, 8)):
        key, choice = str(rng.randrange(40)), rng.random()
        if choice < 0.4:
            users.upsert_many([{"_id": key, "n": rng.randrange(100), "t": "x"}])
        elif choice < 0.7 and key in users:
            users.delete(key)
        elif choice < 0.8:
            users.insert_many({"n": n, "t": "y"} for n in range(5))
        elif choice < 0.9:
            users.delete_many({"n": {"$gt": rng.randrange(5, 100)}})
        elif key in users:
            users.update(key, {"n": rng.randrange(100)})


def rows_of(users: Any) -> Rows:
    return {document["_id"]: document for document in users}


@pytest.mark.parametrize(("target", "format", "read"), TARGETS)
def test_only_changes_move(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    format: str | None,
    read: Callable[[str], Rows],
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(source: Any, **options: Any) -> Any:
        return copy(source, target, format=format, mode="sync", progress=False, **options)

    with StorageEngine("data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n, "t": "x"} for n in range(300))
        first = run(users)
        assert (first.documents, first.is_whole) == (300, True)
        assert read(target) == rows_of(users)
        users.update("3", {"n": -3})
        users.update("3", {"n": -4})
        users.insert({"_id": "new", "n": 1})
        users.delete("4")
        users.insert({"_id": "short", "n": 1})
        users.delete("short")
        engine.save()
        second = run("data#users")
        log = read is in_log
        assert (second.documents, second.is_whole) == (4 if log else 2, False)
        assert second.deleted == (1 if read in (in_engine, in_file) else 2)
        assert read(target) == rows_of(users)
        nothing = run(users)
        assert (nothing.documents, nothing.deleted, nothing.is_whole) == (0, 0, False)
        users.insert({"_id": "wide", "n": 2, "extra": 1.5})  # another column
        run(users)
        assert read(target) == rows_of(users)
        users.insert({"_id": "odd", "n": "text", "extra": 1.5})  # another type
        users.delete("odd")
        run(users)
        assert {key: row["_id"] for key, row in read(target).items()} == {
            key: key for key in rows_of(users)
        }
        engine.drop_collection("users")
        again = engine.create_collection("users")
        again.insert({"_id": "1", "n": 1, "t": "z"})
        run(again)
        assert read(target) == rows_of(again)


@pytest.mark.parametrize(("target", "format", "read"), TARGETS)
def test_a_lost_position_copies_all(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    format: str | None,
    read: Callable[[str], Rows],
) -> None:
    monkeypatch.chdir(tmp_path)
    with StorageEngine("data", keep_changes=0) as engine:
        users = engine.create_collection("users")
        for first in (0, 30):
            users.insert_many({"n": n, "t": "x"} for n in range(first, first + 30))
            users.delete(str(first + 1))
            engine.save()
            summary = copy(users, target, format=format, mode="sync", progress=False)
            assert summary.is_whole
            assert read(target) == rows_of(users)
            users.insert({"n": 5, "t": "x"})
            engine.save()


@pytest.mark.parametrize(("target", "format", "read"), TARGETS)
def test_a_killed_copy_continues(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    format: str | None,
    read: Callable[[str], Rows],
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = random.Random(5)
    with StorageEngine("data", part_size="64KiB", part_grace="1ms") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n, "t": "x"} for n in range(200))
        for kill in range(KILLS):
            process = start(COPIER, "data#users", target, format or "", stdout=-1)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            until = time.monotonic() + rng.uniform(0.05, 0.3)
            while time.monotonic() < until:
                change(users, rng)
                if rng.random() < 0.2:
                    engine.save()
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            if kill % 3 == 0:
                copy(users, target, format=format, mode="sync", progress=False)
                assert read(target) == rows_of(users), kill
        copy("data#users", target, format=format, mode="sync", progress=False)
        assert read(target) == rows_of(users)


@pytest.mark.parametrize(("target", "format", "read"), TARGETS)
def test_documents_of_others_are_not_replaced_silently(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    format: str | None,
    read: Callable[[str], Rows],
) -> None:
    monkeypatch.chdir(tmp_path)
    with StorageEngine("data") as engine:
        users = engine.create_collection("users")
        users.insert({"n": 1})
        copy([{"_id": "other", "n": 2}], target, format=format, progress=False)
        with pytest.raises(TargetExists):
            copy(users, target, format=format, mode="sync", progress=False)
        copy(users, target, format=format, mode="sync", if_exists="replace", progress=False)
        assert read(target) == rows_of(users)
        users.insert({"n": 2})
        copy(users, target, format=format, mode="sync", progress=False)
        assert read(target) == rows_of(users)
        others = engine.create_collection("others")
        others.insert({"_id": "o", "n": 3})
        with pytest.raises(InvalidCursor, match=r"of the collection 'users'.*if_exists"):
            copy(others, target, format=format, mode="sync", progress=False)
        assert read(target) == rows_of(users)
        arguments = ["--incremental", "--if-exists", "replace"]
        arguments += [] if format is None else ["--format", format]
        run = CliRunner().invoke(main, ["copy", "data#others", target, *arguments])
        assert run.exit_code == 0, run.output
        assert read(target) == rows_of(others)


@pytest.mark.parametrize("way", ["replace", "append"])
@pytest.mark.parametrize(("target", "format", "read"), TARGETS)
def test_an_ordinary_copy_ends_incremental_copies(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    format: str | None,
    read: Callable[[str], Rows],
    way: Any,
) -> None:
    if way == "append" and read is in_folder:
        return  # refused
    monkeypatch.chdir(tmp_path)
    with StorageEngine("data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n} for n in range(3))
        copy(users, target, format=format, mode="sync", progress=False)
        others = [{"_id": f"o{n}", "n": n} for n in range(3)]
        copy(others, target, format=format, if_exists=way, progress=False)
        users.update("1", {"n": 9})
        with pytest.raises(TargetExists, match="that no incremental copy wrote"):
            copy(users, target, format=format, mode="sync", progress=False)
        options: Any = {"format": format, "mode": "sync", "progress": False}
        copy(users, target, if_exists="replace", **options)
        assert read(target) == rows_of(users)
        users.delete("2")
        assert not copy(users, target, **options).is_whole
        assert read(target) == rows_of(users)


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize(("target", "format", "read"), TARGETS)
def test_a_removed_target_is_copied_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    format: str | None,
    read: Callable[[str], Rows],
    changes: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    with StorageEngine("data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n} for n in range(3))
        copy(users, target, format=format, mode="sync", progress=False)
        if read is in_engine:
            with StorageEngine("copy") as mirror:
                mirror.drop_collection("people")
        elif read is in_table:
            import sqlite3

            with sqlite3.connect("users.db") as connection:
                connection.execute("ALTER TABLE people RENAME TO former")
            connection.close()
        else:
            place = Path(target)
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        if changes:
            users.update("1", {"n": 9})
        assert copy(users, target, format=format, mode="sync", progress=False).is_whole
        assert read(target) == rows_of(users)


def test_a_target_that_another_program_changed_is_refused(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n} for n in range(3))
        target = f"{tmp_path / 'copy'}#people"
        copy(users, target, mode="sync", progress=False)
        with StorageEngine(tmp_path / "copy") as mirror:
            mirror.drop_collection("people")
            mirror.create_collection("people").insert({"n": 7})
        with pytest.raises(TargetExists, match="that no incremental copy wrote"):
            copy(users, target, mode="sync", progress=False)
        copy(users, target, mode="sync", if_exists="replace", progress=False)
        assert in_engine(target) == rows_of(users)


def test_a_failed_ordinary_copy_keeps_the_token(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n} for n in range(3))
        target = f"{tmp_path / 'copy'}#people"
        copy(users, target, mode="sync", progress=False)
        with pytest.raises(DuplicateId):
            copy([{"_id": "1"}], target, if_exists="append", progress=False)
        with pytest.raises(InvalidDocument):
            copy([{"_id": "1", "n": object()}], target, if_exists="replace", progress=False)
        users.delete("2")
        assert not copy(users, target, mode="sync", progress=False).is_whole
        assert in_engine(target) == rows_of(users)


@needs_delta
def test_a_table_of_delta_gets_a_token_with_every_copy(tmp_path: Path) -> None:
    import deltalake

    target = tmp_path / "table"
    options: Any = {"format": "delta", "mode": "sync", "progress": False}
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert({"_id": "1"})
        copy(users, target, **options)
        for _ in range(3):
            users.insert({"_id": "short"})
            users.delete("short")
            assert copy(users, target, **options).deleted == 1
        versions = deltalake.DeltaTable(target).version()
        copy(users, target, **options)
        assert deltalake.DeltaTable(target).version() == versions, "nothing changed"
        deltalake.DeltaTable(target).optimize.compact()
        deltalake.DeltaTable(target).vacuum()
        users.insert({"_id": "2"})
        assert not copy(users, target, **options).is_whole


@needs_delta
def test_errors_of_libraries_have_a_cause(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert({"a": 1})
        target = tmp_path / "table"
        copy(users, target, format="delta", mode="sync", progress=False)
        users.insert({"a": 1, "A": 2})
        with pytest.raises(StorageError, match="Duplicate field name") as caught:
            copy(users, target, format="delta", mode="sync", progress=False)
        assert caught.value.__cause__ is not None
        (log,) = (target / "_delta_log").glob("*.json")
        log.write_text("damaged")
        with pytest.raises(StorageError):
            copy(users, target, format="delta", mode="sync", progress=False)


def test_a_damaged_folder_of_parquet_is_reported(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert({"a": 1})
        target = tmp_path / "lake"
        copy(users, target, format="parquet", mode="sync", progress=False)
        (target / "_common_metadata").write_bytes(b"damaged")
        with pytest.raises(StorageError, match=r"cannot be read.*remove the folder"):
            copy(users, target, format="parquet", mode="sync", progress=False)


@pytest.mark.parametrize(
    "target", ["users.parquet", "users.arrow", "users.csv", "users.ndjson.gz", "-"]
)
def test_other_targets_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with StorageEngine("data") as engine:
        users = engine.create_collection("users")
        with pytest.raises(InvalidOption, match='does not support mode="sync"'):
            copy(users, target, mode="sync", progress=False)


def test_other_sources_and_options_are_refused(tmp_path: Path) -> None:
    target = f"{tmp_path}/copy#users"
    with pytest.raises(InvalidOption, match="has no changes to copy"):
        copy([{"n": 1}], target, mode="sync")
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        with pytest.raises(InvalidOption, match="whole documents"):
            copy(users, target, mode="sync", columns=["n"])
        with pytest.raises(InvalidOption, match="if_exists"):
            copy(users, target, mode="sync", if_exists="append")
        with pytest.raises(InvalidOption, match="mode is 'merge'"):
            copy(users, target, mode="merge")  # type: ignore[arg-type]
        with pytest.raises(InvalidOption, match="another collection"):
            copy(users, f"{tmp_path}/copy#godb_arrow_copies", mode="sync")


def test_the_command_copies_changes(tmp_path: Path) -> None:
    source, target = f"{tmp_path}/data#users", f"{tmp_path}/users.ndjson"
    for number in range(2):
        with StorageEngine(tmp_path / "data") as engine:
            users = engine["users"] if "users" in engine else engine.create_collection("users")
            users.insert({"n": number})
        run = CliRunner().invoke(main, ["copy", source, target, "--incremental"])
        assert run.exit_code == 0, run.output
        assert ("changed" in run.output) == bool(number)
    assert len(in_log(target)) == 2


def test_a_torn_log_is_repaired(tmp_path: Path) -> None:
    target = tmp_path / "users.ndjson"
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n} for n in range(3))
        copy(users, target, mode="sync", progress=False)
        good = target.read_bytes()
        users.delete("1")
        copy(users, target, mode="sync", progress=False)
        whole = target.read_bytes()
        for size in [*range(len(good), len(whole), 7), 0, 5, 60, len(good) - 5]:
            target.write_bytes(whole[:size])
            copy(users, target, mode="sync", progress=False)
            assert in_log(str(target)) == rows_of(users), size


def test_only_changed_partitions_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def files() -> dict[str, int]:
        return {str(path): path.stat().st_ino for path in Path("lake").rglob("*.parquet")}

    with StorageEngine("data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n, "city": f"c{n % 5}"} for n in range(50))
        copy(users, "lake", partition_by=["city"], mode="sync", progress=False)
        before = files()
        assert len(before) == 5
        users.update("1", {"n": -1})
        users.update("6", {"city": "c4"})
        copy(users, "lake", mode="sync", progress=False)
        kept = before.items() & files().items()
        assert {path.split("/")[1] for path, _ in kept} == {f"city=c{n}" for n in range(1, 5)}
        assert in_folder("lake") == rows_of(users)
        monkeypatch.setattr(os, "link", no_links)
        users.update("1", {"n": -2})
        assert copy(users, "lake", mode="sync", progress=False).documents == 1
        assert in_folder("lake") == rows_of(users)


def no_links(*_: Any) -> None:
    raise OSError("a file system without links")


@pytest.mark.parametrize("groups", range(4) if LONG else [0, 2])
def test_a_first_copy_that_ended_after_some_groups_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int
) -> None:
    from godb_arrow.codec import entries
    from godb_arrow.connectors.etl import sync, sync_targets

    class Killed(BaseException):
        pass

    put, left = sync_targets._EngineSync._put, groups

    def put_some(*arguments: Any, **options: Any) -> int:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        return put(*arguments, **options)

    monkeypatch.setattr(sync, "_IDS_AT_ONCE", 4)
    monkeypatch.setattr(entries, "CHUNK_BYTES", 56)  # four documents
    target = f"{tmp_path / 'copy'}#people"
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n} for n in range(12))
        for is_first in (True, False):
            left = groups
            with monkeypatch.context() as patched, suppress(Killed):
                patched.setattr(sync_targets._EngineSync, "_put", put_some)
                copy(users, target, mode="sync", progress=False)
            users.delete(str(1 + is_first))
            summary = copy(users, target, mode="sync", progress=False)
            assert summary.is_whole == (is_first and groups < 3)
            assert in_engine(target) == rows_of(users)
            users.update_many({}, {"$inc": {"n": 1}})


def raw_of(documents: Any) -> dict[str, bytes]:
    return {
        run.id(index): run.document(index)
        for run in documents.stored_entries()
        for index in range(len(run))
    }


def write_odd(path: Path) -> None:
    """Write documents that dicts do not have: short floats, long integers, lists as keys."""
    odd = [
        b"\x81\xa1f\xca\x3f\x80\x00\x00", b"\x81\xa1i\xcd\x00\x05", b"\x81\xa1e\xc7\x01\x07x",
        b"\x81\x91\x01\x02",
    ]  # fmt: skip
    write_entries(path, [codec.pack(f"odd{n}") + raw for n, raw in enumerate(odd)])


def write_entries(path: Path, entries: list[bytes]) -> None:
    """Write a file of another program."""
    body = b"\x81" + codec.pack("collections") + b"\x81" + codec.pack("users")
    body += bytes([0x80 + len(entries)]) + b"".join(entries)
    path.write_bytes(b"GODB\x01\x00\x00\x00" + lz4.block.compress(body, store_size=False))


@pytest.mark.parametrize("saved", [False, True])
def test_a_file_has_the_bytes_of_the_source(tmp_path: Path, saved: bool) -> None:
    rng, target = random.Random(3), tmp_path / "people.godb"
    write_odd(tmp_path / "odd.godb")
    with StorageEngine(tmp_path / "data", part_size="16KiB" if saved else "1MB") as engine:
        engine.load_collection_metadata(tmp_path / "odd.godb")
        users = engine["users"]
        users.insert_many({"m": n, "t": "x" * 50, f"f{n % 4}": n} for n in range(1200))
        for step in range(4):
            summary = copy(users, target, mode="sync", progress=False)
            assert summary.is_whole == (step == 0)
            assert raw_of(open_godb(target)) == raw_of(users), step
            assert raw_of(open_godb(target, use_hints=False)) == raw_of(users), step
            exact = godb_arrow.read_table(target, use_hints=False)
            table = godb_arrow.read_table(target).select(exact.column_names)
            assert table.sort_by("_id") == exact.sort_by("_id"), step
            assert godb_arrow.verify_godb(target).problems == []
            for _ in range(3):
                change(users, rng)
            users.delete_many({"_id": [str(n + 1) for n in range(step, 1200, 4)]})  # one field
            if saved:
                engine.save()
                engine.compact()


def test_a_file_keeps_its_other_content(tmp_path: Path) -> None:
    target = tmp_path / "shop.godb"
    godb_arrow.write_godb([{"total": n} for n in range(3)], target, "orders", compression="zstd")
    options: Any = {"mode": "sync", "progress": False}
    with StorageEngine(tmp_path / "data") as engine:
        users, people = (engine.create_collection(name) for name in ("users", "people"))
        for collection in (users, people):
            collection.insert_many({"n": n} for n in range(5))
        for step in range(3):
            assert copy(users, f"{target}#users", **options).is_whole == (not step)
            assert copy(people, f"{target}#people", **options).is_whole == (not step)
            assert len(open_godb(target, "orders")) == 3
            for collection in (users, people):
                found = {row["_id"]: row for row in open_godb(target, collection.name)}
                assert found == rows_of(collection)
                collection.update("1", {"n": 9 + step})
                collection.insert({"n": step})
        godb_arrow.write_godb([{"total": 4}], target, "orders", if_exists="append")
        assert not copy(users, f"{target}#users", **options).is_whole
        before = target.read_bytes()
        engine["people"].insert({"n": 0})
        assert copy(users, f"{target}#users", **options).documents == 0
        assert target.read_bytes() == before, "no change writes no file"
        godb_arrow.write_godb([{"n": 4}], target, "users", if_exists="append")
        with pytest.raises(TargetExists, match="that no incremental copy wrote"):
            copy(users, f"{target}#users", **options)
        assert not copy(people, f"{target}#people", **options).is_whole


def test_a_file_keeps_its_indexes_and_deleted_ids(tmp_path: Path) -> None:
    target = tmp_path / "mirror" / "collections" / "people.godb"
    with StorageEngine(tmp_path / "mirror") as mirror:
        people = mirror.create_collection("people")
        people.create_index("n", unique=True)
        people.create_index("t")
        people.insert({"n": 1, "t": "y"})
        before = people.list_indexes()
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n, "t": "x"} for n in range(20))
        options: Any = {"mode": "sync", "progress": False}
        assert copy(users, target, if_exists="replace", **options).is_whole
        users.delete("20")
        users.update("1", {"n": 30})
        assert not copy(users, target, **options).is_whole
        with StorageEngine(tmp_path / "mirror", read_only=True) as mirror:
            assert mirror["people"].list_indexes() == before
            assert rows_of(mirror["people"]) == rows_of(users)
            assert mirror["people"].find({"n": 30}) == [users.get("1")]
        raw = target.read_bytes()
        body = lz4.block.decompress(raw[8:], uncompressed_size=1 << 20)
        ids = [str(n) for n in range(1, 20)]
        indexes = msgpack.unpackb(body)["indexes"]["people"]
        assert {name: sorted(found, key=int) for name, found in indexes.items()} == {
            "n": ids, "t": ids,
        }  # fmt: skip
        godb_arrow.write_godb([{"n": 31}], target, "people", if_exists="append")
        assert set(in_file(f"{target}#people")) == {*ids, "21"}


def test_a_file_of_another_program_keeps_its_metadata(tmp_path: Path) -> None:
    target = tmp_path / "people.godb"
    top = {"zebra": [1], "metadata": {"by": "go"}, "collections": {"people": {}}}
    packed = msgpack.packb(top)
    target.write_bytes(b"GODB\x01\x00\x00\x00" + lz4.block.compress(packed, store_size=False))
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        options: Any = {"mode": "sync", "progress": False}
        for step in range(3):
            users.insert({"n": step})
            assert copy(users, target, if_exists="replace", **options).is_whole == (not step)
            body = lz4.block.decompress(target.read_bytes()[8:], uncompressed_size=1 << 20)
            kept = msgpack.unpackb(body)
            assert (kept["zebra"], kept["metadata"]["by"]) == ([1], "go")
            assert len(kept["collections"]["people"]) == step + 1


def test_a_file_on_an_object_store_is_not_replaced_twice(tmp_path: Path) -> None:
    target = "memory://sync-twice/people.godb"
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert({"n": 1})
        snapshot = users.snapshot()
        for _ in range(2):  # of a new file, and of an existing one
            first, second = (SyncedFile(target, "people") for _ in range(2))
            first.replace(snapshot_of(snapshot), snapshot.token or "")
            with pytest.raises(WriteConflict):
                second.replace(snapshot_of(snapshot), snapshot.token or "")


def test_too_many_changes_for_memory_copy_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godb_arrow.directory import synced_file

    monkeypatch.setattr(synced_file, "_MAX_CHANGED_BYTES", 1000)
    target = tmp_path / "people.godb"
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n, "t": "x" * 100} for n in range(50))
        for changed, is_whole in ((0, True), (3, False), (30, True)):
            users.update_many({"n": {"$lt": changed}}, {"$set": {"t": "y" * 100}})
            assert copy(users, target, mode="sync", progress=False).is_whole == is_whole
            assert raw_of(open_godb(target)) == raw_of(users)


def test_a_share_of_changes_copies_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from godb_arrow.connectors.etl import sync_targets

    monkeypatch.setattr(sync_targets, "_FEW_CHANGES", 1)
    target = tmp_path / "people.godb"
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n} for n in range(300))
        for changed, is_whole in ((0, True), (3, False), (4, True)):
            users.update_many({"n": {"$lt": changed}}, {"$set": {"t": f"{changed} changed"}})
            assert copy(users, target, mode="sync", progress=False).is_whole == is_whole
            assert raw_of(open_godb(target)) == raw_of(users)


def test_a_file_on_an_object_store(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        for step in range(3):
            users.insert_many({"n": n} for n in range(5))
            summary = copy(users, "memory://sync/people.godb", mode="sync", progress=False)
            assert summary.is_whole == (not step)
            assert in_file("memory://sync/people.godb") == rows_of(users)


@pytest.mark.parametrize("saved", [False, True])
def test_large_documents_are_copied_to_a_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """All of them are more than the memory of the target."""
    from godb_arrow.connectors.etl import sync_targets

    small = functools.partial(StorageEngine, max_memory="8MB")
    monkeypatch.setattr(sync_targets, "StorageEngine", small)
    monkeypatch.setattr(sync_targets, "_TRANSACTION_BYTES", 1 << 20)
    target = f"{tmp_path / 'copy'}#people"
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n, "b": bytes(100_000)} for n in range(120))
        for step in range(2):
            if saved:
                engine.save()
            summary = copy(users, target, mode="sync", progress=False)
            assert (summary.documents, summary.is_whole) == (120 - step, not step)
            assert in_engine(target) == rows_of(users)
            users.update_many({}, {"$inc": {"n": 1}})
            users.delete(str(7 + step))


def test_repeated_ids_of_a_file_are_copied_to_a_data_directory(tmp_path: Path) -> None:
    entries = [codec.pack(key) + codec.pack({"n": n}) for n, key in enumerate("abac")]
    write_entries(tmp_path / "odd.godb", entries)
    target = f"{tmp_path / 'copy'}#people"
    with StorageEngine(tmp_path / "data") as engine:
        engine.load_collection_metadata(tmp_path / "odd.godb")
        users = engine["users"]
        for step in range(3):
            assert copy(users, target, mode="sync", progress=False).is_whole == (not step)
            assert in_engine(target) == rows_of(users)
            users.insert({"n": step})


@pytest.mark.parametrize("saved", [False, True])
def test_a_data_directory_has_the_bytes_of_the_source(tmp_path: Path, saved: bool) -> None:
    write_odd(tmp_path / "odd.godb")
    target = f"{tmp_path / 'copy'}#people"
    with StorageEngine(tmp_path / "data") as engine:
        engine.load_collection_metadata(tmp_path / "odd.godb")
        users = engine["users"]
        for step in range(3):
            users.insert({"_id": str(step), "n": step})
            if saved:
                engine.save()
            assert copy(users, target, mode="sync", progress=False).is_whole == (not step)
            with StorageEngine(tmp_path / "copy", read_only=True) as mirror:
                assert raw_of(mirror["people"]) == raw_of(users)
        copy(users, f"{tmp_path / 'copy'}#people", if_exists="upsert", progress=False)
        with StorageEngine(tmp_path / "copy", read_only=True) as mirror:
            assert raw_of(mirror["people"]) == raw_of(users)
