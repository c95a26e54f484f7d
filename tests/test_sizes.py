"""Files and classes stay small enough to read in one go."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_FILE_LINES = 600
MAX_CLASS_LINES = 350  # docstrings not counted


def sources() -> list[Path]:
    folders = (ROOT / "godb_arrow", ROOT / "connectors")
    # A checkout has a link to the connectors inside of the package.
    return sorted({path.resolve() for folder in folders for path in folder.rglob("*.py")})


def class_lines(node: ast.ClassDef) -> int:
    """Return the number of lines of a class without those of its docstrings."""
    docstrings: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = inner.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.update(range(first.lineno, (first.end_lineno or 0) + 1))
    return len(set(range(node.lineno, (node.end_lineno or 0) + 1)) - docstrings)


def faults(text: str) -> list[str]:
    found = []
    if (count := text.count("\n")) > MAX_FILE_LINES:
        found.append(f"{count} lines")
    classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    found += [
        f"{count} lines of the class {node.name}"
        for node in classes
        if (count := class_lines(node)) > MAX_CLASS_LINES
    ]
    return found


def test_no_file_and_no_class_is_too_long() -> None:
    found = {str(path.relative_to(ROOT)): faults(path.read_text()) for path in sources()}
    assert len(found) > 100
    assert {name: what for name, what in found.items() if what} == {}


def test_a_class_that_is_too_long_is_found() -> None:
    body = "    x = 1\n" * MAX_CLASS_LINES
    docstring = '    """' + "Text.\n" * 10 + '    """\n'
    assert faults(f"class C:\n{docstring}{body}") == [f"{MAX_CLASS_LINES + 1} lines of the class C"]
    assert faults(f"class C:\n{docstring}{body[10:]}") == []
