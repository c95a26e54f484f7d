"""Ids of documents: documents become the entries of a collection."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow.codec.entries import Documents, Entries
from godb_arrow.codec.reference.dicts import load_pairs
from godb_arrow.schema import ID_FIELD

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Identification"]


class Identification:
    """Ids that documents have in a field, and the entries with these and other ids.

    Parameters
    ----------
    documents : Documents
        Scanned documents without repeated keys.
    field : str
        Field with the id, which is a string or an integer.

    Attributes
    ----------
    generated : array of uint32
        Rows of the documents that do not have the field.
    invalid : int
        Row of the first document whose id is neither a string nor an integer, or -1.
    """

    def __init__(self, documents: Documents, field: str) -> None:
        self._rows = [load_pairs(documents.document(row)) for row in range(len(documents))]
        self._documents = documents
        self._ids = [_id_in(pairs, field) for pairs in self._rows]
        missing = [row for row, found in enumerate(self._ids) if not found]
        self.generated: npt.NDArray[np.uint32] = np.array(missing, np.uint32)
        others = (row for row, found in enumerate(self._ids) if found and not _is_id(found[0]))
        self.invalid = next(others, -1)

    def entries(self, numbers: npt.NDArray[np.int64]) -> tuple[Entries, pa.Array]:
        """Return the entries, and their ids as a binary array.

        Parameters
        ----------
        numbers : array of int64
            Ids of the `generated` rows.
        """
        following = iter(numbers.tolist())
        chunk = bytearray()
        bounds = array("q", [0])
        ids: list[bytes] = []
        for row, found in enumerate(self._ids):
            value = found[0] if found else next(following)
            identity = value if isinstance(value, str) else str(value)
            packed = _pack(identity)
            chunk += packed
            bounds.append(len(chunk))
            chunk += self._with_id(row, identity, packed)
            bounds.append(len(chunk))
            ids.append(identity.encode("utf-8", "surrogateescape"))
        return Entries(bytes(chunk), bounds), pa.array(ids, pa.binary())

    def _with_id(self, row: int, identity: str, packed: bytes) -> bytes:
        """Return a document with its id: unchanged, or with the id in the first field."""
        pairs, document = self._rows[row], self._documents.document(row)
        own = _id_in(pairs, ID_FIELD)
        if own and own[0] == identity:
            return document
        kept = b"".join(raw for (key, _), raw in zip(pairs, _raw_pairs(document), strict=True)
                        if key != ID_FIELD)  # fmt: skip
        count = len(pairs) + (not own)
        head: bytes = msgpack.Packer().pack_map_header(count)
        return head + _pack(ID_FIELD) + packed + kept


def _id_in(pairs: Sequence[tuple[Any, Any]], field: str) -> list[Any]:
    return [value for key, value in pairs if key == field][:1]


def _is_id(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _pack(text: str) -> bytes:
    packed: bytes = msgpack.packb(text, unicode_errors="surrogateescape")
    return packed


def _raw_pairs(document: bytes) -> list[bytes]:
    """Return the bytes of each key with its value."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(document))
    unpacker.feed(document)
    count = unpacker.read_map_header()
    edges = [unpacker.tell()]
    for _ in range(count):
        unpacker.skip()
        unpacker.skip()
        edges.append(unpacker.tell())
    return [document[first:last] for first, last in itertools.pairwise(edges)]
