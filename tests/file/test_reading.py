"""Reading: sources, collections, projections, filters, batches."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
import msgpack
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.handmade import file_of

import godb_arrow

ROWS = [
    {
        "name": f"user {n}",
        "age": n % 5,
        "user": {"id": n, "geo": {"cc": "DE" if n % 2 else "FR", "lat": n / 2}},
        "tags": ["a"] * (n % 3),
        "mixed": n if n % 2 else "x",
        "maybe": None if n % 4 else n,
    }
    for n in range(100)
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("reading") / "users.godb"
    godb_arrow.write_godb(ROWS, target, "users")
    return target


@pytest.fixture(scope="module")
def many() -> bytes:
    collections = {"a": {"1": {"x": 1}}, "b/c": {"1": {"y": 2}, "2": {"y": 3}}, "": {}}
    return file_of(msgpack.packb({"collections": collections}))


def test_every_kind_of_source(path: Path, tmp_path: Path) -> None:
    whole = godb_arrow.read_table(path)
    data = path.read_bytes()
    with fsspec.open("memory://folder/users.godb", "wb") as file:
        cast(BinaryIO, file).write(data)
    sources: list[Any] = [str(path), data, bytearray(data), memoryview(data), io.BytesIO(data),
                          f"file://{path}", "memory://folder/users.godb"]  # fmt: skip
    for source in sources:
        assert godb_arrow.read_table(source).equals(whole)
    with path.open("rb") as file:
        assert godb_arrow.read_table(file).equals(whole)
    behind = tmp_path / "behind"
    behind.write_bytes(b"12345" + data)
    with behind.open("rb") as file:
        file.seek(5)
        assert godb_arrow.read_table(file).equals(whole)


def test_a_stream_that_cannot_seek(path: Path) -> None:
    reading, writing = os.pipe()
    data = path.read_bytes()

    def feed() -> None:
        with open(writing, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    with open(reading, "rb") as file:
        assert godb_arrow.read_table(file).num_rows == 100
    thread.join()
    gc.collect()


def test_sources_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(godb_arrow.SourceNotFound, match=r"nowhere\.godb") as raised:
        godb_arrow.read_table(tmp_path / "nowhere.godb")
    assert isinstance(raised.value, FileNotFoundError)
    assert isinstance(raised.value.__cause__, FileNotFoundError)
    with pytest.raises(godb_arrow.InvalidOption, match="is a folder, and no data directory"):
        godb_arrow.read_table(tmp_path)
    with pytest.raises(godb_arrow.InvalidOption, match="int"):
        godb_arrow.read_table(cast(Any, 5))
    with pytest.raises(godb_arrow.InvalidOption, match="binary"):
        godb_arrow.read_table(cast(Any, io.StringIO("x")))
    with pytest.raises(godb_arrow.InvalidOption, match="nosuch"):
        godb_arrow.read_table("nosuch://bucket/x.godb")


def test_one_of_several_collections(many: bytes) -> None:
    assert godb_arrow.list_collections(many) == {"a": 1, "b/c": 2, "": 0}
    assert godb_arrow.read_table(many, "b/c").column("y").to_pylist() == [2, 3]
    assert godb_arrow.read_table(many, "").schema.names == ["_id"]
    for read in (godb_arrow.read_table, godb_arrow.scan_godb, godb_arrow.read_documents,
                 godb_arrow.read_schema):  # fmt: skip
        with pytest.raises(godb_arrow.CollectionRequired, match="'a', 'b/c', ''"):
            read(many)
        with pytest.raises(godb_arrow.CollectionNotFound, match="'a', 'b/c', ''") as raised:
            read(many, "nope")
        assert isinstance(raised.value, KeyError)
        assert str(raised.value).startswith("read <bytes>, collection 'nope': there is no")


def test_a_file_without_collections() -> None:
    data = file_of(b"\x81\xabcollections\x80")
    with pytest.raises(godb_arrow.CollectionRequired, match="no collections"):
        godb_arrow.read_table(data)
    with pytest.raises(godb_arrow.CollectionNotFound, match="no collections"):
        godb_arrow.read_table(data, "users")


def test_damage_behind_the_collection_that_is_read_is_noticed(many: bytes) -> None:
    import lz4.block

    body = lz4.block.decompress(many[8:], uncompressed_size=1000)
    with pytest.raises(godb_arrow.CorruptFile):
        godb_arrow.read_table(file_of(body[:-3]), "a")


def test_projection(path: Path) -> None:
    table = godb_arrow.read_table(path, columns=["age", "user.geo.cc", "_id", "user.id"])
    assert table.schema.names == ["age", "user.geo.cc", "_id", "user.id"]
    assert table.slice(1, 1).to_pylist() == [
        {"age": 1, "user.geo.cc": "DE", "_id": "2", "user.id": 1}
    ]
    whole = godb_arrow.read_table(path, columns=["user", "user.geo"])
    assert whole.column("user.geo")[3].as_py() == {"cc": "DE", "lat": 1.5}
    assert godb_arrow.read_table(path, columns=[]).num_rows == 100


def test_a_name_with_a_dot_comes_before_a_path() -> None:
    data = file_of(
        msgpack.packb({"collections": {"c": {"1": {"a.b": 1, "a": {"b": 2, "c.d": 3}}}}})
    )
    assert godb_arrow.read_table(data, columns=["a.b", "a.c.d"]).to_pylist() == [
        {"a.b": 1, "a.c.d": 3}
    ]


def test_a_path_into_a_null_struct_is_null() -> None:
    rows = {"1": {"a": None}, "2": {"a": {"b": 1}}, "3": {}}
    data = file_of(msgpack.packb({"collections": {"c": rows}}))
    assert godb_arrow.read_table(data, columns=["a.b"]).column(0).to_pylist() == [None, 1, None]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (["nmae"], "did you mean 'name'"),
        (["user.geo.xx"], r"did you mean 'user\.geo'"),
        (["zzzzzz"], "the fields are '_id', 'name'"),
        (["tags.x"], r"field 'tags\.x' does not exist"),
        ([""], "field '' does not exist"),
    ],
)
def test_columns_that_are_not_there(path: Path, columns: list[str], says: str) -> None:
    with pytest.raises(godb_arrow.FieldNotFound, match=says) as raised:
        godb_arrow.read_table(path, columns=columns)
    assert isinstance(raised.value, KeyError)


def test_columns_must_be_a_list_without_repeats(path: Path) -> None:
    with pytest.raises(godb_arrow.InvalidOption, match="list of names"):
        godb_arrow.read_table(path, columns="name")
    with pytest.raises(godb_arrow.InvalidOption, match="twice"):
        godb_arrow.read_table(path, columns=["age", "age"])


FILTERS: list[tuple[Any, Any]] = [
    ({"age": 3}, lambda row: row["age"] == 3),
    ({"age": [1, 2], "user.geo.cc": "DE"}, lambda r: r["age"] in (1, 2) and r["user"]["id"] % 2),
    ({"maybe": None}, lambda row: row["maybe"] is None),
    ({"mixed": "x"}, lambda row: row["mixed"] == "x"),
    ({"mixed": {"$gt": 3}}, lambda row: row["mixed"] != "x" and row["mixed"] > 3),
    ({"tags": "a"}, lambda row: "a" in row["tags"]),
    ({"age": "three"}, lambda row: False),
    ({"nope": 1}, lambda row: False),
    ({"nope": None}, lambda row: True),
    (pc.field("age") > 2, lambda row: row["age"] > 2),
    (pc.field("user", "geo", "lat") < 10, lambda row: row["user"]["geo"]["lat"] < 10),
    ((pc.field("maybe") == 8) | (pc.field("name") == "user 3"),
     lambda row: row["maybe"] == 8 or row["name"] == "user 3"),
    (pc.scalar(True), lambda row: True),
    ({}, lambda row: True),
    ({"name": "nobody"}, lambda row: False),
]  # fmt: skip


@pytest.mark.parametrize(("condition", "keeps"), FILTERS, ids=range(len(FILTERS)))
@pytest.mark.parametrize("columns", [None, ["name"], ["user.geo.cc", "maybe"], []])
def test_filters(path: Path, condition: Any, keeps: Any, columns: list[str] | None) -> None:
    expected = [row for row in ROWS if keeps(row)]
    table = godb_arrow.read_table(path, columns=columns, filter=condition, batch_size=7)
    assert table.num_rows == len(expected)
    if columns is None or "name" in columns:
        assert table.column("name").to_pylist() == [row["name"] for row in expected]
    if columns is not None:
        assert table.schema.names == columns


@pytest.mark.parametrize("condition", [pc.field("nope") == 1, pc.field("age") == "x"])
def test_filters_that_do_not_fit(path: Path, condition: Any) -> None:
    with pytest.raises(godb_arrow.InvalidFilter, match="filter"):
        godb_arrow.read_table(path, filter=condition)


def test_a_filter_is_a_mapping_or_an_expression(path: Path) -> None:
    with pytest.raises(godb_arrow.InvalidOption, match="write a mapping"):
        godb_arrow.read_table(path, filter=cast(Any, "age > 3"))


def test_batches_are_bounded_by_rows_and_bytes(path: Path) -> None:
    with godb_arrow.scan_godb(path, batch_size=30) as reader:
        assert [batch.num_rows for batch in reader] == [30, 30, 30, 10]
    with godb_arrow.scan_godb(path, batch_bytes=1000) as reader:
        sizes = [batch.num_rows for batch in reader]
    assert sum(sizes) == 100
    assert max(sizes) < 15


def test_a_reader_is_an_arrow_stream(path: Path) -> None:
    reader = godb_arrow.scan_godb(path, columns=["age"])
    again = pa.RecordBatchReader.from_stream(reader)
    assert again.read_all().num_rows == 100


def test_one_document_by_its_id(path: Path) -> None:
    found = godb_arrow.read_document(path, "17")
    assert found == {"_id": "17", **ROWS[16]}
    with pytest.raises(godb_arrow.DocumentNotFound, match="'101'") as raised:
        godb_arrow.read_document(path, "101", "users")
    assert isinstance(raised.value, KeyError)


def test_of_two_documents_with_one_id_the_last_counts() -> None:
    entries = b"\xa11\x81\xa1a\x01" + b"\xa11\x81\xa1a\x02"
    data = file_of(b"\x81\xabcollections\x81\xa1c\x82" + entries)
    assert godb_arrow.read_document(data, "1") == {"_id": "1", "a": 2}


def test_errors_while_streaming_are_ours(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    reader = godb_arrow.scan_godb(bytes(damaged))
    with pytest.raises(godb_arrow.ChecksumMismatch):
        reader.read_all()


def test_a_reader_that_is_closed_early_closes_the_file(path: Path) -> None:
    reader = godb_arrow.scan_godb(path, batch_size=10)
    reader.read_next_batch()
    assert _open(path) == 1
    reader.close()
    del reader
    gc.collect()
    assert _open(path) == 0


def _open(path: Path) -> int:
    folder = Path("/proc/self/fd")
    return sum(os.path.realpath(entry) == str(path) for entry in folder.iterdir())


def test_a_sampled_schema_hides_nothing() -> None:
    rows = {str(n): {"a": n} for n in range(50)} | {"x": {"a": 1, "late": 2}}
    data = file_of(msgpack.packb({"collections": {"c": rows}}))
    assert godb_arrow.read_schema(data, sample=1, batch_size=10).names == ["_id", "a"]
    with pytest.raises(godb_arrow.TypeMismatch, match=r"'late'.*sample=None"):
        godb_arrow.scan_godb(data, sample=1, batch_size=10).read_all()


def test_a_sampled_schema_reads_all_documents() -> None:
    rows = {str(n): {"a": n} for n in range(50)}
    data = file_of(msgpack.packb({"collections": {"c": rows}}))
    assert godb_arrow.read_table(data, sample=5, batch_size=10).num_rows == 50


def test_options_are_checked(path: Path) -> None:
    for options in ({"batch_size": 0}, {"batch_bytes": -1}, {"sample": True},
                    {"on_conflict": "x"}, {"on_mismatch": None}):  # fmt: skip
        with pytest.raises(godb_arrow.InvalidOption, match=next(iter(options))):
            godb_arrow.read_table(path, **cast(Any, options))


STREAM = """
import sys, godb_arrow
from pathlib import Path
def peak():
    return next(int(l.split()[1]) for l in Path("/proc/self/status").open() if "VmHWM" in l)
with godb_arrow.scan_godb(sys.argv[1], batch_size=4096) as reader:
    reader.read_next_batch()
    Path("/proc/self/clear_refs").write_text("5")
    for batch in reader: pass
print(peak())
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_streaming_takes_constant_memory(tmp_path: Path) -> None:
    """The peak of the process does not grow with the file."""
    peaks = []
    for count in (20_000, 120_000):
        target = tmp_path / f"{count}.godb"
        godb_arrow.write_godb(({"n": n, "s": "x" * 200} for n in range(count)), target, "c")
        done = subprocess.run(
            [sys.executable, "-c", STREAM, str(target)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 10_000  # KiB; the documents are 25 MiB


def test_few_columns_of_many_pieces(tmp_path: Path) -> None:
    path = tmp_path / "long.godb"
    rows = 60_000
    table = pa.table({
        "n": list(range(rows)),
        "t": [f"text {n * 7919 % 99991}" for n in range(rows)],
        "l": [[n] * (n % 3) for n in range(rows)],
    })  # fmt: skip
    godb_arrow.write_godb(table, path, "long")
    options: Any = {"batch_bytes": 100_000, "threads": 2}
    for columns in (["n"], ["t", "l"], ["_id"], []):
        found = godb_arrow.read_table(path, columns=columns, **options)
        assert found.num_rows == rows
        if columns and columns != ["_id"]:
            assert found.equals(table.select(columns).cast(found.schema))
    few = pc.field("n") > rows - 10
    assert godb_arrow.read_table(path, columns=["t"], filter=few, **options).num_rows == 9

    before = threading.active_count()
    reader = godb_arrow.scan_godb(path, columns=["n"], **options)
    next(reader)
    reader.close()
    del reader
    ends = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < ends:
        time.sleep(0.01)
    assert threading.active_count() <= before

    raw = bytearray(path.read_bytes())
    for at in (len(raw) // 3, len(raw) // 2, len(raw) - 100):
        damaged = bytes(raw[:at]) + bytes([raw[at] ^ 0x55]) + bytes(raw[at + 1 :])
        kinds = []
        for threads in (1, 2):
            with pytest.raises(godb_arrow.FormatError) as caught:
                godb_arrow.read_table(damaged, columns=["n"], batch_bytes=100_000, threads=threads)
            kinds.append((type(caught.value), str(caught.value)))
        assert kinds[0] == kinds[1]
    with pytest.raises(godb_arrow.FormatError):
        godb_arrow.read_table(bytes(raw[: len(raw) // 2]), columns=["n"], **options)
