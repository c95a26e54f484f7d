"""Sorted keys of fields in the kernel, and filters that indexes answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import godb_arrow.codec.native._native as _native  # noqa: PLR0402 (mypy knows it by this name)
from godb_arrow.codec.entries import Entries
from godb_arrow.codec.reference import values as reference_values

__all__ = [
    "IdSearch",
    "KeysBuilder",
    "Located",
    "RowSet",
    "SortedKeys",
    "load_found",
    "plain_filter",
]

IdSearch = _native.IdSearch
Located = _native.Located
RowSet = _native.RowSet
SortedKeys = _native.SortedKeys
load_found = _native.load_found
plain_filter = _native.plain_filter


class KeysBuilder:
    """Builder of sorted keys; see :class:`godb_arrow.codec.reference.lookup.KeysBuilder`."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = parts
        raw = [part.encode("utf-8", "surrogateescape") for part in parts]
        self._builder = _native.KeysBuilder(raw)

    def add(self, entries: Entries) -> None:
        """Add the next documents."""
        if len(entries) and not self._builder.add(entries.data, entries.bounds):
            reference_values.field_values(entries, self._parts)  # which says what is damaged

    def keys(self) -> Any:
        """Return the keys of all documents that were added."""
        return self._builder.keys()
