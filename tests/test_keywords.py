"""A misspelt keyword names the function and the nearest keyword."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.connectors.etl import copy


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: StorageEngine(path, max_memry=1), "StorageEngine.*did you mean 'max_memory'"),
        (lambda path: StorageEngine(path, readonly=True), "did you mean 'read_only'"),
        (lambda path: godb_arrow.read_godb(path, colums=["a"]), "read_godb.*'columns'"),
        (lambda path: godb_arrow.read_table(path, usecols=["a"]), "read_table.*'columns'"),
        (lambda path: godb_arrow.scan_godb(path, batchsize=3), "scan_godb.*'batch_size'"),
        (lambda path: godb_arrow.open_godb(path, tread=3), "open_godb.*'threads'"),
        (lambda path: godb_arrow.read_documents(path, xyzzy=3), "read_documents.*keywords are"),
        (lambda path: godb_arrow.write_godb([], path, "a", ifexist=""), "write_godb.*'if_exists'"),
        (lambda path: godb_arrow.read_ndjson(path, wher=1), "read_ndjson"),
        (lambda path: copy(path, path, if_exist="append"), "copy.*'if_exists'"),
    ],
)  # fmt: skip
def test_functions(tmp_path: Path, call: Callable[[Path], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call(tmp_path / "x.godb")


def test_methods(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users: Any = engine.create_collection("users")
        users.insert({"name": "Ada"})
        with pytest.raises(TypeError, match=r"find\(\).*did you mean 'filter'"):
            users.find(where={"name": "Ada"})
        with pytest.raises(TypeError, match=r"stream_batches\(\).*did you mean 'batch_size'"):
            users.stream_batches(batchsize=2)
        everything: Any = engine
        with pytest.raises(TypeError, match=r"find\(\).*did you mean 'limit'"):
            everything.find("users", limits=2)


def test_other_type_errors_are_unchanged(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="missing 1 required"):
        godb_arrow.write_godb([])  # type: ignore[call-arg]
