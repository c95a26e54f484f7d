"""Sealed files that lie: refused with a GodbError, or read as if nothing had been recorded."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support import forge
from support.processes import run_python

import godb_arrow
from godb_arrow import GodbError, StorageEngine, codec
from godb_arrow.file import pieces

kernel_fronts = pytest.mark.skipif(
    codec.BACKEND != "native", reason="the reference codec reads each document as a whole"
)
DICTIONARY_KEY = b"godb_arrow.dictionary"
PADDING = random.Random(1).randbytes(200)
ROWS = 6000  # rows that make a file large enough for its pieces to be used

READ = """
import sys, godb_arrow
try:
    godb_arrow.read_table(sys.argv[1], columns=sys.argv[2:] or None, on_mismatch="null")
except godb_arrow.GodbError as error:
    print("refused:", error)
"""


def padded(n: int, a: Any = 100) -> bytes:
    """Return an entry of a size that does not compress."""
    return forge.entry(f"{n:06d}", {"a": a, "z": PADDING + n.to_bytes(4, "big") * 10})


def padded_file(rows: int = ROWS, **options: Any) -> bytes:
    schema = pa.schema({"_id": pa.string(), "a": pa.int64(), "z": pa.binary()})
    entries = [padded(n) for n in range(rows)]
    options = {"schema": schema, "piece_documents": rows // 2, **options}
    index = options.pop("index", None)
    return forge.godb_file(
        forge.collection("c", entries, **options), compression="none", index=index
    )


# --- schemas ----------------------------------------------------------------------------------


UNUSABLE_SCHEMAS: dict[str, dict[str, Any]] = {
    "no map": {"fields": 5},
    "no list": {"fields": {"fields": 5}},
    "unknown type": {"fields": {"fields": [{"name": "n", "type": "quaternion"}]}},
    "unit": {"fields": {"fields": [{"name": "n", "type": {"type": "timestamp", "unit": "h"}}]}},
    "twice": {"fields": {"fields": [{"name": "n", "type": "int64"}] * 2}},
    "half of a surrogate pair": {"fields": {"fields": [{"name": "\udcff", "type": "int64"}]}},
    "IPC": {"schema": b"no schema of Arrow"},
}


@pytest.mark.parametrize("name", UNUSABLE_SCHEMAS)
def test_a_schema_without_sense_is_ignored_and_nothing_else(name: str, tmp_path: Path) -> None:
    path = tmp_path / "c.godb"
    documents = [{"n": number} for number in range(40)]
    hint = {"next_id": 1000, **UNUSABLE_SCHEMAS[name]}
    path.write_bytes(forge.godb_file(forge.collection("c", documents, hint=hint)))
    found = godb_arrow.read_table(path)
    assert found.equals(godb_arrow.read_table(path, use_hints=False))
    assert found["n"].to_pylist() == [*range(40)]
    assert [*godb_arrow.open_godb(path)][3] == {"_id": "4", "n": 3}
    assert any("damaged" in problem for problem in godb_arrow.verify_godb(path).problems)
    godb_arrow.write_godb([{"n": 40}], path, "c", if_exists="append")
    assert godb_arrow.read_document(path, "1000") == {"_id": "1000", "n": 40}
    assert godb_arrow.verify_godb(path).ok


# --- sizes and statistics ---------------------------------------------------------------------


def test_a_document_that_ends_nowhere_does_not_crash_the_kernel(tmp_path: Path) -> None:
    entries = [forge.entry(f"{n:06d}", {"a": 1, "b": 1, "z": PADDING, "y": 1}) for n in range(9000)]
    # Field a is a text, then a number; z claims 4 GiB, and y follows.
    entries[8000] = (
        forge.pack("008000") + forge.map_head(4) + b"\xa1a\xa1x\xa1a\x01\xa1z\xdb\xff\xff\xff\xf0"
        + b"\xa1y" * 60
    )  # fmt: skip
    schema = pa.schema({
        "_id": pa.string(), "a": pa.int64(), "b": pa.int64(), "z": pa.binary(), "y": pa.int64(),
    })  # fmt: skip
    hostile = forge.collection("c", entries, schema=schema, piece_documents=4500)
    path = tmp_path / "hostile.godb"
    path.write_bytes(forge.godb_file(hostile, compression="none"))
    done = run_python(READ, path, "a", backend="native")
    assert done.returncode == 0, done.stderr


@kernel_fronts
def test_sizes_do_not_lead_to_documents_inside_of_others() -> None:
    fronts, entries = [], []
    for n in range(ROWS):
        key = forge.pack(f"{n:06d}")
        inner = key + forge.map_head(3) + b"\xa1a\xcd\x03\xe7\xa1z\xc4\x64"  # a is 999
        front = key + forge.map_head(3) + b"\xa1a\x01\xa1z\xc4\xc8"
        fronts.append(len(front))
        entries.append(front + (inner + b"\xa1y\x01").ljust(200, b"\x00") + b"\xa1y\x01")

    def lying(run: Sequence[bytes]) -> list[int]:
        starts = [0, *accumulate(map(len, run))]
        inside = [start + fronts[0] for start in starts[1:-2]]
        edges = [0, starts[1], *inside, starts[-1]]
        return [last - first for first, last in pairwise(edges)]

    schema = pa.schema({"_id": pa.string(), "a": pa.int64(), "z": pa.binary(), "y": pa.int64()})
    hostile = forge.collection("c", entries, schema=schema, piece_documents=3000, sizes=lying)
    file = forge.godb_file(hostile, compression="none")
    whole = godb_arrow.read_table(file)["a"]
    assert whole.unique().to_pylist() == [1]
    try:
        found = godb_arrow.read_table(file, columns=["a"])["a"]
    except GodbError:
        return
    assert found.equals(whole)


LIE = {"a": (1, 2, 0)}


def test_statistics_that_lie_hide_no_documents() -> None:
    file = padded_file(statistics=[LIE, LIE])
    keep = pc.field("a") == 100
    assert godb_arrow.read_table(file).filter(keep).num_rows == ROWS
    try:
        found = godb_arrow.read_table(file, filter=keep)
    except GodbError:
        return
    assert found.num_rows == ROWS


# --- recorded schemas -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (2**53 + 1, pa.float64()),
        (0.1, pa.float32()),
        (msgpack.Timestamp(5, 999_999_000), pa.timestamp("s", "UTC")),
        (msgpack.Timestamp(5, 999_999_000), pa.timestamp("ms", "UTC")),
        (msgpack.Timestamp(5, 999_999_999), pa.timestamp("us", "UTC")),
    ],
    ids=["integer as float64", "float as float32", "seconds", "milliseconds", "microseconds"],
)
def test_a_recorded_schema_does_not_round_values(value: Any, recorded: pa.DataType) -> None:
    schema = pa.schema({"_id": pa.string(), "v": recorded})
    file = forge.godb_file(forge.collection("c", [forge.entry("1", {"v": value})], schema=schema))
    found = godb_arrow.read_table(file)["v"][0]
    true = godb_arrow.read_table(file, use_hints=False)["v"][0]
    assert found.cast(true.type) == true


def test_recorded_dictionaries_take_no_memory_before_they_are_needed(tmp_path: Path) -> None:
    size = 1 << 26
    offsets = pa.py_buffer(np.array([0, size], np.int32))
    text = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(bytes(size))])
    stream = forge.ipc_stream(pa.record_batch([text], ["d"]), "zstd")
    type_ = pa.dictionary(pa.int32(), pa.string())
    fields = [pa.field(f"f{n}", type_, metadata={DICTIONARY_KEY: stream}) for n in range(6)]
    schema = pa.schema([pa.field("_id", pa.string()), *fields])
    bomb = forge.collection("c", [forge.entry("1", {})], schema=schema, statistics=b"")
    path = tmp_path / "bomb.godb"
    path.write_bytes(forge.godb_file(bomb, compression="zstd"))
    assert path.stat().st_size < 1 << 20
    code = """
import sys, godb_arrow
def peak():  # of this program; the peak that getrusage reports is inherited from the parent
    return next(int(line.split()[1]) for line in open("/proc/self/status") if "VmHWM" in line)
godb_arrow.list_collections  # imports the reader before memory is measured
before = peak()
try:
    godb_arrow.list_collections(sys.argv[1])
except godb_arrow.GodbError:
    pass
print(peak() - before >> 10)
"""
    done = run_python(code, path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 128, "MiB, where the dictionaries have 384"


def test_a_recorded_dictionary_is_validated(tmp_path: Path) -> None:
    offsets = np.array([0, 1, 2], np.int32)
    text = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(b"x" * 64)]
    )
    batch = pa.record_batch([text], ["d"])
    offsets[1] = 2_000_000_000  # pyarrow looks at offsets when the array is made
    stream = forge.ipc_stream(batch)
    field = pa.field("a", pa.dictionary(pa.int32(), pa.string()), metadata={DICTIONARY_KEY: stream})
    schema = pa.schema([pa.field("_id", pa.string()), field])
    hostile = forge.collection("c", [forge.entry("1", {"a": "x"})], schema=schema, statistics=b"")
    path = tmp_path / "hostile.godb"
    path.write_bytes(forge.godb_file(hostile))
    statuses = {run_python(READ, path).returncode for _ in range(2)}
    assert statuses == {0}


def test_structs_that_are_nearly_all_null_take_little_memory() -> None:
    """A few bytes for a null would become 200 nulls, and a file of some KiB gigabytes."""
    wide = forge.pack({f"{n}": 1 for n in range(200)})
    nulls = {
        "null": (b"\xc0", pa.list_),
        "empty": (b"\x80", pa.list_),
        "absent": (b"\x80", lambda kind: pa.list_(pa.struct({"b": kind}))),
    }
    fields = pa.struct([(f"{n}", pa.int64()) for n in range(200)])
    for value, of in nulls.values():
        data = b"\x81\xa1a\xdd" + (1_000_001).to_bytes(4, "big") + wide + value * 1_000_000
        file = forge.godb_file(forge.collection("c", [forge.pack("1") + data]))
        schema = pa.schema({"_id": pa.string(), "a": of(fields)})
        with pytest.raises(godb_arrow.LimitExceeded, match="nearly all null"):
            godb_arrow.read_table(file, schema=schema)


# --- hints that make no sense -----------------------------------------------------------------


def rows_of(file: bytes) -> int:
    return godb_arrow.read_table(file).num_rows


def with_pandas(text: bytes) -> pa.Schema:
    schema = pa.schema({"_id": pa.string(), "a": pa.int64(), "z": pa.binary()})
    return schema.with_metadata({b"pandas": text})


hints: dict[str, tuple[dict[str, Any], Callable[[bytes], int]]] = {
    "infinite count": ({"count": float("inf")}, rows_of),
    "count of another type": ({"count": "many"}, rows_of),
    "no count": ({"count": forge.ABSENT}, rows_of),
    "nested pandas metadata": ({"schema": with_pandas(b"[" * 100_000)}, rows_of),
    "pandas metadata of a list": (
        {"schema": with_pandas(b"[]")}, lambda file: len(godb_arrow.read_godb(file)),
    ),
    "empty pandas metadata": (
        {"schema": with_pandas(b"{}")}, lambda file: len(godb_arrow.read_godb(file)),
    ),
    "pandas metadata of another index": (
        {"schema": with_pandas(b'{"index_columns": ["b"], "columns": []}')},
        lambda file: len(godb_arrow.read_godb(file)),
    ),
    "negative count, listed": (
        {"count": -5}, lambda file: godb_arrow.list_collections(file)["c"],
    ),
    "negative count": ({"count": -5}, lambda file: len(godb_arrow.open_godb(file))),
    "huge count, listed": (
        {"count": 10**12}, lambda file: godb_arrow.list_collections(file)["c"],
    ),
    "huge count": ({"count": 10**12}, lambda file: len(godb_arrow.open_godb(file))),
}  # fmt: skip


@pytest.mark.parametrize("case", hints)
def test_hints_that_make_no_sense_are_ignored_or_refused(case: str) -> None:
    changes, count = hints[case]
    if isinstance(changes.get("schema"), pa.Schema):
        changes = {"schema": changes["schema"].serialize().to_pybytes()}
    file = forge.godb_file(forge.collection("c", [forge.entry("1", {"a": 1})], hint=changes))
    try:
        found = count(file)
    except GodbError:
        return
    assert found == 1


index: dict[str, dict[str, Any]] = {
    "statistics are a number": {"statistics": {"c": 1 << 62}},
    "statistics are a list": {"statistics": {"c": [1, 2]}},
    "a span is a text": {"collections": {"c": "ab"}},
    "a span is infinite": {"collections": {"c": [float("inf"), 1]}},
    "a span is negative": {"collections": {"c": [-1, 1]}},
    "pieces are a number": {"pieces": 7},
    "pieces are cut off": {"pieces": b"1234567"},
    "sizes are a number": {"sizes": 1 << 62},
    "no pieces": {"pieces": forge.ABSENT},
    "sizes end nowhere": {"sizes": struct.pack("<4I", *[0xFFFFFFFF] * 4)},
}


@pytest.mark.parametrize(
    "case",
    index,
)
def test_an_index_that_makes_no_sense_is_ignored_or_refused(case: str) -> None:
    file = padded_file(index=index[case])
    for options in ({}, {"columns": ["a"]}, {"filter": pc.field("a") == 100}):
        try:
            found = godb_arrow.read_table(file, **options)
        except GodbError:
            continue
        assert found["a"].to_pylist() == [100] * ROWS


def test_statistics_of_a_large_file_are_compared_once_for_each_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = np.arange(150_000)
    table = pa.table({"n": numbers, "m": numbers * 2, "text": ["x" * 60] * len(numbers)})
    godb_arrow.write_godb(table, tmp_path / "a.godb", "c")
    compared: list[str] = []
    contradiction = pieces.contradiction

    def counted(row: Any, entries: Any) -> Any:
        compared.extend(row)
        return contradiction(row, entries)

    monkeypatch.setattr(pieces, "contradiction", counted)
    for name, limit in (("n", 10), ("n", 20), ("m", 40)):
        found = godb_arrow.read_table(tmp_path / "a.godb", filter={name: {"$lt": limit}})
        assert found.num_rows in (10, 20)
    assert compared == ["n", "m"]


# --- batches ----------------------------------------------------------------------------------


def _with_a_wide_document(count: int) -> list[dict[str, Any]]:
    wide = {"_id": "wide", "n": -1} | {f"f{n:04}": n for n in range(1500)}
    return [wide, *({"_id": f"d{n}", "n": n} for n in range(count - 1))]


@pytest.mark.parametrize("filter", [None, {"n": {"$gte": 0}}, pc.field("n") >= 0])
@pytest.mark.parametrize("state", ["file", "unsaved", "saved", "deleted"])
def test_one_document_with_many_fields_makes_batches_of_fewer_rows(
    state: str, filter: Any, tmp_path: Path
) -> None:
    """A file of 30 KB became a batch of gigabytes, nearly all of them nulls."""
    documents = _with_a_wide_document(1500)
    expected = [one["_id"] for one in documents if filter is None or one["n"] >= 0]
    if state == "file":
        source = io.BytesIO()
        godb_arrow.write_godb(documents, source, "c")
        batches = list(godb_arrow.scan_godb(source.getvalue(), filter=filter, batch_bytes=1 << 20))
    else:
        with StorageEngine(tmp_path) as engine:
            collection = engine.create_collection("c")
            collection.insert_many(documents)
            if state != "unsaved":
                engine.save()
            if state == "deleted":
                gone = [f"d{n}" for n in range(0, 1499, 3)]
                collection.delete_many({"_id": gone})
                expected = [one for one in expected if one not in set(gone)]
            for _ in range(2):  # The second reading finds views.
                batches = list(collection.stream(filter=filter, batch_bytes=1 << 20))
                if filter is None:
                    assert sorted(_ids(batches)) == sorted(expected)
    assert sorted(_ids(batches)) == sorted(expected)
    if filter is None:
        assert len(batches) > 2
        assert max(batch.num_rows * batch.num_columns for batch in batches) <= 1 << 20
        row = pa.Table.from_batches(batches).filter(pc.field("_id") == "wide").to_pylist()
        assert row == documents[:1]


def _ids(batches: list[pa.RecordBatch]) -> list[str]:
    return [identity for batch in batches for identity in batch.column("_id").to_pylist()]


def test_a_batch_of_a_wide_file_takes_little_memory() -> None:
    done = run_python(WIDE)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200 << 10  # KiB


WIDE = """
import io, resource, godb_arrow
file = io.BytesIO()
documents = [{f"f{n}": n for n in range(4000)}] + [{} for _ in range(30_000)]
godb_arrow.write_godb(documents, file, "c")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert next(godb_arrow.scan_godb(file.getvalue())).num_columns == 4001
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
