"""Indexes of a field: values to document ids."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from godb_arrow import codec
from godb_arrow.errors import FieldNotFound, InvalidFilter
from godb_arrow.query.fields import field_at
from godb_arrow.query.projection import project
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.id_index import Rows
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["FieldIndex", "as_py"]


@dataclass(frozen=True, slots=True)
class FieldIndex:
    """The values of one field of a base, sorted, and their rows.

    Attributes
    ----------
    values : pyarrow.Array
        Sorted, without nulls.
    rows : array of int64
        The row of each value.
    """

    values: pa.Array
    rows: Rows

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        size: int = self.values.nbytes + self.rows.nbytes
        return size

    @classmethod
    def build(cls, base: Base, schema: pa.Schema, field: str) -> FieldIndex | None:
        """Index a field; None when its values have no order."""
        projection = project(schema, [field], None)
        kind = projection.schema.field(0).type
        if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
            return None
        plan = codec.plan_columns(projection.decoded)
        parts = [
            projection.apply(codec.decode_batch(run, plan)).column(0) for _, run in base.loaded()
        ]
        values = pa.chunked_array(parts, kind).combine_chunks()
        order = pc.sort_indices(values)
        order = order[: len(values) - values.null_count]
        return cls(values.take(order), order.to_numpy().astype(np.int64))

    def equal_to(self, value: Any) -> Rows:
        """The rows of a value, in order."""
        wanted = pa.scalar(value, self.values.type).as_py()
        first = bisect_left(self.values, wanted, key=as_py)
        last = bisect_right(self.values, wanted, lo=first, key=as_py)
        return np.sort(self.rows[first:last])

    def kept_by(self, condition: pc.Expression, path: tuple[str, ...]) -> Rows:
        """The rows that a filter on this field only keeps, in order."""
        column: pa.Array = self.values
        for name in reversed(path[1:]):
            column = pa.StructArray.from_arrays([column], [name])
        table = pa.table({path[0]: column, "\0row": self.rows})
        return np.sort(table.filter(condition).column("\0row").to_numpy())


def as_py(scalar: Any) -> Any:
    """Return the Python value of a scalar."""
    return scalar.as_py()


def field_index(snapshot: Snapshot, field: str) -> FieldIndex | None:
    """The index on a field of a snapshot's base, made when it is not held."""
    base = snapshot.base
    kind = f"index:{field}"
    found: FieldIndex | None = base.view(kind)
    if found is None:
        try:
            found = FieldIndex.build(base, base.schema(), field)
        except FieldNotFound:
            return None
        if found is not None:
            base.hold(kind, found, found.nbytes)
    return found


def check_indexable(schema: pa.Schema, field: str) -> None:
    """Raise if values of a field cannot be sorted.

    Raises
    ------
    InvalidFilter
    """
    try:
        kind = field_at(schema, field).type
    except FieldNotFound:
        return  # documents may get it later
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        raise InvalidFilter(
            f"the field {field!r} of type {kind} has no order that an index could keep",
            advice="index a field inside it, by its dotted path",
        )
