"""Layout of a GODB file: header, body, hints, index and checksums.

=========  ==================================================================================
bytes      content
=========  ==================================================================================
0 to 3     ``GODB``
4, 5       version 1, little-endian
6, 7       flags, little-endian: the compression of the body, with 0 as below
8 to end   one raw LZ4 block: no size, no frame, no checksum
=========  ==================================================================================

With flags 1 the body is zstd frames, and uncompressed bytes after the last frame. With flags 2 the
whole body is uncompressed (see :mod:`godb_arrow.codec.frames`). Flags 128 to 255 are for the
compressions of other packages. go-db reads flags 0 only. Other flags are an error.

The body is one MessagePack map with keys in any order. ``collections`` maps names to maps from
document ids to documents. ``indexes``, ``metadata`` and unknown keys are optional.

godb_arrow adds the following, which go-db ignores:

- ``metadata`` comes first and has a key ``godb_arrow``. For each collection it has the number of
  documents, the next generated id and the schema, in plain values. These hints have a checksum of
  their own, since they are used before the end of the file is read.
- ``file_checksum`` and ``checksum`` come last. ``checksum`` is the XXH3-64 of all decompressed
  bytes before its own key. ``file_checksum`` is the XXH3-64 of all bytes of the file before its own
  value. LZ4 can encode the same bytes in several ways, so only a checksum of the compressed bytes
  detects every flipped bit. Both are stored as literals at the very end of the LZ4 block. So the
  last 41 bytes tell whether a file is as godb_arrow wrote it.
- A body decompresses to at most ten times its size, which is what go-db allocates.
- With many documents, the block consists of pieces that refer to no earlier bytes and begin with a
  document. ``godb_arrow_pieces``, before ``file_checksum`` and also stored as literals, has their
  positions. ``godb_arrow_sizes`` before it has the sizes of all documents. Where fields are
  indexed, ``godb_arrow_indexes`` comes before it. See :mod:`godb_arrow.file.pieces`.
"""

from __future__ import annotations

import logging
from typing import Any, BinaryIO, NamedTuple

import msgpack
import pyarrow as pa
import xxhash

from godb_arrow import codec
from godb_arrow.codec.compression import EXTENSION_FLAGS, Compression, compression_of
from godb_arrow.errors import (
    EmptyFile,
    GodbError,
    TruncatedHeader,
    UnsupportedFlags,
    UnsupportedVersion,
    WrongMagic,
)
from godb_arrow.file.body import read_exactly

__all__ = [
    "HEADER_SIZE",
    "TAIL_SIZE",
    "Header",
    "is_sealed",
    "parse_header",
    "read_header",
    "split_map",
    "unpack",
]


logger = logging.getLogger(__name__)

MAGIC = b"GODB"
VERSION = 1
HEADER_SIZE = 8
PACKED_COLLECTIONS = codec.pack("collections")
PACKED_CHECKSUM = codec.pack("checksum")
FILE_CHECKSUM_HEAD = codec.pack("file_checksum") + b"\xcf"
CHECKSUM_HEAD = codec.pack("checksum") + b"\xcf"
AFTER_FILE_HASH = 8 + len(CHECKSUM_HEAD) + 8
TAIL_SIZE = len(FILE_CHECKSUM_HEAD) + AFTER_FILE_HASH


class Header(NamedTuple):
    """First eight bytes of a file."""

    version: int
    flags: int

    @property
    def compression(self) -> Compression:
        """Compression of the body; the level of LZ4 is not recorded."""
        compression = compression_of(self.flags)
        assert compression is not None
        return compression


def read_header(stream: BinaryIO) -> Header:
    """Read and check the header.

    Parameters
    ----------
    stream : binary file
        At the beginning of the GODB data.

    Returns
    -------
    Header

    Raises
    ------
    EmptyFile, TruncatedHeader, WrongMagic, UnsupportedVersion, UnsupportedFlags

    Examples
    --------
    >>> import io
    >>> read_header(io.BytesIO(b"GODB\\x01\\x00\\x00\\x00"))
    Header(version=1, flags=0)
    """
    return parse_header(read_exactly(stream, HEADER_SIZE))


def parse_header(data: bytes) -> Header:
    """Return the header in the first bytes of a file."""
    if not data:
        raise EmptyFile("the file is empty", advice="a GODB file has at least 8 bytes of header")
    if data[:4] != MAGIC[: len(data)]:
        raise WrongMagic(
            f"the file begins with {data[:4]!r}, not with {MAGIC!r}", advice="give a GODB file"
        )
    if len(data) < HEADER_SIZE:
        raise TruncatedHeader(
            f"the file ends after {len(data)} bytes; the header has {HEADER_SIZE}",
            advice="the file is truncated: get it again",
        )
    version = int.from_bytes(data[4:6], "little")
    flags = int.from_bytes(data[6:8], "little")
    if version != VERSION:
        raise UnsupportedVersion(
            f"the file has format version {version}; this program reads version {VERSION}",
            advice="update godb-arrow, or have the file written as version 1",
        )
    if compression_of(flags) is None:
        raise UnsupportedFlags(
            f"the file has the flags 0x{flags:04x}, which this program does not know",
            advice="install the package that adds this compression, or have the file written with "
            "flags 0"
            if flags in EXTENSION_FLAGS
            else "update godb-arrow, or have the file written with flags 0",
        )
    return Header(version, flags)


def is_sealed(tail: bytes) -> bool:
    """Return whether a file ends with the checksums that godb_arrow writes.

    Parameters
    ----------
    tail : bytes
        Last `TAIL_SIZE` bytes of the file.

    Returns
    -------
    bool
    """
    return (
        len(tail) == TAIL_SIZE
        and tail.startswith(FILE_CHECKSUM_HEAD)
        and tail[-AFTER_FILE_HASH + 8 : -8] == CHECKSUM_HEAD
    )


def unusable_errors() -> tuple[type[Exception], ...]:
    """Return the errors of content that has no sense, such as hints of a damaged file."""
    return (
        KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError,
        RecursionError, OSError, pa.ArrowException, msgpack.UnpackException, GodbError,
    )  # fmt: skip


def split_map(raw: bytes) -> dict[bytes, bytes]:
    """Split a MessagePack map into its keys and values, each in its own bytes.

    Parameters
    ----------
    raw : bytes
        A map, or nil, which becomes an empty map.

    Returns
    -------
    dict of bytes to bytes
    """
    if raw == b"\xc0":
        return {}
    unpacker = msgpack.Unpacker(max_buffer_size=len(raw) + 1)
    unpacker.feed(raw)
    parts: dict[bytes, bytes] = {}
    for _ in range(unpacker.read_map_header()):
        start = unpacker.tell()
        unpacker.skip()
        middle = unpacker.tell()
        unpacker.skip()
        parts[raw[start:middle]] = raw[middle : unpacker.tell()]
    return parts


def unpack(data: bytes) -> Any:
    """Decode packed bytes that godb_arrow wrote."""
    return msgpack.unpackb(
        data, raw=False, unicode_errors="surrogateescape", strict_map_key=False, timestamp=0
    )


def pack_checksum(data: bytes) -> bytes:
    return b"\xcf" + xxhash.xxh3_64(data).digest()
