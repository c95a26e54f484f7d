"""Names of indexes, and what builds the sorted keys of each.

An index of one field has the field's name. The names of others begin with a zero byte, as no
indexed field does. A kind follows, and then the fields, each after a zero byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.codec.entries import Rows
from godb_arrow.codec.field_values import parts_of
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.value_keys import (
    FieldReader,
    UnkeyedValue,
    document_keys,
    load_plain,
    max_text_bytes,
)

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "MAX_FIELDS",
    "MAX_KEY_BYTES",
    "IndexDefinition",
    "compound_of",
    "definitions_of",
    "hash_literal",
    "hashes_of",
    "keys_builder",
    "plain_document",
    "shown_name",
]

MAX_FIELDS = 8
"""Max fields of an index."""
MAX_KEY_BYTES = 64
"""Max bytes of the key of a compound index."""

_SORTED_AT_ONCE = 1 << 17  # documents
_SEPARATOR = "\0"
_COMPOUND, _UNIQUE = "compound", "unique"
_KINDS, _MOMENTS, _BINARIES, _NULLS, _OTHERS = 9, 1, 3, 7, 8  # of sorted keys
_NO_ROWS = np.empty(0, np.int64)
_NO_HASHES = np.empty(0, np.uint64)
_NO_TEXTS = np.zeros(1, np.uint32), np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True)
class IndexDefinition:
    """Index of a collection.

    Attributes
    ----------
    fields : tuple of str
        Indexed fields, in order.
    unique : bool
        Whether no two documents have the same values.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     users = engine.create_collection("users")
    ...     users.create_index("email", unique=True)
    ...     users.create_index(["country", "city"])
    ...     for index in users.list_indexes():
    ...         print(index.name, index.unique)
    email True
    country, city False
    """

    fields: tuple[str, ...]
    unique: bool = False

    @property
    def name(self) -> str:
        """Fields, as :meth:`Collection.explain` and `indexes` show them."""
        return ", ".join(self.fields)

    @property
    def search_name(self) -> str:
        """Name of the sorted keys that filters search."""
        return self.fields[0] if len(self.fields) == 1 else _name(_COMPOUND, self.fields)

    @property
    def unique_name(self) -> str:
        """Name of the sorted keys that find equal values."""
        return _name(_UNIQUE, self.fields)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all sorted keys."""
        return (self.search_name, self.unique_name) if self.unique else (self.search_name,)


def _name(kind: str, fields: Sequence[str]) -> str:
    return _SEPARATOR + _SEPARATOR.join((kind, *fields))


def _parsed(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the kind and the fields of a name; the kind is empty for a field."""
    if name.startswith(_SEPARATOR):
        _, kind, *fields = name.split(_SEPARATOR)
        if kind in (_COMPOUND, _UNIQUE) and 0 < len(fields) <= MAX_FIELDS:
            return kind, tuple(fields)
    return "", (name,)


@lru_cache(maxsize=1024)
def compound_of(name: str) -> tuple[str, ...]:
    """Return the fields of a compound index, given the name of its keys; else none."""
    kind, fields = _parsed(name)
    return fields if kind == _COMPOUND else ()


def definitions_of(names: Iterable[str]) -> list[IndexDefinition]:
    """Return the indexes whose sorted keys have names, in order."""
    parsed = [_parsed(name) for name in names]
    unique = {fields for kind, fields in parsed if kind == _UNIQUE}
    return [IndexDefinition(fields, fields in unique) for kind, fields in parsed if kind != _UNIQUE]


def shown_name(name: str) -> str:
    """Return the name of sorted keys as messages show it."""
    kind, fields = _parsed(name)
    shown = ", ".join(map(repr, fields))
    return f"{kind} index of {shown}" if kind else f"index of the field {shown}"


class Builder(Protocol):
    """Builder of sorted keys from documents, given in order."""

    def add(self, entries: codec.Entries) -> None:
        """Add the next documents."""

    def keys(self) -> Any:
        """Return the keys of all documents."""


def keys_builder(name: str) -> Builder:
    """Return what builds the sorted keys with a name."""
    kind, fields = _parsed(name)
    if kind == _COMPOUND:
        return _MergingBuilder(lambda: _CompoundBuilder(fields))
    if kind == _UNIQUE:
        return _MergingBuilder(lambda: _UniqueBuilder(fields))
    builder: Builder = codec.KeysBuilder(parts_of(name))
    return builder


def plain_document(entries: codec.Entries, row: int) -> dict[Any, Any]:
    """Return a document with plain values, and its id."""
    return load_plain(entries.document(row)) | {ID_FIELD: entries.id(row)}


class _MergingBuilder:
    """Builder that sorts the keys of some documents at a time, and merges them.

    Sorts of NumPy and Arrow notice no signal, and merging does.

    Parameters
    ----------
    make : callable
        Returns a builder.
    """

    def __init__(self, make: Callable[[], Builder]) -> None:
        self._make = make
        self._builder = make()
        self._documents = 0  # that the builder has
        self._sorted: list[codec.SortedKeys] = []
        self._places: list[npt.NDArray[np.int64]] = []
        self._first = 0

    def add(self, entries: codec.Entries) -> None:
        """Add the next documents."""
        self._builder.add(entries)
        self._documents += len(entries)
        if self._documents >= _SORTED_AT_ONCE:
            self._sort()

    def _sort(self) -> None:
        self._sorted.append(self._builder.keys())
        self._places.append(np.arange(self._first, self._first + self._documents))
        self._builder = self._make()
        self._first, self._documents = self._first + self._documents, 0

    def keys(self) -> codec.SortedKeys:
        """Return the keys of all documents that were added."""
        if not self._sorted:
            return self._builder.keys()  # type: ignore[no-any-return]
        self._sort()
        merged: codec.SortedKeys = codec.SortedKeys.merge(self._sorted, self._places, self._first)
        return merged


class _CompoundBuilder:
    """Builder of the keys of a compound index, which are binary texts of limited size.

    Documents with a list, a map or an extension value in a field are among the nulls: each filter
    has them as candidates.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = fields
        self._text_bytes = max_text_bytes(len(fields), MAX_KEY_BYTES)
        self._documents = 0
        self._rows = [np.empty(0, np.int64)]
        self._unkeyed = [np.empty(0, np.int64)]
        self._keys = [pa.array([], pa.binary())]

    def add(self, entries: codec.Entries) -> None:
        """Add the next documents."""
        if not len(entries):
            return
        found = document_keys(entries, self._fields, self._text_bytes)
        self._rows.append(found.rows + self._documents)
        self._unkeyed += [found.several + self._documents, found.unkeyed + self._documents]
        self._keys.append(found.keys)
        self._documents += len(entries)

    def keys(self) -> codec.SortedKeys:
        """Return the keys of all documents that were added."""
        texts = pc.binary_slice(pa.concat_arrays(self._keys), 0, MAX_KEY_BYTES)
        rows = np.concatenate(self._rows)
        table = pa.table({"text": texts, "row": pa.array(rows)})
        order = pc.sort_indices(table, [("text", "ascending"), ("row", "ascending")])
        _, ends, blob = texts.take(order).buffers()
        return _sorted_keys(
            self._documents,
            has_lists=False,
            texts=(_array_of(ends, np.uint32, len(texts) + 1), _array_of(blob, np.uint8)),
            text_rows=rows[order.to_numpy()],
            nulls=np.sort(np.concatenate(self._unkeyed)),
        )


class _UniqueBuilder:
    """Builder of the hashes of unique values, which are sorted as moments are.

    Documents without a value are among the nulls. Those with a value that has no key are among the
    others.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = fields
        self._reader = FieldReader(fields)
        self._documents = 0
        self._has_lists = False
        self._unkeyed: list[int] = []
        self._rows = [np.empty(0, np.int64)]
        self._hashes = [np.empty(0, np.uint64)]

    def add(self, entries: codec.Entries) -> None:
        """Add the next documents."""
        if not len(entries):
            return
        found = document_keys(entries, self._fields)
        has_value = np.flatnonzero(~found.has_null)
        self._note(found.rows[has_value], found.keys.take(pa.array(has_value)))
        for row in found.several.tolist():
            try:
                own = self._reader.keys(plain_document(entries, row))
            except UnkeyedValue:
                self._unkeyed.append(row + self._documents)
                continue
            self._note(np.full(len(own), row, np.int64), pa.array(own, pa.binary()))
            self._has_lists = self._has_lists or len(own) > 1
        self._unkeyed += (found.unkeyed + self._documents).tolist()
        self._documents += len(entries)

    def _note(self, rows: Rows, keys: pa.BinaryArray) -> None:
        self._rows.append(rows + self._documents)
        self._hashes.append(hashes_of(keys))

    def keys(self) -> codec.SortedKeys:
        """Return the keys of all documents that were added."""
        rows, hashes = np.concatenate(self._rows), np.concatenate(self._hashes)
        order = np.lexsort((rows, hashes))
        is_null = np.ones(self._documents, bool)
        is_null[rows] = False
        is_null[self._unkeyed] = False
        return _sorted_keys(
            self._documents,
            has_lists=self._has_lists,
            hashes=hashes[order],
            hash_rows=rows[order],
            nulls=np.flatnonzero(is_null),
            others=np.sort(np.array(self._unkeyed, np.int64)),
        )


def hashes_of(keys: pa.BinaryArray) -> npt.NDArray[np.uint64]:
    """Return the hash of each key."""
    return np.frombuffer(codec.survey_ids(keys)[0], np.uint64)


def hash_literal(hashed: int) -> msgpack.Timestamp:
    """Return the literal by which sorted keys find a hash."""
    seconds = hashed ^ 1 << 63
    return msgpack.Timestamp(seconds - (1 << 64) if seconds >> 63 else seconds, 0)


def _sorted_keys(
    documents: int,
    *,
    has_lists: bool,
    nulls: Rows,
    others: Rows = _NO_ROWS,
    hashes: npt.NDArray[np.uint64] = _NO_HASHES,
    hash_rows: Rows = _NO_ROWS,
    texts: tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]] = _NO_TEXTS,
    text_rows: Rows = _NO_ROWS,
) -> codec.SortedKeys:
    """Return sorted keys with hashes as moments, and texts as binary values."""
    rows = [np.empty(0, np.uint32)] * _KINDS
    rows[_MOMENTS], rows[_BINARIES] = hash_rows.astype(np.uint32), text_rows.astype(np.uint32)
    rows[_NULLS], rows[_OTHERS] = nulls.astype(np.uint32), others.astype(np.uint32)
    return codec.SortedKeys.of(documents, has_lists, [_NO_HASHES, hashes], [_NO_TEXTS, texts], rows)


def _array_of(buffer: pa.Buffer | None, dtype: type[np.generic], count: int = -1) -> Any:
    return np.empty(0, dtype) if buffer is None else np.frombuffer(buffer, dtype, count)
