"""Packages import only from the floors below them, and no modules import each other in a circle."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = [
    {
        "_version",
        "errors",
        "options",
        "extensions",
        "keywords",
        "parallel",
        "providers",
        "display",
        "schema",
        "samples",
        "recorded_schema",
        "colliding_names",
        "former_ipc",
        "ipc_header",
        "arrow_compute",
    },
    {"storage", "memory"},
    {"codec"},
    {"query"},
    {"documents"},
    {"file"},
    {"snapshots"},
    {"directory"},
    {"replication"},
    {"engine"},
    {"connectors"},
    {"cli"},
]
"""Packages and modules of ``godb_arrow``, from the ground up."""

FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
PUBLIC = "godb_arrow"  # the root, which re-exports names of all floors; only the command uses it


class Import(NamedTuple):
    """An import of one module by another."""

    importer: str
    imported: str
    line: int


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return every module of the package by name."""
    found = {}
    for folder, prefix in ((root / "godb_arrow", "godb_arrow"),
                           (root / "connectors", "godb_arrow.connectors")):  # fmt: skip
        for path in sorted(folder.rglob("*.py")):
            inner = path.relative_to(folder)
            if prefix == "godb_arrow" and inner.parts[0] == "connectors":
                continue  # a link to the other folder
            name = ".".join([prefix, *inner.with_suffix("").parts]).removesuffix(".__init__")
            found[name] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    """Yield the imports of a module, those in functions and under TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in known:
                    yield Import(name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                target = inner if inner in known else node.module
                if target in known:
                    yield Import(name, target, node.lineno)


@functools.cache
def all_imports() -> list[Import]:
    known = modules()
    return [found for name, path in known.items() for found in imports(name, path, known)]


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else PUBLIC


def upward(found: list[Import]) -> list[Import]:
    """Return the imports that do not go down."""
    wrong = []
    for one in found:
        importer, imported = package_of(one.importer), package_of(one.imported)
        if importer in (PUBLIC, imported):
            continue
        if imported == PUBLIC:
            if importer != "cli":
                wrong.append(one)
        elif FLOOR_OF[imported] > FLOOR_OF[importer] or (
            FLOOR_OF[imported] == FLOOR_OF[importer] != 0
        ):
            wrong.append(one)
    return wrong


def circles(found: list[Import]) -> list[tuple[str, ...]]:
    """Return the groups of modules that import each other, the root aside."""
    below: dict[str, set[str]] = {}
    for one in found:
        if PUBLIC not in (one.importer, one.imported):
            below.setdefault(one.importer, set()).add(one.imported)
    reach: dict[str, set[str]] = {}
    for start in below:
        seen: set[str] = set()
        stack = [start]
        while stack:
            for module in below.get(stack.pop(), ()):
                if module not in seen:
                    seen.add(module)
                    stack.append(module)
        reach[start] = seen
    groups = {
        tuple(sorted(other for other in seen if name in reach.get(other, ())))
        for name, seen in reach.items()
        if name in seen
    }
    return sorted(groups)


def test_every_package_has_a_floor() -> None:
    assert {package_of(name) for name in modules()} - {PUBLIC} == set(FLOOR_OF)


def test_packages_import_only_from_floors_below() -> None:
    wrong = [f"{one.importer}:{one.line} imports {one.imported}" for one in upward(all_imports())]
    assert not wrong, wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(all_imports()) == []


def test_the_engine_imports_no_connector() -> None:
    assert not [one for one in all_imports()
                if package_of(one.importer) == "engine"
                and package_of(one.imported) == "connectors"]  # fmt: skip


@pytest.mark.parametrize("where", ["function", "TYPE_CHECKING"])
def test_an_upward_import_is_found_wherever_it_stands(where: str, tmp_path: Path) -> None:
    line = "    from godb_arrow.engine.engine import StorageEngine\n"
    head = "def late() -> None:\n" if where == "function" else "if TYPE_CHECKING:\n"
    path = tmp_path / "module.py"
    path.write_text(head + line)
    found = list(imports("godb_arrow.file.module", path, modules()))
    assert [one.imported for one in upward(found)] == ["godb_arrow.engine.engine"]


def test_a_circle_is_found() -> None:
    pair = ("godb_arrow.memory.limit", "godb_arrow.memory.lru")
    assert circles([*all_imports(), Import(*pair, 1), Import(*pair[::-1], 1)]) == [pair]
