"""Checks of changes of a collection by what it demands of its documents.

The caller holds the lock of the collection, unless a function says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from godb_arrow import codec
from godb_arrow.documents.encoding import Encoded
from godb_arrow.engine.constraints import Claims
from godb_arrow.engine.store import CollectionStore
from godb_arrow.engine.validation import check_document, check_run
from godb_arrow.errors import error_context
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.overlay import Overlay
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = [
    "check_base",
    "check_files",
    "claim_run",
    "prepare_constraints",
    "prepare_ids",
    "validate",
    "validate_files",
    "validated",
]


def prepare_ids(store: CollectionStore) -> None:
    """Build the id index of the base before the lock is taken, so that no thread waits."""
    with store.pinned_base() as base:
        base.prepare_ids()


def prepare_constraints(store: CollectionStore) -> None:
    """Load the values of unique indexes before the lock is taken, so that no thread waits."""
    constraints = store.constraints()
    if constraints is not None:
        with store.pinned_base() as base:
            constraints.prepare(base)


def validate(store: CollectionStore, identity: str, document: bytes) -> None:
    """Check that a document fits the validation of a collection; the caller holds no lock.

    Raises
    ------
    SchemaViolation, MissingValidator
    """
    validator = store.validator()
    if validator is not None:
        check_document(validator, identity, codec.with_id(codec.load(document), identity))


def validated(store: CollectionStore, runs: Iterator[Encoded]) -> Iterator[Encoded]:
    """Yield runs of documents that fit the validation of a collection."""
    validator = store.validator()
    for run in runs:
        if validator is not None:
            check_run(validator, run.entries())
        yield run


def check_base(store: CollectionStore, base: Base) -> None:
    """Check that documents may replace all documents of a collection; no lock is needed.

    Raises
    ------
    DuplicateValue, InvalidDocument, MissingValidator
    """
    constraints = store.constraints()
    if constraints is None:
        return
    with error_context("replace", collection=store.name):
        constraints.check_files(Snapshot(base, Overlay(), base.live, base.hint.position), range(1))
        if constraints.validator is not None:
            for _, entries in base.loaded():
                check_run(constraints.validator, entries)


def validate_files(store: CollectionStore, wanted: PartedBase, first: int) -> None:
    """Check that the documents of files fit the validation; see :func:`check_files`."""
    validator = store.validator()
    if validator is not None:
        for file in wanted.parts[first:]:
            for _, entries in file.loaded():
                check_run(validator, entries)


def claim_run(store: CollectionStore, entries: codec.Entries, ids: Sequence[str]) -> Claims | None:
    """Check that documents may be put.

    Parameters
    ----------
    store : CollectionStore
        The collection.
    entries : Entries
        The documents.
    ids : sequence of str
        Their ids.

    Returns
    -------
    Claims or None
        Values of unique indexes that the documents get.

    Raises
    ------
    DuplicateValue, InvalidDocument
    """
    constraints = store.constraints()
    if constraints is None:
        return None
    return constraints.claim_run(store.base, store.overlay, entries, ids)


def check_files(store: CollectionStore, wanted: PartedBase, first: int) -> None:
    """Check that files may become part of a collection whose changes are all saved.

    Parameters
    ----------
    store : CollectionStore
        The collection.
    wanted : PartedBase
        Its documents with the files.
    first : int
        Number of the first such file.

    Raises
    ------
    DuplicateValue, InvalidDocument
    """
    constraints = store.constraints()
    if constraints is not None:
        snapshot = Snapshot(wanted, Overlay(), wanted.live, wanted.hint.position)
        constraints.check_files(snapshot, range(first, len(wanted.parts)))
