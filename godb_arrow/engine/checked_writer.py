"""Changes that were computed from a state of a collection, and fail if the collection changed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

from godb_arrow import codec
from godb_arrow.documents.encoding import (
    Encoded,
    check_document_size,
    check_sizes,
    encode_rows,
    join_chunks,
)
from godb_arrow.documents.ids import identify, ids_of, number_of
from godb_arrow.documents.rows import rows_of
from godb_arrow.engine.claims import (
    claim_run,
    prepare_constraints,
    prepare_ids,
    validate,
    validated,
)
from godb_arrow.engine.inserter import is_used
from godb_arrow.engine.pending import are_few, plan_put
from godb_arrow.engine.saver import Reservation, Saver
from godb_arrow.engine.store import CollectionStore
from godb_arrow.engine.writer import naming_document, popped, record_of
from godb_arrow.errors import DuplicateId
from godb_arrow.snapshots.entry_runs import scan
from godb_arrow.snapshots.overlay import bulk_weight, weight

__all__ = ["CheckedWriter"]


class CheckedWriter:
    """Writes documents of a collection, unless it changed since a version.

    Parameters
    ----------
    store : CollectionStore
        State of the collection.
    saver : Saver
        Reserves memory.
    """

    def __init__(self, store: CollectionStore, saver: Saver) -> None:
        self._store = store
        self._saver = saver
        self._context = store.context

    def reserved(self, size: int) -> Reservation:
        """Reserve memory for changed documents of some bytes; the caller holds no lock."""
        return self._saver.reserved(size)

    def encoded(self, documents: list[dict[Any, Any]]) -> list[Encoded]:
        """Encode documents that have an id.

        Raises
        ------
        InvalidDocument, DocumentTooLarge
        """
        limit = self._context.options.max_document_bytes
        rows = rows_of(documents, None)
        return [*encode_rows(rows, None, False, self._store.ids(), max_document_bytes=limit)]

    def patched(self, data: bytes, count: int) -> Encoded:
        """Return documents that were changed in MessagePack.

        Raises
        ------
        DocumentTooLarge
        """
        entries = scan(data, count)
        ids = ids_of(entries)
        sizes = np.diff(np.frombuffer(entries.bounds, np.int64)[::2])
        check_sizes(sizes, ids, self._context.options.max_document_bytes)
        return Encoded(data, ids, given=True, bounds=entries.bounds)

    def put_back(
        self,
        encoded: list[Encoded],
        ids: list[str],
        version: int,
        *,
        is_reserved: bool = False,
    ) -> bool:
        """Replace documents at once, unless the collection changed since a version.

        Parameters
        ----------
        encoded : list of Encoded
            New documents, each with the id of an existing one, once. The list is emptied.
        ids : list of str
            Their ids.
        version : int
            Number of changes of the collection when the documents were read.
        is_reserved : bool
            Whether the caller reserved memory, default False.

        Returns
        -------
        bool
            Whether the documents were replaced.
        """
        store = self._store
        chunk = join_chunks(validated(store, popped(encoded)))
        entries = scan(chunk, len(ids))
        if are_few(ids, None):
            size = sum(weight(key, entries.document(index)) for index, key in enumerate(ids))
        else:
            size = bulk_weight(entries, ids)
        prepare_ids(store)
        prepare_constraints(store)
        with nullcontext() if is_reserved else self._saver.reserved(size), store.lock:
            store.check_present()
            store.prepare()
            if store.changes != version:
                return False
            changed = store.overlay.find_any(dict.fromkeys(ids))
            stored = store.base.rows_of([key for key in ids if key not in changed])
            superseded = [row for found in stored.values() for row in found]
            claims = claim_run(store, entries, ids)
            number = store.commit(
                record_of(store, len(ids), None) | {"u": True},
                [chunk],
                plan_put(store.overlay, entries, ids, None, superseded),
                len(stored) - len(superseded),  # a file of another program may have an id twice
                claims,
            )
        self._context.sync(number)
        return True

    def insert_new(
        self, document: dict[Any, Any], version: int, *, is_reserved: bool = False
    ) -> str | None:
        """Insert a document, unless the collection changed since a version.

        Parameters
        ----------
        document : dict
            The document, with or without an id.
        version : int
            Number of changes of the collection when it was read.
        is_reserved : bool
            Whether the caller reserved memory, default False.

        Returns
        -------
        str or None
            Document id; None if the collection changed.
        """
        store = self._store
        identity, made, given = identify(document, store.ids())
        with naming_document(identity):
            raw = codec.pack(made)
        check_document_size(identity, raw, self._context.options.max_document_bytes)
        validate(store, identity, raw)
        size = weight(identity, raw)
        with nullcontext() if is_reserved else self._saver.reserved(size), store.lock:
            store.check_present()
            store.prepare()
            if store.changes != version:
                return None
            if is_used(store, identity, number_of(identity) or 0, given=given):
                raise DuplicateId([identity], advice="update the document by its id")
            number = store.write_few({identity: raw}, [], 1)
        self._context.sync(number)
        return identity
