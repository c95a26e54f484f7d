"""Record batches of callers in the types that documents are read as.

Arrow has no kernels for some layouts: views, runs, and dictionaries of nested values. Readers
filter, sort and join columns, so such layouts are converted here, before their schema is recorded.

==========================================  ================================================
type of a column, at any depth              stored and read as
==========================================  ================================================
string_view, binary_view                    string, binary
list_view, large_list_view                  list, large_list
run-end encoded                             its values
decimal32, decimal64                        decimal128
dictionary of nested values                 its values
dictionary with a null among its values     dictionary without it
extension type on one of these              the converted storage
==========================================  ================================================
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.codec.wire import list_offsets
from godb_arrow.errors import UnsupportedType
from godb_arrow.recorded_schema import is_named
from godb_arrow.schema import is_json

__all__ = [
    "convert_children",
    "convert_columns",
    "normalize_batch",
    "normalize_schema",
    "normalize_table",
]

_CONVERTED = (
    "string_view", "binary_view", "list_view", "large_list_view", "run_end_encoded",
    "decimal32", "decimal64",
)  # fmt: skip
"""Types that are converted, whatever they contain, as Arrow's tests name them."""


def normalize_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema with the types that its columns are stored and read as.

    Parameters
    ----------
    schema : pyarrow.Schema
        Any schema.

    Returns
    -------
    pyarrow.Schema

    Examples
    --------
    >>> normalize_schema(pa.schema({"a": pa.list_(pa.string_view())})).field("a").type
    ListType(list<item: string>)
    """
    return pa.schema([_field(field) for field in schema], metadata=schema.metadata)


def normalize_table(table: pa.Table) -> pa.Table:
    """Return a table with columns of the types that they are stored and read as."""
    if all(map(_is_normal, table.schema.types)) and not _has_null_categories(table):
        return table
    schema = normalize_schema(table.schema)
    batches = [normalize_batch(batch, schema) for batch in table.to_batches()]
    return pa.Table.from_batches(batches, schema)


def normalize_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a record batch with the columns of a normalized schema.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        The rows.
    schema : pyarrow.Schema
        What :func:`normalize_schema` made of the schema of the batch.

    Returns
    -------
    pyarrow.RecordBatch

    Raises
    ------
    UnsupportedType
        A column cannot be converted; the message names it.
    """
    return convert_columns(batch, schema, _array, advice="cast the column to another type")


def convert_columns(
    batch: pa.RecordBatch,
    schema: pa.Schema,
    convert: Callable[[pa.Array, pa.DataType], pa.Array],
    *,
    advice: str,
) -> pa.RecordBatch:
    """Convert each column of a record batch to the type of a schema.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        The rows.
    schema : pyarrow.Schema
        Schema of the result, with a field for each column.
    convert : callable
        Function that converts a column to a type.
    advice : str
        What a caller can do about a column that cannot be converted.

    Returns
    -------
    pyarrow.RecordBatch

    Raises
    ------
    UnsupportedType
        A column cannot be converted; the message names it.
    """
    if not len(schema):  # a batch that is made of no columns has no rows
        return batch
    columns = []
    for field, column in zip(schema, batch.columns, strict=True):
        try:
            columns.append(convert(column, field.type))
        except pa.ArrowException as error:
            raise UnsupportedType(
                f"column {field.name!r} of type {column.type} cannot become {field.type}: {error}",
                advice=advice,
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _has_null_categories(table: pa.Table) -> bool:
    return any(
        chunk.dictionary.null_count
        for column in table.columns
        if pa.types.is_dictionary(column.type)
        for chunk in column.chunks
    )


def _is_normal(kind: pa.DataType) -> bool:
    """Return whether columns of a type are stored unchanged.

    Comparing a type with the normalized one is no test: extension types of different storage
    may be equal.
    """
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _is_normal(kind.storage_type)
    if types.is_dictionary(kind):
        return _is_plain(kind.value_type) and _is_normal(kind.value_type)
    if types.is_map(kind):
        keys = kind.key_type
        return not types.is_dictionary(keys) and _is_normal(keys) and _is_normal(kind.item_type)
    if types.is_struct(kind):
        return all(_is_normal(child.type) for child in kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_normal(kind.value_type)
    return not is_named(kind, *_CONVERTED)


def _field(field: pa.Field) -> pa.Field:
    return field.with_type(_type(field.type))


def _type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if _is_normal(kind):
        return kind
    if isinstance(kind, pa.BaseExtensionType):
        storage = _type(kind.storage_type)
        return pa.json_(storage) if is_json(kind) else storage
    if types.is_dictionary(kind):
        values = _type(kind.value_type)
        if _is_plain(values):
            return pa.dictionary(kind.index_type, values, kind.ordered)
        return values
    if types.is_run_end_encoded(kind):
        return _type(kind.value_type)
    if types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if types.is_decimal32(kind) or types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    return _nested_type(kind) if types.is_nested(kind) else kind


def _nested_type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_struct(kind):
        return pa.struct([_field(child) for child in kind])
    if types.is_map(kind):
        keys = _type(kind.key_type)
        keys = keys.value_type if types.is_dictionary(keys) else keys
        return pa.map_(kind.key_field.with_type(keys), _field(kind.item_field), kind.keys_sorted)
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(_field(kind.value_field))
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(_field(kind.value_field))
    if types.is_fixed_size_list(kind):
        return pa.list_(_field(kind.value_field), kind.list_size)
    return kind


def _is_plain(kind: pa.DataType) -> bool:
    """Return whether Arrow encodes values of a type as a dictionary."""
    types = pa.types
    return not (
        types.is_nested(kind)
        or types.is_dictionary(kind)
        or types.is_null(kind)
        or types.is_float16(kind)
        or isinstance(kind, pa.BaseExtensionType)
    )


def _array(array: pa.Array, target: pa.DataType) -> pa.Array:
    types = pa.types
    kind = array.type
    if types.is_dictionary(kind):
        return _dictionary(array, target)
    if _is_normal(kind):
        return array
    if isinstance(kind, pa.BaseExtensionType):
        if isinstance(target, pa.BaseExtensionType):
            storage = _array(array.storage, target.storage_type)
            return pa.ExtensionArray.from_storage(target, storage)
        return _array(array.storage, target)
    if types.is_run_end_encoded(kind):
        return _runs(array, target)
    if types.is_struct(kind) or types.is_map(kind):
        return convert_children(array, target, _array)
    return _list(array, target) if types.is_nested(kind) else array.cast(target)


def _dictionary(array: pa.DictionaryArray, target: pa.DataType) -> pa.Array:
    if not pa.types.is_dictionary(target):
        return _array(array.dictionary, target).take(array.indices)
    values = _array(array.dictionary, target.value_type)
    if not values.null_count:
        if values.type.equals(array.dictionary.type):
            return array
        return pa.DictionaryArray.from_arrays(array.indices, values, ordered=target.ordered)
    encoded = values.take(array.indices).dictionary_encode()
    indices = encoded.indices.cast(target.index_type)
    return pa.DictionaryArray.from_arrays(indices, encoded.dictionary, ordered=target.ordered)


def _runs(array: pa.RunEndEncodedArray, target: pa.DataType) -> pa.Array:
    # Runs of nested values have no kernel: their values are repeated by row number.
    runs = pa.RunEndEncodedArray.from_arrays(
        array.run_ends, pa.array(range(len(array.values)), pa.int32())
    )
    rows = pc.run_end_decode(runs).slice(array.offset, len(array))
    return _array(array.values, target).take(rows)


def _list(array: pa.Array, target: pa.DataType) -> pa.Array:
    types = pa.types
    if not (types.is_list_view(array.type) or types.is_large_list_view(array.type)):
        return convert_children(array, target, _array)
    is_large = types.is_large_list(target)
    view = (pa.large_list_view if is_large else pa.list_view)(target.value_field)
    views = convert_children(array, view, _array)
    offsets = list_offsets(views, pa.int64() if is_large else pa.int32())
    kind = pa.LargeListArray if is_large else pa.ListArray
    return kind.from_arrays(offsets, views.flatten(), target)


def convert_children(
    array: pa.Array, target: pa.DataType, convert: Callable[[pa.Array, pa.DataType], pa.Array]
) -> pa.Array:
    """Convert what a nested array contains, and keep its layout.

    Parameters
    ----------
    array : pyarrow.Array
        Structs, maps or lists.
    target : pyarrow.DataType
        Nested type of the same kind.
    convert : callable
        Function that converts an array to a type.

    Returns
    -------
    pyarrow.Array

    Examples
    --------
    >>> lists = pa.array([[1], None])
    >>> convert_children(lists, pa.list_(pa.float64()), pa.Array.cast).to_pylist()
    [[1.0], None]
    """
    types = pa.types
    if types.is_struct(target):
        # flatten, not field: below a null struct there may be any values.
        children = [
            convert(child, field.type) for child, field in zip(array.flatten(), target, strict=True)
        ]
        mask = array.is_null() if array.null_count else None
        if not children:
            return array
        return pa.StructArray.from_arrays(children, fields=list(target), mask=mask)
    if types.is_map(target):
        keys, items = convert(array.keys, target.key_type), convert(array.items, target.item_type)
        fields = [target.key_field, target.item_field]
        child = pa.StructArray.from_arrays([keys, items], fields=fields)
    else:
        # The elements are converted first: Arrow loses texts where it joins views of extensions.
        child = convert(array.values, target.value_type)
    buffers = array.buffers()[: _buffers(target)]
    return pa.Array.from_buffers(
        target, len(array), buffers, array.null_count, array.offset, children=[child]
    )


def _buffers(kind: pa.DataType) -> int:
    """Return the number of buffers of a list or map, not of its elements."""
    if pa.types.is_fixed_size_list(kind):
        return 1
    return 3 if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind) else 2
