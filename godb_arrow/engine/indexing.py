"""Creation of indexes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

from godb_arrow.engine.store import CollectionStore
from godb_arrow.errors import InvalidFilter
from godb_arrow.options import check_flags
from godb_arrow.query.fields import is_storable
from godb_arrow.snapshots.index_names import MAX_FIELDS, IndexDefinition
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.unique import UniqueIndex

__all__ = ["add_index", "check_searchable", "index_on"]

_MAX_ATTEMPTS = 3
"""Attempts until values are compared while writers wait."""


def index_on(fields: str | Sequence[str], *, unique: bool) -> IndexDefinition:
    """Return the definition of an index.

    Parameters
    ----------
    fields : str or sequence of str
        One or several fields.
    unique : bool
        Whether no two documents may have the same values.

    Raises
    ------
    InvalidFilter
        The fields are no names, or are repeated, or are too many.
    InvalidOption
        `unique` is neither True nor False.
    """
    check_flags(unique=unique)
    if not isinstance(fields, Iterable) or isinstance(fields, (bytes, Mapping, Set)):
        raise InvalidFilter(
            f"{fields!r} cannot be indexed",
            advice="give the name of a field, or a sequence of names",
        )
    names = (fields,) if isinstance(fields, str) else tuple(fields)
    for name in names:
        if not isinstance(name, str) or not name or "\0" in name or not is_storable(name):
            raise InvalidFilter(
                f"{name!r} cannot be indexed",
                advice="give the name of a field without zero bytes, or a sequence of names",
            )
    if not 0 < len(set(names)) == len(names) <= MAX_FIELDS:
        raise InvalidFilter(
            f"an index cannot have the fields {list(names)!r}",
            advice=f"give 1 to {MAX_FIELDS} fields, each once",
        )
    return IndexDefinition(names, unique)


def check_searchable(fields: Sequence[str]) -> None:
    """Check that filters can name the fields of a new index.

    Raises
    ------
    InvalidFilter
        A name begins with ``$``, as operators of filters do.
    """
    for name in fields:
        if name.startswith("$"):
            raise InvalidFilter(
                f"{name!r} cannot be indexed: in a filter it is an operator",
                advice="give the name of a field that does not begin with $",
            )


def add_index(store: CollectionStore, index: IndexDefinition) -> None:
    """Add an index to a collection, unless it has it.

    Writers wait only if they change the collection repeatedly while values are compared.

    Raises
    ------
    DuplicateValue, InvalidDocument
    """
    compared = -1  # number of changes of the state whose values were compared
    for attempt in range(_MAX_ATTEMPTS + 1):
        with store.lock:
            before = store.indexes()
            missing = [name for name in index.names if name not in before]
            if not missing:
                return
            snapshot = store.snapshot()
            is_new = index.unique and index.unique_name in missing
            if is_new and compared != store.changes and attempt == _MAX_ATTEMPTS:
                _compare(index, snapshot)
                compared = store.changes
            if not is_new or compared == store.changes:
                store.change_setting({"op": "index", "i": [*before, *missing]})
                return
            changes = store.changes
        _compare(index, snapshot)
        compared = changes


def _compare(index: IndexDefinition, snapshot: Snapshot) -> None:
    UniqueIndex(index).check(snapshot)
