"""Index from document id to row, in memory and on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash

from godb_arrow import codec
from godb_arrow.codec.entries import Rows, no_rows
from godb_arrow.storage.folder import Folder
from godb_arrow.storage.object_store import is_url

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "CODEC_HASHES",
    "IdFile",
    "IdIndex",
    "id_file_size",
    "pack_id_file",
    "read_id_file",
]


CODEC_HASHES = 1
"""Version of id files of 0.1.0, whose hashes depend on the codec that wrote them."""

_MAGIC = b"GODI"
_VERSION = 2
_HEAD_BYTES = 24
_BYTES_PER_ID = 12


@dataclass(slots=True)
class IdIndex:
    """Index of the ids of a base, with 16 bytes for each document.

    Attributes
    ----------
    hashes : array of uint64
        Hashes of the ids, sorted.
    rows : array of int64
        Row of each hash.
    greatest : int
        Max number among the ids.
    """

    hashes: npt.NDArray[np.uint64]
    rows: Rows
    greatest: int
    _search: codec.IdSearch | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def build(cls, ids: Iterable[pa.Array]) -> IdIndex:
        """Index ids, given in order as binary arrays."""
        surveys = [codec.survey_ids(array) for array in ids]
        greatest = max((number for _, number in surveys), default=0)
        hashes, rows = codec.sort_hashes(b"".join(hashes for hashes, _ in surveys))
        return cls(np.frombuffer(hashes, np.uint64), np.frombuffer(rows, np.int64), greatest)

    @property
    def nbytes(self) -> int:
        """Size of the index in bytes."""
        return self.hashes.nbytes + self.rows.nbytes

    def search(self) -> codec.IdSearch:
        """Return the search for single documents."""
        if self._search is None:
            self._search = codec.IdSearch(self.hashes, self.rows)
        return self._search

    def candidates_of(self, identity: str) -> Rows:
        """Return the rows that may have an id, in order."""
        wanted = np.uint64(codec.hash_id(identity))
        first = at = int(self.hashes.searchsorted(wanted))
        while at < len(self.hashes) and self.hashes[at] == wanted:
            at += 1
        return self.rows[first:at].astype(np.int64)

    def candidates(self, ids: pa.Array) -> Rows:
        """Return the rows that may have any of the ids, in order."""
        wanted = np.frombuffer(codec.survey_ids(ids)[0], np.uint64)
        first = np.searchsorted(self.hashes, wanted, "left")
        last = np.searchsorted(self.hashes, wanted, "right")
        hits = np.flatnonzero(last > first)
        if not len(hits):
            return no_rows()
        rows = np.concatenate([self.rows[first[hit] : last[hit]] for hit in hits])
        return np.unique(rows).astype(np.int64)


class IdFile(NamedTuple):
    """Index read from an id file, and the version of the file."""

    ids: IdIndex
    version: int


def read_id_file(folder: Folder, name: str, checksum: int) -> IdFile | None:
    """Read an id file, or return None if it is damaged and must be built again.

    Parameters
    ----------
    folder : Folder
        Folder of the collection.
    name : str
        Name of the file. A local file is mapped into memory.
    checksum : int
        XXH3-64 of the file's bytes, as the manifest records it.

    Returns
    -------
    IdFile or None
    """
    try:
        with folder.open(name) as stream:
            if is_url(folder.path):
                data = np.frombuffer(stream.read(), np.uint8)
            else:
                data = _mapped(stream)
    except (OSError, ValueError):
        return None
    version = int.from_bytes(bytes(data[4:8]), "little")
    if (
        len(data) < _HEAD_BYTES
        or bytes(data[:4]) != _MAGIC
        or version not in (CODEC_HASHES, _VERSION)
    ):
        return None
    count, greatest = (int(number) for number in data[8:_HEAD_BYTES].view("<u8"))
    # A file of another size is not read, since it may be sparse and without end.
    is_whole = len(data) == id_file_size(count)
    if not is_whole or xxhash.xxh3_64_intdigest(data.data) != checksum:
        return None
    middle = _HEAD_BYTES + 8 * count
    ids = IdIndex(data[_HEAD_BYTES:middle].view("<u8"), data[middle:].view("<u4"), greatest)
    return IdFile(ids, version)


def _mapped(stream: BinaryIO) -> npt.NDArray[np.uint8]:
    """Map an open file into memory, without keeping it open where the system allows it."""
    opened = f"/proc/self/fd/{stream.fileno()}"
    if not os.path.exists(opened):
        return np.memmap(stream, np.uint8, "r")
    with pa.memory_map(opened) as file:
        return np.frombuffer(file.read_buffer(), np.uint8)


def id_file_size(count: int) -> int:
    """Return the size in bytes of an id file with a number of ids."""
    return _HEAD_BYTES + _BYTES_PER_ID * count


def pack_id_file(index: IdIndex) -> bytes:
    """Pack an index of ids as the content of an id file."""
    head = _MAGIC + _VERSION.to_bytes(4, "little") + len(index.hashes).to_bytes(8, "little")
    head += index.greatest.to_bytes(8, "little")
    return head + index.hashes.astype("<u8").tobytes() + index.rows.astype("<u4").tobytes()
