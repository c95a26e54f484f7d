"""Copies between places of all kinds: complete, exact, atomic, and run again after a kill."""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import msgpack
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.processes import running, start
from support.settings import LONG

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.connectors.etl import files
from godb_arrow.connectors.etl.directories import EngineTarget
from godb_arrow.connectors.etl.pipeline import CopySummary
from godb_arrow.connectors.etl.pipeline import copy as copy_with_progress

DAY = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
DOCUMENTS: list[dict[str, Any]] = [
    {"_id": "a", "name": "Ada", "age": 36, "at": DAY, "tags": ["x", "y"], "geo": {"cc": "GB"}},
    {"_id": "b", "name": "Bob", "age": None, "mixed": 1, "raw": b"\0\1"},
    {"_id": "c", "name": "Cy", "mixed": "two", "score": 0.5, "ok": True},
]


def copy(source: Any, target: Any, **options: Any) -> CopySummary:
    return copy_with_progress(source, target, progress=False, **options)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.godb"
    godb_arrow.write_godb(DOCUMENTS, path, "people")
    return path


@pytest.mark.parametrize("extension", ["godb", "ndjson", "bson"])
def test_documents_stay_as_they_are(people: Path, tmp_path: Path, extension: str) -> None:
    if extension == "bson":
        pytest.importorskip("bson")
    target = tmp_path / f"copy.{extension}"
    summary = copy(people, target)
    assert summary.documents == 3
    assert summary.bytes == target.stat().st_size
    assert summary.conflicts == ["mixed"]
    copy(target, tmp_path / "back.godb#people")
    assert list(godb_arrow.read_documents(tmp_path / "back.godb")) == DOCUMENTS


@pytest.mark.parametrize("extension", ["parquet", "arrow", "csv"])
def test_columns_there_and_back(people: Path, tmp_path: Path, extension: str) -> None:
    target = tmp_path / f"copy.{extension}"
    columns = ["_id", "name", "age", "score", "ok"]
    assert copy(people, target, columns=columns).documents == 3
    copy(target, tmp_path / "back.godb")
    before, after = godb_arrow.read_table(people), godb_arrow.read_table(tmp_path / "back.godb")
    assert after.select(columns).equals(before.select(columns))
    whole = copy(people, tmp_path / f"whole.{extension}")
    assert whole.documents == 3


def test_filter_and_columns_mean_the_same_everywhere(people: Path, tmp_path: Path) -> None:
    for kind in ("parquet", "ndjson", "csv"):
        copy(people, tmp_path / f"all.{kind}", columns=["_id", "name", "age"])
        there = tmp_path / f"all.{kind}"
        target = tmp_path / f"{kind}.godb"
        assert copy(there, target, filter={"name": "Ada"}, columns=["name"]).documents == 1
        assert godb_arrow.read_table(target).column("name").to_pylist() == ["Ada"]
        assert copy(there, target, filter=pc.field("age") > 40, if_exists="replace").documents == 0
    assert copy(people, tmp_path / "f.ndjson", filter={"_id": ["a", "c"]}).documents == 2
    assert copy(people, tmp_path / "f.godb", filter={"mixed": 1}).documents == 1
    assert next(godb_arrow.read_documents(tmp_path / "f.godb")) == DOCUMENTS[1]


@pytest.mark.parametrize("extension", ["godb", "ndjson", "parquet", "arrow", "csv"])
def test_modes_of_files(people: Path, tmp_path: Path, extension: str) -> None:
    target = tmp_path / f"m.{extension}"
    columns = ["name", "age"]
    names = lambda: read_names(target)  # noqa: E731
    copy(people, target, columns=columns)
    before = target.read_bytes()
    with pytest.raises(godb_arrow.TargetExists):
        copy(people, target, columns=columns)
    assert target.read_bytes() == before
    assert copy(people, target, columns=columns, if_exists="append").documents == 3
    assert names() == ["Ada", "Bob", "Cy"] * 2
    assert copy(people, target, columns=columns, if_exists="replace").documents == 3
    assert names() == ["Ada", "Bob", "Cy"]
    if extension != "godb":
        with pytest.raises(godb_arrow.InvalidOption, match="upsert"):
            copy(people, target, if_exists="upsert")
    assert names() == ["Ada", "Bob", "Cy"]


def read_names(path: Path) -> list[str]:
    if path.suffix == ".godb":
        return godb_arrow.read_table(path).column("name").to_pylist()  # type: ignore[no-any-return]
    with files.open_file(path) as data:
        if isinstance(data, pa.RecordBatchReader):
            return data.read_all().column("name").to_pylist()  # type: ignore[no-any-return]
        return [one["name"] for one in data]


def test_columns_that_do_not_fit_those_there_change_nothing(people: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.parquet"
    copy(people, target, columns=["age"])
    before = target.read_bytes()
    with pytest.raises(godb_arrow.UnsupportedType, match="new columns are"):
        copy(people, target, columns=["name"], if_exists="append")
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people.godb", "t.parquet"]


def test_collections_of_files_and_directories(people: Path, tmp_path: Path) -> None:
    shop = tmp_path / "shop.godb"
    copy(people, f"{shop}#one")
    copy(people, f"{shop}#two")
    assert godb_arrow.list_collections(shop) == {"one": 3, "two": 3}
    with pytest.raises(godb_arrow.CollectionRequired):
        copy(shop, tmp_path / "x.ndjson")
    assert copy(f"{shop}#two", tmp_path / "x.ndjson").documents == 3
    changed = [{"_id": "a", "name": "Ann"}, {"_id": "d", "name": "Di"}]
    assert copy(changed, f"{shop}#one", if_exists="upsert").documents == 2
    assert godb_arrow.read_document(shop, "a", "one") == changed[0]
    assert godb_arrow.list_collections(shop) == {"one": 4, "two": 3}
    data = tmp_path / "data"
    StorageEngine(data).close()
    assert copy(f"{shop}#one", f"{data}#users").documents == 4
    with pytest.raises(godb_arrow.TargetExists):
        copy(people, f"{data}#users")
    assert copy(people, f"{data}#users", if_exists="upsert").documents == 3
    assert copy(people, f"{data}#more", if_exists="append").documents == 3
    assert copy([{"name": "Eve"}], f"{data}#more", if_exists="append").documents == 1
    with StorageEngine(data) as engine:
        assert engine.get("users", "a") == DOCUMENTS[0]
        assert engine.count("users") == 4
        assert engine.count("more") == 4
        users = engine["users"]
        assert copy(users, tmp_path / "u.parquet", columns=["name"]).documents == 4
    assert copy(people, f"{data}#users", if_exists="replace").documents == 3
    assert copy(f"{data}#users", tmp_path / "u.ndjson").documents == 3
    assert not [name for name in os.listdir(data) if "copy" in name or ".godb-arrow" in name]


def test_a_collection_that_is_overwritten_keeps_its_mode(people: Path, tmp_path: Path) -> None:
    stored = tmp_path / "data" / "collections" / "users.godb"
    copy(people, f"{tmp_path / 'data'}#users", format="engine")
    stored.chmod(0o600)
    copy(people, f"{tmp_path / 'data'}#users", if_exists="replace")
    assert stored.stat().st_mode & 0o777 == 0o600


def test_frames_tables_and_streams_are_sources(tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": [1, 2, 3]})
    assert copy(frame, tmp_path / "a.parquet", filter=pc.field("n") > 1).documents == 2
    assert copy(pa.table(frame), tmp_path / "b.godb").documents == 3
    assert copy(pa.table(frame).to_reader(), tmp_path / "c.csv", batch_size=1).documents == 3
    assert copy([{"n": 1}], tmp_path / "d.arrow").documents == 1
    assert pq.read_table(tmp_path / "a.parquet").column("n").to_pylist() == [2, 3]


def test_a_partitioned_dataset(people: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    assert copy(people, lake, columns=["name", "age", "_id"], partition_by=["name"]).documents == 3
    assert sorted(path.name for path in lake.iterdir()) == [
        "_common_metadata", "name=Ada", "name=Bob", "name=Cy",
    ]  # fmt: skip
    found = ds.dataset(lake, partitioning="hive").to_table(filter=ds.field("name") == "Ada")
    assert found.column("age").to_pylist() == [36]
    back = copy(lake, tmp_path / "back.godb", filter={"name": ["Ada", "Cy"]})
    assert back.documents == 2
    with pytest.raises(godb_arrow.TargetExists):
        copy(people, lake, partition_by=["name"])
    with pytest.raises(godb_arrow.InvalidOption, match="Delta"):
        copy(people, lake, if_exists="append")
    left = tmp_path / ".godb-arrow-lake-of-a-killed-copy"
    left.mkdir()
    assert copy(people, lake, if_exists="replace", columns=["name"]).documents == 3
    assert [path.suffix for path in lake.iterdir()] == [".parquet"]
    assert not left.exists()
    with pytest.raises(godb_arrow.FieldNotFound):
        copy(people, lake, partition_by=["nothing"], if_exists="replace")
    assert ds.dataset(lake).count_rows() == 3


def test_delta(people: Path, tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    table = tmp_path / "table"
    assert copy(people, table, format="delta").documents == 3
    with pytest.raises(godb_arrow.TargetExists):
        copy(people, table)
    assert copy(people, table, if_exists="append", filter={"name": "Ada"}).documents == 1
    assert deltalake.DeltaTable(table).version() == 1
    back = copy(table, tmp_path / "back.godb", filter={"name": "Ada"}, columns=["name", "age"])
    assert back.documents == 2
    assert copy(people, table, if_exists="replace", columns=["_id", "name"]).documents == 3
    changed = [{"_id": "a", "name": "Ann"}, {"_id": "z", "name": "Zoe"}]
    assert copy(changed, table, if_exists="upsert", columns=["_id", "name"]).documents == 2
    copy(table, tmp_path / "now.godb")
    names = {one["_id"]: one["name"] for one in godb_arrow.read_documents(tmp_path / "now.godb")}
    assert names == {"a": "Ann", "b": "Bob", "c": "Cy", "z": "Zoe"}


def test_a_database(people: Path, tmp_path: Path) -> None:
    pytest.importorskip("adbc_driver_sqlite")
    table = f"sqlite:///{tmp_path}/shop.db#the people"
    assert copy(people, table).documents == 3
    with pytest.raises(godb_arrow.TargetExists):
        copy(people, table)
    assert copy(people, table, if_exists="append").documents == 3
    changed = [{"_id": "a", "name": "Ann", "age": 37}, {"_id": "z", "name": "Zoe", "age": 1}]
    columns = ["_id", "name", "age"]
    assert copy(changed, table, if_exists="upsert", columns=columns).documents == 2
    back = tmp_path / "back.ndjson"
    copy(table, back, columns=["name", "age"])
    with files.open_file(back) as documents:
        rows = sorted((one["name"], one["age"]) for one in documents if one["age"] is not None)
    assert rows == [("Ann", 37), ("Zoe", 1)]
    assert copy(people, table, if_exists="replace").documents == 3
    assert copy(table, tmp_path / "b.godb", filter={"name": "Bob"}).documents == 1
    assert next(godb_arrow.read_documents(tmp_path / "b.godb"))["raw"] == b"\0\1"
    with pytest.raises(godb_arrow.GodbError, match="refused"):
        copy(f"sqlite:///{tmp_path}/shop.db#nothing", tmp_path / "x.godb")
    with pytest.raises(godb_arrow.CollectionRequired):
        copy(f"sqlite:///{tmp_path}/shop.db", tmp_path / "x.godb")


def test_a_dump_of_mongodb(tmp_path: Path) -> None:
    bson = pytest.importorskip("bson")
    identity, unique = bson.ObjectId(), uuid.uuid4()
    found = [
        {
            "_id": identity, "price": bson.Decimal128("1.10"), "at": DAY.replace(tzinfo=None),
            "who": bson.Binary.from_uuid(unique), "n": bson.Int64(2**40), "raw": b"x",
            "re": bson.Regex("^a"), "code": bson.Code("f()"), "deep": [{"id": identity}],
            "ts": bson.Timestamp(1, 2), "least": bson.MinKey(), "far": bson.DatetimeMS(10**15),
        },
        {"_id": 7, "price": None},
    ]  # fmt: skip
    dump = tmp_path / "orders.bson"
    dump.write_bytes(b"".join(bson.encode(one) for one in found))
    assert copy(dump, tmp_path / "orders.godb").documents == 2
    first, second = godb_arrow.read_documents(tmp_path / "orders.godb")
    assert first == {
        "_id": str(identity), "price": "1.10", "at": DAY, "who": str(unique), "n": 2**40,
        "raw": b"x", "re": {"$regex": "^a"}, "code": {"$code": "f()"},
        "deep": [{"id": str(identity)}], "ts": {"$timestamp": {"t": 1, "i": 2}},
        "least": {"$minkey": 1}, "far": msgpack.Timestamp(10**12, 0),
    }  # fmt: skip
    assert second == {"_id": "7", "price": None}
    dump.write_bytes(dump.read_bytes()[:-3])
    with pytest.raises(godb_arrow.InvalidDocument, match="document 2"):
        copy(dump, tmp_path / "orders.godb", if_exists="replace")
    dump.write_bytes(b"\xff" * 100)
    with pytest.raises(godb_arrow.InvalidDocument, match="document 1"):
        copy(dump, tmp_path / "orders.godb", if_exists="replace")
    assert godb_arrow.list_collections(tmp_path / "orders.godb") == {"orders": 2}
    with pytest.raises(godb_arrow.InvalidDocument, match="cannot be stored as BSON"):
        copy([{"_id": "x", "n": 2**63}], tmp_path / "x.bson")
    assert not (tmp_path / "x.bson").exists()


def test_urls(people: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    assert copy(people, "memory://etl/a.parquet", columns=["name"]).documents == 3
    assert copy("memory://etl/a.parquet", "memory://etl/b.godb").documents == 3
    with pytest.raises(godb_arrow.TargetExists):
        copy(people, "memory://etl/a.parquet")
    appended = copy(
        "memory://etl/b.godb", "memory://etl/a.parquet", columns=["name"], if_exists="append"
    )
    assert appended.documents == 3
    assert memory.exists("/etl/b.godb")
    memory.rm("/etl", recursive=True)


def test_what_is_wrong_is_said(people: Path, tmp_path: Path) -> None:
    with pytest.raises(godb_arrow.SourceNotFound):
        copy(tmp_path / "none.godb", tmp_path / "x.csv")
    with pytest.raises(godb_arrow.SourceNotFound):
        copy(tmp_path / "none.ndjson", tmp_path / "x.csv")
    with pytest.raises(godb_arrow.InvalidOption, match="no extension"):
        copy(people, tmp_path / "x.unknown")
    with pytest.raises(godb_arrow.InvalidOption, match="if_exists"):
        copy(people, tmp_path / "x.csv", if_exists="x")
    with pytest.raises(godb_arrow.FieldNotFound):
        copy(people, tmp_path / "x.csv", columns=["nothing"])
    assert [path.name for path in tmp_path.iterdir()] == ["people.godb"]


def test_the_summary_is_logged(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "godb_arrow"):
        summary = copy(people, tmp_path / "x.ndjson")
    (line,) = (one.getMessage() for one in caplog.records if "copied" in one.getMessage())
    assert "3 documents" in line
    assert "mixed types in mixed" in line
    assert summary.rate > 0


CODE = """
import sys
import pyarrow as pa
from godb_arrow import GodbError
from godb_arrow.connectors.etl.pipeline import copy

def batches():
    for part in range(200):
        if part == 100:
            print("half", flush=True)
            sys.stdin.readline()
        yield pa.record_batch({"_id": [f"{part}-{n}" for n in range(500)], "n": list(range(500))})

schema = pa.schema({"_id": pa.string(), "n": pa.int64()})
reader = pa.RecordBatchReader.from_batches(schema, batches())
try:
    print(copy(reader, sys.argv[1], if_exists=sys.argv[2], progress=False,
               **({"format": sys.argv[3]} if len(sys.argv) > 3 else {})).documents)
except GodbError as error:
    print(type(error).__name__)
"""


COPIES = [
    ("t.godb", "append", ""),
    ("t.godb", "upsert", ""),
    ("t.parquet", "append", ""),
    ("lake", "replace", "parquet"),
    ("t.ndjson", "replace", ""),
    ("sqlite:///t.db#t", "append", ""),
    ("sqlite:///t.db#t", "upsert", ""),
    ("delta", "append", "delta"),
]  # target, if_exists and format


@pytest.mark.parametrize(("target", "if_exists", "format"), COPIES if LONG else COPIES[1::2])
def test_a_killed_copy_is_run_again(
    tmp_path: Path, target: str, if_exists: str, format: str
) -> None:
    for name, needed in (("sqlite", "adbc_driver_sqlite"), ("delta", "deltalake")):
        if name in target:
            pytest.importorskip(needed)
    words = [CODE, target, if_exists, *([format] if format else [])]
    run = lambda: start(  # noqa: E731
        *words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    there = ["first", "0-0"] if if_exists == "upsert" else ["first"]
    before = pa.table({"_id": there, "n": list(range(len(there)))})
    where = target if "://" not in target else f"sqlite:///{tmp_path}/t.db#t"
    where = where if "://" in where else str(tmp_path / where)
    copy(before, where, **({"format": format} if format else {}))
    with run() as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "half\n"
        time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
    assert ids_in(where, tmp_path) == sorted(there), "nothing of the killed copy"
    with run() as done:
        out, _ = done.communicate("\n")
    assert out.split() == ["half", "100000"]
    found = ids_in(where, tmp_path)
    assert len(set(found)) == len(found) == (100_000 if if_exists == "replace" else 100_001)
    if target == "lake":
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".godb-arrow")]


SMALL = CODE.replace("range(500)", "range(5)")


@pytest.mark.parametrize("extension", ["godb", "ndjson", "bson", "csv", "parquet", "arrow"])
@pytest.mark.parametrize(
    "there", [True, False] if LONG else [True], ids=lambda there: "existing" if there else "new"
)
def test_two_copies_append_to_one_file(tmp_path: Path, extension: str, there: bool) -> None:
    if extension == "bson":
        pytest.importorskip("bson")
    target = tmp_path / f"t.{extension}"
    if there:
        copy(pa.table({"_id": ["first"], "n": [0]}), target)
    with running(SMALL, target, "append") as slow:
        slow.waits("half")
        copy(pa.table({"_id": ["fast"], "n": [1]}), target, if_exists="append")
        slow.let_go()
        assert slow.ends() == "1000"
    found = ids_in(str(target), tmp_path)
    assert len({*found}) == len(found) == 1001 + there
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".godb-arrow")]


@pytest.mark.parametrize("target", ["t.godb", "t.ndjson", "t.parquet", "lake"])
def test_of_two_copies_that_create_a_target_one_is_told(tmp_path: Path, target: str) -> None:
    place, format = tmp_path / target, ["parquet"] if target == "lake" else []
    with running(SMALL, place, "error", *format) as slow:
        slow.waits("half")
        options: dict[str, Any] = {"format": "parquet"} if format else {}
        copy(pa.table({"_id": ["fast"]}), place, **options)
        slow.let_go()
        assert slow.ends() == "TargetExists"
    assert ids_in(str(place), tmp_path) == ["fast"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".godb-arrow")]


def test_a_collection_that_is_there_is_not_replaced_unasked(people: Path, tmp_path: Path) -> None:
    """Another copy may create it after the first look."""
    StorageEngine(tmp_path / "data").close()
    copy(people, f"{tmp_path}/data#c")
    target = EngineTarget("data#c", f"{tmp_path}/data", "c", None)
    with pytest.raises(godb_arrow.TargetExists):
        target.write(iter([{"_id": "x"}]), "error")
    with StorageEngine(tmp_path / "data") as engine:
        assert engine.count("c") == 3


def test_two_copies_replace_one_folder(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with running(SMALL, lake, "replace", "parquet") as slow:
        slow.waits("half")
        for _ in range(2):  # the slow copy's files stay
            copy(pa.table({"_id": ["fast"]}), lake, if_exists="replace", format="parquet")
            assert ids_in(str(lake), tmp_path) == ["fast"]
        slow.let_go()
        assert slow.ends() == "1000"
    assert len(ids_in(str(lake), tmp_path)) == 1000
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".godb-arrow")]


def ids_in(where: str, folder: Path) -> list[str]:
    target = folder / "ids.arrow"
    copy(where, target, columns=["_id"], if_exists="replace")
    with files.open_file(target) as reader:
        assert isinstance(reader, pa.RecordBatchReader)
        return sorted(reader.read_all().column("_id").to_pylist())


@pytest.mark.parametrize(
    ("lacking", "extra", "target"),
    [
        ("adbc_driver_manager", "sql", "sqlite:///t.db#t"),
        ("adbc_driver_sqlite.dbapi", "sql", "sqlite:///t.db#t"),
        ("deltalake", "delta", "table"),
        ("bson", "mongo", "t.bson"),
    ],
)
def test_what_is_not_installed_is_named(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    lacking: str, extra: str, target: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, lacking, None)
    monkeypatch.delitem(sys.modules, "godb_arrow.connectors.etl.bson", raising=False)
    options = {"format": "delta"} if extra == "delta" else {}
    with pytest.raises(godb_arrow.MissingDependency, match=rf"godb-arrow\[{extra}\]"):
        copy(people, target, **options)


@pytest.mark.parametrize("place", ["lake", "data#t"])
def test_what_killed_copies_left_is_removed_by_the_next_one(tmp_path: Path, place: str) -> None:
    table = pa.table({"_id": ["a"], "n": [1]})
    target = str(tmp_path / place)
    options: dict[str, Any] = {"format": "parquet"} if place == "lake" else {}
    if place == "data#t":
        StorageEngine(tmp_path / "data").close()
    folder = tmp_path / "data" if place == "data#t" else tmp_path
    stem = "lake-" if place == "lake" else ""
    left = folder / f".godb-arrow-{stem}{0:016x}"
    left.mkdir()
    (left / "half").write_bytes(b"x")
    copy(table, target, **options)
    assert not left.exists()
    assert [path for path in folder.iterdir() if path.name.startswith(".godb-arrow-")] == []


def test_a_folder_that_a_killed_copy_moved_away_is_put_back(tmp_path: Path) -> None:
    target = tmp_path / "lake"
    copy(pa.table({"n": [1]}), target, format="parquet")
    target.rename(tmp_path / f".godb-arrow-lake-{0:016x}-before")
    with pytest.raises(godb_arrow.TargetExists):
        copy(pa.table({"n": [2]}), target, format="parquet", if_exists="error")
    copy(pa.table({"n": [2]}), target, format="parquet", if_exists="replace")
    assert ds.dataset(target, format="parquet").to_table().column("n").to_pylist() == [2]
