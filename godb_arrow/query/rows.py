"""Rows of record batches that match a predicate over documents."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.predicate import AllOf, AnyOf, Condition, Not, Predicate
from godb_arrow.schema import ID_FIELD

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["RowSelector"]

_ROWS_AT_ONCE = 16_384
_ID_COLUMN = "\0_id"
"""Column for the ids of rows. Unlike ids of documents, they may be null."""


class RowSelector:
    """Selection of the rows that match as the documents that they would be stored as.

    Parameters
    ----------
    predicate : Predicate
        The condition.

    Examples
    --------
    >>> from godb_arrow.query.predicate import compile_filter
    >>> selector = RowSelector(compile_filter({"n": {"$gt": 1}}))
    >>> selector.select(pa.record_batch({"n": [1, 2, None]})).tolist()
    [1]
    """

    def __init__(self, predicate: Predicate) -> None:
        self._predicate = Predicate(_with_id_column(predicate.condition))

    def select(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        """Return the indices of the rows of a record batch that match, in order.

        Raises
        ------
        UnsupportedType
            A column of the filter has a type that documents cannot hold.
        """
        columns, names = [], []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name == ID_FIELD:
                name = _ID_COLUMN
                if pa.types.is_integer(column.type):
                    column = column.cast(pa.string())
            if name in self._predicate.fields:
                columns.append(column)
                names.append(name)
        if not columns:  # of documents without any fields, all match or none
            rows = np.arange(batch.num_rows)
            return rows if len(self._matching(pa.record_batch({"": pa.nulls(1)}))) else rows[:0]
        needed = pa.RecordBatch.from_arrays(columns, names)
        starts = range(0, batch.num_rows, _ROWS_AT_ONCE)
        found = [start + self._matching(needed.slice(start, _ROWS_AT_ONCE)) for start in starts]
        return np.concatenate([np.empty(0, np.int64), *found])

    def _matching(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        count = batch.num_rows
        ids = pa.array([b""] * count, pa.binary())
        data, _ = codec.encode(
            pa.RecordBatch.from_arrays(batch.columns, batch.schema.names), ids, False
        )
        entries = codec.scan_entries(data, 0, count, len(data) + 1, 0, self._predicate.fields)
        return codec.select(entries, self._predicate)


def _with_id_column(condition: Condition) -> Condition:
    """Return a condition with the ids' column in place of the id."""
    if isinstance(condition, (AllOf, AnyOf)):
        return type(condition)(tuple(_with_id_column(one) for one in condition.conditions))
    if isinstance(condition, Not):
        return Not(_with_id_column(condition.condition))
    head, dot, rest = (condition.path or "").partition(".")
    return replace(condition, path=_ID_COLUMN + dot + rest) if head == ID_FIELD else condition
