"""Jobs that write a collection from several processes, several of them at the same time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.processes import running

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.documents.ids import IDS_OF_A_JOB, SharedIds
from godb_arrow.engine.part_writer import PartWriter, commit_parts

JOB = """
from godb_arrow.engine.part_writer import PartWriter, commit_parts

folder, mode = sys.argv[1:]
wait("ready")
writer = PartWriter.of(folder, "c", mode)
written = [part for share in range(3) for part in writer.write([{"n": 1}], share)]
wait("written")
print(commit_parts(folder, "c", written, mode))
"""


def ids_in(folder: Path | str) -> list[str]:
    with StorageEngine(folder, read_only=True) as engine:
        ids = [document["_id"] for document in engine["c"]]
    assert len({*ids}) == len(ids)
    return ids


@pytest.mark.parametrize("there", [True, False], ids=["existing", "new"])
def test_jobs_that_plan_before_any_of_them_commits(tmp_path: Path, there: bool) -> None:
    if there:
        with StorageEngine(tmp_path) as engine:
            engine.create_collection("c").insert_many([{}, {}])
    writers = [PartWriter.of(tmp_path, "c") for _ in range(3)]
    parts = [writer.write(pa.table({"n": [1, 2]}), share) for writer in writers for share in (0, 1)]
    with StorageEngine(tmp_path) as engine:
        between = engine["c"].insert({})
        assert len(engine["c"]) == 2 * there + 1
    for written in parts:
        assert commit_parts(tmp_path, "c", written) == 2
    assert {between} < {*ids_in(tmp_path)}
    assert len(ids_in(tmp_path)) == 2 * there + 1 + 3 * 2 * 2
    before = ids_in(tmp_path)
    with StorageEngine(tmp_path) as engine:
        assert engine["c"].insert({}) not in before
        assert not godb_arrow.verify_godb(engine["c"].path or "").problems


def test_jobs_of_several_processes_at_the_same_time(tmp_path: Path) -> None:
    with ExitStack() as stack:
        jobs = [stack.enter_context(running(JOB, tmp_path, "append")) for _ in range(4)]
        for word in ("ready", "written"):
            for job in jobs:
                job.waits(word)
            for job in jobs:
                job.let_go()
        assert [job.ends() for job in jobs] == ["3"] * 4
    assert len(ids_in(tmp_path)) == 4 * 3


def test_a_job_that_failed_gives_no_ids_back(tmp_path: Path) -> None:
    failed = PartWriter.of(tmp_path, "c")
    failed.write([{}], 0)
    commit_parts(tmp_path, "c", PartWriter.of(tmp_path, "c").write([{}], 0))
    commit_parts(tmp_path, "c", failed.write([{}], 0))  # it was not dead after all
    assert len(ids_in(tmp_path)) == 2


def test_an_engine_that_stays_open_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds in ("_PLAN_SECONDS", "_COMMIT_SECONDS"):
        monkeypatch.setattr(f"godb_arrow.engine.part_writer.{seconds}", 0.0)
    writer = PartWriter.of(tmp_path, "c")
    written = writer.write([{}], 0)
    with StorageEngine(tmp_path):
        with pytest.raises(godb_arrow.DirectoryLocked):
            PartWriter.of(tmp_path, "c")
        with pytest.raises(godb_arrow.DirectoryLocked):
            commit_parts(tmp_path, "c", written)
    assert commit_parts(tmp_path, "c", written) == 1, "its work is not lost"


def test_a_job_waits_for_another_one_to_commit(tmp_path: Path) -> None:
    writer = PartWriter.of(tmp_path, "c")
    written = writer.write([{}], 0)
    engine = StorageEngine(tmp_path)
    commit = threading.Thread(target=commit_parts, args=(tmp_path, "c", written))
    commit.start()
    engine["c"].insert({})
    engine.close()
    commit.join()
    assert len(ids_in(tmp_path)) == 2


def test_a_job_that_gives_ids_reserves_none(tmp_path: Path) -> None:
    PartWriter.of(tmp_path, "c", generate_ids=False)
    with StorageEngine(tmp_path) as engine:
        versions = engine["c"].versions()
        assert engine["c"].next_id == 1
    writer = PartWriter.of(tmp_path, "c", generate_ids=False)
    with pytest.raises(godb_arrow.LimitExceeded, match='"_id"'):
        writer.write([{"n": 1}], 0)
    commit_parts(tmp_path, "c", writer.write([{"_id": "a"}], 0))
    with StorageEngine(tmp_path) as engine:
        assert len(engine["c"].versions()) == len(versions) + 1
        assert engine["c"].insert({}) == "1"


def test_ids_of_the_documents_do_not_lead_a_writer_out_of_its_block(tmp_path: Path) -> None:
    documents: list[dict[str, Any]] = [
        {}, {"_id": 2}, {}, {"_id": 2**20 + 1}, {}, {"_id": 10**18}, {},
    ]  # fmt: skip
    writer = PartWriter.of(tmp_path, "c")
    commit_parts(tmp_path, "c", writer.write(iter(documents), 0))
    expected = ["1", "2", "3", str(2**20 + 1), "4", str(10**18), "5"]
    assert ids_in(tmp_path) == expected
    with StorageEngine(tmp_path) as engine:
        assert engine["c"].insert({}) == str(10**18 + 1)


def test_blocks_of_the_writers_of_a_job() -> None:
    """All are within the job's numbers, and no two meet."""

    def blocks(writer: int) -> Iterator[range]:
        ids = SharedIds(1, writer)
        while True:
            try:
                first = ids.reserve(2**20)
            except godb_arrow.LimitExceeded:
                return
            yield range(first, ids._end)
            ids.next_id = ids._end

    writers = [0, 1, 2, 63, 64, 1023, 1024, 2**14 - 1, 2**14, 2**18 - 1]
    found = sorted((block.start, block.stop) for one in writers for block in blocks(one))
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(found))
    assert found[0][0] == 1
    assert found[-1][1] <= 1 + IDS_OF_A_JOB
    assert sum(map(len, blocks(0))) > 2**32
    assert [len(list(blocks(one))) for one in (63, 64, 1024, 2**14, 2**18, -1)] == [
        4,
        3,
        2,
        1,
        0,
        0,
    ]


def test_a_writer_goes_on_in_a_larger_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godb_arrow.documents.ids._REGIONS", ((2, 3), (4, 1)))
    writer = PartWriter.of(tmp_path, "c")
    written = [*writer.write([{}] * 20, 0), *writer.write([{}] * 20, 1), *writer.write([{}] * 4, 7)]
    with pytest.raises(godb_arrow.LimitExceeded, match="writer 2"):
        writer.write([{}] * 5, 2)
    with pytest.raises(godb_arrow.LimitExceeded, match="writer 8"):
        writer.write([{}], 8)
    assert commit_parts(tmp_path, "c", written) == 44
    numbers = [*range(1, 9), *range(29, 33), *range(33, 65)]
    assert sorted(map(int, ids_in(tmp_path))) == numbers
