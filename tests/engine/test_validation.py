"""Validation: what does not fit is refused, with the path to the value."""

from __future__ import annotations

import datetime as dt
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pytest
from support.engines import crash

import godb_arrow
from godb_arrow import (
    DuplicateValue,
    InvalidDocument,
    InvalidOption,
    MissingDependency,
    MissingValidator,
    SchemaViolation,
    StorageEngine,
    TypeMismatch,
    UnsupportedType,
    restore_backup,
)
from godb_arrow.engine.collection import Collection
from godb_arrow.engine.part_writer import PartWriter, commit_parts
from godb_arrow.engine.rules import Rules
from godb_arrow.snapshots.part_folder import PartFolder

ADDRESS = pa.struct([pa.field("zip", pa.string(), nullable=False), pa.field("city", pa.string())])
ARROW = pa.schema([
    pa.field("name", pa.string(), nullable=False),
    pa.field("age", pa.int8()),
    pa.field("address", ADDRESS),
    pa.field("tags", pa.list_(pa.string())),
])  # fmt: skip
JSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "maximum": 127},
        "address": {
            "type": "object",
            "properties": {"zip": {"type": "string"}, "city": {"type": "string"}},
            "required": ["zip"],
            "additionalProperties": False,
        },
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}


def model() -> Any:
    pydantic = pytest.importorskip("pydantic")

    class Address(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        zip: str
        city: str | None = None

    class User(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        name: str
        age: int | None = pydantic.Field(default=None, le=127)
        address: Address | None = None
        tags: list[str] | None = None

        @pydantic.field_validator("name")
        @classmethod
        def is_no_root(cls, name: str) -> str:
            if name == "root":
                raise ValueError("root is no user")
            return name

    return User


def json_schema() -> Any:
    pytest.importorskip("jsonschema")
    return JSON


KINDS: dict[str, Callable[[], Any]] = {"arrow": lambda: ARROW, "json": json_schema, "model": model}
GOOD = {"name": "Ada", "age": 36, "address": {"zip": "10115", "city": "Berlin"}, "tags": ["x"]}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": 5}, "name"),
    ({}, "name"),
    ({**GOOD, "age": 128}, "age"),
    ({**GOOD, "age": "36"}, "age"),
    ({**GOOD, "address": {"zip": 10115}}, "address.zip"),
    ({**GOOD, "address": {"city": "Berlin"}}, "address.zip"),
    ({**GOOD, "tags": ["x", 1]}, "tags[1]"),
    ({**GOOD, "address": {"zip": "1", "street": "x"}}, "address.street"),
]


@pytest.fixture(params=KINDS)
def users(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Collection]:
    schema = KINDS[request.param]()
    with StorageEngine(tmp_path / "data") as engine:
        found = engine.create_collection("users")
        found.set_validation(schema)
        found.insert({"_id": "a", **GOOD})
        yield found


def test_the_path_and_the_document_are_named(users: Collection) -> None:
    for document, path in BAD:
        with pytest.raises(SchemaViolation) as raised:
            users.insert({"_id": "bad", **document})
        error = raised.value
        named = error.path or "address"  # jsonschema names the map that has another property
        assert path == named or path.startswith(error.path), document
        assert (error.id, error.collection, error.applied) == ("bad", "users", "no")
        assert "'bad'" in str(error)
        assert error.path in str(error)
        assert error.problem
        assert pickle.loads(pickle.dumps(error)).path == error.path
    assert users.find_all() == [{"_id": "a", **GOOD}]
    users.insert({"name": "Bob"})


WRONG = {"name": 5}
REFUSED: dict[str, Callable[[Collection], Any]] = {
    "insert": lambda users: users.insert(WRONG),
    "insert_many": lambda users: users.insert_many([GOOD, WRONG]),
    "insert_many, table": lambda users: users.insert_many(pa.table({"name": [1, 2]})),
    "update": lambda users: users.update("a", WRONG),
    "update with an operator": lambda users: users.update("a", {"$unset": {"name": ""}}),
    "update_by_id": lambda users: users.update_by_id({"a": WRONG}),
    "update_one": lambda users: users.update_one(None, {"$set": WRONG}),
    "update_many": lambda users: users.update_many(None, {"$set": WRONG}),
    "upsert": lambda users: users.update_one({"name": "X"}, {"$set": {"n": 1}}, upsert=True),
    "find_one_and_update": lambda users: users.find_one_and_update(None, {"$set": WRONG}),
    "upsert_many": lambda users: users.upsert_many([{"_id": "a", **WRONG}]),
    "replace": lambda users: users.replace("a", WRONG),
    "compare_and_swap": lambda users: users.compare_and_swap("a", users.get("a"), WRONG),
}


def test_each_verb_refuses(users: Collection) -> None:
    engine = users._engine
    assert isinstance(engine, StorageEngine)
    before = users.find_all()
    for name, verb in REFUSED.items():
        with pytest.raises(SchemaViolation) as raised:
            verb(users)
        assert raised.value.collection == "users", name
        with pytest.raises(SchemaViolation), engine.transaction() as tx:
            tx["users"].insert({"name": "Bob"})
            verb(tx["users"])  # type: ignore[arg-type]
        assert users.find_all() == before, name
    with engine.transaction() as tx:
        tx["users"].insert({"name": "Bob"})
    assert len(users) == 2


def test_existing_documents_are_reported(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.insert_many([{"_id": "a", "name": "Ada"}, {"_id": "b", "name": 5}, {"_id": "c"}])
        assert list(users.validate()) == []
        users.set_validation(ARROW)
        found = [(one.id, one.path) for one in users.validate()]
        assert found == [("b", "name"), ("c", "name")]
        with pytest.raises(SchemaViolation):
            users.update("b", {"age": 1})
        users.update("b", {"name": "Bob"})
        users.set_validation(None)
        assert users.validation is None
        users.insert({"name": 7})


@pytest.mark.parametrize("way", ["reopened", "recovered", "restored", "parts", "renamed"])
@pytest.mark.parametrize("kind", ["arrow", "json"])
def test_a_schema_persists(tmp_path: Path, kind: str, way: str) -> None:
    schema = KINDS[kind]()
    engine = StorageEngine(tmp_path / "data")
    users = engine.create_collection("users")
    users.set_validation(schema)
    users.insert(GOOD)
    folder, name = tmp_path / "data", "users"
    if way == "restored":
        engine.backup(tmp_path / "backup")
        restore_backup(tmp_path / "backup", tmp_path / "restored")
        folder = tmp_path / "restored"
    elif way == "parts":
        users.to_folder()
        users.insert(GOOD)
        engine.save()
        users.compact(thorough=True)
    elif way == "renamed":
        name = "people"
        engine.rename_collection("users", name)
    if way == "recovered":
        crash(engine)
    else:
        engine.close()
    for _ in range(2):
        with StorageEngine(folder) as engine:
            users = engine[name]
            assert users.validation is not None
            assert users.validation.schema == schema
            with pytest.raises(SchemaViolation):
                users.insert(WRONG)
            users.insert({"name": "Bob"})
    assert godb_arrow.verify_godb(folder).ok


def test_a_model_must_be_given_again(tmp_path: Path) -> None:
    """What it checks beside its JSON Schema is code, which is not stored."""
    user = model()
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.set_validation(user)
        with pytest.raises(SchemaViolation, match="root is no user"):
            users.insert({"name": "root"})
        assert users.validation is not None
        assert users.validation.name.endswith("User")
    with StorageEngine(tmp_path) as engine:
        users = engine["users"]
        for verb in REFUSED.values():
            if verb in (REFUSED["insert"], REFUSED["insert_many"]):
                with pytest.raises(MissingValidator, match=r"User.*set_validation"):
                    verb(users)
        assert users.validation is not None
        schema = users.validation.schema
        assert schema == user.model_json_schema()
        users.set_validation(user)
        with pytest.raises(SchemaViolation, match="root is no user"):
            users.insert({"name": "root"})
        users.set_validation(schema)
        users.insert({"name": "root"})
    with StorageEngine(tmp_path) as engine:
        engine["users"].insert({"name": "root"})


def test_a_model_validates_restored_versions_that_record_it(tmp_path: Path) -> None:
    user = model()
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.to_folder()
        users.insert({"name": "Ada"})
        engine.save()
        without = users.versions()[-1].version
        users.set_validation(user)
        users.create_index("name", unique=True)
        users.insert({"name": "Bob"})
        engine.save()
        version = users.versions()[-1].version
        users.insert({"name": "Cy"})
        engine.save()

        def check() -> None:
            users.insert({"name": "Dan"})
            with pytest.raises(SchemaViolation, match="root is no user"):
                users.insert({"name": "root"})
            with pytest.raises(DuplicateValue):
                users.insert({"name": "Ada"})

        users.restore(version)
        assert [one["name"] for one in users.find()] == ["Ada", "Bob"]
        check()
        users.restore(without)
        assert (users.validation, users.indexes) == (None, ())
        users.insert({"name": "root"})
        users.set_validation({"properties": {"age": {"type": "integer"}}})
        users.restore(version)  # its model is another one than the current validation
        with pytest.raises(MissingValidator):
            users.insert({"name": "Dan"})
        users.set_validation(user)
        check()
        users.set_validation(None)
        users.restore(version)
        with pytest.raises(MissingValidator):
            users.insert({"name": "Dan"})


def test_a_restore_that_fails_keeps_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = model()
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.to_folder()
        users.insert({"name": "Ada"})
        engine.save()
        version = users.versions()[-1].version
        users.set_validation(user)
        users.create_index("name", unique=True)
        users.create_ttl("at", 0)
        engine.save()

        def failing(*_: Any) -> Any:
            raise godb_arrow.DiskFull("no space")

        for _ in range(2):
            with monkeypatch.context() as patched, pytest.raises(godb_arrow.DiskFull):
                patched.setattr(PartFolder, "commit", failing)
                users.restore(version)
            with pytest.raises(SchemaViolation, match="root is no user"):
                users.insert({"name": "root"})
            with pytest.raises(DuplicateValue):
                users.insert({"name": "Ada"})
            assert set(users.ttl) == {"at"}
        users.restore(version)
        assert (users.validation, users.indexes, users.ttl) == (None, (), {})


def test_a_lifetime_keeps_the_model(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.set_validation(model())
        users.create_ttl("at", "1h")
        users.insert({"name": "Ada"})
        users.drop_ttl("at")
        with pytest.raises(SchemaViolation, match="root is no user"):
            users.insert({"name": "root"})


def test_the_id_and_values_that_json_lacks(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        found.set_validation({
            "properties": {
                "at": {"type": "string", "pattern": "^2026-01-02T03:04:05.*Z$"},
                "raw": {"const": "eA=="},
            },
            "additionalProperties": False,
        })  # fmt: skip
        found.insert({"_id": "x", "at": moment, "raw": b"x"})
        found.insert({"at": msgpack.Timestamp(1_767_323_045, 1)})
        early = engine.create_collection("early")
        early.set_validation({"properties": {"at": {"pattern": "^0999-01-01T00:00:00"}}})
        for nanoseconds in (0, 5):
            early.insert({"at": msgpack.Timestamp(-30_641_760_000, nanoseconds)})
        for wrong in ({"at": float("nan")}, {"at": msgpack.ExtType(1, b"")}, {"at": "x"}):
            with pytest.raises(SchemaViolation) as raised:
                found.insert(wrong)
            assert raised.value.path == "at"
        found.set_validation({"properties": {"_id": {"pattern": "^u"}}})
        found.insert({"_id": "u1"})
        with pytest.raises(SchemaViolation) as raised:
            found.insert({"_id": "1"})
        assert raised.value.path == "_id"


DRAFT_3 = "http://json-schema.org/draft-03/schema#"
DRAFT_4 = "http://json-schema.org/draft-04/schema#"
INVALID: list[tuple[Any, str]] = [
    ({"type": "nothing"}, "invalid at type"),
    ({"properties": {"a": {"format": "no such format"}}}, "format"),
    ({"properties": {"a": {"$ref": "https://example.org/schema"}}}, "not part of it"),
    ({"type": object()}, "no JSON"),
    ({"const": float("nan")}, "no JSON"),
    ({"properties": 5}, "invalid at properties: 5"),
    ({"properties": None}, "invalid at properties: None"),
    ({"properties": {"a": {"required": True}}}, "invalid at properties.a.required"),
    ({"$schema": 5}, "invalid at its top"),
    ({"$id": "http://[", "$ref": "x"}, "not part of it"),
    ({"properties": {"default": {"format": "x"}}}, "format 'x'"),
    ({"$defs": {"const": {"format": "x"}}}, "format 'x'"),
    ({"dependencies": {"a": ["b"], "enum": {"format": "x"}}}, "format 'x'"),
    ({"items": [{"not": {"format": "x"}}], "$schema": DRAFT_4}, "format 'x'"),
    ({"extends": {"format": "x"}, "$schema": DRAFT_3}, "format 'x'"),
    ({"type": ["string", {"format": "x"}], "$schema": DRAFT_3}, "format 'x'"),
    ({"$ref": "#/own/it", "own": {"it": {"format": "x"}}}, "format 'x'"),
    ({"$ref": "#/examples/0", "examples": [{"format": "x"}]}, "format 'x'"),
    ({"properties": {"enum": {"$ref": "https://example.org/"}}}, "not part of it"),
    ({"$dynamicRef": "https://example.org/"}, "not part of it"),
    ({"properties": {"a": {"$ref": "#/$defs/lost"}}}, "'#/\\$defs/lost', which is not part"),
    ({"$ref": "#"}, "cannot be applied"),
    ("string", "validates nothing"),
    (int, "validates nothing"),
]


@pytest.mark.parametrize(("schema", "said"), INVALID)
def test_what_cannot_be_checked_is_refused(tmp_path: Path, schema: Any, said: str) -> None:
    pytest.importorskip("jsonschema")
    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        with pytest.raises(InvalidOption, match=said):
            found.set_validation(schema)
        with pytest.raises(InvalidOption, match="allow_extra"):
            found.set_validation({}, allow_extra=True)
        with pytest.raises(UnsupportedType, match="'d'"):
            found.set_validation(pa.schema({"d": pa.decimal128(5, 2)}))
        assert found.validation is None


PLAIN: list[dict[str, Any]] = [
    {"default": {"$ref": "https://example.org/"}},
    {"examples": [{"format": "x", "$ref": "#/lost"}]},
    {"x-shown": {"format": "x", "$id": 5}},
    {"properties": {"a": {"enum": [{"format": "x"}, 1]}}},
    {"properties": {"a": {"anyOf": [{"const": {"$ref": "#/lost"}}, {"const": 1}]}}},
    {"properties": {"format": {"type": "string"}, "$ref": {"type": "string"}}},
    {"dependentRequired": {"format": ["a"]}},
    {"$id": "https://example.org/a", "$ref": "https://example.org/a#/$defs/b", "$defs": {"b": {}}},
    {"$ref": "#b", "$defs": {"b": {"$anchor": "b"}}},
]


@pytest.mark.parametrize("schema", PLAIN, ids=str)
def test_values_in_a_json_schema_are_no_schemas(tmp_path: Path, schema: dict[str, Any]) -> None:
    pytest.importorskip("jsonschema")
    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        found.set_validation(schema)
        found.insert({"a": 1})


def test_required_fields_of_each_draft_are_named(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        for schema in (
            {"$schema": DRAFT_3, "properties": {"a": {"properties": {"b": {"required": True}}}}},
            {"$schema": DRAFT_4, "properties": {"a": {"required": ["b"]}}},
            {"properties": {"a": {"required": ["b"]}}},
        ):
            found.set_validation(schema)
            with pytest.raises(SchemaViolation) as raised:
                found.insert({"a": {}})
            assert raised.value.path == "a.b"
            found.insert({"a": {"b": 1}})


def test_the_schema_is_a_copy(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    given: dict[str, Any] = {"properties": {"a": {"type": "string"}}}
    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        found.set_validation(given)
        given["properties"]["a"]["type"] = "integer"
        assert found.validation is not None
        assert isinstance(found.validation.schema, dict)
        found.validation.schema["properties"]["a"]["type"] = "integer"
        assert found.validation.schema == {"properties": {"a": {"type": "string"}}}
        found.insert({"a": "x"})
        found.create_ttl("at", 0)  # stores the rules again
    with StorageEngine(tmp_path) as engine, pytest.raises(SchemaViolation):
        engine["c"].insert({"a": 1})


def test_a_model_without_a_json_schema_is_refused(tmp_path: Path) -> None:
    pydantic = pytest.importorskip("pydantic")

    class Job(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        run: Callable[[], None]

    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        with pytest.raises(InvalidOption, match="no JSON Schema"):
            found.set_validation(Job)
        assert found.validation is None


def test_a_stored_schema_that_cannot_be_applied_refuses_documents(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        for schema in ('{"$ref": "#/lost"}', '{"properties": 5}', '{"$schema": 5}'):
            stored = {"kind": "json_schema", "schema": schema, "name": "", "extra": False}
            with found._store.lock:
                found._store.change_setting({"op": "rules", "r": Rules(stored, {}).pack()})
            with pytest.raises(InvalidOption, match="JSON Schema"):
                found.insert({"a": 1})
        assert len(found) == 0


def test_without_the_package_documents_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jsonschema")
    with StorageEngine(tmp_path) as engine:
        engine.create_collection("c").set_validation({"type": "object"})
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with StorageEngine(tmp_path) as engine:
        with pytest.raises(MissingDependency, match=r"godb-arrow\[validation\]"):
            engine["c"].insert({"a": 1})
        with pytest.raises(MissingDependency, match=r"godb-arrow\[validation\]"):
            engine.create_collection("d").set_validation({"type": "object"})


def test_fields_that_a_schema_lacks_may_be_allowed(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        found.set_validation(ARROW, allow_extra=True)
        found.insert({"name": "Ada", "more": {"x": 1}, "address": {"zip": "1", "street": "x"}})
    with StorageEngine(tmp_path) as engine:
        engine["c"].insert({"name": "Ada", "more": 1})
        with pytest.raises(SchemaViolation):
            engine["c"].insert({"more": 1})


def test_documents_larger_than_memory_and_of_other_processes(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="1MiB") as engine:
        users = engine.create_collection("users")
        users.set_validation(ARROW, allow_extra=True)
        rows = [{"name": str(i), "text": "x" * 500} for i in range(3000)]
        with pytest.raises(SchemaViolation) as raised:
            users.insert_many([*rows, {"_id": "wrong", "name": 1}])
        assert raised.value.id == "wrong"
        assert len(users) == 0
        users.insert_many(rows)
        with pytest.raises(SchemaViolation):
            users.update_many(None, {"$set": {"name": 1}})
        assert users.count({"name": 1}) == 0
    writer = PartWriter.of(tmp_path, "users")
    with pytest.raises(SchemaViolation):
        commit_parts(tmp_path, "users", writer.write([{"name": 1}], 0))
    assert commit_parts(tmp_path, "users", writer.write([{"name": "Ada"}], 1)) == 1


TYPES = [
    pa.bool_(), pa.int8(), pa.uint64(), pa.int64(), pa.float64(), pa.string(), pa.large_string(),
    pa.binary(), pa.timestamp("s", "UTC"), pa.timestamp("ns"), pa.date32(), pa.list_(pa.int32()),
    pa.struct({"a": pa.int64()}), pa.map_(pa.string(), pa.int64()), pa.null(),
    pa.dictionary(pa.int32(), pa.string()),
]  # fmt: skip
VALUES: list[Any] = [
    True, 0, 127, 128, -1, 2**63, 2**64 - 1, 1.5, 2**53 + 1, "x", b"x", "\udcff", None,
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, 1, tzinfo=dt.UTC),
    msgpack.Timestamp(1, 5), [], [1], [2**31], [None], {"a": 1}, {"a": "x"}, {"a": None}, {},
    msgpack.ExtType(1, b"x"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::godb_arrow.CompatibilityWarning")
@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_what_fits_can_be_read_with_the_schema(tmp_path: Path, kind: pa.DataType) -> None:
    schema, file = pa.schema({"v": kind}), tmp_path / "one.godb"
    fitting = 0
    with StorageEngine(tmp_path / "data") as engine:
        found = engine.create_collection("c")
        found.set_validation(schema)
        for value in VALUES:
            godb_arrow.write_godb([{"_id": "x", "v": value}], file, "c", if_exists="replace")
            try:
                godb_arrow.read_table(file, schema=schema)
            except TypeMismatch:
                with pytest.raises(SchemaViolation):
                    found.insert({"_id": "x", "v": value})
            try:
                found.upsert_many([{"_id": "x", "v": value}])
            except SchemaViolation:
                continue
            fitting += 1
    assert fitting >= 1


def test_damaged_and_unknown_rules(tmp_path: Path) -> None:
    endless = [Rules(None, {"at": seconds}).pack() for seconds in (1e300, float("inf"), -1.0)]
    for packed in (
        b"\xff",
        b"\x91\x01",
        b"\x81\xaavalidation\x01",
        b"\x81\xa6expiry\x01",
        *endless,
    ):
        with pytest.raises(godb_arrow.CorruptFile):
            Rules.unpack(packed)
    with pytest.raises(godb_arrow.UnsupportedVersion, match="later"):
        Rules.unpack(msgpack.packb({"later": 1}))
    chosen = random.Random(1)
    whole = Rules({"kind": "arrow", "schema": {}}, {"at": 1.0}).pack()
    assert Rules.unpack(whole) == Rules({"kind": "arrow", "schema": {}}, {"at": 1.0})
    for _ in range(500):
        raw = bytearray(whole)
        raw[chosen.randrange(len(raw))] = chosen.randrange(256)
        with suppress(godb_arrow.CorruptFile, godb_arrow.UnsupportedVersion):
            Rules.unpack(bytes(raw))
    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        stored = Rules({"kind": "arrow", "schema": "x", "extra": 1}).pack()
        with found._store.lock:
            found._store.change_setting({"op": "rules", "r": stored})
        with pytest.raises(godb_arrow.CorruptFile, match="set it again"):
            found.insert({})
        engine.create_collection("d").insert({})
        engine.save()
        assert found.find_all() == []
        found.set_validation(None)
        found.insert({})


def test_an_invalid_document_is_a_kind_of_violation() -> None:
    assert issubclass(SchemaViolation, InvalidDocument)
