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
while files take their places: it says so until it is (``consistent`` in ``follower.json``). So it
does while the files of a large collection take the places of a former one of its name.

Before each step changes anything, the source's identity is compared with the one that is followed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from godb_arrow.directory.identity import ensure_identity, read_identity, renew_identity
from godb_arrow.directory.journal_copy import MissingRecords
from godb_arrow.directory.places import full_path, is_data_directory
from godb_arrow.errors import (
    CorruptFile,
    InvalidOption,
    SourceNotFound,
    StorageError,
    TargetExists,
    error_context,
    storage_errors,
)
from godb_arrow.replication.target import (
    Staged,
    Stamp,
    comes_late,
    list_stored,
    open_target,
    split_stored,
)
from godb_arrow.snapshots.manifest import Manifest
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.inside import open_to_read
from godb_arrow.storage.modes import Access
from godb_arrow.storage.object_store import is_url

__all__ = ["Follower"]


_TRIES = 20
_HEARTBEAT = 1.0


@dataclass(slots=True)
class Copied:
    """What a follower got in one step."""

    files: int = 0
    size: int = 0


class _Moved(Exception):
    """The source was changed under our hands: look again."""


def _refused(problem: str, advice: str) -> SourceNotFound:
    return SourceNotFound(f"{problem}; nothing was changed at the follower", advice=advice)


class Follower:
    """Brings a folder up to date with a data directory, as often as it is asked to.

    Parameters
    ----------
    source : path
        The data directory; it may be in use by another process, or by none.
    target : path or URL
        The follower: a folder, made if need be, or a place on an object store.
    replace : bool
        Whether the target may be a data directory of its own, or follow another one. Its content
        is replaced then.

    Raises
    ------
    TargetExists
        There is something in the target that is no follower.
    SourceNotFound
        The source is not there, or is not the data directory that the target follows.
    DirectoryLocked
        Another process keeps the target up to date.

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
        self.source = full_path(source)
        with error_context("follow", self.source):
            self._find_source()
        self._stored = open_folder(self.source).folder("collections")
        name = os.fspath(target)
        if full_path(name) == self.source:
            raise InvalidOption("a data directory cannot follow itself", advice="give another")
        self._shipping = threading.Lock()  # guards the copy of the journal
        self._stepping = threading.Lock()
        self._written = 0.0
        with error_context("follow", name), storage_errors("open", name):
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
        self._identity: str | None = None if known is None else known["identity"]
        self._consistent = bool(known and known["consistent"])
        self._caught_up: float | None = None if known is None else known["caught_up"]
        self._record = 0 if known is None else known["record"]
        found = self._find_source()
        # What is there is given up, and may have records and files that look alike.
        self._replaces = replace and (found is None or found != self._identity)
        journal = os.path.join(self.source, "journal")
        if known is None or self._replaces:
            self._identity, self._consistent = found, False
            self._caught_up, self._record = None, 0
            if self._replaces:
                self._target.note_content()
            renew_identity(self.target)  # followers of the former content do not follow this one
            self._write_state()  # from now on it is a follower
            self._target.tidy()
            self._journal = self._target.journal(journal, anew=True)
            return
        others = known["source"] != self.source and None not in (self._identity, found)
        if others and found != self._identity:
            raise TargetExists(
                f"{self.target} follows another data directory than {self.source}",
                advice="give another folder, or replace what is there by replace=True",
            )
        self._check_identity(found)
        self._target.tidy()
        try:
            self._journal = self._target.journal(journal)
        except CorruptFile:
            self._journal = self._target.journal(journal, anew=True)
            self._consistent = False
        self._check_source()
        ensure_identity(self.target)
        self._write_state()

    # --- its source ---------------------------------------------------------------------------

    def _find_source(self) -> str | None:
        """Return the identity of the directory at the source's path, if it has one.

        Raises
        ------
        SourceNotFound
            There is no data directory.
        """
        problem = None
        if not os.path.isdir(self.source):
            problem = f"there is no data directory {self.source}"
        elif not is_data_directory(self.source):
            problem = f"{self.source} is no data directory: it has no folder 'collections'"
        if problem is not None:
            raise _refused(problem, "check the path, or mount its disk")
        return read_identity(self.source)

    def _check_identity(self, found: str | None) -> None:
        """Raise if the source is another directory than the one that is followed."""
        if self._identity is not None and found != self._identity:
            raise _refused(
                f"{self.source} is not the data directory that {self.target} follows",
                "mount the right disk, or replace what the follower has by replace=True",
            )

    def _check_source(self) -> str | None:
        """Return the source's identity; raise unless it is what the target follows.

        Nothing of the follower is deleted or replaced before. A follower of version 0.1.0 does
        not know the identity: then it must have a file or records in common with the source.
        """
        found = self._find_source()
        self._check_identity(found)
        if self._identity is None and not self._replaces and not self._has_common_content():
            raise _refused(
                f"{self.source} has nothing in common with {self.target}, which does not know "
                "the identity of the data directory that it follows",
                "check the path, or replace what the follower has by replace=True",
            )
        return found

    def _has_common_content(self) -> bool:
        there = self._target.files()
        if not there and not self._journal.last:
            return True  # there is nothing to lose
        wanted = list_stored(self._stored)
        common = any(wanted.get(name) == stamp for name, stamp in there.items())
        return common or self._journal.is_continued()

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
            "identity": self._identity,
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
        with self._shipping, self._errors():
            if not self._consistent or self._identity is None:
                raise MissingRecords("the follower is not whole")
            self._check_source()
            return self._journal.copy()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with error_context("replicate", self.target), storage_errors("replicate", self.target):
            yield

    def step(self) -> Copied:
        """Bring it up to date with what the source has now.

        Returns
        -------
        Copied
            How many files that took, and their bytes.

        Raises
        ------
        SourceNotFound
            The source is not there, or another directory is in its place: nothing was changed.
        StorageError
            The disk refused; the follower is as whole as before.
        """
        copied = Copied()
        with self._stepping, self._errors():
            for attempt in range(_TRIES):
                started = time.time()
                identity = self._check_source()
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
            if identity != self._identity:  # it is known now that this is the one
                self._identity = identity
                self._write_state()
            self._replaces = False
            if copied.files or started - self._written > _HEARTBEAT or self._caught_up is None:
                self._caught_up, self._record = started, self.record
                self._write_state()
            self._caught_up = started
            return copied

    def _step(self, copied: Copied) -> None:
        segments = self._journal.source_indices()
        wanted = list_stored(self._stored)
        there = self._target.files()
        changed = [name for name, stamp in wanted.items() if there.get(name) != stamp]
        staged: list[Staged] = []
        self._give_up_folders({name.rpartition("/")[0] for name in changed
                               if not comes_late(name) and name in there})  # fmt: skip
        for name in sorted(changed, key=comes_late):
            one = self._stage(name, copied)
            if one.name.endswith(".manifest"):
                self._fetch_files_of(one, wanted, copied)
            if comes_late(name):
                staged.append(one)
            else:
                self._target.place([one])  # nobody knows it yet
        with self._shipping:
            self._check_source()  # it may have vanished while its files were listed
            whole = self._consistent
            if whole:
                try:
                    self._journal.copy()
                except MissingRecords:
                    whole = False
            if not whole:
                self._set_consistent(False)
            self._fetch_attached(wanted, copied)
            self._target.place(staged)
            self._target.remove(there.keys() - wanted.keys())
            if whole:
                self._journal.forget_before(segments)
            else:
                if not self._journal.replace(segments):
                    raise _Moved
                self._fetch_attached(wanted, copied)
                self._set_consistent(True)

    def _give_up_folders(self, folders: set[str]) -> None:
        """Delete the manifests of folders that the source dropped and made again.

        New files take the places of those that the former manifests name.
        """
        if not folders:
            return
        self._check_source()
        self._set_consistent(False)
        former = [name for name in self._target.files() if name.endswith(".manifest")]
        self._target.remove([name for name in former if name.rpartition("/")[0] in folders])

    def _fetch_attached(self, wanted: dict[str, Stamp], copied: Copied) -> None:
        """Copy the attached files that new records of the journal name."""
        named = self._journal.take_attached()
        for name in sorted(named - self._target.files().keys() if named else named):
            try:
                self._target.place([self._stage(name, copied)])
            except FileNotFoundError:  # its collections have files of their own since
                if list_stored(self._stored) != wanted:
                    raise

    def _stage(self, name: str, copied: Copied) -> Staged:
        folder, file = split_stored(self._stored, name)
        folder.check()
        with open_to_read(folder.place(file)) as stream:
            access = Access.of_file(os.fstat(stream.fileno())) & folder.access()
            staged = self._target.stage(name, stream, access)
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
