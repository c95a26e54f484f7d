"""Search for the documents of a snapshot that match a filter, with or without an index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.file.explanation import Explanation
from godb_arrow.query.filters import Filter, RowFilter
from godb_arrow.query.projection import Projection, project, with_wanted
from godb_arrow.snapshots.base import Wanted
from godb_arrow.snapshots.id_index import Rows
from godb_arrow.snapshots.indexes import field_index
from godb_arrow.snapshots.snapshot import Snapshot, gather

__all__ = ["explain", "matching"]


_NO_ROWS: Rows = np.empty(0, np.int64)
_MAX_GATHERED = 16_384  # number of an index's candidates that are decoded together


@dataclass(frozen=True, slots=True)
class _Candidates:
    field: str
    rows: Rows


def _candidates(
    snapshot: Snapshot, condition: Filter | None, projection: Projection, fields: Sequence[str]
) -> _Candidates | None:
    """Return the rows of the base that an index selects, or None if no index helps."""
    if condition is None or isinstance(condition, RowFilter):
        return None
    if isinstance(condition, Mapping):
        candidates = (_equal(snapshot, name, condition[name], fields) for name in condition)
        return next((candidate for candidate in candidates if candidate is not None), None)
    for name in fields:
        path = name.split(".")
        # The filter of a struct may need more of its fields than the indexed rows.
        if projection.needed == {path[0]}:
            index = field_index(snapshot, name)
            if index is not None:
                try:
                    return _Candidates(name, index.kept_by(condition, tuple(path)))
                except (pa.ArrowException, KeyError):
                    continue  # The filter needs another field of the struct.
    return None


def _equal(snapshot: Snapshot, field: str, value: Any, fields: Sequence[str]) -> _Candidates | None:
    """Return the rows that equal a value or any value of a list, or None without an index."""
    wanted = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
    if field not in fields or None in wanted:
        return None
    index = field_index(snapshot, field)
    if index is None:
        return None
    rows = [index.equal_to(item) for item in wanted]
    return _Candidates(field, np.unique(np.concatenate(rows)) if rows else _NO_ROWS)


def matching(
    snapshot: Snapshot, condition: Filter | None, indexed: Sequence[str]
) -> Iterator[tuple[codec.Entries, Rows]]:
    """Yield the documents that match a filter, as runs of entries and indices in the run.

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
    if condition is None:
        for run in snapshot.entries():
            yield run, np.arange(len(run))
        return
    if snapshot.count == 0:
        return
    exact = _exact(snapshot, condition, indexed)
    if exact is not None:
        yield exact
        return
    projection = _plan(snapshot, condition)
    plan = codec.plan_columns(projection.decoded)
    candidates = _candidates(snapshot, condition, projection, indexed)
    for run in _runs(snapshot, candidates, snapshot.base.pieces_matching(projection)):
        if len(run):
            rows = projection.matching(codec.decode_batch(run, plan))
            yield run, np.arange(len(run)) if rows is None else rows.to_numpy()


def _exact(
    snapshot: Snapshot, condition: Filter, indexed: Sequence[str]
) -> tuple[codec.Entries, Rows] | None:
    """Return the few documents that equal a value by an index alone, or None if it is not so."""
    if not isinstance(condition, Mapping) or len(condition) != 1 or not snapshot.is_clean:
        return None
    ((name, value),) = condition.items()
    if not isinstance(value, (str, int, float, bool)):
        return None
    try:
        candidates = _equal(snapshot, name, value, indexed)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None  # The general search raises the error.
    if candidates is None or len(candidates.rows) > _MAX_GATHERED:
        return None
    run = gather(snapshot.base.entries_at(candidates.rows))
    return run, np.arange(len(run))


def _runs(
    snapshot: Snapshot, candidates: _Candidates | None, wanted: Wanted | None = None
) -> Iterator[codec.Entries]:
    if candidates is None:
        yield from snapshot.entries(wanted)
        return
    rows = np.setdiff1d(candidates.rows, snapshot.dead_rows(), assume_unique=True)
    for start in range(0, len(rows), _MAX_GATHERED):
        yield gather(snapshot.base.entries_at(rows[start : start + _MAX_GATHERED]))
    yield from snapshot.overlay_runs()


def candidate_runs(
    snapshot: Snapshot, condition: Filter | None, projection: Projection, indexed: Sequence[str]
) -> Iterator[codec.Entries] | None:
    """Return the runs that an index selects for a filter, or None if no index helps."""
    candidates = _candidates(snapshot, condition, projection, indexed)
    return None if candidates is None else _runs(snapshot, candidates)


def _plan(snapshot: Snapshot, condition: Filter) -> Projection:
    schema = with_wanted(snapshot.schema(), [], condition, snapshot.entries)
    return project(schema, [], condition)


def explain(snapshot: Snapshot, condition: Filter | None, indexed: Sequence[str]) -> Explanation:
    """Explain how :func:`matching` evaluates a filter."""
    candidates = wanted = None
    base = snapshot.base
    if condition is not None and snapshot.count:
        projection = _plan(snapshot, condition)
        candidates = _candidates(snapshot, condition, projection, indexed)
        wanted = base.pieces_matching(projection)
    changed = sum(len(run) for run in snapshot.overlay_runs())
    source = "memory" if base.is_loaded else "file"
    if candidates is None and base.is_loaded:
        return Explanation(None, snapshot.count, snapshot.count, source)
    if candidates is None:
        read = [
            Explanation.of_pieces(file.pieces(), pieces, file.count)
            for _, file, pieces in base.selected(wanted)
        ]
        known = Explanation.of_parts(read, base.count, len(base.files()))
        return replace(known, candidates=known.candidates + changed, documents=snapshot.count)
    left = len(np.setdiff1d(candidates.rows, snapshot.dead_rows(), assume_unique=True))
    return Explanation(candidates.field, left + changed, snapshot.count, source)


def pick(document: dict[Any, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Return some fields of a document, by name or dotted path, without absent ones."""
    picked = {}
    for name in columns:
        value: Any = document
        if name in document:
            picked[name] = document[name]
            continue
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            picked[name] = value
    return picked
