"""Collections of several files: growing, saving, compacting, going back, packing, and damage."""

from __future__ import annotations

import io
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engines import grown, numbers, open_engine, values
from support.handmade import go_read
from support.settings import LONG

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.directory.compaction import FAN, choose_parts
from godb_arrow.snapshots.manifest import Manifest, Part, manifest_name, read_manifest


def parts_of(collection: godb_arrow.Collection) -> tuple[Part, ...]:
    return collection._store.base.manifest.parts  # type: ignore[attr-defined]


def test_saving_adds_files_and_leaves_the_others_alone(tmp_path: Path) -> None:
    with open_engine(tmp_path) as engine:
        collection = grown(engine)
        folder = tmp_path / "collections" / "c.parts"
        before = {path.name: path.stat() for path in folder.glob("*.godb")}
        assert len(before) > 3
        assert not (tmp_path / "collections" / "c.godb").exists()
        collection.insert({"n": 6000})
        collection.update("1", {"n": -1})
        collection.delete("2")
        engine.save()
        after = {path.name: path.stat() for path in folder.glob("*.godb")}
        assert len(after) == len(before) + 1
        for name, stat in before.items():
            assert (after[name].st_ino, after[name].st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
        assert sorted(values(collection)) == [-1, *range(2, 6001)]
        assert len(collection) == 6000
    with open_engine(tmp_path) as engine:
        assert sorted(values(engine["c"])) == [-1, *range(2, 6001)]
        assert engine["c"].get("1")["n"] == -1
        assert "2" not in engine["c"]
        assert engine["c"].insert({"n": 0}) == "6002", "ids are given once"


def test_opening_a_collection_reads_no_file_but_the_manifest(tmp_path: Path) -> None:
    with open_engine(tmp_path) as engine:
        grown(engine)
    for path in (tmp_path / "collections" / "c.parts").glob("*.godb"):
        path.write_bytes(b"damaged")
    with open_engine(tmp_path) as engine:
        collection = engine["c"]
        assert len(collection) == 6000
        assert collection.schema.names == ["_id", "n", "text"]
        assert collection.info().documents == 6000
        assert collection.insert({"n": 1, "text": ""}) == "6001"
        with pytest.raises(godb_arrow.FormatError, match=r"c\.parts"):
            collection.to_arrow()


def test_each_part_is_a_file_that_go_db_reads(tmp_path: Path) -> None:
    with open_engine(tmp_path) as engine:
        grown(engine, 2)
        found = {}
        for path in sorted((tmp_path / "collections" / "c.parts").glob("*.godb")):
            found |= go_read(path.read_bytes())["collections"]["c"]
        assert found == {one["_id"]: one for one in engine["c"]}


@pytest.mark.usefixtures("trusted_records")
def test_filters_skip_files_by_their_statistics(tmp_path: Path) -> None:
    with open_engine(tmp_path, max_memory="2MiB") as engine:
        collection = grown(engine)
        condition = pc.field("n") >= 5500
        found = collection.explain(condition)
        assert found.parts == len(parts_of(collection))
        assert found.parts_read <= found.parts // 3
        assert found.candidates < 3000
        # What is not needed is not even opened.
        first = tmp_path / "collections" / "c.parts" / parts_of(collection)[0].file
        collection._store.base.parts[0].forget()  # type: ignore[attr-defined]
        first.write_bytes(b"damaged")
        assert collection.to_arrow(["n"], condition).num_rows == 500
        assert len(collection.find({"n": 5999})) == 1
        assert collection.explain({"n": None}).parts_read == 0


def test_streams_and_versions_keep_the_files_that_they_read(tmp_path: Path) -> None:
    with open_engine(tmp_path, keep_versions=1) as engine:
        collection = grown(engine)
        stream = collection.find_all_stream()
        kept = collection.at_version(collection.versions()[-1].version)
        names = {part.file for part in parts_of(collection)}
        collection.delete_many(pc.field("n") >= 10)
        engine.save()
        engine.compact()
        time.sleep(0.01)  # the grace of the version before
        collection._checkpointer.sweep()
        assert [info.documents for info in collection.versions()] == [10]
        folder = tmp_path / "collections" / "c.parts"
        assert names <= {path.name for path in folder.iterdir()}
        assert values(stream) == list(range(6000))
        assert kept.to_arrow().column("n").to_pylist() == list(range(6000))
        del stream, kept
        collection.insert({"n": 10})
        engine.save()
        assert not names & {path.name for path in folder.iterdir()}
        assert values(collection) == list(range(11))


def test_files_stay_for_a_while_for_readers_elsewhere(tmp_path: Path) -> None:
    with open_engine(tmp_path, keep_versions=1, part_grace="1h") as engine:
        collection = grown(engine)
        folder = tmp_path / "collections" / "c.parts"
        for path in folder.glob("0*.[gi]*"):
            os.utime(path, (0, 0))  # they were written long ago
        with open_engine(tmp_path, read_only=True) as reader:
            there = reader["c"]
            assert len(there) == 6000
            collection.delete_many(pc.field("n") >= 10)
            for number in range(3):
                collection.insert({"_id": f"x{number}", "n": number})
                engine.save()
            collection.delete_many({"_id": [f"x{number}" for number in range(3)]})
            engine.save()
            engine.compact()
            assert values(there) == list(range(6000)), "as it was opened"
        with open_engine(tmp_path, read_only=True) as reader:
            assert values(reader["c"]) == list(range(10))


def test_versions_are_read_and_gone_back_to(tmp_path: Path) -> None:
    with open_engine(tmp_path) as engine:
        collection = grown(engine)
        versions = collection.versions()
        assert [info.documents for info in versions] == [2000, 3000, 4000, 5000, 6000]
        assert all(info.created.tzinfo is not None for info in versions)
        earlier = engine.at_version("c", versions[1].version)
        assert len(earlier) == earlier.to_arrow().num_rows == 3000
        assert earlier.to_arrow(["n"], {"n": 2999}).num_rows == 1
        assert "3,000" in repr(earlier) and "3,000" in earlier._repr_html_()
        collection.insert({"n": 9999})
        engine.restore("c", versions[1].version)
        assert values(collection) == list(range(3000))
        assert collection.insert({"n": 3000}) == "6002", "ids are given once"
        before = collection.versions()[-2]
        assert before.documents == 6001, "what was there is a version, too"
        with pytest.raises(godb_arrow.VersionNotFound, match="the versions are"):
            engine.restore("c", 1)
        engine.restore("c", before.version)
        assert len(collection) == 6001
    with open_engine(tmp_path) as engine:
        assert len(engine["c"]) == 6001
        small = engine.create_collection("small")
        assert small.versions() == []
        with pytest.raises(godb_arrow.VersionNotFound, match="a single file keeps no versions"):
            small.at_version(1)


def test_a_packed_collection_is_one_file_and_grows_again(tmp_path: Path) -> None:
    with open_engine(tmp_path) as engine:
        collection = grown(engine, 3)
        collection.delete("1")
        engine.pack("c")
        assert os.listdir(tmp_path / "collections") == ["c.godb"]
        data = (tmp_path / "collections" / "c.godb").read_bytes()
        assert len(go_read(data)["collections"]["c"]) == 2999
        engine.pack("c")
        assert values(collection) == list(range(1, 3000))
    with open_engine(tmp_path) as engine:
        engine["c"].insert({"n": 3000})
        engine.save()
        assert os.listdir(tmp_path / "collections") == ["c.parts"]
        assert values(engine["c"]) == list(range(1, 3001))


@pytest.mark.parametrize("newer", ["file", "folder"])
def test_of_two_forms_that_a_crash_left_the_newer_one_counts(newer: str, tmp_path: Path) -> None:
    file, folder = (tmp_path / "collections" / name for name in ("c.godb", "c.parts"))
    with open_engine(tmp_path, durability="checkpoint") as engine:
        collection = engine.create_collection("c")
        collection.insert_many(numbers(0, 100))
        engine.save()
        if newer == "folder":
            old = file.read_bytes()
            collection.insert_many(numbers(100, 2000))
            engine.save()
        else:
            collection.insert_many(numbers(100, 2000))
            engine.save()
            old = {path.name: path.read_bytes() for path in folder.iterdir()}
            engine.pack("c")
            collection.delete("1")
    if newer == "folder":
        file.write_bytes(old)
    else:
        with StorageEngine(tmp_path) as engine:
            engine.pack("c")
        folder.mkdir(exist_ok=True)
        for name, data in old.items():
            (folder / name).write_bytes(data)
    with open_engine(tmp_path, read_only=True) as engine:
        assert len(engine["c"]) == (2100 if newer == "folder" else 2099)
    with open_engine(tmp_path) as engine:
        assert len(engine["c"]) == (2100 if newer == "folder" else 2099)
        assert len(os.listdir(tmp_path / "collections")) == 1


def test_names_that_look_like_folders(tmp_path: Path) -> None:
    with open_engine(tmp_path) as engine:
        names = ["x", "x.godb", "x.parts", ".parts", "x" * 255]
        for index, name in enumerate(names):
            engine.create_collection(name).insert_many(numbers(0, 2000 + index))
        engine.save()
    with open_engine(tmp_path) as engine:
        assert {name: len(engine[name]) for name in engine} == {
            name: 2000 + index for index, name in enumerate(names)
        }
        engine.rename_collection("x", "y")
        engine.save()
        engine.drop_collection("x.parts")
    with open_engine(tmp_path) as engine:
        assert sorted(engine) == sorted(["y", "x.godb", ".parts", "x" * 255])
        assert values(engine["y"]) == list(range(2000))


def test_damage_is_an_error_and_found_by_verify(tmp_path: Path) -> None:
    with open_engine(tmp_path) as engine:
        collection = grown(engine)
        collection.delete("5")
        engine.save()
    folder = tmp_path / "collections" / "c.parts"
    assert godb_arrow.verify_godb(folder).problems == []
    assert godb_arrow.verify_godb(folder).collections[0].count == 5999
    files = sorted(folder.iterdir(), key=lambda path: path.name)
    number = random.Random(1)
    for path in files if LONG else files[:: max(1, len(files) // 6)]:
        whole = path.read_bytes()
        for _ in range(3):
            damaged = bytearray(whole)
            damaged[number.randrange(len(whole))] ^= 1 << number.randrange(8)
            path.write_bytes(damaged)
            report = godb_arrow.verify_godb(folder)
            assert report.problems, path.name
            if path.suffix == ".ids":  # is made anew from the documents
                with open_engine(tmp_path, read_only=True) as engine:
                    assert engine["c"].get("7")["n"] == 6
                    assert "5" not in engine["c"]
        path.write_bytes(whole[: len(whole) // 2])
        assert godb_arrow.verify_godb(folder).problems, path.name
        path.write_bytes(whole)
    assert godb_arrow.verify_godb(folder).ok
    first, *_, last = sorted(folder.glob("*.godb"))
    whole = first.read_bytes()
    first.write_bytes(last.read_bytes())  # sound, but another one
    with open_engine(tmp_path, read_only=True) as engine:
        with pytest.raises(godb_arrow.CorruptFile, match="the manifest records"):
            engine["c"].to_arrow()
        with pytest.raises(godb_arrow.CorruptFile, match="the manifest records"):
            engine["c"].get("7")
    assert godb_arrow.verify_godb(folder).problems
    first.write_bytes(whole)
    newest = max(folder.glob("*.manifest"))
    newest.write_bytes(newest.read_bytes()[:-1])
    with open_engine(tmp_path) as engine, pytest.raises(godb_arrow.CorruptFile, match="manifest"):
        len(engine["c"])
    newest.unlink()  # as the error says: back to the version before
    with open_engine(tmp_path) as engine:
        assert len(engine["c"]) == 6000


parts = st.builds(
    lambda number, documents, deleted: Part(
        number, documents, 10 * documents, 5 * documents, number,
        np.array(sorted({one for one in deleted if one < documents}), np.int64),
    ),
    st.integers(1, 2**40), st.integers(0, 300), st.lists(st.integers(0, 299), max_size=50),
)  # fmt: skip


@given(st.lists(parts, max_size=4), st.integers(1, 2**40), st.lists(st.text()))
def test_manifests_are_read_as_they_were_written(
    found: list[Part], version: int, indexes: list[str]
) -> None:
    schema = pa.schema({"n": pa.int64()}, metadata={"a": "b"})
    manifest = Manifest(version, tuple(found), schema, 7, 9, tuple(indexes), 1.5, b"")
    read = Manifest.unpack(manifest.pack())
    assert (read.version, read.next_id, read.record, read.indexes, read.created) == (
        version, 7, 9, tuple(indexes), 1.5,
    )  # fmt: skip
    assert read.schema.equals(schema, check_metadata=True)
    for one, other in zip(read.parts, found, strict=True):
        assert (one.number, one.documents, one.size, one.file_size, one.ids_checksum) == (
            other.number, other.documents, other.size, other.file_size, other.ids_checksum,
        )  # fmt: skip
        assert one.deleted.tolist() == other.deleted.tolist()


@given(st.binary(max_size=64), st.integers(0, 10**6))
def test_damaged_manifests_are_an_error(noise: bytes, at: int) -> None:
    packed = bytearray(Manifest(1, (Part(1, 9, 9, 9),), pa.schema([]), 1).pack())
    at %= len(packed)
    before = bytes(packed)
    packed[at : at + len(noise)] = noise
    if bytes(packed) != before:
        with pytest.raises(godb_arrow.FormatError):
            Manifest.unpack(bytes(packed))


def test_random_updates_write_every_document_less_than_four_times(tmp_path: Path) -> None:
    """The policy alone, on sizes: what is written beside what was changed."""
    part_size, size, per_save = 1 << 20, 100, 600
    documents = 60_000
    random_ = np.random.default_rng(3)
    parts: list[Part] = []
    where = np.zeros(documents, np.int64)  # the part of each document, by its number
    changed = written = number = 0

    def add(ids: Any) -> list[Part]:
        nonlocal number
        made = []
        for some in np.array_split(ids, max(1, -(-len(ids) * size // part_size))):
            number += 1
            where[some] = number
            made.append(Part(number, len(some), len(some) * size, 1))
        return made

    def refresh() -> None:
        alive = dict(zip(*np.unique(where, return_counts=True), strict=True))
        parts[:] = [
            Part(p.number, p.documents, p.size, 1, 0, np.arange(p.documents - alive[p.number]))
            for p in parts if alive.get(p.number)
        ]  # fmt: skip

    parts += add(np.arange(documents))
    for _ in range(800):
        ids = random_.choice(documents, per_save, replace=False)
        parts += add(ids)
        changed += len(ids)
        written += len(ids)
        refresh()
        while (chosen := choose_parts(parts, part_size)) is not None:
            first, last = chosen
            gone = {part.number for part in parts[first:last]}
            ids = np.flatnonzero(np.isin(where, list(gone)))
            parts[first:last] = add(ids)
            written += len(ids)
            refresh()
    assert written / changed < 4, written / changed
    assert len(parts) < 100
    assert sum(part.documents for part in parts) < 2.5 * documents


def test_small_files_are_joined_and_nothing_else() -> None:
    small = [Part(n, 10, 1000, 500) for n in range(FAN)]
    large = Part(99, 10_000, 1 << 20, 1)
    assert choose_parts([large], 1 << 20) is None
    assert choose_parts([large, *small[1:]], 1 << 20) is None
    assert choose_parts([large, *small[:8], large, *small[8:]], 1 << 20) is None
    assert choose_parts([large, *small], 1 << 20) == (1, FAN + 1)
    assert choose_parts([large, *small[1:]], 1 << 20, thorough=True) == (1, FAN)
    half = Part(98, 100, 1 << 20, 1, 0, np.arange(50))
    assert choose_parts([large, half], 1 << 20) == (1, 2)


def test_compaction_leaves_out_what_is_gone(tmp_path: Path) -> None:
    with open_engine(tmp_path) as engine:
        collection = grown(engine)
        kept = list(range(0, 6000, 600))
        collection.delete_many(~pc.field("n").isin(kept))
        collection.checkpoint()
        assert len(parts_of(collection)) > 3
        collection.update("1201", {"text": "unsaved"})
        assert engine.compact("c") > 0
        assert engine.compact("c") == 0
        assert [part.documents for part in parts_of(collection)] == [10]
        assert collection.get("1201")["text"] == "unsaved"
        assert sorted(values(collection)) == kept
        manifest = read_manifest(
            str(tmp_path / "collections" / "c.parts"), collection.versions()[-1].version
        )
        assert manifest.count == 10
        assert os.path.exists(os.path.join(collection.path or "", manifest_name(manifest.version)))


def test_documents_as_they_were_stored_go_through_compaction(tmp_path: Path) -> None:
    """Absent, null, and unknown extension types stay what they were."""
    import msgpack

    odd = [{"_id": f"o{n}", "x": msgpack.ExtType(5, b"abc"), "null": None} for n in range(50)]
    with open_engine(tmp_path) as engine:
        collection = grown(engine, 2)
        collection.insert_many(odd)
        engine.save()
        collection.delete_many(pc.field("n") < 1999)
        engine.save()
        engine.compact()
        assert [one for one in collection if one["_id"] != "2000"] == odd
        file = io.BytesIO()
        engine.pack("c")
        file.write((tmp_path / "collections" / "c.godb").read_bytes())
        assert list(godb_arrow.read_documents(file.getvalue()))[1:] == odd


def batches(count: int, size: int = 5000, ids: bool = False) -> pa.RecordBatchReader:
    """Documents that come one batch after the other."""
    schema = pa.schema({"n": pa.int64(), "text": pa.string()})
    if ids:
        schema = schema.append(pa.field("_id", pa.string()))

    def made() -> Any:
        for first in range(0, count, size):
            table = numbers(first, size)
            if ids:
                table = table.append_column("_id", [[f"k{first + n}" for n in range(size)]])
            yield table.to_batches()[0]

    return pa.RecordBatchReader.from_batches(schema, made())


def test_more_documents_than_memory_holds_are_inserted_at_once(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="2MiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": -1, "text": "before"}])
        ids = collection.insert_many(batches(100_000))
        assert engine.memory_stats().peak_mb < 2
        assert (len(ids), ids[0], ids[-1]) == (100_000, "2", "100001")
        assert ids[5000:5002] == ["5002", "5003"]
        with pytest.raises(IndexError):
            ids[100_000]
        assert len(collection) == 100_001
        assert collection.get("100001")["n"] == 99_999
        assert collection.insert({"n": 0, "text": ""}) == "100002"
        assert len(parts_of(collection)) > 10
    with StorageEngine(tmp_path, max_memory="2MiB") as engine:
        assert sum(batch.num_rows for batch in engine["c"].stream()) == 100_002
        assert engine["c"].schema.field("n").type == pa.int64()


def test_documents_of_a_bulk_widen_the_schema(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="2MiB") as engine:
        collection = engine.create_collection("c")
        collection.insert({"n": 1.5})
        collection.insert_many({"n": n, "more": [n]} for n in range(40_000))
        assert collection.schema.field("n").type == pa.float64()
        assert collection.schema.field("more").type == pa.list_(pa.int64())
        assert collection.to_arrow(["n"]).num_rows == 40_001
        assert collection.count({"n": 39_999.0}) == 1


@pytest.mark.parametrize("problem", ["twice", "there", "unsaved", "stream"])
def test_a_bulk_with_a_bad_document_leaves_nothing(problem: str, tmp_path: Path) -> None:
    def failing() -> Any:
        yield from ({"_id": f"k{n}", "text": "x" * 20} for n in range(40_000))
        if problem == "twice":
            yield {"_id": "k7"}
        elif problem == "stream":
            raise ZeroDivisionError
        elif problem == "unsaved":
            collection.insert({"_id": "k30000"})

    with StorageEngine(tmp_path, max_memory="2MiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"_id": "k39999" if problem == "there" else "other"}])
        expected = ZeroDivisionError if problem == "stream" else godb_arrow.DuplicateId
        with pytest.raises(expected):
            collection.insert_many(failing())
        left = {"there": ["k39999"], "unsaved": ["other", "k30000"]}.get(problem, ["other"])
        assert [document["_id"] for document in collection] == left
        folder = tmp_path / "collections" / "c.parts"
        named = {part.file for part in parts_of(collection)}
        assert {path.name for path in folder.glob("*.godb")} == named
        assert not list(folder.glob(".godb-arrow-*"))
        ids = collection.insert_many(batches(50_000, ids=True) if problem == "twice" else [{}])
        assert len(collection) == len(left) + len(ids)
    with StorageEngine(tmp_path) as engine:
        assert len(engine["c"]) == len(left) + len(ids)


def test_a_long_name_is_that_of_the_collection_though_its_files_have_another(
    tmp_path: Path,
) -> None:
    name = "é" * 120  # its folder is named by a hash
    with open_engine(tmp_path) as engine:
        grown(engine, saves=2)
        engine.rename_collection("c", name)
    for _ in range(2):
        with open_engine(tmp_path) as engine:
            assert engine.collections() == [name]
            assert len(engine[name]) == 2000
            engine[name].delete_many(pc.field("n") >= 0)  # no file is left
            engine.save()
            engine[name].insert_many(numbers(0, 2000))


def test_what_is_new_since_a_version(tmp_path: Path) -> None:
    from godb_arrow.engine.fragments import fragments_since, latest_version

    def added(since: int, until: int) -> list[int]:
        found = fragments_since(tmp_path, "c", since, until)
        return sorted(one["n"] for fragment in found for one in fragment.open())

    with open_engine(tmp_path, keep_versions=5) as engine:
        collection = engine.create_collection("c")
        collection.insert_many(numbers(0, 10))
        engine.save()
        with pytest.raises(godb_arrow.InvalidOption, match="to_folder"):
            latest_version(tmp_path, "c")
        collection.to_folder()
        first = latest_version(tmp_path, "c")
        assert added(0, first) == list(range(10))
        assert added(first, first) == []
        collection.insert_many(numbers(10, 5))
        collection.update("1", {"n": 100})
        collection.delete("2")
        engine.save()
        collection.compact(thorough=True)
        collection.restore(first)
        collection.insert({"n": 20})
        engine.save()
        last = latest_version(tmp_path, "c")
        assert last == first + 4
        assert added(first, last) == [*range(10, 15), 20, 100]
        time.sleep(0.01)
        engine["c"].insert({"n": 21})
        engine.save()
        with pytest.raises(godb_arrow.VersionNotFound, match="keep_versions"):
            added(first, last)
