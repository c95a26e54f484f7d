"""Plan of the columns to decode, and conversion of decoded columns to the types of a schema.

A codec decodes into few *core* types (null, bool, int64, uint64, float64, string, binary,
timestamp, list, struct, map, JSON text), which :class:`ColumnPlan` names. :func:`finish` turns
the core arrays into the types of the schema: int32 from int64, decimals from their text,
dictionaries, extension types and so on. Both codecs share it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.codec.exact import checked
from godb_arrow.errors import UnsupportedType
from godb_arrow.options import OnMismatch
from godb_arrow.recorded_schema import category_array, is_named
from godb_arrow.schema import NANOSECONDS_PER_SECOND, is_json, rounded_fields

__all__ = [
    "UNITS",
    "ColumnPlan",
    "Core",
    "DecodePlan",
    "finish",
    "plan_columns",
]


class Core(IntEnum):
    """Types that a codec decodes into."""

    NULL = 0
    BOOL = 1
    INT64 = 2
    UINT64 = 3
    FLOAT64 = 4
    STRING = 5
    BINARY = 6
    TIMESTAMP = 7
    LIST = 8
    STRUCT = 9
    MAP = 10
    JSON = 11


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """Plan for decoding one field.

    Attributes
    ----------
    name : str
        Name of the field in the document and in messages.
    core : Core
        Core type that the codec decodes into.
    core_type : pyarrow.DataType
        Arrow type of the core type.
    target : pyarrow.DataType
        Type of the field in the schema.
    unit : int
        Units in a second, for timestamps.
    children : tuple of ColumnPlan
        Fields of a struct, elements of a list or values of a map.
    convert : callable, optional
        Function that converts the finished children, or the result of `inner`, to the target.
    inner : ColumnPlan, optional
        Plan for the storage of an extension type, the values of a dictionary, and so on.
    exact : bool
        Whether a value that the type would round, cut or change is a mismatch.
    """

    name: str
    core: Core
    core_type: pa.DataType
    target: pa.DataType
    unit: int = 0
    children: tuple[ColumnPlan, ...] = ()
    convert: Callable[[pa.Array], pa.Array] | None = None
    inner: ColumnPlan | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """Plan for decoding documents.

    Attributes
    ----------
    schema : pyarrow.Schema
        Schema of the record batches.
    columns : tuple of ColumnPlan
        Plans of the columns, one for each field of the schema.
    strict : bool
        Whether a field that the schema does not name is an error. A schema that was recorded
        earlier then cannot hide data.
    on_mismatch : {"error", "null"}
        Treatment of a value that does not fit.
    is_guess : bool
        Whether the schema was inferred from other documents. A key that comes twice in a map, and
        an integer among exact floats, then do not fit: inference may choose another type for them.
    """

    schema: pa.Schema
    columns: tuple[ColumnPlan, ...]
    strict: bool = False
    on_mismatch: OnMismatch = "error"
    is_guess: bool = False


UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": NANOSECONDS_PER_SECOND}
"""Ticks of a second, by unit."""

_INT64 = ("signed_integer", "uint8", "uint16", "uint32")
_STRINGS = ("string", "large_string", "string_view")
_BINARIES = ("binary", "large_binary", "binary_view", "fixed_size_binary")
_LISTS = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")


def plan_columns(
    schema: pa.Schema,
    *,
    strict: bool = False,
    on_mismatch: OnMismatch = "error",
    exact: bool = False,
    is_guess: bool = False,
) -> DecodePlan:
    """Plan how to decode documents into record batches of a schema.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema that documents can have.
    strict : bool
        Whether to refuse fields that the schema does not name.
    on_mismatch : {"error", "null"}
        Treatment of a value that does not fit.
    exact : bool
        Whether a value that its type would round, cut or change does not fit. Fields that
        inference itself rounds are read as it does.
    is_guess : bool
        Whether the schema was inferred from other documents; see :class:`DecodePlan`.

    Returns
    -------
    DecodePlan

    Raises
    ------
    UnsupportedType
        Documents cannot hold one of the types; the message names the field.

    Examples
    --------
    >>> plan_columns(pa.schema({"a": pa.int32()})).columns[0].core.name
    'INT64'
    """
    columns = tuple(_plan_field(field, field.name) for field in schema)
    if exact:
        rounded = rounded_fields(schema)
        columns = tuple(plan if plan.name in rounded else _exact(plan) for plan in columns)
    return DecodePlan(schema, columns, strict, on_mismatch, is_guess)


def _plan_field(field: pa.Field, path: str) -> ColumnPlan:
    known = category_array(field) if pa.types.is_dictionary(field.type) else None
    return _plan(field.name, field.type, path, known)


def _exact(plan: ColumnPlan) -> ColumnPlan:
    """Return the plan of a column that is never rounded."""
    children = tuple(map(_exact, plan.children))
    if plan.inner is not None:
        return replace(plan, exact=True, children=children, inner=_exact(plan.inner))
    convert = plan.convert
    if convert is not None and not children:
        convert = checked(plan.target, convert)
    return replace(plan, exact=True, children=children, convert=convert)


def _plan(
    name: str, target: pa.DataType, path: str, categories: pa.Array | None = None
) -> ColumnPlan:
    types = pa.types
    if isinstance(target, pa.BaseExtensionType):
        if is_json(target):
            return ColumnPlan(name, Core.JSON, pa.string(), target, convert=_json(target))
        storage = _plan(name, target.storage_type, path)
        return _wrap(storage, target, lambda array: pa.ExtensionArray.from_storage(target, array))
    if types.is_dictionary(target):
        values = _plan(name, target.value_type, path)
        return _wrap(values, target, _to_dictionary(target, categories))
    if types.is_run_end_encoded(target):
        values = _plan(name, target.value_type, path)
        return _wrap(values, target, lambda array: pc.run_end_encode(array, target.run_end_type))
    scalar = _plan_scalar(name, target)
    if scalar is not None:
        return scalar
    if is_named(target, *_LISTS):
        item = _plan("item", target.value_type, f"{path}[]")
        core_type = pa.list_(item.core_type)
        return ColumnPlan(
            name, Core.LIST, core_type, target, children=(item,), convert=_to_list(target)
        )
    if types.is_struct(target):
        children = tuple(_plan_field(child, f"{path}.{child.name}") for child in target)
        core_type = pa.struct([pa.field(child.name, child.core_type) for child in children])
        return ColumnPlan(name, Core.STRUCT, core_type, target, children=children)
    if types.is_map(target) and is_named(target.key_type, *_STRINGS):
        item = _plan("value", target.item_type, f"{path}.*")
        core_type = pa.map_(pa.string(), item.core_type)
        return ColumnPlan(name, Core.MAP, core_type, target, children=(item,))
    detail = "maps with keys other than strings" if types.is_map(target) else f"the type {target}"
    raise UnsupportedType(
        f"column {path!r}: documents cannot hold {detail}",
        advice="cast the column to another type, such as a string or a list of structs",
    )


def _plan_scalar(name: str, target: pa.DataType) -> ColumnPlan | None:
    types = pa.types
    cast = _caster(target)
    if types.is_null(target):
        return ColumnPlan(name, Core.NULL, target, target)
    if types.is_boolean(target):
        return ColumnPlan(name, Core.BOOL, target, target)
    if types.is_uint64(target):
        return ColumnPlan(name, Core.UINT64, target, target)
    if is_named(target, *_INT64):
        return ColumnPlan(name, Core.INT64, pa.int64(), target, convert=cast)
    if types.is_floating(target):
        return ColumnPlan(name, Core.FLOAT64, pa.float64(), target, convert=cast)
    if is_named(target, *_STRINGS):
        return ColumnPlan(name, Core.STRING, pa.string(), target, convert=cast)
    if is_named(target, *_BINARIES):
        return ColumnPlan(name, Core.BINARY, pa.binary(), target, convert=cast)
    if types.is_timestamp(target):
        return ColumnPlan(name, Core.TIMESTAMP, target, target, unit=UNITS[target.unit])
    if types.is_date(target):
        unit = "s" if types.is_date32(target) else "ms"
        core_type = pa.timestamp(unit)
        return ColumnPlan(name, Core.TIMESTAMP, core_type, target, UNITS[unit], convert=cast)
    if types.is_time(target):
        return ColumnPlan(name, Core.INT64, pa.int64(), target, convert=_via("time64", target))
    if types.is_duration(target):
        return ColumnPlan(name, Core.INT64, pa.int64(), target, convert=_via("duration", target))
    if types.is_decimal(target):
        return ColumnPlan(name, Core.JSON, pa.string(), target, convert=_to_decimal(target))
    return None


def _wrap(
    inner: ColumnPlan, target: pa.DataType, convert: Callable[[pa.Array], pa.Array]
) -> ColumnPlan:
    """Return a plan that decodes like `inner` and then converts the result."""
    return replace(inner, target=target, convert=convert, inner=inner)


def _caster(target: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    def cast(array: pa.Array) -> pa.Array:
        return array if array.type == target else array.cast(target)

    return cast


def _via(kind: str, target: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    middle = pa.time64("ns") if kind == "time64" else pa.duration("ns")
    return lambda array: array.cast(middle).cast(target)


def _json(target: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    def wrap(array: pa.Array) -> pa.Array:
        return pa.ExtensionArray.from_storage(target, array.cast(target.storage_type))

    return wrap


def _to_decimal(target: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    # The codec returns JSON text, so that a document may hold a decimal as text or as a number.
    return lambda array: pc.utf8_trim(array, '"').cast(target)


def _to_dictionary(
    target: pa.DataType, categories: pa.Array | None
) -> Callable[[pa.Array], pa.Array]:
    """Return the function that encodes values: known categories first, then by first sight."""

    def encode(array: pa.Array) -> pa.Array:
        if categories is None:
            encoded = array.dictionary_encode()
            indices, dictionary = encoded.indices, encoded.dictionary
        else:
            dictionary = categories
            indices = pc.index_in(array, value_set=dictionary)
            if indices.null_count > array.null_count:
                others = pc.unique(array.filter(pc.is_null(indices))).drop_null()
                dictionary = pa.concat_arrays([categories, others])
                indices = pc.index_in(array, value_set=dictionary, skip_nulls=True)
        return pa.DictionaryArray.from_arrays(
            indices.cast(target.index_type), dictionary, ordered=target.ordered
        )

    return encode


def _to_list(target: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    """Return a converter from list<finished element> to another list type."""

    def convert(array: pa.Array) -> pa.Array:
        if pa.types.is_list_view(target) or pa.types.is_large_list_view(target):
            kind = pa.ListViewArray if pa.types.is_list_view(target) else pa.LargeListViewArray
            sizes = pc.fill_null(pc.list_value_length(array), 0)
            index = pa.int32() if kind is pa.ListViewArray else pa.int64()
            return kind.from_arrays(
                array.offsets[:-1].cast(index),
                sizes.cast(index),
                array.values,
                type=target,
                mask=array.is_null(),
            )
        return array if array.type == target else array.cast(target)

    return convert


def finish(array: pa.Array, plan: ColumnPlan, on_mismatch: OnMismatch = "error") -> pa.Array:
    """Convert a decoded column to the schema's type.

    Parameters
    ----------
    array : pyarrow.Array
        Column of type ``plan.core_type``, with offset 0.
    plan : ColumnPlan
        Plan of the column.
    on_mismatch : {"error", "null"}
        Treatment of a value that the target type cannot hold.

    Returns
    -------
    pyarrow.Array

    Raises
    ------
    pyarrow.ArrowInvalid
        A value does not fit, and `on_mismatch` is ``"error"``.

    Examples
    --------
    >>> plan = plan_columns(pa.schema({"a": pa.int8()})).columns[0]
    >>> finish(pa.array([1, None]), plan).type
    DataType(int8)
    """
    return _finish(array, plan, on_mismatch)


def _finish(array: pa.Array, plan: ColumnPlan, on_mismatch: OnMismatch) -> pa.Array:
    if plan.core_type == plan.target:
        return array
    if plan.inner is not None:
        array = _finish(array, plan.inner, on_mismatch)
    elif plan.children:
        array = _finish_children(array, plan, on_mismatch)
    if plan.convert is None:
        return array
    try:
        return plan.convert(array)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        if on_mismatch == "error":
            raise
        return _convert_each(array, plan)


def _convert_each(array: pa.Array, plan: ColumnPlan) -> pa.Array:
    """Convert value by value, replacing values that do not fit by null."""
    assert plan.convert is not None
    pieces = []
    for index in range(len(array)):
        one = pa.concat_arrays([array.slice(index, 1)])
        try:
            pieces.append(plan.convert(one))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            pieces.append(pa.nulls(1, plan.target))
    return pa.concat_arrays(pieces)


def _finish_children(array: pa.Array, plan: ColumnPlan, on_mismatch: OnMismatch) -> pa.Array:
    target = plan.target
    buffers = array.buffers()
    if plan.core is Core.STRUCT:
        # flatten() instead of field(), because values below a null struct may be of any kind.
        children = [
            _finish(values, child, on_mismatch)
            for values, child in zip(array.flatten(), plan.children, strict=True)
        ]
        return pa.Array.from_buffers(
            target, len(array), buffers[:1], array.null_count, children=children
        )
    (child,) = plan.children
    if plan.core is Core.LIST:
        values = _finish(array.values, child, on_mismatch)
        of_list = pa.list_(target.value_field)
        return pa.Array.from_buffers(
            of_list, len(array), buffers[:2], array.null_count, children=[values]
        )
    keys = array.keys
    items = _finish(array.items, child, on_mismatch)
    if keys.type != target.key_type:
        keys = keys.cast(target.key_type)
    entries = pa.StructArray.from_arrays(
        [keys, items], fields=[target.key_field, target.item_field]
    )
    return pa.Array.from_buffers(
        target, len(array), buffers[:2], array.null_count, children=[entries]
    )
