"""Statistics name candidates: no piece with a document that matches is skipped."""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.filters import columns, entries_of, filters

import godb_arrow
from godb_arrow import codec
from godb_arrow.file.locate import StoredCollection
from godb_arrow.query.predicate import compile_filter
from godb_arrow.query.projection import project
from godb_arrow.query.pruning import may_match_predicate
from godb_arrow.query.statistics import covered, decode_statistics, per_piece
from godb_arrow.schema import DocumentSummary, infer_schema
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.snapshot import Snapshot


@given(st.lists(columns, min_size=1, max_size=4), filters(), st.sampled_from(["a", "b", "c"]))
def test_no_piece_with_a_match_is_skipped(
    pieces: list[list[Any]], filter: dict[str, Any], name: str
) -> None:
    predicate = compile_filter(filter)
    for piece in pieces:
        data = b"".join(
            codec.pack_entry(str(n), {name: value} if value is not ... else {})
            for n, value in enumerate(piece)
        )
        entries = codec.scan_entries(data, 0, len(piece), len(data) + 1, 0)
        summary = DocumentSummary()
        codec.infer(entries, summary)
        fields = covered(infer_schema(summary))
        row = decode_statistics(entries, fields)
        if row is None:
            continue
        (may,) = may_match_predicate(per_piece([row], [0], fields), predicate)
        assert may or not len(codec.select(entries, predicate)), piece


def test_columns_of_keys_that_are_no_strings_say_nothing() -> None:
    fields = pa.schema({"1": pa.int64()})
    data = codec.pack("x") + codec.pack({1: 5})
    entries = codec.scan_entries(data, 0, 1, len(data) + 1, 0)
    row = decode_statistics(entries, fields)
    assert row is not None
    statistics = per_piece([row], [0], fields)
    assert may_match_predicate(statistics, compile_filter({"1": None})) == [True]


GIVEN = [pa.int64(), pa.uint64(), pa.float64(), pa.float32(), pa.string(), pa.bool_(),
         pa.timestamp("s", "UTC"), pa.timestamp("ms", "UTC"), pa.timestamp("us"), pa.date32(),
         pa.date64(), pa.decimal128(20, 2)]  # fmt: skip
NOON = dt.datetime(2020, 1, 1, 12, tzinfo=dt.UTC)
VALUES: list[list[Any]] = [
    [NOON], [NOON, None], [dt.datetime(1969, 12, 31, 23, 59, 59, 500000, tzinfo=dt.UTC)],
    [0, 5, 2**53 + 1], [2**63], [0.1, 1.5], [float("nan"), 2.0**53], ["a", "10"], [True], [None],
]  # fmt: skip
LITERALS = [0, 5, 0.1, 1.5, 2**53, "a", "10", True, NOON, NOON.replace(tzinfo=None),
            dt.date(2020, 1, 1), dt.date(1969, 12, 31), pa.scalar(0.1, pa.float32())]  # fmt: skip
COMPARISONS: list[Callable[[Any, Any], Any]] = [
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
    lambda field, literal: field.isin([literal]), lambda field, literal: ~(field == literal),
    lambda field, _: field.is_null(), lambda field, _: field.is_valid(),
]  # fmt: skip


@pytest.mark.parametrize("values", VALUES, ids=str)
def test_pruning_by_expressions_keeps_what_a_given_type_shows(values: list[Any]) -> None:
    """The type changes what columns show: a date has no time of day."""
    entries = entries_of([{"v": value} for value in values])
    summary = DocumentSummary()
    codec.infer(entries, summary)
    fields = covered(infer_schema(summary))
    statistics = per_piece([decode_statistics(entries, fields)], [0], fields)
    tried = 0
    for kind in GIVEN:
        schema = pa.schema({"_id": pa.string(), "v": kind})
        for literal in LITERALS:
            for compare in COMPARISONS:
                try:
                    projection = project(schema, None, compare(pc.field("v"), literal))
                    batch = codec.decode_batch(entries, codec.plan_columns(projection.decoded))
                    rows = projection.matching(batch)
                except (godb_arrow.GodbError, pa.ArrowException):
                    continue
                tried += 1
                if rows is None or len(rows):
                    assert projection.may_match(statistics) == [True], (kind, literal, compare)
    assert tried


@pytest.mark.parametrize("on_mismatch", ["null", "error"])
def test_a_given_schema_keeps_indexes_and_pruning_of_mappings(
    on_mismatch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents: list[dict[str, Any]] = [{"n": n, "s": str(n) * 30} for n in range(30_000)]
    documents[5]["n"] = "no number"
    given = pa.schema({"n": pa.int64()})
    looked: list[Any] = []
    whole = StoredCollection.runs

    def runs(self: StoredCollection, fields: Any = (), wanted: Any = None, **how: bool) -> Any:
        looked.append(None if wanted is None else sum(wanted))
        return whole(self, fields, wanted, **how)

    with godb_arrow.StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many(documents)
        engine.save()
        path = collection.path
        assert path is not None
        monkeypatch.setattr(StoredCollection, "runs", runs)
        for filter, right in (({"n": 29_999}, [29_999]), ({"n": {"$lt": 3}}, [0, 1, 2])):
            options: Any = {"filter": filter, "schema": given, "on_mismatch": on_mismatch}
            looked.clear()
            assert godb_arrow.read_table(path, **options)["n"].to_pylist() == right
            assert looked == [1], "one piece is read"
            looked.clear()
            assert collection.stream_batches(**options).read_all()["n"].to_pylist() == right
            assert looked == [1]
        collection.create_index("n")
        assert collection.find({"n": 7}) == [{"_id": "8", **documents[7]}]
        monkeypatch.setattr(Snapshot, "entries", None)
        monkeypatch.setattr(Base, "runs", None)
        options = {"filter": {"n": [7, 9]}, "schema": given, "on_mismatch": on_mismatch}
        assert collection.stream_batches(**options).read_all()["n"].to_pylist() == [7, 9]


@pytest.mark.parametrize("values", [[1, 2, 3], ["a", "b"], [b"a", b"b"], [1.5, 2.5], [2, "x"]])
def test_a_piece_whose_ends_match_is_not_skipped(values: list[Any]) -> None:
    data = b"".join(codec.pack_entry(str(n), {"n": one}) for n, one in enumerate(values))
    entries = codec.scan_entries(data, 0, len(values), len(data) + 1, 0)
    summary = DocumentSummary()
    codec.infer(entries, summary)
    fields = covered(infer_schema(summary))
    known = per_piece([decode_statistics(entries, fields)], [0], fields)
    for value in values:
        for name in ("$eq", "$gt", "$gte", "$lt", "$lte", "$ne"):
            for filter in ({"n": {name: value}}, {"$not": {"n": {name: value}}}):
                predicate = compile_filter(filter)
                if len(codec.select(entries, predicate)):
                    assert may_match_predicate(known, predicate) == [True], filter
