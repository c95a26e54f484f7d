"""Choice of part files to merge or rewrite: small parts, and parts with many deleted documents.

Each save adds a part with the changed documents, and records the deleted rows of other parts.
Without compaction there would be ever more parts with ever fewer documents. So neighbouring parts
are merged when there are many of about the same size. Each result is about `FAN` times as large.
A document is rewritten only when its part moves up a level, twice in most collections. A part is
also rewritten when half of its documents are deleted, which costs no more than their deletion.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from godb_arrow.codec.entries import Rows
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.manifest import Part
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["FAN", "choose_parts", "join_parts"]


FAN = 16
_DELETED_SHARE = 2  # A part is rewritten when one document in so many is deleted.
_LEVELS = 5


def choose_parts(
    parts: Sequence[Part], part_size: int, *, thorough: bool = False
) -> tuple[int, int] | None:
    """Return the parts to merge next, as a first index and an end, or None.

    Parameters
    ----------
    parts : sequence of Part
        Parts of a collection, in order.
    part_size : int
        Maximum bytes of documents in a part.
    thorough : bool
        Whether to merge all small parts, and to drop all deleted documents.

    Returns
    -------
    tuple of int, or None
        None if no merge is worthwhile.

    Examples
    --------
    >>> small = [Part(number, 10, 1000, 500) for number in range(FAN)]
    >>> choose_parts(small[1:], part_size=1 << 20) is None
    True
    >>> choose_parts([Part(99, 10, 1 << 20, 500), *small], part_size=1 << 20)
    (1, 17)
    """
    # Levels with the fewest bytes come first.
    for level in range(_LEVELS, 0, -1):
        limit = part_size // 2 // FAN ** (level - 1)
        lowest = limit // FAN if level < _LEVELS else 0
        for first, last in _runs_below(parts, limit, part_size):
            sizes = [part.live_size for part in parts[first:last]]
            size = sum(sizes)
            if -(-size // part_size) >= len(sizes):  # Merging would not reduce their number.
                continue
            # Smaller parts do not count, since sixteen of them would rewrite one large part again
            # and again. If they are stuck between parts of this level, their number decides.
            similar = sum(live_size >= lowest for live_size in sizes)
            many = len(sizes) >= FAN * (_LEVELS - level + 1)
            full = level == 1 and size >= part_size * 3 // 4
            if similar >= FAN or many or full or (thorough and level == 1):
                return first, last
    for index, part in enumerate(parts):
        if part.live * _DELETED_SHARE <= part.documents or (thorough and len(part.deleted)):
            return index, _end_of_run(parts, index, part_size // 2 + 1, part_size)
    return None


def _runs_below(parts: Sequence[Part], limit: int, part_size: int) -> Iterator[tuple[int, int]]:
    """Yield runs of neighbouring parts below a size, each of little more bytes than one part."""
    first = 0
    while first < len(parts):
        if parts[first].live_size >= limit:
            first += 1
            continue
        last = _end_of_run(parts, first, limit, part_size)
        if last - first > 1:
            yield first, last
        first = last


def _end_of_run(parts: Sequence[Part], first: int, limit: int, part_size: int) -> int:
    last, size = first + 1, parts[first].live_size
    while last < len(parts) and parts[last].live_size < limit and size < part_size * 3 // 4:
        size += parts[last].live_size
        last += 1
    return last


logger = logging.getLogger(__name__)


def join_parts(
    snapshot: Snapshot, name: str, first: int, last: int, part_size: int
) -> tuple[Base, Rows, int]:
    """Merge parts of a collection without their deleted documents, and write a new manifest.

    Parameters
    ----------
    snapshot : Snapshot
        Snapshot of the collection as it was saved.
    name : str
        Name of the collection.
    first, last : int
        First index of the parts, and end.
    part_size : int
        Maximum bytes of documents in a part.

    Returns
    -------
    base : Base
        New base of the collection.
    gone : array of int64
        Deleted rows of the snapshot's base, which the new one lacks.
    written : int
        Bytes of the new files.
    """
    base = snapshot.base
    assert isinstance(base, PartedBase)
    old, manifest = base.manifest.parts, base.manifest
    files = base.files()
    statistics = base.part_statistics()
    chosen = old[first:last]
    gone = [
        part.deleted + start for (start, _), part in zip(files[first:last], chosen, strict=True)
    ]
    dropped = np.concatenate(gone)
    schema = snapshot.settle_schema(dropped)
    added = base.folder.write_parts(
        name,
        snapshot,
        files[first:last],
        changes=False,
        count=sum(part.live for part in chosen),
        size=sum(part.live_size for part in chosen),
        part_size=part_size,
        schema=schema,
        compression=manifest.compression,
        indexes=manifest.indexes,
    )
    committed = base.folder.commit(
        replace(
            manifest,
            version=manifest.version + 1,
            rewrites=True,
            schema=schema,
            parts=(*old[:first], *(part for part, _ in added), *old[last:]),
        ),
        [*statistics[:first], *(row for _, row in added), *statistics[last:]],
    )
    stored = PartedBase(base.folder, committed)
    return stored, dropped, sum(part.file_size for part, _ in added)
