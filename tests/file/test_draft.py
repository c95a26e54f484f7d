"""Drafts of files: what stays in memory while documents are encoded."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import godb_arrow
from godb_arrow.documents import json_source
from godb_arrow.documents.json_source import JsonSource
from godb_arrow.file import draft
from godb_arrow.file.locate import locate
from godb_arrow.file.reading import recorded_schema
from godb_arrow.options import ReadOptions


def lines(count: int, fields: int) -> bytes:
    """Return NDJSON of documents that all have some of many fields."""
    rows = ({f"f{n % fields}": n, "text": "ab" * (n % 500)} for n in range(count))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def written(text: bytes, **options: Any) -> bytes:
    file = io.BytesIO()
    godb_arrow.write_godb(JsonSource(io.BytesIO(text), "lines"), file, "c", **options)
    return file.getvalue()


@pytest.mark.parametrize(("fields", "max_columns"), [(5, 2000), (700, 2000), (700, 6)])
def test_files_do_not_depend_on_where_parts_are(
    monkeypatch: pytest.MonkeyPatch, fields: int, max_columns: int
) -> None:
    """In memory or in a temporary file, also where summaries of the documents are partial."""
    monkeypatch.setattr("godb_arrow.schema.MAX_COLUMNS", max_columns)
    text = lines(6000, fields)
    files = []
    for size in (1 << 18, 1 << 30):
        monkeypatch.setattr(draft, "_BYTES_IN_MEMORY", size)
        files.append(written(text))
    assert files[0] == files[1]
    inferred = locate(files[0], "c", ReadOptions(use_hints=False)).schema()
    assert recorded_schema(files[0]) == inferred
    found = list(godb_arrow.read_documents(files[0]))
    expected = [json.loads(line) for line in text.splitlines()]
    assert [{k: v for k, v in row.items() if k != "_id"} for row in found] == expected
    assert [row["_id"] for row in found] == [str(n + 1) for n in range(len(expected))]


def test_results_that_wait_have_compressed_entries_only(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    append = draft.Draft._append

    def noted(self: draft.Draft, encoded: Any) -> None:
        assert encoded.bounds is None or encoded.chunk
        sizes.append((len(encoded.chunk), encoded.size))
        append(self, encoded)

    monkeypatch.setattr(draft.Draft, "_append", noted)
    written(lines(6000, 5))
    assert any(size for _, size in sizes)
    assert all(bool(chunk) != bool(size) for chunk, size in sizes)


def test_blocks_are_released_before_their_entries_are_compressed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive: list[int] = []
    created: list[Any] = []

    class Run(json_source.BlockRun):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            created.append(1)

        def __del__(self) -> None:
            created.pop()

    prepare = draft.Draft._prepare

    def noted(self: draft.Draft, encoded: Any) -> Any:
        alive.append(len(created))
        return prepare(self, encoded)

    monkeypatch.setattr(json_source, "BlockRun", Run)
    monkeypatch.setattr(json_source, "threads", lambda: 1)
    monkeypatch.setattr(draft.Draft, "_prepare", noted)
    written(lines(6000, 5))
    assert len(alive) > 1
    assert min(alive) == 0
    assert not created


@pytest.mark.parametrize("at", [3, 4000, 5999])
def test_errors_name_lines_after_many_blocks(at: int, tmp_path: Path) -> None:
    parts = lines(6000, 5).splitlines(keepends=True)
    parts[at] = b'{"\xc3\xa4": 1, x}\n'
    with pytest.raises(godb_arrow.InvalidDocument, match=rf"line {at + 1}, column 10 of lines"):
        written(b"".join(parts))


def test_errors_name_columns_after_many_blocks() -> None:
    text = b"[" + b",".join(lines(6000, 5).splitlines()) + b", x]"
    column = len(text) - 1
    with pytest.raises(godb_arrow.InvalidDocument, match=f"line 1, column {column} of lines"):
        written(text)
