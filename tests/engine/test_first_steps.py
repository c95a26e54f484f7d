"""Mistakes of first steps with an engine: each is understood, or answered with what to write."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import godb_arrow
from godb_arrow import FieldNotFound, InvalidOption, OptionWarning, StorageEngine
from godb_arrow.options import EngineOptions


@pytest.mark.parametrize(
    ("option", "value", "meant"),
    [
        ("max_memory", "1G", 10**9),
        ("max_memory", "512m", 512 * 10**6),
        ("max_memory", "2 gigabytes", 2 * 10**9),
        ("max_memory", "64Mi", 64 << 20),
        ("max_memory", "1_000_000_000", 10**9),
        ("background_save", "5 minutes", 300),
        ("background_save", "1 hour", 3600),
        ("background_save", "90 secs", 90),
        ("background_save", False, None),
        ("durability", "fsync", "commit"),
        ("durability", "always", "commit"),
        ("durability", "Commit", "commit"),
        ("durability", " INTERVAL ", "interval"),
        ("compression", "ZSTD", "zstd"),
        ("compression", "zstd:19", "zstd:19"),
        ("threads", "4", 4),
    ],
)
def test_what_is_clear_is_accepted(option: str, value: Any, meant: Any) -> None:
    assert getattr(EngineOptions.checked(**{option: value}), option) == meant


@pytest.mark.parametrize("value", ["none", "off", "fast", "commmit", "", None, True, 1])
def test_a_durability_that_is_not_understood_is_an_error(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InvalidOption, match="durability"):
        StorageEngine(tmp_path / "data", durability=value)
    assert not (tmp_path / "data").exists()


def test_the_warning_of_an_option_names_the_callers_line(tmp_path: Path) -> None:
    with pytest.warns(OptionWarning, match="compression is 'zst'; did you mean 'zstd'") as caught:
        StorageEngine(tmp_path, compression="zst").close()
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "compression", ["lz4:3", "zstd:99", "lz4hc:13", "zstd:x", "zstd:", "none:1"]
)
def test_a_wrong_level_is_an_error(tmp_path: Path, compression: str) -> None:
    with pytest.raises(InvalidOption, match="level"):
        godb_arrow.write_godb([], tmp_path / "x.godb", "c", compression=compression)


def test_levels_make_smaller_files(tmp_path: Path) -> None:
    rows = pa.table({"n": np.random.default_rng(1).integers(0, 99, 9000)})
    sizes = {}
    for compression in ("zstd:1", "zstd:19", "lz4hc:3", "lz4hc:12"):
        path = tmp_path / f"{compression}.godb"
        godb_arrow.write_godb(rows, path, "c", compression=compression)
        assert godb_arrow.read_table(path, columns=["n"]).equals(rows)
        sizes[compression] = path.stat().st_size
    assert sizes["zstd:19"] < sizes["zstd:1"]
    assert sizes["lz4hc:12"] <= sizes["lz4hc:3"]


def test_an_engine_keeps_the_level(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        engine.create_collection("c", compression="zstd:19").insert({"n": 1})
    with StorageEngine(tmp_path) as engine:
        assert engine["c"].compression == "zstd:19"


def test_an_engine_on_a_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "users.godb"
    with pytest.raises(InvalidOption, match=r"the name of a file.*such as 'users'"):
        StorageEngine(path)
    godb_arrow.write_godb([{"n": 1}], path, "users")
    for create in (True, False):
        with pytest.raises(InvalidOption, match=r"is a file.*open_godb reads a file"):
            StorageEngine(path, create=create)
    folder = tmp_path / "old.godb"
    (folder / "collections").mkdir(parents=True)
    StorageEngine(folder).close()  # A folder of this name that is there stays usable.


def test_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with StorageEngine("~/data") as engine:
        engine.create_collection("users").insert({"n": 1})
        engine.backup("~/backups")
        engine.replicate_to("~/follower").status()
        engine.save_to_file("~/all.godb")
    godb_arrow.restore_backup("~/backups", "~/restored")
    assert godb_arrow.list_backups("~/backups")
    assert godb_arrow.follower_status("~/follower")
    godb_arrow.write_godb([{"n": 1}], "~/users.godb", "users")
    for read in (
        godb_arrow.read_table, godb_arrow.read_godb, godb_arrow.open_godb, godb_arrow.scan_godb,
        godb_arrow.read_schema, godb_arrow.read_documents, godb_arrow.list_collections,
        godb_arrow.inspect_godb, godb_arrow.verify_godb,
    ):  # fmt: skip
        read("~/users.godb")
    with StorageEngine("~/second") as engine:
        engine.load_collection_metadata("~/users.godb")
    godb_arrow.promote("~/follower")
    names = {"data", "backups", "follower", "all.godb", "restored", "users.godb", "second"}
    assert {name for name in os.listdir(tmp_path) if not name.startswith(".")} == names


def test_a_cell_that_runs_again_replaces_its_engine(tmp_path: Path) -> None:
    """Like a notebook, whose cells are executed in one namespace."""
    cell = compile(f"engine = StorageEngine({str(tmp_path)!r})", "<ipython-input-3>", "exec")
    names: dict[str, Any] = {"StorageEngine": StorageEngine}
    exec(cell, names)
    first = names["engine"]
    first.create_collection("users").insert({"n": 1})
    exec(cell, names)
    assert first.closed and len(names["engine"]["users"]) == 1
    other = compile(f"other = StorageEngine({str(tmp_path)!r})", "<ipython-input-4>", "exec")
    with pytest.raises(
        godb_arrow.DirectoryLocked, match=r"this process .* <ipython-input-3>, line 1"
    ):
        exec(other, names)
    names["engine"].close()


def test_columns_that_no_document_has_had_are_named(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        assert users.find(columns=["nmae"]) == []
        users.insert_many([{"name": "Ada", "geo": {"cc": "IT"}}, {"age": 36}])
        assert users.find({"age": 36}, columns=["name"]) == [{}]
        assert users.find(columns=["geo.cc", "age"]) == [{"geo.cc": "IT"}, {"age": 36}]
        for ask in (
            lambda: users.find(columns=["nmae"]),
            lambda: users.find({"age": 36}, columns=["nmae"]),
            lambda: users.find_all_stream(columns=["nmae"]),
            lambda: users.to_pandas(columns=["nmae"]),
        ):
            with pytest.raises(FieldNotFound, match="did you mean 'name'"):
                ask()  # type: ignore[no-untyped-call]


def test_long_schemas_are_cut_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "wide.godb"
    godb_arrow.write_godb([{f"column {n}": n for n in range(500)}], path, "wide")
    with pytest.raises(FieldNotFound) as caught:
        godb_arrow.read_table(path, columns=["xyz"])
    assert "more" in str(caught.value) and len(str(caught.value)) < 1000


FRAME = pd.DataFrame({"age": [1, 2]})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (FRAME["age"] > 1, "pandas.Series"),
        (FRAME, "pandas.DataFrame"),
        (pl.Series([True]), "polars.Series"),
        (pl.col("age") > 30, r"polars.Expr.*scan_godb\(…\).filter"),
        (pa.array([True]), "pyarrow.BooleanArray"),
        (np.array([True]), "numpy.ndarray"),
        ("age > 30", "type str.*duckdb"),
        (lambda document: document["age"] > 30, "RowFilter"),
        ([("age", ">", 30)], "mapping of fields"),
        (True, "mapping of fields"),
    ],
)  # fmt: skip
def test_what_is_no_filter_is_told_what_to_write(tmp_path: Path, given: Any, text: str) -> None:
    path = tmp_path / "users.godb"
    godb_arrow.write_godb([{"age": 36}], path, "users")
    with pytest.raises(InvalidOption, match=text) as caught:
        godb_arrow.read_table(path, filter=given)
    assert json.dumps({"age": {"$gt": 30}}) in str(caught.value)


@pytest.mark.parametrize("option", ["read_only", "trust_journal", "use_hints", "create"])
def test_options_that_are_true_or_false_take_nothing_else(tmp_path: Path, option: str) -> None:
    for value in ("no", "yes", 1, None):
        with pytest.raises(InvalidOption, match=f"{option} is .*True or False"):
            StorageEngine(tmp_path, **{option: cast(Any, value)})
