"""Reusable buffers for compressed and decompressed bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from godb_arrow.parallel import available_cores

__all__ = ["COMPRESSED", "DECODED", "add_pool", "forget_buffers", "pooled_bytes"]

_MAX_POOLED_BYTES = 8 << 20
_MIN_POOLED_BUFFERS = 2  # on a single core, whose number takes long to find


class _Buffers:
    """Pool of buffers of similar size that all readers share.

    The operating system clears the memory that it hands to a process, which takes as long as
    reading a file. Therefore the pool keeps one buffer more than there are cores, unless they are
    very large. A thread prefers the buffer that it released last, which is in its core's cache.

    There is no lock. The garbage collector may release a buffer on any thread at any moment, even
    while that thread takes one. Each step on the deque is atomic.
    """

    def __init__(self) -> None:
        self._free: deque[tuple[int, bytearray]] = deque()

    def take(self, size: int) -> memoryview:
        """Return a buffer of at least a size, with arbitrary content."""
        buffer = self._pop()
        if len(buffer) < size:
            buffer = bytearray(size + size // 8)
        return memoryview(buffer)[:size]

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
        """Release a buffer that is no longer in use."""
        buffer = view.obj
        if isinstance(buffer, bytearray) and len(buffer) <= _MAX_POOLED_BYTES:
            self._free.append((threading.get_ident(), buffer))
            count = len(self._free)
            if count > _MIN_POOLED_BUFFERS and count > available_cores() + 1:
                self._pop_oldest()

    def _pop_oldest(self) -> None:
        try:
            self._free.popleft()
        except IndexError:  # another thread took the last buffer
            return

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers that are not in use."""
        return sum(len(buffer) for _, buffer in self._free.copy())

    def clear(self) -> None:
        """Drop all buffers."""
        self._free.clear()


COMPRESSED, DECODED = _Buffers(), _Buffers()

_others: list[tuple[Callable[[], int], Callable[[bool], None]]] = []


def add_pool(nbytes: Callable[[], int], clear: Callable[[bool], None]) -> None:
    """Add a pool of another package.

    Parameters
    ----------
    nbytes : callable
        Function that returns the bytes of the memory that is not in use.
    clear : callable
        Function that frees this memory. Given true, the pool keeps none from then on.
    """
    _others.append((nbytes, clear))


def pooled_bytes() -> int:
    """Return the bytes of the pooled buffers of all readers."""
    return COMPRESSED.nbytes + DECODED.nbytes + sum(nbytes() for nbytes, _ in _others)


def forget_buffers(*, closed: bool = False) -> None:
    """Free the pooled buffers of all readers.

    Parameters
    ----------
    closed : bool
        Whether pools of other packages keep no memory from then on, default False.
    """
    COMPRESSED.clear()
    DECODED.clear()
    for _, clear in _others:
        clear(closed)
