"""Verbs of collections for engines: each takes the name of a collection first."""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

import pyarrow as pa

from godb_arrow.engine.collection import Collection
from godb_arrow.engine.info import CollectionInfo
from godb_arrow.file.explanation import Explanation
from godb_arrow.keywords import explain_methods
from godb_arrow.options import ReadKeywords
from godb_arrow.query.document_shape import Columns
from godb_arrow.query.filters import Filter
from godb_arrow.query.sort_order import Sort
from godb_arrow.snapshots.pages import Page
from godb_arrow.snapshots.streaming import DocumentStream
from godb_arrow.snapshots.versions import CollectionVersion, VersionInfo

if TYPE_CHECKING:
    import pandas as pd

    from godb_arrow.query.dataframe import DtypeBackend

__all__ = ["CollectionVerbs"]

_Default = TypeVar("_Default")


@explain_methods
class CollectionVerbs(ABC):
    """Verbs of :class:`Collection` that take the collection by name."""

    @abstractmethod
    def __getitem__(self, name: str) -> Collection: ...

    # --- reading ------------------------------------------------------------------------------

    @overload
    def get(self, name: str, identity: str | int) -> dict[Any, Any]: ...
    @overload
    def get(
        self, name: str, identity: str | int, default: _Default
    ) -> dict[Any, Any] | _Default: ...
    def get(self, name: str, identity: str | int, default: Any = ...) -> Any:
        """Return a document by its id; see :meth:`Collection.get`."""
        return self[name].get(identity, default)

    def find(
        self,
        name: str,
        filter: Filter | None = None,
        *,
        columns: Columns | None = None,
        sort: Sort | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[dict[Any, Any]]:
        """Return the documents that match a filter; see :meth:`Collection.find`."""
        return self[name].find(filter, columns=columns, sort=sort, limit=limit, offset=offset)

    def find_all(self, name: str) -> list[dict[Any, Any]]:
        """Return all documents; see :meth:`Collection.find_all`."""
        return self[name].find_all()

    def find_page(
        self,
        name: str,
        filter: Filter | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        sort: Sort | None = None,
    ) -> Page:
        """Return a page of documents; see :meth:`Collection.find_page`."""
        return self[name].find_page(filter, limit=limit, cursor=cursor, sort=sort)

    def find_all_stream(
        self,
        name: str,
        filter: Filter | None = None,
        *,
        columns: Columns | None = None,
        sort: Sort | None = None,
    ) -> DocumentStream:
        """Stream the documents one by one; see :meth:`Collection.find_all_stream`."""
        return self[name].find_all_stream(filter, columns=columns, sort=sort)

    def stream_batches(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        schema: pa.Schema | None = None,
        **options: Unpack[ReadKeywords],
    ) -> pa.RecordBatchReader:
        """Stream the documents as record batches; see :meth:`Collection.stream_batches`."""
        return self[name].stream_batches(columns, filter, schema, **options)

    def to_arrow(
        self, name: str, columns: Sequence[str] | None = None, filter: Filter | None = None
    ) -> pa.Table:
        """Return the documents as a table; see :meth:`Collection.to_arrow`."""
        return self[name].to_arrow(columns, filter)

    def to_pandas(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        dtype_backend: DtypeBackend | None = None,
    ) -> pd.DataFrame:
        """Return the documents as a DataFrame; see :meth:`Collection.to_pandas`."""
        return self[name].to_pandas(columns, filter, dtype_backend)

    def count(self, name: str, filter: Filter | None = None) -> int:
        """Return the number of documents that match a filter; see :meth:`Collection.count`."""
        return self[name].count(filter)

    def explain(self, name: str, filter: Filter | None = None) -> Explanation:
        """Return how a filter would be evaluated; see :meth:`Collection.explain`."""
        return self[name].explain(filter)

    def info(self, name: str) -> CollectionInfo:
        """Return state and sizes of a collection; see :meth:`Collection.info`."""
        return self[name].info()

    # --- changing -----------------------------------------------------------------------------

    def insert(self, name: str, document: Mapping[Any, Any]) -> str:
        """Insert a document; see :meth:`Collection.insert`."""
        return self[name].insert(document)

    def insert_many(
        self, name: str, data: Any, *, id_column: str | None = None, omit_nulls: bool = False
    ) -> Sequence[str]:
        """Insert documents; see :meth:`Collection.insert_many`."""
        return self[name].insert_many(data, id_column=id_column, omit_nulls=omit_nulls)

    def upsert_many(
        self, name: str, data: Any, *, id_column: str | None = None, omit_nulls: bool = False
    ) -> Sequence[str]:
        """Insert or replace documents; see :meth:`Collection.upsert_many`."""
        return self[name].upsert_many(data, id_column=id_column, omit_nulls=omit_nulls)

    def update(self, name: str, identity: str | int, fields: Mapping[Any, Any]) -> dict[Any, Any]:
        """Merge fields into a document; see :meth:`Collection.update`."""
        return self[name].update(identity, fields)

    def update_by_id(self, name: str, changes: Mapping[str, Mapping[Any, Any]]) -> int:
        """Merge fields into documents; see :meth:`Collection.update_by_id`."""
        return self[name].update_by_id(changes)

    def replace(self, name: str, identity: str | int, document: Mapping[Any, Any]) -> None:
        """Replace a document; see :meth:`Collection.replace`."""
        self[name].replace(identity, document)

    def delete(self, name: str, identity: str | int) -> None:
        """Delete a document; see :meth:`Collection.delete`."""
        self[name].delete(identity)

    def delete_many(self, name: str, filter: Filter | None, *, check_fields: bool = True) -> int:
        """Delete the documents that match a filter; see :meth:`Collection.delete_many`."""
        return self[name].delete_many(filter, check_fields=check_fields)

    # --- indexes, files and versions ----------------------------------------------------------

    def create_index(self, name: str, fields: str | Sequence[str], *, unique: bool = False) -> None:
        """Create an index on one or several fields; see :meth:`Collection.create_index`."""
        self[name].create_index(fields, unique=unique)

    def drop_index(self, name: str, fields: str | Sequence[str]) -> None:
        """Drop the index on one or several fields; see :meth:`Collection.drop_index`."""
        self[name].drop_index(fields)

    def pack(self, name: str) -> None:
        """Write a collection as a single file, which go-db reads; see :meth:`Collection.pack`."""
        self[name].pack()

    def versions(self, name: str) -> list[VersionInfo]:
        """Return the readable versions of a collection; see :meth:`Collection.versions`."""
        return self[name].versions()

    def at_version(self, name: str, version: int) -> CollectionVersion:
        """Return a collection as of an earlier save; see :meth:`Collection.at_version`."""
        return self[name].at_version(version)

    def snapshot(
        self,
        name: str,
        version: int | None = None,
        *,
        at: dt.datetime | dt.date | str | None = None,
        tag: str | None = None,
    ) -> CollectionVersion:
        """Return a collection at one moment; see :meth:`Collection.snapshot`."""
        return self[name].snapshot(version, at=at, tag=tag)

    def tag(self, name: str, tag: str, version: int | None = None) -> int:
        """Keep a version of a collection; see :meth:`Collection.tag`."""
        return self[name].tag(tag, version)

    def untag(self, name: str, tag: str) -> None:
        """Remove a tag of a collection; see :meth:`Collection.untag`."""
        self[name].untag(tag)

    def restore(self, name: str, version: int) -> None:
        """Return a collection to an earlier version; see :meth:`Collection.restore`."""
        self[name].restore(version)
