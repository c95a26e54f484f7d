"""Collection: the handle with the verbs that callers use."""

from __future__ import annotations

import datetime as dt
import html
import weakref
from collections.abc import Mapping
from typing import Any, TypeVar, overload

from godb_arrow.codec.compression import check_compression
from godb_arrow.documents.ids import id_of
from godb_arrow.engine.bulk_writer import BulkWriter
from godb_arrow.engine.change_token import ChangeToken
from godb_arrow.engine.changes import ChangeFeed, begin_token, token_of
from godb_arrow.engine.checked_writer import CheckedWriter
from godb_arrow.engine.constrained import ConstrainedCollection
from godb_arrow.engine.deleter import CollectionDeleter
from godb_arrow.engine.expirer import Expirer
from godb_arrow.engine.info import CollectionInfo, CollectionState, moment
from godb_arrow.engine.inserter import Inserter
from godb_arrow.engine.maintainer import Maintainer
from godb_arrow.engine.open_collection import OpenCollection
from godb_arrow.engine.point_reader import PointReader
from godb_arrow.engine.refresher import Refresher
from godb_arrow.engine.saver import Saver
from godb_arrow.engine.store import CollectionStore
from godb_arrow.engine.updater import CollectionUpdater
from godb_arrow.engine.writer import CollectionWriter
from godb_arrow.errors import InvalidCursor
from godb_arrow.options import CompressionName
from godb_arrow.query.filters import Filter
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.versions import CollectionVersion, VersionInfo, find_version

__all__ = ["Collection", "maintainer_of", "settings_of", "store_of"]

_Default = TypeVar("_Default")


class Collection(ConstrainedCollection):
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
        self,
        engine: object,
        collection: OpenCollection,
        saver: Saver,
        refresher: Refresher,
        expirer: Expirer,
    ) -> None:
        self._engine = engine  # stays open as long as a handle is referenced
        self._store = collection.store
        self._checkpointer = collection.checkpointer
        self._maintainer = collection.maintainer
        store = collection.store
        bulk = BulkWriter(store, collection.checkpointer, collection.maintainer)
        self._writer = CollectionWriter(store, saver, bulk)
        self._deleter = CollectionDeleter(store, saver)
        self._inserter = Inserter(store, saver)
        checked = CheckedWriter(collection.store, saver)
        self._updater = CollectionUpdater(collection.store, self._writer, checked)
        self._reader = PointReader(collection.store, refresher)
        self._saver = saver
        self._refresher = refresher
        self._expirer = expirer

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
    def _indexed(self) -> tuple[str, ...]:
        self._store.context.lifecycle.check_process()
        return self._refresher.read(self._store, self._store.indexes)

    @property
    def compression(self) -> str:
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

    @overload
    def get(self, identity: str | int) -> dict[Any, Any]: ...
    @overload
    def get(self, identity: str | int, default: _Default) -> dict[Any, Any] | _Default: ...
    def get(self, identity: str | int, default: Any = ...) -> Any:
        """Return a document by its id.

        Parameters
        ----------
        identity : str or int
            Document id.
        default : object, optional
            Result if no document has the id.

        Returns
        -------
        dict

        Raises
        ------
        DocumentNotFound
            No document has the id, and there is no default.
        """
        key = id_of(identity, "the document to get")
        return self._reader.get(key) if default is ... else self._reader.get_or(key, default)

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
            return CollectionVersion.of_base(self.name, base)

    def snapshot(
        self,
        version: int | None = None,
        *,
        at: dt.datetime | dt.date | str | None = None,
        tag: str | None = None,
    ) -> CollectionVersion:
        """Return the collection at one moment, unaffected by later changes.

        Without arguments, the result has the documents of now.

        Parameters
        ----------
        version : int, optional
            Number of a version, see :meth:`versions`.
        at : datetime, date or str, optional
            Moment, of which the last version that is not later is chosen. A date is its beginning.
            Without a time zone it is UTC.
        tag : str, optional
            Tag of a version, see :meth:`tag`.

        Returns
        -------
        CollectionVersion

        Raises
        ------
        VersionNotFound
            There is no such version, or its files were removed.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> with godb_arrow.StorageEngine(tempfile.mkdtemp(), versions="all") as engine:
        ...     users = engine.create_collection("users")
        ...     _ = users.insert({"name": "Ada"})
        ...     _ = users.tag("before Bob")
        ...     _ = users.insert({"name": "Bob"})
        ...     len(users.snapshot()), len(users.snapshot(tag="before Bob"))
        (2, 1)
        """
        with self._store.reading():
            if version is None and at is None and tag is None:
                return self._refresher.read(self._store, self._snapshot_of_now)
            versions = self.versions()
            return self.at_version(find_version(versions, version, at, tag))

    def _snapshot_of_now(self) -> CollectionVersion:
        with self._store.lock:
            documents = self._store.snapshot()
            token = token_of(self._store, documents)
            return CollectionVersion(self.name, documents, token=token.pack())

    def changes(self, since: str | None = None, *, follow: bool = False) -> ChangeFeed:
        """Return the changes after a token, in order.

        The journal lists each change, as long as it keeps it. Where it does not, and the token is
        of a saved version that still exists, this version is compared with the documents of now.
        Such changes have ``net=True``. The collection may be renamed meanwhile.

        Parameters
        ----------
        since : str, optional
            Token of a snapshot or of an earlier feed, default now.
        follow : bool
            Whether to wait for later changes, default False.

        Returns
        -------
        ChangeFeed
            Iterator and async iterator of changes. Its ``token`` is the position after them.

        Raises
        ------
        InvalidCursor
            The text is no token of the collection.
        ChangesLost
            In the feed: the changes cannot be listed. A snapshot has their result.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
        ...     users = engine.create_collection("users")
        ...     token = users.snapshot().token
        ...     _ = users.insert({"name": "Ada"})
        ...     users.delete("1")
        ...     [(change.operation, change.id) for change in users.changes(since=token)]
        [('insert', '1'), ('delete', '1')]
        """
        store = self._store

        def now() -> ChangeToken:
            with store.lock:
                return token_of(store, store.snapshot())

        with store.reading():
            token = begin_token(since, now)
            if since is not None and token.collection is None:
                raise InvalidCursor(
                    "the token is of all collections", advice="give it to engine.changes()"
                )
        return ChangeFeed(store.context, lambda _: None, token, store=store, follow=follow)

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
        return self._inserter.insert(document)

    # --- settings and files -------------------------------------------------------------------

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
                self._store.change_setting({"op": "compression", "z": compression})

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

    def tag(self, tag: str, version: int | None = None) -> int:
        """Keep a version until its tag is removed.

        Parameters
        ----------
        tag : str
            The tag.
        version : int, optional
            Number of the version. By default the documents of now are saved, and become a version.

        Returns
        -------
        int
            Number of the version.

        Raises
        ------
        TargetExists
            Another version has the tag.
        VersionNotFound
            The version does not exist.
        """
        self._store.context.lifecycle.check_writable()
        return self._maintainer.tag(tag, version)

    def untag(self, tag: str) -> None:
        """Remove a tag; a later save may remove its version.

        Parameters
        ----------
        tag : str
            The tag.

        Raises
        ------
        VersionNotFound
            No version has the tag.
        """
        self._store.context.lifecycle.check_writable()
        self._maintainer.untag(tag)

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


def settings_of(collection: Collection) -> tuple[tuple[str, ...], bytes]:
    """Return the indexes and the rules of a collection, as its files record them."""
    return collection._indexed, collection._store.rules()


def store_of(collection: Collection) -> CollectionStore:
    """Return the state of a collection, for its settings."""
    return collection._store


def maintainer_of(collection: Collection) -> Maintainer:
    """Return the maintainer of a collection, for writers in other processes."""
    return collection._maintainer
