"""Search for the documents of a snapshot that match a filter, with or without an index."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.codec.entries import Rows, no_rows
from godb_arrow.codec.predicate import Predicate
from godb_arrow.codec.runs import Run
from godb_arrow.file.explanation import Explanation
from godb_arrow.parallel import ordered_map
from godb_arrow.query.expression_ranges import expression_alternatives
from godb_arrow.query.fields import may_have, unknown_field
from godb_arrow.query.filters import Filter, RowFilter, compiled
from godb_arrow.query.predicate import Range, alternatives, named_paths
from godb_arrow.query.projection import Projection, project, with_wanted
from godb_arrow.query.selection import MAX_RECORDED_FIELDS, count_run, select_run, without_rows
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.base import Base, Wanted
from godb_arrow.snapshots.compound import CompoundSearch, are_alike, choose_compound
from godb_arrow.snapshots.entry_runs import gather, gathered
from godb_arrow.snapshots.held import UnsavedDocuments
from godb_arrow.snapshots.indexes import sorted_keys
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["check_columns", "check_named", "count_matching", "explain", "matching"]


_NO_COLUMNS = pa.schema([])
_DOCUMENTS_PER_THREAD = 10_000
"""Min documents of a snapshot that several threads filter."""

_MAX_SHARE = 8  # of the documents, one in so many, up to which candidates are read one by one
_MIN_CANDIDATES = 1_000  # which are always read one by one

_Part: TypeAlias = "tuple[Run, Rows]"
_Result = TypeVar("_Result")
Condition: TypeAlias = "pc.Expression | RowFilter | Predicate | None"
_MAX_UNINDEXED = 64  # number of unsaved documents that are candidates without an index
_MAX_GATHERED = 16_384  # number of an index's candidates that are decoded together
_MAX_GATHERED_BYTES = 4 << 20  # of them


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Rows of the base that an index names.

    Attributes
    ----------
    fields : tuple of str
        Fields whose indexes named them.
    conditions : sequence of sequence of Range
        Conditions that name them.
    rows : array of int64
        The rows, in order.
    compound : CompoundSearch or None
        Search in a compound index that names them, too.
    """

    fields: tuple[str, ...]
    conditions: Sequence[Sequence[Range]]
    rows: Rows
    compound: CompoundSearch | None = None

    @property
    def shown(self) -> str | None:
        """Names of the indexes."""
        compound = () if self.compound is None else (", ".join(self.compound.fields),)
        return ", ".join((*compound, *self.fields)) or None

    def unsaved(self, snapshot: Snapshot) -> Iterator[codec.Entries]:
        """Yield the unsaved documents that are candidates, in runs."""
        for source in snapshot.unsaved.sources():
            documents = source.documents
            if not self.conditions and self.compound is None:  # No document matches.
                return
            if len(documents) <= _MAX_UNINDEXED:
                rows = np.arange(len(documents))
            else:
                rows = _rows_in(documents, self.conditions, self.compound)
            located = documents.entries_at(rows)
            found = [(run, at) for run, at in located if source.is_current(run.id(at))]
            if found:
                yield gather(found)


def _conditions(condition: Condition, projection: Projection) -> list[tuple[Range, ...]]:
    """Return conditions of ranges that each matching document fulfils."""
    if isinstance(condition, Predicate):
        return alternatives(condition)
    if isinstance(condition, pc.Expression):
        return expression_alternatives(condition, projection.decoded)
    return []


def _candidates(
    snapshot: Snapshot, projection: Projection, fields: Sequence[str]
) -> _Candidates | None:
    """Return the rows of the base that indexes name for the filter of a projection, if any can."""
    condition = projection.condition
    if isinstance(condition, pc.Expression) and not fields and ID_FIELD not in projection.needed:
        return None
    found = _named(snapshot, _conditions(condition, projection), fields)
    if found is None or isinstance(condition, Predicate):
        return found
    for name in found.fields:  # Columns may show extension values as values of other kinds.
        if name != ID_FIELD and any(
            sorted_keys(source, name).others for source in _sources(snapshot)
        ):
            return None
    return found


def _sources(snapshot: Snapshot) -> Iterator[Base | UnsavedDocuments]:
    yield from (file for _, file in snapshot.base.files() if file.count)
    yield from (unsaved.documents for unsaved in snapshot.unsaved.sources())


def _named(
    snapshot: Snapshot, conditions: Sequence[Sequence[Range]], fields: Sequence[str]
) -> _Candidates | None:
    """Return the rows of the base that fulfil all conditions on indexed fields.

    Each condition has ranges, in one of which a matching document has a value.
    """
    if any(not ranges for ranges in conditions):
        return _Candidates((), (), no_rows())
    compound = choose_compound(fields, conditions)
    if compound is not None:
        conditions = [ranges for ranges in conditions if ranges not in compound.covered]
    indexed = {*fields, ID_FIELD}
    usable = [ranges for ranges in conditions if all(_is_usable(one, indexed) for one in ranges)]
    if not usable and compound is None:
        return None
    rows = [
        file_rows + start
        for start, file in snapshot.base.files()
        if file.count and len(file_rows := _rows_in(file, usable, compound))
    ]
    if sum(map(len, rows)) > max(_MIN_CANDIDATES, snapshot.base.count // _MAX_SHARE):
        return None  # Documents are read faster in order than one by one.
    named = dict.fromkeys(one.field for ranges in usable for one in ranges)
    found = np.concatenate(rows) if rows else no_rows()
    return _Candidates(tuple(named), usable, found, compound)


def _is_usable(one: Range, indexed: set[str]) -> bool:
    if one.field == ID_FIELD:  # the id index knows whole ids only
        return isinstance(one.low, str) and one.low == one.high
    return one.field in indexed


def _rows_in(
    source: Base | UnsavedDocuments,
    conditions: Sequence[Sequence[Range]],
    compound: CompoundSearch | None,
) -> Rows:
    """Return the rows of one file, or of unsaved documents, that fulfil all conditions."""
    found: Rows | None = None
    if compound is not None:
        packed = sorted_keys(source, compound.name).rows(compound.ranges)
        found = np.frombuffer(packed, np.int64)
        if len(found) <= _MIN_CANDIDATES:
            return found
    for ranges in _merged(source, conditions):
        by_field: dict[str, list[Range]] = {}
        for one in ranges:
            by_field.setdefault(one.field, []).append(one)
        rows = [_rows_of_field(source, name, own) for name, own in by_field.items()]
        joined = rows[0] if len(rows) == 1 else np.unique(np.concatenate(rows))
        found = joined if found is None else np.intersect1d(found, joined, assume_unique=True)
        if not len(found):
            break
    return no_rows() if found is None else found


def _rows_of_field(source: Base | UnsavedDocuments, field: str, ranges: Sequence[Range]) -> Rows:
    if field == ID_FIELD and isinstance(source, Base):
        rows = source.rows_of([one.low for one in ranges]).values()
        return np.unique(np.array([*itertools.chain(*rows)], np.int64))
    packed = sorted_keys(source, field).rows([(one.low, one.high) for one in ranges])
    return np.frombuffer(packed, np.int64)


def _merged(
    source: Base | UnsavedDocuments, conditions: Sequence[Sequence[Range]]
) -> Iterator[Sequence[Range]]:
    """Merge the bounds of a field, where no document has several values of the field."""
    bounds: dict[str, Range] = {}
    for ranges in conditions:
        (one, *others) = ranges
        is_open = not others and one.field != ID_FIELD and (one.low is None) != (one.high is None)
        if not is_open or sorted_keys(source, one.field).has_lists:
            yield ranges
            continue
        known = bounds.get(one.field)
        if known is None:
            bounds[one.field] = one
        elif known.low is None and one.low is not None and are_alike(known.high, one.low):
            bounds[one.field] = known._replace(low=one.low)
        elif known.high is None and one.high is not None and are_alike(known.low, one.high):
            bounds[one.field] = known._replace(high=one.high)
        else:
            yield ranges
    yield from ((one,) for one in bounds.values())


def matching(
    snapshot: Snapshot, condition: Filter | None, indexed: Sequence[str]
) -> Iterator[tuple[codec.Entries, Rows]]:
    """Yield the documents that match a filter, as entries and the indices of the matching ones.

    Parameters
    ----------
    snapshot : Snapshot
        Snapshot to search.
    condition : pyarrow.compute.Expression, mapping or None
        Filter; None for all documents.
    indexed : sequence of str
        Names of fields that have an index.

    Yields
    ------
    tuple of Entries and array of int64
    """
    chosen = compiled(condition)
    if chosen is None:
        for run in snapshot.entries():
            yield run, np.arange(len(run))
    elif snapshot.count == 0:
        return
    elif isinstance(chosen, Predicate):
        yield from _mapped(snapshot, chosen, indexed, partial(_select, chosen))
    else:
        projection = _plan(snapshot, chosen)
        plan = codec.plan_columns(projection.decoded, exact=True)
        candidates = _candidates(snapshot, projection, indexed)
        wanted = snapshot.base.pieces_matching(projection) if candidates is None else None
        for run in _runs(snapshot, candidates, wanted):
            if len(run):
                rows = projection.matching(codec.decode_batch(run, plan))
                yield run, np.arange(len(run)) if rows is None else rows.to_numpy()


def count_matching(snapshot: Snapshot, condition: Filter, indexed: Sequence[str]) -> int:
    """Count the documents that match a filter."""
    chosen = compiled(condition)
    if not isinstance(chosen, Predicate):
        return sum(len(rows) for _, rows in matching(snapshot, chosen, indexed))
    if snapshot.count == 0:
        return 0
    return sum(_mapped(snapshot, chosen, indexed, partial(_count, chosen)))


def _mapped(
    snapshot: Snapshot,
    predicate: Predicate,
    indexed: Sequence[str],
    function: Callable[[_Part], _Result],
) -> Iterator[_Result]:
    """Apply a function to the documents that may match, on several threads."""
    candidates = _named(snapshot, alternatives(predicate), indexed)
    if candidates is not None:
        parts: Iterator[_Part] = ((Run.of(r), no_rows()) for r in _runs(snapshot, candidates))
        return map(function, parts)
    fields = predicate.fields if len(predicate.fields) <= MAX_RECORDED_FIELDS else ()
    projection = project(_NO_COLUMNS, [], predicate)
    parts = snapshot.runs(snapshot.base.pieces_matching(projection), fields)
    is_large = codec.BACKEND == "native" and snapshot.count >= _DOCUMENTS_PER_THREAD
    memory = snapshot.base.memory
    threads = memory.threads if is_large else 1
    return ordered_map(function, parts, threads, may_wait=memory.may_read_ahead)


def _select(predicate: Predicate, part: _Part) -> tuple[codec.Entries, Rows]:
    run, deleted = part
    return select_run(run, predicate, deleted)


def _count(predicate: Predicate, part: _Part) -> int:
    run, deleted = part
    return count_run(run, predicate, deleted)


def _live(snapshot: Snapshot, candidates: _Candidates) -> Rows:
    """Return the candidates that are not superseded."""
    rows = candidates.rows
    return without_rows(rows, snapshot.superseded_rows()) if len(rows) else rows


def _runs(
    snapshot: Snapshot, candidates: _Candidates | None, wanted: Wanted | None = None
) -> Iterator[codec.Entries]:
    if candidates is None:
        yield from snapshot.entries(wanted)
        return
    rows = _live(snapshot, candidates)
    found = snapshot.base.entries_at(rows) if len(rows) else iter(())
    yield from gathered(
        found, _MAX_GATHERED, min(_MAX_GATHERED_BYTES, snapshot.base.memory.run_bytes)
    )
    yield from candidates.unsaved(snapshot)


def candidate_runs(
    snapshot: Snapshot, projection: Projection, indexed: Sequence[str]
) -> Iterator[codec.Entries] | None:
    """Return the runs that an index names for a filter; None when no index helps."""
    found = _candidates(snapshot, projection, indexed)
    return None if found is None else _runs(snapshot, found)


def _plan(snapshot: Snapshot, condition: Filter) -> Projection:
    schema = with_wanted(snapshot.schema(), [], condition, snapshot.entries)
    return project(schema, [], condition)


def explain(snapshot: Snapshot, condition: Filter | None, indexed: Sequence[str]) -> Explanation:
    """Explain how :func:`matching` finds the documents."""
    found = wanted = None
    base = snapshot.base
    chosen = compiled(condition)
    if chosen is not None and snapshot.count:
        if isinstance(chosen, Predicate):
            projection = project(_NO_COLUMNS, [], chosen)
        else:
            projection = _plan(snapshot, chosen)
        found = _candidates(snapshot, projection, indexed)
        wanted = base.pieces_matching(projection)
    changed = sum(map(len, snapshot.overlay_runs() if found is None else found.unsaved(snapshot)))
    source = "memory" if base.is_loaded else "file"
    if found is None and base.is_loaded:
        return Explanation(None, snapshot.count, snapshot.count, source)
    if found is None:
        read = [
            Explanation.of_pieces(file.pieces(), pieces, file.count)
            for _, file, pieces in base.selected(wanted)
        ]
        known = Explanation.of_parts(read, base.count, len(base.files()))
        return replace(known, candidates=known.candidates + changed, documents=snapshot.count)
    left = len(_live(snapshot, found))
    return Explanation(found.shown, left + changed, snapshot.count, source)


def check_named(snapshot: Snapshot, predicate: Predicate) -> None:
    """Raise if a predicate names a field that no document has had.

    Raises
    ------
    FieldNotFound
        Names the field and the nearest ones.
    """
    if not snapshot.count:
        return
    for name in named_paths(predicate):
        if not may_have(snapshot.base.schema(), name) and not may_have(snapshot.schema(), name):
            error = unknown_field(snapshot.schema(), name)
            error.advice = f"{error.advice}; or give check_fields=False"
            raise error


def check_columns(snapshot: Snapshot, columns: Sequence[str]) -> None:
    """Raise if a column is a field that no document has had.

    Raises
    ------
    FieldNotFound
        Names the field and the nearest ones.
    """
    if not snapshot.count:
        return
    for name in columns:
        if not may_have(snapshot.base.schema(), name) and not may_have(snapshot.schema(), name):
            raise unknown_field(snapshot.schema(), name)
