"""Files inside of a data directory, which only its engine writes."""

from __future__ import annotations

import os

from godb_arrow.errors import DirectoryLocked, InvalidOption
from godb_arrow.storage.lock import try_lock

__all__ = ["IDENTITY_FILE", "LOCK_FILE", "check_unoccupied", "enclosing_directory", "is_locked"]

LOCK_FILE, IDENTITY_FILE = "godb_arrow.lock", "godb_arrow.id"
_MARKS = (LOCK_FILE, IDENTITY_FILE)
_COLLECTIONS = "collections"
_ENGINE_NAMES = frozenset({"journal", "changes", LOCK_FILE, IDENTITY_FILE, "follower.json"})


def is_locked(directory: str) -> bool:
    """Return whether an engine has a local data directory open for writing."""
    try:
        with open(os.path.join(directory, LOCK_FILE), "rb") as file:
            return try_lock(file.fileno()) is False
    except OSError:
        return False


def enclosing_directory(path: str) -> str | None:
    """Return the nearest data directory that a real path is, or is inside of; None without one."""
    while True:
        if any(os.path.lexists(os.path.join(path, mark)) for mark in _MARKS):
            return path
        above = os.path.dirname(path)
        if above == path:
            return None
        path = above


def check_unoccupied(path: str) -> None:
    """Check that a new file or folder of a caller is no part of a data directory.

    The file of a collection may be written while no engine has its directory open. Parts, the
    journal and the other files of a directory are written by engines only. Other files inside of
    the directory are the caller's.

    Parameters
    ----------
    path : str
        Real path of the file or folder, which need not exist.

    Raises
    ------
    DirectoryLocked
        The file belongs to a collection, and an engine has the directory open.
    InvalidOption
        The file belongs to the engine.
    """
    directory = enclosing_directory(os.path.dirname(path))
    if directory is None:
        return
    first, *inner = os.path.relpath(path, directory).split(os.sep)
    if first in _ENGINE_NAMES or (first == _COLLECTIONS and len(inner) != 1):
        raise InvalidOption(
            f"it is part of the data directory {directory}, whose engine writes it",
            advice="give a file outside of the directory, or change the collection with an engine",
        )
    if first == _COLLECTIONS and is_locked(directory):
        locked = DirectoryLocked(
            f"it belongs to the data directory {directory}, which an engine has open",
            advice="change the collection with this engine, or close the engine first",
        )
        locked.operation, locked.source = "write", path
        raise locked
