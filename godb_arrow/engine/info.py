"""State and sizes of collections."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from godb_arrow.display import Table, plural, quantity

__all__ = ["CollectionInfo", "CollectionState", "collections_table", "moment"]


class CollectionState(Enum):
    """State of a collection's documents.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
    >>> users = engine.create_collection("users")
    >>> users.insert({"name": "Ada"})
    '1'
    >>> users.state
    <CollectionState.DIRTY: 'dirty'>
    >>> engine.close()
    """

    UNLOADED = "unloaded"
    """Documents are in the file only."""
    LOADING = "loading"
    """Documents are being read into memory."""
    LOADED = "loaded"
    """Documents are in memory, unchanged since the last save."""
    DIRTY = "dirty"
    """Documents changed since the last save."""


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """State and sizes of a collection, known without reading its documents.

    Attributes
    ----------
    name : str
        Name of the collection.
    state : CollectionState
        State of its documents.
    documents : int
        Number of documents.
    disk_bytes : int
        Bytes of its files.
    memory_bytes : int
        Bytes of its cached views and unsaved changes.
    last_modified, last_accessed : datetime or None
        Times in UTC, by this engine. Before its first change, `last_modified` is the file's time.
    access_count : int
        Number of reads and changes by this engine.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    ...     info = engine.info("users")
    >>> info.name, info.documents, info.state.value
    ('users', 1, 'dirty')
    """

    name: str
    state: CollectionState
    documents: int
    disk_bytes: int
    memory_bytes: int
    last_modified: dt.datetime | None
    last_accessed: dt.datetime | None
    access_count: int

    HEADS: ClassVar[list[str]] = [
        "collection",
        "state",
        "documents",
        "on disk",
        "in memory",
        "last modified",
    ]

    def cells(self) -> list[str]:
        """Return the cells of a table row under :attr:`HEADS`."""
        modified = self.last_modified
        return [
            self.name,
            self.state.value,
            f"{self.documents:,}",
            quantity(self.disk_bytes),
            quantity(self.memory_bytes),
            "" if modified is None else f"{modified:%Y-%m-%d %H:%M:%S} UTC",
        ]

    def _repr_html_(self) -> str:
        table = Table(self.HEADS)
        table.add(*self.cells())
        return table.html()


def collections_table(path: str, shown: Sequence[CollectionInfo], count: int) -> str:
    """Return the collections of a data directory as an HTML table.

    Parameters
    ----------
    path : str
        Data directory, for the title.
    shown : sequence of CollectionInfo
        Collections to show.
    count : int
        Number of all collections.
    """
    table = Table(CollectionInfo.HEADS, f"{path}: {plural(count, 'collection')}")
    for info in shown:
        table.add(*info.cells())
    if len(shown) < count:
        table.add(f"… and {count - len(shown)} more")
    return table.html()


def moment(seconds: float | None) -> dt.datetime | None:
    """Return seconds since 1970 as a datetime in UTC."""
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)
