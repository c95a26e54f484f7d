"""Buffers for compressed and decompressed bytes that are used again."""

from __future__ import annotations

import os
import threading

from godb_arrow.parallel import available_cores

__all__ = ["COMPRESSED", "DECODED", "forget_buffers"]


class _Buffers:
    """Memory of about the same size, for run after run of all readers.

    The system clears what it gives to a process, and that takes as long as to read a file. So many
    buffers are kept as may be worked on at a time, unless they are very large. A thread gets one
    that it had before, if it can: that is in the cache of the core where it runs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[tuple[int, bytearray]] = []
        if hasattr(os, "register_at_fork"):  # a thread that is not there any more may have it
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def take(self, size: int) -> memoryview:
        """Memory of a size, with whatever was in it."""
        with self._lock:
            own = threading.get_ident()
            at = next((i for i, (had, _) in enumerate(self._free) if had == own), -1)
            found = self._free.pop(at)[1] if self._free else bytearray()
        if len(found) < size:
            found = bytearray(size + size // 8)
        return memoryview(found)[:size]

    def give(self, view: memoryview) -> None:
        """Take it back: nobody looks at it any more."""
        found = view.obj
        if isinstance(found, bytearray) and len(found) <= _LARGEST_KEPT:
            with self._lock:
                self._free.append((threading.get_ident(), found))
                del self._free[: -available_cores() - 1]

    def clear(self) -> None:
        """Keep none of them."""
        with self._lock:
            self._free.clear()


_LARGEST_KEPT = 8 << 20
COMPRESSED, DECODED = _Buffers(), _Buffers()


def forget_buffers() -> None:
    """Give memory back that is kept for the runs of readers."""
    COMPRESSED.clear()
    DECODED.clear()
