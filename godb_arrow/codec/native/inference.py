"""Inference of types, and bounds of values, in the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import godb_arrow.codec.native._native as _native  # noqa: PLR0402 (mypy knows it by this name)
from godb_arrow.codec.entries import Entries
from godb_arrow.codec.field_values import ValueBounds
from godb_arrow.codec.jsontext import is_utf8
from godb_arrow.codec.reference import documents as reference
from godb_arrow.schema import ID_FIELD, MAX_STRUCT_KEYS, DocumentSummary, FieldSummary

__all__ = ["infer", "infer_with_bounds", "value_bounds"]

_CORRUPT, _PARTIAL = 1, 2


def infer(entries: Entries, summary: DocumentSummary) -> None:
    """Join the kinds of value in documents into a summary."""
    _infer(entries, summary, has_bounds=False)


def infer_with_bounds(entries: Entries, summary: DocumentSummary) -> dict[str, ValueBounds]:
    """Join the kinds of value in documents into a summary, and find the bounds of all values."""
    return _infer(entries, summary, has_bounds=True)


def value_bounds(entries: Entries, names: Sequence[str]) -> dict[str, ValueBounds]:
    """Find the bounds of all values of some fields."""
    wanted = [name.encode() for name in names if name != ID_FIELD and is_utf8(name)]
    *_, problem, document, fields = _native.infer(
        entries.data, entries.bounds, MAX_STRUCT_KEYS, 0, wanted, True
    )
    if problem == _CORRUPT:
        raise reference.invalid_document(entries, document)
    return {name: ValueBounds(*values) for name, values in fields if name in names}


def _infer(
    entries: Entries, summary: DocumentSummary, *, has_bounds: bool
) -> dict[str, ValueBounds]:
    if not len(entries):
        return {}
    limit = summary.limit - 1  # the id needs one more
    names: list[bytes] = []
    while True:
        identity, found, problem, document, fields = _native.infer(
            entries.data, entries.bounds, MAX_STRUCT_KEYS, limit, names, has_bounds
        )
        if problem == _CORRUPT:
            raise reference.invalid_document(entries, document)
        known = [name.encode() for name in summary.fields if name != ID_FIELD]
        if problem != _PARTIAL or names or not known:
            break
        names = known  # Infer again: fields of the summary take precedence over new ones.
    summary.is_partial = summary.is_partial or problem == _PARTIAL
    summary.field(ID_FIELD).merge(_summary(identity, entries))
    summary.merge(_summary(found, entries))
    return {} if problem == _PARTIAL else {name: ValueBounds(*values) for name, values in fields}


def _summary(found: Any, entries: Entries) -> FieldSummary:
    kinds, firsts, item, fields, values = found
    summary = FieldSummary()
    summary.kinds = kinds
    summary.first = {flag: entries.id(document) for flag, document in firsts}
    summary.item = None if item is None else _summary(item, entries)
    summary.values = None if values is None else _summary(values, entries)
    summary.fields = {name: _summary(child, entries) for name, child in fields}
    return summary
