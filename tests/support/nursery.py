"""A process that has imported what the programs of tests need, and starts each as its fork.

That takes a tenth of the time of a new interpreter. A program ends as others do: its threads are
waited for, exit functions run, and the interpreter takes itself down.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import socket
import struct
import sys
import types
import warnings

IMPORTED = (
    "fsspec", "pandas", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet",
    "godb_arrow.cli.command", "godb_arrow.connectors.etl.pipeline", "godb_arrow.engine.engine",
)  # fmt: skip
MAX_MESSAGE_SIZE = 200_000  # bytes of a program, its arguments and its environment
NUMBER = struct.Struct("i")  # a process, and its status as `os.waitpid` gives it


def request(place: socket.socket) -> tuple[dict[str, object], list[int]] | None:
    """Start the programs that are asked for; return what to run in each, and None at the end."""
    running: dict[int, tuple[int, int]] = {}  # by the descriptor of a process
    while True:
        for found in select.select([place, *running], [], [])[0]:
            if found is not place:
                pid, answers = running.pop(found)
                os.close(found)
                os.write(answers, NUMBER.pack(os.waitpid(pid, 0)[1]))
                os.close(answers)
                continue
            message, files, *_ = socket.recv_fds(place, MAX_MESSAGE_SIZE, 4)
            if not message:
                return None
            *standard, answers = files
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # libraries have threads, which do nothing
                pid = os.fork()
            if not pid:
                for other in (answers, place.detach(), *running):
                    os.close(other)
                for _, other in running.values():
                    os.close(other)
                return json.loads(message), standard
            running[os.pidfd_open(pid)] = (pid, answers)
            os.write(answers, NUMBER.pack(pid))
            for file in standard:
                os.close(file)


def prepare(asked: dict[str, object], standard: list[int]) -> types.CodeType:
    """Set up this process for a program, and return the code."""
    for number, file in enumerate(standard):
        os.dup2(file, number)
    os.closerange(3, max(standard) + 1)
    os.chdir(str(asked["folder"]))
    os.environ.clear()
    os.environ.update(asked["environment"])  # type: ignore[call-overload]
    sys.argv = ["-c", *asked["arguments"]]  # type: ignore[misc]
    sys.modules["__main__"] = types.ModuleType("__main__")
    return compile(str(asked["code"]), "<string>", "exec")


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # what was imported is no garbage
    asked = request(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        exec(prepare(*asked), sys.modules["__main__"].__dict__)
