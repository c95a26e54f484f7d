"""Streams as bodies of HTTP responses, for FastAPI, Starlette and other ASGI frameworks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.snapshots.streaming import BatchStream, DocumentStream

__all__ = ["ARROW_STREAM", "NDJSON", "arrow_body", "ndjson_body"]

ARROW_STREAM = "application/vnd.apache.arrow.stream"
"""Media type of :func:`arrow_body`."""

NDJSON = "application/x-ndjson"
"""Media type of :func:`ndjson_body`."""

_CHUNK_BYTES = 64 << 10


async def ndjson_body(stream: DocumentStream, *, plain: bool = True) -> AsyncIterator[bytes]:
    """Yield documents as NDJSON, one on each line, in constant memory.

    Parameters
    ----------
    stream : DocumentStream
        Result of :meth:`Collection.find_all_stream`. It is closed when the client disconnects.
    plain : bool
        Whether timestamps are text and binary is base64, default True. Otherwise documents have
        the form that :mod:`godb_arrow.codec.jsontext` can read again.

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
    with stream:
        async for run in stream.runs():
            lines = await asyncio.to_thread(codec.json_lines, run, plain=plain)
            for start in range(0, len(lines), _CHUNK_BYTES):
                yield lines[start : start + _CHUNK_BYTES]


async def arrow_body(stream: BatchStream) -> AsyncIterator[bytes]:
    """Yield record batches as an Arrow IPC stream, which ``pyarrow.ipc.open_stream`` reads.

    Parameters
    ----------
    stream : BatchStream
        Result of :meth:`Collection.stream`. It is closed when the client disconnects.

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
    """File object from which written bytes are removed at once."""

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
