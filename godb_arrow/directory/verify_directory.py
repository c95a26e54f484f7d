"""Verification of a whole data directory: files, manifests, id files and the journal."""

from __future__ import annotations

import os
import tempfile

from godb_arrow import codec
from godb_arrow.directory.data_directory import PARTS
from godb_arrow.directory.follower_file import read_follower_file
from godb_arrow.directory.identity import read_identity
from godb_arrow.directory.journal_copy import fetch_journal
from godb_arrow.directory.journal_reader import damage_after, records_of
from godb_arrow.directory.kept_segments import KEPT_FOLDER, kept_segments
from godb_arrow.directory.names import ATTACHED
from godb_arrow.directory.records import LOST, TRANSACTION, UNLISTED, Record, sensible
from godb_arrow.directory.repair import find_damage
from godb_arrow.directory.reports import FileReport, Progress
from godb_arrow.directory.segments import content_size, open_segment, segment_path
from godb_arrow.directory.verify import verify_file, verify_parts
from godb_arrow.errors import FormatError, GodbError, StorageError, error_context
from godb_arrow.snapshots.entry_runs import scan
from godb_arrow.storage.folder import Folder, open_folder
from godb_arrow.storage.inside import open_to_read
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.replace import is_temporary

__all__ = ["merge_report", "verify_directory"]


_FILE = ".godb"
_SETTINGS = frozenset(
    {"create", "attach", "drop", "rename", "index", "rules", "compression", UNLISTED, LOST}
)


def verify_directory(path: str, *, progress: Progress | None = None) -> FileReport:
    """Check every file of a data directory.

    Parameters
    ----------
    path : str
        Folder or URL. No engine should write the directory meanwhile.
    progress : callable, optional
        Function that is called with a number of documents, as they are read.

    Returns
    -------
    FileReport
        Collections, problems and notes of all files.
    """
    report = FileReport(path, size=0, checksum=True, sealed=True)
    with error_context("verify", path):
        _verify_collections(report, path, progress)
        _verify_journal(report, path)
        _verify_kept(report, path)
        try:
            follower = read_follower_file(path)
        except (FormatError, StorageError) as error:
            report.add_problem(str(error))
        else:
            if follower is not None and not follower["consistent"]:
                report.notes.append("the follower is being updated")
        try:
            read_identity(path)
        except (FormatError, StorageError) as error:
            report.add_problem(str(error))
    return report


def _verify_collections(report: FileReport, path: str, progress: Progress | None) -> None:
    folder = open_folder(path).folder("collections")
    try:
        names = folder.names()
    except StorageError as error:
        report.add_problem(str(error))
        return
    for name in names:
        if is_temporary(name):
            report.notes.append(f"collections/{name} was left by a killed process")
        elif name.endswith((_FILE, PARTS, ATTACHED)):
            merge_report(report, folder, name, f"collections/{name}", progress)
        else:
            report.notes.append(f"collections/{name} is not a file of godb_arrow")
        if name.endswith(PARTS) and name.removesuffix(PARTS) + _FILE in names:
            report.notes.append(f"collections/{name} and its single file both exist")


def merge_report(
    report: FileReport, folder: Folder, name: str, shown: str, progress: Progress | None
) -> None:
    """Verify a file, and add the result to the report on all files."""
    try:
        if name.endswith(PARTS):
            own = verify_parts(folder.folder(name), progress)
        else:
            own = verify_file(folder.hold(name), progress=progress)
    except StorageError as error:
        report.add_problem(f"{shown}: {error}")
        return
    report.collections += own.collections
    report.size = (report.size or 0) + (own.size or 0)
    report.body_size += own.body_size
    report.checksum = report.checksum and own.checksum
    for problem in own.problems:
        report.add_problem(f"{shown}: {problem}")
    report.notes += [f"{shown}: {note}" for note in own.notes]


def _verify_journal(report: FileReport, path: str) -> None:
    folder = open_folder(path).folder("journal")
    try:
        names = folder.names()
    except StorageError as error:
        report.add_problem(str(error))
        return
    if is_url(path):
        with tempfile.TemporaryDirectory(prefix="godb-arrow-journal-") as copy:
            if names:
                fetch_journal(folder.path, copy)
            _verify_segments(report, copy)
    elif names:
        _verify_segments(report, folder.path)
    damaged = (name for name in names if name.endswith(".damaged"))
    report.notes += [f"journal/{name} was set aside by a repair" for name in damaged]


def _verify_kept(report: FileReport, path: str) -> None:
    """Check the segments that are kept for readers of changes."""
    folder = os.path.join(path, KEPT_FOLDER)
    for index in [] if is_url(path) else kept_segments(folder):
        place = segment_path(folder, index)
        shown = f"{KEPT_FOLDER}/{os.path.basename(place)}"
        try:
            with open_to_read(place) as stream:
                segment = open_segment(stream, place, index, is_last=False)
                assert segment is not None
                size = content_size(stream, segment)
                for record in records_of(stream, segment, size):
                    _check_record(report, record)
                if segment.size == size:
                    continue
                if damage_after(stream, segment) is None:
                    report.notes.append(f"{shown} ends with changes that a power cut lost")
                else:
                    problem = "the changes are damaged; remove the folder"
                    report.add_problem(f"{shown}, byte {segment.size}: {problem}")
        except FileNotFoundError:  # An engine removed it meanwhile.
            continue
        except GodbError as error:
            report.add_problem(f"{shown}: {error}")


def _verify_segments(report: FileReport, folder: str) -> None:
    try:
        damage, _, torn = find_damage(folder, lambda record: _check_record(report, record))
    except GodbError as error:
        report.add_problem(f"journal: {error}")
        return
    for place in damage:
        name = os.path.basename(place.path)
        report.add_problem(f"journal/{name}, byte {place.offset}: {place.problem}")
    if torn:
        report.notes.append(f"the journal ends with {torn} bytes that a crash left unfinished")


def _check_record(report: FileReport, record: Record) -> None:
    """Check the content of a record, as recovery reads it."""
    op = record.meta.get("op")
    if op == LOST:
        report.notes.append(f"the journal lacks changes {record.number} to {record.last}")
    if isinstance(op, str) and op in _SETTINGS:
        return
    try:
        with sensible(record):
            if op not in ("write", TRANSACTION):
                raise ValueError(f"its operation is {op!r}")
            for one in record.of_collections() if op == TRANSACTION else [record]:
                for count, part in zip(one.meta["k"], one.parts, strict=True):
                    entries = scan(part, count)
                    for index in range(len(entries)):
                        codec.load(entries.document(index))
    except FormatError as error:
        report.add_problem(f"journal: record {record.number}: {error.args[0]}")
