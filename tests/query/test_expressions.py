"""Expressions keep Arrow's meaning on the columns, whatever is pushed down."""

from __future__ import annotations

import decimal
import operator
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.settings import examples

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.query.literals import fit_literals

_COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "i": (pa.int64(), [None, 0, 1, 5, -3, 2**53 + 1]),
    "u": (pa.uint64(), [None, 0, 5, 2**63, 2**64 - 1]),
    "f": (pa.float64(), [None, 0.0, 1.5, -2.0, float("nan"), float("inf")]),
    "s": (pa.string(), [None, "", "a", "b"]),
    "b": (pa.bool_(), [None, True, False]),
}
_COMPARE = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


def rows(chance: random.Random, count: int) -> list[dict[str, Any]]:
    return [{name: chance.choice(values) for name, (_, values) in _COLUMNS.items()}
            for _ in range(count)]  # fmt: skip


def expressions(chance: random.Random, depth: int) -> tuple[pc.Expression, pc.Expression]:
    """An expression, and the same one with literals of the columns' own types."""
    kind = chance.random()
    if depth and kind < 0.5:
        (a, x), (b, y) = (expressions(chance, depth - 1) for _ in range(2))
        return (a & b, x & y) if chance.random() < 0.5 else (a | b, x | y)
    if depth and kind < 0.65:
        a, x = expressions(chance, depth - 1)
        return ~a, ~x
    name, (data_type, values) = chance.choice(list(_COLUMNS.items()))
    field = pc.field(name)
    if chance.random() < 0.2:
        return field.is_null(), field.is_null()
    known = [value for value in values if value is not None]
    if chance.random() < 0.3 and name != "f":
        chosen = chance.choices(values, k=3)
        typed = pa.array(chosen, data_type)
        is_plain = name != "u" and any(one is not None for one in chosen)
        own = pa.array(chosen) if is_plain else typed
        return field.isin(own), field.isin(typed)
    value = chance.choice(known)
    compare = _COMPARE[0] if name == "b" else chance.choice(_COMPARE)
    own = pa.scalar(value, pa.uint64()) if name == "u" and value >= 2**63 else pa.scalar(value)
    if name == "u" and chance.random() < 0.2:
        return pc.coalesce(field, pa.scalar(0)) > 1, pc.coalesce(
            field, pa.scalar(0, data_type)
        ) > pa.scalar(1, data_type)
    return compare(field, own), compare(field, pa.scalar(value, data_type))


def test_expressions_find_what_arrow_finds_in_the_full_table(tmp_path: Path) -> None:
    chance = random.Random(0)
    with StorageEngine(tmp_path, part_size="1KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many(rows(chance, 30))
        collection.create_index("i")
        collection.create_index("s")
        engine.save()
        collection.upsert_many([{"_id": str(n), **row} for n, row in enumerate(rows(chance, 8))])
        engine.save()
        collection.insert_many(rows(chance, 5))
        full = collection.to_arrow()
        for _ in range(examples(150, long=2000)):
            filter, typed = expressions(chance, 2)
            expected = sorted(full.filter(typed).column("_id").to_pylist())
            found = collection.to_arrow(["_id"], filter).column("_id").to_pylist()
            assert sorted(found) == expected, filter
            assert sorted(one["_id"] for one in collection.find(filter)) == expected, filter
            assert collection.count(filter) == len(expected), filter


def test_literals_that_fit_are_cast() -> None:
    schema = pa.schema({"u": pa.uint64(), "f": pa.float32(), "i": pa.int64()})
    for given, cast in (
        (pc.field("u") > 5, pc.field("u") > pa.scalar(5, pa.uint64())),
        (pc.field("i") == 2.0, pc.field("i") == pa.scalar(2)),
        (pc.field("f") == 0.5, pc.field("f") == pa.scalar(0.5, pa.float32())),
        (pc.field("f") == 0.1, pc.field("f") == 0.1),
        (pc.field("i") == 1.5, pc.field("i") == 1.5),
        (pc.field("u") > -1, pc.field("u") > -1),
    ):
        assert fit_literals(schema, given).equals(cast), given


def test_what_arrow_cannot_compare_names_the_mapping_that_does(tmp_path: Path) -> None:
    path = tmp_path / "c.godb"
    godb_arrow.write_godb([{"i": 2**53 + 1, "s": "a"}], path, "c")
    for filter, says in ((pc.field("s") == 5, "'s' of type string"), (pc.field("i") > 1.5, "'i'")):
        with pytest.raises(godb_arrow.InvalidFilter, match=says) as raised:
            godb_arrow.read_table(path, filter=filter)
        assert "write the mapping" in str(raised.value)


def test_integers_fit_decimals_and_halves_raise(tmp_path: Path) -> None:
    columns = {
        "d": pa.array([decimal.Decimal("1.50"), None], pa.decimal128(5, 2)),
        "h": pa.array([1.5, None], pa.float16()),
    }
    godb_arrow.write_godb(pa.table(columns), tmp_path / "c.godb", "c")
    for filter, rows in (
        (pc.field("d") > 1, 1),
        (pc.field("d") == 1, 0),
        (pc.field("d").isin([1, 2]), 0),
    ):
        assert godb_arrow.read_table(tmp_path / "c.godb", filter=filter).num_rows == rows
    for filter in (pc.field("d") > 1000, pc.field("h") > 1.0):
        with pytest.raises(godb_arrow.InvalidFilter):
            godb_arrow.read_table(tmp_path / "c.godb", filter=filter)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons_at_their_bounds(tmp_path: Path, kind: pa.DataType, name: str) -> None:
    table = pa.table({"x": pa.array([1, 2, 3, None, 2], kind)})
    godb_arrow.write_godb(table, tmp_path / "c.godb", "c")
    condition = getattr(operator, name)(pc.field("x"), 2)
    found = godb_arrow.read_table(tmp_path / "c.godb", filter=condition)
    assert found["x"].to_pylist() == table.filter(condition)["x"].to_pylist()


PATHS: tuple[Callable[[], pc.Expression], ...] = (
    lambda: pc.field("m", "k7") == 7,
    lambda: pc.field("m", "k7") > 6.5,
    lambda: ~(pc.field("m", "k7") < 8) | pc.field("m", "none").is_valid(),
    lambda: pc.field("m", "k7").is_null(),
    lambda: pc.field("m", "k7").isin([1, 7]),
    lambda: pc.field("deep", "m", "k3", "x", "y") == "3",
    lambda: (pc.field("deep", "m", "k3", "x", "y") == "3") & (pc.field("m", "k5") >= 5),
)
"""Conditions on paths into structs of 200 keys, and into maps of more."""


@pytest.mark.parametrize("path", range(len(PATHS)))
def test_paths_mean_the_same_in_maps_as_in_structs(tmp_path: Path, path: int) -> None:
    found = []
    for keys in (200, 201):
        documents = [
            {
                "m": {"none": None} | {f"k{n}": n for n in range(start, keys - 1)},
                "deep": {"m": {f"k{n}": {"x": {"y": str(n)}} for n in range(start, keys)}},
            }
            for start in (0, 5, 9)
        ]
        with StorageEngine(tmp_path / str(keys)) as engine:
            collection = engine.create_collection("c")
            collection.insert_many(documents[:2])
            engine.save()
            collection.insert_many(documents[2:])
            is_map = pa.types.is_map(collection.schema.field("m").type)
            assert is_map == (keys == 201)
            ids = collection.to_arrow(["_id"], PATHS[path]())["_id"].to_pylist()
            assert [document["_id"] for document in collection.find(PATHS[path]())] == ids
            found.append(ids)
    assert found[0] == found[1]


MIXED: list[tuple[list[Any], Any, Any]] = [
    (["a", "10"], 3, lambda v: v == '"a"'),
    (["2024", "b"], 3, lambda v: v < "a"),
    (["2024", "b"], 3, lambda v: ~(v == "b")),
    (["a", "b"], 3, lambda v: v.isin(['"a"', "3"])),
    ([b"a", b"zz"], 3, lambda v: v > "a"),
    ([1, 2], "a", lambda v: v == "1"),
    ([1, 2], 1.5, lambda v: v >= 1.5),
]


@pytest.mark.parametrize("case", range(len(MIXED)))
def test_an_index_knows_the_type_that_unsaved_documents_give_a_field(
    case: int, tmp_path: Path
) -> None:
    saved, unsaved, condition = MIXED[case]
    found = []
    for indexed in (False, True):
        with StorageEngine(tmp_path / str(indexed)) as engine:
            collection = engine.create_collection("c")
            collection.insert_many([{"_id": str(n), "v": value} for n, value in enumerate(saved)])
            if indexed:
                collection.create_index("v")
            engine.save()
            collection.insert({"_id": "unsaved", "v": unsaved})
            expression = condition(pc.field("v"))
            ids = sorted(document["_id"] for document in collection.find(expression))
            assert ids == sorted(collection.to_arrow(filter=expression)["_id"].to_pylist())
            found.append(ids)
    assert found[0] == found[1]


def test_an_index_answers_expressions_with_fitted_literals(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"_id": str(n), "v": n} for n in (2**63 + 5, 3, 7)])
        collection.create_index("v")
        engine.save()
        assert collection.explain(pc.field("v") > 5).index == "v"
        assert len(collection.find(pc.field("v") > 5)) == 2
