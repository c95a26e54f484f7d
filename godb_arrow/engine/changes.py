"""Change feed: what was inserted, updated and deleted, in order, from a token on."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.directory.change_log import ADVICE, ChangeLog, last_record
from godb_arrow.directory.data_directory import DataDirectory, JournalEnd
from godb_arrow.directory.records import NO_VERSION, Record
from godb_arrow.engine.change_batches import GatheredChanges, batch_of
from godb_arrow.engine.change_token import ChangeToken
from godb_arrow.engine.change_units import (
    BegunUnit,
    ChangeUnit,
    Operation,
    RecordReader,
    Row,
    net_rows,
)
from godb_arrow.engine.change_versions import announced_version, compared, pinned_version
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import (
    ChangesLost,
    InvalidCursor,
    VersionNotFound,
    error_context,
)
from godb_arrow.file.hints import JournalPosition
from godb_arrow.memory.limit import Counted
from godb_arrow.snapshots.overlay import Overlay
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["Change", "ChangeFeed", "begin_token", "changed_ids", "token_at_end", "token_of"]

_POLL_SECONDS = 0.05
_BATCH_CHANGES = 16_384


@dataclass(frozen=True, slots=True)
class Change:
    """Change of a document or of a collection.

    Attributes
    ----------
    operation : str
        "insert", "update" or "delete" of a document, "drop" or "rename" of a collection. Records of
        version 0.1.0 do not distinguish inserts and updates, which are "upsert".
    collection : str
        Name of the collection.
    id : str or None
        Document id; None for a collection.
    document : dict or None
        The document after the change; None if it was deleted.
    sequence : int
        Sequence number. Changes of one transaction, and of one call, have the same number.
    time : datetime or None
        Time of the change; None where it is unknown.
    net : bool
        Whether the change is the result of several changes, which are not listed.
    last : bool
        Whether it is the last change of its transaction or call.
    to : str or None
        New name of a renamed collection.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     feed = engine.changes()
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    ...     change = next(feed)
    >>> change.operation, change.collection, change.document
    ('insert', 'users', {'_id': '1', 'name': 'Ada'})
    """

    operation: Operation
    collection: str
    id: str | None
    document: dict[Any, Any] | None
    sequence: int
    time: dt.datetime | None
    net: bool
    last: bool
    to: str | None = None


class ChangeFeed:
    """Changes after a token: an iterator and an async iterator of :class:`Change`.

    :meth:`Collection.changes` and :meth:`StorageEngine.changes` return it.

    Parameters
    ----------
    context : EngineContext
        Context of the engine.
    store_of : callable
        Returns a collection of the engine by its name, or None.
    token : ChangeToken
        Position of the last change that the caller knows.
    store : CollectionStore, optional
        The only collection, default all.
    names : frozenset of str, optional
        Names of chosen collections, default all.
    follow : bool
        Whether to wait for later changes.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     users = engine.create_collection("users")
    ...     feed = users.changes()
    ...     _ = users.insert_many([{"n": 1}, {"n": 2}])
    ...     feed.to_arrow().select(["_operation", "n"]).to_pylist()
    [{'_operation': 'insert', 'n': 1}, {'_operation': 'insert', 'n': 2}]
    """

    def __init__(
        self,
        context: EngineContext,
        store_of: Callable[[str], CollectionStore | None],
        token: ChangeToken,
        *,
        store: CollectionStore | None = None,
        names: frozenset[str] | None = None,
        follow: bool = False,
    ) -> None:
        self._context, self._store_of, self._store = context, store_of, store
        self._follow = follow
        self._token = token
        followed = None if store is None else token.collection or store.name
        self._reader = RecordReader(self._compared, followed, names)
        self._log: ChangeLog | None = None
        self._closed = threading.Event()
        self._taking = threading.Lock()
        self._end: ChangeToken | None = None
        self._units_left = self._units()
        self._begun: BegunUnit | None = None  # unit with rows that were not returned

    # --- token --------------------------------------------------------------------------------

    @property
    def token(self) -> str:
        """Token of the last transaction or call whose changes were all returned.

        Store it together with what was made of the changes. A feed with ``since=token`` continues
        after it. It does not change while some changes of a transaction are still to come.
        """
        return self._token.pack()

    def close(self) -> None:
        """End the feed, also while another thread waits for changes."""
        self._closed.set()
        if self._taking.acquire(blocking=False):
            try:
                if self._log is not None:
                    self._log.close()
            finally:
                self._taking.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        name = "all collections" if self._store is None else repr(self._store.name)
        return f"<ChangeFeed of {name}, after change {self._token.position.number}>"

    # --- iteration ----------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        while True:
            change, is_over = self._change_now()
            if is_over:
                raise StopIteration
            if change is not None:
                return change
            self._closed.wait(_POLL_SECONDS)

    def __aiter__(self) -> AsyncIterator[Change]:
        return self._items_async()

    async def _items_async(self) -> AsyncIterator[Change]:
        """Yield changes; a thread is occupied only while it reads what is there."""
        try:
            while True:
                change, is_over = await asyncio.to_thread(self._change_now)
                if is_over:
                    return
                if change is not None:
                    yield change
                else:
                    await asyncio.sleep(_POLL_SECONDS)
        finally:
            self._closed.set()

    def _change_now(self) -> tuple[Change | None, bool]:
        """Return the next change if it is there, and whether the feed is over."""
        with self._step():
            while (begun := self._next_unit()) is not None:
                row, is_last = next(begun.rows, (None, True))
                change = None
                if row is not None and begun.unit is not None:
                    change = _change(begun.unit, row, is_last=is_last)
                if is_last:
                    self._token = begun.token
                else:
                    self._begun = begun
                if change is not None or (self._follow and begun.token is self._end):
                    return change, False
            return None, True

    def batches(
        self, max_changes: int = _BATCH_CHANGES, *, split: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """Yield the changes as record batches, each with whole transactions.

        A batch has the columns ``_operation``, ``_sequence``, ``_time``, ``_net``, ``_collection``
        and ``_id``, and then the fields of its documents, with the types of these documents.
        A field with the name of one of these columns gets a trailing underscore.
        :attr:`token` is the position after the last batch.

        Parameters
        ----------
        max_changes : int
            Number of changes after which a batch ends with its transaction. It also ends after an
            eighth of the memory limit, but not before 1 MiB, and after 4,194,304 values.
        split : bool
            Whether a batch may end inside of a transaction or call, so that memory is bounded,
            default False. :attr:`token` then moves with the last batch of the transaction.
        """
        is_over = False
        while not is_over:
            with self._step():
                changes = GatheredChanges(self._context.memory, max_changes)
                token, is_over = self._gather(changes, split=split)
                batch = batch_of(changes) if len(changes) else None
                del changes
                self._token = token
            if batch is not None:
                yield batch
                del batch
            if not is_over and token is self._end and self._begun is None:
                self._closed.wait(_POLL_SECONDS)

    def to_arrow(self) -> pa.Table:
        """Return the changes as one table; see :meth:`batches`."""
        gathered = GatheredChanges(self._context.memory)
        is_over = False
        with self._step():
            while not is_over:
                token, is_over = self._gather(gathered)
                if not is_over:
                    self._closed.wait(_POLL_SECONDS)
            table = pa.Table.from_batches([batch_of(gathered)])
            self._token = token
        return table

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Exclude other threads, and end the feed on an error: it may have taken changes."""
        with self._taking:
            try:
                yield
            except BaseException:
                self._units_left = iter(())
                raise

    def _gather(self, changes: GatheredChanges, *, split: bool = False) -> tuple[ChangeToken, bool]:
        """Gather rows of units; return the token after the units, and whether the feed is over.

        The rows end at the end of a feed that follows.
        """
        token = self._token
        while (begun := self._next_unit()) is not None:
            if not changes.add(begun, split=split):
                self._begun = begun
                return token, False
            token = begun.token
            if changes.is_full or (self._follow and token is self._end):
                return token, False
        return token, True

    def _ids(self) -> list[str] | None:
        """Return the ids of changed documents, each once; None if the collection was dropped."""
        ids: dict[str, None] = {}
        with self._step():
            while (begun := self._next_unit()) is not None:
                for (_, _, identity, _, _), _ in begun.rows:
                    if identity is None:
                        return None
                    ids[identity] = None
        return list(ids)

    def _next_unit(self) -> BegunUnit | None:
        """Return the unit that was begun, or the next one; None at the end of the feed."""
        begun, self._begun = self._begun, None
        if begun is None and (following := next(self._units_left, None)) is not None:
            begun = BegunUnit.of(*following)
        return begun

    # --- units --------------------------------------------------------------------------------

    def _units(self) -> Iterator[tuple[ChangeUnit | None, ChangeToken]]:
        """Yield units with the token after each; None where no chosen document changed."""
        name = None if self._store is None else self._store.name
        try:
            with error_context("read changes", collection=name):
                try:
                    yield from self._listed(self._token)
                    return
                except ChangesLost:
                    net = self._net()
                    if net is None:
                        raise
                yield net
                self._end = net[1]
                if self._context.directory.keeps_journal:
                    yield from self._listed(self._end)
                else:
                    yield None, self._end
        finally:
            if self._log is not None:
                self._log.close()

    def _listed(self, token: ChangeToken) -> Iterator[tuple[ChangeUnit | None, ChangeToken]]:
        """Yield the units of the journal; without `follow`, up to the last one."""
        reader, lifecycle = self._reader, self._context.lifecycle
        lifecycle.check_open()
        self._check_followed(token)
        log = self._log = self._opened_log(token)
        while not self._closed.is_set():
            lifecycle.check_open()
            for record in log.read():
                before, unit = reader.followed, reader.unit(record)
                if reader.followed != before:
                    self._check_followed(_token_at(log, reader.followed))
                counted = Counted(self._context.memory, streams=sum(map(len, record.parts)))
                del record
                yield unit, _token_at(log, reader.followed)
                del unit  # The next record is read only when this one is released.
                counted.release()
                if self._closed.is_set():
                    return
            end = self._end = self._token_at_end(log)
            yield None, end
            if not self._follow:
                return

    def _opened_log(self, token: ChangeToken) -> ChangeLog:
        directory = self._context.directory
        if not directory.keeps_journal:
            raise ChangesLost("an object store has no journal", advice=ADVICE)
        journal, kept = directory.journal_folder, directory.changes_folder
        return ChangeLog(journal, kept, token.position, token.offset, token.begun)

    def _check_followed(self, token: ChangeToken) -> None:
        """Check that the collection of a token is, or gets, the name of the feed's collection.

        Raises
        ------
        InvalidCursor
            The token is of another collection. So none of its changes is listed.
        """
        store, followed = self._store, token.collection
        if store is None or followed is None:
            return
        with store.lock:  # A rename takes effect under it.
            name = store.name
        if followed == name:
            return
        log = self._opened_log(token)
        try:
            for record in log.read():
                if record.meta["op"] == "rename" and record.meta["c"] == followed:
                    followed = record.meta["to"]
        finally:
            log.close()
        if followed != name:
            raise InvalidCursor(
                f"the token is of the collection {followed!r}, and not of {name!r}",
                advice="give each collection its own token",
            )

    def _token_at_end(self, log: ChangeLog) -> ChangeToken:
        """Return the token after the last change, with the saved version that has all of them."""
        followed, store = self._reader.followed, self._store
        if store is None:
            return _token_at(log, None)
        end = JournalPosition(log.run, log.position.number)
        return _token_at(log, followed, _saved_version(store, end, self._context.directory))

    # --- versions -----------------------------------------------------------------------------

    def _net(self) -> tuple[ChangeUnit | None, ChangeToken] | None:
        """Return all changes since the version of the token as one unit; None without it."""
        token, store = self._token, self._store
        if token.version is None or store is None or token.collection not in (None, store.name):
            return None
        with store.lock:
            now = store.snapshot()
            if not self._context.directory.keeps_journal:
                now = Snapshot(store.base, Overlay(), store.base.live, store.base.hint.position)
            end = token_of(store, now)
        if not isinstance(now.base, PartedBase):
            return None
        try:
            before, pin = pinned_version(now.base.folder, *token.version)
        except VersionNotFound:
            return None
        rows = net_rows(store.name, compared(before, now, pin))
        return ChangeUnit(end.position.number, None, rows, is_net=True), end

    def _compared(self, record: Record) -> Iterator[tuple[str, bytes | None, bool]]:
        """Compare the version of a record with the one before.

        The collection may have been renamed since. The times of its versions tell it from others.

        Raises
        ------
        VersionNotFound
        """
        if self._store is not None:
            return _compared_in(self._store, record)
        try:
            return _compared_in(self._store_of(record.meta["c"]), record)
        except VersionNotFound:
            for name in reversed(self._later_names(record.meta["c"])):
                with suppress(VersionNotFound):
                    return _compared_in(self._store_of(name), record)
            raise

    def _later_names(self, name: str) -> list[str]:
        """Return the names that a collection got after the current record, in order."""
        log = self._log
        assert log is not None
        names: list[str] = []
        later = self._opened_log(_token_at(log, None))
        try:
            for record in later.read():
                op, subject = record.meta["op"], record.meta.get("c")
                if op == "rename" and subject == name:
                    name = record.meta["to"]
                    names.append(name)
                elif op == "drop" and subject == name:
                    break
        finally:
            later.close()
        return names


def _compared_in(
    store: CollectionStore | None, record: Record
) -> Iterator[tuple[str, bytes | None, bool]]:
    """Compare the version of a record with the one before, if a collection has both.

    Raises
    ------
    VersionNotFound
    """
    meta = record.meta
    number, created, since = meta["v"], meta.get("at"), meta.get("from")
    base = None if store is None else store.base
    if created is None or since is None or not isinstance(base, PartedBase):
        raise VersionNotFound("a single file has no versions")
    before, pin = None, None
    if since != NO_VERSION:
        before, pin = pinned_version(base.folder, number - 1, since)
    after, _ = announced_version(base.folder, number)
    if after.manifest.created != created:
        if before is None:
            raise VersionNotFound(f"version {number} is of another collection")
        return iter(())  # The change failed, and a later save has this number.
    later = Snapshot(after, Overlay(), after.live, after.manifest.position)
    return compared(before, later, pin)


def token_of(store: CollectionStore, snapshot: Snapshot) -> ChangeToken:
    """Return the token of a snapshot that was just taken; the caller holds the lock.

    Of a directory that another process writes, the documents may be newer than the token, and never
    older. Then changes come again.
    """
    directory = store.context.directory
    end = store.read_end if directory.read_only else directory.journal_end()
    version = None
    if isinstance(snapshot.base, PartedBase) and snapshot.is_clean:
        version = (snapshot.base.manifest.version, snapshot.base.manifest.created)
    return token_at_end(directory, end, store.name, version)


def token_at_end(
    directory: DataDirectory,
    end: JournalEnd,
    collection: str | None = None,
    version: tuple[int, float] | None = None,
) -> ChangeToken:
    """Return the token of an end of the journal, which names the run of the last change."""
    position, offset = end
    run = position.run
    has_changes = not directory.read_only and position.number >= directory.journal.first
    if directory.keeps_journal and not has_changes:
        position = last_record(directory.journal_folder, directory.changes_folder, position)
    return ChangeToken(position, collection, offset, version, begun=run)


def _token_at(
    log: ChangeLog, collection: str | None, version: tuple[int, float] | None = None
) -> ChangeToken:
    return ChangeToken(log.position, collection, log.offset, version, begun=log.run)


def _saved_version(
    store: CollectionStore, position: JournalPosition, directory: DataDirectory
) -> tuple[int, float] | None:
    """Return the version with all changes up to a position, if it was saved."""
    if directory.read_only:
        return None
    with store.lock:
        base, last = store.base, store.position_of(store.base)
        if store.is_dirty or not isinstance(base, PartedBase):
            return None
        if last.run == position.run and last.number > position.number:
            return None
        return base.manifest.version, base.manifest.created


def _change(unit: ChangeUnit, row: Row, *, is_last: bool) -> Change:
    operation, collection, identity, raw, new_name = row
    document = None
    if raw is not None and identity is not None:
        document = codec.with_id(codec.load(raw), identity)
    return Change(
        operation,
        collection,
        identity,
        document,
        unit.sequence,
        unit.time,
        unit.is_net,
        is_last,
        new_name,
    )


def changed_ids(feed: ChangeFeed) -> list[str] | None:
    """Return the ids of the documents that a feed lists, each once, without reading documents.

    Returns
    -------
    list of str or None
        None if the collection was dropped.

    Raises
    ------
    ChangesLost, InvalidCursor
    """
    return feed._ids()


def begin_token(since: object, now: Callable[[], ChangeToken]) -> ChangeToken:
    """Return the token where a feed begins; None is now.

    Raises
    ------
    InvalidCursor
    """
    return now() if since is None else ChangeToken.unpack(since)
