"""Ids of documents, in few bytes for each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import overload

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.documents.ids import ids_of, pack_ids, texts_of
from godb_arrow.memory.limit import Counted, Memory
from godb_arrow.snapshots.deletions import IDS_AT_ONCE

__all__ = ["DocumentIds", "PackedIds"]

_MIN_SHARE = 8  # of a run's documents, one in so many, from which on all ids are decoded
_BYTES_PER_DELETION = 24  # beside the id


class DocumentIds(Sequence[str]):
    """Ids of inserted documents: a sequence that takes little memory.

    Parameters
    ----------
    parts : sequence of range or pyarrow.BinaryArray
        Generated ids as ranges, and ids that callers chose.

    Examples
    --------
    >>> ids = DocumentIds([range(1, 3), pa.array([b"x"])])
    >>> len(ids), list(ids), ids[-1]
    (3, ['1', '2', 'x'], 'x')
    """

    def __init__(self, parts: Sequence[range | pa.Array]) -> None:
        self._parts = list(parts)
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"the index {index} is out of range")
        number = bisect_right(self._ends, index)
        part = self._parts[number]
        found = part[index - (self._ends[number - 1] if number else 0)]
        if isinstance(found, int):
            return str(found)
        raw: bytes = found.as_py()
        return raw.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for part in self._parts:
            if isinstance(part, range):
                yield from map(str, part)
                continue
            for start in range(0, len(part), IDS_AT_ONCE):
                yield from texts_of(part.slice(start, IDS_AT_ONCE))

    def __repr__(self) -> str:
        return f"<{len(self):,} document ids>"


class PackedIds:
    """Ids that are collected, and counted while they are.

    Parameters
    ----------
    memory : Memory
        Memory that counts the bytes.
    """

    def __init__(self, memory: Memory) -> None:
        self._arrays: list[pa.Array] = []
        self._count = 0
        self._counted = Counted(memory)
        self.weight = 0

    @classmethod
    def of(cls, memory: Memory, ids: Sequence[str]) -> PackedIds:
        """Return given ids."""
        packed = cls(memory)
        packed.add_array(pack_ids(ids))
        return packed

    def add(self, run: codec.Entries, rows: Rows) -> None:
        """Add the ids of documents of a run."""
        if not len(rows):
            return
        if _MIN_SHARE * len(rows) < len(run):
            ids = pack_ids(run.id(int(row)) for row in rows)
        else:
            ids = ids_of(run)
            if len(rows) < len(run):
                ids = ids.take(pa.array(rows))
        self.add_array(ids)

    def add_array(self, ids: pa.Array) -> None:
        """Add the ids of a binary array."""
        self._arrays.append(ids)
        self._count += len(ids)
        self._counted.add(writes=ids.nbytes)
        self.weight += ids.nbytes + _BYTES_PER_DELETION * len(ids)

    def __len__(self) -> int:
        return self._count

    def texts(self) -> Iterator[list[str]]:
        """Yield the ids as strings, some at a time."""
        waiting: list[str] = []
        for ids in self._arrays:
            for start in range(0, len(ids), IDS_AT_ONCE):
                waiting += texts_of(ids.slice(start, IDS_AT_ONCE))
                if len(waiting) >= IDS_AT_ONCE:
                    yield waiting
                    waiting = []
        if waiting:
            yield waiting
