"""Extensions: objects that other packages add by entry points.

A package names its object in the table of a group in its ``pyproject.toml``, such as
``[project.entry-points."godb_arrow.formats"]``. It is imported when a caller first asks for its
name. ``docs/extension_points.md`` has an example for each group.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from godb_arrow.errors import InvalidOption

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUPS", "extension", "extension_names", "unknown_name"]

GROUPS = frozenset(
    f"godb_arrow.{kind}" for kind in ("compressions", "eviction_policies", "formats", "workers")
)
"""Groups of entry points."""


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; the environment is searched once."""
    from importlib.metadata import entry_points  # imported late, because it takes 15 ms

    return {entry.name: entry for entry in entry_points(group=group)}


@cache
def _load(group: str, name: str) -> Any:
    entry = _entries(group)[name]
    try:
        return entry.load()
    except Exception as error:  # Another package may raise anything while it is imported.
        raise InvalidOption(
            f"the extension {name!r} of {group} cannot be imported from {entry.value}: {error}",
            advice="install its package again, or remove the package",
        ) from error


def extension_names(group: str) -> list[str]:
    """Return the sorted names of a group's extensions.

    Parameters
    ----------
    group : str
        One of :data:`GROUPS`.
    """
    return sorted(_entries(group))


def extension(group: str, name: str) -> Any:
    """Return an extension, or None if no installed package has one of that name.

    Parameters
    ----------
    group : str
        One of :data:`GROUPS`.
    name : str
        Name of the extension.

    Raises
    ------
    InvalidOption
        The extension cannot be imported.

    Examples
    --------
    >>> extension("godb_arrow.formats", "unknown") is None
    True
    """
    return _load(group, name) if name in _entries(group) else None


def unknown_name(option: str, value: object, known: Iterable[str]) -> InvalidOption:
    """Return the error for a name that no built-in and no extension has.

    Examples
    --------
    >>> print(unknown_name("compression", "zst", ["lz4", "zstd"]))
    compression is 'zst'; did you mean 'zstd'? use one of lz4, zstd
    """
    names = list(known)
    import difflib

    near = difflib.get_close_matches(str(value).lower(), names, 1)
    advice = f"did you mean {near[0]!r}? " if near else ""
    return InvalidOption(f"{option} is {value!r}", advice=f"{advice}use one of {', '.join(names)}")
