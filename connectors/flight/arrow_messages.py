"""Record batches as the Arrow messages of a Flight stream, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.flight as fl

from godb_arrow.connectors.flight.wire import FlightData, flight_data_bytes
from godb_arrow.errors import GodbError, InvalidOption, LimitExceeded
from godb_arrow.ipc_header import MessageKind, read_ipc_header, unpacked_body_bytes

__all__ = ["Chunk", "Upload", "messages_of"]

_PREFIX_BYTES = 8  # of an encapsulated message: a marker, and the size of the flatbuffer
_MARKER = b"\xff\xff\xff\xff"
# An error of Arrow for bytes that are no Arrow message, whatever they are.
_INVALID = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, StopIteration)


def messages_of(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    """Yield the messages of a stream, the first of which has the schema.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of the stream.
    batches : iterator of pyarrow.RecordBatch
        Record batches, each of which is sent with its own dictionaries.
    """
    yield flight_data_bytes(schema.serialize().to_pybytes()[_PREFIX_BYTES:], b"")
    has_dictionary = any(map(_has_dictionary, schema.types))
    for batch in batches:
        if not has_dictionary:
            message = memoryview(batch.serialize())
            end = _PREFIX_BYTES + int.from_bytes(message[4:_PREFIX_BYTES], "little")
            yield flight_data_bytes(message[_PREFIX_BYTES:end], message[end:])
            continue
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(batch)
        messages = iter(pa.ipc.MessageReader.open_stream(sink.getvalue()))
        next(messages)  # the schema
        for message in messages:
            yield flight_data_bytes(memoryview(message.metadata), memoryview(message.body))


def _has_dictionary(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_dictionary(kind.storage_type)
    children = (kind.field(index).type for index in range(kind.num_fields))
    return pa.types.is_dictionary(kind) or any(map(_has_dictionary, children))


class Chunk(NamedTuple):
    """Record batch of an upload, or metadata that came without one.

    Parameters
    ----------
    batch : pyarrow.RecordBatch or None
        Record batch, which is not validated.
    app_metadata : bytes
        Metadata of the message.
    """

    batch: pa.RecordBatch | None
    app_metadata: bytes


class Upload(Iterator[Chunk]):
    """Messages of an upload as record batches.

    Arrow allocates what a compressed message declares. So a message is refused by the declared
    size, before Arrow unpacks it.

    Parameters
    ----------
    messages : iterator of bytes
        Messages of the client.
    max_message_bytes : int
        Maximum size of a record batch with its dictionaries, unpacked.

    Raises
    ------
    InvalidOption
        The first messages have no descriptor or no schema, or a message is invalid.
    LimitExceeded
        A message is too large.
    """

    def __init__(self, messages: Iterator[bytes], max_message_bytes: int) -> None:
        self._messages = messages
        self._max_message = max_message_bytes
        self._source = _Source()
        first = _parsed(next(messages, b""))
        try:
            self.descriptor = fl.FlightDescriptor.deserialize(first.descriptor)
        except _INVALID as error:
            raise _invalid("its first message has no descriptor") from error
        while not first.header:
            message = next(messages, None)
            if message is None:
                raise _invalid("it has no schema")
            first = _parsed(message)
        self._append(first, MessageKind.SCHEMA)
        try:
            self._reader = pa.ipc.open_stream(pa.PythonFile(self._source, mode="r"))
        except _INVALID as error:
            raise _invalid(f"its schema is invalid: {_first_line(error)}") from error
        self.schema: pa.Schema = self._reader.schema

    def __next__(self) -> Chunk:
        """Return the next record batch or metadata.

        Raises
        ------
        InvalidOption
            A message is invalid.
        LimitExceeded
            A message is too large.
        """
        unpacked_bytes = 0  # of the dictionaries and their record batch
        while True:
            message = _parsed(next(self._messages))
            if not message.header:
                return Chunk(None, message.app_metadata)
            kind, size = self._append(message)
            unpacked_bytes += size
            if unpacked_bytes > self._max_message:
                raise LimitExceeded(
                    f"a record batch has {unpacked_bytes} bytes, more than {self._max_message}",
                    advice="send smaller batches",
                )
            if kind == MessageKind.RECORD_BATCH:
                return Chunk(self._unpacked(), message.app_metadata)

    def _append(self, message: FlightData, expected: int | None = None) -> tuple[int, int]:
        """Append a message for the reader, and return its kind and unpacked size in bytes."""
        try:
            header = read_ipc_header(message.header)
            size = unpacked_body_bytes(header, message.body)
        except ValueError as error:
            raise _invalid(f"an Arrow message is invalid: {error}") from error
        if header.kind not in (
            (MessageKind.DICTIONARY_BATCH, MessageKind.RECORD_BATCH)
            if expected is None
            else (expected,)
        ):
            raise _invalid("an Arrow message has another type than is expected")
        self._source.append(message)
        return header.kind, size

    def _unpacked(self) -> pa.RecordBatch:
        try:
            return self._reader.read_next_batch()
        except GodbError:
            raise
        except _INVALID as error:
            raise _invalid(f"a record batch is invalid: {_first_line(error)}") from error


class _Source:
    """File for Arrow's reader, which has the messages that were appended."""

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []
        self.closed = False

    def append(self, message: FlightData) -> None:
        """Append an encapsulated message."""
        self._parts.append(_MARKER + len(message.header).to_bytes(4, "little"))
        self._parts.append(message.header)
        if message.body:
            self._parts.append(message.body)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, which are aligned for Arrow; none at the end."""
        taken: list[bytes | memoryview] = []
        while self._parts and size > 0:
            part = self._parts[0]
            taken.append(part[:size])
            if len(part) > size:
                self._parts[0] = memoryview(part)[size:]
            else:
                del self._parts[0]
            size -= len(taken[-1])
        return bytes(taken[0]) if len(taken) == 1 else b"".join(taken)

    def close(self) -> None:
        """Drop all bytes."""
        self._parts.clear()
        self.closed = True


def _parsed(message: bytes) -> FlightData:
    try:
        return FlightData.parse(message)
    except ValueError as error:
        raise _invalid(f"a message is invalid: {error}") from error


def _invalid(problem: str) -> InvalidOption:
    return InvalidOption(
        f"the upload is not valid: {problem}", advice="send it with a Flight library"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
