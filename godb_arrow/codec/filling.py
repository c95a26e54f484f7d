"""Decoding of a body into a buffer that the caller owns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

__all__ = ["FillingDecoder"]


class FillingDecoder(ABC):
    """Decoder whose output comes in parts of any size."""

    def __init__(self) -> None:
        self._left = b""  # end of a part that the buffer had no room for

    def fill(
        self, buffer: memoryview, start: int, end: int, limit: int, fetch: Callable[[], bytes]
    ) -> int:
        """Decode into a buffer, up to a limit.

        Parameters
        ----------
        buffer : memoryview
            Writable bytes. Between `start` and `end` they are the last 64 KiB of output, or all of
            it, which the decoder copies from.
        start, end, limit : int
            Offsets in the buffer: the earliest output in it, the end of this output, and the end of
            the bytes to fill.
        fetch : callable
            Function that returns the next bytes of the body, or none at its end.

        Returns
        -------
        int
            End of the output, which is before the limit only where the body ends.

        Raises
        ------
        CorruptFile
            The body is damaged, or ends too early.
        """
        while end < limit:
            part = self._left or self._next(fetch)
            if not part:
                break
            room = limit - end
            taken, self._left = part[:room], part[room:]
            buffer[end : end + len(taken)] = taken
            end += len(taken)
        return end

    @abstractmethod
    def _next(self, fetch: Callable[[], bytes]) -> bytes:
        """Return the next bytes of output, or none at the end."""
