"""Searches that indexes in memory answer alone, without a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from godb_arrow import codec
from godb_arrow.codec.values import load_entries
from godb_arrow.documents.ids import with_id
from godb_arrow.documents.loading import load_entry
from godb_arrow.errors import CorruptFile
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.entry_runs import scan
from godb_arrow.snapshots.frozen import FrozenOverlay
from godb_arrow.snapshots.held import UnsavedDocuments
from godb_arrow.snapshots.indexes import cached_keys
from godb_arrow.snapshots.parted_base import PartedBase

__all__ = ["PointSearch", "prepare_search"]

_MAX_SHARE = 8  # of the documents, one in so many, up to which candidates are tested one by one
_MIN_TESTED = 1_000  # documents that are always tested one by one
_MAX_UNINDEXED = 32  # number of unsaved documents that are tested without an index

_Keys = tuple["codec.SortedKeys | None", ...]


class _File(NamedTuple):
    """Documents of one file in memory, with the sorted keys of each condition's field."""

    start: int
    documents: codec.Located
    keys: _Keys


class PointSearch(NamedTuple):
    """Documents in memory of one state of a collection, and a filter on them.

    The caller searches without a lock, since nothing here changes.
    """

    query: Any
    paths: tuple[str | None, ...]
    files: list[_File]
    deleted: tuple[codec.RowSet, ...]
    unsaved: FrozenOverlay
    most: int

    def find(self, limit: int) -> list[dict[Any, Any]] | None:
        """Return the first documents that match, all with -1.

        Returns
        -------
        list of dict or None
            None where the documents are searched faster in order, or one is damaged.
        """
        total, blobs = 0, []
        for number, blob in self._parts(limit, counts=False):
            if blob is None:
                return None
            total += number
            blobs.append(blob)
        blob = blobs[0] if len(blobs) == 1 else b"".join(blobs)
        entries = load_entries(blob, total)
        if entries is None:
            return _loaded_singly(blob, total)
        found = entries[1::2]
        for at, identity in enumerate(entries[::2]):
            if found[at].get(ID_FIELD) != identity:
                found[at] = with_id(found[at], identity)
        return found

    def number(self) -> int | None:
        """Return the number of documents that match; None as :meth:`find` does."""
        total = 0
        for number, blob in self._parts(-1, counts=True):
            if blob is None:
                return None
            total += number
        return total

    def _parts(self, limit: int, *, counts: bool) -> Iterator[tuple[int, bytes | None]]:
        """Yield the number and the entries of matching documents; None for the entries fails."""
        search, most = self.query.search, self.most
        for start, documents, keys in self.files:
            found = search(documents, keys, self.deleted, (), start, most, limit, counts)
            if found is None:
                yield 0, None
                return
            yield found
            if limit > 0:
                limit -= found[0]
        if self.unsaved.layers:
            for unsaved in self.unsaved.sources():
                keys = self._keys(unsaved.documents)
                located, newer = unsaved.documents.located, unsaved.newer
                found = search(located, keys, (), newer, 0, most, limit, counts)
                if found is None:
                    yield 0, None
                    return
                yield found
                if limit > 0:
                    limit -= found[0]

    def _keys(self, documents: UnsavedDocuments) -> _Keys:
        if len(documents) <= _MAX_UNINDEXED:
            return (None,) * len(self.paths)
        return tuple(None if path is None else documents.keys(path) for path in self.paths)


def _loaded_singly(blob: bytes, count: int) -> list[dict[Any, Any]] | None:
    """Return documents that are not decoded together, such as those with moments."""
    entries = scan(blob, count)
    try:
        return [load_entry(entries, index) for index in range(count)]
    except CorruptFile:  # the snapshot's search says where
        return None


def prepare_search(
    query: Any, base: Base, unsaved: FrozenOverlay, indexes: tuple[str, ...]
) -> PointSearch | None:
    """Prepare the search of a base and its changes, under the lock of the collection.

    Parameters
    ----------
    query : PlainFilter
        The filter.
    base : Base
        Saved documents.
    unsaved : FrozenOverlay
        Changes to them.
    indexes : tuple of str
        Indexed fields.

    Returns
    -------
    PointSearch or None
        None where no index helps, or something is not in memory.
    """
    paths = query.paths
    for path in paths:
        if path in indexes:
            break
    else:
        return None
    if len(paths) > 1:
        paths = tuple([path if path in indexes else None for path in paths])
    files = []
    for start, file in base.files():
        if file.path is None:
            continue
        documents = file.held_documents()
        if documents is None:
            return None
        keys: _Keys = tuple([None if path is None else cached_keys(file, path) for path in paths])
        for path, found in zip(paths, keys, strict=True):
            if path is not None and found is None:
                return None
        files.append(_File(start, documents.located, keys))
    deleted = unsaved.row_sets()
    if isinstance(base, PartedBase) and len(base.deleted):
        deleted = (*deleted, base.deleted_set())
    most = max(_MIN_TESTED, base.count // _MAX_SHARE)
    return PointSearch(query, paths, files, deleted, unsaved, most)
