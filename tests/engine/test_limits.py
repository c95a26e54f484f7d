"""What is too large is refused on the way in; what is accepted is saved and read back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.engines import crash
from support.settings import LONG

import godb_arrow
from godb_arrow import DocumentTooLarge, MemoryLimitExceeded, OptionWarning, StorageEngine
from godb_arrow.codec import pack_entry
from godb_arrow.engine.part_writer import PartWriter, commit_parts
from godb_arrow.options import EngineOptions

LIMIT = 1 << 20


def sized(identity: str, size: int) -> dict[str, Any]:
    """A document that has some bytes of MessagePack with its id."""
    empty = len(pack_entry(identity, {"_id": identity, "x": b"\0" * 70_000}))
    document = {"_id": identity, "x": b"\1" * (70_000 + size - empty)}
    assert len(pack_entry(identity, document)) == size
    return document


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with StorageEngine(tmp_path, max_document_bytes=LIMIT, max_memory="64MB") as engine:
        engine.create_collection("c").insert_many([{"_id": f"s{n}", "n": n} for n in range(10)])
        yield engine


def _table(document: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{"_id": "t1", "x": b"1"}, document, {"_id": "t2", "x": b"2"}])


VERBS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "insert": lambda c, document: c.insert(document),
    "insert_many": lambda c, document: c.insert_many([{"_id": "a"}, document, {"_id": "b"}]),
    "insert_many of a table": lambda c, document: c.insert_many(_table(document)),
    "insert_many of a stream": lambda c, document: c.insert_many(_table(document).to_reader()),
    "upsert_many": lambda c, document: c.upsert_many([document, {"_id": "s2", "n": 20}]),
    "update": lambda c, document: c.update(document["_id"], {"x": document["x"]}),
    "update_by_id": lambda c, document: c.update_by_id(
        {"s2": {"n": 20}, document["_id"]: {"x": document["x"]}}
    ),
    "replace": lambda c, document: c.replace(document["_id"], document),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_document_at_the_limit_is_stored_and_a_larger_one_is_refused(
    verb: str, engine: StorageEngine, tmp_path: Path
) -> None:
    collection = engine["c"]
    identity = "large"
    if verb.startswith(("update", "replace")):
        identity = "s1"
        collection.replace(identity, {})
    before = {document["_id"]: document for document in collection}
    with pytest.raises(DocumentTooLarge, match=rf"'{identity}' has {LIMIT + 1} bytes") as raised:
        VERBS[verb](collection, sized(identity, LIMIT + 1))
    assert "max_document_bytes" in str(raised.value)
    assert {document["_id"]: document for document in collection} == before
    largest = sized(identity, LIMIT)
    VERBS[verb](collection, largest)
    for _ in range(2):
        assert collection.get(identity) == largest
        assert identity in collection.to_arrow(["_id"]).column(0).to_pylist()
        assert collection.find({"n": 3}) == [{"_id": "s3", "n": 3}]
        engine.save()
    assert godb_arrow.verify_godb(collection.path).ok
    engine.close()
    with StorageEngine(tmp_path, max_document_bytes=LIMIT) as again:
        assert again["c"].get(identity) == largest
        assert again["c"].find({"n": 3}) == [{"_id": "s3", "n": 3}]


def test_documents_that_go_to_files_at_once_have_the_same_limit(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_document_bytes=LIMIT, max_memory="8MB") as engine:
        collection = engine.create_collection("c")
        many = [sized(f"d{n}", LIMIT - 100) for n in range(12)]
        with pytest.raises(DocumentTooLarge, match="'large'"):
            collection.insert_many([*many, sized("large", LIMIT + 1)])
        assert len(collection) == 0
        collection.insert_many([*many, sized("large", LIMIT)])
        assert len(collection.find()) == 13
        with pytest.raises(DocumentTooLarge, match="'large'"):
            collection.update_by_id({f"d{n}": {"y": 1} for n in range(12)} | {"large": {"y": 1}})
        assert all("y" not in document for document in collection)


def test_writers_in_other_processes_have_the_same_limit(tmp_path: Path) -> None:
    writer = replace(PartWriter.of(tmp_path, "c"), max_document_bytes=LIMIT)
    with pytest.raises(DocumentTooLarge, match="'large'"):
        writer.write([sized("large", LIMIT + 1)], 0)
    with pytest.raises(DocumentTooLarge, match="'large'"):
        writer.write(_table(sized("large", LIMIT + 1)), 0)
    written = writer.write([sized("large", LIMIT)], 0)
    assert commit_parts(tmp_path, "c", written) == 1
    with StorageEngine(tmp_path, max_document_bytes=LIMIT) as engine:
        assert engine["c"].get("large") == sized("large", LIMIT)


def test_reading_has_the_engines_limit(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_document_bytes="8MiB") as engine:
        engine.create_collection("c").insert(sized("large", 5 << 20))
        engine["c"].insert({"n": 1})
    with (
        StorageEngine(tmp_path, max_document_bytes=LIMIT) as engine,
        pytest.raises(DocumentTooLarge, match="raise max_document_bytes"),
    ):
        engine["c"].find({"n": 1})
    with StorageEngine(tmp_path, max_document_bytes="8MiB") as engine:
        assert len(engine["c"].find({"n": 1})) == 1


@pytest.mark.parametrize("value", [0, -1, 100, "2GiB", "large", None, True])
def test_a_limit_that_makes_no_sense_is_replaced_by_the_default(value: Any) -> None:
    with pytest.warns(OptionWarning, match="max_document_bytes"):
        assert EngineOptions.checked(max_document_bytes=value).max_document_bytes == 64 << 20
    assert EngineOptions.checked(max_document_bytes="1GiB").max_document_bytes == 1 << 30


def test_a_large_document_does_not_hide_the_others_by_default(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": n} for n in range(10)])
        with pytest.raises(DocumentTooLarge):
            collection.insert({"n": -1, "x": bytes(64 << 20)})
        engine.save()
        assert len(collection.find({"n": 5})) == 1


# --- memory -----------------------------------------------------------------------------------


def test_changes_that_memory_cannot_hold_become_files_or_are_refused(tmp_path: Path) -> None:
    large = bytes(20 << 20)
    with StorageEngine(tmp_path, max_memory="16MB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"_id": str(n), "n": n} for n in range(10)])
        for change in (
            lambda: collection.insert({"x": large}),
            lambda: collection.update("1", {"x": large}),
            lambda: collection.replace("1", {"x": large}),
            lambda: collection.upsert_many([{"_id": "1", "x": large}]),
        ):
            with pytest.raises(MemoryLimitExceeded):
                change()
            assert engine.memory_stats().changes_bytes < 1 << 20
        assert collection.get("1") == {"_id": "1", "n": 1}
        assert collection.update_by_id({str(n): {"x": large} for n in range(10)}) == 10
        stats = engine.memory_stats()
        assert stats.alloc_mb <= stats.limit_mb
        assert stats.peak_mb <= 2 * stats.limit_mb
        assert all(collection.get(str(n)) == {"_id": str(n), "n": n, "x": large}
                   for n in range(0, 10, 3))  # fmt: skip
        assert len(collection) == 10


def many(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"_id": f"d{n}", "n": n, "x": "y" * 1000} for n in range(first, first + count)]


def test_a_bulk_of_updates_is_all_or_nothing(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="2MB", part_size="256KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many(many(4000))
        collection.delete("d3999")
        collection.update("d7", {"x": "z" * 500})
        version = collection.versions()
        changes: dict[str, Any] = {f"d{n}": {"y": "y" * 1500} for n in range(0, 3000)}
        for bad, error in (
            ({"d3999": {"y": 1}}, godb_arrow.DocumentNotFound),
            ({"d3500": {"y": object()}}, godb_arrow.InvalidDocument),
        ):
            with pytest.raises(error):
                collection.update_by_id({**changes, **bad})
            assert not [one for one in collection if "y" in one]
        collection.insert({"_id": "new", "n": -1})
        assert collection.update_by_id(changes) == 3000
        assert collection.versions() != version
        expected = {d["_id"]: d for d in many(3999)}
        expected["d7"]["x"] = "z" * 500
        expected["new"] = {"_id": "new", "n": -1}
        for key, fields in changes.items():
            expected[key] |= fields

        def check(engine: StorageEngine) -> None:
            found = list(engine["c"])
            assert len(found) == len(engine["c"]) == 4000
            assert {d["_id"]: d for d in found} == expected

        check(engine)
        collection.update("d8", {"n": "last"})
        expected["d8"]["n"] = "last"
        check(engine)
        crash(engine)
    with StorageEngine(tmp_path, max_memory="2MB", part_size="256KiB") as engine:
        check(engine)
        engine.compact()
        check(engine)


def test_changes_while_a_bulk_of_updates_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of the same documents is not lost, and one of others stays where it was."""
    from godb_arrow.engine.bulk import BulkInsert

    meanwhile = [lambda: collection.update("d1", {"m": 1}), lambda: collection.delete("d3500"),
                 lambda: collection.insert({"_id": "new"})]  # fmt: skip
    finish = BulkInsert.finish

    def changed(bulk: BulkInsert) -> None:
        finish(bulk)
        if meanwhile:
            thread = threading.Thread(target=meanwhile.pop(0))
            thread.start()
            thread.join()

    with StorageEngine(tmp_path, max_memory="2MB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many(many(4000))
        monkeypatch.setattr(BulkInsert, "finish", changed)
        changes = {f"d{n}": {"y": "y" * 1500} for n in range(3000)}
        collection.update_by_id(changes)
        collection.update_by_id({key: {"z": 1, **fields} for key, fields in changes.items()})
        assert not meanwhile
        assert collection.get("d1") == {**many(1, 1)[0], "m": 1, "z": 1, "y": "y" * 1500}
        found = {document["_id"] for document in collection}
        assert found == {f"d{n}" for n in range(4000) if n != 3500} | {"new"}
        assert sum("z" in document for document in collection) == 3000


@pytest.mark.parametrize("meanwhile", ["update", "save", "delete"])
def test_a_document_that_changes_before_memory_is_reserved(meanwhile: str, tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert({"_id": "1", "a": 1})
        saver = engine._components.saver
        reserve = saver.reserve
        steps = [{
            "update": lambda: collection.update("1", {"b": 2}),
            "save": engine.save,
            "delete": lambda: collection.delete("1"),
        }[meanwhile]]  # fmt: skip

        def slow_reserve(owner: object, size: int) -> None:
            if steps:
                steps.pop()()
            reserve(owner, size)

        saver.reserve = slow_reserve
        if meanwhile == "delete":
            with pytest.raises(godb_arrow.DocumentNotFound):
                collection.update("1", {"c": 3})
        else:
            collection.update("1", {"c": 3})
            b = {"b": 2} if meanwhile == "update" else {}
            assert collection.get("1") == {"_id": "1", "a": 1, **b, "c": 3}
        assert not steps
        assert len(collection) == len(list(collection)) == (meanwhile != "delete")


def test_writers_together_stay_within_the_limit(tmp_path: Path) -> None:
    """What one thread reserves is no room for another, and nobody is refused for that."""
    size, limit = 512 << 10, 2 << 20
    with StorageEngine(tmp_path, max_memory=limit) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"_id": str(n)} for n in range(8)])
        peaks: list[int] = []
        ready = threading.Barrier(8)

        def work(number: int) -> None:
            try:
                for _ in range(3):
                    ready.wait()
                    collection.update(str(number), {"x": bytes(size)})
                    peaks.append(engine.memory_stats().changes_bytes)
                    ready.wait()
                    collection.insert({"x": bytes(size)})
                    peaks.append(engine.memory_stats().changes_bytes)
            except BaseException:
                ready.abort()
                raise

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads), "nobody told those who wait"
        assert len(peaks) == 48
        assert max(peaks) <= limit
        assert len(collection) == 8 + 24
        memory = engine._components.memory
        assert memory.room == limit - memory.changes  # all was released


def test_deleting_reserves_what_it_takes(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="1MiB") as engine:
        collection = engine.create_collection("c")
        long = [{"_id": f"{n:06}" + "i" * 1000, "n": n} for n in range(2000)]
        for first in range(0, 2000, 200):
            collection.insert_many(long[first : first + 200])
        with pytest.raises(MemoryLimitExceeded, match="change fewer documents"):
            collection.delete_many(None)
        assert len(collection) == 2000
        assert collection.delete_many({"n": [1, 2, 3]}) == 3
        assert engine.memory_stats().changes_bytes < 1 << 20


# --- fields -----------------------------------------------------------------------------------


def wide(first: int = 0, count: int = 30, **fields: Any) -> dict[str, Any]:
    """A document with many fields; those that are given come last."""
    return {f"k{n}": n for n in range(first, first + count)} | fields


@pytest.mark.parametrize("form", ["file", "folder", "bulk"])
def test_a_document_with_too_many_fields_hides_nothing(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godb_arrow.schema.MAX_COLUMNS", 20)
    expected = [{"_id": "good", "v": 1}]

    def check(engine: StorageEngine) -> None:
        collection = engine["c"]
        assert sorted(collection, key=str) == sorted(expected, key=str)
        assert len(collection) == collection.count() == len(expected)
        assert [d["_id"] for d in collection.find({"v": 1})] == ["good"]
        for number in (5, 45, 65):
            found = [d["_id"] for d in expected if d.get(f"k{number}") == number]
            for condition in ({f"k{number}": number}, pc.field(f"k{number}") == number):
                assert [d["_id"] for d in collection.find(condition)] == found
        assert collection.to_arrow(["v", "k65"]).num_rows == len(expected)
        assert collection.to_arrow(["v"]).column(0).to_pylist().count(1) == 1
        assert collection.find({"v": None, "k5": 5}, columns=["k65"])
        with pytest.raises(godb_arrow.LimitExceeded, match="columns= or schema="):
            collection.to_arrow()
        with pytest.raises(godb_arrow.FieldNotFound):
            collection.find({"nowhere": 1})
        assert len(collection.find_page(limit=2).documents) == 2

    options: dict[str, Any] = {} if form != "bulk" else {"max_memory": "1MiB"}
    with StorageEngine(tmp_path, **options) as engine:
        collection = engine.create_collection("c")
        collection.insert({"_id": "good", "v": 1})
        if form == "folder":
            collection.to_folder()
        many = [wide(n, name=f"n{n}") | ({"x": "y" * 8000} if form == "bulk" else {})
                for n in range(0, 100)]  # fmt: skip
        for document, identity in zip(many, collection.insert_many(many), strict=True):
            expected.append({"_id": identity, **document})
        check(engine)
        engine.save()
        check(engine)
        expected.append({"_id": "late", **wide(200)})
        collection.insert(expected[-1])
        collection.create_index("k65")
        engine.save()
        check(engine)
        if form == "folder":
            collection.update("late", {"k5": 5, "v": None})
            expected[-1] |= {"k5": 5, "v": None}
            engine.save()
            engine.compact()
            check(engine)
        collection.delete_many({"k120": 120, "name": "n99"})
        del expected[100]
        crash(engine)
    with StorageEngine(tmp_path, **options) as engine:
        check(engine)
    assert godb_arrow.verify_godb(str(next((tmp_path / "collections").iterdir()))).ok


def test_the_columns_of_too_many_fields_keep_their_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godb_arrow.schema.MAX_COLUMNS", 20)
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.to_folder()
        values: list[Any] = [1, 2.5, None, "text", b"x"]
        for number, value in enumerate(values):
            collection.insert(wide(40 * number, v=value))
            engine.save()
            found = collection.to_arrow(["v"]).column(0)
            assert len(found) == number + 1
            assert found.null_count == sum(one is None for one in values[: number + 1])
            engine.compact()
            assert len(collection.to_arrow(["v"])) == number + 1


def test_a_column_is_known_from_each_part_whatever_its_own_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godb_arrow.schema.MAX_COLUMNS", 20)
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.to_folder()
        for document in ({"v": 1, "k0": 0}, wide(v="text"), {"k0": "another type"}):
            collection.insert(document)  # of the second, "v" is no column of its part
            engine.save()
        assert collection.to_arrow(["v"]).column(0).to_pylist() == ["1", '"text"', None]
        assert collection.schema.field("k0").type == pa.json_()


def test_more_fields_than_become_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hundreds = 1000 if LONG else 100
    monkeypatch.setattr("godb_arrow.schema.MAX_COLUMNS", 100 * hundreds)
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert({"_id": "good", "v": 1})
        collection.insert_many([wide(100 * n, 100) for n in range(hundreds + 1)])
        assert collection.find({"v": 1}) == [{"_id": "good", "v": 1}]
    with StorageEngine(tmp_path) as engine:
        collection = engine["c"]
        assert collection.find({"v": 1}) == [{"_id": "good", "v": 1}]
        assert collection.count() == hundreds + 2


def test_parts_of_other_processes_with_too_many_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godb_arrow.schema.MAX_COLUMNS", 20)
    writer = PartWriter.of(tmp_path, "c")
    documents = [{"v": 0}, wide(40, v="one"), wide(80, v=2)]
    parts = [part for n, one in enumerate(documents) for part in writer.write([one], n)]
    assert commit_parts(tmp_path, "c", parts) == 3
    with StorageEngine(tmp_path) as engine:
        assert engine["c"].to_arrow(["v", "k85"]).to_pydict() == {
            "v": ["0", '"one"', "2"], "k85": [None, None, 85]
        }  # fmt: skip
        assert [document["v"] for document in engine["c"].find({"k85": 85})] == [2]


@pytest.mark.parametrize("kind", ["list", "struct"])
@pytest.mark.parametrize("levels", [60, 100, 120, 126])
def test_a_column_nests_as_deep_as_its_schema_can_be_read(
    kind: str, levels: int, tmp_path: Path
) -> None:
    data_type, value = pa.int64(), 1
    for _ in range(levels):
        data_type = pa.list_(data_type) if kind == "list" else pa.struct([("a", data_type)])
        value = [value] if kind == "list" else {"a": value}
    table = pa.table({"a": pa.array([value], data_type)})
    engine = StorageEngine(tmp_path)
    collection = engine.create_collection("c")
    collection.insert({"n": 1})
    expected = 2
    try:
        collection.insert_many(table)
    except godb_arrow.UnsupportedType as error:
        assert levels > 100
        assert "nests" in str(error)
        with pytest.raises(godb_arrow.UnsupportedType, match="'a' nests"):
            godb_arrow.write_godb(table, tmp_path / "a.godb", "c")
        expected = 1
    crash(engine)
    for _ in range(2):
        with StorageEngine(tmp_path) as engine:
            assert len(engine["c"].find()) == expected
            engine["c"].insert({"n": 2})
            expected += 1


def test_many_columns_are_checked_at_a_cost_that_grows_with_their_number(tmp_path: Path) -> None:
    table = pa.table({f"c{n}": [n] for n in range(20_000)})
    with StorageEngine(tmp_path) as engine:
        assert engine.create_collection("c").insert_many(table) == ["1"]
        assert engine["c"].get("1")["c19999"] == 19_999
    names = [f"c{n}" for n in range(100)]
    twice = pa.Table.from_arrays([pa.array([1])] * 102, [*names, "c7", "c3"])
    with pytest.raises(godb_arrow.UnsupportedType, match="two columns have the name 'c3'"):
        godb_arrow.write_godb(twice, tmp_path / "a.godb", "c")
