"""Changes of many documents of one collection: all of them or, on an error, none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.display import kind_of
from godb_arrow.documents.encoding import Encoded, check_document_size, encode_rows, join_chunks
from godb_arrow.documents.ids import id_of, repeated_ids, texts_of
from godb_arrow.documents.rows import rows_of, stored_schema
from godb_arrow.documents.value_types import take_value_fields, with_value_types
from godb_arrow.engine.bulk_writer import BulkWriter
from godb_arrow.engine.claims import (
    claim_run,
    prepare_constraints,
    prepare_ids,
    validate,
    validated,
)
from godb_arrow.engine.packed_ids import PackedIds
from godb_arrow.engine.pending import are_few, plan_put
from godb_arrow.engine.saver import Saver
from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import (
    DuplicateId,
    InvalidDocument,
    InvalidUpdate,
    document_not_found,
)
from godb_arrow.memory.limit import Counted
from godb_arrow.query.update import Update, has_operators
from godb_arrow.query.value_order import identity_of
from godb_arrow.recorded_schema import describe_schema
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.layers import Version
from godb_arrow.snapshots.overlay import bulk_weight, weight

__all__ = [
    "CollectionWriter",
    "naming_document",
    "popped",
    "record_of",
    "replaced_in",
    "replacement",
]


_CROWD_DIVISOR = 8  # part of the limit for an insert, one in so many, beside many others
_BYTES_PER_GIVEN_ID = 250  # of memory, for the id of an unsaved document
_BYTES_PER_GENERATED_ID = 16

Change = Callable[[str, bytes], dict[Any, Any]]
"""Makes a document from its id and its former bytes."""


class CollectionWriter:
    """Inserts, replaces and deletes documents of a collection.

    Parameters
    ----------
    store : CollectionStore
        State of the collection.
    saver : Saver
        Reserves memory.
    bulk : BulkWriter, optional
        Writes documents that exceed memory, default none: they are refused.
    """

    def __init__(
        self, store: CollectionStore, saver: Saver, bulk: BulkWriter | None = None
    ) -> None:
        self._store = store
        self._bulk = bulk
        self._saver = saver
        self._context = store.context

    def is_larger_than_memory(self, size: int) -> bool:
        """Return whether documents of some bytes are written as files at once, if they may be."""
        memory = self._context.memory
        # Other threads collect documents, too.
        limit = memory.limit // (2 if memory.writes <= memory.limit // 2 else _CROWD_DIVISOR)
        return self._bulk is not None and size > limit

    # --- inserting ----------------------------------------------------------------------------

    def insert_many(
        self, operation: str, data: Any, id_column: str | None, omit_nulls: bool, *, replace: bool
    ) -> Sequence[str]:
        """Insert documents.

        Parameters
        ----------
        operation : str
            The verb, for errors.
        data, id_column, omit_nulls
            See :meth:`Collection.insert_many`.
        replace : bool
            Whether documents replace those with the same ids.

        Returns
        -------
        sequence of str
            Document ids.
        """
        store, memory = self._store, self._context.memory
        with store.writing(operation):
            rows = rows_of(data, id_column)
            schema, carriers = None, frozenset[str]()
            if rows.schema is not None:
                schema, carriers = take_value_fields(_with_id_field(stored_schema(rows.schema)))
            encoded: list[Encoded] = []
            counted = Counted(memory)
            size = 0
            limit = self._context.options.max_document_bytes
            runs = encode_rows(rows, id_column, omit_nulls, store.ids(), max_document_bytes=limit)
            runs = validated(store, runs)
            for run in runs:
                encoded.append(run)
                id_bytes = _BYTES_PER_GIVEN_ID if run.given else _BYTES_PER_GENERATED_ID
                size += len(run.chunk) + len(run.ids) * id_bytes
                counted.add(writes=len(run.chunk))
                if not replace and self.is_larger_than_memory(size):
                    assert self._bulk is not None
                    collected = _uncounted(popped(encoded), counted)
                    return self._bulk.insert(chain(collected, runs), schema)
                if size > memory.limit:
                    with self._saver.reserved(size):
                        pass  # raises before all documents are read
                self._saver.relieve()
            if not encoded:
                if schema is not None:
                    self._keep_columns(schema)
                return []
            ids = [text for run in encoded for text in run.texts or texts_of(run.ids)]
            packed = pa.chunked_array([run.ids for run in encoded]).combine_chunks()
            given = any(run.given for run in encoded)
            del run
            joined = Encoded(join_chunks(popped(encoded)), packed, given)
            counted.release()  # The change reserves its bytes.
            if schema is not None:
                schema = with_value_types(schema, carriers, joined.entries())
            self._put(joined, ids, schema, replace=replace)
            return ids

    def _keep_columns(self, schema: pa.Schema) -> None:
        """Keep the columns of a table without rows, if the collection has no documents."""
        store = self._store
        with store.lock:
            store.check_present()
            store.prepare()
            if store.count or store.freeze().schema().equals(schema, check_metadata=True):
                return
            number = store.set_columns(schema)
        self._context.sync(number)

    def _put(
        self, encoded: Encoded, ids: list[str], schema: pa.Schema | None, *, replace: bool
    ) -> None:
        entries = encoded.entries()
        given = encoded.given
        if not given and not are_few(ids, None) and int(ids[-1]) - int(ids[0]) == len(ids) - 1:
            if self._put_range(ids, entries, schema, encoded.chunk):
                return
            given = True
        if are_few(ids, schema):
            size = sum(weight(key, entries.document(index)) for index, key in enumerate(ids))
        else:
            size = bulk_weight(entries, ids)
        with self._saver.reserved(size):
            number = self._put_reserved(encoded, entries, ids, schema, given, replace)
        self._context.sync(number)

    def _put_reserved(
        self,
        encoded: Encoded,
        entries: codec.Entries,
        ids: list[str],
        schema: pa.Schema | None,
        given: bool,
        replace: bool,
    ) -> int | None:
        """Put documents for which memory is reserved; return the sequence number."""
        store = self._store
        positions = dict.fromkeys(ids)
        if len(positions) < len(ids) and not replace:
            raise DuplicateId(repeated_ids(ids))
        sequence = store.ids()
        max_id = codec.survey_ids(encoded.ids)[1]
        if given:
            sequence.see_number(max_id)
            prepare_ids(store)
        prepare_constraints(store)
        with store.lock:
            store.check_present()
            if given:
                store.max_given_id = max(store.max_given_id, max_id)
            # A generated id is unused unless a caller inserted the same number explicitly.
            given = given or int(ids[0]) <= store.max_given_id
            changed = store.overlay.find_any(positions)
            superseded = store.base.rows_of(positions) if given else {}
            for identity in changed:
                superseded.pop(identity, None)
            present = {key for key, version in changed.items() if version is not None}
            present.update(superseded)
            if present and not replace:
                raise DuplicateId(
                    sorted(present),
                    advice="replace them with upsert_many, or omit them",
                )
            claims = claim_run(store, entries, ids)
            rows = [row for found in superseded.values() for row in found]
            repeated = sum(len(found) - 1 for found in superseded.values())
            return store.commit(
                record_of(store, len(ids), schema) | replaced_in(ids, present),
                [encoded.chunk],
                plan_put(store.overlay, entries, ids, schema, rows),
                len(positions) - len(present) - repeated,
                claims,
            )

    def _put_range(
        self, ids: list[str], entries: codec.Entries, schema: pa.Schema | None, chunk: bytes
    ) -> bool:
        """Put documents with generated ids; return False if a caller may have chosen one."""
        store, first_id = self._store, int(ids[0])
        prepare_constraints(store)
        with self._saver.reserved(bulk_weight(entries)), store.lock:
            store.check_present()
            if first_id <= store.max_given_id:
                return False
            claims = claim_run(store, entries, ids)
            meta = record_of(store, len(entries), schema) | {"g": first_id}
            plan = store.overlay.plan_range(first_id, entries, schema)
            number = store.commit(meta, [chunk], plan, len(entries), claims)
        self._context.sync(number)
        return True

    # --- replacing ----------------------------------------------------------------------------

    def update(self, changes: Mapping[str, Mapping[Any, Any]]) -> dict[str, dict[Any, Any]]:
        """Merge fields into documents.

        Parameters
        ----------
        changes : mapping of str to mapping
            Fields by document id.

        Returns
        -------
        dict of str to dict
            New documents by id; empty if they are larger than memory.
        """
        for key, fields in changes.items():
            if not isinstance(fields, Mapping):
                raise InvalidDocument(
                    f"the fields of {key!r} are {kind_of(fields)}", advice="give a mapping"
                )
            if ID_FIELD in fields and id_of(fields[ID_FIELD], f"document {key!r}") != key:
                raise InvalidDocument(
                    f"the fields of {key!r} have another id", advice="an id never changes"
                )

        merging = {key: _merging(fields) for key, fields in changes.items()}

        def merge(key: str, before: bytes) -> dict[Any, Any]:
            document = codec.with_id(codec.load(before), key)
            return codec.with_id(merging[key](document), key)

        return self.replace(list(merging), merge, "update")

    def replace(self, ids: list[str], change: Change, operation: str) -> dict[str, dict[Any, Any]]:
        """Replace documents.

        Parameters
        ----------
        ids : list of str
            Document ids, each once.
        change : callable
            Makes a document from its id and its former bytes. Called without a lock.
        operation : str
            The verb, for errors.

        Returns
        -------
        dict of str to dict
            New documents by id; empty if they are larger than memory.
        """
        store = self._store
        with store.writing(operation):
            with store.pinned_base() as base:  # before the lock is taken, so that no thread waits
                base.documents()
                base.prepare_ids()
            prepare_constraints(store)
            while True:
                with store.lock:
                    store.check_present()
                    store.prepare()
                    before = self._state_of(ids)
                    present, superseded, stored = self._present(ids)
                documents: dict[str, dict[Any, Any]] = {}
                packed: dict[str, bytes] = {}
                size = 0
                for key in ids:
                    if key not in present:
                        raise document_not_found(key)
                    documents[key], packed[key] = self._changed(key, present[key], change)
                    size += weight(key, packed[key])
                    if len(ids) > 1 and self.is_larger_than_memory(size):
                        del present, documents, packed
                        packed_ids = PackedIds.of(self._context.memory, ids)
                        self.replace_in_files(packed_ids, change)
                        return {}
                with self._saver.reserved(size), store.lock:
                    store.check_present()
                    if self._state_of(ids) != before:
                        continue  # another thread changed or saved a document
                    # A file of another program may have an id twice.
                    number = store.write_few(packed, superseded, stored - len(superseded))
                self._context.sync(number)
                return documents

    def _state_of(self, ids: Iterable[str]) -> tuple[Base, dict[str, Version]]:
        """Return a value that is equal as long as no thread changes or saves some documents."""
        return self._store.base, self._store.overlay.find_any(dict.fromkeys(ids))

    def _present(self, ids: Iterable[str]) -> tuple[dict[str, bytes], list[int], int]:
        """Return the bytes of existing documents, their rows in the base, and how many it has."""
        wanted = dict.fromkeys(ids)
        overlay = self._store.overlay
        changed: dict[str, Version] = overlay.find_any(wanted)
        found = {
            key: overlay.document(version)
            for key, version in changed.items()
            if version is not None
        }
        stored = self._store.base.find_all([key for key in wanted if key not in changed])
        found.update((key, raw) for key, (_, raw) in stored.items())
        return found, [row for rows, _ in stored.values() for row in rows], len(stored)

    def _changed(self, key: str, before: bytes, change: Change) -> tuple[dict[Any, Any], bytes]:
        """Return the new document, and its bytes."""
        with naming_document(key):
            document = change(key, before)
            raw = codec.pack(document)
        check_document_size(key, raw, self._context.options.max_document_bytes)
        validate(self._store, key, raw)
        return document, raw

    def swap(self, key: str, expected: Mapping[Any, Any], document: Mapping[Any, Any]) -> bool:
        """Replace a document if it equals an expected one; return whether it did."""
        if not isinstance(expected, Mapping):
            raise InvalidDocument(
                f"the expected document is {kind_of(expected)}", advice="give a mapping"
            )
        made = replacement(key, document)
        wanted = identity_of(codec.load(codec.pack(codec.with_id(dict(expected), key))))

        def change(_: str, before: bytes) -> dict[Any, Any]:
            if identity_of(codec.with_id(codec.load(before), key)) != wanted:
                raise _OtherDocument
            return made

        try:
            self.replace([key], change, "replace")
        except _OtherDocument:
            return False
        return True

    def replace_in_files(self, ids: PackedIds, change: Change) -> None:
        """Replace more documents than memory has room for."""
        assert self._bulk is not None
        self._bulk.replace(ids, lambda key, raw: self._changed(key, raw, change)[1])


def record_of(store: CollectionStore, count: int, schema: pa.Schema | None) -> dict[str, Any]:
    """Return the description of a journal record with a number of documents."""
    meta: dict[str, Any] = {"op": "write", "n": store.id_sequence().next_id, "k": [count]}
    if schema is not None:
        meta["f"] = describe_schema(schema)
    return meta


def replaced_in(ids: Sequence[str], present: Collection[str]) -> dict[str, Any]:
    """Return what a record says of the documents that it replaces.

    Parameters
    ----------
    ids : sequence of str
        Ids of the documents in the record.
    present : collection of str
        Ids that have a document already.
    """
    if not present and len(set(ids)) == len(ids):
        return {}
    seen = set(present)
    flags = []
    for identity in ids:
        flags.append(identity in seen)
        seen.add(identity)
    return {"u": True if all(flags) else np.packbits(flags).tobytes()}


class _OtherDocument(Exception):
    """Signal that a document is not the expected one."""


def replacement(key: str, document: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a new document with the id of the former one.

    Raises
    ------
    InvalidDocument
        The document is no mapping, or has another id.
    """
    if not isinstance(document, Mapping):
        raise InvalidDocument(f"the document is {kind_of(document)}", advice="give a mapping")
    if ID_FIELD in document and id_of(document[ID_FIELD], f"document {key!r}") != key:
        raise InvalidDocument(
            f"the document that replaces {key!r} has the id {document[ID_FIELD]!r}",
            advice="an id never changes; insert the document, and delete the other",
        )
    return codec.with_id(dict(document), key)


def _merging(fields: Mapping[Any, Any]) -> Callable[[dict[Any, Any]], dict[Any, Any]]:
    """Return a function that merges fields into a document, or applies operators to it."""
    if not has_operators(fields):
        plain = dict(fields)
        return lambda document: document | plain
    update = Update(fields)

    def changed(document: dict[Any, Any]) -> dict[Any, Any]:
        update.apply(document)
        return document

    return changed


@contextmanager
def naming_document(identity: str) -> Iterator[None]:
    """Add the document id to an error about its content."""
    try:
        yield
    except (InvalidDocument, InvalidUpdate) as error:
        error.message = f"document {identity!r}: {error.message}"
        raise


def popped(items: list[Encoded]) -> Iterator[Encoded]:
    """Yield the items, which the list does not have any longer."""
    while items:
        yield items.pop(0)


def _uncounted(items: Iterator[Encoded], counted: Counted) -> Iterator[Encoded]:
    for item in items:
        counted.add(writes=-len(item.chunk))
        yield item
        del item


def _with_id_field(schema: pa.Schema) -> pa.Schema:
    if ID_FIELD in schema.names:
        return schema
    return pa.schema([pa.field(ID_FIELD, pa.string()), *schema], metadata=schema.metadata)
