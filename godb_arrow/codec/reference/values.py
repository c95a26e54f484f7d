"""Values of a field in documents, for statistics and indexes: the readable reference."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np

from godb_arrow.codec.entries import Entries
from godb_arrow.codec.field_values import FieldValues, ValueKind
from godb_arrow.codec.jsontext import is_utf8
from godb_arrow.codec.reference.documents import Pairs, document_pairs, field_name
from godb_arrow.schema import ID_FIELD

__all__ = ["field_values"]

_MAX_INT64, _MAX_UINT64 = 2**63 - 1, 2**64 - 1
_CONTAINERS = {
    list: ValueKind.ARRAY,
    tuple: ValueKind.MAP,
    type(None): ValueKind.NULL,
}


def field_values(entries: Entries, parts: Sequence[str]) -> FieldValues:
    """Find the values that a dotted name leads to in documents.

    A part of the name may itself have dots. All maps within a list are searched, and all equal
    keys count. So more values may be found than a filter means, never fewer.

    Parameters
    ----------
    entries : Entries
        The documents.
    parts : sequence of str
        Parts of the name.

    Returns
    -------
    FieldValues
        A list is followed by its elements. A map without the field counts as absent.
    """
    found = _Values()
    for row in range(len(entries)):
        found.row = row
        if list(parts) == [ID_FIELD]:
            found.add(entries.id(row))
        else:
            found.search(document_pairs(entries, row), list(parts))
    return FieldValues(
        np.array(found.rows, np.uint32),
        np.array(found.kinds, np.uint8),
        np.array(found.words, np.uint64),
        np.array(found.sizes, np.uint32),
        b"".join(found.texts),
    )


class _Values:
    """Collects values in columns."""

    def __init__(self) -> None:
        self.row = 0
        self.rows: list[int] = []
        self.kinds: list[int] = []
        self.words: list[int] = []
        self.sizes: list[int] = []
        self.texts: list[bytes] = []
        self._end = 0  # of the texts

    def search(self, pairs: Pairs, parts: list[str]) -> None:
        """Search a map for the field."""
        names = {".".join(parts[: count + 1]): parts[count + 1 :] for count in range(len(parts))}
        absent = True
        for key, value in pairs:
            rest = names.get(field_name(key))
            if rest is None:
                continue
            absent = False
            if rest:
                self._descend(value, rest)
            else:
                self.add(value)
                for element in value if type(value) is list else ():
                    self.add(element)
                    # A condition on an element may hold for what that element contains.
                    for inner in element if type(element) is list else ():
                        self.add(inner)
        if absent:
            self._append(ValueKind.ABSENT)

    def _descend(self, value: Any, parts: list[str]) -> None:
        if type(value) is tuple:
            self.search(value, parts)
        elif type(value) is list and value:
            for element in value:
                if type(element) is tuple:
                    self.search(element, parts)
                else:
                    self._append(ValueKind.ABSENT)
        else:
            self._append(ValueKind.ABSENT)

    def add(self, value: Any) -> None:
        """Add one value, without what it contains."""
        kind = type(value)
        if kind is str:
            text = value.encode("utf-8", "surrogateescape")
            self._add_text(ValueKind.STRING if is_utf8(value) else ValueKind.BINARY, text)
        elif kind is bytes:
            self._add_text(ValueKind.BINARY, value)
        elif kind is bool:
            self._append(ValueKind.TRUE if value else ValueKind.FALSE)
        elif kind is int:
            above = value > _MAX_INT64
            self._append(ValueKind.ABOVE_INT64 if above else ValueKind.INT, value & _MAX_UINT64)
        elif kind is float:
            (word,) = struct.unpack("<Q", struct.pack("<d", value))
            self._append(ValueKind.FLOAT, word)
        elif kind is msgpack.Timestamp:
            self._append(ValueKind.MOMENT, value.seconds & _MAX_UINT64, value.nanoseconds)
        else:
            self._append(_CONTAINERS.get(kind, ValueKind.EXTENSION))

    def _add_text(self, kind: ValueKind, text: bytes) -> None:
        self._append(kind, self._end, len(text))
        self.texts.append(text)
        self._end += len(text)

    def _append(self, kind: ValueKind, word: int = 0, size: int = 0) -> None:
        self.rows.append(self.row)
        self.kinds.append(kind)
        self.words.append(word)
        self.sizes.append(size)
