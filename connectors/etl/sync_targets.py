"""Targets of incremental copies: data directories, databases, Delta, Parquet and NDJSON."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.connectors.columns import fit_columns
from godb_arrow.connectors.etl.base import Target
from godb_arrow.connectors.etl.databases import (
    DeltaTarget,
    SqlTarget,
    connect,
    deltalake_module,
    sql_errors,
)
from godb_arrow.connectors.etl.partitions import (
    open_parquet_folder,
    read_partitions,
    write_partitions,
)
from godb_arrow.connectors.etl.sqlite import add_column, create_table, quoted
from godb_arrow.connectors.etl.sync import (
    LogTarget,
    Moved,
    SyncTarget,
    groups_of,
    line_of,
    reader_of,
)
from godb_arrow.connectors.etl.targets import EngineTarget, FileTarget, FolderTarget
from godb_arrow.documents.json_lines import json_lines, runs_of
from godb_arrow.engine.changes import ChangeFeed
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.errors import CorruptFile, InvalidOption, storage_errors
from godb_arrow.options import IfExists
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.versions import CollectionVersion
from godb_arrow.storage.lock import lock_file
from godb_arrow.storage.object_store import is_url

__all__ = ["STATE", "sync_target"]

STATE = "godb_arrow_copies"
"""Collection or table with the token of each incremental copy."""
_DELTA_KEY = "godb_arrow_token"
_HEADER = b'{"format":"changes of godb_arrow","version":1}\n'
_TOKEN_START = b'{"token":"'
_BLOCK_BYTES = 1 << 20

Count = Callable[[int], Any]


@contextmanager
def sync_target(to: Target, if_exists: IfExists) -> Iterator[SyncTarget | LogTarget]:
    """Open a target for an incremental copy.

    Parameters
    ----------
    to : Target
        The target of an ordinary copy to the same place.
    if_exists : {"error", "replace"}
        Action if the target has documents that no incremental copy wrote.

    Raises
    ------
    InvalidOption
        The target cannot store a token with its documents.
    """
    if if_exists not in ("error", "replace"):
        raise InvalidOption(
            f'if_exists is {if_exists!r} with mode="sync"', advice='use "error" or "replace"'
        )
    if isinstance(to, EngineTarget) and not is_url(to.place):
        with StorageEngine(to.place) as engine:
            yield _EngineSync(engine, to, if_exists)
    elif isinstance(to, SqlTarget):
        with sql_errors("copy changes"), connect(to.place) as connection:
            yield _SqlSync(connection, to, if_exists)
    elif isinstance(to, DeltaTarget):
        yield _DeltaSync(to, if_exists)
    elif isinstance(to, FolderTarget):
        yield _ParquetSync(to, if_exists)
    elif isinstance(to, FileTarget) and to.format == "ndjson" and _is_plain(to.place):
        with lock_file(to.place), storage_errors("write", to.place):
            yield from _opened_log(to, if_exists)
    else:
        raise InvalidOption(
            f'{to.name} does not support mode="sync"',
            advice="copy to a collection of a data directory, a database, a Delta table, a folder "
            "of Parquet files, or a local NDJSON file",
        )


def _is_plain(place: str) -> bool:
    """Return whether a file is local and not compressed, so that it can grow."""
    return not is_url(place) and place.endswith((".ndjson", ".jsonl"))


# --- data directories -------------------------------------------------------------------------


class _EngineSync(SyncTarget):
    """Collection of a data directory; each group of documents is a transaction."""

    def __init__(self, engine: StorageEngine, to: EngineTarget, if_exists: IfExists) -> None:
        self._engine, self._to, self._if_exists = engine, to, if_exists
        self._name = to.collection
        if self._name == STATE:
            raise InvalidOption(f"{STATE!r} has the tokens", advice="copy to another collection")

    def token(self) -> str | None:
        state = self._engine[STATE].get(self._name, None) if STATE in self._engine else None
        if state is None and self._name in self._engine and self._if_exists == "error":
            raise self._to.refuse_existing()
        return None if state is None else state["token"]

    def _store(self, tx: Any, token: str | None) -> None:
        tx[STATE].upsert_many([{ID_FIELD: self._name, "token": token}])

    def replace(self, source: CollectionVersion, count: Count) -> Moved:
        engine, name, moved = self._engine, self._name, Moved()
        if STATE not in engine:
            engine.create_collection(STATE)
        with engine.transaction() as tx:
            self._store(tx, None)  # From here on the collection belongs to the copy.
        if name not in engine:
            engine.create_collection(name)
        target = engine[name]
        for group in groups_of([document[ID_FIELD] for document in target]):
            kept = {document[ID_FIELD] for document in source.find({ID_FIELD: group})}
            moved.deleted += self._put([], [key for key in group if key not in kept])
        for group in groups_of([document[ID_FIELD] for document in source]):
            moved.documents += self._put(source.find({ID_FIELD: group}), [])
            count(len(group))
        target.to_folder()  # Later copies add parts, and do not write the whole file again.
        with engine.transaction() as tx:
            self._store(tx, source.token)
        return moved

    def update(self, source: CollectionVersion, ids: list[str], count: Count) -> Moved:
        moved = Moved()
        groups = list(groups_of(ids)) or [[]]
        for index, group in enumerate(groups):
            documents = source.find({ID_FIELD: group}) if group else []
            present = {document[ID_FIELD] for document in documents}
            token = source.token if index == len(groups) - 1 else None
            deleted = [key for key in group if key not in present]
            moved.documents += len(documents)
            moved.deleted += self._put(documents, deleted, token)
            count(len(documents))
        return moved

    def _put(
        self, documents: list[dict[Any, Any]], deleted: list[str], token: str | None = None
    ) -> int:
        """Write and delete documents in one transaction, and return their number."""
        number = len(documents)
        with self._engine.transaction() as tx:
            if documents:
                tx[self._name].upsert_many(documents)
            if deleted:
                number = tx[self._name].delete_many({ID_FIELD: deleted})
            if token is not None:
                self._store(tx, token)
        return number


# --- databases --------------------------------------------------------------------------------


class _SqlSync(SyncTarget):
    """Table of a database; each copy is one transaction, which also stores the token."""

    def __init__(self, connection: Any, to: SqlTarget, if_exists: IfExists) -> None:
        self._connection, self._to, self._if_exists = connection, to, if_exists
        self._table = to.table
        self._is_sqlite = to.place.startswith("sqlite:")
        self._columns: dict[str, str] = {}  # types by name, of the last copy

    def token(self) -> str | None:
        if self._to.has_table(self._connection, STATE):
            with self._connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT token, columns FROM {STATE} WHERE name = {_text(self._table)}"
                )
                row = cursor.fetchone()
            if row is not None and self._to.has_table(self._connection, self._table):
                self._columns = json.loads(row[1])
                return str(row[0])
        if self._to.has_table(self._connection, self._table) and self._if_exists == "error":
            raise self._to.refuse_existing()
        return None

    def _fitted(self, reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
        return fit_columns(reader, "sqlite" if self._is_sqlite else "database")

    def replace(self, source: CollectionVersion, count: Count) -> Moved:
        moved = Moved()
        with self._connection.cursor() as cursor, source.stream_batches() as documents:
            reader = _counted(self._fitted(documents), moved, count)
            if self._to.has_table(self._connection, self._table):
                cursor.execute(f"DROP TABLE {quoted(self._table)}")
            self._ingest(cursor, self._table, reader)
            if self._is_sqlite:
                index = quoted(f"godb_arrow_{self._table}_ids")
                table, key = quoted(self._table), quoted(ID_FIELD)
                cursor.execute(f"CREATE UNIQUE INDEX {index} ON {table} ({key})")
            self._store(cursor, source, reader.schema)
        self._connection.commit()
        return moved

    def _ingest(self, cursor: Any, table: str, reader: pa.RecordBatchReader) -> None:
        if self._is_sqlite:
            create_table(cursor, table, reader.schema)
        cursor.adbc_ingest(table, reader, mode="append" if self._is_sqlite else "create")

    def _store(self, cursor: Any, source: CollectionVersion, schema: pa.Schema) -> None:
        if not self._to.has_table(self._connection, STATE):
            cursor.execute(f"CREATE TABLE {STATE} (name TEXT, token TEXT, columns TEXT)")
        columns = json.dumps({field.name: str(field.type) for field in schema})
        values = ", ".join(map(_text, (self._table, source.token or "", columns)))
        cursor.execute(f"DELETE FROM {STATE} WHERE name = {_text(self._table)}")
        cursor.execute(f"INSERT INTO {STATE} (name, token, columns) VALUES ({values})")

    def update(self, source: CollectionVersion, ids: list[str], count: Count) -> Moved | None:
        moved = Moved()
        reader = _counted(self._fitted(reader_of(source, ids)), moved, count)
        added = [field for field in reader.schema if field.name not in self._columns]
        types = {field.name: str(field.type) for field in reader.schema}
        same = all(types.get(name) == kind for name, kind in self._columns.items())
        if not same or (added and not self._is_sqlite):
            return None
        staged, keys = (f"godb_arrow_{secrets.token_hex(8)}" for _ in range(2))
        table = quoted(self._table)
        with self._connection.cursor() as cursor:
            for field in added:
                add_column(cursor, self._table, field)
            self._ingest(cursor, staged, reader)
            changed = pa.table({ID_FIELD: pa.array(ids, pa.string())})
            cursor.adbc_ingest(keys, changed, mode="create")
            names = ", ".join(quoted(name) for name in reader.schema.names)
            key = quoted(ID_FIELD)
            cursor.execute(f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {keys})")
            cursor.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM {staged}")
            for name in (staged, keys):
                cursor.execute(f"DROP TABLE {name}")
            self._store(cursor, source, reader.schema)
        self._connection.commit()
        moved.deleted = len(ids) - moved.documents
        return moved


def _text(value: str) -> str:
    """Return a text of SQL."""
    return "'" + value.replace("'", "''") + "'"


def _counted(reader: pa.RecordBatchReader, moved: Moved, count: Count) -> pa.RecordBatchReader:
    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            moved.documents += batch.num_rows
            count(batch.num_rows)
            yield batch

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


# --- Delta tables -----------------------------------------------------------------------------


class _DeltaSync(SyncTarget):
    """Delta table; each copy is one version, whose commit has the token."""

    def __init__(self, to: DeltaTarget, if_exists: IfExists) -> None:
        self._to, self._if_exists = to, if_exists
        self._delta = deltalake_module()

    def token(self) -> str | None:
        if not self._to.exists():
            return None
        for commit in self._delta.DeltaTable(self._to.place).history():
            if _DELTA_KEY in commit:
                return str(commit[_DELTA_KEY])
        if self._if_exists == "error":
            raise self._to.refuse_existing()
        return None

    def _properties(self, source: CollectionVersion) -> Any:
        return self._delta.CommitProperties(custom_metadata={_DELTA_KEY: source.token or ""})

    def replace(self, source: CollectionVersion, count: Count) -> Moved:
        moved = Moved()
        with source.stream_batches() as documents, self._to.errors():
            self._delta.write_deltalake(
                self._to.place,
                _counted(fit_columns(documents, "delta"), moved, count),
                mode="overwrite",
                schema_mode="overwrite",
                partition_by=self._to.partition_by or None,
                commit_properties=self._properties(source),
            )
        return moved

    def update(self, source: CollectionVersion, ids: list[str], count: Count) -> Moved | None:
        moved = Moved()
        reader = _counted(fit_columns(reader_of(source, ids), "delta"), moved, count)
        table = self._delta.DeltaTable(self._to.place)
        known = {field.name: str(field.type) for field in table.schema().fields}
        empty = pa.Table.from_batches([], reader.schema)
        wanted = self._delta.Schema.from_arrow(empty.schema).fields
        if known != {field.name: str(field.type) for field in wanted}:
            return None
        documents = reader.read_all()
        present = set(documents.column(ID_FIELD).to_pylist())
        deleted = [key for key in ids if key not in present]
        flags = pa.array([False] * len(documents) + [True] * len(deleted), pa.bool_())
        gone = pa.table({ID_FIELD: pa.array(deleted, documents.schema.field(ID_FIELD).type)})
        rows = pa.concat_tables([documents, gone], promote_options="default")
        names = documents.schema.names
        with self._to.errors():
            merge = table.merge(
                rows.append_column(_GONE, flags),
                predicate=f"target.{ID_FIELD} = source.{ID_FIELD}",
                source_alias="source",
                target_alias="target",
                commit_properties=self._properties(source),
            )
            values = {f"`{name}`": f"source.`{name}`" for name in names}
            merge = merge.when_matched_delete(f"source.{_GONE} = true")
            merge = merge.when_matched_update(values, f"source.{_GONE} = false")
            merge.when_not_matched_insert(values, f"source.{_GONE} = false").execute()
        moved.deleted = len(deleted)
        return moved


_GONE = "godb_arrow_deleted"


# --- folders of Parquet files -----------------------------------------------------------------


class _ParquetSync(SyncTarget):
    """Folder of Parquet files; each copy exchanges it, and links the files that stay."""

    def __init__(self, to: FolderTarget, if_exists: IfExists) -> None:
        self._to, self._if_exists = to, if_exists

    def token(self) -> str | None:
        found = read_partitions(self._to.place)
        if found is None and self._to.exists() and self._if_exists == "error":
            raise self._to.refuse_existing()
        return None if found is None else found[2]

    def replace(self, source: CollectionVersion, count: Count) -> Moved:
        moved, keys = Moved(), self._to.partition_by

        def fill(staged: str) -> None:
            with source.stream_batches() as documents:
                reader = _counted(fit_columns(documents, "parquet"), moved, count)
                self._to.write_rows(staged, reader, secrets.token_hex(8))
                write_partitions(staged, reader.schema, keys, source.token or "")

        self._to.exchange(fill, "replace")
        return moved

    def update(self, source: CollectionVersion, ids: list[str], count: Count) -> Moved | None:
        moved, place, found = Moved(), self._to.place, read_partitions(self._to.place)
        assert found is not None
        schema, keys, _ = found
        reader = _counted(fit_columns(reader_of(source, ids), "parquet"), moved, count)
        if not reader.schema.equals(schema) or keys != (self._to.partition_by or keys):
            return None
        self._to.partition_by = keys
        changed = pa.array(ids, pa.string())
        dataset = open_parquet_folder(place)

        def fill(staged: str) -> None:
            def rows() -> Iterator[pa.RecordBatch]:
                for fragment in dataset.get_fragments():
                    own = fragment.to_table(columns=[ID_FIELD]).column(ID_FIELD)
                    is_changed = pc.is_in(own.cast(pa.string()), value_set=changed)
                    if not pc.any(is_changed).as_py():
                        _link(fragment.path, os.path.join(staged, _inside(fragment.path, place)))
                        continue
                    table = fragment.to_table(schema=dataset.schema, columns=schema.names)
                    yield from table.filter(pc.invert(is_changed)).cast(schema).to_batches()
                yield from reader

            written = pa.RecordBatchReader.from_batches(schema, rows())
            self._to.write_rows(staged, written, secrets.token_hex(8))
            write_partitions(staged, schema, keys, source.token or "")

        self._to.exchange(fill, "replace")
        moved.deleted = len(ids) - moved.documents
        return moved


def _inside(path: str, folder: str) -> str:
    return os.path.relpath(path, folder)


def _link(path: str, target: str) -> None:
    """Link a file, or copy it where the file system has no links."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)


# --- NDJSON -----------------------------------------------------------------------------------


def _opened_log(to: FileTarget, if_exists: IfExists) -> Iterator[LogTarget]:
    if os.path.exists(to.place) and os.path.getsize(to.place):
        with open(to.place, "rb") as stream:
            start = stream.read(len(_HEADER))
        if not _HEADER.startswith(start):
            if if_exists == "error":
                raise to.refuse_existing()
            os.unlink(to.place)
    with open(to.place, "a+b") as stream:
        yield _NdjsonLog(stream, to.place)


class _NdjsonLog(LogTarget):
    """NDJSON file with one change for each line, and a line with the token after each copy."""

    def __init__(self, stream: BinaryIO, place: str) -> None:
        self._stream, self._place = stream, place

    def token(self) -> str | None:
        """Return the last token, and cut off what a killed copy left after it."""
        end, token = self._last_token()
        if self._stream.seek(0, io.SEEK_END) > end:
            self._stream.truncate(end)
        return token

    def _last_token(self) -> tuple[int, str | None]:
        """Return the end of the last whole line with a token, and the token."""
        size = at = self._stream.seek(0, io.SEEK_END)
        tail = b""
        while at > 0:
            start = max(0, at - _BLOCK_BYTES)
            self._stream.seek(start)
            tail = self._stream.read(at - start) + tail[: _BLOCK_BYTES // 2]
            found = tail.rfind(b"\n" + _TOKEN_START)
            while found >= 0:
                self._stream.seek(start + found + 1)
                line = self._stream.readline()
                if line.endswith(b"}\n"):
                    return start + found + 1 + len(line), self._parsed(line)
                found = tail.rfind(b"\n" + _TOKEN_START, 0, found)
            at = start
        self._stream.seek(0)
        is_begun = size >= len(_HEADER) and self._stream.read(len(_HEADER)) == _HEADER
        return len(_HEADER) if is_begun else 0, None

    def _parsed(self, line: bytes) -> str:
        try:
            return str(json.loads(line)["token"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFile(
                "the last token is damaged", offset=0, where="file", advice="copy to a new file"
            ) from error

    def begin(self, source: CollectionVersion, count: Count) -> Moved:
        is_new = self._stream.seek(0, io.SEEK_END) == 0
        if is_new:
            self._stream.write(_HEADER)
        moved = Moved()

        def lines() -> Iterator[dict[str, Any]]:
            if self._stream.tell() > len(_HEADER):
                yield {"operation": "reset"}
            for document in source:
                moved.documents += 1
                yield {"operation": "insert", "id": document[ID_FIELD], "document": document}

        self._append(lines(), lambda: source.token or "", count)
        return moved

    def append(self, feed: ChangeFeed, count: Count) -> Moved:
        moved = Moved()

        def lines() -> Iterator[dict[str, Any]]:
            for change in feed:
                moved.documents += change.document is not None
                moved.deleted += change.document is None
                yield line_of(change)

        before = feed.token
        self._append(lines(), lambda: feed.token, count, unless=before)
        return moved

    def _append(
        self,
        lines: Iterator[dict[str, Any]],
        token: Callable[[], str],
        count: Count,
        unless: str | None = None,
    ) -> None:
        """Write lines, and then the token: it is there only if all lines are."""
        stream = self._stream
        for text, number in json_lines(runs_of(lines)):
            stream.write(text)
            count(number)
        stream.flush()
        os.fsync(stream.fileno())
        if token() != unless:
            stream.write(_TOKEN_START + token().encode() + b'"}\n')
            stream.flush()
            os.fsync(stream.fileno())
