"""Dask reads and writes collections of several files, in several processes."""

from __future__ import annotations

import os
import pickle
import signal
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
import pytest

import godb_arrow
from godb_arrow import StorageEngine

dask = pytest.importorskip("dask")
dd = pytest.importorskip("dask.dataframe")

from godb_arrow.connectors.dask import read_godb, to_godb  # noqa: E402
from godb_arrow.engine.fragments import (  # noqa: E402
    fragments_of,
    fragments_since,
    latest_version,
)
from godb_arrow.engine.part_writer import PartWriter, commit_parts  # noqa: E402


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        yield pool


@pytest.fixture(params=["synchronous", "processes"])
def scheduler(request: pytest.FixtureRequest) -> Iterator[str]:
    import dask

    pool = request.getfixturevalue("pool") if request.param == "processes" else None
    with dask.config.set(scheduler=request.param, pool=pool), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dask's own
        yield request.param


def filled(folder: Path) -> StorageEngine:
    engine = StorageEngine(folder, part_size="16KiB")
    users = engine.create_collection("users")
    for first in range(0, 4000, 1000):
        rows = [{"n": n, "city": f"city {n % 7}"} for n in range(first, first + 1000)]
        users.insert_many(rows)
        engine.save()
    users.delete_many(pc.field("n") >= 3990)
    users.update("1", {"n": -1})
    engine.save()
    return engine


def test_a_partition_for_each_file_and_the_same_result(tmp_path: Path, scheduler: str) -> None:
    with filled(tmp_path) as engine:
        frame = read_godb(tmp_path, "users")
        assert frame.npartitions == len(engine["users"]._store.base.parts) > 3  # type: ignore[attr-defined]
        expected = engine["users"].to_pandas()
        assert len(frame) == len(expected) == 3990
        assert int(frame.n.sum().compute()) == int(expected.n.sum())
        by_city = frame.groupby("city").n.sum().compute()
        assert by_city.to_dict() == expected.groupby("city").n.sum().to_dict()
        few = read_godb(tmp_path, "users", columns=["city"], filter=pc.field("n") >= 3980)
        assert list(few.columns) == ["city"]
        assert len(few.compute()) == 10


def test_columns_that_are_not_used_are_not_decoded(tmp_path: Path, decoded: Any) -> None:
    import dask

    filled(tmp_path).close()
    frame = read_godb(tmp_path, "users")
    decoded.clear()
    with dask.config.set(scheduler="synchronous"):
        assert int(frame["n"].max().compute()) == 3989
    assert {names for _, names in decoded} == {("n",)}


def test_partitions_are_written_in_parallel_and_named_at_once(
    tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pd.DataFrame({"n": range(1000), "s": [f"x{n}" for n in range(1000)]})
    frame = dd.from_pandas(source, npartitions=4)
    assert to_godb(frame, tmp_path, "c") == 1000
    with pytest.raises(godb_arrow.CollectionExists):
        to_godb(frame, tmp_path, "c")
    assert to_godb(frame, tmp_path, "c", if_exists="append") == 1000
    with StorageEngine(tmp_path) as engine:
        assert sorted(engine["c"].to_arrow(["n"]).column("n").to_pylist()) == sorted(
            [*range(1000)] * 2
        )
        assert len({document["_id"] for document in engine["c"]}) == 2000
        before = engine["c"].versions()[-1].version
        monkeypatch.setattr("godb_arrow.engine.part_writer._PLAN_SECONDS", 0.0)
        with pytest.raises(godb_arrow.DirectoryLocked):
            to_godb(frame, tmp_path, "c", if_exists="append")
    assert to_godb(frame[frame.n < 10], tmp_path, "c", if_exists="replace") == 10
    with StorageEngine(tmp_path) as engine:
        assert len(engine["c"]) == 10
        assert len(engine.at_version("c", before)) == 2000
        assert not godb_arrow.verify_godb(engine["c"].path or "").problems


def test_ids_of_ones_own_occur_once(tmp_path: Path) -> None:
    import dask

    source = pd.DataFrame({"_id": ["a", "b", "c", "a"], "n": range(4)})
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(godb_arrow.DuplicateId, match="'a'"):
            to_godb(dd.from_pandas(source, npartitions=2), tmp_path, "c")
        assert (
            to_godb(dd.from_pandas(source[:3], npartitions=2), tmp_path, "c", if_exists="append")
            == 3
        )
        with pytest.raises(godb_arrow.DuplicateId, match="'c'"):
            more = pd.DataFrame({"_id": ["c", "d"], "n": [1, 2]})
            to_godb(dd.from_pandas(more, npartitions=1), tmp_path, "c", if_exists="append")
    with StorageEngine(tmp_path) as engine:
        assert [document["_id"] for document in engine["c"]] == ["a", "b", "c"]


def test_a_writer_that_was_killed_leaves_the_version_before_and_the_retry_commits_once(
    tmp_path: Path,
) -> None:
    filled(tmp_path).close()
    writer = PartWriter.of(tmp_path, "users", "append")
    (lost,) = writer.write(pd.DataFrame({"n": [1]}), 0)  # and its process was killed
    again = writer.write(pd.DataFrame({"n": [1]}), 0)
    other = writer.write(pd.DataFrame({"n": [2]}), 1)
    with StorageEngine(tmp_path) as engine:
        assert len(engine["users"]) == 3990
    assert commit_parts(tmp_path, "users", [*again, *other]) == 2
    with StorageEngine(tmp_path, part_grace=0.001) as engine:
        assert len(engine["users"]) == 3992
        engine["users"].insert({"n": 3})
        engine.save()
        folder = Path(engine["users"].path or "")
        assert not [path for path in folder.iterdir() if lost.token in path.name]
    assert not godb_arrow.verify_godb(folder).problems


def test_files_and_folders_are_fragments(tmp_path: Path) -> None:
    engine = filled(tmp_path / "data")
    engine.save_to_file(tmp_path / "one.godb")
    engine.close()
    fragments, schema = fragments_of([tmp_path / "one.godb", tmp_path / "data"], "users")
    assert sum(one.documents for one in fragments) == 2 * 3990
    assert schema.names == ["_id", "n", "city"]
    with pytest.raises(godb_arrow.SourceNotFound, match="'users'"):
        fragments_of(tmp_path / "data", "others")
    with pytest.raises(godb_arrow.InvalidOption):
        fragments_of([])


def test_an_object_store(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    folder = f"memory://dask-{tmp_path.name}"
    frame = dd.from_pandas(pd.DataFrame({"n": range(100)}), npartitions=4)
    with dask.config.set(scheduler="threads"):
        to_godb(frame, folder, "numbers")
        found = read_godb(folder, "numbers")
        assert found.npartitions == 4
        assert sorted(found.n.compute()) == list(range(100))


def test_options_of_an_object_store_reach_each_process_and_no_repr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    given: list[dict[str, Any]] = []
    before = fsspec.core.url_to_fs
    monkeypatch.setattr(
        fsspec.core, "url_to_fs", lambda url, **options: given.append(options) or before(url)
    )
    folder, options = f"memory://dask-{tmp_path.name}", {"key": "secret"}
    frame = dd.from_pandas(pd.DataFrame({"n": range(10)}), npartitions=2)
    with dask.config.set(scheduler="synchronous"):
        to_godb(frame, folder, "numbers", storage_options=options)
        found = read_godb(folder, "numbers", storage_options=options)
        assert sorted(found.n.compute()) == list(range(10))
    fragments, _ = fragments_of([folder], "numbers", storage_options=options)
    fragments += fragments_since(folder, "numbers", 0, 1, storage_options=options)
    version = latest_version(folder, "numbers", storage_options=options)
    fragments += fragments_since(folder, "numbers", 0, version, storage_options=options)
    for fragment in pickle.loads(pickle.dumps(fragments)):
        fragment.open().to_arrow()
        assert "secret" not in repr(fragment)
    assert "secret" not in repr(PartWriter.of(folder, "numbers", storage_options=options))
    assert given
    assert [one for one in given if one != options] == []


def _dies_once(frame: pd.DataFrame, marker: str) -> pd.DataFrame:
    if len(frame) and frame.n.iloc[0] == 500 and not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return frame


def test_a_worker_is_killed_in_the_middle_of_a_write(tmp_path: Path) -> None:
    """Its task is computed again on another one, and what it writes is there once."""
    distributed = pytest.importorskip("distributed")
    data, marker = tmp_path / "data", str(tmp_path / "killed")
    to_godb(dd.from_pandas(pd.DataFrame({"n": [-1]}), npartitions=1), data, "c")
    frame = dd.from_pandas(pd.DataFrame({"n": range(1000)}), npartitions=4)
    dying = frame.map_partitions(_dies_once, marker, meta=frame)
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster),
    ):
        warnings.simplefilter("ignore")
        assert to_godb(dying, data, "c", if_exists="append") == 1000
        assert os.path.exists(marker)
        assert sorted(read_godb(data, "c").n.compute()) == [-1, *range(1000)]
    with StorageEngine(data) as engine:
        assert len(engine["c"]) == 1001


def test_processes_that_die_leave_the_version_before(tmp_path: Path) -> None:
    data, marker = tmp_path / "data", str(tmp_path / "killed")
    frame = dd.from_pandas(pd.DataFrame({"n": range(1000)}), npartitions=4)
    to_godb(frame, data, "c")
    dying = frame.map_partitions(_dies_once, marker, meta=frame)
    with dask.config.set(scheduler="processes", num_workers=2):
        with pytest.raises(Exception, match="terminated abruptly"):
            to_godb(dying, data, "c", if_exists="append")
        with StorageEngine(data) as engine:
            assert len(engine["c"]) == 1000
        to_godb(dying, data, "c", if_exists="append")
    with StorageEngine(data) as engine:
        assert len(engine["c"]) == 2000


def test_jobs_that_append_at_the_same_time_get_ids_of_their_own(tmp_path: Path) -> None:
    import dask

    other = dd.from_pandas(pd.DataFrame({"n": [2]}), npartitions=1)

    def while_another_job_runs(frame: pd.DataFrame) -> pd.DataFrame:
        assert to_godb(other, tmp_path, "c", if_exists="append") == 1
        return frame

    source = dd.from_pandas(pd.DataFrame({"n": [1]}), npartitions=1)
    frame = source.map_partitions(while_another_job_runs, meta={"n": "int64"})
    with dask.config.set(scheduler="synchronous"):
        assert to_godb(frame, tmp_path, "c", if_exists="append") == 1
    with StorageEngine(tmp_path) as engine:
        found = {document["n"]: document["_id"] for document in engine["c"]}
    assert found.keys() == {1, 2}
    assert len(set(found.values())) == 2


def test_a_collection_without_documents(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert({"n": 1})
        collection.to_folder()
        engine.save()
        collection.delete("1")
    frame = read_godb(tmp_path, "c")
    assert len(frame) == 0
    assert "_id" in read_godb(tmp_path, "c").columns


@pytest.mark.parametrize(
    ("index", "column"),
    [
        (pd.Index(list("wxyz"), name="k"), "k"),
        (pd.Index(list("wxyz")), "index"),
        (pd.date_range("2024", periods=4, name="at"), "at"),
        (pd.Index([7, 8, 9, 10], name="k"), "k"),
        (pd.Index(list("wxyz"), name="_id"), "_id"),
        (pd.Index([7, 8, 9, 10]), None),
        (pd.RangeIndex(4), None),
    ],
)
def test_the_index_of_a_frame_becomes_a_column(
    tmp_path: Path, index: pd.Index, column: str | None
) -> None:
    frame = pd.DataFrame({"n": range(4)}, index=index)
    assert to_godb(dd.from_pandas(frame, npartitions=2), tmp_path, "c") == 4
    found = read_godb(tmp_path, "c").compute()
    assert {*found.columns} - {"_id"} == {"n", column} - {None, "_id"}
    if column is not None:
        by_n = found.sort_values("n")
        assert list(by_n[column]) == list(index)


def test_an_index_with_the_name_of_a_column_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": range(4)}, index=pd.Index(list("wxyz"), name="n"))
    with pytest.raises(godb_arrow.InvalidOption, match="index has the name of the column 'n'"):
        to_godb(dd.from_pandas(frame, npartitions=2), tmp_path, "c")
