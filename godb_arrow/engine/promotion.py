"""Promotion of a follower to a data directory of its own."""

from __future__ import annotations

import os
from typing import Any

from godb_arrow.directory.data_directory import lock_directory
from godb_arrow.directory.follower_file import FOLLOWER_FILE
from godb_arrow.directory.identity import renew_identity
from godb_arrow.directory.journal_copy import is_journal_object, last_record
from godb_arrow.directory.places import full_path
from godb_arrow.errors import (
    StorageError,
    error_context,
    storage_errors,
)
from godb_arrow.replication.status import read_follower
from godb_arrow.replication.target import open_target
from godb_arrow.storage import local
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.object_store import is_url

__all__ = ["promote"]


def promote(target: str | os.PathLike[str], *, force: bool = False) -> int:
    """Make a follower a data directory of its own, which may be written.

    See to it that nobody writes the one that it followed: what is written there later is not here.

    Parameters
    ----------
    target : path or URL
        The follower.
    force : bool
        Also when it is not whole: each collection is as it was at some time, not all at the same.

    Returns
    -------
    int
        The number of the last change that it has.

    Raises
    ------
    SourceNotFound
        The folder is no follower.
    DirectoryLocked
        It is being kept up to date: end that first.
    StorageError
        It is not whole.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> source, target = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> with godb_arrow.StorageEngine(source) as engine:
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    ...     _ = engine.replicate_to(target)
    >>> promote(target)
    2
    >>> with godb_arrow.StorageEngine(target) as engine:
    ...     engine["users"].insert({"name": "Bob"})
    '2'
    """
    path = full_path(target)
    with error_context("promote", path):
        known = read_follower(path)
        if not is_url(path):
            lock = lock_directory(path)
            try:
                _check_whole(known, force)
                renew_identity(path)  # followers of the former one do not follow this one
                with storage_errors("promote", path):
                    local.disk.unlink(os.path.join(path, FOLLOWER_FILE))
                    local.disk.sync_folder(path)
                return last_record(os.path.join(path, "journal"))
            finally:
                lock.release()
        return _promote_remote(path, known, force)


def _check_whole(known: dict[str, Any], force: bool) -> None:
    if not known["consistent"] and not force:
        raise StorageError(
            "the follower was being brought up to date, and is not whole",
            advice="let it catch up, or take it as it is with force=True",
        )


def _promote_remote(url: str, known: dict[str, Any], force: bool) -> int:
    """What the journal has is saved: an object store has no journal of its own."""
    from godb_arrow.engine.engine import StorageEngine

    if not known["promoting"]:  # else it was cut off, and goes on
        _check_whole(known, force)
        # From now on its files are not those of the other one.
        state = {**known, "consistent": False, "promoting": True, "files": {}}
        renew_identity(url)
        target = open_target(url)
        try:
            target.write_state(state)
        finally:
            target.close()
    with StorageEngine(url) as engine:
        engine.save()
    journal = open_folder(f"{url}/journal")
    for name in filter(is_journal_object, journal.names()):
        journal.remove(name)
    open_folder(url).remove(FOLLOWER_FILE)
    return int(known["record"])
