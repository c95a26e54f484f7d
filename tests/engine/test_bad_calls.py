"""Arguments that cannot be meant are errors of godb_arrow, in every state of a collection."""

from __future__ import annotations

import decimal
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner

import godb_arrow
from godb_arrow import (
    DocumentNotFound,
    GodbError,
    InvalidDocument,
    InvalidOption,
    OptionWarning,
    StorageEngine,
    UnsupportedType,
)
from godb_arrow.cli.command import main

HALF = "\ud800"
"""Half of a surrogate pair, which no text of a document has."""

MANY = 1 << 70  # more than 64 bits

STATES: dict[str, Callable[[StorageEngine], Any]] = {
    "unsaved": lambda engine: None,
    "saved": lambda engine: engine.save(),
    "in parts": lambda engine: (engine["c"].to_folder(), engine.save()),
}


def in_memory(documents: Any) -> bytes:
    file = io.BytesIO()
    godb_arrow.write_godb(documents, file, "c")
    return file.getvalue()


@pytest.mark.parametrize("state", STATES)
def test_no_document_has_half_of_a_surrogate_pair_as_its_id(tmp_path: Path, state: str) -> None:
    with StorageEngine(tmp_path) as engine:
        c = engine.create_collection("c")
        c.insert_many([{"_id": "1", "a": 1}, {"_id": "ä"}])
        STATES[state](engine)
        assert HALF not in c and c.get(HALF, 5) == 5 and "ä" in c
        for change in (
            lambda: c.get(HALF),
            lambda: c.delete(HALF),
            lambda: c.update(HALF, {"a": 2}),
            lambda: c.replace(HALF, {"a": 2}),
            lambda: c.update_by_id({"1": {"a": 3}, HALF: {"a": 3}}),
        ):
            with pytest.raises(DocumentNotFound, match="ud800"):
                change()
        with engine.transaction() as transaction, pytest.raises(DocumentNotFound):
            transaction["c"].delete(HALF)
        assert c.get("1") == {"_id": "1", "a": 1}


def test_an_id_of_a_file_with_half_of_a_surrogate_pair() -> None:
    with pytest.raises(DocumentNotFound):
        godb_arrow.read_document(in_memory([{"a": 1}]), HALF)


def test_limits_of_any_size(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        c = engine.create_collection("c")
        c.insert_many([{"a": 2}, {"a": 1}])
        for sort, first in ((None, 2), ("a", 1)):
            assert c.find(limit=MANY, offset=0, sort=sort)[0]["a"] == first
            assert c.find(limit=MANY, offset=MANY, sort=sort) == []
            assert len(c.find({"a": {"$gt": 0}}, limit=2**63 - 1, offset=1, sort=sort)) == 1
        with pytest.raises(InvalidOption, match="offset is None"):
            c.find(offset=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["batch_size", "batch_bytes", "max_document_bytes", "sample"])
def test_counts_fit_64_bits(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"{name} is .*below"):
        godb_arrow.read_table(in_memory([{"a": 1}]), **{name: MANY})  # type: ignore[arg-type]
    assert godb_arrow.read_table(in_memory([{"a": 1}]), batch_size=2**63 - 1).num_rows == 1


@pytest.mark.parametrize("size", [float("inf"), float("nan"), 1e300])
def test_an_infinite_memory_limit_is_no_size(tmp_path: Path, size: float) -> None:
    with pytest.warns(OptionWarning, match="max_memory"):
        StorageEngine(tmp_path, max_memory=size).close()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "schema",
    [5, {"a": pa.int64()}, [("a", pa.int64())], pa.int64(), pa.schema([("a", pa.int8())] * 2)],
)
def test_a_schema_is_a_schema_of_distinct_fields(tmp_path: Path, schema: Any) -> None:
    with StorageEngine(tmp_path) as engine:
        c = engine.create_collection("c")
        c.insert({"a": 1})
        for read in (
            lambda: godb_arrow.read_table(in_memory([{"a": 1}]), schema=schema),
            lambda: godb_arrow.scan_godb(in_memory([{"a": 1}]), schema=schema),
            lambda: godb_arrow.read_ndjson(io.BytesIO(b'{"a": 1}'), schema=schema),
            lambda: c.stream(schema=schema),
        ):
            with pytest.raises(InvalidOption, match="schema"):
                read()


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b"])
def test_a_path_that_no_file_can_have(tmp_path: Path, path: str) -> None:
    place = f"{tmp_path}/{path}.godb"
    with StorageEngine(tmp_path / "data") as engine:
        for use in (
            lambda: godb_arrow.read_table(place),
            lambda: godb_arrow.verify_godb(place),
            lambda: godb_arrow.list_collections(place),
            lambda: godb_arrow.write_godb([{"a": 1}], place, "c"),
            lambda: engine.load_collection_metadata(place),
            lambda: engine.save_to_file(place),
            lambda: engine.backup(f"{tmp_path}/{path}"),
            lambda: StorageEngine(f"{tmp_path}/{path}"),
        ):
            with pytest.raises(GodbError):
                use()


def test_other_arguments(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="open as text"):
        godb_arrow.write_godb([{"a": 1}], io.StringIO(), "c")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="dtype_backend"):
        godb_arrow.read_godb(in_memory([{"a": 1}]), dtype_backend="numpy")  # type: ignore[arg-type]
    with StorageEngine(tmp_path) as engine, pytest.raises(InvalidOption, match="worker"):
        engine.add_worker(5, 1, print)  # type: ignore[arg-type]


FAR = {
    "seconds": pa.array([1 << 40, 0, None], pa.timestamp("s")),
    "zone": pa.array([1 << 60, 0, None], pa.timestamp("us", "UTC")),
    "days": pa.array([1 << 25, 0, None], pa.int32()).view(pa.date32()),
}


@pytest.mark.parametrize("name", FAR)
def test_moments_after_the_year_9999_are_read(tmp_path: Path, name: str) -> None:
    table = pa.table({"x": FAR[name]})
    frame = godb_arrow.read_godb(in_memory(table))
    assert isinstance(frame, pd.DataFrame) and frame["x"].isna().tolist() == [False, False, True]
    with StorageEngine(tmp_path) as engine:
        engine.create_collection("c").insert_many(table)
        result = engine["c"].aggregate("x", n="count")
        assert len(result.to_dicts()) == 3 and "<table>" in result._repr_html_()


def test_an_unknown_time_zone_is_an_error_of_ours() -> None:
    file = in_memory(pa.table({"x": pa.array([1], pa.timestamp("us", "Mars/Olympus"))}))
    assert godb_arrow.read_table(file).num_rows == 1
    with pytest.raises(UnsupportedType, match="DataFrame"):
        godb_arrow.read_godb(file)
    handle = godb_arrow.open_godb(file)
    assert str(handle.profile()["x"].min).startswith("1970-01-01")
    assert handle.sql("select x from c").to_arrow().num_rows == 1


@pytest.mark.parametrize("text", ["1E+999999999999", "1E-999999999999", "0E-999999999999"])
def test_a_decimal_whose_text_would_fill_the_memory_is_refused(tmp_path: Path, text: str) -> None:
    value = decimal.Decimal(text)
    with pytest.raises(InvalidDocument, match=r"at x .*exponent -?999999999999"):
        in_memory([{"x": value}])
    with StorageEngine(tmp_path / "data") as engine:
        c = engine.create_collection("c")
        c.insert({"_id": "1"})
        for change in (
            lambda: c.insert({"x": value}),
            lambda: c.insert_many([{"x": value}]),
            lambda: c.update("1", {"x": value}),
            lambda: c.update_many({}, {"$set": {"x": value}}),
        ):
            with pytest.raises(InvalidDocument, match="exponent"):
                change()
        assert c.find_all() == [{"_id": "1"}]
    lines = tmp_path / "a.json"
    lines.write_text(f'{{"x": {{"$numberDecimal": "{text}"}}}}')
    done = CliRunner().invoke(main, ["import", "--extended-json", str(lines), f"{tmp_path}/a.godb"])
    assert done.exit_code == 2 and "exponent" in done.output


def test_decimals_with_many_digits_are_stored() -> None:
    digits = "3." + "14159" * 4000
    values = [decimal.Decimal(digits), decimal.Decimal("1E+6144"), decimal.Decimal("1E-6176")]
    found = [d["x"] for d in godb_arrow.read_documents(in_memory([{"x": v} for v in values]))]
    assert found[0] == digits and list(map(decimal.Decimal, found)) == values
