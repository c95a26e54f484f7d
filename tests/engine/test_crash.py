"""A process that writes is killed at any moment: what it acknowledged is there."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import run_python, start
from support.settings import LONG
from support.writers import NUMBERS_PER_SAVE, WRITER

from godb_arrow import StorageEngine, verify_godb


@pytest.mark.parametrize("part_size", ["128MiB", "32KiB"])
@pytest.mark.parametrize("durability", ["commit", "interval", "checkpoint"])
def test_killed_at_any_moment_nothing_acknowledged_is_lost(
    durability: str, part_size: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    rng = random.Random(4)
    there: dict[tuple[str, str], int] = {}
    unsure: set[tuple[str, str]] = set()
    acknowledged = 0
    for kill in range(150 if LONG else 2):
        first = 1 + kill * 100_000
        process = start(WRITER, folder, durability, first, part_size, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        said = "" if kill % 3 == 1 else process.stdout.readline()  # some are killed before it
        time.sleep(rng.uniform(0.01, 0.6))
        process.send_signal(signal.SIGKILL)
        lines = (said + process.stdout.read()).split("\n")
        process.wait()
        process.stdout.close()
        last: dict[str, int] = {}
        for line in lines[:-1]:
            what, name, key, *value = line.split(" ")
            acknowledged += 1
            last[key.split("-")[0]] = int(key.split("-")[1])
            if what == "put":
                there[name, key] = int(value[0])
            elif what == "gone":
                del there[name, key]
            else:
                there.update({(name, f"{key}-{i}"): i for i in range(100)})
        with StorageEngine(folder) as engine:  # no help is needed
            found = {}
            for name in engine.collections():
                for document in engine[name]:
                    place = (name, document["_id"])
                    assert place not in found, "twice"
                    found[place] = document["v"]
                assert len(engine[name]) == sum(place[0] == name for place in found)
        # Each thread was in the middle of one document, or of those that its next save covers:
        # they may be there in any state.
        unfinished = NUMBERS_PER_SAVE if durability == "checkpoint" else 1
        for thread in range(4):
            at = last.get(str(thread), first - 1)
            for name in engine_names():
                for key in (f"{thread}-{number}" for number in range(at, at + unfinished + 1)):
                    unsure.add((name, key))
                    unsure.update((name, f"{key}-{i}") for i in range(100))
        wrong = {
            place: (found.get(place), there.get(place))
            for place in found.keys() | there.keys()
            if found.get(place) != there.get(place) and place not in unsure
        }
        assert not wrong, f"kill {kill}: found and expected {dict(list(wrong.items())[:5])}"
        for place in unsure & there.keys() - found.keys():
            # Put and acknowledged, and perhaps deleted without a word.
            assert int(place[1].split("-")[1]) % 7 == 0 and place[1].count("-") == 1
        for place in unsure:
            there.pop(place, None)
            if place in found:
                there[place] = found[place]
    assert acknowledged
    for path in (folder / "collections").iterdir():
        assert not verify_godb(path).problems
    if LONG:
        print(json.dumps({"kills": kill + 1, "acknowledged": acknowledged}))


def engine_names() -> tuple[str, str]:
    return ("events0", "events1")


def test_sigterm_saves_everything(tmp_path: Path) -> None:
    code = (
        "import sys, time; from godb_arrow import StorageEngine\n"
        "engine = StorageEngine(sys.argv[1], durability='checkpoint')\n"
        "engine.create_collection('c').insert({'a': 1}); print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    process = start(code, tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    process.stdout.close()
    with StorageEngine(tmp_path) as engine:
        assert engine.find_all("c") == [{"_id": "1", "a": 1}]


def test_a_handler_of_the_application_stays_the_only_one(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from godb_arrow import StorageEngine\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('mine', flush=True))\n"
        "engine = StorageEngine(sys.argv[1])\n"
        "engine.create_collection('c').insert({'a': 1})\n"
        "os.kill(os.getpid(), signal.SIGTERM); print('on', flush=True)"
    )
    done = run_python(code, tmp_path)
    assert done.stdout == "mine\non\n"
    assert os.listdir(tmp_path / "collections") == ["c.godb"]  # closed at exit


def test_an_engine_that_could_not_be_saved_does_not_keep_the_process_from_ending() -> None:
    """The interpreter drops the engine when no new thread can run any more."""
    script = """
import sys
from godb_arrow.engine.processes import close_later

class Engine:
    def close(self):
        print("closed")

class Holder:
    def __del__(self, is_finalizing=sys.is_finalizing, close_later=close_later, engine=Engine()):
        assert is_finalizing()
        close_later(engine)

holder = Holder()
holder.itself = holder
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
