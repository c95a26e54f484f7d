"""The body of a GODB file, decompressed as it is read, with its checksums."""

from __future__ import annotations

from typing import BinaryIO

import xxhash

from godb_arrow import codec
from godb_arrow.codec.compression import Compression
from godb_arrow.errors import CorruptFile, LimitExceeded

__all__ = ["Body", "read_exactly"]


_READ_SIZE = 128 << 10
_LEAST_GROWTH = 256 << 10
_MAX_VALUE = 1 << 30


def read_exactly(stream: BinaryIO, count: int) -> bytes:
    """Read `count` bytes, or fewer at the end of the stream."""
    data = b""
    while len(data) < count:
        more = stream.read(count - len(data))
        if not more:
            break
        data += more
    return data


class Body:
    """The decompressed body of a file as a window that moves forward.

    Parameters
    ----------
    stream : binary file
        The file, at its beginning.
    size : int or None
        Bytes of the file, where that is known.
    unhashed : int
        How many bytes at the file's end its checksum leaves out.
    """

    def __init__(self, stream: BinaryIO, size: int | None, unhashed: int) -> None:
        self._stream = stream
        self._size = size  # of the whole file, where it is known
        self._unhashed = unhashed
        self._read = 0
        self._block_start = 0
        self._file_hash = xxhash.xxh3_64()
        self._file_tail = b""  # the last bytes read, not hashed yet
        self._hash = xxhash.xxh3_64()
        self._hashed = 0  # bytes of the window that are hashed
        self.data = b""
        self.position = 0
        self.base = 0  # offset of data[0] in the body

    def fetch(self, count: int) -> bytes:
        """Read bytes of the file as they are: the header, before anything else."""
        data = read_exactly(self._stream, count)
        self._read += len(data)
        joined = self._file_tail + data
        self._file_hash.update(joined[: -self._unhashed])
        self._file_tail = joined[-self._unhashed :]
        return data

    def begin_block(self, compression: Compression) -> None:
        """Say that what follows in the file is the compressed body."""
        self._block_start = self._read
        self._decoder = compression.decoder()
        self._max_expansion = compression.max_expansion

    @property
    def offset(self) -> int:
        """The position in the decompressed body."""
        return self.base + self.position

    @property
    def available(self) -> int:
        """Bytes of the window that are still to be read."""
        return len(self.data) - self.position

    def drop(self) -> None:
        """Forget what was read, so that the window begins at the position."""
        if self.position:
            self._hash_to_position()
            self.data = self.data[self.position :]
            self.base += self.position
            self.position = self._hashed = 0

    def _hash_to_position(self) -> None:
        if self.position > self._hashed:
            self._hash.update(memoryview(self.data)[self._hashed : self.position])
            self._hashed = self.position

    def grow(self, count: int) -> bool:
        """Add about `count` bytes to the window; False when there are none."""
        before = len(self.data)
        try:
            self.data = self._decoder.gather(self.data, count, self._fetch_piece)
        except CorruptFile as error:
            if error.where == "file":
                error.offset += self._block_start
            raise
        return len(self.data) > before

    def _fetch_piece(self) -> bytes:
        return self.fetch(_READ_SIZE)

    def need(self, count: int, expected: str) -> None:
        """Have at least `count` bytes in the window."""
        if self.available >= count:
            return
        self.drop()
        missing = count - self.available
        if self._size is not None:
            # What LZ4 holds back is at most one long match, and that is bounded by its bytes.
            possible = (self._size - self._read + _READ_SIZE) * self._max_expansion
            if missing > possible + _LEAST_GROWTH:
                raise CorruptFile(
                    f"{expected} claims {count} bytes, more than the file can hold",
                    offset=self.offset,
                )
        self.grow(missing)
        if self.available < count:
            raise CorruptFile(f"the body ends inside {expected}", offset=self.base + len(self.data))

    def take(self, count: int, expected: str) -> bytes:
        """Read `count` bytes."""
        self.need(count, expected)
        data = self.data[self.position : self.position + count]
        self.position += count
        return data

    def read_map_head(self, expected: str) -> int:
        """Read the head of a map, or nil, which Go writes for a map that was never made."""
        at = self.offset
        (head,) = self.take(1, expected)
        if head == 0xC0:
            return 0
        if 0x80 <= head < 0x90:
            return head & 0x0F
        if head in (0xDE, 0xDF):
            return int.from_bytes(self.take(2 if head == 0xDE else 4, expected), "big")
        raise CorruptFile(f"{expected} is a map, but here is {codec.describe(head)}", offset=at)

    def read_string(self, expected: str) -> str:
        """Read a string; bytes that are not UTF-8 become surrogate escapes."""
        at = self.offset
        (head,) = self.take(1, expected)
        if 0xA0 <= head < 0xC0:
            length = head & 0x1F
        elif head in (0xD9, 0xDA, 0xDB):
            length = int.from_bytes(self.take(1 << head - 0xD9, expected), "big")
        else:
            raise CorruptFile(
                f"{expected} is a string, but here is {codec.describe(head)}", offset=at
            )
        if length > _MAX_VALUE:
            raise CorruptFile(f"{expected} claims {length} bytes", offset=at)
        return self.take(length, expected).decode("utf-8", "surrogateescape")

    def read_checksum(self, expected: str) -> int:
        """Read an unsigned 64-bit integer in its full width."""
        at = self.offset
        data = self.take(9, expected)
        if data[0] != 0xCF:
            raise CorruptFile(
                f"{expected} is a 64-bit integer, but here is {codec.describe(data[0])}", offset=at
            )
        return int.from_bytes(data[1:], "big")

    def skip_values(self, items: int, expected: str, kept: list[bytes] | None = None) -> None:
        """Pass over values, whatever their size; keep their bytes if asked."""
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
            if not passed:  # the head of a value is cut off
                self.need(self.available + 1, expected)
                continue
            self._keep(passed, kept)
            size += passed + payload
            if kept is not None and size > _MAX_VALUE:
                raise LimitExceeded(f"{expected} has more than {_MAX_VALUE} bytes")
            while payload:
                step = min(payload, _LEAST_GROWTH)
                self.need(step, expected)
                self._keep(step, kept)
                payload -= step

    def prefetch(self, count: int) -> None:
        """Begin the window at the position, with `count` bytes in it if there are as many."""
        self.drop()
        if self.available < count:
            self.grow(count - self.available)

    def _keep(self, count: int, kept: list[bytes] | None) -> None:
        if kept is not None:
            kept.append(self.data[self.position : self.position + count])
        self.position += count

    def content_digest(self) -> int:
        """The checksum of every byte before the position."""
        self._hash_to_position()
        return self._hash.intdigest()

    def drain(self) -> int:
        """Read to the end of the file; returns the bytes that were left."""
        left = self.available
        self.position = len(self.data)
        self.drop()
        while self.grow(_LEAST_GROWTH):
            left += self.available
            self.position = len(self.data)
            self.drop()
        return left

    def file_digest(self) -> tuple[int, bytes]:
        """At the end: the checksum of the file but for its last bytes, and those bytes."""
        return self._file_hash.intdigest(), self._file_tail
