"""Promotion of a follower to a data directory of its own."""

from __future__ import annotations

import os
from typing import Any

from godb_arrow.directory.directory_lock import lock_directory
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
from godb_arrow.storage.url_options import StorageOptions, with_options

__all__ = ["promote"]


def promote(
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    storage_options: StorageOptions = None,
) -> int:
    """Make a follower a data directory of its own, which engines can write.

    Later changes of the directory that it followed are not copied. Stop writing there first.

    Parameters
    ----------
    target : path or URL
        The follower.
    force : bool
        Whether to promote a follower that is not consistent, default False. Then its collections
        may have states of different times.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.

    Returns
    -------
    int
        Sequence number of its last change.

    Raises
    ------
    SourceNotFound
        The folder is no follower.
    DirectoryLocked
        An engine keeps the follower up to date. Stop the replica first.
    StorageError
        The follower is not consistent.

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
    with with_options(target, storage_options), error_context("promote", path):
        known = read_follower(path)
        if not is_url(path):
            lock = lock_directory(path)
            try:
                _check_whole(known, force)
                renew_identity(path)  # followers of the former directory do not follow this one
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
            "the follower was being updated, and is not consistent",
            advice="let it catch up, or promote it with force=True",
        )


def _promote_remote(url: str, known: dict[str, Any], force: bool) -> int:
    """Save the changes of the journal, since an object store has no journal."""
    from godb_arrow.engine.engine import StorageEngine

    if not known["promoting"]:  # otherwise an interrupted promotion continues
        _check_whole(known, force)
        # From here on its files differ from the files of the other directory.
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
