"""Damage valid files in many ways, and see that each variant reads correctly or raises GodbError.

Run this as a program, so that the peak of memory belongs to the variants alone:

    python tests/fuzz/mutate.py COUNT SEED

It prints one line of JSON. A variant that hangs ends the program by a signal.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lz4.block
import msgpack
import pyarrow as pa
import pyarrow.compute as pc

import godb_arrow
from godb_arrow import GodbError

SECONDS_FOR_ONE = 60
MEBIBYTE = 1 << 20


def seeds() -> list[bytes]:
    """Return valid files, as go-db and as godb_arrow write them."""
    rng = random.Random(5)
    flat = [
        {"_id": str(n), "name": f"user {n}", "age": n % 90, "score": n / 7, "on": n % 2 == 0}
        for n in range(60)
    ]
    nested = [
        {
            "_id": str(n),
            "at": msgpack.Timestamp(1_700_000_000 + n, n * 1000),
            "tags": ["a", "b"][: n % 3],
            "user": {"id": n, "geo": {"lat": n / 3, "cc": "DE"}},
            "mixed": n if n % 2 else str(n),
            "blob": rng.randbytes(n % 40),
        }
        for n in range(40)
    ]
    long = [{"_id": "1", "text": "x" * 5000, "noise": rng.randbytes(3000)}]
    found = []
    for documents in (flat, nested, long):
        shuffled = [dict(rng.sample(sorted(d.items()), len(d))) for d in documents]
        found.append(_as_go_db({"c": {d["_id"]: d for d in shuffled}}))
        found.append(_as_we_do(documents))
    found.append(_as_go_db({"a": {"1": {"x": 1}}, "b": {}, "c": {"2": {"y": [None]}}}))
    return found


def _as_go_db(collections: dict[str, Any]) -> bytes:
    body = msgpack.packb({"collections": collections, "indexes": {"c": {"_id": ["1"]}}})
    return b"GODB\x01\0\0\0" + lz4.block.compress(body, store_size=False)


def _as_we_do(documents: list[dict[str, Any]]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.godb")
        godb_arrow.write_godb(documents, path, "c")
        return path.read_bytes()


def variants(files: list[bytes], count: int, rng: random.Random) -> Iterator[bytes]:
    bodies = [lz4.block.decompress(data[8:], uncompressed_size=1 << 20) for data in files]
    for _ in range(count):
        if rng.random() < 0.5:
            yield _damage(rng.choice(files), files, rng)
        else:  # below the compression, where most of the file's grammar is
            body = _damage(rng.choice(bodies), bodies, rng)
            yield b"GODB\x01\0\0\0" + lz4.block.compress(body, store_size=False)


def _damage(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(damaged) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(damaged):
            damaged[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del damaged[at:]
        elif kind == 2:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            damaged[at : at + rng.randrange(40)] = other[start : start + rng.randrange(40)]
        elif kind == 3:
            del damaged[at : at + rng.randrange(1, 20)]
        elif kind == 4:  # a length that claims the world
            damaged[at : at + 5] = rng.choice((b"\xdf", b"\xdd", b"\xdb", b"\xc6", b"\xc9")) + (
                b"\xff\xff\xff\xff"
            )
        elif at < len(damaged):
            damaged[at] = rng.randrange(256)
    return bytes(damaged)


def read(data: bytes) -> str:
    """Read a variant in every way; the name of what happened."""
    try:
        names = list(godb_arrow.list_collections(data))
        for name in names:
            table = godb_arrow.read_table(data, name)
            documents = list(godb_arrow.read_documents(data, name))
            if table.num_rows != len(documents):
                raise AssertionError(f"{table.num_rows} rows, {len(documents)} documents")
            check_few_columns(data, name, table)
    except GodbError as error:
        str(error)
        return type(error).__name__
    return "read"


def check_few_columns(data: bytes, name: str, table: pa.Table) -> None:
    """Check few columns and filters, for which the kernel reaches the same values in other ways."""
    columns = [column for column in table.schema.names if column != "_id"][1:3]
    if not columns:
        return
    condition = pc.field(columns[0]).is_valid()
    for found, expected in (
        (godb_arrow.read_table(data, name, columns=columns), table),
        (godb_arrow.read_table(data, name, columns=columns[1:], filter=condition),
         table.filter(condition)),
    ):  # fmt: skip
        shown = [found.schema.names, found.to_pylist()]
        names = found.schema.names
        if repr(shown) != repr([names, expected.select(names).to_pylist()]):
            raise AssertionError(f"{names} are not what they are among all columns")
    godb_arrow.open_godb(data, name).profile(columns)


def main(count: int, seed: int) -> None:
    files = seeds()
    for data in files:
        if read(data) != "read":
            raise AssertionError("a seed is not valid")
    largest = max(len(lz4.block.decompress(data[8:], uncompressed_size=1 << 20)) for data in files)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    outcomes: Counter[str] = Counter()
    for data in variants(files, count, random.Random(seed)):
        signal.alarm(SECONDS_FOR_ONE)
        try:
            outcomes[read(data)] += 1
        except BaseException:
            print(f"this variant failed: {data.hex()}", file=sys.stderr)
            raise
    signal.alarm(0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    allowed = 4 * largest + 64 * MEBIBYTE
    print(json.dumps({"outcomes": outcomes, "grown": grown, "allowed": allowed}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
