"""Checks of what files record of their documents, for ``verify``: hints and indexes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.file.hints import CollectionHint, are_usable_hints, has_only_hints
from godb_arrow.file.piece_index import PIECES_KEY, SIZES_KEY, PieceIndex
from godb_arrow.schema import is_partial, needs_review

__all__ = [
    "COUNTED_DIGITS",
    "is_about",
    "problems_of_hints",
    "problems_of_index",
    "recorded_plan",
]

COUNTED_DIGITS = 18
"""Digits of the ids that count for a next id. Former versions ignored longer numbers."""

_ESTIMATED_BYTES = 4 << 10
_PLAIN_KEYS = {"metadata", "indexes"}


def recorded_plan(schema: pa.Schema) -> codec.DecodePlan:
    """Return the plan by which documents must fit a recorded schema.

    Raises
    ------
    GodbError
        The schema is unusable.
    """
    return codec.plan_columns(schema, strict=not is_partial(schema), exact=not needs_review(schema))


def problems_of_hints(
    metadata: bytes | None,
    hints: Mapping[str, CollectionHint],
    sizes: Mapping[str, int],
    others: Sequence[str],
) -> Iterator[str]:
    """Yield what is wrong with the hints of a sealed file.

    Parameters
    ----------
    metadata : bytes or None
        MessagePack of the metadata, if there are any.
    hints : mapping of str to CollectionHint
        The hints in them.
    sizes : mapping of str to int
        Bytes of the entries of each collection in the body.
    others : sequence of str
        Top-level keys of the body other than the collections.
    """
    if metadata is not None and not are_usable_hints(metadata):
        yield "the metadata's records of the collections are damaged"
        return
    if not hints:
        return
    for name in sizes:
        if name not in hints:
            yield f"the metadata hide the collection {name!r}"
    for name, hint in hints.items():
        size = sizes.get(name)
        if size is None:
            continue
        where = f"collection {name!r}"
        if hint.size is not None and not is_about(hint.size, size):
            yield f"{where}: the metadata record {hint.size} bytes of documents, not {size}"
        # Only the hint of a single collection is believed in this.
        is_alone = len(sizes) == 1 and set(others) <= _PLAIN_KEYS
        is_plain = is_alone and metadata is not None and has_only_hints(metadata)
        if hint.plain and not is_plain and len(hints) == 1:
            yield f"{where}: the metadata claim that the file has nothing else"


def is_about(recorded: int, size: int) -> bool:
    """Return whether a size is recorded as about what it is: engines record estimates."""
    return size // 2 - _ESTIMATED_BYTES <= recorded <= 2 * size + _ESTIMATED_BYTES


def problems_of_index(
    index: PieceIndex | None, names: Sequence[str], ending: Collection[str]
) -> Iterator[str]:
    """Yield what is wrong with the index of pieces as a whole.

    Parameters
    ----------
    index : PieceIndex or None
        The index, if it is valid.
    names : sequence of str
        Names of the collections in the body.
    ending : collection of str
        Keys of the records at the end of the body.
    """
    if index is None:
        if PIECES_KEY in ending:
            yield "the index of pieces is damaged"
        return
    for name in sorted({*index.collections, *index.statistics, *index.runs} - {*names}):
        yield f"the index of pieces names a missing collection {name!r}"
    if index.sizes is None and SIZES_KEY in ending:
        yield "the index of pieces has no place for the sizes of documents"
