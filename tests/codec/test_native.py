"""The kernel and the reference codec agree: on schemas, batches and errors, for any bytes."""

from __future__ import annotations

import itertools
import os
import random
import re
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.settings import examples, for_seeds
from support.strategies import raw_values, tables

from godb_arrow import CorruptFile, GodbError, codec
from godb_arrow.codec import (
    BACKEND,
    Entries,
    MeasuredEntries,
    finish,
    pack,
    pack_entry,
    plan_columns,
    reference,
)
from godb_arrow.codec.sizes import pack_sizes
from godb_arrow.documents.ids import ids_of
from godb_arrow.schema import DocumentSummary, FieldSummary, Kind, infer_schema, infer_type

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
from differential import same

native = pytest.importorskip("godb_arrow.codec.native")


def test_the_kernel_is_what_runs() -> None:
    if os.environ.get("GODB_ARROW_CODEC") != "reference":
        assert BACKEND == "native"


class Failed:
    """What an error says, but for its words."""

    def __init__(self, error: GodbError) -> None:
        self.kind = type(error)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Failed) and other.kind is self.kind

    def __hash__(self) -> int:
        return hash(self.kind)

    def __repr__(self) -> str:
        return f"Failed({self.kind.__name__})"


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except GodbError as error:
        str(error)
        return Failed(error)


documents = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "_id", "long name of a field", "$time"]),
                    raw_values, max_size=5),
    max_size=5,
)  # fmt: skip


def entries_of(found: list[dict[str, Any]]) -> bytes:
    return b"".join(pack_entry(f"d{n}", document) for n, document in enumerate(found))


@st.composite
def entry_bytes(draw: st.DrawFn) -> bytes:
    """Entries, often damaged."""
    data = bytearray(entries_of(draw(documents)))
    for _ in range(draw(st.integers(0, 3))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            data[at] = draw(st.integers(0, 255))
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = draw(st.sampled_from([b"\xd6\xff", b"\xc7\x0c\xff", b"\xc1", b"\xdf",
                                                b"\x81", b"\xd4\xfb", b"\x91" * 130]))  # fmt: skip
        else:
            data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


def scan(module: Any, data: bytes, count: int = 100) -> Any:
    found = outcome(module.scan_entries, data, 0, count, len(data) + 1, 7)
    return found if isinstance(found, Failed) else found.bounds


@given(entry_bytes(), st.integers(0, 6))
def test_the_same_documents_are_found(data: bytes, count: int) -> None:
    assert scan(native, data, count) == scan(reference, data, count)


@given(entry_bytes(), st.integers(0, 6), st.integers(0, 90))
def test_the_same_documents_are_counted(data: bytes, count: int, max_bytes: int) -> None:
    """From the beginning, and from the second document on, if there is one."""
    first = scan(reference, data, 1)
    for start in {0} if isinstance(first, Failed) else {0, first[-1]}:
        limits = data, start, count, max_bytes, 7
        entries = outcome(reference.scan_entries, *limits)
        found = [outcome(module.scan_extent, *limits) for module in (native, reference)]
        assert found[0] == found[1]
        if isinstance(entries, Failed):
            assert found[0] == entries
        else:
            assert found[0] == (len(entries), entries.bounds[-1])


@pytest.mark.parametrize("size", [0, 1, 70_000, 5 << 20])
def test_copies_do_not_follow_their_source(size: int) -> None:
    for module in (native, reference):
        source = bytearray(random.Random(size).randbytes(size))
        found = module.copied(memoryview(source)[1:])
        expected = bytes(source[1:])
        source[:] = bytes(size)
        assert type(found) is bytes
        assert found == expected


@given(entry_bytes())
def test_the_same_documents_are_damaged(data: bytes) -> None:
    found = outcome(native.scan_entries, data, 0, 100, len(data) + 1, 7)
    if not isinstance(found, Failed):
        checked = native.check_entries(found)
        assert checked == reference.check_entries(found)
        assert (checked.hashes, checked.greatest) == native.survey_ids(ids_of(found))
        for row in range(len(found)):
            is_damaged = isinstance(outcome(codec.load, found.document(row)), Failed)
            assert is_damaged == (row in checked.damaged)


REPEATED: list[tuple[bytes, bytes]] = [
    (pack("at"), b"\xd6\xff\0\0\0\1"),
    (pack("at"), b"\xd6\xfb\0\0\0\1"),  # a reserved extension
    (pack("at"), b"\xd4\xff\0"),  # a timestamp of one byte
    (pack("at"), b"\xc7\0\xff"),  # a timestamp of no bytes
    (pack("n"), pack(5)),
    (pack("n"), pack(-70_000)),
    (pack("_id"), pack("7")),
    (pack("_id"), pack("d7")),
    (pack("_id"), pack(7)),
    (pack("_id"), pack("70")),
    (pack("n"), pack([1, {"_id": "x"}])),
    (pack("n"), pack({"_id": "x"})),
    (pack("at"), b"\xc7\1\xff\0"),
    (b"\xa1\xff", pack(1)),
    (b"\xc0", pack(1)),
    (pack("a key of more than sixteen bytes"), pack("x" * 40)),
]
"""Fields of which documents have some, often the same ones."""


@for_seeds(50, long=2000)
def test_documents_that_repeat_a_layout_are_checked_alike(seed: int) -> None:
    chance = random.Random(seed)
    # Damaged documents hide whether others have odd keys.
    pool = chance.choice([REPEATED, [pair for pair in REPEATED if pair[0] != pack("at")]])
    unlike = chance.choice([0, 0.005, 0.1])
    layouts = [chance.sample(pool, chance.randrange(8)) for _ in range(3)]
    packed = []
    for _ in range(200):
        pairs = [*chance.choice(layouts)]
        if pairs and chance.random() < unlike:
            pairs[chance.randrange(len(pairs))] = chance.choice(pool)
        if chance.random() < unlike / 2:
            pairs.extend(chance.choices(pool, k=chance.choice([1, 2, 20])))
        head = msgpack.Packer().pack_map_header(len(pairs))
        identity = chance.choice(["7", "d7", "123456789", "9" * 18, "é" * 20])
        packed.append(pack(identity) + head + b"".join(map(b"".join, pairs)))
    data = b"".join(packed)
    found = reference.scan_entries(data, 0, 200, len(data) + 1, 0)
    assert len(found) == 200
    for entries in (found, found.between(3, 150)):
        checked = native.check_entries(entries)
        assert checked == reference.check_entries(entries)
        assert (checked.hashes, checked.greatest) == native.survey_ids(ids_of(entries))


def test_an_extension_of_four_gigabytes_is_not_one_of_none() -> None:
    """msgpack takes a length of 2^32-1, to which it adds the type's byte, for 0."""
    data = pack("d0") + b"\x82\xa1a\xc9\xff\xff\xff\xff\x05\xa1b\x01" + entries_of([{}])
    for module in (native, reference):
        assert list(scan(module, data)) == [0]
    harmless = entries_of([{"text": b"\xc9\xff\xff\xff\xff"}, {"a": [1, {"b": 2}]}])
    assert scan(native, harmless) == scan(reference, harmless)
    assert len(scan(native, harmless)) == 5


@given(st.binary(max_size=60), st.integers(0, 5))
def test_the_same_values_are_passed_over(data: bytes, items: int) -> None:
    def walk(module: Any) -> Any:
        found = outcome(module.skip_items, data, 0, items)
        return found if isinstance(found, Failed) else _after(data, *found)

    assert walk(native) == walk(reference)


def _after(data: bytes, position: int, items: int, payload: int) -> Any:
    """Where a number is cut off, one stops before it and the other wants its bytes."""
    if payload or position == len(data):
        return "more"
    if items and position < len(data):
        return "more"
    return position, items


def shape(summary: FieldSummary) -> Any:
    return (
        summary.kinds,
        summary.first,
        None if summary.item is None else shape(summary.item),
        {name: shape(child) for name, child in summary.fields.items()},
        list(summary.fields),
    )


def summarise(module: Any, entries: Entries) -> Any:
    summary = DocumentSummary()
    failed = outcome(module.infer, entries, summary)
    return failed if isinstance(failed, Failed) else shape(summary)


def whole(data: bytes) -> Entries | None:
    """The undamaged entries at the front."""
    bounds = scan(reference, data)
    if isinstance(bounds, Failed) or len(bounds) < 3:
        return None
    return Entries(data, bounds, 7)


@given(entry_bytes(), st.integers(0, 5))
def test_the_same_document_is_found(data: bytes, number: int) -> None:
    entries = whole(data)
    if entries is not None:
        for identity in (f"d{number}", "", "nope", entries.id(0)):
            expected = reference.find_entry(entries, identity)
            assert native.find_entry(entries, identity) == expected


@given(entry_bytes())
def test_summaries_agree(data: bytes) -> None:
    entries = whole(data)
    if entries is not None:
        assert summarise(native, entries) == summarise(reference, entries)


SCHEMAS: list[pa.DataType] = [
    pa.int64(), pa.uint64(), pa.float64(), pa.bool_(), pa.string(), pa.binary(), pa.null(),
    pa.timestamp("us", "UTC"), pa.timestamp("ns"), pa.timestamp("s"), pa.json_(pa.string()),
    pa.list_(pa.int64()), pa.list_(pa.json_(pa.string())), pa.struct([("a", pa.int64())]),
    pa.map_(pa.string(), pa.json_(pa.string())), pa.map_(pa.string(), pa.int64()),
    pa.struct([("a", pa.struct([("b", pa.string())])), ("c", pa.list_(pa.string()))]),
    pa.int8(), pa.decimal128(9, 2), pa.dictionary(pa.int32(), pa.string()), pa.date32(),
]  # fmt: skip


@st.composite
def plans(draw: st.DrawFn) -> Any:
    names = draw(st.lists(st.sampled_from(["a", "b", "_id", "new", "$time"]), unique=True))
    schema = pa.schema([(name, draw(st.sampled_from(SCHEMAS))) for name in names])
    strict = draw(st.booleans())
    mismatch = "error" if strict else draw(st.sampled_from(["error", "null"]))
    return plan_columns(schema, strict=strict, on_mismatch=mismatch)


def decoded(module: Any, entries: Entries, plan: Any) -> Any:
    arrays = outcome(module.decode, entries, plan)
    if isinstance(arrays, Failed):
        return arrays
    finished = []
    for made, column in zip(arrays, plan.columns, strict=True):
        made.validate(full=True)
        assert made.type == column.core_type
        finished.append(made)
    return finished


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, Failed) or isinstance(right, Failed):
        return bool(left == right)
    return len(left) == len(right) and all(
        same(one, other) for one, other in zip(left, right, strict=True)
    )


@given(entry_bytes(), plans())
def test_columns_agree_for_any_schema(data: bytes, plan: Any) -> None:
    entries = whole(data)
    if entries is None:
        return
    left, right = decoded(native, entries, plan), decoded(reference, entries, plan)
    assert equal(left, right), (left, right)


@given(entry_bytes(), st.booleans())
def test_columns_agree_for_the_inferred_schema(data: bytes, strict: bool) -> None:
    entries = whole(data)
    if entries is None:
        return
    summary = DocumentSummary()
    if isinstance(outcome(reference.infer, entries, summary), Failed):
        return
    plan = plan_columns(infer_schema(summary), strict=strict)
    left, right = decoded(native, entries, plan), decoded(reference, entries, plan)
    assert not isinstance(left, Failed)
    assert equal(left, right), (left, right)
    for column, made in zip(plan.columns, left, strict=True):
        finish(made, column).validate(full=True)


@given(tables(), st.booleans())
def test_entries_agree_byte_by_byte(table: pa.Table, omit_nulls: bool) -> None:
    for batch in table.to_batches():
        for part in (batch, batch.slice(1), batch.slice(0, 2)):
            ids = pa.array([f"{n}".encode() for n in range(part.num_rows)], pa.binary())
            left = outcome(native.encode, part, ids, omit_nulls)
            right = outcome(reference.encode, part, ids, omit_nulls)
            if isinstance(left, Failed):
                assert left == right
                continue
            assert left[0] == right[0]
            assert left[1].tolist() == right[1].tolist()
            assert sum(right[1].tolist()) == len(right[0])


_NUMBERS = (
    st.integers(0, 10**20) | st.integers(2**62 - 3, 2**62 + 3) | st.integers(10**18 - 3, 10**18 + 3)
).map(lambda number: str(number).encode())
_IDS = st.lists(
    st.binary(max_size=20)
    | _NUMBERS
    | st.builds(lambda front, number: front + number, st.sampled_from([b"0", b"+", b"-"]), _NUMBERS)
    | st.text("0123456789٣५²", max_size=20).map(str.encode)
)


@example([b"", b"\x01"])
@example([b"0", b"00000007", b"0000000000000000007"])
@example([str(2**64 - 1).encode(), str(2**64).encode(), str(2**63).encode()])
@given(_IDS)
def test_ids_are_surveyed_alike(ids: list[bytes]) -> None:
    column = pa.array(ids, pa.binary())
    hashes, greatest = native.survey_ids(column)
    assert (hashes, greatest) == reference.survey_ids(column)
    for raw in ids:
        identity = raw.decode("utf-8", "surrogateescape")
        assert native.hash_id(identity) == reference.hash_id(identity)
    decimals = [int(one) for one in ids if re.fullmatch(rb"[1-9][0-9]{,18}", one)]
    assert greatest == max((one for one in decimals if one < 2**62), default=0)
    assert native.has_equal(hashes) == (len(set(ids)) != len(ids))
    assert reference.has_equal(hashes) == native.has_equal(hashes)


_ORDERS = {
    "random": lambda count: np.random.default_rng(1).integers(0, 1 << 62, count),
    "repeated": lambda count: np.random.default_rng(2).integers(0, 300, count),
    "equal": lambda count: np.full(count, 7),
    "ascending": np.arange,
    "descending": lambda count: np.arange(count)[::-1],
    "peak": lambda count: np.minimum(np.arange(count), np.arange(count)[::-1]),
    # Min values where a sort in steps takes its samples.
    "misleading": lambda count: np.where(np.arange(count) % (count // 63), np.arange(count), 0),
}


@pytest.mark.parametrize("order", _ORDERS)
def test_many_values_are_sorted_alike_in_any_order(order: str) -> None:
    for count in (0, 1, 1000, 150_000):
        values = _ORDERS[order](count if count > 63 else 64)[:count].astype(np.uint64)
        assert native.sort_hashes(values.tobytes()) == reference.sort_hashes(values.tobytes())
    texts = pa.array(values[:70_000]).cast(pa.string()).cast(pa.binary())
    data, _ = native.encode(pa.record_batch({"t": texts.cast(pa.string())}), texts, False)
    builder = native.KeysBuilder(["t"])
    entries = native.scan_entries(data, 0, len(texts), len(data) + 1, 0)
    builder.add(entries)
    _, (strings, _), rows = builder.keys().arrays()
    ends, blob = np.frombuffer(strings[0], np.uint32), np.frombuffer(strings[1], np.uint8)
    found = [blob[a:b].tobytes() for a, b in itertools.pairwise(ends.tolist())]
    pairs = sorted((raw, row) for row, raw in enumerate(texts.to_pylist()))
    assert found == [raw for raw, _ in pairs]
    assert np.frombuffer(rows[2], np.uint32).tolist() == [row for _, row in pairs]


@example([b"1", b"12", b"123456789", b"00000000012"])
@example([b"12345678", b"12345679", b"1234567:", b"\xb1"])
@given(_IDS)
def test_ascending_ids_are_found_alike(ids: list[bytes]) -> None:
    for column in (ids, sorted(ids, key=lambda one: (len(one), one)), sorted(set(ids))):
        for start in (0, 1):
            array = pa.array(column, pa.binary()).slice(start)
            found = native.ids_ascend(array)
            assert found == reference.ids_ascend(array)
            if found is not None:
                assert len(set(column[start:])) == len(column[start:])
                assert found == native.survey_ids(array)[1]


def test_keys_in_any_order_and_number() -> None:
    """More keys than are remembered in order, keys that begin alike, and keys in random order."""
    rng = random.Random(4)
    names = [f"field number {n}" for n in range(400)] + ["", "a", "ab", "abcdefg", "abcdefgh"]
    found = []
    for _ in range(30):
        chosen = rng.sample(names, rng.randrange(len(names)))
        found.append({name: names.index(name) for name in chosen})
    data = entries_of(found)
    entries = Entries(data, scan(native, data), 0)
    assert summarise(native, entries) == summarise(reference, entries)
    plan = plan_columns(pa.schema([(name, pa.int64()) for name in names]))
    assert equal(decoded(native, entries, plan), decoded(reference, entries, plan))


@pytest.mark.parametrize("keys", [9_990, 10_001])
def test_too_many_keys_are_collapsed_alike(keys: int) -> None:
    found = [{"m": {f"k{n}": n if n % 7 else None for n in range(keys)}}, {"m": {"k3": "x"}}]
    data = entries_of(found)
    entries = Entries(data, scan(native, data), 0)
    both = []
    for module in (native, reference):
        summary = DocumentSummary()
        module.infer(entries, summary)
        both.append(infer_schema(summary))
    assert both[0] == both[1]


@given(st.lists(st.lists(st.tuples(st.integers(0, 12), raw_values), max_size=9), max_size=8),
       st.lists(st.integers(0, 12), max_size=3))  # fmt: skip
def test_of_too_many_columns_the_same_are_kept(rows: Any, first: list[int]) -> None:
    found = [{f"k{key}": value for key, value in row} for row in rows]
    both = []
    for module in (native, reference):
        summary = DocumentSummary([f"k{n}" for n in first], limit=6)
        for part in (found[:4], found[4:]):
            data = entries_of(part)
            module.infer(Entries(data, scan(native, data), 0), summary)
        fields = {name: (one.kinds, infer_type(one)) for name, one in summary.fields.items()}
        both.append((list(fields.items()), summary.is_partial))
    assert both[0] == both[1]
    kept, is_partial = both[0]
    present = {name for one in found for name in one} | {f"k{n}" for n in first}
    assert len(kept) <= 6
    assert is_partial == (len(present | ({"_id"} if found else set())) > 6)


def test_of_equal_keys_the_last_wins_in_every_kind_of_column() -> None:
    kinds: list[tuple[Any, Any]] = [
        (1, 2), (True, False), ("a", "bb"), (b"a", b"bb"), (1.5, 2.5), ([1, 2], [3]),
        ({"x": 1, "y": [1]}, {"y": [2, 3]}), (None, 1), (1, None), ("a", None), ([1], None),
        (msgpack.Timestamp(1, 0), msgpack.Timestamp(2, 0)), ({"x": 1}, None),
    ]  # fmt: skip
    raw = b""
    for number, (first, second) in enumerate(kinds):
        field = pack(f"f{number}")
        raw += field + pack(first) + field + pack(second)
    document = b"\xde" + (2 * len(kinds)).to_bytes(2, "big") + raw
    data = (pack("d0") + document) * 3 + entries_of([{}])
    entries = Entries(data, scan(native, data), 0)
    summary = DocumentSummary()
    native.infer(entries, summary)
    plan = plan_columns(infer_schema(summary))
    left = decoded(native, entries, plan)
    assert equal(left, decoded(reference, entries, plan))
    assert [made[0].as_py() for made in left][1] in (2, b"d0", "d0")


def repeating(rng: random.Random, depth: int = 0) -> bytes:
    """Return a map whose keys come again, with values of several types."""
    pairs = []
    for _ in range(rng.randrange(9)):
        key = pack(rng.choice(["a", "b", "c", "unknown"]))
        if depth < 3 and rng.random() < 0.4:
            value = repeating(rng, depth + 1)
        else:
            value = pack(rng.choice([1, 2.5, "x", None, [1], True, 2**63]))
        pairs.append(key + value)
    return b"\xde" + len(pairs).to_bytes(2, "big") + b"".join(pairs)


@for_seeds(300, long=20_000)
def test_of_equal_keys_the_last_decides_also_about_failures(seed: int) -> None:
    rng = random.Random(seed)
    data = b"".join(pack(f"d{n}") + repeating(rng) for n in range(rng.randrange(1, 5)))
    entries = Entries(data, scan(native, data), 0)
    leaf = [pa.int64(), pa.float64(), pa.string(), pa.list_(pa.int64()), pa.bool_()]

    def fields(depth: int) -> list[pa.Field]:
        nested = [pa.struct(fields(depth + 1))] * 3 if depth < 3 else []
        names = rng.sample(["a", "b", "c"], rng.randrange(1, 4))
        return [pa.field(name, rng.choice([*leaf, *nested])) for name in names]

    schema = pa.schema([pa.field("_id", pa.string()), *fields(0)])
    options: list[Any] = [{}, {"strict": True}, {"on_mismatch": "null"}]
    for chosen in options:
        plan = plan_columns(schema, **chosen)
        left = outcome(native.decode, entries, plan)
        right = outcome(reference.decode, entries, plan)
        assert equal(left, right), (left, right)


@given(st.integers(0, 2**64 - 1).map(lambda bits: bits.to_bytes(8, "big")))
@settings(max_examples=examples(300, long=3000))
def test_floats_have_the_text_that_python_gives_them(bits: bytes) -> None:
    data = pack("d0") + b"\x81\xa1a\xcb" + bits
    entries = Entries(data, array("q", [0, 3, len(data)]), 0)
    plan = plan_columns(pa.schema({"a": pa.json_(pa.string())}))
    assert (
        native.decode(entries, plan)[0].to_pylist()
        == reference.decode(entries, plan)[0].to_pylist()
    )


def test_codec_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    code = "import godb_arrow.codec as c; print(c.BACKEND)"
    for wanted in ("native", "reference"):
        done = subprocess.run(
            [sys.executable, "-c", code], env={"GODB_ARROW_CODEC": wanted, "PATH": ""},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == wanted
    failed = subprocess.run(
        [sys.executable, "-c", code], env={"GODB_ARROW_CODEC": "fast"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "set it to native or reference" in failed.stderr
    assert codec.BACKEND in ("native", "reference")


FIELDS = ("a", "b", "name of more than seven bytes", "c")


def alike(rng: random.Random) -> list[dict[Any, Any]]:
    """Documents that are mostly made like each other, with some that are not."""
    kinds: list[Callable[[], Any]] = [
        lambda: None, lambda: rng.random() < 0.5, lambda: rng.randrange(300), rng.random,
        lambda: rng.choice([-(2**63), 2**64 - 1, -1, 128, 2**16]), lambda: "x" * rng.randrange(9),
        lambda: "long" * rng.randrange(20), lambda: rng.randbytes(rng.randrange(3)),
        lambda: list(range(rng.randrange(4))), lambda: {"x": rng.randrange(9), "a": "b"},
        lambda: {"a": [rng.randrange(300)] * rng.randrange(3)},
        lambda: msgpack.ExtType(rng.choice([5, 5, 121]), b"1234"),
    ]  # fmt: skip
    names = [*FIELDS, "name of less than seven bytes", "d", "\u00e9", "x" * 40]
    order = rng.sample(names, rng.randrange(1, 6))
    kind = {name: rng.choice(kinds) for name in names}
    documents = []
    for _ in range(rng.randrange(1, 40)):
        odd = rng.randrange(8)
        if odd == 0:
            order = rng.sample(order, len(order))
        chosen = [*order, rng.choice(names)] if odd == 1 else order[1:] if odd == 2 else order
        documents.append({
            name: rng.choice(kinds)() if odd == 3 else kind[name]() for name in chosen
        })  # fmt: skip
    return documents


@for_seeds(400, long=20_000)
def test_places_that_were_noted_give_what_looking_for_fields_gives(seed: int) -> None:
    rng = random.Random(seed)
    documents = alike(rng)
    fields = rng.sample(FIELDS, rng.randrange(1, 4))
    data = b"".join(
        msgpack.packb(str(n)) + msgpack.packb(one) for n, one in enumerate(documents)
    ) + bytes(20_000)  # so that nothing is near the end
    data = data.replace(b"\xd6\x791234", b"\xd6\xf91234")  # a type that nobody may use
    plain = native.scan_entries(data, 0, len(documents), 1 << 40, 0)
    noted = native.scan_entries(data, 0, len(documents), 1 << 40, 0, tuple(fields))
    assert noted.bounds == plain.bounds
    assert reference.scan_entries(data, 0, len(documents), 1 << 40, 0).bounds == plain.bounds
    assert len(noted.places) == 4 * len(fields) * len(documents)
    summary = DocumentSummary()
    try:
        reference.infer(plain, summary)
    except CorruptFile:
        summary = DocumentSummary()  # an extension that must not be: no schema of it
        for name in fields:
            summary.field(name).add(int(Kind.UNSIGNED), "0")
    full = infer_schema(summary)
    schema = pa.schema([full.field(name) if name in full.names else pa.field(name, pa.null())
                        for name in ["_id", *fields]])  # fmt: skip
    plan = plan_columns(schema, on_mismatch=rng.choice(["null", "error"]))
    left, right = outcome(native.decode, noted, plan), outcome(native.decode, plain, plan)
    assert equal(left, right), (left, right)


def test_places_are_noted_of_documents_that_are_alike() -> None:
    documents = [{"a": n, "b": "text" * (n % 5), "c": [n], "d": None} for n in range(1000)]
    for document in documents[::3]:
        del document["d"]  # so that there are two kinds of document, one with fewer fields
    data = b"".join(msgpack.packb(str(n)) + msgpack.packb(d) for n, d in enumerate(documents))
    entries = native.scan_entries(data, 0, 1000, 1 << 40, 0, ("b", "none"))
    places = np.frombuffer(entries.places, np.uint32).reshape(-1, 2)
    known = places[:, 0] != 0
    assert known[9:-10].all()
    assert (places[known, 1] == 2**32 - 1).all(), "the documents do not have it"
    assert all(
        msgpack.unpackb(data[place : place + 1 + data[place] % 32]) == documents[row]["b"]
        for row, place in enumerate(places[:, 0].tolist())
        if place
    )


def with_odd_keys(rng: random.Random, documents: list[dict[Any, Any]]) -> list[bytes]:
    """Documents in MessagePack, of which some have a key twice or one that is no UTF-8 string."""
    raw = [msgpack.packb(one) for one in documents]
    odd = [b"", b"", b"\xa1a\x05", b"\x05\x05", b"\xc4\x01a\x05", b"\xa1\xff\x05", b"\xd9\x01a\x05"]
    for _ in range(rng.randrange(2)):
        at = rng.randrange(len(raw))
        pairs = rng.choice(odd)
        count = len(documents[at]) + bool(pairs)
        raw[at] = b"\xde" + count.to_bytes(2, "big") + raw[at][1:] + pairs
    return raw


@pytest.mark.parametrize("count", [1, 2, 3, 15, 16, 17, 18, 40, 300])
def test_documents_of_any_number_of_keys_are_not_measured_with_one_twice(count: int) -> None:
    """Few keys are compared one by one, many by a set."""
    names = [f"k{n:03d}" for n in range(count)]
    pairs = [msgpack.packb(name) + b"\x05" for name in names]
    head = b"\xde" + count.to_bytes(2, "big")

    def measured(chosen: list[bytes]) -> list[bool]:
        document = b"\xa1x" + head + b"".join(chosen)
        found = [module.measure(document, 1) for module in (native, reference)]
        entries = native.scan_entries(document, 0, 1, 1 << 40, 0)
        checked = [module.check_entries(entries).is_measurable for module in (native, reference)]
        return [*(one is not None for one in found), *checked]

    assert measured(pairs) == [True] * 4
    last = count - 1
    for first in {0, last // 2, last - 1} - {-1, last}:
        for twice in ((first, last), (last, first)):
            chosen = pairs.copy()
            chosen[twice[0]] = pairs[twice[1]]
            assert measured(chosen) == [False] * 4
    for odd in (b"\x05\x05", b"\xc4\x01a\x05", b"\xa1\xff\x05"):
        assert measured([*pairs[:-1], odd]) == [False] * 4


def measured_of(data: bytes, sizes: list[int]) -> MeasuredEntries:
    def found(part: bytes, count: int, fields: tuple[str, ...]) -> Entries:
        entries: Entries = native.scan_entries(part, 0, count, len(part) + 1, 0, fields)
        return entries

    return MeasuredEntries(data, np.cumsum([0, *sizes]), 0, found)


@for_seeds(400, long=20_000)
def test_fronts_give_what_whole_documents_give(seed: int) -> None:
    rng = random.Random(seed)
    documents = [*alike(rng), *({"z": "x" * 300} for _ in range(30))]  # none is near the end
    parts = [
        msgpack.packb(str(n)) + one for n, one in enumerate(with_odd_keys(rng, documents))
    ]  # fmt: skip
    data = b"".join(parts)
    sizes = native.measure(data, len(parts))
    expected = reference.measure(data, len(parts))
    assert (sizes is None) == (expected is None)
    if sizes is None or expected is None:
        return
    assert sizes.tolist() == expected.tolist() == [len(part) for part in parts]
    assert native.measure(data, len(parts) + 1) is None
    assert native.measure(data + b"\x01", len(parts)) is None
    fields = rng.sample(FIELDS, rng.randrange(1, 4))
    kinds = [pa.int64(), pa.float64(), pa.string(), pa.json_(pa.string()), pa.list_(pa.int64())]
    schema = pa.schema([("_id", pa.string()), *((name, rng.choice(kinds)) for name in fields)])
    plan = plan_columns(schema, on_mismatch=rng.choice(["null", "error"]))
    entries = reference.scan_entries(data, 0, len(parts), len(data) + 1, 0)
    whole = outcome(reference.decode, entries, plan)
    measured = measured_of(data, [len(part) for part in parts])
    for module in (native, reference):
        front = module.decode_front(measured, plan)
        assert (front is None) == isinstance(whole, Failed)
        if front is not None:
            assert equal(front, whole)
    rows = np.array(sorted(rng.sample(range(len(parts)), 3)), np.int64)
    taken = codec.take_measured(measured, rows)
    assert list(taken.ids()) == [str(row) for row in rows]
    assert bytes(taken.raw()) == b"".join(parts[row] for row in rows)
    # With sizes that are wrong, nothing else is found: something that is right, or nothing.
    wrong = [len(part) for part in parts]
    at = rng.randrange(len(wrong) - 1)
    change = rng.choice([1, -1, 7, 10**9])
    wrong[at] += change
    wrong[at + 1] -= change if change < 10**9 else 0
    front = native.decode_front(measured_of(data, wrong), plan)
    assert front is None or equal(front, whole) or change < 10**9


@pytest.mark.parametrize("before", [0, 40])
def test_sizes_that_end_inside_a_document_are_refused(before: int) -> None:
    """What looks like an entry of its own is a value of another one."""
    plain = entries_of([{"a": b"x" * 60, "b": n} for n in range(before)])
    after = entries_of([{"a": b"y" * 200, "b": 3}] * before)
    tail = b"\xa1b\x05" + after
    inner = pack("d7") + b"\x82\xa1b\x07\xa1c\xc5" + len(tail).to_bytes(2, "big")
    outer = pack("d6") + b"\x82\xa1a\xc4" + bytes([len(inner)])
    data = plain + outer + inner + tail
    plan = plan_columns(pa.schema([("b", pa.int64())]))
    whole = reference.scan_entries(data, 0, 2 * before + 1, len(data) + 1, 0)
    right = np.frombuffer(whole.bounds, np.int64)[::2].copy()
    lying = np.array([*right[: before + 1], len(plain) + len(outer), len(data)], np.int64)
    for module in (native, reference):
        scan_as = measured_of(data, [1]).scan
        front = module.decode_front(MeasuredEntries(data, right, 0, scan_as), plan)
        assert front is not None
        assert front[0].to_pylist() == [*range(before), 5, *[3] * before]
        assert module.decode_front(MeasuredEntries(data, lying, 0, scan_as), plan) is None


@pytest.mark.parametrize("levels", [1, 5, 126, 127])
@pytest.mark.parametrize("last", [[], [1], [1, "x"], {}, {"b": 1}, [[]], 2, None])
def test_documents_that_are_alike_may_nest_deeper(levels: int, last: Any) -> None:
    def nested(value: Any) -> dict[str, Any]:
        for _ in range(levels):
            value = {"a": value}
        return {"n": 1, "a": value}

    plain, other = (pack("d0") + msgpack.packb(nested(value)) for value in (7, last))
    data = plain * 4 + other + plain * 60
    left, right = scan(native, data), scan(reference, data)
    assert left == right
    sizes = native.measure(data, 65)
    assert (sizes is None) == isinstance(left, Failed)
    assert (reference.measure(data, 65) is None) == isinstance(left, Failed)


def test_no_fields_or_all_of_them_are_no_front() -> None:
    data = entries_of([{"a": 1}] * 3)
    measured = measured_of(data, [len(data) // 3] * 3)
    for module in (native, reference):
        for strict, names in ((False, ["_id"]), (True, ["_id", "a"])):
            plan = plan_columns(pa.schema([(n, pa.string()) for n in names]), strict=strict)
            assert module.decode_front(measured, plan) is None


@given(entry_bytes(), st.integers(0, 6))
def test_entries_are_measured_alike(data: bytes, count: int) -> None:
    left, right = native.measure(data, count), reference.measure(data, count)
    assert (left is None) == (right is None)
    assert left is None or left.tolist() == right.tolist()


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(-2, 20), st.integers(-2, 20))
def test_parts_are_gathered_alike(starts: list[int], size: int, last: int) -> None:
    spans = [(start, start + size) for start in starts] + [(3, last)]
    first, end = (np.array(column, np.int64) for column in zip(*spans, strict=True))
    data = bytes(range(20))
    results = []
    for module in (native, reference):
        try:
            results.append(module.gather(data, first, end))
        except ValueError as error:
            results.append(str(error))
    assert results[0] == results[1]
    with pytest.raises(ValueError, match=r"argument|number of ends"):
        native.gather(data, first, end[1:])
        reference.gather(data, first, end[1:])


@given(st.lists(st.lists(st.sampled_from([2, 9, 16, 17, 300, 70_000]) | st.integers(2, 2**32 - 1),
                         min_size=1, max_size=9), max_size=4))  # fmt: skip
def test_sizes_are_unpacked_alike(pieces: list[list[int]]) -> None:
    packed = [pack_sizes(np.array(sizes, np.uint32)) for sizes in pieces]
    counts, totals = [len(sizes) for sizes in pieces], [sum(sizes) for sizes in pieces]
    expected = np.cumsum([0, *(size for sizes in pieces for size in sizes)])
    for module in (native, reference):
        assert module.unpack_sizes(packed, counts, totals).tolist() == expected.tolist()
        for index in range(len(pieces)):
            off = [total + (place == index) for place, total in enumerate(totals)]
            assert module.unpack_sizes(packed, counts, off) is None
            for damaged in (packed[index][:-1], packed[index][:7], b"", b"\x07" + packed[index][1:],
                            packed[index][:5] + b"\0" + packed[index][5:]):  # fmt: skip
                several = [*packed[:index], damaged, *packed[index + 1 :]]
                assert module.unpack_sizes(several, counts, totals) is None


def test_numbers_of_every_width_become_columns() -> None:
    rng = random.Random(5)
    edges = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1, -1, -32, -33,
             -128, -129, -(2**15), -(2**31), -(2**31) - 1, -(2**63)]  # fmt: skip
    wide = [b"\xd3" + (5).to_bytes(8, "big"), b"\xcf" + (5).to_bytes(8, "big"), b"\xcd\0\5"]
    odd = [
        b"\xc0",
        b"\xca\x40\x40\0\0",
        b"\xcf" + bytes([255] * 8),
        b"\xa1x",
        b"\xcb\x40\x08" + bytes(6),
    ]
    parts = []
    for n in range(6000):
        often = n // 512 % 3 != 1  # some blocks are plain, others have values of other kinds
        values = [msgpack.packb(rng.choice(edges)), rng.choice(wide), msgpack.packb(rng.random())]
        value = rng.choice(odd) if often and rng.random() < 0.01 else rng.choice(values[:2])
        real = rng.choice(odd) if often and rng.random() < 0.01 else values[2]
        absent = often and rng.random() < 0.01
        pairs = (b"" if absent else b"\xa1i" + value) + b"\xa1f" + real + b"\xa1z\1"
        parts.append(msgpack.packb(str(n)) + bytes([0x83 - absent]) + pairs)
    data = b"".join(parts)
    plan = plan_columns(
        pa.schema([("_id", pa.string()), ("i", pa.int64()), ("f", pa.float64())]),
        on_mismatch="null",
    )
    noted = native.scan_entries(data, 0, len(parts), len(data) + 1, 0, ("i", "f"))
    plain = reference.scan_entries(data, 0, len(parts), len(data) + 1, 0)
    assert equal(native.decode(noted, plan), reference.decode(plain, plan))
    assert equal(
        native.decode_front(measured_of(data, [len(part) for part in parts]), plan),
        reference.decode(plain, plan),
    )


NAMES = ["", "a", "bb", "name", "é", "seventy", "\x00", "active", "aa"]
LONG_NAMES = ["eighteen", "a name of more than fifteen", "a name of more than fiftaen", "x" * 31]
ODD_KEYS = [b"\xa1\xff", b"\xc0", b"\x05", b"\xa7seventx", b"\xd9\x01a", b"\xa8eighteem"]


def _values(chance: random.Random) -> bytes:
    values: list[Any] = [1, -5, 300, 0.5, True, None, "text", "é" * 9, [1, 2], {"a": 1}, b"b"]
    values += [msgpack.Timestamp(5, 7), [[{"x": [None]}]], "x" * 40, {"a": 1, "zz": 2}, {"b": 5}]
    return chance.choice([*map(pack, values), b"\xd4\x05\x00", b"\xd6\xff\0\0\0\1"])


@for_seeds(60, long=3000)
def test_fields_in_any_order_are_found_alike(seed: int) -> None:
    """Also unknown keys, repeated keys, keys of other kinds, and damaged values."""
    chance = random.Random(seed)
    names = chance.sample(NAMES, chance.randrange(1, len(NAMES)))
    names += chance.sample(LONG_NAMES, chance.choice([0, 0, 1, 4]))
    keys = [*map(pack, names), *chance.sample(ODD_KEYS[:3], chance.choice([0, 0, 2]))]
    fixed = {key: _values(chance) for key in keys}
    unusual = chance.choice([0, 0.01, 0.2])
    more = chance.choice([None, {"a": 1, "zz": 2}, {"é": 1, "a": 2}])  # in a struct, seldom
    struct = keys[0]
    if more is not None:
        fixed[struct] = pack({"a": 1})
    packed = []
    for row in range(300):
        if row in (200, 250) and more is not None:  # The last documents are decoded one by one.
            fixed[struct] = pack(more if row == 200 else {"a": 1})
        chance.shuffle(keys)
        pairs = []
        for key in keys:
            value = _values(chance) if chance.random() < unusual else fixed[key]
            if chance.random() >= unusual:
                pairs.append(key + value)
            while chance.random() < unusual / 4:
                other = chance.choice([key, chance.choice(ODD_KEYS), pack("other")])
                pairs.append(other + chance.choice([value, b"\xd6\xfb\0\0\0\1"]))
        head = msgpack.Packer().pack_map_header(len(pairs))
        packed.append(pack(str(row)) + head + b"".join(pairs))
    data = b"".join(packed)
    entries = reference.scan_entries(data, 0, 300, len(data) + 1, 0)
    assert len(entries) == 300
    summary = DocumentSummary()
    if isinstance(outcome(codec.infer, entries.between(0, 1), summary), Failed):
        return
    whole = infer_schema(summary)
    part = pa.schema([field for field in whole if chance.random() < 0.6])
    for schema, strict in ((whole, True), (whole, False), (part, False)):
        fields = tuple(name for name in schema.names if name != "_id")
        scanned = native.scan_entries(data, 0, 300, len(data) + 1, 0, fields)
        assert scanned.bounds == entries.bounds
        for mismatch in ("error",) if strict else ("null", "error"):
            plan = plan_columns(schema, strict=strict, on_mismatch=mismatch)
            right = outcome(reference.decode, entries, plan)
            for found in (entries, scanned):
                decoded = outcome(native.decode, found, plan)
                if isinstance(right, Failed):  # perhaps of another document
                    assert isinstance(decoded, Failed)
                else:
                    assert decoded == right
            unscanned = codec.UnscannedEntries(data, 300, lambda data, count: entries)
            columns = native.decode_unscanned(unscanned, plan)
            if columns is not None:
                assert columns == right
