"""Reading of the journal from a position on, with the segments that were kept after it.

A position is a run and a sequence number. Runs are unique, and records of a run never change. So a
position means the same in a directory, in its followers, and in a promoted follower.

A position names the run of its record. A later run that has no record yet may be in no follower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from godb_arrow.directory.kept_segments import kept_segments
from godb_arrow.directory.records import Record, extent_of, head_of, head_size, read_record
from godb_arrow.directory.segments import Segment, content_size, open_segment, segment_path
from godb_arrow.errors import ChangesLost, CorruptFile, GodbError, storage_errors
from godb_arrow.file.hints import JournalPosition
from godb_arrow.storage import local
from godb_arrow.storage.inside import open_to_read

__all__ = ["ADVICE", "ChangeLog", "last_record"]

_MAX_ATTEMPTS = 10  # to open a segment that the writer moves meanwhile
_CACHED_ENDS = 64  # each has the run of its last record, which never changes
ADVICE = "read a snapshot(), and continue with its token"
"""Fix of :class:`~godb_arrow.ChangesLost`."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Segment by its path and header."""

    segment: Segment
    is_kept: bool
    end: int | None  # last sequence number by the header of the segment after it; None for the last

    @property
    def has_records(self) -> bool:
        """Whether the segment has records; false for the last one."""
        return self.end is not None and self.end >= self.segment.first


class ChangeLog:
    """Records of the journal after a position, which other threads or processes may append to.

    Parameters
    ----------
    journal, kept : str
        Folders of the segments.
    position : JournalPosition
        Last record that was read.
    offset : tuple of int, optional
        Number of the segment and offset where the next record probably begins.
    begun : bytes
        UUID of a later run, which had no record at the position. It is optional.

    Raises
    ------
    ChangesLost
        The records after the position were removed, or never happened here.

    Examples
    --------
    >>> import tempfile
    >>> from godb_arrow.directory.journal import Journal
    >>> folder = tempfile.mkdtemp()
    >>> journal = Journal(folder)
    >>> list(journal.recover())
    []
    >>> log = ChangeLog(folder, folder + "/kept", journal.position(0))
    >>> journal.append("users", {"op": "drop"})
    1
    >>> [record.number for record in log.read()], list(log.read())
    ([1], [])
    >>> log.close()
    >>> journal.close()
    """

    def __init__(
        self,
        journal: str,
        kept: str,
        position: JournalPosition,
        offset: tuple[int, int] | None = None,
        begun: bytes = b"",
    ) -> None:
        self._folders = (kept, journal)
        self.position = position
        self._stream: BinaryIO | None = None
        self._place: _Place
        self._open(position, offset, begun)

    @property
    def run(self) -> bytes:
        """UUID of the run of the current segment, which has no record yet at its beginning."""
        return self._place.segment.run

    @property
    def offset(self) -> tuple[int, int]:
        """Number of the segment, and offset where the next record begins."""
        return self._place.segment.index, self._place.segment.size

    def close(self) -> None:
        """Close the segment."""
        if self._stream is not None:
            self._stream.close()

    # --- position -----------------------------------------------------------------------------

    def _open(
        self, position: JournalPosition, offset: tuple[int, int] | None, begun: bytes
    ) -> None:
        for _ in range(_MAX_ATTEMPTS):
            with suppress(FileNotFoundError):  # The writer moved or removed a segment.
                places = _places(self._folders)
                at = _find(places, position, begun)
                place = places[at]
                if place.segment.run != (begun or position.run):
                    offset = None  # It is in another run.
                stream = open_to_read(place.segment.path)
                try:
                    self._skip_to(stream, place, position, offset)
                except BaseException:
                    stream.close()
                    raise
                self._stream, self._place = stream, place
                self.position = _named(places, at, position)
                return
        raise _removed(position)

    def _skip_to(
        self,
        stream: BinaryIO,
        place: _Place,
        position: JournalPosition,
        offset: tuple[int, int] | None,
    ) -> None:
        """Advance the segment to the record after a position, reading only heads."""
        segment = place.segment
        size = content_size(stream, segment)
        if offset is not None and offset[0] == segment.index:
            at = offset[1]
            head = _head_at(stream, segment, at) if segment.header_size <= at <= size else None
            if at == size or (head is not None and head[1] == position.number + 1):
                segment.size, segment.last = at, position.number
                return
        at, last = segment.header_size, segment.first - 1
        while last < position.number:
            head = _head_at(stream, segment, at)
            if head is None or head[1] != last + 1 or at + extent_of(segment, head[0]) > size:
                raise _never_happened(position)
            stream.seek(at)
            last = head[1]
            at += extent_of(segment, head[0])
        segment.size, segment.last = at, last

    # --- records ------------------------------------------------------------------------------

    def read(self) -> Iterator[Record]:
        """Yield the records after the position that are complete, and advance the position.

        A record is synced to the disk before it is yielded, so that a power cut does not undo it.

        Raises
        ------
        ChangesLost
            Segments were removed before they were read.
        """
        while True:
            yield from self._rest()
            if not self._advance():
                return

    def _rest(self) -> Iterator[Record]:
        stream, segment = self._stream, self._place.segment
        assert stream is not None
        size = content_size(stream, segment)
        if size > segment.size and not self._place.is_kept:
            with storage_errors("sync the journal", segment.path):
                local.disk.fsync(stream.fileno())
        while segment.size < size:
            stream.seek(segment.size)
            record = read_record(stream, segment, size - segment.size, segment.last + 1)
            if record is None:
                return
            segment.size = stream.tell()
            segment.last = record.last
            self.position = JournalPosition(segment.run, record.last)
            read = [record]
            del record  # The caller may release it before it asks for the next one.
            yield read.pop()

    def _advance(self) -> bool:
        """Open the segment after the current one; return False if there is none."""
        current = self._place.segment
        for _ in range(_MAX_ATTEMPTS):
            with suppress(FileNotFoundError):
                indices = _listed(self._folders)
                later = sorted(index for index in indices if index > current.index)
                if not later and current.index in indices:
                    return False
                if self._has_more():
                    return True  # Records were appended before the next segment began.
                for index in later:
                    if self._begin(index, *indices[index]):
                        return True
                if current.index in indices:
                    return False
        raise _removed(self.position)

    def _begin(self, index: int, folder: str, is_kept: bool) -> bool:
        """Open a segment if it continues the current one; return False if it has no header yet.

        Raises
        ------
        ChangesLost
            Segments in between were removed, or records that were read are missing.
        """
        path, expected = segment_path(folder, index), self._place.segment.last + 1
        stream = open_to_read(path)
        segment = _header_of(stream, path, index)
        if segment is not None and segment.first == expected:
            self.close()
            self._stream, self._place = stream, _Place(segment, is_kept, None)
            return True
        size = 0 if segment is None else content_size(stream, segment)
        stream.close()
        if segment is None or (segment.first < expected and size <= segment.header_size):
            return False  # A crash left it.
        raise (_removed if segment.first > expected else _never_happened)(self.position)

    def _has_more(self) -> bool:
        stream, segment = self._stream, self._place.segment
        assert stream is not None
        size = content_size(stream, segment)
        stream.seek(segment.size)
        return read_record(stream, segment, size - segment.size, segment.last + 1) is not None


@lru_cache(_CACHED_ENDS)
def last_record(journal: str, kept: str, end: JournalPosition) -> JournalPosition:
    """Return the position at the end of a journal with the run that wrote the last record.

    Parameters
    ----------
    journal, kept : str
        Folders of the segments.
    end : JournalPosition
        Position with the last run, which may have no record.

    Returns
    -------
    JournalPosition
        The same position if no segment has the record.
    """
    with suppress(OSError, GodbError):  # The given position is valid, too.
        places = _places((kept, journal))
        return _named(places, _find(places, end), end)
    return end


def _listed(folders: tuple[str, str]) -> dict[int, tuple[str, bool]]:
    """Return the folder of each segment, and whether it is kept after it left the journal.

    The journal is listed first. So a segment that moves meanwhile is in one of the lists.
    """
    kept, journal = folders
    found = dict.fromkeys(kept_segments(journal), (journal, False))
    return found | dict.fromkeys(kept_segments(kept), (kept, True))


def _places(folders: tuple[str, str]) -> list[_Place]:
    """Return the segments without gaps, up to the last one."""
    segments: list[tuple[Segment, bool, bool]] = []
    for index, (folder, is_kept) in sorted(_listed(folders).items()):
        path = segment_path(folder, index)
        with storage_errors("read changes", path), open_to_read(path) as stream:
            segment = _header_of(stream, path, index)
            if segment is not None:
                is_empty = content_size(stream, segment) <= segment.header_size
                segments.append((segment, is_kept, is_empty))
    places: list[_Place] = []
    first: int | None = None
    for segment, is_kept, is_empty in reversed(segments):
        if first is not None and (segment.first > first or (is_empty and segment.first != first)):
            if is_empty:
                continue  # A crash left it after the segment with later records.
            break
        places.append(_Place(segment, is_kept, None if first is None else first - 1))
        first = segment.first
    return places[::-1]


def _find(places: Sequence[_Place], position: JournalPosition, begun: bytes = b"") -> int:
    """Return the index of the segment that has the record after a position."""
    runs = [place.segment.run for place in places]
    run = begun if begun in runs else position.run  # A follower may lack the later run.
    found = [
        index
        for index, place in enumerate(places)
        if run and place.segment.run == run and place.segment.first <= position.number + 1
    ]
    if not found:
        raise _removed(position)
    end = places[found[-1]].end
    if end is not None and position.number > end:
        raise _never_happened(position)
    return found[-1]


def _named(places: Sequence[_Place], at: int, position: JournalPosition) -> JournalPosition:
    """Return the position of a segment's beginning with the run of the record before.

    Without this record it has the oldest run that began there. Other positions are unchanged.
    """
    run = position.run
    if places[at].segment.first == position.number + 1:
        run = places[at].segment.run or run
        for place in reversed(places[:at]):
            run = place.segment.run or run
            if place.has_records:
                break
    return JournalPosition(run, position.number)


def _header_of(stream: BinaryIO, path: str, index: int) -> Segment | None:
    """Return a segment, or None if its header is incomplete or damaged."""
    try:
        return open_segment(stream, path, index, is_last=True)
    except CorruptFile:
        return None


def _head_at(stream: BinaryIO, segment: Segment, at: int) -> tuple[int, int, int] | None:
    stream.seek(at)
    return head_of(segment, stream.read(head_size(segment)))


def _removed(position: JournalPosition) -> ChangesLost:
    return ChangesLost(f"the changes after {position.number} were removed", advice=ADVICE)


def _never_happened(position: JournalPosition) -> ChangesLost:
    return ChangesLost(
        f"change {position.number} is not in this data directory, which lost changes",
        advice=ADVICE,
    )
