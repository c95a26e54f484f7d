"""Verification of files, and of the folders of collections that have several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from godb_arrow import codec
from godb_arrow.directory.reports import CollectionReport, FileReport, Progress
from godb_arrow.directory.verify_entries import repetitions
from godb_arrow.directory.verify_file import verify_single
from godb_arrow.directory.verify_manifest import problems_of_manifest, problems_of_part
from godb_arrow.documents.ids import ids_of
from godb_arrow.errors import FormatError, StorageError
from godb_arrow.memory.limit import Memory
from godb_arrow.query.contradiction import contradiction
from godb_arrow.query.statistics import Row
from godb_arrow.snapshots.id_index import IdIndex
from godb_arrow.snapshots.manifest import Part
from godb_arrow.snapshots.part_file import PartFile
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.storage.folder import Folder, open_folder
from godb_arrow.storage.source import Location, Source

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["verify_file", "verify_parts"]


def verify_file(source: Location | Source, *, progress: Progress | None = None) -> FileReport:
    """Check every byte of a file, or of the folder of a collection that has several.

    Parameters
    ----------
    source : path, URL, bytes or open binary file
        The GODB file, or the folder ``NAME.parts``.
    progress : callable, optional
        Function that is called with a number of processed documents.

    Returns
    -------
    FileReport

    Raises
    ------
    StorageError
        The file cannot be read at all. Damage is reported and raises no error.
    """
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source).rstrip("/")
        if os.path.isdir(name) or name.endswith(".parts"):
            return verify_parts(open_folder(name), progress)
    return verify_single(source, progress)


def verify_parts(content: Folder, progress: Progress | None = None) -> FileReport:
    """Check a collection that has several files."""
    path = content.path
    report = FileReport(path, checksum=True, sealed=True)
    folder = PartFolder(Memory(1 << 26), content, is_ours=False)
    names = set(content.names())
    for version in folder.versions()[:-1]:
        try:
            earlier = folder.manifest(version)
        except (FormatError, StorageError) as error:
            report.add_problem(f"version {version}: {error}")
            continue
        for part in earlier.parts:
            if part.file not in names:
                report.add_problem(f"version {version} names {part.file}, which is missing")
    try:
        base = PartedBase(folder, folder.current())
        manifest = base.manifest
    except FormatError as error:
        report.add_problem(str(error))
        return report
    statistics = base.part_statistics()
    for problem in problems_of_manifest(manifest):
        report.add_problem(problem)
    total = CollectionReport(os.path.basename(path).removesuffix(".parts"), manifest.count)
    hashes: list[bytes] = []
    checked: list[tuple[PartFile, npt.NDArray[np.bool_]]] = []
    for part, file, row_statistics in zip(manifest.parts, base.parts, statistics, strict=True):
        try:
            inspected = verify_file(folder.content.hold(part.file), progress=progress)
        except StorageError as error:
            report.add_problem(str(error))
            continue
        for problem in inspected.problems:
            report.add_problem(problem if part.file in problem else f"{part.file}: {problem}")
        if not inspected.ok:
            continue
        report.body_size += inspected.body_size
        total.size += part.live_size
        if [collection.count for collection in inspected.collections] != [part.documents]:
            report.add_problem(
                f"{part.file} does not have the {part.documents} documents of the manifest"
            )
            continue
        rebuilt = IdIndex.build(ids_of(run.load()) for run in file.runs())
        alive = np.ones(part.documents, bool)
        alive[part.deleted] = False
        own = inspected.collections[0]
        said = problems_of_part(manifest, part, file, own.hint, own.size, inspected.size, rebuilt)
        for problem in said:
            report.add_problem(problem)
        checked.append((file, alive))
        hashes += _check_part(report, part, file, row_statistics, alive)
    if codec.has_equal(b"".join(hashes)):
        for identity in repetitions(_live_ids(checked)):
            report.add_problem(f"the document id {identity!r} occurs twice")
    report.size = sum(part.file_size for part in manifest.parts)
    report.collections.append(total)
    return report


def _check_part(
    report: FileReport,
    part: Part,
    file: PartFile,
    statistics: Row | None,
    alive: npt.NDArray[np.bool_],
) -> list[bytes]:
    """Check what the manifest says of a part's values, and return the hashes of its ids."""
    hashes = []
    for row, run in file.loaded():
        wrong = None if statistics is None else contradiction(statistics, run)
        if wrong is not None:
            report.add_problem(f"the manifest's statistics of {part.file} are wrong about {wrong}")
            statistics = None  # reported once
        packed = codec.survey_ids(ids_of(run))[0]
        live = alive[row : row + len(run)]
        hashes.append(np.frombuffer(packed, np.uint64)[live].tobytes())
    return hashes


def _live_ids(parts: list[tuple[PartFile, npt.NDArray[np.bool_]]]) -> Iterator[str]:
    for file, alive in parts:
        for row, run in file.loaded():
            for index in np.flatnonzero(alive[row : row + len(run)]).tolist():
                yield run.id(index)
