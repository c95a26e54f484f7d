"""NDJSON of documents: the same, whichever thread loads a run and however long it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import godb_arrow
from godb_arrow import CorruptFile
from godb_arrow.documents.json_lines import json_lines, lines_of, runs_of
from godb_arrow.file import locate

ROWS = {"few": 3, "one piece": 12_000, "many pieces": 60_000, "none": 0}


@pytest.fixture(params=ROWS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "c.godb"
    rows = ({"_id": str(n), "n": n, "t": f"text {n} ä"} for n in range(ROWS[request.param]))
    godb_arrow.write_godb(rows, path, "c")
    return path


def text_of(lines: Iterator[tuple[bytes, int]]) -> tuple[bytes, int]:
    found = list(lines)
    return b"".join(text for text, _ in found), sum(count for _, count in found)


@pytest.mark.parametrize("most", [1 << 10, 4 << 20])
@pytest.mark.parametrize("options", [{}, {"use_hints": False}, {"threads": 1}], ids=str)
def test_runs_that_are_loaded_and_written_by_one_thread(
    file: Path, options: dict[str, Any], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "_MAX_MAPPED_BYTES", most)
    with closing(godb_arrow.open_godb(file, **options)) as handle:
        expected = text_of(json_lines(runs_of(handle)))
        assert text_of(lines_of(handle)) == expected
        documents = [json.loads(line) for line in expected[0].splitlines()]
    assert documents == list(godb_arrow.read_documents(file))
    assert len(documents) == expected[1]


def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c.godb"
    godb_arrow.write_godb(({"n": n, "t": f"text {n}"} for n in range(60_000)), path, "c")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    with closing(godb_arrow.open_godb(path)) as handle, pytest.raises(CorruptFile):
        text_of(lines_of(handle))
