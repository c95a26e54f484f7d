"""Codec of documents and bodies: MessagePack to columns and LZ4 to bytes, and back.

There is one set of functions, and this module chooses the codec that provides them. It is the
compiled codec if that was built, else the reference codec. The environment variable
``GODB_ARROW_CODEC`` forces ``native`` or ``reference``.

Attributes
----------
BACKEND : {"native", "reference"}
    Codec in use.
"""

from __future__ import annotations

import os
import warnings
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from godb_arrow.codec.columns import ColumnPlan, DecodePlan, finish, plan_columns
from godb_arrow.codec.entries import Documents, Entries, MeasuredEntries, UnscannedEntries
from godb_arrow.codec.reference.dicts import IdSource, PackedDocuments, load_pairs, with_id
from godb_arrow.codec.reference.documents import mismatch_error
from godb_arrow.codec.reference.ids import MAX_NUMBER, id_number
from godb_arrow.codec.reference.patch import PatchedDocuments, PatchOperator, PatchStep
from godb_arrow.codec.reference.scan import describe
from godb_arrow.errors import InvalidOption, TypeMismatch

if TYPE_CHECKING:
    import numpy.typing as npt

    from godb_arrow.codec import reference as _chosen
else:
    _wanted = os.environ.get("GODB_ARROW_CODEC", "")
    if _wanted not in ("", "native", "reference"):
        raise InvalidOption(
            f"GODB_ARROW_CODEC is {_wanted!r}", advice="set it to native or reference"
        )
    try:
        if _wanted == "reference":
            raise ImportError
        from godb_arrow.codec import native as _chosen
    except ImportError:
        if _wanted == "native":
            raise
        from godb_arrow.codec import reference as _chosen

        if not _wanted and (Path(__file__).parents[2] / "setup.py").is_file():
            warnings.warn(
                f"{Path(__file__).parents[1]} is a source tree without the compiled kernel, so "
                "godb_arrow is many times slower: run pip install -e . there, or set "
                "GODB_ARROW_CODEC=reference",
                RuntimeWarning,
                stacklevel=2,
            )

BACKEND = _chosen.BACKEND
BlockDecoder = _chosen.BlockDecoder
BsonReader = _chosen.BsonReader
IdSearch = _chosen.IdSearch
KeysBuilder = _chosen.KeysBuilder
Located = _chosen.Located
RowSet = _chosen.RowSet
SortedKeys = _chosen.SortedKeys
Identification = _chosen.Identification
JsonScanner = _chosen.JsonScanner
check_entries = _chosen.check_entries
ChunkIterator = _chosen.ChunkIterator
compress_piece = _chosen.compress_piece
decode = _chosen.decode
decode_front = _chosen.decode_front
decode_pieces = _chosen.decode_pieces
decode_pieces_into = _chosen.decode_pieces_into
decode_unscanned = _chosen.decode_unscanned
encode = _chosen.encode
encode_documents = _chosen.encode_documents
copied = _chosen.copied
count_line_feeds = _chosen.count_line_feeds
count_present = _chosen.count_present
cut_bson = _chosen.cut_bson
field_values = _chosen.field_values
find_entry = _chosen.find_entry
pack_record = _chosen.pack_record
gather = _chosen.gather
has_equal = _chosen.has_equal
hash_id = _chosen.hash_id
id_source = _chosen.id_source
ids_ascend = _chosen.ids_ascend
infer = _chosen.infer
infer_with_bounds = _chosen.infer_with_bounds
json_lines = _chosen.json_lines
may_have_controls = _chosen.may_have_controls
measure = _chosen.measure
plain_filter = _chosen.plain_filter
load_found = _chosen.load_found
read_json = _chosen.read_json
load = _chosen.load
load_documents = _chosen.load_documents
pack = _chosen.pack
pack_documents = _chosen.pack_documents
pack_single = _chosen.pack_single
patch_documents = _chosen.patch_documents
scan_entries = _chosen.scan_entries
scan_extent = _chosen.scan_extent
select = _chosen.select
write_short = _chosen.write_short
select_front = _chosen.select_front
skip_items = _chosen.skip_items
sort_hashes = _chosen.sort_hashes
survey_ids = _chosen.survey_ids
text_extremes = _chosen.text_extremes
to_dicts = _chosen.to_dicts
unpack_sizes = _chosen.unpack_sizes
value_bounds = _chosen.value_bounds
write_bson = _chosen.write_bson

__all__ = [
    "BACKEND",
    "MAX_NUMBER",
    "BlockDecoder",
    "BsonReader",
    "ChunkIterator",
    "DecodePlan",
    "Documents",
    "Entries",
    "IdSearch",
    "IdSource",
    "Identification",
    "JsonScanner",
    "KeysBuilder",
    "Located",
    "MeasuredEntries",
    "PackedDocuments",
    "PatchOperator",
    "PatchStep",
    "PatchedDocuments",
    "RowSet",
    "SortedKeys",
    "UnscannedEntries",
    "check_entries",
    "compress_piece",
    "copied",
    "count_line_feeds",
    "count_present",
    "cut_bson",
    "decode_batch",
    "decode_front",
    "decode_front_batch",
    "decode_pieces",
    "decode_pieces_into",
    "decode_unscanned",
    "decode_unscanned_batch",
    "describe",
    "encode",
    "encode_documents",
    "field_values",
    "find_entry",
    "gather",
    "has_equal",
    "hash_id",
    "id_number",
    "id_source",
    "ids_ascend",
    "infer",
    "infer_with_bounds",
    "json_lines",
    "load",
    "load_documents",
    "load_found",
    "load_pairs",
    "may_have_controls",
    "measure",
    "pack",
    "pack_documents",
    "pack_entry",
    "pack_record",
    "pack_single",
    "patch_documents",
    "plain_filter",
    "plan_columns",
    "read_json",
    "rows_without_columns",
    "scan_entries",
    "scan_extent",
    "select",
    "select_front",
    "skip_items",
    "sort_hashes",
    "survey_ids",
    "take",
    "take_measured",
    "text_extremes",
    "to_dicts",
    "unpack_sizes",
    "value_bounds",
    "with_id",
    "write_bson",
    "write_short",
]


def pack_entry(identity: str, document: dict[Any, Any]) -> bytes:
    """Pack an entry of a collection: the id and the document, in MessagePack."""
    return pack(identity) + pack(document)


def decode_batch(entries: Entries, plan: DecodePlan) -> pa.RecordBatch:
    """Decode documents into a record batch of the plan's schema.

    Parameters
    ----------
    entries : Entries
        Documents, one row each.
    plan : DecodePlan
        Columns to decode.

    Returns
    -------
    pyarrow.RecordBatch

    Raises
    ------
    TypeMismatch
        A value does not fit the schema, and the plan does not replace it by null.
    """
    return _batch(entries, decode(entries, plan), plan)


def decode_front_batch(measured: MeasuredEntries, plan: DecodePlan) -> pa.RecordBatch | None:
    """Decode the fields of a plan into a record batch, reading documents only up to these fields.

    Parameters
    ----------
    measured : MeasuredEntries
        Documents, one row each.
    plan : DecodePlan
        Columns to decode.

    Returns
    -------
    pyarrow.RecordBatch or None
        None where the entries must be decoded one by one.
    """
    arrays = decode_front(measured, plan)
    try:
        return None if arrays is None else _batch(measured, arrays, plan)
    except TypeMismatch:
        return None


def decode_unscanned_batch(entries: UnscannedEntries, plan: DecodePlan) -> pa.RecordBatch | None:
    """Decode entries into a record batch while they are located.

    Parameters
    ----------
    entries : UnscannedEntries
        Documents, one row each.
    plan : DecodePlan
        Columns to decode.

    Returns
    -------
    pyarrow.RecordBatch or None
        None where the entries must be scanned before, which tells what is wrong with them.
    """
    arrays = decode_unscanned(entries, plan)
    try:
        return None if arrays is None else _batch(entries, arrays, plan)
    except TypeMismatch:
        return None


def take(entries: Entries, rows: npt.NDArray[np.int64]) -> Entries:
    """Return some entries by their indices, in memory of their own."""
    edges = np.frombuffer(entries.bounds, np.int64)
    first, document, last = edges[2 * rows], edges[2 * rows + 1], edges[2 * rows + 2]
    bounds = np.zeros(2 * len(rows) + 1, np.int64)
    np.cumsum(last - first, out=bounds[2::2])
    bounds[1::2] = bounds[:-1:2] + document - first
    data = gather(entries.data, first, last)
    return Entries(data, array("q", bounds.tobytes()), entries.base)


def take_measured(measured: MeasuredEntries, rows: npt.NDArray[np.int64]) -> Entries:
    """Return some entries by their indices, scanned and checked.

    Parameters
    ----------
    measured : MeasuredEntries
        Entries to choose from.
    rows : array of int64
        Indices of the entries.

    Returns
    -------
    Entries

    Raises
    ------
    CorruptFile
        The entries are damaged.
    """
    edges = measured.edges
    taken = gather(measured.data, edges[rows], edges[rows + 1])
    return measured.scan(taken, len(rows), ())


def _batch(
    entries: Entries | MeasuredEntries | UnscannedEntries,
    arrays: list[pa.Array],
    plan: DecodePlan,
) -> pa.RecordBatch:
    columns = []
    for values, column in zip(arrays, plan.columns, strict=True):
        try:
            columns.append(finish(values, column, plan.on_mismatch))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            index = _first_misfit(values, column)
            found = f"{values[index].as_py()!r}"
            raise mismatch_error(
                entries.id(index), column.name, str(column.target), found
            ) from error
    for field, values in zip(plan.schema, columns, strict=True):
        if not field.nullable and values.null_count:
            index = values.is_null().to_pylist().index(True)
            raise mismatch_error(entries.id(index), field.name, f"{field.type} not null", "nil")
    return (
        pa.RecordBatch.from_arrays(columns, schema=plan.schema)
        if columns
        else rows_without_columns(len(entries), plan.schema)
    )


def _first_misfit(array: pa.Array, column: ColumnPlan) -> int:
    for index in range(len(array)):
        try:
            finish(pa.concat_arrays([array.slice(index, 1)]), column)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return index
    return 0


def rows_without_columns(rows: int, schema: pa.Schema) -> pa.RecordBatch:
    """Return a record batch of some rows and no columns."""
    struct = pa.StructArray.from_buffers(pa.struct([]), rows, [None])
    return pa.RecordBatch.from_struct_array(struct).replace_schema_metadata(schema.metadata)
