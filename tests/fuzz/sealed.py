"""Change single fields of sealed artefacts, and compare what readers say with the documents.

Every artefact comes from the tests' forge, which computes the checksums again. So the changes reach
the code behind them. Run it as a program:

    python tests/fuzz/sealed.py TARGET EXECUTIONS [SEED]

TARGET is ``file``, ``parts``, ``journal``, ``backup``, ``flight`` or ``all``. A failure prints the
seed of its execution, with which it is repeated: ``python tests/fuzz/sealed.py TARGET 1 SEED``.

The answer of each reader must be right, or a GodbError. It is right if the documents are those that
a reader without hints finds. `one_input` is the entry point for OSS-Fuzz and Atheris.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import forge
from support.flight_messages import upload_messages

import godb_arrow
from godb_arrow import GodbError, StorageEngine, codec
from godb_arrow.connectors.flight.arrow_messages import Upload
from godb_arrow.connectors.flight.ticket import filter_of_request, parsed
from godb_arrow.connectors.flight.upload import check_batch, unpacked_bytes
from godb_arrow.file import locate
from godb_arrow.query.statistics import covered, decode_statistics, pack_statistics, per_piece
from godb_arrow.recorded_schema import describe_schema

SECONDS_PER_EXECUTION = 20  # of the processor
MEBIBYTE = 1 << 20
MAX_GROWTH_MIB = 256  # of the memory of a whole run, whose artefacts have a few KiB
UPLOAD_BYTES = 1 << 16  # of a batch; the honest ones have less
PIECE_DOCUMENTS = 12
SEED_BYTES = 8

SCHEMA = pa.schema({
    "_id": pa.string(), "n": pa.int64(), "f": pa.float64(), "s": pa.string(), "b": pa.bool_(),
    "l": pa.list_(pa.int64()), "m": pa.struct({"x": pa.int64(), "y": pa.string()}),
})  # fmt: skip

EVIL: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 127, 255, 256, 65535, 1 << 31, (1 << 31) - 1, 1 << 32,
    (1 << 53) + 1, 1 << 62, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1, 0.0, -0.5, 1e308, math.nan,
    math.inf, -math.inf, "", "a", "n", "_id", "\x00", "a.b", "../x", "/dev/zero", "é" * 40,
    "\udc80", "int64", "string", "struct", "lz4", "zstd", b"", b"\x00", b"\xff" * 16, b"a" * 300,
    [], [[]], [1], ["a"], [None] * 20, {}, {"a": 1}, {"type": "int64"}, {"": {"": {}}},
    {"type": "struct", "fields": []}, msgpack.Timestamp(1, 1), msgpack.ExtType(5, b"x"),
]  # fmt: skip


# --- changes ----------------------------------------------------------------------------------


def evil(rng: random.Random) -> Any:
    """Return a value that few places expect."""
    return copy.deepcopy(rng.choice(EVIL))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container inside of plain values, with each of its keys."""
    children = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for key, child in children:
        yield value, key
        if isinstance(child, (dict, list)):
            yield from places(child)


def changed(value: Any, rng: random.Random) -> Any:
    """Return plain values with a few changes."""
    value = msgpack.unpackb(
        msgpack.packb(value, unicode_errors="surrogateescape"),
        strict_map_key=False, unicode_errors="surrogateescape",
    )  # fmt: skip
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if not isinstance(value, (dict, list)):
            return evil(rng)
        found = list(places(value))
        if not found:
            return evil(rng)
        container, key = rng.choice(found)
        match rng.randrange(8):
            case 0 if isinstance(container, dict):
                del container[key]
            case 1 if isinstance(container, dict):
                other = evil(rng)
                container[other if isinstance(other, (str, bytes, int)) else "x"] = container[key]
            case 2 if isinstance(container, list):
                container.append(container[key])
            case 3:
                nested: Any = container[key]
                for _ in range(rng.choice([2, 70, 200])):
                    nested = [nested] if rng.random() < 0.5 else {"type": "list", "item": nested}
                container[key] = nested
            case 4 if isinstance(container[key], int):
                near = container[key] + rng.choice([-1, 1, 1000, -1000, 1 << 40])
                container[key] = min(max(near, -(1 << 63)), (1 << 64) - 1)
            case 5:
                source, name = rng.choice(found)
                other = source.get(name) if isinstance(source, dict) else source
                container[key] = evil(rng) if isinstance(other, (dict, list)) else other
            case 6 if isinstance(container[key], bytes) and container[key]:
                container[key] = changed_bytes(container[key], rng)
            case _:
                container[key] = evil(rng)
    return value


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with a few changes."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(out) or 1)
        match rng.randrange(5):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del out[at : at + rng.choice([1, 4, 8, len(out)])]
            case 2:
                out[at:at] = rng.randbytes(rng.choice([1, 4, 8]))
            case 3:
                word = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
                out[at : at + 4] = word.to_bytes(4, "little")
            case _:
                out[at : at + 8] = rng.choice([0, 1 << 62, (1 << 64) - 1]).to_bytes(8, "little")
    return bytes(out)


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, unicode_errors="surrogateescape")
    return packed


# --- documents --------------------------------------------------------------------------------


def documents(rng: random.Random, count: int) -> list[dict[str, Any]]:
    found = []
    for n in range(count):
        document = {
            "n": n * 3, "f": n / 7, "s": f"text {n % 11} " * rng.randrange(1, 4), "b": n % 2 == 0,
            "l": list(range(n % 4)), "m": {"x": n, "y": "é" * (n % 3)},
        }  # fmt: skip
        for name in list(document):
            if rng.random() < 0.05:
                del document[name]
        found.append(document)
    return found


def entries_of(packed: list[bytes]) -> codec.Entries:
    data = b"".join(packed)
    return codec.scan_entries(data, 0, len(packed), len(data) + 1, 0)


@functools.cache
def corpus() -> list[tuple[list[bytes], dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Return entries, the description of their schema, statistics of pieces and of the whole."""
    found = []
    for seed in range(4):
        rng = random.Random(seed)
        entries = [
            forge.entry(str(n + 1), document)
            for n, document in enumerate(documents(rng, rng.choice([30, 60])))
        ]
        runs = [
            entries[at : at + PIECE_DOCUMENTS] for at in range(0, len(entries), PIECE_DOCUMENTS)
        ]
        rows = [decode_statistics(entries_of(run), covered(SCHEMA)) for run in runs]
        pieces = msgpack.unpackb(
            pack_statistics(per_piece(rows, range(len(rows)), covered(SCHEMA)))
        )
        whole = msgpack.unpackb(pack_statistics(per_piece(rows, [0] * len(rows), covered(SCHEMA))))
        found.append((entries, describe_schema(SCHEMA), pieces, whole))
    return found


# --- the oracle -------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return a value without nulls in maps, which columns add to documents."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def rows_of(table: pa.Table) -> list[Any]:
    """Return the rows; a column that a forged schema gave another type counts as absent."""
    names = {field.name for field in SCHEMA}
    kept = [
        name
        for name in table.schema.names
        if name in names and table.schema.field(name).type == SCHEMA.field(name).type
    ]
    rows = [plain(row) for row in table.select(kept).to_pylist()]
    return [kept, *rows]


def expected(found: list[dict[str, Any]], kept: list[str]) -> list[Any]:
    rows = []
    for document in found:
        row = {name: value for name, value in document.items() if name in kept}
        if isinstance(row.get("m"), dict):
            row["m"] = {name: value for name, value in row["m"].items() if name in "xy"}
        rows.append(plain(row))
    return rows


def attempt(call: Callable[[], Any], outcomes: Counter[str]) -> Any:
    """Call a reader; a GodbError is an answer, everything else is a fault."""
    try:
        found = call()
    except GodbError as error:
        outcomes[type(error).__name__] += 1
        return None
    outcomes["read"] += 1
    return found


def check_reads(
    read: Callable[..., pa.Table], truth: list[dict[str, Any]], outcomes: Counter[str],
    rng: random.Random,
) -> None:  # fmt: skip
    """Compare tables with documents: all columns, some, and some rows."""
    low = rng.randrange(0, 100)
    queries: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
        ({}, lambda row: True),
        ({"columns": ["n"]}, lambda row: True),
        ({"columns": ["_id", "s"]}, lambda row: True),
        ({"filter": {"n": {"$gt": low}}}, lambda row: row.get("n", -1) > low),
        ({"filter": pc.field("n") > low}, lambda row: row.get("n", -1) > low),
        ({"filter": {"s": None}, "columns": ["_id"]}, lambda row: row.get("s") is None),
        ({"filter": {"_id": "5"}, "columns": ["_id", "n"]}, lambda row: row["_id"] == "5"),
    ]
    for options, keep in rng.sample(queries, 3):
        table = attempt(lambda options=options: read(**options), outcomes)  # type: ignore[misc]
        if table is None:
            continue
        kept, *rows = rows_of(table)
        right = expected([row for row in truth if keep(row)], kept)
        if rows != right:
            raise AssertionError(f"{options}: {rows[:3]} … of {len(rows)}, not {right[:3]} … "
                                 f"of {len(right)}")  # fmt: skip


# --- targets ----------------------------------------------------------------------------------


def run_file(rng: random.Random, outcomes: Counter[str]) -> None:
    entries, schema, statistics, _ = rng.choice(corpus())
    what = rng.choice(
        ["hint", "statistics", "index", "sizes", "row", "schema", "metadata", "count"]
    )
    hint: Any = {"count": len(entries), "next_id": len(entries) + 1, "fields": schema,
                 "size": sum(map(len, entries)), "plain": True, "version": 3,
                 "directory": b"d" * 16, "run": b"r" * 16, "record": 7, "indexes": []}  # fmt: skip
    options: dict[str, Any] = {}
    if what == "schema":
        hint["fields"] = changed(schema, rng)
    if what == "hint":
        hint = changed(hint, rng)
    packed = pack(changed(statistics, rng) if what == "statistics" else statistics)
    if what == "sizes":

        def lie(run: Any) -> Any:
            sizes = [len(one) for one in run]
            for _ in range(rng.choice([1, 2])):
                first, second = rng.randrange(len(sizes)), rng.randrange(len(sizes))
                step = rng.choice([1, 5, sizes[first] - 2])
                sizes[first] -= step
                sizes[second] += step
            return sizes if min(sizes) > 0 else b""

        options["sizes"] = lie  # fmt: skip
    if what == "row":
        name = rng.choice(["length", "tail", "size", "documents", "checksum"])
        victim, value = rng.randrange(6), rng.choice([0, 1, 5, 40, 1 << 20, 1 << 47, 1 << 63])
        options["row"] = lambda piece: {name: value} if piece == victim else {}
    if what == "count":
        options["count"] = rng.choice([0, 1, len(entries) - 1, len(entries) + 1, 1 << 31])
    collection = forge.collection(
        "c", entries, statistics=packed, piece_documents=PIECE_DOCUMENTS, hint=None, **options
    )
    index: Any = None
    if what == "index":
        key = rng.choice(["pieces", "collections", "statistics", "sizes", "runs", "runs_size"])
        honest = {"collections": {"c": [1, len(collection.pieces)]}, "statistics": {"c": packed},
                  "sizes": b"", "pieces": b"\x01" * 40,
                  "runs": {"c": {"n": [0, 10, 7]}}, "runs_size": 10}[key]  # fmt: skip
        index = {key: changed([honest], rng)[0:1] or 0}
        index[key] = index[key][0] if index[key] else None
    metadata = {"other": evil(rng)} if what == "metadata" else {}
    data = forge.godb_file(
        collection,
        compression=rng.choice(["lz4", "none", "zstd"]),
        hints=pack({"c": hint}) if what != "metadata" else pack(changed({"c": hint}, rng)),
        metadata={key: value for key, value in metadata.items() if packable(value)},
        index=index,
        indexed=True,
        reader=rng.choice([None, None, None, 1, -1, 1 << 40]),
    )
    truth = attempt(lambda: godb_arrow.read_table(data, "c", use_hints=False), outcomes)
    if truth is None:
        documents_ = None
    else:
        documents_ = [plain(row) for row in truth.to_pylist()]
        check_reads(
            lambda **options: godb_arrow.read_table(data, "c", **options), documents_, outcomes, rng
        )
    others: list[Callable[[], Any]] = [
        lambda: list(godb_arrow.read_documents(data, "c")),
        lambda: godb_arrow.list_collections(data),
        lambda: len(godb_arrow.open_godb(data, "c")),
        lambda: godb_arrow.open_godb(data, "c").explain({"n": {"$gt": 7}}),
        lambda: godb_arrow.read_schema(data, "c"),
        lambda: len(godb_arrow.read_godb(data, "c")),
        lambda: godb_arrow.inspect_godb(data),
        lambda: godb_arrow.verify_godb(data),
        lambda: godb_arrow.read_document(data, "5", "c"),
    ]
    for call in rng.sample(others, 3):
        attempt(call, outcomes)


def packable(value: Any) -> bool:
    try:
        pack(value)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def check_engine(
    folder: Path,
    truth: list[dict[str, Any]] | None,
    outcomes: Counter[str],
    rng: random.Random,
    *,
    read_only: bool,
) -> None:
    """Open a data directory, and compare its collection ``c`` with documents."""

    use_hints = rng.random() < 0.8

    def use() -> None:
        with StorageEngine(
            folder, read_only=read_only, create=False, use_hints=use_hints
        ) as engine:
            for name in engine.collections():
                known = truth if name == "c" else None
                check_collection(engine[name], known, outcomes, rng, read_only=read_only)

    attempt(use, outcomes)


def check_collection(
    collection: godb_arrow.Collection,
    truth: list[dict[str, Any]] | None,
    outcomes: Counter[str],
    rng: random.Random,
    *,
    read_only: bool,
) -> None:
    def read(**options: Any) -> pa.Table:
        return collection.to_arrow(options.get("columns"), options.get("filter"))

    if truth is not None:
        check_reads(read, truth, outcomes, rng)
    calls: list[Callable[[], Any]] = [
        lambda: list(collection.find_all()),
        lambda: collection.get("5", None),
        lambda: "7" in collection,
        lambda: list(collection.find({"n": {"$lt": 9}}, limit=3)),
        collection.info,
        lambda: collection.count({"b": True}),
        collection.versions,
    ]
    if not read_only:
        calls += [lambda: collection.insert({"n": -1}), collection.compact]
    for call in rng.sample(calls, 3):
        attempt(call, outcomes)


def run_parts(rng: random.Random, outcomes: Counter[str]) -> None:
    contents, truth = [], []
    rows, schema = [], corpus()[0][1]
    for number in range(2):
        entries, schema, _, whole = corpus()[rng.randrange(4)]
        bodies = [{**one, "_id": str(100 * number + n + 1)}
                  for n, one in enumerate(forge.parse_entries(entries))]  # fmt: skip
        entries = [forge.entry(one["_id"], one) for one in bodies]
        truth += map(plain, forge.parse_entries(entries))
        contents.append(forge.collection("c", entries, hint=None, statistics=b""))
        rows.append(whole)
    joined = {"pieces": 2, "fields": {
        name: {
            kind: (
                [rows[0]["fields"][name][kind][0] + rows[1]["fields"][name][kind][0],
                 rows[0]["fields"][name][kind][1] + rows[1]["fields"][name][kind][1]]
                if isinstance(value[0], list)
                else value + rows[1]["fields"][name][kind]
            )
            for kind, value in field.items()
            if kind in rows[1]["fields"].get(name, {})
        }
        for name, field in rows[0]["fields"].items()
    }}  # fmt: skip
    what = rng.choice(["manifest", "part", "ids", "schema", "statistics", "deleted"])
    fields: dict[str, Any] = {"statistics": pack(joined)}
    if what == "statistics":
        fields["statistics"] = pack(changed(joined, rng))
    if what == "schema":
        fields["schema"] = rng.choice([pack(changed(schema, rng)), changed(schema, rng)])
    if what == "manifest":
        name = rng.choice(["version", "parts", "schema", "next_id", "record", "indexes", "created",
                           "statistics", "compression", "name", "rewrites", "fields", "run",
                           "directory", "former"])  # fmt: skip
        value = evil(rng)
        if packable(value):
            fields[name] = value
    part_fields: dict[str, Any] = {}
    if what == "part":
        name = rng.choice(["number", "documents", "size", "file_size", "ids_checksum", "deleted"])
        value = evil(rng)
        if packable(value):
            part_fields[name] = value
    deleted: list[int] = []
    if what == "deleted":
        part_fields["deleted"] = rng.choice([
            forge.pack_rows([0], 30), forge.pack_rows([5, 5], 1000), b"\x01", b"\x02" * 9,
            b"\x00\xff", forge.pack_rows([9, 3], 1000), b"\x01" + b"\xff" * 9,
        ])  # fmt: skip
    ids: bytes | None = None
    if what == "ids":
        honest = forge.ids_file(contents[0].ids())
        ids = rng.choice([
            changed_bytes(honest, rng), forge.ids_file(contents[0].ids()[:-1]),
            forge.ids_file(contents[0].ids(), rows=[1 << 31] * len(contents[0].ids())),
            forge.ids_file(contents[0].ids(), count=1 << 40), b"",
        ])  # fmt: skip
    parts = [
        forge.Part(1, contents[0], deleted, part_fields, ids=ids),
        forge.Part(2, contents[1]),
    ]
    with folder_of() as folder:
        tree = forge.part_folder(parts, SCHEMA, **fields)
        forge.write_tree(folder, forge.under("collections/c.parts", tree))
        known = truth if what not in ("deleted", "manifest", "part") else None
        check_engine(folder, known, outcomes, rng, read_only=rng.random() < 0.7)
        if rng.random() < 0.3:
            attempt(lambda: godb_arrow.verify_godb(folder / "collections" / "c.parts"), outcomes)


def run_journal(rng: random.Random, outcomes: Counter[str]) -> None:
    entries = corpus()[0][0][:10]
    records = [
        forge.Record({"op": "create", "c": "c"}),
        forge.write_record("c", entries[:6], next_id=20),
        forge.write_record("c", entries[6:], next_id=20, deleted=["1", "2"]),
        forge.Record({"op": "index", "c": "c", "field": "n"}),
        forge.Record({"op": "rename", "c": "c", "to": "d"}),
        forge.Record({"op": "attach", "c": "x", "path": "x.godb", "as": "c"}),
        forge.Record({"op": "compression", "c": "c", "compression": "zstd"}),
        forge.Record({"op": "drop", "c": "d"}),
    ]
    chosen = records[: rng.randrange(2, 4)] + rng.sample(records[3:], rng.randrange(0, 3))
    victim = rng.randrange(len(chosen))
    record = chosen[victim]
    meta = changed({"parts": [len(part) for part in record.parts], **record.meta}, rng)
    parts = list(record.parts)
    if parts and rng.random() < 0.3:
        parts[0] = changed_bytes(parts[0], rng)
    number = rng.choice([None, None, None, 0, 1, 1 << 40, (1 << 64) - 1])
    durable = rng.choice([32, 32, 0, 1 << 40, (1 << 64) - 1])
    if isinstance(meta, dict):
        chosen[victim] = forge.Record(meta, parts, number, durable)
    first, version = rng.choice([1, 1, 1, 0, 1 << 62]), rng.choice([1, 1, 1, 0, 2, 9])
    try:
        data = forge.segment(chosen, first=first, version=version)
    except (ValueError, OverflowError, TypeError, forge.struct.error):
        return
    with folder_of() as folder:
        forge.write_tree(folder, {"journal/00000001.journal": data})
        (folder / "collections").mkdir()
        if rng.random() < 0.2:
            attempt(lambda: godb_arrow.verify_godb(folder), outcomes)
        check_engine(folder, None, outcomes, rng, read_only=rng.random() < 0.3)
        check_engine(folder, None, outcomes, rng, read_only=False)


def run_backup(rng: random.Random, outcomes: Counter[str]) -> None:
    content = forge.godb_file(forge.collection("c", corpus()[0][0]))
    description = {
        "name": "c.godb", "size": len(content), "modified": 0, "digest": "0" * 32,
    }  # fmt: skip
    fields: dict[str, Any] = {}
    file_fields: dict[str, Any] = {}
    if rng.random() < 0.5:
        name = rng.choice(["format", "number", "created", "collections", "files", "copied_files",
                           "copied_size", "directory", "record", "run", "extra"])  # fmt: skip
        fields[name] = jsonable(evil(rng))
    else:
        file_fields[rng.choice(list(description))] = jsonable(evil(rng))
    stored = changed_bytes(content, rng) if rng.random() < 0.2 else None
    try:
        file = forge.BackupFile("c.godb", content, file_fields, stored)
        number = fields.pop("number", 1)
        tree = forge.backup([file], {"c": 30}, **fields)
        if number != 1:
            text = json.loads(tree.pop("backups/00000001.json"))
            text.pop("checksum")
            text["number"] = number
            sealed = json.dumps(text, sort_keys=True).encode()
            text["checksum"] = forge.xxhash.xxh3_64_hexdigest(sealed)
            tree["backups/00000001.json"] = json.dumps(text).encode()
    except (ValueError, TypeError):
        return
    with folder_of() as folder:
        forge.write_tree(folder / "b", tree)
        attempt(lambda: godb_arrow.restore_backup(folder / "b", folder / "r"), outcomes)
        if rng.random() < 0.3:
            attempt(lambda: godb_arrow.verify_godb(folder / "b"), outcomes)
        left = {path.name for path in folder.iterdir()} - {"b", "r"}
        if left:
            raise AssertionError(f"restoring made {left}")


def jsonable(value: Any) -> Any:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value


def run_flight(rng: random.Random, outcomes: Counter[str]) -> None:
    if rng.random() < 0.4:
        ticket = changed({
            "collection": "c", "columns": ["n", "m.x"], "filter": {"n": {"$gt": 3}, "s": ["a", "b"],
            "m.x": {"$in": [1, 2]}, "$or": [{"b": True}, {"f": {"$lt": 0.5}}]}, "upsert": False,
            "substrait": None, "fields": None, "end": True,
        }, rng)  # fmt: skip
        raw = json.dumps(ticket, default=str, skipkeys=True).encode("utf-8", "surrogatepass")
        if rng.random() < 0.2:
            raw = changed_bytes(raw, rng)

        def ask() -> None:
            wanted = parsed(raw)
            condition = filter_of_request(wanted)
            godb_arrow.read_table(served(), "c", columns=wanted.get("columns"), filter=condition)

        attempt(ask, outcomes)
        return
    messages = [bytearray(message) for message in rng.choice(uploads())]
    for _ in range(rng.choice([1, 1, 2, 3])):
        data = rng.choice(messages)
        at = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[at] = rng.randrange(256)
        else:
            value = rng.choice([0, 1, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 20])
            data[at & ~3 : (at & ~3) + 4] = value.to_bytes(4, "little")

    def store() -> None:
        upload = Upload(map(bytes, messages), UPLOAD_BYTES)
        batches = []
        for batch, _ in upload:
            if batch is None:
                continue
            size = batch.get_total_buffer_size()
            if size > UPLOAD_BYTES:
                raise AssertionError(f"Arrow has unpacked {size} bytes of {UPLOAD_BYTES}")
            check_batch(batch)
            if unpacked_bytes(batch) > 16 * MEBIBYTE:
                raise godb_arrow.LimitExceeded("too large", advice="")
            batches.append(batch)
        table = pa.Table.from_batches(batches, upload.schema)
        with tempfile.TemporaryFile() as file:
            godb_arrow.write_godb(table, file, "c")
            file.seek(0)
            found = godb_arrow.read_table(file, "c")
        if found.num_rows != table.num_rows:
            raise AssertionError(f"{found.num_rows} rows of {table.num_rows}")

    attempt(store, outcomes)


@functools.cache
def served() -> bytes:
    return forge.godb_file(forge.collection("c", corpus()[0][0]))


@functools.cache
def uploads() -> list[list[bytes]]:
    numbers = pa.array(range(20))
    tables = [
        {"n": numbers, "s": pa.array([f"t{n}" for n in range(20)])},
        {"d": pa.array(["a", "b"] * 10).dictionary_encode(), "l": pa.array([[1], [2, 3]] * 10)},
        {"m": pa.array([{"x": 1, "y": "a"}] * 20), "t": numbers.cast(pa.timestamp("us", "UTC"))},
        {"v": pa.array([["a"], []] * 10, pa.list_(pa.string_view())), "b": pa.array([True] * 20)},
        {"p": pa.array([[("k", 1)], None] * 10, pa.map_(pa.string(), pa.int64()))},
        {"f": pa.array([[1, 2]] * 20, pa.list_(pa.int32(), 2)), "x": pa.array([b"ab"] * 20)},
    ]
    return [
        upload_messages(forge.ipc_stream(pa.record_batch(columns), compression))
        for columns in tables
        for compression in (None, "lz4", "zstd")
    ]


@contextmanager
def folder_of() -> Iterator[Path]:
    """Make a temporary folder, in memory where the system has such."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


TARGETS: dict[str, Callable[[random.Random, Counter[str]], None]] = {
    "file": run_file, "parts": run_parts, "journal": run_journal, "backup": run_backup,
    "flight": run_flight,
}  # fmt: skip


def one_input(data: bytes) -> None:
    """Run the execution that bytes choose: the entry point for OSS-Fuzz and Atheris."""
    if len(data) < SEED_BYTES + 1:
        return
    targets = list(TARGETS)
    prepare()
    target = TARGETS[targets[data[0] % len(targets)]]
    target(random.Random(data[1:]), Counter())


def prepare() -> None:
    """Let small files use their index, as large ones do."""
    locate._SMALL_FILE_BYTES = 0
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def stop_slow(*_: object) -> None:
    raise TimeoutError(f"the execution took {SECONDS_PER_EXECUTION} s")


def run(name: str, executions: int, seed: int) -> int:
    """Run a target; return the number of faults."""
    prepare()
    target, outcomes, faults = TARGETS[name], Counter[str](), 0
    target(random.Random(0), Counter())
    before = peak()
    signal.signal(signal.SIGPROF, stop_slow)
    for execution in range(seed, seed + executions):
        signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_EXECUTION)
        try:
            target(random.Random(execution), outcomes)
        except Exception as error:
            faults += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            at = f"{Path(place.filename).name}:{place.lineno}"
            kind = type(error).__name__
            print(f"{name} seed {execution}: {kind} at {at}: {str(error)[:300]!r}", flush=True)
    signal.setitimer(signal.ITIMER_PROF, 0)
    grown = peak() - before
    print(json.dumps({
        "target": name, "executions": executions, "faults": faults, "grown_mib": grown,
        "outcomes": dict(outcomes),
    }))  # fmt: skip
    # The sanitizers keep memory that was freed, and grow by it.
    is_sanitized = "libasan" in os.environ.get("LD_PRELOAD", "")
    return faults + (grown > MAX_GROWTH_MIB and not is_sanitized)


if __name__ == "__main__":
    names = list(TARGETS) if sys.argv[1] == "all" else [sys.argv[1]]
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    sys.exit(min(1, sum(run(name, int(sys.argv[2]), seed) for name in names)))
