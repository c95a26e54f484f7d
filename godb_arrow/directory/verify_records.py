"""Checks of what files record of their documents, for ``verify``: hints, indexes, manifests."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.errors import GodbError
from godb_arrow.file.hints import CollectionHint, are_usable_hints, has_only_hints
from godb_arrow.file.piece_index import PIECES_KEY, SIZES_KEY, PieceIndex
from godb_arrow.schema import is_partial, needs_review
from godb_arrow.snapshots.entry_runs import without
from godb_arrow.snapshots.id_index import IdIndex
from godb_arrow.snapshots.manifest import Manifest, Part
from godb_arrow.snapshots.part_file import PartFile

__all__ = [
    "COUNTED_DIGITS",
    "problems_of_hints",
    "problems_of_index",
    "problems_of_manifest",
    "problems_of_part",
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
        if hint.size is not None and not _is_about(hint.size, size):
            yield f"{where}: the metadata record {hint.size} bytes of documents, not {size}"
        # Only the hint of a single collection is believed in this.
        is_alone = len(sizes) == 1 and set(others) <= _PLAIN_KEYS
        is_plain = is_alone and metadata is not None and has_only_hints(metadata)
        if hint.plain and not is_plain and len(hints) == 1:
            yield f"{where}: the metadata claim that the file has nothing else"


def _is_about(recorded: int, size: int) -> bool:
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


def problems_of_manifest(manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with a manifest itself, whatever its parts have."""
    if manifest.packed_statistics and manifest.statistics() is None:
        yield "the manifest's statistics are damaged, or of other parts"
    if not manifest.next_id:
        yield "the manifest records an impossible next id"


def problems_of_part(
    manifest: Manifest,
    part: Part,
    file: PartFile,
    hint: CollectionHint | None,
    size: int,
    file_size: int | None,
    ids: IdIndex,
) -> Iterator[str]:
    """Yield what a manifest says wrongly of a part.

    Parameters
    ----------
    manifest, part, file
        The manifest, its part, and the part's file.
    hint : CollectionHint or None
        Hint of the file, whose schema all documents fit.
    size : int
        Bytes of the part's entries.
    file_size : int or None
        Size of the file in bytes.
    ids : IdIndex
        Index of the ids, built from the documents.
    """
    if not file.has_valid_ids():
        yield f"{part.ids_file} is damaged, so ids are found more slowly"
    elif not file.has_all_ids():
        yield f"{part.ids_file} does not have the ids of {part.file}"
    kept = file.stored_ids()
    if kept is not None and not (
        np.array_equal(ids.hashes, kept.hashes)
        and np.array_equal(ids.rows, kept.rows)
        and ids.greatest == kept.greatest
    ):
        yield f"{part.ids_file} leads to other documents"
    if not _is_about(part.size, size):
        yield f"the manifest records {part.size} bytes of documents in {part.file}, not {size}"
    if file_size is not None and part.file_size != file_size:
        yield f"the manifest records {part.file_size} bytes of {part.file}, not {file_size}"
    if manifest.next_id <= ids.greatest and len(str(ids.greatest)) <= COUNTED_DIGITS:
        yield (
            f"the manifest records {manifest.next_id} as the next id, but {ids.greatest} is in "
            f"use in {part.file}"
        )
    schema = manifest.schema
    if hint is not None and hint.schema is not None and hint.schema.equals(schema):
        return
    try:
        plan = recorded_plan(schema)
        for row, run in file.loaded():
            deleted = part.deleted[(part.deleted >= row) & (part.deleted < row + len(run))] - row
            codec.decode_batch(without(run, deleted), plan)
    except GodbError as error:
        yield f"the manifest's schema does not fit {part.file}: {error}"
