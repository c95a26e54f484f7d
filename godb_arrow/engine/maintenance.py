"""What is done to a collection that has several files: joining, packing, going back, bulks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from godb_arrow.directory.compaction import choose_parts, join_parts
from godb_arrow.documents.encoding import Encoded
from godb_arrow.engine.bulk import BulkInsert, DocumentIds, join_bases
from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import DuplicateId, GodbError, VersionNotFound, error_context
from godb_arrow.snapshots.manifest import read_manifest
from godb_arrow.snapshots.overlay import Overlay
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot

if TYPE_CHECKING:
    from godb_arrow.snapshots.part_folder import WrittenPart

__all__ = ["PartedStore"]


_OF_BULK = 8  # of the memory that there may be, for documents that become a file at once


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
            with self._storing, error_context("compact", collection=self._name):
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
            snapshot = Snapshot(base, Overlay(), base.live, base.hint.record)
        stored, gone, written = join_parts(snapshot, self._name, *chosen, options.part_size)
        with self._lock:
            self._base = stored
            self._overlay.renumber(gone)
        base.forget(stored)
        del base, snapshot
        self._sweep()
        return written

    def pack(self) -> None:
        """Write all into one file, which go-db reads, too; it grows into several again later."""
        with self._lock:
            if not isinstance(self._base, PartedBase):
                return
            self._stale, self._form = True, "file"
        self.checkpoint()

    def _put_bulk(self, encoded: Iterator[Encoded], schema: pa.Schema | None) -> DocumentIds:
        """Insert documents that memory cannot hold: all of them or, on an error, none."""
        self.to_folder()
        with self._storing:
            base = self._base
            assert isinstance(base, PartedBase)
            options = self._services.options
            part_bytes = min(options.part_size, self._services.memory.limit // _OF_BULK)
            bulk = BulkInsert(base.folder, self._name, base, schema, part_bytes)
            try:
                for one in encoded:
                    bulk.add(one)
                bulk.finish()
                with self._lock:
                    self._check_there()
                    self._check_no_change_has(bulk)
                    stored = bulk.commit(self._ids().next_id)
                    self._base = stored
                    self._greatest_given = max(self._greatest_given, bulk.greatest)
                    self._changed(bulk.count)
            except BaseException:
                bulk.discard()
                raise
            base.forget(stored)
            self._sweep()
            self._services.acknowledge(None)
            return bulk.ids()

    def to_folder(self) -> None:
        """Have several files from now on, however small it is."""
        if not isinstance(self._base, PartedBase):
            with self._lock:
                self._stale, self._form = True, "folder"
            self.checkpoint()

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
        with self._storing, self._lock, error_context("write", collection=self._name):
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
            joined = join_bases(before, parts, rows, schemas, sequence.next_id)
            self._base = PartedBase(base.folder, base.folder.commit(*joined))
            self._count = self._base.live
            self._changes += 1
            self._last_modified = time.time()
            base.forget(self._base)
        self._sweep()
        self._services.acknowledge(None)
        return sum(part.documents for part in parts)

    def _check_no_change_has(self, bulk: BulkInsert) -> None:
        """Raise if a document that was put meanwhile has an id of a bulk of others."""
        generated = bulk.least_generated
        if not bulk.given and (generated is None or generated > self._greatest_given):
            return
        changed = [one for one, version in self._snapshot().versions().items()
                   if version is not None]  # fmt: skip
        changed += [str(number) for number in self._overlay.generated_ids()]
        twice = bulk.has_any(changed)
        if twice:
            raise DuplicateId(twice[:10], advice="somebody else inserted them meanwhile")

    def restore(self, version: int) -> None:
        """Go back to a version; what there is now stays readable as the version before.

        Raises
        ------
        VersionNotFound
            There is no such version, or not any more.
        """
        self.checkpoint()
        with self._storing, error_context("restore", collection=self._name), self._lock:
            self._check_there()
            if len(self._overlay):
                raise GodbError("somebody changed the collection meanwhile", advice="try again")
            base = self._base
            earlier = self.version_base(version)
            manifest = replace(
                earlier.manifest, version=base.hint.version + 1, next_id=self._ids().next_id,
                record=max(self._record, base.hint.record), rewrites=True,
            )  # fmt: skip
            committed = earlier.folder.commit(manifest, earlier.part_statistics())
            self._base = PartedBase(earlier.folder, committed)
            self._count = self._base.live
            self._indexes, self._compression = manifest.indexes, None
            self._changes += 1
            self._last_modified = time.time()
            base.forget(self._base)
            self._services.directory.journal.release(self, None)
        self._services.acknowledge(None)

    def version_base(self, version: int) -> PartedBase:
        """The documents of a version.

        Raises
        ------
        VersionNotFound
        """
        base = self._base
        known = base.folder.versions() if isinstance(base, PartedBase) else []
        if not isinstance(base, PartedBase) or version not in known:
            shown = ", ".join(map(str, known))
            raise VersionNotFound(
                f"there is no version {version!r}",
                advice=f"the versions are {shown}"
                if known
                else "a collection that has several "
                "files keeps its last versions; see part_size and keep_versions",
            )
        return PartedBase(base.folder, read_manifest(base.folder.path, version))
