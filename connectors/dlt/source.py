"""Collections as resources of dlt, which pass on what changed since the run before."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import pyarrow as pa

from godb_arrow.connectors import missing
from godb_arrow.connectors.arrays import as_json_texts
from godb_arrow.connectors.columns import fit_columns
from godb_arrow.connectors.dlt.table_types import TableTypes
from godb_arrow.connectors.etl.sync import groups_of, reader_of
from godb_arrow.directory.places import is_data_directory
from godb_arrow.engine.changes import changed_ids
from godb_arrow.engine.collection import Collection
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.engine.reading import list_collections
from godb_arrow.errors import (
    ChangesLost,
    CollectionNotFound,
    InvalidCursor,
    InvalidOption,
    SchemaError,
)
from godb_arrow.file.collection import open_godb
from godb_arrow.query.fields import shown_names
from godb_arrow.query.scannable import Scannable
from godb_arrow.schema import ID_FIELD, has_json, json_type
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.source import local_path

try:
    import dlt
except ImportError as error:
    raise missing("dlt", "dlt") from error

__all__ = ["DELETED", "godb_source"]

logger = logging.getLogger(__name__)

DELETED = "_godb_deleted"
"""Column of an incremental resource that tells whether the document was deleted."""
_INTERNAL = "godb_arrow_"  # prefix of collections with the state of copies and loads
_TOKEN = "token"  # key in the state of a resource
_DEFAULT_NAME = "godb"

Place: TypeAlias = "str | os.PathLike[str] | StorageEngine"


def godb_source(
    source: Place,
    *,
    collections: Sequence[str] | None = None,
    incremental: bool | None = None,
    batch_size: int | None = None,
    name: str = _DEFAULT_NAME,
) -> Any:
    """Return a source of dlt with one resource for each collection.

    The resources yield record batches, in constant memory, with the primary key ``_id``.

    An incremental resource first reads the whole collection. Later runs read only the documents
    that changed, and deletions. Its write disposition is "merge", and its column ``_godb_deleted``
    has the hint ``hard_delete``. The position in the changes is in the state of the resource, which
    dlt stores with the load. If the changes were removed meanwhile, or the collection was dropped
    and created again, the resource replaces the whole table.

    Other resources read the whole collection in each run, and have the disposition "replace".

    Parameters
    ----------
    source : path, URL or StorageEngine
        A GODB file, or a data directory, which another process may be writing.
    collections : sequence of str, optional
        Names of collections, default all.
    incremental : bool, optional
        Whether later runs read only changes. By default, resources of a local data directory do.
        Files and URLs have no changes.
    batch_size : int, optional
        Documents in a record batch.
    name : str
        Name of the source, and of its schema, default ``"godb"``. Give each source of a pipeline
        its own.

    Returns
    -------
    dlt.sources.DltSource

    Raises
    ------
    CollectionNotFound
        A chosen collection does not exist.
    InvalidOption
        The source has no changes, or an argument has another type.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> folder = tempfile.mkdtemp()
    >>> with godb_arrow.StorageEngine(folder) as engine:
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    >>> source = godb_source(folder)
    >>> list(source.resources), source.users.write_disposition
    (['users'], 'merge')
    """
    if incremental is not None and not isinstance(incremental, bool):
        raise InvalidOption(f"incremental is {incremental!r}", advice="use True, False or None")
    has_changes = _has_changes(source)
    if incremental and not has_changes:
        raise InvalidOption(
            f"{source!r} has no changes, as it is no local data directory",
            advice="use incremental=False",
        )
    names = _chosen(source, collections)
    is_incremental = has_changes if incremental is None else incremental
    options: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    made = [_Resource(source, one, names, is_incremental, options).made() for one in names]
    return dlt.source(lambda: made, name=name)()


def _has_changes(source: Place) -> bool:
    if isinstance(source, StorageEngine):
        return not is_url(source.data_dir)
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidOption(
            f"the source is a {type(source).__name__}", advice="give a path, a URL or an engine"
        )
    place = os.fspath(source)
    return not is_url(place) and is_data_directory(place)


def _chosen(source: Place, collections: Sequence[str] | None) -> list[str]:
    """Return the names of the collections to read."""
    if isinstance(source, StorageEngine):
        known = source.collections()
    else:
        known = list(list_collections(local_path(os.fspath(source))))
    if collections is None:
        return [name for name in known if not name.startswith(_INTERNAL)]
    if isinstance(collections, str):
        raise InvalidOption(
            f"collections is the text {collections!r}", advice=f"give a list: [{collections!r}]"
        )
    chosen = list(dict.fromkeys(collections))
    for name in chosen:
        if name not in known:
            raise CollectionNotFound(
                f"there is no collection {name!r}",
                advice=f"the collections are {shown_names(known)}",
            )
    return chosen


class _Resource:
    """Resource of one collection."""

    def __init__(
        self,
        source: Place,
        name: str,
        names: Sequence[str],
        is_incremental: bool,
        options: dict[str, Any],
    ) -> None:
        self._source, self._name, self._names = source, name, names
        self._is_incremental, self._options = is_incremental, options

    def made(self) -> Any:
        """Return the resource of dlt."""
        read = self._changes if self._is_incremental else self._documents

        def rows() -> Iterator[Any]:  # dlt sets attributes of the function
            yield from read()

        return dlt.resource(
            rows,
            name=self._name,
            primary_key=ID_FIELD,
            write_disposition="merge" if self._is_incremental else "replace",
        )

    @contextmanager
    def _opened(self) -> Iterator[Scannable]:
        """Open the collection; a data directory is open only while it is read."""
        source = self._source
        if isinstance(source, StorageEngine):
            yield source[self._name]
            return
        place = local_path(os.fspath(source))
        if is_data_directory(place):
            with StorageEngine(place, read_only=True) as engine:
                yield engine[self._name]
            return
        yield open_godb(place, self._name)

    def _documents(self) -> Iterator[Any]:
        """Yield all documents."""
        self._check_names()
        with self._opened() as collection:
            yield from self._batches(collection.stream_batches(**self._options), {})

    def _changes(self) -> Iterator[Any]:
        """Yield the documents that changed since the token of the state, and store the next one.

        As in incremental copies, the content of the documents comes from one snapshot.
        """
        self._check_names()
        state = dlt.current.resource_state()
        disposition = dlt.current.resource().write_disposition
        if isinstance(disposition, Mapping):
            disposition = disposition["disposition"]
        is_log = disposition == "append"
        hints: dict[str, Any] = {}
        with self._opened() as collection:
            assert isinstance(collection, Collection)
            snapshot = collection.snapshot()
            token = state.get(_TOKEN)
            ids = None if token is None else _changed(collection, token)
            if ids is None:
                if token is not None:
                    logger.warning(
                        "%r is read again as a whole: its changes are not known", self._name
                    )
                if not is_log:
                    hints["write_disposition"] = "replace"
                documents = self._checked(snapshot.stream_batches(**self._options))
                yield from self._batches(_flagged(documents) if is_log else documents, hints)
            elif ids:
                hints["columns"] = {DELETED: {"hard_delete": True}}
                if disposition == "replace":  # as the run before
                    hints["write_disposition"] = "merge"
                documents = self._checked(reader_of(snapshot, ids))
                changed = _flagged(documents, ids)
                yield from self._batches(changed, hints)
            state[_TOKEN] = snapshot.token

    def _checked(self, reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """Check that no document has a field with the name of the column of deletions.

        Raises
        ------
        SchemaError
        """
        if DELETED in reader.schema.names:
            reader.close()
            raise SchemaError(
                f"documents of {self._name!r} have the field {DELETED!r}, which tells deletions",
                advice="rename the field in the documents, or use incremental=False",
            )
        return reader

    def _batches(self, reader: pa.RecordBatchReader, hints: dict[str, Any]) -> Iterator[Any]:
        """Yield record batches in types of dlt; the first one, which may be empty, has hints."""
        reader = _with_whole_texts(reader)
        with fit_columns(reader, "dlt") as fitted:
            table = TableTypes(dlt.current.source_schema(), self._name)
            schema = table.fit(reader.schema, fitted.schema)
            filled = (batch for batch in fitted if batch.num_rows)
            batches = (table.convert(batch, schema) for batch in filled)
            first = next(batches, None) or pa.Table.from_batches([], schema)
            if table.json:
                columns = {name: {"data_type": "json"} for name in table.json}
                hints = {**hints, "columns": {**hints.get("columns", {}), **columns}}
            yield dlt.mark.with_hints(first, dlt.mark.make_hints(**hints)) if hints else first
            yield from batches

    def _check_names(self) -> None:
        """Check that no two collections have the same table.

        Raises
        ------
        InvalidOption
        """
        table_name: Callable[[str], str]
        table_name = dlt.current.source_schema().naming.normalize_table_identifier
        same = [one for one in self._names if table_name(one) == table_name(self._name)]
        if len(same) > 1:
            raise InvalidOption(
                f"the collections {shown_names(same)} have the same table {table_name(same[0])!r}",
                advice="choose one by collections=, and give the other to another source",
            )


def _changed(collection: Collection, token: str) -> list[str] | None:
    """Return the ids of the documents that changed since a token; None if all may differ."""
    try:
        return changed_ids(collection.changes(token))
    except ChangesLost:
        return None
    except InvalidCursor as error:
        error.advice = (
            "load the collection again, with a new godb_source and "
            'pipeline.run(…, refresh="drop_resources")'
        )
        raise


def _with_whole_texts(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Make nested columns with JSON text inside one JSON text each."""
    schema = pa.schema(
        field.with_type(json_type()) if has_json(field.type) else field for field in reader.schema
    )
    if schema.types == reader.schema.types:
        return reader

    def batches() -> Iterator[pa.RecordBatch]:
        with reader:
            for batch in reader:
                columns = [
                    column
                    if column.type.equals(field.type)
                    else pa.ExtensionArray.from_storage(json_type(), as_json_texts(column))
                    for column, field in zip(batch.columns, schema, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _flagged(reader: pa.RecordBatchReader, ids: Sequence[str] = ()) -> pa.RecordBatchReader:
    """Add the column that tells deletions, and a row for each id that has no document."""
    schema = reader.schema.append(pa.field(DELETED, pa.bool_()))

    def batches() -> Iterator[pa.RecordBatch]:
        deleted = set(ids)
        with reader:
            for batch in reader:
                if deleted:
                    deleted.difference_update(batch.column(ID_FIELD).to_pylist())
                flags = pa.repeat(pa.scalar(False), batch.num_rows)
                yield pa.RecordBatch.from_arrays([*batch.columns, flags], schema=schema)
        for group in groups_of([key for key in ids if key in deleted]):
            own = {ID_FIELD: pa.array(group, pa.string()), DELETED: pa.repeat(True, len(group))}
            columns = [
                own[field.name] if field.name in own else pa.nulls(len(group), field.type)
                for field in schema
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())
