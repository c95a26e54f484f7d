"""Random JSON text of documents, often damaged."""

from __future__ import annotations

import random

SCALARS = [
    "0", "-0", "5", "-33", "300", "1.5", "-0.001", "1e400", "12345678901234567890", "1e-7", "NaN",
    "true", "false", "null", '"a"', '"é€"', r'"\u00e9\ud83d\ude00"', r'"\udcff"', r'"\ud800"',
    '"of more than sixteen characters"', '"é of more than sixteen characters"', '"quote: \\""',
    '{"$time":"2024-02-29T06:30:00Z"}', '{"$bytes":"00"}', '{"$map":[]}', "[]", "{}",
]  # fmt: skip
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
    data = bytearray(between.join(documents).encode())
    for _ in range(rng.choice((0, 0, 1, 3))):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randrange(3)] = rng.choice(DAMAGE)
    return bytes(data)
