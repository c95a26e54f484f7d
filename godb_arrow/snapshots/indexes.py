"""Indexes from the values of a field to rows: stored, built, and merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.errors import FieldNotFound, InvalidFilter
from godb_arrow.query.fields import field_at
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.held import UnsavedDocuments, keys_of
from godb_arrow.snapshots.index_run import pack_run, unpack_run
from godb_arrow.snapshots.snapshot import Snapshot

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["MergedRuns", "cached_keys", "check_indexable", "sorted_keys"]


def cached_keys(file: Base, field: str) -> codec.SortedKeys | None:
    """Return the sorted keys of a field of one file, if they are cached."""
    found: codec.SortedKeys | None = file.view("run:" + field)
    return found


def sorted_keys(source: Base | UnsavedDocuments, field: str) -> codec.SortedKeys:
    """Return the sorted keys of a field, built from the documents if they are not stored.

    Parameters
    ----------
    source : Base or UnsavedDocuments
        One file, or unsaved documents.
    field : str
        The field, or a dotted path.
    """
    if isinstance(source, UnsavedDocuments):
        return source.keys(field)
    keys = cached_keys(source, field)
    if keys is None:
        packed = None if source.path is None else source.open().index_run(field)
        keys = None if packed is None else unpack_run(packed, source.count)
        if keys is None:
            keys = keys_of(field, (entries for _, entries in source.loaded()))
        source.hold("run:" + field, keys, keys.nbytes)
    return keys


class MergedRuns:
    """Runs of the indexes of new files, merged from the runs of the former files.

    Parameters
    ----------
    snapshot : Snapshot
        The documents.
    files : sequence of tuples
        First row and base of the former files whose documents are kept.
    changes : bool
        Whether the changed documents follow.
    fields : sequence of str
        The indexed fields.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        files: Sequence[tuple[int, Base]],
        *,
        changes: bool,
        fields: Sequence[str],
    ) -> None:
        self._fields = fields
        # Runs of a file that no engine wrote are not merged: they may lie.
        self._trusts = bool(snapshot.base.hint.directory)
        self._files: list[tuple[Base | UnsavedDocuments, npt.NDArray[np.int64]]] = []
        self._keys: dict[str, list[codec.SortedKeys]] = {}
        if not fields:
            return
        after = 0
        for start, file in files:
            kept = np.ones(file.count, bool)
            kept[snapshot.superseded_in(start, file.count)] = False
            after = self._add(file, kept, after)
        if changes:
            unsaved = UnsavedDocuments(snapshot.overlay_runs())
            self._add(unsaved, np.ones(len(unsaved), bool), after)

    def _add(self, source: Base | UnsavedDocuments, kept: npt.NDArray[np.bool_], after: int) -> int:
        places = np.cumsum(kept) - 1 + after
        places[~kept] = -1
        if len(kept):
            self._files.append((source, places))
        return after + int(kept.sum())

    def packed(self, first: int, count: int) -> Callable[[], dict[str, bytes]] | None:
        """Return what packs the runs of a new file.

        Parameters
        ----------
        first, count : int
            Number of kept documents before the file, and in it.

        Returns
        -------
        callable or None
            None without indexed fields.
        """
        if not self._fields:
            return None
        return lambda: dict(self._packed(first, count))

    def _packed(self, first: int, count: int) -> Iterator[tuple[str, bytes]]:
        parts = []
        for at, (_, places) in enumerate(self._files):
            inside = (places >= first) & (places < first + count)
            if inside.any():
                parts.append((at, np.where(inside, places - first, -1)))
        for field in self._fields:
            keys = self._keys_of(field)
            chosen = [keys[at] for at, _ in parts]
            yield (
                field,
                pack_run(codec.SortedKeys.merge(chosen, [rows for _, rows in parts], count))
                if parts
                else pack_run(keys_of(field, ())),
            )

    def _keys_of(self, field: str) -> list[codec.SortedKeys]:
        if field not in self._keys:
            self._keys[field] = [
                sorted_keys(source, field)
                if self._trusts or isinstance(source, UnsavedDocuments)
                else keys_of(field, (entries for _, entries in source.loaded()))
                for source, _ in self._files
            ]
        return self._keys[field]


def check_indexable(schema: pa.Schema, field: str) -> None:
    """Check that values of a field, or the elements of its lists, can be sorted.

    Raises
    ------
    InvalidFilter
        The field has a type without an order.
    """
    try:
        kind = field_at(schema, field).type
    except FieldNotFound:
        return  # Later documents may have the field.
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        raise InvalidFilter(
            f"the field {field!r} of type {kind} has no order for an index",
            advice="index one of its inner fields, by the dotted path",
        )
