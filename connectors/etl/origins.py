"""Sources of a copy that godb_arrow reads: collections, documents, columns, data directories."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from godb_arrow.connectors.etl.base import Data, Documents, Origin
from godb_arrow.file.collection import open_godb
from godb_arrow.file.writing import write_godb
from godb_arrow.query.filters import Filter
from godb_arrow.query.projection import narrow
from godb_arrow.query.scannable import Scannable
from godb_arrow.schema import is_json

__all__ = ["CollectionOrigin", "ColumnsOrigin", "DocumentsOrigin"]


class CollectionOrigin(Origin):
    """Collection as the source of a copy."""

    def __init__(self, collection: Scannable, name: str, batch_size: int | None) -> None:
        self.name = name
        self._collection = collection
        self._options: Any = {} if batch_size is None else {"batch_size": batch_size}

    def total(self) -> int:
        """Return the number of documents, if known."""
        return len(self._collection)

    def conflicts(self) -> list[str]:
        """Return the fields whose values have several types."""
        return [field.name for field in self._collection.schema if is_json(field.type)]

    @contextmanager
    def opened(
        self, as_documents: bool, columns: Sequence[str] | None, filter: Filter | None
    ) -> Iterator[Data]:
        """Open the source as documents or record batches."""
        collection = self._collection
        if as_documents and columns is None:
            yield Documents(collection.stored_schema, collection.stored_entries(filter))
            return
        with collection.stream_batches(columns, filter, **self._options) as reader:
            yield reader


class DocumentsOrigin(Origin):
    """Documents outside of GODB files, which become columns by way of a temporary GODB file."""

    def __init__(self, name: str, open: Callable[[], Any], batch_size: int | None) -> None:
        self.name = name
        self._open = open
        self._batch_size = batch_size
        self._mixed: list[str] = []

    def conflicts(self) -> list[str]:
        """Return the fields whose values have several types."""
        return self._mixed

    @contextmanager
    def opened(
        self, as_documents: bool, columns: Sequence[str] | None, filter: Filter | None
    ) -> Iterator[Data]:
        """Open the source as documents or record batches."""
        with self._open() as documents:
            if as_documents and columns is None and filter is None:
                yield documents
                return
            with tempfile.TemporaryDirectory(prefix="godb-arrow-") as folder:
                path = os.path.join(folder, "documents.godb")
                write_godb(documents, path, "documents")
                inner = CollectionOrigin(open_godb(path), self.name, self._batch_size)
                self._mixed = inner.conflicts()
                with inner.opened(as_documents, columns, filter) as data:
                    yield data


class ColumnsOrigin(Origin):
    """Record batches from a function, given the names of columns or None for all."""

    def __init__(
        self, name: str, open: Callable[[], Any], batch_size: int | None, total: int | None = None
    ) -> None:
        self.name = name
        self._open = open
        self._batch_size = batch_size
        self._total = total

    def total(self) -> int | None:
        """Return the number of documents, if known."""
        return self._total

    @contextmanager
    def opened(
        self, as_documents: bool, columns: Sequence[str] | None, filter: Filter | None
    ) -> Iterator[Data]:
        """Open the source as documents or record batches."""
        with self._open() as reader:
            narrowed = narrow(reader, columns, filter)
            size = self._batch_size
            if size is None:
                yield narrowed
                return
            cut = (
                batch.slice(at, size) for batch in narrowed for at in range(0, batch.num_rows, size)
            )
            yield pa.RecordBatchReader.from_batches(narrowed.schema, cut)
