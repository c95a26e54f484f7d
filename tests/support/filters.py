"""Hypothesis strategies for mapping filters, and for documents with values of these filters."""

from __future__ import annotations

import datetime as dt
import decimal
import random
import uuid
from typing import Any

import msgpack
import numpy as np
from hypothesis import strategies as st

from godb_arrow import codec
from godb_arrow.codec import Entries

_NAMES = ["a", "b", "c", "a.b", "_id"]
_PATHS = [*_NAMES, "a.b.c", "b.a", "a.a", "c.a.b", "absent", "_id.a", "a.", ""]
_NUMBERS = [
    0, 1, -1, 2, 3, 1.0, 1.5, -0.0, 0.5, float("nan"), float("inf"), float("-inf"), 2**53,
    2**53 + 1, 2.0**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 2.0**63, 2.0**64, 1e300,
]  # fmt: skip
_TEXTS = [
    "", "a", "b", "ab", "A1", "zoë", "\U0001f600", "\uffff", "1", "1.5", "1.50", "-0", "x\udc80y",
]  # fmt: skip
_BYTES = [b"", b"a", b"\x00", b"\xff"]
_MOMENTS = [
    msgpack.Timestamp(0, 0), msgpack.Timestamp(0, 1), msgpack.Timestamp(1_577_836_800, 0),
    msgpack.Timestamp(-1, 999_999_999), msgpack.Timestamp(2**40, 5),
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2020, 1, 1, 12, 30, 0, 250_000, dt.UTC),
]  # fmt: skip
_EXTENSIONS = [msgpack.ExtType(5, b"a"), msgpack.ExtType(5, b""), msgpack.ExtType(6, b"a")]

_plain = st.sampled_from([None, True, False, *_NUMBERS, *_TEXTS, *_BYTES, *_MOMENTS, *_EXTENSIONS])
_rarer = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=3), st.binary(max_size=3)
)
# Few values, so that many comparisons have equal ones on both sides.
_frequent = st.sampled_from([
    None, True, 1, 2, 2.0, 2.5, float("nan"), "a", "b", b"a", msgpack.Timestamp(1, 0),
    msgpack.Timestamp(1, 1),
])  # fmt: skip
_stored = st.one_of(_frequent, _frequent, _plain, _rarer)


def _nested(leaves: st.SearchStrategy[Any], keys: list[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda children: st.one_of(
            st.lists(children, max_size=3),
            st.dictionaries(st.sampled_from(keys), children, max_size=3),
        ),
        max_leaves=5,
    )


values = _nested(_stored, ["a", "b", "c", "b.c"])
"""Values of documents, of all types, many of them equal to those in filters."""

documents = st.dictionaries(st.sampled_from(["a", "b", "c", "a.b", "a."]), values, max_size=4)

_COLUMNS: list[st.SearchStrategy[Any]] = [
    st.integers(-5, 5),
    st.sampled_from([2**53, 2**53 + 1, 2.0**53, 1.5, 0, -(2**63), 2**63 - 1]),
    st.integers(2**63, 2**64 - 1) | st.integers(0, 3),
    st.floats(),
    st.sampled_from(["", "a", "b", "ab", "zoë", "\uffff", "\U0001f600", "1.5", "1.50"]),
    st.booleans(),
    st.builds(msgpack.Timestamp, st.integers(-3, 3), st.sampled_from([0, 1, 1000, 999_999_999])),
    st.datetimes(dt.datetime(2019, 12, 31), dt.datetime(2020, 1, 2)),
    values,
]
columns = st.sampled_from(_COLUMNS).flatmap(
    lambda column: st.lists(st.one_of(st.none(), column, column, column), min_size=1, max_size=4)
)
"""Values of a field in several documents, mostly of one type."""


_storable = st.one_of(
    _stored,
    st.sampled_from([
        *map(decimal.Decimal, ["1.5", "1.50", "0", "-0", "0.1", "1e-20", 2**70, 2**53 + 1]),
        dt.date(2020, 1, 1), dt.datetime(2020, 1, 1), dt.time(0, 0, 1),
        dt.timedelta(microseconds=1), uuid.UUID(int=5), np.int8(1), np.float32(1.5),
        np.uint64(2**63),
        np.float32(0.1), np.bool_(True), np.datetime64("2020-01-01"), np.datetime64("NaT", "us"),
        np.timedelta64(1, "us"), np.str_("a"),
    ]),
)  # fmt: skip

_literals = st.one_of(_storable, _storable, st.sampled_from([2**70, -(2**70), 2**64]))
"""Scalars of filters."""

_exact = st.one_of(_literals, _nested(_storable, ["a", "b", "c", "b.c"]))
_patterns = st.sampled_from(
    ["", "a", "^a", "b$", "(?i)a", "[0-9]", ".", "^$", "o.$", "a|1", "\\.5"]
)
_type_names = st.sampled_from([
    "null", "bool", "int", "float", "number", "string", "binary", "timestamp", "array", "map",
    "extension",
])  # fmt: skip


@st.composite
def _conditions(draw: st.DrawFn, depth: int) -> Any:
    """Draw a condition of a field: a value, or operators."""
    if draw(st.booleans()):
        return draw(_exact)
    name = draw(st.sampled_from(_OPERATORS if depth > 0 else _OPERATORS[:-3]))
    if name == "between":
        return {"$gte": draw(_literals), "$lt": draw(_literals)}
    if name == "$not":
        return {"$not": draw(_conditions(depth - 1))}
    if name == "$elemMatch" and draw(st.booleans()):
        return {"$elemMatch": draw(_conditions(depth - 1).filter(_has_operators))}
    if name == "$elemMatch":
        fields = st.sampled_from(["a", "b", "a.b", "_id"])
        return {"$elemMatch": draw(st.dictionaries(fields, _conditions(depth - 1), max_size=2))}
    if name == "$all" and depth > 0 and draw(st.booleans()):
        return {"$all": [{"$elemMatch": draw(_conditions(depth - 1).filter(_has_operators))}]}
    return {name: draw(_OPERANDS[name])}


def _has_operators(condition: Any) -> bool:
    return isinstance(condition, dict) and any(name.startswith("$") for name in condition)


_OPERANDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"], _exact),
    **dict.fromkeys(["$in", "$nin"], st.lists(_exact, max_size=12)),
    "$exists": st.booleans(),
    "$type": st.one_of(_type_names, st.lists(_type_names, max_size=3)),
    "$regex": _patterns,
    "$all": st.lists(_exact, max_size=2),
    "$size": st.integers(0, 3),
}
_OPERATORS = [
    *_OPERANDS,
    "$lt",
    "$lte",
    "$gt",
    "$gte",
    "between",
    "$not",
    "$elemMatch",
    "$elemMatch",
]


@st.composite
def filters(draw: st.DrawFn, depth: int = 3) -> dict[str, Any]:
    """Draw mapping filters of some depth."""
    name = draw(st.sampled_from(["fields"] * 4 + ["$and", "$or", "$nor", "$not"]))
    if depth == 0 or name == "fields":
        return draw(st.dictionaries(st.sampled_from(_PATHS), _conditions(depth), max_size=2))
    if name == "$not":
        return {"$not": draw(filters(depth - 1))}
    within: dict[str, Any] = {name: draw(st.lists(filters(depth - 1), max_size=2))}
    return {**draw(filters(0)), **within} if draw(st.booleans()) else within


def entries_of(rows: list[dict[str, Any]]) -> Entries:
    """Encode documents with the ids "0", "1", …."""
    data = b"".join(
        codec.pack_entry(str(index), {"_id": str(index), **row}) for index, row in enumerate(rows)
    )
    return codec.scan_entries(data, 0, len(rows), len(data) + 1, 0)


# --- dense cases --------------------------------------------------------------------------------

_POOL: list[Any] = [
    None, True, False, 0, 1, 2, -1, 1.0, 1.5, 2.5, float("nan"), 2**53 + 1, 2.0**53, 2**63, "a",
    "b", "ab", "", "1.50", "zoë", b"a", b"b", msgpack.Timestamp(1, 0), msgpack.Timestamp(1, 1),
    msgpack.ExtType(5, b"a"),
]  # fmt: skip
_OTHERS: list[Any] = [
    decimal.Decimal("1.5"), decimal.Decimal(1), 2**70, np.int8(1), np.float32(1.5), -(2**70),
    dt.datetime(1970, 1, 1, 0, 0, 1), dt.timedelta(microseconds=1),
]  # fmt: skip


def dense_case(number: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Generate documents and a filter with values of these documents, by a number.

    Hypothesis explores shapes, and rarely compares equal values. These cases mostly do.
    """
    chance = random.Random(number)
    rows = [
        {name: _value(chance, 2) for name in ("a", "b", "c", "a.b") if chance.random() < 0.6}
        for _ in range(chance.randint(1, 6))
    ]
    pool = [value for row in rows for value in _flat(row)] or _POOL
    return rows, _dense_filter(chance, pool, chance.randint(0, 3))


def _value(chance: random.Random, depth: int) -> Any:
    kind = chance.random()
    if depth and kind < 0.15:
        return [_value(chance, depth - 1) for _ in range(chance.randint(0, 3))]
    if depth and kind < 0.3:
        return {name: _value(chance, depth - 1) for name in "abc" if chance.random() < 0.5}
    return chance.choice(_POOL)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [value, *(one for item in value.values() for one in _flat(item))]
    if isinstance(value, list):
        return [value, *(one for item in value for one in _flat(item))]
    return [value]


def _dense_filter(chance: random.Random, pool: list[Any], depth: int) -> dict[str, Any]:
    kind = chance.random()
    if depth and kind < 0.4:
        name = chance.choice(["$and", "$or", "$nor"])
        return {name: [_dense_filter(chance, pool, depth - 1) for _ in range(chance.randint(1, 2))]}
    if depth and kind < 0.5:
        return {"$not": _dense_filter(chance, pool, depth - 1)}
    paths = ["a", "b", "c", "a.b", "a.a", "b.a", "a.b.c", "_id", "c.b.a"]
    return {chance.choice(paths): _dense_condition(chance, pool, 2) for _ in range(1)}


def _dense_condition(chance: random.Random, pool: list[Any], depth: int) -> Any:
    literal = chance.choice(pool) if chance.random() < 0.7 else chance.choice([*_POOL, *_OTHERS])
    name = chance.choice([
        "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$type", "$regex",
        "$all", "$size", "plain", "list", *(["$not", "$elemMatch", "element"] if depth else []),
    ])  # fmt: skip
    several = [literal, *chance.choices(pool, k=chance.choice([0, 1, 2, 12]))]
    if name == "plain":
        return literal
    if name == "list":
        return several
    if name in ("$in", "$nin", "$all"):
        return {name: several[: 2 if name == "$all" else None]}
    if name == "$exists":
        return {name: chance.random() < 0.5}
    if name == "$type":
        types = ["null", "bool", "int", "float", "number", "string", "binary", "timestamp", "array"]
        return {name: chance.choice([*types, "map", "extension"])}
    if name == "$regex":
        return {name: chance.choice(["a", "^a", "b$", "^$", "[0-9]", "."])}
    if name == "$size":
        return {name: chance.randint(0, 3)}
    if name == "$not":
        return {name: _dense_condition(chance, pool, depth - 1)}
    if name == "$elemMatch":
        operator = chance.choice(["$eq", "$gte", "$lt", "$in"])
        return {name: {operator: several if operator == "$in" else literal}}
    if name == "element":
        return {"$elemMatch": {chance.choice("abc"): _dense_condition(chance, pool, depth - 1)}}
    return {name: literal}
