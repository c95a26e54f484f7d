"""Verbs that change the documents of a collection."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from godb_arrow import codec
from godb_arrow.documents.ids import id_of
from godb_arrow.engine.writer import CollectionWriter
from godb_arrow.errors import InvalidDocument, InvalidOption
from godb_arrow.query.filters import Filter
from godb_arrow.snapshots.readable import SnapshotCollection

__all__ = ["EditableCollection"]


class EditableCollection(SnapshotCollection):
    """Collection whose documents can be changed: in an engine, or in a transaction.

    Attributes
    ----------
    _writer : CollectionWriter
        Makes the changes.
    """

    _writer: CollectionWriter

    @abstractmethod
    def insert(self, document: Mapping[Any, Any]) -> str:
        """Insert a document, and return its id."""

    def insert_many(
        self, data: Any, *, id_column: str | None = None, omit_nulls: bool = False
    ) -> Sequence[str]:
        """Insert documents: all of them or, on an error, none.

        Parameters
        ----------
        data : iterable of dicts, DataFrame, Table, RecordBatchReader or Arrow stream
            The documents. If they exceed memory, they are written as files while they are read,
            and become visible at the end.
        id_column : str, optional
            Field with the ids, strings or integers, default ``_id``.
        omit_nulls : bool
            Whether nulls of a table become absent fields instead of nil, default False.

        Returns
        -------
        sequence of str
            Document ids: a list or, for very many documents, a sequence that takes less memory.

        Raises
        ------
        DuplicateId
            Ids occur twice, or exist already.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> import pandas as pd
        >>> users.insert_many(pd.DataFrame({"name": ["Ada", "Bob"]}))
        ['1', '2']
        >>> engine.close()
        """
        return self._writer.insert_many("insert", data, id_column, omit_nulls, replace=False)

    def upsert_many(
        self, data: Any, *, id_column: str | None = None, omit_nulls: bool = False
    ) -> Sequence[str]:
        """Insert documents, and replace those with the same ids: all of them or, on an error, none.

        Parameters
        ----------
        data, id_column, omit_nulls
            See :meth:`insert_many`.

        Returns
        -------
        list of str
            Document ids.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.upsert_many([{"_id": 2, "name": "Bo"}, {"_id": 3, "name": "Cy"}])
        ['2', '3']
        >>> len(users)
        3
        >>> engine.close()
        """
        return self._writer.insert_many("upsert", data, id_column, omit_nulls, replace=True)

    def update(self, identity: str | int, fields: Mapping[Any, Any]) -> dict[Any, Any]:
        """Merge fields into a document.

        Parameters
        ----------
        identity : str or int
            Document id.
        fields : mapping
            Fields to set. Other fields of the document stay unchanged.

        Returns
        -------
        dict
            The new document.

        Raises
        ------
        DocumentNotFound
            No document has the id.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.update("1", {"age": 37})
        {'_id': '1', 'name': 'Ada', 'age': 37}
        >>> engine.close()
        """
        key = id_of(identity, "the document to update")
        return self._writer.update({key: fields})[key]

    def update_by_id(self, changes: Mapping[str, Mapping[Any, Any]]) -> int:
        """Merge fields into documents: into all of them or, on an error, none.

        Parameters
        ----------
        changes : mapping of str to mapping
            Fields to set, by document id.

        Returns
        -------
        int
            Number of changed documents.

        Raises
        ------
        DocumentNotFound
            No document has one of the ids.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.update_by_id({"1": {"age": 37}, "2": {"age": 42}})
        2
        >>> engine.close()
        """
        if not isinstance(changes, Mapping):
            raise InvalidOption(
                f"cannot update by a {type(changes).__name__}", advice="give {id: fields, …}"
            )
        by_id = {id_of(key, "a document to update"): fields for key, fields in changes.items()}
        self._writer.update(by_id)
        return len(by_id)

    def replace(self, identity: str | int, document: Mapping[Any, Any]) -> None:
        """Replace a document.

        Parameters
        ----------
        identity : str or int
            Document id, which stays.
        document : mapping
            The new document.

        Raises
        ------
        DocumentNotFound
            No document has the id.
        """
        key = id_of(identity, "the document to replace")
        if not isinstance(document, Mapping):
            raise InvalidDocument(
                f"the document is a {type(document).__name__}", advice="give a mapping"
            )
        made = codec.with_id(dict(document), key)
        self._writer.replace([key], lambda _, __: made, "replace")

    def delete(self, identity: str | int) -> None:
        """Delete a document.

        Parameters
        ----------
        identity : str or int
            Document id.

        Raises
        ------
        DocumentNotFound
            No document has the id.
        """
        self._writer.delete(id_of(identity, "the document to delete"))

    def delete_many(self, filter: Filter | None, *, check_fields: bool = True) -> int:
        """Delete the documents that match a filter, all at once.

        Parameters
        ----------
        filter : pyarrow.compute.Expression, mapping or None
            Filter, as for :meth:`find`. None deletes all documents.
        check_fields : bool
            Whether to refuse mappings with a field that the collection never had, default True.

        Returns
        -------
        int
            Number of deleted documents.

        Raises
        ------
        FieldNotFound
            The collection never had a field of the filter.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.delete_many({"name": ["Ada", "Eve"]})
        1
        >>> engine.close()
        """
        return self._writer.delete_many(filter, check_fields=check_fields)
