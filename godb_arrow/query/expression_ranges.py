"""Ranges of values that an expression of Arrow needs, for indexes to name candidates."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.query.fields import column_at
from godb_arrow.query.literals import Operand, parsed
from godb_arrow.query.predicate import Range

__all__ = ["expression_alternatives"]

_FLIPPED = {
    "equal": "equal",
    "less": "greater",
    "less_equal": "greater_equal",
    "greater": "less",
    "greater_equal": "less_equal",
}
_NUMBERS = (pa.int64(), pa.uint64(), pa.float64())


def expression_alternatives(
    expression: pc.Expression, schema: pa.Schema
) -> list[tuple[Range, ...]]:
    """Return conditions that each document fulfils for which an expression is true.

    Parameters
    ----------
    expression : pyarrow.compute.Expression
        The expression.
    schema : pyarrow.Schema
        The inferred types of the columns.

    Returns
    -------
    list of tuple of Range
        As of :func:`~godb_arrow.query.predicate.alternatives`. Extension values are not
        considered, since columns may show them as values of other kinds.

    Examples
    --------
    >>> found = expression_alternatives(pc.field("n") > 5, pa.schema({"n": pa.int64()}))
    >>> [(one.field, one.low, one.high) for (one,) in found]
    [('n', 5, None)]
    """
    read = parsed(expression)
    if read is None:
        return []
    root, batch = read
    return _Reader(schema, batch).alternatives(root)


class _Reader:
    """Reads the ranges of the parts of an expression."""

    def __init__(self, schema: pa.Schema, batch: pa.RecordBatch) -> None:
        self._schema = schema
        self._batch = batch

    def alternatives(self, operand: Operand) -> list[tuple[Range, ...]]:
        arguments = operand.arguments
        if operand.call in ("and", "and_kleene"):
            return [found for one in arguments for found in self.alternatives(one)]
        if operand.call in ("or", "or_kleene"):
            joined: tuple[Range, ...] = ()
            for one in arguments:
                known = self.alternatives(one)
                if not known:
                    return []
                joined += min(known, key=len)
            return [joined]
        if operand.call == "is_in" and operand.options is not None and arguments[0].path:
            options = self._batch.column(operand.options)[0].as_py()
            return self._one_of(arguments[0].path, options["value_set"])
        if operand.call in _FLIPPED and len(arguments) == 2:
            first, second = arguments
            if first.path and second.literal is not None:
                return self._compared(first.path, operand.call, second.literal)
            if second.path and first.literal is not None:
                return self._compared(second.path, _FLIPPED[operand.call], first.literal)
        return []

    def _one_of(self, path: tuple[str, ...], values: list[Any]) -> list[tuple[Range, ...]]:
        found = [self._stored(path, value) for value in values]
        if None in found:
            return []
        return [tuple(Range(".".join(path), value, value) for value in found)]

    def _compared(self, path: tuple[str, ...], call: str, column: int) -> list[tuple[Range, ...]]:
        value = self._stored(path, self._batch.column(column)[0].as_py())
        if value is None:
            return []
        name = ".".join(path)
        if call == "equal":
            return [(Range(name, value, value),)]
        if isinstance(value, bool):
            return []
        if call.startswith("less"):
            return [(Range(name, None, value),)]
        return [(Range(name, value, None),)]

    def _stored(self, path: tuple[str, ...], value: Any) -> Any:
        """Return a literal as documents store it; None if nothing is known of its order."""
        try:
            kind = column_at(self._schema, path).type
        except (KeyError, AttributeError):
            return None
        if isinstance(value, bool):
            return value if pa.types.is_boolean(kind) else None
        if isinstance(value, (int, float)):
            return value if kind in _NUMBERS and not math.isnan(value) else None
        if isinstance(value, str):
            return value if kind == pa.string() else None
        if isinstance(value, dt.datetime) and pa.types.is_timestamp(kind):
            return codec.load_pairs(codec.pack(value))
        return None
