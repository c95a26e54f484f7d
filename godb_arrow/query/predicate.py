"""Mapping filters: what they mean, and how they become predicates over documents.

A mapping filter has field names, or dotted paths, and a condition for each; a document matches if
all conditions hold. Conditions read the values of the document itself. Neither the schema nor the
types of other documents change a result.

=========================  =======================================================================
condition                  a field matches if
=========================  =======================================================================
a value                    it equals the value
None                       it is null or absent
a list, tuple or set       it equals one of the values; a list among them means that list
a mapping of names         it is an equal map
``{"$eq": x}``             it equals x; a list means that list
``{"$ne": x}``             ``$eq`` does not hold
``{"$gt": x}``             it is greater than x
``{"$gte": x}``            it is greater than x or equal
``{"$lt": x}``             it is less than x
``{"$lte": x}``            it is less than x or equal
``{"$in": [x, y]}``        it equals one of the values; None among them means null or absent
``{"$nin": [x, y]}``       ``$in`` does not hold
``{"$exists": True}``      documents have it, with any value; False: they do not have it
``{"$type": "int"}``       it has the type, or one of a list of types: null, bool, int, float,
                           number, string, binary, timestamp, array, map or extension
``{"$regex": "^A"}``       it is a string in which the pattern of RE2 matches
``{"$all": [x, y]}``       it is a list that contains all the values
``{"$elemMatch": c}``      it is a list with an element for which the condition holds, or that is
                           a map which matches the filter
``{"$size": 2}``           it is a list with that many elements
``{"$not": c}``            the condition does not hold
=========================  =======================================================================

Several operators of one mapping must all hold. ``{"$and": [f, g]}``, ``{"$or": [f, g]}``,
``{"$nor": [f, g]}`` and ``{"$not": f}`` combine whole filters.

**Equality.** Numbers compare by exact mathematical value, so that 1 equals 1.0, and ``2**53 + 1``
differs from ``2.0**53``. Booleans are no numbers. NaN equals NaN. Strings, binary and moments are
different kinds. Maps are equal in any order of their keys.

**Order.** It is defined among numbers, among strings by code point, among binary by bytes, and
among moments by instant. A comparison across kinds does not match. Bounds of other kinds match
nothing, and NaN is only within ``$gte`` and ``$lte`` of NaN.

**Lists.** A condition on a scalar, ``$type`` and ``$regex`` also match a list with such an element.

**Paths.** A dotted path goes through maps, and through lists to the maps in them. A key that is
literally the rest of the path comes first. A path that leads to no value is absent.

**Negations** are exact: ``$ne``, ``$nin`` and ``$not`` match where the field is absent, unless None
is among the excluded values.

**Literals** are compared in the form in which documents store them:

====================  ==========================================================================
literal               compared as
====================  ==========================================================================
datetime, timestamp   a moment; without a zone in UTC
date                  the moment of its midnight in UTC
time                  an integer of nanoseconds since midnight
timedelta             an integer of nanoseconds
UUID                  its text
Decimal               a number, also with texts in the form in which decimals are stored
NumPy scalar          the value that it stands for
====================  ==========================================================================

The field ``_id`` is the document id, which is a string: ``{"_id": 1}`` stands for ``{"_id": "1"}``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.codec.predicate import (
    AllOf,
    AnyOf,
    Bound,
    Condition,
    Element,
    Exists,
    HasType,
    Matches,
    Not,
    OneOf,
    Order,
    Predicate,
    Size,
    ValueType,
    any_of,
    is_container,
    paths_of,
)
from godb_arrow.errors import DepthExceeded, InvalidDocument, InvalidFilter
from godb_arrow.query.fields import is_storable
from godb_arrow.schema import ID_FIELD

__all__ = ["Range", "alternatives", "compile_filter", "named_paths"]

_MAX_LEVELS = 100  # of nesting of a filter
_MAX_EXPONENT = 10_000  # decimal exponent of a literal

_TYPES: dict[str, ValueType] = {
    "null": ValueType.NULL,
    "bool": ValueType.BOOL,
    "int": ValueType.INT,
    "float": ValueType.FLOAT,
    "number": ValueType.INT | ValueType.FLOAT,
    "string": ValueType.STRING,
    "binary": ValueType.BINARY,
    "timestamp": ValueType.TIMESTAMP,
    "array": ValueType.ARRAY,
    "map": ValueType.MAP,
    "extension": ValueType.EXTENSION,
}
_SCHEMA_TYPES = {
    "int64": "int", "uint64": "int", "double": "float", "float64": "float", "list": "array",
    "struct": "map",
}  # fmt: skip
"""Names of the same types in schemas."""


class _Place(NamedTuple):
    """Position in a filter, and the field that a condition is on."""

    path: str | None
    level: int
    in_document: bool  # rather than in an element of a list

    def deeper(self) -> _Place:
        if self.level == _MAX_LEVELS:
            raise InvalidFilter(
                f"the filter nests deeper than {_MAX_LEVELS} levels", advice="reduce the nesting"
            )
        return self._replace(level=self.level + 1)

    @property
    def is_id(self) -> bool:
        return self.in_document and self.path == ID_FIELD

    def __str__(self) -> str:
        return "an element" if self.path is None else f"the field {self.path!r}"


def compile_filter(filter: Mapping[str, Any]) -> Predicate:
    """Compile a mapping filter to a predicate over documents.

    Parameters
    ----------
    filter : mapping
        Conditions on fields, as the module's tables say.

    Returns
    -------
    Predicate

    Raises
    ------
    InvalidFilter
        An operator is unknown or has a wrong operand, or a literal cannot be stored.

    Examples
    --------
    >>> compile_filter({"age": {"$gte": 18}, "city": ["Rome", "Paris"]}).fields
    ('age', 'city')
    """
    return Predicate(_filter(filter, _Place(None, 0, in_document=True)))


def _filter(filter: Any, place: _Place) -> Condition:
    if not isinstance(filter, Mapping):
        raise InvalidFilter(
            f"a filter is a mapping, and here is {_shown(filter)}",
            advice='write {"field": value}',
        )
    place = place.deeper()
    return _all_of(_named(name, filter[name], place) for name in filter)


def _named(name: Any, condition: Any, place: _Place) -> Condition:
    if not isinstance(name, str):
        raise InvalidFilter(
            f"the field name {_shown(name)} is no string", advice="write field names as strings"
        )
    if not is_storable(name):
        raise InvalidFilter(
            f"the field name {name!r} has half of a surrogate pair", advice="check the name"
        )
    if not name.startswith("$"):
        return _condition(condition, place._replace(path=name))
    if name == "$not":
        return Not(_filter(condition, place))
    if name not in _COMBINING:
        raise _unknown(name, {*_COMBINING, "$not"}, "in place of a field")
    if isinstance(condition, Mapping) or not _is_list(condition):
        raise InvalidFilter(
            f"{name} has {_shown(condition)}", advice=f'write {{"{name}": [filter, …]}}'
        )
    return _COMBINING[name](tuple(_filter(one, place) for one in condition))


_COMBINING: dict[str, Callable[[tuple[Condition, ...]], Condition]] = {
    "$and": AllOf,
    "$or": any_of,
    "$nor": lambda filters: Not(any_of(filters)),
}


def _all_of(conditions: Iterable[Condition]) -> Condition:
    found = tuple(conditions)
    return found[0] if len(found) == 1 else AllOf(found)


def _condition(value: Any, place: _Place) -> Condition:
    """Return the condition that a value of a filter stands for."""
    place = place.deeper()
    if isinstance(value, Mapping):
        operators = [key for key in value if isinstance(key, str) and key.startswith("$")]
        if not operators:
            return OneOf(place.path, (_literal(value, place),))
        if len(operators) < len(value):
            other = next(key for key in value if key not in operators)
            raise InvalidFilter(
                f"{place} has the operator {operators[0]!r} beside the name {other!r}",
                advice=f"use operators only ({_list_of(_OPERATORS)}), or a dotted path",
            )
        return _all_of(_operator(name, value[name], place) for name in operators)
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    if _is_list(value):
        return _one_of(value, place)
    return OneOf(place.path, (_literal(value, place),))


def _operator(name: str, operand: Any, place: _Place) -> Condition:
    make = _OPERATORS.get(name)
    if make is None:
        if name in _COMBINING:
            raise InvalidFilter(
                f"{name} stands inside the condition of {place}",
                advice=f'combine whole filters: {{"{name}": [{{"field": condition}}, …]}}',
            )
        advice = "; for options of $regex write them into the pattern, such as (?i)"
        raise _unknown(name, _OPERATORS, f"of {place}", advice if name == "$options" else "")
    return make(operand, place)


def _unknown(name: str, known: Iterable[str], where: str, hint: str = "") -> InvalidFilter:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {near[0]}? " if near else ""
    return InvalidFilter(
        f"there is no operator {name!r} {where}",
        advice=f"{advice}the operators are {_list_of(known)}{hint}",
    )


def _list_of(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _one_of(values: Any, place: _Place) -> Condition:
    return OneOf(place.path, tuple(_literal(_plain(value), place) for value in values))


def _any_value(operand: Any, place: _Place) -> Condition:
    return OneOf(place.path, (_literal(operand, place, exact=True),))


def _in(operand: Any, place: _Place) -> Condition:
    return _one_of(_values("$in", operand, place), place)


def _not_in(operand: Any, place: _Place) -> Condition:
    return Not(_one_of(_values("$nin", operand, place), place))


def _values(name: str, operand: Any, place: _Place) -> Any:
    operand = _plain(operand)
    if isinstance(operand, Mapping) or not _is_list(operand):
        raise InvalidFilter(
            f"{name} of {place} has {_shown(operand)}", advice=f'write {{"{name}": [value, …]}}'
        )
    return operand


def _bound(order: Order) -> Callable[[Any, _Place], Condition]:
    def make(operand: Any, place: _Place) -> Condition:
        literal = _stored(operand, place)
        has_order = isinstance(
            literal, (int, float, Decimal, str, bytes, msgpack.Timestamp)
        ) and not isinstance(literal, bool)
        return Bound(place.path, order, literal) if has_order else AnyOf(())

    return make


def _exists(operand: Any, place: _Place) -> Condition:
    if isinstance(operand, np.bool_):
        operand = bool(operand)
    if operand is not True and operand is not False and operand not in (0, 1):
        raise InvalidFilter(
            f"$exists of {place} has {_shown(operand)}", advice="write True or False"
        )
    return Exists(place.path) if operand else Not(Exists(place.path))


def _type(operand: Any, place: _Place) -> Condition:
    types = ValueType(0)
    for name in [operand] if isinstance(operand, str) else _values("$type", operand, place):
        found = _TYPES.get(_SCHEMA_TYPES.get(name, name)) if isinstance(name, str) else None
        if found is None:
            import difflib

            near = difflib.get_close_matches(str(name), _TYPES, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InvalidFilter(
                f"$type of {place} has {_shown(name)}",
                advice=f"{hint}the types are {', '.join(_TYPES)}",
            )
        types |= found
    return HasType(place.path, types)


def _regex(operand: Any, place: _Place) -> Condition:
    if not isinstance(operand, str):
        raise InvalidFilter(
            f"$regex of {place} has {_shown(operand)}", advice="write the pattern as a string"
        )
    pattern = str(operand)
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except (pa.ArrowException, UnicodeError) as error:
        raise InvalidFilter(
            f"$regex of {place} has the pattern {_shown(pattern)}: {error}",
            advice="write it in the syntax of RE2",
        ) from error
    return Matches(place.path, pattern)


def _all(operand: Any, place: _Place) -> Condition:
    found: list[Condition] = []
    for value in _values("$all", operand, place):
        if isinstance(value, Mapping) and list(value) == ["$elemMatch"]:
            found.append(_element(value["$elemMatch"], place.deeper()))
        else:
            found.append(OneOf(place.path, (_literal(_plain(value), place),), contained=True))
    return _all_of(found) if found else AnyOf(())


def _element(operand: Any, place: _Place) -> Condition:
    if not isinstance(operand, Mapping):
        raise InvalidFilter(
            f"$elemMatch of {place} has {_shown(operand)}",
            advice="write operators, or a filter of the elements' fields",
        )
    within = place._replace(path=None, in_document=False)
    if operand and all(name in _OPERATORS for name in operand):
        return Element(place.path, _condition(operand, within), is_map=False)
    unknown = [
        name for name in operand
        if isinstance(name, str) and name.startswith("$") and name not in _COMBINING
    ]  # fmt: skip
    if unknown:
        if unknown[0] not in _OPERATORS:
            raise _unknown(unknown[0], {*_OPERATORS, *_COMBINING}, f"of an element of {place}")
        raise InvalidFilter(
            f"$elemMatch of {place} has the operator {unknown[0]!r} beside names",
            advice=f"use operators only ({_list_of(_OPERATORS)}), or names only",
        )
    return Element(place.path, _filter(operand, within), is_map=True)


def _size(operand: Any, place: _Place) -> Condition:
    operand = operand.item() if isinstance(operand, np.generic) else operand
    is_count = isinstance(operand, int) and not isinstance(operand, bool) and operand >= 0
    if not is_count:
        raise InvalidFilter(
            f"$size of {place} has {_shown(operand)}", advice="write an integer of at least 0"
        )
    return Size(place.path, operand)


def _not(operand: Any, place: _Place) -> Condition:
    return Not(_condition(operand, place))


_OPERATORS: dict[str, Callable[[Any, _Place], Condition]] = {
    "$eq": _any_value,
    "$ne": lambda operand, place: Not(_any_value(operand, place)),
    "$gt": _bound(Order.GREATER),
    "$gte": _bound(Order.GREATER | Order.EQUAL),
    "$lt": _bound(Order.LESS),
    "$lte": _bound(Order.LESS | Order.EQUAL),
    "$in": _in,
    "$nin": _not_in,
    "$exists": _exists,
    "$type": _type,
    "$regex": _regex,
    "$all": _all,
    "$elemMatch": _element,
    "$size": _size,
    "$not": _not,
}


# --- literals -----------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    return value.as_py() if isinstance(value, pa.Scalar) else value


def _is_list(value: Any) -> bool:
    """Return whether a value is a collection of values, rather than one."""
    return isinstance(value, Iterable) and not isinstance(
        value, (str, bytes, bytearray, memoryview, Mapping, np.generic, msgpack.ExtType, pa.Scalar)
    )


def _literal(value: Any, place: _Place, *, exact: bool = False) -> Any:
    """Return a literal in the form in which documents store it.

    With `exact`, a map may have keys that look like operators.
    """
    found = _stored(value, place)
    if not exact:
        _check_no_operators(found, place)
    is_number = isinstance(found, int) and not isinstance(found, bool)
    return str(found) if place.is_id and is_number else found


def _stored(value: Any, place: _Place) -> Any:
    value = _plain(value)
    if isinstance(value, np.generic) and value.dtype.kind in "iufb":
        value = value.item()
    if isinstance(value, (bool, type(None))):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Decimal):
        if value.is_finite() and abs(value.adjusted()) > _MAX_EXPONENT:
            raise InvalidFilter(
                f"{place} is compared with {_shown(value)}",
                advice=f"use exponents of at most {_MAX_EXPONENT}",
            )
        return Decimal("NaN") if value.is_nan() else value
    if _is_list(value) and not isinstance(value, (list, tuple)):
        value = list(value)
    try:
        return codec.load_pairs(codec.pack(value))
    except (InvalidDocument, DepthExceeded) as error:
        raise InvalidFilter(
            f"{place} is compared with {_shown(value)}, which no document can hold: "
            f"{error.message}",
            advice="compare it with a value that can be stored",
        ) from error


def _check_no_operators(literal: Any, place: _Place) -> None:
    pending = [literal]
    while pending:
        value = pending.pop()
        if not is_container(value):
            continue
        if isinstance(value, tuple):
            for key, _ in value:
                if isinstance(key, str) and key.startswith("$"):
                    raise InvalidFilter(
                        f"{place} is compared with a map that has the key {key!r}",
                        advice="write operators beside the field, or on a dotted path into the "
                        'map; {"$eq": map} compares with such a map',
                    )
            pending += [item for _, item in value]
        else:
            pending += value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


# --- what a predicate needs ---------------------------------------------------------------------


class Range(NamedTuple):
    """Values of a field, one of which a matching document has.

    Attributes
    ----------
    field : str
        The field, or a dotted path. A list counts with each of its elements.
    low, high : object
        Min and max value, as documents store them: a number, bool, str, bytes or
        ``msgpack.Timestamp``. None for no bound, within the kind of the other one. With None for
        both, the field is null or absent.
    """

    field: str
    low: Any
    high: Any

    @property
    def is_null(self) -> bool:
        """Whether the field is null or absent."""
        return self.low is None and self.high is None


def alternatives(predicate: Predicate) -> list[tuple[Range, ...]]:
    """Return conditions that each matching document fulfils, for indexes to name candidates.

    Parameters
    ----------
    predicate : Predicate
        The predicate.

    Returns
    -------
    list of tuple of Range
        A matching document has a value in at least one range of each tuple. An empty tuple means
        that no document matches; an empty list, that nothing is known.

    Examples
    --------
    >>> age, cities = alternatives(compile_filter({"age": {"$gte": 18}, "city": ["Rome", "Oslo"]}))
    >>> [(one.field, one.low, one.high) for one in (*age, *cities)]
    [('age', 18, None), ('city', 'Rome', 'Rome'), ('city', 'Oslo', 'Oslo')]
    """
    return _alternatives(predicate.condition)


def _alternatives(condition: Condition) -> list[tuple[Range, ...]]:
    if isinstance(condition, AllOf):
        return [found for one in condition.conditions for found in _alternatives(one)]
    if isinstance(condition, AnyOf):
        # Of each condition that may hold, the one that names the fewest ranges.
        joined: tuple[Range, ...] = ()
        for one in condition.conditions:
            found = _alternatives(one)
            if not found:
                return []
            joined += min(found, key=len)
        return [joined]
    if isinstance(condition, OneOf) and condition.path is not None:
        if any(is_container(one) or isinstance(one, (Decimal, msgpack.ExtType))
               for one in condition.literals):  # fmt: skip
            return []
        return [tuple(Range(condition.path, one, one) for one in condition.literals)]
    if isinstance(condition, Bound) and condition.path is not None:
        path, order, literal = condition.path, condition.order, condition.literal
        if isinstance(literal, Decimal):
            return []
        includes = bool(order & Order.EQUAL)
        if isinstance(literal, float) and math.isnan(literal):  # only NaN is within these bounds
            return [(Range(path, literal, literal),) if includes else ()]
        if order & Order.GREATER:
            return [(Range(path, literal, None),)]
        return [(Range(path, None, literal),)]
    if isinstance(condition, Element) and condition.path is not None and not condition.is_map:
        path = condition.path
        return [
            tuple(one._replace(field=path) for one in found)
            for found in _alternatives(_at_path(condition.condition, path))
            if not any(one.is_null for one in found)
        ]
    return []


def _at_path(condition: Condition, path: str) -> Condition:
    """Return the conditions of an element as conditions on the list's field."""
    if isinstance(condition, AllOf):
        return AllOf(tuple(_at_path(one, path) for one in condition.conditions))
    if isinstance(condition, OneOf) and not condition.contained and condition.path is None:
        return OneOf(path, condition.literals)
    if isinstance(condition, Bound) and condition.path is None:
        return Bound(path, condition.order, condition.literal)
    return AllOf(())


def named_paths(predicate: Predicate) -> list[str]:
    """Return the fields and dotted paths that a predicate names, in order."""
    return list(dict.fromkeys(paths_of(predicate.condition)))
