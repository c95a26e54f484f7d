"""Data directories as a destination of dlt.

dlt calls a custom destination with one Parquet file of a table after the other. It repeats a file
that failed, or that was loaded by a process which was killed. The rows have the same document ids
then, so that a repeated file changes nothing. Before the first file of a table to replace, the
collection is emptied, and the collection ``godb_arrow_loads`` notes the load.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from godb_arrow.arrow_compute import pc
from godb_arrow.connectors import missing
from godb_arrow.connectors.columns import restore_columns
from godb_arrow.connectors.dlt.settings import SETTINGS
from godb_arrow.documents.value_types import VALUES
from godb_arrow.engine.collection import Collection
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.errors import (
    GodbError,
    InvalidDocument,
    InvalidOption,
    LimitExceeded,
    StorageError,
)
from godb_arrow.options import check_flags
from godb_arrow.schema import ID_FIELD, is_json, is_text, json_type
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.source import local_path

try:
    import dlt
    from dlt.destinations.exceptions import DestinationTerminalException
except ImportError as error:
    raise missing("dlt", "dlt") from error

__all__ = ["LOADS", "godb_destination", "load_file"]

LOADS = "godb_arrow_loads"
"""Collection with the last load that emptied each table."""
_ROWS_AT_ONCE = 10_000  # rows that are written by one call
_BYTES_AT_ONCE = 32 << 20  # bytes of columns that are written by one call
_DLT_ID = "_dlt_id"
_STRATEGIES = frozenset({None, "delete-insert", "upsert"})  # merges by the primary key
_REFUSED_HINTS = ("merge_key", "dedup_sort")
_PASSING = (StorageError, LimitExceeded)
"""Errors after which dlt repeats a file."""

Target: TypeAlias = "str | os.PathLike[str] | StorageEngine"


def godb_destination(
    target: Target,
    *,
    name: str = "godb",
    keep_nulls: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Return a destination of dlt that writes tables as collections of a data directory.

    A merge replaces the documents with the same primary key. It deletes those whose column with the
    hint ``hard_delete`` is set. Document ids are the values of the column ``_id``, or of the
    primary key of a merge. Other rows get the ids of dlt, or the number of the row in its file.
    A row is loaded once, however often dlt repeats its file.

    Parameters
    ----------
    target : path or StorageEngine
        A local data directory, which is created if it does not exist. It is open only while a file
        is loaded. An engine stays open.
    name : str
        Name of the destination in the configuration of dlt, default ``"godb"``.
    keep_nulls : bool
        Whether nulls become nil, default False, which makes them absent fields. dlt does not
        distinguish the two.
    options : mapping, optional
        Keyword arguments of :class:`~godb_arrow.StorageEngine` for a path.

    Returns
    -------
    dlt.destinations.destination

    Raises
    ------
    InvalidOption
        The target is a URL, or an argument has another type.

    Examples
    --------
    >>> import tempfile
    >>> godb_destination(tempfile.mkdtemp()).destination_name
    'godb'
    """
    check_flags(keep_nulls=keep_nulls)
    _check_target(target, options)

    def load(items: str, table: Mapping[str, Any]) -> None:
        load_file(target, items, table, keep_nulls=keep_nulls, options=options)

    return dlt.destination(load, name=name, **SETTINGS)()


def _check_target(target: Target, options: Mapping[str, Any] | None) -> None:
    if options is not None and not isinstance(options, Mapping):
        raise InvalidOption(
            f"options is a {type(options).__name__}", advice="give a dict of options of an engine"
        )
    if isinstance(target, StorageEngine):
        if options:
            raise InvalidOption("the target is an open engine", advice="give it no options")
    elif not isinstance(target, (str, os.PathLike)):
        raise InvalidOption(
            f"the target is a {type(target).__name__}", advice="give a path or an engine"
        )
    place = target.data_dir if isinstance(target, StorageEngine) else os.fspath(target)
    if is_url(place):
        raise InvalidOption(
            f"{place} is a URL, and dlt loads into local data directories only",
            advice="load into a local data directory, and copy its collections",
        )


def load_file(
    target: Target,
    path: str,
    table: Mapping[str, Any],
    *,
    keep_nulls: bool = False,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Load one file of dlt.

    Parameters
    ----------
    target, keep_nulls, options
        See :func:`godb_destination`.
    path : str
        The Parquet file.
    table : mapping
        Table of dlt, with hints.

    Raises
    ------
    DestinationTerminalException
        Another attempt would fail, too.
    """
    try:
        _check_target(target, options)
        with _opened(target, options) as engine:
            _Load(engine, path, table, omit_nulls=not keep_nulls).run()
    except GodbError as error:
        if isinstance(error, _PASSING):
            raise
        raise DestinationTerminalException(f"{type(error).__name__}: {error}") from error


@contextmanager
def _opened(target: Target, options: Mapping[str, Any] | None) -> Iterator[StorageEngine]:
    """Open the target; what was written is on the disk at the end."""
    if isinstance(target, StorageEngine):
        yield target
        target.save()
        return
    with StorageEngine(local_path(os.fspath(target)), **(options or {})) as engine:
        yield engine


class _Load:
    """Load of one file into a collection."""

    def __init__(
        self, engine: StorageEngine, path: str, table: Mapping[str, Any], *, omit_nulls: bool
    ) -> None:
        self._engine, self._path, self._omit_nulls = engine, path, omit_nulls
        self._name = str(table["name"])
        self._columns: Mapping[str, Mapping[str, Any]] = table["columns"]
        self._disposition: str = table["write_disposition"]
        self._keys = self._with_hint("primary_key")
        self._flags = self._with_hint("hard_delete")
        self._check(table)

    def _with_hint(self, hint: str) -> list[str]:
        return [name for name, column in self._columns.items() if column.get(hint)]

    def _check(self, table: Mapping[str, Any]) -> None:
        if self._name == LOADS:
            raise InvalidOption(f"{LOADS!r} has the state of loads", advice="rename the resource")
        if self._disposition != "merge":
            return
        advice = 'use write_disposition="append" or "replace", or merge by a primary key'
        strategy = table.get("x-merge-strategy")
        if strategy not in _STRATEGIES:
            raise InvalidOption(f"the merge strategy is {strategy!r}", advice=advice)
        for hint in _REFUSED_HINTS:
            if names := self._with_hint(hint):
                raise InvalidOption(f"the column {names[0]!r} has the hint {hint}", advice=advice)
        if not self._keys:
            raise InvalidOption(f"the table {self._name!r} has no primary key", advice=advice)
        if ID_FIELD in self._columns and self._keys != [ID_FIELD]:
            raise InvalidOption(
                f"the column {ID_FIELD!r} is not the primary key",
                advice=f"rename it, or use primary_key={ID_FIELD!r}",
            )

    def run(self) -> None:
        """Write the rows of the file."""
        if self._name not in self._engine:
            self._engine.create_collection(self._name)
        self._empty_once()
        collection = self._engine[self._name]
        with pq.ParquetFile(self._path) as file:
            for rows in self._documents(file):
                self._write(collection, rows)

    def _empty_once(self) -> None:
        """Delete all documents if the load replaces them, and no file of it was loaded before."""
        package = dlt.current.load_package_state()
        state = package["state"]
        refreshed = (*state.get("dropped_tables", ()), *state.get("truncated_tables", ()))
        names = {table["name"] for table in refreshed}
        if self._disposition != "replace" and self._name not in names:
            return
        if LOADS not in self._engine:
            self._engine.create_collection(LOADS)
        loads = self._engine[LOADS]
        load = {ID_FIELD: self._name, "load": package["load_id"]}
        if loads.get(self._name, None) != load:
            self._engine[self._name].delete_many(None)
            loads.upsert_many([load])

    def _documents(self, file: pq.ParquetFile) -> Iterator[pa.Table]:
        """Yield the documents of a file, with their ids as the first column."""
        batches = file.iter_batches(batch_size=_rows_at_once(file.metadata))
        reader = pa.RecordBatchReader.from_batches(file.schema_arrow, batches)
        first = 0
        for batch in restore_columns(reader):  # in their own types, where godb_source read them
            yield self._with_ids(batch, self._ids(batch, first))
            first += batch.num_rows

    def _with_ids(self, batch: pa.RecordBatch, ids: pa.Array) -> pa.Table:
        fields, columns = [pa.field(ID_FIELD, ids.type)], [ids]
        for field, array in zip(batch.schema, batch.columns, strict=True):
            hints = self._columns.get(field.name)
            if hints is None or field.name == ID_FIELD:
                continue  # columns of dlt
            if hints.get("data_type") == "json" and (is_text(array.type) or is_json(array.type)):
                field = pa.field(field.name, json_type(), metadata=VALUES)
                texts = array.storage if is_json(array.type) else array.cast(pa.string())
                array = pa.ExtensionArray.from_storage(json_type(), texts)
            fields.append(field)
            columns.append(array)
        return pa.table(columns, schema=pa.schema(fields))

    def _ids(self, batch: pa.RecordBatch, first: int) -> pa.Array:
        """Return the document ids of rows, which are the same in each attempt."""
        names = batch.schema.names
        if ID_FIELD in names:
            return _key_texts(batch, [ID_FIELD])
        if self._disposition == "merge":
            return _key_texts(batch, self._keys)
        if _DLT_ID in names and not batch.column(_DLT_ID).null_count:
            return batch.column(_DLT_ID)
        # The name of a file is TABLE.ID.ATTEMPT.parquet.
        file_id = os.path.basename(self._path).rsplit(".", 3)[1]
        numbers = range(first, first + batch.num_rows)
        return pa.array([f"{file_id}-{number}" for number in numbers], pa.string())

    def _write(self, collection: Collection, rows: pa.Table) -> None:
        """Write the last row of each id, or delete its document."""
        rows = rows.filter(_last_of_each(rows.column(ID_FIELD)))
        flags = [name for name in self._flags if name in rows.column_names]
        if self._disposition == "merge" and flags:
            deleted = _is_deleted(rows, flags)
            gone = rows.column(ID_FIELD).filter(deleted).cast(pa.string()).to_pylist()
            if gone:
                collection.delete_many({ID_FIELD: gone})
            rows = rows.filter(pc.invert(deleted)).drop_columns(flags)
        if rows.num_rows:
            collection.upsert_many(rows, omit_nulls=self._omit_nulls)


def _rows_at_once(file: pq.FileMetaData) -> int:
    """Return the number of rows to write by one call."""
    size = sum(file.row_group(group).total_byte_size for group in range(file.num_row_groups))
    rows: int = _BYTES_AT_ONCE * file.num_rows // max(1, size)
    return max(1, min(_ROWS_AT_ONCE, rows))


def _key_texts(batch: pa.RecordBatch, names: list[str]) -> pa.Array:
    """Return document ids of keys: their text, or a JSON array of several."""
    for name in names:
        if name not in batch.schema.names or batch.column(name).null_count:
            raise InvalidDocument(
                f"the primary key {name!r} is null", advice="give each row a key, or append"
            )
    columns = [batch.column(name) for name in names]
    if len(columns) == 1 and (is_text(columns[0].type) or pa.types.is_integer(columns[0].type)):
        return columns[0]
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    if len(columns) == 1:
        return pa.array([_text_of(value) for (value,) in rows], pa.string())
    texts = [json.dumps(row, default=_text_of, ensure_ascii=False) for row in rows]
    return pa.array(texts, pa.string())


def _text_of(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _is_deleted(rows: pa.Table, flags: list[str]) -> pa.ChunkedArray:
    """Return which rows are deletions: a flag is true or, if it is no bool, is not null."""
    deleted: Any = pa.chunked_array([pa.repeat(pa.scalar(False), rows.num_rows)])
    for name in flags:
        flag = rows.column(name)
        is_set = flag.fill_null(False) if pa.types.is_boolean(flag.type) else flag.is_valid()
        deleted = pc.or_(deleted, is_set)
    return deleted


def _last_of_each(ids: pa.ChunkedArray) -> pa.Array:
    """Return which rows are the last with their id."""
    last = {key: place for place, key in enumerate(ids.to_pylist())}
    mask = [False] * len(ids)
    for place in last.values():
        mask[place] = True
    return pa.array(mask, pa.bool_())
