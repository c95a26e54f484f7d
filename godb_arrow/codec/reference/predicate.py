"""Predicates over documents, written to be read: which documents a filter matches.

:mod:`godb_arrow.query.predicate` defines the meaning, and :mod:`godb_arrow.codec.predicate` the
conditions. Maps are tuples of pairs here, as in :mod:`godb_arrow.codec.reference.documents`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.codec.entries import Entries, MeasuredEntries
from godb_arrow.codec.jsontext import is_utf8
from godb_arrow.codec.predicate import (
    AllOf,
    AnyOf,
    Bound,
    Condition,
    Element,
    Exists,
    HasType,
    Leaf,
    Matches,
    Not,
    OneOf,
    Order,
    Predicate,
    Size,
    ValueType,
    decimal_digits,
    exact_number,
    is_container,
)
from godb_arrow.codec.reference.documents import document_pairs
from godb_arrow.errors import CorruptFile, DepthExceeded
from godb_arrow.schema import ID_FIELD

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["select", "select_front"]


_Document = dict[str, Any]


def select(entries: Entries, predicate: Predicate) -> npt.NDArray[np.int64]:
    """Find the documents that match a predicate.

    Parameters
    ----------
    entries : Entries
        The documents.
    predicate : Predicate
        The condition.

    Returns
    -------
    array of int64
        The indices of the documents that match, in order.

    Raises
    ------
    CorruptFile
        The bytes of a document are not valid MessagePack.
    """
    rows = []
    for index in range(len(entries)):
        document: _Document = {}
        if predicate.fields:
            # Keys that are no strings are no fields. The last one of equal keys wins.
            pairs = document_pairs(entries, index)
            document = {key: value for key, value in pairs if type(key) is str}
        document[ID_FIELD] = entries.id(index)
        if _holds(predicate.condition, document):
            rows.append(index)
    return np.array(rows, np.int64)


def select_front(measured: MeasuredEntries, predicate: Predicate) -> npt.NDArray[np.int64] | None:
    """Find the documents that match a predicate, reading documents only up to its fields.

    Parameters
    ----------
    measured : MeasuredEntries
        The documents, none of which has a key twice.
    predicate : Predicate
        The condition.

    Returns
    -------
    array of int64 or None
        As :func:`select` returns them. None if the sizes are wrong or a document is damaged: then
        the caller scans the entries one by one.
    """
    try:
        entries = measured.entries()
        found = np.frombuffer(entries.bounds, np.int64)[::2]
        return select(entries, predicate) if np.array_equal(found, measured.edges) else None
    except (CorruptFile, DepthExceeded):
        return None


def _holds(condition: Condition, subject: Any) -> bool:
    """Return whether a condition holds for a document's fields, or for an element of a list."""
    if isinstance(condition, AllOf):
        return all(_holds(one, subject) for one in condition.conditions)
    if isinstance(condition, AnyOf):
        return any(_holds(one, subject) for one in condition.conditions)
    if isinstance(condition, Not):
        return not _holds(condition.condition, subject)
    values = [subject] if condition.path is None else list(_values_at(subject, condition.path))
    if not values:
        return isinstance(condition, OneOf) and None in condition.literals
    return any(_accepts(condition, value) for value in values)


def _values_at(fields: _Document, path: str) -> Iterator[Any]:
    """Yield the values that a path leads to, through maps and through lists to maps."""
    key = path if path in fields else next((key for key in _heads(path) if key in fields), None)
    if key is None:
        return
    value, rest = fields[key], path[len(key) + 1 :]
    if key == path:
        yield value
        return
    for one in value if type(value) is list else [value]:
        if type(one) is tuple:
            yield from _values_at(_fields_of(one), rest)


def _heads(path: str) -> Iterator[str]:
    """Yield the keys that a path may begin with, without the path itself, the shortest first."""
    dot = path.find(".")
    while dot >= 0:
        yield path[:dot]
        dot = path.find(".", dot + 1)


def _fields_of(pairs: tuple[tuple[Any, Any], ...]) -> _Document:
    return {key: value for key, value in pairs if type(key) is str}


def _accepts(leaf: Leaf, value: Any) -> bool:
    """Return whether a value, or an element of it, is one that a condition asks for."""
    if isinstance(leaf, Exists):
        return True
    if isinstance(leaf, Size):
        return type(value) is list and len(value) == leaf.count
    if isinstance(leaf, Element):
        return type(value) is list and any(_element_holds(leaf, element) for element in value)
    test = _TESTS[type(leaf)](leaf)
    if test(value):
        return True
    if type(value) is not list:
        return False
    if isinstance(leaf, OneOf) and not leaf.contained:  # a list in a list is not compared
        literals = tuple(one for one in leaf.literals if not is_container(one))
        test = _equals_one(OneOf(leaf.path, literals))
    return any(test(element) for element in value)


def _element_holds(leaf: Element, element: Any) -> bool:
    if leaf.is_map:
        return type(element) is tuple and _holds(leaf.condition, _fields_of(element))
    return _holds(leaf.condition, element)


# --- one value ----------------------------------------------------------------------------------


def _equals_one(leaf: OneOf) -> Callable[[Any], bool]:
    known = {canonical(one) for one in leaf.literals}
    decimals = {decimal_digits(format(one, "f")) for one in leaf.literals if type(one) is Decimal}

    def test(value: Any) -> bool:
        if decimals and type(value) is str and decimal_digits(value) in decimals - {None}:
            return True
        return canonical(value) in known

    return test


def canonical(value: Any) -> Any:
    """Return a hashable form of a value or literal: equal for values that are equal.

    Examples
    --------
    >>> canonical(1) == canonical(1.0), canonical(1) == canonical(True)
    (True, False)
    """
    kind = type(value)
    if kind is int or kind is float or kind is Decimal:
        number = exact_number(value)
        if number is None:
            return "a number that no document has", value
        if math.isnan(number):
            return "NaN"
        return "number", Fraction(number) if math.isfinite(number) else number
    if kind is list:
        return "list", tuple(canonical(element) for element in value)
    if kind is tuple:
        return "map", frozenset({canonical(key): canonical(item) for key, item in value}.items())
    return kind.__name__, value


def _within(leaf: Bound) -> Callable[[Any], bool]:
    def test(value: Any) -> bool:
        order = compare(value, leaf.literal)
        return order is not None and bool(order & leaf.order)

    return test


def compare(value: Any, literal: Any) -> Order | None:
    """Return the order of a value and a literal; None if there is none.

    Examples
    --------
    >>> compare(2**53 + 1, 2.0**53), compare("a", 1)
    (<Order.GREATER: 4>, None)
    """
    if type(literal) is Decimal and type(value) is str and decimal_digits(value) is not None:
        value = Decimal(value)
    if _is_number(value) and _is_number(literal):
        if math.isnan(value) or math.isnan(literal):
            return Order.EQUAL if math.isnan(value) and math.isnan(literal) else None
        left, right = _exact(value), _exact(literal)
    elif type(value) is type(literal) and type(value) in (bytes, msgpack.Timestamp):
        left, right = _comparable(value), _comparable(literal)
    elif type(value) is str and type(literal) is str:
        left, right = (text.encode("utf-8", "surrogateescape") for text in (value, literal))
    else:
        return None
    if left == right:
        return Order.EQUAL
    return Order.LESS if left < right else Order.GREATER


def _is_number(value: Any) -> bool:
    return type(value) in (int, float, Decimal)


def _exact(number: Any) -> Any:
    """Return a number as a value that Python compares exactly."""
    return number if math.isinf(number) else Fraction(number)


def _comparable(value: Any) -> Any:
    if type(value) is msgpack.Timestamp:
        return value.seconds, value.nanoseconds
    return value


_TYPES: dict[type, ValueType] = {
    type(None): ValueType.NULL,
    bool: ValueType.BOOL,
    int: ValueType.INT,
    float: ValueType.FLOAT,
    str: ValueType.STRING,
    bytes: ValueType.BINARY,
    msgpack.Timestamp: ValueType.TIMESTAMP,
    list: ValueType.ARRAY,
    tuple: ValueType.MAP,
    msgpack.ExtType: ValueType.EXTENSION,
}


def _has_type(leaf: HasType) -> Callable[[Any], bool]:
    return lambda value: bool(_TYPES[type(value)] & leaf.types)


def _matches(leaf: Matches) -> Callable[[Any], bool]:
    def test(value: Any) -> bool:
        return type(value) is str and is_utf8(value) and match_pattern([value], leaf.pattern)[0]

    return test


def match_pattern(texts: Iterable[str], pattern: str) -> list[bool]:
    """Return for each text whether a regular expression of RE2 matches in it."""
    found: list[bool] = pc.match_substring_regex(pa.array(texts, pa.string()), pattern).to_pylist()
    return found


_TESTS: dict[type, Callable[[Any], Callable[[Any], bool]]] = {
    OneOf: _equals_one,
    Bound: _within,
    HasType: _has_type,
    Matches: _matches,
}
