"""Statistics name candidates: no piece with a document that matches is skipped."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from support.filters import columns, filters

from godb_arrow import codec
from godb_arrow.query.predicate import compile_filter
from godb_arrow.query.pruning import may_match_predicate
from godb_arrow.query.statistics import covered, decode_statistics, per_piece
from godb_arrow.schema import DocumentSummary, infer_schema


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
