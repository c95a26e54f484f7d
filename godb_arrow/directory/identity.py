"""Identity of a data directory: a UUID in a small file, which moves and is copied with it.

Files record the identity, so an engine recognizes its own files. Followers and backups record the
identity of their source. Another directory at the same path has another identity, and an empty
mount point has none.
"""

from __future__ import annotations

import os
import re
import stat
import uuid

from godb_arrow.errors import CorruptFile, SourceNotFound, WriteConflict, storage_errors
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.occupied import IDENTITY_FILE
from godb_arrow.storage.replace import replace_file
from godb_arrow.storage.source import Source

__all__ = ["ensure_identity", "is_identity", "read_identity", "renew_identity"]

_IDENTITY = re.compile(r"[0-9a-f]{32}")


def is_identity(text: str) -> bool:
    """Return whether a text is an identity: 32 hexadecimal digits."""
    return _IDENTITY.fullmatch(text) is not None


def read_identity(folder: str) -> str | None:
    """Return the identity of a data directory.

    Parameters
    ----------
    folder : str
        The data directory, by a path or URL.

    Returns
    -------
    str or None
        32 hexadecimal digits, or None if the folder or the file is missing.

    Raises
    ------
    CorruptFile
        The file has no valid identity.
    """
    path = open_folder(folder).place(IDENTITY_FILE)
    try:
        if not is_url(path):
            with storage_errors("read", path):
                if not stat.S_ISREG(os.lstat(path).st_mode):
                    raise _damaged(path, "is not a regular file")
        with Source(path).open() as stream:
            text = stream.read(64).decode("ascii", "replace").strip()
    except SourceNotFound:
        return None
    if not is_identity(text):
        raise _damaged(path, f"has {text[:40]!r} instead of 32 hexadecimal digits")
    return text


def _damaged(path: str, problem: str) -> CorruptFile:
    error = CorruptFile(
        f"the identity of the data directory is damaged: the file {problem}",
        offset=0,
        where="file",
        advice="restore the file from a copy, or remove it: then the directory gets another "
        "identity, and its followers need replace=True",
    )
    error.operation, error.source = "read", path
    return error


def ensure_identity(folder: str) -> str:
    """Return the identity of a data directory, which is created if it is missing.

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
    identity = read_identity(folder)
    if identity is not None:
        return identity
    try:
        return _write(folder, only_new=True)
    except WriteConflict:  # Another writer created the identity first, on an object store.
        identity = read_identity(folder)
        if identity is None:
            raise
        return identity


def renew_identity(folder: str) -> str:
    """Replace the identity of a data directory, which no follower of the former one follows.

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
        The identity is unchanged.
    """
    return _write(folder, only_new=False)


def _write(folder: str, *, only_new: bool) -> str:
    place = open_folder(folder)
    identity = uuid.uuid4().hex
    expected = place.expected_of_new if only_new else None
    with replace_file(place.place(IDENTITY_FILE), expected=expected, inside=True) as stream:
        stream.write(f"{identity}\n".encode())
    return identity
