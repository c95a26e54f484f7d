"""GODB file as the target of incremental copies, whose collection equals a snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.directory.snapshot_writer import size_of
from godb_arrow.documents.ids import IdSequence, ids_of
from godb_arrow.file.existing import read_existing
from godb_arrow.file.hints import CollectionHint, JournalPosition
from godb_arrow.file.writer import CollectionData, write_file
from godb_arrow.memory.limit import Memory
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.indexes import MergedRuns
from godb_arrow.snapshots.overlay import Overlay
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.storage.replace import replace_file

__all__ = ["SyncedChanges", "SyncedFile"]

_MEMORY_BYTES = 64 << 20
_MAX_CHANGED_BYTES = 64 << 20


class SyncedChanges(NamedTuple):
    """Documents that an update put, and ids that it deleted, as numbers."""

    documents: int
    deleted: int


class SyncedFile:
    """Collection of a GODB file that incremental copies write; the caller has locked the file.

    Each write replaces the file, with the token in the hint of the collection. Unmodified documents
    are copied byte for byte, and pieces without changes as they are compressed. Other collections
    and settings of the file are kept.

    Parameters
    ----------
    path : str
        Path or URL of the file, which need not exist.
    name : str
        Name of the collection.
    """

    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name
        self._existing = read_existing(path, name)
        self._hint = self._existing.hints.get(name) or CollectionHint(0)

    @property
    def has_collection(self) -> bool:
        """Whether the file has the collection."""
        return self._existing.has_collection

    @property
    def token(self) -> str | None:
        """Token of the last write; None if another program wrote the collection."""
        return self._hint.token or None

    def replace(self, snapshot: Snapshot, token: str) -> None:
        """Make the collection equal to a snapshot."""
        sequence = IdSequence()
        for entries in snapshot.entries():
            _see(sequence, entries)
        self._write(snapshot, token, sequence)

    def update(
        self, changes: Iterable[tuple[list[str], Iterable[tuple[codec.Entries, Rows]]]], token: str
    ) -> SyncedChanges | None:
        """Put and delete documents.

        Parameters
        ----------
        changes : iterable of tuples
            Ids, and runs with the rows of those that exist. The others are deleted.
        token : str
            The new token.

        Returns
        -------
        SyncedChanges or None
            None if the documents are too many for memory. Then the file is unchanged.
        """
        base = Base(Memory(_MEMORY_BYTES), self._path, self._name)
        overlay, sequence = Overlay(), IdSequence(self._hint.next_id or 1)
        put = superseded = deleted = 0
        for ids, runs in changes:
            rows = base.rows_of(ids)
            for run, found in runs:
                if not len(found):
                    continue
                documents = codec.take(run, found)
                present = list(documents.ids())
                replaced = [row for key in present for row in rows.pop(key, ())]
                overlay.plan_add(present, documents, None, replaced)(None)
                _see(sequence, documents)
                put, superseded = put + len(present), superseded + len(replaced)
            removed = [row for found_rows in rows.values() for row in found_rows]
            overlay.plan_change(dict.fromkeys(rows), removed)(None)
            deleted, superseded = deleted + len(rows), superseded + len(removed)
            if overlay.size > _MAX_CHANGED_BYTES:
                return None
        count = base.live - superseded + put
        if put or deleted:
            self._write(Snapshot(base, overlay, count, JournalPosition()), token, sequence)
        return SyncedChanges(put, deleted)

    def _write(self, snapshot: Snapshot, token: str, sequence: IdSequence) -> None:
        existing, before, name = self._existing, self._hint, self._name
        kept, others = existing.kept(), existing.with_index_of(snapshot.entries())
        hint = CollectionHint(
            snapshot.live_count(),
            sequence.next_id,
            snapshot.settle_schema(),
            size_of(snapshot),
            indexes=before.indexes,
            plain=not (kept or others or existing.metadata),
            compression=before.compression,
            rules=before.rules,
            token=token,
        )
        runs = MergedRuns(snapshot, snapshot.base.files(), changes=True, fields=before.indexes)
        packed = runs.packed(0, hint.count)
        data = CollectionData(name, hint.count, snapshot.chunks(), hint, packed)
        with replace_file(self._path, expected=existing.version) as stream:
            write_file(
                stream,
                [*kept, data],
                metadata=existing.metadata,
                others=others,
                compression=before.compression,
            )


def _see(sequence: IdSequence, entries: codec.Entries) -> None:
    """Let a sequence generate no id of some documents."""
    if len(entries):
        sequence.see_number(codec.survey_ids(ids_of(entries))[1])
