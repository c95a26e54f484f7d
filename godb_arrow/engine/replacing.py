"""Replacement of all documents of a collection by another file."""

from __future__ import annotations

from godb_arrow.engine.engine import StorageEngine
from godb_arrow.errors import error_context

__all__ = ["replace_collection"]


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
