"""Documents for all benchmarks, from a fixed seed.

``flat`` documents are users with six fields. ``nested`` ones are events with a struct in a struct,
a list, a timestamp, and a field that is often absent. In ``shuffled`` files every document has its
keys in another order, as go-db writes them.
"""

from __future__ import annotations

import random
from pathlib import Path

import msgpack
import numpy as np
import pyarrow as pa

import godb_arrow
from godb_arrow.connectors.etl.files import export_file

SEED = 42
CITIES = ["Berlin", "Istanbul", "São Paulo", "Tokyo", "Nairobi", "Lima", "Oslo", "Pune"]
NAMES = ["Ada", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Ida"]
KINDS = ["click", "buy", "view", "error"]
COUNTRIES = ["DE", "US", "BR", "JP", "KE"]


def flat(rows: int) -> pa.Table:
    rng = np.random.default_rng(SEED)
    numbers = np.arange(rows)
    return pa.table(
        {
            "_id": pa.array((numbers + 1).astype(str)),
            "name": [f"{NAMES[n % 8]} {n:06d}" for n in numbers],
            "age": rng.integers(18, 90, rows),
            "score": np.round(rng.random(rows) * 1000, 3),
            "active": rng.random(rows) < 0.5,
            "city": np.array(CITIES)[rng.integers(0, len(CITIES), rows)],
        }
    )


def nested(rows: int) -> pa.Table:
    rng = np.random.default_rng(SEED)
    lat = np.round(rng.random(rows) * 180 - 90, 2)
    country = np.array(COUNTRIES)[rng.integers(0, len(COUNTRIES), rows)]
    geo = pa.StructArray.from_arrays([pa.array(country), pa.array(lat)], ["cc", "lat"])
    user = pa.StructArray.from_arrays([pa.array(rng.integers(0, 5000, rows)), geo], ["id", "geo"])
    counts = rng.integers(0, 4, rows)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype("int32")
    words = np.array(["a", "new", "sale", "x9"])[rng.integers(0, 4, offsets[-1])]
    refs = [f"r{n % 50}" if keep else None for n, keep in enumerate(rng.random(rows) < 0.4)]
    return pa.table(
        {
            "_id": pa.array((np.arange(rows) + 1).astype(str)),
            "ts": pa.array(1_700_000_000_000_000 + np.arange(rows) * 966_000).cast(
                pa.timestamp("us", "UTC")
            ),
            "kind": np.array(KINDS)[rng.integers(0, len(KINDS), rows)],
            "user": user,
            "tags": pa.ListArray.from_arrays(pa.array(offsets), pa.array(words)),
            "ref": pa.array(refs, pa.string()),
        }
    )


SHAPES = {"flat": flat, "nested": nested}


def make_files(folder: Path, shape: str, rows: int, *, shuffled: bool = False) -> dict[str, Path]:
    """Write the same documents as GODB and NDJSON files (and Arrow, for writing)."""
    files = {
        "godb": folder / f"{shape}-{rows}.godb",
        "ndjson": folder / f"{shape}-{rows}.ndjson",
        "arrow": folder / f"{shape}-{rows}.arrow",
    }
    if shuffled:
        files["shuffled"] = folder / f"{shape}-{rows}-shuffled.godb"
    if all(path.exists() for path in files.values()):
        return files
    table = SHAPES[shape](rows)
    godb_arrow.write_godb(table, files["godb"], shape, omit_nulls=True)
    export_file(table.to_reader(), files["arrow"])
    _write_ndjson(table, files["ndjson"])
    if shuffled:
        rng = random.Random(SEED)
        documents = (
            dict(rng.sample(list(document.items()), len(document)))
            for document in godb_arrow.read_documents(files["godb"])
        )
        godb_arrow.write_godb(documents, files["shuffled"], shape)
    return files


def _write_ndjson(table: pa.Table, path: Path) -> None:
    """Write plain JSON, as a service logs it, with timestamps as text and without absent fields."""
    import json

    columns = {
        name: column.cast(pa.string()) if pa.types.is_timestamp(column.type) else column
        for name, column in zip(table.schema.names, table.columns, strict=True)
    }
    with path.open("w") as file:
        for batch in pa.table(columns).to_batches(max_chunksize=50_000):
            for row in batch.to_pylist():
                kept = {name: value for name, value in row.items() if value is not None}
                file.write(json.dumps(kept, ensure_ascii=False, separators=(",", ":")) + "\n")


def pack_documents(path: Path) -> list[bytes]:
    """Return the MessagePack of each document, for peers that decode it to Python objects."""
    return [msgpack.packb(document, datetime=True) for document in godb_arrow.read_documents(path)]
