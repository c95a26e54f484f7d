"""Expressions of plain comparisons, which Arrow's kernels evaluate on the columns without a plan.

A plan of Acero takes several times as long as a kernel on a small record batch. Only what both
evaluate alike is taken here. These are comparisons of a column with literals of its type, sets of
literals, conjunctions, disjunctions and negations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.query.literals import COMPARISONS, Operand, Parts, paths_in

__all__ = ["ColumnMask", "column_mask"]

_Mask: TypeAlias = "Callable[[pa.RecordBatch], pa.Array]"

_LOGICAL = frozenset(("and_kleene", "or_kleene", "invert"))
_MATCH_NULLS = 0  # null_matching_behavior of is_in, as isin() sets it by default


@dataclass(frozen=True, slots=True)
class ColumnMask:
    """Filter that kernels evaluate.

    Attributes
    ----------
    fields : frozenset of str
        Top-level fields that it needs.
    mask : callable
        Gives the rows of a record batch for which it is true, with null where it is unknown.
    """

    fields: frozenset[str]
    mask: _Mask


def column_mask(schema: pa.Schema, parts: Parts | None) -> ColumnMask | None:
    """Return an expression as a mask of kernels; None if a plan must evaluate it.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of the columns.
    parts : tuple of Operand and pyarrow.RecordBatch, or None
        The expression; see :func:`~godb_arrow.query.literals.parsed`.

    Examples
    --------
    >>> from godb_arrow.query.literals import parsed
    >>> schema = pa.schema({"n": pa.int64(), "t": pa.string()})
    >>> small = column_mask(schema, parsed((pc.field("n") < 10) & (pc.field("t") == "a")))
    >>> batch = pa.record_batch([pa.array([1, 2, 30]), pa.array(["a", "b", "a"])], schema)
    >>> sorted(small.fields), small.mask(batch).to_pylist()
    (['n', 't'], [True, False, False])
    """
    if parts is None:
        return None
    operand, values = parts
    mask = _mask_of(schema, operand, values)
    if mask is None:
        return None
    return ColumnMask(frozenset(path[0] for path in paths_in(operand)), mask)


def _mask_of(schema: pa.Schema, operand: Operand, values: pa.RecordBatch) -> _Mask | None:
    if operand.call in _LOGICAL:
        inner = [_mask_of(schema, one, values) for one in operand.arguments]
        masks = [one for one in inner if one is not None]
        if len(masks) < len(inner):
            return None
        function = getattr(pc, operand.call)
        return lambda batch: function(*(mask(batch) for mask in masks))
    columns = [one.path[0] for one in operand.arguments if len(one.path) == 1]
    if len(columns) != 1:
        return None
    (name,) = columns
    index = schema.get_field_index(name)
    if index < 0 or not _is_plain(schema.field(index).type):
        return None
    kind = schema.field(index).type
    if operand.call == "is_in" and operand.options is not None:
        return _is_in(name, kind, values.column(operand.options))
    if operand.call not in COMPARISONS or len(operand.arguments) != 2:
        return None
    first, second = operand.arguments
    literal = second.literal if first.path else first.literal
    if literal is None or not values.column(literal).type.equals(kind):
        return None
    value = values.column(literal)[0]
    compare = getattr(pc, operand.call)
    if first.path:
        return lambda batch: compare(batch.column(name), value)
    return lambda batch: compare(value, batch.column(name))


def _is_in(name: str, kind: pa.DataType, options: pa.StructArray) -> _Mask | None:
    found = {field.name: index for index, field in enumerate(options.type)}
    if "value_set" not in found or "null_matching_behavior" not in found:
        return None
    values = options.field(found["value_set"])
    if not pa.types.is_list(values.type) or not values.type.value_type.equals(kind):
        return None
    if options.field(found["null_matching_behavior"])[0].as_py() != _MATCH_NULLS:
        return None
    members = values[0].values
    return lambda batch: pc.is_in(batch.column(name), value_set=members)


def _is_plain(kind: pa.DataType) -> bool:
    """Return whether kernels and plans compare the values of a type alike."""
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_float32(kind)  # Arrow compares halves by a plan only.
        or types.is_float64(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_timestamp(kind)
    )
