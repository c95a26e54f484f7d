"""dlt: its pipelines read collections and only their changes, and load each row once."""

from __future__ import annotations

import datetime as dt
import decimal
import importlib
import random
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.settings import LONG

from godb_arrow import (
    CollectionNotFound,
    InvalidOption,
    MissingDependency,
    StorageEngine,
    write_godb,
)

dlt = pytest.importorskip("dlt")
loading = pytest.importorskip("dlt.load.load")
failures = pytest.importorskip("dlt.pipeline.exceptions")
duckdb = pytest.importorskip("duckdb")
connector = pytest.importorskip("godb_arrow.connectors.dlt")
destination = pytest.importorskip("godb_arrow.connectors.dlt.destination")

ROOT = Path(__file__).parents[2]
MOMENT = dt.datetime(2026, 11, 26, 1, 2, 3, 4, tzinfo=dt.UTC)


OWN = pa.table(
    {
        "price": pa.array([decimal.Decimal("1.50"), None]),
        "day": pa.array([dt.date(2026, 1, 2), None]),
        "at": pa.array([dt.time(1, 2, 3), None], pa.time64("ns")),
        "lasts": pa.array([5, None], pa.duration("us")),
        "city": pa.array(["Rome", None]).dictionary_encode(),
        "small": pa.array([1, None], pa.uint8()),
        "half": pa.array([0.5, None], pa.float16()),
        "fixed": pa.array([b"ab", None], pa.binary(2)),
        "counts": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    }
)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "CRITICAL")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    seconds = property(lambda _: 0.01, lambda *_: None)  # between looks at what is loaded
    monkeypatch.setattr(loading.Load, "_run_loop_sleep_duration", seconds, raising=False)


def to_duckdb(name: str = "lake") -> Any:
    return dlt.pipeline(
        name,
        destination=dlt.destinations.duckdb(f"{name}.duckdb"),
        dataset_name="shop",
        pipelines_dir="pipelines",
    )


def to_godb(target: Any = "out", name: str = "back", **options: Any) -> Any:
    made = connector.godb_destination(target, **options)
    return dlt.pipeline(name, destination=made, pipelines_dir="pipelines")


def in_duckdb(table: str, name: str = "lake") -> dict[str, dict[str, Any]]:
    """Return the rows of a table by id, without nulls."""
    with duckdb.connect(f"{name}.duckdb") as connection:
        found = connection.sql(f"select * from shop.{table}")
        rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    assert len({row["_id"] for row in rows}) == len(rows), "twice"
    ours = [{k: v for k, v in row.items() if v is not None} for row in rows]
    return {row["_id"]: {k: v for k, v in row.items() if k != "_godb_deleted"} for row in ours}


def in_godb(collection: str, place: str = "out") -> list[dict[Any, Any]]:
    with StorageEngine(place, read_only=True) as engine:
        return engine.find(collection, sort="_id")


def failure(run: Callable[[], Any]) -> str:
    with pytest.raises(failures.PipelineStepFailed) as caught:
        run()
    return str(caught.value)


# --- source -------------------------------------------------------------------------------------


def test_documents_of_all_types_are_loaded_into_duckdb() -> None:
    with StorageEngine("data") as engine:
        engine.create_collection("users").insert_many(
            [
                {"n": 1, "mixed": 1, "t": MOMENT, "b": b"\0x", "tags": ["a"], "nothing": None},
                {"n": 2, "mixed": "x", "geo": {"x": 1, "y": [{"z": 2.5}]}, "large": 2**63 + 1},
            ]
        )
        engine.create_collection("own").insert_many(OWN)
        engine.create_collection("none")
    to_duckdb().run(connector.godb_source("data"))
    assert in_duckdb("users") == {
        "1": {"_id": "1", "n": 1, "mixed": "1", "t": MOMENT, "b": b"\0x", "tags": '["a"]'},
        "2": {
            "_id": "2",
            "n": 2,
            "mixed": '"x"',
            "geo": '{"x":1,"y":[{"z":2.5}]}',
            "large": decimal.Decimal(2**63 + 1),
        },
    }
    assert in_duckdb("own")["1"] == {
        "_id": "1",
        "price": decimal.Decimal("1.50"),
        "day": dt.date(2026, 1, 2),
        "at": dt.time(1, 2, 3),
        "lasts": 5000,
        "city": "Rome",
        "small": 1,
        "half": 0.5,
        "fixed": b"ab",
        "counts": '{"a":1}',
    }
    assert in_duckdb("own")["2"] == {"_id": "2"}
    assert in_duckdb("none") == {}


def test_later_runs_load_only_changes() -> None:
    pipeline = to_duckdb()
    engine = StorageEngine("data")
    users = engine.create_collection("users")
    users.insert_many({"n": n, "list": [n]} for n in range(100))

    def run() -> int:
        pipeline.run(connector.godb_source("data"))  # a reader beside the open engine
        expected = {d["_id"]: {**d, "list": f"[{d['n']}]"} for d in users}
        assert in_duckdb("users") == expected
        return int(pipeline.last_trace.last_normalize_info.row_counts.get("users", 0))

    assert run() == 100
    assert run() == 0
    users.update_many({"n": {"$lt": 3}}, {"$set": {"new": "x"}})
    users.delete("50")
    users.insert({"n": 500, "list": [500]})
    users.delete(users.insert({"n": 501}))
    assert run() == 3 + 1 + 1 + 1  # the last was never loaded, and its deletion does no harm
    users.delete_many(None)
    assert run() == 101 - 1
    engine.drop_collection("users")
    users = engine.create_collection("users")
    users.insert({"n": 1, "list": [1]})
    users.delete("1")
    assert run() == 0  # the whole table was replaced by none
    engine.close()


def test_the_position_is_committed_with_the_load() -> None:
    with StorageEngine("data") as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n} for n in range(10))
        to_duckdb().run(connector.godb_source(engine))
        users.update("1", {"n": 100})
        failed = to_duckdb()
        failed.extract(connector.godb_source(engine))
        shutil.rmtree("pipelines")  # before the load: the state of the destination counts
        users.delete("2")
        pipeline = to_duckdb()
        pipeline.run(connector.godb_source(engine))
        assert pipeline.last_trace.last_normalize_info.row_counts["users"] == 2
        assert in_duckdb("users") == {d["_id"]: d for d in users}


def test_all_is_loaded_again_where_changes_were_removed() -> None:
    pipeline = to_godb()
    with StorageEngine("data", keep_changes=0) as engine:
        users = engine.create_collection("users")
        users.insert_many({"n": n} for n in range(10))
        source = connector.godb_source(engine)
        for n in range(3):
            pipeline.run(source)  # the same object again
            assert in_godb("users") == engine.find("users", sort="_id")
            users.delete(str(n + 1))
            users.insert({"n": n + 10})
            engine.save()
    assert pipeline.last_trace.last_normalize_info.row_counts["users"] == 10


def test_a_column_of_another_type_is_refused_until_the_table_is_loaded_again() -> None:
    pipeline = to_godb()
    with StorageEngine("data") as engine:
        engine.create_collection("users").insert({"n": 1, "x": 0.5, "m": [1]})
    source = connector.godb_source("data", incremental=False)
    pipeline.run(source)
    with StorageEngine("data") as engine:
        engine.replace("users", "1", {"n": 1, "x": 2, "m": "text"})
    pipeline.run(source)  # integers fit floats, and all values fit JSON
    assert in_godb("users") == [{"_id": "1", "n": 1, "x": 2, "m": "text"}]
    with StorageEngine("data") as engine:
        engine.insert("users", {"n": 1.5})
    message = failure(lambda: pipeline.run(source))
    assert "the column 'n' of 'users' is double now, and its table has the type bigint" in message
    pipeline.run(connector.godb_source("data", incremental=False), refresh="drop_resources")
    assert [row["n"] for row in in_godb("users")] == [1.0, 1.5]


def test_a_token_of_another_collection_is_refused() -> None:
    pipeline = to_godb()
    with StorageEngine("data") as engine:
        for name in ("users", "others"):
            engine.create_collection(name).insert({"name": name})
        pipeline.run(connector.godb_source(engine))
        engine.rename_collection("users", "former")
        engine.rename_collection("others", "users")
        message = failure(lambda: pipeline.run(connector.godb_source(engine)))
        assert 'refresh="drop_resources"' in message
        pipeline.run(connector.godb_source(engine), refresh="drop_resources")
    assert in_godb("users") == [{"_id": "1", "name": "others"}]


def test_a_disposition_of_the_caller_makes_a_log_of_changes() -> None:
    pipeline = to_duckdb()
    with StorageEngine("data") as engine:
        users = engine.create_collection("users")
        users.insert_many([{"n": 1}, {"n": 2}])
        pipeline.run(connector.godb_source(engine), write_disposition="append")
        users.update("1", {"n": 3})
        users.delete("2")
        pipeline.run(connector.godb_source(engine), write_disposition="append")
    with duckdb.connect("lake.duckdb") as connection:
        rows = connection.sql("select _id, n, _godb_deleted from shop.users").fetchall()
    assert rows == [("1", 1, False), ("2", 2, False), ("1", 3, False), ("2", None, True)]


@pytest.mark.parametrize(
    ("field", "is_first"), [("_godb_deleted", True), ("_godb_deleted", False), ("", True)]
)
def test_fields_that_are_no_columns_are_refused(field: str, is_first: bool) -> None:
    pipeline = to_duckdb()
    with StorageEngine("data") as engine:
        users = engine.create_collection("users")
        if not is_first:
            users.insert({"n": 1})
            pipeline.run(connector.godb_source(engine))
        users.insert({field: "x"})
        with pytest.raises(
            failures.PipelineStepFailed, match=f"'{field}'.*'users'|'users'.*'{field}'"
        ):
            pipeline.run(connector.godb_source(engine))


def test_files_are_read_as_a_whole() -> None:
    write_godb([{"n": 1}], "shop.godb", "users")
    write_godb([{"n": 2}], "shop.godb", "orders", if_exists="append")
    source = connector.godb_source("shop.godb", batch_size=10)
    assert set(source.resources) == {"users", "orders"}
    assert source.users.write_disposition == "replace"
    pipeline = to_godb()
    pipeline.run(source)
    assert in_godb("orders") == [{"_id": "1", "n": 2}]
    write_godb([{"n": 3}], "shop.godb", "orders", if_exists="replace")
    pipeline.run(connector.godb_source("shop.godb", collections=["orders"]))
    assert in_godb("orders") == [{"_id": "1", "n": 3}]


def test_arguments_of_the_source_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    write_godb([{"n": 1}], "shop.godb", "users")
    write_godb([{"n": 1}], "shop.godb", "Users", if_exists="append")
    source = connector.godb_source
    with pytest.raises(CollectionNotFound, match="no collection 'user'"):
        source("shop.godb", collections=["user"])
    with pytest.raises(InvalidOption, match=r"give a list: \['users'\]"):
        source("shop.godb", collections="users")
    with pytest.raises(InvalidOption, match="has no changes"):
        source("shop.godb", incremental=True)
    with pytest.raises(InvalidOption, match="incremental is 'yes'"):
        source("shop.godb", incremental="yes")
    with pytest.raises(InvalidOption, match="the source is a int"):
        source(1)
    message = failure(lambda: to_duckdb().run(source("shop.godb")))
    assert "have the same table 'users'" in message
    monkeypatch.setitem(sys.modules, "dlt", None)
    monkeypatch.delitem(sys.modules, "godb_arrow.connectors.dlt.source")
    with pytest.raises(MissingDependency, match=r"godb-arrow\[dlt\]"):
        importlib.import_module("godb_arrow.connectors.dlt.source")


# --- destination --------------------------------------------------------------------------------


def test_rows_become_documents() -> None:
    row = {
        "k": 1,
        "price": decimal.Decimal("1.50"),
        "t": MOMENT,
        "day": dt.date(2026, 1, 2),
        "b": b"\0x",
        "list": [1, {"a": None}],
        "geo": {"x": 1, "y": {"z": [1.5]}},
        "Own Name": True,
    }
    to_godb().run([row, {"k": 2, "geo": {}}], table_name="things")
    to_godb().run([{"k": 3, "list": None}], table_name="things")
    documents = sorted(in_godb("things"), key=lambda document: document["k"])
    ids = [document.pop("_id") for document in documents]
    assert len({*ids}) == 3
    day = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    stored = {**row, "price": "1.500000000", "day": day}
    assert documents == [stored, {"k": 2, "geo": {}}, {"k": 3}]
    with StorageEngine("out", read_only=True) as engine:
        schema = engine["things"].schema
    assert schema.field("price").type == pa.decimal128(38, 9)
    assert schema.field("day").type == pa.date32()
    assert schema.field("geo").type.field("y").type == pa.struct({"z": pa.list_(pa.float64())})


def test_a_merge_replaces_and_deletes_by_the_primary_key() -> None:
    pipeline = to_godb("out", keep_nulls=True)
    options: dict[str, Any] = {"table_name": "m", "write_disposition": "merge", "primary_key": "k"}
    pipeline.run([{"k": n, "v": "a"} for n in range(5)], **options)
    columns = {"gone": {"hard_delete": True}}
    rows = [
        {"k": 1, "v": "b"},
        {"k": 2, "gone": True},
        {"k": 3, "gone": False},
        {"k": 9, "gone": True},
    ]
    pipeline.run(rows, columns=columns, **options)
    assert in_godb("m") == [
        {"_id": "0", "k": 0, "v": "a"},
        {"_id": "1", "k": 1, "v": "b"},
        {"_id": "3", "k": 3, "v": None},
        {"_id": "4", "k": 4, "v": "a"},
    ]
    rows = [{"a": "x", "b": 1, "v": 1}, {"a": "x", "b": 1, "v": 2}, {"a": "y", "b": 1, "v": 3}]
    pipeline.run(rows, table_name="two", write_disposition="merge", primary_key=["a", "b"])
    found = [(document["_id"], document["v"]) for document in in_godb("two")]
    assert found == [('["x", 1]', 2), ('["y", 1]', 3)]
    day = {"day": dt.date(2026, 1, 2), "gone": "yes"}
    for gone in (None, "yes"):
        pipeline.run([{**day, "gone": gone}], columns=columns, table_name="days",
                     write_disposition="merge", primary_key="day")  # fmt: skip
        assert len(in_godb("days")) == (gone is None)


def test_a_replaced_table_has_the_rows_of_the_last_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_WRITER__FILE_MAX_ITEMS", "10")  # several files
    monkeypatch.setenv("DATA_WRITER__BUFFER_MAX_ITEMS", "10")
    pipeline = to_godb()
    for count in (35, 20, 0):
        pipeline.run([{"n": n} for n in range(count)], table_name="r", write_disposition="replace")
        assert sorted(document["n"] for document in in_godb("r")) == [*range(count)]
    pipeline.run([{"n": 1}], table_name="r", write_disposition="append")
    pipeline.run([{"n": 2}], table_name="r", write_disposition="append", refresh="drop_data")
    assert [document["n"] for document in in_godb("r")] == [2]


def test_collections_go_round() -> None:
    """From a data directory to another one, with changes and deletions; ids stay."""
    with StorageEngine("data") as source, StorageEngine("out") as target:
        go_round(source, target)


def go_round(source: StorageEngine, target: StorageEngine) -> None:
    users = source.create_collection("users")
    users.insert_many([{"n": n, "geo": {"x": [n, "t", None]}, "t": MOMENT} for n in range(20)])
    pipeline = to_godb(target)
    for deleted in ("3", "5", "7"):
        pipeline.run(connector.godb_source(source))
        assert {d["_id"]: d for d in target["users"]} == {d["_id"]: d for d in users}
        users.delete(deleted)
        users.update("4", {"n": 400})
        users.insert({"n": 5, "geo": {"x": []}})
    assert set(connector.godb_source(target).resources) == {"users"}  # without the state


def test_own_types_go_round() -> None:
    large = pa.table({"large": pa.array([2**63 + 1, None], pa.uint64()), "e": [{}, None]})
    with StorageEngine("data") as engine:
        engine.create_collection("own").insert_many(OWN)
        engine.create_collection("large").insert_many(large)
        to_godb().run(connector.godb_source(engine))
        with StorageEngine("out", read_only=True) as copy:
            for name in ("own", "large"):
                assert copy.find(name) == [
                    {key: value for key, value in document.items() if value is not None}
                    for document in engine.find(name)
                ]
            assert copy["own"].schema.field("lasts").type == pa.duration("us")
            assert copy["own"].schema.field("small").type == pa.uint8()
            assert copy["large"].schema.field("large").type == pa.uint64()


def some_value(rng: random.Random, depth: int = 0) -> Any:
    if depth < 2 and rng.random() < 0.3:
        inner = [some_value(rng, depth + 1) for _ in range(rng.randrange(3))]
        return inner if rng.random() < 0.5 else dict(zip("xy", inner, strict=False))
    # Columns join integers and floats, and text and binary, so that larger values would differ.
    return rng.choice([None, 1, 2.5, True, "a", "", MOMENT, -1])


def some_document(rng: random.Random) -> dict[str, Any]:
    document = {"any": some_value(rng), "n": rng.choice([1, 2.5]), "t": rng.choice(["", "b"])}
    return {name: value for name, value in document.items() if rng.random() < 0.7}


def plain(value: Any) -> Any:
    """Return a value without nulls and empty maps in maps, which columns do not tell apart."""
    if isinstance(value, dict):
        shown = {name: plain(inner) for name, inner in value.items()}
        return {name: inner for name, inner in shown.items() if inner not in (None, {})}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(30 if LONG else 1))
def test_random_changes_are_followed(seed: int) -> None:
    rng = random.Random(seed)
    keep = rng.choice([0, "64MiB"])
    pipeline = to_godb()
    with StorageEngine("data", keep_changes=keep, versions="all") as engine:
        users = engine.create_collection("users")
        for _ in range(25 if LONG else 6):
            for _ in range(rng.randrange(6)):
                choice, ids = rng.random(), [document["_id"] for document in users]
                if choice < 0.5 or not ids:
                    users.insert_many([some_document(rng) for _ in range(rng.randrange(5))])
                elif choice < 0.7:
                    users.delete(rng.choice(ids))
                elif choice < 0.9:
                    users.replace(rng.choice(ids), some_document(rng))
                elif choice < 0.94:
                    engine.drop_collection("users")
                    users = engine.create_collection("users")
                else:
                    engine.save()
            try:
                pipeline.run(connector.godb_source(engine))
            except failures.PipelineStepFailed as error:
                assert "load the table again" in str(error)
                pipeline.run(connector.godb_source(engine), refresh="drop_resources")
            loaded = {row.pop("_id"): plain(row) for row in in_godb("users")}
            for row in loaded.values():
                row.pop("_godb_deleted", None)
            assert loaded == {row.pop("_id"): plain(row) for row in users.find({})}


class Interrupted(Exception):
    """Failure of a test."""


def failing_writes(monkeypatch: pytest.MonkeyPatch, fail_at: int) -> list[int]:
    """Let one write of rows fail after it was done; return the numbers of rows written."""
    monkeypatch.setattr(destination, "_ROWS_AT_ONCE", 10)
    write, written = destination._Load._write, []

    def fail(self: Any, collection: Any, rows: pa.Table) -> None:
        write(self, collection, rows)
        written.append(rows.num_rows)
        if len(written) == fail_at:
            raise Interrupted

    monkeypatch.setattr(destination._Load, "_write", fail)
    return written


@pytest.mark.parametrize(
    ("kind", "disposition"),
    [("rows", "append"), ("rows", "replace"), ("rows", "merge"), ("arrow", "append")],
)
def test_a_file_that_failed_in_the_middle_is_loaded_once(
    monkeypatch: pytest.MonkeyPatch, kind: str, disposition: str
) -> None:
    monkeypatch.setenv("LOAD__RAISE_ON_MAX_RETRIES", "1")
    key = {"primary_key": "n"} if disposition == "merge" else {}
    options: dict[str, Any] = {"table_name": "r", "write_disposition": disposition, **key}
    pipeline = to_godb()
    pipeline.run([{"n": 1000}], **options)
    rows = [{"n": n} for n in range(35)]
    written = failing_writes(monkeypatch, 2)
    failure(lambda: pipeline.run(rows if kind == "rows" else pa.Table.from_pylist(rows), **options))
    assert written == [10, 10]
    to_godb().run()  # dlt loads the pending package again
    assert written == [10, 10, 10, 10, 10, 5]
    expected = [*range(35)] if disposition == "replace" else [*range(35), 1000]
    assert sorted(document["n"] for document in in_godb("r")) == expected


KILLED = """
import os, sys
import dlt
from godb_arrow.connectors.dlt import destination
destination._ROWS_AT_ONCE = 10
write, written = destination._Load._write, []
def kill(self, collection, rows):
    write(self, collection, rows)
    written.append(1)
    if len(written) == 2:
        os._exit(9)
destination._Load._write = kill
made = destination.godb_destination("out")
pipeline = dlt.pipeline("back", destination=made, pipelines_dir="pipelines")
pipeline.run([{"n": n} for n in range(35)], table_name="r")
"""


def test_a_file_that_was_loaded_by_a_killed_process_is_loaded_once() -> None:
    ran = subprocess.run([sys.executable, "-c", KILLED], check=False, timeout=60)
    assert ran.returncode == 9
    assert len(in_godb("r")) == 20
    to_godb().run()
    assert sorted(document["n"] for document in in_godb("r")) == [*range(35)]


MERGE_N = {"write_disposition": "merge", "primary_key": "n"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"write_disposition": "merge"}, "has no primary key"),
        ({**MERGE_N, "columns": {"v": {"merge_key": True}}}, "has the hint merge_key"),
        ({**MERGE_N, "columns": {"v": {"dedup_sort": "desc"}}}, "has the hint dedup_sort"),
        ({"table_name": "godb_arrow_loads"}, "has the state of loads"),
    ],
)  # fmt: skip
def test_loads_that_cannot_succeed_are_not_repeated(options: dict[str, Any], message: str) -> None:
    rows = [{"n": 1, "v": "x"}, {"n": 2, "v": None}]
    told = failure(lambda: to_godb().run(rows, **{"table_name": "t", **options}))
    assert message in told
    assert "terminally" in told


def test_texts_that_are_no_json_are_refused() -> None:
    rows, columns = pa.table({"n": [1], "v": ["{"]}), {"v": {"data_type": "json"}}
    told = failure(lambda: to_godb().run(rows, columns=columns, table_name="t"))
    assert "terminally" in told
    assert "is not JSON" in told


def test_another_key_beside_ids_is_refused() -> None:
    options = {"table_name": "t", **MERGE_N}
    assert "is not the primary key" in failure(
        lambda: to_godb().run([{"_id": "a", "n": 1}], **options)
    )


def test_arguments_of_the_destination_are_checked() -> None:
    with pytest.raises(InvalidOption, match="is a URL"):
        connector.godb_destination("memory://out")
    with pytest.raises(InvalidOption, match="the target is a int"):
        connector.godb_destination(1)
    with pytest.raises(InvalidOption, match="keep_nulls"):
        connector.godb_destination("out", keep_nulls="no")
    with StorageEngine("out") as engine, pytest.raises(InvalidOption, match="no options"):
        connector.godb_destination(engine, options={"threads": 1})


def test_dlt_knows_the_destination_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module = project["entry-points"]["dlt"]["godb_arrow"]
    pytest.importorskip(module)  # dlt imports it, where the package is installed
    monkeypatch.setenv("DESTINATION__GODB__PATH", "configured")
    dlt.pipeline("named", destination="godb", pipelines_dir="pipelines").run(
        [{"n": 1}], table_name="t"
    )
    assert [document["n"] for document in in_godb("t", "configured")] == [1]
