"""The limit of an engine counts streams, inserts and views, and statistics show them."""

from __future__ import annotations

import ctypes
import gc
import io
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.processes import run_python
from support.settings import LONG

from godb_arrow import StorageEngine
from godb_arrow.memory import limit
from godb_arrow.memory.limit import Counted, Memory
from godb_arrow.parallel import ordered_map
from godb_arrow.snapshots.frozen import FrozenOverlay
from godb_arrow.snapshots.manifest import Manifest
from godb_arrow.storage.limited import read_limited

MEBIBYTE = 1 << 20
SOAK_SECONDS = float(os.environ.get("GODB_ARROW_SOAK", "600"))
SOAK_THREADS = os.environ.get("GODB_ARROW_SOAK_THREADS", "1")  # each adds what its calls take


def made(count: int, size: int = 500, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Documents whose text does not compress."""
    source = random.Random(seed)
    for number in range(count):
        yield {"n": number, "text": source.randbytes(size).hex(), "tags": ["a", str(number)]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    with StorageEngine(folder, part_size="12MiB") as engine:
        engine.create_collection("c").insert_many(made(24_000))
    return folder


def test_statistics_show_what_document_streams_have(folder: Path) -> None:
    with StorageEngine(folder, max_memory="8MiB", read_only=True) as engine:
        threads = engine.memory_stats().threads  # of the process, whatever it runs
        streams = [engine["c"].find_all_stream() for _ in range(16)]
        for stream in streams:
            next(stream)
        stats = engine.memory_stats()
        assert 16 * 1024 < stats.stream_bytes <= 16 * 2 * MEBIBYTE
        assert stats.alloc_mb * MEBIBYTE >= stats.stream_bytes
        assert stats.threads < threads + 16
        for stream in streams:
            stream.close()
        assert engine.memory_stats().stream_bytes == 0


def test_statistics_show_views_that_streams_build(folder: Path) -> None:
    with StorageEngine(folder, max_memory="64MiB", read_only=True) as engine:
        streams = [engine["c"].stream() for _ in range(8)]
        for stream in streams:
            for _ in range(4):
                next(stream)
        stats = engine.memory_stats()
        assert 8 * MEBIBYTE < stats.stream_bytes <= 40 * MEBIBYTE
        for stream in streams:
            stream.close()
        assert engine.memory_stats().stream_bytes == 0


def test_statistics_show_what_an_insert_collects(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="4MiB") as engine:
        collection = engine.create_collection("c")
        collected: list[int] = []

        def documents(fails: bool) -> Iterator[dict[str, Any]]:
            for number, document in enumerate(made(20_000)):
                if number % 1000 == 999:
                    collected.append(engine.memory_stats().write_bytes)
                yield document
            if fails:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            collection.insert_many(documents(True))
        assert engine.memory_stats().write_bytes == 0
        assert MEBIBYTE < max(collected) <= 6 * MEBIBYTE
        collection.insert_many(documents(False))
        assert engine.memory_stats().write_bytes == 0
        assert len(collection) == 20_000


def test_deletions_of_many_documents_take_few_bytes_each(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="4MiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": n} for n in range(30_000)])
        engine.save()
        assert collection.delete_many({"n": {"$lt": 2_000}}) == 2_000  # loads pandas
        peak = tracemalloc_peak(lambda: collection.delete_many({"n": {"$gte": 10_000}}))
        assert peak < 20_000 * 300, "the ids are not all strings at once"
        assert engine.memory_stats().changes_bytes < 20_000 * 40
        assert len(collection) == collection.count({"n": {"$lt": 10_000}}) == 8_000
    with StorageEngine(tmp_path, max_memory="4MiB") as engine:
        assert len(engine["c"]) == engine["c"].count({"n": {"$lt": 10_000}}) == 8_000


def test_documents_that_are_written_together_are_not_there_twice(tmp_path: Path) -> None:
    documents = [{"_id": f"id {n}", **one} for n, one in enumerate(made(6000))]
    size = sum(len(one["text"]) for one in documents)
    with StorageEngine(tmp_path, max_memory="64MiB") as engine:
        collection = engine.create_collection("c")
        collection.upsert_many(documents[:3000])
        inserted = tracemalloc_peak(lambda: collection.upsert_many(documents))
        changes = {"$set": {"text": "y" * 1000}}
        updated = tracemalloc_peak(lambda: collection.update_many({"n": {"$gte": 0}}, changes))
        assert len(collection) == 6000
    assert inserted < 2.8 * size  # A record with many zeros is joined once more.
    assert updated < 1.6 * size


def tracemalloc_peak(function: Callable[[], object]) -> int:
    """Return the peak of the bytes of Python objects that a function creates."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_hit_rate_is_between_0_and_1(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        assert 0 <= engine.memory_stats().hit_rate <= 1
        collection.insert_many([{"n": n} for n in range(100)])
        engine.save()
        for _ in range(20):
            collection.to_arrow()
        stats = engine.memory_stats()
        assert stats.hit_rate == stats.hits / (stats.hits + stats.misses) > 0.5
        assert stats.buffer_bytes >= 0
        assert "%" in stats._repr_html_()


def test_a_count_ends_when_it_is_dropped() -> None:
    memory = Memory(100)
    counted = Counted(memory, streams=10, views=20, writes=30)
    assert (memory.streams, memory.writes, memory.used, memory.room) == (30, 30, 60, 40)
    del counted
    assert (memory.used, memory.room, memory.peak) == (0, 100, 60)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_results_do_not_wait_where_memory_is_short(threads: int) -> None:
    may_wait = False
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    results = ordered_map(abs, items(), threads, may_wait=lambda: may_wait)
    for number in range(10):
        assert next(results) == number
        assert len(taken) == number + 1
    may_wait = True
    assert list(results) == list(range(10, 40))


# --- memory of the process --------------------------------------------------------------------


def is_glibc() -> bool:
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "malloc_info")


HEAPS = """
import ctypes, os, re, sys, tempfile, threading
from godb_arrow import StorageEngine

libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]

def heaps():
    name = os.path.join(tempfile.mkdtemp(), "heaps")
    file = libc.fopen(name.encode(), b"w")
    libc.malloc_info(0, file)
    libc.fclose(file)
    return open(name).read().count("<heap nr=")

before = heaps()
with StorageEngine(tempfile.mkdtemp(), max_memory=sys.argv[1]) as engine:
    together = threading.Barrier(6)
    def work():
        together.wait()
        pieces = [bytearray(2000) for _ in range(100)]
        together.wait()
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print(before, heaps())
"""


@pytest.mark.skipif(not is_glibc(), reason="reads the heaps of glibc")
def test_threads_share_heaps_where_memory_is_low() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAPS, "8MiB"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after <= max(2, before)


def test_arrow_returns_unused_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[int] = []
    pool = SimpleNamespace(release_unused=lambda: released.append(1))
    monkeypatch.setattr(limit, "pa", SimpleNamespace(default_memory_pool=lambda: pool))
    Memory(1 << 30).tidy()
    assert not released
    Memory(1 << 20).tidy()
    assert released


STREAMS = """
import sys
from godb_arrow import StorageEngine

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

kind, folder = sys.argv[1:]
with StorageEngine(folder, max_memory="8MiB", read_only=True) as engine:
    c = engine["c"]
    ways = {"documents": c.find_all_stream, "batches": c.stream,
            "matches": lambda: c.find_all_stream({"n": {"$gte": 0}})}
    for _, _ in zip(range(3), ways[kind]()):
        pass
    before = most = resident()
    streams = [ways[kind]() for _ in range(16)]
    for number in range(4 if kind == "batches" else 1_500):
        for stream in streams:
            next(stream)
        if kind == "batches" or number % 100 == 0:
            most = max(most, resident())
    print((most - before) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["documents", "batches", "matches"])
def test_sixteen_streams_take_little_more_than_their_documents(folder: Path, kind: str) -> None:
    done = run_python(STREAMS, kind, folder)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 48 * 1024  # KiB


CALLS = """
import sys, threading, time
import pandas
from godb_arrow import StorageEngine

def resident():
    with open("/proc/self/statm") as file:
        pages = file.read().split()
    return (int(pages[1]) - int(pages[2])) * 4096

kind, folder = sys.argv[1:]
with StorageEngine(folder, max_memory="8MiB", part_size="1MiB") as engine:
    c = engine["c"]
    calls = {"update": lambda condition: c.update_many(condition, {"$set": {"seen": 1}}),
             "sort": lambda condition: [0 for _ in c.find_all_stream(condition, sort="n")],
             "delete": lambda condition: c.delete_many(condition)}
    calls[kind]({"n": {"$lt": 10}})
    before = most = resident()
    ended = threading.Event()
    def watch():
        global most
        while not ended.wait(0.001):
            most = max(most, resident())
    watching = threading.Thread(target=watch)
    watching.start()
    calls[kind]({"n": {"$gte": 0}})
    ended.set()
    watching.join()
    print((most - before) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["update", "sort", "delete"])
def test_calls_on_more_documents_than_memory_take_little(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    done = run_python(CALLS, kind, copy)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 24 * 1024  # KiB; the documents have 27 MiB


@pytest.mark.skipif(not LONG, reason="takes minutes")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_soak_stays_within_the_limit(tmp_path: Path) -> None:
    """A thread reads and writes, workers save, a follower copies; the data has ten limits."""
    max_memory = 32 * MEBIBYTE
    folder = tmp_path / "data"
    with StorageEngine(folder, part_size="16MiB") as engine:
        collection = engine.create_collection("c")
        for seed in range(8):
            collection.insert_many(made(36_000, seed=seed))
        collection.create_index("n")
    places = [str(folder), str(tmp_path / "follower")]
    done = subprocess.run(
        [sys.executable, "-c", SOAK, *places, str(SOAK_SECONDS), str(max_memory), SOAK_THREADS],
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * SOAK_SECONDS + 120,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    growth = int(done.stdout.split()[-1])
    assert growth <= max_memory + 64 * MEBIBYTE, f"{growth / MEBIBYTE:.1f} MiB"


SOAK = """
import random, sys, threading, time
import pandas
import pyarrow as pa
import pyarrow.compute
import godb_arrow
from godb_arrow import StorageEngine

folder, follower, seconds, limit, THREADS = *sys.argv[1:5], int(sys.argv[5])
end = time.monotonic() + float(seconds)

def resident():
    # The system takes back pages of mapped files, such as indexes of ids, whenever it needs them.
    with open("/proc/self/statm") as file:
        pages = file.read().split()
    return (int(pages[1]) - int(pages[2])) * 4096

counts, failed = {}, []

def documents(count, source):
    for number in range(count):
        yield {"n": number, "text": source.randbytes(400).hex(), "tags": ["new", str(number)]}

def read_streams(source):
    streams = [c.find_all_stream() for _ in range(4)] + [c.stream() for _ in range(4)]
    for _ in range(source.randrange(60)):
        for stream in streams:
            next(stream, None)
    for stream in streams[::2]:
        stream.close()

def update(source):
    c.update_by_id({d["_id"]: {"seen": source.random()} for d in
                    c.find({"n": source.randrange(36_000)}, limit=8)})

VERBS = {
    "streams": read_streams,
    "scan": lambda s: [b.num_rows for b in c.stream(["n"])],
    "count": lambda s: c.count({"tags": str(s.randrange(36_000))}),
    "find": lambda s: c.find({"n": s.randrange(36_000)}),
    "sorted": lambda s: c.find({"n": {"$lt": 2000}}, sort="text", limit=20),
    "update": update,
    "insert": lambda s: [c.insert({"n": -1, "text": "x" * 300}) for _ in range(200)],
    "bulk": lambda s: c.insert_many(documents(30_000, s)),
    "delete": lambda s: c.delete_many({"tags": "new", "n": {"$lt": 20_000}}),
    "table": lambda s: c.insert_many(pa.table({"n": range(5000), "tags": [["new"]] * 5000})),
    "save": lambda s: engine.save(),
}

def work(number):
    source = random.Random(number)
    verbs = list(VERBS)
    while time.monotonic() < end and not failed:
        name = source.choice(verbs)
        try:
            VERBS[name](source)
            counts[name] = counts.get(name, 0) + 1
        except (godb_arrow.MemoryLimitExceeded, godb_arrow.DocumentNotFound) as error:
            key = type(error).__name__
            counts[key] = counts.get(key, 0) + 1
        except BaseException as error:
            failed.append(error)
            raise

# The code of each verb is loaded before memory is measured.
with StorageEngine(follower + "-first", max_memory=int(limit)) as engine:
    c = engine.create_collection("c")
    c.insert_many(documents(2000, random.Random(0)))
    for name in VERBS:
        if name not in ("bulk", "table"):
            VERBS[name](random.Random(0))

engine = StorageEngine(folder, max_memory=int(limit), part_size="4MiB", background_save="2s")
c = engine["c"]
engine.start_background_workers()
engine.replicate_to(follower)
before = most = resident()
threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
for thread in threads: thread.start()
peaks = []
while any(thread.is_alive() for thread in threads):
    time.sleep(0.05)
    most = max(most, resident())
    peaks.append(engine.memory_stats().alloc_mb)
for thread in threads: thread.join()
stats = engine.memory_stats()
print(counts)
print(stats)
print("rows", len(c), "peak alloc", max(peaks), "before", before >> 20, "most", most >> 20)
engine.close()
assert not failed, failed
print(most - before)
"""


def test_an_index_finds_documents_without_a_look_at_all_unsaved_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    runs = FrozenOverlay.runs
    monkeypatch.setattr(FrozenOverlay, "runs", lambda self: built.append(1) or runs(self))
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"k": n} for n in range(3000)])
        collection.create_index("k")
        built.clear()
        for n in range(3):
            collection.insert({"k": 3000 + n})
            assert [one["k"] for one in collection.find_all_stream({"k": n})] == [n]
            either = collection.find({"$or": [{"k": n}, {"k": 3000 + n}]})
            assert [one["k"] for one in either] == [n, 3000 + n]
        assert not built
        streams = [collection.find_all_stream({"k": {"$gte": 0}}) for _ in range(2)]
        assert [next(stream)["k"] for stream in streams] == [0, 0]
        assert engine.memory_stats().stream_bytes == 0, "unsaved documents count as changes"


def test_former_manifests_do_not_stay_in_memory(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, part_size="32KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": n, "text": "x" * 50} for n in range(5000)])
        engine.save()
        for turn in range(5):
            collection.delete_many({"n": {"$gte": 300 * turn, "$lt": 300 * turn + 100}})
            collection.insert_many([{"n": -1}] * 200)
            engine.save()
        gc.collect()
        manifests = [one for one in gc.get_objects() if isinstance(one, Manifest)]
        assert len(manifests) == 1


def test_versions_that_stay_take_a_few_bytes_for_each_part(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, part_size="32KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": n, "text": "x" * 500} for n in range(5000)])
        engine.save()
        tracemalloc.start()
        try:
            for _ in range(10):
                collection.insert({"n": -1})
                engine.save()
            traces = tracemalloc.take_snapshot().traces
        finally:
            tracemalloc.stop()
        parts = engine.versions("c")[-1].parts
        kept = [one.size for one in traces if one.traceback[0].filename.endswith("sweep.py")]
        assert parts > 70
        assert sum(kept) < 10 * parts * 16


def test_a_file_of_unknown_size_is_read_in_small_steps() -> None:
    class Stream(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None and 0 < size <= MEBIBYTE
            return super().read(size)

    assert read_limited(Stream(b"x" * 3 * MEBIBYTE), 1 << 30) == b"x" * 3 * MEBIBYTE
    assert read_limited(Stream(b"x" * 3 * MEBIBYTE), 2 * MEBIBYTE) == b"x" * (2 * MEBIBYTE + 1)


def test_an_insert_that_collects_documents_saves_other_changes_first(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="8MiB") as engine:
        collection = engine.create_collection("c")
        collection.upsert_many(made(5500))
        assert engine.memory_stats().changes_bytes > 5 * MEBIBYTE
        most = 0.0

        def documents() -> Iterator[dict[str, Any]]:
            nonlocal most
            for one in made(6000):
                most = max(most, engine.memory_stats().alloc_mb)
                yield one

        collection.insert_many(documents())
        assert most <= 8 + 1, "one run of documents more than the limit"
        assert len(collection) == 11_500
