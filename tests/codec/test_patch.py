"""Updates of MessagePack: the kernel, the reference codec and updates of dicts agree."""

from __future__ import annotations

import datetime as dt
import math
import random
import struct
import sys
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from support.settings import LONG, examples

from godb_arrow import codec
from godb_arrow.codec.reference import patch as reference
from godb_arrow.errors import GodbError
from godb_arrow.query.update import Update
from godb_arrow.snapshots.entry_runs import scan

ROUNDS = examples(3000, long=40_000)
NAMES = ["a", "b", "c", "a.b", "b.c", "a.b.c", "_ids", "x" * 40, "é", "0"]
AT = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
NUMBERS = [
    0, 1, -1, 31, -32, -33, 127, 128, 255, 256, 65535, 65536, -129, 2**31, 2**32, -(2**31) - 1,
    2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 0.5, -1.5, 1e300, 2.0**53,
    2.0**63, 2.0**64, 2.0**65, -(2.0**63), -(2.0**65), math.inf, -math.inf, math.nan, 5e-324,
]  # fmt: skip
SCALARS = [
    *NUMBERS, None, True, False, "", "text", "é" * 20, "x" * 300, b"", b"\xff" * 300, AT,
    AT + dt.timedelta(microseconds=1), dt.datetime(1, 1, 1, tzinfo=dt.UTC), msgpack.Timestamp(1, 1),
    msgpack.Timestamp(2**40, 5), msgpack.ExtType(5, b"xx"),
]  # fmt: skip


def some_value(rng: random.Random, depth: int) -> Any:
    chance = rng.random()
    if depth and chance < 0.25:
        return {
            rng.choice(NAMES): some_value(rng, depth - 1)
            for _ in range(rng.choice([0, 1, 2, 3, 17]))
        }
    if depth and chance < 0.35:
        return [some_value(rng, depth - 1) for _ in range(rng.randrange(3))]
    return rng.choice(SCALARS)


def packed(rng: random.Random, value: Any, oddity: float) -> bytes:
    """Pack a value, sometimes in a longer form than necessary, and with repeated keys."""
    if rng.random() >= oddity:
        if isinstance(value, dict):
            head = codec.pack(dict.fromkeys(range(len(value))))[: 1 if len(value) < 16 else 3]
            return head + b"".join(
                packed(rng, key, oddity) + packed(rng, item, oddity) for key, item in value.items()
            )
        return codec.pack(value)
    if isinstance(value, dict):
        items = list(value.items())
        items += rng.sample(items, k=min(1, len(items)))
        pairs = [packed(rng, k, oddity) + packed(rng, v, oddity) for k, v in items]
        return b"\xdf" + len(pairs).to_bytes(4, "big") + b"".join(pairs)
    if isinstance(value, str):
        raw = value.encode() + rng.choice([b"", b"\xff"])
        return b"\xdb" + len(raw).to_bytes(4, "big") + raw
    if isinstance(value, float):
        return b"\xca" + struct.pack(">f", rng.choice([value if abs(value) < 1e30 else 1.5, 2]))
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return b"\xcf" + value.to_bytes(8, "big")
    if value is AT:
        return rng.choice([b"\xc7\x04\xff", b"\xc7\x0c\xff" + b"\xff" * 8]) + b"\x00\x00\x00\x01"
    return codec.pack(value)


def some_changes(rng: random.Random) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for _ in range(rng.choice([1, 1, 2, 3])):
        operator = rng.choice(["$set", "$set", "$unset", "$inc", "$min", "$max"])
        path = ".".join(rng.choice(NAMES) for _ in range(rng.choice([1, 1, 2, 3])))
        is_number = operator in ("$inc", "$min", "$max")
        value = rng.choice(NUMBERS) if is_number else some_value(rng, 2)
        changes.setdefault(operator, {})[path] = value
    return changes


def other_codec() -> list[Any]:
    return [] if codec.BACKEND == "reference" else [codec.patch_documents]


def patched_alike(entries: Any, update: Update) -> Any:
    """Change all documents with both codecs, and return what both return."""
    assert update.patch is not None
    rows = np.arange(len(entries))
    patched = reference.patch_documents(entries, rows, update.patch)
    for patch in other_codec():
        other = patch(entries, rows, update.patch)
        assert (other is None) == (patched is None), update.patch
        if patched is not None:
            assert other.data == patched.data, update.patch
            assert other.changed.tolist() == patched.changed.tolist()
    return patched


def updated(entries: Any, update: Update) -> tuple[bytes, list[int]]:
    """Change all documents as dicts, and return the changed entries and their rows."""
    data, changed = b"", []
    for row in range(len(entries)):
        document = codec.load(entries.document(row))
        if update.apply(document):
            changed.append(row)
            data += codec.pack(entries.id(row)) + codec.pack(document)
    return data, changed


def check_patched(document: dict[str, Any], changes: Any) -> None:
    """Check that a document can be changed in MessagePack, and becomes what a dict becomes."""
    entries, update = scan(b"\xa11" + codec.pack({"_id": "1", **document}), 1), Update(changes)
    patched, (data, changed) = patched_alike(entries, update), updated(entries, update)
    assert patched is not None
    assert (patched.changed.tolist(), patched.data) == (changed, data)


@pytest.mark.parametrize("oddity", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(4))
def test_all_ways_have_the_same_result(seed: int, oddity: float) -> None:
    rng = random.Random(f"{seed} {oddity}")
    known = done = unchanged = 0
    for _ in range(ROUNDS // 8):
        try:
            update = Update(some_changes(rng))
        except GodbError:  # two operators conflict
            continue
        if update.patch is None:
            continue
        documents = []
        for key in range(rng.choice([1, 1, 2])):
            content = some_value(rng, 3)
            pairs = [("_id", str(key)), *(content.items() if isinstance(content, dict) else ())]
            if rng.random() < 0.3:
                rng.shuffle(pairs)
            documents.append(codec.pack(str(key)) + packed(rng, dict(pairs), oddity))
        entries = scan(b"".join(documents), len(documents))
        patched = patched_alike(entries, update)
        if patched is None:
            known += 1
            continue
        expected, changed = updated(entries, update)
        assert patched.changed.tolist() == changed, update.patch
        found = scan(patched.data, len(changed))
        assert list(found.ids()) == [str(row) for row in changed]
        if not oddity:
            assert patched.data == expected, update.patch
        wanted = scan(expected, len(changed))
        for at in range(len(changed)):
            again = codec.pack(codec.load(found.document(at)))
            assert again == wanted.document(at), update.patch
        done += 1
        unchanged += not changed
    assert min(done, known, unchanged) > ROUNDS // 400


@pytest.mark.parametrize("fields", [14, 15, 16, 2**16 - 2, 2**16 - 1])
def test_heads_of_maps_grow_and_shrink(fields: int) -> None:
    whole = {str(number): 0 for number in range(fields)}
    check_patched(whole, {"$set": {"new": 1}})
    check_patched({"m": {**whole, "last": 0}}, {"$unset": {"m.0": 1}})


@pytest.mark.parametrize("size", [15, 16, 31, 32, 255, 256, 2**16 - 1, 2**16])
def test_values_of_each_size_are_replaced(size: int) -> None:
    for value in ([0] * size, "x" * size, b"x" * size):
        check_patched({"a": value, "b": 1}, {"$set": {"a": 1}})
        check_patched({"a": 1, "b": 1}, {"$set": {"a": value}})


def test_maps_of_64_fields_are_replaced_without_a_dict() -> None:
    most = {str(number): 0 for number in range(64)}
    check_patched({"a": most}, {"$set": {"a": 1}})
    check_patched({"a": {**most, "more": 0}}, {"$set": {"b": 1}})


@pytest.mark.parametrize(
    "value",
    [
        codec.pack({str(number): 0 for number in range(65)}),
        b"\x82\xa1k\x01\xa1k\x01",  # a repeated field
        b"\x91\xcc\x01",  # not in its shortest form
        b"\xdc\x00\x01\x01",
        b"\xde\x00\x01\xa1k\x01",
        b"\x81\x01\x01",  # a key that is no string
        b"\xcb\x7f\xf8" + bytes(6),  # NaN
    ],
)
def test_values_that_others_may_equal_are_replaced_as_dicts(value: bytes) -> None:
    entries = scan(b"\xa11\x82\xa3_id\xa11\xa1a" + value, 1)
    assert patched_alike(entries, Update({"$set": {"a": 1}})) is None
    assert patched_alike(entries, Update({"$set": {"b": 1}})) is not None


def test_documents_with_an_id_in_a_longer_form_are_decoded() -> None:
    entries = scan(b"\xd9\x011\x82\xa3_id\xd9\x011\xa1n\x01", 1)
    assert patched_alike(entries, Update({"$inc": {"n": 1}})) is None


@pytest.mark.parametrize("operator", ["$min", "$max"])
@pytest.mark.parametrize(
    ("before", "same"),
    [(1, 1.0), (1.0, 1), (0.0, -0.0), (0, -0.0), (2**53, 2.0**53), (2.0**63, 2**63), (-5, -5.0)],
)
def test_an_equal_number_of_another_type_stays(operator: str, before: Any, same: Any) -> None:
    check_patched({"n": before}, {operator: {"n": same}})


def test_untouched_values_keep_their_bytes() -> None:
    odd = b"\xa1f\xca\x3f\x80\x00\x00" + b"\xa1e\xc7\x01\x07x" + b"\xa1s\xa1\xff"
    document = b"\x85\xa3_id\xa11" + odd + b"\xa1n\x01"
    entries = scan(b"\xa11" + document, 1)
    for patch in [reference.patch_documents, *other_codec()]:
        update = Update({"$inc": {"n": 1}, "$set": {"x": 5}}).patch
        patched = patch(entries, np.arange(1), update)
        assert patched is not None
        assert patched.data == b"\xa11\x86\xa3_id\xa11" + odd + b"\xa1n\x02\xa1x\x05"


@pytest.mark.parametrize(
    "document",
    [
        b"\x81\xa1n\x01",  # no id
        b"\x82\xa3_id\xa12\xa1n\x01",  # another id
        b"\x82\xa3_id\x01\xa1n\x01",
        b"\x83\xa3_id\xa11\xa3_id\xa11\xa1n\x01",
        b"\x83\xa3_id\xa11\xa1n\x01\xa1n\x01",  # a repeated field
        b"\x82\xa3_id\xa11\xa1n\x91\x01",  # a list
        b"\x82\xa3_id\xa11\xa1n\xc3",
        b"\x82\xa3_id\xa11\xa1n\xcc\x01",  # not in its shortest form
        b"\x82\xa3_id\xa11\xa1n\xcf\xff\xff\xff\xff\xff\xff\xff\xff",  # the sum is too large
    ],
)
def test_other_documents_are_decoded(document: bytes) -> None:
    entries = scan(b"\xa11" + document, 1)
    update = Update({"$inc": {"n": 1}}).patch
    assert update is not None
    for patch in [reference.patch_documents, *other_codec()]:
        assert patch(entries, np.arange(1), update) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"$push": {"a": 1}}, {"$rename": {"a": "b"}}, {"$set": {"_id": "1"}}, {"$min": {"a": "x"}},
        {"$inc": {"a": math.nan}}, {"$set": {"a": [[[]]] * 2, "b": {"c": 1}}, "$pull": {"d": 1}},
        {"$set": {".".join("a" * 40): 1}}, {"$set": {"\ud800": 1}},
    ],
)  # fmt: skip
def test_other_changes_decode_documents(changes: Any) -> None:
    assert Update(changes).patch is None


def test_damaged_documents_are_changed_alike() -> None:
    pytest.importorskip("godb_arrow.codec.native")
    sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
    from differential import check_patches, corpus, mutate

    seeds, rng = corpus(), random.Random(5)
    for seed in seeds:
        for data in (seed, *(mutate(seed, seeds, rng) for _ in range(20 if LONG else 4))):
            try:
                entries = codec.scan_entries(data, 0, 100, len(data) + 1, 0)
            except GodbError:
                continue
            check_patches(entries)


def test_rows_are_checked() -> None:
    entries = scan(b"\xa11\x81\xa3_id\xa11", 1)
    for patch in [reference.patch_documents, *other_codec()]:
        with pytest.raises(IndexError):
            patch(entries, np.array([1]), ())
