"""Formats that people have, and formats that other packages add."""

from __future__ import annotations

import bz2
import datetime as dt
import decimal
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support import extensions as installed

import godb_arrow
from godb_arrow import InvalidDocument, InvalidOption, StorageError
from godb_arrow.cli.command import main
from godb_arrow.connectors.etl import copy
from godb_arrow.connectors.etl.files import export_documents, export_file, open_file

LINES = [{"_id": "a", "n": 1, "text": "line\nfeed"}, {"_id": "b", "n": 2.5}]
PAGE = (Path(__file__).parents[2] / "docs" / "extension_points.md").read_text()


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "users.godb"
    godb_arrow.write_godb(LINES, path, "users")
    return path


@pytest.mark.parametrize(
    "name", ["x.ndjson.gz", "x.ndjson.zst", "x.jsonl.bz2", "x.json", "x.json.gz"]
)
def test_json_in_any_form_is_written_and_read(source: Path, tmp_path: Path, name: str) -> None:
    run("export", source, tmp_path / name)
    assert run("import", tmp_path / name, tmp_path / "y.godb")
    assert list(godb_arrow.read_documents(tmp_path / "y.godb", "x")) == LINES
    copy(tmp_path / name, tmp_path / "z.parquet", progress=False)
    copy([{"_id": "c"}], tmp_path / name, if_exists="append", progress=False)
    copy(tmp_path / name, tmp_path / "w.godb", progress=False)
    assert len(list(godb_arrow.read_documents(tmp_path / "w.godb"))) == 3


def test_json_files_are_arrays(source: Path, tmp_path: Path) -> None:
    run("export", source, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == LINES
    run("export", source, tmp_path / "x.json", "--where", "n>99")
    assert json.loads((tmp_path / "x.json").read_text()) == []


def test_compressed_csv(tmp_path: Path) -> None:
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"n,t\n1,a\n2,b\n"))
    run("import", tmp_path / "x.csv.gz", tmp_path / "x.godb")
    table = godb_arrow.read_table(tmp_path / "x.godb", "x", columns=["n", "t"])
    assert table.to_pydict() == {"n": [1, 2], "t": ["a", "b"]}
    run("export", tmp_path / "x.godb", tmp_path / "y.csv.bz2", "--columns", "n")
    assert bz2.decompress((tmp_path / "y.csv.bz2").read_bytes()) == b'"n"\n1\n2\n'


@pytest.mark.parametrize(("name", "library"), [("x.xlsx", "openpyxl"), ("x.xls", "xlrd")])
def test_a_spreadsheet_names_the_library_that_reads_it(name: str, library: str) -> None:
    with (
        pytest.raises(InvalidOption, match=rf"pandas.read_excel \(which needs {library}\)"),
        open_file(name),
    ):
        pass


def test_a_compressed_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="compresses itself"):
        export_file(pa.table({"n": [1]}).to_reader(), tmp_path / "x.parquet.gz")


def test_extended_json_of_mongodb(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(
        '[{"_id": {"$oid": "0123456789abcdef01234567"}, "at": {"$date": 0}}]'
    )
    run("import", tmp_path / "x.json", tmp_path / "x.godb", "--extended-json")
    (document,) = godb_arrow.read_documents(tmp_path / "x.godb")
    assert document == {
        "_id": "0123456789abcdef01234567",
        "at": dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
    }


# --- formats of other packages -----------------------------------------------------------------


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    section = PAGE.partition("## Formats\n")[2].partition("\n## ")[0]
    text, entry = re.findall(r"```(?:python|toml)\n(.*?)```", section, re.DOTALL)[:2]
    assert len(text.strip().splitlines()) < 25
    entry = entry.replace('"', "").partition("]\n")[2].strip()
    folder = tmp_path / "packages"
    folder.mkdir()
    installed.install(folder, monkeypatch, entry.partition("= ")[2], text, formats=entry)
    yield
    installed.forget()


def test_another_package_adds_a_format(toml: None, source: Path, tmp_path: Path) -> None:
    run("export", source, tmp_path / "x.tsv", "--columns", "n,text")
    run("import", tmp_path / "x.tsv", tmp_path / "x.godb")
    found = [one["n"] for one in godb_arrow.read_documents(tmp_path / "x.godb", "x")]
    assert found == ["1.0", "2.5"]
    copy(source, tmp_path / "y", format="tsv", progress=False)
    copy(tmp_path / "x.tsv", tmp_path / "z.parquet", progress=False)
    with pytest.raises(InvalidOption, match="did you mean 'tsv'"):
        copy(source, tmp_path / "q", format="tsw", progress=False)
    with pytest.raises(InvalidOption, match="'x' is no option of tsv; omit format_options"):
        copy(source, tmp_path / "v", format="tsv", format_options={"x": 1}, progress=False)


@pytest.mark.parametrize("target", ["y.parquet", "y.ndjson", "y.godb", "sqlite:///y.db#y"])
def test_options_that_no_side_has_are_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    export_file(pa.table({"n": [1]}).to_reader(), "x.parquet")
    for origin in (source, "x.parquet"):
        with pytest.raises(InvalidOption, match="'nonsense' is no option of"):
            copy(origin, target, format_options={"nonsense": 1}, progress=False)
    assert not list(tmp_path.glob("y.*"))


def test_options_of_a_built_in_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(InvalidOption, match="no option of parquet"):
        export_file(pa.table({"n": [1]}).to_reader(), path, options={"nonsense": 1})
    with pytest.raises(InvalidOption, match="no option of ndjson"):
        export_documents([], tmp_path / "x.ndjson", options={"nonsense": 1})
    export_file(pa.table({"n": [1]}).to_reader(), path)
    with (
        pytest.raises(InvalidOption, match="no option of parquet"),
        open_file(path, options={"nonsense": 1}),
    ):
        pass


def test_options_belong_to_the_function_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
kind = "documents"


def read(stream, name, *, first=0):
    return iter([{"n": first}])


def write(stream, documents, last, **more):
    stream.write(repr((list(documents), last, more)).encode())
"""
    installed.install(tmp_path, monkeypatch, "my_sides", text, formats="sides = my_sides")
    (tmp_path / "x.sides").write_bytes(b"")
    options = {"first": 5, "last": 6, "any": 7}
    copy(tmp_path / "x.sides", tmp_path / "y.sides", format_options=options, progress=False)
    assert (tmp_path / "y.sides").read_text() == repr(([{"n": 5}], 6, {"first": 5, "any": 7}))
    installed.forget()


def test_errors_of_decompressors_are_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
import bz2

kind = "documents"


def read(stream, name):
    if stream.read(1) == b"!":
        raise PermissionError(13, "denied")
    yield {"n": bz2.decompress(b"nonsense")}
"""
    installed.install(tmp_path, monkeypatch, "my_damage", text, formats="damage = my_damage")
    path = tmp_path / "x.damage"
    for content, error in ((b"", InvalidDocument), (b"!", StorageError)):
        path.write_bytes(content)
        with pytest.raises(error), open_file(path) as found:
            list(found)
    installed.forget()


# --- Avro --------------------------------------------------------------------------------------

MANY = pa.table(
    {
        "b": pa.array([True, None]),
        "i8": pa.array([1, None], pa.int8()),
        "i32": pa.array([-5, 5], pa.int32()),
        "i64": pa.array([2**62, None]),
        "f32": pa.array([0.5, None], pa.float32()),
        "f64": pa.array([0.1, None]),
        "s": pa.array(["ä", None]),
        "bin": pa.array([b"\0\xff", None]),
        "date": pa.array([dt.date(2020, 2, 29), None]),
        "ms": pa.array([1, None], pa.timestamp("ms", "UTC")),
        "us": pa.array([1, None], pa.timestamp("us", "UTC")),
        "ns": pa.array([1, None], pa.timestamp("ns", "UTC")),
        "local": pa.array([1, None], pa.timestamp("us")),
        "time": pa.array([1, None], pa.time64("us")),
        "dec": pa.array([decimal.Decimal("-12.345"), None], pa.decimal128(20, 3)),
        "list": pa.array([[1, None], None], pa.list_(pa.int64())),
        "struct": pa.array([{"a b": 1, "c": [{"d": "x"}]}, None]),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "a name": pa.array([1, 2]),
        "null": pa.nulls(2),
    }
)


def read_avro(path: Path) -> pa.Table:
    with open_file(path) as reader:
        assert isinstance(reader, pa.RecordBatchReader)
        return reader.read_all()


def test_avro_keeps_values_and_types(tmp_path: Path) -> None:
    pytest.importorskip("fastavro")
    path = tmp_path / "x.avro"
    assert export_file(MANY.to_reader(), path) == 2
    table = read_avro(path)
    assert table.to_pylist() == MANY.to_pylist()
    changed = {"i8": pa.int32()}
    for field in MANY.schema:
        assert table.schema.field(field.name).type == changed.get(field.name, field.type), field


def test_avro_in_commands(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastavro")
    run("export", source, tmp_path / "x.avro")
    run("import", tmp_path / "x.avro", tmp_path / "x.godb")
    assert [one["n"] for one in godb_arrow.read_documents(tmp_path / "x.godb")] == [1, 2.5]
    run("copy", tmp_path / "x.avro", tmp_path / "x.parquet")
    copy(tmp_path / "x.parquet", tmp_path / "x.avro", if_exists="append", progress=False)
    assert len(read_avro(tmp_path / "x.avro")) == 4


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_avro_of_other_programs(tmp_path: Path, codec: str) -> None:
    fastavro = pytest.importorskip("fastavro")
    schema = {
        "type": "record", "name": "shop.User", "fields": [
            {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
            {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
            {"name": "again", "type": ["null", "Kind"]},
            {"name": "any", "type": ["null", "string", "long"]},
            {"name": "fix", "type": {"type": "fixed", "name": "F", "size": 2}},
        ],
    }  # fmt: skip
    rows = [
        {"id": "0-0", "kind": "A", "again": "B", "any": "x", "fix": b"ab"},
        {"id": "x", "kind": "B", "again": None, "any": 3, "fix": b"cd"},
    ]  # fmt: skip
    with (tmp_path / "x.avro").open("wb") as file:
        fastavro.writer(file, schema, rows, codec=codec)
    assert read_avro(tmp_path / "x.avro").to_pylist() == [
        {**rows[0], "any": '"x"'}, {**rows[1], "any": "3"},
    ]  # fmt: skip


def test_hostile_avro_is_refused_or_keeps_its_rows(tmp_path: Path) -> None:
    pytest.importorskip("fastavro")
    path = tmp_path / "x.avro"
    export_file(MANY.to_reader(), path)
    data = path.read_bytes()
    for at in range(0, len(data), 37):
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        with suppress(InvalidDocument, InvalidOption):
            assert len(read_avro(path)) == 2
        path.write_bytes(data[:at])
        with pytest.raises((InvalidDocument, InvalidOption)):
            read_avro(path)


def avro_long(value: int) -> bytes:
    value, out = (value << 1) ^ (value >> 63), bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def avro_of(schema: Any, *blocks: tuple[bytes, int], codec: str = "null") -> bytes:
    text = json.dumps(schema).encode()
    entries = ((b"avro.schema", text), (b"avro.codec", codec.encode()))
    head = avro_long(2) + b"".join(
        avro_long(len(part)) + part for entry in entries for part in entry
    )
    parts = [
        avro_long(count) + avro_long(len(block)) + block + bytes(16) for block, count in blocks
    ]
    return b"Obj\x01" + head + avro_long(0) + bytes(16) + b"".join(parts)


def record_of(*types: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    fields = [{"name": f"f{index}", "type": kind} for index, kind in enumerate(types)]
    return {"type": "record", "name": name, "fields": fields, **more}


@pytest.fixture
def avro(tmp_path: Path) -> Any:
    """Function that reads an Avro file of a schema and blocks."""
    pytest.importorskip("fastavro")

    def read(schema: Any, *blocks: tuple[bytes, int], codec: str = "null") -> Any:
        (tmp_path / "x.avro").write_bytes(avro_of(schema, *blocks, codec=codec))
        return read_avro(tmp_path / "x.avro")

    return read


ARRAY = {"type": "array", "items": "int"}
DOUBLED = [record_of("int", name="R0")] + [
    record_of(f"R{n}", f"R{n}", name=f"R{n + 1}") for n in range(14)
]
CHAINED = [record_of("int", name="R0")] + [record_of(f"R{n}", name=f"R{n + 1}") for n in range(70)]


@pytest.mark.parametrize(
    ("fields", "block", "count", "text"),
    [
        ([{"type": "array", "items": "null"}], b"\xfe" * 9 + b"\x01\0", 1, "items have no bytes"),
        ([{"type": "array", "items": record_of(name="E")}], b"\x02\0", 1, "items have no bytes"),
        (["string"], b"\xfe\xff\xff\xff\x0f", 1, "cannot be read"),
        ([{"type": "fixed", "name": "F", "size": 4}], b"abc", 1, "claims"),
        (["string"], b"", 1 << 40, "claims"),
        (["null"], b"", 1 << 60, "claims"),
        ([], b"", 1 << 60, "claims"),
        ([["null", "R"]], b"\x02" * 99, 1, "contains itself"),
        (["unknown"], b"", 1, "unknown"),
        (DOUBLED, b"\0" * 40_000, 1, "more than 10000 types"),
        ([["string", *DOUBLED]], b"\x1c", 1, "more than 10000 types"),
        (CHAINED, b"\0" * 80, 1, "nested deeper"),
        (["int"], b"\x02\x04\x06\x08\x0a", 3, "2 bytes after its last record"),
        (["int"], b"\x02", -1, "claims"),
        ([{"type": "bytes", "logicalType": "decimal", "precision": 9}],
         b"\xa0\x06" + b"\x7f" * 400, 1, "decimal of 400 bytes"),
        ([{"type": "fixed", "name": "F", "size": -1}], b"abc", 1, "-1 bytes"),
        ([{"type": "array"}], b"", 1, "no valid 'items'"),
        ([record_of(name="A"), record_of(name="A")], b"", 1, "twice"),
    ],
)  # fmt: skip
def test_avro_that_claims_too_much(
    avro: Any, fields: list[Any], block: bytes, count: int, text: str
) -> None:
    with pytest.raises(InvalidDocument, match=text):
        avro(record_of(*fields), (block, count))


def test_avro_records_of_no_bytes_are_rows(avro: Any) -> None:
    assert len(avro(record_of(), (b"", 5), (b"", 2))) == 7
    assert avro(record_of("null"), (b"", 3)).to_pydict() == {"f0": [None] * 3}


def test_large_blocks_of_avro_are_several_batches(
    avro: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastavro")
    from godb_arrow.connectors.etl import avro as module
    from godb_arrow.connectors.etl import avro_plain

    monkeypatch.setattr(module, "_BATCH_MEMORY", 1 << 20)
    monkeypatch.setattr(avro_plain, "_MAX_RECORD_MEMORY", 1 << 20)
    lists = {"type": "array", "items": ARRAY}
    text = avro_long(1000) + b"x" * 1000
    table = avro(record_of("string"), (text * 200, 200), (text * 200, 200))
    assert table["f0"].to_pylist() == ["x" * 1000] * 400
    sizes = [len(chunk) for chunk in table["f0"].chunks]
    assert len(sizes) > 100 and sum(sizes) == 400
    small = avro_long(2) + b"\0\0" + b"\0"
    large = avro_long(9000) + b"\0" * 9000 + b"\0"
    rows = avro(record_of(lists), (small + large + small * 2, 4))["f0"].to_pylist()
    assert [len(row) for row in rows] == [2, 9000, 2, 2]
    hostile = avro_long(30_000) + b"\0" * 30_000 + b"\0"
    with pytest.raises(InvalidDocument, match="bytes of memory"):
        avro(record_of(lists), (small + hostile, 2))
    with pytest.raises(InvalidDocument, match="ends early"):
        avro(record_of(lists), (small + hostile[:9000], 2))


def test_blocks_of_avro_that_tell_their_size_are_counted(
    avro: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastavro")
    from godb_arrow.connectors.etl import avro as module

    monkeypatch.setattr(module, "_BATCH_MEMORY", 1)  # so that each record is counted
    sized = avro_long(-3) + avro_long(3) + b"\x02\x04\x06" + b"\0"
    lists = {"type": "array", "items": "long"}
    rows = avro(record_of(lists), (sized + b"\x02\x08\0" + sized, 3))["f0"].to_pylist()
    assert rows == [[1, 2, 3], [4], [1, 2, 3]]


VALUES = {
    "type": "map", "values": ["null", "boolean", "float", "double", "bytes", {
        "type": "fixed", "name": "F", "size": 3}, {"type": "enum", "name": "E", "symbols": ["A"]},
        {"type": "array", "items": record_of("long", "string", name="I")}],
}  # fmt: skip


def test_the_memory_of_all_types_of_avro_is_counted(
    avro: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastavro = pytest.importorskip("fastavro")
    from godb_arrow.connectors.etl import avro as module

    row = {"f0": {"a": None, "b": True, "c": 0.5, "d": 0.1, "e": b"xyz" * 9, "f": "A", "g": [
        {"f0": -(2**60), "f1": "text"}]}}  # fmt: skip
    with (tmp_path / "y.avro").open("wb") as file:
        fastavro.writer(file, record_of(VALUES), [row] * 20)
    whole = read_avro(tmp_path / "y.avro").to_pylist()
    assert whole[0]["f0"][-1] == ("g", '[{"f0":-1152921504606846976,"f1":"text"}]')
    monkeypatch.setattr(module, "_BATCH_MEMORY", 1)  # so that each record is counted
    assert read_avro(tmp_path / "y.avro").to_pylist() == whole


def test_unions_in_lists_of_avro_are_json_text(avro: Any, tmp_path: Path) -> None:
    union = ["null", "long", "string"]
    lists, maps = {"type": "array", "items": union}, {"type": "map", "values": union}
    block = b"\x02\x02\x06\0" + b"\x02\x02a\x04\x02x\0" + b"\x02\x04"
    table = avro(record_of(lists, maps, record_of(union, name="S")), (block, 1))
    assert table.to_pylist() == [{"f0": ["3"], "f1": [("a", '"x"')], "f2": {"f0": "2"}}]
    copy(tmp_path / "x.avro", tmp_path / "x.godb", progress=False)
    (document,) = godb_arrow.read_documents(tmp_path / "x.godb")
    del document["_id"]
    assert document == {"f0": [3], "f1": {"a": "x"}, "f2": {"f0": 2}}


def test_namespaces_of_avro_are_inherited(avro: Any) -> None:
    inner = record_of({"type": "enum", "name": "Kind", "symbols": ["A"]}, name="Inner")
    schema = record_of(
        inner, "Inner", "shop.Inner", "shop.Kind", {"type": "Kind"},
        record_of("int", name="Inner", namespace=""), record_of("Inner", name="b.Inner"),
        name="Order", namespace="shop",
    )  # fmt: skip
    schema["fields"].append({"name": "last", "type": {"type": {"type": "b.Inner"}}})
    schema["fields"][6]["type"]["fields"][0]["type"] = "shop.Inner"
    row = avro(schema, (b"\0\0\0\0\0\x06\0\0", 1)).to_pylist()[0]
    kind = {"f0": "A"}
    assert row == {
        "f0": kind, "f1": kind, "f2": kind, "f3": "A", "f4": "A",
        "f5": {"f0": 3}, "f6": {"f0": kind}, "last": {"f0": kind},
    }  # fmt: skip
    with pytest.raises(InvalidDocument, match=r"unknown type 'b\.Kind'"):
        avro(record_of(inner, record_of("Kind", name="b.X"), namespace="shop"), (b"\0\0", 1))


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"tags": pa.array([[], [None], None], pa.list_(pa.null())), "n": [1, 2, 3]}),
        pa.table({"tags": pa.array([[], None], pa.list_(pa.null()))}),
        pa.table({"x": pa.nulls(5), "y": pa.nulls(5)}),
        pa.table({"x": pa.array([[("k", None)], None], pa.map_(pa.string(), pa.null()))}),
        pa.table({"x": pa.array([{"y": None}, None], pa.struct([("y", pa.null())]))}),
        pa.table({"x": pa.array([[{}], None], pa.list_(pa.struct([])))}),
        pa.table({"x": pa.array([], pa.null())}),
    ],
    ids=str,
)
def test_avro_that_is_written_is_read(tmp_path: Path, table: pa.Table) -> None:
    pytest.importorskip("fastavro")
    export_file(table.to_reader(), tmp_path / "x.avro")
    assert read_avro(tmp_path / "x.avro").to_pylist() == table.to_pylist()


def test_documents_with_empty_lists_become_avro_and_come_back(tmp_path: Path) -> None:
    pytest.importorskip("fastavro")
    documents = [{"_id": "a", "tags": []}, {"_id": "b", "tags": []}]
    godb_arrow.write_godb(documents, tmp_path / "x.godb", "c")
    copy(tmp_path / "x.godb", tmp_path / "x.avro", progress=False)
    copy(tmp_path / "x.avro", tmp_path / "y.godb", progress=False)
    assert list(godb_arrow.read_documents(tmp_path / "y.godb")) == documents


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


def framed_snappy(data: bytes) -> bytes:
    compressed: bytes = pa.compress(data, "snappy", asbytes=True)
    return compressed + zlib.crc32(data).to_bytes(4, "big")


CODECS: dict[str, Any] = {
    "deflate": raw_deflate,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstandard": lambda data: pa.compress(data, "zstd", asbytes=True),
    "snappy": framed_snappy,
}


@pytest.mark.parametrize("codec", CODECS)
def test_damaged_blocks_of_avro_are_refused(avro: Any, codec: str) -> None:
    data = CODECS[codec](b"\x06abc" * 1000)
    schema = record_of("string")
    assert avro(schema, (data, 1000), codec=codec)["f0"].to_pylist() == ["abc"] * 1000
    damaged = [data[:-1], data[:-3], data[: len(data) // 2], b"", b"nonsense" * 4]
    if codec == "snappy":
        damaged.append(data[:-1] + bytes([data[-1] ^ 1]))
    if codec not in ("deflate", "snappy"):
        damaged.append(data + b"xx")
    for block in damaged:
        with pytest.raises(InvalidDocument):
            avro(schema, (block, 1000), codec=codec)


def test_documents_are_no_rows_of_avro(tmp_path: Path) -> None:
    pytest.importorskip("fastavro")
    with pytest.raises(InvalidOption, match="has columns"):
        export_documents([{"a": 1}], tmp_path / "q.avro")


# --- Protobuf ----------------------------------------------------------------------------------


@pytest.fixture
def descriptor(tmp_path: Path) -> Path:
    """The set that protoc writes for a file with messages of all kinds of fields."""
    pb = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import duration_pb2, timestamp_pb2, wrappers_pb2

    kinds = pb.FieldDescriptorProto
    files = pb.FileDescriptorSet()
    for module in (timestamp_pb2, duration_pb2, wrappers_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    file = files.file.add(name="shop.proto", package="shop", syntax="proto3")
    file.dependency.extend(one.name for one in files.file[:3])
    item, order = file.message_type.add(name="Item"), file.message_type.add(name="Order")
    item.field.add(name="sku", number=1, type=kinds.TYPE_STRING, label=1)
    item.field.add(name="child", number=2, type=kinds.TYPE_MESSAGE, type_name=".shop.Item", label=1)
    state = file.enum_type.add(name="State")
    state.value.add(name="NEW", number=0)
    state.value.add(name="PAID", number=1)
    entry = order.nested_type.add(name="TagsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_INT32, label=1)
    entry.field.add(name="value", number=2, type=kinds.TYPE_STRING, label=1)
    for number, (name, kind, type_name, label) in enumerate(
        [
            ("id", kinds.TYPE_INT64, None, 1), ("big", kinds.TYPE_UINT64, None, 1),
            ("price", kinds.TYPE_DOUBLE, None, 1), ("raw", kinds.TYPE_BYTES, None, 1),
            ("ok", kinds.TYPE_BOOL, None, 1), ("state", kinds.TYPE_ENUM, ".shop.State", 1),
            ("items", kinds.TYPE_MESSAGE, ".shop.Item", 3),
            ("numbers", kinds.TYPE_SINT32, None, 3),
            ("tags", kinds.TYPE_MESSAGE, ".shop.Order.TagsEntry", 3),
            ("at", kinds.TYPE_MESSAGE, ".google.protobuf.Timestamp", 1),
            ("took", kinds.TYPE_MESSAGE, ".google.protobuf.Duration", 1),
            ("note", kinds.TYPE_MESSAGE, ".google.protobuf.StringValue", 1),
            ("single", kinds.TYPE_FLOAT, None, 1), ("words", kinds.TYPE_STRING, None, 3),
            ("flag", kinds.TYPE_MESSAGE, ".google.protobuf.BoolValue", 1),
            ("card", kinds.TYPE_STRING, None, 1), ("cash", kinds.TYPE_INT32, None, 1),
        ],
        1,
    ):  # fmt: skip
        order.field.add(name=name, number=number, type=kind, type_name=type_name, label=label)
    order.oneof_decl.add(name="payment")
    for field in order.field[-2:]:
        field.oneof_index = 0
    path = tmp_path / "shop.desc"
    path.write_bytes(files.SerializeToString())
    return path


ORDERS = [
    {
        "id": -5, "big": 2**63, "price": 1.5, "raw": b"\xff", "ok": True, "state": "PAID",
        "items": [{"sku": "a", "child": {"sku": "b"}}], "numbers": [-1, 2], "tags": {"7": "x"},
        "at": dt.datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC), "took": -1_500_000_000,
        "note": "", "single": 0.5, "words": ["x"], "flag": False, "card": "c",
    },
    {"id": 0, "big": 0, "price": 0.0, "raw": b"", "ok": False, "state": "NEW", "single": 0.0},
]  # fmt: skip


def test_protobuf_goes_and_comes_back(descriptor: Path, tmp_path: Path) -> None:
    options = {"descriptor": descriptor, "message": "shop.Order"}
    path = tmp_path / "orders.protobuf"
    copy(ORDERS, path, format_options=options, progress=False)
    copy(path, tmp_path / "orders.godb", format_options=options, progress=False)
    found = list(godb_arrow.read_documents(tmp_path / "orders.godb"))
    assert [{k: v for k, v in one.items() if k != "_id"} for one in found] == ORDERS
    given = ("--format-option", f"descriptor={descriptor}", "--format-option", "message=shop.Order")
    run("export", tmp_path / "orders.godb", tmp_path / "again.protobuf", *given)
    assert (tmp_path / "again.protobuf").read_bytes() == path.read_bytes()
    run("import", path, tmp_path / "third.godb", *given)
    copy(path, tmp_path / "orders.parquet", format_options=options, progress=False)
    copy(ORDERS[:1], path, format_options=options, if_exists="append", progress=False)
    copy(path, tmp_path / "x.ndjson", format_options=options, progress=False)
    assert (tmp_path / "x.ndjson").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"id": "x"}, "field 'id'"), ({"nope": 1}, "no field 'nope'"), ({"big": -1}, "'big'"),
        ({"state": "GONE"}, "no value 'GONE'"), ({"at": 5}, "no moment"),
        ({"items": [3]}, r"field 'items\[0\]': 3 is no map"),
        ({"items": [{}, {"child": {"sku": 1}}]}, r"'items\[1\]\.child\.sku': 1 is no text"),
        ({"items": [{"nope": 1}]}, r"no field 'nope' for 'items\[0\]\.nope'"),
        ({"items": [{"_id": 1}]}, "no field '_id'"), ({"items": {"sku": "a"}}, "no list"),
        ({"words": "abc"}, "'words': 'abc' is no list"), ({"words": {"a": 1}}, "no list"),
        ({"words": b"abc"}, "no list"), ({"words": ["a", None]}, r"'words\[1\]'"),
        ({"ok": 2}, "'ok': 2 is no bool"), ({"ok": "x"}, "no bool"), ({"flag": 1}, "no bool"),
        ({"id": True}, "'id': True is no whole number"), ({"id": 1.5}, "no whole number"),
        ({"numbers": [2**31]}, r"'numbers\[0\]'"), ({"numbers": [True]}, "no whole number"),
        ({"note": b"x"}, "'note': b'x' is no text"), ({"card": b"x"}, "no text"),
        ({"raw": "x"}, "'raw': 'x' is no binary"), ({"raw": 3}, "no binary"),
        ({"single": 1e39}, "'single'"), ({"single": 16777217}, "16777217 is not exact as a float"),
        ({"single": 16777217.0}, "not exact"), ({"price": 2**53 + 1}, "not exact as a double"),
        ({"price": True}, "no number"), ({"price": "1"}, "no number"), ({"raw": []}, "no binary"),
        ({"took": 1.5}, "'took': 1.5 is no whole number"), ({"state": 1.5}, "no whole number"),
        ({"tags": [1]}, "no map"), ({"tags": {"07": "x"}}, r"'tags\.07'"),
        ({"tags": {"7": 8}}, r"'tags\.7': 8 is no text"),
        ({"tags": {"7": "x", 7: "y"}}, "key twice"), ({"tags": {True: "x"}}, "no whole number"),
        ({"card": "a", "cash": 1}, "'cash': another field of 'payment' has a value"),
    ],
)  # fmt: skip
def test_documents_that_fit_no_message(
    descriptor: Path, tmp_path: Path, document: Any, text: str
) -> None:
    options = {"descriptor": descriptor, "message": "shop.Order"}
    with pytest.raises(InvalidDocument, match=text):
        copy([document], tmp_path / "x.protobuf", format_options=options, progress=False)
    assert not (tmp_path / "x.protobuf").exists()


def test_wrong_descriptors_are_errors(descriptor: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.protobuf"
    path.write_bytes(b"")
    for options, text in (
        ({}, "wrong or missing"), ({"descriptor": descriptor}, "messages; give message="),
        ({"descriptor": descriptor, "message": "Nope"}, "no message 'Nope'"),
        ({"descriptor": __file__, "message": "x"}, "no descriptor set"),
    ):  # fmt: skip
        with pytest.raises(InvalidOption, match=text), open_file(path, options=options) as found:
            list(found)


def test_numbers_that_protobuf_rounds_as_documents_expect(descriptor: Path, tmp_path: Path) -> None:
    options = {"descriptor": descriptor, "message": "shop.Order"}
    document = {"single": 0.1, "id": 3.0, "price": 7, "big": 1, "cash": 4, "tags": {7: "x"}}
    copy([document], tmp_path / "x.protobuf", format_options=options, progress=False)
    with open_file(tmp_path / "x.protobuf", options=options) as found:
        (read,) = found
    assert read["single"] == pytest.approx(0.1, rel=1e-7)
    assert (read["id"], read["price"], read["tags"], read["cash"]) == (3, 7.0, {"7": "x"}, 4)
    infinite = {"single": float("inf"), "price": float("nan")}
    copy([infinite], tmp_path / "y.protobuf", format_options=options, progress=False)


def test_protobuf_becomes_avro(descriptor: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastavro")
    options = {"descriptor": descriptor, "message": "shop.Order"}
    path = tmp_path / "orders.protobuf"
    orders = [{**one, "big": 1} for one in ORDERS]
    copy(orders, path, format_options=options, progress=False)
    copy(path, tmp_path / "orders.avro", format_options=options, progress=False)
    assert read_avro(tmp_path / "orders.avro")["id"].to_pylist() == [-5, 0]
    narrow = {"columns": ["id", "ok"], "format_options": options, "progress": False}
    copy(tmp_path / "orders.avro", tmp_path / "again.protobuf", **narrow)
    copy(tmp_path / "orders.avro", tmp_path / "again.protobuf", if_exists="append", **narrow)
    with open_file(tmp_path / "again.protobuf", options=options) as found:
        assert [one["id"] for one in found] == [-5, 0, -5, 0]
    with pytest.raises(InvalidOption, match="'mesage' is no option of protobuf or avro"):
        copy(path, tmp_path / "z.avro", format_options={"mesage": "x"}, progress=False)


@given(st.binary(max_size=60))
def test_hostile_protobuf_is_refused(hostile: Path, data: bytes) -> None:
    descriptor, path = hostile / "shop.desc", hostile / "h.protobuf"
    for content in (data, bytes([len(data)]) + data, b"\xff" * 9 + data):
        path.write_bytes(content)
        options = {"descriptor": descriptor, "message": "shop.Order"}
        try:
            with open_file(path, options=options) as found:
                list(found)
        except InvalidDocument:
            continue


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    descriptor.__wrapped__(folder)  # type: ignore[attr-defined]
    return folder


@pytest.mark.parametrize(
    "target",
    ["u.parquet", "u.ndjson", "u.avro", "v.godb", "data#u", "lake", "table", "sqlite:///~/s.db#u"],
)
def test_copies_know_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    if target.endswith("avro"):
        pytest.importorskip("fastavro")
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir(), here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    godb_arrow.write_godb(LINES, "~/u.godb", "u")
    format = {"lake": "parquet", "table": "delta"}.get(target)
    address = target if "://" in target else f"~/{target}"
    copy("~/u.godb", address, format=format, progress=False)
    copy(address, "~/back.ndjson", progress=False)
    assert len((home / "back.ndjson").read_bytes().splitlines()) == 2
    assert not list(here.iterdir())


def test_several_files_are_copied_as_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        godb_arrow.write_godb([{"n": name}], tmp_path / f"{name}.godb", "c")
    copy(tmp_path / "*.godb", tmp_path / "x.ndjson", progress=False)
    copy([tmp_path / "a.godb", str(tmp_path / "b.godb")], tmp_path / "x.csv", progress=False)
    assert (tmp_path / "x.ndjson").read_bytes().count(b"\n") == 2
    with godb_arrow.StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("only").insert({"n": 1})
    copy(tmp_path / "data", tmp_path / "y.ndjson", progress=False)


def test_a_built_in_name_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "kind = 'documents'\n\ndef read(stream, name):\n    return iter([{'other': True}])\n"
    installed.install(tmp_path, monkeypatch, "their_ndjson", text, formats="ndjson = their_ndjson")
    path = tmp_path / "a.ndjson"
    path.write_text('{"n": 1}\n')
    copy(path, tmp_path / "a.godb")
    assert godb_arrow.read_table(tmp_path / "a.godb")["n"].to_pylist() == [1]


YEARS_1_AND_9999 = [1, None, -62_135_596_800_000_000, 253_402_300_799_999_999]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(YEARS_1_AND_9999, pa.timestamp("us")),
        pa.array(YEARS_1_AND_9999, pa.timestamp("us", "UTC")),
        pa.array([1, None, 0], pa.timestamp("ns")),
        pa.array([1, None, 3_600_000_001], pa.time64("us")),
        pa.array([1, None, 3_600_000_000_000], pa.time64("ns")),
        pa.array([1, None, 0], pa.time32("s")),
        pa.array(["0x10", None, "0X1f"]),
        pa.array(["10:00:00.5", None, "later"]),
        pa.array(["99:00:00.5", None, "2020-13-01 00:00:00.5"]),
    ],
    ids=lambda column: f"{column.type} {column.is_valid().to_pylist()[1:]}",
)
def test_times_moments_and_codes_come_back_from_csv(tmp_path: Path, column: pa.Array) -> None:
    path, back = tmp_path / "a.csv", tmp_path / "b.godb"
    copy(pa.table({"x": column, "n": range(len(column))}), path, progress=False)
    copy(path, back, progress=False)
    found = godb_arrow.read_table(back)["x"].combine_chunks()
    assert found.equals(column)


def test_hexadecimal_codes_of_a_csv_stay_text_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godb_arrow.connectors.etl.csv._SCANNED_BYTES", 3)
    (tmp_path / "a.csv").write_text("code,n\n" + "1,7\n" * 9 + "0x1F,7\n")
    copy(tmp_path / "a.csv", tmp_path / "a.godb", progress=False)
    found = godb_arrow.read_table(tmp_path / "a.godb")
    assert found["code"].to_pylist() == ["1"] * 9 + ["0x1F"] and found["n"].to_pylist() == [7] * 10
