"""Limit of the values of structs in a batch, nearly all of which may be null."""

from __future__ import annotations

from godb_arrow.codec.columns import ColumnPlan, Core
from godb_arrow.errors import LimitExceeded

__all__ = ["Cells", "TooSparse", "too_sparse", "width_of"]

_MAX_CELLS = 1 << 25
_MAX_CELLS_PER_BYTE = 16


class TooSparse(Exception):
    """Signal that structs have too many nulls."""


class Cells:
    """Number of values of structs so far.

    Above the limit a batch takes memory out of proportion to its documents.

    Parameters
    ----------
    size : int
        Size of the documents in bytes.
    """

    def __init__(self, size: int) -> None:
        self._left = max(_MAX_CELLS, _MAX_CELLS_PER_BYTE * size)

    def add(self, count: int) -> None:
        """Count values.

        Raises
        ------
        TooSparse
            The limit is exceeded.
        """
        self._left -= count
        if self._left < 0:
            raise TooSparse


def width_of(column: ColumnPlan) -> int:
    """Return the number of columns to which a null of a struct adds, all levels counted."""
    if column.core is not Core.STRUCT:
        return 0
    return sum(1 + width_of(child) for child in column.children)


def too_sparse(document: str, path: str) -> LimitExceeded:
    """Return the error for structs whose nulls take much more memory than their documents."""
    return LimitExceeded(
        f"document {document!r}, field {path!r}: the fields of structs are nearly all null, and "
        f"become more than {_MAX_CELLS:,} values of a record batch",
        advice="use a smaller batch_bytes, read other columns, or give a schema with fewer fields",
    )
