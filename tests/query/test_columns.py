"""Columns that are no names are refused by every verb that takes some."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

import godb_arrow
from godb_arrow import InvalidOption, StorageEngine

WRONG = ["a", 5, {"a": 2}, {1: 1}, [1], [None], [b"a"], [("a",)]]
TABLES_ONLY = [{"a": 1}, {"a": 0}]


@pytest.mark.parametrize("wrong", [*WRONG, *TABLES_ONLY], ids=repr)
def test_they_are_names(tmp_path: Path, wrong: Any) -> None:
    file = io.BytesIO()
    godb_arrow.write_godb([{"a": 1}], file, "c")
    data = file.getvalue()
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert({"a": 1})
        verbs: list[Any] = [
            lambda: users.to_arrow(wrong),
            lambda: users.to_pandas(columns=wrong),
            lambda: users.stream_batches(wrong),
            lambda: godb_arrow.open_godb(data).to_arrow(wrong),
            lambda: godb_arrow.read_table(data, columns=wrong),
            lambda: godb_arrow.read_godb(data, columns=wrong),
            lambda: godb_arrow.scan_godb(data, columns=wrong),
        ]
        if wrong in WRONG:
            verbs += [
                lambda: users.find(columns=wrong),
                lambda: next(users.find_all_stream(columns=wrong)),
                lambda: users.find_one(columns=wrong),
            ]
        if not isinstance(wrong, str):
            verbs.append(lambda: users.aggregate(wrong, n="count"))
        for verb in verbs:
            with pytest.raises(InvalidOption, match="columns"):
                verb()


def test_a_document_that_is_no_mapping_gets_the_way_on(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        with pytest.raises(godb_arrow.InvalidDocument, match=r"is a list; .*insert_many"):
            users.insert([{"a": 1}])  # type: ignore[arg-type]
        with pytest.raises(godb_arrow.InvalidDocument, match="is an int"):
            users.insert(5)  # type: ignore[arg-type]
        with pytest.raises(InvalidOption, match="unique is 'yes'"):
            users.create_index("a", unique="yes")  # type: ignore[arg-type]
