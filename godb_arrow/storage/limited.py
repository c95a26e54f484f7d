"""Reading of streams whose size a stranger chose."""

from __future__ import annotations

from typing import Any

__all__ = ["read_limited"]

_READ_BYTES = 1 << 20


def read_limited(stream: Any, most: int) -> bytes:
    """Return the rest of a stream, or its first bytes if it has more than a limit.

    A read of many bytes at once would reserve memory for all of them, before the size is known.

    Parameters
    ----------
    stream : file
        Binary file that can be read.
    most : int
        Limit in bytes. One byte more is returned where the stream has it.

    Examples
    --------
    >>> import io
    >>> read_limited(io.BytesIO(b"abc"), 10), read_limited(io.BytesIO(b"abc"), 1)
    (b'abc', b'ab')
    """
    pieces = []
    left = most + 1
    while left and (piece := stream.read(min(left, _READ_BYTES))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
