"""A file that one pass finds valid has the same report as after two passes."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from directory.test_verify_lies import DOCUMENTS, FILES, SCHEMA, TWO, collection
from support import forge
from support.settings import for_seeds

import godb_arrow
from godb_arrow import CorruptFile, StorageEngine
from godb_arrow.codec.compression import check_compression
from godb_arrow.directory.verify_file import _verify_once, _verify_twice
from godb_arrow.file.body import Body
from godb_arrow.file.format import read_header
from godb_arrow.file.piece_index import read_piece_index
from godb_arrow.file.pieces import CollectionPieces
from godb_arrow.file.piecewise import PiecewiseDecoder
from godb_arrow.storage.source import open_source

MANY = [
    {"_id": str(n + 1), "n": n, "s": f"{n * 0x9E3779B97F4A7C15 % (1 << 64):x}" * (1 + n % 3)}
    for n in range(12_000)
]


def once(source: Any) -> godb_arrow.FileReport | None:
    return _verify_once(open_source(source), lambda documents: None)


def twice(source: Any) -> godb_arrow.FileReport:
    return _verify_twice(open_source(source), lambda documents: None)


def said(report: godb_arrow.FileReport) -> Any:
    """Return what a report says, in values that can be compared."""
    collections = [
        (replace(one, hint=None), one.hint and (one.hint.fingerprint, one.hint.schema))
        for one in report.collections
    ]
    return replace(report, collections=[]), collections


def check(source: Any) -> bool:
    """Return whether a file is valid, and check that one pass says so only if two passes do."""
    first, right = once(source), twice(source)
    if first is not None:
        assert said(first) == said(right)
        assert first.ok
    return right.ok


@pytest.mark.parametrize("lie", FILES)
def test_one_pass_does_not_believe_a_lie(lie: str) -> None:
    file = FILES[lie][0]()
    assert not check(file)
    assert once(file) is None


COLLECTIONS: dict[str, Callable[[], list[forge.Collection]]] = {
    "one": lambda: [collection()],
    "two": lambda: list(TWO),
    "none": lambda: [],
    "empty": lambda: [forge.collection("e", []), collection(), forge.collection("f", [])],
    "without statistics": lambda: [collection(statistics=b"")],
    "without hint": lambda: [collection(hint=None)],
    "without sizes": lambda: [collection(sizes=lambda run: b"")],
    "many": lambda: [forge.collection("m", MANY, schema=SCHEMA), collection()],
    "another id": lambda: [forge.collection("c", [{"_id": "1"}, forge.entry("2", {"_id": "x"})])],
}


@pytest.mark.parametrize("compression", ["lz4", "lz4hc", "zstd", "none"])
@pytest.mark.parametrize("content", COLLECTIONS)
def test_honest_files_have_the_same_report(content: str, compression: Any) -> None:
    file = forge.godb_file(*COLLECTIONS[content](), compression=compression, others={"x": [1]})
    assert check(file)
    if read_piece_index(open_source(file).tail) is not None:
        assert once(file) is not None


@pytest.mark.parametrize("compression", ["lz4", "zstd", "none"])
def test_files_of_the_writer_pass_at_once(compression: Any, tmp_path: Path) -> None:
    target = tmp_path / "x.godb"
    noise = random.Random(3)
    for name, documents in (
        ("many", MANY),
        ("few", DOCUMENTS),
        ("empty", []),
        ("noise", [{"b": noise.randbytes(500)} for _ in range(5000)]),
    ):
        godb_arrow.write_godb(documents, target, name, compression=compression)
        assert check(target)
        has_pieces = read_piece_index(open_source(target).tail) is not None
        assert (once(target) is not None) == has_pieces
    assert has_pieces


def test_files_of_an_engine_pass_at_once(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        own = engine.create_collection("c")
        own.create_index("n")
        own.create_index("s")
        own.insert_many([{**document, "more": "x" * 200} for document in MANY])
        own.delete_many({"n": {"$lt": 5}})
        engine.save()
        assert own.path is not None
        assert check(own.path)
        assert once(own.path) is not None


def test_progress_is_told_once_for_each_document() -> None:
    file = forge.godb_file(collection(row=lambda piece: {"checksum": 5} if piece == 3 else {}))
    told: list[int] = []
    assert not godb_arrow.verify_godb(file, progress=told.append).ok
    assert sum(told) == len(DOCUMENTS)


def test_files_without_an_index_of_pieces_need_two_passes() -> None:
    file = forge.godb_file(collection(), indexed=False)
    assert once(file) is None
    assert check(file)


def test_readers_must_be_able_to_use_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    file = forge.godb_file(collection())
    assert once(file) is not None
    monkeypatch.setattr(CollectionPieces, "is_right", lambda self, stream: False)
    assert once(file) is None
    assert not check(file)


def test_pieces_are_decoded_in_order() -> None:
    file = forge.godb_file(*TWO)
    index = read_piece_index(open_source(file).tail)
    assert index is not None
    stream = io.BytesIO(file)
    compression = read_header(stream).compression
    decoder = PiecewiseDecoder(index, stream, stream.tell(), len(file), compression)
    buffer = memoryview(bytearray(1 << 20))
    for first in (1, 0, 2):
        with pytest.raises(CorruptFile):
            decoder.skip(first + 1, 4)
    with pytest.raises(CorruptFile):
        decoder.skip(1, 4)  # The piece before is not decoded yet.
    end = decoder.fill(buffer, 0, 0, 5, bytes)
    assert end == 5
    with pytest.raises(CorruptFile):
        decoder.skip(1, 4)  # Some of its bytes are left.
    end = decoder.fill(buffer, 0, end, len(buffer), bytes)
    assert decoder.fill(buffer, 0, end, len(buffer), bytes) == end
    decoder.skip(1, 4)
    with pytest.raises(CorruptFile):
        decoder.skip(1, 4)


def test_a_body_follows_no_bytes_while_others_are_unread() -> None:
    body = Body(io.BytesIO(b"GODB" + bytes(100)), 104, 8)
    body.fetch(4)
    body.begin_block(check_compression("none"))
    body.need(50, "zeros")
    with pytest.raises(CorruptFile):
        body.follow(memoryview(b"x"))
    body.position = 100
    body.follow(memoryview(b"x"))
    assert body.offset == 101


LIES: list[Callable[[random.Random], dict[str, Any]]] = [
    lambda chance: {"row": _row(chance)},
    lambda chance: {"count": chance.choice([0, 39, 41, 10, 30])},
    lambda chance: {"piece_documents": chance.randrange(1, 41)},
    lambda chance: {"sizes": lambda run: [len(one) + (one == run[-1]) for one in run]},
    lambda chance: {"hint": {"count": chance.randrange(42), "next_id": chance.randrange(3)}},
    lambda chance: {"statistics": _statistics(chance)},
    lambda chance: {
        "schema": pa.schema({"_id": pa.string(), "n": chance.choice([pa.int64(), pa.float64()])})
    },
]


def _row(chance: random.Random) -> Callable[[int], dict[str, int]]:
    victim, name = chance.randrange(4), chance.choice(["length", "tail", "size", "documents"])
    value = chance.choice([0, 1, 9, 10, 11, 60, 400])
    return lambda piece: {name: value} if piece == victim else {}


def _statistics(chance: random.Random) -> list[forge.Row]:
    rows = [{**forge.true_bounds(piece.entries, SCHEMA)} for piece in collection().pieces]
    low, high, nulls = rows[0]["n"]
    rows[0]["n"] = (low + chance.randrange(-1, 2), high + chance.randrange(-1, 2), nulls)
    return rows


@for_seeds(150, long=5000)
def test_one_pass_agrees_with_two(seed: int) -> None:
    chance = random.Random(seed)
    lies: dict[str, Any] = {}
    for lie in chance.sample(LIES, chance.choice([0, 1, 1, 2])):
        lies |= lie(chance)
    entries: list[Any] = list(DOCUMENTS)
    if chance.random() < 0.3:
        victim = chance.randrange(len(entries))
        entries[victim] = chance.choice(
            [
                entries[victim - 1],
                forge.entry(f"d{victim}", {"_id": "other", "n": victim, "s": ""}),
                forge.entry(f"d{victim}", {"n": 0.5, "s": "", "more": [1]}),
                forge.pack(f"d{victim}") + b"\x82\xa1n\1\xa1n\2",
                forge.pack(f"d{victim}") + b"\x81\xa1n\xd4\xff\0",
            ]
        )
    lies.setdefault("schema", SCHEMA)
    lies.setdefault("piece_documents", 10)
    own = forge.collection("c", entries, **lies)
    if chance.random() < 0.2:
        own = replace(own, name=chance.choice(["", "other", "é" * 30]))
    others = {"x": chance.randbytes(chance.choice([1, 300, 70_000]))}
    file = bytearray(
        forge.godb_file(
            *([own, collection("d")] if chance.random() < 0.3 else [own]),
            compression=chance.choice(["lz4", "zstd", "none"]),
            others=others if chance.random() < 0.3 else {},
        )
    )
    if chance.random() < 0.3:
        file[chance.randrange(len(file))] ^= 1 << chance.randrange(8)
    check(bytes(file))
