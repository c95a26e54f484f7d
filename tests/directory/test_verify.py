"""What a file holds, and what is wrong with it."""

from __future__ import annotations

import io
from pathlib import Path

import msgpack
import pytest
from support.handmade import file_of, mapping, string

import godb_arrow


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
