"""Search for documents that share a value of a unique index."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from godb_arrow import codec
from godb_arrow.codec.entries import Rows, no_rows
from godb_arrow.errors import DuplicateValue, InvalidDocument
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.frozen import Unsaved
from godb_arrow.snapshots.held import UnsavedDocuments, keys_of
from godb_arrow.snapshots.index_names import (
    IndexDefinition,
    hash_literal,
)
from godb_arrow.snapshots.indexes import sorted_keys
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.value_keys import (
    MAX_DOCUMENT_KEYS,
    FieldReader,
    TooManyKeys,
    UnkeyedValue,
    document_keys,
    load_plain,
)

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Hashes", "UniqueIndex", "rows_with"]

_MOMENTS, _OTHERS = 1, 8
_ROWS_PER_HASH = 20
"""Documents for each wanted hash, up to which all hashes are compared at once."""
Hashes: TypeAlias = "npt.NDArray[np.uint64]"
_NO_HASHES = np.empty(0, np.uint64)


class _Source(NamedTuple):
    """Documents of a file, or unsaved ones, which are searched together.

    Attributes
    ----------
    keys : SortedKeys or None
        Their keys; None without documents.
    documents : Base or UnsavedDocuments
        The documents.
    deleted : array of int64
        Rows that are not current.
    unsaved : Unsaved or None
        What else is not current.
    """

    keys: codec.SortedKeys | None
    documents: Base | UnsavedDocuments
    deleted: Rows
    unsaved: Unsaved | None = None

    def current(self, rows: Rows) -> Iterator[tuple[codec.Entries, int]]:
        """Yield the documents in sorted rows that are current."""
        if len(self.deleted):
            rows = np.setdiff1d(rows, self.deleted, assume_unique=True)
        if len(rows):
            for run, at in self.documents.entries_at(rows):
                if self.unsaved is None or self.unsaved.is_current(run.id(at)):
                    yield run, at

    def hashes(self) -> tuple[Hashes, npt.NDArray[np.uint32]]:
        """Return the hashes of all documents, and their rows."""
        if self.keys is None:
            return _NO_HASHES, np.empty(0, np.uint32)
        return _hashes_in(self.keys)

    def rows_of_kind(self, kind: int) -> Rows:
        """Return the rows of the keys of a kind."""
        if self.keys is None:
            return no_rows()
        return np.frombuffer(self.keys.arrays()[2][kind], np.uint32).astype(np.int64)


def rows_with(keys: codec.SortedKeys, wanted: Hashes) -> Rows:
    """Return the rows of documents that have some hashes, in order."""
    if len(wanted) * _ROWS_PER_HASH < keys.documents:
        literals = [(one, one) for one in map(hash_literal, wanted.tolist())]
        return np.frombuffer(keys.rows(literals), np.int64)
    hashes, rows = _hashes_in(keys)
    is_wanted = np.isin(hashes, wanted)
    return np.unique(rows[is_wanted]).astype(np.int64)


def _hashes_in(keys: codec.SortedKeys) -> tuple[Hashes, npt.NDArray[np.uint32]]:
    """Return the hashes of all documents, and their rows."""
    numbers, _, rows = keys.arrays()
    return np.frombuffer(numbers[_MOMENTS], np.uint64), np.frombuffer(rows[_MOMENTS], np.uint32)


class UniqueIndex:
    """Values of a unique index, in documents of a collection.

    Parameters
    ----------
    definition : IndexDefinition
        The index.
    """

    def __init__(self, definition: IndexDefinition) -> None:
        self.fields = definition.fields
        self.name = definition.unique_name
        self._reader = FieldReader(definition.fields)

    # --- keys of documents --------------------------------------------------------------------

    def keys(self, identity: str, document: bytes) -> list[bytes]:
        """Return the keys of a document.

        Raises
        ------
        InvalidDocument
            A value is a map or an extension value, or lists have too many combinations.
        """
        plain = load_plain(document)
        plain[ID_FIELD] = identity
        try:
            return self._reader.keys(plain)
        except UnkeyedValue as signal:
            raise self.unkeyed(identity, signal) from None

    def keys_if_any(self, identity: str, document: bytes) -> list[bytes]:
        """Return the keys of a stored document; none if a value has no key."""
        try:
            return self.keys(identity, document)
        except InvalidDocument:
            return []

    def keys_of_run(
        self, entries: codec.Entries, ids: Sequence[str]
    ) -> Iterator[tuple[bytes, int]]:
        """Yield the keys of documents, and the row of each.

        Parameters
        ----------
        entries : Entries
            The documents.
        ids : sequence of str
            Their ids.
        """
        found = document_keys(entries, self.fields)
        if len(found.unkeyed):
            raise self.unkeyed(ids[int(found.unkeyed[0])])
        keys, rows = found.keys.to_pylist(), found.rows.tolist()
        if found.has_null.any():
            for key, row, is_null in zip(keys, rows, found.has_null.tolist(), strict=True):
                if not is_null:
                    yield key, row
        else:
            yield from zip(keys, rows, strict=True)
        for row in found.several.tolist():
            for key in self.keys(ids[row], entries.document(row)):
                yield key, row

    def unkeyed(self, identity: str, signal: UnkeyedValue | None = None) -> InvalidDocument:
        """Return the error for a document without keys.

        Parameters
        ----------
        identity : str
            Its id.
        signal : UnkeyedValue, optional
            Signal of the reader of keys; default as for a map or an extension value.
        """
        shown = ", ".join(map(repr, self.fields))
        if isinstance(signal, TooManyKeys):
            return InvalidDocument(
                f"document {identity!r}: its lists have more than {MAX_DOCUMENT_KEYS:,} "
                f"combinations of values for the unique index of {shown}",
                advice="store fewer values in the lists, or index fewer of the fields",
            )
        return InvalidDocument(
            f"document {identity!r}: a value of the unique index of {shown} is a map "
            "or an extension value, which it cannot compare",
            advice="store a plain value there, or index one of the inner fields",
        )

    def duplicate(self, key: bytes, document: bytes, ids: Sequence[str]) -> DuplicateValue:
        """Return the error for documents that share a key, given the last one."""
        value = self._reader.value_of(load_plain(document) | {ID_FIELD: ids[-1]}, key)
        return DuplicateValue(self.fields, value, ids)

    # --- files --------------------------------------------------------------------------------

    def file_keys(self, file: Base, *, is_trusted: bool) -> codec.SortedKeys:
        """Return the sorted keys of a file.

        Parameters
        ----------
        file : Base
            The file.
        is_trusted : bool
            Whether an engine wrote the file, so that its stored keys do not lie.
        """
        if is_trusted:
            return sorted_keys(file, self.name)
        kind = "read:" + self.name
        keys: codec.SortedKeys | None = file.view(kind)
        if keys is None:
            keys = keys_of(self.name, (entries for _, entries in file.loaded()))
            file.hold(kind, keys, keys.nbytes)
        return keys

    def load(self, base: Base) -> None:
        """Load the keys of all files into memory, as far as there is room."""
        is_trusted = bool(base.hint.directory)
        for _, file in base.files():
            if file.count:
                self.file_keys(file, is_trusted=is_trusted)

    def saved_with(self, base: Base, wanted: Hashes) -> Iterator[tuple[int, codec.Entries, int]]:
        """Yield row, run and index in the run of the saved documents that may have some hashes."""
        is_trusted = bool(base.hint.directory)
        for start, file in base.files():
            if not file.count:
                continue
            found = rows_with(self.file_keys(file, is_trusted=is_trusted), wanted)
            if len(found):
                for row, (run, at) in zip(found.tolist(), file.entries_at(found), strict=True):
                    yield start + row, run, at

    # --- whole collections --------------------------------------------------------------------

    def check(self, snapshot: Snapshot, added: Container[int] | None = None) -> None:
        """Check that no two documents share a value.

        Parameters
        ----------
        snapshot : Snapshot
            The documents.
        added : container of int, optional
            Numbers of the files whose documents are compared with all others, default all.

        Raises
        ------
        DuplicateValue, InvalidDocument
        """
        sources = [*self._sources(snapshot)]
        new = [source for at, source in enumerate(sources) if added is None or at in added]
        old = [source for at, source in enumerate(sources) if added is not None and at not in added]
        for source in new:
            for run, at in source.current(source.rows_of_kind(_OTHERS)):
                self.keys(run.id(at), run.document(at))  # raises, and says why
                raise self.unkeyed(run.id(at))
        found = [source.hashes() for source in new]
        wanted = np.unique(np.concatenate([_NO_HASHES, *(hashes for hashes, _ in found)]))
        for source in old:
            hashes, rows = source.hashes()
            is_new = np.isin(hashes, wanted)
            found.append((hashes[is_new], rows[is_new]))
        self._compare([*new, *old], found)

    def _sources(self, snapshot: Snapshot) -> Iterator[_Source]:
        base = snapshot.base
        is_trusted = bool(base.hint.directory)
        for start, file in base.files():
            keys = None
            if file.count:
                keys = self.file_keys(file, is_trusted=is_trusted)
            yield _Source(keys, file, snapshot.superseded_in(start, file.count))
        for source in snapshot.unsaved.sources():
            yield _Source(source.documents.keys(self.name), source.documents, no_rows(), source)

    def _compare(
        self, sources: Sequence[_Source], found: Sequence[tuple[Hashes, npt.NDArray[np.uint32]]]
    ) -> None:
        """Raise if two documents whose hashes are equal have equal keys."""
        hashes = np.concatenate([_NO_HASHES, *(own for own, _ in found)])
        ordered, order = (
            np.frombuffer(found, np.int64) for found in codec.sort_hashes(hashes.tobytes())
        )
        is_equal = ordered[1:] == ordered[:-1]
        if not is_equal.any():
            return
        places = np.zeros(len(hashes), bool)
        places[order[1:][is_equal]] = places[order[:-1][is_equal]] = True
        known: dict[bytes, str] = {}
        first = 0
        for source, (own, rows) in zip(sources, found, strict=True):
            suspicious = np.unique(rows[places[first : first + len(own)]]).astype(np.int64)
            first += len(own)
            for run, at in source.current(suspicious):
                identity, document = run.id(at), run.document(at)
                for key in self.keys(identity, document):
                    other = known.setdefault(key, identity)
                    if other != identity:
                        raise self.duplicate(key, document, [other, identity])
