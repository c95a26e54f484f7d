"""Followers: data directories that are kept the same as another one, and can take its place.

A follower is a data directory itself. It gets the bytes of the other's journal, and its files, in
an order in which it is whole at every moment:

1. The files of large collections that no manifest names yet are copied.
2. What else is new is copied beside its place: small collections' files, and manifests.
3. The journal is copied up to now: it knows everything that those files know.
4. The files of 2 take their places.
5. What the other one has no more is removed: files, then segments of the journal.

Where the journal lacks records in between, since the other one was saved and the follower was not
there, or since the other one lost its last records in a power cut, the follower cannot be whole
while files take their places: it says so until it is (``consistent`` in ``follower.json``).
"""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from godb_arrow.display import Table, quantity
from godb_arrow.errors import (
    CorruptFile,
    GodbError,
    InvalidOption,
    ReplicationFailed,
    SourceNotFound,
    StorageError,
    TargetExists,
    error_context,
    storage_errors,
)
from godb_arrow.follower_target import Staged, Stamp, comes_late, list_stored, open_target
from godb_arrow.journal import Journal
from godb_arrow.journal_copy import MissingRecords, bytes_behind, last_record
from godb_arrow.manifest import Manifest
from godb_arrow.persistence import (
    FOLLOWER_FILE,
    lock_directory,
    read_follower_file,
)
from godb_arrow.storage import local
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.object_store import is_url

__all__ = ["Follower", "FollowerStatus", "Replica", "ReplicationMode", "follower_status", "promote"]

ReplicationMode = Literal["asynchronous", "acknowledged"]

_TRIES = 20
_MOST_HELD = 128 << 20  # bytes of a journal that wait for a follower
_HEARTBEAT = 1.0


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
        Bytes of the journal that it lacks; None where the source cannot be seen.

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


@dataclass(slots=True)
class Copied:
    """What a follower got in one step."""

    files: int = 0
    size: int = 0


class _Moved(Exception):
    """The source was changed under our hands: look again."""


class Follower:
    """Brings a folder up to date with a data directory, as often as it is asked to.

    Parameters
    ----------
    source : path
        The data directory; it may be in use by another process, or by none.
    target : path or URL
        The follower: a folder, made if need be, or a place on an object store.
    replace : bool
        Whether the target may have been a data directory of its own, which is given up.

    Raises
    ------
    TargetExists
        There is something in the target that is no follower.
    DirectoryLocked
        Somebody else keeps it up to date.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> source, target = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> with godb_arrow.StorageEngine(source) as engine:
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    >>> with Follower(source, target) as follower:
    ...     follower.step().files
    1
    >>> with godb_arrow.StorageEngine(target, read_only=True) as engine:
    ...     engine.find_all("users")
    [{'_id': '1', 'name': 'Ada'}]
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        replace: bool = False,
    ) -> None:
        if is_url(os.fspath(source)):
            raise InvalidOption(
                "what is followed is a folder", advice="follow from where its files are local"
            )
        self.source = os.path.abspath(os.path.expanduser(os.fspath(source)))
        if not os.path.isdir(os.path.join(self.source, "collections")):
            raise SourceNotFound(
                f"there is no data directory {self.source}", advice="check the path"
            )
        name = os.fspath(target)
        if os.path.abspath(os.path.expanduser(name)) == self.source:
            raise InvalidOption("a data directory cannot follow itself", advice="give another")
        self._shipping = threading.Lock()  # guards the copy of the journal
        self._stepping = threading.Lock()
        self._written = 0.0
        with storage_errors("open", name):
            self._target = open_target(name)
            try:
                self._begin(replace)
            except BaseException:
                self._target.close()
                raise

    def _begin(self, replace: bool) -> None:
        known = self._target.read_state()
        if known is None and not replace and self._target.has_content():
            raise TargetExists(
                f"there is a data directory in {self.target}, which follows nobody",
                advice="give another folder, or give up what is there by replace=True",
            )
        self._consistent = bool(known and known["consistent"])
        self._caught_up: float | None = None if known is None else known["caught_up"]
        self._record = 0 if known is None else known["record"]
        self._write_state()  # before anything else: it is a follower from now on
        self._target.tidy()
        journal = os.path.join(self.source, "journal")
        try:
            self._journal = self._target.journal(journal)
        except CorruptFile:
            self._set_consistent(False)
            self._journal = self._target.journal(journal, anew=True)

    @property
    def target(self) -> str:
        """The follower."""
        return self._target.path

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others keep it up to date, or promote it."""
        with self._stepping, self._shipping:
            self._target.close()

    # --- its state ----------------------------------------------------------------------------

    @property
    def record(self) -> int:
        """The last record of the journal that it has."""
        return self._journal.last

    def _write_state(self) -> None:
        state = {
            "source": self.source,
            "consistent": self._consistent,
            "caught_up": self._caught_up,
            "record": self._record,
        }
        self._target.write_state(state)
        self._written = time.time()

    def _set_consistent(self, consistent: bool) -> None:
        if self._consistent != consistent:
            self._consistent = consistent
            self._write_state()

    # --- bringing it up to date ---------------------------------------------------------------

    def ship(self) -> int:
        """Copy what the journal has more, to the disk; returns the number of the last record.

        Raises
        ------
        MissingRecords
            The journal lacks records in between: :meth:`step` helps.
        """
        with self._shipping, storage_errors("replicate", self.target):
            if not self._consistent:
                raise MissingRecords("the follower is not whole")
            return self._journal.copy()

    def step(self) -> Copied:
        """Bring it up to date with what the source has now.

        Returns
        -------
        Copied
            How many files that took, and their bytes.

        Raises
        ------
        StorageError
            The disk refused; the follower is as whole as before.
        """
        copied = Copied()
        with self._stepping, storage_errors("replicate", self.target):
            for attempt in range(_TRIES):
                started = time.time()
                try:
                    self._step(copied)
                except (FileNotFoundError, _Moved):
                    self._target.tidy()
                    if attempt == _TRIES - 1:
                        raise StorageError(
                            "the source is changed faster than it can be copied",
                            advice="raise its part_grace, or copy it while it is closed",
                        ) from None
                    continue
                break
            if copied.files or started - self._written > _HEARTBEAT or self._caught_up is None:
                self._caught_up, self._record = started, self.record
                self._write_state()
            self._caught_up = started
            return copied

    def _step(self, copied: Copied) -> None:
        segments = self._journal.source_indices()
        wanted = list_stored(os.path.join(self.source, "collections"))
        there = self._target.files()
        changed = [name for name, stamp in wanted.items() if there.get(name) != stamp]
        staged: list[Staged] = []
        for name in sorted(changed, key=comes_late):
            one = self._stage(name, copied)
            if one.name.endswith(".manifest"):
                self._fetch_files_of(one, wanted, copied)
            if comes_late(name):
                staged.append(one)
            else:
                self._target.place([one])  # nobody knows it yet
        with self._shipping:
            whole = self._consistent
            if whole:
                try:
                    self._journal.copy()
                except MissingRecords:
                    whole = False
            if not whole:
                self._set_consistent(False)
            self._target.place(staged)
            self._target.remove(there.keys() - wanted.keys())
            if whole:
                self._journal.forget_before(segments)
            else:
                if not self._journal.replace(segments):
                    raise _Moved
                self._set_consistent(True)

    def _stage(self, name: str, copied: Copied) -> Staged:
        with open(os.path.join(self.source, "collections", *name.split("/")), "rb") as stream:
            staged = self._target.stage(name, stream)
        copied.files += 1
        copied.size += staged.stamp[0]
        return staged

    def _fetch_files_of(self, staged: Staged, wanted: dict[str, Stamp], copied: Copied) -> None:
        """Copy what a manifest names and the list of files did not have yet."""
        with open(staged.temporary, "rb") as stream:
            manifest = Manifest.unpack(stream.read())
        folder = staged.name.rpartition("/")[0]
        for part in manifest.parts:
            for name in (f"{folder}/{part.file}", f"{folder}/{part.ids_file}"):
                if name not in wanted:
                    self._target.place([self._stage(name, copied)])
                    wanted[name] = (0, 0)


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
    path = _whole(target)
    known = _known(path)
    caught_up = known["caught_up"]
    record, behind = known["record"], None
    if not is_url(path):
        journals = [os.path.join(one, "journal") for one in (known["source"], path)]
        record = last_record(journals[1])
        if os.path.isdir(journals[0]):
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


def _whole(target: str | os.PathLike[str]) -> str:
    name = os.fspath(target)
    return name.rstrip("/") if is_url(name) else os.path.abspath(os.path.expanduser(name))


def _known(path: str) -> dict[str, Any]:
    known = read_follower_file(path)
    if known is None:
        raise SourceNotFound(
            f"{path} is no follower", advice="make it one with replicate_to or godb-arrow follow"
        )
    return known


def promote(target: str | os.PathLike[str], *, force: bool = False) -> int:
    """Make a follower a data directory of its own, which may be written.

    See to it that nobody writes the one that it followed: what is written there later is not here.

    Parameters
    ----------
    target : path or URL
        The follower.
    force : bool
        Also when it is not whole: each collection is as it was at some time, not all at the same.

    Returns
    -------
    int
        The number of the last change that it has.

    Raises
    ------
    SourceNotFound
        The folder is no follower.
    DirectoryLocked
        It is being kept up to date: end that first.
    StorageError
        It is not whole.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> source, target = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> with godb_arrow.StorageEngine(source) as engine:
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    ...     _ = engine.replicate_to(target)
    >>> promote(target)
    2
    >>> with godb_arrow.StorageEngine(target) as engine:
    ...     engine["users"].insert({"name": "Bob"})
    '2'
    """
    path = _whole(target)
    with error_context("promote", path):
        known = _known(path)
        if not is_url(path):
            lock = lock_directory(path)
            try:
                _check_whole(known, force)
                with storage_errors("promote", path):
                    local.disk.unlink(os.path.join(path, FOLLOWER_FILE))
                    local.disk.sync_folder(path)
                return last_record(os.path.join(path, "journal"))
            finally:
                lock.release()
        return _promote_remote(path, known, force)


def _check_whole(known: dict[str, Any], force: bool) -> None:
    if not known["consistent"] and not force:
        raise StorageError(
            "the follower was being brought up to date, and is not whole",
            advice="let it catch up, or take it as it is with force=True",
        )


def _promote_remote(url: str, known: dict[str, Any], force: bool) -> int:
    """What the journal has is saved: an object store has no journal of its own."""
    from godb_arrow.engine import StorageEngine

    if not known["promoting"]:  # else it was cut off, and goes on
        _check_whole(known, force)
        # From now on its files are not those of the other one.
        state = {**known, "consistent": False, "promoting": True, "files": {}}
        target = open_target(url)
        try:
            target.write_state(state)
        finally:
            target.close()
    with StorageEngine(url) as engine:
        engine.save()
    journal = open_folder(f"{url}/journal")
    for name in journal.names():
        journal.remove(name)
    open_folder(url).remove(FOLLOWER_FILE)
    return int(known["record"])


@dataclass(slots=True, eq=False)
class Replica:
    """A follower that an engine keeps up to date.

    Attributes
    ----------
    mode : {"asynchronous", "acknowledged"}
        Whether a change returns before the follower has it, or after.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     replica = engine.replicate_to(tempfile.mkdtemp())
    ...     replica.step().files, replica.mode
    (0, 'asynchronous')
    """

    _follower: Follower
    _journal: Journal
    mode: ReplicationMode
    _remove: Callable[[Replica], None]
    _shipped: int = 0
    _failure: GodbError | None = None
    _stopped: bool = field(default=False, init=False)

    @property
    def target(self) -> str:
        """The follower."""
        return self._follower.target

    def status(self) -> FollowerStatus:
        """How far it is."""
        return follower_status(self.target)

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else self.mode
        return f"<Replica {self.target!r}, {state}>"

    def step(self) -> Copied:
        """Bring it up to date now."""
        copied = self._follower.step()
        self._note(self._follower.record)
        return copied

    def _note(self, number: int) -> None:
        self._shipped = number
        # What the follower lacks stays in the journal; but not without end.
        held = number + 1 if self._journal.size <= _MOST_HELD else None
        self._journal.release(self, held)

    def acknowledge(self, number: int | None) -> None:
        """Wait until the follower has a record on its disk; without a number, all files, too.

        Raises
        ------
        ReplicationFailed
            It has not, and may never have; here the change is done.
        """
        if self.mode != "acknowledged" or self._stopped:
            return
        try:
            if number is None:
                self.step()
            elif number > self._shipped:
                try:
                    self._note(self._follower.ship())
                except MissingRecords:
                    self.step()
        except GodbError as error:
            raise ReplicationFailed(
                f"the change is done here, but the follower {self.target} has not got it",
                advice="see to the follower, or stop the replica to go on without it",
            ) from error

    def stop(self) -> None:
        """Let the follower be; it stays as it is, and can be promoted."""
        if not self._stopped:
            self._stopped = True
            self._remove(self)
            self._journal.release(self, None)
            self._follower.close()
