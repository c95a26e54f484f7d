"""DataFrames: dtypes, chunks."""

from __future__ import annotations

import io
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import godb_arrow
from godb_arrow.query import dataframe as adapter


def data(rows: list[dict[str, Any]] | pd.DataFrame) -> bytes:
    file = io.BytesIO()
    godb_arrow.write_godb(rows, file, "c")
    return file.getvalue()


MIXED = data(
    [
        {"i": 1, "j": 2**53 + 1, "b": True, "f": 1.5, "s": "x", "n": None},
        {"i": 2, "j": None, "b": None, "f": None, "s": None, "n": None},
    ]
)


def test_integers_and_booleans_with_missing_values_stay_what_they_are() -> None:
    frame = godb_arrow.read_godb(MIXED)
    kinds = {str(k): str(v) for k, v in frame.dtypes.items()}
    assert (kinds["i"], kinds["j"], kinds["b"], kinds["f"]) == (
        "int64", "Int64", "boolean", "float64",
    )  # fmt: skip
    assert frame["j"][0] == 2**53 + 1
    assert frame["j"].isna().tolist() == [False, True]


def test_dtype_backends() -> None:
    arrow = godb_arrow.read_godb(MIXED, dtype_backend="pyarrow")
    assert {type(kind) for kind in arrow.dtypes} == {pd.ArrowDtype}
    nullable = godb_arrow.read_godb(MIXED, dtype_backend="numpy_nullable")
    assert str(nullable["i"].dtype) == "Int64"
    assert str(nullable["f"].dtype) == "Float64"
    assert str(nullable["b"].dtype) == "boolean"
    assert isinstance(nullable["s"].dtype, pd.StringDtype)
    with pytest.raises(godb_arrow.InvalidOption, match="dtype_backend"):
        godb_arrow.read_godb(MIXED, dtype_backend=cast(Any, "polars"))


@pytest.mark.parametrize("size", [1, 3, 10, 64, 100, 101, 1000])
def test_chunks_have_exactly_the_size_asked_for(size: int) -> None:
    rows = [{"n": n} for n in range(100)]
    chunks = list(godb_arrow.read_godb(data(rows), chunksize=size))
    assert [len(chunk) for chunk in chunks] == [size] * (100 // size) + (
        [100 % size] if 100 % size else []
    )
    whole = pd.concat(chunks)
    assert whole["n"].tolist() == list(range(100))
    assert whole.index.tolist() == list(range(100))


def test_chunks_across_batches_and_filters() -> None:
    rows = [{"n": n, "odd": n % 2 == 1} for n in range(100)]
    chunks = godb_arrow.read_godb(data(rows), chunksize=20, filter={"odd": True}, batch_size=7)
    assert [len(chunk) for chunk in chunks] == [20, 20, 10]


def test_chunks_of_nothing() -> None:
    (empty,) = godb_arrow.read_godb(data([]), chunksize=5)
    assert list(empty.columns) == ["_id"]
    assert empty.empty
    with pytest.raises(godb_arrow.InvalidOption, match="chunksize"):
        godb_arrow.read_godb(data([]), chunksize=0)


def test_a_filtered_frame_that_was_written_with_a_range_index() -> None:
    frame = pd.DataFrame({"n": range(10)})
    found = godb_arrow.read_godb(data(frame), filter={"n": [3, 4]})
    assert found["n"].tolist() == [3, 4]
    assert found.index.tolist() == [0, 1]


def test_an_index_with_names_survives_filters_and_chunks() -> None:
    frame = pd.DataFrame({"n": range(4)}, index=pd.Index(list("abcd"), name="k"))
    found = godb_arrow.read_godb(data(frame), filter={"n": [1, 3]})
    assert found.index.tolist() == ["b", "d"]
    chunks = list(godb_arrow.read_godb(data(frame), chunksize=3))
    assert chunks[1].index.tolist() == ["d"]


def test_a_projection_without_the_index() -> None:
    frame = pd.DataFrame({"n": range(4), "m": 1}, index=pd.Index(list("abcd"), name="k"))
    assert godb_arrow.read_godb(data(frame), columns=["m"]).columns.tolist() == ["m"]


def test_chunks_are_written_one_at_a_time(tmp_path: Path) -> None:
    from godb_arrow.connectors.pandas import to_godb

    alive: list[weakref.ref[pd.DataFrame]] = []

    def chunks() -> Iterator[pd.DataFrame]:
        for part in range(5):
            assert sum(one() is not None for one in alive) <= 2
            frame = pd.DataFrame({"n": [part, part + 10], "s": ["x", None]})
            alive.append(weakref.ref(frame))
            yield frame

    assert to_godb(chunks(), tmp_path / "c.godb", "c") == 10
    frame = godb_arrow.read_godb(tmp_path / "c.godb", columns=["n", "s"])
    assert frame["n"].tolist() == [0, 10, 1, 11, 2, 12, 3, 13, 4, 14]
    parts = godb_arrow.read_godb(tmp_path / "c.godb", columns=["n"], chunksize=4)
    assert to_godb(parts, tmp_path / "d.godb", "d") == 10
    assert to_godb(iter([]), tmp_path / "e.godb", "e") == 0
    wrong = iter([pd.DataFrame({"n": [1]}), pd.DataFrame({"n": ["x"]})])
    with pytest.raises(godb_arrow.UnsupportedType, match="chunk 1"):
        to_godb(wrong, tmp_path / "e.godb", "e")
    assert godb_arrow.read_godb(tmp_path / "e.godb").empty


def test_the_accessor_writes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": [1, 2]}, index=pd.Index(["a", "b"], name="key"))
    assert frame.godb.write(tmp_path / "a.godb", "a") == 2
    assert godb_arrow.read_godb(tmp_path / "a.godb").equals(frame)
    with pytest.raises(godb_arrow.CollectionExists):
        frame.godb.write(tmp_path / "a.godb", "a", if_exists="error")


LEAVES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(max_size=3),
}
leaf_types = st.sampled_from(list(LEAVES))
struct_types = st.recursive(
    st.lists(leaf_types, max_size=3).map(lambda kinds: pa.struct(
        [(f"k{n}", kind) for n, kind in enumerate(kinds)]
    )),
    lambda inner: st.tuples(leaf_types, inner).map(lambda kinds: pa.struct(
        [("leaf", kinds[0]), ("inner", kinds[1])]
    )),
    max_leaves=3,
)  # fmt: skip


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if kind in LEAVES:
        return st.none() | LEAVES[kind]
    return st.none() | st.fixed_dictionaries({f.name: values_of(f.type) for f in kind})


@given(st.data(), struct_types)
def test_structs_become_dicts_that_lose_nothing(data: st.DataObject, kind: pa.DataType) -> None:
    structs = data.draw(st.lists(values_of(kind), max_size=6))
    cut = data.draw(st.integers(0, len(structs)))
    chunks = [pa.array(part, kind) for part in (structs[:cut], structs[cut:])]
    table = pa.table({"a": list(range(len(structs))), "s": pa.chunked_array(chunks, kind)})
    found = adapter.to_frame(table)
    assert list(found.columns) == ["a", "s"]
    assert repr(found["s"].tolist()) == repr(table["s"].to_pylist())
