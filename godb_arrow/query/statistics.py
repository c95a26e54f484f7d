"""Minimum and maximum values of pieces, with which a filter skips pieces.

The statistics of some documents are the minimum and maximum of each field, without nulls, and
the number of values that are null or absent. Minimum and maximum are bounds, which stay valid
when documents are deleted. The statistics of all pieces are a record batch with three columns for
each field. A null in the column of counts means that nothing is known of the piece.
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
    "bounds_of",
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
_MAX_TEXT_BYTES = 64  # longer texts have no bounds
_MIN_SUFFIX, _MAX_SUFFIX, _NULLS_SUFFIX = "\0least", "\0greatest", "\0nulls"


def covered(schema: pa.Schema) -> pa.Schema:
    """Return the fields of a schema that have statistics.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of a collection.

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
    """Bounds of a field's values in some documents.

    Attributes
    ----------
    min, max : pyarrow.Scalar
        Smallest and largest value that is not null; null if there is none.
    nulls : int
        Number of values that are null or absent.
    """

    min: pa.Scalar
    max: pa.Scalar
    nulls: int


Row = Mapping[str, Bounds]
"""Statistics of some documents, with the bounds of each field for which they are known."""


def statistics_of(batch: pa.RecordBatch, fields: pa.Schema, ascending: str | None = None) -> Row:
    """Return the statistics of documents.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Columns of the documents.
    fields : pyarrow.Schema
        Result of :func:`covered`.
    ascending : str, optional
        Field whose texts ascend, by size and then by bytes.

    Returns
    -------
    dict of str to Bounds

    Examples
    --------
    >>> fields = pa.schema({"age": pa.int64()})
    >>> row = statistics_of(pa.record_batch({"age": [36, None, 41]}), fields)
    >>> row["age"].min.as_py(), row["age"].max.as_py(), row["age"].nulls
    (36, 41, 1)
    """
    row = {}
    for field in fields:
        index = batch.schema.get_field_index(field.name)
        if index >= 0 and batch.schema.field(index).type.equals(field.type):
            column = batch.column(index)
            bounds = _ends(column) if field.name == ascending else None
            if bounds is None:
                bounds = _bounds(column)
            if bounds is not None:
                row[field.name] = bounds
    return row


def _ends(column: pa.Array) -> Bounds | None:
    """Return the bounds of ascending texts if all have the same size, else None."""
    first, last = column[0], column[-1]
    if not pa.types.is_string(column.type) or not first.is_valid or not last.is_valid:
        return None
    sizes = len(first.as_buffer()), len(last.as_buffer())
    return Bounds(first, last, 0) if sizes[0] == sizes[1] <= _MAX_TEXT_BYTES else None


def _bounds(column: pa.Array) -> Bounds | None:
    data_type, nulls = column.type, column.null_count
    if nulls == len(column):
        nothing = pa.scalar(None, data_type)
        return Bounds(nothing, nothing, nulls)
    if pa.types.is_string(data_type):
        minimum, maximum = codec.text_extremes(column)
        texts = column[minimum], column[maximum]
        if any(len(text.as_buffer()) > _MAX_TEXT_BYTES for text in texts):
            return None
        return Bounds(*texts, nulls)
    if pa.types.is_floating(data_type) or pa.types.is_integer(data_type):
        known = column.drop_null() if nulls else column
        values = _numbers(known)
        low, high = int(values.argmin()), int(values.argmax())
        # A filter may match a NaN, but no bounds contain it.
        if values[low] != values[low]:
            return None
        return Bounds(known[low], known[high], nulls)
    extremes = pc.min_max(column)
    return Bounds(extremes["min"], extremes["max"], nulls)


def _dtype_of(data_type: pa.DataType) -> np.dtype[Any]:
    kind = "f" if pa.types.is_floating(data_type) else str(data_type)[0]
    return np.dtype(f"{kind}{data_type.bit_width // 8}")


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    """Return a column without nulls as an array, without pyarrow's import of pandas."""
    dtype = _dtype_of(column.type)
    offset = column.offset * dtype.itemsize
    return np.frombuffer(column.buffers()[1], dtype, len(column), offset)


def decode_statistics(entries: codec.Entries, fields: pa.Schema) -> Row | None:
    """Return the statistics of entries, or None if they do not fit the fields."""
    try:
        return statistics_of(codec.decode_batch(entries, codec.plan_columns(fields)), fields)
    except GodbError:
        return None


def bounds_of(statistics: pa.RecordBatch, name: str) -> tuple[pa.Array, pa.Array, pa.Array] | None:
    """Return the min, max and null count of a field in each piece; None without statistics."""
    index = statistics.schema.get_field_index(name + _MIN_SUFFIX)
    if index < 0:
        return None
    low, high, nulls = statistics.columns[index : index + 3]
    return low, high, nulls


def row_of(statistics: pa.RecordBatch, piece: int) -> Row:
    """Return the statistics of one piece."""
    row = {}
    for index in range(0, statistics.num_columns, 3):
        minimum, maximum, nulls = (
            column[piece] for column in statistics.columns[index : index + 3]
        )
        if nulls.is_valid:
            name = statistics.schema.field(index).name.removesuffix(_MIN_SUFFIX)
            row[name] = Bounds(minimum, maximum, nulls.as_py())
    return row


def contradiction(row: Row, entries: codec.Entries) -> str | None:
    """Return a field whose statistics are false of documents, with its values, or None."""
    fields = pa.schema([(name, bounds.min.type) for name, bounds in row.items()])
    actual = decode_statistics(entries, fields)
    for name, bounds in row.items():
        known = None if actual is None else actual.get(name)
        if known is None:
            return f"{name!r}"
        outside = known.nulls > bounds.nulls
        if known.min.is_valid:
            outside = outside or not (
                bounds.min.is_valid
                and pc.less_equal(bounds.min, known.min).as_py()
                and pc.less_equal(known.max, bounds.max).as_py()
            )
        if outside:
            return f"{name!r}: {known.min} to {known.max}, {known.nulls} nulls"
    return None


def per_piece(
    rows: Sequence[Row | None], pieces: Sequence[int], fields: pa.Schema
) -> pa.RecordBatch:
    """Join the statistics of chunks to statistics of the pieces that contain them.

    Parameters
    ----------
    rows : sequence of Row or None
        Statistics of each chunk; None where nothing is known.
    pieces : sequence of int
        Piece of each chunk, in order.
    fields : pyarrow.Schema
        Result of :func:`covered`.

    Returns
    -------
    pyarrow.RecordBatch
        Statistics with a row for each piece.
    """
    edges = [index for index, piece in enumerate(pieces) if not index or piece != pieces[index - 1]]
    spans = list(itertools.pairwise([*edges, len(pieces)]))
    columns: dict[str, pa.Array] = {}
    for field in fields:
        name, data_type = field.name, field.type
        known = [None if row is None else row.get(name) for row in rows]
        known = [
            bounds if bounds is not None and bounds.min.type.equals(data_type) else None
            for bounds in known
        ]
        for suffix, join, column in (
            (_MIN_SUFFIX, pc.min, _column([bounds and bounds.min for bounds in known], data_type)),
            (_MAX_SUFFIX, pc.max, _column([bounds and bounds.max for bounds in known], data_type)),
            (_NULLS_SUFFIX, _sum_of_known, _counts([bounds and bounds.nulls for bounds in known])),
        ):
            if len(spans) < len(column):
                joined = [join(column.slice(first, last - first)) for first, last in spans]
                column = _column(joined, column.type)
            columns[name + suffix] = column
    return pa.RecordBatch.from_pydict(columns)


def _column(values: Sequence[pa.Scalar | None], data_type: pa.DataType) -> pa.Array:
    """Convert scalars to a column, without `pa.array` and its import of pandas."""
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
    data = [pa.py_buffer(buffer) for buffer in buffers]
    return pa.Array.from_buffers(data_type, len(valid), [bits, *data])


def _sum_of_known(counts: pa.Array) -> pa.Scalar:
    """Return the sum, or null if one of the counts is null."""
    return pc.sum(counts, skip_nulls=False)


def pack_statistics(statistics: pa.RecordBatch) -> bytes:
    """Pack statistics as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, statistics.schema) as writer:
        writer.write_batch(statistics)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def unpack_statistics(packed: bytes, count: int) -> pa.RecordBatch | None:
    """Unpack statistics; return None if they are invalid or belong to other pieces."""
    try:
        with pa.ipc.open_stream(pa.py_buffer(packed)) as reader:
            batch = reader.read_next_batch()
        batch.validate(full=True)
    except (pa.ArrowException, OSError, StopIteration, EOFError):
        return None
    return batch if batch.num_rows == count and _is_sound(batch.schema) else None


def _is_sound(schema: pa.Schema) -> bool:
    """Return whether a schema has the columns of statistics."""
    if len(schema) % 3 or len(set(schema.names)) < len(schema):
        return False
    for index in range(0, len(schema), 3):
        minimum, maximum, nulls = (schema.field(index + place) for place in range(3))
        name = minimum.name.removesuffix(_MIN_SUFFIX)
        names = [name + suffix for suffix in (_MIN_SUFFIX, _MAX_SUFFIX, _NULLS_SUFFIX)]
        if [minimum.name, maximum.name, nulls.name] != names:
            return False
        if (
            minimum.type != maximum.type
            or nulls.type != pa.int64()
            or not _is_ordered(minimum.type)
        ):
            return False
    return True


def may_match(
    statistics: pa.RecordBatch,
    condition: pc.Expression,
    needed: Collection[str],
    schema: pa.Schema,
) -> list[bool]:
    """Return which pieces may have documents that match a filter.

    Parameters
    ----------
    statistics : pyarrow.RecordBatch
        Statistics with a row for each piece.
    condition : pyarrow.compute.Expression
        Filter of the documents.
    needed : collection of str
        Fields of the filter.
    schema : pyarrow.Schema
        Schema of the decoded fields.

    Returns
    -------
    list of bool

    Notes
    -----
    Arrow itself evaluates the bounds against an expression, as it does for the row groups of
    Parquet files. Each piece is the path of a dataset file here, which is never opened.

    Examples
    --------
    >>> fields = pa.schema({"n": pa.int64()})
    >>> batches = [pa.record_batch({"n": [1, 5]}), pa.record_batch({"n": [6, 9]})]
    >>> found = per_piece([statistics_of(batch, fields) for batch in batches], [0, 1], fields)
    >>> may_match(found, pc.field("n") > 7, ["n"], fields)
    [False, True]
    """
    import pyarrow.dataset as ds  # imported at first use, because importing it is slow
    from pyarrow.fs import LocalFileSystem

    known: dict[str, tuple[pa.Array, pa.Array, pa.Array]] = {}
    for name in sorted(needed):
        index = statistics.schema.get_field_index(name + _MIN_SUFFIX)
        if index >= 0 and statistics.schema.field(index).type == schema.field(name).type:
            known[name] = statistics.columns[index : index + 3]
    # Pieces of unordered values mostly have the same bounds, which are evaluated only once.
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
    except pa.ArrowException:  # for example for mixed numbers above 2^63; read all pieces
        return [True] * len(statistics)
    matching = [False] * len(statistics)
    for pieces in alike.values():
        for piece in pieces:
            matching[piece] = pieces[0] in left
    return matching


def _comparable(column: pa.Array) -> list[Any]:
    """Return values that are equal where the column's are, also for times beyond Python's."""
    if pa.types.is_temporal(column.type):
        column = column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())
    values: list[Any] = column.to_pylist()
    return values


def _guaranteed(
    known: Mapping[str, tuple[pa.Array, pa.Array, pa.Array]], piece: int
) -> list[pc.Expression]:
    """Return expressions that are true for all documents of a piece."""
    terms: list[pc.Expression] = []
    for name, (minimum, maximum, nulls) in known.items():
        field = pc.field(name)
        if not nulls[piece].is_valid:
            continue
        if not minimum[piece].is_valid:
            terms.append(field.is_null())
            continue
        bounds = [field >= minimum[piece], field <= maximum[piece]]
        terms += [bound | field.is_null() for bound in bounds] if nulls[piece].as_py() else bounds
    return terms


def _all_of(terms: list[pc.Expression]) -> pc.Expression:
    joined = pc.scalar(True)
    for index, term in enumerate(terms):
        joined = term if index == 0 else joined & term
    return joined
