"""Reader of GODB files: header, sections, entries, checksums."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

from godb_arrow import codec
from godb_arrow.codec.compression import BodyDecoder, Compression
from godb_arrow.codec.entries import UnscannedEntries
from godb_arrow.codec.runs import Run
from godb_arrow.errors import (
    ChecksumMismatch,
    CorruptFile,
    DocumentTooLarge,
)
from godb_arrow.file.body import Body
from godb_arrow.file.format import AFTER_FILE_HASH, CHECKSUM_HEAD, HEADER_SIZE, parse_header
from godb_arrow.file.piece_index import INDEXES_KEY, PIECES_KEY, SIZES_KEY
from godb_arrow.options import ReadOptions

__all__ = ["CollectionSection", "GodbReader", "ValueSection"]


logger = logging.getLogger(__name__)

_MIN_GROWTH_BYTES = 256 << 10
_EXTRA_BYTES = 64 << 10  # beyond a run, so that its last document is whole


class _Bounds:
    """Bounds of documents at the beginning of a window, and the places of some fields."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        self._fields = fields
        self._bounds = array("q", [0])
        self._places = b""

    @property
    def count(self) -> int:
        return len(self._bounds) // 2

    @property
    def end(self) -> int:
        return self._bounds[-1]

    def scan(self, body: Body, rows: int, max_bytes: int) -> None:
        """Find more documents in the window."""
        found = codec.scan_entries(body.data, self.end, rows, max_bytes, body.base, self._fields)
        self._places += found.places
        if self.count:
            self._bounds.extend(found.bounds[1:])
        else:
            self._bounds = found.bounds

    def entries(self, data: bytes, base: int) -> codec.Entries:
        """Return the documents, given the bytes of the window."""
        fields = self._fields if self._places else ()
        return codec.Entries(data, self._bounds, base, fields, self._places)


class _Extent:
    """Number of documents at the beginning of a window, and their end."""

    def __init__(self) -> None:
        self.count = self.end = 0

    def scan(self, body: Body, rows: int, max_bytes: int) -> None:
        """Find more documents in the window."""
        more, self.end = codec.scan_extent(body.data, self.end, rows, max_bytes, body.base)
        self.count += more


def _scan(base: int, data: bytes | memoryview, count: int) -> codec.Entries:
    return codec.scan_entries(data, 0, count, len(data) + 1, base)


@dataclass(slots=True)
class CollectionSection:
    """Collection of a file, which the caller reads or skips.

    Attributes
    ----------
    name : str
        Name of the collection.
    count : int
        Number of documents, as the file declares it.
    siblings : int
        Number of collections in the file.
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
            Options, of which ``batch_size``, ``batch_bytes`` and ``max_document_bytes`` apply.
        fields : tuple of str
            Fields that are decoded first; the positions of their values are recorded where that
            is cheap.

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
            found = _Bounds(fields)
            self._next(options, found)
            data = codec.copied(self._body.data[: found.end])
            yield found.entries(data, self._body.base)

    def runs(
        self, options: ReadOptions, fields: tuple[str, ...] = (), *, unscanned: bool = False
    ) -> Iterator[Run]:
        """Read the documents in runs, as :meth:`entries` does, which borrow their memory.

        Parameters
        ----------
        options, fields
            See :meth:`entries`.
        unscanned : bool
            Whether the caller decodes the documents while it locates them, default False. They
            are counted here, without their bounds.

        Yields
        ------
        Run

        Raises
        ------
        CorruptFile, DocumentTooLarge
        """
        row = 0
        while self._left:
            found = _Extent() if unscanned else _Bounds(fields)
            self._next(options, found)
            base, (view, release) = self._body.base, self._body.borrow()
            if isinstance(found, _Bounds):
                borrowed: Any = view
                yield Run.borrowing(found.entries(borrowed, base), release, row)
            else:
                scan = partial(_scan, base)
                yield Run.of_unscanned(UnscannedEntries(view, found.count, scan, release), row)
            row += found.count

    def _next(self, options: ReadOptions, found: _Bounds | _Extent) -> None:
        """Find the next documents in the window, which begins with them, and move after them."""
        body = self._body
        body.drop()
        rows = min(options.batch_size, self._left)
        while True:
            found.scan(body, rows - found.count, options.batch_bytes - found.end)
            count, end = found.count, found.end
            if count == rows or end >= options.batch_bytes:
                break
            waiting = body.available - end
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
                    offset=body.end,
                )
        self._left -= count
        body.position = end

    @staticmethod
    def _growth(end: int, count: int, rows: int, waiting: int, options: ReadOptions) -> int:
        """Return how many bytes to read next: a run, or twice the size of a large document."""
        if not count:
            return max(_MIN_GROWTH_BYTES, waiting)
        wanted = min(options.batch_bytes - end, (end // count + 1) * (rows - count)) - waiting
        return max(_MIN_GROWTH_BYTES, waiting, min(wanted, options.batch_bytes) + _EXTRA_BYTES)

    def follow(self, decoded: Iterable[memoryview]) -> None:
        """Skip all documents, given the bytes of their pieces, which were decoded elsewhere."""
        for data in decoded:
            self._body.follow(data)
        self._left = 0

    def skip(self) -> None:
        """Skip the documents that are still unread."""
        self._body.skip_values(2 * self._left, f"collection {self.name!r}")
        self._left = 0


@dataclass(slots=True)
class ValueSection:
    """Another top-level key of a file, with a value from go-db or another program."""

    key: str
    _body: Body
    _done: bool = False

    def read(self) -> bytes:
        """Return the value's MessagePack."""
        kept: list[bytes] = []
        self._body.skip_values(1, f"the top-level key {self.key!r}", kept)
        self._done = True
        return b"".join(kept)

    def skip(self) -> None:
        """Skip the value, unless it was read."""
        if not self._done:
            self._body.skip_values(1, f"the top-level key {self.key!r}")
            self._done = True


class GodbReader:
    """Reader that goes through a GODB file once.

    Parameters
    ----------
    stream : binary file
        Stream at the beginning of the GODB data.
    size : int, optional
        Size of the file in bytes, if it is known. Impossible lengths are then refused sooner.
    decoder : callable, optional
        Function that returns the decoder of the body, given its compression.

    Attributes
    ----------
    header : Header
        First eight bytes.
    checksum : bool
        Whether the file has a checksum, which is then correct. Set at the end.
    trailing : int
        Number of bytes after the MessagePack map, which go-db ignores. Set at the end.

    Examples
    --------
    >>> import io
    >>> from godb_arrow.codec.entries import Chunk
    >>> from godb_arrow.file.writer import CollectionData, write_file
    >>> file = io.BytesIO()
    >>> write_file(file, [CollectionData("users", 1, [Chunk(b"\\xa11\\x80", 1)])])
    >>> reader = GodbReader(io.BytesIO(file.getvalue()))
    >>> [section.name for section in reader.sections() if isinstance(section, CollectionSection)]
    ['users']
    """

    def __init__(
        self,
        stream: BinaryIO,
        size: int | None = None,
        decoder: Callable[[Compression], BodyDecoder] | None = None,
    ) -> None:
        self._body = Body(stream, size, AFTER_FILE_HASH)
        self.header = parse_header(self._body.fetch(HEADER_SIZE))
        compression = self.header.compression
        self._body.begin_block(compression, decoder and decoder(compression))
        self.checksum = False
        self.ending: set[str] = set()  # keys of the records after the documents
        self.trailing = 0

    @property
    def offset(self) -> int:
        """Number of bytes read from the decompressed body."""
        return self._body.offset

    def sections(self) -> Iterator[CollectionSection | ValueSection]:
        """Yield the file's collections and other top-level keys, in the file's order.

        Unread bytes of a section are skipped before the next one. When the iteration is exhausted,
        the whole file was read and its checksums are correct.

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
            elif key in (INDEXES_KEY, PIECES_KEY, SIZES_KEY):
                self.ending.add(key)
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
                "the file does not match its checksum: it changed after it was written",
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
                "the body does not match its checksum: it changed after it was written",
                offset=key_offset,
            )
        self.checksum = True
