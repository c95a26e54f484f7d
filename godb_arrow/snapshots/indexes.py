"""Indexes from the values of a field to document ids."""

from __future__ import annotations

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
from godb_arrow.snapshots.index_run import IndexBuilder, IndexRun
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["FieldIndex", "as_py", "check_indexable", "field_index", "index_run"]

_NO_ROWS: Rows = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class FieldIndex:
    """Sorted values of one field of a base, and their rows.

    Attributes
    ----------
    values : pyarrow.Array
        Values in order, without nulls.
    rows : array of int64
        Row of each value.
    """

    values: pa.Array
    rows: Rows

    @property
    def nbytes(self) -> int:
        """Size of the index in bytes."""
        size: int = self.values.nbytes + self.rows.nbytes
        return size

    @classmethod
    def build(cls, base: Base, schema: pa.Schema, field: str) -> FieldIndex | None:
        """Index a field, or return None if its values have no order."""
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

    def keeps_null(self, condition: pc.Expression, path: tuple[str, ...]) -> bool:
        """Return whether a filter on this field only matches where the field is null."""
        column = pa.nulls(1, self.values.type)
        for name in reversed(path[1:]):
            column = pa.StructArray.from_arrays([column], [name])
        kept: int = pa.table({path[0]: column}).filter(condition).num_rows
        return kept > 0

    def kept_by(self, condition: pc.Expression, path: tuple[str, ...]) -> Rows:
        """Return the rows that match a filter on this field only, in order."""
        column: pa.Array = self.values
        for name in reversed(path[1:]):
            column = pa.StructArray.from_arrays([column], [name])
        table = pa.table({path[0]: column, "\0row": self.rows})
        return np.sort(table.filter(condition).column("\0row").to_numpy())


def as_py(scalar: Any) -> Any:
    """Return the Python value of a scalar."""
    return scalar.as_py()


def field_index(snapshot: Snapshot, field: str) -> FieldIndex | None:
    """Return the index on a field of a snapshot's base, built if it is not cached."""
    base = snapshot.base
    kind = f"index:{field}"
    index: FieldIndex | None = base.view(kind)
    if index is None:
        try:
            index = FieldIndex.build(base, base.schema(), field)
        except FieldNotFound:
            return None
        if index is not None:
            base.hold(kind, index, index.nbytes)
    return index


def index_run(file: Base, field: str) -> IndexRun:
    """Return the run of an index for one file, built from the documents if it is not stored."""
    kind = f"run:{field}"
    run: IndexRun | None = file.view(kind)
    if run is None:
        packed = None if file.path is None else file.open().index_run(field)
        run = None if packed is None else IndexRun.unpack(packed, file.count)
        if run is None:
            run = IndexBuilder.run_of(field, (entries for _, entries in file.loaded()))
        file.hold(kind, run, run.nbytes)
    return run


def check_indexable(schema: pa.Schema, field: str) -> None:
    """Check that values of a field, or the elements of its lists, can be sorted.

    Raises
    ------
    InvalidFilter
        The field has a type without an order.
    """
    try:
        kind = field_at(schema, field).type
    except FieldNotFound:
        return  # Later documents may have the field.
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        raise InvalidFilter(
            f"the field {field!r} of type {kind} has no order for an index",
            advice="index one of its inner fields, by the dotted path",
        )
