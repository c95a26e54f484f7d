"""Collection: the handle with the verbs that callers use."""

from __future__ import annotations

import html
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from godb_arrow import codec
from godb_arrow.codec.compression import check_compression
from godb_arrow.documents.encoding import check_document_size
from godb_arrow.documents.ids import id_of, identify, with_id
from godb_arrow.engine.info import CollectionInfo, CollectionState, moment
from godb_arrow.engine.maintainer import Maintainer
from godb_arrow.engine.open_collection import OpenCollection
from godb_arrow.engine.point_reader import PointReader
from godb_arrow.engine.refresher import Refresher
from godb_arrow.engine.saver import Saver
from godb_arrow.engine.writer import CollectionWriter, naming_document
from godb_arrow.errors import DuplicateId, InvalidDocument, InvalidOption
from godb_arrow.options import CompressionName
from godb_arrow.query.filters import Filter
from godb_arrow.snapshots.indexes import check_indexable
from godb_arrow.snapshots.overlay import weight
from godb_arrow.snapshots.readable import SnapshotCollection
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.versions import CollectionVersion, VersionInfo

__all__ = ["Collection", "maintainer_of"]


class Collection(SnapshotCollection):
    """A collection of an engine.

    :class:`~godb_arrow.StorageEngine` returns it. It stays valid when the collection is renamed,
    and raises :class:`~godb_arrow.CollectionNotFound` when the collection was dropped.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
    >>> users = engine.create_collection("users")
    >>> users.insert({"name": "Ada", "age": 36})
    '1'
    >>> users.get("1")
    {'_id': '1', 'name': 'Ada', 'age': 36}
    >>> engine.close()
    """

    def __init__(
        self, engine: object, collection: OpenCollection, saver: Saver, refresher: Refresher
    ) -> None:
        self._engine = engine  # stays open as long as a handle is referenced
        self._store = collection.store
        self._checkpointer = collection.checkpointer
        self._maintainer = collection.maintainer
        self._writer = CollectionWriter(collection, saver)
        self._reader = PointReader(collection.store, refresher)
        self._saver = saver
        self._refresher = refresher
        self._max_document_bytes = collection.store.context.options.max_document_bytes

    # --- state --------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self._store.name

    @property
    def path(self) -> str | None:
        """File or folder of the collection; None before the first save."""
        return self._store.base.path

    @property
    def state(self) -> CollectionState:
        """Whether the documents are loaded, and whether they have unsaved changes."""
        return self._store.state

    @property
    def is_dirty(self) -> bool:
        """Whether the collection has unsaved changes."""
        return self._store.is_dirty

    @property
    def next_id(self) -> int:
        """Number of the next generated document id."""
        return self._refresher.read(self._store, lambda: self._store.ids().next_id)

    @property
    def indexes(self) -> tuple[str, ...]:
        """Indexed fields."""
        self._store.context.lifecycle.check_process()
        return self._refresher.read(self._store, self._store.indexes)

    @property
    def compression(self) -> CompressionName:
        """Compression of the next files."""
        self._store.context.lifecycle.check_process()
        return self._refresher.read(self._store, self._store.compression)

    def info(self) -> CollectionInfo:
        """Return state and sizes of the collection; no document is read."""
        return self._refresher.read(self._store, self._read_info)

    def _read_info(self) -> CollectionInfo:
        store, documents = self._store, len(self)
        with store.pinned_base() as base:
            return CollectionInfo(
                name=store.name,
                state=store.state,
                documents=documents,
                disk_bytes=base.file_size,
                memory_bytes=base.held_bytes() + store.changed_bytes,
                last_modified=moment(store.last_modified or base.modified),
                last_accessed=moment(store.last_accessed),
                access_count=store.accesses,
            )

    def __len__(self) -> int:
        self._store.context.lifecycle.check_open()
        return self._refresher.read(self._store, self._store.documents)

    def __repr__(self) -> str:
        state = "dropped" if self._store.is_dropped else self.state.value
        return f"<Collection {self.name!r}, {state}>"

    def _repr_html_(self) -> str:
        is_dropped = self._store.is_dropped
        return f"<pre>{html.escape(repr(self))}</pre>" if is_dropped else self.info()._repr_html_()

    # --- reading ------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        with self._store.reading():
            return self._refresher.read(self._store, self._store.snapshot)

    def _find_in_memory(self, filter: Filter, limit: int) -> list[dict[Any, Any]] | None:
        return self._reader.find(filter, limit)

    def _count_in_memory(self, filter: Filter) -> int | None:
        return self._reader.count(filter)

    @property
    def _open_streams(self) -> weakref.WeakSet[Any]:
        return self._store.context.streams

    @property
    def _threads(self) -> int:
        context = self._store.context
        return context.options.threads or context.memory.threads

    def get(self, identity: str | int) -> dict[Any, Any]:
        """Return a document by its id.

        Parameters
        ----------
        identity : str or int
            Document id.

        Returns
        -------
        dict

        Raises
        ------
        DocumentNotFound
            No document has the id.
        """
        return self._reader.get(id_of(identity, "the document to get"))

    def __contains__(self, identity: object) -> bool:
        if not isinstance(identity, (str, int)) or isinstance(identity, bool):
            return False
        return self._reader.has(str(identity))

    def versions(self) -> list[VersionInfo]:
        """Return the readable versions: the last saves of a collection that is a folder of parts.

        Returns
        -------
        list of VersionInfo
            In order; the last save is the last one.
        """
        self._store.context.lifecycle.check_open()
        return self._refresher.read(self._store, self._maintainer.versions)

    def at_version(self, version: int) -> CollectionVersion:
        """Return the collection as of an earlier save.

        Parameters
        ----------
        version : int
            Number of the version, see :meth:`versions`.

        Returns
        -------
        CollectionVersion

        Raises
        ------
        VersionNotFound
            The version does not exist, or its files were removed.
        """
        with self._store.reading():
            base = self._refresher.read(self._store, lambda: self._maintainer.version_base(version))
            return CollectionVersion(self.name, base)

    # --- changing documents -------------------------------------------------------------------

    def insert(self, document: Mapping[Any, Any]) -> str:
        """Insert a document.

        Parameters
        ----------
        document : mapping
            The document. Without ``_id`` it gets the next unused number as its id.

        Returns
        -------
        str
            Document id.

        Raises
        ------
        DuplicateId
            A document with that id exists.
        InvalidDocument
            A value cannot be stored.
        """
        # Inlined, and not in the writer, since each call adds to the cost of a small insert.
        store = self._store
        with store.writing("insert"):
            identity, made, given = identify(document, store.ids())
            with naming_document(identity):
                raw = codec.pack(made)
            check_document_size(identity, raw, self._max_document_bytes)
            with self._saver.reserved(weight(identity, raw)), store.lock:
                store.check_present()
                if store.has(identity, given=given):
                    raise DuplicateId([identity], advice="replace it with upsert_many, or omit it")
                number = store.write_few({identity: raw}, [], 1)
            store.context.sync(number)
            return identity

    def insert_many(
        self, data: Any, *, id_column: str | None = None, omit_nulls: bool = False
    ) -> Sequence[str]:
        """Insert documents: all of them or, on an error, none.

        Parameters
        ----------
        data : iterable of dicts, DataFrame, Table, RecordBatchReader or Arrow stream
            The documents. If they exceed memory, they are written as files while they are read,
            and become visible at the end.
        id_column : str, optional
            Field with the ids, strings or integers, default ``_id``.
        omit_nulls : bool
            Whether nulls of a table become absent fields instead of nil, default False.

        Returns
        -------
        sequence of str
            Document ids: a list or, for very many documents, a sequence that takes less memory.

        Raises
        ------
        DuplicateId
            Ids occur twice, or exist already.

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
        return self._writer.insert_many("insert", data, id_column, omit_nulls, replace=False)

    def upsert_many(
        self, data: Any, *, id_column: str | None = None, omit_nulls: bool = False
    ) -> Sequence[str]:
        """Insert documents, and replace those with the same ids: all of them or, on an error, none.

        Parameters
        ----------
        data, id_column, omit_nulls
            See :meth:`insert_many`.

        Returns
        -------
        list of str
            Document ids.

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
        return self._writer.insert_many("upsert", data, id_column, omit_nulls, replace=True)

    def update(self, identity: str | int, fields: Mapping[Any, Any]) -> dict[Any, Any]:
        """Merge fields into a document.

        Parameters
        ----------
        identity : str or int
            Document id.
        fields : mapping
            Fields to set. Other fields of the document stay unchanged.

        Returns
        -------
        dict
            The new document.

        Raises
        ------
        DocumentNotFound
            No document has the id.

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
        return self._writer.update({key: fields})[key]

    def update_by_id(self, changes: Mapping[str, Mapping[Any, Any]]) -> int:
        """Merge fields into documents: into all of them or, on an error, none.

        Parameters
        ----------
        changes : mapping of str to mapping
            Fields to set, by document id.

        Returns
        -------
        int
            Number of changed documents.

        Raises
        ------
        DocumentNotFound
            No document has one of the ids.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.update_by_id({"1": {"age": 37}, "2": {"age": 42}})
        2
        >>> engine.close()
        """
        if not isinstance(changes, Mapping):
            raise InvalidOption(
                f"cannot update by a {type(changes).__name__}", advice="give {id: fields, …}"
            )
        by_id = {id_of(key, "a document to update"): fields for key, fields in changes.items()}
        self._writer.update(by_id)
        return len(by_id)

    def replace(self, identity: str | int, document: Mapping[Any, Any]) -> None:
        """Replace a document.

        Parameters
        ----------
        identity : str or int
            Document id, which stays.
        document : mapping
            The new document.

        Raises
        ------
        DocumentNotFound
            No document has the id.
        """
        key = id_of(identity, "the document to replace")
        if not isinstance(document, Mapping):
            raise InvalidDocument(
                f"the document is a {type(document).__name__}", advice="give a mapping"
            )
        made = with_id(dict(document), key)
        self._writer.replace([key], lambda _, __: made, "replace")

    def delete(self, identity: str | int) -> None:
        """Delete a document.

        Parameters
        ----------
        identity : str or int
            Document id.

        Raises
        ------
        DocumentNotFound
            No document has the id.
        """
        self._writer.delete(id_of(identity, "the document to delete"))

    def delete_many(self, filter: Filter | None, *, check_fields: bool = True) -> int:
        """Delete the documents that match a filter, all at once.

        Parameters
        ----------
        filter : pyarrow.compute.Expression, mapping or None
            Filter, as for :meth:`find`. None deletes all documents.
        check_fields : bool
            Whether to refuse mappings with a field that the collection never had, default True.

        Returns
        -------
        int
            Number of deleted documents.

        Raises
        ------
        FieldNotFound
            The collection never had a field of the filter.

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
        return self._writer.delete_many(filter, check_fields=check_fields)

    # --- settings and files -------------------------------------------------------------------

    def create_index(self, field: str) -> None:
        """Create an index on a field, if there is none.

        Filters on the field then test only the documents that the index selects. Unsaved documents
        are indexed, too, if there are more than a few.

        Parameters
        ----------
        field : str
            A field, or a dotted path into maps.

        Raises
        ------
        InvalidFilter
            The field has maps.

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
        with self._store.writing("create an index"):
            check_indexable(self.schema, field)
            with self._store.lock:
                if field not in self.indexes:
                    self._store.set_indexes((*self.indexes, field))

    def drop_index(self, field: str) -> None:
        """Drop the index on a field, if there is one.

        Parameters
        ----------
        field : str
            A field, or a dotted path into maps.
        """
        with self._store.writing("drop an index"), self._store.lock:
            if field in self.indexes:
                self._store.set_indexes(tuple(name for name in self.indexes if name != field))

    def set_compression(self, compression: CompressionName) -> None:
        """Set the compression of the next files.

        The next save rewrites the file of a small collection. Existing parts of a large collection
        keep their compression until they are merged.

        Parameters
        ----------
        compression : {"lz4", "lz4hc", "zstd", "none"}
            See :func:`~godb_arrow.write_godb`.

        Raises
        ------
        InvalidOption

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
        ...     users = engine.create_collection("users")
        ...     users.set_compression("zstd")
        ...     users.compression
        'zstd'
        """
        with self._store.writing("set the compression"), self._store.lock:
            self._store.check_present()
            check_compression(compression)
            if compression != self.compression:
                self._store.set_compression(compression)

    def checkpoint(self) -> bool:
        """Write the changes of the collection to its files.

        Returns
        -------
        bool
            Whether there were changes.

        Raises
        ------
        StorageError
            The disk refused. File, changes and journal are unchanged, unless ``applied`` is
            "unknown". Then the file has the changes, and a power cut may still bring back the file
            before, for which the journal keeps them.
        """
        self._store.context.lifecycle.check_writable()
        return self._checkpointer.checkpoint()

    def compact(self, *, thorough: bool = False) -> int:
        """Merge small part files and drop deleted documents.

        Readers and writers continue. Saving waits for one file at a time.

        Parameters
        ----------
        thorough : bool
            Whether to drop all deleted documents and to merge all possible parts, default False.

        Returns
        -------
        int
            Bytes of the files that were written.
        """
        self._store.context.lifecycle.check_writable()
        return self._maintainer.compact(thorough=thorough)

    def to_folder(self) -> None:
        """Write the collection as a folder of parts, however small it is."""
        self._store.context.lifecycle.check_writable()
        self._maintainer.to_folder()

    def pack(self) -> None:
        """Write the collection as a single file, which go-db reads.

        A save makes it a folder of parts again when it is larger than `part_size`.
        """
        self._store.context.lifecycle.check_writable()
        self._maintainer.pack()

    def restore(self, version: int) -> None:
        """Return to an earlier version; the current documents stay readable as the version before.

        Parameters
        ----------
        version : int
            Number of the version, see :meth:`versions`.

        Raises
        ------
        VersionNotFound
            The version does not exist, or its files were removed.
        """
        self._store.context.lifecycle.check_writable()
        self._maintainer.restore(version)


def maintainer_of(collection: Collection) -> Maintainer:
    """Return the maintainer of a collection, for writers in other processes."""
    return collection._maintainer
