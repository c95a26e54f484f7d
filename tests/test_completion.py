"""Completion in notebooks, for which IPython asks jedi."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import godb_arrow
from godb_arrow import StorageEngine

jedi = pytest.importorskip("jedi")


def completions(line: str, names: dict[str, Any]) -> set[str]:
    found = jedi.Interpreter(line, [names]).complete()
    return {one.name for one in found if not one.name.startswith("_")}


@pytest.fixture
def names(tmp_path: Path) -> Any:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.insert({"name": "Ada"})
        yield {"godb_arrow": godb_arrow, "engine": engine, "users": users}


@pytest.mark.parametrize("line", ["users.", "engine['users'].", "engine.create_collection('x')."])
def test_a_collection_shows_its_verbs(names: dict[str, Any], line: str) -> None:
    assert {"find", "insert", "to_pandas", "compression"} <= completions(line, names)


def test_an_engine_shows_its_verbs(names: dict[str, Any]) -> None:
    assert {"save", "replicas", "stats", "collections"} <= completions("engine.", names)


def test_everything_of_an_engine_has_completions(names: dict[str, Any]) -> None:
    for line in ("engine.stats().", "users.info().", "users.explain().", "users.to_arrow()."):
        assert completions(line, names), line


def test_results_have_completions(names: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.godb"
    names["engine"].save_to_file(path)
    names["handle"] = godb_arrow.open_godb(path.read_bytes(), "users")
    names["report"] = godb_arrow.inspect_godb(path)
    names["page"] = names["users"].find_page()
    for name in ("handle", "report", "page"):
        assert completions(f"{name}.", names), name


def test_the_package_shows_public_names_and_no_modules(names: dict[str, Any]) -> None:
    assert completions("godb_arrow.", names) == set(godb_arrow.__all__) - {"__version__"}
