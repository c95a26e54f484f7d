"""Repair of a damaged journal, which keeps all complete records and the damaged files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from godb_arrow.directory.directory_lock import lock_directory
from godb_arrow.directory.follower_file import read_follower_file
from godb_arrow.directory.journal_reader import Layout, damage_after, whole_records_after
from godb_arrow.directory.places import full_path
from godb_arrow.directory.records import LOST, Record, pack_record, read_record
from godb_arrow.directory.segments import HEADER, VERSION, Segment, content_size, pack_header
from godb_arrow.errors import CorruptFile, ReadOnly, SourceNotFound, error_context, storage_errors
from godb_arrow.storage import local
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.inside import open_to_read
from godb_arrow.storage.replace import replace_file

__all__ = ["JournalDamage", "JournalRepair", "find_damage", "repair_journal"]


logger = logging.getLogger(__name__)

_VERSION_AT = slice(8, 12)  # bytes of a header
_RUN_AT = slice(32, 48)


@dataclass(frozen=True, slots=True)
class JournalDamage:
    """Damaged place of a journal.

    Attributes
    ----------
    path : str
        Path of the segment.
    offset : int
        Offset in the segment in bytes.
    problem : str
        Description of the damage.
    """

    path: str
    offset: int
    problem: str

    def __str__(self) -> str:
        return f"{self.path}, byte {self.offset}: {self.problem}"


@dataclass(slots=True)
class JournalRepair:
    """Result of a repair.

    Attributes
    ----------
    kept : int
        Number of complete records in the journal.
    lost : int
        Number of sequence numbers between them that are lost.
    damage : list of JournalDamage
        Damaged places.
    set_aside : list of str
        Damaged files under their new names.
    """

    kept: int = 0
    lost: int = 0
    damage: list[JournalDamage] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)


def find_damage(
    folder: str, check: Callable[[Record], object] = lambda record: None
) -> tuple[list[JournalDamage], int, int]:
    """Read a whole journal, past damaged places.

    Parameters
    ----------
    folder : str
        Folder of the segments.
    check : callable
        Function that is called with each complete record.

    Returns
    -------
    damage : list of JournalDamage
    records : int
        Number of complete records.
    torn : int
        Number of bytes after the last complete record that a crash left unfinished.
    """
    scan = _Scan(folder)
    count = 0
    for read in scan.segments():
        for record in read.records:
            check(record)
            count += record.meta.get("op") != LOST
    return scan.damage, count, scan.torn


def repair_journal(data_dir: str | os.PathLike[str]) -> JournalRepair:
    """Repair a damaged journal, keeping every complete record.

    A damaged segment is kept as ``NAME.damaged`` beside the repaired one. A valid journal is
    unchanged.

    Parameters
    ----------
    data_dir : path
        Data directory that no engine has open.

    Returns
    -------
    JournalRepair

    Raises
    ------
    SourceNotFound
        The directory has no journal.
    ReadOnly
        The directory is a follower.
    DirectoryLocked
        An engine has the directory open.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> folder = tempfile.mkdtemp()
    >>> with godb_arrow.StorageEngine(folder) as engine:
    ...     _ = engine.create_collection("users")
    >>> repair_journal(folder).damage
    []
    """
    path = full_path(data_dir)
    folder = os.path.join(path, "journal")
    with error_context("repair", path):
        if not open_folder(path).folder("journal").check():
            raise SourceNotFound(f"there is no journal in {path}", advice="check the path")
        if read_follower_file(path) is not None:
            raise ReadOnly(
                f"{path} is a follower of another data directory",
                advice="repair the source, or follow again into another folder",
            )
        lock = lock_directory(path)
        try:
            with storage_errors("repair", folder):
                return _repair(folder)
        finally:
            lock.release()


def _repair(folder: str) -> JournalRepair:
    repair = JournalRepair()
    repair.damage, repair.kept, _ = find_damage(folder)
    damaged = {damage.path for damage in repair.damage}
    for read in _Scan(folder).segments():
        if read.segment.path in damaged:
            repair.set_aside.append(_set_aside(read.segment.path))
            repair.lost += _rewrite(read)
        else:
            for _ in read.records:
                continue
    if damaged:
        local.disk.sync_folder(folder)
    return repair


def _set_aside(path: str) -> str:
    """Link a damaged file under a second name, and return the name."""
    number, target = 1, f"{path}.damaged"
    while os.path.lexists(target):
        number += 1
        target = f"{path}.damaged{number}"
    local.disk.link(path, target)
    return target


def _rewrite(read: _SegmentScan) -> int:
    """Write the complete records of a segment, and return the number of lost ones among them."""
    expected, size, lost = read.expected, HEADER.size, 0
    with replace_file(read.segment.path, inside=True) as stream:
        stream.write(pack_header(expected, read.segment.run or bytes(16), read.segment.oldest))
        for record in read.records:
            written = [record]
            if record.number > expected:
                lost += record.number - expected
                written.insert(0, Record(expected, {"op": LOST, "to": record.number - 1}, []))
            for new in written:
                extent, buffers = pack_record(new.number, size, new.meta, new.parts, size)
                for buffer in buffers:
                    stream.write(buffer)
                size += extent
            expected = record.last + 1
    return lost


@dataclass(slots=True)
class _SegmentScan:
    """Segment, with the next sequence number and the complete records."""

    segment: Segment
    expected: int
    records: Iterator[Record]


class _Scan:
    """Reading of a journal that may be damaged, from its beginning to its end."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._next: int | None = None  # expected sequence number
        self.damage: list[JournalDamage] = []
        self.torn = 0

    def segments(self) -> Iterator[_SegmentScan]:
        """Yield each segment, whose records must be read before the next one."""
        layout = Layout.read(self._folder, damaged=self._note_header)
        self.torn = layout.torn
        for segment in layout.segments:
            with open_to_read(segment.path) as stream:
                size = content_size(stream, segment)
                stream.seek(0)
                if not segment.size:
                    self._find_first(stream, segment, size)
                if self._next is None:
                    self._next = segment.first
                elif segment.first != self._next and segment.size:
                    if segment.index > layout.last and segment.first < self._next:
                        continue  # The segment before has the later records.
                    problem = f"begins with record {segment.first} instead of {self._next}"
                    self._note(segment.path, 0, problem)
                is_last = segment.index >= layout.last
                records = self._records(stream, segment, size, is_last)
                yield _SegmentScan(segment, self._next, records)

    def _note_header(self, error: CorruptFile) -> None:
        self._note(error.source or "", 0, "does not begin as a segment")

    def _note(self, path: str, offset: int, problem: str) -> None:
        self.damage.append(JournalDamage(path, offset, problem))

    def _find_first(self, stream: BinaryIO, segment: Segment, size: int) -> None:
        """Find the first complete record of a segment with a damaged header."""
        head = stream.read(HEADER.size)
        first = self._next or 1
        run = head[_RUN_AT].ljust(16, b"\0")
        versions = (VERSION, 1) if head[_VERSION_AT] != (1).to_bytes(4, "little") else (1, VERSION)
        for version in versions:  # A damaged header does not tell the version reliably.
            segment.version, segment.run = version, run if version > 1 and any(run) else b""
            segment.first, segment.last = first, first - 1
            found = whole_records_after(stream, segment, size, any_number=self._next is None)
            for _, number, _ in found:
                segment.first, segment.last = number, number - 1
                return

    def _records(
        self, stream: BinaryIO, segment: Segment, size: int, is_last: bool
    ) -> Iterator[Record]:
        """Yield the complete records of a segment, without repeated ones."""
        is_explained = False  # whether damage since the last record was recorded
        while segment.size < size:
            record, problem = None, ""
            stream.seek(segment.size)
            try:
                if segment.size:
                    record = read_record(stream, segment, size - segment.size, None)
            except CorruptFile as error:
                problem = error.message
            if record is None:
                following = next(whole_records_after(stream, segment, size), None)
                problem = problem or damage_after(stream, segment) or ""
                if not problem and not is_last:
                    problem = "a record is incomplete, and others follow"
                if not problem:
                    self.torn = size - segment.size
                    return
                if segment.size:
                    self._note(segment.path, segment.size, problem)
                if following is None:
                    return
                segment.size = following[0]
                is_explained = True
                continue
            assert self._next is not None
            start, segment.size = segment.size, stream.tell()
            if record.number < self._next:
                self._note(segment.path, start, f"record {record.number} is repeated")
                continue
            if record.number > max(segment.last, self._next - 1) + 1 and not is_explained:
                self._note(
                    segment.path,
                    start,
                    f"found record {record.number} instead of record {self._next}",
                )
            is_explained = False
            segment.last, self._next = record.last, record.last + 1
            yield record
