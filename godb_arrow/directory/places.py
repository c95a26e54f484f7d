"""Paths and URLs of data directories."""

from __future__ import annotations

import os
from contextlib import suppress

from godb_arrow.display import without_secrets
from godb_arrow.errors import InvalidOption, StorageError
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.nesting import is_inside
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.occupied import IDENTITY_FILE, enclosing_directory
from godb_arrow.storage.source import local_path

__all__ = ["check_apart", "full_path", "is_data_directory", "shown_path"]

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
    >>> full_path("s3://bucket/data/"), full_path("/srv/../data/"), full_path("file:///data")
    ('s3://bucket/data', '/data', '/data')
    """
    name = os.fspath(place)
    return name.rstrip("/") if is_url(name) else os.path.abspath(local_path(name))


def check_apart(target: str, source: str, *, purpose: str, kind: str = "data directory") -> None:
    """Check that neither of a target and its source is inside of the other.

    The target may not be inside of any other local data directory either. Symbolic links, relative
    paths and ``file://`` URLs stand for the folders that they lead to.

    Parameters
    ----------
    target : str
        Path or URL to write, which need not exist.
    source : str
        Path or URL of the folder that is copied.
    purpose : str
        Name of the target's content in the error, such as "a backup".
    kind : str
        Name of the source's content in the error.

    Raises
    ------
    InvalidOption
        The two overlap. Nothing was written.
    """
    target, source = full_path(target), full_path(source)
    is_below, is_above = is_inside(target, source), is_inside(source, target)
    problem = None
    if is_below or is_above:
        relation = "is" if is_below and is_above else "is inside of" if is_below else "contains"
        problem = f"{relation} the {kind} {source}"
    elif not is_url(target):
        around = enclosing_directory(os.path.dirname(os.path.realpath(target)))
        if around is not None:
            problem = f"is inside of the data directory {around}"
    if problem is not None:
        raise InvalidOption(
            f"the target of {purpose}, {target}, {problem}",
            advice="give a folder beside it",
        )


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
        path = local_path(place)
        return os.path.isdir(os.path.join(path, "collections")) or os.path.isfile(
            os.path.join(path, IDENTITY_FILE)
        )
    if place.endswith((".godb", ".parts")):
        return False
    try:
        return not _NAMES.isdisjoint(open_folder(place.rstrip("/")).names())
    except StorageError:  # a server that lists nothing
        return False
