"""StorageEngine: opens, closes and names the collections of a data directory."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from godb_arrow.directory.places import check_apart, shown_path
from godb_arrow.display import TableList, plural
from godb_arrow.engine.collection import Collection
from godb_arrow.engine.components import EngineComponents
from godb_arrow.engine.info import CollectionInfo, collections_table
from godb_arrow.engine.lifetime import EngineLifetime
from godb_arrow.engine.open_collection import OpenCollection
from godb_arrow.engine.processes import (
    note_engine,
    open_own_directory,
)
from godb_arrow.engine.single_file import write_collections
from godb_arrow.engine.transaction import Transaction
from godb_arrow.engine.verbs import CollectionVerbs
from godb_arrow.engine.workers import close_at_exit
from godb_arrow.errors import CollectionNotFound, TransactionClosed, error_context
from godb_arrow.keywords import explain_methods
from godb_arrow.memory.limit import Memory
from godb_arrow.memory.lru import EvictionPolicy, check_policy
from godb_arrow.options import (
    DEFAULT_DOCUMENT_BYTES,
    DEFAULT_KEPT_BYTES,
    CompressionName,
    EngineOptions,
    VersionedCollections,
    check_flags,
)
from godb_arrow.providers import provider
from godb_arrow.replication.backup import BackupInfo, backup_collections, check_keep
from godb_arrow.replication.replica import Replica, ReplicationMode
from godb_arrow.replication.retention import delete_backups
from godb_arrow.storage.url_options import StorageOptions, UrlOptions, with_options

if TYPE_CHECKING:
    import datetime as dt

    from godb_arrow.options import Durability
    from godb_arrow.query.result import QueryResult

__all__ = ["StorageEngine"]


_DEFAULT_PART_BYTES = 128 << 20
_MAX_TABLE_ROWS = 100  # collections in the table of a notebook
_MAX_SHOWN_NAMES = 20  # collections in an error


@explain_methods
class StorageEngine(EngineLifetime, CollectionVerbs):
    """Collections of documents in a data directory.

    Parameters
    ----------
    data_dir : path or URL
        Data directory, default the current folder. On an object store (``"s3://bucket/data"``) the
        durability is ``"checkpoint"``, and there is no lock. Saving raises
        :class:`~godb_arrow.WriteConflict` if another process saved first.
    max_memory : int or str
        Memory limit in bytes, or such as ``"1GB"``, for cached views, unsaved changes and stream
        buffers together, default 1 GB.
    background_save : None, float, timedelta or str
        Interval of the background saver, such as ``"5min"``, default None: no saver. The saver
        runs after :meth:`start_background_workers`.
    durability : {"interval", "commit", "checkpoint"}
        Durability of an acknowledged change. With ``"commit"`` it survives a power cut, since the
        journal is synced before the call returns. With ``"interval"``, the default, it survives a
        crash of the process, and a power cut after the last `sync_interval`. With ``"checkpoint"``
        only saved changes survive.
    sync_interval : float, timedelta or str
        Interval of journal syncs with ``"interval"``, default 1 s.
    read_only : bool
        Whether to read a directory that another process may write at the same time, default False.
        Each collection is loaded on first access. Reopen the engine to see later changes.
    eviction_policy : EvictionPolicy or str, optional
        Policy of the cache: ``LRU()``, the default, ``LFU()``, ``TTL(seconds)``, your own, or the
        name of one, such as ``"lfu"`` or ``"ttl:60s"``.
    threads : int, optional
        Threads of a stream, default one for each core.
    part_size : int or str
        Max bytes of documents in a file, default 128 MiB. A larger collection is a folder of parts.
    keep_versions : int
        Number of saved :meth:`versions` of such a collection that stay readable, default 5.
    versions : {"large", "all"}
        Collections that keep versions, default "large": those above `part_size`.
    keep_changes : int or str
        Max bytes of the changes that :meth:`changes` can list, default 64 MiB; 0 for none.
    keep_changes_for : float, timedelta or str, optional
        Max age of these changes, default any.
    part_grace : float, timedelta or str
        How long unused files stay for readers in other processes, default 10 min.
    compression : str
        Compression of new collections, default "lz4"; see :func:`write_godb`.
    trust_journal : bool
        Whether to open files outside of the directory that its journal names, default False.
        Version 0.1 left such names if it was killed. Use it only for your directories.
    max_document_bytes : int or str
        Max MessagePack bytes of a document with its id, default 64 MiB, max 1 GiB. Writing and
        reading refuse larger documents.
    use_hints : bool
        Whether to use what files record of their documents, default True. With False, for a data
        directory from elsewhere, the documents alone count, and everything takes longer.
    create : bool
        Whether to create a missing directory, default True.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.

    Raises
    ------
    InvalidOption
        The durability is not understood, or the path is a file.
    SourceNotFound
        The data directory does not exist, with ``create=False``. The message suggests the most
        similar name.
    DirectoryLocked
        Another engine writes the directory.
    CorruptFile
        The journal is damaged. ``godb-arrow repair`` recovers its intact records.

    Warns
    -----
    OptionWarning
        An optional value is invalid; the default is used.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp(), max_memory="64MB") as engine:
    ...     _ = engine.create_collection("users")
    ...     _ = engine.insert_many("users", [{"name": "Ada", "age": 36}, {"name": "Bob"}])
    ...     engine.update("users", "2", {"age": 41})["age"]
    ...     engine.to_arrow("users", columns=["age"]).column("age").to_pylist()
    41
    [36, 41]
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] = ".",
        *,
        max_memory: int | str = "1GB",
        background_save: float | str | dt.timedelta | None = None,
        durability: Durability = "interval",
        sync_interval: float | str | dt.timedelta = 1.0,
        read_only: bool = False,
        eviction_policy: EvictionPolicy | str | None = None,
        threads: int | None = None,
        part_size: int | str = _DEFAULT_PART_BYTES,
        keep_versions: int = 5,
        versions: VersionedCollections = "large",
        keep_changes: int | str = DEFAULT_KEPT_BYTES,
        keep_changes_for: float | str | dt.timedelta | None = None,
        part_grace: float | str | dt.timedelta = 600.0,
        compression: CompressionName = "lz4",
        trust_journal: bool = False,
        max_document_bytes: int | str = DEFAULT_DOCUMENT_BYTES,
        use_hints: bool = True,
        create: bool = True,
        storage_options: StorageOptions = None,
    ) -> None:
        options = EngineOptions.checked(
            max_memory=max_memory,
            background_save=background_save,
            durability=durability,
            sync_interval=sync_interval,
            threads=threads,
            part_size=part_size,
            keep_versions=keep_versions,
            versions=versions,
            keep_changes=keep_changes,
            keep_changes_for=keep_changes_for,
            part_grace=part_grace,
            compression=compression,
            max_document_bytes=max_document_bytes,
        )
        check_flags(
            read_only=read_only, trust_journal=trust_journal, use_hints=use_hints, create=create
        )
        policy = check_policy(eviction_policy)
        UrlOptions(data_dir, storage_options).start_for(self)
        memory = Memory(options.max_memory, policy, options.max_document_bytes, use_hints)
        directory = open_own_directory(
            data_dir, memory, read_only=read_only, trust_journal=trust_journal, create=create
        )
        if not directory.keeps_journal:
            options = replace(options, durability="checkpoint")
        self.options = options
        super().__init__(EngineComponents(options, directory, memory))
        self._catalog = self._components.catalog
        self._components.start()
        note_engine(self)
        if not read_only:
            close_at_exit(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else plural(len(self._catalog), "collection")
        if self._lifecycle.is_forked:
            state = "of the parent process"
        return f"<StorageEngine {shown_path(self.data_dir)!r}, {state}>"

    # --- collections --------------------------------------------------------------------------

    def create_collection(
        self, name: str, *, compression: CompressionName | None = None
    ) -> Collection:
        """Create an empty collection.

        Parameters
        ----------
        name : str
            Name of 1 to 255 bytes of UTF-8.
        compression : {"lz4", "lz4hc", "zstd", "none"}, optional
            Compression of its files, default as the engine's; see :func:`write_godb`.

        Returns
        -------
        Collection

        Raises
        ------
        CollectionExists
            A collection has the name already.
        InvalidCollectionName
        """
        return self._handle(self._components.naming.create(name, compression))

    def drop_collection(self, name: str, *, if_empty: bool = False) -> None:
        """Drop a collection; open streams still read it.

        Parameters
        ----------
        name : str
            Name of the collection.
        if_empty : bool
            Whether to keep a collection that has documents, default False.

        Raises
        ------
        CollectionNotFound
        ReplicationFailed
            A follower that acknowledges changes cannot be written. The collection was not dropped,
            unless ``applied`` is "yes".
        """
        self._lifecycle.check_writable()
        with error_context("drop", collection=name):
            self._components.naming.drop(lambda: self._find(name), if_empty=if_empty)

    def rename_collection(self, name: str, new_name: str) -> None:
        """Rename a collection; open handles and streams remain valid.

        Parameters
        ----------
        name : str
            Current name.
        new_name : str
            Name of 1 to 255 bytes of UTF-8.

        Raises
        ------
        CollectionNotFound, CollectionExists, InvalidCollectionName
        """
        self._lifecycle.check_writable()
        with error_context("rename", collection=name):
            self._components.naming.rename(lambda: self._find(name), new_name)

    def collections(self) -> list[str]:
        """Return the sorted names of the collections; no file is read."""
        self._lifecycle.check_open()
        return self._catalog.names()

    def infos(self) -> list[CollectionInfo]:
        """Return state and sizes of each collection, from the front of its file."""
        return TableList(self[name].info() for name in self.collections())

    def __getitem__(self, name: str) -> Collection:
        self._lifecycle.check_open()
        found = self._catalog.get(name)
        return self._handle(self._find(name) if found is None else found)

    def _handle(self, collection: OpenCollection) -> Collection:
        handle: Collection | None = collection.handle
        if handle is None:
            # Two threads may create two handles, which are equivalent: a handle has no state.
            parts = self._components
            handle = collection.handle = Collection(
                self, collection, parts.saver, parts.refresher, parts.expirer
            )
        return handle

    def _find(self, name: str) -> OpenCollection:
        """Return the components of a collection, or raise CollectionNotFound."""
        self._lifecycle.check_open()
        collection = self._catalog.get(name)
        if collection is None and self._components.refresher.refresh_names():
            collection = self._catalog.get(name)  # created after this engine was opened
        if collection is None:
            shown = ", ".join(map(repr, self.collections()[:_MAX_SHOWN_NAMES]))
            raise CollectionNotFound(
                f"there is no collection {name!r}",
                advice=f"the collections are {shown}"
                if shown
                else "make it with create_collection",
            )
        return collection

    def __contains__(self, name: object) -> bool:
        self._lifecycle.check_process()
        if name not in self._catalog and not self.closed:
            self._components.refresher.refresh_names()
        return name in self._catalog

    def __iter__(self) -> Iterator[str]:
        return iter(self.collections())

    def __len__(self) -> int:
        self._lifecycle.check_process()
        return len(self._catalog)

    def _ipython_key_completions_(self) -> list[str]:
        return self.collections()

    def _repr_html_(self) -> str:
        if self.closed:
            return f"<pre>{html.escape(repr(self))}</pre>"
        shown = [self[name].info() for name in self.collections()[:_MAX_TABLE_ROWS]]
        return collections_table(shown_path(self.data_dir), shown, len(self))

    def transaction(self) -> Transaction:
        """Begin a transaction over all collections.

        Returns
        -------
        Transaction
            A context. Its collections, ``tx["users"]``, read the state of now, with their own
            changes. At the end of the block all changes take effect at once; after an exception,
            none.

        Raises
        ------
        TransactionClosed
            With durability "checkpoint" there is no journal that would keep it whole.
        TransactionConflict
            At the end of the block, another writer changed one of the documents first.
        """
        self._lifecycle.check_writable()
        if self.options.durability == "checkpoint":
            raise TransactionClosed(
                'there are no transactions with durability="checkpoint"',
                advice='open the engine with durability="interval" or "commit"',
            )
        return Transaction(self._components.context, self._catalog, self._components.saver)

    def sql(self, query: str, parameters: Sequence[Any] | None = None) -> QueryResult:
        """Answer a query of SQL about the collections, with DuckDB.

        Parameters
        ----------
        query : str
            The query. Each collection that it names is a view. It reads a snapshot of each.
        parameters : sequence, optional
            Values of the placeholders ``?`` or ``$1``.

        Returns
        -------
        QueryResult
            Rows in memory, as Arrow, pandas or Polars.

        Raises
        ------
        InvalidQuery
            DuckDB refuses the query.
        MissingDependency
            DuckDB is not installed.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
        ...     _ = engine.create_collection("users").insert_many([{"n": 1}, {"n": 5}])
        ...     engine.sql("select count(*) as n from users where n > ?", [1]).to_dicts()
        [{'n': 1}]
        """
        self._lifecycle.check_open()
        result: QueryResult = provider("sql").answer(self, query, parameters)
        return result

    # --- files --------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the changes of all collections to their files.

        Raises
        ------
        GodbError
            A collection could not be saved. Its file, changes and journal are unchanged, and the
            other collections are saved. An error of the background since the last save is raised,
            too.
        """
        self._lifecycle.check_writable()
        failed = self._components.saver.save_all()
        background = self._components.failure.take()
        if failed is not None:
            raise failed
        if background is not None:
            raise background

    def compact(self, name: str | None = None) -> int:
        """Merge small part files and drop deleted documents, as far as possible.

        While background workers run, they compact collections, too. Otherwise each save compacts a
        little.

        Parameters
        ----------
        name : str, optional
            Name of the collection, default all collections.

        Returns
        -------
        int
            Bytes of the files that were written.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> with godb_arrow.StorageEngine(tempfile.mkdtemp(), part_size="1KiB") as engine:
        ...     numbers = engine.create_collection("numbers")
        ...     _ = numbers.insert_many([{"n": n} for n in range(1000)])
        ...     engine.save()
        ...     _ = numbers.delete_many(numbers["n"] > 9)
        ...     engine.save()
        ...     _ = engine.compact("numbers")
        ...     numbers.versions()[-1].parts
        1
        """
        self._lifecycle.check_writable()
        chosen = self._catalog.all() if name is None else [self._find(name)]
        return sum(collection.maintainer.compact(thorough=True) for collection in chosen)

    def save_to_file(self, path: str | os.PathLike[str]) -> int:
        """Write all collections to one file, which go-db reads.

        Parameters
        ----------
        path : path
            The file. It is replaced atomically.

        Returns
        -------
        int
            Number of documents.
        """
        self._lifecycle.check_open()
        with error_context("save", os.fspath(path)):
            collections = [self[name] for name in self.collections()]
            return write_collections(path, collections, self._components.memory.threads)

    def load_collection_metadata(
        self, path: str | os.PathLike[str], *, storage_options: StorageOptions = None
    ) -> dict[str, int]:
        """Attach the collections of a file, of which the engine keeps a copy.

        The documents are read on first access.

        Parameters
        ----------
        path : path or URL
            A GODB file, of godb_arrow or go-db.
        storage_options : mapping, optional
            Keyword arguments for the file system of a URL; see :func:`scan_godb`.

        Returns
        -------
        dict of str to int
            Number of documents by collection name.

        Raises
        ------
        CollectionExists
            A collection has one of the names already. No collection was attached.
        """
        with with_options(path, storage_options):
            return self._components.naming.attach(path)

    def backup(
        self,
        target: str | os.PathLike[str],
        *,
        keep: int | None = None,
        storage_options: StorageOptions = None,
    ) -> BackupInfo:
        """Save, and copy the saved collections.

        Writers continue. Files that an earlier backup in the same place has are not copied again.

        Parameters
        ----------
        target : path or URL
            A folder apart from the data directory, or a place on an object store. It may have any
            number of backups.
        keep : int, optional
            Number of the last backups to keep, this one included, default all.
        storage_options : mapping, optional
            Keyword arguments for the file system of a URL; see :func:`scan_godb`.

        Returns
        -------
        BackupInfo

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> place = tempfile.mkdtemp()
        >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
        ...     _ = engine.create_collection("users").insert({"name": "Ada"})
        ...     engine.backup(place).copied_files, engine.backup(place).copied_files
        (1, 0)
        """
        check_keep(keep)
        names = self.collections()
        with with_options(target, storage_options):
            check_apart(os.fspath(target), self.data_dir, purpose="a backup")
            self.save()
            pinned = ((name, self._find(name).store.pinned_base()) for name in names)
            identity = self._components.directory.identity
            info = backup_collections(pinned, os.fspath(target), identity)
            if keep is not None:
                delete_backups(target, keep=keep)
            return info

    # --- followers ----------------------------------------------------------------------------

    def replicate_to(
        self,
        target: str | os.PathLike[str],
        *,
        mode: ReplicationMode = "asynchronous",
        interval: float | str | dt.timedelta = 1.0,
        replace: bool = False,
        storage_options: StorageOptions = None,
    ) -> Replica:
        """Keep a copy of the data directory up to date as long as the engine is open.

        The follower is a data directory that other processes can open with ``read_only=True``, and
        that :func:`~godb_arrow.promote` makes a data directory of its own. When this returns, the
        follower is up to date.

        Parameters
        ----------
        target : path or URL
            The follower: a new folder or place on an object store, or an earlier follower, which
            then receives what it lacks.
        mode : {"asynchronous", "acknowledged"}
            With "asynchronous", the default, the follower has each change within about the
            interval. With "acknowledged" a change returns when the follower has it on its disk,
            whatever the durability.
        interval : float, timedelta or str
            Interval of copying the journal and saved files, default 1 s.
        replace : bool
            Whether to replace another data directory in the target, default False.
        storage_options : mapping, optional
            Keyword arguments for the file system of a URL; see :func:`scan_godb`.

        Returns
        -------
        Replica
            Reports the progress, and stops the follower.

        Raises
        ------
        TargetExists, DirectoryLocked, StorageError

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
        ...     replica = engine.replicate_to(tempfile.mkdtemp(), mode="acknowledged")
        ...     _ = engine.create_collection("users").insert({"name": "Ada"})
        ...     replica.status().record
        2
        """
        self._lifecycle.check_writable()
        return self._components.followers.add(
            target, mode, interval, replace=replace, storage_options=storage_options
        )

    @property
    def replicas(self) -> list[Replica]:
        """Followers that the engine keeps up to date."""
        return self._components.followers.all()
