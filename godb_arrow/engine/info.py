"""State and description of a collection."""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from godb_arrow.display import Table, quantity

__all__ = ["CollectionInfo", "CollectionState", "moment"]


logger = logging.getLogger(__name__)


class CollectionState(Enum):
    """Where a collection's documents are.

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
    """In the file only."""
    LOADING = "loading"
    """Being read into memory."""
    LOADED = "loaded"
    """In memory, and the same as in the file."""
    DIRTY = "dirty"
    """Changed since the file was written."""


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What is known of a collection without reading its documents.

    Attributes
    ----------
    name : str
        The collection.
    state : CollectionState
        Where its documents are.
    documents : int
        How many there are.
    disk_bytes : int
        Bytes of its file.
    memory_bytes : int
        Bytes of memory that its views and changes take.
    last_modified, last_accessed : datetime or None
        In UTC; of this engine, and of the file.
    access_count : int
        How often it was read or changed by this engine.

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
        "collection", "state", "documents", "on disk", "in memory", "last modified"
    ]  # fmt: skip

    def cells(self) -> list[str]:
        """What a table shows under :attr:`HEADS`."""
        modified = self.last_modified
        return [
            self.name, self.state.value, f"{self.documents:,}", quantity(self.disk_bytes),
            quantity(self.memory_bytes),
            "" if modified is None else f"{modified:%Y-%m-%d %H:%M:%S} UTC",
        ]  # fmt: skip

    def _repr_html_(self) -> str:
        table = Table(self.HEADS)
        table.add(*self.cells())
        return table.html()


def moment(seconds: float | None) -> dt.datetime | None:
    """Return seconds since 1970 as a datetime in UTC."""
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)
