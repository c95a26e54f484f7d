"""Bounds that the codec finds in MessagePack: the same as those of decoded columns."""

from __future__ import annotations

from typing import Any
from unittest import mock

import msgpack
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.strategies import odd_keys, raw_values

from godb_arrow import CorruptFile, GodbError, codec
from godb_arrow.codec import reference
from godb_arrow.directory.verify_entries import _misfit
from godb_arrow.directory.verify_records import recorded_plan
from godb_arrow.query import statistics
from godb_arrow.query.contradiction import contradiction
from godb_arrow.query.statistics import covered, decode_statistics
from godb_arrow.schema import DocumentSummary, infer_schema, json_type

Pairs = list[tuple[Any, Any]]

EDGES: list[list[Any]] = [
    [0, -1, 5, 2**53, 2**53 + 1, -(2**53), -(2**63), 2**63 - 1],
    [2**63, 2**64 - 1, 0, 7],
    [0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf"), 3, 2**53 + 1],
    ["", "a", "ab", "abcdefgh", "abcdefghi", "ä", "\U0010ffff", "y" * 64, "z" * 65, "A" * 65],
    ["\udc80", b"a", b"abcdefghij", b"\xff" * 65, "a"],
    [True, False],
    [
        msgpack.Timestamp(seconds, rest)
        for seconds, rest in [(0, 0), (0, 1), (-1, 999_999_999), (5, 1000), (9_223_372_036, 1),
                              (9_223_372_037, 0), (2**63 - 1, 0), (-(2**63), 0)]
    ],
    [[], [1, "x"], {"a": 1}, msgpack.ExtType(5, b"x"), 1],
]  # fmt: skip
TYPES = [pa.timestamp("us"), pa.timestamp("ns"), pa.float64(), pa.int64(), pa.bool_()]
"""Types beside long texts, whose bounds depend on whether all fields fit their types."""

alike = st.sampled_from(EDGES).flatmap(
    lambda values: st.lists(st.none() | st.sampled_from(values) | st.just("absent"), max_size=8)
)
"""Values of one field of some documents, which mostly have one type."""

few_keys = st.sampled_from(["a", "b", "_id", 1, "1", b"x"])
documents = st.lists(
    st.lists(st.tuples(few_keys | odd_keys, raw_values), max_size=4), min_size=1, max_size=5
)


def entries_of(documents: list[Pairs]) -> codec.Entries:
    packer = msgpack.Packer(unicode_errors="surrogateescape")
    packed = b"".join(
        packer.pack(f"{n:03}") + packer.pack_map_pairs(pairs) for n, pairs in enumerate(documents)
    )
    return codec.scan_entries(packed, 0, len(documents), len(packed) + 1, 0)


def by_decoding(entries: codec.Entries, fields: pa.Schema) -> Any:
    with mock.patch.object(statistics, "_known_bounds", return_value=None):
        return decode_statistics(entries, fields)


@given(documents)
@example([[("a", 1), ("a", 2)], [("a", None)]])
@example([[(1, 1), ("1", 2)], [("_id", 3)]])
def test_the_codecs_find_the_same_bounds(documents: list[Pairs]) -> None:
    entries = entries_of(documents)
    names = ["_id", "a", "1", "absent", *(str(key) for pairs in documents for key, _ in pairs)]
    found = codec.value_bounds(entries, names)
    assert found == reference.value_bounds(entries, names)
    summary, expected = DocumentSummary(), DocumentSummary()
    inferred = codec.infer_with_bounds(entries, summary)
    codec.infer(entries, expected)
    assert infer_schema(summary, "json").equals(infer_schema(expected, "json"))
    assert inferred.keys() == summary.fields.keys()
    assert {name: inferred[name] for name in found if name in inferred} == {
        name: found[name] for name in found if name in inferred
    }
    assert inferred == reference.infer_with_bounds(entries, DocumentSummary())


@given(alike, alike)
@example([msgpack.Timestamp(0, 1)] * 3, ["a", "m" * 65, "z"])
@example([msgpack.Timestamp(0, rest) for rest in (1, 0, 2)], [None] * 3)
@example([msgpack.Timestamp(2**62, 0)] * 3, ["a", "m" * 65, "z"])
def test_they_are_those_of_decoded_columns(first: list[Any], second: list[Any]) -> None:
    documents: list[Pairs] = [
        [(name, value) for name, value in (("v", one), ("w", two)) if value != "absent"]
        for one, two in zip(first, second, strict=False)
    ]
    entries = entries_of(documents)
    summary = DocumentSummary()
    values = codec.infer_with_bounds(entries, summary)
    for fields in (
        covered(infer_schema(summary, "json")),
        pa.schema({"v": pa.timestamp("ns"), "w": pa.float64(), "_id": pa.string()}),
        pa.schema({"v": pa.int32(), "w": pa.uint8()}),
        pa.schema({"v": json_type(), "w": pa.string(), "x": pa.int64()}),
        pa.schema({"v": pa.timestamp("us", "UTC"), "w": pa.bool_(), "x": json_type()}),
        pa.schema({"v": pa.float64(), "w": pa.uint64()}),
        *(pa.schema({"v": kind, "w": pa.string()}) for kind in TYPES),
    ):
        expected = by_decoding(entries, fields)
        assert decode_statistics(entries, fields) == expected
        assert decode_statistics(entries, fields, values) == expected
        assert contradiction(expected, entries) is None


@given(documents)
def test_they_are_those_of_any_documents(documents: list[Pairs]) -> None:
    entries = entries_of(documents)
    summary = DocumentSummary()
    codec.infer(entries, summary)
    fields = covered(infer_schema(summary, "json"))
    assert decode_statistics(entries, fields) == by_decoding(entries, fields)


@given(alike, alike)
@example([2.5], [2**53 + 1, 2.5])
@example([msgpack.Timestamp(0, 1)], [msgpack.Timestamp(0, 0)])
def test_documents_fit_a_recorded_schema_as_their_decoding_says(
    recorded: list[Any], values: list[Any]
) -> None:
    def entries(values: list[Any]) -> codec.Entries:
        return entries_of([[] if value == "absent" else [("v", value)] for value in values])

    summary = DocumentSummary()
    codec.infer(entries(recorded), summary)
    plan = recorded_plan(infer_schema(summary))
    decoded = None
    try:
        codec.decode_batch(entries(values), plan)
    except GodbError as error:
        decoded = error
    assert (_misfit(entries(values), plan)[0] is None) == (decoded is None)


def test_damaged_documents_have_none() -> None:
    packed = b"\xa11\x81\xa1a\xd6\xff\xff\xff\xff\xff" + b"\xa12\x81\xa1a\xd7\xff" + b"\xff" * 8
    entries = codec.scan_entries(packed, 0, 2, len(packed) + 1, 0)
    with pytest.raises(CorruptFile):
        codec.value_bounds(entries, ["a"])
    assert decode_statistics(entries, pa.schema({"a": pa.timestamp("ns")})) is None


def test_documents_with_too_many_fields_have_bounds_of_those_that_are_asked_for() -> None:
    entries = entries_of([[(f"f{n}", n) for n in range(40)]] * 3)
    summary = DocumentSummary(limit=8)
    assert codec.infer_with_bounds(entries, summary) == {}
    assert summary.is_partial
    found = decode_statistics(entries, pa.schema({"f39": pa.int64()}), {})
    assert found is not None
    assert found["f39"].numbers == (39, 39)
