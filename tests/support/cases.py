"""Marks for cases that do not hold yet."""

from __future__ import annotations

import pytest


def fails(case: str) -> pytest.MarkDecorator:
    """Expect a failure until the issue of a case is closed."""
    return pytest.mark.xfail(strict=True, reason=case)
