"""Arrow schemas as plain values, as files, manifests and journals record them.

A schema is a map with ``fields`` and, if there is any, ``metadata``. A field is a map with
``name`` and ``type``, and perhaps ``nullable``, ``metadata`` and ``categories``. A type without
parameters is its name. Every other type is a map with its name under ``type``, and its parameters.

>>> describe_schema(pa.schema({"at": pa.timestamp("us", "UTC"), "n": pa.int64()}))["fields"]
[{'name': 'at', 'type': {'type': 'timestamp', 'unit': 'us', 'zone': 'UTC'}}, \
{'name': 'n', 'type': 'int64'}]
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from godb_arrow.colliding_names import names_collide

__all__ = [
    "CATEGORIES_KEY",
    "FORMER_CATEGORIES_KEY",
    "FORMER_KEY",
    "MAX_CATEGORIES",
    "MAX_CATEGORIES_BYTES",
    "MAX_METADATA_BYTES",
    "MAX_RECORDED_LEVELS",
    "categories_in",
    "category_array",
    "describe_schema",
    "is_named",
    "restore_schema",
    "with_categories",
    "with_notes",
]

MAX_CATEGORIES = 4096
"""Max categories of a field that are recorded; of more, the order of first sight counts."""

MAX_CATEGORIES_BYTES = 64 << 10
"""Max bytes of a field's categories as JSON text."""

MAX_METADATA_BYTES = 64 << 10
"""Max bytes of a value in a field's metadata that is recorded."""

MAX_SCHEMA_METADATA_BYTES = 16 << 20
"""Max bytes of a recorded value in a schema's metadata, such as pandas metadata."""

MAX_RECORDED_LEVELS = 100
"""Max levels of nesting in a recorded type."""

MAX_FIXED_SIZE = 1 << 16
"""Max elements, or bytes, that a recorded type of fixed size has in a row."""

CATEGORIES_KEY = b"godb_arrow.categories"
"""Field metadata with the categories of a dictionary column, in order, as a JSON list."""

FORMER_CATEGORIES_KEY = b"godb_arrow.dictionary"
"""Field metadata of version 0.1.0 with the categories of a column, as an Arrow IPC stream."""

FORMER_KEY = b"godb_arrow:former"
"""Metadata key of a schema of version 0.1.0, which does not say what inference rounded."""

_ZONE = re.compile(r"[A-Za-z0-9_+\-:/]{1,64}")
_EXTENSION_NAME, _EXTENSION_METADATA = b"ARROW:extension:name", b"ARROW:extension:metadata"

_PLAIN_TYPES = (
    "null", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "string", "large_string", "string_view", "binary",
    "large_binary", "binary_view", "date32", "date64",
)  # fmt: skip
"""Types without parameters, as Arrow's functions name them."""

_DECIMALS = ("decimal32", "decimal64", "decimal128", "decimal256")
_LISTS = ("list", "large_list", "list_view", "large_list_view")

Description = dict[str, Any]


def _made(name: str) -> Callable[..., pa.DataType]:
    """Return Arrow's function that creates types of a name."""
    make: Callable[..., pa.DataType] = getattr(pa, f"{name}_" if name in ("bool", "list") else name)
    return make


def is_named(data_type: pa.DataType, *names: str) -> bool:
    """Return whether a type is one of those that Arrow's tests have these names for.

    Examples
    --------
    >>> is_named(pa.int8(), "string", "signed_integer")
    True
    """
    return any(getattr(pa.types, f"is_{name}")(data_type) for name in names)


@functools.cache
def _plain_types() -> dict[str, pa.DataType]:
    return {name: _made(name)() for name in _PLAIN_TYPES}


@functools.cache
def _plain_names() -> dict[pa.DataType, str]:
    return {data_type: name for name, data_type in _plain_types().items()}


# --- from a schema to its description ---------------------------------------------------------


def describe_schema(schema: pa.Schema) -> Description:
    """Describe a schema in plain values.

    Parameters
    ----------
    schema : pyarrow.Schema
        Any schema that documents can have.

    Returns
    -------
    dict
        Values that MessagePack and JSON have. Metadata that is large or no UTF-8 is not recorded.

    Raises
    ------
    ValueError
        A type nests deeper than `MAX_RECORDED_LEVELS`, or has no description.
    """
    found: Description = {"fields": [_describe_field(field, 0) for field in schema]}
    metadata = _plain_metadata(schema.metadata, MAX_SCHEMA_METADATA_BYTES)
    return {**found, "metadata": metadata} if metadata else found


def _describe_field(field: pa.Field, level: int) -> Description:
    found: Description = {"name": field.name, "type": _describe_type(field.type, level)}
    if not field.nullable:
        found["nullable"] = False
    if field.metadata is not None:
        categories = categories_in(field)
        if categories is not None:
            found["categories"] = categories
        metadata = _plain_metadata(field.metadata, MAX_METADATA_BYTES)
        if metadata:
            found["metadata"] = metadata
    return found


def _plain_metadata(metadata: Mapping[bytes, bytes] | None, limit: int) -> dict[str, str]:
    found = {}
    for key, value in (metadata or {}).items():
        if key not in (CATEGORIES_KEY, FORMER_CATEGORIES_KEY) and len(value) <= limit:
            try:
                found[key.decode()] = value.decode()
            except UnicodeDecodeError:
                continue
    return found


def _describe_type(data_type: pa.DataType, level: int) -> str | Description:
    name = _plain_names().get(data_type)
    if name is not None:
        return name
    if level > MAX_RECORDED_LEVELS:
        raise ValueError(f"it nests deeper than {MAX_RECORDED_LEVELS} levels")
    return _describe_nested(data_type, level + 1) or _describe_scalar(data_type, level + 1)


def _describe_scalar(data_type: pa.DataType, level: int) -> Description:
    types = pa.types
    if types.is_timestamp(data_type):
        found: Description = {"type": "timestamp", "unit": data_type.unit}
        return found if data_type.tz is None else {**found, "zone": data_type.tz}
    if types.is_time(data_type):
        return {"type": f"time{data_type.bit_width}", "unit": data_type.unit}
    if types.is_duration(data_type):
        return {"type": "duration", "unit": data_type.unit}
    for name in _DECIMALS:
        if is_named(data_type, name):
            precision, scale = data_type.precision, data_type.scale
            return {"type": name, "precision": precision, "scale": scale}
    if types.is_fixed_size_binary(data_type):
        if data_type.byte_width > MAX_FIXED_SIZE:
            return {"type": "binary"}
        return {"type": "fixed_size_binary", "size": data_type.byte_width}
    if types.is_dictionary(data_type):
        return {
            "type": "dictionary",
            "index": _describe_type(data_type.index_type, level),
            "values": _describe_type(data_type.value_type, level),
            "ordered": data_type.ordered,
        }
    if types.is_run_end_encoded(data_type):
        return {
            "type": "run_end_encoded",
            "ends": _describe_type(data_type.run_end_type, level),
            "values": _describe_type(data_type.value_type, level),
        }
    raise ValueError(f"the type {data_type} has no description")


def _describe_nested(data_type: pa.DataType, level: int) -> Description | None:
    types = pa.types
    if isinstance(data_type, pa.BaseExtensionType):
        return _describe_extension(data_type, level)
    if types.is_struct(data_type):
        return {"type": "struct", "fields": [_describe_field(one, level) for one in data_type]}
    if types.is_map(data_type):
        found: Description = {"type": "map"}
        found["key"] = _describe_field(data_type.key_field, level)
        found["value"] = _describe_field(data_type.item_field, level)
        return {**found, "sorted": True} if data_type.keys_sorted else found
    if types.is_fixed_size_list(data_type):
        item = _describe_field(data_type.value_field, level)
        if data_type.list_size > MAX_FIXED_SIZE:
            return {"type": "list", "item": item}
        return {"type": "fixed_size_list", "size": data_type.list_size, "item": item}
    for name in _LISTS:
        if is_named(data_type, name):
            return {"type": name, "item": _describe_field(data_type.value_field, level)}
    return None


def _describe_extension(data_type: pa.BaseExtensionType, level: int) -> Description:
    found: Description = {"type": "extension", "name": data_type.extension_name}
    found["storage"] = _describe_type(data_type.storage_type, level)
    if isinstance(data_type, pa.FixedShapeTensorType):
        found["storage"] = _describe_type(data_type.value_type, level)
        found["shape"] = list(data_type.shape)
        if data_type.dim_names is not None:
            found["names"] = list(data_type.dim_names)
        if data_type.permutation is not None:
            found["permutation"] = list(data_type.permutation)
    elif isinstance(data_type, pa.OpaqueType):
        found["type_name"], found["vendor_name"] = data_type.type_name, data_type.vendor_name
    elif hasattr(data_type, "__arrow_ext_serialize__"):
        serialized = data_type.__arrow_ext_serialize__()
        try:
            found["parameters"] = serialized.decode()
        except UnicodeDecodeError:
            found["parameters"] = serialized
    return found


# --- from a description to the schema ---------------------------------------------------------


def restore_schema(description: Any) -> pa.Schema:
    """Return the schema that a description stands for.

    Parameters
    ----------
    description : object
        What :func:`describe_schema` returned, or anything else.

    Returns
    -------
    pyarrow.Schema

    Raises
    ------
    ValueError, TypeError, KeyError, AttributeError, pyarrow.ArrowException
        The description makes no sense.
    """
    fields = _restore_fields(description["fields"], 0, 1)
    return pa.schema(fields, metadata=_restored_metadata(description.get("metadata")))


def _restore_fields(descriptions: Any, level: int, width: int) -> list[pa.Field]:
    if not isinstance(descriptions, list):
        raise TypeError("the fields are no list")
    fields = [_restore_field(one, level, width) for one in descriptions]
    if len({field.name for field in fields}) < len(fields):
        raise ValueError("two fields have the same name")
    if names_collide([field.name for field in fields]):
        raise ValueError("the names of the fields collide")
    return fields


def _restore_field(description: Any, level: int, width: int) -> pa.Field:
    name, nullable = _text(description["name"]), description.get("nullable", True)
    data_type = _restore_type(description["type"], level, width)
    metadata = _restored_metadata(description.get("metadata"))
    field = pa.field(name, data_type, nullable is not False, metadata)
    categories = description.get("categories")
    return field if categories is None else with_categories(field, categories)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in place of a string")
    value.encode()  # raises for surrogates, which Arrow cannot have
    return value


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"the number {value!r}")
    return value


def _restored_metadata(metadata: Any) -> dict[str, str] | None:
    if metadata is None:
        return None
    return {_text(key): _text(value) for key, value in metadata.items()}


def _restore_type(description: Any, level: int, width: int) -> pa.DataType:
    if isinstance(description, str):
        return _plain_types()[description]
    if level > MAX_RECORDED_LEVELS:
        raise ValueError(f"it nests deeper than {MAX_RECORDED_LEVELS} levels")
    name = description["type"]
    restore = _RESTORED.get(name)
    return _plain_types()[name] if restore is None else restore(description, level + 1, width)


def _timestamp(description: Description, level: int, width: int) -> pa.DataType:
    zone = description.get("zone")
    if zone is not None and not _ZONE.fullmatch(_text(zone)):
        raise ValueError(f"the time zone {zone!r}")
    return pa.timestamp(_text(description["unit"]), zone)


def _duration(description: Description, level: int, width: int) -> pa.DataType:
    return pa.duration(_text(description["unit"]))


def _time32(description: Description, level: int, width: int) -> pa.DataType:
    return pa.time32(_text(description["unit"]))


def _time64(description: Description, level: int, width: int) -> pa.DataType:
    return pa.time64(_text(description["unit"]))


def _decimal(description: Description, level: int, width: int) -> pa.DataType:
    make = getattr(pa, description["type"])
    scale = description["scale"]
    if type(scale) is not int or abs(scale) > 76:  # digits of a decimal256
        raise ValueError(f"the scale {scale!r}")
    data_type: pa.DataType = make(_number(description["precision"], 76), scale)
    return data_type


def _fixed_size_binary(description: Description, level: int, width: int) -> pa.DataType:
    return pa.binary(_number(description["size"], MAX_FIXED_SIZE // width))


def _fixed_size_list(description: Description, level: int, width: int) -> pa.DataType:
    size = _number(description["size"], MAX_FIXED_SIZE // width)
    item = _restore_field(description["item"], level, width * max(size, 1))
    return pa.list_(item, size)


def _list(description: Description, level: int, width: int) -> pa.DataType:
    return _made(description["type"])(_restore_field(description["item"], level, width))


def _struct(description: Description, level: int, width: int) -> pa.DataType:
    return pa.struct(_restore_fields(description["fields"], level, width))


def _map(description: Description, level: int, width: int) -> pa.DataType:
    key = _restore_field(description["key"], level, width)
    value = _restore_field(description["value"], level, width)
    if key.nullable:
        raise ValueError("the keys of a map may be null")
    return pa.map_(key, value, keys_sorted=description.get("sorted", False) is True)


def _dictionary(description: Description, level: int, width: int) -> pa.DataType:
    index = _restore_type(description["index"], level, width)
    values = _restore_type(description["values"], level, width)
    if not pa.types.is_integer(index):
        raise ValueError(f"the type of indices is {index}")
    return pa.dictionary(index, values, ordered=description["ordered"] is True)


def _run_end_encoded(description: Description, level: int, width: int) -> pa.DataType:
    ends = _restore_type(description["ends"], level, width)
    return pa.run_end_encoded(ends, _restore_type(description["values"], level, width))


def _extension(description: Description, level: int, width: int) -> pa.DataType:
    name = _text(description["name"])
    storage = _restore_type(description["storage"], level, width)
    if name == "arrow.json":
        return pa.json_(storage)
    if name == "arrow.uuid":
        return pa.uuid()
    if name == "arrow.bool8":
        return pa.bool8()
    if name == "arrow.opaque":
        return pa.opaque(storage, _text(description["type_name"]), description["vendor_name"])
    if name == "arrow.fixed_shape_tensor":
        return _tensor(description, storage, width)
    return _registered(name, storage, description.get("parameters", ""))


def _tensor(description: Description, storage: pa.DataType, width: int) -> pa.DataType:
    room = MAX_FIXED_SIZE // width
    for size in description["shape"]:
        room //= max(_number(size, room), 1)
    return pa.fixed_shape_tensor(
        storage, description["shape"], description.get("names"), description.get("permutation")
    )


def _registered(name: str, storage: pa.DataType, parameters: str | bytes) -> pa.DataType:
    """Return the extension type that a program registered with Arrow; else its storage."""
    if isinstance(parameters, str):
        parameters = parameters.encode()
    metadata = {_EXTENSION_NAME: name.encode(), _EXTENSION_METADATA: parameters}
    # Arrow looks extension types up when it reads a schema.
    schema = pa.schema([pa.field("", storage, metadata=metadata)])
    return pa.ipc.read_schema(schema.serialize()).field(0).type


_RESTORED: dict[str, Callable[[Description, int, int], pa.DataType]] = {
    "timestamp": _timestamp,
    "duration": _duration,
    "time32": _time32,
    "time64": _time64,
    **dict.fromkeys(_DECIMALS, _decimal),
    "fixed_size_binary": _fixed_size_binary,
    "fixed_size_list": _fixed_size_list,
    **dict.fromkeys(_LISTS, _list),
    "struct": _struct,
    "map": _map,
    "dictionary": _dictionary,
    "run_end_encoded": _run_end_encoded,
    "extension": _extension,
}


# --- categories -------------------------------------------------------------------------------


def with_categories(field: pa.Field, categories: Any) -> pa.Field:
    """Return a dictionary field with the categories of its values, in order.

    Parameters
    ----------
    field : pyarrow.Field
        The field.
    categories : list or pyarrow.Array
        Plain values, or an array of the field's value type.

    Returns
    -------
    pyarrow.Field
        Unchanged if the categories are too many, or cannot be plain values.
    """
    if not pa.types.is_dictionary(field.type):
        return field
    if isinstance(categories, pa.Array):
        categories = _plain_values(categories)
    if categories is None or not 0 < len(categories) <= MAX_CATEGORIES:
        return field
    if any(type(value) not in (str, int, float, bool) for value in categories):
        return field
    try:
        text = json.dumps(categories, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        packed = text.encode()
    except ValueError:  # an infinity, or a string that is no UTF-8
        return field
    if len(packed) > MAX_CATEGORIES_BYTES:
        return field
    return field.with_metadata({**(field.metadata or {}), CATEGORIES_KEY: packed})


def with_notes(shown: pa.Schema, recorded: pa.Schema) -> pa.Schema:
    """Return a shown schema with the notes that only godb_arrow reads, for exact copies.

    Parameters
    ----------
    shown : pyarrow.Schema
        What :func:`godb_arrow.schema.shown_schema` returned.
    recorded : pyarrow.Schema
        Schema of the same documents, with notes.

    Returns
    -------
    pyarrow.Schema
    """
    known = {
        field.name: field.metadata
        for field in recorded
        if field.metadata and CATEGORIES_KEY in field.metadata
    }
    fields = [
        field.with_metadata(known[field.name]) if field.name in known else field for field in shown
    ]
    return pa.schema(fields, metadata=recorded.metadata)


def categories_in(field: pa.Field) -> list[Any] | None:
    """Return the recorded categories of a field as plain values; None without any."""
    packed = (field.metadata or {}).get(CATEGORIES_KEY)
    if packed is None or len(packed) > MAX_CATEGORIES_BYTES:
        return None
    try:
        found = json.loads(packed)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def category_array(field: pa.Field) -> pa.Array | None:
    """Return the recorded categories of a field as an array of its value type.

    Returns
    -------
    pyarrow.Array or None
        None without categories, and if they do not fit the type.
    """
    plain = categories_in(field)
    if not plain or len(plain) > MAX_CATEGORIES or len(set(map(repr, plain))) < len(plain):
        return None
    value_type = field.type.value_type
    ticks = _ticks_of(value_type)
    try:
        if ticks is not None:
            return pa.array(plain, ticks).cast(value_type)
        if pa.types.is_decimal(value_type):
            return pa.array(plain, pa.string()).cast(value_type)
        if not _is_plain(value_type):
            return None
        found = pa.array(plain, value_type)
        return None if found.null_count else found
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None


def _plain_values(values: pa.Array) -> list[Any] | None:
    """Return categories as plain values; None for other types, and with nulls."""
    if values.null_count or len(values) > MAX_CATEGORIES:
        return None
    ticks = _ticks_of(values.type)
    if ticks is not None:
        return list(values.cast(ticks).to_pylist())
    if pa.types.is_decimal(values.type):
        return list(values.cast(pa.string()).to_pylist())
    return list(values.to_pylist()) if _is_plain(values.type) else None


def _ticks_of(data_type: pa.DataType) -> pa.DataType | None:
    """Return the integers that moments and spans of time are cast to."""
    if not pa.types.is_temporal(data_type) or pa.types.is_interval(data_type):
        return None
    return pa.int32() if data_type.bit_width == 32 else pa.int64()


def _is_plain(data_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(data_type)
        or pa.types.is_large_string(data_type)
        or pa.types.is_string_view(data_type)
        or pa.types.is_integer(data_type)
        or pa.types.is_floating(data_type)
        or pa.types.is_boolean(data_type)
    )
