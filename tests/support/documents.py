"""Documents of one kind with exceptions, from a random generator."""

from __future__ import annotations

import random
from typing import Any

import msgpack

from godb_arrow.codec import pack

NAMES = (
    "", "a", "b", "count", "exactly7", "exactly", "a name of 15 byt", "a name of 15 by",
    "a name of sixteen byte", "a name of seventeen by", "a name whose middle A differs, A",
    "a name whose middle B differs, A", "a name with thirty-one bytes, A", "x" * 32, "x" * 40,
    "\u00e9", "_id",
)  # fmt: skip


def leaf(rng: random.Random) -> Any:
    """Return a function that returns values of one kind, some of them in another form."""
    text = rng.choice(["x", "\u00e9", "\U0001f600", "xy\u00e9z"])
    return rng.choice([
        lambda: rng.choice([0, 1, 127, 128, -1, -32, -33, 2**15, -(2**31), 2**32, -(2**63)]),
        lambda: rng.choice([0, 2**63, 2**64 - 1]), lambda: rng.random() * 10**rng.randrange(-9, 9),
        lambda: rng.choice([1.5, float("nan"), float("inf")]), lambda: rng.random() < 0.5,
        lambda: text * rng.randrange(12), lambda: text * rng.choice([8, 15, 16, 17, 31, 32, 300]),
        lambda: rng.choice(["", "a", "\ud800", "b" * 31]), lambda: rng.randbytes(rng.randrange(40)),
        lambda: msgpack.Timestamp(rng.choice([0, 1, 2**32, 2**34 - 1, 10**10]),
                                  rng.choice([0, 0, 1000, 1_000_000, 999_999_999])),
        lambda: msgpack.Timestamp(rng.randrange(2**32), 0), lambda: None,
        lambda: msgpack.Timestamp(rng.choice([-1, -(2**35), 2**35]), rng.randrange(10**9)),
        lambda: msgpack.ExtType(5, b"1234"), lambda: msgpack.ExtType(127, b"12"),
    ])  # fmt: skip


def value(rng: random.Random, depth: int) -> Any:
    """Return a function that returns values of one kind, perhaps with others inside."""
    kind = rng.random()
    if depth < 3 and kind < 0.2:
        return document(rng, depth + 1)
    if depth < 3 and kind < 0.4:
        item, longest = value(rng, depth + 1), rng.choice([2, 3, 3, 20])
        return lambda: [item() for _ in range(rng.randrange(longest))]
    return leaf(rng)


def document(rng: random.Random, depth: int = 0) -> Any:
    """Return a function that returns documents of one kind, with some exceptions."""
    names = rng.sample(NAMES, rng.randrange(1, 4 if depth else len(NAMES)))
    kinds = {name: value(rng, depth) for name in names}
    often = {name: rng.choice([1, 1, 1, 0.5, 0.05]) for name in names}
    odd = rng.choice([0, 0, 0, 0.01, 0.2])
    is_shuffled = rng.random() < 0.5

    def made() -> Any:
        order = rng.sample(names, len(names)) if is_shuffled or rng.random() < odd else names
        pairs = [(name, kinds[name]()) for name in order if rng.random() < often[name]]
        if rng.random() < odd:
            more = rng.choice([*NAMES, "unknown", 1, b"\xff", None, "\ud800"])
            pairs.insert(rng.randrange(len(pairs) + 1), (more, leaf(rng)()))
        if rng.random() < odd and pairs:
            pairs[-1] = (pairs[-1][0], leaf(rng)())
        return None if depth and rng.random() < odd else Pairs(pairs)

    return made


class Pairs(list[Any]):
    """Keys and values of a map, in which keys may come again."""


def packed(found: Any) -> bytes:
    if isinstance(found, Pairs):
        head = msgpack.Packer().pack_map_header(len(found))
        return head + b"".join(packed(key) + packed(one) for key, one in found)
    if isinstance(found, list):
        head = msgpack.Packer().pack_array_header(len(found))
        return head + b"".join(map(packed, found))
    if isinstance(found, str):
        return msgpack.packb(found, unicode_errors="surrogatepass")
    return pack(found)
