"""Update operators, which change documents as in MongoDB."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeAlias

from godb_arrow import codec
from godb_arrow.codec import PatchOperator, PatchStep
from godb_arrow.codec.predicate import Predicate
from godb_arrow.display import kind_of
from godb_arrow.errors import InvalidUpdate
from godb_arrow.query.predicate import compile_filter
from godb_arrow.query.update_path import ABSENT, Place, place_at
from godb_arrow.query.value_order import identity_of, place_of
from godb_arrow.schema import ID_FIELD

__all__ = ["Changes", "Update", "equalities_of", "has_operators"]

Changes: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Operators, each with its operand by dotted path, such as ``{"$set": {"address.zip": "1"}}``."""

_Step: TypeAlias = Callable[[dict[Any, Any]], bool]
"""Changes a document, and returns whether it did."""

_EACH_OPTIONS = frozenset(("$each", "$position", "$slice"))
_ADVICE = 'give operators, such as {"$set": {"name": "Ada"}}'


def has_operators(changes: Any) -> bool:
    """Return whether a mapping has update operators among its keys."""
    return isinstance(changes, Mapping) and any(
        isinstance(key, str) and key.startswith("$") for key in changes
    )


class Update:
    """Changes of a document by operators.

    Parameters
    ----------
    changes : mapping
        Operands by operator.

    Raises
    ------
    InvalidUpdate
        An operator is unknown, an operand has another type, or two operators change one place.
    """

    def __init__(self, changes: Changes) -> None:
        if not isinstance(changes, Mapping) or not changes:
            raise InvalidUpdate(f"the changes are {changes!r}", advice=_ADVICE)
        self._steps: list[_Step] = []
        self._on_insert: list[_Step] = []
        paths: list[str] = []
        for operator, operands in changes.items():
            make = _OPERATORS.get(operator) if isinstance(operator, str) else None
            if make is None:
                known = ", ".join(_OPERATORS)
                raise InvalidUpdate(
                    f"{operator!r} is no update operator", advice=f"the operators are {known}"
                )
            if not isinstance(operands, Mapping):
                raise InvalidUpdate(
                    f"the operand of {operator} is {operands!r}",
                    advice=f'give a mapping, such as {{"{operator}": {{"field": …}}}}',
                )
            steps = self._on_insert if operator == "$setOnInsert" else self._steps
            for path, operand in operands.items():
                paths += _checked_paths(operator, path, operand)
                steps.append(make(path, operand))
        _check_conflicts(paths)
        self._patch = _patch_steps(changes)

    @property
    def patch(self) -> tuple[PatchStep, ...] | None:
        """Steps with the same result on MessagePack; None if documents must be decoded."""
        return self._patch

    def apply(self, document: dict[Any, Any]) -> bool:
        """Change a document in place, and return whether anything changed.

        Raises
        ------
        InvalidUpdate
            A value has a type that an operator cannot change.
        """
        changed = False
        for step in self._steps:
            changed = step(document) or changed
        return changed

    def inserted(self, document: dict[Any, Any]) -> dict[Any, Any]:
        """Return the document that an upsert inserts, from the equalities of its filter."""
        for step in (*self._on_insert, *self._steps):
            step(document)
        return document


def _checked_paths(operator: str, path: Any, operand: Any) -> list[str]:
    """Return the paths that an operator changes."""
    paths = [path, operand] if operator == "$rename" else [path]
    for name in paths:
        if not isinstance(name, str) or not name or "" in name.split("."):
            raise InvalidUpdate(
                f"{operator} names the field {name!r}", advice="give a name, or a dotted path"
            )
        first = name.split(".")[0]
        if first == ID_FIELD and not (operator in ("$set", "$setOnInsert") and name == ID_FIELD):
            raise _id_error(operator)
    return paths


def _id_error(operator: str) -> InvalidUpdate:
    return InvalidUpdate(
        f"{operator} would change {ID_FIELD!r}", advice="an id never changes; insert a new document"
    )


def _check_conflicts(paths: Sequence[str]) -> None:
    seen: set[str] = set()
    for path in sorted(paths, key=lambda name: name.count(".")):
        parts = path.split(".")
        for count in range(1, len(parts) + 1):
            around = ".".join(parts[:count])
            if around in seen:
                raise InvalidUpdate(
                    f"the changes name {path!r} and {around!r}, which conflict",
                    advice="change each field by one operator",
                )
        seen.add(path)


# --- changes of MessagePack -----------------------------------------------------------------------

_PATCH_OPERATORS = {
    "$set": PatchOperator.SET,
    "$unset": PatchOperator.UNSET,
    "$inc": PatchOperator.INC,
    "$min": PatchOperator.MIN,
    "$max": PatchOperator.MAX,
}
_MAX_PATCH_DEPTH = 32  # levels of a path, and of its new value, which leaves room for others


def _patch_steps(changes: Changes) -> tuple[PatchStep, ...] | None:
    """Return the steps of checked changes; None if they need more than the steps can do."""
    steps = []
    for name, operands in changes.items():
        if name == "$setOnInsert":
            continue
        operator = _PATCH_OPERATORS.get(name)
        if operator is None:
            return None
        for path, operand in operands.items():
            step = _patch_step(operator, path, operand)
            if step is None:
                return None
            steps.append(step)
    return tuple(steps)


def _patch_step(operator: PatchOperator, path: str, operand: Any) -> PatchStep | None:
    parts = path.split(".")
    if path == ID_FIELD or len(parts) > _MAX_PATCH_DEPTH:
        return None
    raw = b""
    if operator is not PatchOperator.UNSET:
        value = _stored(operand)
        if operator is PatchOperator.SET:
            is_possible = _depth_of(value) <= _MAX_PATCH_DEPTH
        else:
            is_possible = _is_number(value) and not math.isnan(value)
        if not is_possible:
            return None
        raw = codec.pack(value)
    try:
        names = tuple(part.encode("utf-8", "surrogateescape") for part in parts)
    except UnicodeEncodeError:
        return None
    return PatchStep(operator, names, raw)


def _depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if not isinstance(value, (list, tuple)):
        return 0
    return 1 + max(map(_depth_of, value), default=0)


# --- operators ----------------------------------------------------------------------------------


def _set(path: str, value: Any) -> _Step:
    if path == ID_FIELD:
        return _keep_id(value)
    parts = path.split(".")
    value = _stored(value)
    is_scalar = type(value) in (str, int, bytes, bool, type(None))

    def step(document: dict[Any, Any]) -> bool:
        place = _place(document, parts)
        before = place.get()
        if before is not ABSENT and _is_same(before, value):
            return False
        place.set(value if is_scalar else deepcopy(value))
        return True

    return step


def _stored(value: Any) -> Any:
    """Return a value as a document has it after it was stored, or raise InvalidDocument."""
    return codec.load(codec.pack({"value": value}))["value"]


def _keep_id(value: Any) -> _Step:
    def step(document: dict[Any, Any]) -> bool:
        if ID_FIELD in document and document[ID_FIELD] != str(value):
            raise _id_error("$set")
        document.setdefault(ID_FIELD, value)
        return False

    return step


def _unset(path: str, operand: Any) -> _Step:
    del operand
    parts = path.split(".")

    def step(document: dict[Any, Any]) -> bool:
        place = place_at(document, parts, create=False)
        if place is None or place.get() is ABSENT:
            return False
        if isinstance(place.container, list) and place.get() is None:
            return False
        place.unset()
        return True

    return step


def _inc(path: str, amount: Any) -> _Step:
    amount = _stored(amount)
    if not _is_number(amount):
        raise InvalidUpdate(f"$inc of {path!r} is {amount!r}", advice="give a number")
    parts = path.split(".")

    def step(document: dict[Any, Any]) -> bool:
        place = _place(document, parts)
        before = place.get()
        if before is ABSENT:
            place.set(amount)
            return True
        if not _is_number(before):
            raise _wrong_kind("$inc", path, before, "a number")
        place.set(before + amount)
        return not _is_same(before, before + amount)

    return step


def _extreme(*, wants_max: bool) -> Callable[[str, Any], _Step]:
    def make(path: str, value: Any) -> _Step:
        value = _stored(value)
        parts, wanted = path.split("."), place_of(value)

        def step(document: dict[Any, Any]) -> bool:
            place = _place(document, parts)
            before = place.get()
            if before is not ABSENT:
                own = place_of(before)
                if not (wanted > own if wants_max else wanted < own):
                    return False
            place.set(deepcopy(value))
            return True

        return step

    return make


def _rename(path: str, target: Any) -> _Step:
    source_parts, target_parts = path.split("."), str(target).split(".")

    def step(document: dict[Any, Any]) -> bool:
        place = place_at(document, source_parts, create=False)
        if place is None or place.get() is ABSENT:
            return False
        if _is_in_list(document, source_parts) or _is_in_list(document, target_parts):
            raise InvalidUpdate(
                f"$rename of {path!r} to {target!r} leads into a list",
                advice="set the elements of the list",
            )
        new, value = _place(document, target_parts), place.get()
        place.unset()
        new.set(value)
        return True

    return step


def _is_in_list(document: Any, parts: Sequence[str]) -> bool:
    """Return whether a path leads through a list."""
    for part in parts:
        if isinstance(document, list):
            return True
        document = document.get(part) if isinstance(document, dict) else None
    return False


def _push(path: str, operand: Any) -> _Step:
    values, position, size = _each_of("$push", path, operand)
    parts = path.split(".")

    def step(document: dict[Any, Any]) -> bool:
        place, elements = _list_at(document, parts, "$push", path)
        is_new = place.get() is ABSENT
        after = elements[:]
        at = len(after) if position is None else position
        after[at:at] = deepcopy(values)
        if size is not None:
            after = after[:size] if size >= 0 else after[size:]
        place.set(after)
        return is_new or not _is_same(elements, after)

    return step


def _add_to_set(path: str, operand: Any) -> _Step:
    values, position, size = _each_of("$addToSet", path, operand)
    if position is not None or size is not None:
        raise InvalidUpdate(f"$addToSet of {path!r} has a position", advice="give $each alone")
    parts = path.split(".")

    def step(document: dict[Any, Any]) -> bool:
        place, elements = _list_at(document, parts, "$addToSet", path)
        known = set(map(identity_of, elements))
        new = {identity: one for one in values if (identity := identity_of(one)) not in known}
        if not new and place.get() is not ABSENT:
            return False
        place.set([*elements, *deepcopy([*new.values()])])
        return True

    return step


def _each_of(operator: str, path: str, operand: Any) -> tuple[list[Any], int | None, int | None]:
    """Return the values to add to a list, their position, and the size to cut the list to."""
    if not has_operators(operand):
        return [_stored(operand)], None, None
    unknown = [name for name in operand if name not in _EACH_OPTIONS]
    values = operand.get("$each")
    if unknown or not isinstance(values, (list, tuple)):
        raise InvalidUpdate(
            f"{operator} of {path!r} is {operand!r}",
            advice='give a value, or {"$each": [values], "$position": 0, "$slice": 10}',
        )
    numbers = [operand.get("$position"), operand.get("$slice")]
    if any(number is not None and type(number) is not int for number in numbers):
        raise InvalidUpdate(
            f"$position and $slice of {path!r} are {numbers}", advice="give whole numbers"
        )
    return _stored(list(values)), numbers[0], numbers[1]


def _pull(path: str, operand: Any) -> _Step:
    parts = path.split(".")
    is_pulled = _element_test(operand)

    def step(document: dict[Any, Any]) -> bool:
        place = place_at(document, parts, create=False)
        elements = ABSENT if place is None else place.get()
        if place is None or elements is ABSENT:
            return False
        if not isinstance(elements, list):
            raise _wrong_kind("$pull", path, elements, "a list")
        kept = [one for one in elements if not is_pulled(one)]
        if len(kept) == len(elements):
            return False
        place.set(kept)
        return True

    return step


def _element_test(operand: Any) -> Callable[[Any], bool]:
    """Return a function for whether an element of a list matches a value or a condition."""
    if has_operators(operand):
        matches = _matcher({"e": operand})
        return lambda element: matches({"e": element})
    if isinstance(operand, Mapping):
        matches = _matcher(operand)
        return lambda element: isinstance(element, dict) and matches(element)
    wanted = identity_of(_stored(operand))
    return lambda element: bool(identity_of(element) == wanted)


def _matcher(condition: Mapping[str, Any]) -> Callable[[dict[Any, Any]], bool]:
    predicate: Predicate = compile_filter(condition)

    def matches(document: dict[Any, Any]) -> bool:
        raw = codec.pack_entry("", document)
        return bool(len(codec.select(codec.scan_entries(raw, 0, 1, len(raw) + 1, 0), predicate)))

    return matches


_OPERATORS: dict[str, Callable[[str, Any], _Step]] = {
    "$set": _set,
    "$unset": _unset,
    "$inc": _inc,
    "$min": _extreme(wants_max=False),
    "$max": _extreme(wants_max=True),
    "$rename": _rename,
    "$push": _push,
    "$addToSet": _add_to_set,
    "$pull": _pull,
    "$setOnInsert": _set,
}


def _place(document: dict[Any, Any], parts: Sequence[str]) -> Place:
    if len(parts) == 1:
        return Place(document, parts[0])
    place = place_at(document, parts, create=True)
    assert place is not None
    return place


def _list_at(
    document: dict[Any, Any], parts: Sequence[str], operator: str, path: str
) -> tuple[Place, list[Any]]:
    place = _place(document, parts)
    elements = place.get()
    if elements is ABSENT:
        return place, []
    if not isinstance(elements, list):
        raise _wrong_kind(operator, path, elements, "a list")
    return place, elements


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_same(first: Any, second: Any) -> bool:
    """Return whether two values are stored alike."""
    if type(first) in (str, int, bytes, bool, type(None)):
        return type(first) is type(second) and first == second
    return codec.pack({"value": first}) == codec.pack({"value": second})


def _wrong_kind(operator: str, path: str, value: Any, wanted: str) -> InvalidUpdate:
    kind = "null" if value is None else kind_of(value)
    return InvalidUpdate(
        f"{operator} needs {wanted} in {path!r}, and the value is {kind}",
        advice="exclude such documents by the filter, or $set the field",
    )


# --- upserts ------------------------------------------------------------------------------------


def equalities_of(filter: Any) -> dict[Any, Any]:
    """Return the document with the values that a filter requires: where an upsert begins.

    Parameters
    ----------
    filter : mapping or None
        Filter of the upsert.

    Raises
    ------
    InvalidUpdate
        The filter is no mapping.
    """
    if filter is None:
        return {}
    if not isinstance(filter, Mapping):
        raise InvalidUpdate(
            "an upsert takes its document from the filter, which is no mapping",
            advice='give a mapping, such as {"name": "Ada"}',
        )
    document: dict[Any, Any] = {}
    for path, value in _equalities(filter):
        place = _place(document, path.split("."))
        if place.get() is not ABSENT:
            raise InvalidUpdate(
                f"the filter of the upsert requires {path!r} twice", advice="require it once"
            )
        place.set(_stored(value))
    return document


def _equalities(filter: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for path, condition in filter.items():
        if path == "$and" and isinstance(condition, Sequence):
            for inner in condition:
                yield from _equalities(inner)
        elif path.startswith("$"):
            continue
        elif has_operators(condition):
            if "$eq" in condition:
                yield path, condition["$eq"]
        elif isinstance(condition, (list, tuple, set, frozenset)):
            continue  # any of several values
        else:
            yield path, condition
