"""Searches that indexes in memory answer alone, without a snapshot.

They take microseconds, so that each object and each call would count.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from godb_arrow import codec
from godb_arrow.codec.entries import Rows, no_rows
from godb_arrow.documents.loading import load_run
from godb_arrow.errors import CorruptFile
from godb_arrow.query.selection import without_rows
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.compound import CompoundSearch, choose_compound, plain_conditions
from godb_arrow.snapshots.entry_runs import gather, scan
from godb_arrow.snapshots.frozen import FrozenOverlay
from godb_arrow.snapshots.held import Documents
from godb_arrow.snapshots.index_names import compound_of
from godb_arrow.snapshots.indexes import cached_keys

__all__ = ["load_found", "search_memory"]

_MAX_SHARE = 8  # of the documents, one in so many, up to which candidates are tested one by one
_MIN_TESTED = 1_000  # documents that are always tested one by one
_MAX_UNINDEXED = 32  # number of unsaved documents that are tested without an index


def search_memory(
    query: Any,
    filter: Any,
    base: Base,
    unsaved: FrozenOverlay,
    indexes: tuple[str, ...],
    limit: int,
    *,
    counts: bool,
) -> tuple[int, bytes] | None:
    """Search documents in memory by their indexes.

    Parameters
    ----------
    query : PlainFilter
        The filter, compiled.
    filter : mapping
        The filter.
    base : Base
        Saved documents.
    unsaved : FrozenOverlay
        Changes to them.
    indexes : tuple of str
        Indexed fields.
    limit : int
        Max number of documents; -1 for all.
    counts : bool
        Whether to return no entries.

    Returns
    -------
    tuple of int and bytes, or None
        Number of the documents, and their entries. None where no index helps, something is not in
        memory, too many documents would be tested, or a document is damaged.
    """
    paths = query.paths
    if len(paths) == 1:
        if paths[0] not in indexes:
            return None
    else:
        if any(map(compound_of, indexes)):
            compound = choose_compound(indexes, plain_conditions(filter) or ())
            if compound is not None:
                return _search_compound(query, compound, base, unsaved, limit, counts=counts)
        paths = tuple([path if path in indexes else None for path in paths])
        if not any(paths):
            return None
    most = max(_MIN_TESTED, base.count // _MAX_SHARE)
    deleted = unsaved.row_sets()
    gone = base.deleted_set()
    if gone is not None:
        deleted = (*deleted, gone)
    total, parts = 0, []
    for start, file in base.files():
        if file.path is None:
            continue
        documents = file.held_documents()
        if documents is None:
            return None
        keys: list[codec.SortedKeys | None] = []
        for path in paths:
            known = None if path is None else cached_keys(file, path)
            if path is not None and known is None:
                return None
            keys.append(known)
        found = query.search(documents.located, keys, deleted, (), start, most, limit, counts)
        if found is None:
            return None
        total += found[0]
        parts.append(found[1])
        if limit > 0:
            limit -= found[0]
    if unsaved.layers:
        for held, newer in unsaved.sources():
            is_small = len(held) <= _MAX_UNINDEXED
            keys = [None if is_small or path is None else held.keys(path) for path in paths]
            found = query.search(held.located, keys, (), newer, 0, most, limit, counts)
            if found is None:
                return None
            total += found[0]
            parts.append(found[1])
            if limit > 0:
                limit -= found[0]
    return total, parts[0] if len(parts) == 1 else b"".join(parts)


def _search_compound(
    query: Any,
    compound: CompoundSearch,
    base: Base,
    unsaved: FrozenOverlay,
    limit: int,
    *,
    counts: bool,
) -> tuple[int, bytes] | None:
    """Search documents in memory by an index of several fields; see :func:`search_memory`."""
    none = [None] * len(query.paths)
    total, parts = 0, []

    def search(documents: Documents, keys: codec.SortedKeys, deleted: Rows, newer: Any) -> bool:
        nonlocal total, limit
        if limit == 0:
            return True
        rows = np.frombuffer(keys.rows(compound.ranges), np.int64)
        if len(rows) > _MIN_TESTED:
            return False
        rows = without_rows(rows, deleted) if len(deleted) else rows
        if not len(rows):
            return True
        located = codec.Located([gather(documents.entries_at(rows))])
        found = query.search(located, none, (), newer, 0, len(rows), limit, counts)
        if found is None:
            return False
        total += found[0]
        parts.append(found[1])
        limit -= found[0] if limit > 0 else 0
        return True

    superseded = unsaved.superseded_rows(base)
    for start, file in base.files():
        if file.path is None:
            continue
        documents, keys = file.held_documents(), cached_keys(file, compound.name)
        if documents is None or keys is None:
            return None
        first, last = superseded.searchsorted((start, start + file.count))
        if not search(documents, keys, superseded[first:last] - start, ()):
            return None
    for held, newer in unsaved.sources():
        if not search(held, held.keys(compound.name), no_rows(), newer):
            return None
    return total, b"".join(parts)


def load_found(count: int, entries: bytes) -> list[dict[Any, Any]] | None:
    """Return found entries as documents; None if one is damaged."""
    documents = codec.load_found(entries, count)
    if documents is not None:
        return documents
    try:
        return [*load_run(scan(entries, count))]
    except CorruptFile:  # the snapshot's search says where
        return None
