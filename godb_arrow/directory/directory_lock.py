"""Lock of a data directory."""

from __future__ import annotations

import os
import stat

import filelock

from godb_arrow.errors import DirectoryLocked, storage_errors
from godb_arrow.storage import local
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.inside import open_inside
from godb_arrow.storage.occupied import LOCK_FILE

__all__ = ["lock_directory"]


def lock_directory(path: str) -> filelock.BaseFileLock:
    """Lock a data directory for writing, until the lock is released.

    Raises
    ------
    DirectoryLocked
        Another process has locked the directory.
    """
    place = os.path.join(path, LOCK_FILE)
    with storage_errors("lock", place):
        # A symbolic link is refused here, because filelock would truncate the linked file.
        descriptor = open_inside(place, os.O_RDWR | os.O_CREAT, open_folder(path).access().new_file)
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        local.disk.close(descriptor)
    lock = filelock.FileLock(place, timeout=0, thread_local=False, mode=mode)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        locked = DirectoryLocked(
            "another process has this data directory open for writing",
            advice="close it there, or open it here with read_only=True",
        )
        locked.operation, locked.source = "open", path
        raise locked from error
    return lock
