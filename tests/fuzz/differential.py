"""Give damaged documents to the kernel and to the reference codec, and compare what they say.

    python tests/fuzz/differential.py EXECUTIONS SEED

A corpus of documents is mutated byte by byte; each variant is scanned, summarised and decoded
with schemas of its own and of others. Beside each, a damaged LZ4 block is decoded in pieces. With
atheris installed, `oss_fuzz.py` does the same guided by coverage.
"""

from __future__ import annotations

import json
import random
import sys
from array import array
from collections import Counter
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow import GodbError
from godb_arrow.codec import (
    Entries,
    MeasuredEntries,
    UnscannedEntries,
    native,
    pack,
    pack_entry,
    plan_columns,
    reference,
    with_id,
)
from godb_arrow.codec.blocks import Compressed, Content, compress_block
from godb_arrow.codec.reference.lz4 import Piece
from godb_arrow.query.update import Update
from godb_arrow.schema import DocumentSummary, infer_schema

JSON = pa.json_(pa.string())
PLANS = [
    plan_columns(pa.schema(fields), on_mismatch=mismatch)
    for mismatch in ("error", "null")
    for fields in (
        {"a": pa.int64(), "b": pa.string(), "_id": pa.string()},
        {"a": JSON, "b": JSON, "c": JSON},
        {"a": pa.list_(pa.float64()), "b": pa.map_(pa.string(), JSON), "c": pa.timestamp("ns")},
        {"a": pa.struct({"x": pa.uint64(), "y": pa.list_(pa.binary())}), "b": pa.bool_()},
    )
]

ID_FIELD = pack("_id")
PATCHES = [
    Update(changes).patch
    for changes in (
        {"$set": {"a": 1, "b.x": "y"}},
        {"$unset": {"a": 1, "b.x": 1}},
        {"$inc": {"a": 1, "b": -1.5, "c.k.deep": 2}},
        {"$min": {"a": 2**63}, "$max": {"b": 0.5}},
        {"$set": {"a.x.y": None}, "$inc": {"b.x": 1}, "$unset": {"c": 1}},
    )
]


def corpus() -> list[bytes]:
    """Return entries with every kind of value."""
    values: list[Any] = [
        None, True, 0, -1, 127, 128, -33, 2**31, 2**63, 2**64 - 1, -(2**63), 1.5, float("nan"),
        "", "text", "é" * 20, "x" * 300, b"", b"\xff" * 40, msgpack.Timestamp(1, 2),
        msgpack.Timestamp(2**40, 0), msgpack.ExtType(5, b"abc"), [], [1, "a", [None]], {},
        {"x": 1, "y": [b"z"]}, {1: 2, "k": {"deep": [1.5]}}, {"$time": 1}, list(range(20)),
    ]  # fmt: skip
    found = []
    for first in values:
        for second in (first, 1, "x", {"x": 2, "y": [b"q"]}):
            documents = [{"a": first, "b": second}, {"b": first, "c": second}, {"a": None}]
            found.append(b"".join(pack_entry(str(n), d) for n, d in enumerate(documents)))
    return found


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind == 2:
            del changed[at : at + rng.randrange(1, 6)]
        elif kind == 3:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            changed[at:at] = other[start : start + rng.randrange(30)]
        elif kind == 4:
            heads = b"\xdf\xdd\xdb\xc6\xc9\xd6\xd7\xc7\xc1\x8f\x9f\xbf"
            changed[at:at] = bytes([rng.choice(heads)]) + rng.randbytes(rng.randrange(5))
        else:
            del changed[at:]
    return bytes(changed)


def outcome(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except GodbError as error:
        str(error)
        return type(error)


def summary_of(module: Any, entries: Entries) -> Any:
    summary = DocumentSummary()
    bounds = outcome(module.infer_with_bounds, entries, summary)
    return bounds if isinstance(bounds, type) else (infer_schema(summary), bounds)


def same(left: pa.Array, right: pa.Array) -> bool:
    """Return whether two arrays have the same values; NaN equals NaN, unlike in ``equals``."""
    if left.equals(right):
        return True
    try:
        return str(left.to_pylist()) == str(right.to_pylist())
    except (ValueError, OverflowError):  # a timestamp that a datetime cannot hold
        return str(left) == str(right)


def check(data: bytes, plan: Any) -> str:
    """Compare the two codecs on one input; the name of what happened."""
    both = [outcome(m.scan_entries, data, 0, 100, len(data) + 1, 0) for m in (native, reference)]
    extents = [outcome(m.scan_extent, data, 0, 100, len(data) + 1, 0) for m in (native, reference)]
    assert extents[0] == extents[1], extents
    if isinstance(both[0], type) or isinstance(both[1], type):
        assert both[0] == both[1], (both, data.hex())
        return f"scan {both[0].__name__}"
    assert both[0].bounds == both[1].bounds, data.hex()
    entries = both[0]
    if not len(entries):
        return "no document"
    schemas = [summary_of(module, entries) for module in (native, reference)]
    assert schemas[0] == schemas[1], (schemas, data.hex())
    check_dicts(entries, random.Random(len(data)))
    check_patches(entries)
    plans = [plan]
    if not isinstance(schemas[0], type):
        plans.append(plan_columns(schemas[0][0], strict=True))
    for one in plans:
        arrays = [outcome(module.decode, entries, one) for module in (native, reference)]
        if isinstance(arrays[0], type) or isinstance(arrays[1], type):
            assert arrays[0] == arrays[1], (arrays, one.schema, data.hex())
            return f"decode {arrays[0].__name__}"
        for left, right in zip(*arrays, strict=True):
            left.validate(full=True)
            assert same(left, right), (left, right, data.hex())
        check_blocks(entries, one)
    return "decoded"


def check_blocks(entries: Entries, plan: Any) -> None:
    """Compare many copies of the documents, which the kernel decodes column by column."""
    data = bytes(entries.raw())
    many, count = data * 20, len(entries) * 20
    scanned = native.scan_entries(many, 0, count, len(many) + 1, 0)
    unscanned = UnscannedEntries(many, count, lambda *_: scanned)
    columns = [module.decode_unscanned(unscanned, plan) for module in (native, reference)]
    assert (columns[0] is None) == (columns[1] is None), data.hex()
    if columns[0] is not None:
        for left, right, third in zip(*columns, native.decode(scanned, plan), strict=True):
            left.validate(full=True)
            assert same(left, right), (left, right, data.hex())
            assert same(left, third), (left, third, data.hex())


def check_fronts(data: bytes, plan: Any, rng: random.Random) -> None:
    """Compare the fronts of documents, many of each, with the whole of them; edges may be wrong."""
    many = data * rng.randrange(1, 30) + FILLER
    count = rng.randrange(120)
    sizes = [module.measure(many, count) for module in (native, reference)]
    assert (sizes[0] is None) == (sizes[1] is None), (count, data.hex())
    found = native.scan_entries
    try:
        entries = found(many, 0, count, len(many) + 1, 0)
    except GodbError:
        entries = Entries(many, array("q", [0, 2, len(many)]))
    edges = np.frombuffer(entries.bounds, np.int64)[::2].copy()
    right = sizes[0] is not None or rng.random() < 0.5
    if not right:
        at = rng.randrange(len(edges))
        edges[at] += rng.choice([-1, 1, 3, -9, 1 << 20, -(1 << 20), 1 << 62])

    def scan(part: bytes, number: int, fields: tuple[str, ...]) -> Entries:
        made: Entries = found(part, 0, number, len(part) + 1, 0, fields)
        return made

    front = native.decode_front(MeasuredEntries(many, edges, 0, scan), plan)
    if sizes[0] is None:
        return  # whatever it is: it does not read what it must not
    whole = outcome(reference.decode, entries, plan)
    assert sizes[0].tolist() == sizes[1].tolist()
    assert front is not None or isinstance(whole, type) or len(plan.columns) == 0
    for left, one in zip(front or [], [] if isinstance(whole, type) else whole, strict=False):
        assert same(left, one), (left, one, data.hex())


def check_dicts(entries: Entries, rng: random.Random) -> None:
    """Compare the documents of both codecs as dicts and encoded again, all of them and some."""
    chosen = sorted(rng.sample(range(len(entries)), rng.randrange(len(entries) + 1)))
    for rows in (None, np.array(chosen, np.int64)):
        loaded = [_dicts(module, entries, rows) for module in (native, reference)]
        assert loaded[0] == loaded[1], (loaded, bytes(entries.raw()).hex())


def check_patches(entries: Entries) -> None:
    """Compare updates of the documents in MessagePack, each of which gets its id as a field."""
    for row in range(len(entries)):
        document, bounds = bytes(entries.document(row)), entries.bounds
        if not 0x80 <= document[0] < 0x8F:
            continue
        identity = bytes(entries.data[bounds[2 * row] : bounds[2 * row + 1]])
        whole = identity + bytes([document[0] + 1]) + ID_FIELD + identity + document[1:]
        given = outcome(reference.scan_entries, whole, 0, 1, len(whole) + 1, 0)
        if isinstance(given, type) or not len(given):
            continue
        for steps in PATCHES:
            patched = [
                module.patch_documents(given, np.arange(1), steps) for module in (native, reference)
            ]
            assert (patched[0] is None) == (patched[1] is None), (steps, whole.hex())
            if patched[0] is not None:
                assert patched[0].data == patched[1].data, (steps, whole.hex())
                assert len(patched[0].changed) == len(patched[1].changed), (steps, whole.hex())


def _dicts(module: Any, entries: Entries, rows: Any) -> list[str]:
    found = []
    at, count = 0, len(entries) if rows is None else len(rows)
    while at < count:
        documents = module.load_documents(entries, rows, at)
        for document in documents:
            found += [repr(document), repr(outcome(module.pack, document))]
        if not documents:  # one for the reference codec
            index = at if rows is None else int(rows[at])
            document = outcome(module.load, bytes(entries.document(index)))
            is_dict = isinstance(document, dict)
            document = with_id(document, entries.id(index)) if is_dict else document
            found += [repr(document), repr(outcome(module.pack, document) if is_dict else None)]
        at += max(1, len(documents))
    return found


FILLER = b"".join(pack_entry(str(n), {"z": "z" * 200}) for n in range(40))


def blocks(seeds: list[bytes]) -> list[tuple[bytes, list[Piece]]]:
    """Return LZ4 blocks of several pieces, with all kinds of matches, and the pieces' positions."""
    rng = random.Random(9)
    found = []
    for _ in range(8):
        contents = [
            b"".join(rng.choice(seeds) * rng.choice((1, 2, 60)) for _ in range(rng.randrange(1, 5)))
            + rng.randbytes(rng.choice((0, 3, 600)))
            for _ in range(rng.randrange(1, 5))
        ]
        compressed: list[Compressed] = []

        def ending(made: list[Compressed], kept: list[Compressed] = compressed) -> list[bytes]:
            kept += made
            return [b"be", b"hind"]

        given = map(Content, contents)

        def compress(content: bytes) -> tuple[bytes, bytes]:
            return native.compress_piece(content, None, False)

        block = b"".join(compress_block(compress, given, ending=ending))
        pieces = []
        at = skip = 0
        for length, tail, size, *_ in compressed:
            pieces.append(Piece(at, length, skip, tail, size))
            at, skip = at + length, tail + (0 if length else skip)
        found.append((block, pieces))
    return found


def check_pieces(block: bytes, pieces: list[Piece], rng: random.Random) -> None:
    """Compare the two codecs on a damaged block, or on a piece that is not where it is said."""
    damaged = bytearray(block)
    for _ in range(rng.randrange(4)):
        damaged[rng.randrange(len(block))] = rng.choice((0, 0xFF, 0xF0, rng.randrange(256)))
    piece = rng.choice(pieces)
    if rng.random() < 0.5:
        name = rng.choice(Piece._fields)
        value = getattr(piece, name) + rng.choice((1, -1, 9, -9, 255, 4000))
        piece = piece._replace(**{name: max(0, value)})
    data = bytes(damaged[: rng.choice((len(block), rng.randrange(len(block) + 1)))])
    both = [outcome(module.decode_pieces, data, [piece]) for module in (native, reference)]
    assert both[0] == both[1], (data.hex(), piece)


def main(executions: int, seed: int) -> None:
    rng = random.Random(seed)
    seeds = corpus()
    in_pieces = blocks(seeds)
    outcomes: Counter[str] = Counter()
    for _ in range(executions):
        check_pieces(*rng.choice(in_pieces), rng)
        data, plan = mutate(rng.choice(seeds), seeds, rng), rng.choice(PLANS)
        outcomes[check(data, plan)] += 1
        check_fronts(data, plan, rng)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
