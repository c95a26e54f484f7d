"""Types of MongoDB whose values documents hold as text or integers, by field.

Object ids, UUIDs and decimals of BSON become text, so that filters, ids and columns work as with
other sources. The schema of the collection records which fields had them, as a hint. A copy to
BSON builds the values again.

A path is the list of keys from the document to the value. Lists add no key, so all elements of a
list share one path.
"""

from __future__ import annotations

import decimal
import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import bson
import pyarrow as pa

__all__ = ["TYPES_KEY", "FieldTypes", "describe_types", "recorded_types"]


logger = logging.getLogger(__name__)

TYPES_KEY = b"godb_arrow.bson"
"""Schema metadata with the paths of each type, as JSON."""

_MAX_PATHS = 10_000
"""Max paths of a source that are distinguished; values of further paths stay text."""

_OBJECT_ID = re.compile(r"[0-9a-f]{24}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DECIMAL = re.compile(r"-?([0-9][0-9.]*(E[+-]?[0-9]+)?|Infinity|s?NaN[0-9]*)")
_INTEGER = re.compile(r"-?[1-9][0-9]{0,18}|0")

Path = tuple[str, ...]


def _decimal_of(value: str) -> bson.Decimal128 | None:
    """Return the decimal that :func:`text_of` converts to a text, or None."""
    if not _DECIMAL.fullmatch(value):
        return None
    try:
        found = bson.Decimal128(value)
    except (decimal.DecimalException, ValueError):
        return None
    return found if str(found.to_decimal()) == value else None


def _object_id_of(value: str) -> bson.ObjectId | None:
    return bson.ObjectId(value) if _OBJECT_ID.fullmatch(value) else None


def _uuid_of(value: str) -> uuid.UUID | None:
    return uuid.UUID(value) if _UUID.fullmatch(value) else None


def _integer_of(value: str) -> int | None:
    number = int(value) if _INTEGER.fullmatch(value) else None
    return number if number is not None and -(2**63) <= number < 2**63 else None


_BUILDERS: dict[str, Callable[[str], Any]] = {
    "objectId": _object_id_of,
    "uuid": _uuid_of,
    "decimal": _decimal_of,
    "int": _integer_of,
}
"""Functions that build a value of a type from its text, or return None for other texts."""


class FieldTypes:
    """Types of the values at a path of a source, and of the paths below.

    Attributes
    ----------
    types : set of str
        Types of the values that became text or another type.
    texts : set of str
        Types that texts of the source look like.
    children : dict of str to FieldTypes
        Types at the paths with one more key.
    """

    __slots__ = ("_left", "children", "texts", "types")

    def __init__(self, left: list[int] | None = None) -> None:
        self._left = [_MAX_PATHS] if left is None else left
        self.types: set[str] = set()
        self.texts: set[str] = set()
        self.children: dict[str, FieldTypes] = {}

    def child(self, key: str) -> FieldTypes:
        """Return the types at the path with one more key."""
        found = self.children.get(key)
        if found is None:
            found = FieldTypes(self._left)
            if self._left[0]:
                self._left[0] -= 1
                self.children[key] = found
        return found

    def at(self, path: Path) -> FieldTypes:
        """Return the types at a path, without any where no value has the path."""
        found = self
        for key in path:
            found = found.children.get(key, _NONE)
        return found

    def see_text(self, text: str) -> None:
        """Note the types that a text of the source looks like."""
        for name, build in _BUILDERS.items():
            if name not in self.texts and build(text) is not None:
                self.texts.add(name)

    def merge(self, other: FieldTypes) -> None:
        """Add the types that another part of the source has."""
        self.types |= other.types
        self.texts |= other.texts
        for key, child in other.children.items():
            self.child(key).merge(child)

    def paths(self, path: Path = ()) -> Iterator[tuple[str, Path, bool]]:
        """Yield type, path, and whether each text that looks like the type had it."""
        for name in sorted(self.types):
            yield name, path, name not in self.texts
        for key, child in self.children.items():
            yield from child.paths((*path, key))

    def build(self, text: str) -> Any:
        """Return the value of MongoDB that a text stands for, or the text itself."""
        for name in self.types:
            found = _BUILDERS[name](text)
            if found is not None:
                return found
        return text


_NONE = FieldTypes([0])


def recorded_types(schema: pa.Schema | None) -> FieldTypes:
    """Return the types that a schema records.

    Parameters
    ----------
    schema : pyarrow.Schema or None
        Schema of a collection; None for no hints.

    Returns
    -------
    FieldTypes
    """
    found = FieldTypes()
    if schema is None:
        return found
    for name, paths in _loaded(schema).items():
        for path in paths:
            place = found
            for key in path:
                place = place.child(key)
            place.types.add(name)
    return found


def _loaded(schema: pa.Schema) -> dict[str, list[Path]]:
    """Return the recorded paths of each type; a hint without sense records none."""
    try:
        recorded = json.loads((schema.metadata or {}).get(TYPES_KEY, b"{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(recorded, dict):
        return {}
    return {
        name: [
            tuple(path)
            for path in paths
            if isinstance(path, list) and all(isinstance(key, str) for key in path)
        ]
        for name, paths in recorded.items()
        if name in _BUILDERS and isinstance(paths, list)
    }


def describe_types(types: FieldTypes, before: pa.Schema | None) -> dict[bytes, bytes]:
    """Return the metadata of a schema that records the types of a source.

    Parameters
    ----------
    types : FieldTypes
        Types of the documents of the source.
    before : pyarrow.Schema or None
        Schema of the documents that the collection already has; None without any.

    Returns
    -------
    dict of bytes to bytes
        Paths where all texts that look like a type have it, in the source and before.
    """
    known = recorded_types(before)
    found: dict[str, list[Path]] = {}
    for name, path, is_exact in types.paths():
        is_new = before is None or path[0] not in before.names
        if is_exact and (is_new or name in known.at(path).types):
            found.setdefault(name, []).append(path)
        else:
            logger.warning(
                "values of type %s in field %s stay as they are stored if they are copied to BSON, "
                "since other values of the field look like them",
                name,
                ".".join(path),
            )
    for name, path, _ in known.paths():
        place = types.at(path)
        if name not in place.types | place.texts:
            found.setdefault(name, []).append(path)
    return {TYPES_KEY: json.dumps(found).encode()} if found else {}
