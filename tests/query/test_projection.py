"""Filters that are a comparison and nothing else are recognised, and keep the same rows."""

from __future__ import annotations

import io
import operator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import godb_arrow
from godb_arrow.query.filters import comparison_of, rows_where

OPERATORS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]
INTEGERS = [pa.int64(), pa.uint64(), pa.int8(), pa.uint32()]


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[pa.RecordBatch, pc.Expression]:
    kind = draw(st.sampled_from([*INTEGERS, pa.float64(), pa.float32()]))
    if pa.types.is_integer(kind):
        bits = kind.bit_width - pa.types.is_signed_integer(kind)
        least = -(2**bits) if pa.types.is_signed_integer(kind) else 0
        number: st.SearchStrategy[Any] = st.integers(least, 2**bits - 1) | st.integers(0, 3)
    else:
        number = st.floats(width=kind.bit_width) | st.sampled_from([0.0, -0.0, 1.5])
    values = draw(st.lists(st.none() | number, max_size=9))
    name = draw(st.sampled_from(["n", "a field", "x) < (y", "n < 3", "(n"]))
    batch = pa.record_batch({name: pa.array(values, kind), "other": pa.array(values, kind)})
    value = draw(number)
    compared = draw(st.sampled_from(OPERATORS))
    return batch, compared(pc.field(name), pa.scalar(value, kind))


@given(comparisons())
def test_a_comparison_keeps_what_its_expression_keeps(
    given: tuple[pa.RecordBatch, pc.Expression],
) -> None:
    batch, condition = given
    found = comparison_of(batch.schema, condition)
    if found is not None:
        kept = pc.indices_nonzero(found.mask(batch)).to_pylist()
        assert kept == rows_where(batch, condition).to_pylist()


@pytest.mark.parametrize("compared", OPERATORS)
@pytest.mark.parametrize("value", [0, -7, 2**62])
def test_plain_comparisons_are_recognised(compared: Any, value: int) -> None:
    schema = pa.schema([("n", pa.int64()), ("f", pa.float64()), ("t", pa.string())])
    found = comparison_of(schema, compared(pc.field("n"), value))
    assert found is not None
    assert (found.field, found.operator, found.value.as_py()) == ("n", compared, value)
    real = comparison_of(schema, compared(pc.field("f"), value + 0.5))
    assert real is not None
    assert real.value.as_py() == value + 0.5


def test_other_filters_are_none() -> None:
    schema = pa.schema([("n", pa.int64()), ("f", pa.float64()), ("t", pa.string())])
    n = pc.field("n")
    for condition in (
        None, {"n": 1}, n.is_null(), (n < 1) & (n > 0), (n < 1) | (n > 3), ~(n < 1),
        n < pc.field("f"), n + 1 < 2, n.cast(pa.float64()) < 1.5, n < 1.5, pc.field("t") == "1",
        pc.field("f") < 1,
        n < pa.scalar(1, pa.int8()), pc.field("nothing") < 1, pc.scalar(True), n.isin([1]),
        n == pa.scalar(None, pa.int64()), pc.field("f") < float("inf"), pc.field("n", "x") < 1,
    ):  # fmt: skip
        assert comparison_of(schema, condition) is None, condition


def test_numbers_that_are_floats_in_some_documents() -> None:
    file = io.BytesIO()
    documents = [{"n": n % 7 if n % 3 else n / 2} for n in range(3000)]
    godb_arrow.write_godb(documents, file, "c")
    found = godb_arrow.read_table(file.getvalue(), filter=pc.field("n") > 5.5)
    assert found["n"].to_pylist() == [one["n"] for one in documents if one["n"] > 5.5]


@pytest.mark.parametrize("keys", [200, 201])
def test_paths_into_maps_of_many_keys(keys: int) -> None:
    file = io.BytesIO()
    documents = [
        {"m": {f"k{key}": key + n for key in range(keys)}, "deep": {"m": {str(n): {"x": n}}}}
        for n in range(3)
    ]
    godb_arrow.write_godb(documents, file, "c")
    table = godb_arrow.read_table(file.getvalue(), columns=["m.k5", "m.k7"], filter={"m.k5": 6})
    assert table.to_pydict() == {"m.k5": [6], "m.k7": [8]}
    whole = godb_arrow.read_table(file.getvalue(), columns=["m", "m.k5", "deep.m.1.x"])
    assert whole["m.k5"].to_pylist() == [5, 6, 7]
    assert whole["deep.m.1.x"].to_pylist() == [None, 1, None]
