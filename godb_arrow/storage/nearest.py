"""Suggestion of an existing path for a misspelt one."""

from __future__ import annotations

import os
from collections.abc import Callable

from godb_arrow.errors import StorageError
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.object_store import is_url

__all__ = ["nearest_path"]

_MIN_SIMILARITY = 0.6  # ratio of characters in the same order
_LEVELS = 4  # number of misspelt names at the end of a path


def nearest_path(
    path: str, is_wanted: Callable[[str], bool] = lambda _: True, levels: int = _LEVELS
) -> str | None:
    """Return the existing path with the most similar name.

    Parameters
    ----------
    path : str
        A path or URL that does not exist.
    is_wanted : callable
        Whether an existing path is of the right kind.
    levels : int
        Maximum number of misspelt names at the end of the path, default 4.

    Returns
    -------
    str or None
        None if no name is similar.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> os.mkdir(os.path.join(folder, "shop"))
    >>> nearest_path(os.path.join(folder, "shp")) == os.path.join(folder, "shop")
    True
    """
    separator = "/" if is_url(path) else os.sep
    above, _, name = path.rstrip(separator).rpartition(separator)
    if not name or above.endswith(":/"):
        return None
    try:
        names = open_folder(above or (separator if path.startswith(separator) else ".")).names()
    except StorageError:
        return None
    prefix = path[: len(path.rstrip(separator)) - len(name)]
    if not names and above and levels > 1:
        similar = nearest_path(above, levels=levels - 1)
        if similar is None:
            return None
        whole = f"{similar}{separator}{name}"
        is_there = name in open_folder(similar).names()
        return whole if is_there and is_wanted(whole) else nearest_path(whole, is_wanted, 1)
    others = [other for other in names if other != name]
    import difflib

    similar_names = difflib.get_close_matches(name, others, 5, _MIN_SIMILARITY)
    return next((prefix + other for other in similar_names if is_wanted(prefix + other)), None)
