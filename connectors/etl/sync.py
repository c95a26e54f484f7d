"""Incremental copies: only what changed since the last one moves, deletions included.

The position in the changes of the source, its *token*, is stored by the commit of the documents.
So a copy that is killed at any moment continues after the last commit. The changes tell which
documents differ. Their content comes from a snapshot of the source, and its token is stored.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from godb_arrow.directory.places import is_data_directory
from godb_arrow.engine.changes import Change, ChangeFeed
from godb_arrow.engine.collection import Collection
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.errors import ChangesLost, InvalidOption
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.versions import CollectionVersion

__all__ = [
    "LogTarget",
    "Moved",
    "SyncTarget",
    "groups_of",
    "line_of",
    "open_source",
    "reader_of",
    "sync",
]

_IDS_AT_ONCE = 10_000  # documents that are looked up in the source together


@dataclass(slots=True)
class Moved:
    """Numbers of documents that an incremental copy wrote and deleted."""

    documents: int = 0
    deleted: int = 0


class SyncTarget(ABC):
    """Target of incremental copies, which has the documents of the source."""

    @abstractmethod
    def token(self) -> str | None:
        """Return the stored token, or None if the target was never copied as a whole.

        Raises
        ------
        TargetExists
            The target has documents that no incremental copy wrote.
        """

    @abstractmethod
    def replace(self, source: CollectionVersion, count: Callable[[int], Any]) -> Moved:
        """Make all documents equal to a snapshot, and store its token."""

    @abstractmethod
    def update(
        self, source: CollectionVersion, ids: list[str], count: Callable[[int], Any]
    ) -> Moved | None:
        """Make some documents equal to a snapshot, and store its token; None if it must replace."""


class LogTarget(ABC):
    """Target of incremental copies that appends each change."""

    @abstractmethod
    def token(self) -> str | None:
        """Return the stored token; see :meth:`SyncTarget.token`."""

    @abstractmethod
    def begin(self, source: CollectionVersion, count: Callable[[int], Any]) -> Moved:
        """Append all documents of a snapshot, and its token."""

    @abstractmethod
    def append(self, feed: ChangeFeed, count: Callable[[int], Any]) -> Moved:
        """Append the changes of a feed, and its token."""


def open_source(given: Any, stack: ExitStack) -> Collection:
    """Return the collection of an engine, or of the data directory of an address.

    Raises
    ------
    InvalidOption
        Another source has no changes.
    """
    if isinstance(given, Collection):
        return given
    if isinstance(given, (str, os.PathLike)):
        place, separator, name = os.path.expanduser(os.fspath(given)).rpartition("#")
        if separator and is_data_directory(place):
            return stack.enter_context(StorageEngine(place, read_only=True))[name]
        if not separator and is_data_directory(name):
            engine = stack.enter_context(StorageEngine(name, read_only=True))
            if len(engine.collections()) == 1:
                return engine[engine.collections()[0]]
    raise InvalidOption(
        f"{given!r} has no changes to copy",
        advice='give a collection of an engine, or "DIRECTORY#NAME", or omit mode="sync"',
    )


def sync(
    source: Collection, target: SyncTarget | LogTarget, count: Callable[[int], Any]
) -> tuple[Moved, bool]:
    """Copy what changed since the last copy; return the numbers, and whether all was copied."""
    token = target.token()
    snapshot = source.snapshot()
    if isinstance(target, LogTarget):
        if token is not None:
            try:
                return target.append(source.changes(token), count), False
            except ChangesLost:
                target.token()  # removes what was appended without a token
        return target.begin(snapshot, count), True
    moved = None
    if token is not None:
        ids = _changed_ids(source, token)
        moved = None if ids is None else target.update(snapshot, ids, count)
    if moved is not None:
        return moved, False
    return target.replace(snapshot, count), True


def _changed_ids(source: Collection, token: str) -> list[str] | None:
    """Return the ids of all documents that differ since a token; None if all may differ."""
    ids: dict[str, None] = {}
    try:
        for change in source.changes(token):
            if change.id is None:
                return None  # The collection was dropped.
            ids[change.id] = None
    except ChangesLost:
        return None
    return list(ids)


def groups_of(ids: Sequence[str]) -> Iterator[list[str]]:
    """Yield ids in groups that are looked up together."""
    for first in range(0, len(ids), _IDS_AT_ONCE):
        yield list(ids[first : first + _IDS_AT_ONCE])


def reader_of(source: CollectionVersion, ids: list[str]) -> pa.RecordBatchReader:
    """Return the documents of a snapshot that have one of some ids, as record batches."""

    def batches() -> Iterator[pa.RecordBatch]:
        for group in groups_of(ids):
            with source.stream_batches(None, {ID_FIELD: group}) as reader:
                yield from reader

    return pa.RecordBatchReader.from_batches(source.schema, batches())


def line_of(change: Change) -> dict[str, Any]:
    """Return the document that describes a change in a log."""
    line: dict[str, Any] = {"operation": change.operation, "sequence": change.sequence}
    if change.time is not None:
        line["time"] = change.time
    if change.net:
        line["net"] = True
    if change.id is not None:
        line["id"] = change.id
    if change.document is not None:
        line["document"] = change.document
    return line
