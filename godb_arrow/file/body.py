"""Decompressed body of a GODB file, read incrementally and checked by its checksums."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import BinaryIO

import xxhash

from godb_arrow import codec
from godb_arrow.codec.compression import BodyDecoder, Compression
from godb_arrow.errors import CorruptFile, LimitExceeded
from godb_arrow.memory.buffers import DECODED

__all__ = ["Body", "read_exactly"]


_READ_BYTES = 128 << 10
_MIN_GROWTH_BYTES = 256 << 10
_MIN_DECODED_BYTES = 64 << 10  # that are decoded at once
_HISTORY_BYTES = 64 << 10  # before new output, which its decoder copies from
_MAX_VALUE_BYTES = 1 << 30


def read_exactly(stream: BinaryIO, count: int) -> bytes:
    """Read `count` bytes, or fewer at the end of the stream."""
    data = b""
    while len(data) < count:
        more = stream.read(count - len(data))
        if not more:
            break
        data += more
    return data


def _nothing() -> None:
    """Release bytes that were copied."""


def _give(buffer: memoryview) -> None:
    if len(buffer):
        DECODED.give(buffer)


class Body:
    """Window that moves forward over the decompressed body of a file.

    The window is in a buffer of :mod:`godb_arrow.memory.buffers`, after the bytes that the decoder
    still copies from. A caller that takes the bytes of the window borrows the buffer.

    Parameters
    ----------
    stream : binary file
        The file, at its beginning.
    size : int or None
        Size of the file in bytes, if it is known.
    unhashed : int
        Number of bytes at the file's end that its checksum does not cover.
    """

    def __init__(self, stream: BinaryIO, size: int | None, unhashed: int) -> None:
        self._stream = stream
        self._size = size
        self._unhashed = unhashed
        self._read = 0
        self._block_start = 0
        self._file_hash = xxhash.xxh3_64()
        self._file_tail = b""  # last bytes read, which are not hashed yet
        self._hash = xxhash.xxh3_64()
        self._hashed = 0  # number of hashed bytes of the window
        self._buffer = memoryview(bytearray())
        self._first = 0  # offset of the first decoded byte in the buffer
        self._start = 0  # offset of the window in the buffer
        self._end = 0
        self.position = 0  # offset in the window
        self.base = 0  # offset of the window in the body

    def __del__(self) -> None:
        _give(self._buffer)

    def fetch(self, count: int) -> bytes:
        """Read bytes of the file before its compressed body."""
        data = read_exactly(self._stream, count)
        self._read += len(data)
        hashed = len(data) - self._unhashed
        if hashed >= 0:
            self._file_hash.update(self._file_tail)
            self._file_hash.update(memoryview(data)[:hashed])
            self._file_tail = data[hashed:]
        else:
            joined = self._file_tail + data
            self._file_hash.update(joined[: -self._unhashed])
            self._file_tail = joined[-self._unhashed :]
        return data

    def begin_block(self, compression: Compression, decoder: BodyDecoder | None = None) -> None:
        """Begin the compressed body at the position in the file, perhaps with another decoder."""
        self._block_start = self._read
        self._decoder = compression.decoder() if decoder is None else decoder
        self._max_expansion = compression.max_expansion

    @property
    def offset(self) -> int:
        """Position in the decompressed body."""
        return self.base + self.position

    @property
    def end(self) -> int:
        """End of the window in the decompressed body."""
        return self.base + self._end - self._start

    @property
    def available(self) -> int:
        """Number of unread bytes in the window."""
        return self._end - self._start - self.position

    @property
    def data(self) -> memoryview:
        """Bytes of the window, valid until it grows or the position moves."""
        return self._buffer[self._start : self._end]

    def drop(self) -> None:
        """Discard the bytes before the position."""
        if self.position:
            self._hash_to_position()
            self._start += self.position
            self.base += self.position
            self.position = self._hashed = 0

    def _hash_to_position(self) -> None:
        if self.position > self._hashed:
            at = self._start
            self._hash.update(self._buffer[at + self._hashed : at + self.position])
            self._hashed = self.position

    def grow(self, count: int) -> bool:
        """Add at least `count` bytes to the window; return False at the end of the body."""
        count = max(count, _MIN_DECODED_BYTES)
        if self._end + count > len(self._buffer):
            self._move(count)
        before = self._end
        try:
            self._end = self._decoder.fill(
                self._buffer, self._first, before, before + count, self._fetch_piece
            )
        except CorruptFile as error:
            if error.where == "file":
                error.offset += self._block_start
            raise
        return self._end > before

    def _move(self, room: int, *, is_borrowed: bool = False) -> None:
        """Move the window to the front of a buffer that has room for more bytes."""
        first = min(self._start, max(self._first, self._end - _HISTORY_BYTES))
        kept = self._end - first
        old = self._buffer
        if is_borrowed or kept + room > len(old):
            self._buffer = DECODED.take(kept + room + min(room, _MIN_GROWTH_BYTES))
        self._buffer[:kept] = old[first : self._end]
        self._first, self._start, self._end = 0, self._start - first, kept
        if not is_borrowed and self._buffer is not old:
            _give(old)

    def borrow(self) -> tuple[memoryview, Callable[[], None]]:
        """Return the bytes before the position, and a function that releases them.

        Few bytes are copied, and so are fewer than there are after the position.
        """
        end = self.position
        view = self.data[:end]
        self.drop()
        if end < max(self.available, _MIN_DECODED_BYTES):
            return memoryview(bytes(view)), _nothing
        self._move(end, is_borrowed=True)
        return view, partial(DECODED.give, view)

    def _fetch_piece(self) -> bytes:
        return self.fetch(_READ_BYTES)

    def need(self, count: int, expected: str) -> None:
        """Grow the window to at least `count` unread bytes.

        Raises
        ------
        CorruptFile
            The body has fewer bytes.
        """
        if self.available >= count:
            return
        self.drop()
        missing = count - self.available
        if self._size is not None:
            # The decoder retains at most one long match, whose size its bytes bound.
            possible = (self._size - self._read + _READ_BYTES) * self._max_expansion
            if missing > possible + _MIN_GROWTH_BYTES:
                raise CorruptFile(
                    f"{expected} claims {count} bytes, more than the file can hold",
                    offset=self.offset,
                )
        self.grow(missing)
        if self.available < count:
            raise CorruptFile(f"the body ends inside {expected}", offset=self.end)

    def take(self, count: int, expected: str) -> bytes:
        """Read `count` bytes."""
        self.need(count, expected)
        at = self._start + self.position
        self.position += count
        return bytes(self._buffer[at : at + count])

    def read_map_head(self, expected: str) -> int:
        """Read the head of a map, or nil, which Go writes for a nil map."""
        at = self.offset
        (head,) = self.take(1, expected)
        if head == 0xC0:
            return 0
        if 0x80 <= head < 0x90:
            return head & 0x0F
        if head in (0xDE, 0xDF):
            return int.from_bytes(self.take(2 if head == 0xDE else 4, expected), "big")
        raise CorruptFile(f"{expected} is a map, but found {codec.describe(head)}", offset=at)

    def read_string(self, expected: str) -> str:
        """Read a string, with surrogate escapes for bytes that are not UTF-8."""
        at = self.offset
        (head,) = self.take(1, expected)
        if 0xA0 <= head < 0xC0:
            length = head & 0x1F
        elif head in (0xD9, 0xDA, 0xDB):
            length = int.from_bytes(self.take(1 << head - 0xD9, expected), "big")
        else:
            raise CorruptFile(
                f"{expected} is a string, but found {codec.describe(head)}", offset=at
            )
        if length > _MAX_VALUE_BYTES:
            raise CorruptFile(f"{expected} claims {length} bytes", offset=at)
        return self.take(length, expected).decode("utf-8", "surrogateescape")

    def read_checksum(self, expected: str) -> int:
        """Read an unsigned integer that is stored in 64 bits."""
        at = self.offset
        data = self.take(9, expected)
        if data[0] != 0xCF:
            raise CorruptFile(
                f"{expected} is a 64-bit integer, but found {codec.describe(data[0])}", offset=at
            )
        return int.from_bytes(data[1:], "big")

    def skip_values(self, items: int, expected: str, kept: list[bytes] | None = None) -> None:
        """Skip values of any size, and append their bytes to `kept` if it is given."""
        size = 0
        while items:
            if not self.available:
                self.need(1, expected)
            try:
                end, items, payload = codec.skip_items(self.data, self.position, items)
            except CorruptFile as error:
                error.offset += self.base
                raise
            passed = end - self.position
            if not passed:  # The window ends inside the head of a value.
                self.need(self.available + 1, expected)
                continue
            self._keep(passed, kept)
            size += passed + payload
            if kept is not None and size > _MAX_VALUE_BYTES:
                raise LimitExceeded(f"{expected} has more than {_MAX_VALUE_BYTES} bytes")
            while payload:
                step = min(payload, _MIN_GROWTH_BYTES)
                self.need(step, expected)
                self._keep(step, kept)
                payload -= step

    def follow(self, decoded: memoryview) -> None:
        """Move after the next bytes of the body, which were decoded elsewhere.

        Raises
        ------
        CorruptFile
            Bytes of the window are unread, so that these are not the next ones.
        """
        if self.available:
            raise CorruptFile("the body has bytes before a piece of documents", offset=self.offset)
        self.drop()
        self._hash.update(decoded)
        self.base += len(decoded)

    def prefetch(self, count: int) -> None:
        """Begin the window at the position, and add bytes up to `count` if the body has them."""
        self.drop()
        if self.available < count:
            self.grow(count - self.available)

    def _keep(self, count: int, kept: list[bytes] | None) -> None:
        if kept is not None:
            kept.append(bytes(self.data[self.position : self.position + count]))
        self.position += count

    def content_digest(self) -> int:
        """Return the checksum of all bytes before the position."""
        self._hash_to_position()
        return self._hash.intdigest()

    def drain(self) -> int:
        """Read to the end of the file, and return the number of bytes read."""
        left = 0
        while self.available or self.grow(_MIN_DECODED_BYTES):
            left += self.available
            self.position += self.available
            self.drop()
        return left

    def file_digest(self) -> tuple[int, bytes]:
        """Return the checksum of the file except its last bytes, and these bytes.

        The whole file must be read.
        """
        return self._file_hash.intdigest(), self._file_tail
