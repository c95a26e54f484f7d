"""Record batches of uploads, which strangers made: validated, measured, and kept on the disk."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from typing import IO

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.documents.rows import check_names
from godb_arrow.errors import InvalidOption

__all__ = ["ReceivedBatches", "check_batch", "unpacked_bytes"]

_MIN_DOCUMENT_BYTES = 16  # with its id
_MAX_BYTES_IN_MEMORY = 1 << 20  # of an upload that has no temporary file


class ReceivedBatches:
    """Record batches of an upload, in a temporary file if they are larger than 1 MiB."""

    def __init__(self) -> None:
        self.schema: pa.Schema = pa.schema([])
        """Schema of the batches, which is set before they are added."""
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._writer: pa.RecordBatchWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a valid batch."""
        self._batches.append(batch)
        self._bytes += batch.nbytes
        if self._writer is None and self._bytes > _MAX_BYTES_IN_MEMORY:
            file = tempfile.TemporaryFile(prefix="godb-arrow-upload-")  # noqa: SIM115
            self._file = file
            self._writer = pa.ipc.new_stream(file, self.schema)
        if self._writer is not None:
            for one in self._batches:
                self._writer.write_batch(one)
            self._batches.clear()

    def data(self) -> pa.Table | pa.RecordBatchReader:
        """Return the whole upload, as often as it is needed; a reader has a batch in memory."""
        if self._file is None:
            return pa.Table.from_batches(self._batches, self.schema)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._file.seek(0)
        return pa.ipc.open_stream(self._file)

    def close(self) -> None:
        """Remove the temporary file."""
        self._batches.clear()
        writer, self._writer = self._writer, None
        with suppress(OSError, pa.ArrowException):  # a full disk, of a file that nothing reads
            if writer is not None:
                writer.close()
        with suppress(OSError):
            if self._file is not None:
                self._file.close()


def check_batch(batch: pa.RecordBatch) -> None:
    """Validate a batch in full, because its offsets may lead to other memory of the server.

    Raises
    ------
    InvalidOption
        The batch is not valid.
    UnsupportedType
        The name of a column is not UTF-8.
    """
    check_names(batch.schema)
    try:
        batch.validate(full=True)
    except pa.ArrowException as error:
        raise InvalidOption(
            f"a record batch of the upload is not valid: {str(error).splitlines()[0]}",
            advice="check it with validate(full=True) before it is sent",
        ) from error


def unpacked_bytes(batch: pa.RecordBatch) -> int:
    """Return about how many bytes the documents of a valid batch have.

    Nulls, run-end encoding and dictionaries take few bytes in Arrow, and many in documents.
    """
    names: int = sum(len(name) + 2 for name in batch.schema.names)
    heads: int = batch.num_rows * (names + _MIN_DOCUMENT_BYTES)
    return max(int(batch.nbytes), heads + sum(map(_unpacked, batch.columns)))


def _unpacked(array: pa.Array) -> int:
    types, kind = pa.types, array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _unpacked(array.storage)
    if types.is_dictionary(kind):
        return _repeated(array.dictionary, pc.value_counts(array.indices))
    if types.is_run_end_encoded(kind):
        # Also the runs outside of a slice count.
        ends = array.run_ends.cast(pa.int64())
        lengths = pc.pairwise_diff(ends).fill_null(ends[0]) if len(ends) else ends
        return _total(_sizes(array.values), lengths)
    if types.is_struct(kind):
        return len(array) + sum(map(_unpacked, array.flatten()))
    if types.is_map(kind):
        return len(array) + _unpacked(array.keys) + _unpacked(array.items)
    if types.is_nested(kind) and not types.is_union(kind):
        return len(array) + _unpacked(array.flatten())
    return max(int(array.nbytes), len(array))


def _repeated(values: pa.Array, counts: pa.StructArray) -> int:
    """Return the bytes of values that occur several times each."""
    places, times = counts.flatten()
    return _total(_sizes(values).take(places), times)


def _total(sizes: pa.Array, times: pa.Array) -> int:
    return int(pc.sum(pc.multiply(sizes, times)).as_py() or 0)


def _sizes(values: pa.Array) -> pa.Array:
    """Return the bytes of each value; of nested ones, at most."""
    kind = values.type
    if pa.types.is_binary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.add(pc.binary_length(values).fill_null(0).cast(pa.int64()), 1)
    most = _unpacked(values) if pa.types.is_nested(kind) else 16
    return pa.array([most] * len(values), pa.int64())
