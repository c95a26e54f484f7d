"""Sparse files, whose size a stranger can choose without any bytes on the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from godb_arrow.errors import StorageError

__all__ = ["check_dense"]

_MAX_HOLE_BYTES = 64 << 20  # of holes in any file; godb_arrow writes none
_MAX_RATIO = 255  # of size to stored bytes, for file systems that compress or skip zeros
_BLOCK_BYTES = 512  # unit of st_blocks


def check_dense(path: str, descriptor: int) -> None:
    """Check that most bytes of a file are on the disk, so that its size is a measure of its bytes.

    Reading a hole of a terabyte is a terabyte of work, before any checksum can be compared.

    Parameters
    ----------
    path : str
        Name of the file in messages.
    descriptor : int
        Open file. Its position is restored.

    Raises
    ------
    StorageError
        The file has holes of more than 64 MiB, and more than 255 times its stored bytes.
    """
    status = os.fstat(descriptor)
    size = status.st_size
    if size <= _MAX_HOLE_BYTES + _MAX_RATIO * _BLOCK_BYTES * getattr(status, "st_blocks", size):
        return
    stored = 0
    for start, end in _extents(descriptor, size):
        stored += end - start
        if size <= _MAX_HOLE_BYTES + _MAX_RATIO * stored:
            return
    error = StorageError(
        f"the file is sparse: it has {size} bytes, and the disk has {stored} of them",
        advice="restore the file from a copy",
    )
    error.operation, error.source, error.errno = "read", path, errno.EINVAL
    raise error


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file that are no holes; all of it where the system does not tell."""
    if not hasattr(os, "SEEK_HOLE"):
        yield 0, size
        return
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        end = 0
        while end < size:
            try:
                start = os.lseek(descriptor, end, os.SEEK_DATA)
            except OSError:  # The rest of the file is a hole.
                return
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            yield start, end
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)
