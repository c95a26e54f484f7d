"""Ids: which are numbers, and that a generated one is found and never given twice."""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.handmade import file_of

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.codec import pack

BOUND = 2**62  # of generated ids
AROUND = [
    "7", "99", "0", "007", "+5", "-5", " 5", "5 ", "1_000", "1e3", "٣", "५", "²", "",
    str(10**17), str(10**18 - 1), str(10**18), "0" + str(10**18), str(BOUND // 2), str(BOUND),
    str(2**63 - 2), str(2**63 - 1), str(2**63), str(10**19 - 1), str(2**64 - 1), str(2**64),
    "9" * 25, "9" * 400, "9" * 5000,
]  # fmt: skip
COUNTS = [1, 10, 100]  # one document, a few, and so many that only their first id is noted


def distinct(documents: list[dict[str, Any]]) -> set[str]:
    ids = [document["_id"] for document in documents]
    assert len(set(ids)) == len(ids)
    return set(ids)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("given_id", AROUND)
def test_generated_ids_are_found_and_never_given_twice(
    tmp_path: Path, given_id: str, count: int
) -> None:
    seen = {given_id}

    def insert_more(documents: godb_arrow.Collection) -> None:
        for data in ([{"n": n} for n in range(count)], pa.table({"n": list(range(count))})):
            ids = list(documents.insert_many(data))
            assert not seen & {*ids}
            seen.update(ids)
            assert documents.get(ids[-1])["n"] == count - 1
            documents.update(ids[0], {"changed": True})
            with pytest.raises(godb_arrow.DuplicateId):
                documents.insert({"_id": ids[0]})
            documents.delete(ids[-1])
            assert ids[-1] not in documents
        assert distinct(documents.find_all()) <= seen

    with StorageEngine(tmp_path, durability="commit") as engine:
        documents = engine.create_collection("c")
        documents.insert({"_id": given_id})
        insert_more(documents)
        engine.save()
        insert_more(documents)
    with StorageEngine(tmp_path) as engine:
        insert_more(engine["c"])
        insert_more(engine["c"])
        engine.close(discard=True)
    with StorageEngine(tmp_path) as engine:  # from the journal
        insert_more(engine["c"])
        assert len(engine["c"]) == len(distinct(engine["c"].find_all()))
    assert godb_arrow.verify_godb(tmp_path / "collections" / "c.godb").ok


@pytest.mark.parametrize("given_id", AROUND)
def test_files_too(tmp_path: Path, given_id: str) -> None:
    path = tmp_path / "a.godb"
    mixed: list[dict[str, Any]] = [{}, {"_id": given_id}, {}]
    godb_arrow.write_godb(mixed, path, "c")
    for data in (mixed[:1] * 3, pa.table({"n": [1, 2]}), iter(mixed[:1] * 3)):
        godb_arrow.write_godb(data, path, "c", if_exists="append")
    assert len(distinct(list(godb_arrow.read_documents(path)))) == 3 + 8
    assert godb_arrow.verify_godb(path).ok


@pytest.mark.parametrize("given_id", AROUND)
def test_a_file_that_records_no_next_id(tmp_path: Path, given_id: str) -> None:
    """Such as go-db's: the ids themselves are surveyed."""
    there = {given_id: {"_id": given_id}, "3": {"_id": "3"}}
    path = tmp_path / "c.godb"
    path.write_bytes(file_of(pack({"collections": {"c": there}})))
    with StorageEngine(tmp_path / "data") as engine:
        engine.load_collection_metadata(path)
        ids = engine["c"].insert_many([{"n": n} for n in range(100)])
        assert not {*ids} & there.keys()
        assert len(distinct(engine["c"].find_all())) == 102
    godb_arrow.write_godb([{}] * 5, path, "c", if_exists="append")
    assert len(distinct(list(godb_arrow.read_documents(path)))) == 7


def test_numbers_go_on_after_the_max(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        documents = engine.create_collection("c")
        assert documents.insert({}) == "1"
        for given_id, following in (
            ("10", 11), ("+99", 12), ("099", 13), (str(BOUND), 14), (str(2**64), 15),
            (str(10**18 - 1), 10**18), (str(BOUND - 10), BOUND - 9),
        ):  # fmt: skip
            documents.insert({"_id": given_id})
            assert documents.insert({}) == str(following)


def test_when_no_number_is_left_that_is_said(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        documents = engine.create_collection("c")
        documents.insert({"_id": BOUND - 3})
        assert documents.insert({}) == str(BOUND - 2)
        for data in ([{}, {}], pa.table({"n": [1, 2]})):
            with pytest.raises(godb_arrow.LimitExceeded, match=r'2\*\*62.*"_id"'):
                documents.insert_many(data)
        assert documents.insert_many([{"_id": "a"}, {"_id": BOUND + 1}])
        assert len(documents) == 4


def test_threads_never_get_the_same_ids(tmp_path: Path) -> None:
    begun = threading.Barrier(4)
    found: list[str] = []
    with StorageEngine(tmp_path) as engine:
        documents = engine.create_collection("c")

        def insert() -> None:
            begun.wait()
            for size in (1, 100, 3) * 5:
                found.extend(documents.insert_many([{"n": n} for n in range(size)]))

        threads = [threading.Thread(target=insert) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == len({*found}) == len(documents) == 4 * 5 * 104


@example([str(BOUND - 2), "5"])
@given(st.lists(st.one_of(st.sampled_from(AROUND), st.integers(0, 10**20).map(str)), unique=True))
def test_the_next_id_of_a_file_follows_the_rule(ids: list[str]) -> None:
    numbers = [
        int(one) for one in ids
        if one.isascii() and one.isdigit() and one[0] != "0" and len(one) < 30 and int(one) < BOUND
    ]  # fmt: skip
    file = io.BytesIO()
    godb_arrow.write_godb([*({"_id": one} for one in ids), {}], file, "c")
    last = list(godb_arrow.read_documents(file.getvalue()))[-1]
    assert last["_id"] == str(max(numbers, default=0) + 1)


def object_id() -> Any:
    return pytest.importorskip("bson").ObjectId("65a1b2c3d4e5f60718293a4b")


@pytest.mark.parametrize("make", [uuid.uuid4, object_id, lambda: np.int64(7), lambda: "a\0b"])
def test_ids_of_other_libraries(tmp_path: Path, make: Callable[[], Any]) -> None:
    identity = make()
    file = io.BytesIO()
    godb_arrow.write_godb([{"_id": identity, "n": 1}], file, "c")
    assert godb_arrow.read_document(file.getvalue(), str(identity))["_id"] == str(identity)
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        assert collection.insert({"_id": identity}) == str(identity)
        assert len(collection) == 1
