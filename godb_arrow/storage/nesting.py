"""Places that are inside of one another, by whatever path or URL they are named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from godb_arrow.storage.object_store import RemoteStore, is_url
from godb_arrow.storage.source import local_path

__all__ = ["is_inside"]

_SERVER_OPTIONS = ("endpoint_url", "client_kwargs", "host", "port", "account_name")
"""Options of file systems that choose a server. The same bucket elsewhere is another place."""


def is_inside(place: str, outer: str) -> bool:
    """Return whether a place is another one, or is inside of the other one.

    Parameters
    ----------
    place : str
        Path or URL of a folder or file, which need not exist.
    outer : str
        Path or URL of a folder.

    Examples
    --------
    >>> is_inside("data/sub", "file://" + os.path.abspath("data")), is_inside("data2", "data")
    (True, False)
    """
    if is_url(place) != is_url(outer):
        return False
    if is_url(place):
        return _is_inside_remote(RemoteStore(place), RemoteStore(outer))
    wanted = os.path.realpath(local_path(outer))
    return any(_is_same(path, wanted) for path in _upward(os.path.realpath(local_path(place))))


def _upward(path: str) -> Iterator[str]:
    """Yield a path and all folders above it."""
    while True:
        yield path
        above = os.path.dirname(path)
        if above == path:
            return
        path = above


def _is_same(path: str, other: str) -> bool:
    """Return whether two paths lead to one folder, also by other letters or a second mount."""
    if path == other:
        return True
    with suppress(OSError):
        return os.path.samefile(path, other)
    return False


def _is_inside_remote(place: RemoteStore, outer: RemoteStore) -> bool:
    if type(place.filesystem) is not type(outer.filesystem):
        return False
    if _server(place.filesystem) != _server(outer.filesystem):
        return False
    path, folder = place.path.strip("/"), outer.path.strip("/")
    return path == folder or not folder or path.startswith(f"{folder}/")


def _server(filesystem: Any) -> list[Any]:
    options = getattr(filesystem, "storage_options", {})
    return [options.get(name) for name in _SERVER_OPTIONS]
