"""Compilation of predicates to the kernel's programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from operator import itemgetter
from typing import Any

import msgpack
import pyarrow as pa

import godb_arrow.codec.native._native as _native  # noqa: PLR0402 (mypy knows it by this name)
from godb_arrow.arrow_compute import pc
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
    Predicate,
    Size,
    decimal_digits,
    exact_number,
    is_container,
    prefixes,
)
from godb_arrow.codec.values import pack
from godb_arrow.schema import ID_FIELD

__all__ = ["compile_program"]

_MAX_COMPARED_LITERALS = 8
"""Maximum number of literals that are compared one by one; more are looked up in a set."""

_MIN_JOINED = 9
"""Minimum number of values of ``$all`` that are looked for in one pass over a list."""


@dataclass(frozen=True, slots=True)
class _Every:
    """A list that contains all of some literals."""

    path: str | None
    literals: tuple[Any, ...]


_BELOW_INT64, _ABOVE_UINT64, _MAX_UINT64 = -(2**63) - 1, 2**64, 2**64 - 1
_OPS: dict[type, int] = {
    AllOf: 0, AnyOf: 1, Not: 2, OneOf: 3, Bound: 4, Exists: 5, HasType: 6, Matches: 7, Size: 8,
    Element: 9, _Every: 10,
}  # fmt: skip


def compile_program(predicate: Predicate) -> Any:
    """Compile a predicate to a program of the kernel."""
    patterns: list[str] = []
    plan = _plan(predicate.condition, predicate.fields, patterns)

    def match(pattern: int, offsets: bytes, texts: bytes) -> bytes:
        count = len(offsets) // 8 - 1
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(texts)]
        asked = pa.Array.from_buffers(pa.large_string(), count, buffers)
        found = pc.match_substring_regex(asked, patterns[pattern]).cast(pa.uint8())
        answers: bytes = found.to_numpy().tobytes()
        return answers

    names = [name.encode("utf-8", "surrogateescape") for name in predicate.fields]
    return _native.Program(plan, names, len(patterns), match)


def _plan(
    condition: Condition | _Every, fields: Sequence[str], patterns: list[str]
) -> dict[str, Any]:
    """Return a condition as attributes of the kernel's condition."""
    plan: dict[str, Any] = {
        "op": _OPS[type(condition)], "children": [], "has_pattern": False, "is_self": False,
        "is_id": False, "path": b"", "ends": (), "located": (), "literals": (), "numbers": (),
        "scalars": (), "containers": (), "every": (), "decimals": (), "few": True,
        "contained": False, "accepts_absent": False, "order": 0, "types": 0, "count": 0,
        "is_map": False, "pattern": 0,
    }  # fmt: skip
    children: tuple[Condition | _Every, ...] = ()
    if isinstance(condition, (AllOf, AnyOf)):
        children = condition.conditions
        if isinstance(condition, AllOf):
            children = _joined(children)
    elif isinstance(condition, (Not, Element)):
        children = (condition.condition,)
    plan["children"] = [_plan(child, fields, patterns) for child in children]
    if not isinstance(condition, Not):
        # What is cheap decides first, and pattern matching is asked for as few texts as possible.
        plan["children"].sort(key=itemgetter("has_pattern"))
    plan["has_pattern"] = any(child["has_pattern"] for child in plan["children"])
    if isinstance(condition, (AllOf, AnyOf, Not)):
        return plan
    if condition.path is None:
        plan["is_self"] = True
    else:
        heads = prefixes(condition.path)
        plan["is_id"] = condition.path == ID_FIELD
        plan["path"] = condition.path.encode("utf-8", "surrogateescape")
        plan["ends"] = [len(head.encode("utf-8", "surrogateescape")) for head in heads]
        known = {name: index for index, name in enumerate(fields)}
        plan["located"] = [known.get(head) for head in heads]
    return plan | _leaf_plan(condition, patterns)


def _leaf_plan(leaf: Leaf | _Every, patterns: list[str]) -> dict[str, Any]:
    if isinstance(leaf, OneOf):
        return _literals_plan(leaf)
    if isinstance(leaf, _Every):
        packed = [_packed(exact_number(one) if type(one) is int else one) for one in leaf.literals]
        return {
            "every": packed,
            "contained": True,
            "accepts_absent": all(one is None for one in leaf.literals),
        }
    if isinstance(leaf, Bound):
        literal = leaf.literal
        plain = _is_plain(literal)
        return {
            "order": int(leaf.order),
            "literals": [_packed(literal)] if plain else [],
            "numbers": [] if plain else [_number(literal)],
        }
    if isinstance(leaf, HasType):
        return {"types": int(leaf.types)}
    if isinstance(leaf, Matches):
        patterns.append(leaf.pattern)
        return {"pattern": len(patterns) - 1, "has_pattern": True}
    if isinstance(leaf, Size):
        return {"count": min(leaf.count, 2**64 - 1)}
    return {"is_map": leaf.is_map} if isinstance(leaf, Element) else {}


def _joined(conditions: tuple[Condition, ...]) -> tuple[Condition | _Every, ...]:
    """Join the values that one list must contain, which then take one pass over the list."""
    found: dict[str | None, list[Any]] = {}
    others: list[Condition | _Every] = []
    for one in conditions:
        if isinstance(one, OneOf) and one.contained and _is_joined(*one.literals):
            found.setdefault(one.path, []).append(one)
        else:
            others.append(one)
    for path, joined in found.items():
        if len(joined) < _MIN_JOINED:
            others += joined
        else:
            others.append(_Every(path, tuple(one.literals[0] for one in joined)))
    return tuple(others)


def _is_joined(literal: Any) -> bool:
    """Return whether the kernel compares a literal by its own bytes."""
    if type(literal) is int:
        return exact_number(literal) is not None
    return type(literal) is not Decimal


def _literals_plan(leaf: OneOf) -> dict[str, Any]:
    stored: list[Any] = []
    decimals = []
    for literal in leaf.literals:
        digits = decimal_digits(format(literal, "f")) if type(literal) is Decimal else None
        if digits is not None:
            negative, whole, fraction = digits
            decimals.append(f"{'-' * negative}{whole}.{fraction}".encode())
        number = exact_number(literal) if type(literal) in (int, Decimal) else literal
        if number is not None or literal is None:
            stored.append(number)
    scalars = [literal for literal in stored if not is_container(literal)]
    few = len(scalars) <= _MAX_COMPARED_LITERALS and not any(
        isinstance(literal, msgpack.ExtType) for literal in scalars
    )
    packed = [_packed(literal) for literal in scalars]
    return {
        "literals": packed if few else [],
        "scalars": [] if few else packed,
        "containers": [_packed(literal) for literal in stored if is_container(literal)],
        "decimals": decimals,
        "few": few,
        "contained": leaf.contained,
        "accepts_absent": None in scalars,
    }


def _is_plain(literal: Any) -> bool:
    """Return whether MessagePack has a literal."""
    if type(literal) is int:
        return bool(-(2**63) <= literal < 2**64)
    return type(literal) is not Decimal


def _number(literal: int | Decimal) -> tuple[int, int, bool, float, float, bytes | None]:
    """Return a number's place among integers and among reals, and the text of a decimal."""
    text = format(literal, "f").encode() if type(literal) is Decimal else None
    if type(literal) is Decimal and not literal.is_finite():
        real = float(literal)
        below = _BELOW_INT64 if real < 0 else _ABOVE_UINT64
        return below >> 64, below & _MAX_UINT64, False, real, real, text
    exact = Fraction(literal)
    below = max(min(math.floor(exact), _ABOVE_UINT64), _BELOW_INT64)
    try:
        nearest = float(exact)
    except OverflowError:
        nearest = math.inf if exact > 0 else -math.inf
    low = high = nearest
    if math.isinf(nearest) or Fraction(nearest) != exact:
        if nearest > exact:
            low = math.nextafter(nearest, -math.inf)
        else:
            high = math.nextafter(nearest, math.inf)
    return below >> 64, below & _MAX_UINT64, below == exact, low, high, text


def _packed(literal: Any) -> bytes:
    """Return the MessagePack of a literal, whose maps are tuples of pairs."""
    if not is_container(literal):
        return pack(literal)
    packer = msgpack.Packer()
    if isinstance(literal, tuple):
        parts = [_packed(part) for pair in literal for part in pair]
        return bytes(packer.pack_map_header(len(literal))) + b"".join(parts)
    head = bytes(packer.pack_array_header(len(literal)))
    return head + b"".join(map(_packed, literal))
