"""Verbs of a collection that is read from snapshots."""

from __future__ import annotations

import random
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Unpack

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.documents.loading import load_run
from godb_arrow.errors import InvalidOption, error_context
from godb_arrow.file.explanation import Explanation
from godb_arrow.options import ReadKeywords, ReadOptions
from godb_arrow.query.document_shape import Columns, shape_of
from godb_arrow.query.fields import is_storable
from godb_arrow.query.filters import Filter
from godb_arrow.query.scannable import Scannable
from godb_arrow.query.sort_order import Sort, parse_sort
from godb_arrow.recorded_schema import with_notes
from godb_arrow.schema import shown_schema
from godb_arrow.snapshots.distinct import distinct_values
from godb_arrow.snapshots.find import check_columns, count_matching, explain
from godb_arrow.snapshots.index_names import IndexDefinition, definitions_of
from godb_arrow.snapshots.pages import Page, page_after, sorted_page_after
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.sorting import SortedDocuments, sampled
from godb_arrow.snapshots.streaming import BatchStream, DocumentStream

__all__ = ["SnapshotCollection", "snapshot_of"]

_MAX_ROWS = 1 << 61  # of a limit and an offset, so that their sum fits 64 bits


class SnapshotCollection(Scannable):
    """A collection that is read from snapshots: a verb sees one state from beginning to end."""

    @abstractmethod
    def _snapshot(self) -> Snapshot:
        """Return the documents to read."""

    @property
    @abstractmethod
    def _indexed(self) -> tuple[str, ...]:
        """Names of the sorted keys of all indexes."""

    @property
    def indexes(self) -> tuple[str, ...]:
        """Indexed fields, joined by ", " for a compound index."""
        return tuple(index.name for index in self.list_indexes())

    def list_indexes(self) -> list[IndexDefinition]:
        """Return the indexes, with their fields, and whether they are unique.

        Returns
        -------
        list of IndexDefinition
        """
        return definitions_of(self._indexed)

    def _find_in_memory(self, filter: Filter, limit: int) -> list[dict[Any, Any]] | None:
        """Return the first documents that match, all with -1; None where a stream must search."""
        del filter, limit
        return None

    def _count_in_memory(self, filter: Filter) -> int | None:
        """Return the number of documents that match; None where a stream must search."""
        del filter
        return None

    @property
    def _open_streams(self) -> weakref.WeakSet[Any] | None:
        """Set that each new stream joins, if there is one."""
        return None

    @property
    def _threads(self) -> int | None:
        """Default number of threads of a stream."""
        return None

    @property
    def schema(self) -> pa.Schema:
        """Schema of the record batches."""
        with error_context("read", collection=self.name):
            return shown_schema(self._snapshot().schema())

    @property
    def stored_schema(self) -> pa.Schema:
        """Schema of the documents for exact copies, with notes that only godb_arrow reads."""
        with error_context("read", collection=self.name):
            return with_notes(self.schema, self._snapshot().schema())

    def find(
        self,
        filter: Filter | None = None,
        *,
        columns: Columns | None = None,
        sort: Sort | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[dict[Any, Any]]:
        """Return the documents that match a filter.

        Parameters
        ----------
        filter : pyarrow.compute.Expression or mapping, optional
            Filter. In a mapping, ``{"city": "Berlin"}`` is an equality, a list is any of its
            values, and None is null or absent. Default: all documents.
        columns : sequence of str, or mapping, optional
            Fields, and dotted paths into maps, default all. ``{"secret": 0}`` drops a field, and
            ``{"name": 1}`` keeps it beside ``_id``.
        sort : str, sequence or mapping, optional
            Order, default as stored: ``"age"``, ``["city", "-age"]``, ``{"age": -1}``, or tuples
            of a field, a direction and ``"first"`` or ``"last"`` for nulls. Equal documents are
            ordered by id.
        limit : int, optional
            Max number of documents, default unlimited.
        offset : int
            Number of documents to skip, default 0.

        Returns
        -------
        list of dict

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.find({"name": "Ada"}, columns=["age"])
        [{'age': 36}]
        >>> users.find(sort="-age", columns={"_id": 0}, limit=1)
        [{'name': 'Bob', 'age': 41}]
        >>> engine.close()
        """
        if limit is not None or offset or type(offset) is not int:
            _check_numbers(limit, offset)
            limit = None if limit is None else min(limit, _MAX_ROWS)
            offset = min(offset, _MAX_ROWS)
        if filter is not None and sort is None:
            shape = None if columns is None else shape_of(columns)
            found = self._find_in_memory(filter, -1 if limit is None else limit + offset)
            if found is not None:
                found = found[offset:] if offset else found
                return found if shape is None else self._shaped(found, columns, shape)
        most = None if limit is None else limit + offset
        with self._stream(filter, columns, sort, most) as stream:
            documents: list[dict[Any, Any]] = []
            if limit == 0:
                return documents
            for position, document in enumerate(stream):
                if position >= offset:
                    documents.append(document)
                    if limit is not None and len(documents) == limit:
                        break
            return documents

    def _shaped(
        self,
        documents: Sequence[dict[Any, Any]],
        columns: Columns | None,
        shape: Callable[[dict[Any, Any]], dict[Any, Any]],
    ) -> list[dict[Any, Any]]:
        """Return some fields of documents; raise if no document has had one of the fields."""
        shaped = list(map(shape, documents))
        names = () if columns is None or isinstance(columns, Mapping) else columns
        absent = [name for name in names if not any(name in document for document in shaped)]
        if absent:
            with error_context("read", collection=self.name):
                check_columns(self._snapshot(), absent)
        return shaped

    def find_all(self) -> list[dict[Any, Any]]:
        """Return all documents; :meth:`find_all_stream` reads them one by one."""
        return self.find()

    def find_one(
        self,
        filter: Filter | None = None,
        *,
        columns: Columns | None = None,
        sort: Sort | None = None,
    ) -> dict[Any, Any] | None:
        """Return the first document that matches a filter, or None.

        Parameters
        ----------
        filter, columns, sort
            See :meth:`find`.

        Returns
        -------
        dict or None

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.find_one(sort="-age")
        {'_id': '2', 'name': 'Bob', 'age': 41}
        >>> print(users.find_one({"name": "Eve"}))
        None
        >>> engine.close()
        """
        found = self.find(filter, columns=columns, sort=sort, limit=1)
        return found[0] if found else None

    def distinct(self, field: str, filter: Filter | None = None) -> list[Any]:
        """Return the distinct values of a field.

        Parameters
        ----------
        field : str
            Field, or a dotted path into maps.
        filter : pyarrow.compute.Expression or mapping, optional
            Filter, as for :meth:`find`.

        Returns
        -------
        list
            Values in the order in which they sort. A list counts by its elements. Absent fields do
            not count, and null does.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"tags": ["a", "c"]}, {"tags": "b"}, {"tags": ["a"]}])
        >>> users.distinct("tags")
        ['a', 'b', 'c']
        >>> engine.close()
        """
        if not isinstance(field, str) or not field or not is_storable(field):
            raise InvalidOption(f"field is {field!r}", advice="give the name of a field")
        snapshot = self._snapshot()
        with error_context("read", collection=self.name):
            return distinct_values(snapshot, field, filter, self._indexed)

    def sample(self, size: int, *, seed: int | None = None) -> list[dict[Any, Any]]:
        """Return random documents, each at most once.

        Parameters
        ----------
        size : int
            Number of documents. A smaller collection is returned as a whole.
        seed : int, optional
            Seed of the choice. The same seed chooses the same documents of an unchanged collection.

        Returns
        -------
        list of dict
            Documents in the order in which they are stored.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> numbers = engine.create_collection("numbers")
        >>> _ = numbers.insert_many([{"n": n} for n in range(100)])
        >>> len(numbers.sample(3))
        3
        >>> engine.close()
        """
        _check_numbers(size, 0)
        snapshot = self._snapshot()
        with error_context("read", collection=self.name):
            count = snapshot.count
            chosen = sorted(random.Random(seed).sample(range(count), min(size, count)))
            return [one for run in sampled(snapshot, chosen) for one in load_run(run)]

    def find_page(
        self,
        filter: Filter | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        sort: Sort | None = None,
    ) -> Page:
        """Return a page of documents, in the order of their ids by default.

        Parameters
        ----------
        filter : pyarrow.compute.Expression or mapping, optional
            Filter, as for :meth:`find`.
        limit : int
            Max number of documents, at least 1, default 100.
        cursor : str, optional
            Cursor of the previous page. It stays valid whatever changes in between.
        sort : str, sequence or mapping, optional
            Order, as for :meth:`find`; the same for all pages.

        Returns
        -------
        Page

        Raises
        ------
        InvalidCursor
            No page in this order had the cursor.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> page = users.find_page(limit=1)
        >>> page.documents
        [{'_id': '1', 'name': 'Ada', 'age': 36}]
        >>> users.find_page(cursor=page.cursor).documents
        [{'_id': '2', 'name': 'Bob', 'age': 41}]
        >>> engine.close()
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidOption(f"limit is {limit!r}", advice="give a whole number of at least 1")
        snapshot = self._snapshot()
        with error_context("read", collection=self.name):
            if sort is not None:
                keys = parse_sort(sort)
                return sorted_page_after(snapshot, cursor, limit, filter, self._indexed, keys)
            snapshot.base.documents()
            return page_after(snapshot, cursor, limit, filter, self._indexed)

    def find_all_stream(
        self,
        filter: Filter | None = None,
        *,
        columns: Columns | None = None,
        sort: Sort | None = None,
    ) -> DocumentStream:
        """Stream the documents one by one, in constant memory.

        Parameters
        ----------
        filter, columns, sort
            See :meth:`find`. Sorted documents beyond an eighth of the memory limit wait in
            temporary files.

        Returns
        -------
        DocumentStream
            An iterator, also with ``async for``. It reads the state of the collection from when it
            was opened.
        """
        return self._stream(filter, columns, sort, None)

    def _stream(
        self,
        filter: Filter | None,
        columns: Columns | None,
        sort: Sort | None,
        most: int | None,
    ) -> DocumentStream:
        """Stream the documents; sorted ones up to a number."""
        shape = shape_of(columns)
        order = None if sort is None else SortedDocuments(parse_sort(sort), most)
        snapshot = self._snapshot()
        if columns is not None and not isinstance(columns, Mapping):
            with error_context("stream", collection=self.name):
                check_columns(snapshot, columns)
        return DocumentStream(
            snapshot,
            self.name,
            condition=filter,
            indexed=self._indexed,
            shape=shape,
            opened=self._open_streams,
            order=order,
        )

    def __iter__(self) -> Iterator[dict[Any, Any]]:
        return iter(self.find_all_stream())

    def count(self, filter: Filter | None = None) -> int:
        """Return the number of documents, or of those that match a filter."""
        if filter is None:
            return len(self)
        number = self._count_in_memory(filter)
        if number is not None:
            return number
        snapshot = self._snapshot()
        with error_context("read", collection=self.name):
            return count_matching(snapshot, filter, self._indexed)

    def explain(self, filter: Filter | None = None) -> Explanation:
        """Return how a filter would be evaluated, and which index it would use."""
        snapshot = self._snapshot()
        with error_context("explain", collection=self.name):
            return explain(snapshot, filter, self._indexed)

    def stream(
        self,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        schema: pa.Schema | None = None,
        **options: Unpack[ReadKeywords],
    ) -> BatchStream:
        """Stream the documents as record batches, in constant memory.

        Parameters
        ----------
        columns, filter, schema, **options
            See :func:`~godb_arrow.scan_godb`.

        Returns
        -------
        BatchStream
            An iterator, also with ``async for``; ``reader()`` makes it a
            ``pyarrow.RecordBatchReader``. It reads the state of the collection from when it was
            opened.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> [batch.num_rows for batch in users.stream(columns=["age"])]
        [2]
        >>> engine.close()
        """
        if self._threads is not None:
            options.setdefault("threads", self._threads)
        return BatchStream(
            self._snapshot(),
            self.name,
            columns=columns,
            condition=filter,
            schema=schema,
            options=ReadOptions(**options),
            indexed=self._indexed,
            opened=self._open_streams,
        )

    def stream_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        schema: pa.Schema | None = None,
        **options: Unpack[ReadKeywords],
    ) -> pa.RecordBatchReader:
        """Stream the documents as a ``pyarrow.RecordBatchReader``; see :meth:`stream`."""
        return self.stream(columns, filter, schema, **options).reader()

    def _entries(self) -> tuple[pa.Schema, Iterator[codec.Entries]]:
        snapshot = self._snapshot()
        return shown_schema(snapshot.schema()), snapshot.entries()


def _check_numbers(limit: int | None, offset: int) -> None:
    for name, value in (("limit", limit), ("offset", offset)):
        if name == "limit" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidOption(f"{name} is {value!r}", advice="give a whole number")


def snapshot_of(collection: SnapshotCollection) -> Snapshot:
    """Return the current documents of a collection, for exact copies."""
    return collection._snapshot()
