"""Literals and paths of expressions, fitted to the types of the columns.

Arrow casts both sides of a comparison to a common type, and fails at values outside of it. For
``uint64 > 5`` these are numbers above 2^63. A literal that fits the column's type is cast here.

Arrow finds no path into a map. Here it becomes a call that looks the key up, so that a path means
the same in maps as in structs.

An expression does not give access to its parts. Arrow's serialized form does: a record batch of the
literals and options, with the calls and fields as metadata of its schema.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.errors import InvalidFilter

__all__ = [
    "COMPARISONS",
    "Operand",
    "Parts",
    "compared",
    "fit_literals",
    "fits_exactly",
    "fitted",
    "parsed",
    "paths_in",
    "type_at",
]

COMPARISONS = frozenset(("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"))
_SAME_TYPE = COMPARISONS | {"coalesce"}
"""Calls whose arguments must have one type."""
_MAX_DIGITS = 76  # of a decimal
_METADATA_POINTER = 16
"""Offset of the metadata in the struct ArrowSchema of Arrow's C data interface."""


@dataclass(slots=True)
class Operand:
    """Part of an expression: a field, a literal or a call.

    Attributes
    ----------
    call : str
        Name of the function; empty for a field or literal.
    path : tuple of str
        Names of a field.
    literal : int or None
        Column of the literal in the serialized form.
    options : int or None
        Column of the options of a call.
    arguments : list of Operand
        Arguments of a call.
    """

    call: str = ""
    path: tuple[str, ...] = ()
    literal: int | None = None
    options: int | None = None
    arguments: list[Operand] = field(default_factory=list)


Parts: TypeAlias = "tuple[Operand, pa.RecordBatch]"
"""Expression, and the record batch with the literals and options that it refers to."""


def fit_literals(schema: pa.Schema, expression: pc.Expression) -> pc.Expression:
    """Cast the literals of an expression that fit the type of the field that they stand beside.

    Paths into maps become calls that look keys up.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of the columns.
    expression : pyarrow.compute.Expression
        The expression.

    Returns
    -------
    pyarrow.compute.Expression
        The same one if nothing is cast.

    Examples
    --------
    >>> table = pa.table({"n": pa.array([1, 2**63], pa.uint64())})
    >>> table.filter(fit_literals(table.schema, pc.field("n") > 5)).num_rows
    1
    """
    return fitted(schema, expression)[0]


def fitted(schema: pa.Schema, expression: pc.Expression) -> tuple[pc.Expression, Parts | None]:
    """Return what :func:`fit_literals` does, and its parts; None if they are unknown."""
    batch = _serialized(expression)
    if batch is None:
        return expression, None
    found = _Fitting(schema, _through_maps(schema, batch))
    operand = _parsed(found.batch)
    found.type_of(operand)
    if found.batch is batch:
        return expression, (operand, batch)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, found.batch.schema) as writer:
        writer.write_batch(found.batch)
    return pc.Expression._deserialize(sink.getvalue()), (operand, found.batch)


def compared(expression: pc.Expression) -> list[tuple[tuple[str, ...], str, Any]]:
    """Return the comparisons of a field and a literal in an expression: path, call and value.

    Examples
    --------
    >>> compared((pc.field("a") > 1) & (pc.field("b", "c") == "x"))
    [(('a',), 'greater', 1), (('b', 'c'), 'equal', 'x')]
    """
    batch = _serialized(expression)
    if batch is None:
        return []
    found: list[tuple[tuple[str, ...], str, Any]] = []

    def visit(operand: Operand) -> None:
        paths = [one.path for one in operand.arguments if one.path]
        literals = [one.literal for one in operand.arguments if one.literal is not None]
        if operand.call in COMPARISONS and len(paths) == len(literals) == 1:
            found.append((paths[0], operand.call, batch.column(literals[0])[0].as_py()))
        elif operand.call == "is_in" and paths and operand.options is not None:
            values = batch.column(operand.options)[0].as_py()["value_set"]
            found.append((paths[0], "is_in", values))
        for one in operand.arguments:
            visit(one)

    visit(_parsed(batch))
    return found


def parsed(expression: pc.Expression) -> Parts | None:
    """Return the parts of an expression, and its literals and options; None if they are unknown.

    Examples
    --------
    >>> operand, batch = parsed(pc.field("a") > 1)
    >>> operand.call, batch.num_columns
    ('greater', 1)
    """
    batch = _serialized(expression)
    return None if batch is None else (_parsed(batch), batch)


def paths_in(operand: Operand) -> Iterator[tuple[str, ...]]:
    """Yield the paths of the fields in an expression."""
    if operand.path:
        yield operand.path
    for one in operand.arguments:
        yield from paths_in(one)


def _serialized(expression: pc.Expression) -> pa.RecordBatch | None:
    try:
        _, (buffer,) = expression.__reduce__()
        return pa.ipc.open_file(buffer).get_batch(0)
    except (pa.ArrowException, ValueError):  # such as fields by their numbers
        return None


def _pairs(schema: pa.Schema) -> list[tuple[str, str]]:
    """Return all metadata of a schema; pyarrow itself drops keys that are there twice."""
    capsule = schema.__arrow_c_schema__()
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    at = pointer_of(capsule, b"arrow_schema")
    assert at is not None
    data = ctypes.c_void_p.from_address(at + _METADATA_POINTER).value
    if data is None:
        return []
    at = data

    def number() -> int:
        nonlocal at
        (found,) = struct.unpack("=i", ctypes.string_at(at, 4))
        at += 4
        return int(found)

    def text() -> str:
        nonlocal at
        size = number()
        found = ctypes.string_at(at, size)
        at += size
        return found.decode()

    return [(text(), text()) for _ in range(number())]


def _through_maps(schema: pa.Schema, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Replace the paths into maps in the serialized form of an expression."""
    pairs = _pairs(batch.schema)
    tokens: list[tuple[str, str]] = []
    found = batch
    position = 0
    while position < len(pairs):
        kind, value = pairs[position]
        count = int(value) if kind == "nested_field_ref" else 0
        path = tuple(name for _, name in pairs[position + 1 : position + 1 + count])
        lookup = _lookup(schema, path)
        if lookup is None:
            tokens += pairs[position : position + 1 + count]
        else:
            call = _serialized(lookup)
            assert call is not None
            added = found.num_columns
            for name, column in zip(call.schema.names, call.columns, strict=True):
                found = found.add_column(found.num_columns, f"{name}{found.num_columns}", column)
            tokens += (
                (key, str(int(text) + added) if key in ("options", "literal") else text)
                for key, text in _pairs(call.schema)
            )
        position += 1 + count
    if found is batch:
        return batch
    return found.replace_schema_metadata(pa.KeyValueMetadata(tokens))


def _lookup(schema: pa.Schema, path: tuple[str, ...]) -> pc.Expression | None:
    """Return a path as an expression that looks a key up; None for a path without maps."""
    kind: pa.DataType = pa.struct(list(schema))
    expression: pc.Expression | None = None
    is_lookup = False
    for index, name in enumerate(path):
        if pa.types.is_map(kind):
            expression = expression if is_lookup else pc.field(*path[:index])
            expression = pc.map_lookup(expression, pa.scalar(name, kind.key_type), "first")
            kind, is_lookup = kind.item_type, True
        elif pa.types.is_struct(kind) and kind.get_field_index(name) >= 0:
            kind = kind.field(name).type
            expression = pc.struct_field(expression, [name]) if is_lookup else None
        else:
            return None
    return expression if is_lookup else None


def _parsed(batch: pa.RecordBatch) -> Operand:
    tokens = _pairs(batch.schema)[::-1]
    return _operand(tokens)


def _operand(tokens: list[tuple[str, str]]) -> Operand:
    """Parse the operand at the end of reversed tokens, and remove them."""
    kind, value = tokens.pop()
    if kind == "field_ref":
        return Operand(path=(value,))
    if kind == "nested_field_ref":
        return Operand(path=tuple(tokens.pop()[1] for _ in range(int(value))))
    if kind == "literal":
        return Operand(literal=int(value))
    operand = Operand(call=value)
    while tokens[-1][0] != "end":
        if tokens[-1][0] == "options":
            operand.options = int(tokens.pop()[1])
        else:
            operand.arguments.append(_operand(tokens))
    tokens.pop()
    return operand


class _Fitting:
    """Casts of literals in the serialized form of an expression."""

    def __init__(self, schema: pa.Schema, batch: pa.RecordBatch) -> None:
        self._schema = schema
        self.batch = batch

    def type_of(self, operand: Operand) -> pa.DataType | None:
        """Return the type of an operand, if it is known, and cast the literals in it."""
        if operand.path:
            return type_at(self._schema, operand.path)
        if not operand.call:
            return None
        types = [self.type_of(one) for one in operand.arguments]
        known = {str(one): one for one in types if one is not None}
        kind = next(iter(known.values())) if len(known) == 1 else None
        if operand.call == "is_in" and kind is not None and operand.options is not None:
            self._fit_set(operand.options, kind)
        if operand.call not in _SAME_TYPE or kind is None:
            return None
        for one in operand.arguments:
            if one.literal is not None:
                fitted = _exactly(self.batch.column(one.literal), kind)
                if fitted is not None:
                    self._replace(one.literal, fitted)
        return kind if operand.call == "coalesce" else None

    def _fit_set(self, column: int, kind: pa.DataType) -> None:
        options = self.batch.column(column)
        index = options.type.get_field_index("value_set")
        if index < 0 or not pa.types.is_list(options.type.field(index).type):
            return
        values = options.field(index).flatten()
        _check_rounding(values, kind)
        fitted = _exactly(values, kind)
        if fitted is None:
            return
        ends = pa.array([0, len(fitted)], pa.int32())
        arrays = options.flatten()
        arrays[index] = pa.ListArray.from_arrays(ends, fitted)
        names = [one.name for one in options.type]
        self._replace(column, pa.StructArray.from_arrays(arrays, names))

    def _replace(self, column: int, values: pa.Array) -> None:
        self.batch = self.batch.set_column(column, self.batch.schema.field(column).name, values)


def type_at(schema: pa.Schema, path: tuple[str, ...]) -> pa.DataType | None:
    """Return the type of the values at a path, or None if the schema has no such field."""
    kind: pa.DataType = pa.struct(list(schema))
    for name in path:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def fits_exactly(value: Any, kind: pa.DataType) -> bool:
    """Return whether a value, or each value of a list, is one of a type, unchanged."""
    try:
        values = pa.array(value if isinstance(value, list) else [value])
    except (pa.ArrowException, OverflowError):
        return False
    return bool(values.type.equals(kind)) or _exactly(values, kind) is not None


def _exactly(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """Return literals of another type cast to a type, if that changes none of them; else None."""
    if values.type.equals(kind) or values.null_count == len(values):
        return None
    to_decimal = pa.types.is_integer(values.type) and pa.types.is_decimal(kind)
    if not to_decimal and not (_is_number(values.type) and _is_number(kind)):
        both = pa.types.is_timestamp(values.type) and pa.types.is_timestamp(kind)
        if not both or (values.type.tz is None) != (kind.tz is None):
            return None
    try:
        if to_decimal:
            # Arrow wants room for all integers of the type, whatever the values are.
            values = values.cast(pa.decimal256(_MAX_DIGITS, kind.scale))
        fitted = values.cast(kind)
        return fitted if fitted.cast(values.type).equals(values) else None
    except pa.ArrowInvalid:
        return None


def _check_rounding(values: pa.Array, kind: pa.DataType) -> None:
    """Check that ``is_in`` rounds none of its values: Arrow casts them to the type of the column.

    Raises
    ------
    InvalidFilter
    """
    types = pa.types
    is_date = types.is_date(kind) and types.is_timestamp(values.type)
    is_real = types.is_floating(kind) and types.is_floating(values.type)
    if not is_date and not (is_real and kind.bit_width < values.type.bit_width):
        return
    for value in values.drop_null():
        fitted = value.cast(kind, safe=False)
        if not (fitted.cast(values.type).equals(value) or value.as_py() != value.as_py()):
            raise InvalidFilter(
                f"isin compares a column of type {kind} with {value.as_py()!r}, which Arrow rounds",
                advice='write the mapping {"field": {"$in": [...]}}, which compares exactly',
            )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
