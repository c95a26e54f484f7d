"""Followers: data directories that are kept identical to another one, and can replace it.

A follower gets the bytes of the source's journal and its files, in an order that keeps it
consistent at every moment:

1. Copy files of large collections that no manifest names yet.
2. Copy other new files under temporary names: files of small collections, and manifests.
3. Copy the journal. It now has all changes that the files have.
4. Rename the files of step 2 to their names.
5. Remove what the source has removed: files first, then segments of the journal.

The follower may lack records in between. The source may have been saved in its absence, or may
have lost its last records in a power cut. Then the follower is inconsistent while files are
renamed, and ``consistent`` in ``follower.json`` is false. The same happens while the files of a
large collection replace those from a former collection with its name.

Before each step changes anything, the source's identity is checked.
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
from godb_arrow.directory.places import check_apart, full_path, is_data_directory
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
from godb_arrow.snapshots.manifest import Manifest, Part, stored_content
from godb_arrow.snapshots.part_file import check_part_size
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.inside import open_to_read
from godb_arrow.storage.modes import Access
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.url_options import StorageOptions, UrlOptions

__all__ = ["Follower"]


_TRIES = 20
_HEARTBEAT_SECONDS = 1.0


@dataclass(slots=True)
class Copied:
    """Number and bytes of the files that a follower received in one step."""

    files: int = 0
    size: int = 0


class _Moved(Exception):
    """Change of the source during a step, which must be repeated."""


def _refused(problem: str, advice: str) -> SourceNotFound:
    return SourceNotFound(f"{problem}; the follower is unchanged", advice=advice)


class Follower:
    """Updater of a folder that follows a data directory.

    Parameters
    ----------
    source : path
        The data directory, which another process may use.
    target : path or URL
        The follower: a folder, created if it is missing, or a URL on an object store.
    replace : bool
        Whether to replace the content of a target that is a data directory of its own, or follows
        another one; default False.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.

    Raises
    ------
    TargetExists
        The target has content, and is no follower.
    SourceNotFound
        The source is missing, or is not the data directory that the target follows.
    DirectoryLocked
        Another process updates the target.
    InvalidOption
        The target is the source, is inside of it, or has it inside.

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
        storage_options: StorageOptions = None,
    ) -> None:
        if is_url(os.fspath(source)):
            raise InvalidOption(
                "the source of a follower is not a local folder",
                advice="run the follower where the source's files are local",
            )
        self.source = full_path(source)
        with error_context("follow", self.source):
            self._find_source()
        self._stored = open_folder(self.source).folder("collections")
        name = os.fspath(target)
        self._shipping = threading.Lock()  # guards the copy of the journal
        self._stepping = threading.Lock()
        self._written = 0.0
        UrlOptions(name, storage_options).start_for(self)
        with error_context("follow", name), storage_errors("open", name):
            check_apart(name, self.source, purpose="a follower")
            self._target = open_target(name)
            try:
                self._begin(replace)
            except BaseException:
                self._target.close()
                raise

    @property
    def caught_up(self) -> float | None:
        """Time when the target last had all changes, in seconds since 1970."""
        return self._caught_up

    def _begin(self, replace: bool) -> None:
        known = self._target.read_state()
        if known is None and not replace and self._target.has_content():
            raise TargetExists(
                f"{self.target} is a data directory that follows no other",
                advice="give another folder, or replace its content with replace=True",
            )
        self._identity: str | None = None if known is None else known["identity"]
        self._consistent = bool(known and known["consistent"])
        self._caught_up: float | None = None if known is None else known["caught_up"]
        self._record = 0 if known is None else known["record"]
        identity = self._find_source()
        # The content to replace may have records and files that equal the source's by chance.
        self._replaces = replace and (identity is None or identity != self._identity)
        journal = os.path.join(self.source, "journal")
        if known is None or self._replaces:
            self._identity, self._consistent = identity, False
            self._caught_up, self._record = None, 0
            if self._replaces:
                self._target.note_content()
            renew_identity(self.target)  # Followers of the former content must not follow this.
            self._write_state()  # The target is now a follower.
            self._target.tidy()
            self._journal = self._target.journal(journal, anew=True)
            return
        others = known["source"] != self.source and None not in (self._identity, identity)
        if others and identity != self._identity:
            raise TargetExists(
                f"{self.target} follows another data directory than {self.source}",
                advice="give another folder, or replace its content with replace=True",
            )
        self._check_identity(identity)
        self._target.tidy()
        try:
            self._journal = self._target.journal(journal)
        except CorruptFile:
            self._journal = self._target.journal(journal, anew=True)
            self._consistent = False
        self._check_source()
        ensure_identity(self.target)
        self._write_state()

    # --- source -------------------------------------------------------------------------------

    def _find_source(self) -> str | None:
        """Return the identity of the directory at the source's path, if it has one.

        Raises
        ------
        SourceNotFound
            The path has no data directory.
        """
        problem = None
        if not os.path.isdir(self.source):
            problem = f"there is no data directory {self.source}"
        elif not is_data_directory(self.source):
            problem = f"{self.source} is no data directory: it has no folder 'collections'"
        if problem is not None:
            raise _refused(problem, "check the path, or mount its disk")
        return read_identity(self.source)

    def _check_identity(self, identity: str | None) -> None:
        """Check that the source is the directory that the target follows."""
        if self._identity is not None and identity != self._identity:
            raise _refused(
                f"{self.source} is not the data directory that {self.target} follows",
                "mount the right disk, or replace the follower's content with replace=True",
            )

    def _check_source(self) -> str | None:
        """Return the source's identity, after checking that the target follows it.

        This precedes any change of the follower. A follower of version 0.1.0 does not know the
        identity. It must have a file or records in common with the source.
        """
        identity = self._find_source()
        self._check_identity(identity)
        if self._identity is None and not self._replaces and not self._has_common_content():
            raise _refused(
                f"{self.source} has nothing in common with {self.target}, which does not know "
                "the identity of its source",
                "check the path, or replace the follower's content with replace=True",
            )
        return identity

    def _has_common_content(self) -> bool:
        there = self._target.files()
        if not there and not self._journal.last:
            return True  # The follower is empty.
        wanted = list_stored(self._stored)
        common = any(wanted.get(name) == stamp for name, stamp in there.items())
        return common or self._journal.is_continued()

    @property
    def target(self) -> str:
        """Path or URL of the follower."""
        return self._target.path

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the target for other updaters and for promotion."""
        with self._stepping, self._shipping:
            self._target.close()

    # --- state --------------------------------------------------------------------------------

    @property
    def record(self) -> int:
        """Sequence number of the last record of the journal that the follower has."""
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

    # --- updates ------------------------------------------------------------------------------

    def ship(self) -> int:
        """Copy new records of the journal to the disk, and return the last sequence number.

        Raises
        ------
        MissingRecords
            The journal lacks records in between, which :meth:`step` handles.
        """
        with self._shipping, self._errors():
            if not self._consistent or self._identity is None:
                raise MissingRecords("the follower is not consistent")
            self._check_source()
            return self._journal.copy()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with error_context("replicate", self.target), storage_errors("replicate", self.target):
            yield

    def step(self) -> Copied:
        """Update the follower to the current state of the source.

        Returns
        -------
        Copied
            Number and bytes of the copied files.

        Raises
        ------
        SourceNotFound
            The source is missing, or is another directory. The follower is unchanged.
        StorageError
            The disk refuses a write. The follower is as consistent as before.
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
                            "the source changes faster than it can be copied",
                            advice="raise its part_grace, or copy it while it is closed",
                        ) from None
                    continue
                break
            if identity != self._identity:  # The content has shown that this is the source.
                self._identity = identity
                self._write_state()
            self._replaces = False
            is_due = started - self._written > _HEARTBEAT_SECONDS
            if copied.files or is_due or self._caught_up is None:
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
        updated = {name for name in changed if name in there and not comes_late(name)}
        self._discard_folders({name.rpartition("/")[0] for name in updated})
        parts: dict[str, Part] = {}
        for name in filter(_is_manifest, changed):
            staged.append(self._stage(name, copied))
            parts |= _parts_of(staged[-1])
        for name in parts.keys() - wanted.keys():  # parts that were written since
            changed.append(name)
            wanted[name] = (0, 0)
        for name in sorted(changed, key=comes_late):
            if _is_manifest(name):
                continue
            copy = self._stage(name, copied, parts.get(name))
            if comes_late(name):
                staged.append(copy)
            else:
                self._target.place([copy])  # No manifest names the file yet.
        with self._shipping:
            self._check_source()  # The source may have been replaced while its files were listed.
            self._target.mirror_changes(self.source)
            consistent = self._consistent
            if consistent:
                try:
                    self._journal.copy()
                except MissingRecords:
                    consistent = False
            if not consistent:
                self._set_consistent(False)
            self._fetch_attached(wanted, copied)
            self._target.place(staged)
            self._target.remove(there.keys() - wanted.keys())
            if consistent:
                self._journal.forget_before(segments)
            else:
                if not self._journal.replace(segments):
                    raise _Moved
                self._fetch_attached(wanted, copied)
                self._set_consistent(True)

    def _discard_folders(self, folders: set[str]) -> None:
        """Delete the manifests of folders that the source dropped and created again.

        New files will replace those that the former manifests name.
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
            except FileNotFoundError:  # Collections have replaced the file since.
                if list_stored(self._stored) != wanted:
                    raise

    def _stage(self, name: str, copied: Copied, part: Part | None = None) -> Staged:
        folder, file = split_stored(self._stored, name)
        folder.check()
        with open_to_read(folder.place(file)) as stream:
            if part is not None:
                with error_context("read", folder.place(file)):
                    check_part_size(part, file, os.fstat(stream.fileno()).st_size)
            access = Access.of_file(os.fstat(stream.fileno())) & folder.access()
            staged = self._target.stage(name, stream, access)
        copied.files += 1
        copied.size += staged.stamp[0]
        return staged


def _is_manifest(name: str) -> bool:
    return name.endswith(".manifest")


def _parts_of(staged: Staged) -> dict[str, Part]:
    """Return the files of a manifest by their paths below the folder of collections."""
    with open(staged.temporary, "rb") as stream:
        manifest = Manifest.unpack(stored_content(stream))
    folder = staged.name.rpartition("/")[0]
    return {
        f"{folder}/{name}": part for part in manifest.parts for name in (part.file, part.ids_file)
    }
