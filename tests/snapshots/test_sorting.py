"""Sorts that merge files: the same documents as in memory, few of which are in memory at once."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.peaks import peak_bytes
from support.settings import for_seeds

from godb_arrow import StorageEngine
from godb_arrow.snapshots import sorted_file, sorting
from godb_arrow.snapshots.sorted_file import SortedFile

MEBIBYTE = 1 << 20
SORTS: list[Any] = ["n", "-n", "t", "-t", ["k", "-t"], [("t", 1, "last"), "n"], {"k": -1, "n": 1}]


def documents(source: random.Random, count: int) -> list[dict[str, Any]]:
    """Return documents of which few are large, or have large values in their order."""
    made: list[dict[str, Any]] = []
    for _ in range(count):
        document: dict[str, Any] = {"n": source.randrange(count), "k": source.randrange(3)}
        if source.random() < 0.8:
            document["t"] = "t" * source.choice([0, 1, 3, 3, 40, 900]) + str(source.randrange(50))
        if source.random() < 0.2:
            document["x"] = "x" * source.choice([10, 500, 5_000])
        made.append(document)
    return made


@for_seeds(10, long=300)
def test_documents_of_merged_files_are_those_in_memory(seed: int) -> None:
    source = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, StorageEngine(folder, part_size="8KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many(documents(source, source.choice([3, 100, 400])))
        engine.save()
        collection.delete_many({"n": {"$lt": 3}})
        collection.insert_many(documents(source, 30))
        sort = source.choice(SORTS)
        condition = source.choice([None, {"n": {"$gte": 20}}])
        most = source.choice([None, 1, 70])
        after = collection.find_page(limit=7, sort=sort).cursor

        def results() -> list[Any]:
            page = collection.find_page(condition, limit=60, sort=sort, cursor=after)
            return [
                [*collection.find_all_stream(condition, sort=sort)],
                collection.find(condition, sort=sort, limit=most),
                page.documents,
                page.cursor,
            ]

        wanted = results()
        merged: list[int] = []
        merge = sorting._Sorter._merged

        def counted(self: Any, runs: Any) -> Any:
            merged.append(len(runs))
            return merge(self, runs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sorting, "_MIN_SORTED_BYTES", source.choice([2_000, 20_000]))
            patch.setattr(sorting, "_MAX_SHARE", 1 << 40)
            patch.setattr(sorting, "_FILES_AT_ONCE", source.choice([2, 5, 16]))
            patch.setattr(sorting, "_MIN_FILES_AT_ONCE", source.choice([2, 4]))
            patch.setattr(sorting, "_MAX_BATCH_BYTES", source.choice([1, 300, 4_000]))
            patch.setattr(sorting, "_ROWS_PER_RUN", source.choice([1, 64, 2_048]))
            patch.setattr(sorting, "_MIN_KEPT_ROWS", source.choice([10, 4_096]))
            patch.setattr(sorting._Sorter, "_merged", counted)
            assert results() == wanted
            assert merged or len(wanted[0]) < 100
        assert engine._components.memory.streams == 0


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data directory with 40 documents of a mebibyte."""
    folder = tmp_path_factory.mktemp("large")
    source = random.Random(1)
    with StorageEngine(folder, part_size="4MiB") as engine:
        numbers = source.sample(range(40), 40)
        collection = engine.create_collection("c")
        collection.insert_many(
            {"n": n, "t": f"{n:02d}" + source.randbytes(MEBIBYTE // 2).hex()} for n in numbers
        )
    return folder


@pytest.mark.parametrize(("sort", "most"), [("n", 16), ("-n", 16), ("t", 28)])
def test_a_merge_has_few_large_documents_in_memory(large: Path, sort: str, most: int) -> None:
    with StorageEngine(large, max_memory="8MiB", read_only=True) as engine:
        found: list[int] = []

        def read() -> None:
            found.extend(document["n"] for document in engine["c"].find_all_stream(sort=sort))

        peak = peak_bytes(read)
        assert found == sorted(found, reverse=sort == "-n") and len(found) == 40
        assert peak < most * MEBIBYTE, f"{peak / MEBIBYTE:.1f} MiB"


def test_files_with_large_keys_are_merged_few_at_a_time(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged: dict[str, list[int]] = {"n": [], "t": []}
    merge = sorting._Sorter._merged

    def counted(self: Any, runs: Any) -> Any:
        merged[self._keys[0].field].append(len(runs))
        return merge(self, runs)

    monkeypatch.setattr(sorting._Sorter, "_merged", counted)
    monkeypatch.setattr(sorting, "_MIN_FILES_AT_ONCE", 2)
    with StorageEngine(large, max_memory="8MiB", read_only=True) as engine:
        for sort in merged:
            found = engine["c"].find_all_stream({"n": {"$lt": 31}}, sort=sort)
            assert sum(1 for _ in found) == 31
    assert max(merged["n"]) == sorting._FILES_AT_ONCE
    assert max(merged["t"]) == 2 and len(merged["t"]) > 10


def test_a_file_has_batches_of_a_bounded_number_of_bytes() -> None:
    sizes = [1, 700, 1, 1, 1, 400, 700, 1]
    texts = [b"k" * size for size in sizes]
    table = pa.table(
        {
            "text 0": pa.array(texts, pa.large_binary()),
            "entry": pa.array([b"e" * (9 * size) for size in sizes], pa.large_binary()),
        }
    )
    file = SortedFile(500)
    try:
        file.write([table.slice(0, 5), table.slice(5)])
        file.begin()
        batches = []
        while True:
            entries = file.head.column("size").to_pylist()
            assert file.read_entries(sum(entries)) == b"e" * sum(entries)
            batches.append(file.head.column("text 0").to_pylist())
            if not file.skip(file.head.num_rows):
                break
    finally:
        file.close()
    assert 700 <= file.head_bytes < 1_400
    assert batches == [texts[:1], texts[1:2], texts[2:5], texts[5:6], texts[6:7], texts[7:]]
    ranges = list(sorted_file.sliced(np.array([5, 1, 1, 9, 0, 0]), 2))
    assert ranges == [(0, 1), (1, 3), (3, 4), (4, 6)]
