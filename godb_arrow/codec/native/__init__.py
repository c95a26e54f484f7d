"""Compiled codec: the functions of :mod:`godb_arrow.codec.reference`, without the GIL.

Documents become columns without becoming Python objects. This module converts the kernel's results
to the form that both codecs share, and its failures to error messages.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import godb_arrow.codec.native._native as _native  # noqa: PLR0402 (mypy knows it by this name)
from godb_arrow.codec.entries import CheckedEntries, Documents, Entries, MeasuredEntries
from godb_arrow.codec.field_values import FieldValues
from godb_arrow.codec.native.decoding import decode, decode_front, decode_unscanned
from godb_arrow.codec.native.dicts import (
    ChunkIterator,
    id_source,
    load,
    load_documents,
    pack,
    pack_documents,
    pack_record,
    pack_single,
    write_short,
)
from godb_arrow.codec.native.identify import Identification
from godb_arrow.codec.native.inference import infer, infer_with_bounds, value_bounds
from godb_arrow.codec.native.lookup import (
    IdSearch,
    KeysBuilder,
    Located,
    RowSet,
    SortedKeys,
    load_found,
    plain_filter,
)
from godb_arrow.codec.native.patch import patch_documents
from godb_arrow.codec.native.programs import compile_program
from godb_arrow.codec.predicate import Predicate
from godb_arrow.codec.reference import documents as reference
from godb_arrow.codec.reference import jsonread as reference_json
from godb_arrow.codec.reference import lz4 as reference_lz4
from godb_arrow.codec.reference import rows as reference_rows
from godb_arrow.codec.reference import scan as reference_scan
from godb_arrow.codec.reference import values as reference_values
from godb_arrow.codec.reference.jsonread import Convert
from godb_arrow.codec.reference.lz4 import Piece
from godb_arrow.codec.sizes import HEAD_SIZE, packed_head
from godb_arrow.codec.wire import wire_columns
from godb_arrow.errors import CorruptFile, UnsupportedType
from godb_arrow.memory.buffers import add_pool
from godb_arrow.schema import ID_FIELD

if TYPE_CHECKING:
    import numpy.typing as npt

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

BACKEND = "native"

_ROW_FIELD = "row"
_ROW_HEAD = (pack("") + pack({ID_FIELD: "", _ROW_FIELD: {}}))[:-1]  # before a row in an entry
_END, _SEPARATOR = 0, 2  # of reading JSON

add_pool(_native.pooled_bytes, lambda closed: _native.shrink_blocks(0, closed))  # of freed columns

JsonScanner = _native.JsonScanner
BsonReader = _native.BsonReader
cut_bson = _native.cut_bson
write_bson = _native.write_bson


class BlockDecoder:
    """Decoder of one raw LZ4 block; see :mod:`godb_arrow.codec.reference.lz4`."""

    def __init__(self) -> None:
        self._decoder = _native.BlockDecoder()

    def fill(
        self, buffer: memoryview, start: int, end: int, limit: int, fetch: Callable[[], bytes]
    ) -> int:
        """Decode into a buffer; see :class:`godb_arrow.codec.filling.FillingDecoder`."""
        end, bad_distance, ended = self._decoder.fill(buffer, start, end, limit, fetch)
        if bad_distance >= 0:
            raise reference_lz4.bad_distance(bad_distance, self._decoder.position)
        if ended:
            self.finish()
        return end

    def finish(self) -> None:
        """Check that the block may end at the end of its bytes."""
        if not self._decoder.complete:
            raise reference_lz4.cut_off(self._decoder.position)


def compress_piece(
    content: bytes, max_ratio: int | None, high: bool, level: int = 0
) -> tuple[bytes, bytes]:
    """Compress a piece of a block; see :mod:`godb_arrow.codec.reference.lz4`."""
    if high:
        return reference_lz4.compress_piece(content, max_ratio, high, level)
    sequences, left = _native.compress_piece(content, max_ratio or 0)
    return sequences, content[len(content) - left :]


def decode_pieces(data: bytes | memoryview, pieces: Sequence[Piece]) -> bytes:
    """Decode pieces of a block that refer to no earlier bytes."""
    decoded, damaged = _native.decode_pieces(data, pieces)
    if decoded is None:
        raise reference_lz4.damaged_piece(pieces[damaged])
    found: bytes = decoded
    return found


def decode_pieces_into(data: bytes | memoryview, pieces: Sequence[Piece], into: memoryview) -> None:
    """Decode pieces of a block that refer to no earlier bytes, into existing memory."""
    damaged = _native.decode_pieces_into(data, pieces, into)
    if damaged >= 0:
        raise reference_lz4.damaged_piece(pieces[damaged])


def scan_entries(
    data: bytes | memoryview,
    start: int,
    count: int,
    max_bytes: int,
    base: int,
    fields: tuple[str, ...] = (),
) -> Entries:
    """Find the whole entries at the start of a buffer."""
    raw = [name.encode("utf-8", "surrogateescape") for name in fields]
    bounds, problem, at, places = _native.scan(data, start, max(count, 0), max(max_bytes, 0), raw)
    if problem:
        raise reference_scan.SCAN_PROBLEMS[problem](bytes(data[at : at + 1]), 0, base + at)
    entries: Any = data  # a view, for a caller that only decodes the entries
    return Entries(entries, bounds, base, fields, places)


def scan_extent(
    data: bytes | memoryview, start: int, count: int, max_bytes: int, base: int
) -> tuple[int, int]:
    """Return the number of whole entries at the start of a buffer, and their end."""
    found, end, problem, at = _native.scan_extent(data, start, max(count, 0), max(max_bytes, 0))
    if problem:
        raise reference_scan.SCAN_PROBLEMS[problem](bytes(data[at : at + 1]), 0, base + at)
    return found, end


def measure(data: bytes | memoryview, count: int) -> npt.NDArray[np.uint32] | None:
    """Return the sizes of entries whose leading fields can be decoded without the rest."""
    sizes = _native.measure(data, count)
    return None if sizes is None else np.frombuffer(sizes, np.uint32)


def gather(
    data: bytes | memoryview, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> bytes:
    """Concatenate parts of bytes."""
    gathered: bytes = _native.gather(data, starts, ends)
    return gathered


def copied(data: memoryview) -> bytes:
    """Return a copy of bytes in borrowed memory."""
    made: bytes = _native.copied(data)
    return made


def unpack_sizes(
    packed: Sequence[bytes], counts: Sequence[int], totals: Sequence[int]
) -> npt.NDArray[np.int64] | None:
    """Return the offsets where the entries of consecutive pieces begin and end."""
    heads = [packed_head(*piece) for piece in zip(packed, counts, totals, strict=True)]
    if None in heads:
        return None
    edges = np.zeros(sum(counts) + 1, np.int64)
    right = _native.add_sizes(packed, heads, counts, totals, HEAD_SIZE, edges)
    return edges if right else None


def skip_items(data: bytes | memoryview, position: int, items: int) -> tuple[int, int, int]:
    """Skip MessagePack values without decoding them, at any depth of nesting."""
    position, items, payload, invalid = _native.skip(data, position, items)
    if invalid:
        raise reference_scan.invalid_head(position)
    return position, items, payload


def check_entries(entries: Entries) -> CheckedEntries:
    """Check entries, and hash their ids."""
    if not len(entries):
        return CheckedEntries([], [], b"", 0, True)
    damaged, differing, hashes, greatest, has_odd_keys = _native.check_entries(
        entries.data, entries.bounds
    )
    return CheckedEntries(
        memoryview(damaged).cast("I").tolist(),
        memoryview(differing).cast("I").tolist(),
        hashes,
        greatest,
        not damaged and not has_odd_keys,
    )


def find_entry(entries: Entries, identity: str) -> int:
    """Return the index of the last entry with an id, or -1."""
    try:
        raw = identity.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no document has such an id
        return -1
    found: int = _native.find(entries.data, entries.bounds, raw)
    return found


def count_present(entries: Entries, names: Sequence[str]) -> list[int]:
    """Count the documents that have each of some fields, with any value."""
    raw = [name.encode("utf-8", "surrogateescape") for name in names]
    counts: list[int] = _native.count_present(entries.data, entries.bounds, raw)
    return counts


def field_values(entries: Entries, parts: Sequence[str]) -> FieldValues:
    """Find the values that a dotted name leads to in documents."""
    if not len(entries):
        return reference_values.field_values(entries, parts)
    raw = [part.encode("utf-8", "surrogateescape") for part in parts]
    found = _native.field_values(entries.data, entries.bounds, raw)
    if found is None:
        return reference_values.field_values(entries, parts)  # which says what is damaged
    rows, kinds, words, sizes = found
    return FieldValues(
        np.frombuffer(rows, np.uint32),
        np.frombuffer(kinds, np.uint8),
        np.frombuffer(words, np.uint64),
        np.frombuffer(sizes, np.uint32),
        entries.data,
    )


@contextmanager
def _offsets_checked() -> Iterator[None]:
    """Convert what the kernel raises for offsets that lead out of an Arrow array."""
    try:
        yield
    except (IndexError, pa.ArrowInvalid) as error:
        raise UnsupportedType(
            "an Arrow array has offsets that lead out of its values",
            advice="check it with validate(full=True) in the program that made it",
        ) from error


def encode(
    batch: pa.RecordBatch, ids: pa.Array, omit_nulls: bool
) -> tuple[bytes, npt.NDArray[np.uint32]]:
    """Encode the rows of a record batch as entries of a collection."""
    with _offsets_checked():
        batch.validate()
        ids.validate()
    rows, plan = wire_columns(batch)
    with _offsets_checked():
        encoded = _native.encode(ids, rows, plan, omit_nulls)
    if encoded is None:
        # The reference codec raises the error, which names the column.
        reference_rows.encode(batch, ids, omit_nulls)
        raise UnsupportedType("a map has the same key twice", advice="drop one of the two")
    entries, sizes = encoded
    return entries, np.frombuffer(sizes, np.uint32)


def encode_documents(batch: pa.RecordBatch) -> Documents:
    """Encode the rows of a record batch as documents without ids of a collection."""
    rows, (core, unit, _, children) = wire_columns(batch, ignored=None)
    # The kernel writes entries, so each row is the only field of an entry with an empty id.
    row = (core, unit, pack(_ROW_FIELD), children)
    entry = pa.StructArray.from_arrays([rows], [_ROW_FIELD])
    ids = pa.repeat(pa.scalar(b""), batch.num_rows)
    encoded = _native.encode(ids, entry, (core, unit, b"", (row,)), False)
    if encoded is None:
        return reference_rows.encode_documents(batch)  # which raises the error
    data, packed = encoded
    sizes = np.frombuffer(packed, np.uint32).astype(np.int64)
    ends = np.cumsum(sizes)
    bounds = np.zeros(batch.num_rows + 1, np.int64)
    np.cumsum(sizes - len(_ROW_HEAD), out=bounds[1:])
    documents = gather(data, ends - sizes + len(_ROW_HEAD), ends)
    return Documents(documents, array("q", bounds.tobytes()))


def survey_ids(ids: pa.Array) -> tuple[bytes, int]:
    """Hash document ids before they are written, and find the max number among them."""
    with _offsets_checked():
        hashes, greatest = _native.survey_ids(ids)
    return hashes, greatest


def ids_ascend(ids: pa.Array) -> int | None:
    """Return the max number among ids that ascend, or None if they do not."""
    with _offsets_checked():
        ascend, greatest = _native.ids_ascend(ids)
    return greatest if ascend else None


def text_extremes(texts: pa.Array) -> tuple[int, int]:
    """Return the rows of the min and max text that is not null."""
    with _offsets_checked():
        least, greatest = _native.text_extremes(texts)
    return least, greatest


def to_dicts(names: Sequence[str], columns: Sequence[list[Any]], count: int) -> list[Any]:
    """Convert columns, which are lists of objects, to rows as dicts."""
    rows: list[Any] = _native.to_dicts(tuple(names), list(columns), count)
    return rows


def hash_id(identity: str) -> int:
    """Return the hash that :func:`survey_ids` computes for an id."""
    found: int = _native.hash_id(identity.encode("utf-8", "surrogateescape"))
    return found


def sort_hashes(hashes: bytes) -> tuple[bytes, bytes]:
    """Return hashes in order, and their places."""
    found: tuple[bytes, bytes] = _native.sort_hashes(hashes)
    return found


def has_equal(hashes: bytes | bytearray) -> bool:
    """Return whether two hashes of ids are equal."""
    found: bool = _native.has_equal(hashes)
    return found


# --- JSON -----------------------------------------------------------------------------------


def read_json(
    text: bytes, *, in_array: bool = False, is_first: bool = True, convert: Convert | None = None
) -> Documents:
    """Read the documents of JSON text."""
    at = 0
    parts: list[tuple[bytes, Any]] = []
    while True:
        data, bounds, at, stop, is_first = _native.read_json(
            text, at, in_array, is_first, convert is not None
        )
        parts.append((data, bounds))
        if stop == _END:
            break
        if stop == _SEPARATOR:
            raise reference_json.missing_comma(text, at)
        packed, at = reference_json.read_document(text, at, convert)
        parts.append((packed, array("q", [0, len(packed)])))
        is_first = False
    return Documents.joined(parts)


def count_line_feeds(text: bytes) -> int:
    """Return the number of line feeds in a text."""
    found: int = _native.count_line_feeds(text)
    return found


def may_have_controls(text: bytes) -> bool:
    """Return whether UTF-8 may have DEL or a control character above ASCII."""
    found: bool = _native.may_have_controls(text)
    return found


def json_lines(found: Entries | Documents, *, plain: bool = False) -> bytes:
    """Write documents as NDJSON."""
    if len(found.bounds) == 1:
        return b""
    lines, damaged = _native.json_lines(found.data, found.bounds, isinstance(found, Entries), plain)
    if damaged >= 0:
        return reference_json.json_lines(found, plain=plain)  # which raises the error
    text: bytes = lines
    return text


def select(entries: Entries, predicate: Predicate) -> npt.NDArray[np.int64]:
    """Find the documents that match a predicate."""
    if not len(entries):
        return np.empty(0, np.int64)
    fields = predicate.fields
    places: bytes | None = None
    order: tuple[int, ...] = ()
    if fields and entries.fields and set(fields) <= set(entries.fields):
        places, order = entries.places, tuple(map(entries.fields.index, fields))
    program = predicate.program(compile_program)
    rows, damaged = program.select(entries.data, entries.bounds, places, order)
    if damaged >= 0:
        raise reference.invalid_document(entries, damaged)
    return np.frombuffer(rows, np.int64)


def select_front(measured: MeasuredEntries, predicate: Predicate) -> npt.NDArray[np.int64] | None:
    """Find the documents that match a predicate, reading documents only up to its fields."""
    fields = predicate.fields
    raw = [name.encode("utf-8", "surrogateescape") for name in fields]
    found = _native.scan_fronts(measured.data, measured.edges, raw)
    if found is None:
        return None
    bounds, places = found
    seen: Any = measured.data  # a view: only rows are returned
    try:
        return select(Entries(seen, bounds, measured.base, fields, places), predicate)
    except CorruptFile:
        return None
