"""Followers: the same as what they follow, whole at every moment, and able to take over."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.disks import FaultyDisk, RecordingDisk, after_power_cut, put, using
from support.engines import steps_of_parts
from support.processes import start
from support.settings import LONG
from support.writers import STEPPED_FOLLOWER, WRITER

import godb_arrow
from godb_arrow import Follower, StorageEngine, StorageError, follower_status, promote
from godb_arrow.cli.command import main
from godb_arrow.replication import follower

Content = dict[str, dict[str, Any]]
OPTIONS: Any = {"part_size": "1KiB", "part_grace": 0.001, "keep_versions": 2}


def content(engine: StorageEngine) -> Content:
    return {name: {one["_id"]: one for one in engine[name]} for name in engine.collections()}


def content_of(folder: Path) -> Content:
    with StorageEngine(folder, read_only=True) as engine:
        return content(engine)


def worked(folder: Path) -> Any:
    """A data directory with all kinds of changes; what there is after each of them."""
    with StorageEngine(folder, **OPTIONS) as engine:
        for change, _ in steps_of_parts():
            change(engine)
            yield content(engine)
        engine["a"].set_compression("zstd")
        engine["a"].insert({"v": 1})
        engine.save()
        yield content(engine)
        engine.restore("a", engine.versions("a")[-2].version) if len(
            engine.versions("a")
        ) > 1 else None
        engine.drop_collection("old")
        engine.save()
        yield content(engine)
    yield content_of(folder)


@pytest.mark.parametrize("every", [1, 2, 3, 5, 7, 100])
def test_a_follower_is_what_it_follows(tmp_path: Path, every: int) -> None:
    """However much happened in between: saved, trimmed, dropped, renamed, joined, packed."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "collections").mkdir(parents=True)
    with Follower(source, target) as follower:
        for number, expected in enumerate(worked(source)):
            if number % every == 0:
                follower.step()
                assert content_of(target) == expected
                ours, theirs = ({path.name for path in (one / "journal").iterdir()}
                                for one in (target, source))  # fmt: skip
                assert len(ours - theirs) <= 1  # the last one tells where to go on
        follower.step()
        assert content_of(target) == content_of(source)
        names = {path.relative_to(target) for path in (target / "collections").rglob("*.*")}
        assert names == {path.relative_to(source) for path in (source / "collections").rglob("*.*")}
        status = follower_status(target)
        assert status.consistent and status.behind_bytes == 0
        assert status.lag is not None and status.lag < 60


def test_a_file_that_the_list_did_not_have_yet_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is listed while files are added to it."""
    source, target = tmp_path / "source", tmp_path / "target"
    for _ in worked(source):
        pass
    original = follower.list_stored

    def without_some(folder: str) -> Any:
        found = original(folder)
        for name in [one for one in found if "/" in one and not one.endswith(".manifest")]:
            del found[name]
        return found

    monkeypatch.setattr(follower, "list_stored", without_some)
    with Follower(source, target) as following:
        following.step()
        assert content_of(target) == content_of(source)


def test_a_follower_is_read_only_until_it_is_promoted(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with StorageEngine(source) as engine:
        engine.create_collection("c").insert_many([{"n": n} for n in range(100)])
        with Follower(source, target) as follower:
            follower.step()
            with pytest.raises(godb_arrow.DirectoryLocked):
                Follower(source, target)
            with pytest.raises(godb_arrow.DirectoryLocked):
                promote(target)
        engine.insert("c", {"n": 100})
    with pytest.raises(godb_arrow.ReadOnly, match="promote it first"):
        StorageEngine(target)
    assert len(content_of(target)["c"]) == 100
    promote(target)
    with StorageEngine(target) as engine:
        assert engine.insert("c", {"n": "mine"}) == "101"
    with pytest.raises(godb_arrow.SourceNotFound, match="is no follower"):
        promote(target)
    with pytest.raises(godb_arrow.SourceNotFound, match="is no follower"):
        follower_status(target)
    with pytest.raises(godb_arrow.TargetExists, match="follows no other"):
        Follower(source, target)
    # The old one comes back, and follows the new one.
    with Follower(target, source, replace=True) as follower:
        follower.step()
    assert content_of(source) == content_of(target)
    assert content_of(source)["c"]["101"]["n"] == "mine"
    for wrong in (lambda: Follower(source, source), lambda: Follower("s3://x/y", target)):
        with pytest.raises(godb_arrow.InvalidOption):
            wrong()
    with pytest.raises(godb_arrow.SourceNotFound):
        Follower(tmp_path / "nothing", target)


def test_a_source_that_lost_its_last_records_is_followed_all_the_same(tmp_path: Path) -> None:
    """After a power cut the journal is shorter than what the follower has of it."""
    source, before, target = (tmp_path / name for name in ("source", "before", "target"))
    with StorageEngine(source) as engine:
        engine.create_collection("c").insert({"n": 1})
        shutil.copytree(source, before)
        engine.insert_many("c", [{"n": n} for n in range(2, 50)])
        with Follower(source, target) as follower:
            follower.step()
        assert len(content_of(target)["c"]) == 49
    shutil.rmtree(source)
    shutil.move(before, source)
    os.unlink(source / "godb_arrow.lock")
    with StorageEngine(source) as engine, Follower(source, target) as follower:
        follower.step()
        assert len(content_of(target)["c"]) == 1
        for n in range(100):
            engine.insert("c", {"n": -n})
            follower.ship()
            follower.ship()
        assert content_of(target) == content(engine)


def test_a_source_that_lost_its_journal_is_followed_all_the_same(tmp_path: Path) -> None:
    """The new journal has segments and sequence numbers of the old one, and other records."""
    source, target = tmp_path / "source", tmp_path / "target"
    with StorageEngine(source) as engine:
        engine.create_collection("c").insert({"n": 1})
        with Follower(source, target) as follower:
            follower.step()
    shutil.rmtree(source / "journal")
    with StorageEngine(source) as engine, Follower(source, target) as follower:
        for n in range(20):
            engine.insert("c", {"n": -n, "text": "x" * n})
        follower.step()
        assert content_of(target) == content(engine)


def test_what_is_acknowledged_is_at_the_follower(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with StorageEngine(source, max_memory="2MiB", **OPTIONS) as engine:
        replica = engine.replicate_to(target, mode="acknowledged", interval="1h")
        assert engine.replicas == [replica] and "acknowledged" in repr(replica)
        checks = 0

        def check() -> None:
            nonlocal checks
            assert content_of(target) == content(engine)
            checks += 1

        for change, _ in steps_of_parts():
            change(engine)
            check()
        engine.insert_many("a", ({"n": n, "text": "x" * 500} for n in range(5000)))  # a bulk
        check()
        if versions := engine.versions("a")[:-1]:
            engine.restore("a", versions[-1].version)
            check()
        engine.create_index("a", "text")
        assert replica.status().behind_bytes == 0
        replica.stop()
        replica.stop()
        assert not engine.replicas and "stopped" in repr(replica)
        engine.insert("a", {"n": 1})
        with pytest.raises(AssertionError):
            check()
        with pytest.raises(godb_arrow.InvalidOption, match="asynchronous or acknowledged"):
            engine.replicate_to(target, mode="never")  # type: ignore[arg-type]
    with StorageEngine(source, durability="checkpoint") as engine:
        with pytest.raises(godb_arrow.InvalidOption, match="journalled"):
            engine.replicate_to(target, mode="acknowledged")
        engine.replicate_to(target)
        engine.insert("a", {"n": 2})
    assert content_of(target) == content_of(source)  # closing brought it up to date


def test_an_asynchronous_follower_keeps_up(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with StorageEngine(source, background_save=0.02, **OPTIONS) as engine:
        engine.start_background_workers()
        replica = engine.replicate_to(target, interval=0.01)
        collection = engine.create_collection("c")
        for n in range(300):
            collection.insert({"n": n})
        ends = time.monotonic() + 20
        while content_of(target).get("c", {}) != content(engine)["c"]:
            assert time.monotonic() < ends
            time.sleep(0.01)
        assert replica.status().lag is not None
        workers = {one.name: one for one in engine.stats().workers}
        assert any(name.startswith("replica ") and not workers[name].failures for name in workers)


def test_a_follower_that_fails_is_said_and_catches_up(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with StorageEngine(source) as engine:
        collection = engine.create_collection("c")
        replica = engine.replicate_to(target, mode="acknowledged", interval="1h")
        journal = replica._follower._journal

        def fail() -> int:
            raise OSError(errno.ENOSPC, "full")

        original = journal.copy
        journal.copy = fail  # type: ignore[method-assign]
        with pytest.raises(godb_arrow.ReplicationFailed, match="has not confirmed it") as caught:
            collection.insert({"n": 1})
        assert isinstance(caught.value.__cause__, godb_arrow.DiskFull)
        assert len(collection) == 1  # here it is done
        journal.copy = original  # type: ignore[method-assign]
        collection.insert({"n": 2})
        assert content_of(target) == content(engine)


def scenario(tmp_path: Path) -> tuple[Path, list[Content]]:
    """Data directories as they were now and then, and what was in them, in order."""
    source, kept = tmp_path / "source", tmp_path / "kept"
    states: list[Content] = []
    with StorageEngine(source, **OPTIONS) as engine:
        for number, (change, _) in enumerate(steps_of_parts()):
            change(engine)
            states.append(content(engine))
            if number % 2:
                shutil.copytree(source, kept / f"{number:03d}")
    return kept, states


def test_each_call_of_the_disk_fails_once(tmp_path: Path) -> None:
    """The follower is as it was, or further, or says that it is not whole; and catches up."""
    kept, states = scenario(tmp_path)
    moments = sorted(kept.iterdir())
    rng = random.Random(1)
    broken = whole = 0
    for number, (before, after) in enumerate(itertools.pairwise(moments)):
        live = tmp_path / "live"
        for fail_at in itertools.count():
            if not LONG and rng.random() < 0.93:
                if fail_at < 400:
                    continue
                break
            target = tmp_path / f"target-{number}-{fail_at}"
            shutil.copytree(before, live)
            with Follower(live, target) as follower:
                follower.step()
            shutil.rmtree(live)
            shutil.copytree(after, live)
            disk = FaultyDisk(fail_at, short=fail_at % 2 == 0)
            with using(disk):
                try:
                    with Follower(live, target) as follower:
                        follower.step()
                except StorageError:
                    pass
            try:
                assert content_of(target) in states
                whole += 1
            except StorageError as error:
                assert "being updated" in str(error)
                broken += 1
            with Follower(live, target) as follower:
                follower.step()
            assert content_of(target) == content_of(after)
            shutil.rmtree(live)
            shutil.rmtree(target)
            if disk.failed is None:
                break
    assert whole
    if LONG:
        print(json.dumps({"whole": whole, "not whole": broken}))


@pytest.mark.parametrize("how", ["least", "any", "most"] if LONG else ["any"])
def test_the_power_is_cut_after_each_call(tmp_path: Path, how: str) -> None:
    kept, states = scenario(tmp_path)
    moments = sorted(kept.iterdir())
    rng = random.Random(2)
    live, target = tmp_path / "live", tmp_path / "target"
    disk = RecordingDisk(str(target))
    expected: list[Content] = []
    for moment in moments:
        shutil.copytree(moment, live)
        with using(disk), Follower(live, target) as follower:
            follower.step()
        expected.append(content_of(moment))
        disk.acknowledged += 1
        shutil.rmtree(live)
    cuts = [one for one in disk.cuts if one[0]]
    for acknowledged, state in cuts if LONG else rng.sample(cuts, 80):
        again = tmp_path / "again"
        put(after_power_cut(state, how, rng), str(target), again)
        assert (again / "follower.json").exists()
        try:
            found = content_of(again)
            least = states.index(expected[acknowledged - 1])
            assert found in states[least:]
        except StorageError as error:
            assert "being updated" in str(error)
        with Follower(moments[-1], again) as follower:
            follower.step()
        assert content_of(again) == expected[-1]
        shutil.rmtree(again)


REPLICATED = WRITER.replace(
    "engine.start_background_workers()",
    'engine.start_background_workers()\nengine.replicate_to(sys.argv[5], mode="acknowledged", '
    "interval=0.05)",
)


@pytest.mark.parametrize("part_size", ["128MiB", "32KiB"])
def test_the_writer_is_killed_and_the_follower_takes_over(tmp_path: Path, part_size: str) -> None:
    """Everything that was acknowledged is at the follower, which is promoted each time."""
    rng = random.Random(5)
    folder = tmp_path / "0"
    acknowledged = 0
    there: dict[tuple[str, str], int | None] = {}
    for kill in range(1, 61 if LONG else 3):
        target = tmp_path / str(kill)
        first = 1 + kill * 100_000
        process = start(
            REPLICATED, folder, "interval", first, part_size, target, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        said = process.stdout.readline()
        time.sleep(rng.uniform(0.05, 0.6))
        process.send_signal(signal.SIGKILL)
        lines = (said + process.stdout.read()).split("\n")
        process.wait()
        process.stdout.close()
        shutil.rmtree(folder)  # the machine is gone
        unsure = set()
        for line in lines[:-1]:
            what, name, key, *value = line.split(" ")
            acknowledged += 1
            thread, number = key.split("-")
            if what == "put":
                there[name, key] = int(value[0])
            elif what == "gone":
                there[name, key] = None
            else:
                there.update({(name, f"{key}-{i}"): i for i in range(100)})
            unsure = {one for one in unsure if one[0] != thread} | {(thread, number)}
        promote(target)
        with StorageEngine(target) as engine:
            found = content(engine)
        for (name, key), expected in there.items():
            if tuple(key.split("-")[:2]) not in unsure:  # else it may have changed once more
                assert found[name].get(key, {}).get("v") == expected, f"kill {kill}: {key}"
        there = {(name, key): one["v"] for name in found for key, one in found[name].items()}
        folder = target
    if LONG:
        print(json.dumps({"kills": kill, "acknowledged": acknowledged}))


def test_the_follower_is_killed_and_catches_up(tmp_path: Path) -> None:
    """It stops before each call of the disk, and the source changes there; then it is killed."""
    source, target = tmp_path / "source", tmp_path / "target"
    rng = random.Random(6)
    with StorageEngine(source, durability="commit", **OPTIONS) as engine:
        for name in "ab":
            engine.create_collection(name)
        numbers = itertools.count()

        def change() -> None:
            n = next(numbers)
            engine.insert("ab"[n % 2], {"_id": f"{n:09d}", "n": n})
            if n % 50 == 0:
                engine.delete_many("b", {"n": n - 49})
            if n % 200 == 199:
                engine.compact()
            if rng.random() < 0.05:
                engine.save()

        def is_whole() -> bool:
            return (target / "follower.json").exists() and follower_status(target).consistent

        def follow(stops: Iterable[int]) -> None:
            pipe = subprocess.PIPE
            with start(STEPPED_FOLLOWER, source, target, stdin=pipe, stdout=pipe) as process:
                assert process.stdin is not None and process.stdout is not None
                for _ in stops:
                    assert process.stdout.readline(), "the follower ended"
                    change()
                    process.stdin.write("\n")
                    process.stdin.flush()
                process.kill()

        whole = 0
        follow(itertools.takewhile(lambda _: not is_whole(), itertools.count()))
        for _ in range(60 if LONG else 4):
            try:
                found = content_of(target)
            except StorageError as error:
                assert "being updated" in str(error)
            else:
                whole += 1
                ids = sorted(found["a"] | found["b"])
                # One after the other: no document is there while an earlier one is not.
                gone = {f"{n:09d}" for n in range(1, 1_000_000, 50)}
                there = [int(one) for one in ids if one not in gone]
                assert there == [n for n in range(there[-1] + 1) if f"{n:09d}" not in gone]
            follow(range(rng.randrange(1, 150)))
        assert whole
        with Follower(source, target) as follower:
            follower.step()
        assert content_of(target) == content(engine)


def test_the_commands(tmp_path: Path) -> None:
    source, target = str(tmp_path / "source"), str(tmp_path / "target")
    with StorageEngine(source) as engine:
        engine.create_collection("c").insert({"n": 1})
    run = CliRunner().invoke
    done = run(main, ["follow", source, target, "--once"])
    assert done.exit_code == 0 and "1 files of" in done.output
    shown = run(main, ["follower", target]).output
    assert f"follows {source}: record 2" in shown and "last caught up" in shown
    assert run(main, ["promote", target]).exit_code == 0
    failed = run(main, ["promote", target])
    assert failed.exit_code == 2 and "no follower" in failed.output


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"source": "x", "consistent": true, "caught_up": "now", "record": 1}',
        b'{"source": "x", "consistent": true, "caught_up": 1, "record": 1,'
        b' "files": {"../x": [1, 1]}}',
        b'{"source": "x", "identity": "../x", "consistent": true, "caught_up": 1, "record": 1}',
        b'{"source": "x", "identity": 1, "consistent": true, "caught_up": 1, "record": 1}',
    ],
)
def test_what_a_follower_says_of_itself_may_be_damaged(tmp_path: Path, state: bytes) -> None:
    (tmp_path / "follower.json").write_bytes(state)
    for use in (
        lambda: follower_status(tmp_path),
        lambda: promote(tmp_path),
        lambda: StorageEngine(tmp_path, read_only=True),
        lambda: StorageEngine(tmp_path),
    ):
        with pytest.raises(godb_arrow.CorruptFile, match="follow again"):
            use()
