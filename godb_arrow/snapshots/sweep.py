"""Removal of superseded files from a collection's folder, at constant cost.

A folder has the manifests and part files of many versions, for readers in other processes. The
cost of listing it at each save would grow. So the versions and the names of their files are listed
once, and then kept up to date.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from godb_arrow.errors import SourceNotFound
from godb_arrow.snapshots.manifest import (
    Manifest,
    Part,
    manifest_name,
    read_manifest,
    versions_in,
)
from godb_arrow.storage.folder import Folder
from godb_arrow.storage.inside import number_in

__all__ = ["Sweeper", "files_of"]

_SUFFIXES = ".godb", ".ids"
_MIN_SWEEPS = 256  # number of sweeps between two listings of a folder


@dataclass(frozen=True, slots=True)
class _Version:
    """A version whose manifest is in the folder."""

    number: int
    created: float
    parts: array[int]  # their numbers: names of all files of all versions would take megabytes
    tagged: frozenset[int]  # versions with a tag

    @classmethod
    def of(cls, manifest: Manifest) -> _Version:
        tagged = frozenset(manifest.tags.values())
        parts = array("Q", (part.number for part in manifest.parts))
        return cls(manifest.version, manifest.created, parts, tagged)


class Sweeper:
    """Removal of superseded manifests and files of one folder.

    Parameters
    ----------
    folder : Folder
        Folder of the collection.
    is_ours : callable
        Function that returns whether godb_arrow named a file; other files stay.
    is_exclusive : bool
        Whether no other process writes manifests, so that a listing stays valid.
    """

    def __init__(
        self, folder: Folder, is_ours: Callable[[str], bool], *, is_exclusive: bool
    ) -> None:
        self._folder = folder
        self._is_ours = is_ours
        self._is_exclusive = is_exclusive
        self._lock = threading.Lock()
        self._sweeps_left = 0  # until the folder is listed again
        self._versions: deque[_Version] = deque()  # in order
        self._uses: Counter[int] = Counter()  # number of versions that have each part
        self._unused: dict[str, None] = {}  # files to remove, which no version names
        self._young: deque[tuple[float, str]] = deque()  # unused files that are too new, by age

    def forget(self) -> None:
        """List the folder again at the next sweep, after a write failed or it was removed."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._sweeps_left = 0
        self._versions.clear()  # Version numbers may be used again.

    def note(self, manifest: Manifest) -> None:
        """Add a version that was written."""
        with self._lock:
            if self._sweeps_left:
                self._add(_Version.of(manifest))

    def _add(self, version: _Version) -> None:
        self._versions.append(version)
        self._uses.update(version.parts)

    def _is_used(self, name: str) -> bool:
        """Return whether a version names a file."""
        numbers = (number_in(name, suffix) for suffix in _SUFFIXES)
        return any(number in self._uses for number in numbers if number is not None)

    def sweep(self, keep: int, grace: float, pinned: Collection[str]) -> int:
        """Remove superseded manifests, and files that no manifest and no reader needs.

        Parameters
        ----------
        keep : int
            Number of the last versions that stay readable.
        grace : float
            Seconds for which a superseded version, and a file without a version, stay.
        pinned : collection of str
            Files that readers of this process need.

        Returns
        -------
        int
            Number of files that were removed.
        """
        since = time.time() - grace
        with self._lock:
            try:
                if not self._is_exclusive or not self._sweeps_left:
                    self._list()
                self._sweeps_left -= 1
                removed = self._remove_versions(keep, since)
                return removed + self._remove_files(since, pinned)
            except BaseException:
                self._forget()
                raise

    def _list(self) -> None:
        names = self._folder.files(self._is_ours)
        known = {version.number: version for version in self._versions}
        self._versions.clear()
        self._uses.clear()
        for number in versions_in(names):
            version = known.get(number)
            self._add(version or _Version.of(read_manifest(self._folder, number)))
        self._unused.clear()
        young = []
        for name in names:
            if not self._is_used(name) and not name.endswith(".manifest"):
                with suppress(SourceNotFound):
                    young.append((self._folder.modified(name), name))
        self._young = deque(sorted(young))
        # The sweeps are as many as the names, so that a listing adds a constant cost to each.
        self._sweeps_left = max(_MIN_SWEEPS, len(names))

    def _remove_versions(self, keep: int, since: float) -> int:
        removed = 0
        kept: list[_Version] = []
        while len(self._versions) > keep and self._versions[1].created <= since:
            version = self._versions.popleft()
            if version.number in self._versions[-1].tagged:
                kept.append(version)
                continue
            self._folder.remove(manifest_name(version.number))
            removed += 1
            self._release(version.parts)
        self._versions.extendleft(reversed(kept))
        if removed:  # A manifest must never exist without its files.
            self._folder.sync()
        return removed

    def _release(self, parts: Iterable[int]) -> None:
        for number in parts:
            self._uses[number] -= 1
            if not self._uses[number]:
                del self._uses[number]
                part = Part(number, 0, 0, 0)
                self._unused |= dict.fromkeys((part.file, part.ids_file))

    def _remove_files(self, since: float, pinned: Collection[str]) -> int:
        while self._young and self._young[0][0] <= since:
            _, name = self._young.popleft()
            with suppress(SourceNotFound):
                if self._folder.modified(name) <= since:
                    self._unused[name] = None
        removed = 0
        for name in [unused for unused in self._unused if unused not in pinned]:
            if not self._is_used(name):  # An earlier version may have been restored.
                with suppress(SourceNotFound):
                    self._folder.remove(name)
                    removed += 1
            del self._unused[name]
        return removed


def files_of(manifest: Manifest) -> frozenset[str]:
    """Return the names of the files that a manifest names."""
    return frozenset(name for part in manifest.parts for name in (part.file, part.ids_file))
