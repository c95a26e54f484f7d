"""Pages of documents with a cursor."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.codec.entries import Rows
from godb_arrow.display import Table, plural
from godb_arrow.documents.ids import ids_of
from godb_arrow.documents.loading import load_entry
from godb_arrow.errors import InvalidCursor
from godb_arrow.query.filters import Filter
from godb_arrow.query.sort_order import KEY_TYPES, SortKey
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.find import matching
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.sorting import SortedDocuments, sorted_tables

__all__ = ["Page", "page_after", "sorted_page_after"]


_BYTES_PER_ORDERED_ID = 64  # while ids are sorted
_ORDERED_SHARE = 2  # of the free memory that ordered ids take, one part in so many
_MAX_SHOWN_ROWS, _MAX_SHOWN_FIELDS, _MAX_CELL = 20, 12, 60


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}…"


@dataclass(frozen=True, slots=True)
class Page:
    """Page of documents, with the cursor of the next page.

    Attributes
    ----------
    documents : list of dict
        Documents in the order of their ids, compared as text, or in the order that was given.
    cursor : str or None
        Cursor of the next page; None for the last page.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     users = engine.create_collection("users")
    ...     _ = users.insert_many([{"name": "Ada"}, {"name": "Bob"}, {"name": "Cy"}])
    ...     page = users.find_page(limit=2)
    ...     last = users.find_page(limit=2, cursor=page.cursor)
    >>> [user["name"] for user in page.documents], [user["name"] for user in last.documents]
    (['Ada', 'Bob'], ['Cy'])
    >>> print(last.cursor)
    None
    """

    documents: list[dict[Any, Any]]
    cursor: str | None

    def _repr_html_(self) -> str:
        names = list(dict.fromkeys(name for document in self.documents for name in document))
        table = Table([str(name) for name in names[:_MAX_SHOWN_FIELDS]], self._title())
        for document in self.documents[:_MAX_SHOWN_ROWS]:
            table.add(*(_cell(document.get(name)) for name in names[:_MAX_SHOWN_FIELDS]))
        return table.html()

    def _title(self) -> str:
        last = "last page" if self.cursor is None else "more follow"
        return f"{plural(len(self.documents), 'document')}, {last}"


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
        f"{cursor!r} is not a cursor", advice="give the cursor of the previous page, or None"
    )


def page_after(
    snapshot: Snapshot,
    cursor: str | None,
    limit: int,
    condition: Filter | None,
    indexed: Sequence[str],
) -> Page:
    """Return the page after a cursor, without repeating documents whatever changes meanwhile.

    Raises
    ------
    InvalidCursor
        The cursor is invalid.
    """
    after = None if cursor is None else _unpack_cursor(cursor)
    if condition is None and _may_order_ids(snapshot.base):
        chosen = _next_ids(snapshot, after, limit + 1)
    else:
        chosen = _least_ids(matching(snapshot, condition, indexed), after, limit + 1)
    documents = [load_entry(run, index) for _, run, index in chosen[:limit]]
    more = len(chosen) > limit
    return Page(documents, _pack_cursor(chosen[limit - 1][0]) if more else None)


def sorted_page_after(
    snapshot: Snapshot,
    cursor: str | None,
    limit: int,
    condition: Filter | None,
    indexed: Sequence[str],
    keys: tuple[SortKey, ...],
) -> Page:
    """Return the page after a cursor in an order; equal documents are ordered by id.

    The cursor has the keys and the id of the last document. So no document is repeated or skipped
    unless its own keys change meanwhile.

    Raises
    ------
    InvalidCursor
        The cursor is invalid, or of another order.
    """
    after = None if cursor is None else _unpack_sorted(cursor, keys)
    wanted = SortedDocuments(keys, limit + 1, after)
    documents: list[dict[Any, Any]] = []
    last: str | None = None
    for entries, table in sorted_tables(snapshot, condition, indexed, wanted):
        for index in range(len(entries)):
            if len(documents) == limit:
                return Page(documents, last)
            documents.append(load_entry(entries, index))
            if len(documents) == limit:
                last = _pack_sorted(table.slice(index, 1), keys)
    return Page(documents, None)


def _names(keys: tuple[SortKey, ...]) -> list[str]:
    return [f"{part} {at}" for at in range(len(keys)) for part in ("rank", "key", "rest", "text")]


def _pack_sorted(row: pa.Table, keys: tuple[SortKey, ...]) -> str:
    values = [row.column(name)[0].as_py() for name in [*_names(keys), "id"]]
    raw: bytes = b"\2" + msgpack.packb([list(map(list, keys)), values])
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _unpack_sorted(cursor: str, keys: tuple[SortKey, ...]) -> dict[str, Any]:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        if raw[:1] != b"\2":
            raise ValueError("the cursor of a page without an order")
        order, values = msgpack.unpackb(raw[1:])
        if order != list(map(list, keys)):
            raise ValueError("the cursor of another order")
        after = dict(zip([*_names(keys), "id"], values, strict=True))
        for name, value in after.items():
            pa.scalar(value, KEY_TYPES[name.partition(" ")[0]])
            if value is None:
                raise ValueError("a cursor without a key")
    except (ValueError, TypeError, AttributeError, OverflowError, pa.ArrowException,
            msgpack.UnpackException) as error:  # fmt: skip
        raise _bad_cursor(cursor) from error
    return after


@dataclass(frozen=True, slots=True)
class _OrderedIds:
    """Ids of a base in their order, and their rows."""

    ids: pa.Array
    rows: Rows


def _ordered_ids(base: Base) -> _OrderedIds:
    found: _OrderedIds | None = base.view("ordered ids")
    if found is None:
        ids = pa.concat_arrays([ids_of(entries) for _, entries in base.loaded()])
        order = pc.sort_indices(ids)
        found = _OrderedIds(ids.take(order), order.to_numpy().astype(np.int64))
        base.hold("ordered ids", found, found.ids.nbytes + found.rows.nbytes)
    return found


def _may_order_ids(base: Base) -> bool:
    """Return whether the ordered ids of a base fit into memory."""
    is_held = base.view("ordered ids") is not None
    return is_held or base.count * _BYTES_PER_ORDERED_ID <= base.memory.room // _ORDERED_SHARE


def _least_ids(
    matches: Iterator[tuple[codec.Entries, Any]], after: str | None, count: int
) -> list[tuple[str, codec.Entries, int]]:
    """Return the matching entries with the next ids, in order, of which few are in memory."""
    raw = None if after is None else after.encode("utf-8", "surrogateescape")
    chosen: list[tuple[str, codec.Entries, int]] = []
    for run, matching_rows in matches:
        ids, rows = ids_of(run), np.asarray(matching_rows, np.int64)
        if len(rows) < len(run):
            ids = ids.take(pa.array(rows))
        if raw is not None:
            later = np.flatnonzero(pc.greater(ids, pa.scalar(raw, ids.type)))
            ids, rows = ids.take(pa.array(later)), rows[later]
        if len(rows) > count:
            rows = rows[np.sort(pc.bottom_k_unstable(ids, count).to_numpy())]
        if len(rows):
            few = codec.take(run, rows)  # The run itself is released.
            chosen += [(few.id(index), few, index) for index in range(len(few))]
            chosen = sorted(chosen, key=itemgetter(0))[:count]
    return chosen


def _as_py(scalar: Any) -> Any:
    return scalar.as_py()


def _next_ids(
    snapshot: Snapshot, after: str | None, count: int
) -> list[tuple[str, codec.Entries, int]]:
    """Return the entries with the next ids, in order."""
    entries: list[tuple[str, codec.Entries, int]] = []
    if snapshot.base.count:
        index = _ordered_ids(snapshot.base)
        raw = None if after is None else after.encode("utf-8", "surrogateescape")
        at = 0 if raw is None else bisect_right(index.ids, raw, key=_as_py)
        deleted = set(snapshot.superseded_rows().tolist())
        rows: list[int] = []
        while at < len(index.rows) and len(rows) < count:
            row = int(index.rows[at])
            at += 1
            if row not in deleted:
                rows.append(row)
        ordered = np.sort(np.array(rows, np.int64))
        entries += [(run.id(i), run, i) for run, i in snapshot.base.entries_at(ordered)]
    for run in snapshot.overlay_runs():
        for position in range(len(run)):
            identity = run.id(position)
            if after is None or identity > after:
                entries.append((identity, run, position))
    return sorted(entries, key=itemgetter(0))[:count]
