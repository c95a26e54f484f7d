"""Honest forged artefacts are right: read alike by both codecs, sound, and fully used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support import forge
from support.handmade import go_read
from support.processes import run_python

import godb_arrow
from godb_arrow import StorageEngine, codec, inspect_godb, restore_backup, verify_godb

COMPRESSIONS = ["lz4", "lz4hc", "zstd", "none"]
SCHEMA = pa.schema({"_id": pa.string(), "n": pa.int64(), "f": pa.float64(), "text": pa.string()})
PLAIN_TYPES = {pa.string(): "string", pa.int64(): "int64", pa.float64(): "float64"}
DOCUMENTS = 12_000
PIECES = 3
kernel_ids = pytest.mark.skipif(
    codec.BACKEND != "native", reason="both codecs hash ids differently"
)
kernel_fronts = pytest.mark.skipif(
    codec.BACKEND != "native", reason="the reference codec reads each document as a whole"
)


def documents(count: int = DOCUMENTS, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "_id": str(n + 1),
            "n": n if n % 10 else None,
            "f": n * 0.37,
            "text": f"{n * 0x9E3779B97F4A7C15 % (1 << 64):x} of {n:x}" * (1 + n % 3),
        }
        for n in range(first, first + count)
    ]


def users(count: int = DOCUMENTS, first: int = 0, **options: Any) -> forge.Collection:
    return forge.collection("users", documents(count, first), schema=SCHEMA, **options)


@pytest.fixture(scope="module", params=COMPRESSIONS)
def compressed(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    return request.param, forge.godb_file(users(), compression=request.param)


def test_honest_files_are_sound(compressed: tuple[str, bytes]) -> None:
    name, file = compressed
    report = verify_godb(file)
    assert report.sealed
    assert report.checksum
    assert not report.problems
    (found,) = inspect_godb(file).collections
    assert (found.name, found.count) == ("users", DOCUMENTS)
    assert found.hint is not None
    assert found.hint.next_id == DOCUMENTS + 1
    assert found.hint.schema == SCHEMA
    assert report.header is not None
    assert report.header.flags == forge.FLAGS[name]


def test_forged_and_written_files_read_equal(compressed: tuple[str, bytes], tmp_path: Path) -> None:
    name, file = compressed
    written = tmp_path / "written.godb"
    rows = pa.Table.from_pylist(documents(), schema=SCHEMA)
    godb_arrow.write_godb(rows, written, "users", compression=name)
    expected = godb_arrow.read_table(written)
    for options in ({}, {"use_hints": False}, {"columns": ["n", "text"]}):
        found = godb_arrow.read_table(file, **options)
        assert found.equals(godb_arrow.read_table(written, **options))
    assert godb_arrow.read_table(file).equals(expected)
    assert list(godb_arrow.open_godb(file)) == list(godb_arrow.open_godb(written))


def test_both_codecs_read_equal(tmp_path: Path) -> None:
    for name in COMPRESSIONS:
        (tmp_path / f"{name}.godb").write_bytes(forge.godb_file(users(), compression=name))
    (tmp_path / "unindexed.godb").write_bytes(forge.godb_file(users(), indexed=False))
    code = """
import pathlib, sys, pyarrow as pa, godb_arrow, godb_arrow.codec
tables = [godb_arrow.read_table(path) for path in sorted(pathlib.Path(sys.argv[1]).glob("*.godb"))]
assert len(tables) == 5 and all(table.equals(tables[0]) for table in tables)
with pa.OSFile(f"{sys.argv[1]}/{godb_arrow.codec.BACKEND}.arrow", "wb") as sink:
    with pa.ipc.new_file(sink, tables[0].schema) as writer:
        writer.write_table(tables[0])
"""
    for backend in ("native", "reference"):
        run_python(code, tmp_path, backend=backend).check_returncode()
        with pa.ipc.open_file(tmp_path / f"{backend}.arrow") as reader:
            found = reader.read_all()
        assert found.equals(pa.Table.from_pylist(documents(), schema=SCHEMA))


@pytest.mark.parametrize("limit", [100, 5000, 11_999])
def test_bounds_of_pieces_keep_them_unread(compressed: tuple[str, bytes], limit: int) -> None:
    opened = godb_arrow.open_godb(compressed[1])
    explanation = opened.explain(pc.field("n") == limit)
    assert (explanation.pieces, explanation.pieces_read) == (PIECES, 1)
    assert explanation.candidates == forge.PIECE_DOCUMENTS
    whole = opened.to_arrow()
    for condition in (pc.field("n") < limit, pc.field("f") > limit * 0.37, pc.field("_id") == "7"):
        assert opened.to_arrow(filter=condition).equals(whole.filter(condition))
    assert opened.to_arrow(filter=pc.field("n").is_null()).num_rows == DOCUMENTS // 10


@kernel_fronts
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_recorded_sizes_lead_from_document_to_document(
    compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = [{"name": field.name, "type": PLAIN_TYPES[field.type]} for field in SCHEMA]
    # A schema that version 0.1.0 recorded would be reviewed first, with all documents.
    hint = {"schema": None, "fields": {"fields": fields}}
    sized = forge.godb_file(users(hint=hint), compression=compression)
    decode: Callable[..., Any] = codec.decode_front_batch
    counts: list[int] = []

    def counted(measured: Any, plan: Any) -> Any:
        batch = decode(measured, plan)
        counts.append(batch.num_rows)
        return batch

    monkeypatch.setattr(codec, "decode_front_batch", counted)
    path = tmp_path / "sized.godb"
    path.write_bytes(sized)
    found = godb_arrow.read_table(path, columns=["n"])["n"]
    assert found.to_pylist() == [document["n"] for document in documents()]
    assert not counts, "sizes are checked when a piece is read again"
    assert godb_arrow.read_table(path, columns=["n"])["n"].equals(found)
    assert sum(counts) == DOCUMENTS
    counts.clear()
    unsized = forge.godb_file(users(sizes=lambda entries: b"", hint=hint), compression=compression)
    assert godb_arrow.read_table(unsized, columns=["n"])["n"].equals(found)
    assert not counts


@pytest.mark.parametrize("spread", [0, 3, 14, 200, 60_000, 70_000])
def test_sizes_of_every_width_are_right(spread: int) -> None:
    rows = [{"n": n, "text": "x" * (spread if n == 7 else spread // 2)} for n in range(101)]
    file = forge.godb_file(forge.collection("c", rows, piece_documents=50), compression="none")
    assert not verify_godb(file).problems
    assert [row["n"] for row in godb_arrow.open_godb(file)] == list(range(101))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_collections_follow_each_other(compression: str) -> None:
    small = forge.collection("small", [{"a": [1, {"b": None}]}], hint=None)
    empty = forge.collection("empty", [])
    other = forge.collection("other", documents(5000), schema=SCHEMA)
    file = forge.godb_file(
        small, empty, other, users(), compression=compression,
        metadata={"origin": "forge"}, others={"indexes": {}, "more": [1]},
    )  # fmt: skip
    report = verify_godb(file)
    assert report.problems == ["the metadata hide the collection 'small'"]
    assert {one.name: one.count for one in report.collections} == {
        "small": 1, "empty": 0, "other": 5000, "users": DOCUMENTS,
    }  # fmt: skip
    assert report.others == ["metadata", "indexes", "more"]
    for name, count in (("other", 5000), ("users", DOCUMENTS)):
        opened = godb_arrow.open_godb(file, name)
        assert opened.explain(pc.field("n") == 17).pieces == -(-count // forge.PIECE_DOCUMENTS)
        assert list(opened) == documents(count)
    assert list(godb_arrow.open_godb(file, "small", use_hints=False)) == [
        {"_id": "1", "a": [1, {"b": None}]}
    ]


@pytest.mark.parametrize("compression", ["lz4", "lz4hc"])
def test_go_db_has_room_for_repetitive_bodies(compression: str) -> None:
    rows = [{"text": "x" * 1000} for _ in range(400)]
    file = forge.godb_file(
        forge.collection("c", rows, piece_documents=100), compression=compression
    )
    assert not verify_godb(file).problems
    assert len(go_read(file)["collections"]["c"]) == 400


# --- data directories -------------------------------------------------------------------------


def parts() -> list[forge.Part]:
    """Parts with few deleted documents, with many, and with several pieces."""
    return [
        forge.Part(1, users(100), deleted=[0, 99]),
        forge.Part(2, users(100, 100), deleted=range(0, 100, 2)),
        forge.Part(5, users(9000, 1000)),
    ]


def live_documents() -> list[dict[str, Any]]:
    return [*documents(98, 1), *documents(100, 100)[1::2], *documents(9000, 1000)]


def data_directory() -> forge.Tree:
    put = [forge.entry(str(n), {"n": n}) for n in (1, 2)]
    changed = forge.entry("2", {"n": "changed"})
    records = [
        forge.Record({"op": "create", "c": "journaled", "z": "lz4"}),
        forge.write_record("journaled", put, next_id=3),
        forge.write_record("journaled", [changed], next_id=3, deleted=["1"]),
    ]
    return {
        **forge.under("collections/users.parts", forge.part_folder(parts(), SCHEMA)),
        "collections/single.godb": forge.godb_file(
            forge.collection("single", documents(10), schema=SCHEMA)
        ),
        "journal/00000001.journal": forge.segment(records[:2]),
        "journal/00000002.journal": forge.segment(records[2:], first=3),
    }


@kernel_ids
def test_a_forged_part_folder_is_sound_and_its_bounds_are_used(tmp_path: Path) -> None:
    forge.write_tree(tmp_path, data_directory())
    folder = tmp_path / "collections" / "users.parts"
    assert not verify_godb(folder).problems
    with StorageEngine(tmp_path, read_only=True) as engine:
        explanation = engine["users"].explain(pc.field("n") == 5555)
        assert (explanation.parts, explanation.parts_read) == (3, 1)
        assert (explanation.pieces, explanation.pieces_read) == (3, 1)


@kernel_ids
@pytest.mark.parametrize("read_only", [False, True])
def test_a_forged_data_directory_opens_with_all_documents(tmp_path: Path, read_only: bool) -> None:
    forge.write_tree(tmp_path, data_directory())
    with StorageEngine(tmp_path, read_only=read_only) as engine:
        assert sorted(engine.collections()) == ["journaled", "single", "users"]
        assert list(engine["journaled"]) == [{"_id": "2", "n": "changed"}]
        assert list(engine["single"]) == documents(10)
        users = engine["users"]
        assert list(users) == live_documents()
        assert users.get("150") == documents(1, 149)[0]
        assert "1" not in users, "a deleted document"
        if not read_only:
            assert users.insert({}) == "10001"
            assert engine["journaled"].insert({}) == "3"
    if not read_only:
        with StorageEngine(tmp_path) as engine:
            assert len(engine["users"]) == len(live_documents()) + 1
            assert not verify_godb(tmp_path / "collections" / "users.parts").problems


@kernel_ids
def test_a_forged_backup_restores(tmp_path: Path) -> None:
    saved = {
        name.removeprefix("collections/"): data
        for name, data in data_directory().items() if name.startswith("collections/")
    }  # fmt: skip
    files = [forge.BackupFile(name, data) for name, data in saved.items()]
    counts = {"users": len(live_documents()), "single": 10}
    forge.write_tree(tmp_path / "backup", forge.backup(files, counts))
    info = restore_backup(tmp_path / "backup", tmp_path / "restored")
    assert (info.number, info.collections, info.files) == (1, counts, len(files))
    with StorageEngine(tmp_path / "restored") as engine:
        assert list(engine["users"]) == live_documents()
        assert list(engine["single"]) == documents(10)
