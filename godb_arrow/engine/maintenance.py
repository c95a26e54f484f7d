"""What is done to a collection that has several files: joining, packing, going back, bulks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import CHUNK_BYTES
from godb_arrow.directory.compaction import choose_parts, join_parts
from godb_arrow.documents.encoding import Encoded
from godb_arrow.documents.ids import pack_ids
from godb_arrow.engine.bulk import BulkInsert, DocumentIds, join_bases
from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import (
    DocumentNotFound,
    DuplicateId,
    GodbError,
    VersionNotFound,
    error_context,
)
from godb_arrow.query.statistics import Row
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.id_index import Rows
from godb_arrow.snapshots.manifest import Manifest
from godb_arrow.snapshots.overlay import Overlay
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot

if TYPE_CHECKING:
    from godb_arrow.snapshots.part_folder import WrittenPart

__all__ = ["PartedStore"]


_BULK_PARTS_IN_MEMORY = 8  # a part of a bulk insert takes that share of the limit
_TRIES = 3


class PartedStore(CollectionStore):
    """A collection that may have several files."""

    def compact(self, *, thorough: bool = False, pause: Callable[[], bool] = lambda: False) -> int:
        """Write files anew that are small, or of which much is gone.

        Readers and writers go on meanwhile; only saving waits, for one file at a time.

        Parameters
        ----------
        thorough : bool
            Whether to leave out everything that is gone, and to join whatever can be joined.
        pause : callable
            Whether to leave the rest for later; asked after each step.

        Returns
        -------
        int
            Bytes of files that were written.
        """
        written = 0
        while True:
            with self.storing(), error_context("compact", collection=self._name):
                step = self._compact_once(thorough)
            if step is None:
                return written
            written += step
            if pause():
                return written

    def _compact_once(self, thorough: bool) -> int | None:
        """Join some files; bytes that were written, or None where nothing is worth it."""
        options = self._services.options
        with self._lock:
            base = self._base
            if self._dropped or not isinstance(base, PartedBase):
                return None
            chosen = choose_parts(base.manifest.parts, options.part_size, thorough=thorough)
            if chosen is None:
                return None
            # As it was saved: what changed since may be in no file yet.
            snapshot = Snapshot(base, Overlay(), base.live, base.hint.position)
        stored, gone, written = join_parts(snapshot, self._name, *chosen, options.part_size)
        with self._lock:
            overlay = self._overlay.renumbered(gone)
            # One statement: no interrupt comes between. Before it, the next save replaces the
            # manifest that was written here.
            self._base, self._overlay = stored, overlay
        base.forget(stored)
        del base, snapshot
        self._sweep()
        return written

    def pack(self) -> None:
        """Write all into one file, which go-db reads, too; it grows into several again later."""
        self._services.check_process()
        with self._lock:
            if not isinstance(self._base, PartedBase):
                return
            self._stale, self._form = True, "file"
        self.checkpoint()

    def _put_bulk(self, encoded: Iterator[Encoded], schema: pa.Schema | None) -> DocumentIds:
        """Insert documents that memory cannot hold: all of them or, on an error, none.

        The caller's documents come without a lock: their source may be slow, and may itself use
        the collection.
        """
        self.to_folder()
        self.checkpoint()  # deleted ids are free in the files, too
        with self._lock:
            self._check_there()
            base = self._base
            pin = base.pin()  # its files stay while the documents come
        assert isinstance(base, PartedBase)
        bulk = self._new_bulk(base, schema)
        try:
            for one in encoded:
                bulk.add(one)
            bulk.finish()
            with self.storing(), error_context("insert", collection=self._name):
                self._checkpoint()
                with self._lock:
                    self._check_there()
                    if bulk.has_any(self._overlay.deleted()):
                        self._checkpoint()  # while writers wait
                    self._check_no_change_has(bulk)
                    before = self._base
                    assert isinstance(before, PartedBase)
                    wanted = bulk.joined(before, self._next_id(), self._services.directory.stamp)
                    greatest = max(self._greatest_given, bulk.greatest)
                    self._commit_manifest(before, wanted)
                    self._greatest_given = greatest
        finally:
            bulk.discard()
            del pin
        before.forget(self._base)
        self._sweep()
        self._services.acknowledge(None)
        return bulk.ids()

    def _commit_manifest(
        self, before: PartedBase, wanted: tuple[Manifest, Sequence[Row | None]]
    ) -> None:
        """Make a manifest the state of the collection, on the disk and here; or, on an error, not.

        The caller is storing, and holds the lock.
        """
        folder = before.folder
        try:
            self._go_on_with(PartedBase(folder, folder.commit(*wanted)))
        except BaseException as error:
            if self._base is before:
                with suppress(GodbError):
                    current = folder.current()
                    if current.has_same_parts(wanted[0]):
                        self._go_on_with(PartedBase(folder, current))
            if self._base is not before and isinstance(error, GodbError):
                error.applied = "unknown"
            raise

    def _go_on_with(self, base: PartedBase) -> None:
        assert self._count is not None
        count = self._count + base.live - self._base.live
        changes, now = self._changes + 1, time.time()
        # One statement: no interrupt comes between.
        self._base, self._count, self._changes, self._last_modified = base, count, changes, now

    def _replace_bulk(self, ids: Sequence[str], make: Callable[[str, bytes], bytes]) -> None:
        """Replace documents by others that memory cannot hold: all of them or, on an error, none.

        They become files of the collection, and the manifest that names these deletes the former
        ones.

        Parameters
        ----------
        ids : sequence of str
            The documents, each once.
        make : callable
            Makes the bytes of a document of its id and the bytes before.
        """
        self.to_folder()
        for _ in range(_TRIES):
            self.checkpoint()  # the files have what the overlay had of them
            if self._replace_stored(ids, make):
                break
        else:
            raise GodbError("other threads change the documents meanwhile", advice="try again")
        self._sweep()
        self._services.acknowledge(None)

    def _replace_stored(self, ids: Sequence[str], make: Callable[[str, bytes], bytes]) -> bool:
        """Replace documents of the files; False where one of them has changed since."""
        wanted = dict.fromkeys(ids)
        with self._lock:
            self._check_there()
            base = self._base
        assert isinstance(base, PartedBase)
        found = base.rows_of(wanted)
        for identity in ids:
            if identity not in found:
                raise DocumentNotFound(
                    f"there is no document {identity!r}", advice="nothing was changed"
                )
        # A file of another program may have an id twice: the last one counts.
        rows = np.sort(np.array([one[-1] for one in found.values()], np.int64))
        deleted = [row for one in found.values() for row in one]
        bulk = self._new_bulk(base, None)
        try:
            for encoded in _encoded(base, rows, make):
                bulk.add(encoded, replacing=True)
            bulk.finish()
            with self.storing(), self._lock:
                self._check_there()
                if self._base is not base or self._overlay.find_any(wanted):
                    return False
                self._commit_manifest(
                    base,
                    bulk.joined(base, self._next_id(), self._services.directory.stamp, deleted),
                )
        finally:
            bulk.discard()
        base.forget(self._base)
        return True

    def _new_bulk(self, base: PartedBase, schema: pa.Schema | None) -> BulkInsert:
        limit = self._services.memory.limit // _BULK_PARTS_IN_MEMORY
        part_bytes = min(self._services.options.part_size, limit)
        return BulkInsert(base, self._name, schema, part_bytes, self.storing)

    def to_folder(self) -> None:
        """Have several files from now on, however small it is."""
        self._services.check_process()
        if not isinstance(self._base, PartedBase):
            with self._lock:
                self._stale, self._form = True, "folder"
            self.checkpoint()

    def reserve_ids(self, count: int) -> int:
        """Reserve numbers for ids that other processes generate, and save that.

        The collection has several files from then on.

        Parameters
        ----------
        count : int
            How many numbers.

        Returns
        -------
        int
            The first one; the others follow it.
        """
        first = self._ids().reserve(count)
        with self._lock:
            self._stale, self._form = True, "folder"
        self.checkpoint()
        return first

    def take_parts(self, written: Sequence[WrittenPart], *, overwrite: bool) -> int:
        """Make files that other processes wrote part of the collection: all at once, or none.

        Returns
        -------
        int
            How many documents they have.

        Raises
        ------
        DuplicateId
            Documents share an id, or have one that is there.
        """
        self.to_folder()
        self.checkpoint()
        with self.storing(), self._lock, error_context("write", collection=self._name):
            self._check_there()
            base = self._base
            assert isinstance(base, PartedBase)
            if len(self._overlay):
                raise GodbError("somebody changed the collection meanwhile", advice="try again")
            sequence = self._ids()
            for one in written:
                sequence.see_greatest(one.greatest)
            kept = replace(base.manifest, parts=()) if overwrite else base.manifest
            before = PartedBase(base.folder, kept)
            number = base.folder.next_number()
            parts = [base.folder.give_number(one.token, one.part, number + index)
                     for index, one in enumerate(written)]  # fmt: skip
            schemas = [pa.ipc.read_schema(pa.py_buffer(one.schema)) for one in written]
            rows = [one.statistics for one in written]
            joined = join_bases(
                before, parts, rows, schemas, sequence.next_id, self._services.directory.stamp
            )
            self._commit_manifest(base, joined)
            base.forget(self._base)
        self._sweep()
        self._services.acknowledge(None)
        return sum(part.documents for part in parts)

    def _check_no_change_has(self, bulk: BulkInsert) -> None:
        """Raise if another document that came meanwhile has an id of a bulk."""
        present = [one for one, version in self._snapshot().versions().items()
                   if version is not None]  # fmt: skip
        present += [str(number) for number in self._overlay.generated_ids()]
        base = self._base
        assert isinstance(base, PartedBase)
        twice = bulk.has_any(present) or bulk.added_since(base)
        if twice:
            raise DuplicateId(twice[:10], advice="they were inserted meanwhile: leave them out")

    def restore(self, version: int) -> None:
        """Go back to a version; what there is now stays readable as the version before.

        Raises
        ------
        VersionNotFound
            There is no such version, or not any more.
        """
        self.checkpoint()
        with self.storing(), error_context("restore", collection=self._name), self._lock:
            self._check_there()
            if len(self._overlay):
                raise GodbError("somebody changed the collection meanwhile", advice="try again")
            base = self._base
            earlier = self.version_base(version)
            position = self._position_of(base)
            manifest = replace(
                earlier.manifest, version=base.hint.version + 1, next_id=self._ids().next_id,
                record=position.number, run=position.run, rewrites=True,
                directory=self._services.directory.stamp,
            )  # fmt: skip
            assert isinstance(base, PartedBase)
            self._indexes, self._compression = None, None  # as the manifest says
            self._commit_manifest(base, (manifest, earlier.part_statistics()))
            base.forget(self._base)
            self._services.directory.journal.release(self, None)
        self._services.acknowledge(None)

    def version_base(self, version: int) -> PartedBase:
        """The documents of a version.

        Raises
        ------
        VersionNotFound
        """
        self._services.check_process()
        base = self._base
        known = _versions_in(base)
        if not isinstance(base, PartedBase) or version not in known:
            shown = ", ".join(map(str, known))
            raise VersionNotFound(
                f"there is no version {version!r}",
                advice=f"the versions are {shown}"
                if known
                else "a collection that has several "
                "files keeps its last versions; see part_size and keep_versions",
            )
        folder = base.folder
        if not folder.is_ours:  # its files may be of a former collection of that name
            folder = PartFolder(folder.memory, folder.path, is_ours=False)
        return PartedBase(folder, folder.manifest(version))


def _versions_in(base: Base) -> list[int]:
    """Return the versions of a collection that can be read.

    Raises
    ------
    SourceNotFound
        Another process removed the folder of the collection.
    """
    if not isinstance(base, PartedBase):
        return []
    return base.folder.versions() or [base.folder.current().version]


def _encoded(
    base: PartedBase, rows: Rows, make: Callable[[str, bytes], bytes]
) -> Iterator[Encoded]:
    """Make documents of those in some rows, given in order, as runs of entries."""
    chunk = bytearray()
    ids: list[str] = []
    for run, index in base.entries_at(rows):
        identity = run.id(index)
        chunk += codec.pack(identity) + make(identity, run.document(index))
        ids.append(identity)
        if len(chunk) > CHUNK_BYTES:
            yield Encoded(bytes(chunk), pack_ids(ids), given=True)
            chunk, ids = bytearray(), []
    if ids:
        yield Encoded(bytes(chunk), pack_ids(ids), given=True)
