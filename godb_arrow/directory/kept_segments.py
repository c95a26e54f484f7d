"""Segments that left the journal, and are kept for readers of changes.

Recovery never reads these segments, since files contain all their changes. The journal moves a
segment to this folder instead of removing it. The oldest segments are removed, by size and age.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from contextlib import suppress

from godb_arrow.directory.segments import HEADER, open_segment, segment_indices, segment_path
from godb_arrow.errors import CorruptFile
from godb_arrow.storage import local
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.inside import number_in, open_to_read
from godb_arrow.storage.modes import UNLIMITED, Access, restrict_file

__all__ = ["KEPT_FOLDER", "KeptSegments", "kept_segments", "mirror_kept"]

KEPT_FOLDER = "changes"
"""Name of the folder in a data directory."""
_MIN_COUNTED_BYTES = 64 << 10  # each segment counts as so many, which limits their number
_SUFFIX = ".journal"
_COPY_BYTES = 1 << 20


class KeptSegments:
    """Folder of segments that left the journal.

    Parameters
    ----------
    folder : str
        The folder, which is created with the first segment.
    max_bytes : int
        Max bytes of all segments; 0 keeps no segment.
    max_seconds : float or None
        Max age of a segment's last record.
    """

    def __init__(self, folder: str, max_bytes: int, max_seconds: float | None) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._segments: deque[tuple[int, int, float]] | None = None  # index, counted bytes, time

    def begin(self, journal: str, first: int) -> None:
        """Remove segments that the journal still has, and all of another journal.

        Parameters
        ----------
        journal : str
            Folder of the journal.
        first : int
            Index of its first segment.
        """
        kept = kept_segments(self._folder)
        for index in [index for index in kept if index >= first]:
            path = segment_path(self._folder, index)
            if _begin_of(path) != _begin_of(segment_path(journal, index)):
                self._remove_all()
                break
            local.disk.unlink(path)
        if self._max_bytes and kept:
            self._prune()

    def take(self, path: str) -> None:
        """Move a segment of the journal to the folder, or remove it.

        Raises
        ------
        FileNotFoundError
            The segment was moved before.
        """
        index = number_in(os.path.basename(path), _SUFFIX)
        if not self._max_bytes or index is None or not _is_whole(path, index):
            local.disk.unlink(path)
            if not self._max_bytes:
                self._remove_all()
            return
        status = os.stat(path)
        folder = open_folder(os.path.dirname(self._folder)).folder(KEPT_FOLDER)
        if not folder.check():
            folder.make()
        segments = self._known()
        local.disk.replace(path, segment_path(self._folder, index))
        segments.append((index, max(status.st_size, _MIN_COUNTED_BYTES), status.st_mtime))
        self._prune()

    def restrict(self, access: Access) -> None:
        """Remove permissions from the segments."""
        for index in kept_segments(self._folder):
            restrict_file(segment_path(self._folder, index), access)

    def _known(self) -> deque[tuple[int, int, float]]:
        if self._segments is None:
            self._segments = deque()
            for index in kept_segments(self._folder):
                status = os.stat(segment_path(self._folder, index))
                size = max(status.st_size, _MIN_COUNTED_BYTES)
                self._segments.append((index, size, status.st_mtime))
        return self._segments

    def _prune(self) -> None:
        segments = self._known()
        total = sum(size for _, size, _ in segments)
        oldest = 0.0 if self._max_seconds is None else time.time() - self._max_seconds
        while segments and (total > self._max_bytes or segments[0][2] < oldest):
            index, size, _ = segments.popleft()
            total -= size
            with suppress(FileNotFoundError):
                local.disk.unlink(segment_path(self._folder, index))

    def _remove_all(self) -> None:
        """Remove all segments, unless this was done before."""
        if self._segments is None:
            for index in kept_segments(self._folder):
                local.disk.unlink(segment_path(self._folder, index))
            self._segments = deque()


def kept_segments(folder: str) -> list[int]:
    """Return the indices of the kept segments, in order; none if there is no folder."""
    try:
        return segment_indices(folder)
    except FileNotFoundError:
        return []


def _is_whole(path: str, index: int) -> bool:
    """Return whether a segment has a header, and was not left by a crash."""
    try:
        with open_to_read(path) as stream:
            return open_segment(stream, path, index, is_last=True) is not None
    except CorruptFile:
        return False


def _begin_of(path: str) -> bytes:
    try:
        with open_to_read(path) as stream:
            return stream.read(HEADER.size)
    except FileNotFoundError:
        return b""


def mirror_kept(source: str, target: str) -> None:
    """Copy the kept segments of a source to its follower, and remove others there.

    Parameters
    ----------
    source, target : str
        The data directories.
    """
    theirs = _stamps(os.path.join(source, KEPT_FOLDER))
    folder = open_folder(target).folder(KEPT_FOLDER)
    granted = open_folder(source).folder(KEPT_FOLDER).access() if theirs else UNLIMITED
    ours = _stamps(folder.path)
    for index, stamp in theirs.items():
        if ours.get(index) == stamp:
            continue
        path = segment_path(os.path.join(source, KEPT_FOLDER), index)
        with suppress(FileNotFoundError), open_to_read(path) as stream:  # It may be removed now.
            if not folder.check():
                folder.make()
            access = Access.of_file(os.fstat(stream.fileno())) & folder.access() & granted
            name = os.path.basename(path)
            with folder.replace(name, access) as copy:
                shutil.copyfileobj(stream, copy, _COPY_BYTES)
            os.utime(folder.place(name), ns=(stamp[1], stamp[1]))
    for index in ours.keys() - theirs.keys():
        folder.remove(os.path.basename(segment_path(folder.path, index)))


def _stamps(folder: str) -> dict[int, tuple[int, int]]:
    """Return size and time of the last change of each kept segment."""
    stamps = {}
    for index in kept_segments(folder):
        with suppress(FileNotFoundError):
            status = os.stat(segment_path(folder, index))
            stamps[index] = (status.st_size, status.st_mtime_ns)
    return stamps
