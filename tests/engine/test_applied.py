"""Errors say truly whether a change was applied, and no code of the caller runs under a lock."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.disks import FaultyDisk, using
from support.processes import run_python
from support.settings import LONG
from support.verbs import JOURNALLED, VERBS, content, in_time, is_whole, opened, prepare

import godb_arrow
from godb_arrow import DuplicateId, GodbError, ReplicationFailed, StorageEngine, StorageError
from godb_arrow.memory.lru import LRU
from godb_arrow.query.filters import RowFilter
from godb_arrow.storage import local

DURABILITIES = ["interval", "commit", "checkpoint"]
FAULTS = [(errno.EIO, False), (errno.ENOSPC, False), (errno.ENOSPC, True)]
CALLS = 100 if LONG else 2  # of the disk, for each verb, at the most
UNCHANGED = {"save", "to a folder", "compact", "pack", "stream"}
FOLLOWED = {"insert", "drop", "rename"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    godb_arrow.write_godb([{"_id": "o", "v": 1}], folder / "other.godb", "other")
    with StorageEngine(folder / "data", part_size="1KiB", part_grace=0.001) as engine:
        prepare(engine)
        engine.close(discard=True)
    return folder


def copied(prepared: Path, folder: Path, durability: str) -> StorageEngine:
    folder.mkdir()
    shutil.copy(prepared / "other.godb", folder / "other.godb")
    shutil.copytree(prepared / "data", folder / "data")
    return opened(folder / "data", durability)


def recovered(engine: StorageEngine) -> dict[str, Any]:
    """Return what another process would find, if this one crashed now."""
    folder = Path(engine.data_dir).with_name("crashed")
    shutil.copytree(engine.data_dir, folder)
    with StorageEngine(folder) as again:
        found = content(again)
    shutil.rmtree(folder)
    return found


def check(
    verb: str,
    engine: StorageEngine,
    before: dict[str, Any],
    error: GodbError | None,
    message: str,
) -> None:
    """Hold an error against memory and disk, and go on with the engine."""
    there = in_time(lambda: content(engine))
    message = f"{message}: {error!r}, applied {error and error.applied}"
    if verb not in UNCHANGED and (error is None or error.applied != "no"):
        assert there != before, message
        assert verb == "restore" or is_whole(verb, before, there), message
    else:
        assert there == before, message
    if engine.options.durability != "checkpoint":
        assert recovered(engine) == there, message
    in_time(engine.save)
    assert in_time(lambda: content(engine)) == there, message
    in_time(lambda: engine.create_collection("later").insert({"_id": "l"}))
    there = in_time(lambda: content(engine))
    if engine.options.durability != "checkpoint":
        assert recovered(engine) == there, message
    folder = engine.data_dir
    in_time(engine.close)
    with StorageEngine(folder) as again:
        assert content(again) == there, message


def attempt(verb: str, engine: StorageEngine) -> GodbError | None:
    try:
        VERBS[verb](engine)
    except GodbError as error:
        return error
    return None


def chosen(seed: str, total: int) -> list[int]:
    return sorted(random.Random(seed).sample(range(total), min(CALLS, total)))


@pytest.mark.parametrize(
    ("verb", "durability", "followed"),
    [
        (verb, durability, followed)
        for index, verb in enumerate(VERBS)
        for durability in (DURABILITIES if LONG else [DURABILITIES[index % 3]])
        for followed in ([False, True] if LONG else [verb in FOLLOWED])
        if not ((followed or verb in JOURNALLED) and durability == "checkpoint")
    ],
)
def test_an_error_says_whether_the_change_was_applied(
    verb: str, durability: str, followed: bool, prepared: Path, tmp_path: Path
) -> None:
    def begin(name: str) -> StorageEngine:
        engine = copied(prepared, tmp_path / name, durability)
        if followed:
            engine.replicate_to(tmp_path / name / "follower", mode="acknowledged", interval=3600)
        return engine

    counted = begin("counted")
    content(counted)
    disk = FaultyDisk()
    with using(disk):
        VERBS[verb](counted)
    counted.close()
    for number, (code, short) in enumerate(FAULTS if LONG else FAULTS[:1]):
        for fail_at in chosen(f"{verb} {durability} {code}", len(disk.calls)):
            engine = begin(f"{number}-{fail_at}")
            before = content(engine)
            failing = FaultyDisk(fail_at, code, short)
            with using(failing):
                error = attempt(verb, engine)
            message = f"{verb}, call {fail_at} of {len(disk.calls)} ({failing.failed})"
            check(verb, engine, before, error, message)
            if followed:
                folder = tmp_path / f"{number}-{fail_at}"
                with (
                    StorageEngine(folder / "data", read_only=True) as source,
                    StorageEngine(folder / "follower", read_only=True) as follower,
                ):
                    assert content(follower) == content(source), message
            shutil.rmtree(tmp_path / f"{number}-{fail_at}")


@pytest.mark.parametrize("durability", DURABILITIES[:2] if LONG else ["commit"])
@pytest.mark.parametrize("verb", VERBS if LONG else [*sorted(FOLLOWED), "restore"])
def test_a_follower_that_is_gone(
    verb: str, durability: str, prepared: Path, tmp_path: Path
) -> None:
    engine = copied(prepared, tmp_path / "made", durability)
    before = content(engine)
    follower = tmp_path / "follower"
    replica = engine.replicate_to(follower, mode="acknowledged", interval=3600)
    shutil.rmtree(follower)
    follower.write_text("not a folder")
    error = attempt(verb, engine)
    if verb not in UNCHANGED:
        assert isinstance(error, ReplicationFailed)
        assert error.applied == ("no" if verb == "drop" else "yes")
    replica.stop()
    engine._components.failure.take()
    check(verb, engine, before, error, verb)


class RefusingSyncs(local.Disk):
    """Fails to sync a journal once, and remembers which files are synced after that."""

    def __init__(self) -> None:
        self.failed: tuple[int, int] | None = None
        self.held = -1  # so that no other file gets the number of the file
        self.again = 0
        self.came = threading.Event()

    def fsync(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        key = (found.st_dev, found.st_ino)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if self.failed == key:
            self.again += 1
        if self.failed is None and path.endswith(".journal"):
            self.failed, self.held = key, os.dup(descriptor)
            self.came.set()
            raise OSError(errno.EIO, "injected")
        super().fsync(descriptor)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="it needs /proc")
@pytest.mark.parametrize("discard", [False, True])
@pytest.mark.parametrize("durability", DURABILITIES[:2])
def test_a_journal_that_failed_to_sync_is_never_synced_again(
    durability: str, discard: bool, tmp_path: Path
) -> None:
    interval = 0.001 if durability == "interval" else 3600
    engine = StorageEngine(tmp_path, durability=durability, sync_interval=interval)  # type: ignore[arg-type]
    collection = engine.create_collection("c")
    disk = RefusingSyncs()
    with using(disk):
        if durability == "commit":
            with pytest.raises(StorageError) as raised:
                collection.insert({"_id": "1"})
            assert raised.value.applied == "unknown"
        else:
            collection.insert({"_id": "1"})
            assert disk.came.wait(60)
        assert "1" in collection
        for change in (
            lambda: collection.insert({"_id": "2"}), lambda: collection.update("1", {"v": 1}),
            lambda: engine.create_collection("d"), lambda: engine.drop_collection("c"),
        ):  # fmt: skip
            with pytest.raises(StorageError, match=r"call save\(\)") as raised:
                in_time(change)
            assert raised.value.applied == "no"
        assert collection.find() == [{"_id": "1"}]
        if not discard:
            with suppress(StorageError):  # says what failed in the background
                engine.save()
            collection.insert({"_id": "2"})
        with suppress(StorageError):
            engine.close(discard=discard)
        engine.close()
    os.close(disk.held)
    assert not disk.again
    with StorageEngine(tmp_path) as again:
        assert len(again["c"]) == 2 - discard


@pytest.mark.parametrize("others", [250] if LONG else [3])
def test_a_folder_that_fails_to_sync_after_the_file_was_replaced(
    others: int, tmp_path: Path
) -> None:
    engine = StorageEngine(tmp_path, durability="commit", max_memory="8MB")
    collection = engine.create_collection("c")
    collection.insert_many([{"_id": f"k{n}", "v": n, "p": "x" * 50} for n in range(1000)])
    for n in range(others):
        engine.create_collection(f"o{n}").insert({"v": 1})
    engine.save()
    collection.find()
    collection.update("k5", {"v": -5})
    collection.delete("k6")
    collection.insert({"_id": "new"})

    class Once(local.Disk):
        failed = False

        def sync_folder(self, path: str) -> None:
            if path.endswith("collections") and not self.failed:
                self.failed = True
                raise OSError(errno.EIO, "injected")
            super().sync_folder(path)

    with using(Once()), pytest.raises(StorageError) as raised:
        engine.save()
    assert raised.value.applied == "unknown"
    for n in range(others):
        engine[f"o{n}"].find()
    engine._components.memory.cache.shrink(0)  # as memory pressure does
    expected = {f"k{n}" for n in range(1000)} - {"k6"} | {"new"}
    assert {one["_id"] for one in collection.find()} == expected
    engine.save()
    engine.close()
    with StorageEngine(tmp_path) as again:
        found = [one["_id"] for one in again["c"]]
        assert set(found) == expected and len(found) == len(expected)
        assert again["c"].get("k5")["v"] == -5


def test_a_bulk_insert_of_ids_that_were_deleted_but_not_saved(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path, max_memory="2MB", part_size="64KiB")
    collection = engine.create_collection("c")
    collection.insert_many([{"_id": f"o{n}"} for n in range(200)])
    engine.save()
    collection.insert({"_id": "x"})
    collection.delete("x")
    collection.delete("o1")

    def documents(first: str, prefix: str) -> Iterator[dict[str, Any]]:
        for n in range(1500):
            yield {"_id": first if n == 0 else f"{prefix}{n}", "p": "z" * 1000}

    collection.insert_many(documents("x", "g"))
    collection.insert_many(documents("o1", "h"))
    with pytest.raises(DuplicateId):
        collection.insert({"_id": "x"})
    with pytest.raises(DuplicateId):
        collection.insert_many(documents("o2", "i"))
    engine.close()
    with StorageEngine(tmp_path) as again:
        found = [one["_id"] for one in again["c"].find_all_stream()]
    assert len(found) == len(set(found)) == 200 - 1 + 2 * 1500
    assert {"x", "o1"} <= set(found)


class Probe:
    """Uses the engine on another thread: that hangs where the caller is inside a lock."""

    def __init__(self, engine: StorageEngine) -> None:
        self.engine = engine
        self.calls = 0
        self._numbers = itertools.count()

    def __call__(self) -> None:
        self.calls += 1
        if self.calls < 3:
            self.engine.insert("c", {"of": "the caller's own thread"})
            in_time(self._use)

    def _use(self) -> None:
        engine, name = self.engine, f"t{next(self._numbers)}"
        engine.insert("c", {"of": "the probe"})
        engine.update("c", "k9", {"seen": True})
        engine.create_collection(name).insert_many([{"v": 1}] * 3)
        engine.save()
        engine.rename_collection(name, f"{name}-new")
        engine.compact("c")
        engine.drop_collection(f"{name}-new")
        assert len(engine.find("c", limit=5)) == 5
        engine.memory_stats(), engine.stats(), engine.infos()


class Calling(Mapping[str, Any]):
    """A mapping of the caller, whose methods use the engine."""

    def __init__(self, probe: Probe, **items: Any) -> None:
        self._probe = probe
        self._items = items

    def __getitem__(self, key: str) -> Any:
        self._probe()
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        self._probe()
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def rows(probe: Probe, count: int) -> Iterator[dict[str, Any]]:
    for n in range(count):
        if n == count - 1:
            probe()
        yield {"p": "z" * 1000}


def keep(probe: Probe) -> RowFilter:
    def chosen(batch: Any) -> Any:
        probe()
        return godb_arrow.query.filters.pc.equal(batch["v"], 3)

    return RowFilter(["v"], chosen)


def works(engine: StorageEngine, probe: Probe) -> None:
    ran = threading.Event()
    engine.add_worker("probe", 0.001, lambda: (probe(), ran.set()))
    engine.start_background_workers()
    assert ran.wait(60)


OF_THE_CALLER: dict[str, Callable[[StorageEngine, Probe], Any]] = {
    "insert": lambda e, p: e.insert("c", Calling(p, v=1)),
    "insert a mapping in a document": lambda e, p: e.insert("c", {"m": Calling(p, v=1)}),
    "insert_many": lambda e, p: e.insert_many("c", rows(p, 10)),
    "insert_many of mappings": lambda e, p: e.insert_many("c", [Calling(p, v=1)]),
    "insert more than memory": lambda e, p: e.insert_many("c", rows(p, 1500)),
    "upsert_many": lambda e, p: e.upsert_many("c", rows(p, 10)),
    "update": lambda e, p: e.update("c", "k1", Calling(p, v=1)),
    "update with a mapping in it": lambda e, p: e.update("c", "k1", {"m": Calling(p, v=1)}),
    "update_by_id": lambda e, p: e.update_by_id("c", {"k1": Calling(p, v=1)}),
    "update_by_id by a mapping": lambda e, p: e.update_by_id("c", Calling(p, k1={"v": 1})),
    "replace": lambda e, p: e.replace("c", "k1", Calling(p, v=1)),
    "replace with a mapping in it": lambda e, p: e.replace("c", "k1", {"m": Calling(p, v=1)}),
    "find": lambda e, p: e.find("c", Calling(p, v=3)),
    "count": lambda e, p: e.count("c", Calling(p, v=3)),
    "delete_many": lambda e, p: e.delete_many("c", Calling(p, v=3)),
    "delete_many by rows": lambda e, p: e.delete_many("c", keep(p)),
    "stream": lambda e, p: list(e.stream_batches("c", filter=keep(p))),
    "explain": lambda e, p: e.explain("c", Calling(p, v=3)),
    "a worker": works,
}


@pytest.mark.parametrize("name", OF_THE_CALLER)
def test_no_code_of_the_caller_runs_under_a_lock(name: str, tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path, max_memory="2MB", part_size="64KiB")
    engine.create_collection("c").insert_many([{"_id": f"k{n}", "v": n} for n in range(10)])
    probe = Probe(engine)
    with suppress(godb_arrow.InvalidDocument):  # mappings in a document are the codec's business
        OF_THE_CALLER[name](engine, probe)
    assert probe.calls or "mapping in" in name
    engine.close()


class Ranking(LRU):
    """A policy of the caller, which uses the engine while it ranks."""

    probe: Probe | None = None

    def rank(self, entry: Any) -> int:
        probe, self.probe = self.probe, None
        if probe is not None:
            probe()
        return super().rank(entry)


CHANGES: dict[str, Callable[[StorageEngine, str], Any]] = {
    "insert": lambda e, c: e.insert(c, {"p": "y" * 100_000}),
    "insert_many": lambda e, c: e.insert_many(c, [{"p": "y" * 1000}] * 100),
    "update": lambda e, c: e.update(c, "k1", {"p": "y" * 100_000}),
    "replace": lambda e, c: e.replace(c, "k1", {"p": "y" * 100_000}),
    "delete": lambda e, c: e.delete_many(c, {"v": 5}),
    "read": lambda e, c: e.to_arrow(c),
    "stream": lambda e, c: list(e.stream_batches(c)),
    "get": lambda e, c: e.get(c, "k1"),
    "save": lambda e, c: e.save(),
}


def test_no_eviction_policy_runs_under_a_lock(tmp_path: Path) -> None:
    policy = Ranking()
    engine = StorageEngine(tmp_path, max_memory="1MiB", eviction_policy=policy)
    for name in ["c", *CHANGES]:
        rows = [{"_id": f"k{n}", "v": n, "p": "x" * 100} for n in range(1000)]
        engine.create_collection(name).insert_many(rows)
    engine.save()
    probe = Probe(engine)
    ranked = set()
    for _ in range(5):
        for name, change in CHANGES.items():
            probe.calls, policy.probe = 0, probe
            engine.to_arrow("insert"), engine.to_arrow("update")  # a cache that is full
            probe.calls, policy.probe = 0, probe
            change(engine, name)
            if probe.calls:
                ranked.add(name)
    policy.probe = None
    assert ranked >= {"insert", "update", "get", "read", "stream"}
    engine.close()


def test_changes_without_end_do_not_run_a_row_filter_under_a_lock(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path)
    collection = engine.create_collection("c")
    collection.insert_many([{"v": n} for n in range(10)])
    rounds = itertools.count()

    def chosen(batch: Any) -> Any:
        if next(rounds) < 8:
            in_time(lambda: collection.insert({"v": -1}))
        return godb_arrow.query.filters.pc.greater_equal(batch["v"], 0)

    assert collection.delete_many(RowFilter(["v"], chosen)) == 10
    assert collection.count({"v": -1}) == len(collection) == 8
    engine.close()


ABANDON = """
import faulthandler, gc, sys, threading
import godb_arrow
from godb_arrow import StorageEngine
faulthandler.dump_traceback_later(50, exit=True)
engine = StorageEngine(sys.argv[1], max_memory="100MB", threads=2)
c = engine.create_collection("c")
c.insert_many([{"n": n, "p": "x" * 200, "q": {"z": n}} for n in range(20_000)])
engine.save()

class Consumer:
    def __init__(self, stream):
        self.stream, self.me = stream, self
        next(stream)

ways = [c.stream, c.find_all_stream, c.stream_batches, lambda: c.stream(batch_size=100),
        lambda: c.find_all_stream(c["n"] > 5)]
def abandon(rounds):
    for number in range(rounds):
        Consumer(ways[number % len(ways)]())
        c.insert({"number": number})

rounds = int(sys.argv[2])
abandon(rounds)  # with the usual thresholds
gc.set_threshold(1)
threads = [threading.Thread(target=abandon, args=(rounds // 2,)) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
gc.collect()
for thread in threading.enumerate():
    if thread.name == "godb-arrow-worker": thread.join()
gc.collect()
stats = engine.memory_stats()
assert (stats.streams, stats.stream_bytes) == (0, 0), stats
assert len(c) == 20_000 + rounds + 2 * (rounds // 2)
engine.close()
"""


def test_streams_that_are_abandoned_in_cycles_release_everything(tmp_path: Path) -> None:
    done = run_python(ABANDON, tmp_path, 200 if LONG else 10)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "cannot join" not in done.stderr and "Exception ignored" not in done.stderr
