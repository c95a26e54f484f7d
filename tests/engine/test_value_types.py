"""Columns of JSON text that carry values have the types of these values."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from godb_arrow import StorageEngine
from godb_arrow.documents.value_types import VALUES

GROUPS: list[list[Any]] = [
    [{"a": 1, "b": [{"c": 1}]}, {"a": None}, {}],
    [{"a": 1.5, "b": []}, None],
    [{"d": {"e": "x"}}, {"b": [{"c": "text"}]}],
    [[1, 2], 3],
    [None, None],
]


def carriers(ids: list[str], values: list[Any]) -> pa.Table:
    texts = pa.array([None if value is None else json.dumps(value) for value in values])
    fields = [
        pa.field("_id", pa.string()),
        pa.field("v", pa.json_(), metadata={**VALUES, b"note": b"kept"}),
        pa.field("price", pa.decimal128(5, 2)),
    ]
    columns = [
        pa.array(ids),
        pa.ExtensionArray.from_storage(pa.json_(), texts.cast(pa.string())),
        pa.array([Decimal(1)] * len(ids), pa.decimal128(5, 2)),
    ]
    return pa.table(columns, schema=pa.schema(fields))


@pytest.mark.parametrize("count", range(1, len(GROUPS) + 1))
def test_types_are_those_of_the_same_values_as_documents(tmp_path: Path, count: int) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        table, plain = engine.create_collection("table"), engine.create_collection("plain")
        for number, values in enumerate(GROUPS[:count]):
            ids = [f"{number}-{row}" for row in range(len(values))]
            table.upsert_many(carriers(ids, values), omit_nulls=True)
            plain.upsert_many(
                {"_id": key, "price": "1.00"} | ({} if value is None else {"v": value})
                for key, value in zip(ids, values, strict=True)
            )
        expected = plain.find({}, sort="_id")
        for _ in range(2):
            assert table.find({}, sort="_id") == expected
            assert table.schema.field("v").type == plain.schema.field("v").type
            assert table.schema.field("price").type == pa.decimal128(5, 2)
            with StorageEngine(engine.data_dir, read_only=True) as other:  # from the journal
                assert other["table"].schema == table.schema
                assert other.find("table", sort="_id") == expected
            engine.save()


def test_other_columns_of_json_text_stay(tmp_path: Path) -> None:
    rows = carriers(["1"], [{"a": 1}])
    plain = rows.cast(pa.schema([field.with_metadata(None) for field in rows.schema]))
    with StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("t").insert_many(plain)
        assert engine["t"].schema.field("v").type == pa.json_()
        engine.create_collection("empty").insert_many(rows.slice(0, 0))
        assert engine["empty"].schema.field("v").metadata == {b"note": b"kept"}
