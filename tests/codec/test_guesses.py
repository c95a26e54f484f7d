"""A guessed schema is the inferred one, wherever documents are decoded with it."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.documents import Pairs, document, packed
from support.settings import for_seeds

import godb_arrow
from godb_arrow import GodbError
from godb_arrow.codec import UnscannedEntries, pack, plan_columns, reference
from godb_arrow.codec.entries import Chunk
from godb_arrow.file import locate, reading
from godb_arrow.file.writer import CollectionData, write_file
from godb_arrow.schema import DocumentSummary, infer_schema

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
from differential import same

DOCUMENTS = 400

native = pytest.importorskip("godb_arrow.codec.native")


def outcome(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except GodbError as error:
        return type(error)


def inferred(entries: Any) -> pa.Schema:
    summary = DocumentSummary()
    native.infer(entries, summary)
    return infer_schema(summary)


@for_seeds(300, long=20_000)
def test_documents_that_fit_a_guessed_schema_do_not_change_it(seed: int) -> None:
    rng = random.Random(seed)
    kind = document(rng, rng.choice([0, 0, 3]))
    parts = [pack(str(number)) + packed(kind() or Pairs()) for number in range(60)]
    data = b"".join(parts) + rng.choice([b"", bytes(2_000)])
    entries = native.scan_entries(data, 0, 60, len(data) + 1, 0)
    for guessed_of in (1, 10, 40):
        guess = inferred(entries.between(0, guessed_of))
        if not locate._can_be_guessed(guess):
            continue
        plan = plan_columns(guess, strict=True, exact=True, is_guess=True)
        left, right = (
            outcome(native.decode, entries, plan),
            outcome(reference.decode, entries, plan),
        )
        whole = UnscannedEntries(bytes(entries.raw()), 60, lambda *_: entries)
        fused = native.decode_unscanned(whole, plan)
        assert isinstance(left, type) == isinstance(right, type) == (fused is None)
        if isinstance(left, type):
            assert left == right
            continue
        assert inferred(entries).equals(guess, check_metadata=True)
        decoded = reference.decode(entries, plan_columns(guess))
        for one, other, third in zip(left, decoded, fused, strict=True):
            assert same(one, other)
            assert same(third, other)


BASE: dict[Any, Any] = {"a": 1, "f": 0.5, "t": "x", "s": {"x": 1, "f": 2.5}, "l": [1.5], "n": None}
LATER: dict[str, Any] = {
    "nothing": BASE,
    "a field": {**BASE, "new": 1},
    "a nested field": {**BASE, "s": {"x": 1, "f": 2.5, "new": None}},
    "an integer among floats": {**BASE, "f": 3},
    "an integer among nested floats": {**BASE, "s": {"x": 1, "f": 3}},
    "an integer among floats in a list": {**BASE, "l": [1.5, 2]},
    "a float among integers": {**BASE, "a": 3.0},
    "a value among nulls": {**BASE, "n": 1},
    "another type": {**BASE, "t": 1},
    "bytes": {**BASE, "t": b"x"},
    "a large integer": {**BASE, "a": 2**63},
    "a key twice, both integers": Pairs([("a", 2), ("a", 1)]),
    "a key twice": Pairs([("a", "text"), ("a", 1)]),
    "a nested key twice": Pairs([("s", Pairs([("x", "text"), ("x", 1)]))]),
    "another key of a name": Pairs([(1, 2), ("1", 2)]),
    "the id of another type": Pairs([("_id", 7), ("_id", 8), ("a", 1)]),
}


@pytest.mark.parametrize("later", LATER)
def test_tables_have_the_schema_of_all_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: str
) -> None:
    monkeypatch.setattr(locate, "_GUESSED_DOCUMENTS", 100)
    path = tmp_path / "c.godb"
    # Not among the last documents, which are decoded one by one.
    documents = [*[BASE] * (DOCUMENTS - 100), LATER[later], *[BASE] * 99]
    data = b"".join(pack(str(n)) + packed(found) for n, found in enumerate(documents))
    with path.open("wb") as file:
        write_file(file, [CollectionData("c", DOCUMENTS, [Chunk(data, DOCUMENTS)])])
    read: list[bool] = []

    def spied(target: Any) -> pa.Table | None:
        table = real(target)
        read.append(table is not None)
        return table

    real = reading._read_as_guessed
    monkeypatch.setattr(reading, "_read_as_guessed", spied)
    found = godb_arrow.read_table(path, use_hints=False)
    assert read == [later in ("nothing", "the id of another type")]
    monkeypatch.setattr(reading, "_read_as_guessed", lambda _: None)
    expected = godb_arrow.read_table(path, use_hints=False)
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.equals(expected)
    assert found.schema == godb_arrow.read_schema(path, use_hints=False)


def test_a_collection_with_json_text_or_few_documents_is_inferred(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"a": 1}, {"a": "x"}] * 3000
    godb_arrow.write_godb(rows, tmp_path / "json.godb", "c")
    godb_arrow.write_godb([{"a": 1}] * 10, tmp_path / "few.godb", "c")
    options = godb_arrow.options.ReadOptions(use_hints=False)
    for name in ("json", "few"):
        target = locate.locate(tmp_path / f"{name}.godb", "c", options)
        assert target.guessed_schema() is None
        target.close()
