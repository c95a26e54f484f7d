"""Index from document id to row, in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from godb_arrow import codec
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.source import Source

__all__ = ["NO_ROWS", "IdIndex", "Rows", "pack_id_file", "read_id_file"]


Rows = npt.NDArray[np.int64]
NO_ROWS: Rows = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class IdIndex:
    """Where the ids of a base are: a sorted hash and the row of each, 16 bytes a document.

    Attributes
    ----------
    hashes : array of uint64
        Sorted.
    rows : array of int64
        The row of each hash.
    greatest : int
        The greatest id that is a number.
    """

    hashes: npt.NDArray[np.uint64]
    rows: Rows
    greatest: int

    @classmethod
    def build(cls, ids: Iterable[pa.Array]) -> IdIndex:
        """Index ids, given in order as binary arrays."""
        found = [codec.survey_ids(array) for array in ids]
        hashes = np.frombuffer(b"".join(hashes for hashes, _ in found), np.uint64)
        order = np.argsort(hashes, kind="stable")
        greatest = max((number for _, number in found), default=0)
        return cls(hashes[order], order.astype(np.int64), greatest)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self.hashes.nbytes + self.rows.nbytes

    def candidates_of(self, identity: str) -> Rows:
        """Rows that may have an id."""
        wanted = np.uint64(codec.hash_id(identity))
        first = at = int(self.hashes.searchsorted(wanted))
        while at < len(self.hashes) and self.hashes[at] == wanted:
            at += 1
        return self.rows[first:at].astype(np.int64)

    def candidates(self, ids: pa.Array) -> Rows:
        """Rows that may have one of some ids, in order."""
        wanted = np.frombuffer(codec.survey_ids(ids)[0], np.uint64)
        first = np.searchsorted(self.hashes, wanted, "left")
        last = np.searchsorted(self.hashes, wanted, "right")
        hits = np.flatnonzero(last > first)
        if not len(hits):
            return NO_ROWS
        found = np.concatenate([self.rows[first[hit] : last[hit]] for hit in hits])
        return np.unique(found).astype(np.int64)


_IDS_MAGIC = b"GODI\x01\x00\x00\x00"
_IDS_HEAD = 24
_ID_BYTES = 12


def read_id_file(path: str, checksum: int) -> IdIndex | None:
    """The index of ids in a file; None where it is not as it was written: it can be made anew."""
    try:
        if is_url(path):
            with Source(path).open() as stream:
                data = np.frombuffer(stream.read(), np.uint8)
        else:
            data = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError):
        return None
    if xxhash.xxh3_64_intdigest(data.data) != checksum or bytes(data[:8]) != _IDS_MAGIC:
        return None
    count, greatest = (int(one) for one in data[8:_IDS_HEAD].view("<u8"))
    if len(data) != _IDS_HEAD + _ID_BYTES * count:
        return None
    middle = _IDS_HEAD + 8 * count
    return IdIndex(data[_IDS_HEAD:middle].view("<u8"), data[middle:].view("<u4"), greatest)


def pack_id_file(index: IdIndex) -> bytes:
    """Return the content of the file that maps ids to rows."""
    head = _IDS_MAGIC + len(index.hashes).to_bytes(8, "little")
    head += index.greatest.to_bytes(8, "little")
    return head + index.hashes.astype("<u8").tobytes() + index.rows.astype("<u4").tobytes()
