"""Sealed manifests and parts that lie: refused with a GodbError, and reported by verify_godb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support import forge

from godb_arrow import GodbError, StorageEngine, codec, verify_godb

SCHEMA = pa.schema({"_id": pa.string(), "n": pa.int64()})
kernel_ids = pytest.mark.skipif(
    codec.BACKEND != "native", reason="both codecs hash ids differently"
)

MANIFESTS: dict[str, dict[str, Any]] = {
    "infinite next id": {"next_id": float("inf")},
    "no next id": {"next_id": forge.ABSENT},
    "statistics are a number": {"statistics": 1 << 62},
    "statistics are a list": {"statistics": [1, "a"]},
    "schema is a text": {"schema": "text"},
    "parts are a number": {"parts": 7},
    "indexes are a number": {"indexes": 1},
    "created is a text": {"created": "today"},
    "another version": {"version": 7},
    "another compression": {"compression": "best"},
    "created in no year": {"created": 1e300},
    "created before 1970": {"created": -1},
}

PARTS: dict[str, dict[str, Any]] = {
    "empty deleted rows": {"deleted": b""},
    "deleted rows are a number": {"deleted": 3},
    "deleted rows do not exist": {"deleted": forge.pack_rows([100], 10_000)},
    "deleted rows repeat": {"deleted": forge.pack_rows([3, 3], 10_000)},
    "infinite documents": {"documents": float("inf")},
    "negative documents": {"documents": -1},
    "more documents": {"documents": 101},
    "no documents": {"documents": 0},
    "more documents than rows": {"documents": 1 << 63},
    "size is a text": {"size": "7"},
    "too few fields": {"deleted": forge.ABSENT},
}


def check_refused(folder: Path, manifest: dict[str, Any], part: dict[str, Any]) -> None:
    rows = [{"n": n} for n in range(100)]
    content = forge.collection("users", rows, schema=SCHEMA)
    parts = [forge.Part(1, content, fields=part)]
    tree = forge.part_folder(parts, SCHEMA, **manifest)
    forge.write_tree(folder, forge.under("collections/users.parts", tree))
    assert verify_godb(folder / "collections" / "users.parts").problems
    with pytest.raises(GodbError), StorageEngine(folder, read_only=True) as engine:
        list(engine["users"])


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path: Path, case: str) -> None:
    check_refused(tmp_path, MANIFESTS[case], {})


@pytest.mark.parametrize("case", PARTS)
def test_a_part_that_makes_no_sense_is_refused(tmp_path: Path, case: str) -> None:
    check_refused(tmp_path, {}, PARTS[case])


@kernel_ids
def test_ids_that_lead_to_other_documents_find_none_of_them(tmp_path: Path) -> None:
    content = forge.collection("users", [{"n": n} for n in range(100)], schema=SCHEMA)
    ids = forge.ids_file(content.ids(), rows=range(99, -1, -1))
    tree = forge.part_folder([forge.Part(1, content, ids=ids)], SCHEMA)
    forge.write_tree(tmp_path, forge.under("collections/users.parts", tree))
    assert verify_godb(tmp_path / "collections" / "users.parts").problems
    with StorageEngine(tmp_path, read_only=True) as engine:
        found = engine["users"].to_arrow(filter=pc.field("n") == 3).to_pylist()
        assert found == [{"_id": "4", "n": 3}]
        assert "4" not in engine["users"] or engine["users"].get("4") == found[0]


def test_statistics_of_parts_that_lie_hide_no_documents(tmp_path: Path) -> None:
    contents = [forge.collection("users", [{"n": n}] * 100, schema=SCHEMA) for n in (3, 100)]
    parts = [forge.Part(number, content) for number, content in enumerate(contents, 1)]
    lie = forge.pack_statistics([{"n": (1, 2, 0)}] * 2, SCHEMA)
    tree = forge.part_folder(parts, SCHEMA, statistics=lie)
    forge.write_tree(tmp_path, forge.under("collections/users.parts", tree))
    assert verify_godb(tmp_path / "collections" / "users.parts").problems
    with StorageEngine(tmp_path, read_only=True) as engine:
        for condition in (pc.field("n") == 100, {"n": 100}):
            assert engine["users"].to_arrow(filter=condition).num_rows == 100
            assert engine["users"].count(condition) == 100


@kernel_ids
@pytest.mark.usefixtures("trusted_records")
def test_ids_that_lead_to_no_row_find_nothing(tmp_path: Path) -> None:
    content = forge.collection("users", [{"n": n} for n in range(100)], schema=SCHEMA)
    for number, rows in enumerate(([1 << 31] * 100, [100] * 100, [(1 << 32) - 1] * 100)):
        ids = forge.ids_file(content.ids(), rows=rows)
        tree = forge.part_folder([forge.Part(1, content, ids=ids)], SCHEMA)
        folder = tmp_path / str(number)
        forge.write_tree(folder, forge.under("collections/users.parts", tree))
        with StorageEngine(folder, read_only=True) as engine:
            assert engine["users"].to_arrow(filter={"_id": "4"}).num_rows == 0
            assert engine["users"].get("4", None) is None
            assert "4" not in engine["users"]
            assert len(engine["users"].to_arrow()) == 100


def test_ids_that_lie_hide_no_documents_of_a_small_collection(tmp_path: Path) -> None:
    content = forge.collection("users", [{"n": n} for n in range(100)], schema=SCHEMA)
    ids = forge.ids_file([f"other {n}" for n in range(100)])
    tree = forge.part_folder([forge.Part(1, content, ids=ids)], SCHEMA)
    forge.write_tree(tmp_path, forge.under("collections/users.parts", tree))
    with StorageEngine(tmp_path, read_only=True) as engine:
        assert engine["users"].get("4") == {"_id": "4", "n": 3}
        assert engine["users"].to_arrow(filter={"_id": "4"}).num_rows == 1
