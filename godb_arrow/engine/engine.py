"""The storage engine: collections in a data directory, cached, journalled, saved."""

from __future__ import annotations

import html
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, get_args

import pyarrow as pa

from godb_arrow.codec.compression import check_compression
from godb_arrow.directory.data_directory import DataDirectory, open_directory
from godb_arrow.directory.journal import Receipt
from godb_arrow.directory.names import check_name
from godb_arrow.directory.places import full_path
from godb_arrow.directory.snapshot_writer import write_snapshots
from godb_arrow.display import Table
from godb_arrow.engine.catalog import Catalog
from godb_arrow.engine.collection import Collection
from godb_arrow.engine.info import CollectionInfo
from godb_arrow.engine.processes import (
    close_later,
    forget_engine,
    note_engine,
    release_own_lock,
)
from godb_arrow.engine.replay import Replay
from godb_arrow.engine.services import Services
from godb_arrow.engine.stats import MEBIBYTE, EngineStats, MemoryStats
from godb_arrow.engine.workers import Workers, close_at_exit
from godb_arrow.errors import (
    CollectionExists,
    CollectionNotFound,
    DirectoryLocked,
    EngineClosed,
    ForkedProcess,
    GodbError,
    InvalidOption,
    MemoryLimitExceeded,
    ReadOnly,
    ReplicationFailed,
    SourceNotFound,
    StorageError,
    error_context,
)
from godb_arrow.file.explanation import Explanation
from godb_arrow.file.reading import list_collections
from godb_arrow.memory.limit import Memory, give_back
from godb_arrow.memory.lru import EvictionPolicy
from godb_arrow.options import (
    DEFAULT_DOCUMENT_BYTES,
    CompressionName,
    EngineOptions,
    ReadKeywords,
    parse_duration,
)
from godb_arrow.query.filters import Filter
from godb_arrow.replication.backup import BackupInfo, backup_collections
from godb_arrow.replication.follower import Follower
from godb_arrow.replication.replica import Replica, ReplicationMode
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.pages import Page
from godb_arrow.snapshots.streaming import DocumentStream
from godb_arrow.snapshots.versions import CollectionVersion, VersionInfo
from godb_arrow.storage.modes import UNLIMITED
from godb_arrow.storage.replace import replace_file

if TYPE_CHECKING:
    import datetime as dt

    import pandas as pd

    from godb_arrow.options import Durability
    from godb_arrow.query.dataframe import DtypeBackend

__all__ = ["StorageEngine"]


logger = logging.getLogger(__name__)
_SHOWN = 100  # collections of a table
_TRIES = 10  # to read a directory that another process writes
_MOST_JOURNAL = 256 << 20
_LOOKS = 50  # at a directory that another process changes all the time
_SYNCER, _SAVER, _COMPACTOR = "journal-sync", "saver", "compactor"
_COMPACTING = 10.0  # seconds between two looks for files that should be joined
_BUDGET = 256 << 20  # bytes of files that are written then


class StorageEngine:
    """Collections of documents in a data directory.

    Parameters
    ----------
    data_dir : path or URL
        The folder; made if need be. On an object store (``"s3://bucket/data"``) the durability is
        ``"checkpoint"``, and nobody is locked out: who saves a collection that somebody else has
        saved meanwhile gets :class:`~godb_arrow.WriteConflict`.
    max_memory : int or str
        Bytes, or such as ``"1GB"``, for cached views, unsaved changes and stream buffers together.
    background_save : None, float, timedelta or str
        How often the saver writes what changed, such as ``"5min"``; with None there is no saver.
        It works after :meth:`start_background_workers`.
    durability : {"interval", "commit", "checkpoint"}
        What an acknowledged change survives. ``"commit"``: a power cut, since the journal is
        synced before the call returns. ``"interval"``: a crash of the process, and a power cut
        but for the last `sync_interval`. ``"checkpoint"``: only what was saved survives.
    sync_interval : float, timedelta or str
        How often the journal is synced with ``"interval"``; a second by default.
    read_only : bool
        Read a directory that another process may write at the same time. Each collection is read
        as it was when this engine was opened, or as it is when it is first used.
    eviction_policy : EvictionPolicy, optional
        Which views go first: ``LRU()``, ``LFU()``, ``TTL(seconds)`` or your own.
    threads : int, optional
        Threads of a stream; as many as there are cores, if left out.
    part_size : int or str
        Bytes of documents that a file has at most; 128 MiB by default. A larger collection is a
        folder of files, to which saving adds what changed, and rewrites nothing.
    keep_versions : int
        How many of the last saved states of such a collection stay readable: see
        :meth:`versions`.
    part_grace : float, timedelta or str
        How long files stay that no state needs any more, for who reads the directory from another
        process; ten minutes by default.
    compression : {"lz4", "lz4hc", "zstd", "none"}
        How the files of new collections are compressed: see :func:`write_godb`.
    trust_journal : bool
        Whether to open files outside of the directory that its journal names. Version 0.1 left
        such names where a process was killed between :meth:`load_collection_metadata` and a save.
        Without it their collections are refused at use. Only for directories of your own. False by
        default.
    max_document_bytes : int or str
        Max MessagePack bytes of a document with its id, default 64 MiB, max 1 GiB. A larger one
        is refused, by writing and by reading alike.
    create : bool
        Whether the data directory is made if it is not there, default True.

    Raises
    ------
    SourceNotFound
        There is no data directory, with ``create=False``; the message has the most similar name.
    DirectoryLocked
        Somebody else writes the directory.
    CorruptFile
        The journal is damaged: ``godb-arrow repair`` keeps what is whole.

    Warns
    -----
    OptionWarning
        An optional value makes no sense; the default is used.

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
        eviction_policy: EvictionPolicy | None = None,
        threads: int | None = None,
        part_size: int | str = 128 << 20,
        keep_versions: int = 5,
        part_grace: float | str | dt.timedelta = 600.0,
        compression: CompressionName = "lz4",
        trust_journal: bool = False,
        max_document_bytes: int | str = DEFAULT_DOCUMENT_BYTES,
        create: bool = True,
    ) -> None:
        self._closed = True  # until it is open
        self._ending = self._forked = False
        self.options = EngineOptions.checked(
            max_memory=max_memory,
            background_save=background_save,
            durability=durability,
            sync_interval=sync_interval,
            threads=threads,
            part_size=part_size,
            keep_versions=keep_versions,
            part_grace=part_grace,
            compression=compression,
            max_document_bytes=max_document_bytes,
        )
        self._memory = Memory(
            self.options.max_memory, eviction_policy, self.options.max_document_bytes
        )
        self._directory = self._open_directory(
            data_dir, read_only=read_only, trust_journal=trust_journal, create=create
        )
        if not self._directory.keeps_journal:
            self.options = replace(self.options, durability="checkpoint")
        self._services = Services(
            options=self.options,
            directory=self._directory,
            memory=self._memory,
            reserve=self._reserve,
            check_writable=self._check_writable,
            check_open=self._check_open,
            check_process=self._check_process,
            acknowledge=self._acknowledge,
            look_again=self._look_again,
        )
        self._lock = threading.RLock()  # guards the collections' names
        self._relieving, self._saving = threading.Lock(), threading.Lock()
        self._closing = threading.RLock()
        self._looking = threading.Lock()  # of one who only reads: one look at a time
        self._collections = Catalog({}, self._make)
        self._leftovers: dict[str, object] = {}  # files of dropped collections, and whose
        # Files that collections may still have under a former name, until they are saved.
        self._former_paths: dict[str, Collection] = {}
        self._failure: GodbError | None = None  # of the background, to be raised
        self._checkpoints = self._failed = self._recovered = 0
        self._workers, self._syncer = Workers(), Workers()
        self._replicas: tuple[Replica, ...] = ()  # replaced, never changed: writers go through it
        try:
            with error_context("open", self._directory.path):
                self._recover()
        except BaseException:
            self._directory.close()
            raise
        self._closed = False
        note_engine(self)
        if not read_only:
            if self.options.background_save is not None:
                self._workers.add(_SAVER, self.options.background_save, self._save_in_background)
            if self.options.durability == "interval":
                self._syncer.add(_SYNCER, self.options.sync_interval, self._sync_in_background)
                self._syncer.start()
            self._workers.add(_COMPACTOR, _COMPACTING, self._compact_in_background)
            close_at_exit(self)

    def _open_directory(self, data_dir: str | os.PathLike[str], **options: bool) -> DataDirectory:
        try:
            return open_directory(data_dir, self._memory, **options)
        except DirectoryLocked as error:
            release_own_lock(data_dir, error)
            return open_directory(data_dir, self._memory, **options)

    # --- opening and closing ------------------------------------------------------------------

    def _recover(self) -> None:
        if self._directory.read_only:
            found = self._look()
            self._collections, self._recovered = found.collections, found.count
            return
        files = self._directory.files()
        self._directory.remove_older(files)
        replay = Replay(self._services, Catalog(files, self._make))
        for record in self._directory.recover():
            replay.apply(record)
        self._collections, self._recovered = replay.collections, replay.count
        self._leftovers = dict.fromkeys(replay.leftovers)
        for collection in replay.moved:
            self._note_paths(collection)
        for collection, number in replay.needs.items():
            self._directory.journal.release(collection, number)
            with suppress(GodbError), collection.held_base() as base:  # raised at its first use
                self._directory.restrict(base.access())
        for path in list(self._leftovers):
            self._remove_leftover(path)
        self._directory.remove_unattached(
            {path for collection in self._collections.made() for path in collection.paths}
        )

    def _make(self, name: str, path: str) -> Collection:
        return Collection(self._services, name, self._directory.base(path))

    def _look(self) -> Replay:
        """Return the collections of a directory that another process may change meanwhile."""
        tries = 0
        for _ in range(_LOOKS):
            with suppress(SourceNotFound):  # a file was removed after it was listed
                found = self._look_once()
                tries += 1
                if tries == _TRIES or not self._is_overtaken(found.needs):
                    return found
        return self._look_once()

    def _look_once(self) -> Replay:
        files, records = self._directory.look()
        replay = Replay(self._services, Catalog(files, self._make))
        for record in records:
            replay.apply(record)
        return replay

    def _is_overtaken(self, collections: Iterable[Collection]) -> bool:
        """Return whether a file of collections is newer than the journal that was read."""
        positions = []
        for collection in collections:
            try:
                positions.append(collection.note_file())
            except SourceNotFound:  # it has become a folder, or was renamed or dropped
                return True
            except GodbError:  # the first use of the collection raises it
                continue
        return self._directory.is_overtaken(positions)

    def _look_again(self, collection: Collection | None, base: Base | None) -> bool:
        """Find out what another process has in the directory now.

        Parameters
        ----------
        collection : Collection or None
            A collection whose files are gone, and which gets the current ones.
        base : Base or None
            Those files.

        Returns
        -------
        bool
            Whether the collection has others now; False where this engine is the one that writes.
        """
        if not self._directory.read_only:
            return False
        with self._looking:
            if collection is not None and not collection.is_over(base):
                return True  # another thread looked
            self._check_open()
            found = self._look().collections
            if collection is not None and not collection.take_over(found.get(collection.name)):
                return False
            with self._lock:
                self._collections.update(found)
            return True

    def close(self, *, discard: bool = False) -> None:
        """Save what changed, end the workers, and let others write the directory.

        Closing twice does nothing. An engine that cannot save stays open, so that nothing is
        lost: close it again when the disk has room. In a forked child this releases the child's
        copies of descriptors, and touches nothing of the parent.

        Parameters
        ----------
        discard : bool
            Do not save. What is in the journal is there again when the directory is opened; on an
            object store, what was not saved is lost.

        Raises
        ------
        GodbError
            Something could not be saved, now or in the background before.
        """
        if self._forked or self._closed:
            return
        # A worker that closes the engine while another thread does would be waited for.
        if not self._closing.acquire(blocking=not self._is_own_thread()):
            return
        try:
            if not self._closed:
                self._close(discard)
        finally:
            self._closing.release()
        if self._failure is not None and not discard:
            failure, self._failure = self._failure, None
            raise failure

    def _is_own_thread(self) -> bool:
        return self._workers.has_current_thread() or self._syncer.has_current_thread()

    def _close(self, discard: bool) -> None:
        were_running = self._workers.running
        self._workers.stop()
        try:
            with self._lock:
                self._ending = True
            for collection in self._collections.made():
                collection.seal()
            failed = None if discard or self._directory.read_only else self._save_all()
            if failed is not None:
                raise failed
        except BaseException:
            for collection in self._collections.made():
                collection.unseal()
            self._ending = False
            if were_running:
                self._workers.start()
            raise
        # An interrupt from here on leaves an engine that nothing can use but close().
        self._syncer.stop()
        for replica in self._replicas:
            self._end_replica(replica)
        for stream in list(self._services.streams):
            stream.abort(self._check_open)
        for collection in self._collections.made():
            collection.end()
        self._memory.close()
        try:
            self._directory.close(stored=not discard)
        except GodbError:
            self._closed = True
            raise
        self._closed = True
        forget_engine(self)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and not self._forked:
            close_later(self)

    def _forget_in_child(self) -> None:
        """After a fork: this process has no part in the engine any more."""
        self._forked = True
        self._directory.forget_in_child()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._collections)} collections"
        if self._forked:
            state = "of the parent process"
        return f"<StorageEngine {self._shown_path()!r}, {state}>"

    def _shown_path(self) -> str:
        """The data directory as people write it: relative, where it is below the current folder."""
        path = self._directory.path
        with suppress(OSError):  # the current folder may be gone
            return path.removeprefix(os.path.join(os.getcwd(), ""))
        return path

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def data_dir(self) -> str:
        """The data directory."""
        return self._directory.path

    def _check_process(self) -> None:
        if self._forked:
            raise ForkedProcess(
                f"the engine of {self._directory.path} belongs to the parent process",
                advice="open the directory here with read_only=True, or start processes by spawn",
            )

    def _check_open(self) -> None:
        self._check_process()
        if self._closed or self._ending:
            raise EngineClosed(
                f"the engine of {self._directory.path} was closed", advice="open another one"
            )

    def _check_writable(self) -> None:
        self._check_open()
        if self._directory.read_only:
            raise ReadOnly(
                "the engine was opened to read only", advice="open it without read_only=True"
            )

    # --- collections --------------------------------------------------------------------------

    def create_collection(
        self, name: str, *, compression: CompressionName | None = None
    ) -> Collection:
        """Make an empty collection.

        Parameters
        ----------
        name : str
            1 to 255 bytes of UTF-8, any characters.
        compression : {"lz4", "lz4hc", "zstd", "none"}, optional
            How its files are compressed; as the engine's, if left out. See :func:`write_godb`.

        Returns
        -------
        Collection

        Raises
        ------
        CollectionExists
            There is one of that name.
        InvalidCollectionName
        """
        self._check_writable()
        with error_context("create", collection=name if isinstance(name, str) else None):
            check_name(name)
            chosen = check_compression(compression or self.options.compression).name
            with self._lock:
                self._check_free(name)
                self._free_path(name)
                collection = Collection(
                    self._services, name, Base(self._memory), indexes=(), compression=chosen,
                    stale=True,
                )  # fmt: skip

                def apply(_: int) -> None:
                    self._collections[name] = collection

                self._journal(collection, {"op": "create", "c": name, "z": chosen}, apply)
                return collection

    def _journal(
        self, collection: Collection, meta: dict[str, Any], apply: Callable[[int], None]
    ) -> None:
        """Journal a change of a collection as a whole and apply it: both or, on an error, neither.

        The record is synced whatever the durability. Where that fails, the change is visible here,
        and the error says that it may not survive a power cut. The caller holds the lock.
        """
        self._check_writable()  # now that nobody closes it
        journal = self._directory.journal
        receipt = Receipt()
        try:
            number = journal.append(collection, meta, receipt=receipt)
            collection.note_record(journal.position(number))
            apply(number)
        except BaseException:
            if receipt.number is not None:
                collection.note_record(journal.position(receipt.number))
                apply(receipt.number)
            raise
        journal.sync(number)
        self._acknowledge(number)

    def _check_free(self, name: str) -> None:
        if name in self._collections:
            raise CollectionExists(
                f"there is a collection {name!r}", advice="choose another name, or drop it first"
            )

    def drop_collection(self, name: str, *, if_empty: bool = False) -> None:
        """Remove a collection; streams that are open still see it.

        Parameters
        ----------
        name : str
            The collection.
        if_empty : bool
            Whether it stays if it has documents, default False.

        Raises
        ------
        CollectionNotFound
        ReplicationFailed
            A follower that acknowledges changes cannot be written. Nothing was dropped, unless
            ``applied`` is "yes".
        """
        self._check_writable()
        # The engine's lock comes first, as everywhere.
        with error_context("drop", collection=name), self._lock:
            collection = self[name]
            with collection.at_rest():
                if if_empty and len(collection):
                    return
                known, paths = collection.name, collection.paths

                def apply(_: int) -> None:
                    self._leftovers.update(dict.fromkeys(paths, collection))
                    self._collections.discard(known)
                    collection.mark_dropped()

                for replica in self._replicas:
                    replica.check()
                try:
                    self._journal(collection, {"op": "drop", "c": known}, apply)
                except ReplicationFailed:
                    self._remove_dropped(collection, paths)
                    raise
                self._remove_dropped(collection, paths)

    def _remove_dropped(self, collection: Collection, paths: list[str]) -> None:
        for path in paths:
            self._remove_leftover(path)
        if not paths:
            self._directory.journal.release(collection, None)

    def _remove_leftover(self, path: str) -> None:
        """Remove the file of a collection that was dropped; tried again with each save."""
        heir = self._collections.of_stem(self._directory.stem_of(path))
        if heir is not None and heir.path not in self._directory.paths_of(heir.name):
            return  # it is replaced soon
        try:
            if heir is None or heir.path != path:
                self._directory.remove(path)
        except StorageError:
            logger.warning("the file of a dropped collection stays for now", exc_info=True)
            return
        self._forget_leftover(path)

    def _forget_leftover(self, path: str) -> None:
        owner = self._leftovers.pop(path)
        if owner not in self._leftovers.values():
            self._directory.journal.release(owner, None)

    def _free_path(self, name: str, owner: Collection | None = None) -> None:
        """Make sure that nothing of others is in the file that a collection will have."""
        for path in self._directory.paths_of(name):
            other = self._former_paths.get(path)
            if other is not None and other is not owner:
                if path in other.paths:
                    self._checkpoint(other)  # it was renamed, and its file did not follow yet
                del self._former_paths[path]
            if path in self._leftovers:
                self._directory.remove(path)
                self._forget_leftover(path)

    def _note_paths(self, collection: Collection) -> None:
        """Note files that the collection keeps, under other names than its own, until it is saved.

        So that creating a collection need not ask all others for their files.
        """
        self._former_paths.update(dict.fromkeys(collection.paths, collection))

    def rename_collection(self, name: str, new_name: str) -> None:
        """Give a collection another name; handles and streams stay good.

        Raises
        ------
        CollectionNotFound, CollectionExists, InvalidCollectionName
        """
        self._check_writable()
        with error_context("rename", collection=name):
            check_name(new_name)
            with self._lock:
                collection = self[name]
                self._check_free(new_name)
                self._free_path(new_name, collection)
                with collection.at_rest():
                    known = collection.name

                    def apply(number: int) -> None:
                        self._note_paths(collection)
                        self._collections[new_name] = collection
                        self._collections.discard(known)
                        collection.mark_renamed(new_name, self._directory.journal.position(number))

                    meta = {"op": "rename", "c": known, "to": new_name}
                    self._journal(collection, meta, apply)

    def collections(self) -> list[str]:
        """The names of the collections, sorted; nothing is read."""
        self._check_open()
        return self._collections.names()

    def info(self, name: str) -> CollectionInfo:
        """What is known of a collection without reading its documents."""
        return self[name].info()

    def infos(self) -> list[CollectionInfo]:
        """What is known of each collection; reads the front of each file."""
        return [self[name].info() for name in self.collections()]

    def __getitem__(self, name: str) -> Collection:
        self._check_open()
        collection = self._collections.get(name)
        if collection is None and self._look_again(None, None):
            collection = self._collections.get(name)  # made since this engine was opened
        if collection is None:
            raise self._not_found(name)
        return collection

    def __contains__(self, name: object) -> bool:
        self._check_process()
        if name not in self._collections and not self._closed:
            self._look_again(None, None)
        return name in self._collections

    def __iter__(self) -> Iterator[str]:
        return iter(self.collections())

    def __len__(self) -> int:
        self._check_process()
        return len(self._collections)

    def _ipython_key_completions_(self) -> list[str]:
        return self.collections()

    def _repr_html_(self) -> str:
        if self._closed:
            return f"<pre>{html.escape(repr(self))}</pre>"
        shown = self.collections()[:_SHOWN]
        table = Table(CollectionInfo.HEADS, f"{self._shown_path()}: {len(self)} collections")
        for name in shown:
            table.add(*self[name].info().cells())
        if len(shown) < len(self):
            table.add(f"… and {len(self) - len(shown)} more")
        return table.html()

    def _not_found(self, name: object) -> CollectionNotFound:
        shown = ", ".join(repr(one) for one in self.collections()[:20])
        return CollectionNotFound(
            f"there is no collection {name!r}",
            advice=f"the collections are {shown}" if shown else "make it with create_collection",
        )

    # --- documents: the verbs of Collection ---------------------------------------------------

    def insert(self, name: str, document: Mapping[Any, Any]) -> str:
        """See :meth:`Collection.insert`."""
        return self[name].insert(document)

    def insert_many(
        self, name: str, data: Any, *, id_column: str | None = None, omit_nulls: bool = False
    ) -> Sequence[str]:
        """See :meth:`Collection.insert_many`."""
        return self[name].insert_many(data, id_column=id_column, omit_nulls=omit_nulls)

    def upsert_many(
        self, name: str, data: Any, *, id_column: str | None = None, omit_nulls: bool = False
    ) -> Sequence[str]:
        """See :meth:`Collection.upsert_many`."""
        return self[name].upsert_many(data, id_column=id_column, omit_nulls=omit_nulls)

    def get(self, name: str, identity: str | int) -> dict[Any, Any]:
        """See :meth:`Collection.get`."""
        return self[name].get(identity)

    def find(
        self,
        name: str,
        filter: Filter | None = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[dict[Any, Any]]:
        """See :meth:`Collection.find`."""
        return self[name].find(filter, columns=columns, limit=limit, offset=offset)

    def find_all(self, name: str) -> list[dict[Any, Any]]:
        """See :meth:`Collection.find_all`."""
        return self[name].find_all()

    def find_page(
        self,
        name: str,
        filter: Filter | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """See :meth:`Collection.find_page`."""
        return self[name].find_page(filter, limit=limit, cursor=cursor)

    def find_all_stream(
        self,
        name: str,
        filter: Filter | None = None,
        *,
        columns: Sequence[str] | None = None,
    ) -> DocumentStream:
        """See :meth:`Collection.find_all_stream`."""
        return self[name].find_all_stream(filter, columns=columns)

    def stream_batches(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        **options: Unpack[ReadKeywords],
    ) -> pa.RecordBatchReader:
        """See :meth:`Collection.stream_batches`."""
        return self[name].stream_batches(columns, filter, **options)

    def to_arrow(
        self, name: str, columns: Sequence[str] | None = None, filter: Filter | None = None
    ) -> pa.Table:
        """See :meth:`Collection.to_arrow`."""
        return self[name].to_arrow(columns, filter)

    def to_pandas(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        dtype_backend: DtypeBackend | None = None,
    ) -> pd.DataFrame:
        """See :meth:`Collection.to_pandas`."""
        return self[name].to_pandas(columns, filter, dtype_backend)

    def count(self, name: str, filter: Filter | None = None) -> int:
        """See :meth:`Collection.count`."""
        return self[name].count(filter)

    def update(self, name: str, identity: str | int, fields: Mapping[Any, Any]) -> dict[Any, Any]:
        """See :meth:`Collection.update`."""
        return self[name].update(identity, fields)

    def update_many(self, name: str, changes: Mapping[str, Mapping[Any, Any]]) -> int:
        """See :meth:`Collection.update_many`."""
        return self[name].update_many(changes)

    def replace(self, name: str, identity: str | int, document: Mapping[Any, Any]) -> None:
        """See :meth:`Collection.replace`."""
        self[name].replace(identity, document)

    def delete(self, name: str, identity: str | int) -> None:
        """See :meth:`Collection.delete`."""
        self[name].delete(identity)

    def delete_many(self, name: str, filter: Filter | None, *, check_fields: bool = True) -> int:
        """See :meth:`Collection.delete_many`."""
        return self[name].delete_many(filter, check_fields=check_fields)

    def create_index(self, name: str, field: str) -> None:
        """See :meth:`Collection.create_index`."""
        self[name].create_index(field)

    def drop_index(self, name: str, field: str) -> None:
        """See :meth:`Collection.drop_index`."""
        self[name].drop_index(field)

    def explain(self, name: str, filter: Filter | None = None) -> Explanation:
        """See :meth:`Collection.explain`."""
        return self[name].explain(filter)

    # --- saving -------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the files of all collections that changed.

        Raises
        ------
        GodbError
            A file could not be written: it, the changes and the journal are as they were, and
            the others were written all the same. Also an error of the background since the last
            save.
        """
        self._check_writable()
        failed = self._save_all()
        background, self._failure = self._failure, None
        if failed is not None:
            raise failed
        if background is not None:
            raise background

    def _save_all(self) -> GodbError | None:
        """Checkpoint everything; the first error, when all were tried."""
        failed: GodbError | None = None
        with self._lock:
            for path in list(self._leftovers):
                self._remove_leftover(path)
            for path, owner in list(self._former_paths.items()):
                if path not in owner.paths:
                    del self._former_paths[path]
            collections = [one for one in self._collections.made() if one.needs_saving]
        for collection in collections:
            if collection.is_refused:
                continue  # its changes stay in the journal
            try:
                self._checkpoint(collection)
            except Exception as error:  # whatever is wrong with one, the others are saved
                logger.warning("saving %r failed: %s", collection.name, error)
                failed = failed or _as_ours(error, collection.name)
        try:
            self._directory.journal.trim()
        except StorageError as error:
            failed = failed or error
        return failed

    def _checkpoint(self, collection: Collection) -> None:
        with self._saving:  # one at a time: together they would only take more memory
            try:
                if collection.checkpoint():
                    self._checkpoints += 1
                    if not self._workers.running:
                        collection.compact(pause=lambda: True)
                    give_back()
            except GodbError:
                self._failed += 1
                raise

    def _save_in_background(self) -> None:
        failed = self._save_all()
        if failed is not None:
            self._failure = failed
            raise failed

    def _sync_in_background(self) -> None:
        try:
            self._directory.journal.sync()
        except GodbError as error:
            self._failure = self._failure or error
            raise

    def _reserve(self, owner: object, size: int) -> None:
        """Reserve memory for a change: save what changed until there is room.

        Raises
        ------
        MemoryLimitExceeded
        """
        memory = self._memory
        is_short = self._directory.journal.size <= _MOST_JOURNAL
        if is_short and memory.reserve(owner, size, memory.limit // 2):
            return
        failed = self._make_room(size)
        while not memory.reserve(owner, size, memory.limit - memory.streams):
            if size > memory.limit or not memory.wait_for_release(size):
                raise MemoryLimitExceeded(
                    f"the change takes {size} bytes, and {memory.room} of "
                    f"max_memory={memory.limit} are left",
                    advice="change fewer documents at a time, or raise max_memory",
                ) from failed
            failed = self._make_room(size)

    def _make_room(self, size: int) -> GodbError | None:
        """Save what changed, until changes of some bytes have room; the error, if one failed.

        Also when the journal has grown large, by changes that superseded each other.
        """
        memory = self._memory
        half = memory.limit // 2
        failed: GodbError | None = None
        with self._relieving:
            if self._directory.journal.size > _MOST_JOURNAL:
                failed = self._save_all()
            with self._lock:
                changed = [one for one in self._collections.made() if one.changed_bytes]
                collections = sorted(changed, key=lambda one: one.changed_bytes, reverse=True)
            for collection in collections:
                if memory.changes + size <= half or not collection.changed_bytes:
                    break
                try:
                    self._checkpoint(collection)
                except GodbError as error:
                    failed = error
                    break
            with suppress(StorageError):  # the next save says it
                self._directory.journal.trim()
        if failed is not None:
            logger.warning("saving under pressure failed: %s", failed)
            self._failure = self._failure or failed
        return failed

    def compact(self, name: str | None = None) -> int:
        """Leave out of the files what is gone, and join those that are small.

        Collections that have several files are compacted in the background, too, where workers
        run, and otherwise a little with each save; this does all that can be done.

        Parameters
        ----------
        name : str, optional
            The collection; all of them, if left out.

        Returns
        -------
        int
            Bytes of files that were written.

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
        self._check_writable()
        chosen = self._collections.all() if name is None else [self[name]]
        return sum(collection.compact(thorough=True) for collection in chosen)

    def _compact_in_background(self) -> None:
        left = _BUDGET

        def pause() -> bool:
            return left <= 0

        with self._lock:
            collections = self._collections.made()
        for collection in collections:
            left -= collection.compact(pause=pause)
            if pause():
                return

    def pack(self, name: str) -> None:
        """Write a collection that has several files into a single one, which go-db reads.

        It becomes several again when it is saved with changes and is larger than `part_size`.

        Parameters
        ----------
        name : str
            The collection.
        """
        self._check_writable()
        self[name].pack()

    def versions(self, name: str) -> list[VersionInfo]:
        """See :meth:`Collection.versions`."""
        return self[name].versions()

    def snapshot(self, name: str, version: int) -> CollectionVersion:
        """A collection as it was saved once: see :meth:`Collection.at_version`."""
        return self[name].at_version(version)

    def restore(self, name: str, version: int) -> None:
        """Go back to an earlier state of a collection.

        What there is now is saved before, and stays readable as the version before.

        Parameters
        ----------
        name : str
            The collection.
        version : int
            As :meth:`versions` has it.

        Raises
        ------
        VersionNotFound
            There is no such version, or not any more.
        """
        self._check_writable()
        self[name].restore(version)

    def backup(self, target: str | os.PathLike[str]) -> BackupInfo:
        """Save, and copy all collections as they were saved; writers go on meanwhile.

        Files that a backup in the same place has already are not copied again: of a collection
        that has several files only the new ones are.

        Parameters
        ----------
        target : path or URL
            A folder, or a place on an object store; it takes any number of backups.

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
        names = self.collections()
        self.save()
        held = ((name, self[name].held_base()) for name in names)
        return backup_collections(held, os.fspath(target), self._directory.identity)

    # --- followers ----------------------------------------------------------------------------

    def replicate_to(
        self,
        target: str | os.PathLike[str],
        *,
        mode: ReplicationMode = "asynchronous",
        interval: float | str | dt.timedelta = 1.0,
        replace: bool = False,
    ) -> Replica:
        """Keep another folder the same as the data directory, as long as the engine is open.

        The follower is a data directory that can be opened with ``read_only=True`` all the time,
        and takes over with :func:`~godb_arrow.promote`. When this returns, it has everything.

        Parameters
        ----------
        target : path or URL
            The follower: a new folder or place on an object store, or one that followed before,
            which then gets what it lacks.
        mode : {"asynchronous", "acknowledged"}
            With "asynchronous" the follower has each change within about the interval. With
            "acknowledged" a change returns when the follower has it on its disk, too (and this
            one, whatever the durability): it survives the loss of either.
        interval : float, timedelta or str
            How often the journal, and what was saved, is copied.
        replace : bool
            Whether the target may have been a data directory of its own, which is given up.

        Returns
        -------
        Replica
            To see how far it is, and to stop.

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
        self._check_writable()
        if mode not in get_args(ReplicationMode):
            raise InvalidOption(
                f"mode is {mode!r}", advice=f"use {' or '.join(get_args(ReplicationMode))}"
            )
        if mode == "acknowledged" and self.options.durability == "checkpoint":
            raise InvalidOption(
                'nothing is journalled with durability="checkpoint"',
                advice='use another durability, or mode="asynchronous"',
            )
        seconds = parse_duration("interval", interval)
        follower = Follower(self._directory.path, target, replace=replace)
        replica = Replica(follower, self._directory.journal, mode, self._forget_replica)
        try:
            replica.step()
        except BaseException:
            follower.close()
            raise
        self._replicas = (*self._replicas, replica)
        self._syncer.add(f"replica {replica.target}", seconds, lambda: self._step(replica))
        self._syncer.start()
        return replica

    @property
    def replicas(self) -> list[Replica]:
        """The followers that the engine keeps up to date."""
        return list(self._replicas)

    def _step(self, replica: Replica) -> None:
        try:
            replica.step()
        except GodbError as error:
            self._failure = self._failure or error
            raise

    def _end_replica(self, replica: Replica) -> None:
        """Bring it up to date once more, as far as that is possible."""
        try:
            self._step(replica)
        except GodbError:
            logger.exception("%s is not up to date", replica)
        finally:
            replica.stop()

    def _forget_replica(self, replica: Replica) -> None:
        self._replicas = tuple(one for one in self._replicas if one is not replica)
        self._syncer.remove(f"replica {replica.target}")

    def _acknowledge(self, number: int | None) -> None:
        """Wait for those followers that have to acknowledge a change."""
        for replica in self._replicas:
            if replica.mode == "acknowledged":
                self._directory.journal.sync(number)
                replica.acknowledge(number)

    def save_to_file(self, path: str | os.PathLike[str]) -> int:
        """Write all collections to one file, which go-db reads, too.

        Parameters
        ----------
        path : path
            The file; replaced at once or not at all.

        Returns
        -------
        int
            How many documents were written.
        """
        self._check_open()
        with error_context("save", os.fspath(path)):
            collections = [self[name] for name in self.collections()]
            snapshots = [
                (one.name, one.snapshot(), one.next_id, one.indexes) for one in collections
            ]
            access = UNLIMITED
            for _, snapshot, *_ in snapshots:
                access &= snapshot.base.access()
            return write_snapshots(
                replace_file(path, access=access),
                snapshots,
                keep_extras=False,
                threads=self._memory.threads,
            )

    def load_collection_metadata(self, path: str | os.PathLike[str]) -> dict[str, int]:
        """Take in the collections of a single file; their documents are read at first use.

        The file is copied into the data directory first. Later changes of the file do not matter,
        and the engine never changes it.

        Parameters
        ----------
        path : path or URL
            A GODB file, of godb_arrow or go-db.

        Returns
        -------
        dict of str to int
            The names, and how many documents each has.

        Raises
        ------
        CollectionExists
            There is a collection of the same name: nothing was taken in.
        """
        self._check_writable()
        location = full_path(path)
        with error_context("load", location), ExitStack() as undo:
            copy = self._directory.attach(location)
            files: dict[str, str] = {}
            undo.callback(lambda: self._directory.detach({copy, *files.values()}))
            try:
                for name in list_collections(copy):
                    check_name(name)
                    files[name] = self._directory.attach_again(copy) if files else copy
                bases = {
                    name: self._directory.attached_base(file, name) for name, file in files.items()
                }
                found = {name: base.open().count for name, base in bases.items()}
            except GodbError as error:
                error.source = location  # of which the copy is
                raise
            with self._lock:
                for name in files:
                    self._check_free(name)
                    self._free_path(name)
                if files:
                    self._attach(bases, undo)
            return found

    def _attach(self, bases: Mapping[str, Base], undo: ExitStack) -> None:
        """Take in collections from files of the data directory: all of them, or none."""
        journal = self._directory.journal
        collections = {
            name: Collection(self._services, name, base, stale=True, attached=True)
            for name, base in bases.items()
        }
        for base in bases.values():
            self._directory.restrict(base.access())

        def apply(number: int) -> None:
            undo.pop_all()  # the journal names the files
            for name, collection in collections.items():
                journal.release(collection, number)
                collection.note_record(journal.position(number))
                self._collections[name] = collection
                self._note_paths(collection)

        names = {name: os.path.basename(base.path or "") for name, base in bases.items()}
        first = next(iter(collections.values()))
        self._journal(first, {"op": "attach", "files": names}, apply)
        self._acknowledge(None)  # followers need the files, too

    # --- background ---------------------------------------------------------------------------

    def start_background_workers(self) -> None:
        """Start the saver, where there is one, and the workers that were added."""
        self._check_open()
        self._workers.start()

    def stop_background_workers(self) -> None:
        """Stop them, each after the run that is under way."""
        self._check_process()
        self._workers.stop()

    def add_worker(
        self, name: str, interval: float | str | dt.timedelta, function: Callable[[], Any]
    ) -> None:
        """Have a function called again and again in the background.

        Parameters
        ----------
        name : str
            For :meth:`stats` and messages.
        interval : float, timedelta or str
            Time between two calls, such as ``"30s"``.
        function : callable
            Without arguments; its errors are logged and counted.
        """
        self._check_open()
        self._workers.add(name, parse_duration("interval", interval), function)

    def remove_worker(self, name: str) -> None:
        """Stop a worker and forget it."""
        self._check_process()
        self._workers.remove(name)

    # --- how it is getting on -----------------------------------------------------------------

    def memory_stats(self) -> MemoryStats:
        """What the engine holds in memory."""
        self._check_process()
        cache = self._memory.cache.stats()
        with self._lock:
            collections = self._collections.made()
        read_only = self._directory.read_only
        return MemoryStats(
            alloc_mb=self._memory.used / MEBIBYTE,
            peak_mb=self._memory.peak / MEBIBYTE,
            limit_mb=self._memory.limit / MEBIBYTE,
            cache_size=cache.values,
            cache_bytes=cache.bytes,
            changes_bytes=self._memory.changes,
            stream_bytes=self._memory.streams,
            hits=cache.hits,
            misses=cache.misses,
            evictions=cache.evictions,
            collections=len(self._collections),
            streams=len(self._services.streams),
            threads=threading.active_count(),
            journal_bytes=0 if read_only else self._directory.journal.size,
            dirty_documents=sum(one.dirty_documents for one in collections),
        )

    def stats(self) -> EngineStats:
        """How the engine is getting on."""
        self._check_process()
        journal = None if self._directory.read_only else self._directory.journal
        workers = self._workers.health()
        workers += self._syncer.health()
        return EngineStats(
            memory=self.memory_stats(),
            workers=workers,
            checkpoints=self._checkpoints,
            failed_checkpoints=self._failed,
            journal_syncs=journal.syncs if journal else 0,
            recovered_records=self._recovered,
            torn_bytes=journal.torn if journal else 0,
        )


def _as_ours(error: Exception, name: str) -> GodbError:
    """Return the error for a collection that cannot be saved."""
    if isinstance(error, GodbError):
        return error
    raised = GodbError(
        f"the collection cannot be saved: {error!r}",
        advice="the changes stay in the journal; drop the collection, or report the error",
    )
    raised.operation, raised.collection = "save", name
    raised.__cause__ = error
    return raised
