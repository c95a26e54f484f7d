"""Streams as bodies of HTTP answers, for FastAPI, Starlette and every other ASGI framework."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pyarrow as pa

from godb_arrow.codec.jsontext import to_json_text
from godb_arrow.snapshots.streaming import BatchStream, DocumentStream

__all__ = ["ARROW_STREAM", "NDJSON", "arrow_body", "ndjson_body"]

ARROW_STREAM = "application/vnd.apache.arrow.stream"
"""The media type of :func:`arrow_body`."""

NDJSON = "application/x-ndjson"
"""The media type of :func:`ndjson_body`."""

_CHUNK = 64 << 10


async def ndjson_body(stream: DocumentStream, *, plain: bool = True) -> AsyncIterator[bytes]:
    """Documents as NDJSON, one a line, in constant memory.

    Parameters
    ----------
    stream : DocumentStream
        Of :meth:`Collection.find_all_stream`. It is closed when the client has gone.
    plain : bool
        Timestamps as text and binary as base64; else what :mod:`godb_arrow.codec.jsontext` reads
        back.

    Yields
    ------
    bytes

    Examples
    --------
    >>> import asyncio, tempfile, godb_arrow
    >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
    >>> _ = engine.create_collection("users").insert_many([{"name": "Ada"}, {"name": "Bob"}])
    >>> async def read():
    ...     return [chunk async for chunk in ndjson_body(engine.find_all_stream("users"))]
    >>> print(b"".join(asyncio.run(read())).decode(), end="")
    {"_id":"1","name":"Ada"}
    {"_id":"2","name":"Bob"}
    >>> engine.close()
    """
    waiting = bytearray()
    with stream:
        async for document in stream:
            waiting += to_json_text(document, plain=plain).encode() + b"\n"
            if len(waiting) >= _CHUNK:
                yield bytes(waiting)
                waiting.clear()
        if waiting:
            yield bytes(waiting)


async def arrow_body(stream: BatchStream) -> AsyncIterator[bytes]:
    """Record batches as an Arrow IPC stream, which ``pyarrow.ipc.open_stream`` reads.

    Parameters
    ----------
    stream : BatchStream
        Of :meth:`Collection.stream`. It is closed when the client has gone.

    Yields
    ------
    bytes

    Examples
    --------
    >>> import asyncio, tempfile, godb_arrow
    >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
    >>> _ = engine.create_collection("users").insert_many([{"name": "Ada"}, {"name": "Bob"}])
    >>> async def read():
    ...     return [chunk async for chunk in arrow_body(engine["users"].stream(["name"]))]
    >>> pa.ipc.open_stream(b"".join(asyncio.run(read()))).read_all().to_pydict()
    {'name': ['Ada', 'Bob']}
    >>> engine.close()
    """
    sink = _Sink()
    writer = pa.ipc.new_stream(pa.PythonFile(sink, "w"), stream.schema)
    with stream:
        async for batch in stream:
            writer.write_batch(batch)
            yield sink.take()
    writer.close()
    yield sink.take()


class _Sink:
    """A file whose bytes are taken away as they come."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)
