"""Documents that differ between a version of a collection and a later state."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xxhash

from godb_arrow.codec.entries import Rows
from godb_arrow.snapshots.manifest import Part
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["differences"]

_Key = tuple[int, int, int]


def differences(
    before: PartedBase | None, after: Snapshot
) -> Iterator[tuple[str, bytes | None, bool]]:
    """Yield the documents that were inserted, changed or deleted.

    Only parts that differ are read. The ids of their former documents are in memory meanwhile.

    Parameters
    ----------
    before : PartedBase or None
        The version; None for no documents.
    after : Snapshot
        The later state, with its unsaved changes.

    Yields
    ------
    tuple
        Document id, its new bytes or None if it was deleted, and whether it existed before.
    """
    assert isinstance(after.base, PartedBase)
    now = _live(after.base, after.superseded_rows())
    then: dict[_Key, tuple[int, Rows]] = {}
    former: dict[str, bytes] = {}
    if before is not None:
        then = _live(before, before.deleted)
        for run, index in before.entries_at(_other(then, now)):
            former[run.id(index)] = xxhash.xxh3_128_digest(run.document(index))
    for identity, document in _documents(after, _other(now, then)):
        digest = former.pop(identity, None)
        if digest is None or digest != xxhash.xxh3_128_digest(document):
            yield identity, document, digest is not None
    for identity in former:
        yield identity, None, True


def _documents(after: Snapshot, rows: Rows) -> Iterator[tuple[str, bytes]]:
    for run, index in after.base.entries_at(rows):
        yield run.id(index), run.document(index)
    for run in after.overlay_runs():
        for index, identity in enumerate(run.ids()):
            yield identity, run.document(index)


def _live(base: PartedBase, dead: Rows) -> dict[_Key, tuple[int, Rows]]:
    """Return the first row of each part, and its live rows, counted from the first."""
    parts = {}
    for (start, _), part in zip(base.files(), base.manifest.parts, strict=True):
        first, last = np.searchsorted(dead, (start, start + part.documents))
        is_live = np.ones(part.documents, bool)
        is_live[dead[first:last] - start] = False
        parts[_key_of(part)] = (start, np.flatnonzero(is_live))
    return parts


def _key_of(part: Part) -> _Key:
    return part.number, part.file_size, part.ids_checksum


def _other(parts: dict[_Key, tuple[int, Rows]], others: dict[_Key, tuple[int, Rows]]) -> Rows:
    """Return the live rows of parts that are not live in others, in order."""
    rows = [np.empty(0, np.int64)]
    for key, (start, live) in parts.items():
        known = others.get(key)
        own = live if known is None else np.setdiff1d(live, known[1], assume_unique=True)
        rows.append(own + start)
    return np.sort(np.concatenate(rows)).astype(np.int64)
