"""Object storage: a real S3 protocol server on loopback, with two writers and broken requests."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.engines import steps_of_parts
from support.object_stores import Faulty
from support.settings import LONG

import godb_arrow
from godb_arrow import Follower, StorageEngine, WriteConflict
from godb_arrow.connectors.etl.pipeline import copy
from godb_arrow.engine.part_writer import PartWriter, commit_parts
from godb_arrow.storage.object_store import RemoteStore

fsspec = pytest.importorskip("fsspec")
ON_BOTH = pytest.mark.parametrize("folder", ["s3", "memory"] if LONG else ["memory"], indirect=True)
PEOPLE = [{"_id": "a", "name": "Ada", "age": 36}, {"_id": "b", "name": "Bob"}]


@pytest.fixture(params=["s3", "memory"])
def folder(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"b{abs(hash(request.node.name)) % 10**9}"
    if request.param == "memory":
        yield f"memory://{name}"
        filesystem = fsspec.filesystem("memory")
        if filesystem.exists(f"/{name}"):
            filesystem.rm(f"/{name}", recursive=True)
        return
    app = request.getfixturevalue("faulty")
    fsspec.filesystem("s3").mkdir(name)
    yield f"s3://{name}/data"
    app.fault = lambda *_: None


def test_files(folder: str) -> None:
    path = f"{folder}/people.godb"
    assert godb_arrow.write_godb(PEOPLE, path, "people") == 2
    assert godb_arrow.write_godb([{"n": 1}], path, "numbers") == 1
    assert list(godb_arrow.read_documents(path, "people")) == PEOPLE
    assert godb_arrow.open_godb(path, "people").to_arrow(["age"]).to_pydict() == {"age": [36, None]}
    assert godb_arrow.verify_godb(path).ok
    with pytest.raises(godb_arrow.SourceNotFound):
        godb_arrow.read_table(f"{folder}/none.godb")
    assert copy(f"{path}#people", f"{folder}/p.parquet", progress=False).documents == 2
    assert copy(f"{folder}/p.parquet", f"{folder}/q.ndjson", progress=False).documents == 2


def test_two_writers_of_a_file(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{folder}/shared.godb"
    godb_arrow.write_godb(PEOPLE, path, "people")

    def late() -> Iterator[dict[str, Any]]:
        yield {"_id": "c"}
        godb_arrow.write_godb([{"n": 1}], path, "other")  # somebody else

    with pytest.raises(WriteConflict, match="read it again"):
        godb_arrow.write_godb(late(), path, "people", if_exists="append")
    assert godb_arrow.list_collections(path) == {"people": 2, "other": 1}
    new = f"{folder}/new.godb"

    def first() -> Iterator[dict[str, Any]]:
        yield {"_id": "c"}
        godb_arrow.write_godb(PEOPLE, new, "people")

    with pytest.raises(WriteConflict):
        godb_arrow.write_godb(first(), new, "people")
    assert godb_arrow.list_collections(new) == {"people": 2}


def test_a_data_directory(folder: str) -> None:
    with StorageEngine(folder, durability="commit") as engine:
        assert engine.options.durability == "checkpoint"
        people = engine.create_collection("people/of \u00fc")
        people.insert_many(PEOPLE)
        engine.create_collection("empty")
        engine.save()
        people.update("a", {"age": 37})
        engine.save()
        stream = people.find_all_stream()
        assert next(stream) == PEOPLE[1]
        people.delete("b")
        engine.save()
        assert list(stream) == [{**PEOPLE[0], "age": 37}], "a snapshot, whatever was saved since"
        engine.rename_collection("empty", "still empty")
    with StorageEngine(folder, read_only=True) as engine:
        assert engine.collections() == ["people/of \u00fc", "still empty"]
        assert engine.find_all("people/of \u00fc") == [{**PEOPLE[0], "age": 37}]
        assert engine.infos()[0].last_modified is not None
        with pytest.raises(godb_arrow.ReadOnly):
            engine.create_collection("x")
    with StorageEngine(folder) as engine:
        engine.drop_collection("still empty")
        numbers = pa.table({"n": list(range(100_000)), "t": ["some text"] * 100_000})
        engine.create_collection("numbers").insert_many(numbers)
    with StorageEngine(folder, max_memory="1MiB") as engine:
        assert engine.collections() == ["numbers", "people/of \u00fc"]
        assert engine.to_arrow("numbers", ["n"]).num_rows == 100_000
        assert engine.find("numbers", {"n": 77_777})[0]["_id"] == "77778"
        engine.update("numbers", "5", {"n": -1})
    assert copy(f"{folder}/collections/numbers.godb", f"{folder}/c.godb", progress=False,
                filter={"n": -1}).documents == 1  # fmt: skip


def test_two_engines_do_not_overwrite_each_other_unseen(folder: str) -> None:
    with StorageEngine(folder) as engine:
        engine.create_collection("people").insert_many(PEOPLE)
    first, second = StorageEngine(folder), StorageEngine(folder)
    first.insert("people", {"_id": "first"})
    second.insert("people", {"_id": "second"})
    first.save()
    with pytest.raises(WriteConflict, match="people"):
        second.save()
    with pytest.raises(WriteConflict):
        second.save()
    assert second.count("people") == 3, "its own change is still there"
    first.create_collection("new").insert({"_id": "1"})
    second.create_collection("new").insert({"_id": "2"})
    first.close()
    with pytest.raises(WriteConflict):
        second.close()
    second.close(discard=True)
    with StorageEngine(folder, read_only=True) as engine:
        assert {one["_id"] for one in engine.find_all("people")} == {"a", "b", "first"}
        assert engine.find_all("new") == [{"_id": "1"}]


def test_a_reader_of_what_was_replaced_is_told(folder: str) -> None:
    big = pa.table({"t": [f"{n} some text {n * 7919 % 99991}" for n in range(60_000)]})
    with StorageEngine(folder) as engine:
        engine.create_collection("big").insert_many(big)
    with StorageEngine(folder, read_only=True) as reader:
        assert reader.count("big") == 60_000  # from the front
        with StorageEngine(folder) as engine:
            engine.insert("big", {"t": "new"})
        with pytest.raises(WriteConflict):
            reader.to_arrow("big")


def test_readers_of_a_file_in_memory_see_whole_versions(tmp_path: Path) -> None:
    store = RemoteStore("memory://whole-versions/a")
    size = 3 << 20
    for content in b"xy":
        (tmp_path / chr(content)).write_bytes(bytes([content]) * size)
    store.put(str(tmp_path / "x"))
    seen: list[str] = []

    def streamed(_: Path) -> bytes:
        with store.open() as stream:
            return b"".join(iter(functools.partial(stream.read, 1 << 16), b""))

    def fetched(target: Path) -> bytes:
        store.fetch(str(target))
        return target.read_bytes()

    def read(target: Path, read_with: Callable[[Path], bytes]) -> None:
        for _ in range(20):
            data = read_with(target)
            if data not in (b"x" * size, b"y" * size):
                seen.append(f"{read_with.__name__}: {len(data)} bytes")

    readers: list[Callable[[Path], bytes]] = [
        streamed, streamed, fetched, fetched, lambda _: store.read(0, size),
    ]  # fmt: skip
    threads = [
        threading.Thread(target=read, args=(tmp_path / str(number), reader))
        for number, reader in enumerate(readers)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for content in "yx":
            store.put(str(tmp_path / content))
    for thread in threads:
        thread.join()
    assert seen == []


@pytest.mark.parametrize("fault", ["refuse", "lose the answer"])
def test_requests_that_fail_in_the_middle(faulty: Faulty, fault: str) -> None:
    bucket = f"faults-{fault.split(maxsplit=1)[0]}"
    fsspec.filesystem("s3").mkdir(bucket)
    folder = f"s3://{bucket}/data"
    with StorageEngine(folder) as engine:
        engine.create_collection("people").insert_many(PEOPLE)
    engine = StorageEngine(folder)
    engine.insert("people", {"_id": "c"})
    broken = [True]

    def fails(method: str, path: str) -> str | None:
        return fault if method == "PUT" and broken and broken.pop() else None

    faulty.fault = fails
    with pytest.raises(godb_arrow.StorageError):
        engine.save()
    assert engine["people"].state.value == "dirty"
    faulty.fault = lambda *_: None
    engine.save()  # also where the first upload was done and only its answer was lost
    engine.close()
    with StorageEngine(folder, read_only=True) as engine:
        assert {one["_id"] for one in engine.find_all("people")} == {"a", "b", "c"}


def test_reads_that_fail_are_errors_and_can_be_repeated(faulty: Faulty) -> None:
    fsspec.filesystem("s3").mkdir("broken-reads")
    big = pa.table({"t": [f"{n} some text {n * 7919 % 99991}" for n in range(60_000)]})
    godb_arrow.write_godb(big, "s3://broken-reads/data/collections/big.godb", "big")
    with StorageEngine("s3://broken-reads/data", read_only=True) as engine:
        assert engine.count("big") == 60_000
        faulty.fault = lambda method, path: "refuse" if method == "GET" else None
        with pytest.raises(godb_arrow.StorageError):
            engine.to_arrow("big")
        with pytest.raises(godb_arrow.StorageError):
            godb_arrow.read_table("s3://broken-reads/data/collections/big.godb")
        faulty.fault = lambda *_: None
        assert engine.to_arrow("big").num_rows == 60_000


def test_the_front_is_enough_for_what_is_known(faulty: Faulty) -> None:
    fsspec.filesystem("s3").mkdir("fronts")
    big = pa.table({"t": [f"{n} some text {n * 7919 % 99991}" for n in range(60_000)]})
    godb_arrow.write_godb(big, "s3://fronts/data/collections/big.godb", "big")
    with StorageEngine("s3://fronts/data", read_only=True) as engine:
        before = len(faulty.requests)
        assert engine.collections() == ["big"]
        assert engine.info("big").documents == 60_000
        assert engine["big"].schema.names == ["t"]
        assert len([one for one in faulty.requests[before:] if one.startswith("GET")]) <= 4


def test_errors_of_any_library_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    store = RemoteStore("memory://odd/x")

    class Odd(Exception):
        pass

    def fails(*_: object, **__: object) -> None:
        raise Odd("no")

    monkeypatch.setattr(type(store.filesystem), "info", fails)
    with pytest.raises(godb_arrow.StorageError, match="Odd: no") as caught:
        store.version()
    assert isinstance(caught.value.__cause__, Odd)
    with pytest.raises(godb_arrow.InvalidOption):
        RemoteStore("nothing-like-it://x")


PARTS: Any = {"part_size": "16KiB", "part_grace": 0.001, "keep_versions": 3}


def table(first: int, count: int) -> pa.Table:
    numbers = list(range(first, first + count))
    return pa.table({"n": numbers, "text": [f"number {one}" for one in numbers]})


def names_in(folder: str) -> list[str]:
    return RemoteStore(f"{folder}/collections").names()


def test_a_collection_of_several_files(folder: str, tmp_path: Path) -> None:
    with StorageEngine(folder, **PARTS) as engine:
        numbers = engine.create_collection("numbers")
        for first in range(0, 1600, 400):
            numbers.insert_many(table(first, 400))
            engine.save()
        assert names_in(folder) == ["numbers.parts"]
        numbers.update("1", {"n": -1})
        numbers.delete_many(pc.field("n") >= 1590)
        engine.save()
    with StorageEngine(folder, **PARTS, max_memory="1MiB") as engine:
        numbers = engine["numbers"]
        assert len(numbers) == 1590 and numbers.get("1")["n"] == -1
        found = numbers.explain(pc.field("n") == 900)
        assert found.parts > found.parts_read
        assert numbers.find({"n": 900})[0]["_id"] == "901"
        numbers.insert_many({"n": n, "text": "x" * 1200} for n in range(5000, 6000))  # a bulk
        before = numbers.versions()[-1].version
        numbers.delete_many(pc.field("n") >= 5000)
        engine.save()
        assert len(numbers) == 1590
        numbers.compact(thorough=True)
        numbers.restore(numbers.versions()[-1].version)
        assert len(numbers.at_version(numbers.versions()[-1].version)) == 1590
        assert before < numbers.versions()[-1].version
        engine.rename_collection("numbers", "renamed")
        engine.save()
        assert names_in(folder) == ["renamed.parts"]
        assert godb_arrow.verify_godb(f"{folder}/collections/renamed.parts").ok
        assert engine.backup(tmp_path / "backups").files > 4
    godb_arrow.restore_backup(tmp_path / "backups", tmp_path / "local")
    with StorageEngine(tmp_path / "local", read_only=True) as engine:
        assert engine.count("renamed") == 1590
    with StorageEngine(folder, **PARTS) as engine:
        engine.pack("renamed")
        assert names_in(folder) == ["renamed.godb"]
        engine.save()
        engine.drop_collection("renamed")
        assert names_in(folder) == []


@ON_BOTH
def test_two_engines_with_parts_do_not_overwrite_each_other(folder: str) -> None:
    with StorageEngine(folder, **PARTS) as engine:
        engine.create_collection("c").insert_many(table(0, 3000))
    first, second = StorageEngine(folder, **PARTS), StorageEngine(folder, **PARTS)
    first.insert("c", {"n": "first"})
    second.insert("c", {"n": "second"})
    first.save()
    with pytest.raises(WriteConflict):
        second.save()
    assert second.count("c") == 3001, "its own change is still there"
    second.close(discard=True)
    first.insert("c", {"n": "again"})
    first.close()
    with StorageEngine(folder, read_only=True) as engine:
        texts = [one["n"] for one in engine.find_all("c") if isinstance(one["n"], str)]
        assert [one for one in texts if not one.isdigit()] == ["first", "again"]


@ON_BOTH
def test_two_jobs_write_a_collection_at_the_same_time(folder: str) -> None:
    begun = threading.Barrier(2)

    def job() -> None:
        begun.wait()
        writer = PartWriter.of(folder, "c")
        written = [part for share in range(2) for part in writer.write(table(0, 10), share)]
        begun.wait()
        assert commit_parts(folder, "c", written) == 20

    threads = [threading.Thread(target=job) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with StorageEngine(folder, read_only=True) as engine:
        assert len({one["_id"] for one in engine["c"]}) == len(engine["c"]) == 40


@ON_BOTH
def test_processes_write_parts_and_one_names_them(folder: str) -> None:
    from godb_arrow.engine.fragments import fragments_of, fragments_since, latest_version

    writer = PartWriter.of(folder, "c")
    written = [part for share in range(3) for part in writer.write(table(share * 10, 10), share)]
    writer.write(table(1000, 10), 3)  # of a task that failed
    assert fragments_of(folder, "c")[0] == []
    assert commit_parts(folder, "c", written) == 30
    first = latest_version(folder, "c")
    again = PartWriter.of(folder, "c").write(table(30, 5), 0)
    commit_parts(folder, "c", again)
    fragments, schema = fragments_of(folder)
    assert sorted(one["n"] for part in fragments for one in part.open()) == list(range(35))
    assert "n" in schema.names
    new = fragments_since(folder, "c", first, latest_version(folder, "c"))
    assert [one["n"] for part in new for one in part.open()] == list(range(30, 35))
    with StorageEngine(folder, **PARTS) as engine:
        engine.insert("c", {"n": 35})
        engine.save()
        assert len(engine["c"]) == 36
        numbers = [part.number for part in engine["c"]._store.base.manifest.parts]
        assert numbers[-1] < 100 < min(numbers[:-1])
        names = RemoteStore(f"{folder}/collections/c.parts").names()
        assert len([one for one in names if one.endswith(".godb")]) == 5, "the failed one is gone"


def test_an_upload_of_a_part_that_fails(faulty: Faulty) -> None:
    """Before and after each upload of a save: the state before, or the whole one."""
    fsspec.filesystem("s3").mkdir("parts-faults")
    faults = ("refuse", "lose the answer")
    for number in range(3):  # a part, its ids, its manifest
        for fault in faults if LONG else [faults[number % 2]]:
            folder = f"s3://parts-faults/{number}-{fault[:4]}"
            with StorageEngine(folder, **PARTS) as engine:
                engine.create_collection("c").insert_many(table(0, 600))
            engine = StorageEngine(folder, **PARTS)
            engine.insert("c", {"n": -1})
            left = [number]

            def fails(
                method: str, path: str, left: list[int] = left, fault: str = fault
            ) -> str | None:
                if method != "PUT" or not left:
                    return None
                left[0] -= 1
                return fault if left[0] < 0 and left.pop() else None

            faulty.fault = fails
            with suppress(godb_arrow.StorageError):
                engine.save()
            assert not left
            faulty.fault = lambda *_: None
            with StorageEngine(folder, read_only=True) as reader:
                assert reader.count("c") in (600, 601)
            engine.save()
            engine.close()
            with StorageEngine(folder, read_only=True) as reader:
                assert reader.count("c") == 601
                assert [one["n"] for one in reader.find_all("c")].count(-1) == 1


def content_of(folder: Any) -> dict[str, dict[str, Any]]:
    with StorageEngine(folder, read_only=True) as engine:
        return {name: {one["_id"]: one for one in engine[name]} for name in engine.collections()}


@ON_BOTH
@pytest.mark.parametrize("every", [1, 3, 7] if LONG else [5])
def test_a_follower(folder: str, tmp_path: Path, every: int) -> None:
    source = tmp_path / "source"
    with StorageEngine(source, part_size="1KiB", part_grace=0.001) as engine:
        with Follower(source, folder) as follower:
            for number, (change, _) in enumerate(steps_of_parts()):
                change(engine)
                if number % every == 0:
                    follower.step()
                    assert content_of(folder) == content_of(source)
        engine.insert("a", {"v": 1})
        with Follower(source, folder) as follower:  # goes on
            follower.step()
            engine.insert("a", {"v": 2})
            follower.ship()
    assert content_of(folder) == content_of(source)
    status = godb_arrow.follower_status(folder)
    assert status.consistent and status.record and status.behind_bytes is None
    with pytest.raises(godb_arrow.ReadOnly, match="promote"):
        StorageEngine(folder)
    expected = content_of(source)
    assert godb_arrow.promote(folder) == status.record
    assert content_of(folder) == expected
    assert RemoteStore(f"{folder}/journal").names() == []
    with StorageEngine(folder) as engine:
        engine.insert("a", {"v": 3})
        engine.drop_collection("old")
    assert len(content_of(folder)["a"]) == len(expected["a"]) + 1
    with pytest.raises(godb_arrow.SourceNotFound, match="no follower"):
        godb_arrow.promote(folder)
    with pytest.raises(godb_arrow.TargetExists):
        Follower(source, folder)
    with pytest.raises(godb_arrow.InvalidOption, match="local"):
        Follower(folder, tmp_path / "other")


@ON_BOTH
def test_a_promotion_that_was_cut_off_goes_on(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    with StorageEngine(source) as engine:
        engine.create_collection("a").insert({"n": 1})
        engine.save()
        engine.insert("a", {"n": 2})
        replica = engine.replicate_to(folder, mode="acknowledged", interval="1h")
        engine.insert("a", {"n": 3})
        assert "acknowledged" in repr(replica)
        replica.stop()

        def fails(*_: Any) -> None:
            raise godb_arrow.StorageError("no")

        with monkeypatch.context() as patch:
            patch.setattr(StorageEngine, "save", fails)
            with pytest.raises(godb_arrow.StorageError):
                godb_arrow.promote(folder)
        with pytest.raises(godb_arrow.StorageError, match="being updated"):
            content_of(folder)
        # Whoever follows instead of promoting gets everything anew.
        with Follower(source, folder) as follower:
            follower.step()
        assert content_of(folder) == content_of(source)
        with monkeypatch.context() as patch:
            patch.setattr(StorageEngine, "save", fails)
            with pytest.raises(godb_arrow.StorageError):
                godb_arrow.promote(folder)
        godb_arrow.promote(folder)
        assert content_of(folder) == content_of(source)


def test_a_follower_whose_uploads_fail(faulty: Faulty, tmp_path: Path) -> None:
    """One after the other: it is whole or says so, and catches up."""
    fsspec.filesystem("s3").mkdir("follower-faults")
    source = tmp_path / "source"
    with StorageEngine(source, part_size="1KiB", part_grace=0.001) as engine:
        a = engine.create_collection("a")
        states = []
        for number in range(0, 28, 1 if LONG else 12):
            fault = ("refuse", "lose the answer")[number // 4 % 2]
            folder = f"s3://follower-faults/{number}"
            a.insert_many([{"n": n} for n in range(30)])
            engine.save()
            states.append(content_of(source))
            with Follower(source, folder) as follower:
                follower.step()
                a.update("1", {"n": number})
                states.append(content_of(source))
                a.insert_many([{"n": n} for n in range(30)])
                states.append(content_of(source))
                if number % 3:
                    engine.save()
                a.insert({"n": -number})
                states.append(content_of(source))
                left = [number // 2]

                def fails(
                    method: str, path: str, left: list[int] = left, fault: str = fault
                ) -> str | None:
                    if method not in ("PUT", "DELETE") or not left:
                        return None
                    left[0] -= 1
                    return fault if left[0] < 0 and left.pop() else None

                faulty.fault = fails
                with suppress(godb_arrow.StorageError):
                    follower.step()
                faulty.fault = lambda *_: None
                try:
                    assert content_of(folder) in states
                except godb_arrow.StorageError as error:
                    assert "being updated" in str(error)
            with Follower(source, folder) as follower:
                follower.step()
            assert content_of(folder) == states[-1]
