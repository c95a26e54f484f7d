"""Give damaged JSON text to the kernel and to the reference codec, and compare what they read.

    python tests/fuzz/json_text.py EXECUTIONS SEED

What both read becomes entries and JSON text again, which is compared, too.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from typing import Any

import numpy as np
from support.json_texts import DAMAGE, alike_text, random_text

from godb_arrow.codec import native, reference
from godb_arrow.codec.reference.jsonread import JsonError

BYTES_OF_VECTORS = 16


def outcome(module: Any, text: bytes, options: dict[str, Any]) -> Any:
    try:
        return module.read_json(text, **options)
    except JsonError as error:
        return error.message, error.offset, type(error.error)


def mutate(text: bytes, rng: random.Random) -> bytes:
    """Change text further, and move it in relation to the vectors of the kernel."""
    changed = bytearray(text)
    for _ in range(rng.choice((0, 0, 1, 2))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            changed[at:at] = rng.choice(DAMAGE) * rng.randrange(1, 3 * BYTES_OF_VECTORS)
        elif kind == 2:
            del changed[at:]
        else:
            changed[at:at] = b" " * rng.randrange(BYTES_OF_VECTORS)
    return bytes(changed)


def check(text: bytes, options: dict[str, Any], rng: random.Random) -> str:
    """Compare the two codecs on one input; return the name of what happened."""
    found, right = (outcome(module, text, options) for module in (native, reference))
    assert found == right, (found, right, text, options)
    if isinstance(found, tuple):
        return "invalid"
    plain = rng.random() < 0.5
    lines = [module.json_lines(found, plain=plain) for module in (native, reference)]
    assert lines[0] == lines[1], text
    field = rng.choice(("_id", "v", "a"))
    made = [module.Identification(found, field) for module in (native, reference)]
    assert made[0].invalid == made[1].invalid, text
    if made[0].invalid >= 0:
        return "read"
    numbers = np.arange(len(made[0].generated), dtype=np.int64) + rng.randrange(10**6)
    entries = [one.entries(numbers) for one in made]
    assert entries[0][0] == entries[1][0], text
    assert entries[0][1].equals(entries[1][1]), text
    lines = [module.json_lines(entries[0][0], plain=plain) for module in (native, reference)]
    assert lines[0] == lines[1], text
    return "entries"


def main(executions: int, seed: int) -> None:
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for _ in range(executions):
        options = {"in_array": rng.random() < 0.3, "is_first": rng.random() < 0.8}
        text = mutate(rng.choice((random_text, alike_text))(rng), rng)
        outcomes[check(text, options, rng)] += 1
        scanners = [module.JsonScanner() for module in (native, reference)]
        at = rng.randrange(len(text) + 1)
        for part in (text[:at], text[at:]):
            ends = [scanner.scan(part, options["in_array"]) for scanner in scanners]
            assert ends[0] == ends[1], (text, at)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
