"""Search for equal hashes of ids, in memory while they are few and on the disk otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO

import numpy as np

from godb_arrow import codec
from godb_arrow.storage.source import spool

__all__ = ["HashFile", "has_equal_hash"]

_HASH_BYTES = 8
_HASHES_IN_MEMORY = 1 << 20  # searched at once


class HashFile:
    """Temporary file of hashes, which is written and read in parts."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._size = 0

    def add(self, hashes: bytes) -> int:
        """Append hashes, and return their offset."""
        if self._file is None:
            self._file = spool()
        self._file.seek(self._size)
        self._file.write(hashes)
        self._size += len(hashes)
        return self._size - len(hashes)

    def read(self, offset: int, count: int) -> bytes:
        """Return a number of hashes."""
        if self._file is None:
            return b""
        self._file.seek(offset)
        return self._file.read(count * _HASH_BYTES)

    def close(self) -> None:
        """Delete the file."""
        if self._file is not None:
            self._file.close()


def has_equal_hash(hashes: Iterator[bytes], count: int) -> bool:
    """Return whether two hashes are equal, in constant memory.

    Many hashes are sorted into files by their first bits, and each file is searched on its own.

    Parameters
    ----------
    hashes : iterator of bytes
        Hashes of 64 bits, in parts.
    count : int
        Number of all hashes.

    Examples
    --------
    >>> has_equal_hash(iter([bytes(8), b"different"[:8], bytes(8)]), 3)
    True
    """
    if count <= _HASHES_IN_MEMORY:
        return codec.has_equal(b"".join(hashes))
    bits = (count // _HASHES_IN_MEMORY).bit_length()
    with ExitStack() as stack:
        files = [stack.enter_context(spool()) for _ in range(1 << bits)]
        for block in hashes:
            values = np.frombuffer(block, np.uint64)
            numbers = (values >> np.uint64(64 - bits)).astype(np.uint16)
            order = np.argsort(numbers, kind="stable")
            edges = np.searchsorted(numbers[order], np.arange(len(files) + 1))
            values = values[order]
            for number, file in enumerate(files):
                file.write(values[edges[number] : edges[number + 1]].tobytes())
        return any(codec.has_equal(_content(file)) for file in files)


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
