"""State of a follower: its last change, its lag, and whether it is consistent."""

from __future__ import annotations

import datetime as dt
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from godb_arrow.directory.follower_file import read_follower_file
from godb_arrow.directory.identity import read_identity
from godb_arrow.directory.journal_copy import bytes_behind, last_record
from godb_arrow.directory.places import full_path
from godb_arrow.display import Table, quantity
from godb_arrow.errors import GodbError, SourceNotFound
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.url_options import StorageOptions, with_options

__all__ = ["FollowerStatus", "follower_status", "read_follower"]


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """State of a follower.

    Attributes
    ----------
    source, target : str
        Path of the followed data directory, and path or URL of the follower.
    record : int
        Sequence number of the last change that the follower has.
    consistent : bool
        Whether the follower can be read and promoted.
    caught_up : datetime or None
        Time when the follower last had all changes, in UTC.
    lag : float or None
        Seconds since then.
    behind_bytes : int or None
        Bytes of the journal that the follower lacks; None if the source is missing or is another
        directory.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> source, target = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> with godb_arrow.StorageEngine(source) as engine:
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    ...     replica = engine.replicate_to(target)
    ...     replica.status().consistent, replica.status().behind_bytes
    (True, 0)
    """

    source: str
    target: str
    record: int
    consistent: bool
    caught_up: dt.datetime | None
    lag: float | None
    behind_bytes: int | None

    def __str__(self) -> str:
        if not self.consistent:
            return f"record {self.record:,}, being updated"
        behind = "" if not self.behind_bytes else f", {quantity(self.behind_bytes)} behind"
        lag = "never caught up" if self.lag is None else f"last caught up {self.lag:.1f} s ago"
        return f"record {self.record:,}{behind}, {lag}"

    def _repr_html_(self) -> str:
        table = Table(["follower", self.target])
        table.add("of", self.source)
        table.add("is", str(self))
        return table.html()


def follower_status(
    target: str | os.PathLike[str], *, storage_options: StorageOptions = None
) -> FollowerStatus:
    """Return the state of a follower.

    Parameters
    ----------
    target : path or URL
        The follower.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.

    Returns
    -------
    FollowerStatus

    Raises
    ------
    SourceNotFound
        The folder is no follower.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> source, target = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> with godb_arrow.StorageEngine(source) as engine:
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    ...     _ = engine.replicate_to(target)
    >>> follower_status(target).record
    2
    """
    path = full_path(target)
    with with_options(target, storage_options):
        known = read_follower(path)
    caught_up = known["caught_up"]
    record, behind = known["record"], None
    if not is_url(path):
        journals = [os.path.join(folder, "journal") for folder in (known["source"], path)]
        record = last_record(journals[1])
        if os.path.isdir(journals[0]) and _is_source(known):
            behind = bytes_behind(*journals)
    return FollowerStatus(
        source=known["source"],
        target=path,
        record=record,
        consistent=known["consistent"],
        caught_up=None if caught_up is None else dt.datetime.fromtimestamp(caught_up, dt.UTC),
        lag=None if caught_up is None else max(0.0, time.time() - caught_up),
        behind_bytes=behind,
    )


def _is_source(known: dict[str, Any]) -> bool:
    """Return whether the directory at the source's path is the one that is followed."""
    with suppress(GodbError):
        return known["identity"] in (None, read_identity(known["source"]))
    return False


def read_follower(path: str) -> dict[str, Any]:
    """Read the file that describes a follower."""
    known = read_follower_file(path)
    if known is None:
        raise SourceNotFound(
            f"{path} is no follower",
            advice="create one with replicate_to or godb-arrow follow",
        )
    return known
