"""BSON in the kernel: the same documents, types and bytes as by MongoDB's own library."""

from __future__ import annotations

import datetime as dt
import io
import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from support.settings import examples

from godb_arrow import GodbError, codec
from godb_arrow.codec.reference import bsonread as reference
from godb_arrow.documents.encoding import encode_rows
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.loading import load_run
from godb_arrow.documents.rows import rows_of

bson = pytest.importorskip("bson")
native = pytest.importorskip("godb_arrow.codec.native")
etl = pytest.importorskip("godb_arrow.connectors.etl.bson")

CASES = examples(300, long=20_000)
OPTIONS = bson.codec_options.CodecOptions(
    uuid_representation=bson.binary.UuidRepresentation.STANDARD
)
TEXTS = [
    "", "a", "ä€😀", "12", "-0", "0", "007", "12.5", "12.", "1.2.3", "0.000012", "0.0000001",
    "0.00", "-12.50", "1E5", "Infinity", "NaN", "sNaN1", "Istanbul", "s", "I", "-", "-I", "0.0",
    "00.5", "1\0 2", "-9223372036854775808", "9223372036854775808", "9223372036854775807", "0" * 24,
    "5f" * 12, "5F" * 12, "1" * 34, "1" * 35, "0." + "1" * 34, "2024-01-02", "10.0.0.1",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63), 127, 128, -32, -33]
RARE = [
    bson.Decimal128("1.5"), bson.Regex("a"), bson.Code("x"), bson.Timestamp(1, 2), bson.MinKey(),
    bson.Binary(b"xx", 5), bson.DBRef("c", 5),
]  # fmt: skip


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(20)
    moment = dt.datetime(1960 + chance.randrange(100), 1, 2, 3, 4, 5, 6000, tzinfo=dt.UTC)
    plain = [
        None, chance.random() < 0.5, chance.choice(NUMBERS), bson.Int64(chance.randrange(5)),
        moment, chance.choice([0.0, -0.0, 1.5, float("inf")]), bson.ObjectId(chance.randbytes(12)),
        chance.randbytes(chance.randrange(300)), uuid.UUID(int=chance.getrandbits(128)),
        bson.DatetimeMS(chance.choice([-(2**63), 2**63 - 1, -(10**15)])),
        str(uuid.UUID(int=chance.getrandbits(128))), "x" * chance.randrange(300),
    ]  # fmt: skip
    if kind < len(plain):
        return plain[kind]
    if kind == 12 and depth < 3:
        keys = ["a", "b", "ä", "$x", "$time", f"c{chance.randrange(30)}"]
        count = chance.choice([0, 1, 2, 20])
        return {chance.choice(keys): value(chance, depth + 1) for _ in range(count)}
    if kind == 13 and depth < 3:
        return [value(chance, depth + 1) for _ in range(chance.choice([0, 1, 3, 17]))]
    return chance.choice(RARE) if kind == 14 else chance.choice(TEXTS)


def document(chance: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {"z": value(chance)} if chance.random() < 0.5 else {}
    kind = chance.randrange(4)
    if kind:
        made["_id"] = [bson.ObjectId(chance.randbytes(12)), chance.randrange(999), "q"][kind - 1]
    for _ in range(chance.randrange(8)):
        made[chance.choice(["a", "b", "c", "ü", "_x"])] = value(chance)
    return made


def dump(chance: random.Random) -> bytes:
    documents = (document(chance) for _ in range(1 + chance.randrange(8)))
    return b"".join(bson.encode(one, codec_options=OPTIONS) for one in documents)


def damaged(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        changed[chance.randrange(len(data))] = chance.choice([0, 1, 2, 4, 5, 16, 18, 255])
    return bytes(changed[: chance.choice([len(data), chance.randrange(len(data))])])


def notes(types: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path, sorted(types.types), sorted(types.texts)
    for key, child in types.children.items():
        yield from notes(child, (*path, key))


def entries(documents: Any) -> Any:
    try:
        runs = [*encode_rows(rows_of(documents, None), None, False, IdSequence(),
                             max_document_bytes=1 << 26)]  # fmt: skip
    except GodbError:
        return None
    return b"".join(run.chunk for run in runs), [one for run in runs for one in run.ids.to_pylist()]


def sources(data: bytes) -> tuple[Any, Any]:
    return etl.BsonSource(io.BytesIO(data), "a"), etl.BsonSource(io.BytesIO(data), "b")


def test_documents_and_types_are_the_same() -> None:
    chance = random.Random(20)
    for turn in range(CASES):
        data = dump(chance) if turn % 3 else damaged(chance, dump(chance))
        ours, theirs = sources(data)
        found, expected = entries(ours), entries(iter(theirs))
        assert found == expected, data
        if found is not None:
            assert sorted(notes(ours._types)) == sorted(notes(theirs._types)), data


def test_documents_are_written_with_the_same_bytes() -> None:
    chance = random.Random(21)
    for _ in range(CASES):
        (source, _), types = sources(dump(chance)), etl.FieldTypes()
        (run,) = encode_rows(
            rows_of(source, None), None, False, IdSequence(), max_document_bytes=1 << 26
        )
        if chance.random() < 0.5:
            types.merge(source._types)
        stored = run.entries()
        try:
            expected = b"".join(etl.encode(one, types) for one in load_run(stored))
        except GodbError:
            expected = None
        try:
            found = b"".join(part for part, _ in etl.encode_runs(iter([stored]), types))
        except GodbError:
            found = None
        assert found == expected


def test_most_documents_need_no_library() -> None:
    raw = bson.encode(
        {"_id": bson.ObjectId(), "city": "Istanbul", "n": 5, "at": {"x": [1.5, None]}}
    )
    data, bounds, at = native.BsonReader(raw * 3).read(0)
    assert (len(bounds), at) == (4, 3 * len(raw))
    paths = [(-1, "", 0), (0, "_id", 1)]
    assert codec.BACKEND == "native"
    assert native.write_bson(data, bounds, False, paths, 0) == (raw * 3, 3)


def test_blocks_end_after_whole_documents() -> None:
    chance = random.Random(22)
    for _ in range(200):
        data = dump(chance)
        for text in (data, data[: chance.randrange(len(data))], damaged(chance, data)):
            assert native.cut_bson(text) == reference.cut_bson(text)


def test_documents_larger_than_a_block_and_errors_after_them_have_their_numbers() -> None:
    large = bson.encode({"_id": "large", "text": "x" * (3 << 20)})
    small = bson.encode({"_id": "small"})
    source, _ = sources(large + small)
    assert [one["_id"] for one in load_run(next(encode_rows(
        rows_of(source, None), None, False, IdSequence(), max_document_bytes=1 << 26,
    )).entries())] == ["large"]  # fmt: skip
    for cut in (small[:-1], small[:3], b"\0\0\0\0" + small):
        source, _ = sources(large + small + cut)
        with pytest.raises(GodbError, match="document 3 of a is not BSON"):
            list(encode_rows(
                rows_of(source, None), None, False, IdSequence(), max_document_bytes=1 << 26,
            ))  # fmt: skip
