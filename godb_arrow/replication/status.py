"""State of a follower: how far it is, and whether it is whole."""

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

__all__ = ["FollowerStatus", "follower_status", "read_follower"]


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """How far a follower is.

    Attributes
    ----------
    source, target : str
        The data directory that is followed, and the follower.
    record : int
        The last change that the follower has, by its number in the journal.
    consistent : bool
        Whether it is whole: it can be read and promoted.
    caught_up : datetime or None
        When it had everything, in UTC.
    lag : float or None
        Seconds since then.
    behind_bytes : int or None
        Bytes of the journal that it lacks; None where the source is not there, or where another
        directory is in its place.

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
            return f"record {self.record:,}, being brought up to date"
        behind = "" if not self.behind_bytes else f", {quantity(self.behind_bytes)} behind"
        lag = "never caught up" if self.lag is None else f"{self.lag:.1f} s ago it had everything"
        return f"record {self.record:,}{behind}, {lag}"

    def _repr_html_(self) -> str:
        table = Table(["follower", self.target])
        table.add("of", self.source)
        table.add("is", str(self))
        return table.html()


def follower_status(target: str | os.PathLike[str]) -> FollowerStatus:
    """How far a follower is.

    Parameters
    ----------
    target : path or URL
        The follower.

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
    known = read_follower(path)
    caught_up = known["caught_up"]
    record, behind = known["record"], None
    if not is_url(path):
        journals = [os.path.join(one, "journal") for one in (known["source"], path)]
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
    """Return whether the directory that a follower follows is at its path."""
    with suppress(GodbError):
        return known["identity"] in (None, read_identity(known["source"]))
    return False


def read_follower(path: str) -> dict[str, Any]:
    """Return the content of a follower's file."""
    known = read_follower_file(path)
    if known is None:
        raise SourceNotFound(
            f"{path} is no follower", advice="make it one with replicate_to or godb-arrow follow"
        )
    return known
