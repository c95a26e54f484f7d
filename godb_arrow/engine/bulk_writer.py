"""Inserts and replacements of one collection that are larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import CHUNK_BYTES, Rows
from godb_arrow.documents.encoding import Encoded
from godb_arrow.documents.ids import pack_ids
from godb_arrow.engine.bulk import BulkInsert
from godb_arrow.engine.checkpointer import Checkpointer
from godb_arrow.engine.claims import check_files
from godb_arrow.engine.maintainer import Maintainer
from godb_arrow.engine.packed_ids import DocumentIds, PackedIds
from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import DuplicateId, GodbError, document_not_found, error_context
from godb_arrow.snapshots.deletions import IdRows
from godb_arrow.snapshots.overlay import Overlay
from godb_arrow.snapshots.parted_base import PartedBase

__all__ = ["BulkWriter"]


_PARTS_PER_LIMIT = 8  # parts of a bulk insert that fit into the memory limit
_MAX_REPLACE_ATTEMPTS = 3  # until other threads leave the documents unchanged


class BulkWriter:
    """Writes documents as files of a collection: all of them or, on an error, none.

    Parameters
    ----------
    store, checkpointer, maintainer
        Components of the collection.
    """

    def __init__(
        self, store: CollectionStore, checkpointer: Checkpointer, maintainer: Maintainer
    ) -> None:
        self._store = store
        self._checkpointer = checkpointer
        self._maintainer = maintainer
        self._context = store.context

    def insert(self, encoded: Iterator[Encoded], schema: pa.Schema | None) -> DocumentIds:
        """Insert documents.

        No lock is held while the documents are read: their source may be slow, and may itself use
        the collection.

        Parameters
        ----------
        encoded : iterator of Encoded
            The documents.
        schema : pyarrow.Schema or None
            Their schema, if known.

        Returns
        -------
        DocumentIds

        Raises
        ------
        DuplicateId
        """
        store, checkpointer = self._store, self._checkpointer
        self._maintainer.to_folder()
        checkpointer.checkpoint()  # frees deleted ids in the files, too
        with store.lock:
            store.check_present()
            base = store.base
            pin = base.pin()  # keeps the files while the documents are read
        assert isinstance(base, PartedBase)
        bulk = self._begin(base, schema)
        try:
            for documents in encoded:
                bulk.add(documents)
            bulk.finish()
            with checkpointer.storing(), error_context("insert", collection=store.name):
                checkpointer.checkpoint_now()
                with store.lock:
                    store.check_present()
                    if bulk.has_any(store.overlay.deleted()) or (
                        store.constraints() is not None and len(store.overlay)
                    ):
                        checkpointer.checkpoint_now()  # while writers wait
                    self._check_new(bulk)
                    before = store.base
                    assert isinstance(before, PartedBase)
                    next_id = store.id_sequence().next_id
                    wanted = bulk.joined(before, next_id, self._context.directory.stamp)
                    check_files(store, PartedBase(before.folder, wanted[0]), len(before.parts))
                    max_given_id = max(store.max_given_id, bulk.greatest)
                    checkpointer.commit_manifest(before, wanted)
                    store.max_given_id = max_given_id
        finally:
            bulk.discard()
            del pin
            self._context.memory.tidy()
        before.forget(store.base)
        checkpointer.sweep()
        self._context.followers.acknowledge(None)
        return bulk.ids()

    def _check_new(self, bulk: BulkInsert) -> None:
        """Raise if another thread inserted an id of a bulk meanwhile."""
        store = self._store
        versions = store.freeze().unsaved.versions()
        present = [identity for identity, version in versions.items() if version is not None]
        present += [str(number) for number in store.overlay.generated_ids()]
        base = store.base
        assert isinstance(base, PartedBase)
        repeated = bulk.has_any(present) or bulk.added_since(base)
        if repeated:
            raise DuplicateId(
                repeated, advice="omit these documents, which were inserted meanwhile"
            )

    def replace(self, ids: PackedIds, make: Callable[[str, bytes], bytes]) -> None:
        """Replace documents: new files have them, and the manifest deletes the former ones.

        Parameters
        ----------
        ids : PackedIds
            Document ids, each once.
        make : callable
            Makes the bytes of a document from its id and its former bytes.

        Raises
        ------
        DocumentNotFound
        """
        self._maintainer.to_folder()
        for _ in range(_MAX_REPLACE_ATTEMPTS):
            self._checkpointer.checkpoint()  # moves the documents from the overlay to files
            if self._replace_stored(ids, make):
                break
        else:
            raise GodbError("other threads change the documents meanwhile", advice="try again")
        self._checkpointer.sweep()
        self._context.followers.acknowledge(None)

    def _replace_stored(self, ids: PackedIds, make: Callable[[str, bytes], bytes]) -> bool:
        """Replace saved documents; return False if a document has changed since."""
        store, checkpointer = self._store, self._checkpointer
        with store.lock:
            store.check_present()
            base = store.base
        assert isinstance(base, PartedBase)
        found = IdRows()
        for texts in ids.texts():
            found.add(base, texts)
        if found.missing is not None:
            raise document_not_found(found.missing, advice="nothing was changed")
        # A file of another program may have an id twice; the last one counts.
        rows = np.sort(found.last_rows())
        deleted = found.rows()
        del found
        bulk = self._begin(base, None)
        try:
            for encoded in _made(base, rows, make):
                bulk.add(encoded, replacing=True)
            bulk.finish()
            with checkpointer.storing(), store.lock:
                store.check_present()
                if store.base is not base or _has_any(store.overlay, ids):
                    return False
                if store.constraints() is not None and len(store.overlay):
                    return False
                next_id, stamp = store.id_sequence().next_id, self._context.directory.stamp
                joined = bulk.joined(base, next_id, stamp, deleted)
                check_files(store, PartedBase(base.folder, joined[0]), len(base.parts))
                checkpointer.commit_manifest(base, joined)
        finally:
            bulk.discard()
        base.forget(store.base)
        return True

    def _begin(self, base: PartedBase, schema: pa.Schema | None) -> BulkInsert:
        limit = self._context.memory.limit // _PARTS_PER_LIMIT
        part_bytes = min(self._context.options.part_size, limit)
        return BulkInsert(base, self._store.name, schema, part_bytes, self._checkpointer.storing)


def _has_any(overlay: Overlay, ids: PackedIds) -> bool:
    """Return whether an overlay changes any of some documents."""
    return len(overlay) > 0 and any(overlay.find_any(dict.fromkeys(some)) for some in ids.texts())


def _made(base: PartedBase, rows: Rows, make: Callable[[str, bytes], bytes]) -> Iterator[Encoded]:
    """Yield new documents for sorted rows of a base, as runs of entries."""
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
