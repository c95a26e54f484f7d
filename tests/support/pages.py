"""Blocks of code on the pages of the documentation, and a program that runs them in order.

Each page runs in an empty folder, with one namespace for its Python. A block of text with the title
"Output" is compared with the output of the block before it. A comment before a block changes that::

    <!-- not run: reason -->         the block is not run
    <!-- needs: package -->          the block is skipped where the package is not installed
    <!-- raises: ErrorName -->       the block raises this error, whose message is its output
    <!-- exit: 1 -->                 the last command ends with this status
    <!-- alone -->                   the Python runs in a process of its own
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import godb_arrow
from godb_arrow.cli import main

_BLOCK = re.compile(
    r"(?:^(?P<comment> *<!--.*?-->)\n)?^(?P<indent> *)```(?P<language>\w*)(?P<words>[^\n]*)\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_NOT_RUN = {"not run", "main-command", "test-command"}  # .ci/run runs the last two
_SHELL = "godb-arrow"
_COMMAND = f'#!/bin/sh\nexec "{sys.executable}" -c "from godb_arrow.cli import main; main()" "$@"\n'


@dataclass
class Block:
    """A block of code on a page."""

    line: int
    language: str
    words: str
    code: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def is_output(self) -> bool:
        """Whether the block shows the output of the block before."""
        return self.language == "text" and 'title="Output"' in self.words


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of code of a page, in order."""
    blocks = []
    for match in _BLOCK.finditer(text):
        notes = re.findall(r"<!-- ([a-z -]+?)(?:: (.*?))? -->", match["comment"] or "")
        line = text.count("\n", 0, match.start("code"))
        code = textwrap.dedent(match["code"])
        blocks.append(Block(line, match["language"], match["words"], code, dict(notes)))
    return blocks


def run_page(path: Path, *, close: bool = True) -> dict[str, Any]:
    """Run the blocks of a page in the current folder; return the names that they define.

    Parameters
    ----------
    path : Path
        The page.
    close : bool
        Whether to close the engines that the page opens, default True.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    output = ""
    root, handlers, level = logging.getLogger(), logging.root.handlers[:], logging.root.level
    try:
        for block in blocks_of(path.read_text(encoding="utf-8")):
            place = f"{path.name}:{block.line}"
            needed = block.notes.get("needs")
            if block.notes.keys() & _NOT_RUN or (needed and not importlib.util.find_spec(needed)):
                output = "skipped"
            elif block.is_output:
                _compare(place, block.code, output)
            elif block.language == "python":
                output = _run_python(place, block, names)
            elif block.language in ("sh", "console"):
                output = _run_commands(place, block)
            elif block.language not in ("text", "json", "toml", ""):
                raise AssertionError(f"{place}: no program runs {block.language}")
    finally:
        for value in list(names.values()) if close else ():
            if isinstance(value, godb_arrow.StorageEngine):
                value.close()
        root.handlers[:] = handlers
        root.setLevel(level)
    return names


def _compare(place: str, expected: str, output: str) -> None:
    if output == "skipped":
        return
    wanted, printed = _stripped(expected), _stripped(output)
    # As in doctests, "..." stands for any text, also for several lines.
    pattern = ".*?".join(re.escape(part) for part in wanted.split("..."))
    assert re.fullmatch(pattern, printed, re.DOTALL), f"{place}: the output is\n{printed}"


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def _run_python(place: str, block: Block, names: dict[str, Any]) -> str:
    if "alone" in block.notes:
        command = [sys.executable, "-c", block.code]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert ran.returncode == 0, f"{place}: {ran.stdout}{ran.stderr}"
        return ran.stdout
    wanted = block.notes.get("raises")
    code = compile("\n" * block.line + block.code, place, "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            exec(code, names)
        except godb_arrow.GodbError as error:
            if type(error).__name__ != wanted:
                raise
            return f"{printed.getvalue()}{wanted}: {error}"
    assert wanted is None, f"{place}: raises no {wanted}"
    return printed.getvalue()


def _run_commands(place: str, block: Block) -> str:
    status = int(block.notes.get("exit", "0"))
    code = re.sub(r"^\$ ", "", block.code, flags=re.MULTILINE)
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
    simple = all(line.startswith(_SHELL) and not re.search(r"[|<>&$\\]", line) for line in lines)
    if simple:
        output = ""
        for line in lines:
            arguments = shlex.split(line, comments=True)[1:]
            result = CliRunner().invoke(main, arguments, prog_name=_SHELL)
            expected = status if line is lines[-1] else 0
            assert result.exit_code == expected, f"{place}: {line}\n{result.output}"
            output += result.output
        return output
    folder = Path.cwd() / ".bin"
    folder.mkdir(exist_ok=True)
    (folder / _SHELL).write_text(_COMMAND)
    (folder / _SHELL).chmod(0o755)
    path = f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path}, timeout=120,
    )  # fmt: skip
    assert ran.returncode == status, f"{place}: {ran.stdout}{ran.stderr}"
    return ran.stdout
