"""Ids of many deleted documents, beside a dict."""

from __future__ import annotations

import random
import sys
from itertools import pairwise
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from godb_arrow.documents.ids import pack_ids, texts_of
from godb_arrow.snapshots import deletions
from godb_arrow.snapshots.deletions import DeletedIds, IdSet, joined
from godb_arrow.snapshots.layers import Layer

ODD = ["", "ü", "1", "01", "x" * 300, b"\xff\xfe".decode("utf-8", "surrogateescape"), "\0"]


@pytest.mark.parametrize("seed", range(10))
def test_searches_find_the_ids_and_no_others(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions, "IDS_AT_ONCE", 7)
    source = random.Random(seed)
    known: list[str] = []
    deleted: tuple[DeletedIds, ...] = ()
    for _ in range(source.randrange(1, 12)):
        some = [str(source.randrange(10**6)) for _ in range(source.randrange(40))]
        some = [*dict.fromkeys(some + source.sample(ODD, 2))]
        some = [one for one in some if one not in known]
        rows = np.arange(len(known), len(known) + len(some))
        known += some
        deleted = joined([*deleted, DeletedIds(pack_ids(some), rows)])
    sizes = [len(one) for one in deleted]
    assert all(before >= 2 * after for before, after in pairwise(sizes))
    assert [identity for one in deleted for identity in one] == known
    assert np.concatenate([one.rows for one in deleted]).tolist() == [*range(len(known))]
    others = [*{str(source.randrange(10**6)) for _ in range(60)}, *ODD, "y"]
    wanted = dict.fromkeys(source.sample(known, len(known) // 2) + others)
    found = {identity for one in deleted for identity in one.among(wanted)}
    assert found == wanted.keys() & set(known)
    assert {identity for identity in wanted if any(identity in one for one in deleted)} == found


def test_equal_hashes_are_told_apart() -> None:
    ids = IdSet(pack_ids(["a", "b", "a", "c"]))
    ids._hashes = np.full(4, ids._hashes[0])
    found = [[*ids._places_of(one, ids._hashes[0], 0)] for one in "abcd"]
    assert [sorted(places) for places in found] == [[0, 2], [1], [3], []]


def test_other_threads_see_sorted_rows_only() -> None:
    """A thread may run between any two lines of another one."""
    layer = Layer(superseded=[5, 1])
    layer.deletions = (DeletedIds(pack_ids(["a", "b"]), np.array([4, 2])),)
    seen: list[list[int]] = []

    def look(frame: FrameType, event: str, argument: object) -> Any:
        if layer._rows is not None:
            seen.append(layer._rows.tolist())
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        rows = layer.superseded_rows()
    finally:
        sys.settrace(before)
    assert rows.tolist() == [1, 2, 4, 5]
    assert seen
    assert all(found == [1, 2, 4, 5] for found in seen)


def test_an_id_takes_few_bytes() -> None:
    ids = pa.array(np.arange(10**6, 10**6 + 5000)).cast(pa.string()).cast(pa.binary())
    assert texts_of(ids)[:2] == ["1000000", "1000001"]
    assert DeletedIds(ids, np.arange(5000)).nbytes <= 5000 * (8 + 4 + 8 + 4 + 7) + 100
