"""Values of one field in documents, in columns: what statistics and indexes are made of."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["FieldValues", "ValueKind", "parts_of"]

MAX_PARTS = 32
"""Max parts of a dotted name."""


class ValueKind(IntEnum):
    """Kind of a value; the kernel has the same numbers."""

    ABSENT = 0
    NULL = 1
    FALSE = 2
    TRUE = 3
    INT = 4
    ABOVE_INT64 = 5
    FLOAT = 6
    STRING = 7
    BINARY = 8  # bin, or str that is not UTF-8
    MOMENT = 9
    ARRAY = 10  # followed by its elements, and by the elements of lists in it
    MAP = 11
    EXTENSION = 12


class FieldValues(NamedTuple):
    """Values that a name leads to, and the row of each.

    Attributes
    ----------
    rows : array of uint32
        Row of each value, in order.
    kinds : array of uint8
        A :class:`ValueKind` each.
    words : array of uint64
        Bits of an integer or float, seconds of a moment, or the place of a text in `data`.
    sizes : array of uint32
        Bytes of a text, or nanoseconds of a moment.
    data : bytes or memoryview
        Bytes of texts.
    """

    rows: npt.NDArray[np.uint32]
    kinds: npt.NDArray[np.uint8]
    words: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.uint32]
    data: bytes | memoryview

    def text(self, index: int, most: int | None = None) -> bytes:
        """Return the bytes of a text, or at most so many of them."""
        start, size = int(self.words[index]), int(self.sizes[index])
        return bytes(self.data[start : start + (size if most is None else min(size, most))])


def parts_of(name: str) -> list[str]:
    """Return the parts of a dotted name; one that has too many is a name of its own."""
    parts = name.split(".")
    return parts if len(parts) <= MAX_PARTS else [name]
