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

from godb_arrow import codec
from godb_arrow.directory.places import is_data_directory
from godb_arrow.engine.changes import Change, ChangeFeed, changed_ids
from godb_arrow.engine.collection import Collection
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.errors import ChangesLost, InvalidCursor, InvalidOption, TargetExists
from godb_arrow.options import IfExists
from godb_arrow.query.scannable import Scannable
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.find import matching
from godb_arrow.snapshots.readable import snapshot_of
from godb_arrow.snapshots.versions import CollectionVersion
from godb_arrow.storage.source import local_path

__all__ = [
    "LogTarget",
    "Moved",
    "SyncTarget",
    "groups_of",
    "ids_of",
    "line_of",
    "open_source",
    "reader_of",
    "refuse_others",
    "stored_runs",
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
        place, separator, name = local_path(os.fspath(given)).rpartition("#")
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
    source: Collection,
    target: SyncTarget | LogTarget,
    if_exists: IfExists,
    count: Callable[[int], Any],
) -> tuple[Moved, bool]:
    """Copy what changed since the last copy; return the numbers, and whether all was copied.

    Raises
    ------
    InvalidCursor
        The token is of another collection, without ``if_exists="replace"``.
    """
    token = target.token()
    snapshot = source.snapshot()
    if token is not None:
        try:
            if isinstance(target, LogTarget):
                return target.append(source.changes(token), count), False
            ids = changed_ids(source.changes(token))
            if ids is not None:
                moved: Moved | None = Moved()
                if ids or token != snapshot.token:
                    moved = target.update(snapshot, ids, count)
                if moved is not None:
                    return moved, False
        except ChangesLost:
            pass
        except InvalidCursor as error:
            if if_exists != "replace":
                error.advice = 'use if_exists="replace" to copy the whole collection'
                raise
    if isinstance(target, LogTarget):
        target.token()  # removes what was appended without a token
        return target.begin(snapshot, count), True
    return target.replace(snapshot, count), True


def refuse_others() -> TargetExists:
    """Return the error for a target with documents that no incremental copy wrote."""
    return TargetExists(
        "the target has documents that no incremental copy wrote",
        advice='use if_exists="replace" to replace them, or choose another target',
    )


def ids_of(documents: Scannable) -> list[str]:
    """Return the ids of all documents, without reading the documents."""
    ids: list[str] = []
    with documents.stream_batches([ID_FIELD]) as reader:
        for batch in reader:
            ids += batch.column(0).to_pylist()
    return ids


def groups_of(ids: Sequence[str]) -> Iterator[list[str]]:
    """Yield ids in groups that are looked up together."""
    for first in range(0, len(ids), _IDS_AT_ONCE):
        yield list(ids[first : first + _IDS_AT_ONCE])


def stored_runs(source: CollectionVersion, ids: list[str]) -> Iterator[codec.Entries]:
    """Yield the documents of a snapshot that have one of some ids, in runs of about 1 MiB."""
    for run, rows in matching(snapshot_of(source), {ID_FIELD: ids}, ()):
        if len(rows):
            yield from codec.take(run, rows).split()


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
