"""Compound indexes: the same documents as by reading all, and fewer candidates."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path
from typing import Any

import lz4.block
import msgpack
import pyarrow.compute as pc
import pytest
from support.engines import crash
from support.settings import LONG

import godb_arrow
from godb_arrow import StorageEngine, codec, verify_godb
from godb_arrow.query.predicate import alternatives, compile_filter
from godb_arrow.snapshots import compound, value_keys
from godb_arrow.snapshots.compound import plain_conditions
from godb_arrow.snapshots.entry_runs import scan
from godb_arrow.snapshots.value_keys import FieldReader, UnkeyedValue, document_keys, load_plain

pytestmark = pytest.mark.usefixtures("trusted_records_in_module")

VALUES: list[Any] = [
    None, True, False, 0, -0.0, 1, 1.0, 1.5, -5, 2**53, 2**53 + 1, 2.0**53, 2**62 + 1, 2**63 - 1,
    2**63, 2**64 - 1, 2.0**64, -(2**63), float("nan"), float("inf"), -float("inf"), 1e-300,
    "", "a", "ä", "a\0", "a\0\0", "a\0b", "a\xff", "b", "z" * 26, "z" * 27, "z" * 64,
    "z" * 64 + "a", "\udcff", b"", b"a", b"\xff", b"z" * 70, b"\0", msgpack.Timestamp(-(2**60), 7),
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC), msgpack.Timestamp(1_577_836_800, 999_999_999),
]  # fmt: skip
NESTED: list[Any] = [[], [1], [None], [1, "a"], [[2]], {}, {"a": 1}, [{"a": 1}, {"a": "b"}],
                     msgpack.ExtType(4, b"x")]  # fmt: skip
LITERALS = [one for one in VALUES if not isinstance(one, msgpack.Timestamp)]
FIELDS = ["v", "w", "v.a", "x"]
INDEXES = [["v", "w"], ["w", "v", "x"], ["v.a", "x"]]


def document(chosen: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for field in chosen.sample([*FIELDS, "u"], chosen.randrange(6)):
        made[field] = chosen.choice(VALUES if chosen.random() < 0.9 else NESTED)
    return made


def condition(chosen: random.Random) -> Any:
    kind = chosen.randrange(5)
    one, two = chosen.choice(LITERALS), chosen.choice(LITERALS)
    if kind == 0:
        return {chosen.choice(["$gt", "$gte"]): one, chosen.choice(["$lt", "$lte"]): two}
    if kind == 1:
        return {chosen.choice(["$gt", "$gte", "$lt", "$lte"]): one}
    if kind == 2:
        return {"$in": chosen.sample(LITERALS, chosen.randrange(1, 4))}
    if kind == 3 and not isinstance(one, type(None)):
        return {"$elemMatch": {"$gte": one, "$lt": two}}
    return one


def filters(chosen: random.Random, count: int) -> list[dict[str, Any]]:
    return [
        {field: condition(chosen) for field in chosen.sample(FIELDS, chosen.randrange(1, 4))}
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(100 if LONG else 1))
@pytest.mark.parametrize("state", ["unsaved", "saved", "parts", "recovered", "mixed"])
def test_an_index_finds_what_reading_all_finds(tmp_path: Path, seed: int, state: str) -> None:
    chosen = random.Random(f"{seed} {state}")
    documents = [document(chosen) for _ in range(400)]
    engine = StorageEngine(tmp_path, part_size=4000 if state == "parts" else 1 << 20)
    for name in ("plain", "indexed"):
        made = engine.create_collection(name)
        for fields in INDEXES if name == "indexed" else ():
            made.create_index(fields)
        made.insert_many(documents[:300])
        if state in ("saved", "parts", "mixed"):
            engine.save()
        made.insert_many(documents[300:])
        for row in range(1, 400, 7):
            made.replace(str(row), documents[-row])
        made.delete_many({"_id": [str(row) for row in range(3, 400, 11)]})
        if state in ("saved", "parts"):
            engine.save()
    if state == "recovered":
        crash(engine)
        engine = StorageEngine(tmp_path)
    used = 0
    with engine:
        for filter in filters(chosen, 120):
            used += engine["indexed"].explain(filter).index is not None
            found = [
                sorted(one["_id"] for one in engine[name].find(filter))
                for name in ("plain", "indexed", "indexed")  # the last one in memory
            ]
            assert found[0] == found[1] == found[2], filter
            assert len(engine["indexed"].find(filter, limit=2)) == min(2, len(found[0]))
            assert engine["indexed"].count(filter) == len(found[0]), filter
    assert used > 40


def test_a_wrong_range_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above fails if the path is broken."""

    def wrong(low: Any, high: Any, text_bytes: int) -> Any:
        found = value_keys.bounds_of(low, high, text_bytes)
        return found and [(first + b"\xfe", last) for first, last in found]

    monkeypatch.setattr(compound, "bounds_of", wrong)
    with pytest.raises(AssertionError):
        test_an_index_finds_what_reading_all_finds(tmp_path, 0, "unsaved")


@pytest.mark.parametrize("fields", [["v"], ["v.a"], ["w", "v"], ["v.a", "x", "v"], ["_id", "v"]])
def test_keys_of_runs_are_those_of_single_documents(fields: list[str]) -> None:
    chosen = random.Random(str(fields))
    made = [document(chosen) for _ in range(1000)]
    made += [{"v": {"a": document(chosen)}} for _ in range(100)]
    raws = [codec.pack(one) for one in made]
    entries = scan(b"".join(codec.pack(str(i)) + raw for i, raw in enumerate(raws)), len(raws))
    found, reader = document_keys(entries, fields), FieldReader(fields)
    keys = dict(zip(found.rows.tolist(), found.keys.to_pylist(), strict=True))
    nulls = set(found.rows[found.has_null].tolist())
    for row, raw in enumerate(raws):
        try:
            own = reader.keys(load_plain(raw) | {"_id": str(row)})
        except UnkeyedValue:
            assert row in found.unkeyed
        else:
            if row in keys:
                assert own == ([] if row in nulls else [keys[row]])
            else:
                assert row in found.several


def test_keys_have_the_order_of_values() -> None:
    ordered: list[list[Any]] = [
        [-float("inf"), -(2**63), -5, -1e-300, 0, 1e-300, 1, 1.5, 2**53, 2**53 + 1, 2**63 - 1,
         2**63, 2**64 - 1, 2.0**64, float("inf")],
        ["", "a", "a\0", "a\0\0", "a\0b", "a\1", "ab", "b", "ä"],
        [msgpack.Timestamp(-(2**60), 7), msgpack.Timestamp(0, 0), msgpack.Timestamp(0, 1)],
    ]  # fmt: skip
    for values in ordered:
        keys = [value_keys.key_of(value) for value in values]
        assert keys == sorted(set(keys))


def test_what_is_searched_and_what_explain_says(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.create_index(["country", "city", "age"])
        users.insert_many(
            {"country": f"c{i % 10}", "city": f"t{i % 70}", "age": i % 90, "n": i}
            for i in range(20_000)
        )
        engine.save()
        assert users.indexes == ("country, city, age",)
        cases: list[tuple[Any, str | None, int]] = [
            ({"country": "c3", "city": "t3"}, "country, city, age", 286),
            ({"country": "c3", "city": "t3", "age": {"$gte": 80}}, "country, city, age", 40),
            ({"country": "c3", "city": {"$in": ["t3", "t13"]}, "age": 3}, "country, city, age", 64),
            ({"country": "c3"}, "country, city, age", 2000),
            ({"country": "c3", "age": 3}, "country, city, age", 2000),
            ({"city": "t3"}, None, 20_000),
            ((pc.field("country") == "c3") & (pc.field("city") == "t3"), "country, city, age", 286),
        ]
        for filter, name, most in cases:
            explained = users.explain(filter)
            assert (explained.index, explained.candidates <= most) == (name, True), filter
            assert explained.candidates >= users.count(filter)
        users.create_index("country")
        assert users.explain({"country": "c3"}).index == "country"
        users.drop_index(["country", "city", "age"])
        assert users.indexes == ("country",)


def test_simple_filters_need_no_compiling() -> None:
    chosen = random.Random(1)
    plain = 0
    for filter in filters(chosen, 3000):
        found = plain_conditions(filter)
        if found is not None:
            plain += 1
            assert found == alternatives(compile_filter(filter)), filter
    assert plain > 200


@pytest.mark.skipif(codec.BACKEND == "reference", reason="only the kernel searches in memory")
def test_a_search_in_memory_uses_the_index(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        found.create_index(["a", "b"])
        found.insert_many({"_id": str(i), "a": i % 9, "b": i % 7} for i in range(2000))
        engine.save()
        filter = {"a": 3, "b": {"$gt": 4}}
        found.find(filter)
        found.insert_many({"_id": f"new{i}", "a": i % 9, "b": i % 7} for i in range(100))
        found.delete("12")
        found.replace("75", {"a": 3, "b": 5})
        found.insert({"_id": "list", "a": [3], "b": [6]})
        expected = [one["_id"] for one in found.find() if one["a"] in (3, [3])
                    and (one["b"] == [6] or (one["b"] != [6] and one["b"] > 4))]  # fmt: skip
        for limit in (-1, 1, 5, 2000):
            quick = found._find_in_memory(filter, limit)
            assert quick is not None
            ids = [one["_id"] for one in quick]
            assert len(ids) == (len(expected) if limit == -1 else min(limit, len(expected)))
            assert set(ids) <= set(expected)
        assert found._count_in_memory(filter) == len(expected)


def test_keys_are_stored_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("godb_arrow.file.locate.EXACT_BYTES", 0)
    with StorageEngine(tmp_path, part_size=40_000) as engine:
        for name in ("one", "parts"):
            found = engine.create_collection(name)
            found.create_index(["a", "b"])
            found.create_index("k", unique=True)
            found.insert_many({"a": i % 7, "b": str(i % 11), "k": i} for i in range(4000))
        engine["parts"].to_folder()
        engine["one"].pack()
    assert verify_godb(tmp_path).ok
    with StorageEngine(tmp_path, part_size=40_000) as engine:
        for name in ("one", "parts"):
            found = engine[name]
            assert [(one.name, one.unique) for one in found.list_indexes()] == [
                ("a, b", False),
                ("k", True),
            ]
            assert found.count({"a": 3, "b": "3"}) == len(
                [i for i in range(4000) if i % 7 == 3 and i % 11 == 3]
            )
            with pytest.raises(godb_arrow.DuplicateValue):
                found.insert({"k": 3999})
            found.delete_many({"a": 1})
            engine.save()
            found.compact(thorough=True)
            with pytest.raises(godb_arrow.DuplicateValue):
                found.insert({"k": 3999})
            found.insert({"k": 1})
    assert verify_godb(tmp_path).ok


def test_go_db_gets_no_index_that_it_cannot_read(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.create_index(["country", "city"], unique=True)
        users.create_index("age", unique=True)
        users.insert({"country": "NO", "city": "Oslo", "age": 1})
        engine.save()
        path = users.path
    assert path is not None
    body = lz4.block.decompress(Path(path).read_bytes()[8:], uncompressed_size=1 << 20)
    assert msgpack.unpackb(body, strict_map_key=False)["indexes"] == {"users": {"age": ["1"]}}
