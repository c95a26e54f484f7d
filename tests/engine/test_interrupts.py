"""Interrupts at every call and every line of the package: a change is there whole or not at all."""

from __future__ import annotations

import ast
import functools
import itertools
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from support.settings import LONG
from support.verbs import JOURNALLED, VERBS, content, in_time, is_whole, opened, prepare

import godb_arrow
from godb_arrow import StorageEngine

PACKAGE = str(Path(godb_arrow.__file__).parent)
# An interrupt in a finalizer is reported and ignored by Python.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
DURABILITIES = ["interval", "commit", "checkpoint"]
PLACES = 300 if LONG else 2  # of the calls and lines of a verb, at the most


@pytest.fixture(autouse=True)
def no_leaked_files() -> None:
    """Allow files that stay open: an interrupt may come between opening one and noting it."""


@functools.cache
def _unreal(path: str) -> frozenset[int]:
    """The lines of ``with`` and ``try`` of a file.

    Python looks for signals after calls, and as functions and rounds of a loop begin. So no signal
    comes between the end of a ``with`` block and the release of its lock, or as ``try`` begins;
    an error raised by a tracer there is not handled by the statement around it.
    """
    lines: set[int] = set()
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, (ast.With, ast.Try)):
            lines.update(range(node.lineno, node.body[0].lineno))
    return frozenset(lines)


def unreal(frame: FrameType) -> frozenset[int]:
    return _unreal(frame.f_code.co_filename)


class Interrupter:
    """Raises KeyboardInterrupt at a place: the n-th call or line of the package."""

    def __init__(self, place: int) -> None:
        self.left = place
        self.passed = 0
        self.raised = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "call" or (event == "line" and frame.f_lineno not in unreal(frame)):
            self.left -= 1
            self.passed += 1
            if self.left == 0:
                self.raised = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self

    def run(self, function: Callable[[], Any]) -> bool:
        """Run a function; returns whether it ended before the place came."""
        sys.settrace(self)
        try:
            function()
        except KeyboardInterrupt:
            return False
        finally:
            sys.settrace(None)
        return not self.raised


NEITHER_BEFORE_NOR_AFTER = {"restore"}  # it saves what there is, and then goes back


def places(seed: str, total: int) -> list[int]:
    """Choose some of the places of a verb, and one behind them all."""
    chosen = random.Random(seed).sample(range(1, total + 1), min(PLACES, total))
    return [*sorted(chosen), total + 1]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    godb_arrow.write_godb([{"_id": "o", "v": 1}], folder / "other.godb", "other")
    with StorageEngine(folder / "data", part_size="1KiB", part_grace=0.001) as engine:
        prepare(engine)
        engine.close(discard=True)
    return folder


@pytest.mark.parametrize(
    ("verb", "durability"),
    [
        (verb, durability)
        for index, verb in enumerate(VERBS)
        for durability in (DURABILITIES if LONG else [DURABILITIES[index % 3]])
        if not (verb in JOURNALLED and durability == "checkpoint")
    ],
)
def test_an_interrupt_leaves_a_change_whole_or_undone(
    verb: str, durability: str, prepared: Path, tmp_path: Path
) -> None:
    shutil.copy(prepared / "other.godb", tmp_path / "other.godb")
    shutil.copytree(prepared / "data", tmp_path / "counted")
    engine = opened(tmp_path / "counted", durability)
    content(engine)
    counting = Interrupter(1 << 60)
    counting.run(lambda: VERBS[verb](engine))
    engine.close()
    for number, place in enumerate(places(verb + durability, counting.passed)):
        folder = tmp_path / str(number)
        shutil.copytree(prepared / "data", folder)
        engine = opened(folder, durability)
        before = content(engine)
        interrupter = Interrupter(place)
        ended = interrupter.run(lambda e=engine: VERBS[verb](e))
        message = f"{verb} interrupted at {interrupter.raised}"
        there = in_time(lambda e=engine: content(e))
        if not ended and verb not in NEITHER_BEFORE_NOR_AFTER:
            assert there == before or is_whole(verb, before, there), message
        in_time(lambda e=engine: e.create_collection("later").insert({"_id": "l", "v": 1}))
        if verb != "drop":
            some = next(name for name in ("file", "renamed") if name in engine)
            in_time(lambda e=engine, name=some: e[name].insert({"_id": "later"}))
        there = in_time(lambda e=engine: content(e))
        if durability != "checkpoint":
            crashed = tmp_path / f"{number}-crashed"
            shutil.copytree(folder, crashed)
            with StorageEngine(crashed) as recovered:
                assert content(recovered) == there, message
            shutil.rmtree(crashed)
        in_time(engine.close)
        with StorageEngine(folder) as again:
            assert content(again) == there, message
        shutil.rmtree(folder)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_an_interrupted_close_can_be_repeated(
    durability: str, prepared: Path, tmp_path: Path
) -> None:
    for number in itertools.count():
        place = 1 + number * (17 if LONG else 701)
        folder = tmp_path / str(number)
        shutil.copytree(prepared / "data", folder)
        engine = opened(folder, durability)
        engine["file"].insert({"_id": "new"})
        expected = content(engine)
        interrupter = Interrupter(place)
        ended = interrupter.run(engine.close)
        in_time(engine.close)
        with StorageEngine(folder) as again:
            assert content(again) == expected, interrupter.raised
        shutil.rmtree(folder)
        if ended:
            break
