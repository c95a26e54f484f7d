"""Answers of DuckDB to the ``sql`` and ``aggregate`` of collections and engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from godb_arrow.connectors import missing
from godb_arrow.connectors.columns import convert_batch, fit_schema
from godb_arrow.connectors.duckdb import noting, show
from godb_arrow.errors import GodbError, InvalidOption, InvalidQuery
from godb_arrow.query.filters import Filter
from godb_arrow.query.result import QueryResult
from godb_arrow.query.scannable import Scannable

try:
    import duckdb
except ImportError as error:
    raise missing("duckdb", "DuckDB") from error

__all__ = ["aggregate", "answer"]

_FUNCTIONS = {
    "count": "count({})",
    "distinct": "count(distinct {})",
    "sum": "sum({})",
    "mean": "avg({})",
    "median": "median({})",
    "std": "stddev_samp({})",
    "min": "min({})",
    "max": "max({})",
    "list": "list({})",
}
"""SQL of each aggregation."""

_GROUPS = "_groups"


def answer(sources: Any, query: str, parameters: Sequence[Any] | None) -> QueryResult:
    """Answer a query of SQL.

    Parameters
    ----------
    sources : StorageEngine, or mapping of str to Collection
        Collections that the query may name.
    query : str
        The query.
    parameters : sequence, optional
        Values of its placeholders.

    Raises
    ------
    InvalidQuery
        DuckDB refuses the query.
    """
    if not isinstance(query, str):
        raise InvalidQuery(f"the query is a {type(query).__name__}", advice="give a string of SQL")
    with duckdb.connect() as inner:
        inner.execute("set timezone = 'UTC'")
        failures: list[GodbError] = []
        for name in sources:
            if name.lower() in query.lower().replace('""', '"'):
                show(inner, name, sources[name], failures)
        try:
            relation = inner.sql(query, params=parameters or None)
            return QueryResult(pa.table({}) if relation is None else relation.to_arrow_table())
        except duckdb.Error as error:
            raise _error_of(error, failures) from error


def _error_of(error: Exception, failures: list[GodbError]) -> GodbError:
    """Return the error of a query: the first one of the documents, if there are any."""
    if failures:
        return failures[0]
    names = "the collections that it names are views, and the collection itself is also self"
    return InvalidQuery(f"DuckDB refuses the query: {error}", advice=names)


def aggregate(
    collection: Scannable,
    by: Sequence[str],
    filter: Filter | None,
    outputs: Mapping[str, Any],
) -> QueryResult:
    """Group the documents of a collection, and aggregate each group.

    Parameters
    ----------
    collection : Scannable
        The collection.
    by : sequence of str
        Fields of the groups, in which the result is sorted.
    filter : pyarrow.compute.Expression or mapping, optional
        Documents to aggregate; all by default.
    outputs : mapping of str to str or tuple of str
        Aggregations by the name of their column.

    Raises
    ------
    InvalidOption
        An aggregation is unknown.
    InvalidQuery
        DuckDB cannot aggregate a field.
    """
    chosen = {name: _aggregation(name, value) for name, value in outputs.items()}
    fields = [*by, *(field for field, _ in chosen.values() if field is not None)]
    if not fields and not chosen:
        raise InvalidOption("nothing to aggregate", advice='give by, or people="count"')
    repeated = [name for name in chosen if name in by]
    if repeated:
        raise InvalidOption(
            f"{repeated[0]!r} names a group and an aggregation", advice="give another name"
        )
    columns = list(dict.fromkeys(fields))
    places = {field: f"c{number}" for number, field in enumerate(columns)}
    failures: list[GodbError] = []
    reader = noting(collection.stream_batches(columns, filter), failures)
    shown = fit_schema(reader.schema, "duckdb")
    renamed = pa.schema([field.with_name(f"c{number}") for number, field in enumerate(shown)])
    batches = (convert_batch(batch, shown).rename_columns(renamed.names) for batch in reader)
    if not columns:
        return _counts(chosen, sum(batch.num_rows for batch in reader))
    names = [_quoted(field) for field in by]
    selected = [f"{places[field]} as {name}" for field, name in zip(by, names, strict=True)]
    for name, (field, function) in chosen.items():
        place = "*" if field is None else places[field]
        selected.append(f"{function.format(place)} as {_quoted(name)}")
    query = f"select {', '.join(selected)} from {_GROUPS}"
    if by:
        order = ", ".join(str(number + 1) for number in range(len(by)))
        query += f" group by {order} order by {order}"
    with duckdb.connect() as inner:
        inner.execute("set timezone = 'UTC'")
        inner.register(_GROUPS, pa.RecordBatchReader.from_batches(renamed, batches))
        try:
            return QueryResult(inner.sql(query).to_arrow_table())
        except duckdb.Error as error:
            raise _error_of(error, failures) from error


def _counts(chosen: Mapping[str, Any], count: int) -> QueryResult:
    """Return numbers of documents, which need no column."""
    return QueryResult(pa.table({name: pa.array([count], pa.int64()) for name in chosen}))


def _aggregation(name: str, value: Any) -> tuple[str | None, str]:
    """Return the field and the SQL of an aggregation."""
    if value == "count":
        return None, "count({})"
    if isinstance(value, (tuple, list)) and len(value) == 2:
        field, function = value
        if isinstance(field, str) and isinstance(function, str) and function in _FUNCTIONS:
            return field, _FUNCTIONS[function]
    raise InvalidOption(
        f"the aggregation {name!r} is {value!r}",
        advice=f'give "count", or a field and one of {", ".join(_FUNCTIONS)}',
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
