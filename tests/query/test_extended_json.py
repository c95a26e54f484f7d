"""Filters as JSON, for command lines and tickets."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from support.filters import documents, filters

import godb_arrow
from godb_arrow import codec
from godb_arrow.query.extended_json import filter_from_json, filter_to_json, parse_literal
from godb_arrow.query.predicate import compile_filter


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30", 30), ("3.5", 3.5), ("true", True), ("null", None), ('"30"', "30"), ("Rome", "Rome"),
        ("NaN", "NaN"), ("Infinity", "Infinity"), ("007", "007"), ("True", "True"), ("", ""),
        ("[1, 2]", [1, 2]), ('{"$gte": 30}', {"$gte": 30}), ("{broken", "{broken"),
        ('{"$date": "2024-02-29"}', msgpack.Timestamp(1_709_164_800, 0)),
        ('{"$date": "2024-02-29T06:30:00.25+01:00"}',
         msgpack.Timestamp(1_709_184_600, 250_000_000)),
        ('{"$date": 1500}', msgpack.Timestamp(1, 500_000_000)),
        ('{"$date": {"$numberLong": "-1"}}', msgpack.Timestamp(-1, 999_000_000)),
        ('{"$numberLong": "5"}', 5), ('{"$numberDouble": "Infinity"}', math.inf),
        ('{"$numberDecimal": "1.50"}', decimal.Decimal("1.50")),
        ('{"$binary": {"base64": "AAE=", "subType": "00"}}', b"\0\1"),
        ('{"$bytes": "0001"}', b"\0\1"), ('{"$oid": "5f"}', "5f"),
        ('{"$timestamp": {"t": 7, "i": 1}}', msgpack.Timestamp(7, 0)),
        ('{"$in": [{"$numberInt": "1"}]}', {"$in": [1]}),
    ],
)  # fmt: skip
def test_literals_of_a_command_line(text: str, value: Any) -> None:
    assert parse_literal(text) == value


@pytest.mark.parametrize(
    "form",
    [{"$date": "today"}, {"$numberLong": 5}, {"$numberLong": "x"}, {"$binary": {"base64": "!"}},
     {"$numberDecimal": "x"}, {"$date": {"x": 1}}],
)  # fmt: skip
def test_wrong_forms_are_refused(form: dict[str, Any]) -> None:
    with pytest.raises(godb_arrow.InvalidFilter, match="extended JSON"):
        filter_from_json({"a": form})


@given(documents, filters())
def test_a_filter_means_the_same_after_it_was_json(
    document: dict[str, Any], filter: dict[str, Any]
) -> None:
    data = codec.pack_entry("1", document)
    entries = codec.scan_entries(data, 0, 1, len(data) + 1, 0)
    again = filter_from_json(json.loads(json.dumps(filter_to_json(filter))))
    found = [codec.select(entries, compile_filter(one)).tolist() for one in (filter, again)]
    assert found[0] == found[1]


def test_what_cannot_be_stored_cannot_be_sent() -> None:
    with pytest.raises(godb_arrow.InvalidFilter, match="no document can hold"):
        filter_to_json({"a": dt.time(tzinfo=dt.UTC)})


def test_values_that_json_lacks_keep_their_meaning() -> None:
    given = {"a": [decimal.Decimal("1.50"), b"x", dt.datetime(2020, 1, 1), math.inf, 2**63, "1.50"]}
    again = filter_from_json(json.loads(json.dumps(filter_to_json(given))))
    assert again == {
        "a": [decimal.Decimal("1.50"), b"x", msgpack.Timestamp(1_577_836_800, 0), math.inf, 2**63,
              "1.50"]
    }  # fmt: skip
    assert [type(one) for one in again["a"]][::5] == [decimal.Decimal, str]
