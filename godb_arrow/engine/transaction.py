"""Transactions: changes of several documents and collections that take effect together."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain, islice
from typing import Any, NamedTuple, Self

from godb_arrow import codec
from godb_arrow.directory.journal import Receipt
from godb_arrow.directory.records import TRANSACTION
from godb_arrow.documents.ids import id_of
from godb_arrow.engine.catalog import Catalog
from godb_arrow.engine.checked_writer import CheckedWriter
from godb_arrow.engine.claims import prepare_constraints, prepare_ids
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.deleter import CollectionDeleter
from godb_arrow.engine.editing import EditableCollection
from godb_arrow.engine.pending import are_few
from godb_arrow.engine.saver import Saver
from godb_arrow.engine.store import CollectionStore, planned_change
from godb_arrow.engine.transaction_store import TransactionStore
from godb_arrow.engine.updater import CollectionUpdater
from godb_arrow.engine.writer import CollectionWriter, replaced_in
from godb_arrow.errors import (
    CollectionNotFound,
    TransactionClosed,
    TransactionConflict,
    document_not_found,
    error_context,
)
from godb_arrow.snapshots.entry_runs import scan
from godb_arrow.snapshots.overlay import PlannedChange, weight
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["Transaction", "TransactionCollection"]

_MAX_SHOWN_IDS = 5
_IDS_AT_ONCE = 1_024
"""Ids whose documents are looked up together: all parts are searched for each such number."""


class _Begin(NamedTuple):
    """State of a collection when a transaction began; no snapshot if it was never used."""

    store: CollectionStore
    changes: int
    snapshot: Snapshot | None


class _Change(NamedTuple):
    """Changes of one collection by a transaction."""

    store: TransactionStore
    puts: dict[str, bytes]
    deleted: list[str]


class TransactionCollection(EditableCollection):
    """Collection inside of a transaction: its snapshot, and the transaction's own changes.

    ``transaction["name"]`` returns it.
    """

    def __init__(self, store: TransactionStore, saver: Saver) -> None:
        self._store = store
        self._writer = CollectionWriter(store, saver)
        self._deleter = CollectionDeleter(store, saver)
        checked = CheckedWriter(store, saver)
        self._updater = CollectionUpdater(store, self._writer, checked)

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self._store.name

    @property
    def _indexed(self) -> tuple[str, ...]:
        return self._store.indexes()

    def _snapshot(self) -> Snapshot:
        with self._store.reading():
            return self._store.snapshot()

    def __len__(self) -> int:
        return self._store.documents()

    def _find(self, identity: str) -> bytes | None:
        store = self._store
        with store.reading(), store.lock:
            store.check_present()
            version = store.overlay.find(identity)
            if version is not False:
                return None if version is None else store.overlay.document(version)
            return store.base.find(identity)

    def get(self, identity: str | int, default: Any = ...) -> Any:
        """Return a document by its id; see :meth:`Collection.get`."""
        key = id_of(identity, "the document to get")
        found = self._find(key)
        if found is None:
            if default is ...:
                raise document_not_found(key)
            return default
        return codec.with_id(codec.load(found), key)

    def __contains__(self, identity: object) -> bool:
        is_id = isinstance(identity, (str, int)) and not isinstance(identity, bool)
        return is_id and self._find(str(identity)) is not None

    def insert(self, document: Mapping[Any, Any]) -> str:
        """Insert a document, and return its id; see :meth:`Collection.insert`."""
        return self._writer.insert_many("insert", [document], None, False, replace=False)[0]

    def __repr__(self) -> str:
        return f"<TransactionCollection {self.name!r}>"


class Transaction:
    """Transaction over the collections of an engine.

    :meth:`StorageEngine.transaction` returns it. It reads the state of all collections from when it
    began, with its own changes. At the end of the ``with`` block all changes take effect at once,
    as one record of the journal. After an exception none of them does.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     accounts = engine.create_collection("accounts")
    ...     _ = accounts.insert_many([{"_id": "a", "euros": 10}, {"_id": "b", "euros": 0}])
    ...     with engine.transaction() as tx:
    ...         _ = tx["accounts"].update("a", {"$inc": {"euros": -4}})
    ...         _ = tx["accounts"].update("b", {"$inc": {"euros": 4}})
    ...     [account["euros"] for account in accounts.find(sort="_id")]
    [6, 4]
    """

    def __init__(self, context: EngineContext, catalog: Catalog, saver: Saver) -> None:
        self._context = context
        self._saver = saver
        self._lock = threading.Lock()
        self._is_open = True
        self._opened: dict[str, TransactionCollection] = {}
        self._begins: dict[str, _Begin] = {}
        with catalog.lock, ExitStack() as locks:
            stores = [collection.store for collection in catalog.all()]
            for store in sorted(stores, key=lambda store: store.lock_order):
                locks.enter_context(store.lock)
            for store in stores:
                snapshot = store.freeze() if store.is_ready else None
                self._begins[store.name] = _Begin(store, store.changes, snapshot)

    def __getitem__(self, name: str) -> TransactionCollection:
        self._check_open()
        with self._lock:
            opened = self._opened.get(name)
            if opened is None:
                opened = self._opened[name] = TransactionCollection(self._begun(name), self._saver)
            return opened

    def _begun(self, name: str) -> TransactionStore:
        begin = self._begins.get(name)
        if begin is None:
            raise CollectionNotFound(
                f"there was no collection {name!r} when the transaction began",
                advice="create it before the transaction",
            )
        store = begin.store
        with store.lock:
            store.check_present()
            snapshot = begin.snapshot
            if snapshot is None:
                store.prepare()
                if store.changes != begin.changes:
                    raise TransactionConflict(
                        f"the collection {name!r} changed since the transaction began",
                        advice="begin the transaction again",
                    )
                snapshot = store.freeze()
            return TransactionStore(store, snapshot, begin.changes, self._check_open)

    def _check_open(self) -> None:
        self._context.lifecycle.check_writable()
        if not self._is_open:
            raise TransactionClosed("the transaction ended", advice="begin another one")

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None and self._is_open:
            self.commit()
        else:
            self.rollback()

    def rollback(self) -> None:
        """End the transaction without its changes; a second call does nothing."""
        self._is_open = False
        for collection in self._opened.values():
            collection._store.release()
        self._opened.clear()
        self._begins.clear()

    def commit(self) -> None:
        """Make all changes take effect, and end the transaction.

        Raises
        ------
        TransactionConflict
            Another writer changed one of the changed documents since the transaction began.
        DuplicateValue
            After the changes, two documents would share a value of a unique index.
        """
        self._check_open()
        try:
            changes = [*filter(None, (_change_of(one._store) for one in self._opened.values()))]
            if changes:
                self._commit(changes)
        finally:
            self.rollback()

    def _commit(self, changes: list[_Change]) -> None:
        size = 0
        for change in changes:
            prepare_ids(change.store.collection)
            prepare_constraints(change.store.collection)
            size += sum(weight(key, raw) for key, raw in change.puts.items())
            size += sum(weight(key, None) for key in change.deleted)
        with self._saver.reserved(size), ExitStack() as locks:
            stores = [change.store.collection for change in changes]
            for store in sorted(stores, key=lambda store: store.lock_order):
                locks.enter_context(store.lock)
            descriptions, parts, plans = [], [], []
            for change in changes:
                _check(change)
                description, chunk, plan = _planned(change)
                descriptions.append(description)
                parts.append(chunk)
                plans.append((change, plan))
            number = self._journaled({"op": TRANSACTION, "w": descriptions}, parts, plans)
        self._context.sync(number)

    def _journaled(
        self,
        meta: dict[str, Any],
        parts: list[bytes],
        plans: list[tuple[_Change, PlannedChange]],
    ) -> int:
        """Journal the changes and apply them: both or, on an error, neither."""
        receipt, journal = Receipt(), self._context.directory.journal
        first, *others = [change.store.collection for change, _ in plans]
        try:
            journal.append(first, meta, parts, receipt, others)
            _apply(plans, receipt)
        except BaseException:
            if receipt.number is not None:  # an interrupt: complete the changes
                _apply(plans, receipt)
            raise
        assert receipt.number is not None
        return receipt.number


def _change_of(store: TransactionStore) -> _Change | None:
    """Return the changes of a collection; None if it has none."""
    with store.lock:
        versions = store.overlay.own_versions()
    puts = {key: raw for key, raw in versions.items() if raw is not None}
    deleted: list[str] = []
    for some in _some(key for key, raw in versions.items() if raw is None):
        existed = store.existed_at_begin(some)
        deleted += [key for key in some if key in existed]
    return _Change(store, puts, deleted) if puts or deleted else None


def _some(ids: Iterable[str]) -> Iterator[list[str]]:
    """Yield ids in lists, whose documents are looked up together."""
    left = iter(ids)
    while some := [*islice(left, _IDS_AT_ONCE)]:
        yield some


def _check(change: _Change) -> None:
    """Check that no other writer changed the documents; the caller holds the lock.

    Raises
    ------
    TransactionConflict
    """
    own, store = change.store, change.store.collection
    store.check_present()
    store.prepare()
    if store.changes == own.changes_at_begin:
        return
    changed: list[str] = []
    for some in _some(chain(change.puts, change.deleted)):
        current, former = _current(store, some), own.documents_at_begin(some)
        changed += [key for key in some if current.get(key) != former.get(key)]
    if changed:
        shown = ", ".join(map(repr, changed[:_MAX_SHOWN_IDS]))
        error = TransactionConflict(
            f"another writer changed {len(changed)} documents of the transaction first: {shown}",
            changed,
            advice="begin the transaction again, with what the documents are now",
        )
        error.operation, error.collection = "commit", store.name
        raise error


def _current(store: CollectionStore, ids: list[str]) -> dict[str, bytes]:
    """Return the bytes of the documents that exist now; the caller holds the lock."""
    changed = store.overlay.find_any(dict.fromkeys(ids))
    found = {
        key: store.overlay.document(version)
        for key, version in changed.items()
        if version is not None
    }
    stored = store.base.find_all([key for key in ids if key not in changed])
    return found | {key: raw for key, (_, raw) in stored.items()}


def _planned(change: _Change) -> tuple[dict[str, Any], bytes, PlannedChange]:
    """Plan the changes of a collection; the caller holds the lock.

    Returns
    -------
    tuple
        Description for the journal, entries, and the function that applies the changes.
    """
    store, (own, puts, deleted) = change.store.collection, change
    ids = [*puts, *deleted]
    changed = store.overlay.find_any(dict.fromkeys(ids))
    stored = store.base.rows_of([key for key in ids if key not in changed])
    superseded = [row for rows in stored.values() for row in rows]
    present = sum(version is not None for version in changed.values()) + len(superseded)
    versions: dict[str, bytes | None] = {**puts, **dict.fromkeys(deleted)}
    with error_context("commit", collection=store.name):
        claims = store.claim(versions)
    chunk = b"".join([codec.pack(key) + raw for key, raw in puts.items()])
    replaced = {*stored, *(key for key, former in changed.items() if former is not None)}
    description = {
        "c": store.name, "n": store.id_sequence().next_id, "k": [len(puts)], "d": deleted,
        **replaced_in([*puts], replaced),
    }  # fmt: skip
    if are_few(ids, None) or not puts:
        plan = store.overlay.plan_change(versions, superseded)
    else:
        put = store.overlay.plan_add([*puts], scan(chunk, len(puts)), None, superseded)
        plan = _both(put, store, deleted)
    store.max_given_id = max(store.max_given_id, own.max_given_id)
    return description, chunk, planned_change(store, plan, len(puts) - present, claims)


def _both(put: PlannedChange, store: CollectionStore, deleted: list[str]) -> PlannedChange:
    """Join two plans of an overlay; the second one is made after the first was applied."""
    later: list[PlannedChange] = []
    overlay = store.overlay

    def apply(number: int | None) -> None:
        put(number)
        if not later:
            later.append(overlay.plan_change(dict.fromkeys(deleted), []))
        later[0](number)

    return apply if deleted else put


def _apply(plans: list[tuple[_Change, PlannedChange]], receipt: Receipt) -> None:
    for change, plan in plans:
        store = change.store.collection
        assert receipt.number is not None
        store.position = store.context.directory.journal.position(receipt.number)
        store.shared = receipt.number
        plan(receipt.number)
