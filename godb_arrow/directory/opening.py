"""Opening of data directories, in a folder or on an object store."""

from __future__ import annotations

import os

from godb_arrow.directory.data_directory import DataDirectory
from godb_arrow.directory.places import full_path, is_data_directory
from godb_arrow.directory.remote_directory import RemoteDirectory
from godb_arrow.errors import InvalidOption, SourceNotFound
from godb_arrow.memory.limit import Memory
from godb_arrow.storage.nearest import nearest_path
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.occupied import check_unoccupied

__all__ = ["open_directory"]

_FILE_EXTENSION = ".godb"


def open_directory(
    path: str | os.PathLike[str],
    memory: Memory,
    *,
    read_only: bool = False,
    trust_journal: bool = False,
    create: bool = True,
) -> DataDirectory:
    """Open a data directory, given a folder or a URL on an object store.

    Parameters
    ----------
    path : path or URL
        The folder.
    memory : Memory
        Cache for what is read of its files.
    read_only : bool
        Whether to change nothing.
    create : bool
        Whether to create the directory if it is missing.

    Raises
    ------
    SourceNotFound
        The directory is missing. The error suggests the most similar name.
    DirectoryLocked, InvalidOption
        The new directory would be part of another one; see :func:`check_unoccupied`.
    """
    name = os.fspath(path)
    _check_is_no_file(name)
    if not create:
        _check_is_there(name)
    elif not is_url(name) and not is_data_directory(name):
        check_unoccupied(os.path.realpath(full_path(name)))
    kind = RemoteDirectory if is_url(name) else DataDirectory
    return kind(name, memory, read_only=read_only, trust_journal=trust_journal)


def _check_is_no_file(path: str) -> None:
    """Raise InvalidOption where a path is a file, or a new folder would be named like one."""
    full = full_path(path)
    is_file = not is_url(full) and os.path.isfile(full)
    if is_file or (full.endswith(_FILE_EXTENSION) and not is_data_directory(full)):
        raise InvalidOption(
            f"{path} is {'a file' if is_file else 'the name of a file'}, and an engine keeps its "
            "collections in a folder",
            advice=f"give a folder, such as {os.path.basename(full).partition('.')[0]!r}; "
            "open_godb reads a file, and load_collection_metadata copies one into an engine",
        )


def _check_is_there(path: str) -> None:
    path = full_path(path)
    if not is_data_directory(path):
        near = nearest_path(path, is_data_directory)
        raise SourceNotFound(
            f"there is no data directory {path}",
            advice="check the path" if near is None else f"did you mean {near}?",
        )
