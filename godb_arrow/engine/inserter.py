"""Inserts of single documents into one collection."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from godb_arrow import codec
from godb_arrow.directory.journal import Receipt
from godb_arrow.display import kind_of
from godb_arrow.documents.encoding import check_document_size
from godb_arrow.documents.ids import IdSequence, identify, number_of
from godb_arrow.engine.claims import validate
from godb_arrow.engine.constraints import Claims
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.saver import MAX_JOURNAL_BYTES, Saver
from godb_arrow.engine.store import CollectionStore
from godb_arrow.engine.writer import naming_document
from godb_arrow.errors import DuplicateId, GodbError, InvalidDocument, place_error
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.overlay import weight

__all__ = ["Inserter", "is_used"]

_TURN_PAUSES = 2
_TURN_PAUSE_SECONDS = 200e-6
_MAX_TURN_SECONDS = 0.05


class Inserter:
    """Inserts documents one by one.

    The steps are in few functions, since each call adds to the cost of a small insert.

    Threads take turns. Otherwise a waiting thread gets a lock while another one runs, which
    then waits for it. So each insert would change the thread, and take twice as long. Nothing
    depends on a turn, for which a thread waits a limited time. Commits take no turns, since their
    threads wait for the disk.

    Parameters
    ----------
    store : CollectionStore
        The collection.
    saver : Saver
        Reserves memory.
    """

    __slots__ = ("_max_document_bytes", "_saver", "_store")

    def __init__(self, store: CollectionStore, saver: Saver) -> None:
        self._store = store
        self._saver = saver
        self._max_document_bytes = store.context.options.max_document_bytes

    def insert(self, document: Mapping[Any, Any]) -> str:
        """Insert a document and return its id; see :meth:`Collection.insert`."""
        store = self._store
        # Another mapping than a dict is code of the caller, which may wait for other threads.
        turn = store.context.turn if type(document) is dict else None
        has_turn = turn is not None and (turn.acquire(False) or _wait_for_turn(store.context, turn))
        try:
            store.context.lifecycle.check_writable()
            sequence = store.sequence if store.is_ready else None
            identity, entry, raw, number, given = self._packed(document, sequence or store.ids())
            if not store.is_unconstrained:
                validate(store, identity, raw)
            size = weight(identity, raw)
            with store.lock:
                store.note_access()
                self._check_unused(identity, number, given)
                claims = None if store.is_unconstrained else store.claim({identity: raw})
                receipt = self._insert_counted(identity, entry, raw, size, claims)
            if receipt is not None:
                record = receipt.number or None
            else:
                with self._saver.reserved(size), store.lock:
                    self._check_unused(identity, number, given)
                    record = store.write_few({identity: raw}, [], 1)
            if has_turn and turn is not None:
                has_turn = False
                turn.release()
            store.context.sync(record)
            return identity
        except GodbError as error:
            place_error(error, "insert", store.name)
            raise
        finally:
            if has_turn and turn is not None:
                turn.release()

    def _insert_counted(
        self, identity: str, entry: bytes, document: bytes, size: int, claims: Claims | None
    ) -> Receipt | None:
        """Insert a document for which there is memory; the caller holds the lock.

        Parameters
        ----------
        identity : str
            Document id, which no document has.
        entry, document : bytes
            The document with its id before it, and without.
        size : int
            Memory use of the document in bytes.
        claims : Claims or None
            Its values of unique indexes.

        Returns
        -------
        Receipt or None
            Receipt of the change. None where memory must be reserved first: nothing happened.
        """
        store, context = self._store, self._store.context
        is_short = context.directory.journal.size <= MAX_JOURNAL_BYTES
        plan = store.overlay.plan_insert(identity, document, size) if is_short else None
        if plan is None or not store.count:  # The first document replaces a schema without rows.
            return None
        count, changes, now = store.count + 1, store.changes + 1, time.time()
        if claims is not None:
            size += claims.size
        changed_bytes = store.changed_bytes + size

        def apply(number: int | None) -> None:
            plan(number)
            if claims is not None:
                claims.note()
            store.count, store.changes, store.last_modified = count, changes, now
            store.changed_bytes = changed_bytes

        meta = {
            "op": "write", "n": store.id_sequence().next_id, "k": [1], "d": [], "c": store.name,
        }  # fmt: skip
        try:
            if not context.memory.add_changes(store, size):
                return None
            return store.journaled(meta, [entry], apply)
        except BaseException:
            store.account()
            raise

    def _check_unused(self, identity: str, number: int, given: bool) -> None:
        """Raise if the collection takes no documents, or has one with the id."""
        self._store.check_present()
        if is_used(self._store, identity, number, given=given):
            raise DuplicateId([identity], advice="replace it with upsert_many, or omit it")

    def _packed(
        self, document: Mapping[Any, Any], sequence: IdSequence
    ) -> tuple[str, bytes, bytes, int, bool]:
        """Return id, entry, document, the number that the id is or 0, and whether it was given."""
        if type(document) is dict:
            given = ID_FIELD in document
            reserved = 0 if given else sequence.reserve(1)
            packed = codec.pack_single(document, reserved)
            if packed is not None:
                identity, entry, raw, number = packed
                if given and number:
                    sequence.see_number(number)
                if len(entry) > self._max_document_bytes:
                    check_document_size(identity, raw, self._max_document_bytes)
                return identity, entry, raw, number, given
            if reserved:
                sequence.release(reserved, 1)
        if not isinstance(document, Mapping):
            raise InvalidDocument(
                f"the document is {kind_of(document)}",
                advice="give a mapping; insert_many takes several documents",
            )
        identity, made, given = identify(document, sequence)
        with naming_document(identity):
            raw = codec.pack(made)
        check_document_size(identity, raw, self._max_document_bytes)
        return identity, codec.pack(identity) + raw, raw, number_of(identity) or 0, given


def _wait_for_turn(context: EngineContext, turn: threading.RLock) -> bool:
    """Wait until no other thread inserts, and return False if that takes too long."""
    for _ in range(_TURN_PAUSES):
        time.sleep(_TURN_PAUSE_SECONDS)
        if turn.acquire(blocking=False):
            return True
    if turn.acquire(timeout=_MAX_TURN_SECONDS):
        return True
    if context.turn is turn:  # An interrupt may have kept a thread from ending its turn.
        context.turn = threading.RLock()
    return False


def is_used(store: CollectionStore, identity: str, number: int, *, given: bool) -> bool:
    """Return whether a document has an id; the caller holds the lock of the collection.

    Parameters
    ----------
    store : CollectionStore
        The collection.
    identity : str
        Document id.
    number : int
        Number that the id is, or 0.
    given : bool
        Whether a caller chose the id. A generated id is unused unless a caller inserted the same
        number explicitly.
    """
    if given and number > store.max_given_id:
        store.max_given_id = number
    version = store.overlay.find(identity)
    if version is not False:
        return version is not None
    return (given or 0 < number <= store.max_given_id) and store.base.has(identity)
