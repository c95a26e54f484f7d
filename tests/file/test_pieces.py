"""The pieces of large files: the same documents as from the beginning, whatever the index says."""

from __future__ import annotations

import io
import itertools
import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import lz4.block
import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import xxhash
from support.handmade import go_read
from support.settings import LONG

import godb_arrow
from godb_arrow import GodbError, StorageEngine, codec, verify_godb
from godb_arrow.codec import pack
from godb_arrow.codec.entries import Chunk
from godb_arrow.codec.sizes import pack_sizes
from godb_arrow.file.format import TAIL_SIZE
from godb_arrow.file.hints import CollectionHint
from godb_arrow.file.locate import locate
from godb_arrow.file.piece_index import (
    FOOT_SIZE,
    PIECES_KEY,
    SIZES_KEY,
    IndexedPiece,
    PieceIndex,
    read_piece_index,
)
from godb_arrow.file.pieces import _after_empty
from godb_arrow.file.writer import CollectionData, write_file
from godb_arrow.options import ReadOptions
from godb_arrow.query.filters import RowFilter
from godb_arrow.query.statistics import unpack_statistics

ROWS = 40_000
needs_kernel = pytest.mark.skipif(
    codec.BACKEND != "native", reason="the reference codec looks at documents as a whole"
)


def table(rows: int = ROWS, seed: int = 1) -> pa.Table:
    rng = np.random.default_rng(seed)
    words = np.array([f"word {n}" for n in range(300)])
    return pa.table({
        "n": rng.integers(0, 10**6, rows), "f": rng.random(rows),
        "t": words[rng.integers(0, 300, rows)], "at": np.arange(rows),
    })  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections of several pieces each, a small one between, and other keys."""
    path = tmp_path_factory.mktemp("pieces") / "many.godb"
    godb_arrow.write_godb(table(), path, "first")
    godb_arrow.write_godb([{"a": 1}], path, "small")
    godb_arrow.write_godb(table(seed=2), path, "second")
    return path


def index_of(data: bytes) -> PieceIndex:
    found = read_piece_index(lambda count: data[-count:])
    assert found is not None
    return found


def reindexed(data: bytes, index: PieceIndex) -> bytes:
    """The file with another index, and checksums that are right in spite of it."""
    old, new = index_of(data).pack(), index.pack()
    assert len(old) == len(new)
    at = len(data) - TAIL_SIZE - len(old)
    assert data[at : at + len(old)] == old
    return resealed(bytearray(data[:at] + new + data[at + len(new) :]))


def resealed(changed: bytearray) -> bytes:
    """The file with checksums that are right in spite of what changed in its literals."""
    changed[-26:-18] = xxhash.xxh3_64_digest(bytes(changed[:-26]))
    body = lz4.block.decompress(bytes(changed[8:]), uncompressed_size=64 << 20)
    changed[-8:] = xxhash.xxh3_64_digest(body[:-18])
    return bytes(changed)


def serially(source: Any, collection: str) -> pa.Table:
    # Pieces that are larger than a batch may be are not used.
    return godb_arrow.read_table(source, collection, batch_bytes=1 << 19)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ["first", "second", "small"])
def test_pieces_hold_the_same_documents(file: Path, name: str, threads: int) -> None:
    found = locate(file, name, ReadOptions()).pieces()
    assert found is not None
    assert (name == "small") == (len(found.pieces) == 1)
    by_pieces = godb_arrow.read_table(file, name, threads=threads)
    assert by_pieces.equals(serially(file, name))
    assert list(godb_arrow.read_documents(file, name)) == list(
        godb_arrow.read_documents(file, name, batch_bytes=1 << 19)
    )


@pytest.mark.parametrize("options", [{"batch_size": 77}, {"batch_bytes": 1 << 16}])
def test_limits_of_batches_hold(file: Path, options: dict[str, int]) -> None:
    with godb_arrow.scan_godb(file, "first", **options) as reader:
        batches = list(reader)
    assert max(len(batch) for batch in batches) <= options.get("batch_size", 4000)
    assert pa.Table.from_batches(batches).equals(serially(file, "first"))


def test_a_file_inside_another_file(file: Path) -> None:
    stream = io.BytesIO(b"something else" + file.read_bytes())
    stream.seek(14)
    assert locate(stream, "second", ReadOptions()).pieces() is not None
    stream.seek(14)
    assert godb_arrow.read_table(stream, "second").equals(serially(file, "second"))
    stream.seek(14)
    stored = locate(stream, "second", ReadOptions())
    assert all(run.measured() is None for run in stored.runs(("n",)))  # the sizes are unchecked
    assert all(run.measured() is not None for run in stored.runs(("n",)))


def test_go_db_reads_a_file_with_pieces(file: Path) -> None:
    found = go_read(file.read_bytes())["collections"]
    assert {name: len(documents) for name, documents in found.items()} == {
        "first": ROWS, "small": 1, "second": ROWS
    }  # fmt: skip


def test_a_rewritten_file_has_one_index(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.godb"
    copy.write_bytes(file.read_bytes())
    godb_arrow.write_godb([{"b": 2}], copy, "small", if_exists="append")
    data = copy.read_bytes()
    assert data.count(pack(PIECES_KEY)) == 1
    assert verify_godb(copy).ok
    assert godb_arrow.read_table(copy, "second").equals(serially(file, "second"))


def test_small_files_have_no_index() -> None:
    stream = io.BytesIO()
    godb_arrow.write_godb([{"a": 1}], stream, "c")
    assert pack(PIECES_KEY) not in stream.getvalue()


def test_incompressible_documents_and_large_ones(tmp_path: Path) -> None:
    noise = random.Random(4)
    sizes = [10, 3_000_000, 70_000, 1_200_000, 5, 900_000] * 2
    given = [{"_id": str(n), "b": noise.randbytes(size)} for n, size in enumerate(sizes)]
    given += [{"_id": f"r{n}", "b": bytes(400_000)} for n in range(9)]
    path = tmp_path / "noise.godb"
    godb_arrow.write_godb(given, path, "c")
    assert locate(path, "c", ReadOptions()).pieces() is not None
    assert list(godb_arrow.read_documents(path)) == given
    assert godb_arrow.read_table(path).equals(serially(path, "c"))
    assert verify_godb(path).ok


def test_every_damage_is_an_error_or_changes_nothing(file: Path) -> None:
    data = file.read_bytes()
    right = serially(data, "second")
    rng = random.Random(7)
    spots = [rng.randrange(len(data)) for _ in range(4000 if LONG else 40)]
    spots += range(len(data) - 2 * TAIL_SIZE - FOOT_SIZE, len(data), 1 if LONG else 7)
    noticed = 0
    for spot in spots:
        damaged = bytearray(data)
        damaged[spot] ^= 1 << rng.randrange(8)
        try:
            found = godb_arrow.read_table(bytes(damaged), "second")
        except GodbError:
            noticed += 1
        else:
            assert found.equals(right), spot
    assert noticed > len(spots) // 4


@pytest.mark.parametrize("seed", range(400 if LONG else 12))
def test_an_index_that_lies_changes_nothing(file: Path, seed: int) -> None:
    data = file.read_bytes()
    index = index_of(data)
    rng = random.Random(seed)
    pieces = [*index.pieces]
    for _ in range(rng.randrange(1, 3)):
        row, column = rng.randrange(len(pieces)), rng.choice(IndexedPiece._fields[:4])
        value = getattr(pieces[row], column)
        change = rng.choice([1, -1, 100, -value, value, (1 << 40) - value])
        pieces[row] = pieces[row]._replace(**{column: max(0, value + change)})
        if rng.random() < 0.5 and row + 1 < len(pieces):  # so that the sum is the same
            other = max(0, getattr(pieces[row + 1], column) - change)
            pieces[row + 1] = pieces[row + 1]._replace(**{column: other})
    assert index.sizes is not None
    sizes = [*index.sizes]
    sizes[rng.randrange(len(sizes))] = rng.choice([0, 5, 13, 14, 2**20, 2**32 - 1])
    for changed in (replace(index, pieces=pieces), replace(index, sizes=sizes)):
        lying = reindexed(data, changed)
        for name, columns in itertools.product(("first", "second"), (None, ["n"])):
            try:
                found = godb_arrow.read_table(lying, name, columns=columns)
            except GodbError:
                continue
            right = serially(file, name)
            assert found.equals(right.select(columns or right.column_names))


def test_collections_that_were_exchanged_in_the_index(file: Path) -> None:
    data = file.read_bytes()
    index = index_of(data)
    swapped = {"first": index.collections["second"], "second": index.collections["first"]}
    lying = reindexed(data, replace(index, collections={**index.collections, **swapped}))
    assert godb_arrow.read_table(lying, "first").equals(serially(file, "first"))


def test_verify_reports_an_index_that_lies(file: Path) -> None:
    data = file.read_bytes()
    index = index_of(data)
    pieces = [*index.pieces]
    pieces[2] = pieces[2]._replace(checksum=pieces[2].checksum ^ 1)
    report = verify_godb(reindexed(data, replace(index, pieces=pieces)))
    assert any("piece" in problem for problem in report.problems), report.problems
    assert verify_godb(data).ok


def test_verify_reports_statistics_that_lie(file: Path) -> None:
    data = file.read_bytes()
    index = index_of(data)
    packed = index.statistics["second"]
    count = index.collections["second"][1]
    statistics = unpack_statistics(packed, count)
    assert statistics is not None
    found = msgpack.unpackb(packed)
    maxima = found["fields"]["n"]["numbers"][1]
    maxima[:] = [number - 100 for number in maxima]
    lying = msgpack.packb(found)
    assert len(lying) == len(packed)
    changed = replace(index, statistics={**index.statistics, "second": lying})
    report = verify_godb(reindexed(data, changed))
    assert len(report.problems) == count
    assert all("statistics" in problem and "'n'" in problem for problem in report.problems)


def test_numbers_of_documents_that_lie_are_an_error(file: Path) -> None:
    data = file.read_bytes()
    index = index_of(data)
    first, _ = index.collections["second"]
    pieces = [*index.pieces]
    pieces[first] = pieces[first]._replace(documents=pieces[first].documents - 1)
    pieces[first + 1] = pieces[first + 1]._replace(documents=pieces[first + 1].documents + 1)
    lying = reindexed(data, replace(index, pieces=pieces))
    with pytest.raises(godb_arrow.CorruptFile, match="the index records"):
        godb_arrow.read_table(lying, "second", batch_size=10_000)


def test_sizes_that_cannot_be_take_no_memory(file: Path) -> None:
    data = file.read_bytes()
    index = index_of(data)
    assert index.sizes is not None
    for row in range(len(index.pieces)):
        for column in IndexedPiece._fields[:3]:
            pieces = [*index.pieces]
            pieces[row] = pieces[row]._replace(**{column: (1 << 48) - 1})
            lying = reindexed(data, replace(index, pieces=pieces))
            assert godb_arrow.read_table(lying, "second").num_rows == ROWS
        sizes = [*index.sizes]
        sizes[row] = 2**32 - 1
        lying = reindexed(data, replace(index, sizes=sizes))
        # So many literals behind a piece would have a head of 16 MiB, to be read with each.
        assert locate(lying, "second", ReadOptions()).pieces() is None
        assert godb_arrow.read_table(lying, "second", columns=["n"]).num_rows == ROWS


def test_numbers_of_documents_that_cannot_be_take_no_memory() -> None:
    packed = pack_sizes(np.array([7], np.uint32))
    for count in (2**40, 50, 2):
        assert codec.unpack_sizes([packed], [count], [7]) is None


def test_a_point_read_reads_one_piece(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = os.preadv

    def counted(descriptor: int, buffers: Any, position: int) -> int:
        count = original(descriptor, buffers, position)
        read.append(count)
        return count

    with StorageEngine(file.parent / "data", max_memory=1 << 20) as engine:
        engine.load_collection_metadata(file)
        collection = engine["second"]
        assert collection.get("20000")["at"] == 19_999  # finds where the ids are, too
        monkeypatch.setattr(os, "preadv", counted)
        for number in (1, 777, 30_000, 40_000):
            read.clear()
            assert collection.get(str(number))["at"] == number - 1
            assert 0 < sum(read) < file.stat().st_size / 2


def test_a_large_index_stands_behind_the_last_piece(tmp_path: Path) -> None:
    # The literals of the last sequence are then so many that its head has many bytes.
    rows, fields = 9000, 60
    texts = pa.array([f"{n:060}" for n in range(rows)])
    given = pa.table({f"a rather long name of a field, {n}": texts for n in range(fields)})
    path = tmp_path / "wide.godb"
    godb_arrow.write_godb(given, path, "c")
    assert len(index_of(path.read_bytes()).pack()) > 200_000
    found = godb_arrow.read_table(path)
    assert found.equals(given)
    assert verify_godb(path).ok


# --- the sizes of documents ----------------------------------------------------------------------


def sizes_at(data: bytes) -> tuple[int, int]:
    """Where the packed sizes of all pieces begin and end in a file."""
    key = pack(SIZES_KEY) + b"\xc6"
    assert data.count(key) == 1
    first = data.index(key) + len(key) + 4
    return first, first + int.from_bytes(data[first - 4 : first], "big")


class Seen:
    """Counts the documents that are looked at as a whole."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.documents = 0
        original = codec.scan_entries

        def scan(*arguments: Any) -> codec.Entries:
            found = original(*arguments)
            self.documents += len(found)
            return found

        monkeypatch.setattr(codec, "scan_entries", scan)


FILTERS = [
    pc.field("n") < 10_000,
    (pc.field("n") > 400_000) & (pc.field("f") < 0.01),
    pc.field("t").isin(["word 1", "word 299"]),
    pc.field("n") > 100,  # keeps nearly all
    pc.field("_id") == "777",
    pc.field("at") < 0,
    pc.field("n").is_null(),
]


@pytest.mark.parametrize("columns", [["at", "t"], ["n"], ["_id"], [], None])
@pytest.mark.parametrize("number", range(len(FILTERS)))
def test_filters_keep_the_same_documents(
    file: Path, number: int, columns: list[str] | None
) -> None:
    condition = FILTERS[number]
    whole = godb_arrow.read_table(
        file, "second", batch_bytes=1 << 19, columns=[*table(1).column_names, "_id"]
    )
    kept = whole.filter(condition)
    expected = kept.select(table(1).column_names if columns is None else columns)
    found = godb_arrow.read_table(file, "second", columns=columns, filter=condition)
    assert found.num_rows == kept.num_rows
    assert found.equals(expected)


@needs_kernel
@pytest.mark.usefixtures("trusted_records")
def test_only_documents_that_are_kept_are_looked_at(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sizes are checked when a piece is read again.
    godb_arrow.read_table(file, "first", columns=["n", "t"])
    seen = Seen(monkeypatch)
    found = godb_arrow.read_table(file, "first", columns=["t"], filter=pc.field("n") < 10_000)
    assert 0 < seen.documents == found.num_rows < ROWS / 50
    seen.documents = 0
    assert godb_arrow.read_table(file, "first", columns=["n", "t"]).num_rows == ROWS
    assert seen.documents == 0
    # Whole documents are decoded while they are located.
    assert godb_arrow.read_table(file, "first").num_rows == ROWS
    assert seen.documents == 0


@pytest.mark.parametrize("most", [10_000, 900_000])  # few are kept, or nearly all
@pytest.mark.parametrize("measured", [True, False])
def test_a_filter_is_asked_once(file: Path, most: int, measured: bool) -> None:
    asked: list[int] = []

    def keep(batch: pa.RecordBatch) -> pa.Array:
        asked.append(len(batch))
        return pc.less(batch["n"], most)

    data = file.read_bytes()
    if not measured:
        first, end = sizes_at(data)
        data = resealed(bytearray(data[:first] + bytes(end - first) + data[end:]))
    condition = RowFilter(["n"], keep)
    found = godb_arrow.read_table(data, "second", columns=["t"], filter=condition)
    assert sum(asked) == ROWS
    assert found.equals(serially(file, "second").filter(pc.field("n") < most).select(["t"]))


@needs_kernel
@pytest.mark.usefixtures("trusted_records")
def test_an_engine_looks_at_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("c").insert_many(table())
        engine.save()
        engine["c"].delete("5")
        engine.save()  # copies what did not change, with its sizes
    (path,) = (tmp_path / "data").rglob("*.godb")
    index = index_of(path.read_bytes())
    first, count = index.collections["c"]
    assert index.sizes is not None
    assert all(index.sizes[first : first + count])
    assert verify_godb(path).ok
    with StorageEngine(tmp_path / "data") as engine:
        engine["c"].to_arrow(["n"])
        seen = Seen(monkeypatch)
        kept = engine["c"].to_arrow(["_id"], pc.field("n") < 10_000)["_id"].to_pylist()
        assert 0 < seen.documents == len(kept) < ROWS / 50
        engine["c"].delete(kept[7])  # so that its run is looked at as a whole
        left = engine["c"].to_arrow(["_id"], pc.field("n") < 10_000)["_id"].to_pylist()
        assert left == [*kept[:7], *kept[8:]]


def test_damaged_sizes_change_nothing(file: Path) -> None:
    data = file.read_bytes()
    condition = pc.field("n") < 10_000
    expected = serially(data, "second").filter(condition).select(["t"])
    first, end = sizes_at(data)
    rng = random.Random(3)
    for _ in range(2000 if LONG else 30):
        damaged = bytearray(data)
        damaged[rng.randrange(first, end)] ^= 1 << rng.randrange(8)
        found = godb_arrow.read_table(bytes(damaged), "second", columns=["t"], filter=condition)
        assert found.equals(expected)


def with_sizes(data: bytes, piece: int, change: Any) -> bytes:
    """The file with other sizes of a piece's documents, packed as well."""
    index = index_of(data)
    assert index.sizes is not None
    first, _ = sizes_at(data)
    at = first + sum(index.sizes[:piece])
    packed = data[at : at + index.sizes[piece]]
    count, total = index.pieces[piece].documents, index.pieces[piece].size
    edges = codec.unpack_sizes([packed], [count], [total])
    assert edges is not None
    made = pack_sizes(change(np.diff(edges).astype(np.uint32)))
    assert len(made) == len(packed)
    return resealed(bytearray(data[:at] + made + data[at + len(made) :]))


@pytest.mark.parametrize("seed", range(200 if LONG else 3))
def test_sizes_that_lie_change_nothing(file: Path, seed: int) -> None:
    data = file.read_bytes()
    rng = np.random.default_rng(seed)
    piece = index_of(data).collections["second"][0] + int(rng.integers(0, 2))

    def change(sizes: Any) -> Any:
        if seed % 2:
            return rng.permutation(sizes)
        at = int(rng.integers(0, len(sizes) - 1))
        sizes[[at, at + 1]] = sizes[at] + 1, sizes[at + 1] - 1
        return sizes

    lying = with_sizes(data, piece, change)
    condition = pc.field("n") < 10_000
    found = godb_arrow.read_table(lying, "second", columns=["t"], filter=condition)
    assert found.equals(serially(data, "second").filter(condition).select(["t"]))
    report = verify_godb(lying)
    assert any("sizes of the documents" in problem for problem in report.problems)
    assert verify_godb(with_sizes(data, piece, lambda sizes: sizes)).ok


def test_of_equal_keys_behind_the_front_the_last_wins(tmp_path: Path) -> None:
    pair = b"\xa1n" + pack(1), b"\xa1n" + pack(2)
    filler = b"\xa1z" + pack("z" * 90)
    odd = b"\x83" + pair[0] + filler + pair[1]
    plain = b"\x82" + pair[0] + filler
    raw = [pack(str(n)) + (odd if n % 5000 == 17 else plain) for n in range(30_000)]
    chunks = [
        Chunk(b"".join(raw[first : first + 10_000]), 10_000) for first in range(0, 30_000, 10_000)
    ]
    path = tmp_path / "odd.godb"
    schema = pa.schema([("n", pa.int64()), ("z", pa.string())])
    hint = CollectionHint(30_000, 30_001, schema)
    with open(path, "wb") as stream:
        write_file(stream, [CollectionData("c", 30_000, chunks, hint)])
    assert locate(path, "c", ReadOptions()).pieces() is not None
    assert godb_arrow.read_table(path, columns=["z"], filter=pc.field("n") == 2).num_rows == 6
    assert godb_arrow.read_table(path, filter=pc.field("n") == 1).num_rows == 30_000 - 6
    sizes = index_of(path.read_bytes()).sizes
    assert sizes is not None
    assert not any(sizes)
    assert verify_godb(path).ok


def test_documents_of_all_sizes_have_them(tmp_path: Path) -> None:
    rng = random.Random(8)
    for least, most in ((0, 0), (0, 10), (0, 200), (0, 5000), (0, 90_000)):
        given = [
            {"_id": str(n), "n": n % 50, "t": "x" * rng.randint(least, most)}
            for n in range(max(60, 4_000_000 // (most + 60)))
        ]
        path = tmp_path / f"{most}.godb"
        godb_arrow.write_godb(given, path, "c")
        index = index_of(path.read_bytes())
        assert index.sizes is not None
        first, count = index.collections["c"]
        assert all(index.sizes[first : first + count])
        found = godb_arrow.read_table(path, columns=["t"], filter=pc.field("n") == 7)
        assert found["t"].to_pylist() == [one["t"] for one in given if one["n"] == 7]
        assert verify_godb(path).ok


def test_sizes_that_would_be_a_burden_are_left_out(tmp_path: Path) -> None:
    given = [{"_id": str(n), "t": "x" * (70_000 * (n % 9000 == 0))} for n in range(120_000)]
    path = tmp_path / "uneven.godb"
    godb_arrow.write_godb(given, path, "c")
    index = index_of(path.read_bytes())
    assert index.sizes is not None
    assert [*index.sizes].count(0) > len(index.sizes) // 2
    assert locate(path, "c", ReadOptions()).pieces() is not None
    assert godb_arrow.read_table(path, columns=["t"]).num_rows == 120_000
    assert verify_godb(path).ok


# --- memory that is used again -------------------------------------------------------------------


def test_readers_do_not_disturb_each_other(file: Path) -> None:
    queries: list[dict[str, Any]] = [
        {"columns": ["t"], "filter": pc.field("n") < 10_000},
        {"columns": ["n", "_id"]},
        {"filter": pc.field("f") > 0.3},
        {},
    ]
    whole = {name: serially(file, name) for name in ("first", "second")}
    ids = {name: godb_arrow.read_table(file, name, columns=["_id"]) for name in whole}

    def right(name: str, query: dict[str, Any]) -> pa.Table:
        full = whole[name].append_column("_id", ids[name]["_id"])
        kept = full.filter(query["filter"]) if "filter" in query else full
        return kept.select(query.get("columns", whole[name].column_names))

    def check(number: int) -> bool:
        name, query = ("first", "second")[number % 2], queries[number % len(queries)]
        options: dict[str, Any] = {
            "batch_bytes": (1 << 21) + (number << 16),
            "threads": number % 3 + 1,
        }
        return godb_arrow.read_table(file, name, **query, **options).equals(right(name, query))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(check, range(400 if LONG else 48)))
    # Two at the same time, batch by batch, of which one is given up in the middle.
    one = godb_arrow.scan_godb(file, "first", columns=["n"], threads=1, batch_bytes=1 << 21)
    other = godb_arrow.scan_godb(file, "second", columns=["n"], threads=1, batch_bytes=1 << 21)
    pairs = list(zip(one, other, strict=True))
    for index, name in enumerate(("first", "second")):
        found = pa.Table.from_batches([pair[index] for pair in pairs])
        assert found.equals(whole[name].select(["n"]))
    with godb_arrow.scan_godb(file, "first", columns=["n"]) as reader:
        first = next(reader)
    assert pa.Table.from_batches([first]).equals(whole["first"].select(["n"]).slice(0, len(first)))


class Plain(io.RawIOBase):
    """A binary file with what a reader of files must have, and nothing else."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)
        self.readinto = None  # type: ignore[assignment]

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(min(size, 100_000) if size >= 0 else size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def test_files_that_only_read(file: Path) -> None:
    for query in ({}, {"columns": ["n"]}, {"filter": pc.field("n") < 5000}):
        found = godb_arrow.read_table(Plain(file.read_bytes()), "second", **query)
        assert found.equals(godb_arrow.read_table(file, "second", **query))


def test_an_empty_collection_before_a_large_one_keeps_its_pieces(tmp_path: Path) -> None:
    path = tmp_path / "file.godb"
    godb_arrow.write_godb([], path, "empty")
    godb_arrow.write_godb(table(), path, "large")
    assert not verify_godb(path).problems
    assert godb_arrow.open_godb(path, "large").explain(pc.field("at") == 5).pieces_read == 1


@pytest.mark.parametrize(
    ("before", "is_right"),
    [
        ([("e", 0)], True),
        ([("e", 0), ("é" * 200, 0), ("", 0)], True),
        ([("e", 1)], False),
        ([("e", 0), ("f", 1)], False),
        ([(5, 0)], False),
        ([(b"x", 0)], False),
    ],
)
@pytest.mark.parametrize("size", [4, 9])
def test_only_empty_collections_may_come_before_a_collection(
    before: list[tuple[Any, int]], is_right: bool, size: int
) -> None:
    packer = msgpack.Packer()
    head = b"".join(packer.pack(name) + packer.pack_map_header(count) for name, count in before)
    own = bytes(range(0x80, 0x80 + size))
    found = _after_empty(head + own, size)
    assert (found == own) == is_right
    assert _after_empty(own, size) == own
    assert _after_empty(own[:-1], size) != own
