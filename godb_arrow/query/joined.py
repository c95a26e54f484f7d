"""Several collections, read as one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Unpack

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.display import Table, plural
from godb_arrow.errors import DocumentNotFound, document_not_found
from godb_arrow.options import ReadKeywords
from godb_arrow.query.filters import Filter
from godb_arrow.query.projection import project
from godb_arrow.query.scannable import Scannable
from godb_arrow.query.schema_join import join_schemas
from godb_arrow.schema import DocumentSummary, is_partial, shown_schema

__all__ = ["JoinedCollection"]

_MAX_TABLE_ROWS = 50  # collections in the table of a notebook


class JoinedCollection(Scannable):
    """Collections of several files or data directories, one after the other.

    :func:`~godb_arrow.open_godb` returns it for a list of paths, or a path such as
    ``"logs/*.godb"``. Its schema is the join of all documents. Documents with the same id in
    several collections are all read.

    Parameters
    ----------
    collections : sequence of Scannable
        The collections, at least one.

    Examples
    --------
    >>> import io, godb_arrow
    >>> files = [io.BytesIO(), io.BytesIO()]
    >>> for n, file in enumerate(files):
    ...     _ = godb_arrow.write_godb([{"n": n}], file, "numbers")
    >>> numbers = godb_arrow.open_godb([file.getvalue() for file in files])
    >>> numbers
    <JoinedCollection 'numbers' of 2 collections, 2 documents>
    >>> numbers.to_arrow(["n"]).column("n").to_pylist()
    [0, 1]
    """

    def __init__(self, collections: Sequence[Scannable]) -> None:
        self._collections = list(collections)

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedCollection, (self._collections,)

    @property
    def name(self) -> str:
        """Name of the first collection."""
        return self._collections[0].name

    @property
    def schema(self) -> pa.Schema:
        """Schema of the record batches."""
        return shown_schema(self._schema)

    @property
    def stored_schema(self) -> pa.Schema:
        """Schema of all documents, with what a copy of them records."""
        return self._schema

    @cached_property
    def _schema(self) -> pa.Schema:
        first, *others = (collection._entries()[0] for collection in self._collections)
        if all(other.equals(first) for other in others) and not is_partial(first):
            return _without_pandas(first)
        later = self._summary(1)
        joined = join_schemas(first, others, later, lambda: self._runs(0), self._summary)
        return _without_pandas(joined)

    def _runs(self, first: int) -> Iterator[codec.Entries]:
        """Yield the documents of all collections from one on, in runs."""
        for collection in self._collections[first:]:
            yield from collection._entries()[1]

    def _summary(self, first: int = 0) -> DocumentSummary:
        summary = DocumentSummary()
        for run in self._runs(first):
            codec.infer(run, summary)
        return summary

    def __len__(self) -> int:
        return sum(map(len, self._collections))

    def __iter__(self) -> Iterator[dict[Any, Any]]:
        return itertools.chain.from_iterable(self._collections)

    def get(self, identity: str) -> dict[Any, Any]:
        """Return a document by its id, from the last collection that has one.

        Raises
        ------
        DocumentNotFound
        """
        for collection in reversed(self._collections):
            with suppress(DocumentNotFound):
                document: dict[Any, Any] = collection.get(identity)  # type: ignore[attr-defined]
                return document
        raise document_not_found(identity)

    def stream_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        schema: pa.Schema | None = None,
        **options: Unpack[ReadKeywords],
    ) -> pa.RecordBatchReader:
        """Stream the documents of all collections; see :func:`~godb_arrow.scan_godb`."""
        given = self._schema if schema is None else schema
        shown = project(given, columns, filter).schema

        def batches() -> Iterator[pa.RecordBatch]:
            for collection in self._collections:
                with collection.stream_batches(columns, filter, given, **options) as reader:
                    for batch in reader:
                        yield batch.cast(shown) if not batch.schema.equals(shown) else batch

        return pa.RecordBatchReader.from_batches(shown, batches())

    def _entries(self) -> tuple[pa.Schema, Iterator[codec.Entries]]:
        return self.schema, self._runs(0)

    def close(self) -> None:
        """Close the files; the next use opens them again."""
        for collection in self._collections:
            close = getattr(collection, "close", None)
            if close is not None:
                close()

    def __repr__(self) -> str:
        return (
            f"<JoinedCollection {self.name!r} of {plural(len(self._collections), 'collection')}, "
            f"{plural(len(self), 'document')}>"
        )

    def _repr_html_(self) -> str:
        table = Table(["collection", "documents"], f"{plural(len(self), 'document')}")
        for collection in self._collections[:_MAX_TABLE_ROWS]:
            table.add(repr(collection), f"{len(collection):,}")
        if len(self._collections) > _MAX_TABLE_ROWS:
            table.add(f"… and {len(self._collections) - _MAX_TABLE_ROWS} more", "")
        return table.html()


def _without_pandas(schema: pa.Schema) -> pa.Schema:
    """Return a schema without the index of a single DataFrame."""
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key != b"pandas"}
    return schema.with_metadata(metadata or None)
