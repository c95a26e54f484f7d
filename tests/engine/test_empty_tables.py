"""Tables without rows leave their columns, dtypes and categories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from godb_arrow import Collection, StorageEngine, read_godb, write_godb
from godb_arrow.connectors.etl import copy

FRAME = pd.DataFrame(
    {
        "i": pd.Series([], dtype="int32"),
        "s": pd.Series([], dtype="string"),
        "c": pd.Categorical([], ["b", "a"], ordered=True),
        "t": pd.Series([], dtype="datetime64[ns, Europe/Berlin]"),
    },
    index=pd.Index([], dtype="int64", name="k"),
)


def is_same(found: pd.DataFrame, frame: pd.DataFrame = FRAME) -> bool:
    pd.testing.assert_frame_equal(found.drop(columns="_id", errors="ignore"), frame)
    return True


@pytest.mark.parametrize("durability", ["commit", "interval", "checkpoint"])
@pytest.mark.parametrize("part_size", [1024, 1 << 27])
def test_an_engine_keeps_the_columns(tmp_path: Path, durability: Any, part_size: int) -> None:
    with StorageEngine(tmp_path / "d", durability=durability, part_size=part_size) as engine:
        collection = engine.create_collection("c")
        assert len(collection.insert_many(FRAME)) == 0
        assert is_same(collection.to_pandas())
        engine.save()
        collection.insert_many(FRAME)
        assert not collection.is_dirty
    with StorageEngine(tmp_path / "d", read_only=True) as engine:
        assert is_same(engine["c"].to_pandas())


def test_the_journal_has_the_columns(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path / "d")
    engine.create_collection("c")
    engine.save()
    engine["c"].insert_many(FRAME)
    with StorageEngine(tmp_path / "d", read_only=True) as reader:
        assert is_same(reader["c"].to_pandas())
    engine.close(discard=True)
    with StorageEngine(tmp_path / "d") as engine:
        assert is_same(engine["c"].to_pandas())
        engine["c"].insert({"other": 1})
        assert engine["c"].schema.names == ["_id", "other"]


def test_a_follower_has_the_columns(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "d") as engine:
        engine.replicate_to(tmp_path / "f")
        engine.create_collection("c").upsert_many(FRAME, id_column="s")
        engine.save()
    with StorageEngine(tmp_path / "f", read_only=True) as follower:
        assert is_same(follower["c"].to_pandas())


@pytest.mark.parametrize("save", [False, True])
def test_documents_decide_as_soon_as_there_are_any(tmp_path: Path, save: bool) -> None:
    with StorageEngine(tmp_path / "d") as engine:
        collection: Collection = engine.create_collection("c")
        collection.insert_many(FRAME)
        if save:
            engine.save()
        collection.insert_many(pa.table({"i": pa.array([1], pa.int8())}))
        assert collection.schema.field("i").type == pa.int8()
        assert collection.schema.names == ["_id", "i"]
        collection.insert_many(FRAME)
        assert collection.schema.names == ["_id", "i"]
        collection.delete("1")
        collection.insert_many(FRAME)
        assert is_same(collection.to_pandas())


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.godb", "d#c"])
def test_copies_keep_the_columns(tmp_path: Path, name: str) -> None:
    write_godb(FRAME, tmp_path / "1.godb", "c")
    copy(tmp_path / "1.godb", tmp_path / name, progress=False)
    copy(tmp_path / name, tmp_path / "2.godb", progress=False)
    assert is_same(read_godb(tmp_path / "2.godb"))


def test_columns_without_values_come_back_from_sqlite(tmp_path: Path) -> None:
    pytest.importorskip("adbc_driver_sqlite")
    types = [pa.int64(), pa.float64(), pa.string(), pa.binary(), pa.bool_(), pa.date32()]
    schema = pa.schema([(str(kind), kind) for kind in types])
    table = f"sqlite:///{tmp_path}/t.db#t"
    copy(schema.empty_table(), table, progress=False)
    copy(table, tmp_path / "a.parquet", progress=False)
    assert pa.parquet.read_schema(tmp_path / "a.parquet").types == types
