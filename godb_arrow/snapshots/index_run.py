"""Immutable sorted runs of an index: the values of one field in one file, and their rows.

A run names candidates only, and the filter decides. It has every value that the field's name may
lead to, with the elements of lists, so that no matching document is missing. Keys may be coarser
than values, such as the first bytes of a text.

=============  ===================================================================================
bytes          content
=============  ===================================================================================
0 to 3         ``GODX``
4 to 7         version 1, little-endian
8 to 15        length of the map that follows
next           MessagePack map with the number of documents and of the entries of each kind
rest           keys and rows of each kind, as the map says, in little-endian arrays
=============  ===================================================================================
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from godb_arrow import codec
from godb_arrow.codec.entries import Chunk
from godb_arrow.codec.field_values import FieldValues, ValueKind, parts_of
from godb_arrow.query.predicate import Range
from godb_arrow.snapshots.id_index import NO_ROWS, Rows

__all__ = ["IndexBuilder", "IndexBuilders", "IndexRun"]

_MAGIC = b"GODX\x01\x00\x00\x00"
_MAX_KEY_BYTES = 64  # of a text
_MIN_INT64, _MAX_INT64, _MAX_UINT64 = -(2**63), 2**63 - 1, 2**64 - 1
_SIGN = np.uint64(1 << 63)
_FLAGS = ("false", "true", "nans", "nulls", "others")
_NUMBERS = ("numbers", "moments")
_TEXTS = ("strings", "binaries")

_U32 = npt.NDArray[np.uint32]
_U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Keys of one kind in order, and their rows."""

    keys: Any  # array of uint64, or BinaryArray
    rows: _U32

    def between(self, low: Any, high: Any) -> _U32:
        """Return the rows of keys from low to high, with both; None is no bound."""
        return self.rows[slice(*self.span(low, high))]

    def span(self, low: Any, high: Any) -> tuple[int, int]:
        keys = self.keys
        if isinstance(keys, np.ndarray):
            first = 0 if low is None else int(keys.searchsorted(low, "left"))
            last = len(keys) if high is None else int(keys.searchsorted(high, "right"))
        else:
            first = 0 if low is None else bisect_left(keys, low, key=_as_py)
            last = len(keys) if high is None else bisect_right(keys, high, key=_as_py)
        return first, max(first, last)


def _as_py(scalar: Any) -> Any:
    return scalar.as_py()


class IndexRun:
    """Values of one field in the documents of one file.

    Parameters
    ----------
    documents : int
        Number of the documents.
    has_lists : bool
        Whether a document may have several values.
    kinds : mapping of str to _Sorted
        Sorted keys of numbers, moments, strings and binary values.
    flags : mapping of str to array of uint32
        Rows with false, true, NaN, null or absent, and other values.
    """

    def __init__(
        self,
        documents: int,
        has_lists: bool,
        kinds: dict[str, _Sorted],
        flags: dict[str, _U32],
    ) -> None:
        self.documents = documents
        self.has_lists = has_lists
        self._kinds = kinds
        self._flags = flags

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        arrays = [array for kind in self._kinds.values() for array in (kind.keys, kind.rows)]
        return sum(array.nbytes for array in (*arrays, *self._flags.values()))

    # --- finding candidates -------------------------------------------------------------------

    def candidates(self, ranges: Sequence[Range]) -> Rows:
        """Return the rows that may have a value in one of some ranges, in order."""
        found = [rows for one in ranges for rows in self._in_range(one) if len(rows)]
        joined = found[0] if len(found) == 1 else np.concatenate([NO_ROWS, *found])
        return (joined if len(joined) < 2 else np.unique(joined)).astype(np.int64)

    def _in_range(self, one: Range) -> list[_U32]:
        if one.is_null:
            return [self._flags["nulls"]]
        literal = one.high if one.low is None else one.low
        if isinstance(literal, bool):
            return [self._flags["true" if literal else "false"]]
        if isinstance(literal, (int, float)):
            if isinstance(literal, float) and math.isnan(literal):
                return [self._flags["nans"]]
            return [self._between("numbers", one, _number_key)]
        if isinstance(literal, str):
            texts = [self._between("strings", one, _text_key)]
            # A string that is no UTF-8 is among the binary values.
            return [*texts, self._between("binaries", one, _text_key)]
        if isinstance(literal, bytes):
            return [self._between("binaries", one, _text_key)]
        if isinstance(literal, msgpack.Timestamp):
            return [self._between("moments", one, _moment_key)]
        return [np.arange(self.documents, dtype=np.uint32)]  # a kind that has no index

    def _between(self, kind: str, one: Range, key: Any) -> _U32:
        low = None if one.low is None else key(one.low)
        high = low if one.high is one.low else None if one.high is None else key(one.high)
        return self._kinds[kind].between(low, high)

    # --- as bytes -----------------------------------------------------------------------------

    def pack(self) -> bytes:
        """Pack the run as a file has it."""
        sizes: dict[str, Any] = {"documents": self.documents, "lists": self.has_lists}
        arrays: list[bytes] = []
        for name in _NUMBERS:
            found = self._kinds[name]
            sizes[name] = len(found.rows)
            arrays += [found.keys.astype("<u8").tobytes(), found.rows.astype("<u4").tobytes()]
        for name in _TEXTS:
            found = self._kinds[name]
            ends, texts = _text_buffers(found.keys)
            sizes[name] = [len(found.rows), len(texts)]
            arrays += [ends.astype("<u4").tobytes(), texts, found.rows.astype("<u4").tobytes()]
        for name in _FLAGS:
            sizes[name] = len(self._flags[name])
            arrays.append(self._flags[name].astype("<u4").tobytes())
        head: bytes = msgpack.packb(sizes)
        return b"".join([_MAGIC, len(head).to_bytes(8, "little"), head, *arrays])

    @classmethod
    def unpack(cls, data: bytes, documents: int) -> IndexRun | None:
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
            pa.ArrowException,
        ):
            return None


def _unpacked(data: bytes, documents: int) -> IndexRun | None:
    size = int.from_bytes(data[8:16], "little")
    if data[:8] != _MAGIC or size > len(data):
        return None
    head = msgpack.unpackb(data[16 : 16 + size])
    reader = _Reader(data, 16 + size, documents)
    if head["documents"] != documents:
        return None
    kinds: dict[str, _Sorted] = {}
    for name in _NUMBERS:
        keys = reader.take(head[name], "<u8")
        kinds[name] = _Sorted(keys, reader.rows(head[name]))
        if len(keys) and (keys[1:] < keys[:-1]).any():
            return None
    for name in _TEXTS:
        count, bytes_ = head[name]
        ends = reader.take(count + 1, "<u4")
        texts = reader.take(bytes_, "u1")
        if ends[0] or ends[-1] != bytes_ or (ends[1:] < ends[:-1]).any() or bytes_ > _MAX_INT32:
            return None
        buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(texts)]
        keys = pa.Array.from_buffers(pa.binary(), count, buffers)
        if count > 1 and pc.any(pc.less(keys[1:], keys[:-1])).as_py():
            return None
        kinds[name] = _Sorted(keys, reader.rows(count))
    flags = {name: reader.rows(head[name]) for name in _FLAGS}
    run = IndexRun(documents, head["lists"] is not False, kinds, flags)
    return run if reader.is_at_end and _is_complete(run) else None


_MAX_INT32 = 2**31 - 1


def _is_complete(run: IndexRun) -> bool:
    """Return whether each document has an entry, as it has in an honest run."""
    seen = np.zeros(run.documents, bool)
    for rows in (*(kind.rows for kind in run._kinds.values()), *run._flags.values()):
        seen[rows] = True
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
        # NumPy copies an unaligned array for each search.
        return found if found.flags.aligned else found.copy()

    def rows(self, count: Any) -> _U32:
        found = self.take(count, "<u4")
        if len(found) and int(found.max()) >= self._documents:
            raise ValueError("a row that the file does not have")
        return found

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._data)


class IndexBuilder:
    """Builds the run of a field from documents, given in order.

    Parameters
    ----------
    field : str
        The field, or a dotted path.
    """

    def __init__(self, field: str) -> None:
        self._parts = parts_of(field)
        self._documents = 0
        self._has_lists = False
        self._keys: dict[str, list[Any]] = {name: [] for name in (*_NUMBERS, *_TEXTS)}
        self._rows: dict[str, list[_U32]] = {name: [] for name in (*_NUMBERS, *_TEXTS, *_FLAGS)}

    @classmethod
    def run_of(cls, field: str, runs: Iterable[codec.Entries]) -> IndexRun:
        """Build the run of documents."""
        builder = cls(field)
        for entries in runs:
            builder.add(entries)
        return builder.run()

    def add(self, entries: codec.Entries) -> None:
        """Add the next documents."""
        if not len(entries):
            return
        values = codec.field_values(entries, self._parts)
        first = np.uint32(self._documents)
        self._documents += len(entries)
        self._has_lists = self._has_lists or len(values.rows) > len(entries)
        kinds, rows = values.kinds, values.rows + first
        for name, chosen in (
            ("false", (ValueKind.FALSE,)),
            ("true", (ValueKind.TRUE,)),
            ("nulls", (ValueKind.NULL, ValueKind.ABSENT)),
            ("others", (ValueKind.ARRAY, ValueKind.MAP, ValueKind.EXTENSION)),
        ):
            mask = np.isin(kinds, chosen)
            if mask.any():
                self._rows[name].append(np.unique(rows[mask]))
        self._add_numbers(values, rows)
        self._add_moments(values, rows)
        for name, kind in (("strings", ValueKind.STRING), ("binaries", ValueKind.BINARY)):
            self._add_texts(name, values, rows, kinds == kind)

    def _add_numbers(self, values: FieldValues, rows: _U32) -> None:
        words, kinds = values.words, values.kinds
        for kind, dtype in (
            (ValueKind.INT, np.int64),
            (ValueKind.ABOVE_INT64, np.uint64),
            (ValueKind.FLOAT, np.float64),
        ):
            mask = kinds == kind
            if not mask.any():
                continue
            numbers = words[mask].view(dtype).astype(np.float64)
            own = rows[mask]
            is_nan = np.isnan(numbers)
            if is_nan.any():
                self._rows["nans"].append(own[is_nan])
                numbers, own = numbers[~is_nan], own[~is_nan]
            self._keys["numbers"].append(_ordered(numbers))
            self._rows["numbers"].append(own)

    def _add_moments(self, values: FieldValues, rows: _U32) -> None:
        mask = values.kinds == ValueKind.MOMENT
        if mask.any():
            self._keys["moments"].append(values.words[mask] ^ _SIGN)  # whole seconds
            self._rows["moments"].append(rows[mask])

    def _add_texts(
        self, name: str, values: FieldValues, rows: _U32, mask: npt.NDArray[np.bool_]
    ) -> None:
        if not mask.any():
            return
        starts = values.words[mask].astype(np.int64)
        sizes = np.minimum(values.sizes[mask], _MAX_KEY_BYTES)
        texts = codec.gather(values.data, starts, starts + sizes)
        ends = np.zeros(len(sizes) + 1, np.int32)
        np.cumsum(sizes, out=ends[1:])
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(texts)]
        self._keys[name].append(pa.Array.from_buffers(pa.binary(), len(sizes), buffers))
        self._rows[name].append(rows[mask])

    def run(self) -> IndexRun:
        """Return the run of all documents that were added."""
        kinds: dict[str, _Sorted] = {}
        for name in _NUMBERS:
            keys = _joined(self._keys[name], np.uint64)
            order = np.argsort(keys, kind="stable")
            kinds[name] = _Sorted(keys[order], _joined(self._rows[name], np.uint32)[order])
        for name in _TEXTS:
            texts = pa.concat_arrays([pa.array([], pa.binary()), *self._keys[name]])
            order = pc.sort_indices(texts).to_numpy()
            rows = _joined(self._rows[name], np.uint32)
            kinds[name] = _Sorted(texts.take(pa.array(order)), rows[order])
        flags = {name: _joined(self._rows[name], np.uint32) for name in _FLAGS}
        return IndexRun(self._documents, self._has_lists, kinds, flags)


class IndexBuilders:
    """Builds the runs of several fields while documents are written.

    Parameters
    ----------
    fields : sequence of str
        The indexed fields.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._builders = {field: IndexBuilder(field) for field in fields}

    def add(self, entries: codec.Entries) -> None:
        """Add the next documents to all runs."""
        for builder in self._builders.values():
            builder.add(entries)

    def noting(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Yield chunks unchanged, and add their documents."""
        for chunk in chunks:
            if self._builders:
                data = bytes(chunk.data)
                self.add(codec.scan_entries(data, 0, chunk.documents, len(data) + 1, 0))
            yield chunk

    def packed_runs(self) -> Callable[[], dict[str, bytes]] | None:
        """Return what packs the runs after the last document; None without fields."""
        if not self._builders:
            return None
        return lambda: {field: one.run().pack() for field, one in self._builders.items()}


def _joined(arrays: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays])


def _text_buffers(texts: pa.Array) -> tuple[npt.NDArray[np.int32], bytes]:
    """Return the offsets and the bytes of texts."""
    if not len(texts):
        return np.zeros(1, np.int32), b""
    _, ends, data = texts.buffers()
    offsets = np.frombuffer(ends, np.int32, len(texts) + 1, texts.offset * 4)
    first, last = int(offsets[0]), int(offsets[-1])
    return offsets - offsets[0], b"" if data is None else data[first:last].to_pybytes()


# --- keys ---------------------------------------------------------------------------------------


def _ordered(numbers: npt.NDArray[np.float64]) -> _U64:
    """Return integers that have the order of floats; both zeros have one."""
    bits = (numbers + 0.0).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _number_key(number: int | float) -> np.uint64:
    """Return the key of a number: rounding to a float keeps the order."""
    try:
        found = float(number)
    except OverflowError:
        found = math.inf if number > 0 else -math.inf
    (bits,) = struct.unpack("<Q", struct.pack("<d", found + 0.0))
    return np.uint64(bits ^ _MAX_UINT64 if bits >> 63 else bits | 1 << 63)


def _moment_key(moment: msgpack.Timestamp) -> np.uint64:
    seconds = min(max(moment.seconds, _MIN_INT64), _MAX_INT64)
    return np.uint64(np.array([seconds], np.int64).view(np.uint64)[0] ^ _SIGN)


def _text_key(text: str | bytes) -> bytes:
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return raw[:_MAX_KEY_BYTES]
