"""DataFrames of pandas keep index, labels, dtypes, attributes and values in all ways of reading."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pandas.testing import assert_frame_equal, assert_index_equal
from support.arrow_types import columns

import godb_arrow
from godb_arrow import StorageEngine, UnsupportedType
from godb_arrow.connectors.pandas import to_godb

INDEXES = {
    "range": pd.RangeIndex(3),
    "range of steps": pd.RangeIndex(5, 11, 2, name="r"),
    "text": pd.Index(["x", "y", "z"], name="k"),
    "without a name": pd.Index(["x", "y", "z"]),
    "levels": pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["p", None]),
    "dates": pd.DatetimeIndex(["2020-01-01", "2020-02-01", "2021-01-01"], name="d"),
    "zone": pd.DatetimeIndex(["2020-01-01", "2020-02-01", "2021-01-01"], tz="Europe/Berlin"),
    "days": pd.date_range("2020-03-28", periods=3, tz="Europe/Berlin", name="d"),
    "hours": pd.timedelta_range("1h", periods=3, freq="2h"),
    "category": pd.CategoricalIndex(list("aba"), name="c"),
    "bins": pd.CategoricalIndex(pd.cut([1, 5, 2], [0, 2, 4, 9]), name="c"),
    "bins in levels": pd.MultiIndex.from_arrays([pd.cut([1, 5, 2], [0, 2, 4, 9]), list("xyz")]),
    "period": pd.period_range("2020", periods=3, freq="M"),
    "interval": pd.interval_range(0, 3),
    "timedelta": pd.to_timedelta([1, 2, 3], unit="s"),
    "float": pd.Index([0.5, 1.0, 2.0]),
    "bool": pd.Index([True, False, True]),
}
LABELS = {
    "integers": pd.Index([0, 1]),
    "category": pd.CategoricalIndex(["a", "b"]),
    "ordered": pd.CategoricalIndex(["b", "a"], ["b", "a", "c"], ordered=True, name="n"),
    "levels": pd.MultiIndex.from_tuples([("a", "x"), ("b", "y")], names=["p", "q"]),
    "dates": pd.date_range("2020", periods=2),
    "zone": pd.date_range("2020", periods=2, tz="Asia/Tokyo"),
    "period": pd.period_range("2020", periods=2, freq="M"),
    "interval": pd.interval_range(0, 2),
    "intervals of dates": pd.interval_range(pd.Timestamp("2020"), periods=2),
    "timedelta": pd.to_timedelta([1, 2], unit="s"),
    "float": pd.Index([0.5, 1.5]),
    "named": pd.Index(["a", "b"], name="name"),
    "bool": pd.Index([True, False]),
    "mixed": pd.Index(["a", 1]),
}


def data_of(frame: Any) -> bytes:
    file = io.BytesIO()
    godb_arrow.write_godb(frame, file, "c")
    return file.getvalue()


def with_attributes(frame: pd.DataFrame) -> pd.DataFrame:
    frame.attrs = {"unit": "m"}
    return frame


def check_reads(frame: pd.DataFrame, ranged: bool) -> None:
    """Compare all ways of reading a frame of three rows, whose first column is 1, 2, 3."""
    data = data_of(frame)
    first = godb_arrow.read_schema(data).names[0]
    assert_frame_equal(godb_arrow.read_godb(data), frame)
    found = [godb_arrow.read_godb(data), pd.concat(godb_arrow.read_godb(data, chunksize=2))]
    for whole in found:
        assert_frame_equal(whole, frame, check_freq=False)
        assert whole.attrs == frame.attrs
    assert_frame_equal(
        godb_arrow.read_godb(data, columns=[first]), frame.iloc[:, :1], check_freq=False
    )
    some = godb_arrow.read_godb(data, filter=pc.field(first) > 1)
    expected = frame.iloc[1:]
    if ranged:  # positions are not stored
        expected = expected.set_axis(pd.RangeIndex(2, name=frame.index.name))
    assert_frame_equal(some, expected, check_freq=False)
    for none in (
        godb_arrow.read_godb(data, filter=pc.field(first) > 5),
        *godb_arrow.read_godb(data, filter=pc.field(first) > 5, chunksize=2),
    ):
        assert none.empty
        assert list(none.dtypes) == list(frame.dtypes)
        assert none.index.names == frame.index.names
        assert_index_equal(none.columns, frame.columns)
        assert none.attrs == frame.attrs


@pytest.mark.parametrize("name", INDEXES)
def test_indexes(name: str) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]}, index=INDEXES[name])
    check_reads(with_attributes(frame), ranged=name.startswith("range"))


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_columns(name: str) -> None:
    frame = pd.DataFrame([[1, "x"], [2, "y"], [3, "z"]], columns=LABELS[name])
    check_reads(with_attributes(frame), ranged=True)


@pytest.mark.parametrize("name", LABELS)
def test_labels_in_an_engine(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame([[1, "x"], [2, "y"]], columns=LABELS[name])
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many(frame)
        engine.save()
        found = collection.to_pandas()
    assert found.shape == (2, 3)  # with the ids
    assert found.iloc[:, 1:].to_numpy().tolist() == [[1, "x"], [2, "y"]]


@pytest.mark.parametrize("name", INDEXES)
def test_appended_frames(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3]}, index=INDEXES[name])
    for _ in range(2):
        frame.godb.write(tmp_path / "a.godb", "c", if_exists="append")
    found = godb_arrow.read_godb(tmp_path / "a.godb")
    expected = pd.concat([frame, frame])
    if name.startswith("range"):
        expected = expected.set_axis(pd.RangeIndex(6, name=frame.index.name))
    assert found["a"].tolist() == [1, 2, 3, 1, 2, 3]
    assert found.index.tolist() == expected.index.tolist()


MOMENTS = pd.to_datetime(["2020-01-01", "2020-02-01", None], utc=True)
CATEGORIES = {
    "bins": pd.cut([1, 5, 2], [0, 2, 4, 9]),
    "bins and nulls": pd.cut([1, 5, 20], [0, 2, 4, 9]),
    "bins of reals": pd.cut([1, 5, 2], 3),
    "bins of moments": pd.cut(MOMENTS, 3),
    "periods": pd.Categorical(pd.PeriodIndex(["2020-02", "2020-01", "2020-02"], freq="M")),
    "moments": pd.Categorical(MOMENTS.tz_convert("Asia/Tokyo")),
    "none": pd.Categorical([None] * 3, categories=[]),
    "unused": pd.Categorical([None] * 3, categories=["x"]),
    "ordered": pd.Categorical(["b", "a", None], ["c", "b", "a"], ordered=True),
    "numbers": pd.Categorical([2, 1, None]),
}


@pytest.mark.parametrize("name", CATEGORIES)
def test_categories(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "b": CATEGORIES[name]})
    check_reads(frame, ranged=True)
    assert_frame_equal(godb_arrow.read_godb(data_of(frame[:0])), frame[:0])
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many(frame)
        engine.save()
        collection.insert_many(frame)
        assert_frame_equal(
            collection.to_pandas(["a", "b"]), pd.concat([frame, frame], ignore_index=True)
        )
        none = collection.to_pandas(filter={"a": 9})
        assert none["b"].dtype == frame["b"].dtype


def test_values_without_a_recorded_category(tmp_path: Path) -> None:
    path = tmp_path / "a.godb"
    for top in (2, 9):
        to_godb(pd.DataFrame({"b": pd.cut([1, top], [0, 1, top])}), path, "c", if_exists="append")
    found = godb_arrow.read_godb(path)["b"]
    assert [str(value) for value in found] == ["(0, 1]", "(1, 2]", "(0, 1]", "(1, 9]"]


def test_periods_and_intervals_in_a_new_process(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"p": pd.period_range("2020", periods=2, freq="M"), "i": pd.interval_range(0, 2)}
    )
    path = tmp_path / "a.godb"
    frame.godb.write(path, "c")
    code = f"import godb_arrow; print(*godb_arrow.read_godb({str(path)!r}).dtypes)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["period[M]", "interval[int64,", "right]"]


BIG = 2**53 + 1
NESTED = pa.table({
    "list": [[1, None], [BIG], None],
    "texts": [["a", None], [], None],
    "reals": [[0.5, None], [], None],
    "structs": [{"i": BIG, "b": True}, {"i": None, "b": None}, None],
    "lists in structs": [{"l": [BIG, None]}, None, None],
    "maps": pa.array([[("a", BIG), ("b", None)], None, []], pa.map_(pa.string(), pa.int64())),
    "structs in lists": [[{"q": BIG}, None], [], None],
    "beside null": [BIG, None, 3],
})  # fmt: skip


@pytest.mark.parametrize("backend", [None, "numpy_nullable", "pyarrow"])
def test_integers_are_never_rounded(backend: Any) -> None:
    frame = godb_arrow.read_godb(data_of(NESTED), dtype_backend=backend)
    assert list(frame["list"][0]) == [1, None]
    assert list(frame["list"][1]) == [BIG]
    assert frame["structs"][0] == {"i": BIG, "b": True}
    assert list(frame["lists in structs"][0]["l"]) == [BIG, None]
    assert dict(frame["maps"][0]) == {"a": BIG, "b": None}
    assert frame["structs in lists"][0][0] == {"q": BIG}
    assert frame["beside null"].tolist() == [BIG, pd.NA, 3]
    assert list(frame["texts"][0]) == ["a", None]


def test_maps_of_many_keys_are_dicts_as_structs_are() -> None:
    for keys in (200, 201):
        documents = [{"m": {f"k{n}": n for n in range(keys)}}]
        found = godb_arrow.read_godb(data_of(documents))["m"][0]
        assert found == documents[0]["m"]


UNSTORED = ("month_day_nano_interval", "dense union", "map of numbers")


@pytest.mark.parametrize("backend", [None, "numpy_nullable", "pyarrow"])
@pytest.mark.parametrize("layout", ["plain", "list", "struct", "null maps over entries"])
def test_every_type_becomes_a_frame(layout: str, backend: Any) -> None:
    for name, column in columns():
        kind, _, found = name.rpartition(", ")
        if found == layout and kind not in UNSTORED:
            frame = godb_arrow.read_godb(data_of(pa.table({"x": column})), dtype_backend=backend)
            assert len(frame) == len(column), name


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.list_(pa.int8()), [1]),
        (pa.struct([("a", pa.int8())]), {"a": 1}),
        (pa.list_(pa.bool_(), 1), [True]),
        (pa.map_(pa.string(), pa.int8()), [("a", 1)]),
        (pa.timestamp("ns", "UTC"), pd.Timestamp("2020", tz="UTC")),
        (pa.decimal128(5, 2), 1),
        (pa.string(), "x"),
    ],
)
def test_arrow_backed_dtypes(kind: pa.DataType, value: Any) -> None:
    frame = pd.DataFrame({"x": pd.array([value, None], dtype=pd.ArrowDtype(kind))})
    found = godb_arrow.read_godb(data_of(frame))
    assert found["x"].dtype == frame["x"].dtype
    assert found["x"].isna().tolist() == [False, True]


# --- chunks ---------------------------------------------------------------------------------------


def frame_of(*chunks: pd.DataFrame) -> pd.DataFrame:
    file = io.BytesIO()
    assert to_godb(iter(chunks), file, "c") == sum(map(len, chunks))
    return godb_arrow.read_godb(file.getvalue())


def test_columns_that_only_some_chunks_have() -> None:
    found = frame_of(pd.DataFrame({"a": [1]}), pd.DataFrame({"b": ["x"]}), pd.DataFrame({"a": [2]}))
    assert found["a"].tolist() == [1, pd.NA, 2]
    assert found["b"].isna().tolist() == [True, False, True]


def test_types_are_those_of_the_first_values() -> None:
    empty = pd.DataFrame({"a": []})
    nulls = pd.DataFrame({"a": [None, None]})
    found = frame_of(empty, nulls, pd.DataFrame({"a": ["x"]}))
    assert found["a"].tolist()[2:] == ["x"]
    assert frame_of(pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2.0]}))["a"].tolist() == [1, 2]


@pytest.mark.parametrize("later", [[2.5], ["2"], [pd.Timestamp("2020")]])
def test_chunks_that_do_not_fit(later: list[Any]) -> None:
    with pytest.raises(UnsupportedType, match="'a' of chunk 1"):
        frame_of(pd.DataFrame({"a": [1]}), pd.DataFrame({"a": later}))


def test_categories_of_chunks_are_joined() -> None:
    chunks = [pd.DataFrame({"a": pd.Categorical([str(n + k) for k in range(90)])}) for n in (0, 80)]
    found = frame_of(*chunks)
    assert isinstance(found["a"].dtype, pd.CategoricalDtype)
    assert found["a"].astype(str).tolist() == [str(n + k) for n in (0, 80) for k in range(90)]
