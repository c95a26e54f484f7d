"""Least and greatest values of pieces, so that a filter need not read all of them.

Of some documents they are the least and the greatest value of a field that is not null, and how
many values are null or absent. They are bounds: documents may go without changing them. Of all
pieces they are a record batch, with three columns for each field; a count of null stands for a
piece of which nothing is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from godb_arrow import codec
from godb_arrow.errors import GodbError
from godb_arrow.schema import storage_schema

__all__ = [
    "Bounds",
    "Row",
    "contradiction",
    "covered",
    "decode_statistics",
    "may_match",
    "pack_statistics",
    "per_piece",
    "row_of",
    "statistics_of",
    "unpack_statistics",
]


_MAX_FIELDS = 64
_MAX_TEXT = 64  # bytes of a text's bound; of longer ones nothing is known
_LEAST, _GREATEST, _NULLS = "\0least", "\0greatest", "\0nulls"


def covered(schema: pa.Schema) -> pa.Schema:
    """The fields of a schema that have statistics.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of a collection.

    Returns
    -------
    pyarrow.Schema

    Examples
    --------
    >>> covered(pa.schema({"age": pa.int64(), "tags": pa.list_(pa.string())})).names
    ['age']
    """
    fields = (pa.field(field.name, field.type) for field in schema if _is_ordered(field.type))
    return pa.schema(list(itertools.islice(fields, _MAX_FIELDS)))


def _is_ordered(data_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(data_type)
        or pa.types.is_floating(data_type)
        or pa.types.is_boolean(data_type)
        or pa.types.is_string(data_type)
        or pa.types.is_large_string(data_type)
        or pa.types.is_timestamp(data_type)
        or pa.types.is_date(data_type)
    )


class Bounds(NamedTuple):
    """What is known of a field's values in some documents.

    Attributes
    ----------
    least, greatest : pyarrow.Scalar
        Of those that are not null; null where there are none.
    nulls : int
        How many are null or absent.
    """

    least: pa.Scalar
    greatest: pa.Scalar
    nulls: int


Row = Mapping[str, Bounds]
"""The statistics of some documents: bounds of those fields of which anything is known."""


def statistics_of(batch: pa.RecordBatch, fields: pa.Schema, ascending: str | None = None) -> Row:
    """The statistics of documents.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        The documents' columns.
    fields : pyarrow.Schema
        What :func:`covered` gave.
    ascending : str, optional
        A field whose texts each come behind the one before, by size and then by bytes.

    Returns
    -------
    dict of str to Bounds

    Examples
    --------
    >>> fields = pa.schema({"age": pa.int64()})
    >>> found = statistics_of(pa.record_batch({"age": [36, None, 41]}), fields)
    >>> found["age"].least.as_py(), found["age"].greatest.as_py(), found["age"].nulls
    (36, 41, 1)
    """
    found = {}
    for field in fields:
        index = batch.schema.get_field_index(field.name)
        if index >= 0 and batch.schema.field(index).type.equals(field.type):
            column = batch.column(index)
            bounds = _ends(column) if field.name == ascending else None
            if bounds is None:
                bounds = _bounds(column)
            if bounds is not None:
                found[field.name] = bounds
    return found


def _ends(column: pa.Array) -> Bounds | None:
    """The bounds of texts that ascend, where all have the same size; else it is not known."""
    first, last = column[0], column[-1]
    if not pa.types.is_string(column.type) or not first.is_valid or not last.is_valid:
        return None
    sizes = len(first.as_buffer()), len(last.as_buffer())
    return Bounds(first, last, 0) if sizes[0] == sizes[1] <= _MAX_TEXT else None


def _bounds(column: pa.Array) -> Bounds | None:
    data_type, nulls = column.type, column.null_count
    if nulls == len(column):
        nothing = pa.scalar(None, data_type)
        return Bounds(nothing, nothing, nulls)
    if pa.types.is_string(data_type):
        least, greatest = codec.text_extremes(column)
        texts = column[least], column[greatest]
        if any(len(text.as_buffer()) > _MAX_TEXT for text in texts):
            return None
        return Bounds(*texts, nulls)
    if pa.types.is_floating(data_type) or pa.types.is_integer(data_type):
        known = column.drop_null() if nulls else column
        values = _numbers(known)
        low, high = int(values.argmin()), int(values.argmax())
        # A NaN is not between any bounds, and yet differs from everything.
        if values[low] != values[low]:
            return None
        return Bounds(known[low], known[high], nulls)
    found = pc.min_max(column)
    return Bounds(found["min"], found["max"], nulls)


def _dtype_of(data_type: pa.DataType) -> np.dtype[Any]:
    kind = "f" if pa.types.is_floating(data_type) else str(data_type)[0]
    return np.dtype(f"{kind}{data_type.bit_width // 8}")


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    """A column without nulls; pyarrow would first import what it knows of pandas."""
    dtype = _dtype_of(column.type)
    offset = column.offset * dtype.itemsize
    return np.frombuffer(column.buffers()[1], dtype, len(column), offset)


def decode_statistics(entries: codec.Entries, fields: pa.Schema) -> Row | None:
    """The statistics of entries; None where they do not fit the fields."""
    try:
        return statistics_of(codec.decode_batch(entries, codec.plan_columns(fields)), fields)
    except GodbError:
        return None


def row_of(statistics: pa.RecordBatch, piece: int) -> Row:
    """The statistics of one piece."""
    found = {}
    for index in range(0, statistics.num_columns, 3):
        least, greatest, nulls = (column[piece] for column in statistics.columns[index : index + 3])
        if nulls.is_valid:
            name = statistics.schema.field(index).name.removesuffix(_LEAST)
            found[name] = Bounds(least, greatest, nulls.as_py())
    return found


def contradiction(row: Row, entries: codec.Entries) -> str | None:
    """A field of which statistics say what is not true of documents, with what they have there."""
    fields = pa.schema([(name, bounds.least.type) for name, bounds in row.items()])
    found = decode_statistics(entries, fields)
    for name, bounds in row.items():
        known = None if found is None else found.get(name)
        if known is None:
            return f"{name!r}"
        outside = known.nulls > bounds.nulls
        if known.least.is_valid:
            outside = outside or not (
                bounds.least.is_valid
                and pc.less_equal(bounds.least, known.least).as_py()
                and pc.less_equal(known.greatest, bounds.greatest).as_py()
            )
        if outside:
            return f"{name!r}: {known.least} to {known.greatest}, {known.nulls} nulls"
    return None


def per_piece(
    rows: Sequence[Row | None], pieces: Sequence[int], fields: pa.Schema
) -> pa.RecordBatch:
    """Join the statistics of chunks to those of the pieces that they are in.

    Parameters
    ----------
    rows : sequence of Row or None
        The statistics of each chunk; None where nothing is known.
    pieces : sequence of int
        The piece of each chunk, in order.
    fields : pyarrow.Schema
        What :func:`covered` gave.

    Returns
    -------
    pyarrow.RecordBatch
        A row for each piece.
    """
    edges = [index for index, piece in enumerate(pieces) if not index or piece != pieces[index - 1]]
    spans = list(itertools.pairwise([*edges, len(pieces)]))
    columns: dict[str, pa.Array] = {}
    for field in fields:
        name, data_type = field.name, field.type
        found = [None if row is None else row.get(name) for row in rows]
        found = [
            one if one is not None and one.least.type.equals(data_type) else None for one in found
        ]
        for suffix, join, column in (
            (_LEAST, pc.min, _column([one and one.least for one in found], data_type)),
            (_GREATEST, pc.max, _column([one and one.greatest for one in found], data_type)),
            (_NULLS, _sum_of_known, _counts([one and one.nulls for one in found])),
        ):
            if len(spans) < len(column):
                joined = [join(column.slice(first, last - first)) for first, last in spans]
                column = _column(joined, column.type)
            columns[name + suffix] = column
    return pa.RecordBatch.from_pydict(columns)


def _column(values: Sequence[pa.Scalar | None], data_type: pa.DataType) -> pa.Array:
    """Scalars as a column; `pa.array` would first import what pyarrow knows of pandas."""
    buffers: list[npt.NDArray[Any]]
    if pa.types.is_string(data_type):
        texts = [b"" if value is None else bytes(value.as_buffer() or b"") for value in values]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        buffers = [ends, np.frombuffer(b"".join(texts), np.uint8)]
    elif pa.types.is_integer(data_type) or pa.types.is_floating(data_type):
        numbers = [0 if value is None else value.as_py() or 0 for value in values]
        buffers = [np.array(numbers, _dtype_of(data_type))]
    else:
        nothing = pa.nulls(1, data_type)
        ones = (nothing if value is None else pa.repeat(value, 1) for value in values)
        return pa.concat_arrays([pa.nulls(0, data_type), *ones])
    return _array(data_type, [value is not None and value.is_valid for value in values], buffers)


def _counts(values: Sequence[int | None]) -> pa.Array:
    counts = np.array([value or 0 for value in values], np.int64)
    return _array(pa.int64(), [value is not None for value in values], [counts])


def _array(
    data_type: pa.DataType, valid: Sequence[bool], buffers: Sequence[npt.NDArray[Any]]
) -> pa.Array:
    bits = None if all(valid) else pa.py_buffer(np.packbits(valid, bitorder="little"))
    made = [pa.py_buffer(buffer) for buffer in buffers]
    return pa.Array.from_buffers(data_type, len(valid), [bits, *made])


def _sum_of_known(counts: pa.Array) -> pa.Scalar:
    """The sum; null where one of the counts is not known."""
    return pc.sum(counts, skip_nulls=False)


def pack_statistics(statistics: pa.RecordBatch) -> bytes:
    """Statistics as bytes: an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, statistics.schema) as writer:
        writer.write_batch(statistics)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def unpack_statistics(packed: bytes, count: int) -> pa.RecordBatch | None:
    """The statistics that were packed; None where they make no sense, or are of other pieces."""
    try:
        with pa.ipc.open_stream(pa.py_buffer(packed)) as reader:
            batch = reader.read_next_batch()
        batch.validate(full=True)
    except (pa.ArrowException, OSError, StopIteration, EOFError):
        return None
    return batch if batch.num_rows == count and _is_sound(batch.schema) else None


def _is_sound(schema: pa.Schema) -> bool:
    """Whether the columns are those that statistics have."""
    if len(schema) % 3 or len(set(schema.names)) < len(schema):
        return False
    for index in range(0, len(schema), 3):
        least, greatest, nulls = (schema.field(index + place) for place in range(3))
        name = least.name.removesuffix(_LEAST)
        if [least.name, greatest.name, nulls.name] != [
            name + _LEAST, name + _GREATEST, name + _NULLS
        ]:  # fmt: skip
            return False
        if least.type != greatest.type or nulls.type != pa.int64() or not _is_ordered(least.type):
            return False
    return True


def may_match(
    statistics: pa.RecordBatch,
    condition: pc.Expression,
    needed: Collection[str],
    schema: pa.Schema,
) -> list[bool]:
    """Which pieces may have documents that a filter keeps.

    Parameters
    ----------
    statistics : pyarrow.RecordBatch
        A row for each piece.
    condition : pyarrow.compute.Expression
        The filter.
    needed : collection of str
        The fields that it looks at.
    schema : pyarrow.Schema
        What these are decoded to.

    Returns
    -------
    list of bool

    Notes
    -----
    Arrow itself finds out what bounds say about an expression, as it does for the row groups of
    Parquet files: each piece is a file of a dataset here, which is never opened.

    Examples
    --------
    >>> fields = pa.schema({"n": pa.int64()})
    >>> batches = [pa.record_batch({"n": [1, 5]}), pa.record_batch({"n": [6, 9]})]
    >>> found = per_piece([statistics_of(batch, fields) for batch in batches], [0, 1], fields)
    >>> may_match(found, pc.field("n") > 7, ["n"], fields)
    [False, True]
    """
    import pyarrow.dataset as ds  # not before it is needed: it takes a while
    from pyarrow.fs import LocalFileSystem

    known: dict[str, tuple[pa.Array, pa.Array, pa.Array]] = {}
    for name in sorted(needed):
        index = statistics.schema.get_field_index(name + _LEAST)
        if index >= 0 and statistics.schema.field(index).type == schema.field(name).type:
            known[name] = statistics.columns[index : index + 3]
    # Pieces of values that come as they like mostly have the same bounds: one stands for all.
    alike: dict[Any, list[int]] = {}
    columns = [_comparable(column) for bounds in known.values() for column in bounds]
    for piece, found in enumerate(zip(*columns, strict=True)):
        alike.setdefault(found, []).append(piece)
    first_ones = [pieces[0] for pieces in alike.values()]
    guarantees = [_guaranteed(known, piece) for piece in first_ones]
    if not any(guarantees):
        return [True] * len(statistics)
    joined = [_all_of(found) for found in guarantees]
    dataset = ds.FileSystemDataset.from_paths(
        [str(piece) for piece in first_ones],
        schema=storage_schema(schema),
        format=ds.IpcFileFormat(),
        filesystem=LocalFileSystem(),
        partitions=joined,
    )
    try:
        left = {int(fragment.path) for fragment in dataset.get_fragments(filter=condition)}
    except pa.ArrowException:  # such as for numbers above 2^63 beside others; the filter decides
        return [True] * len(statistics)
    matching = [False] * len(statistics)
    for pieces in alike.values():
        for piece in pieces:
            matching[piece] = pieces[0] in left
    return matching


def _comparable(column: pa.Array) -> list[Any]:
    """Values that are equal where the column's are; of times Python does not know all."""
    if pa.types.is_temporal(column.type):
        column = column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())
    values: list[Any] = column.to_pylist()
    return values


def _guaranteed(
    known: Mapping[str, tuple[pa.Array, pa.Array, pa.Array]], piece: int
) -> list[pc.Expression]:
    """What is true of all documents of a piece."""
    terms: list[pc.Expression] = []
    for name, (least, greatest, nulls) in known.items():
        field = pc.field(name)
        if not nulls[piece].is_valid:
            continue
        if not least[piece].is_valid:
            terms.append(field.is_null())
            continue
        bounds = [field >= least[piece], field <= greatest[piece]]
        terms += [one | field.is_null() for one in bounds] if nulls[piece].as_py() else bounds
    return terms


def _all_of(terms: list[pc.Expression]) -> pc.Expression:
    joined = pc.scalar(True)
    for index, term in enumerate(terms):
        joined = term if index == 0 else joined & term
    return joined
