"""Reports on one file: its content, and the damage in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from godb_arrow.codec.compression import BodyDecoder, Compression
from godb_arrow.directory.reports import CollectionReport, FileReport, Progress
from godb_arrow.directory.verify_entries import CheckedRun, CollectionCheck, threads_for
from godb_arrow.directory.verify_pieces import OnePass, check_pieces
from godb_arrow.directory.verify_records import problems_of_hints
from godb_arrow.errors import FormatError, GodbError, LimitExceeded, error_context
from godb_arrow.file.format import TAIL_SIZE, is_sealed
from godb_arrow.file.hints import CollectionHint, read_hints
from godb_arrow.file.reader import CollectionSection, GodbReader, ValueSection
from godb_arrow.options import MAX_DOCUMENT_BYTES, ReadOptions
from godb_arrow.parallel import ordered_map
from godb_arrow.storage.source import Location, Source, open_source

__all__ = ["inspect_godb", "verify_single"]

_Visitor = Callable[[CollectionReport, CollectionSection], None]


def inspect_godb(source: Location | Source) -> FileReport:
    """Inspect a file; see :func:`godb_arrow.inspect_godb`."""
    source = open_source(source)
    report = FileReport(source.name)
    with error_context("inspect", source.name):
        _go_through(source, report, lambda collection, section: None)
    return report


def verify_single(source: Location | Source, progress: Progress | None = None) -> FileReport:
    """Check every byte of one file.

    Parameters
    ----------
    source : path, URL, bytes or open binary file
        The GODB file.
    progress : callable, optional
        Function that is called with a number of processed documents.

    Returns
    -------
    FileReport
    """
    source = open_source(source)
    told = _Told(progress)
    return _verify_once(source, told.first) or _verify_twice(source, told.again)


class _Told:
    """Progress of two rounds, of which the second one tells only what the first one did not."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._ahead = 0

    def first(self, documents: int) -> None:
        """Tell a number of documents that the first round checked."""
        self._ahead += documents
        if self._progress is not None:
            self._progress(documents)

    def again(self, documents: int) -> None:
        """Tell a number of documents that the second round checked."""
        known = min(documents, self._ahead)
        self._ahead -= known
        if self._progress is not None and documents > known:
            self._progress(documents - known)


def _verify_once(source: Source, progress: Progress) -> FileReport | None:
    """Check a file in one pass, and return None unless it is valid in every respect."""
    report = FileReport(source.name)
    try:
        with OnePass.of(source, report, progress) as one_pass:
            if one_pass is None:
                return None
            ending = _go_through(source, report, one_pass.check, one_pass.decoder)
            one_pass.finish(ending)
    except GodbError:
        return None  # The second round says what is wrong.
    return report if report.ok else None


def _verify_twice(source: Source, progress: Progress) -> FileReport:
    """Check a file in two passes, which name all damage."""
    report = FileReport(source.name)

    def check(collection: CollectionReport, section: CollectionSection) -> None:
        _check_collection(source, report, collection, section, progress)

    try:
        with error_context("verify", source.name):
            ending = _go_through(source, report, check)
            check_pieces(source, report, ending)
    except (FormatError, LimitExceeded) as error:
        report.add_problem(str(error))
    return report


def _go_through(
    source: Source,
    report: FileReport,
    visit: _Visitor,
    decoder: Callable[[Compression], BodyDecoder] | None = None,
) -> set[str]:
    """Report the content of a file, and return the keys of the records at its end."""
    report.size = source.size()
    report.sealed = is_sealed(source.tail(TAIL_SIZE))
    hints: dict[str, CollectionHint] = {}
    metadata = None
    with source.open() as stream:
        reader = GodbReader(stream, report.size, decoder)
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
    progress: Progress,
) -> None:
    check = CollectionCheck(report, collection, progress)
    plan = check.plan
    options = ReadOptions(max_document_bytes=MAX_DOCUMENT_BYTES)
    for run in ordered_map(
        lambda entries: CheckedRun.of(entries, plan),
        section.entries(options),
        threads_for(section.count),
    ):
        check.add(run)
    check.finish(partial(_ids_in, source, report.size, collection.name))
