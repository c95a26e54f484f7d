"""Errors of a server are the same at its client."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pyarrow.flight as fl
import pytest

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.connectors.flight.client import RemoteEngine, connect
from godb_arrow.connectors.flight.errors import client_errors, sent_error
from godb_arrow.connectors.flight.server import FlightServer, _flight_errors

TOKEN = "a token for the tests"
MOMENT = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StorageEngine]:
    with StorageEngine(tmp_path / "data") as engine:
        yield engine


@pytest.fixture
def remote(engine: StorageEngine) -> Iterator[RemoteEngine]:
    with (
        FlightServer(engine, token=TOKEN) as server,
        connect(f"grpc://127.0.0.1:{server.port}", token=TOKEN) as remote,
    ):
        yield remote


@pytest.mark.parametrize("value", [1, "Zoë", 1.5, True, MOMENT, msgpack.Timestamp(1, 1)], ids=str)
def test_a_duplicate_value_has_its_attributes(
    engine: StorageEngine, remote: RemoteEngine, value: Any
) -> None:
    users = engine.create_collection("users")
    users.create_index("v", unique=True)
    users.create_index(["w", "v"], unique=True)
    users.insert({"_id": "a", "v": value})
    for upload in (remote.insert_many, remote.upsert_many):
        with pytest.raises(godb_arrow.DuplicateValue, match="the unique index of 'v'") as raised:
            upload("users", [{"_id": "b", "v": value}])
        error = raised.value
        assert (error.fields, error.value, error.ids) == (("v",), value, ["a", "b"])
        assert type(error.value) is type(value)
    users.drop_index("v")
    users.update("a", {"w": 7})
    with pytest.raises(godb_arrow.DuplicateValue) as raised:
        remote.insert_many("users", [{"v": value, "w": 7}])
    assert (raised.value.fields, raised.value.value) == (("w", "v"), (7, value))
    assert len(users) == 1


def test_constraints_of_documents_and_ids_are_named(
    engine: StorageEngine, remote: RemoteEngine
) -> None:
    users = engine.create_collection("users")
    users.set_validation(pa.schema([pa.field("name", pa.string(), nullable=False)]))
    users.insert({"_id": "a", "name": "Ada"})
    for upload in (remote.insert_many, remote.upsert_many):
        with pytest.raises(godb_arrow.SchemaViolation, match="document 'b': name") as raised:
            upload("users", [{"_id": "b", "name": 5}])
        error = raised.value
        assert (error.id, error.path) == ("b", "name")
        assert "expected string" in error.problem
        assert "the server at grpc" in str(error)
    with pytest.raises(godb_arrow.DuplicateId) as exists:
        remote.insert_many("users", [{"_id": "a", "name": "Eve"}])
    assert exists.value.ids == ["a"]
    with pytest.raises(godb_arrow.FieldNotFound, match="'lost'"):
        remote.stream({"collection": "users", "columns": ["lost"]})
    with pytest.raises(godb_arrow.InvalidFilter, match="no operator"):
        remote.stream({"collection": "users", "filter": {"$lost": 1}})
    with pytest.raises(godb_arrow.CollectionNotFound):
        remote["lost"]
    assert users.find_all() == [{"_id": "a", "name": "Ada"}]


def test_a_model_must_be_given_again(tmp_path: Path) -> None:
    pydantic = pytest.importorskip("pydantic")

    class User(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        name: str

    with StorageEngine(tmp_path) as engine:
        engine.create_collection("users").set_validation(User)
    with (
        StorageEngine(tmp_path) as engine,
        FlightServer(engine, token=TOKEN) as server,
        connect(f"grpc://127.0.0.1:{server.port}", token=TOKEN) as remote,
        pytest.raises(godb_arrow.MissingValidator, match="set_validation"),
    ):
        remote.insert_many("users", [{"name": "Ada"}])


@pytest.mark.parametrize("character", ["y", "ü", "\x01", "\U0001f600"], ids=ascii)
@pytest.mark.parametrize("length", [200, 900, 3_000, 60_000])
def test_long_ids_and_values_are_cut(
    engine: StorageEngine, remote: RemoteEngine, character: str, length: int
) -> None:
    """gRPC refuses answers with more than a few kilobytes beside the documents."""
    users = engine.create_collection("users")
    users.create_index("v", unique=True)
    documents = [{"_id": f"{n}{character * length}", "v": f"{n}{character * length}"} for n in "ab"]
    users.insert_many(documents)
    with pytest.raises(godb_arrow.DuplicateId, match="upsert_many") as exists:
        remote.insert_many("users", documents)
    assert set(exists.value.ids) <= {one["_id"] for one in documents}
    with pytest.raises(godb_arrow.DuplicateValue, match="drop the index") as raised:
        remote.insert_many("users", [{"_id": "c", "v": documents[1]["v"]}])
    assert raised.value.value in (documents[1]["v"], None)
    assert raised.value.fields == ("v",)


INFOS = [b"DuplicateValue", b"DuplicateValue\n", b"DuplicateValue\n\xc1", b"SchemaViolation\n\x01",
         b"DuplicateValue\n\x81\xa3ids\x05", b"DuplicateId\n\x81\xa3ids\x91\x05",
         b"DuplicateValue\n\x81\xa6fields\xa1a", b"StorageError", b"\xff", b"GodbError", b"int",
         b"SchemaViolation\n\x81\xa2id\x05", b"\n\n"]  # fmt: skip


@pytest.mark.parametrize("info", INFOS, ids=repr)
def test_what_other_servers_send_is_an_error_all_the_same(info: bytes) -> None:
    refused = pytest.raises(ValueError, match="the server at here refused: no")
    with refused as raised, client_errors("here"):
        raise fl.FlightServerError("no", extra_info=info)
    error = raised.value
    assert isinstance(error, godb_arrow.GodbError)
    expected = info.partition(b"\n")[0].decode("ascii", "replace")
    assert type(error).__name__ in (expected, "InvalidOption")
    if isinstance(error, godb_arrow.DuplicateValue):
        assert (error.fields, error.value, error.ids) == ((), None, [])
    if isinstance(error, godb_arrow.SchemaViolation):
        assert (error.id, error.path, error.problem) == ("", "", "")


def test_values_that_documents_cannot_have_are_not_sent() -> None:
    error = sent_error(godb_arrow.DuplicateValue(["a"], object(), ["x", "y"]))
    with pytest.raises(godb_arrow.DuplicateValue) as raised, client_errors("here"):
        raise error
    assert (raised.value.fields, raised.value.ids, raised.value.value) == (("a",), ["x", "y"], None)


@pytest.mark.parametrize(
    "error",
    [
        godb_arrow.CorruptFile("damage in /secret", offset=0, where="file"),
        godb_arrow.UnsupportedVersion("/secret has version 9"),
        godb_arrow.EngineClosed("the engine of /secret was closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_damaged_file_and_a_closed_engine_are_failures_of_the_server(error: Exception) -> None:
    """The caller's options are not wrong, and the answer names no path of the server."""
    failed = pytest.raises(godb_arrow.StorageError, match="here failed")
    with failed as raised, client_errors("here"), _flight_errors():
        raise error
    assert "secret" not in str(raised.value)
