"""Deletion of expired documents, by a background worker or on demand."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator

from godb_arrow.engine.catalog import Catalog
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.deleter import CollectionDeleter
from godb_arrow.engine.rules import Rules
from godb_arrow.engine.saver import Saver
from godb_arrow.engine.store import CollectionStore
from godb_arrow.engine.workers import BackgroundFailure, Workers
from godb_arrow.errors import CollectionNotFound, EngineClosed, GodbError, StorageError
from godb_arrow.schema import ID_FIELD

__all__ = ["Expirer"]

logger = logging.getLogger(__name__)

_BATCH_DOCUMENTS = 5_000
"""Documents that one change of the journal deletes."""
_SEARCHED_DOCUMENTS = 100_000
"""Ids of expired documents that are found at once."""


class Expirer:
    """Deletes the documents of an engine that have expired.

    Parameters
    ----------
    context : EngineContext
        Context of the engine.
    catalog : Catalog
        Its collections.
    saver : Saver
        Reserves memory.
    workers : Workers
        Background workers. A run in the background ends early when they are stopped.
    failure : BackgroundFailure
        Receives errors that no caller sees.

    Attributes
    ----------
    expired : int
        Number of documents that were deleted.
    clock : callable
        Returns the seconds since 1970, in UTC.
    """

    def __init__(
        self,
        context: EngineContext,
        catalog: Catalog,
        saver: Saver,
        workers: Workers,
        failure: BackgroundFailure,
    ) -> None:
        self._context = context
        self._catalog = catalog
        self._saver = saver
        self._workers = workers
        self._failure = failure
        self.expired = 0
        self._without: set[str] = set()  # files of unused collections without a lifetime
        self.clock: Callable[[], float] = time.time

    def expire_in_background(self) -> None:
        """Delete the expired documents of all collections; the next save raises an error of this.

        After an error the other collections follow.
        """
        failed: GodbError | None = None
        self._open_collections()
        for collection in self._catalog.used():
            if not self._workers.running:
                return
            store = collection.store
            if store.base.is_refused:
                continue
            try:
                self.expire(store, lambda: self._workers.running)
            except (CollectionNotFound, EngineClosed):  # dropped or closed meanwhile
                continue
            except GodbError as error:
                logger.warning("deleting expired documents of %r failed: %s", store.name, error)
                failed = failed or error
        if failed is not None:
            self._failure.note(failed)
            raise failed

    def _open_collections(self) -> None:
        """Open the collections that have a lifetime; the files of others are read once."""
        for name, path in self._catalog.unused():
            if path in self._without:
                continue
            expires = False
            try:
                base = self._context.directory.base(path)
                try:
                    expires = bool(Rules.unpack(base.hint.rules).expiry)
                finally:
                    base.forget()
            except GodbError as error:
                logger.warning("the rules of %r cannot be read: %s", name, error)
                if isinstance(error, StorageError):
                    continue  # The next run reads them again.
            if expires:
                self._catalog.get(name)
            else:
                self._without.add(path)

    def expire(self, store: CollectionStore, goes_on: Callable[[], bool] = lambda: True) -> int:
        """Delete the expired documents of a collection, in batches.

        An error of one lifetime is raised after the other lifetimes were applied.

        Parameters
        ----------
        store : CollectionStore
            The collection.
        goes_on : callable
            Called before each batch; returns whether to go on. Default always.

        Returns
        -------
        int
            Number of deleted documents.
        """
        deleter = CollectionDeleter(store, self._saver)
        total = 0
        failed: GodbError | None = None
        for field, seconds in Rules.unpack(store.rules()).expiry.items():
            try:
                for deleted in self._deletions(deleter, field, seconds, goes_on):
                    total += deleted
                    self.expired += deleted
            except GodbError as error:  # the other lifetimes are applied all the same
                failed = failed or error
        if total:
            logger.info("deleted %d expired documents of %r", total, store.name)
        if failed is not None:
            raise failed
        return total

    def _deletions(
        self, deleter: CollectionDeleter, field: str, seconds: float, goes_on: Callable[[], bool]
    ) -> Iterator[int]:
        """Delete the documents that expired by one field; yield the number of each batch."""
        latest = _moment(self.clock() - seconds)
        if latest is None:
            return
        is_due = {field: {"$lte": latest}}
        ids = deleter.first_ids(is_due, _SEARCHED_DOCUMENTS)
        since_search = 0
        while ids and goes_on():
            # A document that was changed meanwhile is compared again.
            batch, ids = ids[:_BATCH_DOCUMENTS], ids[_BATCH_DOCUMENTS:]
            deleted = deleter.delete_many({ID_FIELD: batch, **is_due}, check_fields=False)
            since_search += deleted
            yield deleted
            if not ids and since_search:
                since_search, ids = 0, deleter.first_ids(is_due, _SEARCHED_DOCUMENTS)


def _moment(seconds: float) -> dt.datetime | None:
    """Return a moment; None if it is before the year 1."""
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return None
