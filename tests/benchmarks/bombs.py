"""Peak memory and time of inputs that are small and would become large: files, JSON, uploads.

    python tests/benchmarks/bombs.py [--only WORD]

Each bomb is read in a process of its own. The peak is that above the memory after the imports. The
table says what the reader answered, and what a reader without limits would need.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import lz4.block
import msgpack
import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import peak, reset_peak, resident
from support import forge
from support.flight_messages import upload_messages

import godb_arrow
from godb_arrow.connectors.flight.arrow_messages import Upload

MEBIBYTE = 1 << 20
HEADER = b"GODB\x01\0\0\0"
HEAD = b"\x81" + msgpack.packb("collections") + b"\x81" + msgpack.packb("c")


class Bomb(NamedTuple):
    """Input of few bytes."""

    name: str
    unpacked: str
    make: Callable[[], Any]
    read: Callable[[Any], object]


def godb_file(*entries: bytes) -> bytes:
    """Return a GODB file of one collection with entries of ids and documents."""
    body = HEAD + b"\xdf" + len(entries).to_bytes(4, "big") + b"".join(entries)
    return HEADER + bytes(lz4.block.compress(body, store_size=False))


def entry(number: int, document: bytes) -> bytes:
    """Return the entry of a packed document."""
    return bytes(msgpack.packb(str(number))) + document


def batches(data: bytes) -> int:
    """Stream a file."""
    with godb_arrow.scan_godb(data) as reader:
        return sum(len(batch) for batch in reader)


def zeros() -> bytes:
    """Return a file with a body of 16 MiB of LZ4 that becomes 4 GiB."""
    text = HEAD + b"\x81" + msgpack.packb("1") + b"\x81\xa1t\xdb\xff\xff\xff\xf0"
    literals = bytes([15 << 4 | 15, len(text) - 15]) + text
    repeats = b"\x01\x00" + b"\xff" * (16 * MEBIBYTE) + b"\x00"
    return HEADER + literals + repeats + b"\x50aaaaa"


def wide_list() -> bytes:
    """Return a document with a list of a wide map and a million nulls."""
    wide = bytes(msgpack.packb({f"{n}": 1 for n in range(200)}))
    nulls = b"\x81\xa1a\xdd" + (1_000_001).to_bytes(4, "big") + wide + b"\xc0" * 1_000_000
    return godb_file(entry(1, nulls))


def many_columns() -> bytes:
    """Return 60,000 documents, one of which has 9,000 fields."""
    wide = bytes(msgpack.packb({f"k{n}": n for n in range(9_000)}))
    small = (entry(n, b"\x81\xa1n\x01") for n in range(2, 60_000))
    return godb_file(entry(1, wide), *small)


def repeated_structs() -> bytes:
    """Return a document that has a wide struct again and again."""
    wide = bytes(msgpack.packb({"s": {f"k{n}": 1 for n in range(9_999)}}))
    again = b"\xdf" + (100_000).to_bytes(4, "big") + b"\xa1s\x80" * 100_000
    return godb_file(entry(1, wide), entry(2, again))


def moments_as_keys() -> bytes:
    """Return a map whose keys are 100,000 timestamps."""
    keys = (b"\xc7\x0c\xff" + bytes(4) + n.to_bytes(8, "big") + b"\x01" for n in range(100_000))
    return godb_file(entry(1, b"\x81\xa1m\xdf" + (100_000).to_bytes(4, "big") + b"".join(keys)))


def deep_arrays() -> bytes:
    """Return a document with a million levels of arrays."""
    return godb_file(entry(1, b"\x81\xa1a" + b"\x91" * MEBIBYTE + b"\xc0"))


def written(documents: list[dict[str, Any]]) -> None:
    """Write documents."""
    godb_arrow.write_godb(documents, io.BytesIO(), "c")


def colliding_names() -> list[dict[str, Any]]:
    """Return a document with 60,000 keys whose hashes collide in libstdc++."""
    multiplier = np.uint64(0xC6A4A7935BD1E995)
    inverse = np.uint64(pow(int(multiplier), -1, 1 << 64))

    def mixed(value: Any) -> Any:
        return value ^ (value >> np.uint64(47))

    start = np.uint64(0xC70F6907) ^ np.uint64(16 * int(multiplier) & (1 << 64) - 1)
    rng = np.random.default_rng(1)
    names: list[str] = []
    with np.errstate(over="ignore"):
        while len(names) < 60_000:
            first = rng.integers(97, 123, (MEBIBYTE, 8), np.uint8)
            words = first.view("<u8")[:, 0]
            hashes = (start ^ mixed(words * multiplier) * multiplier) * multiplier
            second = mixed(mixed((hashes ^ np.uint64(0x1111)) * inverse) * inverse)
            texts = second.view(np.uint8).reshape(-1, 8)
            good = ((texts >= 32) & (texts < 127)).all(axis=1)
            pairs = zip(first[good], texts[good], strict=True)
            names += [(one.tobytes() + two.tobytes()).decode() for one, two in pairs]
    return [dict.fromkeys(names[:60_000], 1)]


def json_read(text: bytes) -> None:
    """Read JSON as a table."""
    godb_arrow.read_ndjson(io.BytesIO(text))


def upload(batch: pa.RecordBatch, compression: str | None) -> list[bytes]:
    """Return the messages of an upload."""
    return upload_messages(forge.ipc_stream(batch, compression))


def received(messages: list[bytes]) -> int:
    """Receive an upload with the limits of a server."""
    from godb_arrow.connectors.flight.upload import check_batch, unpacked_bytes

    rows = 0
    for batch, _ in Upload(iter(messages), 64 * MEBIBYTE):
        if batch is None:
            continue
        check_batch(batch)
        if unpacked_bytes(batch) > 64 * MEBIBYTE:
            raise godb_arrow.LimitExceeded("a record batch is too large", advice="")
        rows += len(batch)
    return rows


def sparse_backup(folder: Path) -> None:
    """Back up a data directory whose file has 1 TiB and nothing in it."""
    with godb_arrow.StorageEngine(folder) as engine:
        engine.create_collection("c").insert({"n": 1})
    os.truncate(folder / "collections" / "c.godb", 1 << 40)
    with godb_arrow.StorageEngine(folder) as engine:
        engine.backup(folder.parent / "backup")


def bombs() -> Iterator[Bomb]:
    """Yield all bombs."""
    yield Bomb("LZ4 of one byte, again and again", "4 GiB", zeros, godb_arrow.read_table)
    yield Bomb("list of a wide map and 1,000,000 nulls", "3 GiB", wide_list, batches)
    yield Bomb("9,000 columns of 60,000 documents", "4 GiB", many_columns, batches)
    yield Bomb("100,000 repeats of a wide struct", "8 GB written", repeated_structs, batches)
    yield Bomb("100,000 timestamps as keys, as dicts", "quadratic time", moments_as_keys,
               lambda data: list(godb_arrow.read_documents(data)))  # fmt: skip
    yield Bomb("1,048,576 levels of arrays", "the stack", deep_arrays, batches)
    yield Bomb("60,000 colliding keys, written", "quadratic time", colliding_names, written)
    yield Bomb("JSON: 1,048,576 levels", "the stack", lambda: b'{"a":' + b"[" * MEBIBYTE, json_read)
    yield Bomb("JSON: number of 1,048,576 digits", "quadratic time",
               lambda: b'{"a":' + b"9" * MEBIBYTE + b"}", json_read)  # fmt: skip
    yield Bomb("JSON: 1e999999999", "1 GB", lambda: b'{"a":1e999999999}', json_read)
    yield Bomb("upload: zeros in zstd", "1 GiB", lambda: upload(
        pa.record_batch({"n": np.zeros(1 << 27, np.int64)}), "zstd"), received)  # fmt: skip
    yield Bomb("upload: 20,000,000 nulls", "400 MB", lambda: upload(
        pa.record_batch({"n": pa.nulls(20_000_000)}), None), received)  # fmt: skip
    yield Bomb("upload: one run of 1,000,000 texts of 1 KB", "1 GB", lambda: upload(
        pa.record_batch({"n": pa.RunEndEncodedArray.from_arrays(
            pa.array([1_000_000], pa.int32()), pa.array(["x" * 1000]))}), None),
        received)  # fmt: skip
    yield Bomb("backup of a sparse file of 1 TiB", "1 TiB on the disk",
               lambda: Path(tempfile.mkdtemp()) / "data", sparse_backup)  # fmt: skip


def _read(bomb: str, path: str, connection: Connection) -> None:
    chosen = next(one for one in bombs() if one.name == bomb)
    made: Any = Path(path).read_bytes() if path else chosen.make()
    before = resident()
    reset_peak()
    started = time.perf_counter()
    try:
        chosen.read(made)
        answer = "read"
    except godb_arrow.GodbError as error:
        answer = type(error).__name__
    connection.send((answer, time.perf_counter() - started, peak() - before))


def main() -> None:
    """Run the bombs, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run bombs whose name has this word")
    only = parser.parse_args().only
    context = multiprocessing.get_context("spawn")
    print("| input | its size | without limits | answer | seconds | peak MiB |")
    print("|---|---:|---|---|---:|---:|")
    for bomb in bombs():
        if only not in bomb.name:
            continue
        made = bomb.make()
        is_file = isinstance(made, bytes)
        size = len(made) if is_file else sum(map(len, made)) if _is_messages(made) else None
        receiver, sender = context.Pipe(duplex=False)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bomb"
            if is_file:
                path.write_bytes(made)
            process = context.Process(
                target=_read, args=(bomb.name, str(path) if is_file else "", sender)
            )
            process.start()
            sender.close()
            try:
                answer, seconds, grown = receiver.recv()
            except EOFError:
                raise SystemExit(f"{bomb.name}: the process ended") from None
            process.join()
        shown = "" if size is None else f"{size / 1024:,.0f} KiB"
        print(f"| {bomb.name} | {shown} | {bomb.unpacked} | {answer} | {seconds:.2f} "
              f"| {grown / MEBIBYTE:.0f} |", flush=True)  # fmt: skip


def _is_messages(made: Any) -> bool:
    return isinstance(made, list) and all(isinstance(one, bytes) for one in made)


if __name__ == "__main__":
    main()
