"""Values of documents that fit Arrow types, with the path to the first one that does not."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgpack
import pyarrow as pa

from godb_arrow.codec.jsontext import is_utf8
from godb_arrow.errors import UnsupportedType
from godb_arrow.schema import ID_FIELD

__all__ = ["Misfit", "Path", "fitting", "shown_path"]

Path: TypeAlias = tuple[str | int, ...]
Check: TypeAlias = Callable[[Any, Path], None]
_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_EXACT_BITS = {16: 11, 32: 24, 64: 53}
_MAX_FLOATS = {16: 65504.0, 32: 3.4028235677973366e38, 64: math.inf}
_SHOWN_CHARACTERS = 40
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Misfit(Exception):
    """Signal that a value does not fit.

    Parameters
    ----------
    path : tuple of str and int
        Path to the value.
    problem : str
        What is wrong.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(problem)
        self.path = path
        self.problem = problem


def shown_path(path: Sequence[str | int]) -> str:
    """Return a path as messages show it.

    Examples
    --------
    >>> shown_path(("tags", 2, "name"))
    'tags[2].name'
    """
    shown = ""
    for part in path:
        shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else part
    return shown


def fitting(schema: pa.Schema, *, allow_extra: bool) -> Check:
    """Return a function that raises :class:`Misfit` for a document that does not fit a schema.

    Parameters
    ----------
    schema : pyarrow.Schema
        The schema. The id of a document always fits.
    allow_extra : bool
        Whether maps may have other fields than the schema.

    Raises
    ------
    UnsupportedType
        Documents cannot have a type of the schema.
    """
    return _map_check([*schema], allow_extra, {ID_FIELD})


def _map_check(fields: Sequence[pa.Field], allow_extra: bool, free: set[str]) -> Check:
    checks = {field.name: _field_check(field, allow_extra) for field in fields}
    required = [field.name for field in fields if not field.nullable and field.name not in free]
    known = checks.keys() | free

    def check(value: Any, path: Path) -> None:
        if type(value) is not dict:
            raise Misfit(path, f"expected a map, found {_shown(value)}")
        for name in required:
            if name not in value:
                raise Misfit((*path, name), "the field is required")
        for name, inner in value.items():
            found = checks.get(name)
            if found is not None:
                found(inner, (*path, name))
            elif not allow_extra and name not in known:
                raise Misfit((*path, str(name)), "the schema has no such field")

    return check


def _field_check(field: pa.Field, allow_extra: bool) -> Check:
    try:
        check = _type_check(field.type, allow_extra)
    except UnsupportedType as error:
        error.message = f"the field {field.name!r}: {error.message}"
        raise
    nullable = field.nullable

    def checked(value: Any, path: Path) -> None:
        if value is None:
            if not nullable:
                raise Misfit(path, "the field is required, and is null")
        else:
            check(value, path)

    return checked


def _type_check(kind: pa.DataType, allow_extra: bool) -> Check:
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        if str(kind.extension_name) == "arrow.json":
            return lambda value, path: None
        kind = kind.storage_type
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _type_check(kind.value_type, allow_extra)
    if types.is_struct(kind):
        return _map_check([*kind], allow_extra, set())
    if types.is_map(kind) and types.is_string(kind.key_type):
        return _entries_check(_field_check(kind.item_field, allow_extra))
    if types.is_fixed_size_list(kind):
        return _list_check(_field_check(kind.value_field, allow_extra), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind) or _is_list_view(kind):
        return _list_check(_field_check(kind.value_field, allow_extra), None)
    return _scalar_check(kind)


def _is_list_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _entries_check(check: Check) -> Check:
    def checked(value: Any, path: Path) -> None:
        if type(value) is not dict:
            raise Misfit(path, f"expected a map, found {_shown(value)}")
        for name, inner in value.items():
            if type(name) is not str:
                raise Misfit(path, f"expected texts as keys, found {_shown(name)}")
            check(inner, (*path, name))

    return checked


def _list_check(check: Check, size: int | None) -> Check:
    def checked(value: Any, path: Path) -> None:
        if type(value) is not list:
            raise Misfit(path, f"expected a list, found {_shown(value)}")
        if size is not None and len(value) != size:
            raise Misfit(path, f"expected {size} elements, found {len(value)}")
        for number, element in enumerate(value):
            check(element, (*path, number))

    return checked


def _scalar_check(kind: pa.DataType) -> Check:
    fits = _fits(kind)
    expected = str(kind)

    def check(value: Any, path: Path) -> None:
        if not fits(value):
            raise Misfit(path, f"expected {expected}, found {_shown(value)}")

    return check


def _fits(kind: pa.DataType) -> Callable[[Any], bool]:
    types = pa.types
    if types.is_null(kind):
        return lambda value: False
    if types.is_boolean(kind):
        return lambda value: type(value) is bool
    if types.is_integer(kind):
        signed = types.is_signed_integer(kind)
        low = -(1 << kind.bit_width - 1) if signed else 0
        high = (1 << kind.bit_width - (1 if signed else 0)) - 1
        return lambda value: type(value) is int and low <= value <= high
    if types.is_floating(kind):
        exact, most = 1 << _EXACT_BITS[kind.bit_width], _MAX_FLOATS[kind.bit_width]
        return lambda value: (
            abs(value) <= exact
            if type(value) is int
            else type(value) is float and (not math.isfinite(value) or abs(value) <= most)
        )
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return lambda value: type(value) is str and is_utf8(value)
    if types.is_fixed_size_binary(kind):
        return lambda value: type(value) is bytes and len(value) == kind.byte_width
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return lambda value: type(value) is bytes
    if types.is_timestamp(kind):
        return _whole_moments(_NANOSECONDS[kind.unit])
    if types.is_date(kind):
        return _whole_moments(86_400 * 10**9)
    raise UnsupportedType(
        f"values of {kind} cannot be checked",
        advice="documents store them as texts or integers; give the type of these",
    )


def _whole_moments(unit: int) -> Callable[[Any], bool]:
    """Return a function that tells moments of whole units that 64 bits hold."""

    def fits(value: Any) -> bool:
        if isinstance(value, dt.datetime):
            since = value - _EPOCH
            moment = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
        elif type(value) is msgpack.Timestamp:
            moment = value.seconds * 10**9 + value.nanoseconds
        else:
            return False
        return moment % unit == 0 and -(1 << 63) < moment // unit < 1 << 63

    return fits


def _shown(value: Any) -> str:
    shown = repr(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[:_SHOWN_CHARACTERS] + "…"
    return shown
