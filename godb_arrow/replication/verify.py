"""Verification of files, data directories and backups."""

from __future__ import annotations

import os

import xxhash

from godb_arrow.directory.places import is_data_directory
from godb_arrow.directory.reports import CollectionReport, FileReport, Progress
from godb_arrow.directory.verify import verify_file
from godb_arrow.directory.verify_directory import (
    merge_report,
    verify_directory,
)
from godb_arrow.errors import FormatError, StorageError, error_context
from godb_arrow.replication.backup import BackupPlace, StoredFile
from godb_arrow.snapshots.manifest import Manifest
from godb_arrow.storage.folder import Folder
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.source import Location, Source

__all__ = ["verify_godb"]


_BLOCK_BYTES = 1 << 20  # read at once


def verify_godb(source: Location | Source, *, progress: Progress | None = None) -> FileReport:
    """Check every byte of a place; see :func:`godb_arrow.verify_godb`."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source).rstrip("/") or "/"
        if is_data_directory(name):
            return verify_directory(name, progress=progress)
        if _has_backups(name):
            return _verify_backups(name, progress)
    return verify_file(source, progress=progress)


def _has_backups(path: str) -> bool:
    """Return whether a folder or URL has backups."""
    if path.endswith((".godb", ".parts")) or not (is_url(path) or os.path.isdir(path)):
        return False
    try:
        return bool(BackupPlace(path).numbers())
    except StorageError:  # Some servers list no files.
        return False


def _verify_backups(target: str, progress: Progress | None) -> FileReport:
    report = FileReport(target, size=0, checksum=True, sealed=True)
    seen: set[str] = set()
    place = BackupPlace(target)
    with error_context("verify", target):
        for number in place.numbers():
            try:
                description = place.read(number)
            except (FormatError, StorageError) as error:
                report.add_problem(f"backup {number}: {error}")
                continue
            for file in description.files:
                if file.digest not in seen:
                    seen.add(file.digest)
                    shown = f"backup {number}, {file.name}"
                    folder = place.folder_of(file.digest)
                    problem = _problem_of(folder, file)
                    if problem is not None:
                        report.add_problem(f"{shown}: {problem}")
                    else:
                        _verify_content(report, folder, file, shown, progress)
            report.collections = [
                CollectionReport(name, count)
                for name, count in description.info.collections.items()
            ]
    return report


def _problem_of(folder: Folder, file: StoredFile) -> str | None:
    """Return the difference between a file and the one that was backed up, or None."""
    hasher, left = xxhash.xxh3_128(), file.size
    try:
        with folder.open(file.digest) as stream:
            while left >= 0 and (block := stream.read(_BLOCK_BYTES)):
                hasher.update(block)
                left -= len(block)
    except StorageError as error:
        return str(error)
    if left or hasher.hexdigest() != file.digest:
        return "the file does not match its digest in the backup"
    return None


def _verify_content(
    report: FileReport, folder: Folder, file: StoredFile, shown: str, progress: Progress | None
) -> None:
    """Check that a file was valid when it was backed up."""
    if file.name.endswith(".godb"):
        merge_report(report, folder, file.digest, shown, progress)
    elif file.name.endswith(".manifest"):
        try:
            with folder.open(file.digest) as stream:
                Manifest.unpack(stream.read())
        except (FormatError, StorageError) as error:
            report.add_problem(f"{shown}: {error}")
