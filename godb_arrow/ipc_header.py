"""Headers of Arrow IPC messages, read from untrusted flatbuffers.

Arrow allocates what a message declares before it decompresses it. So the declared sizes are read
here first. Every offset is checked before it is followed.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

__all__ = ["IpcHeader", "MessageKind", "read_ipc_header", "unpacked_body_bytes"]

_BUFFER = struct.Struct("<qq")  # offset and length in the body
_SIZE = struct.Struct("<q")  # before each compressed buffer
_UNCOMPRESSED = -1  # size of a buffer that the writer left uncompressed
_FORMER_COMPRESSION = b"ARROW:experimental_compression"  # before the field for it, in version 4


class MessageKind:
    """Types of messages, with the numbers of Arrow's ``Message.fbs``."""

    SCHEMA = 1
    DICTIONARY_BATCH = 2
    RECORD_BATCH = 3


class IpcHeader(NamedTuple):
    """Header of a message.

    Parameters
    ----------
    kind : int
        One of :class:`MessageKind`, or another type of message.
    body_bytes : int
        Size of the body.
    is_compressed : bool
        Whether the buffers of the body are compressed.
    buffers : list of tuple of int
        Offset and length of each buffer in the body, of compressed messages only.
    """

    kind: int
    body_bytes: int
    is_compressed: bool
    buffers: list[tuple[int, int]]


def read_ipc_header(metadata: bytes) -> IpcHeader:
    """Read the flatbuffer of a message.

    Parameters
    ----------
    metadata : bytes
        Flatbuffer, without the prefix of an encapsulated message.

    Returns
    -------
    IpcHeader
        What the message declares.

    Raises
    ------
    ValueError
        The bytes are no message.

    Examples
    --------
    >>> import pyarrow as pa
    >>> message = pa.record_batch({"n": [1, 2, 3]}).serialize().to_pybytes()
    >>> read_ipc_header(message[8:])
    IpcHeader(kind=3, body_bytes=24, is_compressed=False, buffers=[])
    """
    try:
        message = _Table.root(metadata)
        kind = message.number("<B", 1)
        batch = message.table(2)
        if kind == MessageKind.DICTIONARY_BATCH and batch is not None:
            batch = batch.table(1)
        if batch is None or kind not in (MessageKind.DICTIONARY_BATCH, MessageKind.RECORD_BATCH):
            return IpcHeader(kind, message.number("<q", 3), False, [])
        is_compressed = batch.table(3) is not None or _FORMER_COMPRESSION in metadata
        buffers = batch.pairs(2) if is_compressed else []
        return IpcHeader(kind, message.number("<q", 3), is_compressed, buffers)
    except struct.error as error:
        raise ValueError("an offset of the message leaves it") from error


def unpacked_body_bytes(header: IpcHeader, body: bytes | memoryview) -> int:
    """Return how many bytes Arrow allocates for the body of a message.

    Parameters
    ----------
    header : IpcHeader
        Header of the message.
    body : bytes or memoryview
        Body of the message.

    Returns
    -------
    int
        Sum of the sizes that compressed buffers declare, or the size of the body.

    Raises
    ------
    ValueError
        The body has another size, or a buffer leaves it.
    """
    if header.body_bytes != len(body):
        raise ValueError(f"the message declares {header.body_bytes} bytes and has {len(body)}")
    if not header.is_compressed:
        return len(body)
    total = 0
    for offset, length in header.buffers:
        if length == 0:
            continue
        if offset < 0 or length < _SIZE.size or offset + length > len(body):
            raise ValueError("a compressed buffer leaves the message")
        (size,) = _SIZE.unpack_from(body, offset)
        if size < _UNCOMPRESSED:
            raise ValueError("a compressed buffer declares a negative size")
        total += length if size == _UNCOMPRESSED else size
    return max(total, len(body))


class _Table:
    """Table of a flatbuffer.

    Parameters
    ----------
    data : bytes
        Whole flatbuffer.
    at : int
        Where the table is.
    """

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at
        self._layout = at - self._read("<i", at)
        self._layout_bytes = self._read("<H", self._layout)

    @classmethod
    def root(cls, data: bytes) -> Self:
        """Return the table of a whole flatbuffer."""
        (at,) = struct.unpack_from("<I", data, 0)
        return cls(data, at)

    def number(self, form: str, field: int) -> int:
        """Return a number, which is 0 by default."""
        at = self._place(field)
        return 0 if at is None else self._read(form, at)

    def table(self, field: int) -> _Table | None:
        """Return a table in a field, or None."""
        at = self._place(field)
        return None if at is None else _Table(self._data, at + self._read("<I", at))

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """Return a vector of structures of two 64-bit integers."""
        at = self._place(field)
        if at is None:
            return []
        at += self._read("<I", at)
        start = at + 4
        end = start + self._read("<I", at) * _BUFFER.size
        if end > len(self._data):
            raise ValueError("a vector leaves the message")
        return list(_BUFFER.iter_unpack(self._data[start:end]))

    def _place(self, field: int) -> int | None:
        place = 4 + 2 * field
        if self._layout_bytes <= place:
            return None
        offset = self._read("<H", self._layout + place)
        return self._at + offset if offset else None

    def _read(self, form: str, at: int) -> int:
        if at < 0:
            raise ValueError("an offset before the message")
        (value,) = struct.unpack_from(form, self._data, at)
        return int(value)
