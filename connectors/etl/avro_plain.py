"""Schemas of Avro files with resolved names, and bounds on the memory of their values."""

from __future__ import annotations

from typing import Any, NamedTuple

from godb_arrow.errors import InvalidDocument

__all__ = ["ORIGINAL_NAME", "PRIMITIVES", "Shape", "check_memory", "plain_schema"]

ORIGINAL_NAME = "godb_arrow_name"
"""Property of a field with the name that Avro does not allow."""

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})

_MAX_DEPTH = 64
_MAX_TYPES = 10_000  # of a schema, with each reference to a name in full
_MAX_RECORD_MEMORY = 512 << 20
_FIXED_BYTES = {"null": 0, "float": 4, "double": 8}

# Memory of values in Python and Arrow, in bytes.
_NUMBER_MEMORY, _TEXT_MEMORY, _LIST_MEMORY, _MAP_MEMORY = 32, 64, 96, 128
_RECORD_MEMORY, _FIELD_MEMORY = 256, 64


class Shape(NamedTuple):
    """Bounds on the values of one type.

    Attributes
    ----------
    types : int
        Number of types in the type, with each reference to a name in full.
    depth : int
        Number of levels.
    min_bytes : int
        Minimum size of a value in the file.
    memory : int
        Maximum memory for each byte of the file, or for a value of no bytes.
    """

    types: int
    depth: int
    min_bytes: int
    memory: int


def plain_schema(schema: Any) -> tuple[Any, dict[str, Any], Shape]:
    """Check a schema, and resolve its names.

    Returns
    -------
    schema : dict, list or str
        The same schema with short names for named types. It has the key "logical" in place of
        "logicalType", so that records have plain numbers.
    named : dict
        Named types by their short names.
    shape : Shape
        Bounds on the values.

    Raises
    ------
    InvalidDocument
        The schema is not valid, contains itself, or is too deep or too large. Or an array has items
        of no bytes, of which a few bytes could claim any number.
    """
    plain = _Plain()
    found, shape = plain.type(schema, "", 0)
    return found, plain.named, shape


class _Plain:
    """Translation of one schema, with the named types seen so far."""

    def __init__(self) -> None:
        self.named: dict[str, Any] = {}
        self._shapes: dict[str, tuple[str, Shape | None]] = {}

    def type(self, schema: Any, space: str, depth: int) -> tuple[Any, Shape]:
        """Return a type and its bounds, in a namespace and at a depth."""
        if isinstance(schema, dict) and isinstance(schema.get("type"), (dict, list)):
            found, shape = self.type(schema["type"], space, _deeper(depth))
        elif isinstance(schema, list):
            found, shape = self._union(schema, space, depth)
        elif isinstance(schema, str):
            found, shape = self._reference(schema, space)
        elif isinstance(schema, dict):
            found, shape = self._complex(schema, space, depth)
        else:
            raise InvalidDocument(f"the Avro schema has {schema!r} in place of a type")
        _deeper(depth + shape.depth - 1)
        if shape.types > _MAX_TYPES:
            raise InvalidDocument(
                f"the Avro schema has more than {_MAX_TYPES} types",
                advice="write the file with fewer columns",
            )
        return found, shape

    def _union(self, schema: list[Any], space: str, depth: int) -> tuple[Any, Shape]:
        parts = [self.type(one, space, _deeper(depth)) for one in schema]
        shapes = [shape for _, shape in parts]
        return [found for found, _ in parts], Shape(*_totals(shapes), 1, _max_memory(shapes))

    def _reference(self, name: str, space: str) -> tuple[Any, Shape]:
        if name in PRIMITIVES:
            memory = _TEXT_MEMORY if name in ("bytes", "string") else _NUMBER_MEMORY
            return name, Shape(1, 1, _FIXED_BYTES.get(name, 1), memory)
        full = name if "." in name or not space else f"{space}.{name}"
        if full not in self._shapes:
            raise InvalidDocument(f"the Avro schema names the unknown type {full!r}")
        short, shape = self._shapes[full]
        if shape is None:
            raise InvalidDocument(
                f"the Avro schema {full!r} contains itself",
                advice="write the file with a schema that is not recursive",
            )
        return short, shape

    def _complex(self, schema: dict[str, Any], space: str, depth: int) -> tuple[Any, Shape]:
        kind = _part(schema, "type", str)
        found = {"type": kind}
        for key, plain in (("logicalType", "logical"), ("precision", None), ("scale", None)):
            if key in schema:
                found[plain or key] = schema[key]
        if kind in ("array", "map"):
            key = "items" if kind == "array" else "values"
            found[key], shape = self.type(_part(schema, key), space, _deeper(depth))
            if kind == "array" and not shape.min_bytes:
                raise InvalidDocument("the Avro schema has an array whose items have no bytes")
            own = _LIST_MEMORY if kind == "array" else _MAP_MEMORY
            return found, Shape(
                shape.types + 1, shape.depth + 1, 1, max(own, shape.memory, _TEXT_MEMORY)
            )
        if kind not in ("record", "error", "enum", "fixed"):
            plain_kind, shape = self._reference(kind, space)
            return (found if "logical" in found and kind in PRIMITIVES else plain_kind), shape
        full = _full_name(schema, space)
        if full in self._shapes:
            raise InvalidDocument(f"the Avro schema defines {full!r} twice")
        found["name"] = short = f"T{len(self._shapes)}"
        self._shapes[full] = short, None
        if kind == "enum":
            found["symbols"] = _part(schema, "symbols", list)
            shape = Shape(1, 1, 1, _NUMBER_MEMORY)
        elif kind == "fixed":
            found["size"] = size = _part(schema, "size", int)
            if size < 0:
                raise InvalidDocument(f"the Avro schema has a fixed type of {size} bytes")
            shape = Shape(1, 1, size, _TEXT_MEMORY)
        else:
            found["type"] = "record"
            found["fields"], shape = self._fields(schema, full.rpartition(".")[0], depth)
        self._shapes[full] = short, shape
        self.named[short] = found
        return found, shape

    def _fields(self, schema: dict[str, Any], space: str, depth: int) -> tuple[Any, Shape]:
        fields, shapes = [], []
        for field in _part(schema, "fields", list):
            name = _part(field, "name", str)
            found, shape = self.type(_part(field, "type"), space, _deeper(depth))
            fields.append({"name": name, "type": found})
            if ORIGINAL_NAME in field:
                fields[-1][ORIGINAL_NAME] = str(field[ORIGINAL_NAME])
            shapes.append(shape)
        if len({field["name"] for field in fields}) < len(fields):
            raise InvalidDocument("the Avro schema has a record with two fields of one name")
        own = _RECORD_MEMORY + _FIELD_MEMORY * len(fields)
        own += sum(shape.memory for shape in shapes if not shape.min_bytes)
        size = sum(shape.min_bytes for shape in shapes)
        if size:
            own = -(-own // size) + _max_memory([shape for shape in shapes if shape.min_bytes])
        return fields, Shape(*_totals(shapes), size, own)


def _deeper(depth: int) -> int:
    if depth >= _MAX_DEPTH:
        raise InvalidDocument(f"the Avro schema is nested deeper than {_MAX_DEPTH} levels")
    return depth + 1


def _totals(shapes: list[Shape]) -> tuple[int, int]:
    types = sum(shape.types for shape in shapes)
    return types + 1, max((shape.depth for shape in shapes), default=0) + 1


def _max_memory(shapes: list[Shape]) -> int:
    return max((shape.memory for shape in shapes), default=_NUMBER_MEMORY)


def _part(schema: Any, key: str, kind: type[Any] = object) -> Any:
    if not isinstance(schema, dict) or not isinstance(schema.get(key), kind) or key not in schema:
        raise InvalidDocument(f"a part of the Avro schema has no valid {key!r}")
    return schema[key]


def _full_name(schema: dict[str, Any], space: str) -> str:
    name = str(_part(schema, "name", str))
    space = str(schema.get("namespace", space) or "")
    return name if "." in name or not space else f"{space}.{name}"


# --- memory of a record ------------------------------------------------------------------------


def check_memory(data: bytes, at: int, schema: Any, named: dict[str, Any]) -> int:
    """Return the end of a large record, whose values fit into memory.

    Raises
    ------
    InvalidDocument
        The record ends early, or its values need more memory than is allowed.
    """
    walk = _Walk(data, at, named)
    walk.value(schema)
    return walk.at


class _Walk:
    """Position in the bytes of a record, and the memory of the values before it."""

    def __init__(self, data: bytes, at: int, named: dict[str, Any]) -> None:
        self.at = at
        self._data, self._named, self._memory = data, named, 0

    def value(self, schema: Any) -> None:
        """Skip a value."""
        if isinstance(schema, str):
            schema = self._named.get(schema, schema)
        if isinstance(schema, list):
            index = self._number()
            if not 0 <= index < len(schema):
                raise InvalidDocument(f"a value of the Avro file has the type {index} of a union")
            self.value(schema[index])
            return
        kind = schema if isinstance(schema, str) else schema["type"]
        if kind == "record":
            self._add(_RECORD_MEMORY + _FIELD_MEMORY * len(schema["fields"]))
            for field in schema["fields"]:
                self.value(field["type"])
        elif kind == "array":
            self._add(_LIST_MEMORY)
            self._items(schema["items"], False)
        elif kind == "map":
            self._add(_MAP_MEMORY)
            self._items(schema["values"], True)
        elif kind in ("bytes", "string"):
            self._skip(self._number())
            self._add(_TEXT_MEMORY)
        elif kind == "fixed":
            self._skip(schema["size"])
            self._add(_TEXT_MEMORY)
        else:
            self._add(_NUMBER_MEMORY)
            if kind in _FIXED_BYTES:
                self._skip(_FIXED_BYTES[kind])
            else:
                self._number()

    def _items(self, schema: Any, is_map: bool) -> None:
        while count := self._number():
            if count < 0:
                count = -count
                self._number()
            for _ in range(count):
                if is_map:
                    self.value("string")
                self.value(schema)

    def _add(self, memory: int) -> None:
        self._memory += memory
        if self._memory > _MAX_RECORD_MEMORY:
            raise InvalidDocument(
                f"a record of the Avro file needs more than {_MAX_RECORD_MEMORY} bytes of memory",
                advice="write it as several records",
            )

    def _skip(self, count: int) -> None:
        if not 0 <= count <= len(self._data) - self.at:
            raise InvalidDocument("a record of the Avro file ends early")
        self.at += count
        self._add(count)

    def _number(self) -> int:
        value = shift = 0
        while True:
            self._skip(1)
            byte = self._data[self.at - 1]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
            shift += 7
            if shift > 63:
                raise InvalidDocument("a number of the Avro file has no end")
