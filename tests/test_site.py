"""Pages of the site are in its navigation, and are complete."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import godb_arrow
from godb_arrow import StorageEngine, errors
from godb_arrow.options import OptionWarning, ReadOptions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FROM_ROOT = {"changelog.md", "contributing.md", "security_policy.md"}  # added by tools/site.py
MAX_README_LINES = 150
NAVIGATION = re.findall(r"^ +- .*?([\w.]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


def headings(page: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    yield from re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page, as MkDocs makes them."""
    plain = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings(page)]
    return {re.sub(r"[\s-]+", "-", text) for text in plain}


def test_all_pages_are_in_the_navigation() -> None:
    pages = {page.name for page in DOCS.glob("*.md")}
    assert set(NAVIGATION) - FROM_ROOT == pages
    assert len(NAVIGATION) == len(set(NAVIGATION))


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))],
                         ids=lambda page: page.stem)  # fmt: skip
def test_links_lead_to_pages_and_anchors(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", text):
        path = page if not target else page.parent / target
        if path.name in FROM_ROOT and not path.exists():
            continue
        assert path.exists(), f"{page.name} links to {target}"
        if anchor and not anchor.startswith("only-"):
            assert anchor in anchors(path), f"{page.name} links to {target}#{anchor}"


def test_the_home_page_answers_thirty_questions() -> None:
    rows = re.findall(r"^\| .+\? \| \[.+\]\((\S+)\) \|$", (DOCS / "index.md").read_text(),
                      re.MULTILINE)  # fmt: skip
    assert len(rows) == 30  # that pages and anchors exist is tested with all links


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= MAX_README_LINES
    (quick_start,) = re.findall(r"```python\n(.*?)```", "\n".join(lines), re.DOTALL)
    assert len(quick_start.strip().splitlines()) <= 13


def test_every_error_has_an_entry() -> None:
    kinds = {
        name for name in dir(godb_arrow)
        if inspect.isclass(kind := getattr(godb_arrow, name))
        and issubclass(kind, errors.GodbError)
    }  # fmt: skip
    assert kinds <= set(headings(DOCS / "errors.md"))
    assert OptionWarning.__name__ in (DOCS / "errors.md").read_text()


def test_every_option_has_a_row() -> None:
    text = (DOCS / "options.md").read_text()
    options = [
        *inspect.signature(StorageEngine).parameters,
        *inspect.signature(ReadOptions).parameters,
        *list(inspect.signature(godb_arrow.write_godb).parameters)[3:],
    ]
    assert [name for name in options if f"| `{name}` |" not in text] == []


def test_every_public_name_is_in_the_reference() -> None:
    pages = "".join(page.read_text() for page in DOCS.glob("api_*.md"))
    listed = set(re.findall(r"^::: [\w.]+\.(\w+)$", pages, re.MULTILINE))
    described = listed | set(headings(DOCS / "errors.md"))
    warnings = {"CompatibilityWarning", "OptionWarning"}  # on the page of errors
    assert set(godb_arrow.__all__) - described - warnings - {"__version__"} == set()


def test_every_module_of_the_reference_has_its_name() -> None:
    for page in DOCS.glob("api_*.md"):
        for path, name in re.findall(r"^::: ([\w.]+)\.(\w+)$", page.read_text(), re.MULTILINE):
            module = godb_arrow._MODULE_OF_NAME.get(name)
            if module is not None and page.name != "api_connectors.md":
                assert path == module, f"{name} is in {module}"
            source = ROOT / (path.replace(".", "/") + ".py")
            assert re.search(rf"^(?:def|async def|class) {name}\b", source.read_text(),
                             re.MULTILINE), f"{path}.{name}"  # fmt: skip


def test_pictures_are_drawn_from_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    found = importlib.util.spec_from_file_location("charts", ROOT / "tools" / "charts.py")
    assert found is not None and found.loader is not None
    charts = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "charts", charts)
    found.loader.exec_module(charts)
    charts.draw_flow(tmp_path, charts.THEMES[0])
    charts.draw("read", charts.CHARTS["read"], DOCS / "results", tmp_path, charts.THEMES[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flow-light.svg", "read-light.svg"]
    for name, panels in charts.CHARTS.items():
        for panel in panels:
            runs, documents = charts._runs_of(panel, DOCS / "results")
            assert len(runs) > 1 and documents
        for theme in ("light", "dark"):
            assert (DOCS / "images" / f"{name}-{theme}.svg").exists(), "run tools/charts.py"


def test_files_of_configuration_can_be_read() -> None:
    yaml = pytest.importorskip("yaml")
    for name in ("CITATION.cff", ".pre-commit-config.yaml", *ROOT.glob(".github/**/*.yml")):
        assert yaml.safe_load((ROOT / name).read_text()), name
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == godb_arrow.__version__
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert {"run": ".ci/run"} in workflow["jobs"]["run"]["steps"]
