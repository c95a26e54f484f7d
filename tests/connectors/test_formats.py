"""Formats that people have, and formats that other packages add."""

from __future__ import annotations

import bz2
import datetime as dt
import decimal
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support import extensions as installed

import godb_arrow
from godb_arrow import InvalidDocument, InvalidOption
from godb_arrow.cli.command import main
from godb_arrow.connectors.etl import copy
from godb_arrow.connectors.etl.files import export_file, open_file

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
    with pytest.raises(InvalidOption, match="option of tsv"):
        copy(source, tmp_path / "v", format="tsv", format_options={"x": 1}, progress=False)


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


def test_hostile_avro_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fastavro")
    path = tmp_path / "x.avro"
    export_file(MANY.to_reader(), path)
    data = path.read_bytes()
    for at in range(0, len(data), 37):
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        for content in (bytes(damaged), data[:at]):
            path.write_bytes(content)
            try:
                read_avro(path)
            except (InvalidDocument, InvalidOption):
                continue


def avro_of(schema: Any, block: bytes, count: int = 1) -> bytes:
    def long(value: int) -> bytes:
        value, out = value << 1, bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    text = json.dumps(schema).encode()
    head = long(1) + long(11) + b"avro.schema" + long(len(text)) + text + long(0)
    return b"Obj\x01" + head + bytes(16) + long(count) + long(len(block)) + block + bytes(16)


@pytest.mark.parametrize(
    ("field", "block", "count", "text"),
    [
        ({"type": "array", "items": "null"}, b"\xfe" * 9 + b"\x01\0", 1, "items have no bytes"),
        ("string", b"\xfe\xff\xff\xff\x0f", 1, "cannot be read"),
        ("string", b"", 1 << 40, "claims"),
        (["null", "R"], b"\x02" * 99, 1, "contains itself"),
        ("unknown", b"", 1, "unknown|cannot be read"),
    ],
)  # fmt: skip
def test_avro_that_claims_too_much(
    tmp_path: Path, field: Any, block: bytes, count: int, text: str
) -> None:
    pytest.importorskip("fastavro")
    schema = {"type": "record", "name": "R", "fields": [{"name": "f", "type": field}]}
    (tmp_path / "x.avro").write_bytes(avro_of(schema, block, count))
    with pytest.raises(InvalidDocument, match=text):
        read_avro(tmp_path / "x.avro")


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
        ],
        1,
    ):  # fmt: skip
        order.field.add(name=name, number=number, type=kind, type_name=type_name, label=label)
    path = tmp_path / "shop.desc"
    path.write_bytes(files.SerializeToString())
    return path


ORDERS = [
    {
        "id": -5, "big": 2**63, "price": 1.5, "raw": b"\xff", "ok": True, "state": "PAID",
        "items": [{"sku": "a", "child": {"sku": "b"}}], "numbers": [-1, 2], "tags": {"7": "x"},
        "at": dt.datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC), "took": -1_500_000_000,
        "note": "",
    },
    {"id": 0, "big": 0, "price": 0.0, "raw": b"", "ok": False, "state": "NEW"},
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
        ({"items": [3]}, "no map"),
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
