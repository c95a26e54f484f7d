"""Messages of Flight uploads, made by hand of IPC streams."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.flight as fl

from godb_arrow.connectors.flight.wire import flight_data_bytes

__all__ = ["descriptor_bytes", "upload_messages"]


def descriptor_bytes(name: str) -> bytes:
    """Return the field with the descriptor, which the first message of an upload has."""
    raw = fl.FlightDescriptor.for_path(name).serialize()
    assert len(raw) < 128
    return bytes([1 << 3 | 2, len(raw)]) + raw


def upload_messages(stream: bytes, name: str = "c") -> list[bytes]:
    """Return the messages of an upload of an IPC stream."""
    messages = [
        flight_data_bytes(memoryview(message.metadata), memoryview(message.body))
        for message in pa.ipc.MessageReader.open_stream(stream)
    ]
    return [descriptor_bytes(name) + messages[0], *messages[1:]]
