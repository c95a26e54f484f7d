"""Shape of documents that a reader asks for: some of their fields, or all but some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from godb_arrow.errors import InvalidOption
from godb_arrow.query.fields import check_columns
from godb_arrow.schema import ID_FIELD

__all__ = ["Columns", "shape_of"]

Columns: TypeAlias = "Sequence[str] | Mapping[str, Any]"
"""Names of fields, or a mapping of names to 1 (with ``_id``) or 0 (without the field)."""

_Shape: TypeAlias = Callable[[dict[Any, Any]], dict[Any, Any]]
_Tree: TypeAlias = dict[str, Any]  # inner names by name; empty for a whole value


def shape_of(columns: Columns | None) -> _Shape | None:
    """Return a function that reduces documents to the wanted fields; None for whole documents.

    Parameters
    ----------
    columns : sequence of str, or mapping
        Fields, and dotted paths into maps. In a mapping, 1 keeps a field beside ``_id``, and 0
        drops a field. The two do not mix, but for ``_id``.

    Raises
    ------
    InvalidOption
    """
    if columns is None:
        return None
    if not isinstance(columns, Mapping):
        check_columns(columns)
        return lambda document: pick(document, columns)
    wanted = {name: _is_kept(name, value) for name, value in columns.items()}
    has_id = wanted.pop(ID_FIELD, True)
    kinds = set(wanted.values())
    if len(kinds) > 1:
        raise InvalidOption(
            "columns keeps fields and drops others", advice="give 1 for all of them, or 0"
        )
    if True in kinds:
        names = [*([ID_FIELD] if has_id else []), *wanted]
        tree = _tree_of(names)
        return lambda document: _with_only(document, tree)
    if not kinds and has_id and ID_FIELD in columns:
        return lambda document: pick(document, [ID_FIELD])
    tree = _tree_of([*([] if has_id else [ID_FIELD]), *wanted])
    return lambda document: _without(document, tree)


def _is_kept(name: Any, value: Any) -> bool:
    if not isinstance(name, str) or not name:
        raise InvalidOption(f"columns names the field {name!r}", advice="give a string")
    if not isinstance(value, (int, float)) or value not in (0, 1):
        raise InvalidOption(
            f"columns has {value!r} for {name!r}", advice="give 1 to keep the field, 0 to drop it"
        )
    return bool(value)


def _tree_of(names: Sequence[str]) -> _Tree:
    tree: _Tree = {}
    for name in names:
        at, parts = tree, name.split(".")
        for index, part in enumerate(parts):
            is_last = index == len(parts) - 1
            if part in at and (is_last or not at[part]):
                raise InvalidOption(
                    f"columns names {name!r} and a field around it", advice="name one of the two"
                )
            at = at.setdefault(part, {})
    return tree


def _without(document: dict[Any, Any], tree: _Tree) -> dict[Any, Any]:
    kept = {}
    for name, value in document.items():
        inner = tree.get(name)
        if inner is None:
            kept[name] = value
        elif inner:
            kept[name] = _each(value, inner, _without)
    return kept


def _with_only(document: dict[Any, Any], tree: _Tree) -> dict[Any, Any]:
    kept = {}
    for name, value in document.items():
        inner = tree.get(name)
        if inner is None:
            continue
        if not inner:
            kept[name] = value
        elif isinstance(value, (dict, list)):  # a scalar has no inner field
            kept[name] = _each(value, inner, _with_only)
    return kept


def _each(value: Any, tree: _Tree, reduced: Callable[[dict[Any, Any], _Tree], Any]) -> Any:
    """Reduce a map, or the maps in a list."""
    if isinstance(value, dict):
        return reduced(value, tree)
    if isinstance(value, list):
        is_kept = reduced is _without
        return [
            _each(one, tree, reduced) for one in value if is_kept or isinstance(one, (dict, list))
        ]
    return value


def pick(document: dict[Any, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Return some fields of a document, by name or dotted path, without absent ones."""
    picked = {}
    for name in columns:
        value: Any = document
        if name in document:
            picked[name] = document[name]
            continue
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            picked[name] = value
    return picked
