"""Constraints of a collection, which each change of its documents must fulfil."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.engine.validation import Validator
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.index_names import IndexDefinition, hashes_of
from godb_arrow.snapshots.layers import Bulk
from godb_arrow.snapshots.overlay import Overlay
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.unique import Hashes, UniqueIndex, rows_with

__all__ = ["Claims", "Constraints"]

_LARGE_BULK = 4_096
"""Documents inserted together from which on they are searched by sorted keys of their own."""
_FEW_KEYS = 16
"""Keys up to which each is hashed by itself."""
_CLAIM_BYTES = 160
"""Bytes of memory of a claimed value beside its key."""


class _Claim(NamedTuple):
    """Values of one index that a change gives to documents."""

    values: _UniqueValues
    ids: dict[bytes, str]


class Claims:
    """Values of unique indexes that a change gives to documents, once it takes effect."""

    def __init__(self, claims: Sequence[_Claim]) -> None:
        self._claims = claims
        self.size = sum(len(key) + _CLAIM_BYTES for claim in claims for key in claim.ids)

    def note(self) -> None:
        """Note the values; a second call changes nothing."""
        for claim in self._claims:
            claim.values.note(claim.ids)


class _UniqueValues:
    """Values of a unique index: which documents have them, saved and unsaved.

    Unsaved documents are found in a dict, or in sorted keys where many were inserted together.
    What is found is compared with the current document, so that former values do not count.
    """

    def __init__(self, definition: IndexDefinition) -> None:
        self.index = UniqueIndex(definition)
        self._overlay: Overlay | None = None
        self._ids: dict[bytes, str] = {}
        self.size = 0

    def note(self, ids: Mapping[bytes, str]) -> None:
        """Note which documents have values."""
        before = len(self._ids)
        self._ids.update(ids)
        if len(self._ids) > before:
            self.size += sum(map(len, ids)) + _CLAIM_BYTES * len(ids)

    def drop_unless(self, overlay: Overlay) -> None:
        """Drop the values of another overlay, whose documents were saved."""
        if self._overlay is not overlay:
            self._overlay, self._ids, self.size = None, {}, 0

    def prepare(self, overlay: Overlay) -> None:
        """Note the values of unsaved documents, if another overlay has them than before."""
        if self._overlay is overlay:
            return
        ids: dict[bytes, str] = {}
        for identity, version in overlay.small_versions(_LARGE_BULK):
            document = overlay.document(version)
            ids.update(dict.fromkeys(self.index.keys_if_any(identity, document), identity))
        self._ids, self._overlay = {}, overlay
        self.size = 0
        self.note(ids)

    def check(
        self, base: Base, overlay: Overlay, ids: Mapping[bytes, str], changed: Container[str]
    ) -> None:
        """Raise if a document that does not change has one of some values.

        Parameters
        ----------
        base, overlay
            The documents.
        ids : mapping of bytes to str
            New document by key.
        changed : container of str
            Ids of the documents that change.
        """
        self.prepare(overlay)
        for key in ids:
            other = self._ids.get(key)
            if other is not None and other not in changed:
                version = overlay.find(other)
                if version is not False and version is not None:
                    self._compare(ids, other, overlay.document(version))
        large = overlay.large_bulks(_LARGE_BULK)
        if not large and base.path is None:
            return
        wanted = _hashes(ids)
        for bulk in large:
            self._check_bulk(bulk, overlay, ids, wanted, changed)
        if base.path is None:
            return
        for row, run, at in self.index.saved_with(base, wanted):
            other = run.id(at)
            if other in changed or overlay.find(other) is not False:
                continue
            if base.rows_of([other]).get(other, [])[-1:] == [row]:
                self._compare(ids, other, run.document(at))

    def _check_bulk(
        self,
        bulk: Bulk,
        overlay: Overlay,
        ids: Mapping[bytes, str],
        wanted: Hashes,
        changed: Container[str],
    ) -> None:
        for row in rows_with(bulk.documents().keys(self.index.name), wanted).tolist():
            other = bulk.entries.id(row)
            if other not in changed and overlay.find(other) == bulk.start + row:
                self._compare(ids, other, bulk.entries.document(row))

    def _compare(
        self,
        ids: Mapping[bytes, str],
        other: str,
        document: bytes,
    ) -> None:
        """Raise if another document has one of some keys."""
        for key in self.index.keys_if_any(other, document):
            identity = ids.get(key)
            if identity is not None and identity != other:
                raise self.index.duplicate(key, document, [other, identity])


def _hashes(keys: Collection[bytes]) -> Hashes:
    if len(keys) <= _FEW_KEYS:
        texts = [key.decode("utf-8", "surrogateescape") for key in keys]
        return np.array([codec.hash_id(text) for text in texts], np.uint64)
    return hashes_of(pa.array([*keys], pa.binary()))


class Constraints:
    """Unique indexes of a collection, and its validation; the caller holds its lock.

    Parameters
    ----------
    unique : sequence of IndexDefinition
        The unique indexes.
    validator : Validator, optional
        What validates documents, default nothing. It is called without the lock.
    """

    def __init__(
        self, unique: Sequence[IndexDefinition], validator: Validator | None = None
    ) -> None:
        self.validator = validator
        self._unique = [_UniqueValues(definition) for definition in unique]

    def size_over(self, overlay: Overlay) -> int:
        """Return the bytes of memory for an overlay; values of a former one are dropped."""
        for values in self._unique:
            values.drop_unless(overlay)
        return sum(values.size for values in self._unique)

    def claim(self, base: Base, overlay: Overlay, versions: Mapping[str, bytes | None]) -> Claims:
        """Check a change of few documents.

        Parameters
        ----------
        base, overlay
            The documents.
        versions : mapping of str to bytes or None
            New documents by id; None deletes.

        Returns
        -------
        Claims
            What to note when the change takes effect.

        Raises
        ------
        DuplicateValue, InvalidDocument
        """
        claims = []
        for values in self._unique:
            ids: dict[bytes, str] = {}
            for identity, document in versions.items():
                for key in () if document is None else values.index.keys(identity, document):
                    other = ids.setdefault(key, identity)
                    if other != identity:
                        raise values.index.duplicate(key, document or b"", [other, identity])
            if ids:
                values.check(base, overlay, ids, versions)
                claims.append(_Claim(values, ids))
        return Claims(claims)

    def claim_run(
        self, base: Base, overlay: Overlay, entries: codec.Entries, ids: Sequence[str]
    ) -> Claims:
        """Check a change that puts documents; see :meth:`claim`.

        Of several documents with one id, the last counts.
        """
        last = {identity: row for row, identity in enumerate(ids)}
        claims = []
        for values in self._unique:
            found: dict[bytes, str] = {}
            for key, row in values.index.keys_of_run(entries, ids):
                identity = ids[row]
                if last[identity] != row:
                    continue
                other = found.setdefault(key, identity)
                if other != identity:
                    raise values.index.duplicate(key, entries.document(row), [other, identity])
            if found:
                values.check(base, overlay, found, last)
                if len(ids) < _LARGE_BULK:
                    claims.append(_Claim(values, found))
        return Claims(claims)

    def prepare(self, base: Base) -> None:
        """Load the values of saved documents."""
        for values in self._unique:
            values.index.load(base)

    def check_files(self, snapshot: Snapshot, added: Container[int]) -> None:
        """Check documents of files before the files become part of the collection.

        Parameters
        ----------
        snapshot : Snapshot
            The collection with the files.
        added : container of int
            Numbers of the files.
        """
        for values in self._unique:
            values.index.check(snapshot, added)
