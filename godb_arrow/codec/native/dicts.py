"""Documents as Python dicts in the kernel."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import godb_arrow.codec.native._native as _native  # noqa: PLR0402 (mypy knows it by this name)
from godb_arrow.codec import values as reference_values
from godb_arrow.codec.entries import Entries
from godb_arrow.codec.reference import dicts as reference_dicts
from godb_arrow.codec.reference import records as reference_records
from godb_arrow.codec.reference.dicts import IdSource, PackedDocuments

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "ChunkIterator",
    "id_source",
    "load",
    "load_documents",
    "pack",
    "pack_documents",
    "pack_record",
    "pack_single",
    "write_short",
]

ChunkIterator = _native.ChunkIterator

_native.register(
    reference_dicts.load,
    reference_values.pack,
    reference_records.pack_record,
    reference_values.stored_value,
)

load = _native.load
pack = _native.pack
pack_record = _native.pack_record
pack_single = _native.pack_single
write_short = _native.write_short


def load_documents(
    entries: Entries, rows: npt.NDArray[np.int64] | None, first: int
) -> list[dict[Any, Any]]:
    """Decode the next documents of a run; see :mod:`godb_arrow.codec.reference.dicts`."""
    documents: list[dict[Any, Any]] = _native.load_documents(
        entries.data, entries.bounds, rows, first
    )
    return documents


def id_source(documents: list[Any]) -> IdSource:
    """Return where documents get their ids from."""
    return IdSource(_native.id_source(documents))


def pack_documents(documents: list[Any], first: int | None) -> PackedDocuments | None:
    """Encode documents as entries; see :mod:`godb_arrow.codec.reference.dicts`."""
    packed = _native.pack_documents(documents, first or 0)
    if packed is None:
        return None
    data, bounds, offsets, ids, texts = packed
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(ids)]
    array = pa.Array.from_buffers(pa.binary(), len(documents), buffers)
    return PackedDocuments(data, np.frombuffer(bounds, np.int64), array, texts)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_native.note_fork)
