"""Options of object stores that callers give for a URL, such as credentials."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from godb_arrow.errors import InvalidOption, MissingDependency

__all__ = [
    "StorageOptions",
    "UrlOptions",
    "file_system_of",
    "made_with_options",
    "options_of",
    "with_options",
]

StorageOptions = Mapping[str, Any] | None
"""Keyword arguments for the file system of fsspec, such as ``{"anon": True}``."""

_EXTRAS = {
    "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs",
    "az": "azure", "abfs": "azure", "abfss": "azure", "adl": "azure",
}  # fmt: skip
"""Extras with the packages for protocols."""

_Made = TypeVar("_Made")
_in_use: list[UrlOptions] = []
"""Options in use, of which the last ones of a URL count.

A finalizer ends options at any moment, also inside of a change of this list. So it is changed by
single calls, and has no lock.
"""
_WILDCARDS = re.compile(r"[*?\[]")


def _base(url: str) -> str:
    """Return a URL without the name of a collection, and up to the folder before wildcards."""
    url = url.partition("#")[0].rstrip("/")
    wild = _WILDCARDS.search(url)
    return url if wild is None else url[: wild.start()].rpartition("/")[0]


class UrlOptions:
    """Options of a URL and of all places below it, from :meth:`start` until :meth:`end`.

    Parameters
    ----------
    place : object
        The URL, or several in a list.
    options : mapping or None
        Keyword arguments for the file system; None for the environment's settings.

    Raises
    ------
    InvalidOption
        Options are given for a place that is no URL, or are no mapping.
    """

    def __init__(self, place: object, options: StorageOptions) -> None:
        self._options = options
        self._urls: list[str] = []
        if options is None:
            return
        if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
            raise InvalidOption(
                f"storage_options is {type(options).__name__}",
                advice='give a dict for the file system, such as {"anon": True}',
            )
        places = place if isinstance(place, (list, tuple)) else [place]
        self._urls = [_base(str(one)) for one in places if "://" in str(one)]
        if not self._urls:
            raise InvalidOption(
                "storage_options are given for a place that is no URL",
                advice="give them with a URL such as s3://bucket/users.godb",
            )

    def start(self) -> None:
        """Use the options for each access to the URL that begins from now on."""
        if self._urls:
            _in_use.append(self)

    def end(self) -> None:
        """Stop using the options for new accesses."""
        with suppress(ValueError):  # they ended before
            _in_use.remove(self)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Use the options until the block ends."""
        self.start()
        try:
            yield
        finally:
            self.end()

    def start_for(self, owner: object) -> None:
        """Use the options as long as an object lives, which may open its files again."""
        if self._urls:
            self.start()
            weakref.finalize(owner, self.end)

    def length_above(self, url: str) -> int:
        """Return the length of the longest of the places at or above a URL; 0 if there is none."""
        above = (one for one in self._urls if url == one or url.startswith(f"{one}/"))
        return max(map(len, above), default=0)

    def keyword_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for the file system."""
        return dict(self._options or {})


@contextmanager
def with_options(place: object, options: StorageOptions) -> Iterator[None]:
    """Use options for a URL, and for all places below it, until the block ends."""
    with UrlOptions(place, options).in_use():
        yield


def made_with_options(place: object, options: StorageOptions, make: Callable[[], _Made]) -> _Made:
    """Return what a function makes, and use options for a URL as long as that object lives."""
    used = UrlOptions(place, options)
    with used.in_use():
        made = make()
        used.start_for(made)
    return made


def file_system_of(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and its path there.

    Raises
    ------
    MissingDependency
        The package for the protocol is not installed.
    InvalidOption
        The file system does not take the options.
    """
    import fsspec

    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options_of(url))
    except (ImportError, ValueError, TypeError) as error:
        raise _missing_package(url, error) from error
    return found


def options_of(url: str) -> dict[str, Any]:
    """Return the options of a URL: the ones of the longest place above it.

    Examples
    --------
    >>> with with_options("s3://bucket/data/", {"anon": True}):
    ...     options_of("s3://bucket/data/collections/users.godb"), options_of("s3://bucket/other")
    ({'anon': True}, {})
    """
    longest = 0
    found: dict[str, Any] = {}
    for options in tuple(_in_use):
        length = options.length_above(url)
        if length and length >= longest:
            longest, found = length, options.keyword_arguments()
    return found


def _missing_package(url: str, error: Exception) -> InvalidOption | MissingDependency:
    """Return the error for a URL whose file system is not installed or not known."""
    protocol = url.partition("://")[0]
    if isinstance(error, ImportError) and protocol in _EXTRAS:
        return MissingDependency(
            f"the package for {protocol}:// is not installed: {error}",
            advice=f'install it with pip install "godb-arrow[{_EXTRAS[protocol]}]"',
        )
    if isinstance(error, ImportError):
        return MissingDependency(
            f"the package for {protocol}:// cannot be imported: {error}",
            advice="install the package that fsspec names",
        )
    return InvalidOption(f"cannot open {url}: {error}", advice="check the protocol of the URL")
