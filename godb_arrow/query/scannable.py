"""Interface of all collections that can be read as columns, in files and elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.codec.predicate import Predicate
from godb_arrow.keywords import explain_methods
from godb_arrow.options import ReadKeywords
from godb_arrow.providers import provider
from godb_arrow.query.fields import check_columns, check_names, path_of, paths_of
from godb_arrow.query.filters import Filter, compiled
from godb_arrow.query.profile import Profile, profile_entries
from godb_arrow.query.projection import project, with_wanted

if TYPE_CHECKING:
    import pandas as pd

    from godb_arrow.query.dataframe import DtypeBackend
    from godb_arrow.query.dataset import CollectionDataset
    from godb_arrow.query.result import QueryResult

__all__ = ["Scannable"]


@explain_methods
class Scannable(ABC):
    """Collection that can be read as columns, any number of times.

    Libraries that take an Arrow stream accept it directly, and read it again each time.

    Examples
    --------
    >>> import godb_arrow, pyarrow as pa
    >>> from godb_arrow.samples import FLIGHTS
    >>> flights = godb_arrow.open_godb(FLIGHTS)
    >>> isinstance(flights, Scannable), pa.table(flights).num_rows
    (True, 27004)
    >>> flights.to_arrow(["dest"], flights["distance"] > 4000).num_rows
    62
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        explain_methods(cls)

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the collection."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """Schema of the record batches."""

    @property
    def stored_schema(self) -> pa.Schema:
        """Schema of the documents for exact copies, with notes that only godb_arrow reads."""
        return self.schema

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[dict[Any, Any]]: ...

    @abstractmethod
    def stream_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        schema: pa.Schema | None = None,
        **options: Unpack[ReadKeywords],
    ) -> pa.RecordBatchReader:
        """Return the documents as a ``pyarrow.RecordBatchReader``, in constant memory.

        Parameters
        ----------
        columns, filter, schema, **options
            See :func:`~godb_arrow.scan_godb`.

        Returns
        -------
        pyarrow.RecordBatchReader
        """

    def to_arrow(
        self, columns: Sequence[str] | None = None, filter: Filter | None = None
    ) -> pa.Table:
        """Return the documents as a table."""
        return self.stream_batches(columns, filter).read_all()

    def to_pandas(
        self,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        dtype_backend: DtypeBackend | None = None,
    ) -> pd.DataFrame:
        """Return the documents as a DataFrame, with the dtypes of :func:`~godb_arrow.read_godb`."""
        from godb_arrow.query.dataframe import to_frame, with_index

        chosen = with_index(self.schema, columns)
        return to_frame(self.to_arrow(chosen, filter), dtype_backend)

    def to_dataset(self) -> CollectionDataset:
        """Return a ``pyarrow.dataset.Dataset`` with projection and filter pushed down.

        Returns
        -------
        CollectionDataset

        Examples
        --------
        >>> import io, godb_arrow
        >>> import pyarrow.dataset as ds
        >>> file = io.BytesIO()
        >>> godb_arrow.write_godb([{"n": 1}, {"n": 2}], file, "c")
        2
        >>> dataset = godb_arrow.open_godb(file.getvalue()).to_dataset()
        >>> dataset.to_table(columns=["n"], filter=ds.field("n") > 1).to_pydict()
        {'n': [2]}
        """
        from godb_arrow.query.dataset import CollectionDataset

        return CollectionDataset(self)

    def __getitem__(self, field: str) -> pc.Expression:
        """Return a field as an expression, to build a filter with.

        Parameters
        ----------
        field : str
            Name of a field, or a dotted path into structs.

        Returns
        -------
        pyarrow.compute.Expression

        Raises
        ------
        FieldNotFound
            The field does not exist.

        Examples
        --------
        >>> import io, godb_arrow
        >>> file = io.BytesIO()
        >>> godb_arrow.write_godb([{"n": 1}, {"n": 2}], file, "c")
        2
        >>> c = godb_arrow.open_godb(file.getvalue())
        >>> c.to_arrow(["n"], (c["n"] > 1) & c["n"].is_valid()).to_pydict()
        {'n': [2]}
        """
        return pc.field(*path_of(self.schema, field))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        check_names(self.schema)
        if requested_schema is None:
            return self.stream_batches().__arrow_c_stream__()
        wanted = pa.Schema._import_from_c_capsule(requested_schema)
        own = self.schema
        if not set(wanted.names) <= set(own.names):
            return self.stream_batches().__arrow_c_stream__()  # the request is only best effort
        return self.stream_batches(wanted.names).cast(wanted).__arrow_c_stream__()

    def __arrow_c_schema__(self) -> object:
        check_names(self.schema)
        return self.schema.__arrow_c_schema__()

    def profile(self, columns: Sequence[str] | None = None, *, progress: bool = False) -> Profile:
        """Profile the fields: types, nulls, extremes, frequent and distinct values.

        Parameters
        ----------
        columns : sequence of str, optional
            Fields, and dotted paths into structs; default all.
        progress : bool
            Whether to show a progress bar in a terminal or a notebook.

        Returns
        -------
        Profile
            Profiles by field, from one pass over the documents in constant memory.

        Examples
        --------
        >>> import io, godb_arrow
        >>> file = io.BytesIO()
        >>> godb_arrow.write_godb([{"n": 1}, {"n": 2}, {}], file, "c")
        3
        >>> profile = godb_arrow.open_godb(file.getvalue()).profile(["n"])
        >>> field = profile["n"]
        >>> field.type, field.absent, field.min, field.max, field.distinct
        ('int64', 1, 1, 2, 2)
        """
        full, entries = self._entries()
        schema = full
        if columns is not None:
            full = with_wanted(full, columns, None, lambda: self._entries()[1])
            decoded = project(full, columns, None).decoded
            order = dict.fromkeys(name for name in columns if name in decoded.names)
            order |= dict.fromkeys(decoded.names)
            schema = pa.schema([decoded.field(name) for name in order], metadata=full.metadata)
        return profile_entries(self.name, schema, entries, total=len(self), progress=progress)

    def sql(self, query: str, parameters: Sequence[Any] | None = None) -> QueryResult:
        """Answer a query of SQL about the collection, with DuckDB.

        Parameters
        ----------
        query : str
            The query. The collection is the view ``self``, and also has its own name.
        parameters : sequence, optional
            Values of the placeholders ``?`` or ``$1``.

        Returns
        -------
        QueryResult
            Rows in memory, as Arrow, pandas or Polars.

        Raises
        ------
        InvalidQuery
            DuckDB refuses the query.
        MissingDependency
            DuckDB is not installed.

        Examples
        --------
        >>> import io, godb_arrow
        >>> file = io.BytesIO()
        >>> godb_arrow.write_godb([{"n": 1}, {"n": 2}], file, "c")
        2
        >>> godb_arrow.open_godb(file.getvalue()).sql("select max(n) as top from self").to_dicts()
        [{'top': 2}]
        """
        result: QueryResult = provider("sql").answer(
            {self.name: self, "self": self}, query, parameters
        )
        return result

    def aggregate(
        self,
        by: str | Sequence[str] | None = None,
        filter: Filter | None = None,
        **outputs: str | tuple[str, str],
    ) -> QueryResult:
        """Group the documents and aggregate each group, with DuckDB.

        Parameters
        ----------
        by : str or sequence of str, optional
            Fields of the groups, and dotted paths into maps. Default: one group of all documents.
        filter : pyarrow.compute.Expression or mapping, optional
            Documents to aggregate, default all.
        **outputs
            Aggregations by the name of their column: "count" of documents, or a field and one of
            "count", "distinct", "sum", "mean", "median", "std", "min", "max", "list".

        Returns
        -------
        QueryResult
            A row for each group, in the order of the groups.

        Raises
        ------
        InvalidOption
            An aggregation is unknown.
        InvalidQuery
            DuckDB cannot aggregate a field.
        MissingDependency
            DuckDB is not installed.

        Examples
        --------
        >>> import io, godb_arrow
        >>> file = io.BytesIO()
        >>> godb_arrow.write_godb([{"k": "a", "n": 1}, {"k": "b"}, {"k": "a", "n": 5}], file, "c")
        3
        >>> c = godb_arrow.open_godb(file.getvalue())
        >>> c.aggregate("k", rows="count", top=("n", "max")).to_dicts()
        [{'k': 'a', 'rows': 2, 'top': 5}, {'k': 'b', 'rows': 1, 'top': None}]
        """
        fields = [by] if isinstance(by, str) else by
        check_columns(fields)
        result: QueryResult = provider("sql").aggregate(self, list(fields or ()), filter, outputs)
        return result

    @abstractmethod
    def _entries(self) -> tuple[pa.Schema, Iterator[codec.Entries]]:
        """Return the schema of all documents, and their stored bytes in runs."""

    def stored_entries(self, filter: Filter | None = None) -> Iterator[codec.Entries]:
        """Yield the documents that match a filter unchanged, in runs: for exact copies."""
        schema, runs = self._entries()
        if filter is None:
            yield from runs
            return
        predicate = compiled(filter)
        if isinstance(predicate, Predicate):
            for run in runs:
                rows = codec.select(run, predicate)
                if len(rows):
                    yield codec.take(run, rows)
            return
        schema = with_wanted(schema, [], filter, lambda: self._entries()[1])
        projection = project(schema, [], filter)
        plan = codec.plan_columns(projection.decoded, exact=True)
        for run in runs:
            found = projection.matching(codec.decode_batch(run, plan))
            if found is not None and len(found):
                yield codec.take(run, found.to_numpy().astype(np.int64))

    def _ipython_key_completions_(self) -> list[str]:
        return paths_of(self.schema)
