"""Avro files as columns, with the extra ``avro``; schemas are translated both ways.

The container of a file is read here, so that hostile lengths are refused before memory is reserved.
``fastavro`` decodes the records.
"""

from __future__ import annotations

import bz2
import decimal
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from godb_arrow.connectors import missing
from godb_arrow.connectors.etl.avro_plain import Shape, check_memory, plain_schema
from godb_arrow.connectors.etl.avro_schema import arrow_fields, avro_schema
from godb_arrow.errors import InvalidDocument
from godb_arrow.schema import storage_schema
from godb_arrow.storage.limited import read_limited

__all__ = ["kind", "read", "write"]

try:
    import fastavro
except ImportError as error:
    raise missing("avro", "fastavro") from error

kind = "columns"

_MAGIC = b"Obj\x01"
_SYNC_BYTES = 16
_MAX_HEAD_BYTES = 16 << 20  # of the metadata, which has the schema
_MAX_BLOCK_BYTES = 128 << 20  # of a decompressed block
_MAX_EMPTY_RECORDS = 1 << 24  # of a file, if its records have no bytes
_BATCH_ROWS = 8192
_BATCH_MEMORY = 256 << 20  # at most, of the values of a batch
_CRC_BYTES = 4  # after a block that is compressed with snappy


def read(stream: BinaryIO, name: str) -> pa.RecordBatchReader:
    """Return the records of an Avro file as record batches.

    Parameters
    ----------
    stream : binary file
        The file.
    name : str
        Name of the file, for messages.

    Returns
    -------
    pyarrow.RecordBatchReader
        Unions of several types, apart from null, are JSON text.

    Raises
    ------
    InvalidDocument
        The file is damaged, or claims more bytes than are allowed.
    """
    if stream.read(4) != _MAGIC:
        raise InvalidDocument(f"{name} is no Avro file", advice="give another format")
    metadata = _read_metadata(stream)
    sync = _read_exactly(stream, _SYNC_BYTES)
    decompress = _decompressor(metadata.get("avro.codec", b"null").decode("ascii", "replace"))
    declared = json.loads(metadata.get("avro.schema", b"null"))
    record, named, shape = plain_schema(declared)
    if not isinstance(record, dict) or record["type"] != "record":
        raise InvalidDocument("the schema is no record", advice="give a file of records")
    columns = arrow_fields(record["fields"], named)
    schema = pa.schema([field for field, _ in columns])
    records = _Records(record, named, shape)

    def rows() -> Iterator[tuple[list[Any], int]]:
        empty = 0
        while True:
            count = _read_long(stream, may_end=True)
            if count is None:
                return
            data = decompress(_read_exactly(stream, _checked(_read_long(stream))))
            if _read_exactly(stream, _SYNC_BYTES) != sync:
                raise InvalidDocument("a block of the Avro file has no valid end")
            if not shape.min_bytes:
                empty += count
            if count < 0 or count * shape.min_bytes > len(data) or empty > _MAX_EMPTY_RECORDS:
                raise InvalidDocument(f"a block of {len(data)} bytes claims {count} records")
            yield from records.of_block(data, count)

    converters = [convert for _, convert in columns]
    return pa.RecordBatchReader.from_batches(
        schema, _batches(rows(), schema, converters, records.window)
    )


class _Records:
    """Decoder of the records of a file, in windows whose values fit into memory."""

    def __init__(self, record: dict[str, Any], named: dict[str, Any], shape: Shape) -> None:
        self.window = max(_BATCH_MEMORY // shape.memory, 1)
        """Number of bytes whose values fit into the memory of a batch."""

        self._record, self._named = record, named
        self._parsed: Any = fastavro.parse_schema(record)
        self._names = [field["name"] for field in record["fields"]]

    def of_block(self, data: bytes, count: int) -> Iterator[tuple[list[Any], int]]:
        """Yield the values of each record, and its size.

        Raises
        ------
        InvalidDocument
            The records do not end where the block ends.
        """
        at = 0
        while count:
            start, end = at, min(at + self.window, len(data))
            window = io.BytesIO(data[start:end])
            while count and (row := self._next(window, end - start, end == len(data))) is not None:
                size = start + window.tell() - at
                at += size
                count -= 1
                yield row, size
            if count and at == start:
                end = check_memory(data, at, self._record, self._named)
                count -= 1
                yield self._decode(io.BytesIO(data[at:end])), end - at
                at = end
        if at < len(data):
            raise InvalidDocument(
                f"a block of the Avro file has {len(data) - at} bytes after its last record"
            )

    def _next(self, window: io.BytesIO, size: int, is_last: bool) -> Any:
        """Return the next row, or None if the window may end inside of it."""
        if is_last:
            return self._decode(window)
        try:
            row = self._decode(window)
        except Exception:  # The library has several classes for bytes that end early.
            return None
        return row if window.tell() < size else None

    def _decode(self, stream: io.BytesIO) -> list[Any]:
        found: Any = fastavro.schemaless_reader(stream, self._parsed)
        return [found[name] for name in self._names]


def _batches(
    rows: Iterator[tuple[list[Any], int]],
    schema: pa.Schema,
    converters: list[Callable[[Any], Any] | None],
    max_bytes: int,
) -> Iterator[pa.RecordBatch]:
    """Yield batches of a limited number of rows and bytes of the file."""
    waiting: list[list[Any]] = []
    size = 0
    storage = storage_schema(schema)
    max_rows = min(_BATCH_ROWS, max_bytes)

    def batch() -> pa.RecordBatch:
        if not len(schema):
            return pa.RecordBatch.from_struct_array(pa.array([{}] * len(waiting), pa.struct([])))
        columns = list(zip(*waiting, strict=True))
        arrays = []
        for values, field, kind, convert in zip(
            columns, schema, storage.types, converters, strict=True
        ):
            if convert is not None:
                values = tuple(None if value is None else convert(value) for value in values)
            array = pa.array(values, kind)
            arrays.append(array if kind == field.type else array.cast(field.type))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    for row, more in rows:
        if waiting and (len(waiting) == max_rows or size + more > max_bytes):
            yield batch()
            waiting.clear()
            size = 0
        waiting.append(row)
        size += more
    if waiting:
        yield batch()


# --- the container -----------------------------------------------------------------------------


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = stream.read(min(count - len(data), 1 << 20))
        if not part:
            raise InvalidDocument("the Avro file ends early")
        data += part
    return bytes(data)


def _read_long(stream: BinaryIO, *, may_end: bool = False) -> Any:
    """Return a zigzag number; None at the end of the file, if that is allowed."""
    value = shift = 0
    while True:
        byte = stream.read(1)
        if not byte:
            if may_end and not shift:
                return None
            raise InvalidDocument("the Avro file ends early")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return (value >> 1) ^ -(value & 1)
        shift += 7
        if shift > 63:
            raise InvalidDocument("a number of the Avro file has no end")


def _checked(count: int, limit: int = _MAX_BLOCK_BYTES) -> int:
    if not 0 <= count <= limit:
        raise InvalidDocument(f"the Avro file claims {count} bytes; at most {limit} are allowed")
    return count


def _read_metadata(stream: BinaryIO) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    left = _MAX_HEAD_BYTES
    while count := _read_long(stream):
        if count < 0:
            count = -count
            _read_long(stream)
        for _ in range(count):
            key = _read_exactly(stream, _checked(_read_long(stream), left))
            value = _read_exactly(stream, _checked(_read_long(stream), left))
            left -= len(key) + len(value) + 1
            if left < 0:
                raise InvalidDocument("the metadata of the Avro file are too large")
            found[key.decode("utf-8", "replace")] = value
    return found


def _decompressor(codec: str) -> Callable[[bytes], bytes]:
    """Return a function that decompresses a block to a limited number of bytes."""
    streaming: dict[str, Callable[[], Any]] = {
        "deflate": lambda: zlib.decompressobj(-15),
        "bzip2": bz2.BZ2Decompressor,
        "xz": lzma.LZMADecompressor,
    }

    def decompress(data: bytes) -> bytes:
        decompressor = streaming[codec]()
        found: bytes = decompressor.decompress(data, _MAX_BLOCK_BYTES + 1)
        _checked(len(found))
        # Some writers leave a part of the checksum of zlib after a block of deflate.
        if not decompressor.eof or (decompressor.unused_data and codec != "deflate"):
            raise InvalidDocument("a block of the Avro file ends early")
        return found

    def zstandard(data: bytes) -> bytes:
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            found = read_limited(stream, _MAX_BLOCK_BYTES)
        _checked(len(found))
        return found

    def snappy(data: bytes) -> bytes:
        size = _checked(_snappy_size(data))
        found: bytes = pa.decompress(data[:-_CRC_BYTES], size, "snappy", asbytes=True)
        if zlib.crc32(found) != int.from_bytes(data[-_CRC_BYTES:], "big"):
            raise InvalidDocument("a block of the Avro file has another checksum")
        return found

    def guarded(function: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def found(data: bytes) -> bytes:
            try:
                return function(data)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
                raise InvalidDocument(f"a block of the Avro file is damaged: {error}") from error

        return found

    if codec in streaming:
        return guarded(decompress)
    known = {"null": lambda data: data, "zstandard": zstandard, "snappy": snappy}
    if codec not in known:
        raise InvalidDocument(
            f"the Avro file has the codec {codec!r}",
            advice=f"write it with one of {', '.join([*known, *streaming])}",
        )
    return guarded(known[codec])


def _snappy_size(data: bytes) -> int:
    size = 0
    for index, byte in enumerate(data[:5]):
        size |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return size
    raise InvalidDocument("a block of the Avro file is damaged")


# --- writing -----------------------------------------------------------------------------------


def write(stream: BinaryIO, reader: pa.RecordBatchReader) -> None:
    """Write record batches to an Avro file, in blocks that are compressed with deflate.

    Parameters
    ----------
    stream : binary file
        The file.
    reader : pyarrow.RecordBatchReader
        The rows. JSON text becomes strings, and so do columns if all are of the type null.

    Raises
    ------
    UnsupportedType
        Avro has no type for a column, such as a map whose keys are numbers.
    """
    schema, columns = avro_schema(reader.schema)

    def records() -> Iterator[dict[str, Any]]:
        for batch in reader:
            arrays = [
                convert(array) for (_, convert), array in zip(columns, batch.columns, strict=True)
            ]
            names = [name for name, _ in columns]
            for row in zip(*arrays, strict=True) if arrays else [()] * batch.num_rows:
                yield dict(zip(names, row, strict=True))

    with decimal.localcontext(prec=80):  # as many digits as decimals may have
        fastavro.writer(stream, fastavro.parse_schema(schema), records(), codec="deflate")
