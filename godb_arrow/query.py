"""Which documents of a snapshot a filter keeps, and the indexes that find them sooner."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from godb_arrow import codec
from godb_arrow.base import Base, Rows, Wanted
from godb_arrow.errors import FieldNotFound, InvalidCursor, InvalidFilter
from godb_arrow.pieces import CollectionPieces
from godb_arrow.projection import Filter, Projection, RowFilter, field_at, project
from godb_arrow.reading import load_entry
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshot import Snapshot, gather

__all__ = ["Explanation", "FieldIndex", "Page", "explain", "matching", "page_after"]

_NO_ROWS: Rows = np.empty(0, np.int64)
_GATHERED = 16_384  # documents of an index's candidates that are decoded at once


@dataclass(frozen=True, slots=True)
class FieldIndex:
    """The values of one field of a base, sorted, and their rows.

    Attributes
    ----------
    values : pyarrow.Array
        Sorted, without nulls.
    rows : array of int64
        The row of each value.
    """

    values: pa.Array
    rows: Rows

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        size: int = self.values.nbytes + self.rows.nbytes
        return size

    @classmethod
    def build(cls, base: Base, schema: pa.Schema, field: str) -> FieldIndex | None:
        """Index a field; None when its values have no order."""
        projection = project(schema, [field], None)
        kind = projection.schema.field(0).type
        if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
            return None
        plan = codec.plan_columns(projection.decoded)
        parts = [
            projection.apply(codec.decode_batch(run, plan)).column(0) for _, run in base.loaded()
        ]
        values = pa.chunked_array(parts, kind).combine_chunks()
        order = pc.sort_indices(values)
        order = order[: len(values) - values.null_count]
        return cls(values.take(order), order.to_numpy().astype(np.int64))

    def equal_to(self, value: Any) -> Rows:
        """The rows of a value, in order."""
        wanted = pa.scalar(value, self.values.type).as_py()
        first = bisect_left(self.values, wanted, key=_as_py)
        last = bisect_right(self.values, wanted, lo=first, key=_as_py)
        return np.sort(self.rows[first:last])

    def kept_by(self, condition: pc.Expression, path: tuple[str, ...]) -> Rows:
        """The rows that a filter on this field only keeps, in order."""
        column: pa.Array = self.values
        for name in reversed(path[1:]):
            column = pa.StructArray.from_arrays([column], [name])
        table = pa.table({path[0]: column, "\0row": self.rows})
        return np.sort(table.filter(condition).column("\0row").to_numpy())


def _as_py(scalar: Any) -> Any:
    return scalar.as_py()


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a filter is evaluated.

    Attributes
    ----------
    index : str or None
        The field whose index finds the documents; None when all are looked at.
    candidates : int
        Documents that are decoded for the filter.
    documents : int
        Documents of the collection.
    source : {"memory", "file"}
        Where the documents are read from.
    pieces, pieces_read : int
        Of how many pieces the file consists, and how many of them are read: statistics say of the
        others that the filter keeps nothing of them. 0 where the documents are in memory, found by
        an index, or in a file without pieces.
    parts, parts_read : int
        Of how many files the collection consists, and how many of them are looked into.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     users = engine.create_collection("users")
    ...     _ = users.insert_many([{"name": "Ada"}, {"name": "Bob"}])
    ...     users.create_index("name")
    ...     engine.save()
    ...     found = users.explain({"name": "Ada"})
    >>> found.index, found.candidates, found.documents
    ('name', 1, 2)
    """

    index: str | None
    candidates: int
    documents: int
    source: str
    pieces: int = 0
    pieces_read: int = 0
    parts: int = 1
    parts_read: int = 1

    @classmethod
    def of_pieces(
        cls, pieces: CollectionPieces | None, wanted: Sequence[bool] | None, count: int
    ) -> Explanation:
        """How a filter is evaluated on a file alone."""
        if pieces is None:
            return cls(None, count, count, "file")
        chosen = [True] * len(pieces.pieces) if wanted is None else wanted
        left = sum(compress(pieces.documents, chosen))
        return cls(None, left, count, "file", len(pieces.pieces), sum(chosen))

    @classmethod
    def of_base(cls, base: Base, wanted: Wanted | None) -> Explanation:
        """How a filter is evaluated on all files that a collection has."""
        found = [cls.of_pieces(file.pieces(), part, file.count)
                 for _, file, part in base.selected(wanted)]  # fmt: skip
        return cls(
            None, sum(one.candidates for one in found), base.count, "file",
            sum(one.pieces for one in found), sum(one.pieces_read for one in found),
            len(base.files()), len(found),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Candidates:
    field: str
    rows: Rows


def _candidates(
    snapshot: Snapshot, condition: Filter | None, projection: Projection, fields: Sequence[str]
) -> _Candidates | None:
    """The rows of the base that an index leaves over, if one can."""
    if condition is None or isinstance(condition, RowFilter):
        return None
    if isinstance(condition, Mapping):
        found = (_equal(snapshot, name, condition[name], fields) for name in condition)
        return next((one for one in found if one is not None), None)
    for name in fields:
        path = name.split(".")
        # Of a struct, the filter may look at more than the field that is indexed.
        if projection.needed == {path[0]}:
            index = field_index(snapshot, name)
            if index is not None:
                try:
                    return _Candidates(name, index.kept_by(condition, tuple(path)))
                except (pa.ArrowException, KeyError):
                    continue  # such as another field of the struct
    return None


def _equal(snapshot: Snapshot, field: str, value: Any, fields: Sequence[str]) -> _Candidates | None:
    """The rows of the base that have a value or one of a list; None if no index knows."""
    wanted = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
    if field not in fields or None in wanted:
        return None
    index = field_index(snapshot, field)
    if index is None:
        return None
    found = [index.equal_to(one) for one in wanted]
    return _Candidates(field, np.unique(np.concatenate(found)) if found else _NO_ROWS)


def field_index(snapshot: Snapshot, field: str) -> FieldIndex | None:
    """The index on a field of a snapshot's base, made when it is not held."""
    base = snapshot.base
    kind = f"index:{field}"
    found: FieldIndex | None = base.view(kind)
    if found is None:
        try:
            found = FieldIndex.build(base, base.schema(), field)
        except FieldNotFound:
            return None
        if found is not None:
            base.hold(kind, found, found.nbytes)
    return found


def matching(
    snapshot: Snapshot, condition: Filter | None, indexed: Sequence[str]
) -> Iterator[tuple[codec.Entries, Rows]]:
    """The documents that a filter keeps: runs of entries, and the indices of those.

    Parameters
    ----------
    snapshot : Snapshot
        Where to look.
    condition : pyarrow.compute.Expression, mapping or None
        The filter.
    indexed : sequence of str
        Fields that have an index.

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
    projection = project(snapshot.schema(), [], condition)
    plan = codec.plan_columns(projection.decoded)
    candidates = _candidates(snapshot, condition, projection, indexed)
    for run in _runs(snapshot, candidates, snapshot.base.pieces_matching(projection)):
        if len(run):
            rows = projection.matching(codec.decode_batch(run, plan))
            yield run, np.arange(len(run)) if rows is None else rows.to_numpy()


def _exact(
    snapshot: Snapshot, condition: Filter, indexed: Sequence[str]
) -> tuple[codec.Entries, Rows] | None:
    """The few documents that equal a value by an index alone; None where that does not do."""
    if not isinstance(condition, Mapping) or len(condition) != 1 or not snapshot.is_clean:
        return None
    ((name, value),) = condition.items()
    if not isinstance(value, (str, int, float, bool)):
        return None
    try:
        found = _equal(snapshot, name, value, indexed)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None  # the common way says what is wrong
    if found is None or len(found.rows) > _GATHERED:
        return None
    run = gather(snapshot.base.entries_at(found.rows))
    return run, np.arange(len(run))


def _runs(
    snapshot: Snapshot, candidates: _Candidates | None, wanted: Wanted | None = None
) -> Iterator[codec.Entries]:
    if candidates is None:
        yield from snapshot.entries(wanted)
        return
    rows = np.setdiff1d(candidates.rows, snapshot.dead_rows(), assume_unique=True)
    for start in range(0, len(rows), _GATHERED):
        yield gather(snapshot.base.entries_at(rows[start : start + _GATHERED]))
    yield from snapshot.overlay_runs()


def candidate_runs(
    snapshot: Snapshot, condition: Filter | None, projection: Projection, indexed: Sequence[str]
) -> Iterator[codec.Entries] | None:
    """The runs that an index leaves over for a filter; None when no index helps."""
    found = _candidates(snapshot, condition, projection, indexed)
    return None if found is None else _runs(snapshot, found)


def explain(snapshot: Snapshot, condition: Filter | None, indexed: Sequence[str]) -> Explanation:
    """How :func:`matching` would go about it."""
    found = wanted = None
    base = snapshot.base
    if condition is not None and snapshot.count:
        projection = project(snapshot.schema(), [], condition)
        found = _candidates(snapshot, condition, projection, indexed)
        wanted = base.pieces_matching(projection)
    changed = sum(len(run) for run in snapshot.overlay_runs())
    source = "memory" if base.is_loaded else "file"
    if found is None and base.is_loaded:
        return Explanation(None, snapshot.count, snapshot.count, source)
    if found is None:
        known = Explanation.of_base(base, wanted)
        return replace(known, candidates=known.candidates + changed, documents=snapshot.count)
    left = len(np.setdiff1d(found.rows, snapshot.dead_rows(), assume_unique=True))
    return Explanation(found.field, left + changed, snapshot.count, source)


# --- pages ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """Some documents, and how to get the next ones.

    Attributes
    ----------
    documents : list of dict
        In the order of their ids, compared as text.
    cursor : str or None
        What to give to get the next page; None when this is the last.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     users = engine.create_collection("users")
    ...     _ = users.insert_many([{"name": "Ada"}, {"name": "Bob"}, {"name": "Cy"}])
    ...     page = users.find_page(limit=2)
    ...     last = users.find_page(limit=2, cursor=page.cursor)
    >>> [one["name"] for one in page.documents], [one["name"] for one in last.documents]
    (['Ada', 'Bob'], ['Cy'])
    >>> print(last.cursor)
    None
    """

    documents: list[dict[Any, Any]]
    cursor: str | None


def _pack_cursor(identity: str) -> str:
    raw = b"\1" + identity.encode("utf-8", "surrogateescape")
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _unpack_cursor(cursor: str) -> str:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        if raw[:1] == b"\1":
            return raw[1:].decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError, TypeError, AttributeError) as error:
        raise _bad_cursor(cursor) from error
    raise _bad_cursor(cursor)


def _bad_cursor(cursor: object) -> InvalidCursor:
    return InvalidCursor(
        f"{cursor!r} is not a cursor", advice="give the cursor of the page before, or None"
    )


def page_after(
    snapshot: Snapshot,
    cursor: str | None,
    limit: int,
    condition: Filter | None,
    indexed: Sequence[str],
) -> Page:
    """The documents that follow in the order of ids; whatever changes, none comes twice.

    Raises
    ------
    InvalidCursor
        The cursor is not one of ours.
    """
    after = None if cursor is None else _unpack_cursor(cursor)
    chosen: list[tuple[str, codec.Entries, int]] = []
    if condition is None:
        chosen = _next_ids(snapshot, after, limit + 1)
    else:
        for run, rows in matching(snapshot, condition, indexed):
            found = ((run.id(int(row)), run, int(row)) for row in rows)
            chosen += [one for one in found if after is None or one[0] > after]
            chosen = sorted(chosen, key=lambda one: one[0])[: limit + 1]
    documents = [load_entry(run, index) for _, run, index in chosen[:limit]]
    more = len(chosen) > limit
    return Page(documents, _pack_cursor(chosen[limit - 1][0]) if more else None)


def _next_ids(
    snapshot: Snapshot, after: str | None, count: int
) -> list[tuple[str, codec.Entries, int]]:
    """The entries with the next ids, in the order of ids; the index on ``_id`` finds them."""
    found: list[tuple[str, codec.Entries, int]] = []
    index = field_index(snapshot, ID_FIELD) if snapshot.base.count else None
    if index is not None:
        at = 0 if after is None else bisect_right(index.values, after, key=_as_py)
        dead = set(snapshot.dead_rows().tolist())
        rows: list[int] = []
        while at < len(index.rows) and len(rows) < count:
            row = int(index.rows[at])
            at += 1
            if row not in dead:
                rows.append(row)
        ordered = np.sort(np.array(rows, np.int64))
        found += [(run.id(i), run, i) for run, i in snapshot.base.entries_at(ordered)]
    for run in snapshot.overlay_runs():
        for position in range(len(run)):
            identity = run.id(position)
            if after is None or identity > after:
                found.append((identity, run, position))
    return sorted(found, key=lambda one: one[0])[:count]


def pick(document: dict[Any, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Some fields of a document, by name or dotted path; absent ones are left out."""
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


def check_indexable(schema: pa.Schema, field: str) -> None:
    """Raise if values of a field cannot be sorted.

    Raises
    ------
    InvalidFilter
    """
    try:
        kind = field_at(schema, field).type
    except FieldNotFound:
        return  # documents may get it later
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        raise InvalidFilter(
            f"the field {field!r} of type {kind} has no order that an index could keep",
            advice="index a field inside it, by its dotted path",
        )
