"""Python programs in other processes: they may crash, or wait for a line where a test wants it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_FIRST = """
import sys

def wait(word):
    print(word, flush=True)
    sys.stdin.readline()
"""


class Program:
    """A program that runs, and calls ``wait(word)`` where it waits."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def waits(self, word: str) -> None:
        """Wait until the program waits."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == f"{word}\n", line or self._process.communicate()[1]

    def let_go(self) -> None:
        """Let a program that waits continue."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def ends(self) -> str:
        """Wait until the program ends, and return what it printed last."""
        out, errors = self._process.communicate()
        assert self._process.returncode == 0, errors
        return out.strip()

    def kill(self) -> None:
        """Kill the program, wherever it is."""
        self._process.kill()
        self._process.wait()


@contextmanager
def running(code: str, *arguments: Any) -> Iterator[Program]:
    """Run Python code in another process, which does not outlive the block."""
    command = [sys.executable, "-c", _FIRST + code, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Program(process)
        finally:
            if process.poll() is None:
                process.kill()


def run_python(
    code: str, *arguments: object, backend: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code with arguments, and with a codec if one is named; return status and output."""
    environment = dict(os.environ)
    if backend is not None:
        environment["GODB_ARROW_CODEC"] = backend
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment, check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
