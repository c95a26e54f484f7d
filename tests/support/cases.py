"""Marks for cases that do not hold yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def fails(case: str) -> pytest.MarkDecorator:
    """Expect a failure until the issue of a case is closed."""
    return pytest.mark.xfail(strict=True, reason=case)


def some_fail(names: Iterable[Any], failing: Iterable[Any], case: str) -> list[Any]:
    """Return parameters, and expect failures of some."""
    return [pytest.param(name, marks=fails(case) if name in failing else ()) for name in names]
