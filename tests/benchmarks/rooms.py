"""Count the modules that one inserted document, and one file read as a DataFrame, pass through.

    python tests/benchmarks/rooms.py

Each journey runs under a profile function, which notes every call of a Python function of
godb_arrow. A climb is a call of a function on a higher floor than its caller. Resuming a generator
counts as a call. ``tests/test_layers.py`` defines the floors and packages.

An old state of the code has a table of modules instead of that test. There a row of the table
stands for a package::

    git worktree add ../before a606e0d
    (cd ../before && python setup.py build_ext --inplace)
    PYTHONPATH=../before python tests/benchmarks/rooms.py --table ../before/CONTRIBUTING.md

The profile function does not see calls inside of the compiled kernel. One thread works, so that
every run counts the same.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import godb_arrow

PACKAGE = Path(godb_arrow.__file__).parent.resolve()
CONNECTORS = (PACKAGE / "connectors").resolve()  # a link in a checkout
DOCUMENTS = 60_000  # of the file that is read: several pieces, two record batches
ONE_THREAD = "32MB"  # a memory limit that leaves one thread


class Place(NamedTuple):
    """Floor and package of a module; the floor counts from the ground."""

    floor: int
    package: str


class Crossing(NamedTuple):
    """A call of a function in another module."""

    caller: str
    called: str
    function: str


class Journey:
    """Calls that were made while recording.

    Attributes
    ----------
    calls : int
        Calls of functions of godb_arrow.
    modules : set of str
        Modules whose functions were called.
    crossings : list of Crossing
        Calls from one module into another.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.modules: set[str] = set()
        self.crossings: list[Crossing] = []
        self._module_of: dict[CodeType, str | None] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the calls of this thread."""
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        called = self._module(frame) if event == "call" else None
        if called is None:
            return
        self.calls += 1
        self.modules.add(called)
        outer = frame.f_back
        while outer is not None and self._module(outer) is None:
            outer = outer.f_back
        caller = None if outer is None else self._module(outer)
        if caller is not None and caller != called:
            self.crossings.append(Crossing(caller, called, frame.f_code.co_qualname))

    def _module(self, frame: FrameType) -> str | None:
        code = frame.f_code
        if code not in self._module_of:
            self._module_of[code] = module_of(Path(code.co_filename))
        return self._module_of[code]


def module_of(file: Path) -> str | None:
    """Return the name of a module below ``godb_arrow``; None for the root and for other files."""
    file = file.resolve()
    for folder, prefix in ((CONNECTORS, ("connectors",)), (PACKAGE, ())):
        if file.is_relative_to(folder):
            parts = (*prefix, *file.relative_to(folder).with_suffix("").parts)
            return ".".join(parts).removesuffix("__init__").removesuffix(".") or None
    return None


def places_of_test() -> dict[str, Place]:
    """Return the places of the packages in ``tests/test_layers.py``."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from test_layers import FLOOR_OF

    return {package: Place(floor, package) for package, floor in FLOOR_OF.items()}


def places_of_table(text: str) -> dict[str, Place]:
    """Return the places of the modules in a Markdown table of floors."""
    return {
        name: Place(int(floor), names)
        for floor, names in re.findall(r"^\| (\d+) \| (.*?) \|", text, re.MULTILINE)
        for name in re.findall(r"`(\w+)(?:\.py|/)`", names)
    }


def counts(journey: Journey, places: Mapping[str, Place]) -> dict[str, int]:
    """Return what the table shows of a journey."""

    def place(module: str) -> Place:
        return places[module.split(".", maxsplit=1)[0]]

    crossings = [(place(one.caller), place(one.called)) for one in journey.crossings]
    return {
        "calls": journey.calls,
        "modules entered": len(journey.modules),
        "packages entered": len({place(module).package for module in journey.modules}),
        "calls into another module": len(crossings),
        "calls into another package": sum(
            caller.package != called.package for caller, called in crossings
        ),
        "calls that climb": sum(caller.floor < called.floor for caller, called in crossings),
    }


def insert_and_save(insert: Journey, checkpoint: Journey) -> None:
    """Insert a document into a collection that has a file, and save the collection."""
    with (
        tempfile.TemporaryDirectory() as folder,
        godb_arrow.StorageEngine(folder, max_memory=ONE_THREAD) as engine,
    ):
        engine.create_collection("users")
        engine.insert("users", {"name": "Ada", "age": 36})
        engine.save()
        with insert.recording():
            engine.insert("users", {"name": "Bob", "age": 41})
        with checkpoint.recording():
            engine.save()


def read(journey: Journey) -> None:
    """Read a file as a DataFrame."""
    rows = ({"name": hashlib.sha256(b"%d" % n).hexdigest(), "age": n} for n in range(DOCUMENTS))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "users.godb"
        godb_arrow.write_godb(rows, path, "users")
        with journey.recording():
            godb_arrow.read_godb(path, threads=1)


def travel() -> dict[str, Journey]:
    """Return the journeys by name."""
    journeys = {name: Journey() for name in ("insert", "checkpoint", "read")}
    insert_and_save(journeys["insert"], journeys["checkpoint"])
    read(journeys["read"])
    return journeys


def print_climbs(journeys: Mapping[str, Journey], places: Mapping[str, Place]) -> None:
    for name, journey in journeys.items():
        for (caller, called, function), times in sorted(Counter(journey.crossings).items()):
            if places[caller.split(".")[0]].floor < places[called.split(".")[0]].floor:
                print(f"{name}: {times} x {caller} calls {function} of {called}")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--table", type=Path, help="a Markdown file with a table of modules")
    parser.add_argument("--climbs", action="store_true", help="list the calls that climb")
    options = parser.parse_args()
    places = places_of_table(options.table.read_text()) if options.table else places_of_test()
    travel()  # imports what is imported at first use
    journeys = travel()
    columns = [counts(journey, places) for journey in journeys.values()]
    print("| |", " | ".join(journeys), "|")
    print("|---" + "|--:" * len(columns) + "|")
    for name in columns[0]:
        print("|", " | ".join([name, *(str(column[name]) for column in columns)]), "|")
    if options.climbs:
        print_climbs(journeys, places)


if __name__ == "__main__":
    main()
