"""Files, data directories, folders of collections, and several of them are read alike."""

from __future__ import annotations

import gc
import os
import pickle
import weakref
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from support.http_files import served

import godb_arrow
from godb_arrow import (
    CollectionNotFound,
    CollectionRequired,
    InvalidOption,
    JoinedCollection,
    MissingDependency,
    SourceNotFound,
    StorageEngine,
)
from godb_arrow.cli.command import main
from godb_arrow.connectors import polars as godb
from godb_arrow.connectors.etl import copy
from godb_arrow.storage.url_options import UrlOptions, options_of, with_options


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with StorageEngine("data") as engine:
        engine.create_collection("users").insert_many([{"n": 1}, {"n": 2}])
    with StorageEngine("large", part_size="1KiB") as engine:
        engine.create_collection("users").insert_many([{"n": n} for n in range(500)])
        engine["users"].to_folder()
    godb_arrow.write_godb([{"n": 3}], "a.godb", "users")
    godb_arrow.write_godb([{"n": 4.5, "m": "x"}], "b.godb", "users")
    return tmp_path


PLACES = [
    ("data", [1, 2]), ("data#users", [1, 2]), ("a.godb#users", [3]), ("large", list(range(500))),
    ("large/collections/users.parts", list(range(500))),
    ("large/collections/users.godb", list(range(500))),
    (["a.godb", "b.godb"], [3, 4.5]), ("*.godb", [3, 4.5]), ("[ab].godb#users", [3, 4.5]),
    (["data", "a.godb"], [1, 2, 3]), ("./**/users.godb", [1, 2]),
]  # fmt: skip


@pytest.mark.parametrize(("place", "expected"), PLACES)
def test_every_function_reads_every_place(folder: Path, place: Any, expected: list[float]) -> None:
    table = godb_arrow.read_table(place)
    assert table.column("n").to_pylist() == expected
    assert godb_arrow.read_godb(place, columns=["n"])["n"].tolist() == expected
    assert godb_arrow.read_schema(place).equals(table.schema)
    assert [one["n"] for one in godb_arrow.read_documents(place)] == expected
    assert godb_arrow.list_collections(place) == {"users": len(expected)}
    assert godb_arrow.read_document(place, "1")["_id"] == "1"
    with godb_arrow.scan_godb(place, columns=["n"]) as reader:
        assert reader.read_all().column("n").to_pylist() == expected
    handle = godb_arrow.open_godb(place, "users")
    assert (handle.name, len(handle)) == ("users", len(expected))
    assert len(pa.table(handle)) == len(expected)
    chunks = godb_arrow.read_godb(place, chunksize=1)
    assert sum(map(len, chunks)) == len(expected)
    scanned = godb.scan_godb(place).filter(pl.col("n") == expected[0]).collect()
    assert scanned["n"].to_list() == expected[:1]
    with pytest.raises((CollectionNotFound, InvalidOption)):
        godb_arrow.read_table(place, "orders")
    if isinstance(place, str) and "*" not in place and "[" not in place:
        assert godb_arrow.verify_godb(place).ok


def test_a_collection_must_be_named_where_there_are_several(folder: Path) -> None:
    with StorageEngine("data") as engine:
        engine.create_collection("orders")
    with pytest.raises(CollectionRequired, match="'orders', 'users'"):
        godb_arrow.read_table("data")
    with pytest.raises(InvalidOption, match="name it once"):
        godb_arrow.read_table("data#users", "orders")
    assert godb_arrow.list_collections("data") == {"orders": 0, "users": 2}
    assert godb_arrow.list_collections("data#users") == {"users": 2}


@pytest.mark.parametrize("name", ["missing", None])
def test_an_engine_is_closed_if_its_collection_cannot_be_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    with StorageEngine("data") as engine:
        engine.create_collection("orders")
    opened: list[StorageEngine] = []

    class Noted(StorageEngine):
        def __init__(self, *place: Any, **options: Any) -> None:
            super().__init__(*place, **options)
            opened.append(self)

    monkeypatch.setattr("godb_arrow.engine.engine.StorageEngine", Noted)
    with pytest.raises(godb_arrow.GodbError):
        godb_arrow.open_godb("data", name)
    assert [one.closed for one in opened] == [True]


def test_what_is_wrong_with_a_place_is_said(folder: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"no file has a name like x\*"):
        godb_arrow.read_table("x*.godb")
    with pytest.raises(InvalidOption, match="list of files is empty"):
        godb_arrow.read_table([])
    with pytest.raises(InvalidOption, match=r"no data directory; .*\*\.godb"):
        godb_arrow.read_table(str(folder))
    with pytest.raises(InvalidOption, match="infos"):
        godb_arrow.inspect_godb("data")


def test_unsaved_changes_of_this_process_are_read(folder: Path) -> None:
    with StorageEngine("data") as engine:
        engine.insert("users", {"n": 9})
        assert godb_arrow.read_table("data#users").column("n").to_pylist() == [1, 2, 9]


def test_a_name_with_wildcards_or_a_sign_may_be_a_file(folder: Path) -> None:
    for name in ("[a].godb", "a#b.godb", "x*.godb"):
        godb_arrow.write_godb([{"n": 7}], name, "c")
        assert godb_arrow.read_table(name).column("n").to_pylist() == [7]


def test_joined_collections(folder: Path) -> None:
    both = godb_arrow.open_godb(["a.godb", "b.godb"])
    assert isinstance(both, JoinedCollection)
    assert pickle.loads(pickle.dumps(both)).to_arrow().equals(both.to_arrow())
    assert both.to_arrow(["m"], {"n": {"$gt": 4}}).to_pydict() == {"m": ["x"]}
    assert both.profile(["n"])["n"].max == 4.5
    assert both.get("1")["n"] == 4.5
    assert len(both.to_dataset().to_table()) == 2
    assert godb_arrow.write_godb(both.to_arrow(["n"]), "c.godb", "users") == 2
    both.close()


def test_mixed_types_of_several_files_are_exact(folder: Path) -> None:
    godb_arrow.write_godb([{"n": "text"}, {"n": 2**60}], "c.godb", "users")
    assert godb_arrow.read_table(["a.godb", "c.godb"]).column("n").to_pylist() == [
        "3", '"text"', str(2**60),
    ]  # fmt: skip


def test_urls_have_wildcards_and_options(folder: Path) -> None:
    for n in range(3):
        godb_arrow.write_godb([{"n": n}], f"memory://logs-x/{n}.godb", "c", storage_options={})
    found = godb_arrow.read_table("memory://logs-x/*.godb", storage_options={})
    assert found.column("n").to_pylist() == [0, 1, 2]
    fsspec.filesystem("memory").rm("/logs-x", recursive=True)


def test_options_reach_the_file_system_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []
    before = fsspec.core.url_to_fs
    monkeypatch.setattr(
        fsspec.core, "url_to_fs", lambda url, **options: given.append(options) or before(url)
    )
    key = {"key": "k"}
    godb_arrow.write_godb([{"n": 1}], "memory://opt/x.godb", "c", storage_options=key)
    for read in (
        godb_arrow.read_table, godb_arrow.read_godb, godb_arrow.read_schema, godb_arrow.open_godb,
        godb_arrow.read_documents, godb_arrow.scan_godb, godb_arrow.list_collections,
        godb_arrow.inspect_godb, godb_arrow.verify_godb, godb.scan_godb,
    ):  # fmt: skip
        result: Any = read("memory://opt/x.godb", storage_options=key)  # type: ignore[operator]
        del result
    with StorageEngine("memory://opt/data", storage_options=key) as engine:
        engine.create_collection("c").insert({"n": 1})
        engine.save()
        engine.backup("memory://opt/backups", storage_options=key)
    godb_arrow.list_backups("memory://opt/backups", storage_options=key)
    godb_arrow.restore_backup("memory://opt/backups", "restored", storage_options=key)
    with StorageEngine("restored") as engine:
        engine.replicate_to("memory://opt/follower", storage_options=key).step()
        engine.load_collection_metadata  # noqa: B018
    godb_arrow.follower_status("memory://opt/follower", storage_options=key)
    assert given and all(one == key for one in given)
    del engine
    assert options_of("memory://opt/x.godb") == {}
    fsspec.filesystem("memory").rm("/opt", recursive=True)


def test_the_nearest_options_above_a_url_count() -> None:
    with with_options("s3://b", {"a": 1}), with_options("s3://b/x", {"a": 2}):
        assert options_of("s3://b/x/y.godb") == {"a": 2}
        assert options_of("s3://b/xy") == {"a": 1}
    assert options_of("s3://b/x") == {}


@pytest.mark.parametrize("options", ["anon", [1], {1: 2}])
def test_wrong_options_are_errors(options: Any) -> None:
    with pytest.raises(InvalidOption, match="storage_options"):
        godb_arrow.read_table("memory://x/y.godb", storage_options=options)


def test_options_without_a_url_are_errors(folder: Path) -> None:
    with pytest.raises(InvalidOption, match="no URL"):
        godb_arrow.read_table("a.godb", storage_options={"anon": True})


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, **options: Any) -> Any:
        raise ImportError("Install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    for url, extra in (("gs://b/x.godb", "gcs"), ("abfs://b/x.godb", "azure"), ("s3://b/x", "s3")):
        with pytest.raises(MissingDependency, match=rf"godb-arrow\[{extra}\]"):
            godb_arrow.read_table(url)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("place", ["data", "data#users", "large", "a.godb#users", "*.godb"])
def test_commands_read_every_place(folder: Path, place: str) -> None:
    assert "users" in run("info", place)
    assert "n" in run("schema", place)
    assert "n" in run("head", place, "-n", "2").splitlines()[0]
    assert '"n":' in run("cat", place, "-n", "1")
    run("export", place, "out/{collection}.csv")
    assert (folder / "out" / "users.csv").exists()
    if "*" not in place:
        assert "valid" in run("verify", place)


def test_conditions_compare(folder: Path) -> None:
    assert run("cat", "large", "--where", "n>=497", "--where", "n!=498").count("\n") == 2
    assert run("cat", "large", "--where", "n<3").count("\n") == 3
    assert "499" in run("head", "large", "--where", "n > 498")
    assert run("cat", "b.godb", "--where", "m=x").count("\n") == 1
    assert run("cat", "b.godb", "--where", 'n={"$gt": 4}').count("\n") == 1
    result = CliRunner().invoke(main, ["head", "a.godb", "--where", "n"])
    assert result.exit_code == 2 and "FIELD=VALUE" in result.output


def test_counts_are_in_plain_words(folder: Path) -> None:
    assert "1 document," in run("info", "a.godb")
    assert "1 row" in CliRunner().invoke(main, ["export", "a.godb", "a.csv"]).output.split(": ")[-1]
    assert "1 document>" in repr(godb_arrow.open_godb(os.path.abspath("a.godb")))


def test_options_that_a_finalizer_ends_inside_of_another_start_do_not_block() -> None:
    class Handle:
        pass

    for _ in range(200):
        handles = [Handle() for _ in range(50)]
        for handle in handles:
            options = UrlOptions("memory://finalized/x", {"key": 1})
            options.start()
            weakref.finalize(handle, options.end)
            handle.cycle = handle  # type: ignore[attr-defined]
        del handles, handle
        threshold = gc.get_threshold()
        gc.set_threshold(1)
        try:
            with with_options("memory://finalized", {"key": 2}):
                options_of("memory://finalized/x")
        finally:
            gc.set_threshold(*threshold)
    gc.collect()
    assert options_of("memory://finalized/x") == {}


@pytest.mark.parametrize("query", ["", "?token=a-secret", "?X-Signature=a-secret%2F&list=[1]*"])
def test_an_http_url_may_have_a_query(folder: Path, query: str) -> None:
    pytest.importorskip("aiohttp")
    godb_arrow.write_godb([{"n": 7}], "[1].godb", "users")
    (folder / "a.csv").write_text("n\n7\n")
    with served(folder) as host:
        for name in ("a.godb", "[1].godb"):
            url = f"{host}/{name}{query}"
            assert godb_arrow.list_collections(url)["users"] >= 1
            assert godb_arrow.read_table(f"{url}#users", columns=["n"]).num_rows >= 1
            assert godb_arrow.verify_godb(url).ok
            handle = godb_arrow.open_godb(url, "users")
            summary = copy(f"{url}#users", "copied.godb#users", if_exists="replace", progress=False)
            assert "a-secret" not in f"{handle!r} {summary} {summary!r}"
        assert copy(f"{host}/a.csv{query}", "csv.godb", progress=False).documents == 1
        with pytest.raises(SourceNotFound) as caught:
            godb_arrow.read_table(f"{host}/none.godb{query}")
        assert "a-secret" not in str(caught.value) and "none.godb" in str(caught.value)


def test_a_place_with_wildcards_in_its_name_and_a_collection(folder: Path) -> None:
    with StorageEngine("data [1]*") as engine:
        engine.create_collection("users").insert({"n": 7})
    assert godb_arrow.read_table("data [1]*#users").column("n").to_pylist() == [7]
    godb_arrow.write_godb([{"n": 7}], "memory://wild-x/what?.godb", "c")
    try:
        for place in ("memory://wild-x/what?.godb", "memory://wild-x/what?.godb#c"):
            assert godb_arrow.read_table(place).column("n").to_pylist() == [7]
        assert godb_arrow.read_table("memory://wild-x/wha*.godb").num_rows == 1
    finally:
        fsspec.filesystem("memory").rm("/wild-x", recursive=True)
    with pytest.raises(CollectionNotFound, match=r"\[2J"):
        godb_arrow.read_table("a.godb#[2J")


@pytest.mark.parametrize(
    "url",
    ["mysql://ada:a-secret@host/shop", "nowhere://ada:a@a-secret@host/x?pass=a-secret"],
)
def test_errors_and_commands_show_no_password(folder: Path, url: str) -> None:
    for use in (
        lambda: godb_arrow.read_table(url),
        lambda: godb_arrow.write_godb([{"n": 1}], url, "c"),
        lambda: StorageEngine(url),
        lambda: godb_arrow.list_backups(url),
        lambda: copy("a.godb", f"{url}#t", progress=False),
    ):
        with pytest.raises(godb_arrow.GodbError) as caught:
            use()
        assert "a-secret" not in str(caught.value) and "ada:***@host" in str(caught.value)
