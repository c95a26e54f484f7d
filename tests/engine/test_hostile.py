"""Data directories and attached files that lie: no harm to other collections or other places."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support import forge

import godb_arrow
from godb_arrow import GodbError, StorageEngine

RANDOM = random.Random(1)


@pytest.mark.parametrize("kind", ["path", "url"])
def test_a_journal_does_not_attach_files_from_outside(tmp_path: Path, kind: str) -> None:
    private = forge.godb_file(forge.collection("c", [{"secret": 42}]))
    (tmp_path / "private.godb").write_bytes(private)
    memory = fsspec.filesystem("memory")
    memory.pipe("/test-attach/private.godb", private)
    place = (
        str(tmp_path / "private.godb") if kind == "path" else "memory://test-attach/private.godb"
    )
    attach = forge.Record({"op": "attach", "c": "x", "path": place, "as": "c"})
    hostile = forge.write_tree(
        tmp_path / "hostile", {"journal/00000001.journal": forge.segment([attach])}
    )
    found: list[dict[str, Any]] = []
    try:
        with suppress(GodbError), StorageEngine(hostile, read_only=True) as engine:
            for name in engine.collections():
                with suppress(GodbError):
                    found += engine[name].find_all()
    finally:
        memory.rm("/test-attach", recursive=True)
    assert not found


@contextmanager
def attached(folder: Path, collection: forge.Collection, **options: Any) -> Iterator[StorageEngine]:
    """Attach a forged file to a new data directory."""
    (folder / "file.godb").write_bytes(forge.godb_file(collection, **options))
    engine = StorageEngine(folder / "data")
    try:
        engine.load_collection_metadata(folder / "file.godb")
        yield engine
    finally:
        engine.close(discard=True)


def test_a_huge_next_id_does_not_block_the_saves_of_others(tmp_path: Path) -> None:
    evil = forge.collection("evil", [{"a": 1}], hint={"next_id": (1 << 63) - 1})
    with attached(tmp_path, evil) as engine:
        engine["evil"].insert({"a": 2})
        with suppress(GodbError):
            engine["evil"].insert_many([{"a": n} for n in range(100)])
        engine.create_collection("mine").insert({"precious": 1})
        with suppress(GodbError):
            engine.save()
        assert (tmp_path / "data" / "collections" / "mine.godb").exists()


def test_a_next_id_that_is_in_use_is_not_given_again(tmp_path: Path) -> None:
    evil = forge.collection("evil", [{"a": 1}, {"a": 2}], hint={"next_id": 1})
    with attached(tmp_path, evil) as engine:
        engine["evil"].insert({"a": 3})
        ids = [document["_id"] for document in engine["evil"]]
        assert len(ids) == len(set(ids)) == 3


def test_a_save_does_not_copy_statistics_that_lie(tmp_path: Path) -> None:
    schema = pa.schema({"_id": pa.string(), "a": pa.int64(), "z": pa.binary()})
    entries = [forge.entry(f"{n:04d}", {"a": 100, "z": RANDOM.randbytes(300)}) for n in range(4000)]
    lie = {"a": (1, 2, 0)}
    hostile = forge.collection(
        "c", entries, schema=schema, piece_documents=2000, statistics=[lie, lie]
    )
    keep = pc.field("a") == 100
    with attached(tmp_path, hostile, compression="none") as engine:
        engine["c"].insert({"a": 1})
        engine.save()
        assert engine["c"].to_arrow(filter=keep).num_rows == 4000


@pytest.mark.usefixtures("trusted_records")
def test_without_hints_the_documents_alone_count(tmp_path: Path) -> None:
    schema = pa.schema({"_id": pa.string(), "n": pa.int64()})
    lie = forge.pack_statistics([{"n": (1, 2, 0)}], schema)
    content = forge.collection("c", [{"n": 100 + n} for n in range(50)], schema=schema)
    ids = forge.ids_file([f"other {n}" for n in range(50)])
    narrow = pa.schema({"_id": pa.string(), "n": pa.float64()})
    part = forge.Part(1, content, ids=ids)
    tree = forge.part_folder([part], narrow, statistics=lie)
    forge.write_tree(tmp_path, forge.under("collections/c.parts", tree))
    for read_only in (True, False):
        with StorageEngine(tmp_path, read_only=read_only, use_hints=False) as engine:
            collection = engine["c"]
            assert collection.schema.field("n").type == pa.int64()
            assert collection.count({"n": 107}) == 1
            assert collection.get("8")["n"] == 107
            assert collection.to_arrow(filter=pc.field("n") == 107).num_rows == 1
    found = godb_arrow.read_table(f"{tmp_path}#c", use_hints=False, filter={"n": 107})
    assert found.to_pydict() == {"_id": ["8"], "n": [107]}
    found = godb_arrow.read_table(tmp_path / "collections" / "c.parts", use_hints=False)
    assert found["n"].type == pa.int64()


def test_an_id_file_without_end_is_not_read(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data", part_size="4KiB") as engine:
        c = engine.create_collection("c")
        c.insert_many([{"n": n} for n in range(500)])
        c.to_folder()
    path = next((tmp_path / "data" / "collections" / "c.parts").glob("*.ids"))
    os.truncate(path, 1 << 40)  # sparse: hashing it would take minutes
    report = godb_arrow.verify_godb(tmp_path / "data")
    assert any("id" in problem for problem in report.problems)
    with StorageEngine(tmp_path / "data", read_only=True) as engine:
        assert engine["c"].get("7")["n"] == 6 and len(engine["c"].find_all()) == 500
