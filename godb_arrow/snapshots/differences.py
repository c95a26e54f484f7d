"""Documents that differ between a version of a collection and a later state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress

import numpy as np
import pyarrow as pa
import xxhash

from godb_arrow.codec.entries import Rows
from godb_arrow.documents.ids import pack_ids
from godb_arrow.memory.limit import Counted, Memory
from godb_arrow.snapshots.deletions import IDS_AT_ONCE, IdSet
from godb_arrow.snapshots.manifest import Part
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["differences"]

_Key = tuple[int, int, int]
_COMPARED_AT_ONCE = 1_024  # documents
_COMPARED_BYTES = 1 << 20
_DIGEST_BYTES = 16


def differences(
    before: PartedBase | None, after: Snapshot
) -> Iterator[tuple[str, bytes | None, bool]]:
    """Yield the documents that were inserted, changed or deleted.

    Only parts that differ are read. The ids of their former documents are in memory meanwhile, with
    a digest of each document.

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
    if before is not None:
        then = _live(before, before.deleted)
    former = _Former(before, _other(then, now), after.base.memory)
    for some in _blocks(_documents(after, _other(now, then))):
        digests = former.take([identity for identity, _ in some])
        for (identity, document), digest in zip(some, digests, strict=True):
            if digest is None or digest != xxhash.xxh3_128_digest(document):
                yield identity, document, digest is not None
    for identity in former.left():
        yield identity, None, True


class _Former:
    """Ids and digests of former documents."""

    def __init__(self, base: PartedBase | None, rows: Rows, memory: Memory) -> None:
        ids, self._digests = [], bytearray()
        waiting: list[str] = []
        for run, index in () if base is None else base.entries_at(rows):
            waiting.append(run.id(index))
            self._digests += xxhash.xxh3_128_digest(run.document(index))
            if len(waiting) == IDS_AT_ONCE:
                ids.append(pack_ids(waiting))
                waiting = []
        ids.append(pack_ids(waiting))
        self._ids = IdSet(pa.chunked_array(ids).combine_chunks())
        self._is_left = np.ones(len(self._ids), bool)
        size = self._ids.nbytes + len(self._digests) + self._is_left.nbytes
        self._counted = Counted(memory, streams=size)

    def take(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return the digests of some documents, which are then no longer left."""
        digests: list[bytes | None] = [None] * len(ids)
        for index, place in self._ids.places(ids):
            first = _DIGEST_BYTES * place
            digests[index] = bytes(self._digests[first : first + _DIGEST_BYTES])
            self._is_left[place] = False
        return digests

    def left(self) -> Iterator[str]:
        """Yield the ids of the documents that are left, in their order."""
        return compress(self._ids, self._is_left)


def _blocks(documents: Iterator[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Yield documents, some at a time."""
    block: list[tuple[str, bytes]] = []
    size = 0
    for identity, document in documents:
        block.append((identity, document))
        size += len(document)
        if len(block) >= _COMPARED_AT_ONCE or size >= _COMPARED_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


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
