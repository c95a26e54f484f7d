"""Targets of incremental copies: data directories, GODB files, databases, Delta and Parquet."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.connectors.columns import fit_columns
from godb_arrow.connectors.etl.base import STATE, Count, Documents, Target
from godb_arrow.connectors.etl.databases import (
    DeltaTarget,
    SqlTarget,
    connect,
    deltalake_module,
    sql_errors,
)
from godb_arrow.connectors.etl.directories import EngineTarget
from godb_arrow.connectors.etl.partitions import (
    open_parquet_folder,
    read_partitions,
    write_partitions,
)
from godb_arrow.connectors.etl.sqlite import add_column, create_table, literal, quoted
from godb_arrow.connectors.etl.sync import (
    LogTarget,
    Moved,
    SyncTarget,
    groups_of,
    ids_of,
    reader_of,
    refuse_others,
    stored_runs,
)
from godb_arrow.connectors.etl.sync_log import opened_log
from godb_arrow.connectors.etl.targets import FileTarget, FolderTarget, GodbTarget
from godb_arrow.directory.synced_file import SyncedFile
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.errors import InvalidOption, StorageError, storage_errors
from godb_arrow.options import IfExists
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.find import matching
from godb_arrow.snapshots.readable import snapshot_of
from godb_arrow.snapshots.versions import CollectionVersion
from godb_arrow.storage.lock import lock_file
from godb_arrow.storage.object_store import is_url

__all__ = ["sync_target"]

_DELTA_KEY = "godb_arrow_token"
_NO_CHANGES = ("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "FSCK")
"""Operations of Delta that change no documents."""
_TRANSACTION_BYTES = 32 << 20  # of documents, after which the next transaction begins
_FEW_CHANGES = 1000  # which a GODB file always gets without the other documents
_MAX_SHARE = 100  # of the documents, one in so many, up to which a GODB file gets only changes
_RECENT_COMMITS = 20  # that are read first


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
    elif isinstance(to, GodbTarget):
        with lock_file(to.place):
            yield _GodbSync(to, if_exists)
    elif isinstance(to, FileTarget) and to.format == "ndjson" and _is_plain(to.place):
        with lock_file(to.place), storage_errors("write", to.place):
            yield from opened_log(to, if_exists)
    else:
        raise InvalidOption(
            f'{to.name} does not support mode="sync"',
            advice="copy to a collection of a data directory, a GODB file, a database, a Delta "
            "table, a folder of Parquet files, or a local NDJSON file",
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
        engine, name = self._engine, self._name
        if name not in engine:
            return None
        state = engine[STATE].get(name, None) if STATE in engine else None
        if state is not None:
            documents = state.get("documents")
            if state["token"] is None or documents in (None, len(engine[name])):
                token: str | None = state["token"]
                return token
        if self._if_exists == "error":
            raise refuse_others()
        return None

    def _store(self, tx: Any, token: str | None, documents: int | None = None) -> None:
        state = {ID_FIELD: self._name, "token": token, "documents": documents}
        tx[STATE].upsert_many([state])

    def replace(self, source: CollectionVersion, count: Count) -> Moved:
        engine, name, moved = self._engine, self._name, Moved()
        if STATE not in engine:
            engine.create_collection(STATE)
        with engine.transaction() as tx:
            self._store(tx, None)  # From here on the collection belongs to the copy.
        if name not in engine:
            engine.create_collection(name)
        target = engine[name]
        others = set(ids_of(target))
        if others:
            others.difference_update(ids_of(source))
        for group in groups_of(sorted(others)):
            moved.deleted += self._put(source, [], group, None)
        for run in source.stored_entries():
            for part in run.split():
                self._put(source, [part], [], None)
                moved.documents += len(part)
                count(len(part))
        target.to_folder()  # Later copies add parts, and do not write the whole file again.
        with engine.transaction() as tx:
            self._store(tx, source.token, len(target))
        return moved

    def update(self, source: CollectionVersion, ids: list[str], count: Count) -> Moved:
        moved, before = Moved(), self.token()
        groups = list(groups_of(ids)) or [[]]
        for index, group in enumerate(groups):
            deleted = dict.fromkeys(group)
            runs: list[codec.Entries] = []
            for run in stored_runs(source, group) if group else ():
                if sum(part.nbytes for part in runs) > _TRANSACTION_BYTES:
                    self._put(source, runs, [], before)
                    runs = []
                runs.append(run)
                for identity in run.ids():
                    deleted.pop(identity, None)  # Files of others may repeat ids.
                moved.documents += len(run)
                count(len(run))
            token = source.token if index == len(groups) - 1 else before
            moved.deleted += self._put(source, runs, [*deleted], token)
        return moved

    def _put(
        self,
        source: CollectionVersion,
        runs: list[codec.Entries],
        deleted: list[str],
        token: str | None,
    ) -> int:
        """Write and delete documents in one transaction; return the number of deleted ones."""
        number = 0
        with self._engine.transaction() as tx:
            if runs:
                tx[self._name].upsert_many(Documents(source.stored_schema, iter(runs)))
            if deleted:
                number = tx[self._name].delete_many({ID_FIELD: deleted})
            if token is not None:
                self._store(tx, token, len(tx[self._name]))
        return number


# --- GODB files -------------------------------------------------------------------------------


class _GodbSync(SyncTarget):
    """Collection of a GODB file, which each copy replaces."""

    def __init__(self, to: GodbTarget, if_exists: IfExists) -> None:
        self._file, self._if_exists = SyncedFile(to.place, to.collection), if_exists

    def token(self) -> str | None:
        token = self._file.token
        if token is None and self._file.has_collection and self._if_exists == "error":
            raise refuse_others()
        return token

    def replace(self, source: CollectionVersion, count: Count) -> Moved:
        self._file.replace(snapshot_of(source), source.token or "")
        count(len(source))
        return Moved(len(source))

    def update(self, source: CollectionVersion, ids: list[str], count: Count) -> Moved | None:
        if len(ids) > max(_FEW_CHANGES, len(source) // _MAX_SHARE):
            return None  # Copying all documents takes less time.
        documents = snapshot_of(source)
        groups = ((group, matching(documents, {ID_FIELD: group}, ())) for group in groups_of(ids))
        changes = self._file.update(groups, source.token or "")
        if changes is None:
            return None
        count(changes.documents)
        return Moved(changes.documents, changes.deleted)


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
                    f"SELECT token, columns, documents FROM {STATE} "
                    f"WHERE name = {literal(self._table)}"
                )
                row = cursor.fetchone()
                is_ours = row is not None and self._to.has_table(self._connection, self._table)
                if is_ours and row[2] == self._count(cursor):
                    with suppress(ValueError):  # Damaged types are other types.
                        self._columns = json.loads(row[1])
                    return str(row[0])
        if self._to.has_table(self._connection, self._table) and self._if_exists == "error":
            raise refuse_others()
        return None

    def _count(self, cursor: Any) -> int:
        cursor.execute(f"SELECT count(*) FROM {quoted(self._table)}")
        return int(cursor.fetchone()[0])

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
                index = f"godb_arrow_{secrets.token_hex(8)}"
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
            cursor.execute(
                f"CREATE TABLE {STATE} (name TEXT, token TEXT, columns TEXT, documents INTEGER)"
            )
        columns = json.dumps({field.name: str(field.type) for field in schema})
        values = ", ".join(map(literal, (self._table, source.token or "", columns)))
        cursor.execute(f"DELETE FROM {STATE} WHERE name = {literal(self._table)}")
        cursor.execute(f"INSERT INTO {STATE} VALUES ({values}, {self._count(cursor)})")

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
        with self._to.errors():
            table = self._delta.DeltaTable(self._to.place)
            for limit in (_RECENT_COMMITS, None):
                for commit in table.history(limit):
                    if _DELTA_KEY in commit:
                        return str(commit[_DELTA_KEY])
                    if commit.get("operation") not in _NO_CHANGES:
                        break  # Another program wrote documents.
                else:
                    continue
                break
        if self._if_exists == "error":
            raise refuse_others()
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
        with self._to.errors():
            table = self._delta.DeltaTable(self._to.place)
            known = {field.name: str(field.type) for field in table.schema().fields}
            wanted = self._delta.Schema.from_arrow(reader.schema).fields
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
            version = table.version()
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
            if self._delta.DeltaTable(self._to.place).version() == version:
                # A merge without effect makes no commit, which would have the token.
                self._delta.write_deltalake(
                    self._to.place,
                    documents.slice(0, 0),
                    mode="append",
                    commit_properties=self._properties(source),
                )
        moved.deleted = len(deleted)
        return moved


_GONE = "godb_arrow_deleted"


# --- folders of Parquet files -----------------------------------------------------------------


class _ParquetSync(SyncTarget):
    """Folder of Parquet files; each copy exchanges it, and links the files that stay."""

    def __init__(self, to: FolderTarget, if_exists: IfExists) -> None:
        self._to, self._if_exists = to, if_exists

    def token(self) -> str | None:
        with self._errors():
            found = read_partitions(self._to.place)
        if found is None and self._to.exists() and self._if_exists == "error":
            raise refuse_others()
        return None if found is None else found[2]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert errors of files that pyarrow reads."""
        with storage_errors("read", self._to.place):
            try:
                yield
            except (pa.ArrowException, ValueError, LookupError) as error:
                raise StorageError(
                    f"the folder of Parquet files cannot be read: {error}",
                    advice="remove the folder, and copy again",
                ) from error

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
        with self._errors():
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
