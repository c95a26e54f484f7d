"""Types that a collection declares stay, whatever is appended to it."""

from __future__ import annotations

import datetime as dt
import decimal
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

import godb_arrow
from godb_arrow import StorageEngine

SCHEMA = pa.schema({
    "day": pa.date32(),
    "price": pa.decimal128(10, 2),
    "n": pa.int32(),
    "m": pa.map_(pa.string(), pa.int32()),
    "t": pa.timestamp("us"),
    "c": pa.dictionary(pa.int32(), pa.string()),
    "wait": pa.duration("us"),
})  # fmt: skip
ROW = {
    "day": dt.date(2020, 1, 1),
    "price": decimal.Decimal("1.10"),
    "n": 1,
    "m": [("k", 1)],
    "t": dt.datetime(2020, 1, 1),
    "c": "x",
    "wait": dt.timedelta(seconds=1),
}
FIRST = pa.Table.from_pylist([ROW], schema=SCHEMA)


def append_to_file(folder: Path, more: pa.Table) -> pa.Schema:
    path = folder / "c.godb"
    godb_arrow.write_godb(FIRST, path, "c")
    godb_arrow.write_godb(more, path, "c", if_exists="append")
    return godb_arrow.read_schema(path)


def insert_into_engine(folder: Path, more: pa.Table) -> pa.Schema:
    with StorageEngine(folder) as engine:
        collection = engine.create_collection("c")
        for table in (FIRST, more):
            collection.insert_many(table)
            engine.save()
        return collection.schema


def append_with_dask(folder: Path, more: pa.Table) -> pa.Schema:
    dask = pytest.importorskip("dask")
    dd = pytest.importorskip("dask.dataframe")
    from godb_arrow.connectors.dask import to_godb

    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dask's own
        for table in (FIRST, more):
            frame = table.to_pandas(types_mapper=pd.ArrowDtype)
            to_godb(
                dd.from_pandas(frame, npartitions=1, sort=False), folder, "c", if_exists="append"
            )
    with StorageEngine(folder) as engine:
        return engine["c"].schema


@pytest.mark.parametrize("append", [append_to_file, insert_into_engine, append_with_dask])
@pytest.mark.parametrize(
    "more",
    [
        pytest.param(FIRST, id="same columns"),
        pytest.param(FIRST.append_column("new", pa.array(["x"])), id="a new column"),
    ],
)
def test_appended_rows_change_no_declared_type(
    tmp_path: Path, append: Callable[[Path, pa.Table], pa.Schema], more: pa.Table
) -> None:
    schema = append(tmp_path, more)
    found = {name: schema.field(name).type for name in more.schema.names}
    assert found == {field.name: field.type for field in more.schema}
