"""Settings of the tests."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

LONG = os.environ.get("GODB_ARROW_LONG") == "1"
DEFAULT_EXAMPLES = 40
EXAMPLES = int(os.environ.get("GODB_ARROW_EXAMPLES", str(DEFAULT_EXAMPLES)))
"""Examples of each property test, outside of long runs."""
SEEDS_PER_TEST = 25  # pytest takes longer for a test than most seeds do


def examples(usual: int, *, long: int) -> int:
    """Return the number of examples of a test with a number of its own.

    Parameters
    ----------
    usual : int
        The number with the default of ``GODB_ARROW_EXAMPLES``, with which it grows and falls.
    long : int
        The number in long runs.
    """
    return long if LONG else -(-usual * EXAMPLES // DEFAULT_EXAMPLES)


def for_seeds(usual: int, *, long: int) -> Callable[[Callable[[int], None]], Callable[..., None]]:
    """Run a test for each seed, many of them in one test of pytest; a failure names its seed.

    Parameters
    ----------
    usual, long : int
        The number of seeds, as of `examples`.
    """
    count = examples(usual, long=long)
    groups = [
        range(first, min(first + SEEDS_PER_TEST, count))
        for first in range(0, count, SEEDS_PER_TEST)
    ]

    def decorate(test: Callable[[int], None]) -> Callable[..., None]:
        @pytest.mark.parametrize("seeds", groups, ids=str)
        def each(seeds: range) -> None:
            for seed in seeds:
                try:
                    test(seed)
                except BaseException as error:
                    error.add_note(f"seed {seed}")
                    raise

        each.__name__, each.__doc__, each.__module__ = test.__name__, test.__doc__, test.__module__
        return each

    return decorate
