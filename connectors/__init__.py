"""Connectors: one module for each outside system, which converts record batches to its types.

A module is imported when it is first used. If its library is missing, the error names the extra to
install.
"""

from __future__ import annotations

from godb_arrow.errors import MissingDependency

__all__ = ["missing"]


def missing(extra: str, what: str) -> MissingDependency:
    """Return the error for a library that is not installed.

    Parameters
    ----------
    extra : str
        Name of the extra in ``pyproject.toml``.
    what : str
        Name of the library.

    Examples
    --------
    >>> print(missing("polars", "Polars"))
    Polars is not installed; install it with pip install "godb-arrow[polars]"
    """
    return MissingDependency(
        f"{what} is not installed", advice=f'install it with pip install "godb-arrow[{extra}]"'
    )
