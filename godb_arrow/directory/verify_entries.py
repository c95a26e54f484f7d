"""Checks of the documents of a collection, for ``verify``, whichever way they were read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import xxhash

from godb_arrow import codec
from godb_arrow.codec.field_values import ValueBounds
from godb_arrow.directory.reports import MAX_PROBLEMS, CollectionReport, FileReport, Progress
from godb_arrow.directory.verify_records import COUNTED_DIGITS, recorded_plan
from godb_arrow.documents.encoding import threads
from godb_arrow.documents.ids import ids_of
from godb_arrow.errors import FormatError, GodbError, TypeMismatch
from godb_arrow.query.schema_join import find_misfits
from godb_arrow.schema import (
    ID_FIELD,
    DocumentSummary,
    fields_fit,
    infer_schema,
    needs_review,
    rounded_fields,
)

__all__ = ["CheckedRun", "CollectionCheck", "repetitions", "threads_for"]

_MANY_DOCUMENTS = 1000  # above which threads are worthwhile


def threads_for(documents: int) -> int:
    """Return the number of threads that check some documents."""
    return threads() if documents > _MANY_DOCUMENTS else 1


def repetitions(ids: Iterator[str]) -> Iterator[str]:
    """Yield each id that came before."""
    seen: set[str] = set()
    for identity in ids:
        if identity in seen:
            yield identity
        seen.add(identity)


class CheckedRun(NamedTuple):
    """Result of the checks of some entries, which do not depend on others.

    Attributes
    ----------
    entries : Entries
        The entries.
    hashes : bytes
        Hashes of the ids.
    greatest : int
        Max number among the ids.
    damaged, differing : list of int
        Rows of documents that cannot be decoded, and of those with another id.
    is_measurable : bool
        Whether the sizes of the entries may be recorded.
    misfit : GodbError or None
        Error of the recorded schema.
    values : mapping of str to ValueBounds, or None
        Bounds of all values, if they were wanted and found.
    """

    entries: codec.Entries
    hashes: bytes
    greatest: int
    damaged: list[int]
    differing: list[int]
    is_measurable: bool
    misfit: GodbError | None
    values: Mapping[str, ValueBounds] | None

    @staticmethod
    def of(
        entries: codec.Entries, plan: codec.DecodePlan | None, *, has_bounds: bool = False
    ) -> CheckedRun:
        """Check entries, and find the bounds of their values if they are wanted."""
        damaged, differing, hashes, greatest, is_measurable = codec.check_entries(entries)
        if len(str(greatest)) > COUNTED_DIGITS:
            numbers = map(codec.id_number, ids_of(entries).to_pylist())
            greatest = max((n for n in numbers if len(str(n)) <= COUNTED_DIGITS), default=0)
        misfit, values = (
            (None, None) if plan is None else _misfit(entries, plan, has_bounds=has_bounds)
        )
        return CheckedRun(
            entries, hashes, greatest, damaged, differing, is_measurable, misfit, values
        )


def _misfit(
    entries: codec.Entries, plan: codec.DecodePlan, *, has_bounds: bool = False
) -> tuple[GodbError | None, Mapping[str, ValueBounds] | None]:
    """Return why documents do not fit a recorded schema, and the bounds of their values.

    Documents whose inferred types fit are not decoded.
    """
    values = None
    try:
        summary = DocumentSummary()
        if has_bounds:
            values = codec.infer_with_bounds(entries, summary)
        else:
            codec.infer(entries, summary)
        inferred = infer_schema(summary)
        if not fields_fit(inferred, plan.schema) or rounded_fields(inferred):
            codec.decode_batch(entries, plan)
    except (TypeMismatch, FormatError) as error:
        return error, values
    return None, values


class CollectionCheck:
    """Check of all documents of a collection, in order.

    Parameters
    ----------
    report : FileReport
        Report on the file.
    collection : CollectionReport
        Report on the collection.
    progress : callable, optional
        Function that is called with a number of checked documents.
    """

    def __init__(
        self, report: FileReport, collection: CollectionReport, progress: Progress | None
    ) -> None:
        self._report = report
        self._collection = collection
        self._progress = progress
        self._where = f"collection {collection.name!r}"
        self._hashes: list[bytes] = []
        self._greatest = 0
        self._content = xxhash.xxh3_64()
        self._reviews, self._summary = False, DocumentSummary()
        self._misfits: set[str] = set()
        self.plan: codec.DecodePlan | None = None
        """Plan by which documents must fit the recorded schema, if there is any."""
        hint = collection.hint
        if hint is not None and hint.count != collection.count:
            self._report.add_problem(
                f"{self._where}: the metadata record {hint.count} documents, not {collection.count}"
            )
        if hint is not None and hint.schema is not None:
            try:
                self._reviews = needs_review(hint.schema)
                self.plan = recorded_plan(hint.schema)
            except GodbError as error:
                self._report.add_problem(f"{self._where}: the recorded schema is unusable: {error}")

    def add(self, run: CheckedRun) -> None:
        """Report on the next documents."""
        report, entries = self._report, run.entries
        self._content.update(entries.raw())
        self._hashes.append(run.hashes)
        self._greatest = max(self._greatest, run.greatest)
        for index in run.damaged:
            self._check_document(entries, index)
        for index in run.differing[: MAX_PROBLEMS - len(report.notes)]:
            self._check_document(entries, index)
        if self.plan is not None and run.misfit is not None:
            report.add_problem(f"{self._where}: the recorded schema does not fit: {run.misfit}")
            self.plan = None
        if self._reviews and self.plan is not None:
            codec.infer(entries, self._summary)
            self._misfits.update(find_misfits(list(self.plan.schema), partial(iter, [entries])))
        if self._progress is not None:
            self._progress(len(entries))

    def finish(self, ids: Callable[[], Iterator[str]]) -> None:
        """Report on all documents together, given a function that reads their ids again."""
        report, where, hint = self._report, self._where, self._collection.hint
        if codec.has_equal(b"".join(self._hashes)):
            for identity in repetitions(ids()):
                report.add_problem(f"{where}: the document id {identity!r} occurs twice")
        for name in sorted(self._misfits - rounded_fields(infer_schema(self._summary))):
            report.add_problem(f"{where}: the recorded schema does not fit the field {name!r}")
        self._collection.digest = self._content.intdigest()
        if hint is not None and hint.next_id is not None and hint.next_id <= self._greatest:
            report.add_problem(
                f"{where}: the next id is recorded as {hint.next_id}, "
                f"but {self._greatest} is in use"
            )

    def _check_document(self, entries: codec.Entries, index: int) -> None:
        report, identity = self._report, entries.id(index)
        try:
            document = codec.load(entries.document(index))
        except FormatError as error:
            report.add_problem(f"{self._where}, document {identity!r}: {error.args[0]}")
            return
        if document.get(ID_FIELD, identity) != identity and len(report.notes) < MAX_PROBLEMS:
            report.notes.append(
                f"{self._where}: document {identity!r} has the _id {document[ID_FIELD]!r}"
            )
