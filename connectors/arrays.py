"""Arrays in the type of a format, and back in their own type."""

from __future__ import annotations

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.codec.jsontext import to_json_text
from godb_arrow.codec.values import wire_values
from godb_arrow.documents.normalize import convert_children
from godb_arrow.query.comparable import plain_array, plain_type
from godb_arrow.schema import is_json, is_text

__all__ = ["GrowingDictionaries", "as_json_texts", "convert_array", "is_bytes"]


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether the values of a type are bytes."""
    types = pa.types
    is_binary = types.is_binary(kind) or types.is_large_binary(kind)
    return bool(is_binary or types.is_fixed_size_binary(kind))


def as_json_texts(array: pa.Array) -> pa.Array:
    """Return each value as JSON text."""
    texts = [None if value is None else to_json_text(value) for value in wire_values(array, "")]
    return pa.array(texts, pa.string())


def convert_array(array: pa.Array, target: pa.DataType) -> pa.Array:
    """Convert an array to the type of a format, or from there to its own type.

    Parameters
    ----------
    array : pyarrow.Array
        Values of a column.
    target : pyarrow.DataType
        Type of the result.

    Returns
    -------
    pyarrow.Array

    Raises
    ------
    pyarrow.ArrowException
        A value has no form in the type.
    """
    types = pa.types
    if is_json(array.type):
        return array if is_json(target) else array.storage.cast(target)
    if plain_type(target) is not target and array.type.equals(target):
        return array
    if types.is_dictionary(target):
        return _encoded(array, target)
    array = plain_array(array)
    kind = array.type
    if is_json(target):
        return pa.ExtensionArray.from_storage(target, array.cast(target.storage_type))
    if isinstance(target, pa.BaseExtensionType):
        storage = convert_array(array, target.storage_type)
        return pa.ExtensionArray.from_storage(target, storage)
    if types.is_nested(kind) and types.is_nested(target):
        return _nested(array, target)
    if kind.equals(target):
        return array
    if is_text(target) and (types.is_nested(kind) or is_bytes(kind)):
        return as_json_texts(array)
    if is_text(kind) and types.is_struct(target):  # which was empty
        return pa.array(
            [{} if is_valid else None for is_valid in array.is_valid().to_pylist()], target
        )
    if is_text(target) and types.is_decimal(kind):
        return pa.array(wire_values(array, ""), target)
    for is_clock, middle in (
        (types.is_time, pa.time64("ns")),
        (types.is_duration, pa.duration("ns")),
    ):
        if is_clock(kind) and types.is_integer(target):
            return array.cast(middle).cast(target)
        if is_clock(target) and types.is_integer(kind):
            return array.cast(middle).cast(target)
    if types.is_timestamp(target):  # Clocks of microseconds have no nanoseconds.
        return array.cast(options=pc.CastOptions(target, allow_time_truncate=True))
    return array.cast(target)


def _encoded(array: pa.Array, target: pa.DataType) -> pa.Array:
    """Return a dictionary of the values, in the order of a former dictionary."""
    if not pa.types.is_dictionary(array.type):
        array = convert_array(array, target.value_type).dictionary_encode()
    values = convert_array(array.dictionary, target.value_type)
    indices = array.indices.cast(target.index_type)
    return pa.DictionaryArray.from_arrays(indices, values, ordered=target.ordered)


class GrowingDictionaries:
    """Dictionaries that only grow from one record batch to the next, as files of Arrow need them.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of the record batches.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._columns = [
            index for index, kind in enumerate(schema.types) if pa.types.is_dictionary(kind)
        ]
        self._known: dict[int, pa.Array] = {}

    def encode(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a record batch with the dictionaries so far, and its new values after them."""
        for index in self._columns:
            column = batch.column(index)
            known = self._known.get(index, column.dictionary)
            new = column.dictionary
            if not new.equals(known):
                added = new.filter(pc.invert(pc.is_in(new, value_set=known)))
                known = pa.concat_arrays([known, added])
                places = pc.index_in(new, value_set=known)
                indices = places.take(column.indices).cast(column.type.index_type)
                column = pa.DictionaryArray.from_arrays(indices, known, ordered=column.type.ordered)
                batch = batch.set_column(index, batch.schema.field(index), column)
            self._known[index] = known
        return batch


def _nested(array: pa.Array, target: pa.DataType) -> pa.Array:
    types = pa.types
    if array.type.id != target.id:  # lists of another kind
        item = array.type.value_field
        if types.is_fixed_size_list(target):
            array = array.cast(pa.list_(item, target.list_size))
        else:
            array = array.cast((pa.large_list if types.is_large_list(target) else pa.list_)(item))
    return convert_children(array, target, convert_array)
