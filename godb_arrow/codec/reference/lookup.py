"""Sorted keys of one field, and the documents that they lead to, written to be read.

Keys may be coarser than values, such as the first bytes of a text. They name candidates, and a
predicate decides.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.codec.entries import Entries
from godb_arrow.codec.field_values import FieldValues, ValueKind
from godb_arrow.codec.reference.ids import hash_id
from godb_arrow.codec.reference.values import field_values

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "IdSearch",
    "KeysBuilder",
    "Located",
    "RowSet",
    "SortedKeys",
    "load_found",
    "plain_filter",
]

_MAX_KEY_BYTES = 64  # of a text
_MIN_INT64, _MAX_INT64, _MAX_UINT64 = -(2**63), 2**63 - 1, 2**64 - 1
_SIGN = 1 << 63
_NUMBERS, _MOMENTS, _STRINGS, _BINARIES, _FALSE, _TRUE, _NANS, _NULLS, _OTHERS = range(9)
_KINDS = 9

_U32: TypeAlias = "npt.NDArray[np.uint32]"
_U64: TypeAlias = "npt.NDArray[np.uint64]"
_Range = tuple[Any, Any]


class Located:
    """Documents in memory, by row.

    Parameters
    ----------
    runs : iterable of Entries
        The documents, in order.
    """

    def __init__(self, runs: Iterable[Entries]) -> None:
        self._runs = [run for run in runs if len(run)]
        self._starts = [0]
        for run in self._runs:
            self._starts.append(self._starts[-1] + len(run))

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, row: int) -> tuple[Entries, int]:
        """Return the run of a row, and the row's index in it."""
        run = bisect_right(self._starts, row) - 1
        return self._runs[run], row - self._starts[run]


class RowSet:
    """Sorted rows, of which it tells whether they have one.

    Parameters
    ----------
    rows : array of int64
        The rows, in order.
    """

    def __init__(self, rows: npt.NDArray[np.int64]) -> None:
        self._rows = frozenset(rows.tolist())

    def __contains__(self, row: int) -> bool:
        return row in self._rows

    def __len__(self) -> int:
        return len(self._rows)


class IdSearch:
    """Rows by the hash of a document's id.

    Parameters
    ----------
    hashes : array of uint64
        Hashes of the ids, sorted.
    rows : array of int64 or uint32
        Row of each hash.
    """

    def __init__(self, hashes: _U64, rows: npt.NDArray[Any]) -> None:
        self._hashes, self._rows = hashes, rows

    def may_have(self, identity: str) -> bool:
        """Return whether a document may have an id."""
        try:
            wanted = np.uint64(hash_id(identity))
        except UnicodeEncodeError:  # no document has such an id
            return False
        at = int(self._hashes.searchsorted(wanted, "left"))
        return at < len(self._hashes) and bool(self._hashes[at] == wanted)

    def find(
        self, documents: Located, identity: str, deleted: Callable[[int], bool] | None = None
    ) -> bytes | None:
        """Return the last document with an id.

        Parameters
        ----------
        documents : Located
            The documents.
        identity : str
            The id.
        deleted : callable, optional
            Function that returns whether a row is deleted; default no row.

        Returns
        -------
        bytes or None
        """
        if not self.may_have(identity):
            return None
        wanted = np.uint64(hash_id(identity))
        first = int(self._hashes.searchsorted(wanted, "left"))
        last = int(self._hashes.searchsorted(wanted, "right"))
        for row in sorted(self._rows[first:last].tolist(), reverse=True):
            if row < len(documents):
                run, index = documents.at(row)
                if run.id(index) == identity and not (deleted is not None and deleted(row)):
                    return run.document(index)
        return None


class SortedKeys:
    """Sorted keys of a field in some documents, and the row of each.

    Parameters
    ----------
    documents : int
        Number of the documents.
    has_lists : bool
        Whether a document may have several values.
    keys : list of array of uint64
        Keys of numbers and of moments.
    texts : list of pyarrow.BinaryArray
        Keys of strings and of binary values.
    rows : list of array of uint32
        Rows of these four, in the order of their keys; then the rows with false, true, NaN, null
        or no value, and others, in order.
    """

    def __init__(
        self,
        documents: int,
        has_lists: bool,
        keys: Sequence[_U64],
        texts: Sequence[pa.Array],
        rows: Sequence[_U32],
    ) -> None:
        self.documents = documents
        self.has_lists = has_lists
        self._keys = keys
        self._texts = texts
        self._rows = rows

    @classmethod
    def of(
        cls,
        documents: int,
        has_lists: bool,
        keys: Sequence[_U64],
        texts: Sequence[tuple[_U32, npt.NDArray[np.uint8]]],
        rows: Sequence[_U32],
    ) -> SortedKeys:
        """Make the keys of sorted arrays, as :meth:`arrays` returns them."""
        joined = [
            pa.Array.from_buffers(
                pa.binary(),
                len(ends) - 1,
                [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(blob)],
            )
            for ends, blob in texts
        ]
        return cls(documents, has_lists, keys, joined, rows)

    def arrays(self) -> tuple[list[bytes], list[tuple[bytes, bytes]], list[bytes]]:
        """Return the keys of numbers and moments, the ends and bytes of texts, and all rows."""
        keys = [found.astype("<u8").tobytes() for found in self._keys]
        texts = [_text_buffers(found) for found in self._texts]
        return keys, texts, [found.astype("<u4").tobytes() for found in self._rows]

    def has_order(self) -> bool:
        """Return whether the texts are sorted."""
        return not any(
            len(texts) > 1 and pc.any(pc.less(texts[1:], texts[:-1])).as_py()
            for texts in self._texts
        )

    @property
    def others(self) -> int:
        """Number of documents with a list, a map or an extension value."""
        return len(self._rows[_OTHERS])

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(found.nbytes for found in (*self._keys, *self._texts, *self._rows))

    def count(self, ranges: Iterable[_Range]) -> int:
        """Return the number of entries in some ranges.

        Parameters
        ----------
        ranges : iterable of tuple
            Min and max literal, as documents store them; None for no bound, within the kind of the
            other one. Two times None is null or absent.
        """
        return sum(len(rows) for one in ranges for rows in self._in_range(one))

    def rows(self, ranges: Iterable[_Range]) -> bytes:
        """Return the rows with a value in one of some ranges, of 8 bytes each, in order."""
        found = [rows for one in ranges for rows in self._in_range(one)]
        return np.unique(np.concatenate([np.empty(0, np.uint32), *found])).astype("<i8").tobytes()

    def _in_range(self, one: _Range) -> list[_U32]:
        low, high = one
        if low is None and high is None:
            return [self._rows[_NULLS]]
        literal = high if low is None else low
        if isinstance(literal, bool):
            return [self._rows[_TRUE if literal else _FALSE]]
        if isinstance(literal, (int, float)):
            if isinstance(literal, float) and math.isnan(literal):
                return [self._rows[_NANS]]
            return [self._between(_NUMBERS, one, _number_key)]
        if isinstance(literal, msgpack.Timestamp):
            return [self._between(_MOMENTS, one, _moment_key)]
        if isinstance(literal, str):
            # A string that is no UTF-8 is among the binary values.
            return [self._between(kind, one, _text_key) for kind in (_STRINGS, _BINARIES)]
        if isinstance(literal, bytes):
            return [self._between(_BINARIES, one, _text_key)]
        return list(self._rows)  # a kind that has no index

    def _between(self, kind: int, one: _Range, key: Callable[[Any], Any]) -> _U32:
        low = None if one[0] is None else key(one[0])
        high = None if one[1] is None else key(one[1])
        if kind in (_NUMBERS, _MOMENTS):
            keys = self._keys[kind]
            first = 0 if low is None else int(keys.searchsorted(low, "left"))
            last = len(keys) if high is None else int(keys.searchsorted(high, "right"))
        else:
            texts = self._texts[kind - _STRINGS]
            first = 0 if low is None else bisect_left(texts, low, key=_as_py)
            last = len(texts) if high is None else bisect_right(texts, high, key=_as_py)
        return self._rows[kind][first : max(first, last)]

    @staticmethod
    def merge(
        files: Sequence[SortedKeys], places: Sequence[npt.NDArray[np.int64]], documents: int
    ) -> SortedKeys:
        """Merge the keys of several files into one set of keys.

        Parameters
        ----------
        files : sequence of SortedKeys
            Keys of each file.
        places : sequence of array of int64
            New row of each document of a file, ascending; -1 where the document is dropped.
        documents : int
            Number of documents of the new file.

        Returns
        -------
        SortedKeys
        """
        keys: list[_U64] = []
        texts: list[pa.Array] = []
        rows: list[_U32] = []
        for kind in range(_KINDS):
            moved = [place[file._rows[kind]] for file, place in zip(files, places, strict=True)]
            kept = [np.flatnonzero(found >= 0) for found in moved]
            sources = list(zip(files, kept, strict=True))
            joined = np.concatenate([found[rest] for found, rest in zip(moved, kept, strict=True)])
            if kind < _STRINGS:
                numbers = np.concatenate([file._keys[kind][rest] for file, rest in sources])
                order = np.lexsort((joined, numbers))
                keys.append(numbers[order])
            elif kind < _FALSE:
                which = kind - _STRINGS
                parts = [file._texts[which].take(pa.array(rest)) for file, rest in sources]
                ordered, order = _sorted_texts(pa.concat_arrays(parts), joined)
                texts.append(ordered)
            else:
                order = np.argsort(joined)
            rows.append(joined[order].astype(np.uint32))
        return SortedKeys(documents, any(file.has_lists for file in files), keys, texts, rows)


class KeysBuilder:
    """Builder of the sorted keys of a field from documents, given in order.

    Parameters
    ----------
    parts : sequence of str
        Parts of the field's dotted name.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = parts
        self._documents = 0
        self._has_lists = False
        self._numbers: list[list[_U64]] = [[np.empty(0, np.uint64)] for _ in range(2)]
        self._texts: list[list[pa.Array]] = [[pa.array([], pa.binary())] for _ in range(2)]
        self._rows: list[list[_U32]] = [[np.empty(0, np.uint32)] for _ in range(_KINDS)]

    def add(self, entries: Entries) -> None:
        """Add the next documents.

        Raises
        ------
        CorruptFile
            A document is damaged.
        """
        if not len(entries):
            return
        values = field_values(entries, self._parts)
        rows = values.rows + np.uint32(self._documents)
        self._documents += len(entries)
        self._has_lists = self._has_lists or len(rows) > len(entries)
        for kind, chosen in (
            (_FALSE, (ValueKind.FALSE,)),
            (_TRUE, (ValueKind.TRUE,)),
            (_NULLS, (ValueKind.NULL, ValueKind.ABSENT)),
            (_OTHERS, (ValueKind.ARRAY, ValueKind.MAP, ValueKind.EXTENSION)),
        ):
            self._rows[kind].append(np.unique(rows[np.isin(values.kinds, chosen)]))
        for value_kind, dtype in (
            (ValueKind.INT, np.int64),
            (ValueKind.ABOVE_INT64, np.uint64),
            (ValueKind.FLOAT, np.float64),
        ):
            mask = values.kinds == value_kind
            numbers: npt.NDArray[np.float64] = values.words[mask].view(dtype).astype(np.float64)
            is_nan = np.isnan(numbers)
            self._rows[_NANS].append(np.unique(rows[mask][is_nan]))
            self._numbers[0].append(_ordered(numbers[~is_nan]))
            self._rows[_NUMBERS].append(rows[mask][~is_nan])
        mask = values.kinds == ValueKind.MOMENT
        self._numbers[1].append(values.words[mask] ^ _SIGN)  # whole seconds
        self._rows[_MOMENTS].append(rows[mask])
        self._add_texts(0, values, rows, values.kinds == ValueKind.STRING)
        self._add_texts(1, values, rows, values.kinds == ValueKind.BINARY)

    def _add_texts(
        self, which: int, values: FieldValues, rows: _U32, mask: npt.NDArray[np.bool_]
    ) -> None:
        found = [values.text(index, _MAX_KEY_BYTES) for index in np.flatnonzero(mask).tolist()]
        self._texts[which].append(pa.array(found, pa.binary()))
        self._rows[_STRINGS + which].append(rows[mask])

    def keys(self) -> SortedKeys:
        """Return the keys of all documents that were added."""
        rows = [np.concatenate(found) for found in self._rows]
        keys, texts = [], []
        for which in range(2):
            numbers = np.concatenate(self._numbers[which])
            order = np.lexsort((rows[which], numbers))
            keys.append(numbers[order])
            rows[which] = rows[which][order]
            joined = pa.concat_arrays(self._texts[which])
            ordered, order = _sorted_texts(joined, rows[_STRINGS + which])
            texts.append(ordered)
            rows[_STRINGS + which] = rows[_STRINGS + which][order]
        return SortedKeys(self._documents, self._has_lists, keys, texts, rows)


def load_found(entries: bytes, count: int) -> list[dict[Any, Any]] | None:
    """Return whole entries as dicts; None where they must be scanned and loaded one by one.

    Parameters
    ----------
    entries : bytes
        What the search of a plain filter found.
    count : int
        Number of the entries.

    Returns
    -------
    list of dict or None
        This codec always returns None.
    """
    del entries, count
    return None


def plain_filter(filter: Any) -> Any:
    """Return None: only the kernel compiles filters in one step."""
    del filter


def _as_py(scalar: Any) -> Any:
    return scalar.as_py()


def _sorted_texts(texts: pa.Array, rows: npt.NDArray[Any]) -> tuple[pa.Array, npt.NDArray[Any]]:
    """Return texts in their order, equal ones by their rows, and where each was."""
    table = pa.table({"text": texts, "row": pa.array(rows)})
    order = pc.sort_indices(table, [("text", "ascending"), ("row", "ascending")])
    return texts.take(order), order.to_numpy()


def _text_buffers(texts: pa.Array) -> tuple[bytes, bytes]:
    """Return the offsets and the bytes of texts."""
    if not len(texts):
        return bytes(4), b""
    _, ends, data = texts.buffers()
    offsets = np.frombuffer(ends, np.int32, len(texts) + 1, texts.offset * 4)
    first, last = int(offsets[0]), int(offsets[-1])
    blob = b"" if data is None else data[first:last].to_pybytes()
    return (offsets - offsets[0]).astype("<u4").tobytes(), blob


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
