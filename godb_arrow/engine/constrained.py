"""Verbs that set the indexes, the validation and the lifetimes of a collection."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

from godb_arrow.engine.editing import EditableCollection
from godb_arrow.engine.expirer import Expirer
from godb_arrow.engine.indexing import add_index, check_searchable, index_on
from godb_arrow.engine.refresher import Refresher
from godb_arrow.engine.rule_changes import set_expiry, set_validation
from godb_arrow.engine.rules import Rules
from godb_arrow.engine.store import CollectionStore
from godb_arrow.engine.validation import Validation, violations
from godb_arrow.errors import SchemaViolation
from godb_arrow.options import parse_lifetime
from godb_arrow.snapshots.indexes import check_indexable

__all__ = ["ConstrainedCollection"]


class ConstrainedCollection(EditableCollection):
    """Collection of an engine, with its indexes, its validation and its lifetimes.

    Attributes
    ----------
    _store : CollectionStore
        State of the collection.
    _refresher : Refresher
        Reads the directory again where another process writes it.
    _expirer : Expirer
        Deletes expired documents.
    """

    _store: CollectionStore
    _refresher: Refresher
    _expirer: Expirer

    def create_index(self, fields: str | Sequence[str], *, unique: bool = False) -> None:
        """Create an index on one or several fields, if there is none.

        Filters on the field then test only the documents that the index selects. Unsaved documents
        are indexed, too, if there are more than a few. An index of several fields serves filters
        for values of the first ones, and for a range of the field after them.

        Parameters
        ----------
        fields : str or sequence of str
            A field, or a dotted path into maps; or several of them.
        unique : bool
            Whether no two documents may have the same values, default False. A document in which a
            field is null or absent has no value. Each element of a list is a value.

        Raises
        ------
        DuplicateValue
            With `unique`, two documents have the same values.
        InvalidFilter
            A field has maps, or a name that filters cannot search.
        InvalidDocument
            With `unique`, a document has a map or an extension value in a field, or its lists have
            too many combinations.

        Examples
        --------
        >>> import tempfile, godb_arrow
        >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
        >>> users = engine.create_collection("users")
        >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
        >>> users.create_index("name")
        >>> engine.save()
        >>> users.explain({"name": "Ada"}).index
        'name'
        >>> engine.close()
        """
        index = index_on(fields, unique=unique)
        check_searchable(index.fields)
        with self._store.writing("create an index"):
            for field in index.fields:
                check_indexable(self.schema, field)
            add_index(self._store, index)

    def drop_index(self, fields: str | Sequence[str]) -> None:
        """Drop the index on one or several fields, if there is one.

        Parameters
        ----------
        fields : str or sequence of str
            Fields of the index, in order.

        Raises
        ------
        InvalidFilter
            The fields are no names.
        """
        dropped = index_on(fields, unique=True).names
        with self._store.writing("drop an index"), self._store.lock:
            before = self._store.indexes()
            left = tuple(name for name in before if name not in dropped)
            if left != before:
                self._store.change_setting({"op": "index", "i": list(left)})

    def set_validation(self, schema: Any, *, allow_extra: bool = False) -> None:
        """Validate documents from now on: a change with a document that does not fit is refused.

        Existing documents are not checked; see :meth:`validate`. A JSON Schema and a model see a
        document as JSON, with moments as texts of RFC 3339 and binary values in base 64. They see
        the id only if they name the property ``_id``. Models validate in strict mode.

        Parameters
        ----------
        schema : pyarrow.Schema, mapping, type or None
            An Arrow schema, a JSON Schema, or a model of pydantic. A model must be given again
            after the engine was opened again, since only its JSON Schema is stored. None ends the
            validation.
        allow_extra : bool
            Whether documents may have fields that an Arrow schema does not have, default False.

        Raises
        ------
        InvalidOption
            The schema is invalid, or has a part that cannot be checked.
        MissingDependency
            A JSON Schema needs the package jsonschema.
        UnsupportedType

        Examples
        --------
        >>> import tempfile, godb_arrow, pyarrow as pa
        >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
        ...     users = engine.create_collection("users")
        ...     users.set_validation(pa.schema([pa.field("name", pa.string(), nullable=False)]))
        ...     try:
        ...         users.insert({"name": 5})
        ...     except godb_arrow.SchemaViolation as violation:
        ...         print(violation.path, violation.problem)
        name expected string, found 5
        """
        with self._store.writing("set the validation"):
            set_validation(self._store, schema, allow_extra=allow_extra)

    @property
    def validation(self) -> Validation | None:
        """Validation of the documents; None if there is none."""
        self._store.context.lifecycle.check_process()
        validator = self._refresher.read(self._store, self._store.validator)
        return None if validator is None else copy.deepcopy(validator.info)

    def validate(self) -> Iterator[SchemaViolation]:
        """Check the existing documents.

        Yields
        ------
        SchemaViolation
            One for each document that does not fit.
        """
        self._store.context.lifecycle.check_process()
        validator = self._refresher.read(self._store, self._store.validator)
        if validator is not None:
            for entries in self.stored_entries():
                yield from violations(validator, entries)

    def create_ttl(self, field: str, expire_after: float | str | dt.timedelta) -> None:
        """Let documents expire some time after the moment in a field, and index the field.

        A background worker deletes expired documents, as any deletion is journalled. Until then
        they are read as others are. A document without a moment in the field never expires; of
        several moments in a list, the earliest counts.

        Parameters
        ----------
        field : str
            A field, or a dotted path into maps.
        expire_after : float, timedelta or str
            Seconds, or text such as ``"30 days"``. With 0, documents expire at that moment.

        Raises
        ------
        InvalidOption, InvalidFilter

        Examples
        --------
        >>> import datetime as dt, tempfile, godb_arrow
        >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
        ...     sessions = engine.create_collection("sessions")
        ...     sessions.create_ttl("created", "30 days")
        ...     _ = sessions.insert({"created": dt.datetime(2020, 1, 1)})
        ...     sessions.expire()
        1
        """
        seconds = parse_lifetime("expire_after", expire_after)
        check_searchable(index_on([field], unique=False).fields)
        with self._store.writing("create a ttl"):
            check_indexable(self.schema, field)
            set_expiry(self._store, field, seconds)

    def drop_ttl(self, field: str) -> None:
        """Let documents no longer expire by a field; its index stays.

        Parameters
        ----------
        field : str
            Field of :meth:`create_ttl`.

        Raises
        ------
        InvalidFilter
            The field is no name.
        """
        index_on([field], unique=False)  # raises for what is no field
        with self._store.writing("drop a ttl"):
            set_expiry(self._store, field, None)

    @property
    def ttl(self) -> dict[str, dt.timedelta]:
        """Time after which documents expire, by the field that has their moment."""
        self._store.context.lifecycle.check_process()
        rules = Rules.unpack(self._refresher.read(self._store, self._store.rules))
        return {field: dt.timedelta(seconds=after) for field, after in rules.expiry.items()}

    def expire(self) -> int:
        """Delete the expired documents now, as the background worker does.

        Returns
        -------
        int
            Number of deleted documents.
        """
        with self._store.writing("delete"):
            return self._expirer.expire(self._store)
