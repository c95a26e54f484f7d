"""Collection of a GODB file, opened for reading."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.display import Table, plural, quantity, without_secrets
from godb_arrow.file.explanation import Explanation
from godb_arrow.file.locate import StoredCollection, locate
from godb_arrow.file.reading import (
    read_document,
    read_documents,
    read_schema,
    read_table,
    scan_godb,
)
from godb_arrow.memory.limit import idle_files
from godb_arrow.options import ReadKeywords, ReadOptions
from godb_arrow.query.filters import Filter
from godb_arrow.query.projection import project
from godb_arrow.query.scannable import Scannable
from godb_arrow.recorded_schema import with_notes
from godb_arrow.storage.source import Location, Source, open_source

if TYPE_CHECKING:
    pass

__all__ = ["FileCollection", "open_godb"]


_open_files = idle_files()  # shared by all handles
_numbers = itertools.count(1)

_Result = TypeVar("_Result")


class _HandleFile:
    """File of a handle, closed while too many others are in use.

    Parameters
    ----------
    source : Source
        The file.
    options : ReadKeywords
        Options for reading.
    """

    def __init__(self, source: Source, options: ReadKeywords) -> None:
        self.source = source
        self.options = options
        self._number = next(_numbers)
        self._stored: StoredCollection | None = None

    def open(self, collection: str | None) -> StoredCollection:
        """Return the collection in the open file, or in the current one if it was closed."""
        stored = self._stored
        if stored is None:
            stored = locate(self.source, collection, ReadOptions(**self.options))
            self._stored = stored
        if stored.source is not self.source and _open_files.get(self._number) is None:
            _open_files.put(self._number, _Weak(self), 1)
        return stored

    def close(self) -> None:
        """Close the file as soon as nothing reads it."""
        self._stored = None


class _Weak:
    """Weak reference to an open file whose handle may be collected."""

    def __init__(self, file: _HandleFile) -> None:
        self._file = weakref.ref(file)

    def close_if_idle(self) -> None:
        """Close the file, unless it is in use."""
        file = self._file()
        if file is not None:
            file.close()


class FileCollection(Scannable):
    """Collection in a GODB file, whose documents are read each time and not cached.

    :func:`open_godb` returns it. A local file is open as long as the handle exists, and is
    unaffected when another process replaces or removes it. With many handles, the least recently
    used ones close their file. Their next use opens the current file of the same path.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada", "age": 36}], file, "users")
    1
    >>> users = godb_arrow.open_godb(file.getvalue())
    >>> users
    <FileCollection 'users' of <bytes>, 1 document>
    >>> users.to_arrow(["age"]).to_pydict()
    {'age': [36]}
    """

    def __init__(self, source: Source, collection: str | None, options: ReadKeywords) -> None:
        self._file = _HandleFile(source, options)
        self._options = options
        self._name = self._file.open(collection).name

    def __reduce__(self) -> tuple[Any, ...]:
        return FileCollection, (self._file.source, self._name, self._options)

    @property
    def _stored(self) -> StoredCollection:
        return self._file.open(self._name)

    @property
    def _source(self) -> Source:
        return self._stored.source

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self._name

    @property
    def schema(self) -> pa.Schema:
        """Schema of the record batches."""
        return read_schema(self._source, self._name, **self._options)

    @property
    def stored_schema(self) -> pa.Schema:
        """Schema of the documents for exact copies, with notes that only godb_arrow reads."""
        return with_notes(self.schema, self._stored.schema())

    def close(self) -> None:
        """Close the file as soon as nothing reads it; the next use opens it again."""
        self._file.close()

    def __len__(self) -> int:
        return self._stored.count

    def __iter__(self) -> Iterator[dict[Any, Any]]:
        return read_documents(self._source, self._name, **self._options)

    def get(self, identity: str) -> dict[Any, Any]:
        """Return one document by its id; see :func:`~godb_arrow.read_document`."""
        return read_document(self._source, identity, self._name, **self._options)

    def stream_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        schema: pa.Schema | None = None,
        **options: Unpack[ReadKeywords],
    ) -> pa.RecordBatchReader:
        """Stream record batches; see :func:`~godb_arrow.scan_godb`."""
        chosen: ReadKeywords = {**self._options, **options}
        return scan_godb(
            self._source, self._name, columns=columns, filter=filter, schema=schema, **chosen
        )

    def _entries(self) -> tuple[pa.Schema, Iterator[codec.Entries]]:
        stored = self._stored
        return project(stored.schema(), None, None).schema, stored.entries()

    def stored_entries(self, filter: Filter | None = None) -> Iterator[codec.Entries]:
        """Yield the documents that match a filter unchanged; only a filter needs the schema."""
        return self._stored.entries() if filter is None else super().stored_entries(filter)

    def map_entries(self, function: Callable[[codec.Entries], _Result]) -> Iterator[_Result]:
        """Apply a function to the stored documents in short runs, on all cores."""
        return self._stored.map_entries(function)

    def explain(self, filter: Filter | None = None) -> Explanation:
        """Explain how a filter is evaluated, and how much of the file it reads."""
        stored = self._stored
        wanted = None
        if filter is not None:
            wanted = stored.pieces_matching(project(stored.schema(), [], filter))
        return Explanation.of_pieces(stored.pieces(), wanted, stored.count)

    def to_arrow(
        self, columns: Sequence[str] | None = None, filter: Filter | None = None
    ) -> pa.Table:
        """Return the documents as a table."""
        return read_table(self._source, self._name, columns=columns, filter=filter, **self._options)

    def __repr__(self) -> str:
        documents = plural(len(self), "document")
        source = without_secrets(self._file.source.name)
        return f"<FileCollection {self._name!r} of {source}, {documents}>"

    def _repr_html_(self) -> str:
        table = Table(["collection", "documents", "file", "size"])
        size = self._source.size()
        table.add(
            self._name,
            f"{len(self):,}",
            self._source.name,
            "" if size is None else quantity(size),
        )
        return table.html()


def open_godb(
    source: Location | Source, collection: str | None = None, **options: Unpack[ReadKeywords]
) -> FileCollection:
    """Open a collection of a file; see :func:`godb_arrow.open_godb`."""
    return FileCollection(open_source(source), collection, options)
