"""Immutable sorted runs of an index: the values of one field in one file, and their rows.

A run names candidates only, and the filter decides. It has every value that the field's name may
lead to, with the elements of lists, so that no matching document is missing. Keys may be coarser
than values, such as the first bytes of a text.

=============  ===================================================================================
bytes          content
=============  ===================================================================================
0 to 3         ``GODX``
4 to 7         version 2, little-endian
8 to 15        length of the map that follows
next           MessagePack map with the number of documents and of the entries of each kind
rest           keys and rows of each kind, as the map says, in little-endian arrays
=============  ===================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from godb_arrow import codec
from godb_arrow.snapshots.index_names import keys_builder

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["IndexBuilders", "pack_run", "unpack_run"]

_MAGIC = b"GODX\x02\x00\x00\x00"
_NUMBERS = ("numbers", "moments")
_TEXTS = ("strings", "binaries")
_FLAGS = ("false", "true", "nans", "nulls", "others")
_MAX_INT32 = 2**31 - 1


def pack_run(keys: codec.SortedKeys) -> bytes:
    """Pack the sorted keys of a field as a file has them."""
    sizes: dict[str, Any] = {"documents": keys.documents, "lists": keys.has_lists}
    parts: list[bytes] = []
    numbers, texts, rows = keys.arrays()
    for name, found, own in zip(_NUMBERS, numbers, rows, strict=False):
        sizes[name] = len(own) // 4
        parts += [found, own]
    for name, (ends, blob), own in zip(_TEXTS, texts, rows[2:], strict=False):
        sizes[name] = [len(own) // 4, len(blob)]
        parts += [ends, blob, own]
    for name, own in zip(_FLAGS, rows[4:], strict=True):
        sizes[name] = len(own) // 4
        parts.append(own)
    head: bytes = msgpack.packb(sizes)
    return b"".join([_MAGIC, len(head).to_bytes(8, "little"), head, *parts])


def unpack_run(data: bytes, documents: int) -> codec.SortedKeys | None:
    """Unpack a run; return None if it is damaged, or of other documents.

    Parameters
    ----------
    data : bytes
        The run, which may be forged.
    documents : int
        Number of documents of the file.
    """
    try:
        return _unpacked(data, documents)
    except (
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        AttributeError,
        msgpack.UnpackException,
    ):
        return None


def _unpacked(data: bytes, documents: int) -> codec.SortedKeys | None:
    size = int.from_bytes(data[8:16], "little")
    if data[:8] != _MAGIC or size > len(data):
        return None
    head = msgpack.unpackb(data[16 : 16 + size])
    if head["documents"] != documents:
        return None
    reader = _Reader(data, 16 + size, documents)
    numbers, texts, rows = [], [], []
    for name in _NUMBERS:
        keys = reader.take(head[name], "<u8")
        rows.append(reader.rows(head[name]))
        if len(keys) and (keys[1:] < keys[:-1]).any():
            return None
        numbers.append(keys)
    for name in _TEXTS:
        count, bytes_ = head[name]
        ends = reader.take(count + 1, "<u4")
        if not len(ends):
            return None
        blob = reader.take(bytes_, "u1")
        if ends[0] or ends[-1] != bytes_ or (ends[1:] < ends[:-1]).any() or bytes_ > _MAX_INT32:
            return None
        rows.append(reader.rows(count))
        texts.append((ends, blob))
    for name in _FLAGS:
        rows.append(reader.rows(head[name]))
        if (rows[-1][1:] < rows[-1][:-1]).any():
            return None
    if not reader.is_at_end or not _is_complete(rows, documents):
        return None
    found = codec.SortedKeys.of(documents, head["lists"] is not False, numbers, texts, rows)
    return found if found.has_order() else None


def _is_complete(rows: Sequence[npt.NDArray[np.uint32]], documents: int) -> bool:
    """Return whether each document has an entry, as it has in an honest run."""
    seen = np.zeros(documents, bool)
    for found in rows:
        seen[found] = True
    return bool(seen.all())


class _Reader:
    """Reads arrays of untrusted bytes."""

    def __init__(self, data: bytes, at: int, documents: int) -> None:
        self._data = data
        self._at = at
        self._documents = documents

    def take(self, count: Any, dtype: str) -> npt.NDArray[Any]:
        if type(count) is not int or count < 0:
            raise ValueError("no number of entries")
        size = count * np.dtype(dtype).itemsize
        if size > len(self._data) - self._at:
            raise ValueError("the run ends too early")
        found = np.frombuffer(self._data, dtype, count, self._at)
        self._at += size
        return found if found.flags.aligned else found.copy()

    def rows(self, count: Any) -> npt.NDArray[np.uint32]:
        found = self.take(count, "<u4")
        if len(found) and int(found.max()) >= self._documents:
            raise ValueError("a row that the file does not have")
        return found

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._data)


class IndexBuilders:
    """Builds the runs of several fields while documents are written.

    Parameters
    ----------
    fields : sequence of str
        The indexed fields.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._builders = {field: keys_builder(field) for field in fields}

    def add(self, entries: codec.Entries) -> None:
        """Add the next documents to all runs."""
        for builder in self._builders.values():
            builder.add(entries)

    def packed_runs(self) -> Callable[[], dict[str, bytes]] | None:
        """Return what packs the runs after the last document; None without fields."""
        if not self._builders:
            return None
        return lambda: {field: pack_run(one.keys()) for field, one in self._builders.items()}
