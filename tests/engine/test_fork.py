"""Forked children: the engine, its journal, its lock and its streams stay with the parent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.processes import run_python
from support.settings import LONG

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")

DURABILITIES = ["interval", "commit", "checkpoint"]
PREAMBLE = """
import contextlib, faulthandler, gc, importlib.util, inspect, json, multiprocessing, os, shutil
import signal, sys, threading
import godb_arrow
from godb_arrow import Collection, DirectoryLocked, ForkedProcess, GodbError, StorageEngine

place = sys.argv[1]
signal.alarm(40)  # a hang fails the test; a child has no alarm

def refused(function):
    try:
        function()
    except ForkedProcess as error:
        assert error.advice, error
        return
    raise AssertionError("not refused")

def fork(function):
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(10, exit=True)
        try:
            function()
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return pid

def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(program: str, *arguments: object) -> str:
    """Run a program after the preamble; return what it prints."""
    done = run_python(PREAMBLE + program, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


ENDINGS = {
    "the program's end": "pass",
    "sys.exit": "sys.exit(0)",
    "os._exit": "os._exit(0)",
    "an exception": "raise ValueError('of the child')",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "close": "engine.close(); engine.close(discard=True)",
    "with": "refused(engine.__enter__)",
    "collection": "del engine, c; gc.collect()",
    "an insert": "refused(lambda: c.insert({'_id': 'child'}))",
    "a save": "refused(engine.save)",
    "a former engine that is replaced": "engine = 0; gc.collect()",
}
FORKS = {
    "os.fork": """
    pid = os.fork()
    if pid == 0:
        exec(code)
        sys.exit(0)
    wait(pid)
""",
    "inside with": """
    with contextlib.ExitStack() as stack:
        pid = os.fork()
        if pid == 0:
            stack.enter_context(contextlib.closing(engine))
            exec(code)
            sys.exit(0)
        wait(pid)
""",
    "multiprocessing": """
    process = multiprocessing.get_context("fork").Process(target=exec, args=(code, globals()))
    process.start(); process.join()
""",
}


@pytest.mark.parametrize("fork", FORKS if LONG else ["inside with"])
@pytest.mark.parametrize("durability", DURABILITIES if LONG else ["commit"])
def test_a_child_that_ends_touches_nothing_of_its_parent(
    durability: str, fork: str, tmp_path: Path
) -> None:
    program = f"endings, durability = {ENDINGS!r}, {durability!r}\n" + """
engine = StorageEngine(place, durability=durability, background_save=3600)
engine.add_worker("busy", 0.001, lambda: None)
engine.start_background_workers()
c = engine.create_collection("c")
c.insert_many([{"i": i} for i in range(100)])

def files():
    found = {}
    for folder, _, names in os.walk(place):
        for name in names:
            status = os.stat(os.path.join(folder, name))
            found[folder, name] = status.st_ino, status.st_size, status.st_mtime_ns
    return found

for number, (ending, code) in enumerate(endings.items(), 1):
    before = files()
""" + FORKS[fork] + """
    assert files() == before, ending
    c.insert({"_id": ending})
    if durability != "checkpoint":
        shutil.copytree(place, place + str(number))
        with StorageEngine(place + str(number)) as recovered:
            assert len(recovered["c"]) == 100 + number, (ending, len(recovered["c"]))
engine.close()
with StorageEngine(place) as again:
    assert len(again["c"]) == 100 + number, len(again["c"])
"""  # fmt: skip
    run(program, tmp_path / "data")


LOCKED = """
from godb_arrow.storage import local

class Stopping(local.Disk):
    '''Stops the threads that write the journal or a file, inside of their locks.'''
    def __init__(self):
        self.stopping, self.go_on = False, threading.Event()
        self.in_journal, self.in_file = threading.Event(), threading.Event()
    def write(self, *arguments):
        if self.stopping and not self.in_journal.is_set():
            self.in_journal.set(); self.go_on.wait()
        return super().write(*arguments)
    def open(self, path, flags, mode=0o666):
        if self.stopping and "collections" in path and not self.in_file.is_set():
            self.in_file.set(); self.go_on.wait()
        return super().open(path, flags, mode)

local.disk = disk = Stopping()
engine = StorageEngine(place, threads=2, part_size="16KiB")
c = engine.create_collection("c")
c.insert_many([{"v": n, "text": "x" * 50} for n in range(5000)])
engine.save()
engine.create_collection("later").insert({"v": 0})
batches, documents = c.stream(), c.find_all_stream()
next(batches), next(documents)
disk.stopping = True

def waits_for_the_journal(thread):
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        if frame.f_code.co_name == "append":
            return True
        frame = frame.f_back
    return False

threads = [threading.Thread(target=engine["later"].checkpoint)]  # while it is storing
threads[0].start(); disk.in_file.wait()
threads.append(threading.Thread(target=engine.create_collection, args=("new",)))
threads[1].start(); disk.in_journal.wait()  # with the engine's lock and the journal's
threads.append(threading.Thread(target=c.insert, args=({"_id": "new"},)))
threads[2].start()
while not waits_for_the_journal(threads[2]):  # with the collection's lock
    pass
"""

VERBS = """
GIVEN = {
    "name": "c", "new_name": "d", "document": {"v": 1}, "identity": "1", "data": [{"v": 1}],
    "changes": {"1": {"v": 2}}, "fields": {"v": 2}, "field": "v", "filter": None, "version": 1,
    "target": place + "-target", "path": place + ".godb", "interval": 1.0, "function": print,
    "compression": "zstd", "limit": 1, "size": 1, "expected": {}, "query": "select * from c",
    "expire_after": 3600.0,
}
OWN = {  # values of one verb
    **dict.fromkeys(
        ["update_one", "update_many", "find_one_and_update"], {"changes": {"$set": {"v": 2}}}
    ),
    **dict.fromkeys(["create_index", "drop_index"], {"fields": "v"}),
}
# What they say is in memory and stays true of it.
WORDS = {"name", "closed", "options", "data_dir", "replicas", "path", "state", "is_dirty"}

def calls(thing):
    for name in sorted(set(dir(thing)) - WORDS):
        if name.startswith("_") or (thing is engine and name == "close"):
            continue
        if name in ("sql", "aggregate") and importlib.util.find_spec("duckdb") is None:
            continue
        yield name, lambda name=name: call(thing, name)

def call(thing, name):
    found = getattr(thing, name)
    given = {**GIVEN, **OWN.get(name, {})}
    if not callable(found):
        return
    needed = [p.name for p in inspect.signature(found).parameters.values()
              if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keywords = {p.name: given.get(p.name) for p in inspect.signature(found).parameters.values()
                if p.default is p.empty and p.kind == p.KEYWORD_ONLY}
    if name == "aggregate":
        keywords["documents"] = "count"
    made = found(*[given.get(one, "x") for one in needed], **keywords)
    if isinstance(made, contextlib.AbstractContextManager):
        made.__enter__()
    if hasattr(made, "to_table"):
        made.to_table()
    elif isinstance(made, (contextlib.AbstractContextManager, tuple)) or inspect.isgenerator(made):
        list(made)

SPECIAL = {
    "len": lambda: len(engine), "iter": lambda: list(engine), "in": lambda: "c" in engine,
    "[]": lambda: engine["c"], "with": engine.__enter__, "len of c": lambda: len(c),
    "iter of c": lambda: list(c), "in c": lambda: "1" in c, "arrow": c.__arrow_c_stream__,
    "open again": None,
}

def child():
    wrong, tried = {}, []
    for name, function in [*calls(engine), *calls(c), *SPECIAL.items()]:
        if function is None:
            continue
        tried.append(name)
        print(name, file=sys.stderr, flush=True)
        try:
            function()
            wrong[name] = "not refused"
        except ForkedProcess as error:
            if not error.advice or error.applied != "no":
                wrong[name] = repr(error)
        except Exception as error:
            wrong[name] = repr(error)
    for name in WORDS:
        print(name, file=sys.stderr, flush=True)
        for thing in (engine, c):
            getattr(thing, name, None)
    repr(engine), repr(c), engine.close(), engine.close(discard=True)
    print(json.dumps([wrong, tried]), flush=True)
"""


def test_every_verb_says_what_to_do_also_while_threads_hold_all_locks(tmp_path: Path) -> None:
    found = run(
        LOCKED
        + VERBS
        + """
statuses = []
forker = threading.Thread(target=lambda: statuses.append(wait(fork(child))))
forker.start(); forker.join()
disk.go_on.set()
for thread in threads:
    thread.join()
assert statuses == [0], statuses
assert "new" in engine and "new" in c
engine.close()
with StorageEngine(place) as again:
    assert "new" in again and len(again["c"]) == 5001
""",
        tmp_path / "data",
    )
    wrong, tried = json.loads(found)
    assert not wrong, wrong
    assert {"insert", "save", "drop_collection", "stream", "get"} <= set(tried)


def test_streams_of_the_parent_raise_in_the_child(tmp_path: Path) -> None:
    run(
        """
engine = StorageEngine(place, threads=2)
c = engine.create_collection("c")
c.insert_many([{"v": n, "text": "x" * 50} for n in range(50_000)])
few = engine.create_collection("few")
few.insert_many([{"v": n} for n in range(10)])
engine.save()
godb_arrow.write_godb([{"v": n, "text": "x" * 50} for n in range(50_000)], place + ".godb", "c")
few.to_arrow()
opened = {
    "batches": c.stream(batch_size=100),
    "documents": c.find_all_stream(),
    "found": c.find_all_stream(c["v"] > 3),
    "reader": c.stream_batches(batch_size=100),
    "one thread": c.stream(threads=1, batch_size=100),
    "from memory": few.stream(batch_size=2),
    "documents from memory": few.find_all_stream(),
    "scan": godb_arrow.scan_godb(place + ".godb", "c", batch_size=100),
    "file's documents": iter(godb_arrow.read_documents(place + ".godb", "c")),
}
begun = {name: stream for name, stream in opened.items()}
fresh = {
    "fresh batches": c.stream(), "fresh documents": few.find_all_stream(),
    "fresh reader": c.stream_batches(), "fresh few": few.stream(),
}
first = {name: next(stream) for name, stream in begun.items()}

def child():
    wrong = {}
    for name, stream in (begun | fresh).items():
        print(name, file=sys.stderr, flush=True)
        again = name not in ("scan", "file's documents", "reader", "fresh reader")
        for _ in range(2 if again else 1):
            try:
                list(stream)
                wrong[name] = "not refused"
            except ForkedProcess as error:
                assert error.advice
            except Exception as error:
                wrong[name] = repr(error)
    for stream in (begun | fresh).values():
        if hasattr(stream, "close"):
            stream.close()
    begun.clear(), fresh.clear(), opened.clear(), gc.collect()
    assert not wrong, wrong

status = wait(fork(child))
assert status == 0
assert 100 + sum(batch.num_rows for batch in begun["batches"]) == 50_000
assert 100 + sum(batch.num_rows for batch in begun["scan"]) == 50_000
assert 1 + sum(1 for _ in begun["documents"]) == 50_000
begun.clear(), fresh.clear(), opened.clear()
engine.close()
""",
        tmp_path / "data",
    )


def test_streams_that_a_thread_reads_while_another_forks(tmp_path: Path) -> None:
    run(
        """
engine = StorageEngine(place, threads=2)
c = engine.create_collection("c")
c.insert_many([{"v": n, "even": n % 2 == 0} for n in range(3000)])
engine.save()
inside, go_on = threading.Event(), threading.Event()

def chosen(batch):
    '''Stop a stream inside of its lock.'''
    inside.set(); go_on.wait()
    return batch["even"]

from godb_arrow.query.filters import RowFilter
stream = c.find_all_stream(RowFilter(["even"], chosen))
reader = threading.Thread(target=next, args=(stream,))
reader.start(); inside.wait()

def child():
    refused(lambda: next(stream))
    stream.close()

status = wait(fork(child))
go_on.set(); reader.join()
assert status == 0
assert sum(1 for _ in stream) == 1499
engine.close()
""",
        tmp_path / "data",
    )


def test_the_lock_stays_with_the_parent_while_a_child_lives(tmp_path: Path) -> None:
    run(
        """
import subprocess
THIRD = '''
import sys, godb_arrow as g
for _ in sys.stdin:
    try:
        g.StorageEngine(sys.argv[1]).close()
        print("opened", flush=True)
    except g.GodbError as error:
        print(type(error).__name__, flush=True)
'''
other = subprocess.Popen([sys.executable, "-c", THIRD, place], stdin=-1, stdout=-1, text=True)

def third():
    other.stdin.write("try\\n"); other.stdin.flush()
    return other.stdout.readline().strip()

engine = StorageEngine(place)
c = engine.create_collection("c")
ready, end = os.pipe(), os.pipe()

def child():
    engine.close()
    try:
        StorageEngine(place)
    except DirectoryLocked:
        pass
    else:
        raise AssertionError("the child opened the directory of its parent")
    with StorageEngine(place, read_only=True) as reading:
        assert reading.collections() == ["c"]
    os.write(ready[1], b"x")
    os.read(end[0], 1)

pid = fork(child)
os.read(ready[0], 1)
assert third() == "DirectoryLocked"
c.insert({"_id": "after"})
engine.close()
assert third() == "opened"  # while the child lives
engine = StorageEngine(place)
assert "after" in engine["c"]
assert third() == "DirectoryLocked"
os.write(end[1], b"x")
assert wait(pid) == 0
assert third() == "DirectoryLocked"
engine.close()
assert third() == "opened"
other.communicate()
""",
        tmp_path / "data",
    )


def test_a_child_outlives_a_parent_without_its_lock(tmp_path: Path) -> None:
    run(
        """
ready, result = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:  # the parent of the engine, which is killed
    engine = StorageEngine(place)
    engine.create_collection("c").insert({"_id": "1"})
    def child():
        os.write(ready[1], str(os.getpid()).encode().ljust(10))
        os.close(ready[1])
        os.read(result[0], 1)
    fork(child)
    signal.pause()
child = int(os.read(ready[0], 10))
os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
with StorageEngine(place) as engine:
    assert "1" in engine["c"]
os.write(result[1], b"x")
""",
        tmp_path / "data",
    )


def test_a_remote_directory_keeps_its_temporary_journal(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    run(
        """
import glob, tempfile
tempfile.tempdir = place
os.mkdir(place)
engine = StorageEngine("memory://of-a-parent/data")
c = engine.create_collection("c")
journals = glob.glob(place + "/godb-arrow-journal-*/*")
assert journals
for end in ("pass", "sys.exit(0)", "engine.close(); del engine, c; gc.collect()"):
    pid = os.fork()
    if pid == 0:
        exec(end)
        sys.exit(0)
    assert wait(pid) == 0
    assert glob.glob(place + "/godb-arrow-journal-*/*") == journals
c.insert({"_id": "after"})
engine.close()
assert not glob.glob(place + "/godb-arrow-journal-*")
with StorageEngine("memory://of-a-parent/data") as again:
    assert "after" in again["c"]
""",
        tmp_path / "data",
    )


def test_an_engine_that_the_child_opens_is_its_own(tmp_path: Path) -> None:
    run(
        """
engine = StorageEngine(place)
engine.create_collection("c")

def child():
    with StorageEngine(place + "-own") as own:
        own.create_collection("c").insert({"v": 1})
        assert len(list(own["c"].stream(threads=2))) == 1
    unclosed = StorageEngine(place + "-left", durability="checkpoint")
    unclosed.create_collection("c").insert({"_id": "at exit"})
    sys.exit(0)

pid = os.fork()
if pid == 0:
    child()
assert wait(pid) == 0
with StorageEngine(place + "-own") as own, StorageEngine(place + "-left") as left:
    assert len(own["c"]) == 1 and "at exit" in left["c"]
engine.close()
""",
        tmp_path / "data",
    )
