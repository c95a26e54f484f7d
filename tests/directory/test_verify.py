"""What a file holds, and what is wrong with it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from support.handmade import file_of, mapping, string

import godb_arrow
from godb_arrow import StorageEngine, codec
from godb_arrow.snapshots import indexes
from godb_arrow.snapshots.index_run import pack_run
from godb_arrow.snapshots.manifest import Manifest
from godb_arrow.snapshots.part_folder import PartFolder


def test_a_report_of_a_sound_file(tmp_path: Path) -> None:
    target = tmp_path / "x.godb"
    godb_arrow.write_godb([{"a": 1}, {"a": 2}], target, "c")
    report = godb_arrow.verify_godb(target)
    assert report.ok
    assert report.checksum
    assert report.sealed
    assert report.header == (1, 0)
    assert report.size == target.stat().st_size
    assert [(c.name, c.count) for c in report.collections] == [("c", 2)]
    hint = report.collections[0].hint
    assert hint is not None
    assert hint.next_id == 3
    assert report.others == ["metadata"]
    assert report.body_size > report.collections[0].size > 0


def test_ids_that_occur_twice() -> None:
    entry = string("1") + b"\x80"
    data = file_of(mapping((string("collections"), b"\x81\xa1c\x82" + entry * 2)))
    assert "'1' occurs twice" in godb_arrow.verify_godb(data).problems[0]


def test_bytes_that_only_decoding_finds() -> None:
    bad_time = b"\xd4\xff\x00"  # a timestamp has 4, 8 or 12 bytes
    rows = mapping((string("1"), mapping((string("t"), bad_time))))
    data = file_of(mapping((string("collections"), b"\x81\xa1c" + rows)))
    report = godb_arrow.verify_godb(data)
    assert "document '1'" in report.problems[0]
    assert godb_arrow.inspect_godb(data).ok


def test_an_id_that_differs_is_a_note() -> None:
    rows = {"1": {"_id": "2"}}
    report = godb_arrow.verify_godb(file_of(msgpack.packb({"collections": {"c": rows}})))
    assert report.ok
    assert report.notes == ["collection 'c': document '1' has the _id '2'"]


def test_damage_is_reported_and_a_missing_file_raised(tmp_path: Path) -> None:
    assert "empty" in godb_arrow.verify_godb(b"").problems[0]
    assert not godb_arrow.verify_godb(b"GODB\x01\0\0\0\xff").ok
    with pytest.raises(godb_arrow.SourceNotFound):
        godb_arrow.verify_godb(tmp_path / "nowhere")


def test_the_list_of_problems_ends() -> None:
    rows = b"\xdd"
    entry = string("1") + b"\x80"
    rows = b"\xde\x03\xe8" + entry * 1000
    data = file_of(mapping((string("collections"), b"\x81\xa1c" + rows)))
    report = godb_arrow.verify_godb(data)
    assert len(report.problems) == 101
    assert report.problems[-1] == "… and more"


def test_progress_is_told() -> None:
    file = io.BytesIO()
    godb_arrow.write_godb([{"a": n} for n in range(50)], file, "c")
    seen: list[int] = []
    godb_arrow.verify_godb(file.getvalue(), progress=seen.append)
    assert sum(seen) == 50


def reversed_run(keys: codec.SortedKeys) -> bytes:
    """Pack keys with the rows of documents in reverse order, which has no fault of its own."""
    last = keys.documents - 1
    numbers, texts, rows = keys.arrays()
    return pack_run(
        codec.SortedKeys.of(
            keys.documents,
            keys.has_lists,
            [np.frombuffer(found, np.uint64) for found in numbers],
            [(np.frombuffer(e, np.uint32), np.frombuffer(t, np.uint8)) for e, t in texts],
            [last - np.frombuffer(found, np.uint32) for found in rows],
        )
    )


@pytest.mark.parametrize("part_size", [1 << 27, 3_000_000])
def test_an_index_that_lies_is_reported(
    part_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [{"n": n, "s": f"{n}" * 20} for n in range(30_000)]
    with StorageEngine(tmp_path, part_size=part_size) as engine:
        collection = engine.create_collection("c")
        collection.create_index("n")
        collection.insert_many(documents)
        engine.save()
        assert collection.path is not None
        assert godb_arrow.verify_godb(collection.path).ok
        collection.insert_many(documents)
        monkeypatch.setattr(indexes, "pack_run", reversed_run)
        engine.save()
        problems = godb_arrow.verify_godb(collection.path).problems
    assert problems
    assert all("index of the field 'n' leads to other documents" in one for one in problems)


def test_statistics_of_a_part_that_lie_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PartFolder.with_statistics

    def lying(manifest: Manifest, statistics: Any) -> Manifest:
        lies = [
            None if row is None else {**row, "n": row["n"]._replace(numbers=(0, 10))}
            for row in statistics
        ]
        return whole(manifest, lies)

    monkeypatch.setattr(PartFolder, "with_statistics", staticmethod(lying))
    with StorageEngine(tmp_path, part_size="1KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": n} for n in range(100)])
        engine.save()
        assert collection.path is not None
        problems = godb_arrow.verify_godb(collection.path).problems
    assert problems
    assert all("statistics of" in one and "wrong about 'n'" in one for one in problems)
