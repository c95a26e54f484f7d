"""Every lie that a sealed file, part or manifest can tell of its documents is named by verify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support import forge

import godb_arrow
from godb_arrow import StorageEngine

DOCUMENTS = [{"_id": f"d{n}", "n": n, "s": f"t{n}"} for n in range(40)]
SCHEMA = pa.schema({"_id": pa.string(), "n": pa.int64(), "s": pa.string()})


def collection(name: str = "c", **lies: Any) -> forge.Collection:
    return forge.collection(name, DOCUMENTS, **{"schema": SCHEMA, "piece_documents": 10, **lies})


def bounds(**lies: Any) -> list[forge.Row]:
    pieces = collection().pieces
    return [{**forge.true_bounds(piece.entries, SCHEMA), **lies} for piece in pieces]


def typed(**types: pa.DataType) -> forge.Collection:
    fields = {**dict(zip(SCHEMA.names, SCHEMA.types, strict=True)), **types}
    schema = pa.schema({name: kind for name, kind in fields.items() if kind is not None})
    return collection(schema=schema, statistics=b"")


def resized(run: Sequence[bytes]) -> list[int]:
    """Sizes of documents with the first two wrong, and the right sum."""
    return [len(run[0]) + 1, len(run[1]) - 1, *map(len, run[2:])]


HIDDEN = collection("hidden", hint=None)
TWO = (collection(), collection("other"))

FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "statistics: numbers": (
        lambda: forge.godb_file(collection(statistics=bounds(n=(0, 3, 0)))),
        "statistics of piece 0 are wrong about 'n'",
    ),
    "statistics: text": (
        lambda: forge.godb_file(collection(statistics=bounds(s=("a", "b", 0)))),
        "statistics of piece 0 are wrong about 's'",
    ),
    "statistics: all null": (
        lambda: forge.godb_file(collection(statistics=bounds(n=(None, None, 10)))),
        "statistics of piece 0 are wrong about 'n'",
    ),
    "statistics: ids": (
        lambda: forge.godb_file(collection(statistics=bounds(_id=("a", "b", 0)))),
        "statistics of piece 0 are wrong about '_id'",
    ),
    "statistics: damaged": (
        lambda: forge.godb_file(*TWO, index={"statistics": {"c": b"garbage"}}),
        "statistics of pieces are damaged",
    ),
    "hint: count": (
        lambda: forge.godb_file(collection(hint={"count": 39})),
        "record 39 documents, not 40",
    ),
    "hint: size": (
        lambda: forge.godb_file(collection(hint={"size": 1 << 40})),
        "record 1099511627776 bytes of documents, not ",
    ),
    "hint: next id": (
        lambda: forge.godb_file(forge.collection("c", [{"n": 1}, {"n": 2}], hint={"next_id": 2})),
        "next id is recorded as 2, but 2 is in use",
    ),
    "hint: plain": (
        lambda: forge.godb_file(collection(hint={"plain": True}), collection("e", hint=None)),
        "claim that the file has nothing else",
    ),
    "hint: plain beside another key": (
        lambda: forge.godb_file(collection(hint={"plain": True}), others={"mine": 1}),
        "claim that the file has nothing else",
    ),
    "hint: plain beside other metadata": (
        lambda: forge.godb_file(collection(hint={"plain": True}), metadata={"mine": 1}),
        "claim that the file has nothing else",
    ),
    "hint: hidden collection": (
        lambda: forge.godb_file(collection(), HIDDEN),
        "the metadata hide the collection 'hidden'",
    ),
    "hint: missing collection": (
        lambda: forge.godb_file(
            collection(), hints=forge.pack({"c": {"count": 40}, "x": {"count": 3}})
        ),
        "name a missing collection 'x'",
    ),
    "hints: no map": (
        lambda: forge.godb_file(collection(), hints=forge.pack([1])),
        "records of the collections are damaged",
    ),
    "schema: lacks a field": (lambda: forge.godb_file(typed(s=None)), "schema does not fit"),
    "schema: text": (lambda: forge.godb_file(typed(n=pa.string())), "schema does not fit"),
    "schema: boolean": (lambda: forge.godb_file(typed(n=pa.bool_())), "schema does not fit"),
    "schema: null": (lambda: forge.godb_file(typed(n=pa.null())), "schema does not fit"),
    "schema: rounds": (
        lambda: forge.godb_file(
            forge.collection(
                "c",
                [{"x": 0.1}],
                schema=pa.schema({"_id": pa.string(), "x": pa.float32()}),
                statistics=b"",
            )
        ),
        "schema does not fit",
    ),
    "schema: integers of fractions": (
        lambda: forge.godb_file(
            forge.collection(
                "c",
                [{"x": 1.0}],
                schema=pa.schema({"_id": pa.string(), "x": pa.int64()}),
                statistics=b"",
            )
        ),
        "schema does not fit",
    ),
    "sizes": (lambda: forge.godb_file(collection(sizes=resized)), "sizes of the documents"),
    "sizes: damaged": (
        lambda: forge.godb_file(collection(sizes=lambda run: bytes(20))),
        "sizes of the documents",
    ),
    "sizes: no place": (
        lambda: forge.godb_file(*TWO, index={"sizes": b"\1"}),
        "the index of pieces",
    ),
    "index: documents": (
        lambda: forge.godb_file(
            collection(row=lambda piece: {"documents": [9, 11, 10, 10][piece]})
        ),
        "index of pieces is wrong",
    ),
    "index: checksum": (
        lambda: forge.godb_file(collection(row=lambda piece: {"checksum": 5})),
        "index of pieces is wrong",
    ),
    "index: size": (
        lambda: forge.godb_file(collection(row=lambda piece: {"size": 5})),
        "index of pieces is wrong",
    ),
    "index: length": (
        lambda: forge.godb_file(collection(row=lambda piece: {"length": 5})),
        "index of pieces is wrong",
    ),
    "index: hides a collection": (
        lambda: forge.godb_file(*TWO, index={"collections": {"c": (1, 4)}}),
        "'other': the index of pieces does not fit",
    ),
    "index: another collection": (
        lambda: forge.godb_file(*TWO, index={"collections": {"c": (6, 4), "other": (1, 4)}}),
        "index of pieces does not fit",
    ),
    "index: a missing collection": (
        lambda: forge.godb_file(
            *TWO, index={"collections": {"c": (1, 4), "other": (6, 4), "zz": (1, 4)}}
        ),
        "names a missing collection 'zz'",
    ),
    "index: damaged": (
        lambda: forge.godb_file(*TWO, index={"collections": 5}),
        "index of pieces is damaged",
    ),
    "body: count": (lambda: forge.godb_file(collection(count=39)), "not 39"),
    "twice the same name": (
        lambda: forge.godb_file(collection(), collection()),
        "'c' occurs twice",
    ),
}


@pytest.mark.parametrize("lie", FILES)
def test_a_lie_of_a_file_is_named(lie: str) -> None:
    make, problem = FILES[lie]
    problems = godb_arrow.verify_godb(make()).problems
    assert any(problem in one for one in problems), problems


def test_honest_files_have_no_problems(tmp_path: Path) -> None:
    assert godb_arrow.verify_godb(forge.godb_file(collection())).problems == []
    assert godb_arrow.verify_godb(forge.godb_file(*TWO, others={"mine": 1})).problems == []
    assert godb_arrow.verify_godb(forge.godb_file(collection(hint=None))).problems == []
    target = tmp_path / "x.godb"
    for name in ("a", "b", "c"):
        godb_arrow.write_godb(DOCUMENTS, target, name)
        assert godb_arrow.verify_godb(target).problems == []
    with StorageEngine(tmp_path / "data", part_size="1KiB") as engine:
        for name in ("single", "parts"):
            own = engine.create_collection(name)
            own.create_index("n")
            own.insert_many(DOCUMENTS[:20])
            if name == "parts":
                own.to_folder()
            engine.save()
            own.insert_many([{"n": n + 0.5, "late": [n]} for n in range(20)])
            own.delete_many({"n": {"$lt": 5}})
            engine.save()
    assert godb_arrow.verify_godb(tmp_path / "data").problems == []


# --- parts ------------------------------------------------------------------------------------

IDS = [f"p1d{n}" for n in range(20)]


def part(number: int, **lies: Any) -> forge.Part:
    documents = [{"_id": f"p{number}d{n}", "n": n, "s": f"t{n}"} for n in range(20)]
    content = forge.collection("c", documents, schema=SCHEMA, piece_documents=10)
    return forge.Part(number, content, **lies)


NUMBERED = forge.Part(1, forge.collection("c", [{"n": 1, "s": "a"}, {"n": 2}], schema=SCHEMA))
TRUE = [forge.true_bounds(part(number).content.entries(), SCHEMA) for number in (1, 2)]


def recorded(**types: pa.DataType) -> dict[str, bytes]:
    fields = {**dict(zip(SCHEMA.names, SCHEMA.types, strict=True)), **types}
    schema = pa.schema({name: kind for name, kind in fields.items() if kind is not None})
    return {"schema": schema.serialize().to_pybytes()}


FOLDERS: dict[str, tuple[list[forge.Part], dict[str, Any], str]] = {
    "documents": ([part(1, fields={"documents": 19})], {}, "19 documents of the manifest"),
    "size": ([part(1, fields={"size": 1 << 30})], {}, "1073741824 bytes of documents"),
    "size of the file": ([part(1, fields={"file_size": 1})], {}, "1 bytes of 00000001.godb"),
    "checksum of ids": ([part(1, fields={"ids_checksum": 1})], {}, "ids is damaged"),
    "deleted beyond the end": ([part(1, fields={"deleted": b"\0\x19\0\0\0"})], {}, "deleted rows"),
    "deleted twice": ([part(1, fields={"deleted": b"\0\5\0\0\0\5\0\0\0"})], {}, "deleted rows"),
    "ids: rows": (
        [part(1, ids=forge.ids_file(IDS, rows=range(19, -1, -1)))],
        {},
        "leads to other documents",
    ),
    "ids: greatest": ([part(1, ids=forge.ids_file(IDS, greatest=9))], {}, "leads to other"),
    "ids: fewer": ([part(1, ids=forge.ids_file(IDS[:-1]))], {}, "does not have the ids"),
    "ids: others": (
        [part(1, ids=forge.ids_file([f"x{one}" for one in IDS]))],
        {},
        "leads to other documents",
    ),
    "ids: count": ([part(1, ids=forge.ids_file(IDS, count=5))], {}, "ids is damaged"),
    "schema: lacks a field": ([part(1)], recorded(s=None), "schema does not fit"),
    "schema: text": ([part(1)], recorded(n=pa.string()), "schema does not fit"),
    "schema: null": ([part(1), part(2)], recorded(n=pa.null()), "schema does not fit"),
    "next id": ([NUMBERED], {"next_id": 2}, "2 as the next id, but 2 is in use"),
    "next id: impossible": ([part(1)], {"next_id": -5}, "impossible next id"),
    "statistics": (
        [part(1), part(2)],
        {"statistics": forge.pack_statistics([{**row, "n": (0, 2, 0)} for row in TRUE], SCHEMA)},
        "statistics of 00000001.godb are wrong about 'n'",
    ),
    "statistics: damaged": ([part(1)], {"statistics": b"garbage"}, "statistics are damaged"),
    "statistics: of fewer parts": (
        [part(1), part(2)],
        {"statistics": forge.pack_statistics(TRUE[:1], SCHEMA)},
        "statistics are damaged, or of other parts",
    ),
    "an id in two parts": ([part(1), replace(part(1), number=2)], {}, "'p1d0' occurs twice"),
    "a part twice": ([part(1), part(1)], {}, "'p1d0' occurs twice"),
}


@pytest.mark.parametrize("lie", FOLDERS)
def test_a_lie_of_a_manifest_is_named(lie: str, tmp_path: Path) -> None:
    parts, fields, problem = FOLDERS[lie]
    folder = forge.write_tree(tmp_path / "c.parts", forge.part_folder(parts, SCHEMA, **fields))
    problems = godb_arrow.verify_godb(folder).problems
    assert any(problem in one for one in problems), problems


def test_honest_parts_have_no_problems(tmp_path: Path) -> None:
    parts = [part(1), part(2, deleted=[3, 4])]
    folder = forge.write_tree(tmp_path / "c.parts", forge.part_folder(parts, SCHEMA))
    assert godb_arrow.verify_godb(folder).problems == []
