"""Documents that the kernel decodes column by column become what the reference codec makes of them.

The documents of a block have other keys, orders, types and nesting than their neighbours. They are
decoded scanned and unscanned, as they are and damaged.
"""

from __future__ import annotations

import random
import sys
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.documents import document, packed
from support.settings import for_seeds

from godb_arrow import GodbError
from godb_arrow.codec import Entries, UnscannedEntries, pack, plan_columns, reference
from godb_arrow.errors import CorruptFile
from godb_arrow.schema import DocumentSummary, infer_schema

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
from differential import same

PADDING = bytes(2_000)  # so that no document is near the end of the bytes

native = pytest.importorskip("godb_arrow.codec.native")


def outcome(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except GodbError as error:
        return str(error)


def unscanned(data: bytes, count: int) -> UnscannedEntries:
    def scan(part: bytes | memoryview, documents: int) -> Entries:
        entries: Entries = native.scan_entries(part, 0, documents, len(part) + 1, 0)
        if len(entries) != documents or entries.bounds[-1] != len(part):
            raise CorruptFile("other documents")
        return entries

    return UnscannedEntries(data, count, scan)


def compare(data: bytes, entries: Entries, plan: Any) -> None:
    left, right = outcome(native.decode, entries, plan), outcome(reference.decode, entries, plan)
    whole = data[: entries.bounds[-1]]
    fused = native.decode_unscanned(unscanned(whole, len(entries)), plan)
    assert (fused is None) == isinstance(left, str), left
    if isinstance(left, str) or isinstance(right, str):
        assert isinstance(left, str), (left, right)
        assert isinstance(right, str), (left, right)
        # The reference codec looks for other fields first, but in the same document.
        assert left.split(",")[0].split(" has")[0] == right.split(",")[0].split(" has")[0]
        return
    for one, other, third in zip(left, right, fused, strict=True):
        one.validate(full=True)
        third.validate(full=True)
        assert same(one, other)
        assert same(third, other)


@for_seeds(80, long=5_000)
def test_blocks_of_documents_are_decoded_like_single_ones(seed: int) -> None:
    rng = random.Random(seed)
    kinds = [document(rng) for _ in range(rng.choice([1, 1, 2, 30]))]
    kind, parts = kinds[0], []
    for number in range(rng.choice([1, 5, 40, 80])):
        kind = rng.choice(kinds) if rng.random() < 0.2 else kind
        parts.append(pack(rng.choice(["", "n", "id" * 20]) + str(number)) + packed(kind()))
    data = b"".join(parts) + rng.choice([b"", PADDING, PADDING])
    entries = native.scan_entries(data, 0, len(parts), len(data) + 1, 0)
    assert len(entries) == len(parts)
    summary, first = DocumentSummary(), DocumentSummary()
    reference.infer(entries, summary)
    reference.infer(entries.between(0, 1 + len(parts) // 3), first)
    schemas = [infer_schema(summary), infer_schema(first)]
    names = rng.sample(schemas[0].names, rng.randrange(1, len(schemas[0].names) + 1))
    schemas.append(pa.schema([schemas[0].field(name) for name in names]))
    for schema in schemas:
        strict, exact = rng.random() < 0.5, rng.random() < 0.5
        compare(data, entries, plan_columns(schema, strict=strict, exact=exact))
        compare(data, entries, plan_columns(schema, on_mismatch="null"))


@for_seeds(60, long=5_000)
def test_damaged_blocks_are_refused_like_single_documents(seed: int) -> None:
    rng = random.Random(seed)
    kind = document(rng)
    data = bytearray()
    for number in range(40):
        data += pack(str(number)) + packed(kind())
    for _ in range(rng.choice([0, 1, 1, 5])):
        data[rng.randrange(len(data))] = rng.choice([rng.randrange(256), 0xC1, 0xDF, 0xD6, 0xC0])
    damaged = bytes(data) + rng.choice([b"", PADDING])
    entries = outcome(native.scan_entries, damaged, 0, 40, len(damaged) + 1, 0)
    if isinstance(entries, str):
        assert native.decode_unscanned(unscanned(damaged, 40), plan_columns(pa.schema([]))) is None
        return
    summary = DocumentSummary()
    failed = outcome(reference.infer, entries, summary)
    schema = pa.schema({"a": pa.int64(), "b": pa.string()}) if failed else infer_schema(summary)
    for strict in (False, True):
        compare(damaged, entries, plan_columns(schema, strict=strict))


def test_blocks_and_long_lists_are_joined() -> None:
    rng = random.Random(1)
    data = b""
    for n in range(2500):
        found = {
            "a": n,
            "b": "x" * (n % 40),
            "c": [n, None] * (n % 4),
            "d": {"e": n / 2, "f": True},
        }
        if n == 1500:
            found["c"] = list(range(5000))
        if n % 700 == 99:
            found["d"] = found["a"] = None
        data += pack(str(n)) + pack(dict(rng.sample(list(found.items()), 4)))
    entries = native.scan_entries(data, 0, 2500, len(data) + 1, 0)
    summary = DocumentSummary()
    native.infer(entries, summary)
    compare(data, entries, plan_columns(infer_schema(summary), strict=True, exact=True))


def test_entries_of_another_number_or_size_are_not_decoded_unscanned() -> None:
    data = b"".join(pack(str(n)) + pack({"a": n}) for n in range(1000))
    plan = plan_columns(pa.schema({"_id": pa.string(), "a": pa.int64()}), strict=True)
    whole = native.decode_unscanned(unscanned(data, 1000), plan)
    assert [made.to_pylist()[-1] for made in whole] == ["999", 999]
    for part, count in ((data, 999), (data, 1001), (data[:-1], 1000), (data + b"\xa1", 1000)):
        assert native.decode_unscanned(unscanned(part, count), plan) is None
    assert [len(made) for made in native.decode_unscanned(unscanned(b"", 0), plan)] == [0, 0]


@pytest.mark.parametrize("key", [b"\xa1\xff", b"\x07", b"\xc4\x01k"])
def test_fields_of_keys_that_are_no_text_are_found_in_blocks(key: bytes) -> None:
    pairs = (key + pack(n) + pack("a") + pack(n) for n in range(40))
    data = b"".join(pack(str(n)) + b"\x82" + pair for n, pair in enumerate(pairs)) + PADDING
    entries = native.scan_entries(data, 0, 40, len(data), 0)
    summary = DocumentSummary()
    native.infer(entries, summary)
    schema = infer_schema(summary)
    assert len(schema) == 3
    compare(data, entries, plan_columns(schema))
    compare(data, entries, plan_columns(schema, strict=True))


def test_schemas_that_nest_deeper_than_documents_are_not_followed() -> None:
    kind: pa.DataType = pa.int64()
    for _ in range(200):
        kind = pa.struct({"a": kind, "b": pa.list_(pa.int64())})
    plan = plan_columns(pa.schema({"a": kind}))
    rows: list[Any] = [None, {"a": None}, {"a": {"b": [1]}}, {}]
    data = b"".join(pack(str(n)) + pack({"a": rows[n % 4]}) for n in range(40)) + PADDING
    entries = native.scan_entries(data, 0, 40, len(data), 0)
    compare(data, entries, plan)


def test_the_nulls_of_structs_are_counted_in_blocks_too() -> None:
    kind: pa.DataType = pa.struct({f"f{n}": pa.int64() for n in range(60)})
    wide = pa.struct({f"s{n}": kind for n in range(60)})
    data = (pack("1") + pack({"a": {"s1": None}})) * 20_000
    edges = np.arange(20_001) * (len(data) // 20_000)
    bounds = array("q", np.repeat(edges, 2)[:-1].tolist())
    bounds[1::2] = array("q", (edges[:-1] + 2).tolist())
    entries = Entries(data, bounds, 0)
    failed = outcome(native.decode, entries, plan_columns(pa.schema({"a": wide})))
    assert "structs are nearly all null" in failed
