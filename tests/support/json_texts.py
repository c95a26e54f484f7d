"""Random JSON text of documents, often damaged."""

from __future__ import annotations

import random
from typing import TypeAlias

SCALARS = [
    "0", "-0", "5", "-33", "300", "1.5", "-0.001", "1e400", "12345678901234567890", "1e-7", "NaN",
    "true", "false", "null", '"a"', '"é€"', r'"\u00e9\ud83d\ude00"', r'"\udcff"', r'"\ud800"',
    '"of more than sixteen characters"', '"é of more than sixteen characters"', '"quote: \\""',
    '{"$time":"2024-02-29T06:30:00Z"}', '{"$bytes":"00"}', '{"$map":[]}', "[]", "{}",
]  # fmt: skip
_PLAIN_SCALARS = [one for one in SCALARS if one not in ("1e400", "NaN", r'"\ud800"')]
DAMAGE = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b",",
    b":",
    b"0",
    b"e5",
    b"\\ud8",
    b"\xff",
    b"\n",
    b"\xef\xbb\xbf",
]


def random_value(rng: random.Random, depth: int = 0) -> str:
    kind = rng.randrange(8 if depth < 4 else 6)
    space = rng.choice(["", "", "", " ", "\r\n", "\t"])
    if kind < 6:
        return space + rng.choice(SCALARS) + space
    children = [random_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 3, 17)))]
    if kind == 6:
        return f"[{','.join(children)}]"
    names = (rng.choice(["a", "b", "é", "_id", f"key {n}"]) for n in range(len(children)))
    pairs = (f'"{name}"{space}:{child}' for name, child in zip(names, children, strict=True))
    return "{" + ",".join(pairs) + "}"


def random_text(rng: random.Random) -> bytes:
    """Return JSON text of documents, which is often damaged."""
    between = rng.choice(["\n", "", "\r\n\n", " ", ","])
    documents = [f'{{"v":{random_value(rng)}}}' for _ in range(rng.randrange(5))]
    return _damaged(between.join(documents), rng.choice((0, 0, 1, 3)), rng)


Shape: TypeAlias = "list[tuple[str, Shape | None, bool]]"
"""Keys of a map, with the shapes of maps in their values, and whether these are in lists."""


def _shape(rng: random.Random, depth: int = 0) -> Shape:
    sizes = (0, 1, 2, 3, 3, 7, 70) if depth == 0 else (0, 1, 2, 3)
    names = [
        *("a", "b", "ab", "é", "_id", "v", "$x", "$time", "", "name", r"\u0061", r"\"", "a" * 9),
        *(f"key {n}" for n in range(70)),
        *("x" * n for n in range(24, 36)),
    ]
    fields: Shape = []
    for name in rng.sample(names, rng.choice(sizes)):
        is_map = depth < 3 and rng.random() < 0.3
        fields.append((name, _shape(rng, depth + 1) if is_map else None, rng.random() < 0.3))
    return fields


def _map_of(shape: Shape, rng: random.Random, spaces: tuple[str, str], change: float) -> str:
    """Return a map of a shape, in which some keys are absent, repeated, moved or new."""
    fields = [field for field in shape if rng.random() >= change]
    if rng.random() < change:
        fields.insert(rng.randrange(len(fields) + 1), rng.choice([*shape, ("other", None, False)]))
    if rng.random() < change:
        rng.shuffle(fields)
    texts = []
    for name, child, is_list in fields:
        before, after = spaces if rng.random() >= change / 4 else (" ", "\t ")
        value = rng.choice(SCALARS if rng.random() < 0.01 else _PLAIN_SCALARS)
        if child is not None and rng.random() >= change:
            maps = [_map_of(child, rng, spaces, change) for _ in range(rng.choice((1, 1, 2, 4)))]
            value = f"[{','.join(maps)}]" if is_list else maps[0]
        texts.append(f'{before}"{name}":{after}{value}')
    return "{" + ",".join(texts) + rng.choice(["", "", "", " "]) + "}"


def alike_text(rng: random.Random) -> bytes:
    """Return JSON text of documents that have nearly the same keys, which is sometimes damaged."""
    shape, spaces = _shape(rng), rng.choice([("", ""), (" ", " "), ("\n  ", "")])
    change = rng.choice((0, 0.02, 0.1, 0.3))
    documents = [_map_of(shape, rng, spaces, change) for _ in range(rng.randrange(2, 30))]
    return _damaged(rng.choice(["\n", "\r\n"]).join(documents), rng.choice((0, 0, 0, 1)), rng)


def _damaged(text: str, times: int, rng: random.Random) -> bytes:
    data = bytearray(text.encode())
    for _ in range(times):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randrange(3)] = rng.choice(DAMAGE)
    return bytes(data)
