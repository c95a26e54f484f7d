"""JSON text: lossless, both ways."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from support.strategies import raw_values
from support.values import same

from godb_arrow.codec.jsontext import from_json_text, to_json_text


@given(raw_values)
def test_reading_gives_back_what_was_written(value: Any) -> None:
    text = to_json_text(value)
    json.loads(text)
    text.encode()
    assert same(value, from_json_text(text))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1.0"),
        (1e300, "1e+300"),
        (True, "true"),
        (None, "null"),
        (2**64 - 1, "18446744073709551615"),
        ("é\n\x01", '"é\\n\\u0001"'),
        (b"\x00\xff", '{"$bytes":"00ff"}'),
        ("\udcff", '{"$bytes":"ff"}'),
        (math.nan, '{"$float":"NaN"}'),
        (-math.inf, '{"$float":"-Inf"}'),
        (msgpack.Timestamp(0, 1), '{"$time":"1970-01-01T00:00:00.000000001Z"}'),
        (msgpack.Timestamp(-62135596800, 0), '{"$time":"0001-01-01T00:00:00Z"}'),
        (msgpack.Timestamp(2**60, 5), '{"$time":[1152921504606846976,5]}'),
        (dt.datetime(2024, 2, 29, 6, 30, 0, 250000, dt.UTC), '{"$time":"2024-02-29T06:30:00.25Z"}'),
        (msgpack.ExtType(5, b"ab"), '{"$ext":[5,"6162"]}'),
        ({1: "a", "b": []}, '{"$map":[[1,"a"],["b",[]]]}'),
        ({"$time": 5}, '{"$map":[["$time",5]]}'),
        ({"$time": 5, "x": {}}, '{"$time":5,"x":{}}'),
        ((("a", 1), ("b", (("c", None),))), '{"a":1,"b":{"c":null}}'),
    ],
)
def test_forms(value: Any, text: str) -> None:
    assert to_json_text(value) == text


def test_plain_text_for_programs_that_know_only_json() -> None:
    value = {"t": msgpack.Timestamp(0, 0), "b": b"ab", "f": math.nan, "$": {"$time": 1}}
    assert json.loads(to_json_text(value, plain=True)) == {
        "t": "1970-01-01T00:00:00Z",
        "b": "YWI=",
        "f": None,
        "$": {"$time": 1},
    }


def test_a_form_with_nonsense_in_it_is_an_ordinary_object() -> None:
    assert from_json_text('{"$time":"tomorrow"}') == {"$time": "tomorrow"}
    assert from_json_text('{"$bytes":5}') == {"$bytes": 5}
