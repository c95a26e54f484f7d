"""Spark reads and writes collections, in several worker processes.

PySpark is a very large download: these tests run where it is installed, in CI in a step of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import godb_arrow
from godb_arrow import StorageEngine

pytest.importorskip("pyspark")
if shutil.which("java") is None:
    pytest.skip("Spark needs Java", allow_module_level=True)

from support.arrow_types import SCALARS
from support.settings import LONG

from godb_arrow.connectors.spark import GodbDataSource


@pytest.fixture(scope="module")
def spark(faulty: Any) -> Iterator[Any]:
    """After the store of objects, so that its workers know where that is."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = (
            SparkSession.builder.master("local[2,3]")  # two tasks at a time, each tried three times
            .config("spark.ui.enabled", "false")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.sql.shuffle.partitions", "2")
            .config("spark.sql.session.timeZone", "UTC")
            .getOrCreate()
        )
        session.sparkContext.setLogLevel("OFF")
        session.dataSource.register(GodbDataSource)
        yield session
        session.stop()


pytestmark = pytest.mark.filterwarnings("ignore")


def rows_of(frame: Any) -> list[dict[str, Any]]:
    return [row.asDict(recursive=True) for row in frame.collect()]


def test_spark_reads_what_the_engine_saved(spark: Any, tmp_path: Path) -> None:
    with StorageEngine(tmp_path, part_size="16KiB") as engine:
        users = engine.create_collection("users")
        for first in range(0, 3000, 1000):
            numbers = range(first, first + 1000)
            users.insert_many(
                [{"n": n, "city": f"city {n % 7}", "x": n / 2, "tags": ["a"]} for n in numbers]
            )
            engine.save()
        users.update("1", {"city": 5})  # mixed types are JSON text
        users.delete_many(pc.field("n") >= 2990)
        engine.save()
        frame = spark.read.format("godb").option("collection", "users").load(str(tmp_path))
        assert frame.rdd.getNumPartitions() == len(users._store.base.parts) > 2  # type: ignore[attr-defined]
        expected = {one["_id"]: one for one in users.to_arrow().to_pylist()}
        assert {one["_id"]: one for one in rows_of(frame)} == expected
        few = frame.where("n >= 100 and n < 110 and x > 52").select("n")
        assert sorted(one["n"] for one in rows_of(few)) == [105, 106, 107, 108, 109]
        columns = spark.read.format("godb").option("columns", "n").load(str(tmp_path))
        assert columns.columns == ["n"]
        assert columns.agg({"n": "sum"}).collect()[0][0] == sum(range(2990))


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_a_filter_does_not_stay_with_the_frame(spark: Any, tmp_path: Path, enabled: str) -> None:
    path = tmp_path / "a.godb"
    godb_arrow.write_godb([{"age": 41}, {"age": 36}], path, "users")
    spark.conf.set("spark.sql.python.filterPushdown.enabled", enabled)
    try:
        users = spark.read.format("godb").load(str(path))
        counts = [users.count(), users.where("age > 40").count(), users.count()]
    finally:
        spark.conf.unset("spark.sql.python.filterPushdown.enabled")
    assert counts == [2, 1, 2]


def test_types_that_spark_lacks(spark: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.godb"
    columns = {
        name: pa.concat_arrays([array] * 2)[:3]
        for name, array in SCALARS.items()
        if name not in ("month_day_nano_interval", "dense union", "map of numbers")
        and name != "far timestamp"  # Python's datetime cannot hold them
    }
    godb_arrow.write_godb(pa.table(columns), path, "c")
    rows = rows_of(spark.read.format("godb").load(str(path)))
    assert [row["uint64 extremes"] for row in rows] == [2**64 - 1, 0, None]
    assert [row["uint8"] for row in rows] == [1, 100, None]
    assert rows[0]["time us"] == (6 * 3600 + 30 * 60 + 15) * 10**9
    assert str(rows[0]["decimal128"]) == "1.10"
    assert rows[0]["map"] == {"a": 1, "b": None}
    assert rows[0]["json"] == '{"a":[1,2.5]}'


def test_spark_reads_a_collection_without_documents(spark: Any, tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert({"n": 1})
        collection.to_folder()
        engine.save()
        collection.delete("1")
    assert spark.read.format("godb").option("collection", "c").load(str(tmp_path)).count() == 0


def test_spark_writes_all_or_nothing(spark: Any, tmp_path: Path) -> None:
    source = spark.range(1000).selectExpr("id as n", "concat('text ', id) as s").repartition(3)
    writing = source.write.format("godb").option("collection", "c")
    writing.mode("append").save(str(tmp_path))
    writing.mode("append").save(str(tmp_path))
    with StorageEngine(tmp_path) as engine:
        assert len(engine["c"]) == len({one["_id"] for one in engine["c"]}) == 2000
        before = engine["c"].versions()[-1].version

    def fail(batches: Any) -> Any:
        for batch in batches:
            if pc.max(batch["n"]).as_py() > 900:
                raise ValueError("this task fails, each time")
            yield batch

    broken = source.mapInArrow(fail, source.schema)
    with pytest.raises(Exception, match="this task fails"):
        broken.write.format("godb").option("collection", "c").mode("append").save(str(tmp_path))
    with StorageEngine(tmp_path) as engine:
        assert len(engine["c"]) == 2000
    writing.mode("overwrite").save(str(tmp_path))
    with StorageEngine(tmp_path) as engine:
        assert sorted(engine["c"].to_arrow(["n"]).column("n").to_pylist()) == list(range(1000))
        assert len(engine.at_version("c", before)) == 2000
        assert not godb_arrow.verify_godb(engine["c"].path or "").problems


def test_a_worker_that_is_killed_is_tried_again_and_commits_once(
    spark: Any, tmp_path: Path
) -> None:
    once = tmp_path / "killed"
    source = spark.range(1000).selectExpr("id as n").repartition(3)

    def kill_once(batches: Any) -> Any:
        import signal

        for batch in batches:
            if pc.max(batch["n"]).as_py() == 999 and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    killed = source.mapInArrow(kill_once, source.schema)
    target = tmp_path / "data"
    killed.write.format("godb").option("collection", "c").mode("append").save(str(target))
    assert once.exists()
    with StorageEngine(target) as engine:
        assert sorted(engine["c"].to_arrow(["n"]).column("n").to_pylist()) == list(range(1000))


def test_types_that_spark_has_not(spark: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.godb"
    table = pa.table({
        "u": pa.array([2**64 - 1, 1], pa.uint64()),
        "t": pa.array([1_500_000_000_123_456_789, None], pa.timestamp("ns", "UTC")),
        "z": pa.nulls(2),
    })  # fmt: skip
    godb_arrow.write_godb(table, path, "c")
    found = rows_of(spark.read.format("godb").load(str(path)).orderBy("u"))
    assert [int(one["u"]) for one in found] == [1, 2**64 - 1]
    assert found[1]["z"] is None and found[1]["t"].microsecond == 123_456


@pytest.mark.skipif(not LONG, reason="starts a server; set GODB_ARROW_LONG=1")
def test_spark_reads_and_writes_an_object_store(spark: Any) -> None:
    import fsspec

    fsspec.filesystem("s3").mkdir("spark")
    data = "s3a://spark/data"
    frame = spark.range(0, 1000, numPartitions=3)
    for _ in range(2):
        frame.write.format("godb").option("collection", "c").mode("append").save(data)
    found = spark.read.format("godb").option("collection", "c").load(data)
    assert found.rdd.getNumPartitions() == 6
    assert sorted(one["id"] for one in rows_of(found)) == sorted([*range(1000)] * 2)
    frame.write.format("godb").option("collection", "c").mode("overwrite").save(data)
    with StorageEngine("s3://spark/data", read_only=True) as engine:
        assert engine.count("c") == 1000


@pytest.mark.parametrize("text", ["anon", "[1]"])
def test_storage_options_are_an_object(text: str) -> None:
    source = GodbDataSource({"path": "memory://a/b.godb", "storageOptions": text})
    with pytest.raises(godb_arrow.InvalidOption, match="JSON object"):
        source.schema()


def test_spark_streams_what_is_added(spark: Any, tmp_path: Path) -> None:
    """Each document once, whatever is compacted, restored or restarted in between."""
    data, out, checkpoint = (str(tmp_path / name) for name in ("data", "out", "checkpoint"))
    with StorageEngine(data, part_size="4KiB", keep_versions=100) as engine:
        events = engine.create_collection("events")
        events.insert_many([{"n": n, "text": "x" * 50} for n in range(300)])
        engine.save()

        def run(starting: str = "earliest", to: str = out) -> None:
            frame = (
                spark.readStream.format("godb")
                .option("collection", "events")
                .option("startingVersion", starting)
                .load(data)
            )
            query = (
                frame.select("n")
                .writeStream.format("parquet")
                .option("checkpointLocation", checkpoint + os.path.basename(to))
                .trigger(availableNow=True)
                .start(to)
            )
            query.awaitTermination(120)
            assert query.exception() is None

        def found(place: str = out) -> list[int]:
            return sorted(row["n"] for row in spark.read.parquet(place).collect())

        run()
        assert found() == list(range(300))
        for first in (300, 500):
            events.insert_many([{"n": n, "text": "x" * 50} for n in range(first, first + 100)])
            engine.save()
            events.delete_many(pc.field("n") < first - 250)
            events.compact(thorough=True)
        run()
        assert found() == [*range(400), *range(500, 600)]
        run("latest", str(tmp_path / "late"))
        events.restore(events.versions()[0].version)
        events.insert({"n": -1, "text": ""})
        engine.save()
        run()
        run("latest", str(tmp_path / "late"))
        assert found() == [-1, *range(400), *range(500, 600)]
        assert found(str(tmp_path / "late")) == [-1]
        with pytest.raises(Exception, match="earliest or latest"):
            run("yesterday")
