"""Verbs that change the documents of a collection."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from godb_arrow.display import kind_of
from godb_arrow.documents.ids import id_of
from godb_arrow.engine.deleter import CollectionDeleter
from godb_arrow.engine.updater import CollectionUpdater, UpdateResult, Wanted
from godb_arrow.engine.writer import CollectionWriter, replacement
from godb_arrow.errors import InvalidOption
from godb_arrow.query.filters import Filter
from godb_arrow.query.sort_order import Sort
from godb_arrow.query.update import Changes, Update
from godb_arrow.snapshots.readable import SnapshotCollection

__all__ = ["EditableCollection"]


class EditableCollection(SnapshotCollection):
    """Collection whose documents can be changed: in an engine, or in a transaction.

    Attributes
    ----------
    _writer : CollectionWriter
        Inserts and replaces documents.
    _deleter : CollectionDeleter
        Deletes documents.
    _updater : CollectionUpdater
        Makes changes by filters.
    """

    _writer: CollectionWriter
    _deleter: CollectionDeleter
    _updater: CollectionUpdater

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
        """Merge fields into a document, or change it by operators.

        Parameters
        ----------
        identity : str or int
            Document id.
        fields : mapping
            Fields to set, or operators such as ``{"$inc": {"age": 1}}``; see :meth:`update_many`.
            Other fields of the document stay unchanged.

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
        >>> users.update("1", {"$inc": {"age": 1}, "$unset": {"name": 1}})
        {'_id': '1', 'age': 38}
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
                f"cannot update by {kind_of(changes)}", advice="give {id: fields, …}"
            )
        by_id = {id_of(key, "a document to update"): fields for key, fields in changes.items()}
        self._writer.update(by_id)
        return len(by_id)

    def update_one(
        self,
        filter: Filter | None,
        changes: Changes,
        *,
        upsert: bool = False,
        sort: Sort | None = None,
    ) -> UpdateResult:
        """Change the first document that matches a filter.

        Parameters
        ----------
        filter, changes, upsert
            See :meth:`update_many`.
        sort : str, sequence or mapping, optional
            Order in which a document is the first, as for :meth:`find`.

        Returns
        -------
        UpdateResult
        """
        wanted = Wanted(filter, Update(changes), True, sort, upsert)
        return self._updater.update(wanted)[0]

    def update_many(
        self, filter: Filter | None, changes: Changes, *, upsert: bool = False
    ) -> UpdateResult:
        """Change the documents that match a filter: all of them or, on an error, none.

        Parameters
        ----------
        filter : pyarrow.compute.Expression, mapping or None
            Filter, as for :meth:`find`. None changes all documents.
        changes : mapping
            Operators, each with its operand by dotted path. They are ``$set``, ``$unset``,
            ``$inc``, ``$min``, ``$max``, ``$rename``, ``$push``, ``$addToSet``, ``$pull`` and
            ``$setOnInsert``.
        upsert : bool
            Whether to insert a document if none matches, default False. It has the values that the
            filter requires.

        Returns
        -------
        UpdateResult

        Raises
        ------
        InvalidUpdate
            An operator is unknown, or a document has a value that it cannot change.
        FieldNotFound
            The collection never had a field of the filter, and this is no upsert.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.update_many({"age": {"$gt": 40}}, {"$inc": {"age": 1}, "$set": {"home.zip": "1"}})
        UpdateResult(matched=1, modified=1, upserted=None)
        >>> users.get("2")
        {'_id': '2', 'name': 'Bob', 'age': 42, 'home': {'zip': '1'}}
        >>> engine.close()
        """
        return self._updater.update(Wanted(filter, Update(changes), upsert=upsert))[0]

    def find_one_and_update(
        self,
        filter: Filter | None,
        changes: Changes,
        *,
        sort: Sort | None = None,
        upsert: bool = False,
        return_new: bool = False,
    ) -> dict[Any, Any] | None:
        """Change the first document that matches a filter, and return it.

        Two threads never change the same state of a document. So this takes work from a queue.

        Parameters
        ----------
        filter, changes, sort, upsert
            See :meth:`update_one`.
        return_new : bool
            Whether to return the document after the change, default False.

        Returns
        -------
        dict or None
            None if no document matched; with an upsert, the inserted one if `return_new`.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> jobs = engine.create_collection("jobs")
        >>> _ = jobs.insert_many([{"state": "new"}, {"state": "new"}])
        >>> jobs.find_one_and_update({"state": "new"}, {"$set": {"state": "taken"}}, sort="-_id")
        {'_id': '2', 'state': 'new'}
        >>> engine.close()
        """
        wanted = Wanted(filter, Update(changes), True, sort, upsert)
        found = self._updater.update(wanted)[1]
        return found.after if return_new else found.before

    def compare_and_swap(
        self, identity: str | int, expected: Mapping[Any, Any], document: Mapping[Any, Any]
    ) -> bool:
        """Replace a document if it is still the expected one.

        Parameters
        ----------
        identity : str or int
            Document id.
        expected : mapping
            The document as it was read. Numbers are equal by value, maps in any order of keys.
        document : mapping
            The new document.

        Returns
        -------
        bool
            Whether the document was replaced.

        Raises
        ------
        DocumentNotFound
            No document has the id.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert({"n": 1})
        >>> read = users.get("1")
        >>> users.compare_and_swap("1", read, {"n": 2}), users.compare_and_swap("1", read, {"n": 3})
        (True, False)
        >>> engine.close()
        """
        key = id_of(identity, "the document to replace")
        return self._writer.swap(key, expected, document)

    def replace(self, identity: str | int, document: Mapping[Any, Any]) -> None:
        """Replace a document.

        Parameters
        ----------
        identity : str or int
            Document id, which stays.
        document : mapping
            The new document, without ``_id`` or with the same.

        Raises
        ------
        DocumentNotFound
            No document has the id.
        InvalidDocument
            The new document has another id.
        """
        key = id_of(identity, "the document to replace")
        made = replacement(key, document)
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
        self._deleter.delete(id_of(identity, "the document to delete"))

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
        return self._deleter.delete_many(filter, check_fields=check_fields)
