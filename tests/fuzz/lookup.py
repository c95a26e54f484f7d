"""Give forged runs of indexes and forged id indexes to both codecs, and compare what they find.

    python tests/fuzz/lookup.py EXECUTIONS SEED

A run that is accepted may lie, but it names candidates only: a filter finds no document that does
not match. Keys of runs are read, searched and merged by the kernel and by the reference codec.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np

from godb_arrow import codec
from godb_arrow.codec.field_values import parts_of
from godb_arrow.codec.native import lookup as native
from godb_arrow.codec.reference import lookup as readable
from godb_arrow.documents.ids import ids_of
from godb_arrow.query.predicate import compile_filter
from godb_arrow.snapshots import index_run
from godb_arrow.snapshots.id_index import IdIndex

CODECS = (native, readable)
HEAD_BYTES = 16
SCALARS: list[Any] = [
    None, True, False, 0, -0.0, 1, 1.5, -5, 2**53, 2**63, -(2**63), float("nan"), float("inf"),
    "", "a", "ä", "z" * 63, "z" * 64, "z" * 70, b"", b"a", b"\xff", msgpack.Timestamp(5, 1),
]  # fmt: skip


def documents(rng: random.Random) -> codec.Entries:
    def value() -> Any:
        chosen = rng.choice(SCALARS)
        kind = rng.random()
        return chosen if kind < 0.8 else [chosen, rng.choice(SCALARS)] if kind < 0.9 else {"a": 1}

    made = [{"v": value()} if rng.random() < 0.9 else {} for _ in range(rng.choice((1, 2, 9, 70)))]
    packed = b"".join(codec.pack_entry(str(row % 50), one) for row, one in enumerate(made))
    return codec.scan_entries(packed, 0, len(made), len(packed) + 1, 0)


def forge(run: bytes, rng: random.Random) -> bytes:
    """Return a run with other bytes, numbers or rows."""
    kind = rng.randrange(5)
    changed = bytearray(run)
    body = HEAD_BYTES + int.from_bytes(run[8:HEAD_BYTES], "little")
    if kind == 0:  # any byte
        for _ in range(rng.choice((1, 1, 3))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    elif kind == 1:  # numbers of the head
        head = msgpack.unpackb(run[HEAD_BYTES:body])
        name = rng.choice([*head])
        number = rng.choice((-1, 0, 1, 2**31, 2**32, 2**63, 2**64 - 1, 1.5, None, [1, 2], "x"))
        head[name] = [number, rng.choice((0, 5))] if rng.random() < 0.3 else number
        packed = msgpack.packb(head)
        return run[:8] + len(packed).to_bytes(8, "little") + packed + run[body:]
    elif kind == 2:  # small integers of four bytes, which rows and ends are
        for _ in range(rng.choice((1, 2, 8))):
            at = body + 4 * rng.randrange(max(1, (len(run) - body) // 4))
            changed[at : at + 4] = rng.choice((0, 1, 2, 69, 70, 2**31, 2**32 - 1)).to_bytes(
                4, "little"
            )
    elif kind == 3:  # integers that change places
        for _ in range(rng.choice((1, 2, 8))):
            first, second = (
                body + 4 * rng.randrange(max(1, (len(run) - body) // 4)) for _ in range(2)
            )
            changed[first : first + 4], changed[second : second + 4] = (
                changed[second : second + 4], changed[first : first + 4],
            )  # fmt: skip
    else:
        cut = rng.randrange(len(run) + 1)
        changed = bytearray(run[:cut] + rng.randbytes(rng.randrange(9)))
    return bytes(changed)


def unpacked(module: Any, run: bytes, count: int) -> Any:
    index_run.codec = SimpleNamespace(SortedKeys=module.SortedKeys)  # type: ignore[assignment]
    return index_run.unpack_run(run, count)


def check_keys(run: bytes, entries: codec.Entries, rng: random.Random) -> str:
    found, right = (unpacked(module, run, len(entries)) for module in CODECS)
    assert (found is None) == (right is None), run
    if found is None:
        return "refused"
    assert found.arrays() == right.arrays(), run
    for _ in range(3):
        low, high = rng.choice(SCALARS), rng.choice(SCALARS)
        has_order = type(high) is type(low) and low is not None and not isinstance(low, bool)
        is_range = has_order and not {"nan"} & {repr(low), repr(high)}
        wanted = [(low, high if is_range else low), (low, None)]
        assert found.rows(wanted) == right.rows(wanted), (run, wanted)
        assert found.count(wanted) == right.count(wanted), (run, wanted)
    kept = sorted(rng.sample(range(len(entries)), rng.randrange(len(entries) + 1)))
    place = np.full(len(entries), -1, np.int64)
    place[kept] = np.arange(len(kept))
    merged = [
        m.SortedKeys.merge([k], [place], len(kept))
        for m, k in zip(CODECS, (found, right), strict=True)
    ]
    assert merged[0].documents == merged[1].documents == len(kept)
    check_search(found, entries, rng)
    return "read"


def check_search(keys: Any, entries: codec.Entries, rng: random.Random) -> None:
    """Check that a filter finds matching documents only, each once."""
    literal = rng.choice(SCALARS)
    filter = rng.choice(({"v": literal}, {"v": [literal, 1]}, {"v": {"$gte": literal}}))
    query = native.plain_filter(filter)
    if query is None:
        return
    matching = set(codec.select(entries, compile_filter(filter)).tolist())
    located = native.Located(entries.split())
    for limit in (-1, 1, 5):
        answer = query.search(located, (keys,), (), (), 0, 100, limit)
        if answer is None:
            continue
        number, raw = answer
        ids = [*codec.scan_entries(raw, 0, number, len(raw) + 1, 0).ids()]
        allowed = Counter(entries.id(row) for row in matching)
        assert not Counter(ids) - allowed, (filter, ids, allowed)


def check_ids(entries: codec.Entries, rng: random.Random) -> None:
    index = IdIndex.build([ids_of(entries)])
    hashes, rows = index.hashes.copy(), index.rows.astype(rng.choice((np.int64, np.uint32)))
    for _ in range(rng.choice((0, 1, 3))):
        rows[rng.randrange(len(rows))] = rng.choice((0, 1, len(rows) - 1, len(rows), 2**31))
    if rng.random() < 0.3:
        hashes[rng.randrange(len(hashes))] = hashes[0]
        hashes.sort()
    for wanted in ("0", "1", str(rng.randrange(80))):
        found, right = (
            module.IdSearch(hashes, rows).find(module.Located(entries.split()), wanted)
            for module in CODECS
        )
        assert (found is None) == (right is None) and (found is None or found == right), wanted


def main(executions: int, seed: int) -> None:
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    made = 0
    while made < executions:
        entries = documents(rng)
        builder = native.KeysBuilder(parts_of("v"))
        builder.add(entries)
        run = index_run.pack_run(builder.keys())
        for _ in range(20):
            outcomes[check_keys(forge(run, rng), entries, rng)] += 1
            check_ids(entries, rng)
            made += 1
    print(json.dumps({"lookup": dict(outcomes)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
