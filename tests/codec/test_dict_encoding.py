"""Dicts as documents: both codecs write the same bytes, or refuse the same values."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import random
import sys
import uuid
import zoneinfo
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, namedtuple
from types import MappingProxyType
from typing import Any

import msgpack
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.settings import examples
from support.strategies import odd_keys, scalars, texts, timestamps

from godb_arrow import GodbError, InvalidDocument, StorageEngine, codec, read_documents, write_godb
from godb_arrow.codec import reference
from godb_arrow.documents.encoding import encode_rows
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.rows import rows_of
from godb_arrow.options import MAX_DOCUMENT_BYTES

native = pytest.importorskip("godb_arrow.codec.native")


class Text(str):
    """String of another type."""


class Number(int):
    """Integer of another type."""


class Real(float):
    """Float of another type."""


class Raw(bytes):
    """Bytes of another type."""


class Items(list[Any]):
    """List of another type."""


class Fields(dict[Any, Any]):
    """Dict whose items are others than those that Python's functions find."""

    def items(self) -> Any:
        return [("x", 1)] * len(self)


class Color(enum.IntEnum):
    """Enumeration."""

    RED = 1


Point = namedtuple("Point", "x y")

TYPES = [
    Text("a"), Text("é"), Number(5), Number(2**63), Real(1.5), Raw(b"a"), Items([1]), Color.RED,
    Fields({"a": 2, "b": 3}), OrderedDict(a=1), defaultdict(int, a=1), Counter("aab"),
    UserDict(a=1), ChainMap({"a": 1}), MappingProxyType({"a": 1}), Point(1, 2), bytearray(b"a"),
    memoryview(b"abc"), memoryview(b"abcd")[::2], (), ("a",), [()], {}, {(1, 2): 3}, {None: 1},
    {True: 1, 2.5: 2, b"k": 3}, {frozenset(): 1}, np.int64(5), np.uint8(200), np.float32(0.5),
    np.float64(0.1), np.bool_(True), np.str_("a"), np.bytes_(b"a"), np.array([[1, 2], [3, 4]]),
    np.array([{"a": 1}], object), np.datetime64("2020-01-01"), np.datetime64("NaT", "us"),
    np.timedelta64(5, "s"), np.complex64(1), np.longdouble(0.5), pd.NA, pd.NaT,
    pd.Timestamp("2020-01-01", tz="UTC"), pd.Timedelta(5, "ns"), pd.Series([1, 2]), pa.scalar(5),
    pa.array([1, None]), pa.scalar([1, 2]), dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.time(1, 2),
    dt.time(1, tzinfo=dt.UTC), dt.timedelta(-1), dt.timedelta.max, dt.timedelta.min,
    dt.timedelta(microseconds=2**64 + 5), dt.timedelta(microseconds=-(2**64) - 5),
    dt.timedelta(microseconds=2**63 // 1000), dt.datetime(1, 1, 1), dt.datetime(1969, 12, 31, 23),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, dt.UTC), dt.datetime(2514, 5, 30, 1, 53, 4),
    dt.datetime(2106, 2, 7, 6, 28, 16),
    dt.datetime(2000, 1, 1, tzinfo=dt.timezone(dt.timedelta(0))),
    dt.datetime(2020, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=9))), decimal.Decimal("1.50"),
    decimal.Decimal("NaN"), decimal.Decimal("1E+5"), uuid.UUID(int=5), msgpack.Timestamp(-1, 5),
    msgpack.ExtType(5, b"abc"), msgpack.ExtType(127, b"x" * 16), msgpack.ExtType(0, b""),
    2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**5000, float("nan"), -0.0, "\ud800", "a\udc80é",
    "\udbff\udfff", "é" * 20, "\U0001f600" * 9, "x" * 70_000, "é" * 40_000, b"x" * 70_000,
    list(range(70_000)), {str(n): n for n in range(70_000)}, object(), 1j, {1, 2}, ..., int,
]  # fmt: skip


def outcome(module: Any, value: Any) -> Any:
    try:
        return module.pack(value)
    except GodbError as error:
        return type(error), str(error)


@pytest.mark.parametrize("value", TYPES, ids=lambda value: type(value).__name__)
def test_values_of_any_type(value: Any) -> None:
    for whole in (value, {"v": value}, {"v": [value, {"w": value}]}, [value]):
        assert outcome(native, whole) == outcome(reference, whole)
    try:
        keyed = {value: 1}
    except (TypeError, ValueError, BufferError):
        return
    assert outcome(native, keyed) == outcome(reference, keyed)


values = st.recursive(
    st.one_of(scalars, timestamps, st.dates(), st.timedeltas(), st.decimals(), st.uuids(),
              st.datetimes(timezones=st.timezones()), st.integers(), st.text(),
              st.sampled_from(TYPES[:40])),
    lambda children: st.one_of(
        st.lists(children, max_size=4), st.dictionaries(odd_keys, children, max_size=4),
        st.tuples(children, children),
        st.dictionaries(texts, children, max_size=3).map(OrderedDict),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=examples(60, long=3000))
@given(st.dictionaries(st.one_of(odd_keys, st.text(max_size=40)), values, max_size=6))
def test_dicts_become_the_same_bytes(document: dict[Any, Any]) -> None:
    assert outcome(native, document) == outcome(reference, document)


@pytest.mark.parametrize("depth", [126, 127, 128, 129, 400, 600])
@pytest.mark.parametrize("wrap", [list, tuple, dict, OrderedDict, MappingProxyType])
def test_depths(depth: int, wrap: Any) -> None:
    value: Any = msgpack.ExtType(1, b"a") if depth % 2 else 1
    for _ in range(depth):
        value = wrap({"a": value} if wrap in (dict, OrderedDict, MappingProxyType) else [value])
    for whole in (value, {"v": value}):
        assert outcome(native, whole) == outcome(reference, whole)


class Changing:
    """Mapping that changes its surroundings when it is read."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def keys(self) -> Any:
        self.change()
        return []

    def __getitem__(self, key: Any) -> Any:
        raise KeyError(key)

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Any:
        self.change()
        return iter(())


class ChangingMapping(Changing, UserDict):  # type: ignore[type-arg]
    """The same as a mapping."""


@pytest.mark.parametrize("size", [1, 5, 1_000])
def test_containers_that_change_while_they_are_encoded(size: int) -> None:
    for container in ({n: n for n in range(size)}, list(range(size)), Items(range(size))):

        def grow(container: Any = container) -> None:
            if isinstance(container, dict):
                container.update({f"new {n}": n for n in range(500)})
            else:
                container.extend(range(500))

        def shrink(container: Any = container) -> None:
            container.clear()

        for change in (grow, shrink):
            container[0] = ChangingMapping(change)
            try:
                raw = native.pack({"v": container})
            except (RuntimeError, InvalidDocument):
                continue
            assert len(native.load(raw)["v"]) >= 0  # What is written is whole.


def test_an_error_of_a_callers_type_is_raised() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            native.pack({"a": [ChangingMapping(interrupt)]})


def encoded(documents: list[Any], limit: int = MAX_DOCUMENT_BYTES, first: int = 1) -> list[Any]:
    """Return entries, ids, and the next id of the sequence, or the error."""
    sequence = IdSequence(first)
    chunks, ids, generated, given = [], [], [], False
    try:
        rows = rows_of(documents, None)
        for run in encode_rows(rows, None, False, sequence, max_document_bytes=limit):
            chunks.append(run.chunk)
            generated += [row + len(ids) for row in run.generated]
            ids += [raw.as_py() for raw in run.ids]
            given = given or run.given
            assert run.texts == [raw.as_py().decode("utf-8", "surrogateescape") for raw in run.ids]
    except GodbError as error:
        return [type(error), str(error), sequence.next_id]
    return [b"".join(chunks), ids, generated, given, sequence.next_id]


def both(documents: list[Any], **options: Any) -> None:
    found = encoded(documents, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("godb_arrow.codec.id_source", reference.id_source)
        expected = encoded(documents, **options)
    if expected[0] is not found[0] or not isinstance(found[0], type):
        assert found == expected
    else:
        assert found[:2] == expected[:2]


identities = st.one_of(
    st.none(), st.integers(-5, 50), st.integers(0, 2**70), texts,
    st.sampled_from(["7", "é", "1" * 40]),
)  # fmt: skip


@given(st.lists(st.tuples(identities, st.dictionaries(odd_keys, scalars, max_size=3)), max_size=8))
def test_documents_get_the_same_ids(rows: list[Any]) -> None:
    rng = random.Random(len(rows))
    documents = []
    for identity, fields in rows:
        items = [item for item in fields.items() if item[0] != "_id"]
        if identity is not None:
            items.insert(rng.randrange(len(items) + 1), ("_id", identity))
        documents.append(dict(items))
    both(documents)
    both([one for one in documents if "_id" in one])
    both([one for one in documents if "_id" not in one])


@pytest.mark.parametrize(
    "documents",
    [
        [{"a": 1}, {"a": object()}], [{"a": 1}] * 40 + [5], [{"_id": 1}, {"_id": True}],
        [{"_id": Text("a")}], [{"_id": "a", "b": 1}, {"b": 1}], [{"_id": "x" * 300}], [{}] * 3,
        [{"a": "x" * 500}] * 3, [OrderedDict(a=1)], [{"_id": 1.5}], [{"_id": "\ud800"}],
        [{"_id": 5, "é": [1, {"_id": 7}]}], [{"b": 1, "_id": 10**30}],
    ],
)  # fmt: skip
def test_documents_that_are_encoded_one_by_one(documents: list[Any]) -> None:
    both(documents)
    both(documents, limit=400)
    both(documents, first=2**62 - 2)


class Field(enum.StrEnum):
    """Keys of another type, one of which is the field of the id."""

    ID = "_id"
    A = "a"


@pytest.mark.parametrize("identity", ["x", 5, Text("x"), None, 1.5])
def test_a_key_of_another_type_is_the_field_of_the_id(identity: Any, tmp_path: Any) -> None:
    document = {Field.ID: identity, Field.A: 1, "b": 2}
    both([document])
    both([{"_id": 7, "c": 1}, document])
    both([{"c": 1}, document])
    if type(identity) in (str, int):
        stored = [{"_id": str(identity), "a": 1, "b": 2}]
        with StorageEngine(tmp_path) as engine:
            engine.create_collection("c").insert(document)
            assert [*engine["c"]] == stored
        with StorageEngine(tmp_path) as engine:
            assert [*engine["c"]] == stored
        write_godb([document], tmp_path / "a.godb", "c")
        assert [*read_documents(tmp_path / "a.godb")] == stored


@pytest.mark.parametrize("place", [0, 1])
def test_a_document_that_gets_an_id_while_others_are_encoded(place: int) -> None:
    documents: list[Any] = [{}, {"b": 1}]

    def change() -> None:
        documents[place]["_id"] = "late"

    documents[0]["a"] = ChangingMapping(change)
    try:
        packed = native.pack_documents(documents, 1)
    except (RuntimeError, InvalidDocument):
        return
    assert packed is None


def test_keys_that_run_code_while_ids_are_looked_for() -> None:
    documents: list[Any] = []

    class Clearing:
        def __hash__(self) -> int:
            return hash("_id")

        def __eq__(self, other: object) -> bool:
            documents.clear()
            raise ZeroDivisionError

    documents += [{Clearing(): 1}, *({} for _ in range(100))]
    assert native.id_source(documents) == codec.IdSource.OTHER


def test_documents_are_taken_from_an_iterator_in_small_steps() -> None:
    alive = most = 0

    class Large(dict[str, Any]):
        def __init__(self) -> None:
            nonlocal alive, most
            super().__init__(a=b"x" * 400_000)
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    rows = rows_of((dict(Large()) for _ in range(100)), None)
    runs = encode_rows(rows, None, False, IdSequence(), max_document_bytes=MAX_DOCUMENT_BYTES)
    sizes = [len(run.chunk) for run in runs]
    assert max(sizes) < 8 << 20


def test_references_are_released() -> None:
    document = {"a": "text", "b": [1.5, None, {"c": Text("t")}], "d": np.int64(700)}
    counts = [sys.getrefcount(one) for one in (document, document["b"], document["a"])]
    for _ in range(200):
        native.pack(document)
        native.pack_documents([document] * 3, 5)
        native.pack_documents([{"_id": "x"}, document], None)
        outcome(native, {"a": document, "b": object()})
    assert counts == [sys.getrefcount(one) for one in (document, document["b"], document["a"])]
    assert document == {"a": "text", "b": [1.5, None, {"c": "t"}], "d": 700}


def test_files_of_dicts_are_the_same_with_both_codecs(tmp_path: Any) -> None:
    rng = random.Random(4)
    documents = [{"n": n, "t": "é" * (n % 5), "l": list(range(n % 4))} for n in range(3_000)]
    for document in rng.sample(documents, 500):
        document["_id"] = f"id {document['n']}"
    write_godb(documents, tmp_path / "a.godb", "c")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("godb_arrow.codec.id_source", reference.id_source)
        write_godb(documents, tmp_path / "b.godb", "c")
    assert (tmp_path / "a.godb").read_bytes() == (tmp_path / "b.godb").read_bytes()
