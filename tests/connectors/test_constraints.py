"""Constraints beyond the engine's verbs: copies, uploads, and attached files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import godb_arrow
from godb_arrow import DuplicateValue, GodbError, SchemaViolation, StorageEngine
from godb_arrow.connectors.etl import copy
from godb_arrow.connectors.flight.client import connect
from godb_arrow.connectors.flight.server import FlightServer

TOKEN = "a token for the tests"
SCHEMA = pa.schema({"email": pa.string(), "age": pa.int64()})
WRONG: list[tuple[list[dict[str, Any]], type[GodbError]]] = [
    ([{"_id": "x", "email": "new"}, {"_id": "y", "email": "ada"}], DuplicateValue),
    ([{"_id": "x", "email": "new"}, {"_id": "y", "email": "new"}], DuplicateValue),
    ([{"_id": "x", "email": "new"}, {"_id": "y", "email": 5}], SchemaViolation),
]


def engine_of(folder: Path) -> StorageEngine:
    engine = StorageEngine(folder)
    users = engine.create_collection("users")
    users.create_index("email", unique=True)
    users.create_ttl("at", 1)
    users.set_validation(SCHEMA)
    users.insert({"_id": "a", "email": "ada", "age": 1})
    return engine


@pytest.mark.parametrize("mode", ["append", "upsert", "replace"])
def test_a_copy_is_checked_as_a_whole(tmp_path: Path, mode: Any) -> None:
    engine_of(tmp_path / "data").close()
    target = f"{tmp_path}/data#users"
    for number, (documents, kind) in enumerate(WRONG):
        source = tmp_path / f"{number}.godb"
        godb_arrow.write_godb(documents, source, "users")
        if mode == "replace" and number == 0:
            continue  # the document with the same value is replaced
        with pytest.raises(kind):
            copy(source, target, if_exists=mode)
        with StorageEngine(tmp_path / "data") as engine:
            assert [one["_id"] for one in engine["users"].find()] == ["a"]
    godb_arrow.write_godb([{"_id": "n", "email": "n"}], tmp_path / "right.godb", "users")
    copy(tmp_path / "right.godb", target, if_exists=mode)
    with StorageEngine(tmp_path / "data") as engine:
        users = engine["users"]
        assert ("a" in users) == (mode != "replace")
        assert [one.unique for one in users.list_indexes()] == [True, False]
        assert set(users.ttl) == {"at"}
        with pytest.raises(DuplicateValue):
            users.insert({"email": "n"})
        with pytest.raises(SchemaViolation):
            users.insert({"email": 1})


def test_an_upload_is_checked_as_a_whole(tmp_path: Path) -> None:
    with (
        engine_of(tmp_path / "data") as engine,
        FlightServer(engine, token=TOKEN) as server,
        connect(f"grpc://127.0.0.1:{server.port}", token=TOKEN) as remote,
    ):
        for emails in (["new", "ada"], ["new", "new"]):
            with pytest.raises(GodbError, match="unique index of 'email'"):
                remote.insert_many("users", pa.table({"email": emails}))
        with pytest.raises(GodbError, match="email: expected string, found 5"):
            remote.insert_many("users", pa.table({"email": [5]}))
        assert len(engine["users"]) == 1
        remote.insert_many("users", pa.table({"email": ["new"]}))
        assert len(engine["users"]) == 2


def test_a_file_takes_its_settings_along(tmp_path: Path) -> None:
    with engine_of(tmp_path / "data") as engine:
        engine.save_to_file(tmp_path / "one.godb")
    with StorageEngine(tmp_path / "other") as engine:
        engine.load_collection_metadata(tmp_path / "one.godb")
        for _ in range(2):
            with pytest.raises(DuplicateValue):
                engine["users"].insert({"email": "ada"})
            with pytest.raises(SchemaViolation):
                engine["users"].insert({"email": 5})
            assert set(engine["users"].ttl) == {"at"}
            engine.save()
