"""A collection's verbs: reading, finding, inserting, changing, deleting."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Unpack

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.predicate import Predicate
from godb_arrow.documents.encoding import Encoded, check_document_size, encode_rows
from godb_arrow.documents.ids import id_of, identify, with_id
from godb_arrow.documents.rows import rows_of, stored_schema
from godb_arrow.engine.maintenance import PartedStore
from godb_arrow.errors import (
    DocumentNotFound,
    DuplicateId,
    InvalidDocument,
    InvalidOption,
    error_context,
)
from godb_arrow.file.explanation import Explanation
from godb_arrow.options import ReadKeywords, ReadOptions
from godb_arrow.query.filters import Filter, RowFilter, compiled
from godb_arrow.query.scannable import Scannable
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.find import check_named, count_matching, explain, matching, pick
from godb_arrow.snapshots.indexes import check_indexable
from godb_arrow.snapshots.overlay import weight
from godb_arrow.snapshots.pages import Page, page_after
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.streaming import BatchStream, DocumentStream
from godb_arrow.snapshots.versions import CollectionVersion, VersionInfo, versions_of

__all__ = ["Collection"]


_TRIES = 3
Change = Callable[[str, bytes], dict[Any, Any]]
"""Makes a document of an id and the bytes of the document before."""
_PER_GIVEN_ID = 250  # bytes of memory for the id of an unsaved document, about


class Collection(PartedStore, Scannable):
    """A collection of an engine.

    It is made by :class:`~godb_arrow.StorageEngine`; a handle stays good when the collection is
    renamed, and raises :class:`~godb_arrow.CollectionNotFound` when it was dropped.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
    >>> users = engine.create_collection("users")
    >>> users.insert({"name": "Ada", "age": 36})
    '1'
    >>> users.get("1")
    {'_id': '1', 'name': 'Ada', 'age': 36}
    >>> len(users)
    1
    >>> engine.close()
    """

    # --- reading ------------------------------------------------------------------------------

    def get(self, identity: str | int) -> dict[Any, Any]:
        """One document by its id.

        Parameters
        ----------
        identity : str or int
            The document id.

        Returns
        -------
        dict

        Raises
        ------
        DocumentNotFound
            There is no such document.
        """
        key = id_of(identity, "the document to get")
        with self._reading():
            found = self._find(key)
            if found is None:
                raise _not_found(key)
            return with_id(codec.load(found), key)

    def __contains__(self, identity: object) -> bool:
        if not isinstance(identity, (str, int)) or isinstance(identity, bool):
            return False
        with self._reading():
            return self._find(str(identity)) is not None

    def find(
        self,
        filter: Filter | None = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[dict[Any, Any]]:
        """The documents that a filter keeps.

        Parameters
        ----------
        filter : pyarrow.compute.Expression or mapping, optional
            Which documents; ``{"city": "Berlin"}`` stands for an equality, a list for any of
            its values, None for null or absent.
        columns : sequence of str, optional
            Fields to give, and dotted paths into maps; all, if left out.
        limit : int, optional
            How many documents at most.
        offset : int
            How many to leave out before.

        Returns
        -------
        list of dict

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.find({"name": "Ada"}, columns=["age"])
        [{'age': 36}]
        >>> engine.close()
        """
        for name, value in (("limit", limit), ("offset", offset)):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < 0
            ):
                raise InvalidOption(f"{name} is {value!r}", advice="give a whole number")
        with self.find_all_stream(filter, columns=columns) as stream:
            found: list[dict[Any, Any]] = []
            if limit == 0:
                return found
            for position, document in enumerate(stream):
                if position >= offset:
                    found.append(document)
                    if limit is not None and len(found) == limit:
                        break
            return found

    def find_all(self) -> list[dict[Any, Any]]:
        """All documents; :meth:`find_all_stream` gives them one by one."""
        return self.find()

    def find_page(
        self, filter: Filter | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> Page:
        """A page of documents in the order of their ids.

        Parameters
        ----------
        filter : pyarrow.compute.Expression or mapping, optional
            Which documents.
        limit : int
            How many documents at most, from 1.
        cursor : str, optional
            The cursor of the page before; it stays good whatever changes in between.

        Returns
        -------
        Page

        Raises
        ------
        InvalidCursor
            The cursor is not one that a page had.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> page = users.find_page(limit=1)
        >>> page.documents
        [{'_id': '1', 'name': 'Ada', 'age': 36}]
        >>> users.find_page(cursor=page.cursor).documents
        [{'_id': '2', 'name': 'Bob', 'age': 41}]
        >>> engine.close()
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidOption(f"limit is {limit!r}", advice="give a whole number of at least 1")
        snapshot = self.snapshot()
        with error_context("read", collection=self._name):
            snapshot.base.documents()
            return page_after(snapshot, cursor, limit, filter, self.indexes)

    def find_all_stream(
        self, filter: Filter | None = None, *, columns: Sequence[str] | None = None
    ) -> DocumentStream:
        """The documents one by one, in constant memory; an iterator, also with ``async for``.

        Parameters
        ----------
        filter, columns
            As for :meth:`find`.

        Returns
        -------
        DocumentStream
            It sees the collection as it was when it was opened.
        """
        if isinstance(columns, str):
            raise InvalidOption(f"columns is the string {columns!r}", advice="give a list of names")
        shape = None if columns is None else lambda document: pick(document, columns)
        return DocumentStream(
            self.snapshot(),
            self._name,
            condition=filter,
            indexed=self.indexes,
            shape=shape,
            opened=self._services.streams,
        )

    def __iter__(self) -> Iterator[dict[Any, Any]]:
        return iter(self.find_all_stream())

    def count(self, filter: Filter | None = None) -> int:
        """How many documents there are, or that a filter keeps."""
        if filter is None:
            return len(self)
        snapshot = self.snapshot()
        with error_context("read", collection=self._name):
            return count_matching(snapshot, filter, self.indexes)

    def stream(
        self,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        schema: pa.Schema | None = None,
        **options: Unpack[ReadKeywords],
    ) -> BatchStream:
        """The documents as record batches, in constant memory.

        Parameters
        ----------
        columns, filter, schema, **options
            As for :func:`~godb_arrow.scan_godb`.

        Returns
        -------
        BatchStream
            An iterator, also with ``async for``; ``reader()`` makes a
            ``pyarrow.RecordBatchReader`` of it. It sees the collection as it was when it was
            opened.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> [batch.num_rows for batch in users.stream(columns=["age"])]
        [2]
        >>> engine.close()
        """
        options.setdefault(
            "threads", self._services.options.threads or self._services.memory.threads
        )
        return BatchStream(
            self.snapshot(),
            self._name,
            columns=columns,
            condition=filter,
            schema=schema,
            options=ReadOptions(**options),
            indexed=self.indexes,
            opened=self._services.streams,
        )

    def stream_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        schema: pa.Schema | None = None,
        **options: Unpack[ReadKeywords],
    ) -> pa.RecordBatchReader:
        """The documents as a ``pyarrow.RecordBatchReader``; see :meth:`stream`."""
        return self.stream(columns, filter, schema, **options).reader()

    def _entries(self) -> tuple[pa.Schema, Iterator[codec.Entries]]:
        snapshot = self.snapshot()
        return snapshot.schema(), snapshot.entries()

    @property
    def schema(self) -> pa.Schema:
        """The schema of the record batches."""
        with error_context("read", collection=self._name):
            return self.snapshot().schema()

    def versions(self) -> list[VersionInfo]:
        """The saved states that can be read: of a collection that has several files the last ones.

        Returns
        -------
        list of VersionInfo
            In order; the last one is what was saved last.
        """
        self._services.check_open()
        return self._current(self._find_versions)

    def _find_versions(self) -> list[VersionInfo]:
        base = self._base
        return versions_of(base.folder) if isinstance(base, PartedBase) else []

    def at_version(self, version: int) -> CollectionVersion:
        """The collection as it was saved once.

        Parameters
        ----------
        version : int
            As :meth:`versions` has it.

        Returns
        -------
        CollectionVersion

        Raises
        ------
        VersionNotFound
            There is no such version, or not any more.
        """
        with self._reading():
            return self._current(lambda: CollectionVersion(self._name, self.version_base(version)))

    def explain(self, filter: Filter | None = None) -> Explanation:
        """How a filter would be evaluated, and whether an index helps."""
        snapshot = self.snapshot()
        with error_context("explain", collection=self._name):
            return explain(snapshot, filter, self.indexes)

    # --- changing -----------------------------------------------------------------------------

    def insert(self, document: Mapping[Any, Any]) -> str:
        """Insert a document.

        Parameters
        ----------
        document : mapping
            With an ``_id`` of its own, or without: then it gets a number that none had before.

        Returns
        -------
        str
            The document id.

        Raises
        ------
        DuplicateId
            There is a document with that id.
        InvalidDocument
            A value cannot be stored.
        """
        with self._writing("insert"):
            identity, made, given = identify(document, self._ids())
            with _named(identity):
                raw = codec.pack(made)
            check_document_size(identity, raw, self._services.options.max_document_bytes)
            with self._services.reserved(weight(identity, raw)), self._lock:
                self._check_there()
                if self._has(identity, given):
                    raise DuplicateId(
                        [identity], advice="replace it with upsert_many, or leave it out"
                    )
                number = self._write_few({identity: raw}, [], 1)
            self._sync(number)
            return identity

    def insert_many(
        self, data: Any, *, id_column: str | None = None, omit_nulls: bool = False
    ) -> Sequence[str]:
        """Insert documents: all of them or, on an error, none.

        Parameters
        ----------
        data : iterable of dicts, DataFrame, Table, RecordBatchReader or Arrow stream
            The documents. Where they are more than memory holds, they become files of the
            collection as they come, and are there when the last one has come.
        id_column : str, optional
            The field with the ids, strings or integers, in place of ``_id``.
        omit_nulls : bool
            Leave nulls of a table out of the documents, instead of storing nil.

        Returns
        -------
        sequence of str
            The document ids: a list or, of very many documents, something that takes less memory.

        Raises
        ------
        DuplicateId
            Ids occur twice, or are there already.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> import pandas as pd
        >>> users.insert_many(pd.DataFrame({"name": ["Ada", "Bob"]}))
        ['1', '2']
        >>> engine.close()
        """
        return self._insert_all("insert", data, id_column, omit_nulls, replace=False)

    def upsert_many(
        self, data: Any, *, id_column: str | None = None, omit_nulls: bool = False
    ) -> Sequence[str]:
        """Insert documents, in place of those that have the same id: all or none.

        Parameters
        ----------
        data, id_column, omit_nulls
            As for :meth:`insert_many`.

        Returns
        -------
        list of str
            The document ids.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.upsert_many([{"_id": 2, "name": "Bo"}, {"_id": 3, "name": "Cy"}])
        ['2', '3']
        >>> len(users)
        3
        >>> engine.close()
        """
        return self._insert_all("upsert", data, id_column, omit_nulls, replace=True)

    def _is_bulk(self, size: int) -> bool:
        """Whether so many bytes of documents had better become files at once."""
        return size > self._services.memory.limit // 2

    def _insert_all(
        self, operation: str, data: Any, id_column: str | None, omit_nulls: bool, *, replace: bool
    ) -> Sequence[str]:
        with self._writing(operation):
            rows = rows_of(data, id_column)
            schema = None if rows.schema is None else _with_id_field(stored_schema(rows.schema))
            encoded = []
            size = 0
            limit = self._services.options.max_document_bytes
            runs = encode_rows(rows, id_column, omit_nulls, self._ids(), max_document_bytes=limit)
            for one in runs:
                encoded.append(one)
                size += len(one.chunk) + len(one.ids) * (_PER_GIVEN_ID if one.given else 16)
                if not replace and self._is_bulk(size):
                    return self._put_bulk(itertools.chain(_popped(encoded), runs), schema)
                if size > self._services.memory.limit:
                    with self._services.reserved(size):
                        pass  # refuses it, before all is read
            if not encoded:
                return []
            joined = Encoded(
                b"".join(one.chunk for one in encoded),
                pa.chunked_array([one.ids for one in encoded]).combine_chunks(),
                any(one.given for one in encoded),
            )
            del encoded
            ids = _texts(joined.ids)
            self._put(joined, ids, schema, replace=replace)
            return ids

    def update(self, identity: str | int, fields: Mapping[Any, Any]) -> dict[Any, Any]:
        """Merge fields into a document.

        Parameters
        ----------
        identity : str or int
            The document id.
        fields : mapping
            They take the place of the document's fields of the same names; others stay.

        Returns
        -------
        dict
            The document as it is now.

        Raises
        ------
        DocumentNotFound
            There is no such document.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.update("1", {"age": 37})
        {'_id': '1', 'name': 'Ada', 'age': 37}
        >>> engine.close()
        """
        key = id_of(identity, "the document to update")
        return self._update({key: fields})[key]

    def update_many(self, changes: Mapping[str, Mapping[Any, Any]]) -> int:
        """Merge fields into documents: into all of them or, on an error, none.

        Parameters
        ----------
        changes : mapping of str to mapping
            Document ids, and the fields to merge into each.

        Returns
        -------
        int
            How many documents were changed.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.update_many({"1": {"age": 37}, "2": {"age": 42}})
        2
        >>> engine.close()
        """
        if not isinstance(changes, Mapping):
            raise InvalidOption(
                f"cannot update by a {type(changes).__name__}", advice="give {id: fields, …}"
            )
        keyed = {id_of(key, "a document to update"): fields for key, fields in changes.items()}
        self._update(keyed)
        return len(keyed)

    def _update(self, changes: Mapping[str, Mapping[Any, Any]]) -> dict[str, dict[Any, Any]]:
        for key, fields in changes.items():
            if not isinstance(fields, Mapping):
                raise InvalidDocument(
                    f"the fields of {key!r} are a {type(fields).__name__}", advice="give a mapping"
                )
            if ID_FIELD in fields and id_of(fields[ID_FIELD], f"document {key!r}") != key:
                raise InvalidDocument(
                    f"the fields of {key!r} have another id", advice="an id never changes"
                )

        plain = {key: dict(fields) for key, fields in changes.items()}

        def merge(key: str, before: bytes) -> dict[Any, Any]:
            return with_id(codec.load(before) | plain[key], key)

        return self._replace(list(plain), merge, "update")

    def replace(self, identity: str | int, document: Mapping[Any, Any]) -> None:
        """Put another document in the place of one.

        Parameters
        ----------
        identity : str or int
            The document id, which stays.
        document : mapping
            The new document.

        Raises
        ------
        DocumentNotFound
            There is no such document.
        """
        key = id_of(identity, "the document to replace")
        if not isinstance(document, Mapping):
            raise InvalidDocument(
                f"the document is a {type(document).__name__}", advice="give a mapping"
            )
        made = with_id(dict(document), key)
        self._replace([key], lambda _, __: made, "replace")

    def _replace(
        self,
        ids: list[str],
        change: Change,
        operation: str,
    ) -> dict[str, dict[Any, Any]]:
        """Replace documents by what a function makes of them: all of them or, on an error, none.

        Returns
        -------
        dict of str to dict
            The new documents by id; empty where they are more than memory holds.
        """
        with self._writing(operation):
            with self.held_base() as base:  # no other thread has to wait
                base.documents()
                base.prepare_ids()
            while True:
                with self._lock:
                    self._check_there()
                    self._prepare()
                    before = self._state_of(ids)
                    present, shadows, stored = self._present(ids)
                made: dict[str, dict[Any, Any]] = {}
                packed: dict[str, bytes] = {}
                size = 0
                for key in ids:
                    if key not in present:
                        raise _not_found(key)
                    made[key], packed[key] = self._made(key, present[key], change)
                    size += weight(key, packed[key])
                    if len(ids) > 1 and self._is_bulk(size):
                        del present, made, packed
                        self._replace_bulk(ids, lambda key, raw: self._made(key, raw, change)[1])
                        return {}
                with self._services.reserved(size), self._lock:
                    self._check_there()
                    if self._state_of(ids) != before:
                        continue  # another thread changed one of them, or saved them
                    # A file of somebody else may have an id twice.
                    number = self._write_few(packed, shadows, stored - len(shadows))
                self._sync(number)
                return made

    def _made(self, key: str, before: bytes, change: Change) -> tuple[dict[Any, Any], bytes]:
        """What a function makes of a document, and its bytes."""
        document = change(key, before)
        with _named(key):
            raw = codec.pack(document)
        check_document_size(key, raw, self._services.options.max_document_bytes)
        return document, raw

    def delete(self, identity: str | int) -> None:
        """Delete a document.

        Raises
        ------
        DocumentNotFound
            There is no such document.
        """
        key = id_of(identity, "the document to delete")
        self._services.check_writable()
        with self._services.reserved(weight(key, None)):
            deleted = self._delete([key])
        if not deleted:
            raise _not_found(key)

    def delete_many(self, filter: Filter | None, *, check_fields: bool = True) -> int:
        """Delete the documents that match a filter, or all with None: all at once.

        Parameters
        ----------
        filter : pyarrow.compute.Expression, mapping or None
            The filter, as for :meth:`find`.
        check_fields : bool
            Whether a mapping must not name a field that the collection has never had. An empty
            collection has nothing to check.

        Returns
        -------
        int
            Number of deleted documents.

        Raises
        ------
        FieldNotFound
            The collection has never had a field of the filter.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.delete_many({"name": ["Ada", "Eve"]})
        1
        >>> engine.close()
        """
        self._services.check_writable()
        condition = compiled(filter)
        if check_fields and isinstance(condition, Predicate):
            with error_context("delete", collection=self._name):
                check_named(self.snapshot(), condition)
        for attempt in itertools.count():
            if attempt >= _TRIES and not isinstance(condition, RowFilter):
                break
            with self._lock:
                snapshot, version = self.snapshot(), self._changes
            ids = self._ids_in(snapshot, condition)
            self._services.check_writable()
            size = sum(weight(one, None) for one in ids)
            with self._services.reserved(size):
                deleted = self._delete(ids, version)
            if deleted is not None:
                return deleted
        # Others change it all the time: now they wait. A RowFilter is code of the caller, which
        # must not run under a lock, so it is tried again instead.
        with self._services.reserved(size), self._lock:
            return self._delete(self._ids_in(self.snapshot(), condition)) or 0

    def _ids_in(self, snapshot: Snapshot, condition: Filter | None) -> list[str]:
        with error_context("delete", collection=self._name):
            found = matching(snapshot, condition, self.indexes)
            return [run.id(int(row)) for run, rows in found for row in rows]

    def _delete(self, ids: list[str], version: int | None = None) -> int | None:
        """Delete those that are there; None if there were changes since a version."""
        with self._writing("delete"):
            with self.held_base() as base:
                base.prepare_ids()  # no other thread has to wait for it
            with self._lock:
                self._check_there()
                self._prepare()
                if version not in (None, self._changes):
                    return None
                changed = self._overlay.find_any(dict.fromkeys(ids))
                there = self._base.rows_of([key for key in ids if key not in changed])
                gone = [key for key, found in changed.items() if found is not None]
                gone += there
                if not gone:
                    return 0
                shadows = [row for rows in there.values() for row in rows]
                # A file of somebody else may have an id twice.
                number = self._write_few(
                    dict.fromkeys(gone), shadows, len(there) - len(shadows) - len(gone)
                )
            self._sync(number)
            return len(gone)

    def create_index(self, field: str) -> None:
        """Keep an index on a field, or a dotted path into maps.

        Filters on that field then decode only the documents that it leaves over, and those that
        changed since the last save.

        Raises
        ------
        InvalidFilter
            The field has lists, maps or mixed types.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.create_index("name")
        >>> engine.save()
        >>> users.explain({"name": "Ada"}).index
        'name'
        >>> engine.close()
        """
        with self._writing("create an index"):
            check_indexable(self.schema, field)
            with self._lock:
                if field not in self.indexes:
                    self._set_indexes((*self.indexes, field))

    def drop_index(self, field: str) -> None:
        """Give up the index on a field, if there is one."""
        with self._writing("drop an index"), self._lock:
            if field in self.indexes:
                self._set_indexes(tuple(name for name in self.indexes if name != field))


@contextmanager
def _named(identity: str) -> Iterator[None]:
    try:
        yield
    except InvalidDocument as error:
        error.message = f"document {identity!r}: {error.message}"
        raise


def _popped(items: list[Encoded]) -> Iterator[Encoded]:
    """The items, which nobody else holds any more."""
    while items:
        yield items.pop(0)


def _not_found(identity: str) -> DocumentNotFound:
    return DocumentNotFound(
        f"there is no document {identity!r}", advice="document ids are strings, such as '1'"
    )


def _with_id_field(schema: pa.Schema) -> pa.Schema:
    if ID_FIELD in schema.names:
        return schema
    return pa.schema([pa.field(ID_FIELD, pa.string()), *schema], metadata=schema.metadata)


def _texts(ids: pa.Array) -> list[str]:
    try:
        texts: list[str] = ids.cast(pa.string()).to_pylist()
    except pa.ArrowInvalid:
        texts = [raw.decode("utf-8", "surrogateescape") for raw in ids.to_pylist()]
    return texts
