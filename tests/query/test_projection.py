"""Expressions that kernels evaluate keep the same rows as a plan; paths and columns."""

from __future__ import annotations

import io
import operator
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import godb_arrow
from godb_arrow.query.column_mask import column_mask
from godb_arrow.query.filters import rows_where
from godb_arrow.query.literals import fitted

OPERATORS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]
INTEGERS = [pa.int64(), pa.uint64(), pa.int8(), pa.uint32()]
OTHERS = [pa.float64(), pa.float32(), pa.string(), pa.large_string(), pa.timestamp("us", "UTC")]
NAMES = ["n", "a field", "x) < (y", "n < 3", "(n"]


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_integer(kind):
        bits = kind.bit_width - pa.types.is_signed_integer(kind)
        least = -(2**bits) if pa.types.is_signed_integer(kind) else 0
        return st.integers(least, 2**bits - 1) | st.integers(0, 3)
    if pa.types.is_floating(kind):
        return st.floats(width=kind.bit_width) | st.sampled_from([0.0, -0.0, 1.5])
    if pa.types.is_timestamp(kind):
        return st.integers(-3, 3)
    return st.text(max_size=3) | st.sampled_from(["", "a", "b"])


@st.composite
def conditions(draw: st.DrawFn) -> tuple[pa.RecordBatch, pc.Expression]:
    columns, parts = {}, []
    rows = draw(st.integers(0, 9))
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)):
        kind = draw(st.sampled_from([*INTEGERS, *OTHERS]))
        value = values_of(kind)
        values = draw(st.lists(st.none() | value, min_size=rows, max_size=rows))
        columns[name] = pa.array(values, kind)
        field, literal = pc.field(name), pa.scalar(draw(st.none() | value), kind)
        which = draw(st.integers(0, 3))
        if which == 0:
            members = pa.array(draw(st.lists(st.none() | value, max_size=3)), kind)
            part = field.isin(members)
        elif which == 1:
            part = draw(st.sampled_from(OPERATORS))(pc.scalar(literal), field)
        else:
            part = draw(st.sampled_from(OPERATORS))(field, literal)
        parts.append(~part if draw(st.booleans()) else part)
    joined = draw(st.sampled_from([operator.and_, operator.or_]))
    return pa.record_batch(columns), reduce(joined, parts)


@given(conditions())
def test_kernels_keep_what_a_plan_keeps(given: tuple[pa.RecordBatch, pc.Expression]) -> None:
    batch, condition = given
    condition, parts = fitted(batch.schema, condition)
    found = column_mask(batch.schema, parts)
    assert found is not None
    assert found.fields == set(batch.schema.names)
    kept = pc.indices_nonzero(found.mask(batch)).to_pylist()
    assert kept == rows_where(batch, condition).to_pylist()


@pytest.mark.parametrize("compared", OPERATORS)
def test_comparisons_and_what_joins_them_need_no_plan(compared: Any) -> None:
    schema = pa.schema([("n", pa.int64()), ("u", pa.uint64()), ("t", pa.string())])
    n, text = pc.field("n"), pc.field("t")
    for condition in (
        compared(n, 1), compared(pc.field("u"), 1), compared(text, "a"), compared(pc.scalar(1), n),
        ~compared(n, 1), compared(n, 1) & compared(text, "a"), compared(n, 1) | (n > 3),
        n.isin([1, 2]), text.isin(["a"]) & compared(n, 0),
    ):  # fmt: skip
        assert column_mask(schema, fitted(schema, condition)[1]) is not None, condition


def test_other_expressions_have_a_plan() -> None:
    fields = [("n", pa.int64()), ("f", pa.float64()), ("t", pa.string()), ("h", pa.float16())]
    fields += [("b", pa.bool_()), ("c", pa.dictionary(pa.int8(), pa.string()))]
    schema = pa.schema([*fields, ("d", pa.decimal128(5, 2)), ("n2", pa.int8()), ("n2", pa.int8())])
    n = pc.field("n")
    for condition in (
        n.is_null(), n < pc.field("f"), n + 1 < 2, n.cast(pa.float64()) < 1.5, n < 1.5,
        pc.field("nothing") < 1, pc.scalar(True), pc.field("n", "x") < 1, pc.field("b"),
        (n < 1) & n.is_null(), pc.field("c") == "a", pc.field("h") < 1, pc.field("d") < 1,
        pc.field("n2") < 1, pc.is_in(n, value_set=pa.array([1]), skip_nulls=True),
        pc.field(0) < 1, (n < 1).is_valid(),
    ):  # fmt: skip
        assert column_mask(schema, fitted(schema, condition)[1]) is None, condition


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
