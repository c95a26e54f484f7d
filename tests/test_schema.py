"""The table of types: what values a field held, and the Arrow type it gets."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.handmade import documents, file_of, mapping, string
from support.strategies import raw_values

import godb_arrow
from godb_arrow.codec import infer, pack_entry, scan_entries
from godb_arrow.colliding_names import _hashes, names_collide
from godb_arrow.recorded_schema import restore_schema
from godb_arrow.schema import (
    MAX_STRUCT_KEYS,
    DocumentSummary,
    FieldSummary,
    Kind,
    infer_schema,
    infer_type,
)

US = pa.timestamp("us", "UTC")
NS = pa.timestamp("ns", "UTC")
JSON = pa.json_(pa.string())


def time(seconds: int, nanoseconds: int = 0) -> bytes:
    """A timestamp, in the encoding of 12 bytes."""
    return b"\xc7\x0c\xff" + struct.pack(">Iq", nanoseconds, seconds)


# Each row: the values of a field, as bytes that were written by hand, and its type.
TABLE: dict[str, tuple[list[bytes], pa.DataType]] = {
    "nothing": ([], pa.null()),
    "nil": ([b"\xc0", b"\xc0"], pa.null()),
    "bool": ([b"\xc2", b"\xc0", b"\xc3"], pa.bool_()),
    "positive fixint": ([b"\x00", b"\x7f"], pa.int64()),
    "negative fixint": ([b"\xff", b"\xe0"], pa.int64()),
    "unsigned ints": ([b"\xcc\xff", b"\xcd\xff\xff", b"\xce\xff\xff\xff\xff"], pa.int64()),
    "signed ints": (
        [b"\xd0\x80", b"\xd1\x80\0", b"\xd2\x80\0\0\0", b"\xd3\x80" + bytes(7)], pa.int64(),
    ),
    "int64 in full width, as Go writes it": ([b"\xd3" + bytes(7) + b"\x0c"], pa.int64()),
    "uint64 that fits int64": ([b"\xcf\x7f" + b"\xff" * 7], pa.int64()),
    "above int64": ([b"\xcf\x80" + bytes(7), b"\x01"], pa.uint64()),
    "above int64, and negative": ([b"\xcf\x80" + bytes(7), b"\xff"], JSON),
    "above int64, negative, and float": (
        [b"\xcf\x80" + bytes(7), b"\xff", b"\xca" + bytes(4)], pa.float64(),
    ),
    "float32": ([b"\xca\x3f\x80\0\0"], pa.float64()),
    "float64": ([b"\xcb\x7f\xf8" + bytes(6), b"\xcb\xff\xf0" + bytes(6)], pa.float64()),
    "float and int": ([b"\xcb" + bytes(8), b"\x05"], pa.float64()),
    "strings": ([b"\xa1a", b"\xd9\x01a", b"\xda\0\x01a", b"\xdb\0\0\0\x01a"], pa.string()),
    "string that is not UTF-8": ([b"\xa1a", b"\xa2\xff\xfe"], pa.binary()),
    "surrogates are not UTF-8": ([b"\xa3\xed\xa0\x80"], pa.binary()),
    "binary": ([b"\xc4\x01a", b"\xc5\0\x01a", b"\xc6\0\0\0\x01a"], pa.binary()),
    "binary and string": ([b"\xc4\x01a", b"\xa1a"], pa.binary()),
    "timestamp of 4 bytes": ([b"\xd6\xff" + struct.pack(">I", 5)], US),
    "timestamp of 8 bytes": ([b"\xd7\xff" + struct.pack(">Q", (1000 << 34) | 5)], US),
    "timestamp of 12 bytes": ([time(-5)], US),
    "nanoseconds": ([time(5, 1), time(6)], NS),
    "nanoseconds that do not all fit": ([time(5, 1), time(-62135596800)], US),
    "year 1": ([time(-62135596800)], US),
    "beyond microseconds": ([time(2**60)], JSON),
    "other extension types": ([b"\xd4\x05a", b"\xc8\0\x01\x05a"], JSON),
    "empty array": ([b"\x90"], pa.list_(pa.null())),
    "arrays": ([b"\x91\x01", b"\x91\xc0", b"\x90", b"\xdc\0\x01\x02"], pa.list_(pa.int64())),
    "arrays of mixed": ([b"\x92\x01\xa1a"], pa.list_(JSON)),
    "two ints are no time": ([b"\x92\x01\x02"], pa.list_(pa.int64())),
    "empty map": ([b"\x80"], pa.struct([])),
    "maps": (
        [b"\x81\xa1a\x01", b"\x81\xa1b\xa1x"],
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
    ),
    "nested": (
        [b"\x81\xa1a\x91\x81\xa1b\x01", b"\x81\xa1a\x91\x81\xa1b\xc0"],
        pa.struct([("a", pa.list_(pa.struct([("b", pa.int64())])))]),
    ),
    "int keys": ([b"\x81\x01\xa1a"], pa.struct([("1", pa.string())])),
    "int and string": ([b"\x01", b"\xa11"], JSON),
    "bool and int": ([b"\xc3", b"\x01"], JSON),
    "scalar and map": ([b"\x01", b"\x80"], JSON),
    "array and map": ([b"\x90", b"\x80"], JSON),
    "time and string": ([time(0), b"\xa1a"], JSON),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name: str) -> None:
    raw, expected = TABLE[name]
    schema = godb_arrow.read_schema(documents(*raw), "c")
    if not raw:
        assert schema.names == ["_id"]
        return
    assert schema.field("v").type == expected
    backwards = godb_arrow.read_schema(documents(*reversed(raw)), "c")
    if not pa.types.is_struct(expected):
        assert backwards.field("v").type == expected


def many_keys(count: int, odd: bytes | None = None) -> list[bytes]:
    found = [mapping((string(f"k{n}"), b"\x01")) for n in range(count)]
    return [*found, mapping((string("odd"), odd))] if odd else found


def test_a_map_with_more_than_200_keys_of_one_type_is_a_map_column() -> None:
    at_200 = godb_arrow.read_schema(documents(*many_keys(200))).field("v").type
    assert pa.types.is_struct(at_200)
    assert at_200.num_fields == 200
    data = documents(*many_keys(201))
    assert godb_arrow.read_schema(data).field("v").type == pa.map_(pa.string(), pa.int64())
    assert godb_arrow.read_table(data).column("v")[5].as_py() == [("k5", 1)]


def test_joined_number_types_are_one_type_for_a_map() -> None:
    kind = godb_arrow.read_schema(documents(*many_keys(200, b"\xcb" + bytes(8)))).field("v").type
    assert kind == pa.map_(pa.string(), pa.float64())


def test_a_map_with_many_keys_of_several_types_is_a_struct() -> None:
    kind = godb_arrow.read_schema(documents(*many_keys(201, b"\xa1x"))).field("v").type
    assert pa.types.is_struct(kind)
    assert kind.num_fields == 202


def test_keys_without_end_do_not_take_memory_without_end() -> None:
    summary = FieldSummary()
    for number in range(MAX_STRUCT_KEYS + 50):
        summary.field(f"k{number}").add(Kind.STRING if number % 2 else Kind.UNSIGNED, "1")
    summary.add(Kind.MAP, "1")
    assert not summary.fields
    assert infer_type(summary) == pa.map_(pa.string(), JSON)


def test_top_level_fields_never_become_a_map() -> None:
    rows = [{f"k{n}": 1} for n in range(300)]
    raw = msgpack.packb({"collections": {"c": {str(n): row for n, row in enumerate(rows)}}})
    assert len(godb_arrow.read_schema(file_of(raw)).names) == 301


@pytest.fixture
def few_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("godb_arrow.schema.MAX_COLUMNS", 20)


def _wide(first: int = 0, count: int = 30, **fields: Any) -> dict[str, Any]:
    return {f"k{n}": n for n in range(first, first + count)} | fields


@pytest.mark.usefixtures("few_columns")
@pytest.mark.parametrize("writer", ["go-db", "godb_arrow"])
def test_documents_with_more_fields_than_columns_are_read(writer: str) -> None:
    rows = {str(n): _wide(10 * n, name=f"n{n}", m={"x": n}) for n in range(5)}
    if writer == "go-db":
        data = file_of(msgpack.packb({"collections": {"c": rows}}))
    else:
        file = io.BytesIO()
        found = [{"_id": key, **row} for key, row in rows.items()]
        assert godb_arrow.write_godb(found, file, "c") == 5
        data = file.getvalue()
    for call in (godb_arrow.read_table, lambda one: godb_arrow.scan_godb(one).read_all()):
        with pytest.raises(godb_arrow.LimitExceeded, match=r"columns= or schema="):
            call(data)
    assert [one["name"] for one in godb_arrow.read_documents(data)] == [
        "n0",
        "n1",
        "n2",
        "n3",
        "n4",
    ]
    assert godb_arrow.read_document(data, "3")["k59"] == 59
    columns = ["k3", "k69", "name", "m.x"]
    table = godb_arrow.read_table(data, columns=columns, filter={"name": ["n3", "n4"]})
    assert table.to_pylist() == [
        {"k3": None, "k69": None, "name": "n3", "m.x": 3},
        {"k3": None, "k69": 69, "name": "n4", "m.x": 4},
    ]
    assert not table.schema.metadata
    wanted = pc.field("k65") > 1
    assert godb_arrow.read_table(data, columns=["_id"], filter=wanted).to_pylist() == [{"_id": "4"}]
    schema = pa.schema({"k69": pa.int64()})
    assert godb_arrow.read_table(data, schema=schema)["k69"].to_pylist() == [None] * 4 + [69]
    with pytest.raises(godb_arrow.FieldNotFound, match="'nowhere'"):
        godb_arrow.read_table(data, columns=["nowhere"])
    assert len(godb_arrow.read_schema(data)) == 20
    collection = godb_arrow.open_godb(data)
    assert collection.profile(["k69"])["k69"].absent == 4
    assert [run.id(0) for run in collection.stored_entries({"k65": 65})] == ["4"]
    assert godb_arrow.verify_godb(data).ok


@pytest.mark.usefixtures("few_columns")
def test_the_types_of_those_columns_are_of_all_documents(tmp_path: Path) -> None:
    """A field that a wide document has last has its type all the same."""
    rows = [{"v": 1}, _wide(0, v="text"), {"v": 2.5}, _wide(40, v=None)]
    path = tmp_path / "a.godb"
    godb_arrow.write_godb(rows, path, "c")
    for _ in range(2):
        assert godb_arrow.read_schema(path, "c").field("v").type == JSON
        assert godb_arrow.read_table(path, "c", columns=["v"]).column(0).to_pylist() == [
            "1", '"text"', "2.5", None
        ]  # fmt: skip
        godb_arrow.write_godb([_wide(60)], path, "other", if_exists="append")


@pytest.mark.usefixtures("few_columns")
@pytest.mark.parametrize("batch_size", [1, 100])
def test_types_are_joined_over_runs_with_too_many_fields(batch_size: int) -> None:
    rows = {"1": {"v": 1}, "2": _wide(0, v="text"), "3": _wide(40, v=None)}
    data = file_of(msgpack.packb({"collections": {"c": rows}}))
    table = godb_arrow.read_table(data, columns=["v"], batch_size=batch_size)
    assert table.column(0).to_pylist() == ["1", '"text"', None]


def test_on_conflict_error_names_the_field_the_types_and_a_document_for_each() -> None:
    rows = {"7": {"u": {"x": [1]}}, "8": {"u": {"x": [2, "two"]}}}
    data = file_of(msgpack.packb({"collections": {"c": rows}}))
    with pytest.raises(godb_arrow.TypeConflict) as raised:
        godb_arrow.read_table(data, on_conflict="error")
    assert isinstance(raised.value, TypeError)
    message = str(raised.value)
    for part in ("'u.x[]'", "int (first in document '7')", "string (first in document '8')", "'c'"):
        assert part in message
    assert godb_arrow.read_table(data).column("u").to_pylist()[1] == {"x": ["2", '"two"']}


def test_id_comes_first_and_is_the_key_under_which_the_document_is() -> None:
    rows = {"7": {"a": 1, "_id": "other"}, "8": {"_id": 5, "a": 2}, "9": {}}
    data = file_of(msgpack.packb({"collections": {"c": rows}}))
    table = godb_arrow.read_table(data)
    assert table.schema.names == ["_id", "a"]
    assert table.column("_id").to_pylist() == ["7", "8", "9"]
    assert [d["_id"] for d in godb_arrow.read_documents(data)] == ["7", "8", "9"]


def summary_of(rows: list[dict[str, Any]]) -> DocumentSummary:
    summary = DocumentSummary()
    raw = b"".join(pack_entry(str(n), row) for n, row in enumerate(rows))
    infer(scan_entries(raw, 0, len(rows), len(raw) + 1, 0), summary)
    return summary


def shape(summary: FieldSummary) -> Any:
    """What a summary says, whatever the order in which it was told."""
    return (
        summary.kinds,
        None if summary.item is None else shape(summary.item),
        {name: shape(child) for name, child in summary.fields.items()},
    )


rows = st.lists(st.dictionaries(st.sampled_from("abc"), raw_values, max_size=3), max_size=6)


@given(rows, st.integers(0, 6), st.randoms(use_true_random=False))
def test_joining_is_the_same_in_any_order_and_grouping(
    found: list[dict[str, Any]], cut: int, rng: random.Random
) -> None:
    whole = summary_of(found)
    first, second = summary_of(found[:cut]), summary_of(found[cut:])
    first.merge(second)
    shuffled = rng.sample(found, len(found))
    assert shape(first)[2] == shape(whole)[2] == shape(summary_of(shuffled))[2]
    assert infer_schema(first).field(0).name == "_id"


# --- names that collide in Arrow's hash tables ------------------------------------------------

MULTIPLIER = np.uint64(0xC6A4A7935BD1E995)
INVERSE = np.uint64(pow(int(MULTIPLIER), -1, 1 << 64))


def mixed(words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return words ^ (words >> np.uint64(47))


def colliding_names(count: int) -> list[str]:
    """Return names of 16 bytes with the same hash in libstdc++."""
    start = np.uint64(0xC70F6907) ^ np.uint64(16 * int(MULTIPLIER) & (1 << 64) - 1)
    rng = np.random.default_rng(1)
    names: list[str] = []
    while len(names) < count:
        first = rng.integers(97, 123, (1 << 18, 8), np.uint8)
        state = start ^ mixed(first.view("<u8")[:, 0] * MULTIPLIER) * MULTIPLIER
        state = state * MULTIPLIER
        last = (mixed((state ^ np.uint64(0x1111)) * INVERSE) * INVERSE).view(np.uint8)
        last = last.reshape(-1, 8)
        good = ((last >= 32) & (last < 127)).all(axis=1)
        pairs = zip(first[good], last[good], strict=True)
        names += [(a.tobytes() + b.tobytes()).decode() for a, b in pairs]
    return list(dict.fromkeys(names))[:count]


def test_names_that_collide_are_seen() -> None:
    chosen = colliding_names(1500)
    assert not names_collide(chosen[:1000])
    assert names_collide(chosen)
    assert not names_collide([f"{n:016d}" for n in range(1500)])
    assert not names_collide([f"field_{n}" for n in range(200_000)])
    alike = [f"k{n}" for n in range(200_000)]
    buckets = _hashes([name.encode() for name in alike]) % np.uint64(1109)
    same_bucket = [name for name, bucket in zip(alike, buckets, strict=True) if bucket % 40 == 5]
    assert names_collide(same_bucket)


def test_fields_that_collide_are_documents_but_not_columns() -> None:
    document = dict.fromkeys(colliding_names(1500), 1)
    file = io.BytesIO()
    godb_arrow.write_godb([document, {"a": 1}], file, "c")
    data = file.getvalue()
    assert next(iter(godb_arrow.read_documents(data))) == {"_id": "1", **document}
    with pytest.raises(godb_arrow.LimitExceeded, match="collide"):
        godb_arrow.read_table(data)
    assert godb_arrow.read_table(data, columns=["a"])["a"].to_pylist() == [None, 1]
    assert godb_arrow.verify_godb(data).problems == []


def test_keys_that_collide_are_json_text() -> None:
    document = {"m": dict.fromkeys(colliding_names(1500), 1) | {"other": "text"}}
    file = io.BytesIO()
    godb_arrow.write_godb([document], file, "c")
    found = godb_arrow.read_table(file.getvalue())["m"]
    assert found.type == JSON


def test_a_recorded_schema_whose_names_collide_is_ignored() -> None:
    described = [{"name": name, "type": "int64"} for name in colliding_names(1500)]
    with pytest.raises(ValueError, match="collide"):
        restore_schema({"fields": described})
