"""Copy of a journal that is being written, with all its complete records."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import BinaryIO

from godb_arrow.directory.journal_reader import (
    Layout,
    Replayed,
    damage_after,
    read_journal,
    remove_torn,
)
from godb_arrow.directory.names import is_attached_name
from godb_arrow.directory.records import Record, last_number, read_record
from godb_arrow.directory.segments import (
    HEADER,
    Segment,
    content_size,
    journal_damage,
    open_segment,
    pack_header,
    segment_indices,
    segment_path,
)
from godb_arrow.errors import CorruptFile, GodbError
from godb_arrow.storage import local
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.inside import check_folder, open_inside, open_to_read
from godb_arrow.storage.modes import UNLIMITED, Access
from godb_arrow.storage.replace import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, replace_file
from godb_arrow.storage.source import Source

__all__ = [
    "JournalCopy",
    "MissingRecords",
    "RemoteJournalCopy",
    "attached_files",
    "bytes_behind",
    "fetch_journal",
    "is_journal_object",
    "last_record",
]


_MAX_ATTEMPTS = 5
_BLOCK_BYTES = 1 << 20
_CHUNK = re.compile(r"([0-9]{8,})\.([0-9]{12,})")


class MissingRecords(GodbError):
    """Journal does not continue where its copy ends."""


class JournalCopy:
    """Segments of a journal, copied to another folder.

    Parameters
    ----------
    source : str
        Folder of the journal.
    target : str
        Folder of the copy. Incomplete records at its end are removed.
    anew : bool
        Whether to ignore the existing copy, which is kept until :meth:`replace`.
    access : Access
        Permissions that the copy has at most, in addition to the limits of the segments.

    Raises
    ------
    CorruptFile
        The copy is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from godb_arrow.directory.journal import Journal
    >>> source, target = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> journal = Journal(source)
    >>> list(journal.recover())
    []
    >>> copy = JournalCopy(source, target)
    >>> copy.replace([])
    True
    >>> journal.append("users", {"op": "drop"})
    1
    >>> copy.copy()
    1
    >>> journal.close()
    """

    def __init__(
        self, source: str, target: str, *, anew: bool = False, access: Access = UNLIMITED
    ) -> None:
        self._source = source
        self._access = access
        self._target = target
        self._segments: list[Segment] = []
        self._attached: set[str] = set()
        if anew:
            return
        replayed = Replayed()
        for _ in read_journal(target, replayed):
            pass
        self._segments = replayed.segments
        remove_torn(replayed)

    @property
    def segments(self) -> list[Segment]:
        """Segments of the copy."""
        return list(self._segments)

    @property
    def last(self) -> int:
        """Sequence number of the newest record."""
        return self._segments[-1].last if self._segments else 0

    def source_indices(self) -> list[int]:
        """Return the numbers of the segments that the journal has and needs."""
        if not _indices(self._source):
            return []
        return [segment.index for segment in Layout.read(self._source).segments]

    def is_continued(self) -> bool:
        """Return whether the journal has all copied records of one of its segments.

        Segments without a record do not count, because all journals begin alike.
        """
        with_records = (s for s in reversed(self._segments) if s.last >= s.first)
        return any(map(self._is_prefix, with_records))

    def _is_prefix(self, segment: Segment) -> bool:
        start = max(segment.header_size, segment.size - _BLOCK_BYTES)
        try:
            with (
                open_to_read(segment_path(self._source, segment.index)) as theirs,
                open_to_read(segment.path) as ours,
            ):
                begun = _begun(theirs, segment.index, self._source)
                if begun is None or (begun.first, begun.run) != (segment.first, segment.run):
                    return False
                theirs.seek(start)
                ours.seek(start)
                size = segment.size - start
                return theirs.read(size) == ours.read(size)
        except FileNotFoundError:
            return False

    def take_attached(self) -> set[str]:
        """Return the attached files that new records name, and forget them."""
        attached, self._attached = self._attached, set()
        return attached

    def copy(self) -> int:
        """Copy new records to the disk, and return the sequence number of the newest.

        Raises
        ------
        MissingRecords
            The journal does not continue where the copy ends.
        CorruptFile
            The journal is damaged. The copy is unchanged.
        """
        damage: CorruptFile | None = None
        for _ in range(_MAX_ATTEMPTS):
            try:
                if self._copy_once():
                    return self.last
            except FileNotFoundError:  # The segment was removed a moment ago.
                continue
            except CorruptFile as error:  # The writer may be cutting off a record right now.
                damage = error
        if damage is not None:
            raise damage
        raise MissingRecords(f"the journal has no record {self.last + 1}")

    def _copy_once(self) -> bool:
        """Return whether all records were copied; meanwhile a segment may have ended."""
        indices = self.source_indices()
        if not self._segments:
            if indices:
                raise MissingRecords("the copy is empty")
            return True
        current = self._segments[-1]
        if current.index in indices:
            with open_to_read(segment_path(self._source, current.index)) as stream:
                begun = _begun(stream, current.index, self._source)
                if begun is None or (begun.first, begun.run) != (current.first, current.run):
                    raise MissingRecords("the journal was replaced")
                self._append(current, stream)
        elif not indices or indices[-1] < current.index:
            raise MissingRecords("the journal was replaced")
        for index in indices:
            if index <= current.index:
                continue
            path = segment_path(self._source, index)
            with open_to_read(path) as stream:
                begun = _begun(stream, index, self._source)
                if begun is None:
                    continue
                empty = content_size(stream, begun) == begun.size
                if empty and begun.first <= self.last + 1:
                    continue  # The segment before may still get records.
                if begun.first != self.last + 1:
                    return False
                segment = replace(begun, path=segment_path(self._target, index), size=0)
                self._append(segment, stream)
                local.disk.sync_folder(self._target)
                self._segments.append(segment)
        return True

    def _append(self, segment: Segment, stream: BinaryIO, path: str | None = None) -> None:
        """Copy the new records of a segment."""
        size = content_size(stream, segment)
        if size < segment.size:
            raise MissingRecords(f"the journal lost records before {segment.last + 1}")
        end, last = max(segment.size, segment.header_size), segment.last
        stream.seek(end)
        attached: set[str] = set()
        while (record := read_record(stream, segment, size - end, last + 1)) is not None:
            end, last = stream.tell(), record.last
            attached.update(attached_files(record))
        problem = None
        if end < size:
            problem = damage_after(stream, replace(segment, size=end, last=last))
        if end > segment.size:
            self._write(path or segment.path, stream, segment, end)
            segment.size, segment.last = end, last
            self._attached |= attached
        if problem is not None:
            place = segment_path(self._source, segment.index)
            raise journal_damage(place, end, f"is damaged: {problem}")

    def _write(self, path: str, stream: BinaryIO, segment: Segment, end: int) -> None:
        """Copy bytes of a segment."""
        start = segment.size
        access = Access.of_file(os.fstat(stream.fileno())) & self._access
        descriptor = open_inside(path, os.O_WRONLY | os.O_CREAT, access.new_file)
        try:
            access.restrict(descriptor)
            local.disk.truncate(descriptor, start)  # removes the bytes of a failed copy
            os.lseek(descriptor, start, os.SEEK_SET)
            if not start and segment.version > 1:
                # The source's files contain the earlier records, but the follower's may not yet.
                local.disk.write_all(descriptor, pack_header(segment.first, segment.run))
                start = segment.header_size
            stream.seek(start)
            left = end - start
            while left:
                block = stream.read(min(left, _BLOCK_BYTES))
                local.disk.write_all(descriptor, block)
                left -= len(block)
            local.disk.fsync(descriptor)
        finally:
            local.disk.close(descriptor)

    def replace(self, indices: Iterable[int]) -> bool:
        """Replace the copy by the current journal.

        Parameters
        ----------
        indices : iterable of int
            Segments that the journal had before. If one is missing, others may be needed.

        Returns
        -------
        bool
            Whether the copy was replaced; False if the journal changed meanwhile.
        """
        now = self.source_indices()
        if any(index not in now for index in indices):
            return False
        staged: list[tuple[Segment, str]] = []
        try:
            for index in now:
                with open_to_read(segment_path(self._source, index)) as stream:
                    begun = _begun(stream, index, self._source)
                    if begun is None:
                        continue
                    if staged and begun.first != staged[-1][0].last + 1:
                        return False
                    name = f"{TEMPORARY_PREFIX}{index:08d}{TEMPORARY_SUFFIX}"
                    path = os.path.join(self._target, name)
                    segment = replace(begun, path=segment_path(self._target, index), size=0)
                    staged.append((segment, path))
                    self._append(segment, stream, path)
        except FileNotFoundError:
            return False
        for index in segment_indices(self._target):
            local.disk.unlink(segment_path(self._target, index))
        for segment, path in staged:
            local.disk.replace(path, segment.path)
        local.disk.sync_folder(self._target)
        self._segments = [segment for segment, _ in staged]
        return True

    def forget_before(self, indices: Iterable[int]) -> None:
        """Remove segments that a journal with these segments had no more, except the last one."""
        kept = set(indices)
        for segment in self._segments[:-1]:
            if segment.index not in kept:
                local.disk.unlink(segment.path)
                self._segments.remove(segment)


class RemoteJournalCopy:
    """Copy of a journal on an object store, with one object for each addition.

    Parameters
    ----------
    source : str
        Folder of the journal.
    url : str
        URL of the objects.
    anew : bool
        See :class:`JournalCopy`, which keeps a local copy.
    """

    def __init__(self, source: str, url: str, *, anew: bool = False) -> None:
        self._folder = open_folder(url)
        self._temporary = tempfile.TemporaryDirectory(prefix="godb-arrow-journal-")
        try:
            self._sizes = {} if anew else fetch_journal(url, self._temporary.name)
            self._copy = JournalCopy(source, self._temporary.name, anew=anew)
            if self._local_sizes() != self._sizes:
                raise CorruptFile("the copy of the journal is truncated", offset=0, where="file")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the local copy."""
        self._temporary.cleanup()

    def _local_sizes(self) -> dict[int, int]:
        return {segment.index: segment.size for segment in self._copy.segments}

    @property
    def last(self) -> int:
        """Sequence number of the newest record."""
        return self._copy.last

    def source_indices(self) -> list[int]:
        """Return the numbers of the segments that the journal has and needs."""
        return self._copy.source_indices()

    def is_continued(self) -> bool:
        """Return whether the journal continues; see :meth:`JournalCopy.is_continued`."""
        return self._copy.is_continued()

    def take_attached(self) -> set[str]:
        """Return the attached files that new records name; see :class:`JournalCopy`."""
        return self._copy.take_attached()

    def copy(self) -> int:
        """Copy new records; see :meth:`JournalCopy.copy`."""
        last = self._copy.copy()
        self._upload()
        return last

    def _upload(self) -> None:
        for index, size in self._local_sizes().items():
            start = self._sizes.get(index, 0)
            if size > start:
                with open(segment_path(self._temporary.name, index), "rb") as stream:
                    stream.seek(start)
                    data = stream.read(size - start)
                with replace_file(self._folder.place(f"{index:08d}.{start:012d}")) as target:
                    target.write(data)
                self._sizes[index] = size

    def replace(self, indices: Iterable[int]) -> bool:
        """Replace the copy by the current journal; see :meth:`JournalCopy.replace`."""
        if not self._copy.replace(indices):
            return False
        for name in self._folder.names():
            if _chunk(name) is not None:
                self._folder.remove(name)
        self._sizes = {}
        self._upload()
        return True

    def forget_before(self, indices: Iterable[int]) -> None:
        """Remove unneeded segments; see :meth:`JournalCopy.forget_before`."""
        self._copy.forget_before(indices)
        kept = self._local_sizes()
        gone = {index for index in self._sizes if index not in kept}
        for name in self._folder.names() if gone else ():
            if (chunk := _chunk(name)) is not None and chunk[0] in gone:
                self._folder.remove(name)
        self._sizes = {index: size for index, size in self._sizes.items() if index in kept}


def _chunk(name: str) -> tuple[int, int] | None:
    """Return the segment and the offset of an object's bytes, or None for other names."""
    match = _CHUNK.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]))


def is_journal_object(name: str) -> bool:
    """Return whether a name is one that :class:`RemoteJournalCopy` gives to objects."""
    return _chunk(name) is not None


def _indices(folder: str) -> list[int]:
    """Return the numbers of the segments in a folder, which need not exist."""
    return [] if check_folder(folder) is None else segment_indices(folder)


def fetch_journal(url: str, folder: str) -> dict[int, int]:
    """Restore the segments of a journal on an object store, with all complete records.

    Parameters
    ----------
    url : str
        URL that :class:`RemoteJournalCopy` wrote.
    folder : str
        Local folder for the segments.

    Returns
    -------
    dict of int to int
        Size of each segment in bytes.
    """
    sizes: dict[int, int] = {}
    place = open_folder(url)
    for index, start in sorted(filter(None, map(_chunk, place.names()))):
        if start == sizes.get(index, 0):
            with (
                Source(place.place(f"{index:08d}.{start:012d}")).open() as stream,
                open(segment_path(folder, index), "ab") as target,
            ):
                target.write(stream.read())
            sizes[index] = os.path.getsize(segment_path(folder, index))
    return sizes


def _begun(stream: BinaryIO, index: int, folder: str) -> Segment | None:
    """Return a segment without its records, or None if it has no header yet."""
    return open_segment(stream, segment_path(folder, index), index, is_last=True)


def attached_files(record: Record) -> list[str]:
    """Return the names of the files that a record attaches."""
    files = record.meta.get("files") if record.meta.get("op") == "attach" else None
    names = files.values() if isinstance(files, dict) else ()
    return [name for name in names if is_attached_name(name)]


def last_record(folder: str) -> int:
    """Return the sequence number of the newest record of a copied journal.

    Only the heads of its records are read.
    """
    last = 0
    for index in _indices(folder):
        path = segment_path(folder, index)
        # Another process may remove a segment after it was listed.
        with suppress(FileNotFoundError), open_to_read(path) as stream:
            segment = open_segment(stream, path, index, is_last=True)
            if segment is not None:
                last = last_number(stream, segment)
    return last


def _size_of(path: str, index: int) -> int:
    """Return the size of a segment that another process may remove."""
    with suppress(FileNotFoundError), open_to_read(path) as stream:
        segment = open_segment(stream, path, index, is_last=True)
        return 0 if segment is None else content_size(stream, segment)
    return 0


def bytes_behind(source: str, target: str) -> int:
    """Return the number of bytes that a journal has and its copy lacks."""

    def sizes(folder: str) -> dict[int, int]:
        return {index: _size_of(segment_path(folder, index), index) for index in _indices(folder)}

    ours = sizes(target)
    newest = max(ours, default=0)
    return sum(
        max(0, size - ours.get(index, HEADER.size))
        for index, size in sizes(source).items()
        if index >= newest
    )
