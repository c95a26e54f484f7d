"""Index of the pieces of a file, as recorded at its end."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from types import MappingProxyType
from typing import Any, NamedTuple

import msgpack
import xxhash

from godb_arrow import codec
from godb_arrow.codec.blocks import Compressed
from godb_arrow.codec.compression import Compression
from godb_arrow.codec.reference.lz4 import Piece
from godb_arrow.codec.sizes import most_packed
from godb_arrow.file.format import TAIL_SIZE, is_sealed
from godb_arrow.file.pieces import UNUSABLE, CollectionPieces

__all__ = [
    "FOOT_SIZE",
    "INDEXES_KEY",
    "PIECES_KEY",
    "SIZES_KEY",
    "IndexedPiece",
    "PieceIndex",
    "read_piece_index",
]


logger = logging.getLogger(__name__)

PIECES_KEY = "godb_arrow_pieces"
SIZES_KEY = "godb_arrow_sizes"  # directly before PIECES_KEY
INDEXES_KEY = "godb_arrow_indexes"  # directly before SIZES_KEY, in files with indexes
FOOT_SIZE = 12  # checksum and length after the index
_INDEX_GUESS_BYTES = 32 << 10
_PACKED_PIECE = struct.Struct("<5Q")
_MAX_BYTES_AFTER = 1 << 10  # of the file, after the index
_HEADER_BYTES = 8  # before the body
_BYTES_AFTER_SIZES = len(codec.pack(PIECES_KEY)) + 5  # up to the index
_BYTES_AFTER_INDEXES = len(codec.pack(SIZES_KEY)) + 5  # up to the sizes
_MAX_RUN_BYTES = 1 << 32


def read_piece_index(read_tail: Callable[[int], bytes]) -> PieceIndex | None:
    """Read the index of pieces at the end of a sealed file.

    Parameters
    ----------
    read_tail : callable
        Function that returns the given number of last bytes of the file.

    Returns
    -------
    PieceIndex or None
        None if there is no valid index, which no reader depends on.
    """
    tail = read_tail(_INDEX_GUESS_BYTES)
    if not is_sealed(tail[-TAIL_SIZE:]):
        return None
    size = PieceIndex.size_in(tail[: len(tail) - TAIL_SIZE][-FOOT_SIZE:]) + TAIL_SIZE
    if size > len(tail):
        tail = read_tail(size)
    return PieceIndex.unpack(tail[len(tail) - size : len(tail) - TAIL_SIZE], TAIL_SIZE)


class IndexedPiece(NamedTuple):
    """Piece of the body, as the index records it.

    Attributes
    ----------
    length : int
        Bytes in the file.
    tail : int
        Number of literals after it.
    size : int
        Bytes in the body.
    documents : int
        Number of documents.
    checksum : int
        XXH3-64 of the bytes in the body.
    """

    length: int
    tail: int
    size: int
    documents: int
    checksum: int

    def is_small(self) -> bool:
        """Return whether a file can have its numbers."""
        return not (self.length | self.tail | self.size | self.documents) >> 48


@dataclass(frozen=True, slots=True)
class PieceIndex:
    """Positions of the pieces of a file.

    Parameters
    ----------
    pieces : sequence of IndexedPiece
        The pieces of the body, in order.
    collections : mapping of str to tuple
        First piece with documents of a collection, and number of its pieces.
    statistics : mapping of str to bytes
        Packed statistics of a collection's pieces.
    sizes : sequence of int, optional
        Bytes of the packed sizes of each piece's documents; 0 if the sizes are unknown.
    packed_size : int
        Bytes of the index in the file, if it was read from one.
    behind : int
        Bytes of the file after the index, if it was read from one.

    runs : mapping of str to mapping
        Offset, length and checksum of the run of each indexed field, by collection.
    runs_size : int
        Bytes of all runs.

    Examples
    --------
    >>> index = PieceIndex.of([Compressed(40, 12, 90, 7)], [3], {"users": (0, 1)})
    >>> PieceIndex.unpack(index.pack()).collections
    {'users': (0, 1)}
    """

    pieces: Sequence[IndexedPiece]
    collections: Mapping[str, tuple[int, int]]
    statistics: Mapping[str, bytes] = field(default_factory=dict)
    sizes: Sequence[int] | None = None
    packed_size: int = 0
    behind: int = 0
    runs: Mapping[str, Mapping[str, tuple[int, int, int]]] = field(default_factory=dict)
    runs_size: int = 0

    @classmethod
    def of(
        cls,
        compressed: Sequence[Compressed],
        documents: Sequence[int],
        collections: Mapping[str, tuple[int, int]],
        statistics: Mapping[str, bytes] = MappingProxyType({}),
        runs: Mapping[str, Mapping[str, bytes]] = MappingProxyType({}),
    ) -> PieceIndex:
        """Return the index of compressed pieces."""
        pieces = [
            IndexedPiece(piece.length, piece.tail, piece.size, count, piece.checksum)
            for piece, count in zip(compressed, documents, strict=True)
        ]
        sizes = [len(piece.sizes) for piece in compressed]
        places: dict[str, dict[str, tuple[int, int, int]]] = {}
        at = 0
        for name, fields in runs.items():
            for field_name, packed in fields.items():
                place = (at, len(packed), xxhash.xxh3_64_intdigest(packed))
                places.setdefault(name, {})[field_name] = place
                at += len(packed)
        return cls(pieces, dict(collections), dict(statistics), sizes, runs=places, runs_size=at)

    def pack(self) -> bytes:
        """Pack the index, with its foot."""
        content: dict[str, Any] = {
            "pieces": b"".join(_PACKED_PIECE.pack(*piece) for piece in self.pieces),
            "collections": {name: list(span) for name, span in self.collections.items()},
            "statistics": dict(self.statistics),
            "sizes": struct.pack(f"<{len(self.sizes or ())}I", *(self.sizes or ())),
        }
        if self.runs:
            content |= {"runs": self.runs, "runs_size": self.runs_size}
        packed: bytes = msgpack.packb(content, unicode_errors="surrogateescape")
        return packed + xxhash.xxh3_64_digest(packed) + len(packed).to_bytes(4, "little")

    @classmethod
    def size_in(cls, foot: bytes) -> int:
        """Return the bytes of the index with its foot, as the foot declares it."""
        return int.from_bytes(foot[-4:], "little") + FOOT_SIZE

    @classmethod
    def unpack(cls, packed: bytes, behind: int = 0) -> PieceIndex | None:
        """Unpack an index, or return None if it is damaged."""
        body, foot = packed[:-FOOT_SIZE], packed[-FOOT_SIZE:]
        if len(foot) < FOOT_SIZE or xxhash.xxh3_64_digest(body) != foot[:8]:
            return None
        try:
            content = msgpack.unpackb(body, raw=False, unicode_errors="surrogateescape")
            pieces = [IndexedPiece(*row) for row in _PACKED_PIECE.iter_unpack(content["pieces"])]
            if not all(map(IndexedPiece.is_small, pieces)):
                return None
            collections = {}
            for name, (first, count) in content["collections"].items():
                if not 0 <= first <= first + count <= len(pieces):
                    return None
                collections[str(name)] = (int(first), int(count))
            statistics = {
                str(name): raw
                for name, raw in content["statistics"].items()
                if isinstance(raw, bytes)
            }
            sizes = [*chain(*struct.iter_unpack("<I", content.get("sizes", b"")))]
            known = sizes if len(sizes) == len(pieces) else None
            runs, runs_size = _unpack_runs(content)
            return cls(pieces, collections, statistics, known, len(packed), behind, runs, runs_size)
        except (*UNUSABLE, struct.error):
            return None

    def find(
        self,
        name: str,
        count: int,
        block_start: int,
        file_size: int | None,
        compression: Compression,
    ) -> CollectionPieces | None:
        """Return the pieces of a collection, or None if they cannot be used.

        Parameters
        ----------
        name : str
            Name of the collection.
        count : int
            Number of its documents.
        block_start : int
            Offset of the body in the stream that the pieces are read from.
        file_size : int or None
            Size of the file in bytes, if it is known.
        compression : Compression
            Compression of the body.
        """
        first, number = self.collections.get(name, (0, 0))
        if not first or not number:
            return None
        places = self.places(block_start, file_size, compression)
        if places is None:
            return None
        pieces, behind = places
        last = first + number
        *_, documents, checksum = zip(*self.pieces[first:last], strict=True)
        if sum(documents) != count or not all(documents):
            return None
        total = sum(self.sizes or ())
        return CollectionPieces(
            name,
            count,
            pieces[:first],
            pieces[first:last],
            list(documents),
            list(checksum),
            behind[first:last],
            self.statistics.get(name, b""),
            compression,
            self._size_edges(total, block_start, file_size)[first : last + 1],
            self._places_of_runs(name, total, block_start, file_size),
        )

    def places(
        self, block_start: int, file_size: int | None, compression: Compression
    ) -> tuple[list[Piece], list[int]] | None:
        """Return the positions of all pieces, and the max number of literals after each.

        Parameters
        ----------
        block_start, file_size, compression
            See :meth:`find`.

        Returns
        -------
        tuple of list, or None
            None if a file cannot have such pieces.
        """
        pieces: list[Piece] = []
        at, skip = block_start, 0
        for one in self.pieces:
            piece = Piece(at, one.length, skip, one.tail, one.size)
            pieces.append(piece)
            at += piece.length
            skip = piece.tail + (0 if piece.length else piece.skip)
            if piece.size > compression.max_expansion * (piece.length + piece.tail) or (
                file_size is not None and at + piece.tail > block_start + file_size
            ):
                return None
        total = sum(self.sizes or ())
        if total > sum(most_packed(one.size) for one in self.pieces):
            return None
        behind = []
        room = total + self.packed_size + self.runs_size + _MAX_BYTES_AFTER
        for one in reversed(self.pieces):
            behind.append(room)
            room = one.size + (0 if one.length else room)
        return pieces, behind[::-1]

    def _places_of_runs(
        self, name: str, total: int, block_start: int, file_size: int | None
    ) -> dict[str, tuple[int, int, int]]:
        """Return offset in the file, length and checksum of the run of each indexed field."""
        if file_size is None or not self.runs_size:
            return {}
        behind = self.behind + self.packed_size + _BYTES_AFTER_SIZES + total
        behind += _BYTES_AFTER_INDEXES + self.runs_size
        start = block_start - _HEADER_BYTES + file_size - behind
        if start < block_start:
            return {}
        places = self.runs.get(name, {})
        return {field: (start + at, size, digest) for field, (at, size, digest) in places.items()}

    def _size_edges(self, total: int, block_start: int, file_size: int | None) -> list[int]:
        """Return the offsets in the file between the packed sizes of the pieces, if it has any."""
        if self.sizes is None or not total or file_size is None:
            return []
        behind = self.behind + self.packed_size + _BYTES_AFTER_SIZES + total
        start = block_start - _HEADER_BYTES + file_size - behind
        edges = [start, *accumulate(self.sizes, initial=start)][1:]
        return edges if start >= block_start else []


def _unpack_runs(content: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the places of runs, which an untrusted index has."""
    total = content.get("runs_size", 0)
    if type(total) is not int or not 0 <= total <= _MAX_RUN_BYTES:
        raise ValueError("runs of no size")
    runs: dict[str, dict[str, Any]] = {}
    for name, fields in content.get("runs", {}).items():
        for field_name, (at, size, digest) in fields.items():
            if any(type(number) is not int or number < 0 for number in (at, size, digest)):
                raise ValueError("a run has no place")
            if at + size > total:
                raise ValueError("a run ends after all runs")
            runs.setdefault(str(name), {})[str(field_name)] = (at, size, digest)
    return runs, total
