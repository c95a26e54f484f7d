"""Statistics of pieces: they never change what a filter finds, and save reading where they can."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections.abc import Callable
from functools import reduce
from operator import and_, or_
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import forge
from support.handmade import go_read
from support.settings import LONG

import godb_arrow
from godb_arrow import StorageEngine, codec, verify_godb
from godb_arrow.connectors import duckdb as in_duckdb
from godb_arrow.connectors import polars as in_polars
from godb_arrow.file import pieces
from godb_arrow.file.locate import locate
from godb_arrow.options import ReadOptions
from godb_arrow.query.contradiction import contradiction
from godb_arrow.query.expression_pruning import may_match
from godb_arrow.query.statistics import (
    Bounds,
    covered,
    decode_statistics,
    pack_statistics,
    per_piece,
    statistics_of,
    unpack_statistics,
)
from godb_arrow.schema import json_type

pytestmark = pytest.mark.usefixtures("trusted_records_in_module")

ROWS = 50_000
FIELDS = pa.schema({
    "i": pa.int64(), "u": pa.uint64(), "f": pa.float64(), "s": pa.string(), "b": pa.bool_(),
    "t": pa.timestamp("us", "UTC"), "d": pa.date32(),
})  # fmt: skip

moments = st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2000, 1, 4)).map(
    lambda moment: moment.replace(tzinfo=dt.UTC)
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "i": st.sampled_from([-(2**63), -1, 0, 1, 2, 2**63 - 1]),
    "u": st.sampled_from([0, 1, 2**63, 2**64 - 1]),
    "f": st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf")]),
    "s": st.sampled_from(["", "a", "aa", "b", "ä", "z" * 65, "\U0010ffff", "\0"]),
    "b": st.booleans(),
    "t": moments,
    "d": st.dates(dt.date(2000, 1, 1), dt.date(2000, 1, 4)),
}
rows = st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()})
batches = st.lists(st.lists(rows, min_size=1, max_size=4), min_size=1, max_size=4)


def comparisons(name: str) -> st.SearchStrategy[pc.Expression]:
    field, kind = pc.field(name), FIELDS.field(name).type
    compare = st.sampled_from([pc.equal, pc.not_equal, pc.less, pc.less_equal, pc.greater,
                               pc.greater_equal])  # fmt: skip
    return st.one_of(
        st.builds(lambda how, value: how(field, pa.scalar(value, kind)), compare, VALUES[name]),
        st.builds(lambda values: field.isin(pa.array(values, kind)), st.lists(VALUES[name])),
        st.sampled_from([field.is_null(), field.is_valid(), field.is_null(nan_is_null=True)]),
    )


conditions = st.recursive(
    st.one_of([comparisons(name) for name in FIELDS.names]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda terms: reduce(and_, terms)),
        st.lists(inner, min_size=2, max_size=3).map(lambda terms: reduce(or_, terms)),
        inner.map(lambda term: ~term),
    ),
    max_leaves=5,
)


NOTHING: dict[str, Any] = dict.fromkeys(FIELDS.names)


@given(batches, conditions)
@example([[NOTHING | {"i": 1}, NOTHING]], pc.field("i").is_null())
@example([[NOTHING | {"f": 1.5}, NOTHING | {"f": float("nan")}]], pc.field("f") != 1.5)
@example([[NOTHING | {"s": "z" * 65}]], pc.field("s") > "y")
def test_what_is_left_out_has_nothing_that_the_filter_keeps(
    contents: list[list[dict[str, Any]]], condition: pc.Expression
) -> None:
    found = [pa.RecordBatch.from_pylist(content, schema=FIELDS) for content in contents]
    known = [statistics_of(batch, covered(FIELDS)) for batch in found]
    packed = pack_statistics(per_piece(known, range(len(found)), covered(FIELDS)))
    statistics = unpack_statistics(packed, len(found))
    assert statistics is not None
    needed = [name for name in FIELDS.names if name in str(condition)]
    wanted = may_match(statistics, condition, needed, FIELDS)
    for batch, may in zip(found, wanted, strict=True):
        kept = pa.Table.from_batches([batch]).filter(condition)
        assert may or not len(kept), (batch.to_pylist(), condition)


@given(st.lists(st.lists(rows, min_size=1, max_size=3), min_size=2, max_size=5), conditions)
def test_chunks_of_one_piece_are_joined(
    contents: list[list[dict[str, Any]]], condition: pc.Expression
) -> None:
    found = [pa.RecordBatch.from_pylist(content, schema=FIELDS) for content in contents]
    known = [statistics_of(batch, covered(FIELDS)) for batch in found]
    joined = per_piece([*known, None], [0] * len(found) + [1], covered(FIELDS))
    assert len(joined) == 2
    # What is not known of one chunk is not known of the piece.
    partly = per_piece([*known, None], [0] * len(found) + [0], covered(FIELDS))
    assert not any(any(partly.bounds(name)) for name in FIELDS.names)
    needed = [name for name in FIELDS.names if name in str(condition)]
    may, unknown = may_match(joined, condition, needed, FIELDS)
    assert unknown
    assert may or not len(pa.Table.from_batches(found).filter(condition))


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.timestamp(unit, "UTC") for unit in ("s", "us", "ns")),
        *(pa.date32(), pa.date64(), pa.int64(), pa.float64(), pa.uint64()),
    ],
)
def test_pieces_with_the_same_bounds_are_all_found(kind: pa.DataType) -> None:
    day = 86_400_000
    least, far = pa.scalar(5 * day, pa.int64()), pa.scalar(2_000_000 * day, pa.int64())
    if pa.types.is_temporal(kind):
        whole = pa.int32() if kind == pa.date32() else pa.int64()
        low, high = (pa.array([x.as_py() % 2**31], whole).view(kind)[0] for x in (least, far))
    else:
        low, high = least.cast(kind), far.cast(kind)
    fields = pa.schema([("x", kind)])

    def batch(values: list[pa.Scalar]) -> pa.RecordBatch:
        return pa.record_batch([pa.array(values, kind)], schema=fields)

    kinds = [batch([low, low]), batch([high]), batch([low, high]), batch([pa.scalar(None, kind)])]
    chosen = [0, 1, 0, 2, 3, 1, 3, 2, 0]
    known = [statistics_of(kinds[number], fields) for number in chosen]
    statistics = per_piece([*known, None], range(len(chosen) + 1), fields)
    found = may_match(statistics, pc.field("x") == low, ["x"], fields)
    assert found == [*(number in (0, 2) for number in chosen), True]
    found = may_match(statistics, pc.field("x").is_null(), ["x"], fields)
    assert found == [*(number == 3 for number in chosen), True]


def test_numbers_that_arrow_cannot_compare_with_bounds_leave_nothing_out() -> None:
    fields = pa.schema([("x", pa.uint64())])
    batches = [pa.record_batch({"x": pa.array(x, pa.uint64())}) for x in ([1, 2**64 - 1], [5])]
    statistics = per_piece([statistics_of(one, fields) for one in batches], [0, 1], fields)
    assert may_match(statistics, pc.field("x") < 3, ["x"], fields) == [True, True]


def test_statistics_that_make_no_sense_are_not_used() -> None:
    assert unpack_statistics(b"", 1) is None
    assert unpack_statistics(b"\0" * 100, 1) is None
    whole = pack_statistics(per_piece([None, None], [0, 1], covered(FIELDS)))
    assert unpack_statistics(whole, 3) is None
    assert unpack_statistics(whole[:-20], 2) is None


FORGED: dict[str, Any] = {
    "no map": [1],
    "no fields": {"pieces": 1},
    "a field is a list": {"pieces": 1, "fields": {"i": [1]}},
    "a name is a number": {"pieces": 1, "fields": {b"i": {}}},
    "other pieces": {"pieces": 2, "fields": {}},
}
UNKNOWN: dict[str, Any] = {
    "no nulls": {"numbers": [[1], [2]]},
    "nulls are a text": {"nulls": "x", "numbers": [[1], [2]]},
    "too few nulls": {"nulls": [], "numbers": [[1], [2]]},
    "negative nulls": {"nulls": [-1], "numbers": [[1], [2]]},
    "one end": {"nulls": [0], "numbers": [[1]]},
    "too many ends": {"nulls": [0], "numbers": [[1], [2], [3]]},
    "another kind": {"nulls": [0], "numbers": [["a"], ["b"]]},
    "a boolean among numbers": {"nulls": [0], "numbers": [[False], [True]]},
    "exchanged ends": {"nulls": [0], "numbers": [[2], [1]]},
    "NaN": {"nulls": [0], "numbers": [[float("nan")], [1]]},
    "half of a pair": {"nulls": [0], "numbers": [[1], [None]]},
    "moments are numbers": {"nulls": [0], "moments": [[1], [2]]},
    "numbers are a number": {"nulls": [0], "numbers": 7},
    "others are a text": {"nulls": [0], "others": ["x"], "numbers": [[1], [2]]},
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_statistics_are_not_used(case: str) -> None:
    assert unpack_statistics(msgpack.packb(FORGED[case]), 1) is None


@pytest.mark.parametrize("case", UNKNOWN)
def test_forged_bounds_say_nothing(case: str) -> None:
    packed = msgpack.packb({"pieces": 1, "fields": {"i": UNKNOWN[case]}})
    statistics = unpack_statistics(packed, 1)
    assert statistics is not None
    assert statistics.bounds("i") == [None]
    fields = pa.schema({"i": pa.int64()})
    assert may_match(statistics, pc.field("i") == 9, ["i"], fields) == [True]


def test_former_statistics_of_other_columns_are_not_used() -> None:
    names = ["i\0least", "i\0greatest", "i\0nulls"]
    columns = [pa.array([1]), pa.array([2]), pa.array([0])]
    right = unpack_statistics(forge.ipc_stream(pa.record_batch(columns, names)), 1)
    assert right is not None
    assert right.bounds("i") == [Bounds(numbers=(1, 2))]
    strange = [
        pa.record_batch([pa.array(["x"]), *columns[1:]], names),
        pa.record_batch([*columns[:2], pa.array(["x"])], names),
        pa.record_batch(columns[:2], names[:2]),
        pa.record_batch(columns, names[::-1]),
        pa.record_batch(columns * 2, names * 2),
    ]
    for batch in strange:
        assert unpack_statistics(forge.ipc_stream(batch), 1) is None
    bomb = forge.ipc_stream(pa.record_batch(columns, names), "zstd")
    assert unpack_statistics(bomb, 1) is None, "nothing is decompressed"


MIXED = [
    1, 2.5, 2**64 - 1, -(2**63), float("nan"), float("inf"), True, False, "a", "ä", "z" * 70,
    b"\0", None, dt.datetime(2020, 1, 1, tzinfo=dt.UTC), [1, "x"], {"a": 1},
]  # fmt: skip


@given(st.lists(st.sampled_from(MIXED) | st.just("absent"), min_size=1, max_size=8))
def test_bounds_of_mixed_values_are_kept_by_kind(values: list[Any]) -> None:
    documents = [{} if value == "absent" else {"v": value} for value in values]
    packed = b"".join(codec.pack_entry(str(n), one) for n, one in enumerate(documents))
    entries = codec.scan_entries(packed, 0, len(values), len(packed) + 1, 0)
    row = decode_statistics(entries, pa.schema({"v": json_type()}))
    assert row is not None
    found = row["v"]
    numbers = [x for x in values if type(x) in (int, float) and x == x]  # noqa: PLR0124
    assert found.numbers == ((min(numbers), max(numbers)) if numbers else None)
    texts = [x for x in values if type(x) is str and x != "absent"]
    long = "z" * 70 in texts
    assert found.strings == ((min(texts), max(texts)) if texts and not long else None)
    assert found.binaries == ((b"\0", b"\0") if b"\0" in values else None)
    assert (found.moments is None) == (not any(isinstance(x, dt.datetime) for x in values))
    flags = [x for x in values if type(x) is bool]
    assert found.booleans == ((min(flags), max(flags)) if flags else None)
    assert found.nulls == sum(x is None or x == "absent" for x in values)
    assert found.nans == sum(type(x) is float and math.isnan(x) for x in values)
    containers = sum(isinstance(x, (list, dict)) for x in values)
    assert found.others == containers + (len(texts) if long else 0)
    assert contradiction(row, entries) is None


def test_mixed_fields_of_an_engine_have_bounds_of_each_kind(tmp_path: Path) -> None:
    path = tmp_path / "t.godb"
    rows = [{"v": n if n % 2 else f"{n:06}", "pad": str(n) * 9} for n in range(40_000)]
    godb_arrow.write_godb(rows, path, "t")
    known = locate(path, "t", ReadOptions()).pieces()
    assert known is not None
    statistics = known.statistics()
    assert statistics is not None
    first, *_, last = statistics.bounds("v")
    assert first is not None
    assert last is not None
    assert first.numbers is not None
    assert first.strings is not None
    assert (first.numbers[0], first.strings[0]) == (1, "000000")
    assert last.numbers is not None
    assert last.strings is not None
    assert (last.numbers[1], last.strings[1]) == (39_999, "039998")
    assert verify_godb(path).ok


def table(first: int = 0, rows: int = ROWS) -> pa.Table:
    numbers = np.arange(first, first + rows)
    days = [f"2026-{n // 5000:04}" for n in numbers]
    some = [n if n % 3 else None for n in numbers.tolist()]
    return pa.table({
        "n": numbers, "day": days, "scattered": numbers * 7919 % 1000, "f": numbers / 3,
        "maybe": pa.array(some),
    })  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("statistics") / "t.godb"
    godb_arrow.write_godb(table(), path, "t")
    return path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many documents each run has that is decompressed."""
    found: list[int] = []
    original = pieces.CollectionPieces._check

    def counted(self: Any, data: bytes, first: int, last: int) -> Any:
        found.append(sum(self.documents[first:last]))
        return original(self, data, first, last)

    monkeypatch.setattr(pieces.CollectionPieces, "_check", counted)
    return found


QUERIES: list[tuple[pc.Expression, int]] = [
    (pc.field("n") < 100, 100),
    (pc.field("day") == "2026-0003", 5000),
    ((pc.field("f") > 16_000.0) & (pc.field("scattered") < 500), -1),
    (pc.field("maybe") == 40_000, 1),
    (pc.field("n").isin([7, 49_999]), 2),
    (pc.field("n") < 0, 0),
]


@pytest.mark.parametrize(("condition", "count"), QUERIES)
def test_pieces_are_left_out(
    file: Path, loaded: list[int], condition: pc.Expression, count: int
) -> None:
    found = godb_arrow.read_table(file, filter=condition)
    assert sum(loaded) < ROWS
    right = table().filter(condition)
    assert found.equals(right)
    assert count in (-1, len(found))
    assert (not loaded) == (len(found) == 0)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path: godb_arrow.write_godb(table(), path, "t"), id="table"),
        pytest.param(
            lambda path: godb_arrow.write_godb(table().to_reader(1000), path, "t"), id="stream"
        ),
        pytest.param(
            lambda path: godb_arrow.write_godb(table().to_pylist(), path, "t"), id="dicts"
        ),
    ],
)
def test_every_way_of_writing_makes_them(
    write: Callable[[Path], object], tmp_path: Path, loaded: list[int]
) -> None:
    path = tmp_path / "t.godb"
    write(path)
    godb_arrow.write_godb(table(ROWS, 3000), path, "t", if_exists="append")
    loaded.clear()
    assert (
        godb_arrow.read_table(path, columns=["n"], filter=pc.field("n") > 45_000).num_rows == 7999
    )
    assert 7999 <= sum(loaded) < ROWS


def test_polars_and_duckdb_leave_pieces_out(file: Path, loaded: list[int]) -> None:
    handle = godb_arrow.open_godb(file)
    lazy = in_polars.scan_godb(handle).filter((pl.col("n") < 50) & (pl.col("n") % 2 == 0))
    assert lazy.select(pl.col("n").sum()).collect().item() == sum(range(0, 50, 2))
    assert 0 < sum(loaded) < ROWS
    loaded.clear()
    with in_duckdb.connect({"t": handle}) as connection:
        found = connection.sql("select count(*) from t where day = '2026-0007'").fetchall()
        assert found == [(5000,)]
    assert 0 < sum(loaded) < ROWS


def test_an_engine_keeps_them_through_checkpoints(tmp_path: Path, loaded: list[int]) -> None:
    with StorageEngine(tmp_path / "data", max_memory=2 << 20) as engine:
        collection = engine.create_collection("t")
        for first in range(0, ROWS, 10_000):
            collection.insert_many(table(first, 10_000))
            engine.save()
        collection.delete_many({"n": [3, 20_000, 45_000]})
        collection.update("18", {"n": -5})
        for number in range(4):
            collection.insert({"n": 10**6 + number})
            engine.save()
        known = locate(tmp_path / "data" / "collections" / "t.godb", "t", ReadOptions()).pieces()
        assert known is not None
        statistics = known.statistics()
        assert statistics is not None
        assert all(statistics.bounds("n")), "something is known of each piece"
        loaded.clear()
        for low, high, count in ((40_000, 41_000, 1000), (10**6, 10**7, 4), (-9, 0, 1),
                                 (19_999, 20_001, 1)):  # fmt: skip
            condition = (pc.field("n") >= low) & (pc.field("n") < high)
            loaded.clear()
            assert collection.to_arrow(filter=condition).num_rows == count
            assert sum(loaded) < ROWS, (low, loaded)


def test_a_checkpoint_copies_pieces_that_did_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed: list[int] = []
    original = codec.compress_piece

    def counted(content: bytes, *options: Any) -> tuple[bytes, bytes]:
        compressed.append(len(content))
        return original(content, *options)

    monkeypatch.setattr(codec, "compress_piece", counted)
    path = tmp_path / "collections" / "t.godb"
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("t")
        collection.insert_many(table())
        engine.save()
        whole = sum(compressed)
        assert whole > 3_000_000
        expected = {document["n"]: document for document in collection.find_all_stream()}
        for number in range(3):  # always in the same piece
            compressed.clear()
            collection.delete(str(number + 1))
            expected.pop(number)
            expected[10**6 + number] = {"n": 10**6 + number}
            collection.insert(expected[10**6 + number])
            engine.save()
            assert sum(compressed) < 2_000_000
            assert verify_godb(path).ok
        found = {document["n"]: document for document in collection.find_all_stream()}
        assert found == expected | {n: found[n] for n in range(10**6, 10**6 + 3)}
        assert go_read(path.read_bytes())["collections"]["t"].keys() == {
            document["_id"] for document in found.values()
        }


def test_anything_between_checkpoints(tmp_path: Path) -> None:
    """Deletions, updates and insertions, here and there or all in one piece; reopened each time."""
    rng = random.Random(8)
    expected: dict[str, dict[str, Any]] = {}
    for number in range(60 if LONG else 5):
        with StorageEngine(tmp_path, max_memory=rng.choice([24 << 20, 1 << 30])) as engine:
            collection = engine["t"] if number else engine.create_collection("t")
            for _ in range(rng.randrange(1, 4)):
                kind = rng.randrange(4)
                ids = sorted(expected, key=int)
                start = rng.randrange(max(1, len(ids) - 9000))
                chosen = rng.sample(ids, len(ids) // 100) if kind % 2 else ids[start : start + 9000]
                if kind < 2 or not chosen:
                    rows = table(number * 100_000, rng.randrange(1, 25_000)).select(["n", "day"])
                    given = collection.insert_many(rows)
                    expected.update(zip(given, rows.to_pylist(), strict=True))
                elif rng.random() < 0.5:
                    collection.delete_many({"_id": chosen})
                    for one in chosen:
                        del expected[one]
                else:
                    collection.update_by_id({one: {"n": -number} for one in chosen})
                    for one in chosen:
                        expected[one] = {**expected[one], "n": -number}
                if rng.random() < 0.7:
                    engine.save()
            low = rng.choice([-number, number * 100_000, 50])
            condition = pc.field("n") == low
            assert len(list(collection.find(condition))) == sum(
                document["n"] == low for document in expected.values()
            )
        path = tmp_path / "collections" / "t.godb"
        found = {one.pop("_id"): one for one in godb_arrow.read_documents(path)}
        assert found == expected
        assert verify_godb(path).ok


def test_another_type_than_the_recorded_one(file: Path) -> None:
    schema = pa.schema({"n": pa.float64(), "day": pa.string()})
    found = godb_arrow.read_table(file, schema=schema, filter=pc.field("n") < 2.5)
    assert found["n"].to_pylist() == [0.0, 1.0, 2.0]


def test_explain_says_what_is_left_out(file: Path, tmp_path: Path, loaded: list[int]) -> None:
    handle = godb_arrow.open_godb(file)
    whole = handle.explain()
    assert (whole.pieces_read, whole.candidates, whole.documents) == (whole.pieces, ROWS, ROWS)
    assert whole.pieces > 2
    part = handle.explain(pc.field("n") < 100)
    assert part.pieces_read == 1
    handle.to_arrow(filter=pc.field("n") < 100)
    assert sum(loaded) == part.candidates
    with StorageEngine(tmp_path, max_memory=2 << 20) as engine:
        engine.load_collection_metadata(file)
        assert engine["t"].explain(pc.field("n") < 100).pieces_read == 1
        engine["t"].insert({"n": 5})
        changed = engine["t"].explain(pc.field("n") < 100)
        assert (changed.candidates, changed.documents) == (part.candidates + 1, ROWS + 1)
        loaded.clear()
        assert len(list(engine["t"].find(pc.field("n") == 5))) == 2
        assert 0 < sum(loaded) < ROWS
