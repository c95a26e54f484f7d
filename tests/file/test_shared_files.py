"""Files that the real go-db wrote, where the folder with them is at hand."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

import godb_arrow
from godb_arrow.codec.jsontext import to_json_text

FOLDER = Path(
    os.environ.get("GODB_ARROW_FILES", Path(__file__).parents[3] / "shared" / "godb-files")
)
FILES = sorted(FOLDER.rglob("*.godb"))

pytestmark = pytest.mark.skipif(not FILES, reason="the folder godb-files is not here")


def expectation(path: Path, collection: str) -> Path | None:
    plain = collection.replace("名前", "namae").replace(" ", "_").replace("/", "_")
    candidates = [
        path.with_name(f"{path.stem}.{plain}.expected.jsonl"),
        path.with_suffix(".expected.jsonl"),
        path.parent.parent / f"{path.stem}.expected.jsonl",
    ]
    return next((candidate for candidate in candidates if candidate.exists()), None)


def exact(value: Any) -> Any:
    """A form in which 1, 1.0 and true differ, and NaN equals itself."""
    if isinstance(value, dict):
        if set(value) == {"$float"}:
            name = {"Infinity": "inf", "Inf": "inf", "-Infinity": "-inf", "-Inf": "-inf"}
            return ("float", name.get(value["$float"], "nan"))
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return (type(value).__name__, repr(value) if isinstance(value, float) else value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_documents_are_exactly_those_expected(path: Path) -> None:
    for collection, count in godb_arrow.list_collections(path).items():
        found = {}
        for document in godb_arrow.read_documents(path, collection):
            found[document["_id"]] = exact(json.loads(to_json_text(document)))
        assert len(found) == count
        table = godb_arrow.read_table(path, collection)
        table.validate(full=True)
        assert table.column("_id").to_pylist() == list(found)
        expected = expectation(path, collection)
        if expected is not None:
            lines = expected.read_text().splitlines()
            wanted = {line["_id"]: exact(line) for line in map(json.loads, lines)}
            assert found == wanted
    assert godb_arrow.verify_godb(path).ok


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_written_again_holds_the_same(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.godb"
    for collection in godb_arrow.list_collections(path):
        godb_arrow.write_godb(godb_arrow.read_documents(path, collection), target, collection)
        again = godb_arrow.read_documents(target, collection)
        for left, right in zip(godb_arrow.read_documents(path, collection), again, strict=True):
            assert _same(left, right)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and left == right
