"""Filters: mappings, which become predicates over documents, and expressions on columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.codec.predicate import Predicate
from godb_arrow.errors import InvalidFilter, InvalidOption
from godb_arrow.query.literals import compared, fits_exactly, parsed, paths_in, type_at
from godb_arrow.query.predicate import compile_filter
from godb_arrow.schema import is_json, storage_schema

__all__ = [
    "Filter",
    "RowFilter",
    "check_expression",
    "compiled",
    "fields_of",
    "names_in",
    "rows_where",
]

_KEEP = "keep"
_LONG_SCHEMA_FIELDS = 1000
_MISSING = re.compile(
    r"No match for FieldRef\.(?:Nested\(FieldRef\.)?Name\((.*?)\)(?: FieldRef| in |\))"
)


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Filter that is evaluated by custom code, such as another library's expression.

    Parameters
    ----------
    fields : sequence of str
        Fields that the filter needs.
    keep : callable
        Function that takes a record batch of those fields and returns the rows to keep, as a
        boolean array. It is called from several threads at the same time.
    implied : pyarrow.compute.Expression, optional
        Condition that is true for every row kept, and perhaps for others. Pieces without such
        rows, according to their statistics, are not read.

    Examples
    --------
    >>> import godb_arrow, io
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"n": 1}, {"n": 2}], file, "c")
    2
    >>> odd = RowFilter(["n"], lambda batch: pc.equal(pc.bit_wise_and(batch["n"], 1), 1))
    >>> godb_arrow.read_table(file.getvalue(), filter=odd).column("n").to_pylist()
    [1]
    """

    fields: Sequence[str]
    keep: Callable[[pa.RecordBatch], pa.Array]
    implied: pc.Expression | None = None


Filter: TypeAlias = "pc.Expression | Mapping[str, Any] | RowFilter | Predicate"
"""``pyarrow.compute`` expression, mapping of field names to values, or row filter."""


def rows_where(batch: pa.RecordBatch, condition: pc.Expression) -> pa.Array:
    """Return the rows of a record batch for which an expression is true.

    Raises
    ------
    InvalidFilter
        The expression cannot be evaluated on the columns.
    """
    from pyarrow import acero  # imported at first use, because importing it is slow

    plain = pa.Table.from_batches([_without_json(batch)])
    try:
        kept = _run(plain, "project", acero.ProjectNodeOptions([condition], [_KEEP]))
        return pc.indices_nonzero(kept.column(_KEEP))
    except (pa.ArrowException, KeyError, IndexError) as error:
        raise _invalid(batch.schema, condition, error) from error


def _run(table: pa.Table, node: str, options: Any) -> pa.Table:
    """Run a node of Acero on a table, without threads: other threads filter other batches."""
    from pyarrow import acero

    source = acero.Declaration("table_source", acero.TableSourceNodeOptions(table))
    plan = acero.Declaration.from_sequence([source, acero.Declaration(node, options)])
    return plan.to_table(use_threads=False)


def _invalid(schema: pa.Schema, condition: pc.Expression, error: Exception) -> InvalidFilter:
    for path, call, value in compared(condition):
        kind = type_at(schema, path)
        if kind is not None and not fits_exactly(value, kind):
            name = ".".join(path)
            mapping = f'{{"{name}": {{"{_MAPPING_OPERATORS[call]}": {value!r}}}}}'
            return InvalidFilter(
                f"the filter compares the field {name!r} of type {kind} with {value!r}, and Arrow "
                f"cannot: {error}",
                advice=f"write the mapping {mapping}, which compares any types",
            )
    return InvalidFilter(
        f"the filter {condition} does not fit the schema: {error}",
        advice="compare fields with values of their own type; read_schema shows the types",
    )


_MAPPING_OPERATORS = {
    "equal": "$eq",
    "not_equal": "$ne",
    "less": "$lt",
    "less_equal": "$lte",
    "greater": "$gt",
    "greater_equal": "$gte",
    "is_in": "$in",
}


def _without_json(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Replace JSON columns by text columns, which filters can compare."""
    for index, field in enumerate(batch.schema):
        if is_json(field.type):
            column = batch.column(index).storage
            batch = batch.set_column(index, field.name, column)
    return batch


def compiled(condition: Filter | None) -> pc.Expression | RowFilter | Predicate | None:
    """Return a filter in the form that is evaluated: a mapping as a predicate, others unchanged.

    Raises
    ------
    InvalidFilter
        An operator or a literal of a mapping is wrong.
    InvalidOption
        The value is no filter.
    """
    if condition is None or isinstance(condition, (pc.Expression, RowFilter, Predicate)):
        return condition
    if isinstance(condition, Mapping):
        return compile_filter(condition)
    raise InvalidOption(
        f"filter is {_described(condition)}", advice=f"{_advice_for(condition)} ({_EXAMPLES})"
    )


_EXAMPLES = """for example {"age": {"$gt": 30}}, or pyarrow.compute.field("age") > 30"""


def _described(value: object) -> str:
    """Return the type of a value that is no filter, with the library that it comes from."""
    library, name = type(value).__module__.partition(".")[0], type(value).__name__
    return f"of type {name}" if library == "builtins" else f"of type {library}.{name}"


def _advice_for(value: object) -> str:
    """Return what to write in place of a value that is no filter."""
    library, name = type(value).__module__.partition(".")[0], type(value).__name__
    if library == "polars" and name == "Expr":
        return (
            "write a mapping, or filter a lazy frame: "
            "godb_arrow.connectors.polars.scan_godb(…).filter(expression)"
        )
    if library in ("pandas", "polars", "numpy", "pyarrow"):
        return "write the condition on the field itself, since these are values of other rows"
    if isinstance(value, str):
        return "write a mapping, or a query in SQL with godb_arrow.connectors.duckdb"
    if callable(value):
        return "write a mapping, or a RowFilter with the fields that the function needs"
    return "write a mapping of fields to values"


def _named_in(schema: pa.Schema, expression: pc.Expression) -> pa.Schema:
    """Drop the fields that an expression does not name from a long schema.

    Binding an expression visits each field of the schema.
    """
    if len(schema) <= _LONG_SCHEMA_FIELDS:
        return schema
    return pa.schema([schema.field(name) for name in names_in(expression) if name in schema.names])


def check_expression(schema: pa.Schema, expression: pc.Expression) -> None:
    """Raise unless an expression can be evaluated on the columns of a schema.

    Raises
    ------
    InvalidFilter
        It names a field that the schema lacks, or compares values that Arrow cannot compare.
    """
    _evaluate(_named_in(schema, expression), expression)


def _evaluate(schema: pa.Schema, expression: pc.Expression) -> None:
    from pyarrow import acero

    plain = storage_schema(schema)
    # schema.empty_table knows no dictionaries in lists.
    empty = pa.Table.from_arrays([pa.nulls(0, field.type) for field in plain], schema=plain)
    try:
        _run(empty, "filter", acero.FilterNodeOptions(expression))
    except (pa.ArrowException, KeyError) as error:
        raise _invalid(schema, expression, error) from error


def names_in(expression: pc.Expression) -> list[str]:
    """Return the top-level fields that an expression names, without knowing a schema.

    Binding an expression to a schema raises an error, in which Arrow names the first field that
    the schema lacks.

    Examples
    --------
    >>> names_in((pc.field("a b") == 1) | pc.field("c", "d").is_null())
    ['a b', 'c']
    """
    names: list[str] = []
    while True:
        try:
            _evaluate(pa.schema([(name, pa.null()) for name in names]), expression)
        except InvalidFilter as error:
            missing = _MISSING.search(str(error.__cause__))
            if missing is not None and missing[1] not in names:
                names.append(missing[1])
                continue
        return names


def fields_of(schema: pa.Schema, expression: pc.Expression) -> set[str]:
    """Return the fields that an expression needs."""
    found = parsed(expression)
    if found is not None:
        return {path[0] for path in paths_in(found[0])}.intersection(schema.names)
    schema = _named_in(schema, expression)
    text = str(expression)
    needed = set()
    for index, field in enumerate(schema):
        if field.name in text:
            try:
                _evaluate(schema.remove(index), expression)
            except InvalidFilter:
                needed.add(field.name)
    return needed
