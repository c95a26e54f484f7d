"""Reference codec: documents to columns and LZ4 to bytes, written for readability.

The compiled codec, :mod:`godb_arrow.codec.native`, returns the same results for every input.
"""

from __future__ import annotations

from godb_arrow.codec.reference.bounds import infer_with_bounds, value_bounds
from godb_arrow.codec.reference.bsonread import BsonReader, cut_bson, write_bson
from godb_arrow.codec.reference.dicts import (
    ChunkIterator,
    id_source,
    load,
    load_documents,
    pack_documents,
    pack_single,
)
from godb_arrow.codec.reference.documents import (
    decode,
    decode_front,
    decode_unscanned,
    infer,
    text_extremes,
    to_dicts,
)
from godb_arrow.codec.reference.identify import Identification
from godb_arrow.codec.reference.ids import (
    has_equal,
    hash_id,
    ids_ascend,
    sort_hashes,
    survey_ids,
)
from godb_arrow.codec.reference.jsonread import (
    JsonScanner,
    count_line_feeds,
    json_lines,
    may_have_controls,
    read_json,
)
from godb_arrow.codec.reference.lookup import (
    IdSearch,
    KeysBuilder,
    Located,
    RowSet,
    SortedKeys,
    load_found,
    plain_filter,
)
from godb_arrow.codec.reference.lz4 import (
    BlockDecoder,
    compress_piece,
    decode_pieces,
    decode_pieces_into,
)
from godb_arrow.codec.reference.patch import patch_documents
from godb_arrow.codec.reference.predicate import select, select_front
from godb_arrow.codec.reference.records import pack_record, write_short
from godb_arrow.codec.reference.rows import encode, encode_documents
from godb_arrow.codec.reference.scan import (
    check_entries,
    copied,
    count_present,
    find_entry,
    gather,
    measure,
    scan_entries,
    scan_extent,
    skip_items,
)
from godb_arrow.codec.reference.values import field_values
from godb_arrow.codec.sizes import unpack_sizes
from godb_arrow.codec.values import pack

__all__ = [
    "BACKEND",
    "BlockDecoder",
    "BsonReader",
    "ChunkIterator",
    "IdSearch",
    "Identification",
    "JsonScanner",
    "KeysBuilder",
    "Located",
    "RowSet",
    "SortedKeys",
    "check_entries",
    "compress_piece",
    "copied",
    "count_line_feeds",
    "count_present",
    "cut_bson",
    "decode",
    "decode_front",
    "decode_pieces",
    "decode_pieces_into",
    "decode_unscanned",
    "encode",
    "encode_documents",
    "field_values",
    "find_entry",
    "gather",
    "has_equal",
    "hash_id",
    "id_source",
    "ids_ascend",
    "infer",
    "infer_with_bounds",
    "json_lines",
    "load",
    "load_documents",
    "load_found",
    "may_have_controls",
    "measure",
    "pack",
    "pack_documents",
    "pack_record",
    "pack_single",
    "patch_documents",
    "plain_filter",
    "read_json",
    "scan_entries",
    "scan_extent",
    "select",
    "select_front",
    "skip_items",
    "sort_hashes",
    "survey_ids",
    "text_extremes",
    "to_dicts",
    "unpack_sizes",
    "value_bounds",
    "write_bson",
    "write_short",
]

BACKEND = "reference"
