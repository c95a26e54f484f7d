"""Names in the documentation exist, and its packages are those that the code has."""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from operator import attrgetter
from pathlib import Path

import pytest
from benchmarks.rooms import Journey, counts, insert_and_save, places_of_test
from test_layers import FLOORS

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PAGES = ["CONTRIBUTING.md", "docs/architecture.md", "docs/durability.md"]
FOLDERS = [ROOT, ROOT / "docs", ROOT / "godb_arrow", ROOT / "godb_arrow" / "codec" / "native"]


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`([\w./]+(?:\.(?:py|pyx|hpp|md)|/))[ `]", text))
    named |= set(re.findall(r"\]\(([\w./]+)\)", text))
    missing = [name for name in named if not any((folder / name).exists() for folder in FOLDERS)]
    assert named and not [name for name in missing if "NAME" not in name]


def test_functions_of_the_journeys_exist() -> None:
    named = re.findall(r"`([\w/]+)\.py`\s+`([A-Z]\w*[\w.]*|[a-z_]+)`", ARCHITECTURE)
    assert len(named) > 30
    for path, name in named:
        module = "godb_arrow." + path.replace("/", ".").removesuffix(".__init__")
        attrgetter(name)(importlib.import_module(module))


def test_the_table_has_the_packages_of_each_floor() -> None:
    table = defaultdict(set)
    for floor, package in re.findall(r"^\| (\d+) \| `(\w+)(?:/|\.py)`", ARCHITECTURE, re.MULTILINE):
        table[int(floor)].add(package)
    assert [table[floor] for floor in range(len(table))] == FLOORS


def test_the_picture_has_the_packages_of_each_floor() -> None:
    picture = (ROOT / "docs" / "architecture.svg").read_text()
    lines = re.findall(r'class="package"[^>]*>([^<]+)<', picture)
    packages = [name for line in lines for name in line.split(" · ")]
    by_floor = [name for floor in reversed(FLOORS) for name in packages if name in floor]
    assert packages == by_floor
    assert set(packages) == set().union(*FLOORS) - {"_version"}
    boxes = re.findall(r'class="module"[^>]*>([^<]+)<', picture)
    modules = [name for box in boxes for name in box.split(", ")]
    assert modules
    for name in modules:
        assert any([*(ROOT / folder).rglob(name)] for folder in ("godb_arrow", "connectors")), name


def test_an_insert_calls_no_function_on_a_higher_floor() -> None:
    insert, checkpoint = Journey(), Journey()
    insert_and_save(insert, checkpoint)
    assert counts(insert, places_of_test())["calls that climb"] == 0
    assert checkpoint.modules > {"engine.checkpointer", "file.writer", "storage.replace"}
