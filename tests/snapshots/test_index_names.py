"""Keys of indexes of several fields, sorted in parts."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from godb_arrow import codec
from godb_arrow.documents.encoding import encode_rows
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.rows import rows_of
from godb_arrow.snapshots import index_names
from godb_arrow.snapshots.index_names import keys_builder

VALUES: list[Any] = [
    None,
    1,
    2.5,
    "a",
    "b" * 90,
    [1, 2],
    [3, 3],
    {"x": 1},
    True,
    b"raw",
    float("nan"),
]


def plain(keys: codec.SortedKeys) -> list[Any]:
    numbers, texts, rows = keys.arrays()
    found = [*numbers, *(array for pair in texts for array in pair), *rows]
    return [keys.has_lists, *(np.asarray(array).tobytes() for array in found)]


@pytest.mark.parametrize("name", ["\0compound\0x\0y", "\0unique\0x", "\0unique\0x\0y"])
@pytest.mark.parametrize("seed", range(3))
def test_keys_that_are_sorted_in_parts_are_the_same(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = random.Random(seed)
    documents = [
        {field: source.choice(VALUES) for field in "xy" if source.random() < 0.9}
        for _ in range(300)
    ]
    rows = rows_of(documents, None)
    [*runs] = encode_rows(rows, None, False, IdSequence(), max_document_bytes=1 << 20)
    entries = [part for run in runs for part in _cut(run.entries(), source)]
    whole = keys_builder(name)
    for part in entries:
        whole.add(part)
    monkeypatch.setattr(index_names, "_SORTED_AT_ONCE", 40)
    merged = keys_builder(name)
    for part in entries:
        merged.add(part)
    assert plain(merged.keys()) == plain(whole.keys())
    assert plain(keys_builder(name).keys()) == plain(keys_builder(name).keys())


def _cut(entries: codec.Entries, source: random.Random) -> list[codec.Entries]:
    edges = sorted({0, len(entries), *(source.randrange(len(entries)) for _ in range(12))})
    return [entries.between(a, b) for a, b in pairwise(edges)]
