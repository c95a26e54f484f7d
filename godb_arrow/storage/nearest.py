"""The path that a caller may have meant by one that is not there."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable

from godb_arrow.errors import StorageError
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.object_store import is_url

__all__ = ["nearest_path"]

_SIMILAR = 0.6  # of the characters are in the same order
_LEVELS = 4  # folders above the path that may be misspelt, too


def nearest_path(
    path: str, is_wanted: Callable[[str], bool] = lambda _: True, levels: int = _LEVELS
) -> str | None:
    """Return the path that is there and has the most similar name.

    Parameters
    ----------
    path : str
        A path or URL that is not there.
    is_wanted : callable
        Whether a path that is there is of the right kind.
    levels : int
        How many of its last names may be misspelt.

    Returns
    -------
    str or None
        None where no name is similar.

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
    close = difflib.get_close_matches(name, [one for one in names if one != name], 5, _SIMILAR)
    return next((prefix + one for one in close if is_wanted(prefix + one)), None)
