"""One module per outside system; each turns one record-batch reader into somebody's type, or back.

A module is imported only when it is used, and says which extra to install when its library is
missing.
"""

from __future__ import annotations

from godb_arrow.errors import MissingDependency

__all__ = ["missing"]


def missing(extra: str, what: str) -> MissingDependency:
    """The error that says which extra to install.

    Parameters
    ----------
    extra : str
        The extra of ``pyproject.toml``.
    what : str
        The library.

    Examples
    --------
    >>> print(missing("polars", "Polars"))
    Polars is not installed; install it with pip install "godb-arrow[polars]"
    """
    return MissingDependency(
        f"{what} is not installed", advice=f'install it with pip install "godb-arrow[{extra}]"'
    )
