"""Identity of a data directory: a UUID in a small file, which moves and is copied with it.

Files record it: so an engine knows those that it wrote. Followers and backups remember the
identity of the directory that they come from. Another directory at the same path has another
identity, and an empty mount point has none.
"""

from __future__ import annotations

import os
import re
import stat
import uuid

from godb_arrow.errors import CorruptFile, SourceNotFound, WriteConflict, storage_errors
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.replace import replace_file
from godb_arrow.storage.source import Source

__all__ = ["IDENTITY_FILE", "ensure_identity", "is_identity", "read_identity", "renew_identity"]

IDENTITY_FILE = "godb_arrow.id"
_IDENTITY = re.compile(r"[0-9a-f]{32}")


def is_identity(text: str) -> bool:
    """Return whether a text is an identity: 32 hexadecimal digits."""
    return _IDENTITY.fullmatch(text) is not None


def read_identity(folder: str) -> str | None:
    """Return the identity of a data directory.

    Parameters
    ----------
    folder : str
        The data directory: a path or a URL.

    Returns
    -------
    str or None
        32 hexadecimal digits; None where the folder or the file is not there.

    Raises
    ------
    CorruptFile
        The file does not hold an identity.
    """
    path = open_folder(folder).place(IDENTITY_FILE)
    try:
        if not is_url(path):
            with storage_errors("read", path):
                if not stat.S_ISREG(os.lstat(path).st_mode):
                    raise _damaged(path, "is no regular file")
        with Source(path).open() as stream:
            text = stream.read(64).decode("ascii", "replace").strip()
    except SourceNotFound:
        return None
    if not is_identity(text):
        raise _damaged(path, f"holds {text[:40]!r} instead of 32 hexadecimal digits")
    return text


def _damaged(path: str, problem: str) -> CorruptFile:
    error = CorruptFile(
        f"the identity of the data directory is damaged: the file {problem}",
        offset=0,
        where="file",
        advice="restore the file from a copy, or remove it: then the directory gets another "
        "identity, and followers of it need replace=True",
    )
    error.operation, error.source = "read", path
    return error


def ensure_identity(folder: str) -> str:
    """Return the identity of a data directory, which gets one unless it has one.

    Parameters
    ----------
    folder : str
        The data directory. A local one is locked by the caller.

    Returns
    -------
    str
        32 hexadecimal digits.

    Raises
    ------
    CorruptFile, StorageError
    """
    found = read_identity(folder)
    if found is not None:
        return found
    try:
        return _write(folder, only_new=True)
    except WriteConflict:  # on an object store, another writer was first
        found = read_identity(folder)
        if found is None:
            raise
        return found


def renew_identity(folder: str) -> str:
    """Give a data directory another identity: from now on it goes its own way.

    Parameters
    ----------
    folder : str
        The data directory. A local one is locked by the caller.

    Returns
    -------
    str
        The new identity.

    Raises
    ------
    StorageError
        The identity is the one before.
    """
    return _write(folder, only_new=False)


def _write(folder: str, *, only_new: bool) -> str:
    place = open_folder(folder)
    identity = uuid.uuid4().hex
    expected = place.expected_of_new if only_new else None
    with replace_file(place.place(IDENTITY_FILE), expected=expected) as stream:
        stream.write(f"{identity}\n".encode())
    return identity
