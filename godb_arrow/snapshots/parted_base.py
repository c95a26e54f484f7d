"""Base of a collection of several files, with the documents of one file after another."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.codec.runs import Run
from godb_arrow.errors import SourceNotFound
from godb_arrow.file.checked import chosen_pieces
from godb_arrow.file.hints import CollectionHint
from godb_arrow.query.projection import Projection
from godb_arrow.query.statistics import Row, Statistics, row_of
from godb_arrow.schema import DocumentSummary
from godb_arrow.snapshots.base import Base, Located, Pin, Wanted
from godb_arrow.snapshots.held import Documents
from godb_arrow.snapshots.manifest import (
    Manifest,
)
from godb_arrow.snapshots.part_file import PartFile
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.storage.modes import Access
from godb_arrow.storage.object_store import is_url

__all__ = ["PartedBase"]

logger = logging.getLogger(__name__)


class PartedBase(Base):
    """Documents of several files, one file after another; immutable.

    Rows are numbered through all files, and deleted rows keep their numbers.

    Parameters
    ----------
    folder : PartFolder
        Folder of the files.
    manifest : Manifest, optional
        Manifest of a version. By default the current one is read at first use.
    """

    def __init__(self, folder: PartFolder, manifest: Manifest | None = None) -> None:
        super().__init__(folder.memory, folder.path, is_ours=folder.is_ours)
        self.folder = folder
        self._manifest = manifest
        self._parts: list[PartFile] | None = None
        self._deleted: Rows | None = None
        self._deleted_set: codec.RowSet | None = None
        self._deleted_sets: list[codec.RowSet | None] | None = None

    @property
    def manifest(self) -> Manifest:
        """Manifest of the version."""
        if self._manifest is None:
            self._manifest = self.folder.current()
        return self._manifest

    @property
    def parts(self) -> list[PartFile]:
        """Parts, each of which is opened at first use."""
        if self._parts is None:
            manifest = self.manifest
            parts = [self.folder.file(manifest, part) for part in manifest.parts]
            for file in parts:
                file.collection_size = manifest.size
            self._parts = parts
        return self._parts

    def files(self) -> list[tuple[int, Base]]:
        """Return each file, with the row of its first document."""
        files: list[tuple[int, Base]] = []
        start = 0
        for part, file in zip(self.manifest.parts, self.parts, strict=True):
            files.append((start, file))
            start += part.documents
        return files

    def pin(self) -> Pin:
        """Keep the files until the pin is collected.

        Files that another process may remove are opened now. If they are more than may be open at
        once, each is opened when it is read.

        Raises
        ------
        SourceNotFound
            Another process has removed them.
        """
        pin = self.folder.pin(self)
        if not self.is_ours and not is_url(self.folder.path):
            closed = sum(not file.is_open for file in self.parts)
            if self.memory.has_room_for_files(closed):
                pin.files = [file.pin() for file in self.parts]
            if not all(file.is_named for file in self.parts):
                self.folder.check(self.manifest)
                for held, file in zip(pin.files, self.parts, strict=False):
                    if held.file is not None:
                        file.note_named()
        return pin

    def close_if_idle(self) -> None:
        """Do nothing, since each file is closed separately."""

    def has_same_files(self, other: Base) -> bool:
        """Return whether this is the base of the same files, though one could not be opened."""
        if not isinstance(other, PartedBase) or other._manifest is None:
            return False
        try:
            mine = self.manifest
        except SourceNotFound:
            return False
        known = other._manifest
        same = (mine.version, mine.created) == (known.version, known.created)
        return same and self.path == other.path

    @property
    def hint(self) -> CollectionHint:
        """Hint that the manifest records."""
        manifest, use_hints = self.manifest, self.memory.use_hints
        return CollectionHint(
            manifest.count,
            manifest.next_id or None if use_hints else None,
            manifest.schema if use_hints else None,
            manifest.size,
            manifest.record,
            manifest.indexes,
            plain=True,
            version=manifest.version,
            compression=manifest.compression,
            run=manifest.run,
            directory=manifest.directory,
            former=manifest.former,
            rules=manifest.rules,
        )

    @property
    def count(self) -> int:
        """Number of rows, including deleted ones."""
        return sum(part.documents for part in self.manifest.parts)

    @property
    def deleted(self) -> Rows:
        """Deleted rows, in order."""
        if self._deleted is None:
            starts = [start for start, _ in self.files()]
            parts = zip(starts, self.manifest.parts, strict=True)
            rows = [part.deleted + start for start, part in parts]
            self._deleted = np.concatenate(rows) if rows else np.empty(0, np.int64)
        return self._deleted

    def deleted_sets(self) -> list[codec.RowSet | None]:
        """Return the deleted rows of each file, counted from its first; None for no row."""
        if self._deleted_sets is None:
            self._deleted_sets = [
                codec.RowSet(part.deleted.astype(np.int64)) if len(part.deleted) else None
                for part in self.manifest.parts
            ]
        return self._deleted_sets

    def deleted_set(self) -> codec.RowSet | None:
        """Return all deleted rows as a set, or None if no row is deleted."""
        if self._deleted_set is None and len(self.deleted):
            self._deleted_set = codec.RowSet(self.deleted.astype(np.int64))
        return self._deleted_set

    @property
    def file_size(self) -> int:
        """Size of all files in bytes."""
        return sum(part.file_size for part in self.manifest.parts)

    def access(self) -> Access:
        """Return the permissions that the newest files grant."""
        return self.folder.access()

    @property
    def modified(self) -> float | None:
        """Time when the manifest was written, in seconds since 1970."""
        return self.manifest.created

    # --- views in memory ----------------------------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        """Whether the documents are in memory."""
        return self._parts is not None and all(file.is_loaded for file in self._parts)

    @property
    def is_loading(self) -> bool:
        """Whether documents are being read into memory."""
        return self._parts is not None and any(file.is_loading for file in self._parts)

    def forget(self, successor: Base | None = None) -> None:
        """Release the cached views, except those that a successor shares."""
        super().forget()
        kept = set(successor.parts) if isinstance(successor, PartedBase) else set()
        for file in self._parts or ():
            if file not in kept:
                file.forget()

    def held_bytes(self) -> int:
        """Return the bytes of the cached views."""
        return super().held_bytes() + sum(file.held_bytes() for file in self._parts or ())

    def documents(self) -> Documents | None:
        """Return None, since each file has its own documents."""
        return None

    def prepare_ids(self) -> None:
        """Load all indexes of document ids into memory."""
        for file in self.parts:
            file.ids()

    def pieces_matching(self, projection: Projection) -> Wanted | None:
        """Return which files and pieces may have documents that match a filter."""
        if projection.condition is None or not self.memory.use_hints:
            return None
        statistics = self.manifest.statistics()
        wanted: list[bool | Wanted] = [True] * len(self.parts)
        if statistics is not None:
            found = projection.may_match(statistics)
            if self._are_right(statistics, found, projection.filtered_fields):
                wanted = list(found)
        for index, file in enumerate(self.parts):
            if wanted[index]:
                pieces = file.pieces_matching(projection)
                wanted[index] = True if pieces is None else pieces
        return None if all(needed is True for needed in wanted) else wanted

    def _are_right(
        self, statistics: Statistics, needed: Sequence[bool], names: Collection[str]
    ) -> bool:
        """Return whether the statistics of parts that a filter skips agree with documents."""
        fields = [name for name in statistics.names if name.partition(".")[0] in names]
        unknown = [
            index
            for index, file in enumerate(self.parts)
            if not needed[index] and not file.described.issuperset(fields)
        ]
        sizes = [self.manifest.parts[index].size for index in unknown]
        is_sampled = any(file.described.issuperset(fields) for file in self.parts)
        for index in chosen_pieces(unknown, sizes, is_sampled=is_sampled):
            bounds = ((name, statistics.bounds(name)[index]) for name in fields)
            row = {name: found for name, found in bounds if found is not None}
            wrong = self.parts[index].open().contradiction(row)
            if wrong is not None:
                logger.warning("%s: the statistics are wrong about %s", self.path, wrong)
                return False
            self.parts[index].described.update(fields)
        return True

    def selected(self, wanted: Wanted | None) -> Iterator[tuple[int, Base, Wanted | None]]:
        """Yield the needed files with their first row and their needed pieces (None for all)."""
        for index, (start, file) in enumerate(self.files()):
            part = True if wanted is None else wanted[index]
            if part is not False:
                yield start, file, None if part is True else part

    def runs(self, wanted: Wanted | None = None, fields: tuple[str, ...] = ()) -> Iterator[Run]:
        """Yield the documents in runs, which the caller loads."""
        for start, file, part in self.selected(wanted):
            for run in file.runs(part, fields):
                yield run._replace(start=run.start + start)

    def loaded(self, wanted: Wanted | None = None) -> Iterator[tuple[int, codec.Entries]]:
        """Yield the loaded runs, each with the row of its first document."""
        for start, file, part in self.selected(wanted):
            for row, entries in file.loaded(part):
                yield row + start, entries

    # --- documents ----------------------------------------------------------------------------

    def _located_packed(self, packed: pa.Array, wanted: frozenset[str]) -> Located:
        deleted = self.deleted
        for start, file in self.files():
            for identity, row, run, index in file._located_packed(packed, wanted):
                at = int(deleted.searchsorted(row + start))
                if at == len(deleted) or deleted[at] != row + start:
                    yield identity, row + start, run, index

    def has(self, identity: str) -> bool:
        """Return whether a document with an id exists."""
        return next(self._located([identity]), None) is not None

    def find(self, identity: str) -> bytes | None:
        """Return the bytes of a document."""
        # The last file with the document counts.
        sets = self.deleted_sets()
        for index in range(len(sets) - 1, -1, -1):
            file, deleted = self.parts[index], sets[index]
            documents = file.documents()
            if documents is None:
                matches = [run.document(at) for _, _, run, at in self._located([identity])]
                return matches[-1] if matches else None
            is_deleted = None if deleted is None else deleted.__contains__
            found = file.ids().search().find(documents.located, identity, is_deleted)
            if found is not None:
                return found
        return None

    def find_held(self, identity: str) -> bytes | bool | None:
        """Return the bytes of a document; False where documents and ids are not all in memory."""
        sets = self.deleted_sets()
        for index in range(len(sets) - 1, -1, -1):
            deleted = sets[index]
            if deleted is not None:
                return False
            found = self.parts[index].find_held(identity)
            if found is not None:
                return found
        return None

    def entries_at(self, rows: Rows) -> Iterator[tuple[codec.Entries, int]]:
        """Yield the runs that have given rows, in order, with the index of each row in its run."""
        files = self.files()
        starts = [start for start, _ in files]
        at = 0
        while at < len(rows):
            index = bisect_right(starts, int(rows[at])) - 1
            start, file = files[index]
            last = int(np.searchsorted(rows, start + file.count))
            yield from file.entries_at(rows[at:last] - start)
            at = last

    def max_id(self) -> int:
        """Return the max number among the ids."""
        return max((file.max_id() for file in self.parts), default=0)

    # --- schema -------------------------------------------------------------------------------

    def _summarize(self, summary: DocumentSummary) -> None:
        for file in self.parts:
            file.join_into(summary)

    def part_statistics(self) -> list[Row | None]:
        """Return the statistics of each part."""
        statistics = self.manifest.statistics()
        if statistics is None:
            return [None] * len(self.manifest.parts)
        return [row_of(statistics, index) for index in range(len(statistics))]
