"""Documents of JSON text: NDJSON, an array, or one object after the other.

The text is read in blocks of whole documents, which are parsed on all cores. Two rules find the
ends of documents. In valid text a line feed between ``}`` and ``{`` is always between documents,
because an array would need a comma there. Without such a line feed, brackets are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeVar

import numpy as np

from godb_arrow import codec
from godb_arrow.codec.entries import CHUNK_BYTES
from godb_arrow.codec.reference.jsonread import Convert, JsonError
from godb_arrow.documents.block_runs import BlockRun, Turns
from godb_arrow.documents.encoding import Encoded, threads
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.rows import ROWS
from godb_arrow.errors import DocumentTooLarge, InvalidDocument
from godb_arrow.parallel import ordered_map

__all__ = ["JsonSource"]

_BLOCK_BYTES = CHUNK_BYTES * 5 // 4  # of text, which often become a chunk of MessagePack
_MAX_TEXT_BYTES = 1 << 30  # of one document
_MAX_LINE_FEEDS = 100  # tried as an end of a document, from the end of a block
_SPACE_BYTES = 64  # searched for a bracket before a line feed
_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_FORMER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # at the beginning of UTF-16 and UTF-32

_Result = TypeVar("_Result")


class _Block(NamedTuple):
    """Whole documents of JSON text.

    Attributes
    ----------
    number : int
        Number of the block in the source.
    text : bytes
        The documents. In an array, they are without its brackets and with the commas before them.
    in_array : bool
        Whether the documents are elements of an array.
    is_open : bool
        Whether the array should end with the block, and does not.
    """

    number: int
    text: bytes
    in_array: bool
    is_open: bool = False

    def parse(self, convert: Convert | None) -> codec.Documents:
        """Return the documents in MessagePack."""
        found = codec.read_json(
            self.text, in_array=self.in_array, is_first=not self.number, convert=convert
        )
        if self.is_open:
            raise JsonError("the array has no end", len(self.text))
        return found


class _Extent(NamedTuple):
    """Number of line feeds in a text, and of characters after the last one."""

    lines: int
    rest: int


class _Failed(NamedTuple):
    """Error in a block, and the text that tells where."""

    error: JsonError
    text: bytes


class JsonSource:
    """Documents of a stream of JSON text, which can be read once.

    Parameters
    ----------
    stream : binary file
        Stream of UTF-8, open at its beginning.
    name : str
        Name of the stream, for messages.
    convert : callable, optional
        Function that replaces forms of another dialect in a document.
    count : callable, optional
        Function that is called with a number of documents, as they are read.

    Examples
    --------
    >>> import io
    >>> list(JsonSource(io.BytesIO(b'{"n": 1}\\n{"n": 2}\\n'), "numbers"))
    [{'n': 1}, {'n': 2}]
    """

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        *,
        convert: Convert | None = None,
        count: Callable[[int], object] = lambda documents: None,
    ) -> None:
        self._stream = stream
        self._name = name
        self._convert = convert
        self._count = count
        self._lines = 0  # line feeds in the blocks that were read
        self._column = 0  # characters after the last of them

    def counted(self, count: Callable[[int], object]) -> JsonSource:
        """Return the same documents, and count them as they are read."""
        return JsonSource(self._stream, self._name, convert=self._convert, count=count)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for documents in self.documents():
            for index in range(len(documents)):
                yield codec.load(documents.document(index))

    def documents(self) -> Iterator[codec.Documents]:
        """Yield the documents in MessagePack, in runs.

        Raises
        ------
        InvalidDocument
            The text is no JSON, or a value cannot be stored. The error has line and column.
        """
        for documents in self._map(lambda block: block.parse(self._convert)):
            yield documents
            self._count(len(documents))

    def encode_documents(
        self,
        id_field: str,
        sequence: IdSequence,
        limit: int,
        prepare: Callable[[Encoded], Encoded] = lambda encoded: encoded,
    ) -> Iterator[Encoded]:
        """Encode the documents as entries, on all cores.

        Parameters
        ----------
        id_field : str
            Field with the ids.
        sequence : IdSequence
            Source of ids for documents that have none.
        limit : int
            Maximum bytes of a document with its id.
        prepare : callable, optional
            Function that is applied to each result, on the thread that encoded it.

        Yields
        ------
        Encoded

        Raises
        ------
        InvalidDocument
            See :meth:`documents`.
        DocumentTooLarge
        """
        turns = Turns()
        before = 0  # documents in the blocks that had their turn

        def encode(block: _Block) -> list[Encoded]:
            nonlocal before
            runs: deque[BlockRun] = deque()
            try:
                parts = block.parse(self._convert).split(ROWS)
                runs.extend(BlockRun(part, id_field) for part in parts)
                del parts
            finally:
                with turns.turn(block.number):
                    for run in runs:
                        run.take_ids(sequence, before)
                        before += run.count
                        del run
            # Each run is released as soon as it is encoded, before its entries are compressed.
            return [prepare(runs.popleft().encode(limit)) for _ in range(len(runs))]

        for encoded in self._map(encode):
            for run in encoded:
                yield run
                self._count(len(run.ids))

    def _map(self, function: Callable[[_Block], _Result]) -> Iterator[_Result]:
        """Apply a function to the blocks on all cores, and raise its errors with their lines."""

        def work(block: _Block) -> tuple[_Result, _Extent] | _Failed:
            try:
                return function(block), _extent(block.text)
            except JsonError as error:
                return _Failed(error, block.text)

        # The threads end before the caller closes the stream that they read.
        with closing(ordered_map(work, self._blocks(), threads())) as results:
            for found in results:
                if isinstance(found, _Failed):
                    self._raise(*found)
                result, extent = found
                del found
                self._advance(extent)
                yield result

    def _advance(self, extent: _Extent) -> None:
        lines, rest = extent
        self._lines += lines
        self._column = rest if lines else self._column + rest

    def _raise(self, error: JsonError, text: bytes) -> NoReturn:
        before = text[: error.offset]
        if not text[error.offset :].strip(_SPACE):  # the text ends too early
            before = before.rstrip(_SPACE)
        self._advance(_extent(before))
        line, column = self._lines + 1, self._column + 1
        if error.error is not None:
            error.error.message = f"line {line} of {self._name}: {error.error.message}"
            raise error.error
        raise InvalidDocument(
            f"line {line}, column {column} of {self._name}: {error.message}",
            advice="give JSON objects, each on its own line or in one array",
        ) from error

    def _blocks(self) -> Iterator[_Block]:
        """Yield the text in blocks of whole documents."""
        text = self._stream.read(_BLOCK_BYTES)
        is_last = len(text) < _BLOCK_BYTES
        if text.startswith(_FORMER_MARKS):
            raise InvalidDocument(
                f"line 1 of {self._name} is UTF-16 or UTF-32", advice="convert the text to UTF-8"
            )
        text = text.removeprefix(_BOM)
        start = len(text) - len(text.lstrip(_SPACE))
        in_array = text[start : start + 1] == b"["
        cutter = _Cutter(in_array=in_array)
        if in_array:
            text = text[:start] + b" " + text[start + 1 :]
        number = size = 0
        waiting: list[bytes] = []
        while True:
            end = -1 if is_last else cutter.cut(text)
            if end >= 0:
                yield _Block(number, b"".join([*waiting, memoryview(text)[:end]]), in_array)
                number, waiting, size = number + 1, [], 0
                text = text[end:]
            waiting.append(text)
            size += len(text)
            if size > _MAX_TEXT_BYTES:
                raise DocumentTooLarge(
                    f"a document of {self._name} has more than {_MAX_TEXT_BYTES} bytes of JSON",
                    advice="divide the document",
                )
            if is_last:
                break
            text = self._stream.read(_BLOCK_BYTES)
            is_last = len(text) < _BLOCK_BYTES
        rest = b"".join(waiting)
        if in_array:
            closed = rest.rstrip(_SPACE)
            is_open = not closed.endswith(b"]")
            yield _Block(number, rest if is_open else closed[:-1], in_array, is_open)
        elif rest:
            yield _Block(number, rest, in_array)


def _extent(text: bytes) -> _Extent:
    return _Extent(codec.count_line_feeds(text), _characters(text[text.rfind(b"\n") + 1 :]))


def _characters(text: bytes) -> int:
    """Return the number of characters of UTF-8."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) & 0xC0 != 0x80))


class _Cutter:
    """Finder of an end of a document in text that arrives in blocks.

    Parameters
    ----------
    in_array : bool
        Whether the text follows the first bracket of an array.
    """

    def __init__(self, *, in_array: bool) -> None:
        self._level = int(in_array)
        self._scanner: codec.JsonScanner | None = None
        self._skipped: list[bytes] = []  # text after the last end, which no scanner has read
        if in_array:
            self._scanner = codec.JsonScanner()
            self._scanner.scan(b"[", self._level)

    def cut(self, text: bytes) -> int:
        """Return the end of a document in a block, as late as possible, or -1."""
        if self._scanner is None:
            end = _line_end(text)
            if end >= 0:
                self._skipped = [text[end:]]
                return end
            self._scanner = codec.JsonScanner()
            for earlier in self._skipped:
                self._scanner.scan(earlier, self._level)
            self._skipped = []
        return self._scanner.scan(text, self._level)


def _line_end(text: bytes) -> int:
    """Return the end of the last line that ends with a document, or -1."""
    at = len(text)
    for _ in range(_MAX_LINE_FEEDS):
        at = text.rfind(b"\n{", 0, at)
        if at < 0:
            break
        if text[max(0, at - _SPACE_BYTES) : at].rstrip(_SPACE).endswith(b"}"):
            return at + 1
    return -1
