"""Reports on files: their content, and the damage in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from godb_arrow import codec
from godb_arrow.directory.verify_records import (
    COUNTED_DIGITS,
    problems_of_hints,
    problems_of_index,
    problems_of_manifest,
    problems_of_part,
    recorded_plan,
)
from godb_arrow.display import Table, plural, quantity, table_of
from godb_arrow.documents.encoding import threads
from godb_arrow.documents.ids import ids_of
from godb_arrow.errors import (
    FormatError,
    GodbError,
    LimitExceeded,
    StorageError,
    TypeMismatch,
    error_context,
)
from godb_arrow.file.format import TAIL_SIZE, Header, is_sealed, read_header
from godb_arrow.file.hints import CollectionHint, read_hints
from godb_arrow.file.piece_index import read_piece_index
from godb_arrow.file.pieces import StoredPiece
from godb_arrow.file.reader import CollectionSection, GodbReader, ValueSection
from godb_arrow.memory.limit import Memory
from godb_arrow.options import MAX_DOCUMENT_BYTES, ReadOptions
from godb_arrow.parallel import ordered_map
from godb_arrow.query.contradiction import contradiction
from godb_arrow.query.schema_join import find_misfits
from godb_arrow.query.statistics import Row, Statistics, row_of
from godb_arrow.schema import (
    ID_FIELD,
    DocumentSummary,
    fields_fit,
    infer_schema,
    needs_review,
    rounded_fields,
)
from godb_arrow.snapshots.id_index import IdIndex
from godb_arrow.snapshots.index_names import keys_builder, shown_name
from godb_arrow.snapshots.index_run import unpack_run
from godb_arrow.snapshots.manifest import Part
from godb_arrow.snapshots.part_file import PartFile
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.storage.folder import Folder, open_folder
from godb_arrow.storage.source import Location, Source, open_source

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "CollectionReport",
    "FileReport",
    "Progress",
    "inspect_godb",
    "verify_file",
    "verify_parts",
]


_MAX_PROBLEMS = 100
_MANY_DOCUMENTS = 1000  # above which threads are worthwhile


@dataclass(slots=True)
class CollectionReport:
    """Content of a file about one collection.

    Attributes
    ----------
    name : str
        Name of the collection.
    count : int
        Number of documents.
    size : int
        Bytes of MessagePack, ids included.
    hint : CollectionHint or None
        Hint in the file's metadata.
    digest : int
        XXH3-64 of the MessagePack, if it was verified.
    """

    name: str
    count: int
    size: int = 0
    hint: CollectionHint | None = field(default=None, repr=False)
    digest: int = 0

    def _repr_html_(self) -> str:
        return table_of(
            f"collection {self.name}", {"documents": self.count, "size": quantity(self.size)}
        )


@dataclass(slots=True, repr=False)
class FileReport:
    """Content of a GODB file, and damage in it.

    Attributes
    ----------
    name : str
        Name of the file.
    size : int or None
        Size of the file in bytes.
    body_size : int
        Size of the decompressed body in bytes.
    header : Header or None
        Version and flags.
    checksum : bool
        Whether the file has a checksum.
    sealed : bool
        Whether the file ends with the checksums that godb_arrow writes.
    collections : list of CollectionReport
        Reports on collections, in the file's order.
    others : list of str
        Top-level keys other than the collections.
    problems : list of str
        Damage; empty for a valid file.
    notes : list of str
        Peculiarities that are no damage.
    """

    name: str
    size: int | None = None
    body_size: int = 0
    header: Header | None = None
    checksum: bool = False
    sealed: bool = False
    collections: list[CollectionReport] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        state = "valid" if self.ok else plural(len(self.problems), "problem")
        counts = ", ".join(f"{one.name!r}: {one.count:,}" for one in self.collections[:10])
        return f"<FileReport {self.name!r}, {state}, {{{counts}}}>"

    def _repr_html_(self) -> str:
        size = "" if self.size is None else f", {quantity(self.size)}"
        table = Table(["collection", "documents", "size"], f"{self.name}{size}")
        for collection in self.collections:
            table.add(collection.name, f"{collection.count:,}", quantity(collection.size))
        for problem in self.problems:
            table.add("problem", problem, "")
        for note in self.notes:
            table.add("note", note, "")
        return table.html()

    @property
    def ok(self) -> bool:
        """Whether no damage was found."""
        return not self.problems

    def add_problem(self, text: str) -> None:
        """Add damage to the report, up to a number of problems."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(text)
        elif len(self.problems) == _MAX_PROBLEMS:
            self.problems.append("… and more")


Progress = Callable[[int], object]
"""Function that is called with a number of processed documents."""


def inspect_godb(source: Location | Source) -> FileReport:
    """Inspect a file; see :func:`godb_arrow.inspect_godb`."""
    source = open_source(source)
    report = FileReport(source.name)
    with error_context("inspect", source.name):
        _go_through(source, report, lambda collection, section: None)
    return report


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
    source = open_source(source)
    report = FileReport(source.name)

    def check(collection: CollectionReport, section: CollectionSection) -> None:
        _check_collection(source, report, collection, section, progress)

    try:
        with error_context("verify", source.name):
            ending = _go_through(source, report, check)
            _check_pieces(source, report, ending)
    except (FormatError, LimitExceeded) as error:
        report.add_problem(str(error))
    return report


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
        for identity in _repetitions(_live_ids(checked)):
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


_Visitor = Callable[[CollectionReport, CollectionSection], None]


def _go_through(source: Source, report: FileReport, visit: _Visitor) -> set[str]:
    """Report the content of a file, and return the keys of the records at its end."""
    report.size = source.size()
    report.sealed = is_sealed(source.tail(TAIL_SIZE))
    hints: dict[str, CollectionHint] = {}
    metadata = None
    with source.open() as stream:
        reader = GodbReader(stream, report.size)
        report.header = reader.header
        for section in reader.sections():
            if isinstance(section, ValueSection):
                report.others.append(section.key)
                if section.key == "metadata":
                    metadata = section.read()
                    hints = read_hints(metadata)
                continue
            start = reader.offset
            collection = CollectionReport(section.name, section.count, hint=hints.get(section.name))
            report.collections.append(collection)
            visit(collection, section)
            section.skip()
            collection.size = reader.offset - start
        report.body_size = reader.offset
        report.checksum = reader.checksum
    names = {collection.name for collection in report.collections}
    if report.sealed:
        sizes = {collection.name: collection.size for collection in report.collections}
        for problem in problems_of_hints(metadata, hints, sizes, report.others):
            report.add_problem(problem)
    for name in sorted(set(hints) - names):
        report.add_problem(f"the metadata name a missing collection {name!r}")
    if reader.trailing:
        report.add_problem(f"{reader.trailing} bytes follow the MessagePack map")
    return reader.ending


class _CheckedRun(NamedTuple):
    """Result of the checks of some entries, which do not depend on others."""

    entries: codec.Entries
    hashes: bytes  # of the ids
    greatest: int  # max number among the ids
    damaged: list[int]  # rows of documents that cannot be decoded
    differing: list[int]  # rows of documents with another id
    misfit: GodbError | None  # error of the recorded schema

    @staticmethod
    def of(entries: codec.Entries, plan: codec.DecodePlan | None) -> _CheckedRun:
        """Check entries."""
        ids = ids_of(entries)
        hashes, greatest = codec.survey_ids(ids)
        if len(str(greatest)) > COUNTED_DIGITS:
            numbers = map(codec.id_number, ids.to_pylist())
            greatest = max((n for n in numbers if len(str(n)) <= COUNTED_DIGITS), default=0)
        damaged, differing = codec.check_entries(entries)
        misfit = None if plan is None else _misfit(entries, plan)
        return _CheckedRun(entries, hashes, greatest, damaged, differing, misfit)


def _misfit(entries: codec.Entries, plan: codec.DecodePlan) -> GodbError | None:
    """Return why documents do not fit a recorded schema.

    Documents whose inferred types fit are not decoded.
    """
    try:
        summary = DocumentSummary()
        codec.infer(entries, summary)
        inferred = infer_schema(summary)
        if not fields_fit(inferred, plan.schema) or rounded_fields(inferred):
            codec.decode_batch(entries, plan)
    except (TypeMismatch, FormatError) as error:
        return error
    return None


def _threads(documents: int) -> int:
    return threads() if documents > _MANY_DOCUMENTS else 1


def _repetitions(ids: Iterator[str]) -> Iterator[str]:
    """Yield each id that came before."""
    seen: set[str] = set()
    for identity in ids:
        if identity in seen:
            yield identity
        seen.add(identity)


def _ids_in(source: Source, size: int | None, name: str) -> Iterator[str]:
    """Yield the ids of a collection, in order."""
    with source.open() as stream:
        for section in GodbReader(stream, size).sections():
            if isinstance(section, CollectionSection) and section.name == name:
                for entries in section.entries(ReadOptions(max_document_bytes=MAX_DOCUMENT_BYTES)):
                    yield from entries.ids()


def _check_collection(
    source: Source,
    report: FileReport,
    collection: CollectionReport,
    section: CollectionSection,
    progress: Progress | None,
) -> None:
    hint = collection.hint
    where = f"collection {collection.name!r}"
    if hint is not None and hint.count != section.count:
        report.add_problem(
            f"{where}: the metadata record {hint.count} documents, not {section.count}"
        )
    plan = None
    reviews, summary, misfits = False, DocumentSummary(), set[str]()
    if hint is not None and hint.schema is not None:
        try:
            reviews = needs_review(hint.schema)
            plan = recorded_plan(hint.schema)
        except GodbError as error:
            report.add_problem(f"{where}: the recorded schema is unusable: {error}")
    hashes: list[bytes] = []
    greatest = 0
    content = xxhash.xxh3_64()

    def check(entries: codec.Entries) -> _CheckedRun:
        return _CheckedRun.of(entries, plan)

    options = ReadOptions(max_document_bytes=MAX_DOCUMENT_BYTES)
    for run in ordered_map(check, section.entries(options), _threads(section.count)):
        entries = run.entries
        content.update(entries.raw())
        hashes.append(run.hashes)
        greatest = max(greatest, run.greatest)
        for index in run.damaged:
            _check_document(report, where, entries, index)
        for index in run.differing[: _MAX_PROBLEMS - len(report.notes)]:
            _check_document(report, where, entries, index)
        if plan is not None and run.misfit is not None:
            report.add_problem(f"{where}: the recorded schema does not fit: {run.misfit}")
            plan = None
        if reviews and plan is not None:
            codec.infer(entries, summary)
            misfits.update(find_misfits(list(plan.schema), partial(iter, [entries])))
        if progress is not None:
            progress(len(entries))
    if codec.has_equal(b"".join(hashes)):
        for identity in _repetitions(_ids_in(source, report.size, collection.name)):
            report.add_problem(f"{where}: the document id {identity!r} occurs twice")
    for name in sorted(misfits - rounded_fields(infer_schema(summary))):
        report.add_problem(f"{where}: the recorded schema does not fit the field {name!r}")
    collection.digest = content.intdigest()
    if hint is not None and hint.next_id is not None and hint.next_id <= greatest:
        report.add_problem(
            f"{where}: the next id is recorded as {hint.next_id}, but {greatest} is in use"
        )


def _check_pieces(source: Source, report: FileReport, ending: set[str]) -> None:
    """Check that reading by pieces has the same result as reading from the beginning."""
    index = read_piece_index(source.tail) if report.sealed else None
    names = [collection.name for collection in report.collections]
    for problem in problems_of_index(index, names, ending) if report.sealed else ():
        report.add_problem(problem)
    if index is None:
        return
    with source.open() as stream:
        compression = read_header(stream).compression
        origin = stream.tell()
        for collection in report.collections:
            if not collection.count:
                continue
            where = f"collection {collection.name!r}"
            pieces = index.find(collection.name, collection.count, origin, report.size, compression)
            if pieces is None or not pieces.is_right(stream):
                report.add_problem(f"{where}: the index of pieces does not fit")
                continue
            content = xxhash.xxh3_64()
            statistics = pieces.statistics()
            if statistics is None and pieces.packed_statistics:
                report.add_problem(f"{where}: the statistics of pieces are damaged")
            builders = {name: keys_builder(name) for name in pieces.runs}
            try:
                checked = ordered_map(
                    partial(_check_piece, statistics),
                    enumerate(pieces.stored(stream)),
                    _threads(collection.count),
                )
                for number, (entries, has_sizes, wrong) in enumerate(checked):
                    content.update(entries.raw())
                    for builder in builders.values():
                        builder.add(entries)
                    if not has_sizes:
                        report.add_problem(
                            f"{where}: the sizes of the documents of piece {number} are wrong"
                        )
                    if wrong is not None:
                        report.add_problem(
                            f"{where}: the statistics of piece {number} are wrong about {wrong}"
                        )
            except FormatError as error:
                report.add_problem(f"{where}: the index of pieces is wrong: {error}")
                continue
            if content.intdigest() != collection.digest:
                report.add_problem(f"{where}: the index of pieces leads to other documents")
                continue
            for name, builder in builders.items():
                packed = pieces.read_run(stream, name)
                stored = None if packed is None else unpack_run(packed, collection.count)
                if stored is None:
                    report.add_problem(f"{where}: the {shown_name(name)} is damaged")
                elif not _has_keys(stored, builder.keys()):
                    report.add_problem(f"{where}: the {shown_name(name)} leads to other documents")


def _has_keys(stored: codec.SortedKeys, right: codec.SortedKeys) -> bool:
    """Return whether a stored run has the keys that the documents have."""
    return stored.arrays() == right.arrays() and stored.has_lists >= right.has_lists


def _check_piece(
    statistics: Statistics | None, numbered: tuple[int, StoredPiece]
) -> tuple[codec.Entries, bool, str | None]:
    """Return the entries of a piece, whether its sizes are right, and a wrong statistic."""
    number, piece = numbered
    entries = piece.entries()
    has_sizes = not piece.sizes or _are_sizes_of(piece.sizes, entries)
    wrong = None
    if statistics is not None:
        wrong = contradiction(row_of(statistics, number), entries)
    return entries, has_sizes, wrong


def _are_sizes_of(packed: bytes, entries: codec.Entries) -> bool:
    data = bytes(entries.raw())
    edges = codec.unpack_sizes([packed], [len(entries)], [len(data)])
    sizes = codec.measure(data, len(entries))
    return edges is not None and sizes is not None and np.array_equal(np.diff(edges), sizes)


def _check_document(report: FileReport, where: str, entries: codec.Entries, index: int) -> None:
    identity = entries.id(index)
    try:
        document = codec.load(entries.document(index))
    except FormatError as error:
        report.add_problem(f"{where}, document {identity!r}: {error.args[0]}")
        return
    if document.get(ID_FIELD, identity) != identity and len(report.notes) < _MAX_PROBLEMS:
        report.notes.append(f"{where}: document {identity!r} has the _id {document[ID_FIELD]!r}")
