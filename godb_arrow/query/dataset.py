"""Collections as pyarrow datasets, for engines that push projections and filters down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Unpack

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from godb_arrow.errors import InvalidOption
from godb_arrow.options import ReadKeywords

__all__ = ["CollectionDataset", "ReadableCollection"]


class ReadableCollection(Protocol):
    """Collection as a dataset reads it, with a schema, a length and streams of record batches."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of the record batches."""

    def __len__(self) -> int: ...

    def stream_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
        schema: pa.Schema | None = None,
        **options: Unpack[ReadKeywords],
    ) -> pa.RecordBatchReader:
        """Return the documents that match a filter as record batches."""


class CollectionDataset(ds.Dataset):  # type: ignore[misc]
    """Dataset with a collection as its only fragment, read again by each scan.

    Projection and filter reach the decoder. DuckDB, DataFusion and others rely on methods of
    ``pyarrow.dataset.Dataset`` that no published protocol lists; tests check these.

    Parameters
    ----------
    collection : ReadableCollection
        Collection to read.
    """

    def __init__(self, collection: ReadableCollection) -> None:
        self._collection = collection

    @property
    def schema(self) -> pa.Schema:
        """Schema of the record batches."""
        return self._collection.schema

    def scanner(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
        **options: Any,
    ) -> ds.Scanner:
        """Return a scanner, as ``pyarrow.dataset.Dataset.scanner`` does."""
        return ds.Scanner.from_batches(self.reader(columns, filter, **options))

    def reader(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
        **options: Any,
    ) -> pa.RecordBatchReader:
        """Return a reader of a scan, without the threads of a ``Scanner``."""
        if isinstance(columns, dict):
            raise InvalidOption(
                "columns has expressions", advice="name columns, and compute on the batches"
            )
        chosen: ReadKeywords = (
            {"batch_size": options["batch_size"]} if options.get("batch_size") else {}
        )
        names = None if columns is None else list(columns)
        return self._collection.stream_batches(names, filter, **chosen)

    def get_fragments(self, filter: pc.Expression | None = None) -> Iterator[ds.Fragment]:
        """Yield the collection as one fragment."""
        yield _CollectionFragment(self._collection)

    def to_batches(self, **options: Any) -> Iterator[pa.RecordBatch]:
        """Return the record batches of a scan."""
        return self.scanner(**options).to_batches()  # type: ignore[no-any-return]

    def to_table(self, **options: Any) -> pa.Table:
        """Return the table of a scan."""
        return self.scanner(**options).to_table()

    def head(self, num_rows: int, **options: Any) -> pa.Table:
        """Return the first rows of a scan."""
        return self.scanner(**options).head(num_rows)

    def count_rows(self, filter: pc.Expression | None = None, **options: Any) -> int:
        """Return the number of documents that match a filter, or of all."""
        if filter is None:
            return len(self._collection)
        reader = self._collection.stream_batches([], filter)
        return sum(batch.num_rows for batch in reader)

    def __repr__(self) -> str:
        return f"<CollectionDataset of {self._collection!r}>"


class _CollectionFragment(ds.Fragment):  # type: ignore[misc]
    def __init__(self, collection: ReadableCollection) -> None:
        self._collection = collection

    @property
    def physical_schema(self) -> pa.Schema:
        return self._collection.schema

    @property
    def partition_expression(self) -> pc.Expression:
        return pc.scalar(True)

    def scanner(
        self,
        schema: pa.Schema | None = None,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
        **options: Any,
    ) -> ds.Scanner:
        return CollectionDataset(self._collection).scanner(columns, filter, **options)

    def count_rows(self, filter: pc.Expression | None = None, **options: Any) -> int:
        return CollectionDataset(self._collection).count_rows(filter)
