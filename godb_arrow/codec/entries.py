"""Runs of whole documents, as their own bytes."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt

__all__ = ["CHUNK_BYTES", "Chunk", "Entries", "MeasuredEntries"]

CHUNK_BYTES = 1 << 20
"""About how many bytes of documents go into a chunk, where they can be divided so."""


class Chunk(NamedTuple):
    """Whole entries on their way to a file.

    Attributes
    ----------
    data : bytes or memoryview
        The entries, one after the other.
    documents : int
        How many they are.
    statistics : Row or None
        Of :mod:`godb_arrow.query.statistics`.
    compressed : tuple of bytes or None
        What the data were compressed to, where they are a piece of another file.
    flags : int
        What that file's header says of how.
    sizes : bytes
        Their packed sizes, where they are known.
    """

    data: bytes | memoryview
    documents: int
    statistics: Mapping[str, Any] | None = None
    compressed: tuple[bytes, bytes] | None = None
    flags: int = 0
    sizes: bytes = b""


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
    fields : tuple of str
        Fields whose places were noted when the entries were found.
    places : bytes
        For each entry, the offset in `data` of each of these fields' values, in 32 bits: 0 where
        it is not known, 2^32-1 where the document does not have the field.

    Examples
    --------
    >>> entries = Entries(b"\\xa11\\x80", array("q", [0, 2, 3]))
    >>> len(entries), entries.id(0), entries.document(0)
    (1, '1', b'\\x80')
    """

    data: bytes
    bounds: array[int]
    base: int = 0
    fields: tuple[str, ...] = ()
    places: bytes = b""

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

    def take(self, rows: npt.NDArray[np.int64]) -> Entries:
        """Some entries, by their indices."""
        edges = np.frombuffer(self.bounds, np.int64)
        first, document, last = edges[2 * rows], edges[2 * rows + 1], edges[2 * rows + 2]
        bounds = np.zeros(2 * len(rows) + 1, np.int64)
        np.cumsum(last - first, out=bounds[2::2])
        bounds[1::2] = bounds[:-1:2] + document - first
        view = memoryview(self.data)
        pieces = [view[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
        return Entries(b"".join(pieces), array("q", bounds.tobytes()), self.base)

    def raw(self) -> memoryview:
        """The bytes of all entries."""
        return memoryview(self.data)[self.bounds[0] : self.bounds[-1]]

    def between(self, first: int, last: int) -> Entries:
        """Some of the entries, over the same bytes."""
        if (first, last) == (0, len(self)):
            return self
        return Entries(self.data, self.bounds[2 * first : 2 * last + 1], self.base)

    def split(self) -> Iterator[Entries]:
        """The same entries in parts of about `CHUNK_BYTES` at most, over the same bytes."""
        edges = np.frombuffer(self.bounds, np.int64)[::2]
        first = 0
        while first < len(self):
            last = int(np.searchsorted(edges, edges[first] + CHUNK_BYTES))
            last = min(max(last, first + 1), len(self))
            yield self.between(first, last)
            first = last


@dataclass(frozen=True, slots=True)
class MeasuredEntries:
    """Consecutive entries whose sizes are known, and at which nobody has looked yet.

    Parameters
    ----------
    data : bytes or memoryview
        The entries, one after the other; until they are released.
    edges : array of int64
        Where they begin in `data`, and the end: one more than there are entries.
    base : int
        Offset of ``data[0]`` in the decompressed body, for error messages.
    scan : callable
        Finds entries in bytes, so many of them, and notes the places of some fields.
    release : callable
        To be called when nobody looks at them any more: others may take their place in memory.

    See Also
    --------
    godb_arrow.codec.take_measured : some of them, looked at.
    """

    data: bytes | memoryview
    edges: npt.NDArray[np.int64]
    base: int
    scan: Callable[[bytes | memoryview, int, tuple[str, ...]], Entries]
    release: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self.edges) - 1

    def entries(self, fields: tuple[str, ...] = ()) -> Entries:
        """All of them, looked at, to be decoded before they are released."""
        return self.scan(self.data, len(self), fields)

    def id(self, index: int) -> str:
        """The id of one of them."""
        first, last = self.edges[index : index + 2].tolist()
        return self.scan(bytes(self.data[first:last]), 1, ()).id(0)
