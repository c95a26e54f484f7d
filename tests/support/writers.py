"""Programs that tests run as other processes, to kill them or to stop them in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.processes import start

NUMBERS_PER_SAVE = 10  # of a thread whose changes are as durable as its saves
WRITER = f"NUMBERS_PER_SAVE = {NUMBERS_PER_SAVE}\n"
WRITER += """
import sys, threading
from godb_arrow import StorageEngine

folder, durability, first, part_size = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
engine = StorageEngine(
    folder, durability=durability, max_memory="2MiB", background_save=0.05,
    part_size=part_size, keep_versions=2, part_grace=0.05,
)
engine.start_background_workers()
said = threading.Lock()

def write(thread):
    events = engine[f"events{thread % 2}"]
    number = first
    unsaid = []

    def say(*words):
        unsaid.append(" ".join(map(str, words)) + "\\n")
        if durability != "checkpoint":
            tell()

    def tell():
        with said:
            sys.stdout.write("".join(unsaid))
            sys.stdout.flush()
        unsaid.clear()

    while True:
        key = f"{thread}-{number}"
        events.insert({"_id": key, "v": number, "text": "x" * 50})
        say("put", events.name, key, number)
        if number % 5 == 0:
            events.update(key, {"v": -number})
            say("put", events.name, key, -number)
        if number % 7 == 0:
            events.delete(key)
            say("gone", events.name, key)
        if number % 20 == 0:
            batch = [{"_id": f"{key}-{i}", "v": i, "text": "y" * 200} for i in range(100)]
            events.insert_many(batch)
            say("batch", events.name, key)
        if durability == "checkpoint" and number % NUMBERS_PER_SAVE == 0:
            engine.save()
            tell()
        number += 1

for name in ("events0", "events1"):
    if name not in engine:
        engine.create_collection(name)
print("ready", flush=True)
for thread in range(4):
    threading.Thread(target=write, args=(thread,), daemon=True).start()
while True:
    threading.Event().wait(0.1)
    engine.compact()
"""

STEPPED_DISK = """
import sys
from godb_arrow.storage import local

CALLS = ("open", "write", "fsync", "truncate", "close", "replace", "unlink", "link",
         "remove_folder", "make_folder", "sync_folder")

class SteppedDisk(local.Disk):
    def __getattribute__(self, name):
        if name in CALLS and stepping:
            print(name, flush=True)
            sys.stdin.readline()
        return super().__getattribute__(name)

stepping = False
local.disk = SteppedDisk()
"""

STEPPED_WRITER = (
    STEPPED_DISK
    + """
from godb_arrow import StorageEngine
engine = StorageEngine(
    sys.argv[1], part_size="4KiB", part_grace=0.001, keep_versions=3, sync_interval="1h"
)
for line in sys.stdin:
    step, _, statement = line.partition(" ")
    stepping = step == "step"
    exec(statement)
    stepping = False
    print("done", flush=True)
engine.close()
"""
)

STEPPED_FOLLOWER = (
    STEPPED_DISK
    + """
from godb_arrow.cli.command import main
stepping = True
main(["follow", sys.argv[1], sys.argv[2], "--interval", "1ms", "-q"])
"""
)


class SteppedWriter:
    """An engine in another process, which stops before each call of the disk.

    Parameters
    ----------
    folder : Path
        The data directory.
    """

    def __init__(self, folder: Path) -> None:
        pipe = subprocess.PIPE
        self._process = start(STEPPED_WRITER, folder, stdin=pipe, stdout=pipe)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _heard(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the writer failed"
        return line

    def run(self, statement: str) -> None:
        """Run a statement, in which ``engine`` is the engine."""
        self._say(f"run {statement}")
        assert self._heard() == "done"

    def step(self, statement: str) -> Iterator[str]:
        """Run a statement; yields the name of each call of the disk before it happens."""
        self._say(f"step {statement}")
        while (heard := self._heard()) != "done":
            yield heard
            self._say("")

    def __enter__(self) -> SteppedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if sys.exc_info()[0] is not None:
            self._process.kill()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
