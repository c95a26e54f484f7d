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
from godb_arrow.connectors.etl.avro_schema import arrow_fields, avro_schema, plain_schema
from godb_arrow.errors import InvalidDocument

__all__ = ["kind", "read", "write"]

try:
    import fastavro
except ImportError as error:
    raise missing("avro", "fastavro") from error

kind = "columns"

_MAGIC = b"Obj\x01"
_SYNC_BYTES = 16
_MAX_HEAD_BYTES = 16 << 20  # of the metadata, which has the schema
_MAX_BLOCK_BYTES = 256 << 20  # of a decompressed block
_BATCH_ROWS = 8192
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
    record = plain_schema(declared)  # checked, without recursion and without empty items
    parsed: Any = fastavro.parse_schema(record)
    if not isinstance(record, dict) or record.get("type") != "record":
        raise InvalidDocument("the schema is no record", advice="give a file of records")
    columns = arrow_fields(declared["fields"])
    schema = pa.schema([field for field, _ in columns])

    def rows() -> Iterator[list[Any]]:
        names = [field["name"] for field in declared["fields"]]
        while True:
            count = _read_long(stream, may_end=True)
            if count is None:
                return
            data = decompress(_read_exactly(stream, _checked(_read_long(stream))))
            if _read_exactly(stream, _SYNC_BYTES) != sync:
                raise InvalidDocument("a block of the Avro file has no valid end")
            block = io.BytesIO(data)
            if count < 0 or (count > len(data) and names):
                raise InvalidDocument(f"a block of {len(data)} bytes claims {count} records")
            for _ in range(count):
                found: Any = fastavro.schemaless_reader(block, parsed)
                yield [found[name] for name in names]

    return pa.RecordBatchReader.from_batches(
        schema, _batches(rows(), schema, [convert for _, convert in columns])
    )


def _batches(
    rows: Iterator[list[Any]], schema: pa.Schema, converters: list[Callable[[Any], Any] | None]
) -> Iterator[pa.RecordBatch]:
    waiting: list[list[Any]] = []

    def batch() -> pa.RecordBatch:
        columns = list(zip(*waiting, strict=True)) or [()] * len(schema)
        arrays = []
        for values, field, convert in zip(columns, schema, converters, strict=True):
            if convert is not None:
                values = tuple(None if value is None else convert(value) for value in values)
            storage = field.type.storage_type if isinstance(field.type, pa.JsonType) else field.type
            array = pa.array(values, storage)
            is_json = storage is not field.type
            arrays.append(pa.ExtensionArray.from_storage(field.type, array) if is_json else array)
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    for row in rows:
        waiting.append(row)
        if len(waiting) == _BATCH_ROWS:
            yield batch()
            waiting.clear()
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
        found: bytes = streaming[codec]().decompress(data, _MAX_BLOCK_BYTES + 1)
        _checked(len(found))
        return found

    def zstandard(data: bytes) -> bytes:
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            found: bytes = stream.read(_MAX_BLOCK_BYTES + 1)
        _checked(len(found))
        return found

    def snappy(data: bytes) -> bytes:
        size = _checked(_snappy_size(data))
        found: bytes = pa.decompress(data[:-_CRC_BYTES], size, "snappy", asbytes=True)
        return found

    if codec in streaming:
        return decompress
    known = {"null": lambda data: data, "zstandard": zstandard, "snappy": snappy}
    if codec not in known:
        raise InvalidDocument(
            f"the Avro file has the codec {codec!r}",
            advice=f"write it with one of {', '.join([*known, *streaming])}",
        )
    return known[codec]


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
        The rows. JSON text and maps of other keys become strings.
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
