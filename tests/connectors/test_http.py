"""Bodies of HTTP responses: documents as NDJSON."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from pathlib import Path

import pytest

import godb_arrow
from godb_arrow.connectors.http import ndjson_body
from godb_arrow.snapshots.streaming import DocumentStream

DAY = dt.datetime(2024, 2, 29, tzinfo=dt.UTC)


def body(stream: DocumentStream, *, plain: bool = True) -> bytes:
    async def read() -> bytes:
        return b"".join([chunk async for chunk in ndjson_body(stream, plain=plain)])

    return asyncio.run(read())


@pytest.fixture
def engine(tmp_path: Path) -> godb_arrow.StorageEngine:
    engine = godb_arrow.StorageEngine(tmp_path / "data")
    users = engine.create_collection("users")
    users.insert_many([{"n": n, "day": DAY, "raw": b"ab"} for n in range(2000)])
    engine.save()
    users.insert({"n": 2000})
    users.delete("5")
    return engine


def test_all_documents_and_those_of_a_filter(engine: godb_arrow.StorageEngine) -> None:
    with engine:
        lines = body(engine.find_all_stream("users")).splitlines()
        assert [json.loads(line)["n"] for line in lines] == [0, 1, 2, 3, *range(5, 2001)]
        assert json.loads(lines[0]) == {
            "_id": "1", "n": 0, "day": "2024-02-29T00:00:00Z", "raw": "YWI="
        }  # fmt: skip
        found = body(engine["users"].find_all_stream({"n": {"$gte": 1998}}), plain=False)
        assert [json.loads(line)["n"] for line in found.splitlines()] == [1998, 1999, 2000]
        assert b'"day":{"$time":"2024-02-29T00:00:00Z"}' in found


def test_a_stream_that_was_closed_has_no_more(engine: godb_arrow.StorageEngine) -> None:
    with engine:
        stream = engine.find_all_stream("users")
        stream.close()
        assert body(stream) == b""
