"""Runs of whole documents, as their own bytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import msgpack

__all__ = ["Entries"]


@dataclass(frozen=True, slots=True)
class Entries:
    """Consecutive entries of a collection: each an id and a document, in MessagePack.

    Parameters
    ----------
    data : bytes
        The entries, one after the other.
    bounds : array of int64
        ``2 n + 1`` offsets into `data`: where each id and each document begin, and the end.
    base : int
        Offset of ``data[0]`` in the decompressed body, for error messages.

    Examples
    --------
    >>> entries = Entries(b"\\xa11\\x80", array("q", [0, 2, 3]))
    >>> len(entries), entries.id(0), entries.document(0)
    (1, '1', b'\\x80')
    """

    data: bytes
    bounds: array[int]
    base: int = 0

    def __len__(self) -> int:
        return len(self.bounds) // 2

    def id(self, index: int) -> str:
        """The id of one entry."""
        raw = self.data[self.bounds[2 * index] : self.bounds[2 * index + 1]]
        name: str = msgpack.unpackb(raw, raw=False, unicode_errors="surrogateescape")
        return name

    def ids(self) -> Iterator[str]:
        """The ids of all entries, in order."""
        return (self.id(index) for index in range(len(self)))

    def document(self, index: int) -> bytes:
        """The MessagePack bytes of one document."""
        return self.data[self.bounds[2 * index + 1] : self.bounds[2 * index + 2]]

    def raw(self) -> memoryview:
        """The bytes of all entries."""
        return memoryview(self.data)[self.bounds[0] : self.bounds[-1]]
