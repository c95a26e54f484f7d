"""The overlay: rows of the base that its changes supersede."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from godb_arrow.snapshots.overlay import Overlay


@pytest.mark.parametrize("seed", range(20))
def test_superseded_rows_are_in_order_and_counted_once(seed: int) -> None:
    rng = random.Random(seed)
    rows = list(range(rng.choice([0, 5, 400])))
    rng.shuffle(rows)
    cut = rng.randrange(len(rows) + 1)
    deleted, left = sorted(rows[:cut]), rows[cut:]
    base: Any = SimpleNamespace(number=seed, deleted=np.array(deleted, np.int64))
    overlay, expected = Overlay(), set(deleted)
    frozen = overlay.freeze()
    while True:
        before = expected.copy()
        count = rng.choice([1, 1, 2, 50])
        superseded, left = left[:count], left[count:]
        if deleted and rng.random() < 0.3:
            superseded = [*superseded, deleted[0]]  # a row that a follower has twice
        overlay.plan_change({f"{seed}-{len(left)}": b"\x80"}, superseded)(None)
        expected |= set(superseded)
        assert frozen.superseded_rows(base).tolist() == sorted(before), "unaffected by changes"
        frozen = overlay.freeze()
        found = frozen.superseded_rows(base)
        assert (found.tolist(), found.dtype) == (sorted(expected), np.int64)
        if not left:
            break
