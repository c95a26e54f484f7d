"""Comparison of values with their types."""

from __future__ import annotations

import math
from typing import Any


def same(left: Any, right: Any) -> bool:
    """Compare values with their types; NaN equals NaN, and invalid UTF-8 equals its bytes."""
    if isinstance(left, str) and isinstance(right, bytes):
        return left.encode("utf-8", "surrogateescape") == right
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return len(left) == len(right) and all(
            same(a, c) and same(b, d)
            for (a, b), (c, d) in zip(left.items(), right.items(), strict=True)
        )
    return bool(left == right)
