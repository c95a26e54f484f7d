"""Maintenance of one collection.

Docs and log messages share these terms.

- A *part* is a data file of a collection that is a folder.
- *Growing* turns a single file above `part_size` into a folder of parts.
- *Compaction* joins small parts, and rewrites parts with many superseded rows.
- *Packing* writes all parts into a single file again.
- *Restoring* makes an earlier version the current one, and keeps the current one as a version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from godb_arrow.directory.compaction import choose_parts, join_parts
from godb_arrow.engine.bulk import join_bases
from godb_arrow.engine.checkpointer import Checkpointer
from godb_arrow.engine.claims import check_files, validate_files
from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import (
    GodbError,
    InvalidOption,
    TargetExists,
    VersionNotFound,
    error_context,
)
from godb_arrow.query.fields import is_storable
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.overlay import Overlay
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.versions import VersionInfo, find_version, versions_of

if TYPE_CHECKING:
    from godb_arrow.snapshots.part_file import WrittenPart

__all__ = ["Maintainer"]

logger = logging.getLogger(__name__)
_MAX_TAG_CHARACTERS = 200


class Maintainer:
    """Rewrites files of a collection without changing its documents, and restores versions.

    Parameters
    ----------
    store : CollectionStore
        State of the collection.
    checkpointer : Checkpointer
        Its checkpoints.
    """

    def __init__(self, store: CollectionStore, checkpointer: Checkpointer) -> None:
        self._store = store
        self._checkpointer = checkpointer
        self._context = store.context

    # --- compaction ---------------------------------------------------------------------------

    def compact(self, *, thorough: bool = False, pause: Callable[[], bool] = lambda: False) -> int:
        """Merge small part files and drop deleted documents.

        Readers and writers continue.

        Parameters
        ----------
        thorough : bool
            Whether to drop all deleted documents and to merge all possible parts, default False.
        pause : callable
            Called after each step; returns whether to stop. Default never.

        Returns
        -------
        int
            Bytes of the files that were written.
        """
        written, storing = 0, self._checkpointer.storing
        while True:
            with storing(), error_context("compact", collection=self._store.name):
                step = self._compact_once(thorough)
            if step is None:
                return written
            written += step
            logger.debug("compacted %r: wrote %d bytes", self._store.name, step)
            if pause():
                return written

    def _compact_once(self, thorough: bool) -> int | None:
        """Merge some parts; return the bytes written, or None if no merge is worth its cost."""
        store, part_size = self._store, self._context.options.part_size
        with store.lock:
            base = store.base
            if store.is_dropped or not isinstance(base, PartedBase):
                return None
            chosen = choose_parts(base.manifest.parts, part_size, thorough=thorough)
            if chosen is None:
                return None
            # The saved state: changes since then may be in no file yet.
            snapshot = Snapshot(base, Overlay(), base.live, base.hint.position)
        stored, deleted, written = join_parts(snapshot, store.name, *chosen, part_size)
        with store.lock:
            overlay = store.overlay.renumbered(deleted)
            # One statement: no interrupt comes between. Before it, the next save replaces the
            # manifest that was written here.
            store.base, store.overlay = stored, overlay
        base.forget(stored)
        del base, snapshot
        self._checkpointer.sweep()
        return written

    def pack(self) -> None:
        """Write all documents into one file."""
        self._context.lifecycle.check_process()
        with self._store.lock:
            if not isinstance(self._store.base, PartedBase):
                return
            self._store.stale, self._store.form = True, "file"
        self._checkpointer.checkpoint()

    def to_folder(self) -> None:
        """Write the documents as a folder of parts."""
        self._context.lifecycle.check_process()
        if not isinstance(self._store.base, PartedBase):
            with self._store.lock:
                self._store.stale, self._store.form = True, "folder"
            self._checkpointer.checkpoint()

    # --- writers in other processes -----------------------------------------------------------

    def reserve_ids(self, count: int) -> int:
        """Reserve numbers for ids that other processes generate, and save the reservation.

        The collection becomes a folder of parts.

        Parameters
        ----------
        count : int
            How many numbers.

        Returns
        -------
        int
            The first number; the others follow it.
        """
        first = self._store.ids().reserve(count)
        with self._store.lock:
            self._store.stale, self._store.form = True, "folder"
        self._checkpointer.checkpoint()
        return first

    def commit_parts(self, written: Sequence[WrittenPart], *, replaces: bool) -> int:
        """Add files that other processes wrote: all at once, or none.

        Parameters
        ----------
        written : sequence of WrittenPart
            The files.
        replaces : bool
            Whether they replace all documents of the collection.

        Returns
        -------
        int
            Number of their documents.

        Raises
        ------
        DuplicateId
            Documents share an id, or have an id of the collection.
        """
        store, checkpointer = self._store, self._checkpointer
        self.to_folder()
        checkpointer.checkpoint()
        with checkpointer.storing(), store.lock, error_context("write", collection=store.name):
            store.check_present()
            base = store.base
            assert isinstance(base, PartedBase)
            self._check_saved()
            sequence = store.ids()
            for part in written:
                sequence.see_number(part.greatest)
            kept = replace(base.manifest, parts=()) if replaces else base.manifest
            before = PartedBase(base.folder, kept)
            number = base.folder.next_number()
            parts = [
                base.folder.give_number(part.token, part.part, number + index)
                for index, part in enumerate(written)
            ]
            schemas = [pa.ipc.read_schema(pa.py_buffer(part.schema)) for part in written]
            rows = [part.statistics for part in written]
            stamp = self._context.directory.stamp
            joined = join_bases(before, parts, rows, schemas, sequence.next_id, stamp)
            wanted = PartedBase(base.folder, joined[0])
            check_files(store, wanted, len(before.parts))
            validate_files(store, wanted, len(before.parts))
            checkpointer.commit_manifest(base, joined)
            base.forget(store.base)
        checkpointer.sweep()
        self._context.followers.acknowledge(None)
        return sum(part.documents for part in parts)

    def _check_saved(self) -> None:
        """Raise if another thread changed the collection since the checkpoint."""
        if len(self._store.overlay):
            raise GodbError("another thread changed the collection", advice="try again")

    # --- versions -----------------------------------------------------------------------------

    def versions(self) -> list[VersionInfo]:
        """Return the readable versions in order."""
        base = self._store.base
        return versions_of(base.folder) if isinstance(base, PartedBase) else []

    def version_base(self, version: int) -> PartedBase:
        """Return the documents of a version.

        Raises
        ------
        VersionNotFound
        """
        self._context.lifecycle.check_process()
        base = self._store.base
        known = _versions_in(base)
        if not isinstance(base, PartedBase) or version not in known:
            shown = ", ".join(map(str, known))
            advice = f"the versions are {shown}"
            if not known:
                advice = (
                    "a single file keeps no versions; "
                    'open the engine with versions="all", or tag it'
                )
            raise VersionNotFound(f"there is no version {version!r}", advice=advice)
        folder = base.folder
        if not folder.is_ours:  # a former collection of the same name may have other files
            folder = PartFolder(folder.memory, folder.path, is_ours=False)
        return PartedBase(folder, folder.manifest(version))

    def tag(self, tag: str, version: int | None) -> int:
        """Keep a version until its tag is removed, and return its number.

        Parameters
        ----------
        tag : str
            The tag.
        version : int or None
            Number of the version; None saves the documents of now.

        Raises
        ------
        TargetExists
            Another version has the tag.
        VersionNotFound
        """
        is_text = isinstance(tag, str) and 0 < len(tag) <= _MAX_TAG_CHARACTERS
        if not is_text or not is_storable(tag):
            raise InvalidOption(f"the tag is {tag!r}", advice="give a text of 1 to 200 characters")
        if version is None:
            self.to_folder()
            self._checkpointer.checkpoint()

        def tagged(base: PartedBase) -> dict[str, int]:
            chosen = base.manifest.version if version is None else version
            tags = dict(base.manifest.tags)
            if chosen not in _versions_in(base):
                self.version_base(chosen)  # raises
            if tags.setdefault(tag, chosen) != chosen:
                raise TargetExists(
                    f"version {tags[tag]} has the tag {tag!r}", advice="call untag() first"
                )
            return tags

        return self._set_tags("tag", tagged)[tag]

    def untag(self, tag: str) -> None:
        """Remove a tag; a later save may remove its version.

        Raises
        ------
        VersionNotFound
            No version has the tag.
        """

        def untagged(base: PartedBase) -> dict[str, int]:
            if tag not in base.manifest.tags:
                find_version(versions_of(base.folder), tag=tag)
            return {other: number for other, number in base.manifest.tags.items() if other != tag}

        self._set_tags("untag", untagged)
        self._checkpointer.sweep()

    def _set_tags(
        self, operation: str, change: Callable[[PartedBase], dict[str, int]]
    ) -> dict[str, int]:
        """Write a manifest with the same documents and other tags."""
        store, checkpointer = self._store, self._checkpointer
        self._context.lifecycle.check_process()
        with checkpointer.storing(), error_context(operation, collection=store.name), store.lock:
            store.check_present()
            store.prepare()
            base = store.base
            if not isinstance(base, PartedBase):
                raise VersionNotFound(
                    "a single file has no versions", advice="tag the documents of now"
                )
            tags = change(base)
            if tags != base.manifest.tags:
                manifest = replace(base.manifest, version=base.hint.version + 1, tags=tags)
                committed = manifest, base.part_statistics()
                checkpointer.commit_manifest(base, committed, has_changes=False)
                base.forget(store.base)
        self._context.followers.acknowledge(None)
        return tags

    def restore(self, version: int) -> None:
        """Return to a version; the current documents stay readable as the version before.

        Indexes, validation, lifetimes and compression return with the documents. Tags stay.

        Raises
        ------
        VersionNotFound
        """
        store, directory, checkpointer = self._store, self._context.directory, self._checkpointer
        checkpointer.checkpoint()
        with checkpointer.storing(), error_context("restore", collection=store.name), store.lock:
            store.check_present()
            self._check_saved()
            base = store.base
            earlier = self.version_base(version)
            position = store.position_of(base)
            manifest = replace(
                earlier.manifest,
                version=base.hint.version + 1,
                next_id=store.ids().next_id,
                record=position.number,
                run=position.run,
                rewrites=True,
                directory=directory.stamp,
                tags=base.manifest.tags if isinstance(base, PartedBase) else {},
            )
            assert isinstance(base, PartedBase)
            try:
                checkpointer.commit_manifest(base, (manifest, earlier.part_statistics()))
            finally:
                if store.base is not base:
                    store.forget_settings()  # the manifest records them
            base.forget(store.base)
            directory.journal.release(store, None)
        self._context.followers.acknowledge(None)


def _versions_in(base: Base) -> list[int]:
    """Return the readable versions of a collection.

    Raises
    ------
    SourceNotFound
        Another process removed the folder of the collection.
    """
    if not isinstance(base, PartedBase):
        return []
    return base.folder.versions() or [base.folder.current().version]
