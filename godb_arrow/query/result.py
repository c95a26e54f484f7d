"""Result of a query: rows in memory, as a table, a DataFrame or dicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.display import Table
from godb_arrow.errors import MissingDependency
from godb_arrow.query.python_values import python_values

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from godb_arrow.query.dataframe import DtypeBackend

__all__ = ["QueryResult"]

_MAX_SHOWN_ROWS = 10


class QueryResult:
    """Rows that answer a query, in memory.

    :meth:`Collection.sql`, :meth:`StorageEngine.sql` and :meth:`Collection.aggregate` return it.
    Libraries that take an Arrow stream accept it directly.

    Parameters
    ----------
    table : pyarrow.Table
        The rows.

    Examples
    --------
    >>> import pyarrow as pa
    >>> result = QueryResult(pa.table({"city": ["Bern", "Rome"], "people": [1, 2]}))
    >>> len(result), list(result)[1]
    (2, {'city': 'Rome', 'people': 2})
    >>> result.to_pandas().people.sum().item(), result.to_polars().columns
    (3, ['city', 'people'])
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._table.schema

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names = self._table.column_names
        for batch in self._table.to_batches():
            columns = map(python_values, batch.columns)
            yield from codec.to_dicts(names, list(columns), batch.num_rows)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as dicts."""
        return list(self)

    def to_arrow(self) -> pa.Table:
        """Return the rows as a table."""
        return self._table

    def to_pandas(self, dtype_backend: DtypeBackend | None = None) -> pd.DataFrame:
        """Return the rows as a DataFrame, with the dtypes of :func:`~godb_arrow.read_godb`."""
        from godb_arrow.query.dataframe import to_frame

        return to_frame(self._table, dtype_backend)

    def to_polars(self) -> pl.DataFrame:
        """Return the rows as a Polars DataFrame.

        Raises
        ------
        MissingDependency
            Polars is not installed.
        """
        try:
            import polars as pl
        except ImportError as error:
            raise MissingDependency(
                "Polars is not installed", advice="pip install 'godb-arrow[polars]'"
            ) from error
        return pl.DataFrame(self._table)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        columns = ", ".join(self._table.column_names)
        return f"<QueryResult, {len(self):,} rows of {columns}>"

    def _repr_html_(self) -> str:
        shown = self._table.slice(0, _MAX_SHOWN_ROWS)
        table = Table(shown.column_names)
        for cells in zip(*map(python_values, shown.columns), strict=True):
            table.add(*cells)
        return table.html()
