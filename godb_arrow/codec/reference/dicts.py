"""Documents as Python dicts: the reference decoder, and iteration over them in chunks."""

from __future__ import annotations

import enum
import os
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow.codec.entries import Entries
from godb_arrow.errors import CorruptFile, LimitExceeded
from godb_arrow.schema import ID_FIELD

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "ChunkIterator",
    "IdSource",
    "PackedDocuments",
    "id_source",
    "load",
    "load_documents",
    "load_pairs",
    "pack_documents",
    "pack_single",
    "with_id",
]

_TIMESTAMP_HEADS = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")
_RARE_TIMESTAMP_HEADS = tuple(
    head + size.to_bytes(width, "big") + b"\xff"
    for head, width in ((b"\xc7", 1), (b"\xc8", 2), (b"\xc9", 4))
    for size in (4, 8, 12)
)
"""Heads of timestamps that no encoder writes, since shorter ones exist."""

_MAX_UNCHECKED_BYTES = 512  # of a document whose timestamps may be keys that collide
_MAX_UNCHECKED_KEYS = 32

_DOCUMENTS_AT_ONCE = 32
_BYTES_AT_ONCE = 1 << 16


def load(data: bytes) -> dict[Any, Any]:
    """Decode one document without loss.

    Parameters
    ----------
    data : bytes
        Document in MessagePack.

    Returns
    -------
    dict
        Document. Timestamps are ``datetime`` in UTC, or ``msgpack.Timestamp`` where a datetime
        cannot hold them (nanoseconds, years outside 1 to 9999). A string that is not UTF-8 has
        surrogate escapes for the bytes, as file names have in Python. Other extension types are
        ``msgpack.ExtType``. Keys that Python cannot hash are tuples.

    Raises
    ------
    CorruptFile
        The bytes are not valid MessagePack.
    LimitExceeded
        Keys of a map collide in a dict.

    Examples
    --------
    >>> load(msgpack.packb({"name": "Zoë"}))
    {'name': 'Zoë'}
    """
    has_timestamps = any(head in data for head in _TIMESTAMP_HEADS + _RARE_TIMESTAMP_HEADS)
    try:
        try:
            may_collide = has_timestamps and len(data) > _MAX_UNCHECKED_BYTES
            document = _unpack(data, object_pairs_hook=_hashable_keys if may_collide else None)
        except TypeError:  # a map key that is a list or a map
            document = _unpack(data, object_pairs_hook=_hashable_keys)
    except LimitExceeded:
        raise
    except (ValueError, msgpack.UnpackException, OverflowError, TypeError) as error:
        raise CorruptFile(f"not valid MessagePack: {error}", offset=0) from error
    if has_timestamps:
        document = _with_datetimes(document)
    return document  # type: ignore[no-any-return]


def load_documents(
    entries: Entries, rows: npt.NDArray[np.int64] | None, first: int
) -> list[dict[Any, Any]]:
    """Decode the next documents of a run, each with the id that the collection has for it.

    Parameters
    ----------
    entries : Entries
        Scanned documents.
    rows : array of int64, optional
        Indices of the documents to decode, default all.
    first : int
        Position in `rows` of the first document to decode.

    Returns
    -------
    list of dict
        As many documents as are decoded at once, as :func:`load` returns them. The list ends before
        a document that :func:`load` refuses, or that is no map.
    """
    documents: list[dict[Any, Any]] = []
    size = 0
    for at in range(first, len(entries) if rows is None else len(rows)):
        if at == first + _DOCUMENTS_AT_ONCE or size >= _BYTES_AT_ONCE:
            break
        index = at if rows is None else int(rows[at])
        raw = bytes(entries.document(index))
        try:
            document = load(raw)
        except (CorruptFile, LimitExceeded):
            break
        if not isinstance(document, dict):
            break
        documents.append(with_id(document, entries.id(index)))
        size += len(raw)
    return documents


def with_id(document: dict[Any, Any], identity: str) -> dict[Any, Any]:
    """Return the document with its id in the field of the id."""
    if document.get(ID_FIELD) != identity:
        document = {ID_FIELD: identity, **document}
        document[ID_FIELD] = identity
    return document


def load_pairs(data: bytes) -> Any:
    """Decode one value, with maps as tuples of pairs and timestamps as ``msgpack.Timestamp``."""
    return _unpack(data, object_pairs_hook=tuple)


def _unpack(data: bytes, **options: Any) -> Any:
    return msgpack.unpackb(
        data,
        raw=False,
        unicode_errors="surrogateescape",
        strict_map_key=False,
        timestamp=0,
        **options,
    )


def _hashable_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    keys = [_hashable(key) for key, _ in pairs]
    _check_spread(keys)
    return {key: value for key, (_, value) in zip(keys, pairs, strict=True)}


def _check_spread(keys: list[Any]) -> None:
    """Refuse keys that a stranger chose to make a dict slow: the hash of a tuple has no secret."""
    chosen = [key for key in keys if type(key) is tuple or type(key) is msgpack.Timestamp]
    if len(chosen) <= _MAX_UNCHECKED_KEYS:
        return
    distinct = {repr(key) for key in chosen}  # the hash of a text has a secret
    if 2 * len(set(map(hash, chosen))) < len(distinct):
        raise LimitExceeded(
            f"the hashes of {len(distinct)} keys of a map collide",
            advice="read the documents as record batches",
        )


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_hashable(element) for element in value)
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in value.items())
    return value


def _with_datetimes(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _with_datetimes(item) for key, item in value.items()}
    if kind is list:
        return [_with_datetimes(item) for item in value]
    if kind is msgpack.Timestamp and value.nanoseconds % 1000 == 0:
        try:
            return value.to_datetime()
        except (OverflowError, ValueError):
            return value
    return value


class IdSource(enum.IntEnum):
    """Source of the ids of several documents."""

    SEQUENCE = 0  # no document has an id
    DOCUMENTS = 1  # each has a string or an integer
    OTHER = 2


class PackedDocuments(NamedTuple):
    """Documents in MessagePack.

    Attributes
    ----------
    data : bytes
        Bytes of the entries, one after the other.
    bounds : array of int64
        Offsets of ids and documents, as for :class:`~godb_arrow.codec.entries.Entries`.
    ids : pyarrow.BinaryArray
        Ids of the documents.
    texts : list of str
        The same ids.
    """

    data: bytes
    bounds: npt.NDArray[np.int64]
    ids: pa.Array
    texts: list[str]


def id_source(documents: list[Any]) -> IdSource:
    """Return where documents get their ids from, so far as :func:`pack_documents` needs it."""
    return IdSource.OTHER


def pack_documents(documents: list[Any], first: int | None) -> PackedDocuments | None:
    """Encode documents as entries, with the id as the first field where it is new.

    Parameters
    ----------
    documents : list of dict
        Documents that all have an id, or all have none.
    first : int or None
        Number of the first document, whose successors count on; None for documents with ids.

    Returns
    -------
    PackedDocuments or None
        None if documents must be encoded one by one, as the reference codec always does.
    """
    return None


def pack_single(document: Any, number: int) -> tuple[str, bytes, bytes, int] | None:
    """Encode one document as an entry, with the id as the first field where it is new.

    Parameters
    ----------
    document : dict
        Document.
    number : int
        Number to use as the id; 0 for a document with an id.

    Returns
    -------
    tuple or None
        The id, the entry, the document alone, and the number that the id is, or 0. None if the
        document must be identified and encoded in two steps, as the reference codec always does.
    """
    return None


class ChunkIterator:
    """Iterator over the items of lists, each of which a subclass loads when it is needed.

    A subclass defines ``_fill``, which gives the next list to :meth:`give`, or raises. In a forked
    child ``_fill`` is called in any case.
    """

    def __init__(self) -> None:
        self._left: deque[Any] = deque()
        self._origin = os.getpid()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        while True:
            if self._origin != os.getpid():
                self._fill()
            try:
                return self._left.popleft()
            except IndexError:
                self._fill()

    def _fill(self) -> None:
        raise StopIteration

    @property
    def has_items(self) -> bool:
        """Whether items of the last list are left."""
        return bool(self._left)

    def give(self, items: list[Any]) -> None:
        """Set the items to return next."""
        self._left = deque(items)
