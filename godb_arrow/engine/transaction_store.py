"""State of a collection inside of a transaction: a snapshot under the transaction's own changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from godb_arrow.directory.journal import Receipt
from godb_arrow.documents.ids import IdSequence
from godb_arrow.engine.store import CollectionStore
from godb_arrow.engine.validation import Validator
from godb_arrow.snapshots.overlay import Overlay, PlannedChange
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["TransactionStore"]


class TransactionStore(CollectionStore):
    """Documents of a collection as a transaction sees them.

    Changes are not journalled and are visible in the transaction only.

    Parameters
    ----------
    collection : CollectionStore
        State of the collection outside. The caller holds its lock.
    snapshot : Snapshot
        Its documents when the transaction began.
    changes : int
        Number of its changes then.
    check : callable
        Raises if the transaction ended.
    """

    def __init__(
        self,
        collection: CollectionStore,
        snapshot: Snapshot,
        changes: int,
        check: Callable[[], None],
    ) -> None:
        super().__init__(collection.context, collection.name, snapshot.base)
        self.collection = collection
        self.begin = snapshot
        self.changes_at_begin = changes
        self._check = check
        self.overlay = Overlay.over(snapshot.unsaved)
        self.count = snapshot.count
        self.position = snapshot.position
        self.max_given_id = collection.max_given_id

    def check_present(self) -> None:
        """Raise if the transaction ended, or the collection was dropped."""
        self._check()
        self.collection.check_present()

    def id_sequence(self) -> IdSequence:
        """Return the sequence of generated ids, which all transactions share."""
        return self.collection.id_sequence()

    def indexes(self) -> tuple[str, ...]:
        """Return the indexed fields."""
        return self.collection.indexes()

    def constraints(self) -> None:
        """Return None: the end of the transaction checks its changes."""

    def validator(self) -> Validator | None:
        """Return what validates documents, if anything does."""
        return self.collection.validator()

    def journaled(
        self, meta: dict[str, Any], parts: Sequence[bytes], apply: PlannedChange
    ) -> Receipt:
        """Apply a change, which the end of the transaction journals."""
        del meta, parts
        receipt = Receipt()
        receipt.number = 0
        try:
            apply(None)
        except BaseException:  # an interrupt: complete the change
            apply(None)
            raise
        return receipt

    def account(self) -> None:
        """Count the bytes of the transaction's own changes."""
        self.changed_bytes = self.overlay.own_size
        self.context.memory.set_changes(self, self.changed_bytes)

    def release(self) -> None:
        """Release the memory of the changes."""
        if not self.context.lifecycle.is_forked:
            self.context.memory.set_changes(self, 0)

    def __del__(self) -> None:  # of a transaction that was neither committed nor rolled back
        if hasattr(self, "begin"):
            self.release()

    def existed_at_begin(self, ids: Sequence[str]) -> set[str]:
        """Return the ids of documents that existed when the transaction began."""
        unsaved, stored = self._unsaved_at_begin(ids)
        return {*unsaved, *self.base.rows_of(stored)}

    def documents_at_begin(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of the documents that existed when the transaction began."""
        unsaved, stored = self._unsaved_at_begin(ids)
        return unsaved | {key: raw for key, (_, raw) in self.base.find_all(stored).items()}

    def _unsaved_at_begin(self, ids: Sequence[str]) -> tuple[dict[str, bytes], list[str]]:
        """Return the documents that were not saved, and the ids that only files may have."""
        documents: dict[str, bytes] = {}
        stored: list[str] = []
        for key in ids:
            found = self.overlay.find_frozen(key)
            if isinstance(found, bool):
                stored.append(key)
            elif found is not None:
                documents[key] = found
        return documents, stored
