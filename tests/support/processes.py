"""Python programs in other processes: they may crash, or wait for a line where a test wants it."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import nursery

_FIRST = """
import sys

def wait(word):
    print(word, flush=True)
    sys.stdin.readline()
"""


class _Fork(subprocess.Popen[str]):
    """A program that the nursery starts, and which `Popen` else treats as a child of its own."""

    def _execute_child(
        self, args: list[str], executable: Any, preexec: Any, close: Any, passed: Any, cwd: Any,
        env: Any, startupinfo: Any, creation: Any, shell: Any, p2cread: int, p2cwrite: int,
        c2pread: int, c2pwrite: int, errread: int, errwrite: int, *others: Any,
    ) -> None:  # fmt: skip
        asked = {
            "code": args[0],
            "arguments": args[1:],
            "folder": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
        }
        ends = (p2cread, c2pwrite, errwrite)
        standard = [number if end == -1 else end for number, end in enumerate(ends)]
        self._answers, answers = os.pipe()
        try:
            socket.send_fds(_nursery(), [json.dumps(asked).encode()], [*standard, answers])
        finally:
            for end in {*ends, answers} - {-1}:
                os.close(end)
        self.pid = self._answer()
        self._child_created = True

    def _answer(self) -> int:
        number: int = nursery.NUMBER.unpack(os.read(self._answers, nursery.NUMBER.size))[0]
        return number

    def _try_wait(self, flags: int) -> tuple[int, int]:
        os.set_blocking(self._answers, not flags & os.WNOHANG)
        try:
            status = self._answer()
        except BlockingIOError:
            return 0, 0
        os.close(self._answers)
        return self.pid, status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


@functools.cache
def _nursery() -> socket.socket:
    """Start the nursery of this process, which ends with it."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        process = subprocess.Popen(
            [sys.executable, nursery.__file__, str(there.fileno())], pass_fds=[there.fileno()]
        )
    process.returncode = 0  # it ends with this process
    return here


def start(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start Python code in another process, which has what tests use imported already.

    Parameters
    ----------
    code : str
        The program.
    *arguments : object
        Its arguments, in ``sys.argv`` after ``"-c"``.
    **options : object
        ``stdin``, ``stdout``, ``stderr``, ``cwd`` and ``env`` of `subprocess.Popen`. An
        environment that chooses a codec needs an interpreter of its own.
    """
    words = [code, *map(str, arguments)]
    chosen = (options.get("env") or os.environ).get("GODB_ARROW_CODEC")
    if hasattr(os, "pidfd_open") and chosen == os.environ.get("GODB_ARROW_CODEC"):
        return _Fork(words, text=True, **options)
    return subprocess.Popen([sys.executable, "-c", *words], text=True, **options)


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
    pipe = subprocess.PIPE
    with start(_FIRST + code, *arguments, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield Program(process)
        finally:
            if process.poll() is None:
                process.kill()


def run_python(
    code: str, *arguments: object, backend: str | None = None, timeout: float = 60, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run code with arguments, and with a codec if one is named; return status and output."""
    if backend is not None:
        options["env"] = {**os.environ, "GODB_ARROW_CODEC": backend}
    pipe = subprocess.PIPE
    with start(code, *arguments, stdout=pipe, stderr=pipe, **options) as process:
        try:
            out, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(code, process.returncode, out, errors)
