"""A collection of a GODB file, opened for reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.display import Table, quantity
from godb_arrow.errors import InvalidOption
from godb_arrow.file.explanation import Explanation
from godb_arrow.file.locate import locate
from godb_arrow.file.reading import (
    read_document,
    read_documents,
    read_schema,
    read_table,
    scan_godb,
)
from godb_arrow.options import ReadKeywords, ReadOptions
from godb_arrow.query.filters import Filter
from godb_arrow.query.projection import project
from godb_arrow.query.scannable import Scannable
from godb_arrow.storage.source import Location, Source, open_source

if TYPE_CHECKING:
    pass

__all__ = ["FileCollection", "open_godb"]


class FileCollection(Scannable):
    """A collection in a GODB file, which is read anew each time; nothing of it is kept.

    Made by :func:`open_godb`.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada", "age": 36}], file, "users")
    1
    >>> users = godb_arrow.open_godb(file.getvalue())
    >>> users
    <FileCollection 'users' of <bytes>, 1 documents>
    >>> users.to_arrow(["age"]).to_pydict()
    {'age': [36]}
    """

    def __init__(self, source: Source, name: str, count: int, options: ReadKeywords) -> None:
        self._source = source
        self._name = name
        self._count = count
        self._options = options

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._name

    @property
    def schema(self) -> pa.Schema:
        """The schema of the record batches."""
        return read_schema(self._source, self._name, **self._options)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[Any, Any]]:
        return read_documents(self._source, self._name, **self._options)

    def get(self, identity: str) -> dict[Any, Any]:
        """One document by its id; see :func:`~godb_arrow.read_document`."""
        return read_document(self._source, identity, self._name, **self._options)

    def stream_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        schema: pa.Schema | None = None,
        **options: Unpack[ReadKeywords],
    ) -> pa.RecordBatchReader:
        """See :func:`~godb_arrow.scan_godb`."""
        chosen: ReadKeywords = {**self._options, **options}
        return scan_godb(
            self._source, self._name, columns=columns, filter=filter, schema=schema, **chosen
        )

    def _entries(self) -> tuple[pa.Schema, Iterator[codec.Entries]]:
        stored = locate(self._source, self._name, ReadOptions(**self._options))
        return self.schema, stored.entries()

    def explain(self, filter: Filter | None = None) -> Explanation:
        """How a filter would be evaluated: how much of the file need not be read."""
        stored = locate(self._source, self._name, ReadOptions(**self._options))
        wanted = None
        if filter is not None:
            wanted = stored.pieces_matching(project(stored.schema(), [], filter))
        return Explanation.of_pieces(stored.pieces(), wanted, self._count)

    def to_arrow(
        self, columns: Sequence[str] | None = None, filter: Filter | None = None
    ) -> pa.Table:
        """The documents as a table."""
        return read_table(self._source, self._name, columns=columns, filter=filter, **self._options)

    def __repr__(self) -> str:
        return f"<FileCollection {self._name!r} of {self._source.name}, {self._count:,} documents>"

    def _repr_html_(self) -> str:
        table = Table(["collection", "documents", "file", "size"])
        size = self._source.size()
        table.add(
            self._name,
            f"{self._count:,}",
            self._source.name,
            "" if size is None else quantity(size),
        )
        return table.html()


def open_godb(
    source: Location | Source, collection: str | None = None, **options: Unpack[ReadKeywords]
) -> FileCollection:
    """Open a collection of a GODB file, to be read as often as wanted.

    Parameters
    ----------
    source : path, URL, bytes or open binary file
        The GODB file.
    collection : str, optional
        Which collection. May be left out when the file has one only.
    **options
        As for :func:`scan_godb`.

    Returns
    -------
    FileCollection

    Raises
    ------
    CollectionNotFound, CollectionRequired, FormatError, StorageError

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada", "age": 36}], file, "users")
    1
    >>> users = godb_arrow.open_godb(file.getvalue())
    >>> import pyarrow as pa
    >>> pa.table(users).num_rows  # anything that takes an Arrow stream takes it
    1
    """
    if isinstance(collection, (list, tuple)):
        raise InvalidOption("collection is several names", advice="open them one by one")
    held = open_source(source)
    stored = locate(held, collection, ReadOptions(**options))
    return FileCollection(held, stored.name, stored.count, options)
