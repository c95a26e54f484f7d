"""Mapping filters mean what the table says, in both codecs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import filter_model
from support.filters import documents, filters

from godb_arrow import codec
from godb_arrow.codec import Entries, reference
from godb_arrow.query.predicate import compile_filter

native = pytest.importorskip("godb_arrow.codec.native")


def entries_of(rows: list[dict[str, Any]]) -> Entries:
    data = b"".join(
        codec.pack_entry(str(index), {"_id": str(index), **row}) for index, row in enumerate(rows)
    )
    return codec.scan_entries(data, 0, len(rows), len(data) + 1, 0)


def expected(entries: Entries, filter: dict[str, Any]) -> list[int]:
    documents = (
        {**codec.load(entries.document(index)), "_id": entries.id(index)}
        for index in range(len(entries))
    )
    return [i for i, one in enumerate(documents) if filter_model.matches(one, filter)]


@given(st.lists(documents, max_size=6), filters())
def test_both_codecs_find_what_the_model_finds(
    rows: list[dict[str, Any]], filter: dict[str, Any]
) -> None:
    entries = entries_of(rows)
    predicate = compile_filter(filter)
    wanted = expected(entries, filter)
    assert reference.select(entries, predicate).tolist() == wanted
    assert native.select(entries, predicate).tolist() == wanted
