"""Several writers of one local file: nothing that one of them wrote is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pytest
from support.disks import using
from support.handmade import file_of
from support.processes import running

import godb_arrow
from godb_arrow.storage.local import Disk

SLOW = """
import godb_arrow

def documents():
    wait("reading")
    yield from eval(sys.argv[4])

try:
    print(godb_arrow.write_godb(documents(), sys.argv[1], sys.argv[2], if_exists=sys.argv[3]))
except godb_arrow.GodbError as error:
    print(type(error).__name__)
"""

LOCKED = """
import godb_arrow
from godb_arrow.storage import local

class Waiting(local.Disk):
    def replace(self, source, target):
        wait("locked")
        super().replace(source, target)

local.disk = Waiting()
print(godb_arrow.write_godb([{"_id": "slow"}], sys.argv[1], "c", if_exists="append"))
"""

MANY = """
import godb_arrow
wait("ready")
for n in range(int(sys.argv[3])):
    documents = [{"_id": f"{sys.argv[2]}-{n}"}, {"by": sys.argv[2]}, {"by": sys.argv[2]}]
    assert godb_arrow.write_godb(documents, sys.argv[1], "c", if_exists="append") == 3
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.godb"
    godb_arrow.write_godb([{"_id": "first"}], path, "c")
    return path


def ids_in(path: Path, collection: str = "c") -> list[str]:
    assert os.listdir(path.parent) == [path.name], "nothing is left beside it"
    assert godb_arrow.verify_godb(path).ok
    return [one["_id"] for one in godb_arrow.read_documents(path, collection)]


def append(path: Path | str, *ids: str, **options: Any) -> int:
    documents = [{"_id": one} for one in ids]
    options = {"if_exists": "append", **options}
    return godb_arrow.write_godb(documents, path, "c", **options)


def test_processes_that_append_at_the_same_time(path: Path) -> None:
    with ExitStack() as stack:
        programs = [stack.enter_context(running(MANY, path, name, 10)) for name in "xyz"]
        for program in programs:
            program.waits("ready")
        for program in programs:
            program.let_go()
        for program in programs:
            program.ends()
    ids = ids_in(path)
    assert len(ids) == len({*ids}) == 1 + 3 * 10 * 3
    assert {one for one in ids if one.isdigit()} == {str(n) for n in range(1, 61)}, "no gaps"


def test_threads_that_append_at_the_same_time(path: Path) -> None:
    begun = threading.Barrier(4)

    def write() -> None:
        begun.wait()
        for _ in range(5):
            godb_arrow.write_godb(pa.table({"n": [1, 2]}), path, "c", if_exists="append")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*ids_in(path)}) == len(ids_in(path)) == 1 + 4 * 5 * 2


@pytest.mark.parametrize(
    ("mode", "slow", "expected"),
    [
        ("append", '[{"_id": "slow"}]', ["first", "fast", "slow"]),
        ("upsert", '[{"_id": "slow"}, {"_id": "first"}]', ["fast", "slow", "first"]),
        ("upsert", '[{"_id": "fast", "n": 1}]', ["first", "fast"]),
        ("replace", '[{"_id": "slow"}]', ["slow"]),
    ],
)
def test_a_writer_with_a_slow_source_blocks_no_other_and_loses_nothing(
    path: Path, mode: str, slow: str, expected: list[str]
) -> None:
    with running(SLOW, path, "c", mode, slow) as program:
        program.waits("reading")
        append(path, "fast")
        godb_arrow.write_godb([{"_id": "other"}], path, "d")
        program.let_go()
        assert program.ends() == str(slow.count("{"))
    assert ids_in(path, "c") == expected
    assert ids_in(path, "d") == ["other"]


@pytest.mark.parametrize("there", [True, False], ids=["existing file", "new file"])
@pytest.mark.parametrize("count", [1, 3, 20_000])
def test_generated_ids_of_slow_writers_come_after_those_of_fast_ones(
    tmp_path: Path, there: bool, count: int
) -> None:
    path = tmp_path / "a.godb"
    if there:
        godb_arrow.write_godb([{"n": -1}], path, "c")
    slow = f'[{{"n": n}} for n in range({count})]'
    with running(SLOW, path, "c", "append", slow) as program:
        program.waits("reading")
        godb_arrow.write_godb([{"by": "fast"}] * 5, path, "c", if_exists="append")
        program.let_go()
        assert program.ends() == str(count)
    assert ids_in(path) == [str(n) for n in range(1, there + 5 + count + 1)]
    documents = list(godb_arrow.read_documents(path, "c"))
    assert [one.get("n") for one in documents[there + 5 :]] == list(range(count))
    assert godb_arrow.read_document(path, str(there + 5 + count), "c")["n"] == count - 1


def test_given_and_generated_ids_together(path: Path) -> None:
    slow = '[{"n": 0}, {"_id": "word"}, {"n": 1}, {"_id": 50}, {"n": 2}, {"_id": "é" * 40}]'
    with running(SLOW, path, "c", "append", slow) as program:
        program.waits("reading")
        godb_arrow.write_godb([{}, {}, {"_id": "9"}], path, "c", if_exists="append")
        program.let_go()
        assert program.ends() == "6"
    expected = ["first", "1", "2", "9", "10", "word", "11", "50", "51", "é" * 40]
    assert ids_in(path) == expected
    documents = {one["_id"]: one for one in godb_arrow.read_documents(path)}
    assert [documents[one].get("n") for one in ("10", "11", "51")] == [0, 1, 2]


def test_the_same_id_twice_is_refused(path: Path) -> None:
    with running(SLOW, path, "c", "append", '[{"_id": "x"}, {"_id": "same"}]') as program:
        program.waits("reading")
        append(path, "same")
        program.let_go()
        assert program.ends() == "DuplicateId"
    assert ids_in(path) == ["first", "same"]


@pytest.mark.parametrize("there", [True, False], ids=["existing file", "new file"])
def test_of_two_writers_that_create_a_collection_one_is_told(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "a.godb"
    if there:
        godb_arrow.write_godb([{"_id": "other"}], path, "d")
    with ExitStack() as stack:
        slow = [
            stack.enter_context(running(SLOW, path, name, "error", '[{"_id": "slow"}]'))
            for name in ("c", "e")
        ]
        for program in slow:
            program.waits("reading")
        append(path, "fast", if_exists="error")
        for program in slow:
            program.let_go()
        assert [program.ends() for program in slow] == ["CollectionExists", "1"]
    assert ids_in(path) == ["fast"]
    assert ids_in(path, "e") == ["slow"]


def test_two_processes_that_create_a_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.godb"
    with ExitStack() as stack:
        slow = [
            stack.enter_context(running(SLOW, path, "c", "error", f'[{{"_id": {n}}}] * 1'))
            for n in range(3)
        ]
        for program in slow:
            program.waits("reading")
        for program in slow:
            program.let_go()
        ends = [program.ends() for program in slow]
    assert sorted(ends) == ["1", "CollectionExists", "CollectionExists"]
    assert ids_in(path) == [str(ends.index("1"))]


def test_data_that_writes_the_same_file_while_it_is_read(path: Path) -> None:
    def documents() -> Iterator[dict[str, Any]]:
        yield {"_id": "outer"}
        append(path, "inner")

    assert godb_arrow.write_godb(documents(), path, "c", if_exists="append") == 1
    assert ids_in(path) == ["first", "inner", "outer"]


def test_writers_wait_for_each_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = path.parent.parent / f"{path.parent.name}-link"
    link.symlink_to(path)
    with running(LOCKED, path) as program:
        program.waits("locked")
        with monkeypatch.context() as patch:
            patch.setattr("godb_arrow.storage.lock._WAIT_SECONDS", 0.0)
            for name in (path, link, f"file://{path}"):
                with pytest.raises(godb_arrow.WriteConflict, match=r"'c'.*another writer"):
                    append(name, "refused")
        assert next(iter(godb_arrow.read_documents(path))) == {"_id": "first"}, "readers never wait"
        other = threading.Thread(target=append, args=(link, "patient"))
        other.start()
        program.let_go()
        assert program.ends() == "1"
        other.join()
    link.unlink()
    assert sorted(ids_in(path)) == ["first", "patient", "slow"]


def test_files_of_one_folder_are_locked_each_by_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godb_arrow.storage.lock._WAIT_SECONDS", 0.0)
    with running(LOCKED, path) as program:
        program.waits("locked")
        append(path.with_name("b.godb"), "x")
        path.with_name("b.godb").unlink()
        program.let_go()
        program.ends()
    assert ids_in(path) == ["first", "slow"]


def test_a_killed_writer_blocks_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(LOCKED, path) as program:
        program.waits("locked")
        program.kill()
    monkeypatch.setattr("godb_arrow.storage.lock._WAIT_SECONDS", 0.0)
    append(path, "next")
    for left in path.parent.glob(".godb-arrow-*.tmp"):
        left.unlink()  # the killed writer's file, which goes once it is old
    assert ids_in(path) == ["first", "next"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_was_forked_meanwhile_keeps_no_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, go_on = threading.Event(), threading.Event()

    class Waiting(Disk):
        def replace(self, source: str, target: str) -> None:
            locked.set()
            go_on.wait()
            super().replace(source, target)

    with using(Waiting()):
        writer = threading.Thread(target=append, args=(path, "thread"))
        writer.start()
        locked.wait()
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writes)
            os.read(reads, 1)
            os._exit(0)
        os.close(reads)
        go_on.set()
        writer.join()
    monkeypatch.setattr("godb_arrow.storage.lock._WAIT_SECONDS", 0.0)
    append(path, "next")
    os.close(writes)
    os.waitpid(child, 0)
    assert ids_in(path) == ["first", "thread", "next"]


def test_an_interrupt_unlocks_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Disk):
        def fsync(self, descriptor: int) -> None:
            raise KeyboardInterrupt

    with using(Interrupted()), pytest.raises(KeyboardInterrupt):
        append(path, "interrupted")
    monkeypatch.setattr("godb_arrow.storage.lock._WAIT_SECONDS", 0.0)
    append(path, "next")
    assert ids_in(path) == ["first", "next"]


@pytest.mark.parametrize("how", ["replaced", "written in place", "removed", "created"])
def test_a_program_that_does_not_lock_is_noticed(path: Path, how: str) -> None:
    other = file_of(msgpack.packb({"collections": {"c": {"go": {"_id": "go"}}}}))
    if how == "created":
        path.unlink()

    class Foreign(Disk):
        def fsync(self, descriptor: int) -> None:
            super().fsync(descriptor)
            if how == "removed":
                path.unlink()
            elif how == "written in place":
                path.write_bytes(other)
            else:
                path.with_name("b").write_bytes(other)
                path.with_name("b").replace(path)

    with using(Foreign()), pytest.raises(godb_arrow.WriteConflict, match="read it again"):
        append(path, "lost otherwise")
    if how == "removed":
        assert os.listdir(path.parent) == []
    else:
        assert ids_in(path) == ["go"]


def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    append(path, "next")
    assert ids_in(path) == ["first", "next"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(path: Path) -> None:
    path.parent.chmod(0o555)
    try:
        with pytest.raises(godb_arrow.AccessDenied):
            append(path, "next")
    finally:
        path.parent.chmod(0o755)
    assert ids_in(path) == ["first"]


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Have another writer come first, once all data of a writer were read."""
    from godb_arrow.file import writing

    lock_file = writing.lock_file

    def install(other: Callable[[], Any]) -> None:
        def overtake(path: Any) -> Any:
            monkeypatch.setattr(writing, "lock_file", lock_file)
            other()
            return lock_file(path)

        monkeypatch.setattr(writing, "lock_file", overtake)

    return install


TABLE = pa.table({"n": pa.array([1, 2], pa.int8())})
FLOATS = pa.table({"n": [0.5], "m": ["x"]})


@pytest.mark.parametrize("there", [None, TABLE, FLOATS], ids=["new", "the same", "others"])
@pytest.mark.parametrize("other", [TABLE, FLOATS], ids=["the same columns", "other columns"])
@pytest.mark.parametrize(
    "data",
    [
        TABLE,
        TABLE.append_column("only here", [["x", "y"]]),
        TABLE.append_column("_id", [["a", "b"]]),
        TABLE.append_column("_id", [["1000", "2000"]]),
        TABLE.to_pandas(),
        TABLE.to_pylist(),
    ],
    ids=[
        "table",
        "table with a column",
        "table with ids",
        "table with numbers as ids",
        "frame",
        "documents",
    ],
)
def test_columns_of_a_writer_that_was_overtaken(
    tmp_path: Path, overtaken: Any, data: Any, other: pa.Table, there: pa.Table | None
) -> None:
    """The file is the same as if the writers had come one after the other."""
    path, expected = tmp_path / "x" / "a.godb", tmp_path / "expected.godb"
    path.parent.mkdir()
    for target in (path, expected):
        if there is not None:
            godb_arrow.write_godb(there, target, "c")
    overtaken(lambda: godb_arrow.write_godb(other, path, "c", if_exists="append"))
    for found, target in ((data, path), (other, expected), (data, expected)):
        godb_arrow.write_godb(found, target, "c", if_exists="append")
    assert len({*ids_in(path)}) == len(ids_in(path))
    assert list(godb_arrow.read_documents(path)) == list(godb_arrow.read_documents(expected))
    assert godb_arrow.read_table(path).equals(godb_arrow.read_table(expected))
    assert godb_arrow.read_schema(path) == godb_arrow.read_schema(expected)


def test_streams_of_a_writer_that_was_overtaken(tmp_path: Path, overtaken: Any) -> None:
    path = tmp_path / "a.godb"
    batches = [pa.record_batch({"n": list(range(n, n + 5000))}) for n in range(0, 20_000, 5000)]
    other = pa.table({"n": list(range(20_000, 40_000))})
    overtaken(lambda: godb_arrow.write_godb(other, path, "c", if_exists="append"))
    reader = pa.RecordBatchReader.from_batches(batches[0].schema, batches)
    assert godb_arrow.write_godb(reader, path, "c", if_exists="append") == 20_000
    assert ids_in(path) == [str(n) for n in range(1, 40_001)]
    found = godb_arrow.read_table(path, filter={"n": 7})
    assert found.column("n").to_pylist() == [7], "the statistics are right, too"
