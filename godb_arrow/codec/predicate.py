"""Predicates over documents: conditions on fields, in the form that both codecs evaluate.

:mod:`godb_arrow.query.predicate` compiles mapping filters to predicates, and its docstring says
what each condition means.

Literals are values as documents store them: None, bool, int, float, str, bytes,
``msgpack.Timestamp``, ``msgpack.ExtType``, lists, and maps as tuples of pairs. Integers of any size
and ``Decimal`` occur as well, since numbers compare by value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from enum import IntFlag
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

import msgpack

from godb_arrow.schema import ID_FIELD

__all__ = [
    "AllOf",
    "AnyOf",
    "Bound",
    "Condition",
    "Element",
    "Exists",
    "HasType",
    "Matches",
    "Not",
    "OneOf",
    "Order",
    "Predicate",
    "Size",
    "ValueType",
    "any_of",
    "decimal_digits",
    "exact_number",
    "is_container",
    "names_odd_key",
    "paths_of",
    "prefixes",
]


class ValueType(IntFlag):
    """Types of values in documents, as ``$type`` names them."""

    NULL = 1
    BOOL = 2
    INT = 4
    FLOAT = 8
    STRING = 16
    BINARY = 32
    TIMESTAMP = 64
    ARRAY = 128
    MAP = 256
    EXTENSION = 512


class Order(IntFlag):
    """Results of a comparison, which a bound accepts or not."""

    LESS = 1
    EQUAL = 2
    GREATER = 4


@dataclass(frozen=True, slots=True)
class AllOf:
    """Conjunction of conditions; without conditions, every document matches."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Disjunction of conditions; without conditions, no document matches."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Negation of a condition."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class OneOf:
    """A value that equals one of some literals.

    Attributes
    ----------
    path : str or None
        The field, or a dotted path; None for an element of a list itself.
    literals : tuple of object
        Any number of values.
    contained : bool
        Whether elements of a list are compared with lists and maps, too.
    """

    path: str | None
    literals: tuple[Any, ...]
    contained: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """A value on one side of a literal that has an order."""

    path: str | None
    order: Order
    literal: Any


@dataclass(frozen=True, slots=True)
class Exists:
    """Value of any type, also null."""

    path: str | None


@dataclass(frozen=True, slots=True)
class HasType:
    """A value of one of some types."""

    path: str | None
    types: ValueType


@dataclass(frozen=True, slots=True)
class Matches:
    """A string in which a regular expression of RE2 matches."""

    path: str | None
    pattern: str


@dataclass(frozen=True, slots=True)
class Size:
    """A list with so many elements."""

    path: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Element:
    """A list of which one element matches.

    Attributes
    ----------
    path : str or None
        The field with the list.
    condition : Condition
        The condition on the element.
    is_map : bool
        Whether the condition is on fields of elements that are maps.
    """

    path: str | None
    condition: Condition
    is_map: bool


Leaf: TypeAlias = OneOf | Bound | Exists | HasType | Matches | Size | Element
Condition: TypeAlias = AllOf | AnyOf | Not | Leaf


@dataclass(frozen=True, slots=True)
class Predicate:
    """A condition on documents.

    Parameters
    ----------
    condition : Condition
        The condition.

    Attributes
    ----------
    fields : tuple of str
        The top-level keys of documents that the condition may need, without the id.
    """

    condition: Condition
    fields: tuple[str, ...] = field(init=False)
    _programs: dict[str, Any] = field(
        init=False, default_factory=dict, compare=False, repr=False, hash=False
    )

    def __post_init__(self) -> None:
        names = (name for path in paths_of(self.condition) for name in prefixes(path))
        fields = tuple(name for name in dict.fromkeys(names) if name != ID_FIELD)
        object.__setattr__(self, "fields", fields)

    def program(self, make: Any) -> Any:
        """Return what a codec makes of the condition; each predicate keeps it."""
        made = self._programs.get(make.__name__)
        if made is None:
            made = self._programs[make.__name__] = make(self)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Predicate, (self.condition,)


def any_of(conditions: tuple[Condition, ...]) -> Condition:
    """Return a disjunction in which all values of one field are looked up together."""
    literals: dict[str | None, list[Any]] = {}
    others: list[Condition] = []
    for one in conditions:
        if isinstance(one, OneOf) and not one.contained:
            literals.setdefault(one.path, []).extend(one.literals)
        else:
            others.append(one)
    joined = (OneOf(path, tuple(found)) for path, found in literals.items())
    found = (*joined, *others)
    return found[0] if len(found) == 1 else AnyOf(found)


def paths_of(condition: Condition) -> Iterator[str]:
    """Yield the paths that begin at the document."""
    if isinstance(condition, (AllOf, AnyOf)):
        for child in condition.conditions:
            yield from paths_of(child)
    elif isinstance(condition, Not):
        yield from paths_of(condition.condition)
    elif condition.path is not None:
        yield condition.path


def prefixes(path: str) -> list[str]:
    """Return the keys that a dotted path may begin with, the shortest first.

    Examples
    --------
    >>> prefixes("user.geo.cc")
    ['user', 'user.geo', 'user.geo.cc']
    """
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


@lru_cache(maxsize=1024)
def names_odd_key(path: str) -> bool:
    """Return whether columns may have this name for a key that is no string.

    Columns name such keys by their JSON text. No filter names them.

    Examples
    --------
    >>> names_odd_key("1"), names_odd_key("one")
    (True, False)
    """
    try:
        json.loads(path)
    except (ValueError, RecursionError):
        return False
    return True


def is_container(literal: Any) -> bool:
    """Return whether a literal is a list or a map."""
    return isinstance(literal, (list, tuple)) and not isinstance(literal, msgpack.ExtType)


def exact_number(literal: int | float | Decimal) -> int | float | None:
    """Return the stored number that equals a literal; None where no stored number does.

    Examples
    --------
    >>> exact_number(Decimal("2.50")), exact_number(Decimal("0.1")), exact_number(2**70)
    (2.5, None, 1.1805916207174113e+21)
    """
    if isinstance(literal, float):
        return literal
    if isinstance(literal, Decimal) and not literal.is_finite():
        return float(literal)
    if isinstance(literal, Decimal) and not -400 < literal.adjusted() < 400:
        return 0 if literal == 0 else None
    exact = Fraction(literal)
    if exact.denominator == 1 and -(2**63) <= exact < 2**64:
        return int(exact)
    try:
        nearest = float(exact)
    except OverflowError:
        return None
    return nearest if math.isfinite(nearest) and Fraction(nearest) == exact else None


def decimal_digits(text: str) -> tuple[bool, str, str] | None:
    """Return the sign and the digits of a decimal in the form in which decimals are stored.

    Parameters
    ----------
    text : str
        Digits, with a minus sign or without, and perhaps a fraction.

    Returns
    -------
    tuple or None
        Whether the number is negative, and its digits before and after the point, without zeros
        that do not count. None for other texts.

    Examples
    --------
    >>> decimal_digits("-012.50"), decimal_digits("1e5")
    ((True, '12', '5'), None)
    """
    whole, point, fraction = text.removeprefix("-").partition(".")
    if not (whole.isascii() and whole.isdigit()):
        return None
    if point and not (fraction.isascii() and fraction.isdigit()):
        return None
    whole, fraction = whole.lstrip("0"), fraction.rstrip("0")
    return text.startswith("-") and bool(whole or fraction), whole, fraction
