"""Paths and URLs of data directories."""

from __future__ import annotations

import os
from contextlib import suppress

from godb_arrow.directory.identity import IDENTITY_FILE
from godb_arrow.display import without_secrets
from godb_arrow.errors import StorageError
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.object_store import is_url

__all__ = ["full_path", "is_data_directory", "shown_path"]

_NAMES = frozenset({"collections", IDENTITY_FILE})


def full_path(place: str | os.PathLike[str]) -> str:
    """Return the absolute path of a folder, or its URL without a slash at the end.

    Parameters
    ----------
    place : path or URL
        The folder, which need not exist. ``~`` stands for the home folder.

    Returns
    -------
    str

    Examples
    --------
    >>> full_path("s3://bucket/data/"), full_path("/srv/../data/")
    ('s3://bucket/data', '/data')
    """
    name = os.fspath(place)
    return name.rstrip("/") if is_url(name) else os.path.abspath(os.path.expanduser(name))


def shown_path(path: str) -> str:
    """Return a path or URL for display, relative to the current folder if it is below."""
    with suppress(OSError):  # the current folder may be deleted
        path = path.removeprefix(os.path.join(os.getcwd(), ""))
    return without_secrets(path)


def is_data_directory(place: str) -> bool:
    """Return whether a path or URL is a data directory.

    A data directory has collections or an identity. On an object store the folder of collections
    exists from the first save on; version 0.1 wrote no identity. The URL of a file or folder of one
    collection is not listed.
    """
    if not is_url(place):
        path = os.path.expanduser(place)
        return os.path.isdir(os.path.join(path, "collections")) or os.path.isfile(
            os.path.join(path, IDENTITY_FILE)
        )
    if place.endswith((".godb", ".parts")):
        return False
    try:
        return not _NAMES.isdisjoint(open_folder(place.rstrip("/")).names())
    except StorageError:  # a server that lists nothing
        return False
