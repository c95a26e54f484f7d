"""Closing: from several threads, from workers, under load, at exit, by the garbage collector."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.processes import start as start_program
from support.settings import LONG

from godb_arrow import DirectoryLocked, EngineClosed, GodbError, StorageEngine

DURABILITIES = ["interval", "commit", "checkpoint"]
PYTHONS = [sys.executable]
if LONG and "GODB_ARROW_PYTHON_3_12" in os.environ:
    PYTHONS.append(os.environ["GODB_ARROW_PYTHON_3_12"])


def ids(folder: Path, name: str = "c") -> set[str]:
    with StorageEngine(folder) as engine:
        return {document["_id"] for document in engine[name]}


def start(*functions: Callable[[], Any]) -> list[threading.Thread]:
    threads = [threading.Thread(target=one, daemon=True) for one in functions]
    for thread in threads:
        thread.start()
    return threads


def wait(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "it hangs"


@pytest.mark.parametrize("durability", DURABILITIES)
def test_several_threads_close_at_once(durability: str, tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path, durability=durability)  # type: ignore[arg-type]
    engine.create_collection("c").insert({"_id": "1"})
    engine.start_background_workers()
    together = threading.Barrier(8)
    errors: list[BaseException] = []

    def close() -> None:
        together.wait()
        try:
            engine.close()
            assert engine.closed
        except BaseException as error:
            errors.append(error)

    wait(start(*[close] * 8))
    assert not errors
    assert ids(tmp_path) == {"1"}


@pytest.mark.parametrize("others", [0, 2])
def test_a_worker_closes_the_engine(others: int, tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path, durability="checkpoint", background_save=0.001)
    engine.create_collection("c").insert({"_id": "1"})
    returned = threading.Event()

    def close() -> None:
        engine.close()
        returned.set()

    engine.add_worker("closer", 0.001, close)
    engine.add_worker("another", 0.001, lambda: None)
    engine.start_background_workers()
    wait(start(*[engine.close] * others))
    if not others:
        assert returned.wait(60)
    assert engine.closed
    assert ids(tmp_path) == {"1"}


@pytest.mark.parametrize("durability", DURABILITIES)
def test_writers_that_come_too_late_are_told_so(durability: str, tmp_path: Path) -> None:
    for number in range(30 if LONG else 1):
        folder = tmp_path / str(number)
        engine = StorageEngine(
            folder, durability=durability, sync_interval=0.01, part_size="4KiB",  # type: ignore[arg-type]
            background_save=0.01, max_memory="2MiB",
        )  # fmt: skip
        for name in ("c", "others"):
            engine.create_collection(name)
        engine["others"].insert_many([{"v": n} for n in range(500)])
        engine.start_background_workers()
        done: set[str] = set()
        refused: set[str] = set()
        errors: list[BaseException] = []
        busy = threading.Semaphore(0)

        def write(
            first: int, engine: StorageEngine = engine, done: set[str] = done,
            refused: set[str] = refused, busy: threading.Semaphore = busy,
        ) -> None:  # fmt: skip
            for n in itertools.count():
                identity = f"{first}-{n}"
                batch = [{"_id": f"{identity}-{k}", "v": k} for k in range(70)]
                try:
                    if n % 7:
                        engine["c"].insert({"_id": identity, "text": "x" * 100})
                        done.add(identity)
                    else:
                        engine["c"].insert_many(batch)
                        done.update(one["_id"] for one in batch)
                except EngineClosed as error:
                    assert error.applied == "no"
                    names = [one["_id"] for one in batch] if n % 7 == 0 else [identity]
                    refused.update(names)
                    return
                busy.release()

        def change(
            n: int, engine: StorageEngine = engine, busy: threading.Semaphore = busy
        ) -> None:
            steps: list[Callable[[], Any]] = [
                engine.save, engine.compact, lambda: engine["others"].update("1", {"v": -1}),
                lambda: list(engine["others"].stream()), lambda: engine.find_all("others"),
                lambda: engine.create_collection(f"t{n}"), lambda: engine.drop_collection(f"t{n}"),
                lambda: engine["others"].delete_many({"v": [-5]}),
            ]  # fmt: skip
            for step in itertools.cycle(steps):
                try:
                    step()
                except EngineClosed:
                    return
                busy.release()

        def noting(
            function: Callable[[int], None], n: int, errors: list[BaseException] = errors
        ) -> Callable[[], None]:
            def run() -> None:
                try:
                    function(n)
                except BaseException as error:
                    errors.append(error)

            return run

        threads = start(
            *[noting(write, n) for n in range(3)], *[noting(change, n) for n in range(2)]
        )
        for _ in range(40 + 7 * number):
            busy.acquire(timeout=60)
        engine.close()
        wait(threads)
        assert not errors, errors
        there = ids(folder)
        assert done <= there
        assert not refused & there


def test_streams_that_are_open_say_that_the_engine_was_closed(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path, threads=2)
    collection = engine.create_collection("c")
    collection.insert_many([{"v": n, "text": "x" * 50} for n in range(20_000)])
    engine.save()
    streams: list[Any] = [
        collection.stream(batch_size=10), collection.find_all_stream(),
        collection.stream_batches(batch_size=10), collection.stream(threads=1, batch_size=10),
    ]  # fmt: skip
    for stream in streams:
        next(stream)
    errors: list[BaseException] = []

    def read(stream: Any) -> None:
        try:
            list(stream)
        except BaseException as error:
            errors.append(error)

    fresh = [collection.stream(), collection.find_all_stream()]
    threads = start(*(lambda one=one: read(one) for one in streams[:2]))
    engine.close()
    for stream in (*streams[2:], *fresh):
        with pytest.raises(EngineClosed):
            list(stream)
    wait(threads)
    assert all(isinstance(error, EngineClosed) for error in errors)
    assert engine.memory_stats().stream_bytes == 0


def test_a_generator_that_closes_the_engine_inserts_nothing(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path, max_memory="2MiB", part_size="16KiB")
    collection = engine.create_collection("c")

    def documents(count: int) -> Any:
        for n in range(count):
            if n == count - 1:
                engine.close()
            yield {"text": "x" * 1000}

    for count in (3, 3000):
        with pytest.raises(EngineClosed):
            collection.insert_many(documents(count))
        assert ids(tmp_path) == set()
        engine = StorageEngine(tmp_path, max_memory="2MiB", part_size="16KiB")
        collection = engine["c"]
    engine.close()


FILL = """
import sys
from godb_arrow import StorageEngine
engine = StorageEngine(sys.argv[1], durability=sys.argv[2], part_size="1MiB")
engine.create_collection("c").insert_many([{"n": i, "p": "x" * 100} for i in range(50000)])
"""
NO_THREADS = """
import atexit, threading
def refuse(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")
atexit.register(setattr, threading.Thread, "start", refuse)
"""
ENDS = {
    "end": "",
    "no threads": NO_THREADS,
    "workers": "engine.add_worker('w', 0.001, lambda: engine['c'].insert({}))\n"
    "engine.start_background_workers()\n",
    "stream": NO_THREADS + "stream = engine['c'].stream(); next(stream)\n",
    "cycle": "cycle = [engine]; cycle.append(cycle); del engine, cycle\n",
    "cycle without threads": NO_THREADS + "cycle = [engine]; cycle.append(cycle); del engine\n",
    "exception": "raise SystemExit(0)",
}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("durability", "end"),
    [(one, end) for one in DURABILITIES for end in ENDS]
    if LONG
    else [("checkpoint", "no threads"), ("interval", "cycle")],
)  # fmt: skip
def test_an_engine_that_is_open_at_exit_is_saved(
    durability: str, end: str, python: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [python, "-c", FILL + ENDS[end], str(tmp_path), durability],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path / "collections")) == ["c.parts"]
    assert len(ids(tmp_path)) >= 50_000


VERBS = """
import itertools, sys
from godb_arrow import StorageEngine
engine = StorageEngine(sys.argv[1], durability="checkpoint", part_size="4KiB", max_memory="2MiB")
c = engine.create_collection("c")
for n in itertools.count():
    c.insert({"_id": f"a{n}", "v": 0}); print(f"a{n}", flush=True)
    c.insert_many([{"_id": f"b{n}-{k}", "text": "x" * 50} for k in range(100)])
    print(f"b{n}-99", flush=True)
    c.update(f"a{n}", {"v": 1}); c.insert({"_id": f"c{n}"}); print(f"c{n}", flush=True)
    if n % 3 == 0: engine.save()
    if n % 5 == 0: engine.compact()
    engine.create_collection(f"t{n}"); engine.drop_collection(f"t{n}")
"""


def test_sigterm_in_the_middle_of_a_verb_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    for number in range(60 if LONG else 1):
        folder = tmp_path / str(number)
        process = start_program(VERBS, folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        done = [process.stdout.readline().strip() for _ in range(5 + 7 * number)]
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 128 + signal.SIGTERM, errors
        assert errors == ""
        done += [line for line in output.split("\n")[:-1] if line]
        there = ids(folder)
        assert set(done) <= there
        whole: dict[str, int] = {}
        for one in there:
            if one[0] == "b":
                whole[one.split("-")[0]] = whole.get(one.split("-")[0], 0) + 1
        assert set(whole.values()) <= {100}


def unreferenced(folder: Path, *, workers: bool, cycle: bool) -> None:
    """Leave an engine with changes that are in no file."""
    engine = StorageEngine(folder, durability="checkpoint", background_save=3600)
    engine.create_collection("c").insert({"_id": "1"})
    if workers:
        engine.add_worker("of ours", 0.001, lambda: len(engine))
        engine.start_background_workers()
    if cycle:
        things: list[Any] = [engine, list(engine["c"].find_all_stream())]
        things.append(things)


def closers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "godb-arrow-closer"]


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("workers", [False, True])
@pytest.mark.parametrize("cycle", [False, True])
def test_an_engine_that_nothing_refers_to_is_saved(
    workers: bool, cycle: bool, elsewhere: bool, tmp_path: Path
) -> None:
    unreferenced(tmp_path, workers=workers, cycle=cycle)
    for _ in range(100):  # a run of a worker refers to the engine for a moment
        if elsewhere:
            wait(start(gc.collect))
        else:
            gc.collect()
        wait(closers())
        if (tmp_path / "collections" / "c.godb").exists():
            break
    else:
        raise AssertionError("it was not saved")
    assert ids(tmp_path) == {"1"}


def test_the_directory_of_an_engine_that_nothing_refers_to_can_be_opened(tmp_path: Path) -> None:
    for _ in range(5):
        unreferenced(tmp_path / "d", workers=False, cycle=True)
        with StorageEngine(tmp_path / "d") as engine:
            engine.drop_collection("c")


def test_a_handle_keeps_its_engine(tmp_path: Path) -> None:
    collection = StorageEngine(tmp_path).create_collection("c")
    stream = collection.find_all_stream()
    gc.collect()
    collection.insert({"_id": "1"})
    with pytest.raises(DirectoryLocked):
        StorageEngine(tmp_path)
    del collection, stream
    assert ids(tmp_path) == {"1"}


CELLS = {
    "a cell": "engine = StorageEngine(place, durability='checkpoint')",
    "a cell with options": "engine = StorageEngine(\n    place,\n    durability='checkpoint',\n)",
    "an annotated variable": "engine: object = StorageEngine(place, durability='checkpoint')",
    "a global variable": "def opens():\n    global engine\n    engine = StorageEngine(place, "
    "durability='checkpoint')\nopens()",
    "a subclass": "class Mine(StorageEngine):\n    def __init__(self, *given, **options):\n"
    "        super().__init__(*given, **options)\n"
    "engine = Mine(place, durability='checkpoint')",
}


@pytest.mark.parametrize("cell", CELLS)
def test_the_cell_of_a_notebook_runs_again(cell: str, tmp_path: Path) -> None:
    namespace: dict[str, Any] = {"StorageEngine": StorageEngine, "place": tmp_path}
    code = compile(CELLS[cell], "<cell 1>", "exec")
    formers = []
    for number in range(3):
        exec(code, namespace)
        engine = namespace["engine"]
        if number == 0:
            engine.create_collection("c")
        assert len(engine["c"]) == number
        engine["c"].insert({"v": number})
        assert all(one.closed for one in formers)
        formers.append(engine)
    engine.close()


def test_a_loop_opens_again_in_a_function(tmp_path: Path) -> None:
    for number in range(3):
        engine = StorageEngine(tmp_path, durability="checkpoint")
        if number == 0:
            engine.create_collection("c")
        engine["c"].insert({"_id": str(number)})
    engine.close()
    assert ids(tmp_path) == {"0", "1", "2"}


def test_a_variable_of_an_enclosing_function(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path, durability="checkpoint")
    engine.create_collection("c")

    def again() -> None:
        nonlocal engine
        engine = StorageEngine(tmp_path)

    again()
    assert engine.collections() == ["c"]
    engine.close()


SECONDS = {
    "another variable": "second = StorageEngine(place)",
    "no variable": "StorageEngine(place)",
    "an attribute": "namespace['x'] = StorageEngine(place)",
    "an argument": "print(StorageEngine(place))",
    "with": "with StorageEngine(place) as engine: pass",
    "a list": "engine = [StorageEngine(place)]",
    "two variables": "engine, other = StorageEngine(place), 1",
    "another name of the directory": "second = StorageEngine(str(place) + '/../' + place.name)",
}


@pytest.mark.parametrize("second", SECONDS)
def test_a_second_engine_is_refused(second: str, tmp_path: Path) -> None:
    namespace: dict[str, Any] = {"StorageEngine": StorageEngine, "place": tmp_path}
    namespace["namespace"] = namespace
    exec(compile("\nengine = StorageEngine(place)", "<cell 7>", "exec"), namespace)
    engine = namespace["engine"]
    collection = engine.create_collection("c")
    with pytest.raises(DirectoryLocked, match=r"<cell 7>, line 2.*use that engine, or close it"):
        exec(compile(SECONDS[second], "<cell 8>", "exec"), namespace)
    collection.insert({"_id": "1"})
    assert not engine.closed
    engine.close()
    assert ids(tmp_path) == {"1"}


def test_a_former_engine_that_cannot_be_saved_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = former = StorageEngine(tmp_path, durability="checkpoint")
    engine.create_collection("c").insert({"_id": "1"})

    def refuse(*_: Any) -> None:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr("godb_arrow.storage.local.disk.replace", refuse)
        with pytest.raises(GodbError, match="no space"):
            engine = StorageEngine(tmp_path)
    assert engine is former and not engine.closed
    engine.close()
    assert ids(tmp_path) == {"1"}
