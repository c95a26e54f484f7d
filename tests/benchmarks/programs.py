"""Programs that :mod:`documents` runs, each in a process of its own.

    python tests/benchmarks/programs.py NAME ARGUMENT…

A program prepares its data, takes the time of its work, and prints two numbers: seconds, and
seconds of the processor.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Times = tuple[float, float]
"""Seconds, and seconds of the processor."""

PROGRAMS: dict[str, Callable[..., Times | None]] = {}
_GETS = 20_000  # documents that are read by their ids
_FINDS = 2_000  # searches by an index
_RANGE = 14  # documents in a range
_LIMIT = 10


def program(function: Callable[..., Times | None]) -> Callable[..., Times | None]:
    """Make a function a program, whose arguments are text."""
    PROGRAMS[function.__name__] = function
    return function


def seconds_of(work: Callable[[], object]) -> Times:
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


def warm_seconds_of(work: Callable[[], object]) -> Times:
    """Return the times of a second run, which imports no modules."""
    work()
    return seconds_of(work)


def exhaust(items: Iterable[object]) -> None:
    for _ in items:
        pass


def document(number: int) -> dict[str, Any]:
    return {
        "name": f"user {number:07d}",
        "age": number % 97,
        "city": f"city {number % 1000}",
        "score": number / 7,
        "active": number % 3 == 0,
    }


def documents(count: str) -> list[dict[str, Any]]:
    return [document(number) for number in range(1, int(count) + 1)]


@contextlib.contextmanager
def empty_folder(path: str) -> Iterator[Path]:
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sqlite(path: Path, synchronous: str = "normal") -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=60)
    database.execute("pragma journal_mode = wal")
    database.execute(f"pragma synchronous = {synchronous}")
    database.execute("create table if not exists c (id text primary key, document text)")
    return database


def insert_all(database: sqlite3.Connection, rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
    database.execute("begin")
    database.executemany(
        "insert into c values (?, ?)", ((one, json.dumps(content)) for one, content in rows)
    )
    database.execute("commit")


# --- streams ------------------------------------------------------------------------------------


@program
def stream_godb_arrow(path: str) -> Times:
    import godb_arrow

    return warm_seconds_of(lambda: exhaust(godb_arrow.read_documents(path)))


@program
def stream_decoder(module: str, path: str) -> Times:
    from data import pack_documents

    packed = pack_documents(Path(path))
    if module == "msgspec":
        import msgspec

        decode: Any = msgspec.msgpack.Decoder().decode
    elif module == "ormsgpack":
        import ormsgpack

        decode = ormsgpack.unpackb
    else:
        import msgpack

        def decode(raw: bytes) -> Any:
            return msgpack.unpackb(raw, timestamp=3)

    return warm_seconds_of(lambda: exhaust(decode(one) for one in packed))


# --- inserts ------------------------------------------------------------------------------------


@program
def insert_many_godb_arrow(folder: str, count: str) -> Times:
    from godb_arrow import StorageEngine

    given = documents(count)
    with empty_folder(folder) as path, StorageEngine(path, max_memory="4GB") as engine:
        collection = engine.create_collection("c")
        return seconds_of(lambda: collection.insert_many(given))


@program
def insert_many_sqlite(folder: str, count: str) -> Times:
    given = documents(count)
    with empty_folder(folder) as path:
        database = sqlite(path / "db")
        rows = ((str(number), one) for number, one in enumerate(given, 1))
        return seconds_of(lambda: insert_all(database, rows))


def in_threads(work: Callable[[int], None], threads: int) -> Times:
    started = [threading.Thread(target=work, args=(number,)) for number in range(threads)]

    def run() -> None:
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    return seconds_of(run)


@program
def insert_godb_arrow(folder: str, durability: Any, threads: str, count: str) -> Times:
    from godb_arrow import StorageEngine

    with empty_folder(folder) as path, StorageEngine(path, durability=durability) as engine:
        collection = engine.create_collection("c")

        def work(_: int) -> None:
            for number in range(int(count) // int(threads)):
                collection.insert(document(number))

        return in_threads(work, int(threads))


@program
def insert_sqlite(folder: str, synchronous: str, threads: str, count: str) -> Times:
    with empty_folder(folder) as path:
        sqlite(path / "db", synchronous).close()

        def work(thread: int) -> None:
            database = sqlite(path / "db", synchronous)
            for number in range(int(count) // int(threads)):
                text = json.dumps(document(number))
                database.execute("insert into c values (?, ?)", (f"{thread}-{number}", text))
            database.close()

        return in_threads(work, int(threads))


# --- reads of few documents ---------------------------------------------------------------------


@program
def make_stores(folder: str, count: str) -> None:
    """Store the same documents for the programs below, unless that was done."""
    path = Path(folder)
    if (path / "done").exists():
        return
    from godb_arrow import StorageEngine

    given = documents(count)
    with empty_folder(folder) as path:
        with StorageEngine(path / "godb", max_memory="4GB") as engine:
            collection = engine.create_collection("c")
            collection.insert_many(given)
            collection.create_index("name")
        database = sqlite(path / "db")
        insert_all(database, ((str(number), one) for number, one in enumerate(given, 1)))
        database.execute("create index i on c (json_extract(document, '$.name'))")
        database.close()
        with contextlib.suppress(ImportError):
            import lmdb
            import msgspec

            with (
                lmdb.open(str(path / "lmdb"), map_size=1 << 34) as environment,
                environment.begin(write=True) as transaction,
            ):
                for number, one in enumerate(given, 1):
                    transaction.put(str(number).encode(), msgspec.msgpack.encode(one))
        (path / "done").touch()
        os.rename(path, f"{path}.kept")
    os.rename(f"{folder}.kept", folder)


def wanted(count: str, number: int) -> list[int]:
    chance = random.Random(5)
    return [chance.randrange(int(count)) + 1 for _ in range(number)]


@contextlib.contextmanager
def opened(folder: str) -> Iterator[Any]:
    from godb_arrow import StorageEngine

    with StorageEngine(Path(folder) / "godb", max_memory="4GB", read_only=True) as engine:
        collection = engine["c"]
        collection.get("1")  # reads the ids
        collection.find({"name": document(1)["name"]})  # reads the index
        yield collection


@program
def get_godb_arrow(folder: str, count: str) -> Times:
    ids = [str(number) for number in wanted(count, _GETS)]
    with opened(folder) as collection:
        return warm_seconds_of(lambda: exhaust(collection.get(one) for one in ids))


@program
def get_godb_arrow_cold(folder: str, count: str) -> Times:
    from godb_arrow import StorageEngine

    with StorageEngine(Path(folder) / "godb", max_memory="4GB", read_only=True) as engine:
        return seconds_of(lambda: engine["c"].get(count))


@program
def get_sqlite(folder: str, count: str) -> Times:
    ids = [str(number) for number in wanted(count, _GETS)]
    database = sqlite(Path(folder) / "db")
    select = "select document from c where id = ?"
    return warm_seconds_of(
        lambda: exhaust(
            json.loads(text) for one in ids for (text,) in database.execute(select, (one,))
        )
    )


@program
def get_lmdb(folder: str, count: str) -> Times:
    import lmdb
    import msgspec

    ids = [str(number).encode() for number in wanted(count, _GETS)]
    decode = msgspec.msgpack.Decoder().decode
    with lmdb.open(f"{folder}/lmdb", readonly=True, map_size=1 << 34) as environment:

        def get(one: bytes) -> Any:
            with environment.begin() as transaction:
                return decode(transaction.get(one))

        return warm_seconds_of(lambda: exhaust(get(one) for one in ids))


@program
def find_godb_arrow(folder: str, count: str) -> Times:
    names = [document(number)["name"] for number in wanted(count, _FINDS)]
    with opened(folder) as collection:
        return warm_seconds_of(lambda: exhaust(collection.find({"name": one}) for one in names))


@program
def find_sqlite(folder: str, count: str) -> Times:
    names = [document(number)["name"] for number in wanted(count, _FINDS)]
    database = sqlite(Path(folder) / "db")
    select = "select document from c where json_extract(document, '$.name') = ?"
    return warm_seconds_of(
        lambda: exhaust(
            json.loads(text) for one in names for (text,) in database.execute(select, (one,))
        )
    )


def ranges(count: str) -> list[tuple[str, str]]:
    return [
        (document(number)["name"], document(number + _RANGE)["name"])
        for number in wanted(count, _FINDS)
    ]


@program
def find_range_godb_arrow(folder: str, count: str) -> Times:
    with opened(folder) as collection:
        return warm_seconds_of(
            lambda: exhaust(
                collection.find({"name": {"$gte": low, "$lt": high}}, limit=_LIMIT)
                for low, high in ranges(count)
            )
        )


@program
def find_range_sqlite(folder: str, count: str) -> Times:
    database = sqlite(Path(folder) / "db")
    field = "json_extract(document, '$.name')"
    select = f"select document from c where {field} >= ? and {field} < ? limit {_LIMIT}"
    return warm_seconds_of(
        lambda: exhaust(
            [json.loads(text) for (text,) in database.execute(select, bounds)]
            for bounds in ranges(count)
        )
    )


@program
def find_unsaved_godb_arrow(folder: str, count: str) -> Times:
    from godb_arrow import StorageEngine

    names = [document(number)["name"] for number in wanted(count, _FINDS)]
    with empty_folder(folder) as path, StorageEngine(path, max_memory="4GB") as engine:
        collection = engine.create_collection("c")
        collection.create_index("name")
        collection.insert_many(documents(count))
        collection.find({"name": names[0]})
        return warm_seconds_of(lambda: exhaust(collection.find({"name": one}) for one in names))


# --- files --------------------------------------------------------------------------------------


@program
def make_bson(source: str, target: str) -> None:
    """Write documents as a dump of MongoDB, with object ids."""
    import bson

    import godb_arrow

    if os.path.exists(target):
        return
    with open(f"{target}.part", "wb") as file:
        for number, one in enumerate(godb_arrow.read_documents(source)):
            one["_id"] = bson.ObjectId(number.to_bytes(12, "big"))
            file.write(bson.encode(one))
    os.rename(f"{target}.part", target)


@program
def copy_godb_arrow(source: str, target: str) -> Times:
    from godb_arrow.connectors.etl import copy

    def work() -> None:
        Path(target).unlink(missing_ok=True)
        copy(source, target, progress=False)

    return warm_seconds_of(work)


@program
def decode_bson(source: str) -> Times:
    import bson

    def work() -> None:
        with open(source, "rb") as file:
            exhaust(bson.decode_file_iter(file))

    return warm_seconds_of(work)


@program
def encode_bson(source: str) -> Times:
    import bson

    import godb_arrow

    given = list(godb_arrow.read_documents(source))
    return warm_seconds_of(lambda: exhaust(bson.encode(one) for one in given))


@program
def make_columns(source: str, folder: str) -> None:
    """Write a table as Parquet and, where it is installed, as Lance."""
    import pyarrow.parquet as pq

    import godb_arrow

    table = godb_arrow.read_table(source)
    if not os.path.exists(f"{folder}/zstd.parquet"):
        pq.write_table(table, f"{folder}/zstd.parquet", compression="zstd")
    with contextlib.suppress(ImportError):
        import lance

        lance.write_dataset(table, f"{folder}/table.lance", mode="overwrite")


@program
def table_godb_arrow(path: str, how: str = "recorded") -> Times:
    import godb_arrow

    godb_arrow.list_collections(path)
    return warm_seconds_of(lambda: godb_arrow.read_table(path, use_hints=how == "recorded"))


@program
def table_parquet(path: str) -> Times:
    import pyarrow.parquet as pq

    return warm_seconds_of(lambda: pq.read_table(path))


@program
def table_polars(path: str) -> Times:
    import polars as pl

    return warm_seconds_of(lambda: pl.read_parquet(path))


@program
def table_lance(path: str) -> Times:
    import lance

    return warm_seconds_of(lambda: lance.dataset(path).to_table())


def main() -> None:
    name, *arguments = sys.argv[1:]
    print(*(PROGRAMS[name](*arguments) or ()))


if __name__ == "__main__":
    main()
