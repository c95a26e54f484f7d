"""Identity of values: equal values share it, others do not, and its hash has a secret."""

from __future__ import annotations

import datetime as dt
import itertools
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest

from godb_arrow import StorageEngine
from godb_arrow.query.value_order import identity_of

DAY = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
GROUPS: list[list[Any]] = [
    [None], [True], [False], [0, -0.0, 0.0], [1, 1.0], [-1, -1.0], [1.5],
    [float("nan"), -float("nan")],
    [float("inf")], [-float("inf")], [2**63, float(2**63)], [2**53 + 1], [""], ["1"], ["i1"], ["t"],
    [b""], [b"1"], [b"i1"], [b"t"], [[]], [[1], [1.0]], [["1"]], [[[1]]], [[1, 2]], [[2, 1]],
    [["a", "b"]], [["asb"]], [{"a": "b"}], [{"as": "b"}], [{"asb": ""}],
    [["ab"]], [{}], [{"a": 1, "b": 2}, {"b": 2.0, "a": 1}], [{"a": 2, "b": 1}], [{"a": {"b": 1}}],
    [{1: "x"}], [{"1": "x"}], [DAY, msgpack.Timestamp.from_datetime(DAY)], [DAY + dt.timedelta(1)],
    [msgpack.ExtType(5, b"1")], [msgpack.ExtType(6, b"1")], [msgpack.ExtType(5, b"2")], ["\\udc80"],
]  # fmt: skip


def test_equal_values_share_an_identity_and_others_do_not() -> None:
    keys = [{identity_of(value) for value in group} for group in GROUPS]
    assert [len(found) for found in keys] == [1] * len(GROUPS)
    for first, second in itertools.combinations(keys, 2):
        assert not first & second
    assert all(type(key) in (str, bytes) for found in keys for key in found)


def _colliding_lists(count: int) -> list[list[int]]:
    """Lists of numbers whose tuples have few hashes: -1 and -2 have the same hash in CPython."""
    return [[-1 - (number >> bit & 1) for bit in range(14)] for number in range(count)]


@pytest.mark.parametrize("verb", ["distinct", "addToSet"])
def test_lists_that_collide_as_tuples_are_no_slower(verb: str, tmp_path: Path) -> None:
    count = 3000
    colliding = _colliding_lists(count)
    assert len({hash(tuple(one)) for one in colliding}) < 100
    others = [[n, *one[1:]] for n, one in enumerate(colliding)]
    seconds = []
    with StorageEngine(tmp_path) as engine:
        for name, values in (("others", others), ("colliding", colliding)):
            collection = engine.create_collection(name)
            collection.insert_many([{"_id": str(n), "v": [one]} for n, one in enumerate(values)])
            start = time.process_time()
            if verb == "distinct":
                assert len(collection.distinct("v")) == count
            else:
                collection.insert({"_id": "all", "all": []})
                collection.update_one({"_id": "all"}, {"$addToSet": {"all": {"$each": values}}})
                assert len(collection.get("all")["all"]) == count
            seconds.append(time.process_time() - start)
    assert seconds[1] < 6 * seconds[0] + 0.05, seconds
