"""Errors for misspelt keyword arguments, which name the function and the nearest keyword."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from godb_arrow.options import ReadKeywords

__all__ = ["explain_keywords", "explain_methods"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Class = TypeVar("_Class", bound=type)

_MIN_SIMILARITY = 0.5  # ratio of characters in the same order
_IN_OTHER_LIBRARIES = {
    "where": "filter",
    "filters": "filter",
    "predicate": "filter",
    "query": "filter",
    "usecols": "columns",
    "fields": "columns",
    "projection": "columns",
    "mode": "if_exists",
    "chunk_size": "chunksize",
    "memory": "max_memory",
    "policy": "eviction_policy",
    "name": "collection",
    "table": "collection",
}
"""Names that other libraries have for a keyword."""


def explain_keywords(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Name the nearest keyword where a function is called with an unknown one.

    Parameters
    ----------
    function : callable
        Function. Its ``**options``, if it has any, are the fields of :class:`ReadOptions`.

    Returns
    -------
    callable
        The function with the same signature.

    Examples
    --------
    >>> @explain_keywords
    ... def read(source, *, columns=None): ...
    >>> read("users.godb", colums=["name"])
    Traceback (most recent call last):
    ...
    TypeError: read() has no keyword 'colums'; did you mean 'columns'?
    """

    @wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            unknown = _unknown_keyword(function, kwargs)
            if unknown is None:
                raise
            raise TypeError(unknown) from error

    return call


def explain_methods(kind: _Class) -> _Class:
    """Name the nearest keyword in all methods of a class that have optional parameters."""
    for name, method in list(vars(kind).items()):
        if inspect.isfunction(method) and (name == "__init__" or not name.startswith("_")):
            parameters = inspect.signature(method).parameters.values()
            if any(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in parameters):
                setattr(kind, name, explain_keywords(method))
    return kind


def _unknown_keyword(function: Callable[..., Any], given: Iterable[str]) -> str | None:
    """Return the message for the first unknown keyword; None if all are known."""
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    known = [name for name in known if name != "self"]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        known += ReadKeywords.__annotations__
    unknown = next((name for name in given if name not in known), None)
    if unknown is None:
        return None
    import difflib

    translated = _IN_OTHER_LIBRARIES.get(unknown)
    near = [translated] if translated in known else []
    near = near or difflib.get_close_matches(unknown, known, 1, _MIN_SIMILARITY)
    advice = f"did you mean {near[0]!r}?" if near else f"the keywords are {', '.join(known)}"
    return f"{_shown_name(function)}() has no keyword {unknown!r}; {advice}"


def _shown_name(function: Callable[..., Any]) -> str:
    """Return the name of a function as callers write it."""
    if function.__name__ == "__init__":
        return function.__qualname__.split(".")[-2]
    return function.__name__
