"""Columns of every Arrow type in every layout are read as they were written, or refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.arrow_types import SCALARS, columns

import godb_arrow
from godb_arrow import GodbError, InvalidOption, StorageEngine, UnsupportedType
from godb_arrow.documents.normalize import normalize_table

REFUSED = ("month_day_nano_interval", "dense union", "map of numbers")
"""Types that documents cannot hold, in any layout."""

COLUMNS = dict(columns())
del COLUMNS["far timestamp, list of dictionaries"]  # Python cannot compare its values


def written(table: pa.Table) -> bytes:
    file = io.BytesIO()
    godb_arrow.write_godb(table, file, "c")
    return file.getvalue()


def check_equal(found: pa.ChunkedArray, expected: pa.ChunkedArray) -> None:
    assert found.type.equals(expected.type)
    if not found.equals(expected):  # dictionaries may be ordered by first sight
        pairs = zip(found.to_pylist(), expected.to_pylist(), strict=True)
        assert all(one == other for one, other in pairs)


def has_views(kind: pa.DataType) -> bool:
    return "view" in str(kind) or "run_end" in str(kind)


@pytest.mark.parametrize("scalar", SCALARS)
def test_every_type_is_read_as_it_was_written_or_refused_by_name(scalar: str) -> None:
    for name, array in COLUMNS.items():
        if name.rpartition(", ")[0] != scalar:
            continue
        table = pa.table({"x": array, "n": range(len(array))})
        if scalar in REFUSED:
            with pytest.raises(UnsupportedType, match=r"column 'x"):
                written(table)
            continue
        data = written(table)
        expected = normalize_table(table)
        found = godb_arrow.read_table(data)
        assert not has_views(found.schema.field("x").type), name
        check_equal(found["x"], expected["x"])
        some = godb_arrow.read_table(data, filter=pc.field("n") > 0)
        check_equal(some["x"], expected["x"].slice(1))
        last = godb_arrow.read_table(data, columns=["x"], filter={"n": len(array) - 1})
        check_equal(last["x"], expected["x"].slice(len(array) - 1))
        valid = godb_arrow.read_table(data, columns=["n"], filter=pc.field("x").is_valid())
        assert valid.num_rows == len(array) - expected["x"].combine_chunks().is_null().sum().as_py()


@pytest.mark.parametrize("layout", ["string_view, plain", "struct, sliced", "map, sliced map"])
def test_engines_and_appends_get_converted_columns(tmp_path: Path, layout: str) -> None:
    array = COLUMNS[layout]
    table = pa.table({"x": array, "n": range(len(array))})
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        for part in (table, table.to_reader(), table.to_batches()[0]):
            collection.insert_many(part)
            engine.save()
        expected = pa.concat_tables([normalize_table(table)] * 3)
        check_equal(collection.to_arrow()["x"], expected["x"])
        assert collection.to_arrow(filter=pc.field("n") > 0).num_rows == 3 * (len(array) - 1)


class OneBatch:
    """A value that only speaks the Arrow array protocol."""

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return pa.RecordBatch.from_pydict({"a": ["x"]}).__arrow_c_array__(requested_schema)


def test_a_batch_of_another_library() -> None:
    assert godb_arrow.read_table(written(OneBatch()))["a"].to_pylist() == ["x"]


@pytest.mark.parametrize(
    "data",
    [pa.array([1, 2]), pa.chunked_array([[1], [2]]), pa.array(["a"], pa.string_view())],
    ids=["array", "chunked array", "views"],
)
def test_a_column_alone_is_refused(data: object) -> None:
    with pytest.raises(InvalidOption, match="as documents"):
        written(data)


def test_text_that_is_not_json_is_refused_by_its_column() -> None:
    column = pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(["{a"]))
    with pytest.raises(GodbError, match=r"column 'x': '\{a' is not JSON"):
        written(pa.table({"x": column}))
