"""Unique indexes: every verb refuses a duplicate, and what it refuses did not happen."""

from __future__ import annotations

import datetime as dt
import math
import pickle
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pytest
from support.engines import crash
from support.settings import LONG

import godb_arrow
from godb_arrow import (
    DuplicateValue,
    Follower,
    GodbError,
    InvalidDocument,
    InvalidFilter,
    StorageEngine,
    promote,
    restore_backup,
)
from godb_arrow.engine.collection import Collection
from godb_arrow.engine.part_writer import PartWriter, commit_parts

State = Callable[[StorageEngine], StorageEngine]


def unsaved(engine: StorageEngine) -> StorageEngine:
    return engine


def saved(engine: StorageEngine) -> StorageEngine:
    engine.save()
    return engine


def in_parts(engine: StorageEngine) -> StorageEngine:
    engine["users"].to_folder()
    engine["users"].upsert_many([{"_id": "extra"}])
    engine.save()
    return engine


def compacted(engine: StorageEngine) -> StorageEngine:
    in_parts(engine)["users"].compact(thorough=True)
    return engine


def reopened(engine: StorageEngine) -> StorageEngine:
    engine.close()
    return StorageEngine(engine.data_dir)


def recovered(engine: StorageEngine) -> StorageEngine:
    crash(engine)
    return StorageEngine(engine.data_dir)


STATES = [unsaved, saved, in_parts, compacted, reopened, recovered]


@pytest.fixture(params=STATES, ids=lambda state: state.__name__)
def users(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A collection with two documents and a unique index, in each state."""
    engine = StorageEngine(tmp_path / "data")
    made = engine.create_collection("users")
    made.create_index("email", unique=True)
    made.insert_many([{"_id": "a", "email": "a@x"}, {"_id": "b", "email": "b@x", "n": 1}])
    engine = request.param(engine)
    yield engine["users"]
    engine.close()


def everything(users: Collection) -> list[dict[Any, Any]]:
    return sorted(users.find(), key=lambda one: str(one["_id"]))


REFUSED: dict[str, Callable[[Collection], Any]] = {
    "insert": lambda users: users.insert({"_id": "new", "email": "a@x"}),
    "insert without id": lambda users: users.insert({"email": "a@x"}),
    "insert_many": lambda users: users.insert_many([{"email": "c@x"}, {"email": "a@x"}]),
    "insert_many inside": lambda users: users.insert_many([{"email": "c@x"}, {"email": "c@x"}]),
    "insert_many, large": lambda users: users.insert_many(
        [{"email": f"{i}"} for i in range(5000)] + [{"email": "a@x"}]
    ),
    "insert_many, table": lambda users: users.insert_many(pa.table({"email": ["d@x", "a@x"]})),
    "update": lambda users: users.update("b", {"email": "a@x"}),
    "update with an operator": lambda users: users.update("b", {"$set": {"email": "a@x"}}),
    "update_by_id": lambda users: users.update_by_id(
        {"a": {"email": "z@x"}, "b": {"email": "z@x"}}
    ),
    "update_one": lambda users: users.update_one({"n": 1}, {"$set": {"email": "a@x"}}),
    "update_many": lambda users: users.update_many(
        {"_id": ["a", "b"]}, {"$set": {"email": "same"}}
    ),
    "upsert": lambda users: users.update_one({"n": 5}, {"$set": {"email": "a@x"}}, upsert=True),
    "find_one_and_update": lambda users: users.find_one_and_update(
        {"n": 1}, {"$set": {"email": "a@x"}}
    ),
    "upsert_many": lambda users: users.upsert_many([{"_id": "b", "email": "a@x"}]),
    "replace": lambda users: users.replace("b", {"email": "a@x"}),
    "compare_and_swap": lambda users: users.compare_and_swap("b", users.get("b"), {"email": "a@x"}),
}


def test_a_duplicate_is_refused_by_each_verb(users: Collection) -> None:
    before = everything(users)
    for name, verb in REFUSED.items():
        with pytest.raises(DuplicateValue) as raised:
            verb(users)
        assert raised.value.fields == ("email",), name
        assert raised.value.collection == "users", name
        assert raised.value.applied == "no", name
        assert len(raised.value.ids) == 2, name
        assert everything(users) == before, name
    users.insert({"_id": "after", "email": "after@x"})


def test_the_error_names_value_and_ids(users: Collection) -> None:
    with pytest.raises(DuplicateValue, match=r"users.*'email' has 'a@x' .*'a' and in 'new'") as one:
        users.insert({"_id": "new", "email": "a@x"})
    assert (one.value.value, one.value.ids) == ("a@x", ["a", "new"])
    assert pickle.loads(pickle.dumps(one.value)).ids == ["a", "new"]


def test_values_become_free(users: Collection) -> None:
    users.update("a", {"email": "new@x"})
    users.insert({"_id": "c", "email": "a@x"})
    users.delete("b")
    users.insert({"_id": "d", "email": "b@x"})
    users.upsert_many([{"_id": "d", "email": "b@x", "n": 2}])  # its own value
    users.update("d", {"n": 3})
    with pytest.raises(DuplicateValue):
        users.insert({"email": "new@x"})


def test_two_documents_swap_their_values_in_one_change(users: Collection) -> None:
    users.upsert_many([{"_id": "a", "email": "b@x"}, {"_id": "b", "email": "a@x"}])
    users.update_by_id({"a": {"email": "a@x"}, "b": {"email": "b@x"}})
    with pytest.raises(DuplicateValue) as raised:
        users.insert({"email": "b@x"})
    assert raised.value.ids[0] == "b"


def test_null_and_absent_are_no_values(users: Collection) -> None:
    users.insert_many([{"_id": "n1", "email": None}, {"_id": "n2"}, {"_id": "n3", "email": []}])
    users.insert({"email": None})
    assert users.count({"email": None}) >= 2


EQUAL = [
    (1, 1.0),
    (2**53 + 1, 2**53 + 1),
    (0.0, -0.0),
    (math.nan, math.nan),
    (True, True),
    ("é", "é"),
    ("a\0b", "a\0b"),
    ("x" * 100 + "y", "x" * 100 + "y"),
    (b"x", b"x"),
    (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), msgpack.Timestamp(1_767_225_600)),
    ([1, 2], 2),
    ([[3]], [3]),
]  # fmt: skip
DIFFERENT = [
    (1, True),
    (0, False),
    (2**53, 2**53 + 1),
    (2**63, 2**63 - 1),
    (2**64 - 1, 2.0**64),
    ("1", 1),
    ("x", b"x"),
    ("a", "a\0"),
    ("x" * 100 + "y", "x" * 100 + "z"),
    (msgpack.Timestamp(1, 1), msgpack.Timestamp(1, 2)),
    (None, None),
    ([1, 2], [3, 4]),
]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("is_saved", [False, True])
def test_values_are_equal_as_filters_compare_them(
    tmp_path: Path, many: bool, is_saved: bool
) -> None:
    with StorageEngine(tmp_path) as engine:
        for number, (first, second) in enumerate(EQUAL + DIFFERENT):
            found = engine.create_collection(f"c{number}")
            found.create_index("v", unique=True)
            found.insert({"v": first})
            if is_saved:
                found.checkpoint()
            put = (lambda found=found, second=second: found.insert_many([{"v": second}] )) if many \
                else (lambda found=found, second=second: found.insert({"v": second}))  # fmt: skip
            if number < len(EQUAL):
                with pytest.raises(DuplicateValue):
                    put()
            else:
                put()


def test_maps_are_refused(users: Collection) -> None:
    for value in ({"x": 1}, [{"x": 1}], msgpack.ExtType(5, b"x")):
        for put in (users.insert, lambda one: users.insert_many([{"email": "q"}, one])):
            with pytest.raises(InvalidDocument, match="email"):
                put({"_id": "m", "email": value})
    assert "m" not in users


def test_existing_duplicates_are_named(users: Collection) -> None:
    users.insert({"_id": "c", "n": 1, "m": {"k": 1}})
    with pytest.raises(DuplicateValue) as raised:
        users.create_index("n", unique=True)
    assert (raised.value.fields, raised.value.value) == (("n",), 1)
    assert sorted(raised.value.ids) == ["b", "c"]
    with pytest.raises(GodbError):
        users.create_index("m", unique=True)
    assert users.indexes == ("email",)
    users.update("c", {"n": 2})
    users.create_index("n", unique=True)
    assert [(one.name, one.unique) for one in users.list_indexes()] == [
        ("email", True),
        ("n", True),
    ]


def test_a_plain_index_becomes_unique_and_is_dropped_as_one(users: Collection) -> None:
    users.create_index("n")
    users.create_index("n", unique=True)
    with pytest.raises(DuplicateValue):
        users.insert({"n": 1})
    users.create_index("n")
    users.drop_index("n")
    users.insert({"n": 1})
    assert users.indexes == ("email",)
    assert users.explain({"email": "a@x"}).index == "email"


@pytest.mark.parametrize(
    "fields",
    [
        "",
        [],
        ["a", "a"],
        ["a", 1],
        "a\0b",
        list("abcdefghi"),
        5,
        None,
        1.5,
        b"ab",
        [["a"]],
        {"a": 1},
        {"a", "b"},
        "\ud800",
    ],
)
def test_impossible_fields_are_refused(tmp_path: Path, fields: Any) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        for unique in (False, True):
            with pytest.raises(InvalidFilter):
                users.create_index(fields, unique=unique)
        with pytest.raises(InvalidFilter):
            users.drop_index(fields)


@pytest.mark.parametrize("fields", ["$x", "$and", ["a", "$x"]])
def test_operators_of_filters_are_no_fields(tmp_path: Path, fields: Any) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        for unique in (False, True):
            with pytest.raises(InvalidFilter, match="it is an operator"):
                users.create_index(fields, unique=unique)
        users.drop_index(fields)  # an earlier program may have made it
        assert users.indexes == ()


def test_several_fields_are_compared_together(users: Collection) -> None:
    users.create_index(["country", "profile.city"], unique=True)
    users.insert({"_id": "oslo", "country": "NO", "profile": {"city": "Oslo"}})
    users.insert({"_id": "bergen", "country": "NO", "profile": {"city": "Bergen"}})
    users.insert_many([{"country": "NO"}, {"country": "NO"}])  # a value is absent
    users.insert({"_id": "two", "country": ["SE", "DK"], "profile": {"city": "X"}})
    with pytest.raises(DuplicateValue) as raised:
        users.insert({"_id": "again", "country": "NO", "profile": {"city": "Oslo"}})
    assert (raised.value.value, raised.value.ids) == (("NO", "Oslo"), ["oslo", "again"])
    with pytest.raises(DuplicateValue):
        users.insert({"country": "DK", "profile": {"city": "X"}})
    users.drop_index(["country", "profile.city"])
    users.insert({"country": "DK", "profile": {"city": "X"}})


def test_a_transaction_is_checked_at_its_end(users: Collection, tmp_path: Path) -> None:
    engine = users._engine
    assert isinstance(engine, StorageEngine)
    before = everything(users)
    with pytest.raises(DuplicateValue) as raised, engine.transaction() as tx:
        tx["users"].insert({"_id": "c", "email": "c@x"})
        tx["users"].update("b", {"email": "a@x"})
    assert (raised.value.collection, raised.value.operation) == ("users", "commit")
    assert everything(users) == before
    with engine.transaction() as tx:  # of changes that together are allowed
        tx["users"].update("b", {"email": "a@x"})
        tx["users"].update("a", {"email": "b@x"})
    with pytest.raises(DuplicateValue):
        users.insert({"email": "a@x"})


def test_documents_larger_than_memory(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="1MiB") as engine:
        users = engine.create_collection("users")
        users.create_index("email", unique=True)
        users.insert({"_id": "a", "email": "1500@x"})
        rows = [{"email": f"{i}@x", "text": "x" * 500} for i in range(3000)]
        with pytest.raises(DuplicateValue) as raised:
            users.insert_many(rows)
        assert raised.value.value == "1500@x"
        assert len(users) == 1
        users.delete("a")
        twice = [*rows, {"_id": "t", "email": "7@x", "text": "y" * 500}]
        with pytest.raises(DuplicateValue):
            users.insert_many(twice)
        users.insert_many(rows)
        with pytest.raises(DuplicateValue):
            users.insert({"email": "2999@x"})
        with pytest.raises(DuplicateValue):
            users.update_many(None, {"$set": {"email": "same"}})
        users.update_many(None, {"$set": {"n": 1}})
        assert len(users) == users.count({"n": 1}) == 3000


def test_parts_of_other_processes(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.create_index("email", unique=True)
        users.insert({"email": "a@x"})
    writer = PartWriter.of(tmp_path, "users")
    wrong = writer.write([{"email": "b@x"}, {"email": "a@x"}], 0)
    with pytest.raises(DuplicateValue):
        commit_parts(tmp_path, "users", wrong)
    right = writer.write([{"email": "b@x"}, {"email": "c@x"}], 1)
    assert commit_parts(tmp_path, "users", right) == 2
    with StorageEngine(tmp_path) as engine, pytest.raises(DuplicateValue):
        engine["users"].insert({"email": "c@x"})


def test_an_index_of_a_backup_and_of_a_follower(users: Collection, tmp_path: Path) -> None:
    engine = users._engine
    assert isinstance(engine, StorageEngine)
    engine.backup(tmp_path / "backup")
    restore_backup(tmp_path / "backup", tmp_path / "restored")
    with Follower(tmp_path / "data", tmp_path / "followed") as follower:
        follower.step()
    promote(tmp_path / "followed")
    for name in ("restored", "followed"):
        with StorageEngine(tmp_path / name) as copy, pytest.raises(DuplicateValue):
            copy["users"].insert({"email": "a@x"})


def test_one_of_several_threads_wins(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, background_save=0.01) as engine:
        users = engine.create_collection("users")
        users.create_index("n", unique=True)
        won: list[int] = []

        def work(seed: int) -> None:
            chosen = random.Random(seed)
            for _ in range(100):
                number = chosen.randrange(60)
                try:
                    if chosen.random() < 0.5:
                        users.insert({"n": number})
                    else:
                        users.insert_many([{"n": number}, {"n": number + 1000 + seed * 10**6}])
                    won.append(number)
                except DuplicateValue:
                    pass

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == len(set(won))
        numbers = [one["n"] for one in users.find()]
        assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("seed", range(200 if LONG else 2))
def test_random_changes_agree_with_a_dict(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    engine = StorageEngine(tmp_path, part_size=2000)
    engine.create_collection("c").create_index("v", unique=True)
    model: dict[str, Any] = {}

    def holders(value: Any, but: set[str]) -> bool:
        return value is not None and any(
            other == value for key, other in model.items() if key not in but
        )

    for _ in range(90):
        found = engine["c"]
        key, value = str(chosen.randrange(12)), chosen.choice([None, *range(8)])
        action = chosen.choice(["put", "put", "many", "bulk", "delete", "save", "open", "compact"])
        try:
            if action == "put":
                refused = holders(value, {key})
                found.upsert_many([{"_id": key, "v": value}])
                model[key] = value
            elif action == "many":
                other = str(chosen.randrange(12))
                rows = {key: value, other: chosen.randrange(8)}
                values = [one for one in rows.values() if one is not None]
                refused = len(set(values)) < len(values) or any(
                    holders(one, {*rows}) for one in rows.values()
                )
                found.upsert_many([{"_id": one, "v": v} for one, v in rows.items()])
                model |= rows
            elif action == "bulk":
                rows = {f"b{i}": 100 + i for i in range(80)} | {key: value}
                refused = holders(value, {*rows})
                found.upsert_many([{"_id": one, "v": v} for one, v in rows.items()])
                model |= rows
            else:
                refused = False
                if action == "delete" and key in model:
                    found.delete(key)
                    del model[key]
                elif action == "save":
                    engine.save()
                elif action == "open":
                    crash(engine) if chosen.random() < 0.5 else engine.close()
                    engine = StorageEngine(tmp_path, part_size=2000)
                elif action == "compact":
                    found.compact()
            assert not refused
        except DuplicateValue:
            assert refused
        assert {str(one["_id"]): one["v"] for one in engine["c"].find()} == model
    engine.close()


def test_values_of_saved_documents_take_no_memory(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="2MiB") as engine:
        users = engine.create_collection("users")
        users.create_index("n", unique=True)
        for number in range(6_000):
            users.insert({"n": number, "text": "x" * 50})
        assert engine.memory_stats().changes_bytes > 0
        engine.save()
        assert engine.memory_stats().changes_bytes == 0
        assert len(users) == 6_000
        with pytest.raises(DuplicateValue):
            users.insert({"n": 5})


def test_an_index_is_enforced_as_soon_as_it_exists(tmp_path: Path) -> None:
    """Threads that read the settings while they change do not bring back the former ones."""
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.insert({"n": -1})
        stopping = threading.Event()

        def read() -> None:
            while not stopping.is_set():
                assert users.validation is None
                users.insert({"m": 1})
                time.sleep(0.001)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(15):
            users.create_index("n", unique=True)
            with pytest.raises(DuplicateValue):
                users.insert({"n": -1})
            users.drop_index("n")
            users.delete(users.insert({"n": -1}))
        stopping.set()
        for thread in threads:
            thread.join()


def test_a_restored_version_has_its_own_indexes(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.to_folder()
        users.insert_many([{"n": 1}, {"n": 1}])
        engine.save()
        version = users.versions()[-1].version
        users.delete("2")
        users.create_index("n", unique=True)
        engine.save()
        later = users.versions()[-1].version
        users.restore(version)
        assert (users.count({"n": 1}), users.indexes) == (2, ())
        users.insert({"n": 1})
        users.restore(later)
        assert users.list_indexes()[0].unique
        with pytest.raises(DuplicateValue):
            users.insert({"n": 1})


MOMENTS = [
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    dt.datetime(1, 1, 1, tzinfo=dt.UTC),
    msgpack.Timestamp(5, 7),
    msgpack.Timestamp(2**40, 0),
]


@pytest.mark.parametrize("value", [*MOMENTS, "\udcff", b"x", 2**64 - 1, 1.5, True])
def test_the_value_of_an_error_is_what_get_returns(tmp_path: Path, value: Any) -> None:
    """The first document has the value, and the second one has it in a list."""
    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        found.create_index("v", unique=True)
        found.create_index(["n", "v"], unique=True)
        found.insert({"_id": "a", "v": value})
        expected = found.get("a")["v"]
        with pytest.raises(DuplicateValue) as raised:
            found.insert({"v": [None, "other", value]})
        assert (type(raised.value.value), raised.value.value) == (type(expected), expected)
        found.drop_index("v")
        found.update("a", {"n": value})
        for documents in ([{"n": value, "v": value}], [{"n": [1, value], "v": [2, value]}]):
            with pytest.raises(DuplicateValue) as raised:
                found.insert_many(documents)
            assert raised.value.value == (expected, expected)
        engine.save()
        with pytest.raises(DuplicateValue) as raised:
            found.insert({"n": value, "v": value})
        assert raised.value.value == (expected, expected)


def test_combinations_of_lists_are_limited(tmp_path: Path) -> None:
    """A small document does not become millions of keys, whoever builds them."""
    fields = ("a", "b", "c", "d")
    hundred = list(range(100))
    allowed = {"a": hundred, "b": hundred, "c": 1, "d": "x"}
    refused = {"a": hundred, "b": [*hundred, 100], "c": 1, "d": "x"}
    huge = {name: list(range(1000)) for name in fields}
    repeated = {name: [0] * 1000 + [1] for name in fields}  # 16 combinations
    with StorageEngine(tmp_path / "data") as engine:
        found = engine.create_collection("c")
        found.create_index(fields, unique=True)
        found.insert({"_id": "good", **allowed})
        found.insert({"_id": "more", **repeated})
        verbs: list[Callable[[dict[str, Any]], Any]] = [
            found.insert,
            lambda document: found.insert_many([{"a": 1}, document]),
            lambda document: found.insert_many([{"a": 1}] * 5000 + [document]),
            lambda document: found.upsert_many([{"_id": "good", **document}]),
            lambda document: found.update("good", document),
        ]
        for verb in verbs:
            for document in (refused, huge):
                with pytest.raises(InvalidDocument, match="more than 10,000 combinations"):
                    verb(document)
        assert len(found) == 2
        with pytest.raises(DuplicateValue) as raised:
            found.insert({"a": 1, "b": 1, "c": 1, "d": 1})
        assert raised.value.value == (1, 1, 1, 1)
        found.insert({"a": huge["a"], "b": None, "c": huge["c"], "d": 1})  # has no value
        engine.save()
        found.compact(thorough=True)
        assert found.count({"a": 5}) == 2
        plain = engine.create_collection("plain")
        plain.create_index(fields)  # compares nothing
        plain.create_index("a", unique=True)
        plain.insert(huge)
        for state in (unsaved, saved):
            state(engine)
            with pytest.raises(InvalidDocument, match=r"'1': .* combinations"):
                plain.create_index(fields, unique=True)
        godb_arrow.write_godb([{"_id": "f", **refused}], tmp_path / "file.godb", "foreign")
        engine.load_collection_metadata(tmp_path / "file.godb")
        with pytest.raises(InvalidDocument, match=r"'f': .* combinations"):
            engine["foreign"].create_index(fields, unique=True)
