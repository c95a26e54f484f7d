"""Copies between files, folders, data directories, tables and databases.

An *address* is a path or URL. After ``#`` it has the name of a collection or table, if there are
several::

    shop.godb#orders                 a collection of a file
    data#orders                      a collection of an engine's data directory
    users.parquet, users.ndjson, …   a file: Parquet, Arrow IPC, CSV, NDJSON, BSON
    s3://bucket/users.parquet        the same, on any file system that fsspec knows
    lake/users                       a folder of Parquet files, or a Delta table
    -                                standard input (NDJSON), or standard output
    sqlite:///shop.db#users          a table of a database that has an ADBC driver
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from godb_arrow.connectors.etl.pipeline import CopySummary, copy

__all__ = ["CopySummary", "copy"]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that one format does not import all others."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from godb_arrow.connectors.etl import pipeline

    globals().update({name: getattr(pipeline, name) for name in __all__})
    return globals()[name]
