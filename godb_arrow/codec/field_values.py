"""Values of one field in documents, in columns: what statistics and indexes are made of."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["FieldValues", "ValueBounds", "ValueKind", "parts_of"]

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


class ValueBounds(NamedTuple):
    """Number of the values of a field in some documents, with min and max, by kind.

    Attributes
    ----------
    values : int
        Number of values, nulls included.
    documents : int
        Number of documents with the field. It is smaller than `values` where a key is repeated.
    nulls, trues, falses, nans : int
        Number of these values.
    others : int
        Number of lists, maps and extensions.
    integers : tuple of int, or None
        Min and max of 64-bit integers; None where there are none.
    above_int64 : tuple of int, or None
        The same of greater integers.
    floats : tuple of float, or None
        The same of floats that are not NaN.
    moments : tuple of tuple, or None
        The same of moments, as seconds and nanoseconds.
    strings : tuple of int, int, bytes, bytes, or None
        Number of texts, the most bytes of one, and the min and max by bytes.
    binaries : tuple of int, int, bytes, bytes, or None
        The same of binary values, and of strings that are not UTF-8.
    """

    values: int
    documents: int
    nulls: int
    trues: int
    falses: int
    nans: int
    others: int
    integers: tuple[int, int] | None
    above_int64: tuple[int, int] | None
    floats: tuple[float, float] | None
    moments: tuple[tuple[int, int], tuple[int, int]] | None
    strings: tuple[int, int, bytes, bytes] | None
    binaries: tuple[int, int, bytes, bytes] | None


def parts_of(name: str) -> list[str]:
    """Return the parts of a dotted name; one that has too many is a name of its own."""
    parts = name.split(".")
    return parts if len(parts) <= MAX_PARTS else [name]
