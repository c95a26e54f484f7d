"""Updates of documents in the kernel; see :mod:`godb_arrow.codec.reference.patch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

import godb_arrow.codec.native._native as _native  # noqa: PLR0402 (mypy knows it by this name)
from godb_arrow.codec.entries import Entries
from godb_arrow.codec.reference.patch import PatchedDocuments, PatchStep

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["patch_documents"]


def patch_documents(
    entries: Entries, rows: npt.NDArray[np.int64], steps: Sequence[PatchStep]
) -> PatchedDocuments | None:
    """Change documents by steps; see :mod:`godb_arrow.codec.reference.patch`."""
    patched = _native.patch_documents(entries.data, entries.bounds, rows, steps)
    if patched is None:
        return None
    data, changed = patched
    return PatchedDocuments(data, np.frombuffer(changed, np.int64))
