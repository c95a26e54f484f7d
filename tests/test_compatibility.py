"""Files, data directories, followers and backups that 0.1.0 wrote stay readable.

``fixtures/make_0_1_0.py`` wrote them, with expectations that do not depend on the reading code. A
later version that cannot read one of them refuses it, and its error names the command to run.
"""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
import pytest
from support import handmade
from support.expected import (
    Expected,
    ExpectedCollection,
    line,
    lines,
    read_expected,
    rows,
    same_types,
)

import godb_arrow
from godb_arrow import StorageEngine

FIXTURES = Path(__file__).parent / "fixtures" / "0.1.0"
FILES = sorted(path.name.split(".")[0] for path in FIXTURES.glob("files/*.godb*"))
DIRECTORIES = [
    "collections",
    "followed",
    "killed",
    "killed-parts",
    "killed-parts-reference",
    "parts",
]


def test_all_fixtures_are_here() -> None:
    assert len(FILES) == 14
    assert {path.name for path in FIXTURES.glob("directories/*") if path.suffix == ""} == {
        *DIRECTORIES,
        "backup",
        "follower",
    }


def copied(tmp_path: Path, name: str) -> tuple[Path, Expected]:
    """Return a copy of a fixture, which may be changed, and the expectation."""
    source, target = FIXTURES / name, tmp_path / Path(name).name
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        shutil.copyfile(source, target)
    else:
        target.write_bytes(lzma.decompress(source.with_suffix(".godb.xz").read_bytes()))
    expectation = source.with_suffix(".expected")
    return target, read_expected(expectation) if expectation.exists() else Expected({}, {})


def as_dict(document: str) -> dict[str, Any]:
    """Return a document of strings, integers and nulls from its JSON line."""
    value: dict[str, Any] = json.loads(document)
    return value


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_documents_that_were_written(name: str, tmp_path: Path) -> None:
    path, expected = copied(tmp_path, f"files/{name}.godb")
    counts = {key: len(content.documents) for key, content in expected.collections.items()}
    assert list(godb_arrow.list_collections(path).items()) == list(counts.items())
    for key, content in expected.collections.items():
        assert lines(godb_arrow.read_documents(path, key)) == content.documents


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_declared_types_and_rows(name: str, tmp_path: Path) -> None:
    path, expected = copied(tmp_path, f"files/{name}.godb")
    for key, content in expected.collections.items():
        if content.table is not None:
            assert same_types(godb_arrow.read_schema(path, key), content.table.schema)
            table = godb_arrow.read_table(path, key)
            table.validate(full=True)
            assert same_types(table.schema, content.table.schema)
            assert rows(table) == rows(content.table)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_sound(name: str, tmp_path: Path) -> None:
    path, expected = copied(tmp_path, f"files/{name}.godb")
    report = godb_arrow.verify_godb(path)
    assert report.problems == []
    assert report.sealed
    assert report.checksum
    counts = {found.name: found.count for found in report.collections}
    assert counts == {key: len(one.documents) for key, one in expected.collections.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_file_takes_more_documents_and_keeps_the_others(name: str, tmp_path: Path) -> None:
    path, expected = copied(tmp_path, f"files/{name}.godb")
    compression = expected.facts.get("compression", "lz4")
    added = {"_id": "added", "new": [1, "text"]}
    first = next(iter(expected.collections))
    godb_arrow.write_godb([added], path, first, if_exists="append", compression=compression)
    for key, content in expected.collections.items():
        documents = [*content.documents, *([line(added)] if key == first else [])]
        assert lines(godb_arrow.read_documents(path, key)) == documents
    for key, content in list(expected.collections.items())[1:]:
        if content.table is not None:
            table = godb_arrow.read_table(path, key)
            assert same_types(table.schema, content.table.schema)
            assert rows(table) == rows(content.table)
    assert godb_arrow.verify_godb(path).problems == []


@pytest.mark.parametrize("name", ["engine", "go-db"])
def test_a_file_keeps_the_indexes_and_what_else_go_db_wrote(name: str, tmp_path: Path) -> None:
    path, expected = copied(tmp_path, f"files/{name}.godb")

    def others() -> dict[str, Any]:
        found = handmade.go_read(path.read_bytes())
        del found["metadata"]["godb_arrow"]
        return {key: found[key] for key in expected.facts["others"]}

    assert set(expected.facts["others"]) <= set(godb_arrow.inspect_godb(path).others)
    assert others() == expected.facts["others"]
    godb_arrow.write_godb([{"n": 1}], path, "more")
    assert others() == expected.facts["others"]


def test_dataframes_get_their_index_and_dtypes(tmp_path: Path) -> None:
    path, expected = copied(tmp_path, "files/frames.godb")
    assert len(expected.collections) == 7
    for key, content in expected.collections.items():
        assert content.table is not None
        frame = godb_arrow.read_godb(path, key)
        pd.testing.assert_frame_equal(frame, content.table.to_pandas(), check_exact=True)


@pytest.mark.parametrize("name", ["large-lz4", "large-none", "large-zstd"])
def test_documents_of_a_large_file_are_found(name: str, tmp_path: Path) -> None:
    path, expected = copied(tmp_path, f"files/{name}.godb")
    content = expected.collections["log"]
    assert content.table is not None
    condition = pc.field("n") > 1_100
    table = godb_arrow.read_table(path, "log", filter=condition, columns=["n", "kind"])
    assert rows(table) == rows(content.table.filter(condition).select(["n", "kind"]))
    for number in (1, 600, 1_200):
        found = godb_arrow.read_document(path, str(number), "log")
        assert line(found) == content.documents[number - 1]


@pytest.mark.parametrize("name", ["large-lz4", "large-none"])
def test_pieces_and_statistics_of_a_large_file_are_used(name: str, tmp_path: Path) -> None:
    path, _ = copied(tmp_path, f"files/{name}.godb")
    found = godb_arrow.open_godb(path, "log").explain(pc.field("n") > 1_150)
    assert (found.pieces, found.pieces_read) == (4, 1)


def test_an_engine_takes_in_a_file(tmp_path: Path) -> None:
    path, expected = copied(tmp_path, "files/engine.godb")
    with StorageEngine(tmp_path / "data") as engine:
        engine.load_collection_metadata(path)
        check(engine, expected)
    with StorageEngine(tmp_path / "data") as engine:
        check(engine, expected)


# --- data directories ----------------------------------------------------------------------------


def check(engine: StorageEngine, expected: Expected) -> None:
    """Compare all collections of an engine with what was acknowledged."""
    assert engine.collections() == sorted(expected.collections)
    for name, content in expected.collections.items():
        collection = engine[name]
        assert len(collection) == len(content.documents)
        assert sorted(lines(collection)) == sorted(content.documents), name
        if content.table is not None:
            assert same_types(collection.schema, content.table.schema), name
            table = collection.to_arrow()
            assert same_types(table.schema, content.table.schema), name
            assert sorted(rows(table)) == sorted(rows(content.table)), name
        check_settings(collection, content)


def check_settings(collection: godb_arrow.Collection, content: ExpectedCollection) -> None:
    facts = content.facts
    assert list(collection.indexes) == facts.get("indexes", [])
    assert collection.compression == facts.get("compression", "lz4")
    if "next_id" in facts:
        assert collection.next_id == facts["next_id"]
    if "versions" in facts:
        counts = {str(info.version): info.documents for info in collection.versions()}
        assert counts == {key: one["documents"] for key, one in facts["versions"].items()}
        for version, wanted_sum in facts["versions"].items():
            found = collection.at_version(int(version))
            assert sum(document["n"] for document in found) == wanted_sum["sum"]


def change(engine: StorageEngine, expected: Expected) -> dict[str, list[str]]:
    """Change each collection, and return the JSON lines that it must have then."""
    right = {}
    for name, content in expected.collections.items():
        documents = {as_dict(document)["_id"]: document for document in content.documents}
        added = {"_id": "added", "new": [1, "text"]}
        engine.insert(name, added)
        if len(documents) > 1:
            first, *_, last = documents
            engine.delete(name, first)
            del documents[first]
            updated = engine.update(name, last, {"new": [2]})
            documents[last] = line(updated)
        right[name] = sorted([*documents.values(), line(added)])
    return right


def documents_of(engine: StorageEngine) -> dict[str, list[str]]:
    return {name: sorted(lines(engine[name])) for name in engine.collections()}


def check_changeable(folder: Path, expected: Expected) -> None:
    """Open, change, save, reopen, change without saving, and reopen again."""
    with StorageEngine(folder) as engine:
        check(engine, expected)
        right = change(engine, expected)
        engine.save()
        assert documents_of(engine) == right
    assert problems(folder) == []
    with StorageEngine(folder) as engine:
        assert documents_of(engine) == right
        for name in right:
            engine.insert(name, {"_id": "later"})
        engine.close(discard=True)  # the journal keeps the last inserts
    right = {name: sorted([*found, line({"_id": "later"})]) for name, found in right.items()}
    with StorageEngine(folder, read_only=True) as engine:
        assert documents_of(engine) == right


def problems(folder: Path) -> list[str]:
    return [
        problem
        for path in sorted(folder.glob("collections/*"))
        for problem in godb_arrow.verify_godb(path).problems
    ]


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_directory_has_all_that_was_acknowledged(name: str, tmp_path: Path) -> None:
    folder, expected = copied(tmp_path, f"directories/{name}")
    with StorageEngine(folder, read_only=True) as engine:
        check(engine, expected)
    with StorageEngine(folder) as engine:
        check(engine, expected)
        assert (engine.stats().recovered_records > 0) == (name not in ("collections", "parts"))
        assert engine.stats().torn_bytes == 0
    with StorageEngine(folder) as engine:  # after close() saved it
        check_documents(engine, expected)


def check_documents(engine: StorageEngine, expected: Expected) -> None:
    right = {name: sorted(content.documents) for name, content in expected.collections.items()}
    assert documents_of(engine) == right


@pytest.mark.parametrize("name", DIRECTORIES)
def test_the_files_of_a_directory_are_sound(name: str, tmp_path: Path) -> None:
    folder, _ = copied(tmp_path, f"directories/{name}")
    assert problems(folder) == []


@pytest.mark.parametrize("name", ["collections", "killed", "parts"])
def test_indexes_find_the_documents(name: str, tmp_path: Path) -> None:
    folder, expected = copied(tmp_path, f"directories/{name}")
    with StorageEngine(folder) as engine:
        for key, content in expected.collections.items():
            for field in content.facts.get("indexes", ()):
                documents = [as_dict(document) for document in content.documents]
                value = documents[0][field]
                wanted = [one["_id"] for one in documents if one.get(field) == value]
                assert engine[key].explain({field: value}).index == field
                found = engine[key].find({field: value})
                assert sorted(one["_id"] for one in found) == sorted(wanted)


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_directory_can_be_changed(name: str, tmp_path: Path) -> None:
    folder, expected = copied(tmp_path, f"directories/{name}")
    check_changeable(folder, expected)


def test_an_earlier_version_can_be_restored(tmp_path: Path) -> None:
    folder, expected = copied(tmp_path, "directories/parts")
    version, wanted = next(iter(expected.collections["events"].facts["versions"].items()))
    with StorageEngine(folder) as engine:
        engine.restore("events", int(version))
        found = [document["n"] for document in engine["events"]]
        assert (len(found), sum(found)) == (wanted["documents"], wanted["sum"])


def test_parts_can_be_compacted_and_packed(tmp_path: Path) -> None:
    folder, expected = copied(tmp_path, "directories/killed-parts")
    with StorageEngine(folder) as engine:
        engine.compact()
        check_documents(engine, expected)
        engine.pack("events")
        engine.pack("money")
    assert problems(folder) == []
    with StorageEngine(folder) as engine:
        check_documents(engine, expected)


# --- followers and backups -----------------------------------------------------------------------


def test_a_follower_is_read_and_promoted(tmp_path: Path) -> None:
    folder, _ = copied(tmp_path, "directories/follower")
    expected = read_expected(FIXTURES / "directories" / "followed.expected")
    status = godb_arrow.follower_status(folder)
    assert status.consistent
    assert status.caught_up is not None
    assert status.source == expected.facts["path"]
    assert status.record == expected.facts["record"]
    with StorageEngine(folder, read_only=True) as engine:
        check(engine, expected)
    with pytest.raises(godb_arrow.ReadOnly, match="promote"):
        StorageEngine(folder)
    assert godb_arrow.promote(folder) == status.record
    check_changeable(folder, expected)


def test_a_follower_goes_on_following(tmp_path: Path) -> None:
    source, expected = copied(tmp_path, "directories/followed")
    target, _ = copied(tmp_path, "directories/follower")
    with StorageEngine(source) as engine:
        engine.replicate_to(target, mode="acknowledged")
        right = change(engine, expected)
        assert read_only(target) == right
        engine.save()
    assert read_only(target) == right


def read_only(folder: Path) -> Mapping[str, list[str]]:
    with StorageEngine(folder, read_only=True) as engine:
        return documents_of(engine)


def test_backups_are_listed_and_restored(tmp_path: Path) -> None:
    place, _ = copied(tmp_path, "directories/backup")
    infos = godb_arrow.list_backups(place)
    assert [info.number for info in infos] == [1, 2]
    assert infos[0].created < infos[1].created
    for info in infos:
        expected = read_expected(FIXTURES / "directories" / f"backup-{info.number}.expected")
        counts = {name: len(content.documents) for name, content in expected.collections.items()}
        assert info.collections == counts
        folder = tmp_path / f"restored {info.number}"
        assert godb_arrow.restore_backup(place, folder, info.number) == info
        assert problems(folder) == []
        check_changeable(folder, expected)


def test_backups_go_on_in_the_same_place(tmp_path: Path) -> None:
    place, _ = copied(tmp_path, "directories/backup")
    godb_arrow.restore_backup(place, tmp_path / "data")
    with StorageEngine(tmp_path / "data") as engine:
        info = engine.backup(place)
    assert (info.number, info.copied_files) == (3, 0)
    assert [one.number for one in godb_arrow.list_backups(place)] == [1, 2, 3]
