"""Messages of the Flight protocol that pyarrow neither reads nor writes.

``Flight.proto`` defines the numbers of the fields. Bytes of clients are untrusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["FlightData", "action_type_bytes", "flight_data_bytes", "put_result_bytes"]

_VARINT, _FIXED_64, _LENGTH, _FIXED_32 = 0, 1, 2, 5  # wire types of Protocol Buffers
_MAX_VARINT_BYTES = 10
# Fields of FlightData
_DESCRIPTOR, _HEADER, _APP_METADATA, _BODY = 1, 2, 3, 1000


class FlightData(NamedTuple):
    """Message of a stream.

    Parameters
    ----------
    descriptor : bytes
        Serialized descriptor, in the first message of an upload.
    header : bytes
        Flatbuffer of an Arrow message. It is empty in a message without Arrow data.
    app_metadata : bytes
        What the program sends beside the data.
    body : memoryview
        Body of the Arrow message.
    """

    descriptor: bytes
    header: bytes
    app_metadata: bytes
    body: memoryview

    @classmethod
    def parse(cls, message: bytes) -> FlightData:
        """Read a message.

        Raises
        ------
        ValueError
            The bytes are no message.
        """
        fields = {
            _DESCRIPTOR: memoryview(b""),
            _HEADER: memoryview(b""),
            _APP_METADATA: memoryview(b""),
            _BODY: memoryview(b""),
        }
        for number, value in _fields(message):
            if number in fields:
                fields[number] = value
        return cls(
            bytes(fields[_DESCRIPTOR]),
            bytes(fields[_HEADER]),
            bytes(fields[_APP_METADATA]),
            fields[_BODY],
        )


def flight_data_bytes(header: bytes | memoryview, body: bytes | memoryview) -> bytes:
    """Return a message with Arrow data."""
    return b"".join(
        (_prefix(_HEADER, len(header)), header, _prefix(_BODY, len(body)), body)
        if len(body)
        else (_prefix(_HEADER, len(header)), header)
    )


def put_result_bytes(app_metadata: bytes) -> bytes:
    """Return the answer to an upload."""
    return _prefix(1, len(app_metadata)) + app_metadata


def action_type_bytes(name: str, description: str) -> bytes:
    """Return a description of an action."""
    parts = (name.encode(), description.encode())
    return b"".join(_prefix(field, len(part)) + part for field, part in enumerate(parts, 1))


def _prefix(field: int, size: int) -> bytes:
    return _varint(field << 3 | _LENGTH) + _varint(size)


def _varint(number: int) -> bytes:
    raw = bytearray()
    while number > 0x7F:
        raw.append(number & 0x7F | 0x80)
        number >>= 7
    raw.append(number)
    return bytes(raw)


def _fields(message: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and value of each field that has a length; others are skipped."""
    view = memoryview(message)
    at = 0
    while at < len(view):
        tag, at = _read_varint(view, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _read_varint(view, at)
            continue
        if kind == _LENGTH:
            size, at = _read_varint(view, at)
        elif kind in (_FIXED_32, _FIXED_64):
            size = 4 if kind == _FIXED_32 else 8
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")
        if size > len(view) - at:
            raise ValueError("a field is longer than its message")
        if kind == _LENGTH:
            yield tag >> 3, view[at : at + size]
        at += size


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    """Return a number and the position after it."""
    number = 0
    for index, byte in enumerate(view[at : at + _MAX_VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, at + index + 1
    raise ValueError("a number of the message is cut off")
