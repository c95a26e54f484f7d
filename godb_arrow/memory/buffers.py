"""Buffers for compressed and decompressed bytes that are used again."""

from __future__ import annotations

import threading
from collections import deque

from godb_arrow.parallel import available_cores

__all__ = ["COMPRESSED", "DECODED", "forget_buffers"]

_BYTES_OF_LARGEST_KEPT = 8 << 20


class _Buffers:
    """Memory of about the same size, for run after run of all readers.

    The system clears the memory that it gives to a process, which takes as long as reading a file.
    Therefore as many buffers are kept as there are cores and one, unless they are very large. A
    thread gets a buffer that it returned, if there is one: that is in the cache of its core.

    There is no lock. The garbage collector may return a buffer on any thread at any moment, also
    while that thread takes one; each step on the deque is atomic.
    """

    def __init__(self) -> None:
        self._free: deque[tuple[int, bytearray]] = deque()

    def take(self, size: int) -> memoryview:
        """Return memory of a size, with arbitrary content."""
        found = self._pop()
        if len(found) < size:
            found = bytearray(size + size // 8)
        return memoryview(found)[:size]

    def _pop(self) -> bytearray:
        own = threading.get_ident()
        try:
            for _ in range(len(self._free) - 1):
                thread, buffer = self._free.pop()
                if thread == own:
                    return buffer
                self._free.appendleft((thread, buffer))
            return self._free.pop()[1]
        except IndexError:
            return bytearray()

    def give(self, view: memoryview) -> None:
        """Return a buffer that nothing reads any longer."""
        buffer = view.obj
        if isinstance(buffer, bytearray) and len(buffer) <= _BYTES_OF_LARGEST_KEPT:
            self._free.append((threading.get_ident(), buffer))
            if len(self._free) > available_cores() + 1:
                self._pop_oldest()

    def _pop_oldest(self) -> None:
        try:
            self._free.popleft()
        except IndexError:  # another thread took it
            return

    def clear(self) -> None:
        """Drop all buffers."""
        self._free.clear()


COMPRESSED, DECODED = _Buffers(), _Buffers()


def forget_buffers() -> None:
    """Free the memory that is kept for the runs of readers."""
    COMPRESSED.clear()
    DECODED.clear()
