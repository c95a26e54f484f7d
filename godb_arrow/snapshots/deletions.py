"""Deletions of many saved documents, in few bytes for each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from copy import copy
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Rows, no_rows
from godb_arrow.documents.ids import pack_ids, texts_of
from godb_arrow.snapshots.base import Base

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["IDS_AT_ONCE", "DeletedIds", "IdRows", "IdSet", "joined", "rows_among"]


IDS_AT_ONCE = 8_192
"""Ids that are Python objects at the same time."""


class IdSet(Collection[str]):
    """Ids in the order in which they were given, with a search by hash.

    Parameters
    ----------
    ids : pyarrow.BinaryArray
        The ids.

    Examples
    --------
    >>> ids = IdSet(pa.array([b"x", b"7"]))
    >>> "7" in ids, "8" in ids, len(ids), [*ids.places(["y", "x"])]
    (True, False, 2, [(1, 0)])
    """

    __slots__ = ("_hashes", "_ids", "_order")

    def __init__(self, ids: pa.Array) -> None:
        hashes, places = codec.sort_hashes(codec.survey_ids(ids)[0])
        self._hashes: npt.NDArray[np.uint64] = np.frombuffer(hashes, np.uint64)
        self._order = np.frombuffer(places, np.uint64).astype(np.uint32)
        self._ids = ids

    @property
    def nbytes(self) -> int:
        """Size of the ids in bytes."""
        return int(self._hashes.nbytes + self._order.nbytes + self._ids.nbytes)

    @property
    def packed(self) -> pa.Array:
        """Ids as a binary array."""
        return self._ids

    def __len__(self) -> int:
        return len(self._hashes)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self._ids), IDS_AT_ONCE):
            yield from texts_of(self._ids.slice(start, IDS_AT_ONCE))

    def __contains__(self, identity: object) -> bool:
        assert isinstance(identity, str)
        wanted = np.uint64(codec.hash_id(identity))
        near = self._places_of(identity, wanted, int(self._hashes.searchsorted(wanted)))
        return next(near, None) is not None

    def _places_of(self, identity: str, wanted: np.uint64, at: int) -> Iterator[int]:
        raw = identity.encode("utf-8", "surrogateescape")
        while at < len(self._hashes) and self._hashes[at] == wanted:
            place = int(self._order[at])
            if self._ids[place].as_py() == raw:
                yield place
            at += 1

    def places(self, ids: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Yield the index of each of some ids that the set has, and its place in the set."""
        if not len(self):
            return
        wanted = np.fromiter(map(codec.hash_id, ids), np.uint64, len(ids))
        found = self._hashes.searchsorted(wanted)
        is_near = self._hashes[np.minimum(found, len(self) - 1)] == wanted
        for index in np.flatnonzero(is_near).tolist():
            for place in self._places_of(ids[index], wanted[index], int(found[index])):
                yield index, place

    def among(self, ids: Iterable[str]) -> Iterator[str]:
        """Yield the given ids that the set has."""
        left = iter(ids)
        while some := [*islice(left, IDS_AT_ONCE)]:
            yield from (some[index] for index, _ in self.places(some))


class DeletedIds(IdSet):
    """Ids of saved documents that were deleted together, and their rows.

    No other change of the overlay had the ids before. Therefore any other version of an id is a
    later one.

    Parameters
    ----------
    ids : pyarrow.BinaryArray
        The ids, each once.
    rows : array of int64
        Rows of the documents in the base, in any order.

    Attributes
    ----------
    rows : array of int64
        The rows.
    """

    __slots__ = ("rows",)

    def __init__(self, ids: pa.Array, rows: Rows) -> None:
        super().__init__(ids)
        self.rows = rows

    @property
    def nbytes(self) -> int:
        """Size of the ids and rows in bytes."""
        return super().nbytes + self.rows.nbytes

    def with_rows(self, rows: Rows) -> DeletedIds:
        """Return the same ids with rows of another base."""
        other = copy(self)
        other.rows = rows
        return other


def joined(deletions: Sequence[DeletedIds]) -> tuple[DeletedIds, ...]:
    """Return deletions as few that become smaller, so that a search needs few steps."""
    few: list[DeletedIds] = []
    for deleted in deletions:
        if len(deleted):
            few.append(deleted)
        while len(few) > 1 and len(few[-2]) < 2 * len(few[-1]):
            newer, older = few.pop(), few.pop()
            ids = pa.chunked_array([older.packed, newer.packed]).combine_chunks()
            few.append(DeletedIds(ids, np.concatenate([older.rows, newer.rows])))
    return tuple(few)


class IdRows:
    """Rows of many ids in a base, found for some ids after others.

    Attributes
    ----------
    count : int
        Number of ids that the base has.
    missing : str or None
        First id that the base does not have.
    """

    def __init__(self) -> None:
        self.count = 0
        self.missing: str | None = None
        self._ids: list[pa.Array] = []
        self._rows: list[Rows] = []
        self._last: list[Rows] = []
        self._repeated: set[str] = set()  # ids that a file of another program has several times

    def add(self, base: Base, ids: Collection[str]) -> None:
        """Find the rows of further ids."""
        found = base.rows_of(ids)
        if self.missing is None and len(found) < len(ids):
            self.missing = next((identity for identity in ids if identity not in found), None)
        if sum(map(len, found.values())) > len(found):
            for identity in [key for key, rows in found.items() if len(rows) > 1]:
                if identity in self._repeated:
                    del found[identity]
                self._repeated.add(identity)
        self.count += len(found)
        self._ids.append(pack_ids(found))
        self._rows.append(np.array([row for rows in found.values() for row in rows], np.int64))
        self._last.append(np.array([rows[-1] for rows in found.values()], np.int64))

    def last_rows(self) -> Rows:
        """Return the last row of each id, in the order of the ids."""
        return np.concatenate(self._last) if self._last else no_rows()

    def rows(self) -> Rows:
        """Return the rows of all ids, in the order of the ids."""
        return np.concatenate(self._rows) if self._rows else no_rows()

    def ids(self) -> pa.Array:
        """Return the ids that the base has, each once, as a binary array."""
        return pa.chunked_array(self._ids, pa.binary()).combine_chunks()


def rows_among(base: Base, ids: Collection[str]) -> Rows:
    """Return the rows that a base has of some ids, without an object for each at once."""
    found = IdRows()
    left = iter(ids)
    while some := [*islice(left, IDS_AT_ONCE)]:
        found.add(base, some)
    return found.rows()
