"""Reading of JSON text as documents in MessagePack, and writing of documents as JSON text.

The text is UTF-8 with the values of :mod:`godb_arrow.codec.jsontext`. Documents follow each other
with or without white space, or are the elements of one array. The grammar is the one of Python's
:mod:`json`: NaN and infinities are numbers, and the last of repeated keys counts.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable
from typing import Any

import msgpack

from godb_arrow.codec.entries import Documents, Entries
from godb_arrow.codec.jsontext import from_reserved, to_json_text
from godb_arrow.codec.reference.dicts import load_pairs
from godb_arrow.codec.values import pack
from godb_arrow.errors import CorruptFile, DepthExceeded, GodbError
from godb_arrow.options import MAX_DEPTH
from godb_arrow.schema import ID_FIELD

__all__ = [
    "JsonError",
    "JsonScanner",
    "count_line_feeds",
    "json_lines",
    "may_have_controls",
    "missing_comma",
    "read_document",
    "read_json",
]

_BOM = b"\xef\xbb\xbf"
_CONTROL_STARTS = frozenset(b"\x7f\xc2\xd8\xe2")
_NOT_SPACE = re.compile(rb"[^ \t\r\n]")
_BRACKETS = re.compile(rb'["\\{}\[\]]')
_WINDOW_BYTES = 1 << 16  # decoded at first, since most documents are smaller

Convert = Callable[[Any], Any]
"""Function that replaces forms of another dialect in a decoded document."""


class JsonError(ValueError):
    """Fault in JSON text.

    Parameters
    ----------
    message : str
        What is wrong.
    offset : int
        Offset of the fault in the bytes of the text.
    error : GodbError, optional
        Error of a document that is valid JSON and cannot be stored.
    """

    def __init__(self, message: str, offset: int, error: GodbError | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.error = error


def read_json(
    text: bytes, *, in_array: bool = False, is_first: bool = True, convert: Convert | None = None
) -> Documents:
    """Read the documents of JSON text.

    Parameters
    ----------
    text : bytes
        Whole documents.
    in_array : bool
        Whether the documents are elements of an array, default False. The text has neither of its
        brackets.
    is_first : bool
        Whether the text follows the array's first bracket, default True.
    convert : callable, optional
        Function that replaces forms of another dialect, in documents with keys that begin with $.

    Returns
    -------
    Documents

    Raises
    ------
    JsonError
        The text is invalid, or a document cannot be stored.
    """
    parts: list[bytes] = []
    bounds = array("q", [0])
    at = _skip_space(text, 0)
    while at < len(text):
        if in_array and not is_first:
            if text[at : at + 1] != b",":
                raise missing_comma(text, at)
            at = _skip_space(text, at + 1)
        packed, at = read_document(text, at, convert)
        parts.append(packed)
        bounds.append(bounds[-1] + len(packed))
        is_first = False
        at = _skip_space(text, at)
    return Documents(b"".join(parts), bounds)


def _skip_space(text: bytes, at: int) -> int:
    found = _NOT_SPACE.search(text, at)
    return len(text) if found is None else found.start()


def missing_comma(text: bytes, at: int) -> JsonError:
    """Return the error for text between two elements of an array."""
    words = "Extra data" if text[at : at + 1] == b"]" else "Expecting ',' delimiter"
    return JsonError(words, at)


def read_document(text: bytes, at: int, convert: Convert | None = None) -> tuple[bytes, int]:
    """Read one document.

    Parameters
    ----------
    text : bytes
        JSON text.
    at : int
        Offset of the document.
    convert : callable, optional
        See :func:`read_json`.

    Returns
    -------
    packed : bytes
        The document in MessagePack.
    end : int
        Offset after the document.

    Raises
    ------
    JsonError
        The text is invalid, or the document cannot be stored.
    """
    start = at
    if text.startswith(_BOM, at):
        at = _skip_space(text, at + len(_BOM))
    try:
        value, end = _decode(text, at, min(len(text), at + _WINDOW_BYTES), convert)
    except JsonError:
        value, end = _decode(text, at, len(text), convert)
    if convert is not None and b"$" in text[at:end]:
        value = _converted(value, convert, start)
    if not isinstance(value, dict):
        raise JsonError("not a JSON object", at)
    try:
        return pack(value), end
    except GodbError as error:
        raise JsonError(str(error.args[0]), at, error) from error


def _converted(value: Any, convert: Convert, at: int) -> Any:
    try:
        return convert(value)
    except GodbError as error:
        raise JsonError(str(error.args[0]), at, error) from error


def _decode(text: bytes, at: int, end: int, convert: Convert | None) -> tuple[Any, int]:
    fault = None
    try:
        decoded = text[at:end].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        # The document may end before the fault.
        fault = JsonError(f"not UTF-8: {error.reason}", at + error.start)
        decoded = text[at : fault.offset].decode("utf-8", "surrogatepass")
    decoder = json.JSONDecoder(object_hook=from_reserved if convert is None else None)
    try:
        value, stop = decoder.raw_decode(decoded)
    except json.JSONDecodeError as error:
        raise fault or JsonError(error.msg, at + _size(decoded[: error.pos])) from error
    except RecursionError as error:
        deep = DepthExceeded(
            f"the document nests deeper than {MAX_DEPTH} levels", advice="reduce the nesting"
        )
        raise JsonError(deep.message, at, deep) from error
    except ValueError as error:  # an integer of thousands of digits
        raise JsonError(str(error), at) from error
    return value, at + _size(decoded[:stop])


def _size(decoded: str) -> int:
    return len(decoded.encode("utf-8", "surrogatepass"))


class JsonScanner:
    """Finder of the ends of documents in JSON text that arrives in blocks.

    Only brackets and quotes are read, so the ends are right up to the first fault of the text.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._skipped = -1  # offset of an escaped character, in the next block at least

    def scan(self, block: bytes, level: int) -> int:
        """Return the end of the last document with `level` open brackets around it, or -1."""
        last = -1
        for found in _BRACKETS.finditer(block):
            at = found.start()
            character = found.group()
            if at == self._skipped:
                continue
            if character == b'"':
                self._in_string = not self._in_string
            elif character == b"\\":
                self._skipped = at + 1 if self._in_string else -1
            elif self._in_string:
                continue
            elif character in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == level and character == b"}":
                    last = at + 1
        self._skipped = self._skipped - len(block) if self._skipped >= len(block) else -1
        return last


def count_line_feeds(text: bytes) -> int:
    """Return the number of line feeds in a text."""
    return text.count(b"\n")


def may_have_controls(text: bytes) -> bool:
    """Return whether UTF-8 may have DEL or a control character above ASCII.

    It is a quick test: other characters begin with the same bytes.
    """
    return not _CONTROL_STARTS.isdisjoint(text)


def json_lines(found: Entries | Documents, *, plain: bool = False) -> bytes:
    """Write documents as NDJSON.

    Parameters
    ----------
    found : Entries or Documents
        Documents to write. Entries are written with their ids, which come first where the document
        does not repeat its id.
    plain : bool
        See :func:`godb_arrow.codec.jsontext.to_json_text`.

    Returns
    -------
    bytes

    Raises
    ------
    CorruptFile
        A document is damaged.
    """
    if isinstance(found, Entries):
        documents = (_pairs_with_id(found, index) for index in range(len(found)))
    else:
        documents = (load_pairs(found.document(index)) for index in range(len(found)))
    return b"".join(to_json_text(pairs, plain=plain).encode() + b"\n" for pairs in documents)


def _pairs_with_id(entries: Entries, index: int) -> tuple[tuple[Any, Any], ...]:
    identity = entries.id(index)
    try:
        pairs: tuple[tuple[Any, Any], ...] = load_pairs(entries.document(index))
    except (ValueError, msgpack.UnpackException, OverflowError) as error:
        raise CorruptFile(
            f"document {identity!r} is not valid MessagePack: {error}",
            offset=entries.base + entries.bounds[2 * index + 1],
        ) from error
    own = next((value for key, value in pairs if key == ID_FIELD), None)
    if own == identity:
        return pairs
    return ((ID_FIELD, identity), *(pair for pair in pairs if pair[0] != ID_FIELD))
