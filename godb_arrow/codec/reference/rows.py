"""Encoding of the rows of record batches as documents, with and without ids of a collection."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from godb_arrow.codec.entries import Documents
from godb_arrow.codec.values import pack, wire_values
from godb_arrow.schema import ID_FIELD

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["encode", "encode_documents"]


def encode(
    batch: pa.RecordBatch, ids: pa.Array, omit_nulls: bool
) -> tuple[bytes, npt.NDArray[np.uint32]]:
    """Encode the rows of a record batch as entries of a collection.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Rows; a column ``_id`` is ignored.
    ids : pyarrow.BinaryArray
        Ids of the rows, in UTF-8.
    omit_nulls : bool
        Whether to omit a null top-level field from the document, instead of storing nil.

    Returns
    -------
    entries : bytes
        Ids and documents in MessagePack, one after the other.
    sizes : array of uint32
        Bytes of each entry.
    """
    names = [name for name in batch.schema.names if name != ID_FIELD]
    columns = [wire_values(batch.column(name), name) for name in names]
    rows = zip(*columns, strict=True) if columns else iter([()] * batch.num_rows)
    entries: list[bytes] = []
    for raw, row in zip(ids.to_pylist(), rows, strict=True):
        identity = raw.decode("utf-8", "surrogateescape")
        document: dict[str, Any] = {ID_FIELD: identity}
        document.update(
            (name, value)
            for name, value in zip(names, row, strict=True)
            if value is not None or not omit_nulls
        )
        entries.append(pack(identity) + pack(document))
    return b"".join(entries), np.array([len(entry) for entry in entries], np.uint32)


def encode_documents(batch: pa.RecordBatch) -> Documents:
    """Encode the rows of a record batch as documents without ids of a collection.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Rows; all columns become fields, and nulls become nil.

    Returns
    -------
    Documents
    """
    names = batch.schema.names
    columns = [wire_values(batch.column(name), name) for name in names]
    rows = zip(*columns, strict=True) if columns else iter([()] * batch.num_rows)
    packed = [pack(dict(zip(names, row, strict=True))) for row in rows]
    bounds = np.cumsum([0, *map(len, packed)], dtype=np.int64)
    return Documents(b"".join(packed), array("q", bounds.tobytes()))
