"""Addresses of sources and targets: files, folders, data directories, tables and databases."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.connectors.columns import restore_columns
from godb_arrow.connectors.etl.base import Origin, Target
from godb_arrow.connectors.etl.files import NO_OPTIONS, open_file
from godb_arrow.connectors.etl.formats import (
    chosen_options,
    format_of,
    has_format,
    is_document_format,
)
from godb_arrow.connectors.etl.origins import (
    CollectionOrigin,
    ColumnsOrigin,
    DocumentsOrigin,
)
from godb_arrow.connectors.etl.partitions import open_parquet_folder
from godb_arrow.connectors.etl.targets import (
    FileTarget,
    FolderTarget,
    GodbTarget,
    StandardOutput,
)
from godb_arrow.directory.places import is_data_directory
from godb_arrow.display import plural
from godb_arrow.documents.json_source import JsonSource
from godb_arrow.engine.reading import list_collections
from godb_arrow.engine.reading import open_godb as open_several
from godb_arrow.errors import (
    CollectionRequired,
    SourceNotFound,
    StorageError,
    storage_errors,
)
from godb_arrow.file.collection import open_godb
from godb_arrow.query.scannable import Scannable
from godb_arrow.storage.nearest import nearest_path
from godb_arrow.storage.object_store import is_url, without_query
from godb_arrow.storage.occupied import check_unoccupied
from godb_arrow.storage.several import places_of
from godb_arrow.storage.source import Source, spool

__all__ = ["origin_of", "target_of"]

_SQLITE, _SQLITE_HOME = "sqlite:///", "sqlite:///~"
_WILDCARDS = frozenset("*?[")
STANDARD = "-"
"""Address of standard input, as NDJSON, and of standard output."""


def origin_of(
    given: Any, batch_size: int | None, options: Mapping[str, Any] = NO_OPTIONS
) -> Origin:
    """Return the source for an address, a collection or a stream of documents."""
    from godb_arrow.connectors.etl.databases import is_database, open_sql

    if isinstance(given, Scannable):
        return CollectionOrigin(given, given.name, batch_size)
    if _is_several(given):
        collection = open_several(given)
        return CollectionOrigin(
            collection, plural(len(places_of(given) or ()), "place"), batch_size
        )
    if not isinstance(given, (str, os.PathLike)):
        return _of_stream(given, batch_size)
    name = _expanded(os.fspath(given))
    if name == STANDARD:
        return DocumentsOrigin("<stdin>", _standard_input, batch_size)
    place, part = _split(name)
    if is_database(place):
        return ColumnsOrigin(name, lambda: open_sql(place, _needed(part, name)), batch_size)
    if _is_folder(place):
        return _of_folder(name, place, part, batch_size)
    if part is not None and is_url(place) and is_data_directory(place):
        from godb_arrow.connectors.etl.directories import EngineOrigin

        return EngineOrigin(place, part, name, batch_size)
    if without_query(place).endswith(".godb"):
        return CollectionOrigin(open_godb(place, part), name, batch_size)
    if "://" not in place and not os.path.exists(place):
        near = nearest_path(place)
        raise SourceNotFound(
            f"there is no file or folder {place}",
            advice="check the path" if near is None else f"did you mean {near}?",
        )
    kind = format_of(place)
    options = chosen_options(kind, options, "read")
    origin: DocumentsOrigin | ColumnsOrigin
    if is_document_format(kind):
        Source(place).size()  # raises an error if the file does not exist
        origin = DocumentsOrigin(name, lambda: open_file(place, options=options), batch_size)
    else:
        origin = ColumnsOrigin(name, lambda: open_file(place, options=options), batch_size)
    origin.format = kind
    return origin


def _expanded(name: str) -> str:
    """Return an address with the home folder in place of ``~``, and paths for ``file://`` URLs."""
    if name.startswith(_SQLITE_HOME):
        return _SQLITE + os.path.expanduser(name[len(_SQLITE) :])
    return os.path.expanduser(name.removeprefix("file://"))


def _is_several(given: Any) -> bool:
    """Return whether a source is a list of places, or a name with wildcards for GODB files."""
    if isinstance(given, (list, tuple)):
        return bool(given) and all(isinstance(one, (str, os.PathLike)) for one in given)
    if not isinstance(given, (str, os.PathLike)) or "://" in os.fspath(given):
        return isinstance(given, str) and given.partition("#")[0].endswith("*.godb")
    places = places_of(given) if _WILDCARDS & {*os.fspath(given)} else None
    return places is not None


@contextmanager
def _standard_input() -> Iterator[Any]:
    with spool() as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        file.seek(0)
        yield JsonSource(cast(BinaryIO, file), "<stdin>")


def _of_stream(given: Any, batch_size: int | None) -> Origin:
    from godb_arrow.documents.rows import rows_of

    name = f"<{type(given).__name__}>"
    rows = rows_of(given, None)

    @contextmanager
    def opened() -> Iterator[Any]:
        if rows.schema is None:
            # As documents hold them: other formats have no dates or decimals.
            yield (codec.load(codec.pack(document)) for document in rows.documents)
        else:
            yield pa.RecordBatchReader.from_batches(rows.schema, iter(rows.batches))

    kind = DocumentsOrigin if rows.schema is None else ColumnsOrigin
    return kind(name, opened, batch_size)


def _of_folder(name: str, place: str, part: str | None, batch_size: int | None) -> Origin:
    if is_data_directory(place) and not os.path.isdir(os.path.join(place, "_delta_log")):
        from godb_arrow.connectors.etl.directories import EngineOrigin

        return EngineOrigin(place, _only(place, part, name), name, batch_size)
    with _folder_errors(place):
        dataset = _dataset_of(place)
        count = dataset.count_rows()

    @contextmanager
    def opened() -> Iterator[pa.RecordBatchReader]:
        with _folder_errors(place):
            yield restore_columns(dataset.scanner().to_reader())

    return ColumnsOrigin(name, opened, batch_size, count)


def _dataset_of(place: str) -> Any:
    if not os.path.isdir(os.path.join(place, "_delta_log")):
        return open_parquet_folder(place)
    from godb_arrow.connectors.etl.databases import deltalake_module

    deltalake = deltalake_module()
    try:
        return deltalake.DeltaTable(place).to_pyarrow_dataset()
    except deltalake.exceptions.DeltaError as error:
        raise StorageError(f"the Delta table cannot be read: {_first_line(error)}") from error


@contextmanager
def _folder_errors(place: str) -> Iterator[None]:
    """Raise errors of Arrow as errors of a folder."""
    with storage_errors("read", place):
        try:
            yield
        except pa.ArrowException as error:
            raise StorageError(
                f"a file of the folder cannot be read: {_first_line(error)}"
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _split(name: str) -> tuple[str, str | None]:
    """Split an address into a place and the name in it; names of files may have a "#", too."""
    if not is_url(name) and "#" in name:
        folder, file = os.path.split(name)
        if os.path.exists(name) or ("#" not in file and os.path.isdir(folder)):
            return name, None
    place, separator, part = name.rpartition("#")
    if has_format(part) and not os.path.exists(place) and not _extension(place):
        return name, None  # the name of a new file
    return (place, part) if separator else (name, None)


def _extension(name: str) -> str:
    return os.path.splitext(without_query(name))[1].lower()


def _needed(part: str | None, name: str) -> str:
    if part is None:
        raise CollectionRequired(
            f"{name} may hold several collections or tables", advice=f"write {name}#NAME"
        )
    return part


def _only(place: str, part: str | None, name: str) -> str:
    """Return the collection that an address names, or the only one of a data directory."""
    if part is not None:
        return part
    names = list(list_collections(place))
    return names[0] if len(names) == 1 else _needed(part, name)


def _is_folder(place: str) -> bool:
    return "://" not in place and os.path.isdir(place)


def target_of(
    name: str,
    format: str | None,
    partition_by: list[str],
    id_column: str | None,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> Target:
    """Return the target for an address."""
    from godb_arrow.connectors.etl.databases import DeltaTarget, SqlTarget, is_database

    name = _expanded(name)
    place, part = _split(name)
    if is_database(place):
        return SqlTarget(name, place, _needed(part, name), id_column)
    if not is_url(place) and name != STANDARD:
        check_unoccupied(os.path.realpath(place))
    extension = _extension(place)
    if format == "delta" or (format is None and os.path.isdir(os.path.join(place, "_delta_log"))):
        return DeltaTarget(name, place, partition_by)
    if format == "godb" or extension == ".godb":
        return GodbTarget(name, place, part, id_column)
    is_new = format is None and part is not None and not has_format(place)
    if format == "engine" or is_new or (not is_url(place) and is_data_directory(place)):
        from godb_arrow.connectors.etl.directories import EngineTarget

        return EngineTarget(name, place, _needed(part, name), id_column)
    if partition_by or (format == "parquet" and not has_format(place)) or _is_folder(place):
        return FolderTarget(name, place, partition_by)
    if name == STANDARD:
        return StandardOutput("<stdout>", format or "ndjson", options)
    return FileTarget(name, place, format or format_of(place), options)
