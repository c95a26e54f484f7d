"""Settings and fixtures for all tests."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from support.object_stores import faulty
from support.settings import EXAMPLES, LONG

from godb_arrow import codec

__all__ = ["faulty"]

_OPEN_FILES = "/proc/self/fd/"

hypothesis.settings.register_profile(
    "short", max_examples=EXAMPLES, deadline=None, derandomize=True, database=None
)
hypothesis.settings.register_profile("long", max_examples=3000, deadline=None)
hypothesis.settings.load_profile("long" if LONG else "short")


def pytest_sessionstart() -> None:
    """Collect no garbage while the tests are collected, which leaves little of it."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Keep the garbage collector from the tests that wait: each run would look at all of them."""
    gc.enable()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leaked_files() -> Iterator[None]:
    """Fail a test that leaves a file open."""
    if not os.path.isdir(_OPEN_FILES):
        yield
        return
    before = _regular_files()
    yield
    ends = time.monotonic() + 2
    while _regular_files() - before and time.monotonic() < ends:
        gc.collect()  # an error that was caught holds what its frames had; threads end soon
        time.sleep(0.02)
    leaked = _regular_files() - before
    assert not leaked, f"left open: {leaked}"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[str, ...]]]:
    """How many documents were decoded each time, into which columns."""
    seen: list[tuple[int, tuple[str, ...]]] = []

    def noting(decode: Callable[..., Any]) -> Callable[..., Any]:
        def noted(entries: Any, plan: Any) -> Any:
            batch = decode(entries, plan)
            if batch is not None:
                seen.append((len(entries), tuple(plan.schema.names)))
            return batch

        return noted

    for name in ("decode_batch", "decode_front_batch"):
        monkeypatch.setattr(codec, name, noting(getattr(codec, name)))
    return seen


def _regular_files() -> set[str]:
    found = set()
    for number in os.listdir(_OPEN_FILES):
        try:
            target = os.readlink(_OPEN_FILES + number)
        except OSError:
            continue
        if target.endswith(".godb") or "godb-arrow-" in target:
            found.add(target)
    return found


def _trust_records() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in ("file.pieces", "snapshots.parted_base"):
            name = f"godb_arrow.{module}.chosen_pieces"
            monkeypatch.setattr(name, lambda pieces, sizes, **_: [])
        monkeypatch.setattr("godb_arrow.file.locate.EXACT_BYTES", 0)
        monkeypatch.setattr("godb_arrow.snapshots.part_file.EXACT_BYTES", 0)
        yield


@pytest.fixture
def trusted_records() -> Iterator[None]:
    """Use statistics and indexes of small collections unchecked, as those of large ones."""
    yield from _trust_records()


@pytest.fixture(scope="module")
def trusted_records_in_module() -> Iterator[None]:
    """Do the same for all tests of a module, which Hypothesis may run many times."""
    yield from _trust_records()
