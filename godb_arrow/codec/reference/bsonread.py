"""Reading and writing of BSON, which the reference codec leaves to MongoDB's own library."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt


__all__ = ["BSON_TYPES", "MAX_BSON_BYTES", "MIN_BSON_BYTES", "BsonReader", "cut_bson", "write_bson"]

MIN_BSON_BYTES = 5
MAX_BSON_BYTES = 64 << 20
"""Size of a document, which its first four bytes say."""

BSON_TYPES = ("objectId", "uuid", "decimal", "int")
"""Types whose values become text or another type, from the lowest bit of a set on."""


class BsonReader:
    """Reader of BSON documents that are stored without a conversion by a library.

    The caller decodes a document at which the reader stops, and continues after it. The reference
    reader stops at each document.

    Parameters
    ----------
    data : bytes
        Documents, one after the other.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, at: int) -> tuple[bytes, array[int], int]:
        """Return MessagePack and bounds of the documents from `at` on, and the position after."""
        return b"", array("q", [0]), at

    def paths(self) -> list[tuple[int, str, int, int]]:
        """Return the paths of the values that were read.

        Returns
        -------
        list of tuple
            Index of the parent, last key, types of the values, and types that texts look like. The
            types are sets of :data:`BSON_TYPES`, as bits. The first path is the document itself.
        """
        return [(-1, "", 0, 0)]


def cut_bson(data: bytes) -> int:
    """Return the end of the last whole document, or of all bytes if a size is impossible."""
    at = 0
    while len(data) - at >= 4:
        size = int.from_bytes(data[at : at + 4], "little", signed=True)
        if not MIN_BSON_BYTES <= size <= MAX_BSON_BYTES:
            return len(data)
        if size > len(data) - at:
            break
        at += size
    return at


def write_bson(
    data: bytes | npt.NDArray[Any],
    bounds: array[int] | npt.NDArray[Any],
    has_ids: bool,
    paths: Sequence[tuple[int, str, int]],
    row: int,
) -> tuple[bytes, int]:
    """Write documents as BSON.

    Parameters
    ----------
    data, bounds
        See :class:`~godb_arrow.codec.entries.Entries`, or Documents.
    has_ids : bool
        Whether the documents are entries, with the ids of a collection.
    paths : list of tuple
        Index of the parent, last key, and types of texts at a path. See :meth:`BsonReader.paths`.
    row : int
        First document to write.

    Returns
    -------
    written : bytes
        Documents in BSON, one after the other.
    row : int
        Row of the next document, which the caller writes. The reference codec writes none.
    """
    return b"", row
