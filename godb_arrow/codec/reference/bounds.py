"""Min, max and number of the values of each field of documents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgpack

from godb_arrow.codec.entries import Entries
from godb_arrow.codec.field_values import ValueBounds
from godb_arrow.codec.jsontext import is_utf8
from godb_arrow.codec.reference.documents import document_pairs, field_name, infer
from godb_arrow.schema import ID_FIELD, DocumentSummary

__all__ = ["infer_with_bounds", "value_bounds"]

_MAX_INT64 = 2**63 - 1


def infer_with_bounds(entries: Entries, summary: DocumentSummary) -> dict[str, ValueBounds]:
    """Join the kinds of value in documents into a summary, and find the bounds of all values.

    Parameters
    ----------
    entries : Entries
        Documents to summarize.
    summary : DocumentSummary
        Summary of earlier documents, extended in place.

    Returns
    -------
    dict of str to ValueBounds
        The bounds of each field of these documents; empty if they have too many fields.

    Raises
    ------
    CorruptFile
        A document is not valid MessagePack.
    """
    infer(entries, summary)
    return {} if summary.is_partial else value_bounds(entries, list(summary.fields))


def value_bounds(entries: Entries, names: Sequence[str]) -> dict[str, ValueBounds]:
    """Find the bounds of all values of some fields.

    Parameters
    ----------
    entries : Entries
        The documents.
    names : sequence of str
        Top-level fields, or the id.

    Returns
    -------
    dict of str to ValueBounds
        Bounds by field; a field that no document has is missing.

    Raises
    ------
    CorruptFile
        A document is not valid MessagePack.
    """
    wanted = frozenset(names)
    values: dict[str, list[Any]] = {}
    documents: dict[str, int] = {}
    for index in range(len(entries)):
        seen = set()
        for name, value in _fields(entries, index):
            if name in wanted:
                values.setdefault(name, []).append(value)
                seen.add(name)
        for name in seen:
            documents[name] = documents.get(name, 0) + 1
    return {name: _bounds(found, documents[name]) for name, found in values.items()}


def _fields(entries: Entries, index: int) -> Iterator[tuple[str, Any]]:
    """Yield the id and the fields of a document, except for an ``_id`` inside of it."""
    yield ID_FIELD, entries.id(index)
    for key, value in document_pairs(entries, index):
        name = field_name(key)
        if name != ID_FIELD:
            yield name, value


def _bounds(values: list[Any], documents: int) -> ValueBounds:
    integers = [value for value in values if type(value) is int]
    floats = [value for value in values if type(value) is float]
    strings = [value for value in values if type(value) is str and is_utf8(value)]
    binaries = [value for value in values if type(value) is bytes] + [
        value.encode("utf-8", "surrogateescape")
        for value in values
        if type(value) is str and not is_utf8(value)
    ]
    moments = [value for value in values if type(value) is msgpack.Timestamp]
    nulls, trues, falses = (_count(values, one) for one in (None, True, False))
    known = len(integers) + len(floats) + len(strings) + len(binaries) + len(moments)
    return ValueBounds(
        values=len(values),
        documents=documents,
        nulls=nulls,
        trues=trues,
        falses=falses,
        nans=sum(map(math.isnan, floats)),
        others=len(values) - known - nulls - trues - falses,
        integers=_extent([value for value in integers if value <= _MAX_INT64]),
        above_int64=_extent([value for value in integers if value > _MAX_INT64]),
        floats=_extent([value for value in floats if not math.isnan(value)]),
        moments=_extent([(value.seconds, value.nanoseconds) for value in moments]),
        strings=_texts([value.encode() for value in strings]),
        binaries=_texts(binaries),
    )


def _count(values: list[Any], wanted: object) -> int:
    return sum(value is wanted for value in values)


def _extent(values: list[Any]) -> Any:
    return (min(values), max(values)) if values else None


def _texts(texts: list[bytes]) -> tuple[int, int, bytes, bytes] | None:
    return (len(texts), max(map(len, texts)), min(texts), max(texts)) if texts else None
