"""Names of places: lists of paths, wildcards, and the collection after ``#``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from godb_arrow.errors import InvalidOption, SourceNotFound
from godb_arrow.storage.object_store import is_url, without_query
from godb_arrow.storage.source import Source
from godb_arrow.storage.url_options import file_system_of

__all__ = ["named_collection", "places_of"]

_WILDCARDS = frozenset("*?[")


def places_of(source: Any) -> list[Any] | None:
    """Return the places that a list or a name with wildcards stands for; None for one place.

    Parameters
    ----------
    source : object
        Paths and URLs may have ``*``, ``?``, ``[…]``, and ``**`` for any folders. After a ``?``,
        an HTTP URL has a query. A file or folder of that very name is one place.

    Raises
    ------
    SourceNotFound
        No file has such a name.
    InvalidOption
        A list is empty.

    Examples
    --------
    >>> places_of("users.godb") is None, places_of(["a.godb", "b.godb"])
    (True, ['a.godb', 'b.godb'])
    """
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        return _matching(name) if _has_wildcards(name) else None
    if isinstance(source, (bytes, bytearray, memoryview, Source)) or hasattr(source, "read"):
        return None
    if not isinstance(source, Iterable) or hasattr(source, "stream_batches"):
        return None
    places = [place for one in source for place in places_of(one) or [one]]
    if not places:
        raise InvalidOption("the list of files is empty", advice="give at least one path or URL")
    return places


def named_collection(name: str, collection: str | None = None) -> tuple[str, str | None]:
    """Return a path or URL without the collection that it names, and the collection.

    A local file whose own name has a ``#`` names no collection.

    Parameters
    ----------
    name : str
        Path or URL, such as ``data#users``.
    collection : str, optional
        Collection that the caller named beside it.

    Raises
    ------
    InvalidOption
        The two are different.

    Examples
    --------
    >>> named_collection("data#users"), named_collection("users.godb", "users")
    (('data', 'users'), ('users.godb', 'users'))
    """
    if "#" not in name or _exists(name):
        return name, collection
    place, _, named = name.rpartition("#")
    if collection not in (None, named):
        raise InvalidOption(
            f"the collection is {collection!r}, and {name!r} names {named!r}",
            advice="name it once",
        )
    return place, named


def _exists(name: str) -> bool:
    return not is_url(name) and os.path.lexists(os.path.expanduser(name))


def _has_wildcards(name: str) -> bool:
    """Return whether a name stands for all places that match it."""
    if not _WILDCARDS & {*name} or _exists(name):
        return False
    place = without_query(name.rpartition("#")[0] or name)
    if not _WILDCARDS & {*place} or _exists(place):
        return False
    if not is_url(place):
        return True
    filesystem, path = file_system_of(place)
    return not filesystem.exists(path)


def _matching(name: str) -> list[str]:
    """Return the sorted paths or URLs that match a name, each with the collection after ``#``."""
    before, separator, collection = name.rpartition("#")
    pattern = before or name
    collection = collection if before else ""
    found = _matching_urls(pattern) if is_url(pattern) else _matching_files(pattern)
    if not found:
        raise SourceNotFound(
            f"no file has a name like {pattern}", advice="check the folder and the wildcards"
        )
    return [f"{place}{separator}{collection}" for place in found]


def _matching_files(pattern: str) -> list[str]:
    import glob

    path = os.path.expanduser(pattern.removeprefix("file://"))
    return sorted(glob.glob(path, recursive=True))


def _matching_urls(pattern: str) -> list[str]:
    filesystem, path = file_system_of(pattern)
    return sorted(filesystem.unstrip_protocol(found) for found in filesystem.glob(path))
