"""Checks of what a manifest says of its parts, for ``verify``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from godb_arrow import codec
from godb_arrow.directory.verify_records import COUNTED_DIGITS, is_about, recorded_plan
from godb_arrow.errors import GodbError
from godb_arrow.file.hints import CollectionHint
from godb_arrow.snapshots.entry_runs import without
from godb_arrow.snapshots.id_index import IdIndex
from godb_arrow.snapshots.manifest import Manifest, Part
from godb_arrow.snapshots.part_file import PartFile

__all__ = ["problems_of_manifest", "problems_of_part"]


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
    if not is_about(part.size, size):
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
