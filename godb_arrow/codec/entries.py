"""Runs of whole documents as MessagePack bytes."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgpack
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "CHUNK_BYTES",
    "CheckedEntries",
    "Chunk",
    "Documents",
    "Entries",
    "MeasuredEntries",
    "Rows",
    "UnscannedEntries",
    "no_rows",
]

CHUNK_BYTES = 1 << 20
"""Approximate maximum bytes of documents in a chunk that can be divided."""

Rows: TypeAlias = "npt.NDArray[np.int64]"
"""Indices of documents in a run, in order."""


@cache
def no_rows() -> Rows:
    """Return the indices of no documents."""
    return np.empty(0, np.int64)


class Chunk(NamedTuple):
    """Chunk of whole entries, on its way to a file.

    Attributes
    ----------
    data : bytes or memoryview
        Bytes of the entries, one after the other.
    documents : int
        Number of documents.
    statistics : Row or None
        Statistics of :mod:`godb_arrow.query.statistics`.
    compressed : tuple of bytes or None
        Compressed data, if the chunk is a piece of another file.
    flags : int
        Flags of the other file's header, which name its compression.
    sizes : bytes
        Packed sizes of the entries, where they are known.
    """

    data: bytes | memoryview
    documents: int
    statistics: Mapping[str, Any] | None = None
    compressed: tuple[bytes, bytes] | None = None
    flags: int = 0
    sizes: bytes = b""


@dataclass(frozen=True, slots=True)
class Entries:
    """Consecutive entries of a collection, each an id and a document in MessagePack.

    Parameters
    ----------
    data : bytes
        Bytes of the entries, one after the other.
    bounds : array of int64
        ``2 n + 1`` offsets into `data`, where each id and each document begins, and the end.
    base : int
        Offset of ``data[0]`` in the decompressed body, for error messages.
    fields : tuple of str
        Fields whose positions were recorded by the scan.
    places : bytes
        Offset in `data` of the value of each of these fields, in 32 bits, for each entry. It is
        0 if unknown and 2^32-1 if the document does not have the field.

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

    @property
    def nbytes(self) -> int:
        """Size of the entries and their bounds in bytes."""
        return self.bounds[-1] - self.bounds[0] + 8 * len(self.bounds)

    def id(self, index: int) -> str:
        """Return the id of one entry."""
        raw = self.data[self.bounds[2 * index] : self.bounds[2 * index + 1]]
        name: str = msgpack.unpackb(raw, raw=False, unicode_errors="surrogateescape")
        return name

    def ids(self) -> Iterator[str]:
        """Yield the ids of all entries, in order."""
        return (self.id(index) for index in range(len(self)))

    def document(self, index: int) -> bytes:
        """Return the MessagePack bytes of one document."""
        return self.data[self.bounds[2 * index + 1] : self.bounds[2 * index + 2]]

    def raw(self) -> memoryview:
        """Return the bytes of all entries."""
        return memoryview(self.data)[self.bounds[0] : self.bounds[-1]]

    def between(self, first: int, last: int) -> Entries:
        """Return a range of the entries, over the same bytes."""
        if (first, last) == (0, len(self)):
            return self
        return Entries(self.data, self.bounds[2 * first : 2 * last + 1], self.base)

    def _edge(self, index: int) -> int:
        """Return the offset where an entry begins."""
        return self.bounds[2 * index]

    def split(self) -> Iterator[Entries]:
        """Yield the entries in parts of about `CHUNK_BYTES` at most, over the same bytes."""
        first = 0
        while first < len(self):
            end = self._edge(first) + CHUNK_BYTES
            last = bisect_left(range(len(self)), end, first + 1, key=self._edge)
            yield self.between(first, last)
            first = last


class CheckedEntries(NamedTuple):
    """Result of the checks of entries.

    Attributes
    ----------
    damaged : list of int
        Rows of the documents with a value that cannot be decoded.
    differing : list of int
        Rows of the other documents that have another id in a field ``_id``.
    hashes : bytes
        Hashes of the ids, as ``survey_ids`` of the codecs returns them.
    greatest : int
        Max number among the ids; 0 if there is none.
    is_measurable : bool
        Whether ``measure`` of the codecs finds the sizes of the entries, and none is damaged.
    """

    damaged: list[int]
    differing: list[int]
    hashes: bytes
    greatest: int
    is_measurable: bool


@dataclass(frozen=True, slots=True)
class Documents:
    """Consecutive documents that have no ids of a collection yet.

    Parameters
    ----------
    data : bytes
        MessagePack of the documents, one after the other.
    bounds : array of int64
        ``n + 1`` offsets into `data`, where each document begins, and the end.
    """

    data: bytes
    bounds: array[int]

    @classmethod
    def joined(cls, parts: Sequence[tuple[bytes, array[int]]]) -> Documents:
        """Return documents whose bytes and bounds come in parts."""
        if len(parts) == 1:
            return cls(*parts[0])
        bounds, start = array("q", [0]), 0
        for data, edges in parts:
            bounds.frombytes((np.frombuffer(edges, np.int64)[1:] + start).tobytes())
            start += len(data)
        return cls(b"".join(data for data, _ in parts), bounds)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def document(self, index: int) -> bytes:
        """Return the MessagePack bytes of one document."""
        return self.data[self.bounds[index] : self.bounds[index + 1]]

    def split(self, max_documents: int) -> Iterator[Documents]:
        """Yield the documents in parts of about `CHUNK_BYTES` at most, with their own bytes."""
        edges = np.frombuffer(self.bounds, np.int64)
        first = 0
        while first < len(self):
            last = int(np.searchsorted(edges, edges[first] + CHUNK_BYTES))
            last = min(max(last, first + 1), first + max_documents, len(self))
            if (first, last) == (0, len(self)):
                yield self
            else:
                bounds = array("q", (edges[first : last + 1] - edges[first]).tobytes())
                yield Documents(self.data[edges[first] : edges[last]], bounds)
            first = last


@dataclass(frozen=True, slots=True)
class UnscannedEntries:
    """Consecutive entries that are not yet scanned.

    Parameters
    ----------
    data : bytes or memoryview
        Bytes of the entries, one after the other, valid until they are released.
    documents : int
        Number of entries that the bytes should have.
    scan : callable
        Function that finds a number of entries in bytes, or raises an error.
    release : callable
        Function to call when the entries are no longer in use, so that their memory is reused.
    """

    data: bytes | memoryview
    documents: int
    scan: Callable[[bytes | memoryview, int], Entries]
    release: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return self.documents

    def entries(self) -> Entries:
        """Scan all entries; decode them before they are released."""
        return self.scan(self.data, self.documents)

    def id(self, index: int) -> str:
        """Return the id of one entry."""
        return self.entries().id(index)


@dataclass(frozen=True, slots=True)
class MeasuredEntries:
    """Consecutive entries with known sizes that are not yet scanned.

    Parameters
    ----------
    data : bytes or memoryview
        Bytes of the entries, one after the other, valid until they are released.
    edges : array of int64
        Offsets in `data` where the entries begin, and the end.
    base : int
        Offset of ``data[0]`` in the decompressed body, for error messages.
    scan : callable
        Function that finds a number of entries in bytes and records the positions of some fields.
    release : callable
        Function to call when the entries are no longer in use, so that their memory is reused.

    See Also
    --------
    godb_arrow.codec.take_measured : Return some of the entries, scanned.
    """

    data: bytes | memoryview
    edges: npt.NDArray[np.int64]
    base: int
    scan: Callable[[bytes | memoryview, int, tuple[str, ...]], Entries]
    release: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self.edges) - 1

    def entries(self, fields: tuple[str, ...] = ()) -> Entries:
        """Scan all entries; decode them before they are released."""
        return self.scan(self.data, len(self), fields)

    def id(self, index: int) -> str:
        """Return the id of one entry."""
        first, last = self.edges[index : index + 2].tolist()
        return self.scan(bytes(self.data[first:last]), 1, ()).id(0)
