"""Parquet, Arrow IPC, CSV and NDJSON."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

import godb_arrow
from godb_arrow.connectors.etl.files import export_file, open_file

ROWS: list[dict[str, Any]] = [
    {"n": 1, "s": "x", "t": dt.datetime(2024, 1, 2, tzinfo=dt.UTC), "u": {"l": [1, None]}, "m": 1},
    {"n": None, "s": "é,\n", "t": None, "u": None, "m": "one", "b": b"\x00", "e": {}},
]


@pytest.fixture
def source() -> bytes:
    file = io.BytesIO()
    godb_arrow.write_godb(ROWS, file, "c")
    return file.getvalue()


@pytest.mark.parametrize("extension", ["parquet", "arrow", "ndjson", "jsonl", "csv"])
def test_there_and_back(source: bytes, tmp_path: Path, extension: str) -> None:
    target = tmp_path / f"x.{extension}"
    assert export_file(godb_arrow.scan_godb(source), target) == 2
    again = io.BytesIO()
    with open_file(target) as data:
        godb_arrow.write_godb(data, again, "c")
    found = godb_arrow.read_table(again.getvalue())
    if extension == "csv":
        assert found.column("s").to_pylist() == ["x", "é,\n"]
        assert found.column("u").to_pylist()[0] == '{"l":[1,null]}'
        return
    columns = ["_id", "n", "s", "t", "u"]
    whole = godb_arrow.read_table(source)
    assert found.select(columns).equals(whole.select(columns))
    if extension in ("ndjson", "jsonl", "arrow"):
        assert found.select(whole.schema.names).equals(whole)


def test_ndjson_of_documents_loses_nothing(source: bytes, tmp_path: Path) -> None:
    from godb_arrow.codec.jsontext import to_json_text

    target = tmp_path / "x.ndjson"
    target.write_text("\n".join(map(to_json_text, godb_arrow.read_documents(source))) + "\n\n")
    again = io.BytesIO()
    with open_file(target) as data:
        godb_arrow.write_godb(data, again, "c")
    assert list(godb_arrow.read_documents(again.getvalue())) == list(
        godb_arrow.read_documents(source)
    )


def test_parquet_has_plain_types_that_everybody_reads(source: bytes, tmp_path: Path) -> None:
    target = tmp_path / "x.parquet"
    export_file(godb_arrow.scan_godb(source), target)
    schema = pyarrow.parquet.read_schema(target)
    assert schema.field("m").type == pa.string()
    assert schema.field("e").type == pa.string(), "Parquet has no empty struct"


def test_a_failed_export_leaves_the_old_file(source: bytes, tmp_path: Path) -> None:
    target = tmp_path / "x.parquet"
    target.write_bytes(b"old")
    damaged = bytearray(source)
    damaged[-1] ^= 1
    with pytest.raises(godb_arrow.ChecksumMismatch):
        export_file(godb_arrow.scan_godb(bytes(damaged)), target)
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("x.ndjson", b'{"a":1}\n{"a":\n', godb_arrow.InvalidDocument, "line 2"),
        ("x.ndjson", b"[1]\n", godb_arrow.InvalidDocument, "line 1, .* not a JSON object"),
        ("x.ndjson", b"\xff\xfe\n", godb_arrow.InvalidDocument, "line 1"),
        ("x.parquet", b"PAR1", godb_arrow.InvalidOption, "not valid parquet"),
        ("x.arrow", b"nonsense", godb_arrow.InvalidOption, "not valid ipc"),
        ("x.csv", b"a,b\n1\n2,3\n", godb_arrow.InvalidOption, "not valid csv"),
    ],
)
def test_damaged_sources(
    tmp_path: Path, name: str, content: bytes, error: type[Exception], says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(error, match=says), open_file(path) as data:
        godb_arrow.write_godb(data, io.BytesIO(), "c")


def test_formats_that_are_not_known() -> None:
    rows = pa.table({}).to_reader()
    for call in (
        lambda: open_file("x.docx").__enter__(),
        lambda: open_file("x.csv", format="xml").__enter__(),
        lambda: export_file(rows, "x.docx"),
        lambda: export_file(rows, "x", format="y"),
    ):
        with pytest.raises(godb_arrow.InvalidOption, match="format"):
            call()
