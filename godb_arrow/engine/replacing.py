"""Settings that a collection keeps when another file replaces all of its documents."""

from __future__ import annotations

from dataclasses import dataclass

from godb_arrow.engine.claims import check_base
from godb_arrow.engine.collection import Collection, store_of
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.engine.rule_changes import set_all
from godb_arrow.engine.rules import Rules
from godb_arrow.engine.validation import Validator
from godb_arrow.errors import error_context
from godb_arrow.snapshots.base import Base

__all__ = ["KeptSettings", "replace_collection"]


@dataclass(frozen=True, slots=True)
class KeptSettings:
    """Indexes and rules of a collection.

    Attributes
    ----------
    indexes : tuple of str
        Names of the sorted keys of its indexes.
    rules : bytes
        Packed rules.
    validator : Validator or None
        Validation of its documents.
    """

    indexes: tuple[str, ...]
    rules: bytes
    validator: Validator | None

    @classmethod
    def of(cls, collection: Collection) -> KeptSettings:
        """Return the settings of a collection."""
        store = store_of(collection)
        with store.lock:
            return cls(store.indexes(), store.rules(), store.validator())

    def check(self, collection: Collection, path: str) -> None:
        """Check that the documents of a file fulfil what the collection demands.

        Parameters
        ----------
        collection : Collection
            The collection.
        path : str
            A GODB file with one collection.

        Raises
        ------
        DuplicateValue, InvalidDocument, MissingValidator
        """
        store = store_of(collection)
        base = Base(store.context.memory, path)
        try:
            check_base(store, base)
        finally:
            base.forget()

    def give_to(self, collection: Collection) -> None:
        """Set the settings of a collection."""
        if self.indexes or self.rules:
            rules = Rules.unpack(self.rules)
            set_all(store_of(collection), rules, self.validator, self.indexes)


def replace_collection(engine: StorageEngine, name: str, path: str) -> None:
    """Replace all documents of a collection by the documents of a file; its settings stay.

    A crash leaves all former documents or all new ones.

    Parameters
    ----------
    engine : StorageEngine
        Engine of the collection.
    name : str
        Name of the collection.
    path : str
        A GODB file with one collection of this name.

    Raises
    ------
    CollectionNotFound, DuplicateValue, InvalidDocument, MissingValidator
    """
    with error_context("replace", collection=name):
        engine._components.naming.replace(lambda: engine._find(name), path)
