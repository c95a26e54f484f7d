"""Types of MongoDB that documents hold as text: they come back to BSON as they were."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from godb_arrow import StorageEngine, read_table, write_godb
from godb_arrow.connectors.etl import copy

bson = pytest.importorskip("bson")

NUMBER = uuid.UUID("633a2de0-3aef-45be-930e-38218ac10f48")
OPTIONS = bson.codec_options.CodecOptions(
    uuid_representation=bson.binary.UuidRepresentation.STANDARD, tz_aware=True
)


def object_id(number: int) -> Any:
    return bson.ObjectId(f"{number:024x}")


DOCUMENTS: list[dict[str, Any]] = [
    {
        "_id": object_id(1),
        "number": NUMBER,
        "deep": {"ref": object_id(2), "list": [object_id(3), [object_id(4)]]},
        "price": bson.Decimal128("1.50"),
        "link": bson.DBRef("users", object_id(5)),
        "text": "x",
        "mixed": object_id(6),
    },
    {
        "_id": object_id(7),
        "number": None,
        "deep": {"ref": "no id", "list": []},
        "price": bson.Decimal128("-1E+3"),
        "text": str(object_id(8)),
        "mixed": NUMBER,
    },
    {"_id": 7, "price": bson.Decimal128("NaN"), "list": [{"a": object_id(9)}, {"a": 1}]},
]


def write_bson(path: Path, documents: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(bson.encode(each, codec_options=OPTIONS) for each in documents))
    return path


def read_bson(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = bson.decode_all(path.read_bytes(), OPTIONS)
    return found


def copied(source: Any, target: Path | str, **options: Any) -> Path:
    copy(source, target, progress=False, **options)
    return Path(str(target))


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Return whether documents are equal, where nan equals nan."""
    return repr(found) == repr(expected)


@pytest.mark.parametrize("via", ["a.godb", "data#c", "b.bson"])
def test_types_of_mongodb_come_back(tmp_path: Path, via: str) -> None:
    source = write_bson(tmp_path / "a.bson", DOCUMENTS)
    there = copied(source, tmp_path / via)
    assert same(read_bson(copied(there, tmp_path / "back.bson")), DOCUMENTS)
    copied(there, tmp_path / "again.godb")
    assert same(read_bson(copied(tmp_path / "again.godb", tmp_path / "c.bson")), DOCUMENTS)


@pytest.mark.parametrize("via", ["a.parquet", "a.arrow"])
def test_columns_with_types_of_mongodb(tmp_path: Path, via: str) -> None:
    documents = [{"_id": each["_id"], "number": NUMBER} for each in DOCUMENTS[:2]]
    source = write_bson(tmp_path / "a.bson", documents)
    back = copied(copied(source, tmp_path / via), tmp_path / "back.bson")
    assert read_bson(back) == documents


def test_columns_and_filters_keep_the_types(tmp_path: Path) -> None:
    source = write_bson(tmp_path / "a.bson", DOCUMENTS[:2])
    there = copied(source, tmp_path / "a.godb")
    some = copied(there, tmp_path / "b.bson", columns=["_id", "number"], filter={"text": "x"})
    assert read_bson(some) == [{"_id": object_id(1), "number": NUMBER}]
    table = read_table(there, filter={"deep.ref": str(object_id(2))})
    assert table.column("_id").to_pylist() == [str(object_id(1))]


def test_a_field_with_texts_that_look_alike_stays_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    documents = [{"_id": "a", "x": object_id(1)}, {"_id": "b", "x": str(object_id(2))}]
    with caplog.at_level(logging.WARNING):
        there = copied(write_bson(tmp_path / "a.bson", documents), tmp_path / "a.godb")
    assert "objectId in field x" in caplog.text
    found = read_bson(copied(there, tmp_path / "b.bson"))
    assert [each["x"] for each in found] == [str(object_id(1)), str(object_id(2))]


def test_other_texts_of_such_a_field_stay_text(tmp_path: Path) -> None:
    documents = [{"_id": object_id(1)}, {"_id": "b"}, {"_id": "7"}, {"_id": "1.50"}]
    there = copied(write_bson(tmp_path / "a.bson", documents), tmp_path / "a.godb")
    assert read_bson(copied(there, tmp_path / "b.bson")) == documents


@pytest.mark.parametrize("numbers", [[1, 2**40], ["1", "2"], ["01", 2]])
def test_integers_as_ids(tmp_path: Path, numbers: list[Any]) -> None:
    documents = [{"_id": number} for number in numbers]
    there = copied(write_bson(tmp_path / "a.bson", documents), tmp_path / "a.godb")
    assert read_bson(copied(there, tmp_path / "b.bson")) == documents


def test_appended_documents_keep_and_add_types(tmp_path: Path) -> None:
    first = [{"_id": object_id(1), "a": object_id(2), "b": str(object_id(3))}]
    second = [{"_id": object_id(4), "a": object_id(5), "b": object_id(6), "c": NUMBER}]
    there = copied(write_bson(tmp_path / "1.bson", first), tmp_path / "a.godb")
    copied(write_bson(tmp_path / "2.bson", second), there, if_exists="append")
    second[0]["b"] = str(object_id(6))  # the texts before look like object ids
    assert read_bson(copied(there, tmp_path / "b.bson")) == first + second
    copied(
        write_bson(tmp_path / "3.bson", [{"_id": "x", "a": str(object_id(2))}]),
        there,
        if_exists="append",
    )
    found = read_bson(copied(there, tmp_path / "b.bson", if_exists="replace"))
    assert [each["a"] for each in found] == [str(object_id(n)) for n in (2, 5, 2)]
    assert [each["_id"] for each in found] == [object_id(1), object_id(4), "x"]


def test_appending_to_bson_keeps_its_documents(tmp_path: Path) -> None:
    target = write_bson(tmp_path / "a.bson", DOCUMENTS)
    write_godb([{"_id": "n", "at": object_id(1)}], tmp_path / "a.godb", "c")
    copied(tmp_path / "a.godb", target, if_exists="append")
    assert same(read_bson(target), [*DOCUMENTS, {"_id": "n", "at": str(object_id(1))}])
    copied(write_bson(tmp_path / "b.bson", DOCUMENTS[:1]), target, if_exists="append")
    assert same(read_bson(target)[-1:], DOCUMENTS[:1])


@pytest.mark.parametrize("parts", [False, True])
def test_saves_updates_and_compactions_keep_the_types(tmp_path: Path, parts: bool) -> None:
    source = write_bson(tmp_path / "a.bson", DOCUMENTS)
    copied(source, tmp_path / "data#c")
    with StorageEngine(tmp_path / "data", part_size=1024 if parts else 1 << 20) as engine:
        engine["c"].update("7", {"new": 1})
        engine["c"].insert({"_id": str(object_id(10)), "text": "y"})
        engine.save()
        engine["c"].delete(str(object_id(7)))
        engine.compact("c")
    found = read_bson(copied(tmp_path / "data#c", tmp_path / "b.bson"))
    expected = [
        DOCUMENTS[0],
        {**DOCUMENTS[2], "new": 1},
        {"_id": object_id(10), "text": "y"},
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


@pytest.mark.parametrize(
    "hint",
    [b"", b"[]", b"{", b'{"objectId": 1}', b'{"uuid": [1, [2], "x", []]}', b'{"x": [["a"]]}'],
)
def test_hints_without_sense_are_ignored(tmp_path: Path, hint: bytes) -> None:
    table = pa.table({"_id": ["a"], "x": [str(object_id(1))]})
    table = table.replace_schema_metadata({b"godb_arrow.bson": hint})
    write_godb(table, tmp_path / "a.godb", "c")
    assert read_bson(copied(tmp_path / "a.godb", tmp_path / "b.bson")) == [
        {"_id": "a", "x": str(object_id(1))}
    ]
