"""The GODB file: header, body and reader, on any binary stream; the writer is `file_writer`.

=========  ==================================================================================
bytes      what they are
=========  ==================================================================================
0 to 3     ``GODB``
4, 5       version 1, little-endian
6, 7       flags, little-endian: how the body is compressed, with 0 as below
8 to end   one raw LZ4 block: no size, no frame, no checksum
=========  ==================================================================================

With flags 1 the body is zstd frames and, behind the last one, bytes as they are; with flags 2 all
of it is as it is: see :mod:`godb_arrow.codec.frames`. go-db reads flags 0 only; other flags are an
error.

The body is one MessagePack map: ``collections`` (name: {document id: document}), and
perhaps ``indexes``, ``metadata`` and keys that we do not know, in any order.

What we add, where go-db looks over it:

- ``metadata`` comes first and has a key ``godb_arrow``: for each collection the count of its
  documents, the next generated id, and its Arrow schema; with a checksum of their own, since
  they are used before the end of the file is seen.
- ``file_checksum`` and ``checksum`` come last. ``checksum`` is the XXH3-64 of every
  decompressed byte before its own key. ``file_checksum`` is the XXH3-64 of every byte of the
  file before its own value: LZ4 can say the same thing in several ways, so that only a
  checksum of the compressed bytes notices every flipped bit. Both are stored as literals at the
  very end of the LZ4 block, so that a look at the last 41 bytes tells whether a file is as we
  wrote it.
- A body never decodes to more than ten times its size, which is what go-db allocates.
- Where there are many documents, the block is cut into pieces that refer to nothing before them
  and begin with a document; ``godb_arrow_pieces``, before ``file_checksum`` and stored as literals
  too, says where they are, and ``godb_arrow_sizes`` before it how many bytes each document has: see
  :mod:`godb_arrow.pieces`.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import msgpack
import pyarrow as pa
import xxhash

from godb_arrow import codec
from godb_arrow.body import Body, read_exactly
from godb_arrow.codec.compression import Compression, check_compression, compression_of
from godb_arrow.errors import (
    ChecksumMismatch,
    CorruptFile,
    DocumentTooLarge,
    EmptyFile,
    GodbError,
    TruncatedHeader,
    UnsupportedFlags,
    UnsupportedVersion,
    WrongMagic,
)
from godb_arrow.options import CompressionName, ReadOptions
from godb_arrow.pieces import FOOT_SIZE, PIECES_KEY, SIZES_KEY, PieceIndex

__all__ = [
    "HEADER_SIZE",
    "TAIL_SIZE",
    "CollectionHint",
    "CollectionSection",
    "GodbReader",
    "Header",
    "ValueSection",
    "is_sealed",
    "read_header",
    "read_hints",
    "read_piece_index",
    "split_map",
]

logger = logging.getLogger(__name__)

MAGIC = b"GODB"
VERSION = 1
HEADER_SIZE = 8
HINTS_KEY = "godb_arrow"

_LEAST_GROWTH = 256 << 10

PACKED_HINTS_KEY = codec.pack(HINTS_KEY)
PACKED_COLLECTIONS = codec.pack("collections")
PACKED_CHECKSUM = codec.pack("checksum")
FILE_CHECKSUM_HEAD = codec.pack("file_checksum") + b"\xcf"
CHECKSUM_HEAD = codec.pack("checksum") + b"\xcf"
AFTER_FILE_HASH = 8 + len(CHECKSUM_HEAD) + 8
TAIL_SIZE = len(FILE_CHECKSUM_HEAD) + AFTER_FILE_HASH


class Header(NamedTuple):
    """The first eight bytes of a file."""

    version: int
    flags: int

    @property
    def compression(self) -> Compression:
        """How the body is compressed; of LZ4, how hard the writer tried is not known."""
        found = compression_of(self.flags)
        assert found is not None
        return found


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
    return _parse_header(read_exactly(stream, HEADER_SIZE))


def _parse_header(data: bytes) -> Header:
    if not data:
        raise EmptyFile("the file is empty", advice="a GODB file has at least 8 bytes of header")
    if data[:4] != MAGIC[: len(data)]:
        raise WrongMagic(
            f"the file begins with {data[:4]!r}, not with {MAGIC!r}", advice="give a GODB file"
        )
    if len(data) < HEADER_SIZE:
        raise TruncatedHeader(
            f"the file ends after {len(data)} bytes; the header has {HEADER_SIZE}",
            advice="the file was cut off: get it again",
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
            advice="update godb-arrow, or have the file written with flags 0",
        )
    return Header(version, flags)


@dataclass(frozen=True, slots=True)
class CollectionHint:
    """What ``metadata`` records of a collection.

    Attributes
    ----------
    count : int
        Documents.
    next_id : int or None
        The number that the next generated document id gets.
    schema : pyarrow.Schema or None
        The schema of its record batches.
    size : int or None
        Bytes of its entries, decompressed.
    record : int
        The last record of the journal that it holds.
    indexes : tuple of str
        Fields that the engine keeps indexes on.
    plain : bool
        Whether the file has nothing but this collection and its indexes.
    version : int
        How often the collection was saved: of two files of it, the one with more counts.
    compression : str
        How its files are to be written.
    """

    count: int
    next_id: int | None = None
    schema: pa.Schema | None = None
    size: int | None = None
    record: int = 0
    indexes: tuple[str, ...] = ()
    plain: bool = False
    version: int = 0
    compression: CompressionName = "lz4"


def is_sealed(tail: bytes) -> bool:
    """Whether the last bytes of a file say that it is as godb_arrow wrote it.

    Parameters
    ----------
    tail : bytes
        The last `TAIL_SIZE` bytes of the file.

    Returns
    -------
    bool
    """
    return (
        len(tail) == TAIL_SIZE
        and tail.startswith(FILE_CHECKSUM_HEAD)
        and tail[-AFTER_FILE_HASH + 8 : -8] == CHECKSUM_HEAD
    )


def read_piece_index(read_tail: Callable[[int], bytes]) -> PieceIndex | None:
    """Find the index of pieces at the end of a file that is sealed.

    Parameters
    ----------
    read_tail : callable
        Gives so many bytes of the file's end.

    Returns
    -------
    PieceIndex or None
        None when there is none, or none that makes sense: it is never needed.
    """
    tail = read_tail(_INDEX_GUESS)
    if not is_sealed(tail[-TAIL_SIZE:]):
        return None
    size = PieceIndex.size_in(tail[: len(tail) - TAIL_SIZE][-FOOT_SIZE:]) + TAIL_SIZE
    if size > len(tail):
        tail = read_tail(size)
    return PieceIndex.unpack(tail[len(tail) - size : len(tail) - TAIL_SIZE], TAIL_SIZE)


_INDEX_GUESS = 32 << 10


def read_hints(metadata: bytes) -> dict[str, CollectionHint]:
    """Find the collections' hints in the MessagePack of ``metadata``.

    Parameters
    ----------
    metadata : bytes
        The value of the top-level key.

    Returns
    -------
    dict of str to CollectionHint
        Empty when there are none, or none that make sense: a hint is never needed.
    """
    try:
        ours = split_map(split_map(metadata)[PACKED_HINTS_KEY])
        packed = ours[PACKED_COLLECTIONS]
        if ours[PACKED_CHECKSUM] != pack_checksum(packed):
            raise ValueError("the hints differ from those that were written")
        return {name: _read_hint(hint) for name, hint in _unpack(packed).items()}
    except _UNUSABLE as error:
        logger.debug("no usable hints in metadata: %r", error)
        return {}


_UNUSABLE = (
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
    OSError,
    pa.ArrowException,
    msgpack.UnpackException,
    GodbError,
)


def split_map(raw: bytes) -> dict[bytes, bytes]:
    """Split a MessagePack map into its keys and values, each in its own bytes.

    Parameters
    ----------
    raw : bytes
        A map, or nil, which gives an empty one.

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


def _read_hint(hint: Any) -> CollectionHint:
    next_id = hint.get("next_id")
    schema = None
    if hint.get("schema") is not None:
        schema = pa.ipc.read_schema(pa.py_buffer(hint["schema"]))
        codec.plan_columns(schema)
        _ = schema.pandas_metadata  # raises if it is no JSON
    size = hint.get("size")
    return CollectionHint(
        count=int(hint["count"]),
        next_id=None if next_id is None else int(next_id),
        schema=schema,
        size=None if size is None else int(size),
        record=int(hint.get("record", 0)),
        indexes=tuple(str(field) for field in hint.get("indexes", ())),
        plain=bool(hint.get("plain", False)),
        version=int(hint.get("version", 0)),
        compression=check_compression(hint.get("compression", "lz4")).name,
    )


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(
        data, raw=False, unicode_errors="surrogateescape", strict_map_key=False, timestamp=0
    )


def pack_checksum(data: bytes) -> bytes:
    return b"\xcf" + xxhash.xxh3_64(data).digest()


@dataclass(slots=True)
class CollectionSection:
    """One collection of a file, to be read now or passed over.

    Attributes
    ----------
    name : str
        The collection.
    count : int
        How many documents the file says it has.
    siblings : int
        How many collections the file has, with this one.
    """

    name: str
    count: int
    siblings: int
    _body: Body
    _left: int = field(init=False)

    def __post_init__(self) -> None:
        self._left = self.count

    def entries(
        self, options: ReadOptions, fields: tuple[str, ...] = ()
    ) -> Iterator[codec.Entries]:
        """Read the documents in runs, bounded by the options' rows and bytes.

        Parameters
        ----------
        options : ReadOptions
            ``batch_size``, ``batch_bytes`` and ``max_document_bytes`` count here.
        fields : tuple of str
            Fields that are wanted first: where their values are is noted, as far as that is cheap.

        Yields
        ------
        Entries

        Raises
        ------
        CorruptFile
            The bytes are damaged, or end too early.
        DocumentTooLarge
            A document has more bytes than the options allow.
        """
        while self._left:
            yield self._run(options, fields)

    def _run(self, options: ReadOptions, fields: tuple[str, ...]) -> codec.Entries:
        body = self._body
        body.drop()
        rows = min(options.batch_size, self._left)
        bounds = array("q", [0])
        places = b""
        while True:
            end = bounds[-1]
            found = codec.scan_entries(
                body.data, end, rows - len(bounds) // 2, options.batch_bytes - end, body.base,
                fields,
            )  # fmt: skip
            places += found.places
            bounds.extend(found.bounds[1:])
            end = bounds[-1]
            count = len(bounds) // 2
            if count == rows or end >= options.batch_bytes:
                break
            waiting = len(body.data) - end
            if waiting > options.max_document_bytes:
                if count:
                    break
                raise DocumentTooLarge(
                    f"the document at byte {body.base + end} of the decompressed body has more "
                    f"than {options.max_document_bytes} bytes",
                    advice="raise max_document_bytes if you trust the file",
                )
            if not body.grow(self._growth(end, count, rows, waiting, options)):
                if count:
                    break
                raise CorruptFile(
                    f"the body ends inside collection {self.name!r}, "
                    f"{self._left} of {self.count} documents early",
                    offset=body.base + len(body.data),
                )
        body.position = bounds[-1]
        self._left -= len(bounds) // 2
        return codec.Entries(body.data, bounds, body.base, fields if places else (), places)

    @staticmethod
    def _growth(end: int, count: int, rows: int, waiting: int, options: ReadOptions) -> int:
        """How much more to read: about what the run lacks, or double for a large document."""
        if not count:
            return max(_LEAST_GROWTH, waiting)
        wanted = min(options.batch_bytes - end, (end // count + 1) * (rows - count)) - waiting
        return max(_LEAST_GROWTH, waiting, min(wanted, options.batch_bytes))

    def skip(self) -> None:
        """Pass over the documents that were not read."""
        self._body.skip_values(2 * self._left, f"collection {self.name!r}")
        self._left = 0


@dataclass(slots=True)
class ValueSection:
    """Another top-level key of a file, with a value that go-db or somebody else put there."""

    key: str
    _body: Body
    _done: bool = False

    def read(self) -> bytes:
        """The value's MessagePack."""
        kept: list[bytes] = []
        self._body.skip_values(1, f"the top-level key {self.key!r}", kept)
        self._done = True
        return b"".join(kept)

    def skip(self) -> None:
        """Pass over the value, if it was not read."""
        if not self._done:
            self._body.skip_values(1, f"the top-level key {self.key!r}")
            self._done = True


class GodbReader:
    """Read a GODB file from its beginning to its end, once.

    Parameters
    ----------
    stream : binary file
        At the beginning of the GODB data.
    size : int, optional
        Bytes of the file, where that is known: lengths that cannot be are refused sooner.

    Attributes
    ----------
    header : Header
        The first eight bytes.
    checksum : bool
        At the end: whether the file had a checksum; it was right, then.
    trailing : int
        At the end: bytes behind the MessagePack map, which go-db looks over.

    Examples
    --------
    >>> import io
    >>> from godb_arrow.codec.entries import Chunk
    >>> from godb_arrow.file_writer import CollectionData, write_file
    >>> file = io.BytesIO()
    >>> write_file(file, [CollectionData("users", 1, [Chunk(b"\\xa11\\x80", 1)])])
    >>> reader = GodbReader(io.BytesIO(file.getvalue()))
    >>> [section.name for section in reader.sections() if isinstance(section, CollectionSection)]
    ['users']
    """

    def __init__(self, stream: BinaryIO, size: int | None = None) -> None:
        self._body = Body(stream, size, AFTER_FILE_HASH)
        self.header = _parse_header(self._body.fetch(HEADER_SIZE))
        self._body.begin_block(self.header.compression)
        self.checksum = False
        self.trailing = 0

    @property
    def offset(self) -> int:
        """How many bytes of the decompressed body were gone through."""
        return self._body.offset

    def sections(self) -> Iterator[CollectionSection | ValueSection]:
        """Go through the file's collections and other top-level keys, in the file's order.

        What the caller does not read of one section is passed over before the next. When the
        iteration ends by itself, the whole file was read and its checksums were right.

        Yields
        ------
        CollectionSection or ValueSection

        Raises
        ------
        CorruptFile
            The body is damaged.
        """
        body = self._body
        seen: set[str] = set()
        file_checksum: int | None = None
        for _ in range(body.read_map_head("the top level of the body")):
            body.prefetch(64)
            at = body.offset
            key = body.read_string("a top-level key")
            if key in seen or self.checksum:
                problem = f"the top-level key {key!r} occurs twice or after the checksum"
                raise CorruptFile(problem, offset=at)
            if file_checksum is not None and key != "checksum":
                raise CorruptFile("file_checksum is not followed by checksum", offset=at)
            seen.add(key)
            if key == "collections":
                yield from self._collections()
            elif key == "file_checksum":
                file_checksum = body.read_checksum("file_checksum")
            elif key == "checksum":
                self._check_content(at)
            elif key in (PIECES_KEY, SIZES_KEY):
                body.skip_values(1, "the index of pieces")
            else:
                section = ValueSection(key, body)
                yield section
                section.skip()
        if file_checksum is not None and not self.checksum:
            raise CorruptFile("file_checksum is not followed by checksum", offset=body.offset)
        at = body.offset
        self.trailing = body.drain()
        if self.checksum and self.trailing:
            raise CorruptFile(f"{self.trailing} bytes follow the checksum", offset=at)
        digest, tail = body.file_digest()
        if not self.checksum and tail[8:-8] == CHECKSUM_HEAD:
            raise CorruptFile("the body ends before the checksums that the file has", offset=at)
        if file_checksum is not None and (
            digest != file_checksum or tail[:8] != file_checksum.to_bytes(8, "big")
        ):
            raise ChecksumMismatch(
                "the bytes differ from those that were written: the file's checksum is another one",
                offset=0,
                where="file",
            )

    def _collections(self) -> Iterator[CollectionSection]:
        body = self._body
        names: set[str] = set()
        siblings = body.read_map_head("the value of 'collections'")
        for _ in range(siblings):
            at = body.offset
            name = body.read_string("a collection's name")
            if name in names:
                raise CorruptFile(f"the collection {name!r} occurs twice", offset=at)
            names.add(name)
            count = body.read_map_head(f"collection {name!r}")
            section = CollectionSection(name, count, siblings, body)
            yield section
            section.skip()

    def _check_content(self, key_offset: int) -> None:
        body = self._body
        after_key = body.position
        body.position = key_offset - body.base
        digest = body.content_digest()
        body.position = after_key
        if body.read_checksum("checksum") != digest:
            raise ChecksumMismatch(
                "the bytes differ from those that were written: the checksum is another one",
                offset=key_offset,
            )
        self.checksum = True
