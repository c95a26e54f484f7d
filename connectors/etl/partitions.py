"""Types of partition keys: names of folders are texts, so the schema is stored beside them."""

from __future__ import annotations

import json
import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from godb_arrow.query.comparable import plain_type

__all__ = ["open_parquet_folder", "read_partitions", "write_partitions"]

_SCHEMA_FILE = "_common_metadata"  # readers of Parquet know it, and read no rows from it
_KEYS = b"godb_arrow.partition_by"
_TOKEN = b"godb_arrow.token"


def write_partitions(
    folder: str, schema: pa.Schema, keys: list[str], token: str | None = None
) -> None:
    """Write the schema of a folder of Parquet files that is partitioned by some columns.

    An incremental copy also writes its token.
    """
    metadata = {**(schema.metadata or {}), _KEYS: json.dumps(keys).encode()}
    if token is not None:
        metadata[_TOKEN] = token.encode()
    path = os.path.join(folder, _SCHEMA_FILE)
    pyarrow.parquet.write_metadata(schema.with_metadata(metadata), path)


def read_partitions(folder: str) -> tuple[pa.Schema, list[str], str] | None:
    """Return schema, partition keys and token of a folder; None if it has no token."""
    path = os.path.join(folder, _SCHEMA_FILE)
    schema = pyarrow.parquet.read_schema(path) if os.path.isfile(path) else None
    metadata = {} if schema is None else schema.metadata or {}
    if schema is None or _TOKEN not in metadata or _KEYS not in metadata:
        return None
    return schema, json.loads(metadata[_KEYS]), metadata[_TOKEN].decode()


def open_parquet_folder(folder: str) -> Any:
    """Open a folder of Parquet files as a dataset, with the types of its partition keys."""
    import pyarrow.dataset as ds  # imported late, because it imports pandas

    path = os.path.join(folder, _SCHEMA_FILE)
    schema = pyarrow.parquet.read_schema(path) if os.path.isfile(path) else None
    keys = None if schema is None else (schema.metadata or {}).get(_KEYS)
    if schema is None or keys is None:
        return ds.dataset(folder, format="parquet", partitioning="hive")
    for name in json.loads(keys):
        at = schema.names.index(name)
        # Names of folders are values of no dictionary.
        schema = schema.set(at, schema.field(at).with_type(plain_type(schema.field(at).type)))
    partitioning = ds.partitioning(
        pa.schema([schema.field(name) for name in json.loads(keys)]), flavor="hive"
    )
    return ds.dataset(folder, schema=schema, format="parquet", partitioning=partitioning)
