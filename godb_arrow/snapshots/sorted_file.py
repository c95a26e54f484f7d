"""Temporary file of sorted documents, whose keys are read without the documents."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from godb_arrow.arrow_compute import pc

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["ENTRY", "SIZE", "SortedFile", "sizes_of", "sliced", "text_of"]

ENTRY, SIZE = "entry", "size"
"""Columns: a document with its id, and the bytes of it."""

_BATCH = struct.Struct("<QQ")  # bytes of the keys, and of the documents


class SortedFile:
    """File of sorted documents, read batch by batch.

    A batch has keys, followed by the documents. So a merge has keys of many files in memory, and
    reads only the documents that come next, whatever their size.

    Parameters
    ----------
    max_bytes : int
        Max bytes of the keys of a batch, unless one key is larger.

    Attributes
    ----------
    head : pyarrow.Table
        Keys that are read and not skipped, with the sizes of the documents.
    head_bytes : int
        Bytes of the keys of the largest batch.
    """

    head: pa.Table

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._file = tempfile.TemporaryFile(prefix="godb-arrow-sort-")  # noqa: SIM115 (closed by close)
        self._schema: pa.Schema | None = None
        self._next = self._end = self._entries_at = 0
        self.head_bytes = 0

    def write(self, tables: Iterable[pa.Table]) -> None:
        """Write sorted tables."""
        for table in tables:
            sizes = sizes_of(table.column(ENTRY))
            keys = table.drop_columns(ENTRY).append_column(SIZE, pa.array(sizes))
            for start, end in sliced(_row_bytes(keys), self._max_bytes):
                self._write_batch(keys.slice(start, end - start), table.column(ENTRY)[start:end])
        self._end = self._file.tell()

    def _write_batch(self, keys: pa.Table, entries: pa.ChunkedArray) -> None:
        (batch,) = keys.combine_chunks().to_batches()
        self._schema = batch.schema
        message = batch.serialize()
        texts = [text_of(chunk) for chunk in entries.chunks]
        self._file.write(_BATCH.pack(message.size, sum(map(len, texts))))
        for part in (message, *texts):
            self._file.write(part)
        self.head_bytes = max(self.head_bytes, message.size)

    @property
    def has_more(self) -> bool:
        """Whether the file has rows after the head."""
        return self._next < self._end

    def begin(self) -> None:
        """Read the keys of the first batch."""
        self._next = 0
        self._read()

    def _read(self) -> None:
        self._file.seek(self._next)
        keys_bytes, entries_bytes = _BATCH.unpack(self._file.read(_BATCH.size))
        message = pa.py_buffer(self._file.read(keys_bytes))
        self.head = pa.Table.from_batches([pa.ipc.read_record_batch(message, self._schema)])
        self._entries_at = self._next + _BATCH.size + keys_bytes
        self._next = self._entries_at + entries_bytes

    def read_entries(self, size: int) -> bytes:
        """Return the bytes of the next documents of the head."""
        self._file.seek(self._entries_at)
        self._entries_at += size
        return self._file.read(size)

    def skip(self, count: int) -> bool:
        """Skip rows of the head, whose documents were read; return whether rows are left."""
        self.head = self.head.slice(count)
        if not self.head.num_rows:
            if not self.has_more:
                return False
            del self.head  # before the next one takes memory
            self._read()
        return True

    def close(self) -> None:
        """Release memory and the file."""
        self.head = None
        self._file.close()


def sliced(sizes: npt.NDArray[np.int64], max_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows that have a bounded number of bytes, each with at least one row.

    Examples
    --------
    >>> list(sliced(np.array([3, 3, 9, 1, 4]), 6))
    [(0, 2), (2, 3), (3, 5)]
    """
    ends = np.cumsum(sizes)
    start = before = 0
    while start < len(ends):
        end = max(start + 1, int(ends.searchsorted(before + max_bytes, "right")))
        yield start, end
        start, before = end, int(ends[end - 1])


def sizes_of(texts: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the bytes of each text."""
    sizes: npt.NDArray[np.int64] = pc.binary_length(texts).to_numpy()
    return sizes


def _row_bytes(keys: pa.Table) -> npt.NDArray[np.int64]:
    """Return the bytes of each row of keys."""
    sizes = np.zeros(keys.num_rows, np.int64)
    for column in keys.columns:
        sizes += 8
        if pa.types.is_large_binary(column.type):
            sizes += sizes_of(column)
    return sizes


def text_of(texts: pa.Array) -> memoryview:
    """Return the bytes of all texts, one after the other."""
    if not len(texts):
        return memoryview(b"")
    _, ends, data = texts.buffers()
    offsets = np.frombuffer(ends, np.int64, len(texts) + 1, texts.offset * 8)
    view = memoryview(b"" if data is None else data).cast("B")
    return view[int(offsets[0]) : int(offsets[-1])]
