"""Ids of documents in the kernel; see :mod:`godb_arrow.codec.reference.identify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

import godb_arrow.codec.native._native as _native  # noqa: PLR0402 (mypy knows it by this name)
from godb_arrow.codec.entries import Documents, Entries

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Identification"]


class Identification:
    """Ids that documents have in a field, and the entries with these and other ids."""

    def __init__(self, documents: Documents, field: str) -> None:
        self._found = _native.Identification(
            documents.data, documents.bounds, field.encode("utf-8", "surrogateescape")
        )
        self.generated: npt.NDArray[np.uint32] = np.frombuffer(self._found.rows, np.uint32)
        self.invalid: int = self._found.invalid

    def entries(self, numbers: npt.NDArray[np.int64]) -> tuple[Entries, pa.Array]:
        """Return the entries, and their ids as a binary array."""
        data, bounds, offsets, texts = self._found.entries(numbers)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(texts)]
        return Entries(data, bounds), pa.Array.from_buffers(
            pa.binary(), len(bounds) // 2, buffers, 0
        )
