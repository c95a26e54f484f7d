"""A collection of several files: their documents, one file behind the other, as one base."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator

import numpy as np

from godb_arrow import codec
from godb_arrow.codec.runs import Run
from godb_arrow.errors import SourceNotFound
from godb_arrow.file.hints import CollectionHint
from godb_arrow.query.projection import Projection
from godb_arrow.query.statistics import Row, may_match, row_of
from godb_arrow.schema import DocumentSummary
from godb_arrow.snapshots.base import Base, Documents, Pin, Wanted
from godb_arrow.snapshots.id_index import Rows
from godb_arrow.snapshots.manifest import (
    Manifest,
)
from godb_arrow.snapshots.part_folder import PartFile, PartFolder
from godb_arrow.storage.modes import Access
from godb_arrow.storage.object_store import is_url

__all__ = ["PartedBase"]


class PartedBase(Base):
    """The documents of several files, one behind the other; immutable.

    Rows are numbered through all files; those that were deleted keep their numbers.

    Parameters
    ----------
    folder : PartFolder
        Where the files are.
    manifest : Manifest, optional
        Which version; read at first use, if left out: the current one.
    """

    def __init__(self, folder: PartFolder, manifest: Manifest | None = None) -> None:
        super().__init__(folder.memory, folder.path, is_ours=folder.is_ours)
        self.folder = folder
        self._manifest = manifest
        self._parts: list[PartFile] | None = None
        self._deleted: Rows | None = None

    @property
    def manifest(self) -> Manifest:
        """Which files there are, and what of them is deleted."""
        if self._manifest is None:
            self._manifest = self.folder.current()
        return self._manifest

    @property
    def parts(self) -> list[PartFile]:
        """The files; each is opened at first use."""
        if self._parts is None:
            manifest = self.manifest
            parts = [self.folder.file(manifest, part) for part in manifest.parts]
            for file in parts:
                file.collection_size = manifest.size
            self._parts = parts
        return self._parts

    def files(self) -> list[tuple[int, Base]]:
        """The row of each file's first document, and the file."""
        found: list[tuple[int, Base]] = []
        start = 0
        for part, file in zip(self.manifest.parts, self.parts, strict=True):
            found.append((start, file))
            start += part.documents
        return found

    def pin(self) -> Pin:
        """Keep the files until the pin is collected.

        Where another process writes the collection, they are opened now, since it may remove
        them. Only of more files than may be open at once, each is opened when it is read.

        Raises
        ------
        SourceNotFound
            Another process removed them already.
        """
        pin = self.folder.pin(self)
        if not self.is_ours and not is_url(self.folder.path):
            closed = sum(not file.is_open for file in self.parts)
            if self.memory.has_room_for_files(closed):
                pin.files = [file.pin() for file in self.parts]
            if not all(file.is_named for file in self.parts):
                self.folder.check(self.manifest)
                for held, file in zip(pin.files, self.parts, strict=False):
                    file.is_named = held.file is not None
        return pin

    def close_if_idle(self) -> None:
        """Nothing: each file is closed by itself."""

    def has_same_files(self, other: Base) -> bool:
        """Return whether another base, a file of which could not be opened, is no other."""
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
        """What the manifest records."""
        found = self.manifest
        return CollectionHint(
            found.count, found.next_id or None, found.schema, found.size, found.record,
            found.indexes, plain=True, version=found.version, compression=found.compression,
            run=found.run, directory=found.directory, former=found.former,
        )  # fmt: skip

    @property
    def count(self) -> int:
        """How many rows there are, with those that were deleted."""
        return sum(part.documents for part in self.manifest.parts)

    @property
    def deleted(self) -> Rows:
        """The rows that were deleted, in order."""
        if self._deleted is None:
            starts = [start for start, _ in self.files()]
            rows = [part.deleted + start
                    for start, part in zip(starts, self.manifest.parts, strict=True)]  # fmt: skip
            self._deleted = np.concatenate(rows) if rows else np.empty(0, np.int64)
        return self._deleted

    @property
    def file_size(self) -> int:
        """Bytes of all files."""
        return sum(part.file_size for part in self.manifest.parts)

    def access(self) -> Access:
        """Return the permissions that the newest files grant."""
        return self.folder.access()

    @property
    def modified(self) -> float | None:
        """When the manifest was written."""
        return self.manifest.created

    # --- what is held in memory ---------------------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        """Whether the documents are in memory."""
        return self._parts is not None and all(file.is_loaded for file in self._parts)

    @property
    def is_loading(self) -> bool:
        """Whether documents are being read into memory."""
        return self._parts is not None and any(file.is_loading for file in self._parts)

    def forget(self, successor: Base | None = None) -> None:
        """Give up what is held in memory, but for what a successor has, too."""
        super().forget()
        kept = set(successor.parts) if isinstance(successor, PartedBase) else set()
        for file in self._parts or ():
            if file not in kept:
                file.forget()

    def held_bytes(self) -> int:
        """Bytes that are held in memory."""
        return super().held_bytes() + sum(file.held_bytes() for file in self._parts or ())

    def documents(self) -> Documents | None:
        """Never all of them at once: each file has its own."""
        return None

    def prepare_ids(self) -> None:
        """Have all indexes of ids at hand."""
        for file in self.parts:
            file.ids()

    def pieces_matching(self, projection: Projection) -> Wanted | None:
        """Of each file, whether it, or which of its pieces, may have what a filter keeps."""
        condition = projection.implied
        if condition is None:
            return None
        statistics = self.manifest.statistics() if projection.needed else None
        wanted: list[bool | Wanted] = [True] * len(self.parts)
        if statistics is not None:
            wanted = list(may_match(statistics, condition, projection.needed, projection.decoded))
        for index, file in enumerate(self.parts):
            if wanted[index]:
                found = file.pieces_matching(projection)
                wanted[index] = True if found is None else found
        return None if all(one is True for one in wanted) else wanted

    def selected(self, wanted: Wanted | None) -> Iterator[tuple[int, Base, Wanted | None]]:
        """The files that are needed: first row, file, and what of it (all with None)."""
        for index, (start, file) in enumerate(self.files()):
            part = True if wanted is None else wanted[index]
            if part is not False:
                yield start, file, None if part is True else part

    def runs(self, wanted: Wanted | None = None, fields: tuple[str, ...] = ()) -> Iterator[Run]:
        """The documents in runs, to be loaded by whoever works on them."""
        for start, file, part in self.selected(wanted):
            for run in file.runs(part, fields):
                yield run._replace(start=run.start + start)

    def loaded(self, wanted: Wanted | None = None) -> Iterator[tuple[int, codec.Entries]]:
        """The entries in runs, and the row of each run's first."""
        for start, file, part in self.selected(wanted):
            for row, entries in file.loaded(part):
                yield row + start, entries

    # --- documents ----------------------------------------------------------------------------

    def _located(self, ids: Collection[str]) -> Iterator[tuple[str, int, codec.Entries, int]]:
        deleted = self.deleted
        for start, file in self.files():
            for identity, row, run, index in file._located(ids):
                at = int(deleted.searchsorted(row + start))
                if at == len(deleted) or deleted[at] != row + start:
                    yield identity, row + start, run, index

    def has(self, identity: str) -> bool:
        """Whether there is a document with an id."""
        return next(self._located([identity]), None) is not None

    def find(self, identity: str) -> bytes | None:
        """The bytes of a document."""
        found = [run.document(index) for _, _, run, index in self._located([identity])]
        return found[-1] if found else None

    def entries_at(self, rows: Rows) -> Iterator[tuple[codec.Entries, int]]:
        """The runs that have some rows, given in order, and the index of each there."""
        files = self.files()
        starts = [start for start, _ in files]
        at = 0
        while at < len(rows):
            index = bisect_right(starts, int(rows[at])) - 1
            start, file = files[index]
            last = int(np.searchsorted(rows, start + file.count))
            yield from file.entries_at(rows[at:last] - start)
            at = last

    def greatest_id(self) -> int:
        """The greatest id that is a number."""
        return max((file.greatest_id() for file in self.parts), default=0)

    # --- its schema ---------------------------------------------------------------------------

    def _summarize(self, summary: DocumentSummary) -> None:
        for file in self.parts:
            file.join_into(summary)

    def part_statistics(self) -> list[Row | None]:
        """The statistics of each file."""
        found = self.manifest.statistics()
        if found is None:
            return [None] * len(self.manifest.parts)
        return [row_of(found, index) for index in range(len(found))]
