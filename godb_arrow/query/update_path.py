"""Places in documents that dotted paths of updates lead to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from godb_arrow.errors import InvalidUpdate

__all__ = ["ABSENT", "Place", "place_at"]

ABSENT = object()
"""Value of a field that a document does not have."""

_MAX_PADDING = 1_500_000
"""Max nulls that fill a list up to an index, as in MongoDB."""


class Place:
    """Place of one value: a key of a map, or an index of a list.

    Parameters
    ----------
    container : dict or list
        Map or list that has the value.
    key : str or int
        Key or index. An index may be beyond the end.
    """

    __slots__ = ("container", "key")

    def __init__(self, container: Any, key: Any) -> None:
        self.container = container
        self.key = key

    def get(self) -> Any:
        """Return the value, or ABSENT."""
        if isinstance(self.container, dict):
            return self.container.get(self.key, ABSENT)
        return self.container[self.key] if self.key < len(self.container) else ABSENT

    def set(self, value: Any) -> None:
        """Set the value; nulls fill a list up to its index."""
        if isinstance(self.container, list):
            missing = self.key + 1 - len(self.container)
            if missing > 0:
                self.container.extend([None] * missing)
        self.container[self.key] = value

    def unset(self) -> None:
        """Remove a key of a map; an element of a list becomes null, so that others stay."""
        if isinstance(self.container, dict):
            self.container.pop(self.key, None)
        elif self.key < len(self.container):
            self.container[self.key] = None


def place_at(document: dict[Any, Any], parts: Sequence[str], *, create: bool) -> Place | None:
    """Find the place of a dotted path.

    A key of a map that is literally the rest of the path comes first. A number leads to an element
    of a list.

    Parameters
    ----------
    document : dict
        The document.
    parts : sequence of str
        Parts of the path.
    create : bool
        Whether to create maps that are missing on the way.

    Returns
    -------
    Place or None
        None if nothing is there, and nothing is created.

    Raises
    ------
    InvalidUpdate
        A value on the way is neither a map nor a list, and cannot have a field.
    """
    container: Any = document
    for at, part in enumerate(parts):
        is_last = at == len(parts) - 1
        if isinstance(container, dict):
            rest = part if is_last else ".".join(parts[at:])
            if is_last or rest in container:
                return Place(container, rest)
            key: Any = part
            inner = container.get(part, ABSENT)
        elif isinstance(container, list) and part.isdecimal():
            key = int(part)
            if key >= len(container) + _MAX_PADDING and create:
                raise InvalidUpdate(
                    f"the index {key} of {'.'.join(parts)!r} is far beyond the end of the list",
                    advice="append with $push",
                )
            if is_last:
                return Place(container, key)
            inner = container[key] if key < len(container) else ABSENT
        elif create:
            raise _no_container(parts, at, container)
        else:
            return None
        if inner is ABSENT:
            if not create:
                return None
            inner = {}
            Place(container, key).set(inner)
        container = inner
    return None


def _no_container(parts: Sequence[str], at: int, value: Any) -> InvalidUpdate:
    around, name = ".".join(parts[:at]), ".".join(parts)
    kind = "null" if value is None else type(value).__name__
    if isinstance(value, list):
        return InvalidUpdate(
            f"{name!r} names a field of {around!r}, which is a list",
            advice=f'give the number of an element, such as "{around}.0"',
        )
    return InvalidUpdate(
        f"{name!r} names a field of {around!r}, which is {kind} and no map",
        advice=f"set {around!r} to a map first, or unset it",
    )
