"""Copies between GODB files and other files, folders, tables and databases."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from godb_arrow.connectors.etl.addresses import origin_of, target_of
from godb_arrow.connectors.etl.base import counted
from godb_arrow.connectors.etl.files import NO_OPTIONS
from godb_arrow.connectors.etl.formats import check_options
from godb_arrow.display import (
    plural,
    progress_bar,
    quantity,
    table_of,
    vars_of,
    without_secrets,
)
from godb_arrow.errors import InvalidOption, error_context
from godb_arrow.keywords import explain_keywords
from godb_arrow.options import IfExists, check_if_exists
from godb_arrow.query.filters import Filter
from godb_arrow.query.scannable import Scannable
from godb_arrow.storage.url_options import StorageOptions, with_options

__all__ = ["CopySummary", "copy"]


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CopySummary:
    """Result of a copy.

    Attributes
    ----------
    source, target : str
        Addresses of the source and the target, without passwords.
    documents : int
        Number of documents or rows copied.
    bytes : int or None
        Size of the target afterwards, if it is known.
    seconds : float
        Duration of the copy.
    conflicts : list of str
        Fields of mixed types, which are JSON text as columns.
    deleted : int
        Number of documents that an incremental copy deleted.
    is_whole : bool
        Whether all documents were copied. False if only the changes were.
    """

    source: str
    target: str
    documents: int
    bytes: int | None
    seconds: float
    conflicts: list[str]
    deleted: int = 0
    is_whole: bool = True

    @property
    def rate(self) -> float:
        """Number of documents per second."""
        return self.documents / self.seconds if self.seconds else 0.0

    def _repr_html_(self) -> str:
        size = None if self.bytes is None else quantity(self.bytes)
        return table_of("copy", {**vars_of(self), "bytes": size, "rate": f"{self.rate:,.0f}/s"})

    def __str__(self) -> str:
        size = "" if self.bytes is None else f", {quantity(self.bytes)}"
        if not self.is_whole:
            size = f" changed, {self.deleted:,} deleted{size}"
        mixed = f", mixed types in {', '.join(self.conflicts)}" if self.conflicts else ""
        return (
            f"{self.source} → {self.target}: {plural(self.documents, 'document')}{size}, "
            f"{self.seconds:.1f} s, {self.rate:,.0f}/s{mixed}"
        )


@explain_keywords
def copy(
    source: str | os.PathLike[str] | Scannable | Any,
    target: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    batch_size: int | None = None,
    if_exists: IfExists = "error",
    id_column: str | None = None,
    partition_by: Sequence[str] = (),
    format: str | None = None,
    format_options: Mapping[str, Any] = NO_OPTIONS,
    storage_options: StorageOptions = None,
    progress: bool = True,
    mode: Literal["copy", "sync"] = "copy",
) -> CopySummary:
    """Copy documents or rows from one place to another, in constant memory.

    If a copy fails or is killed, the target is unchanged, and the copy can be run again. Only a
    collection of a data directory that is overwritten may be missing then. Documents of GODB,
    NDJSON and BSON are copied without loss. Columns get the types of
    :func:`~godb_arrow.read_schema`.

    Parameters
    ----------
    source : path, URL, Collection, DataFrame, Table or Arrow stream
        Source of the copy, such as an address (see :mod:`godb_arrow.connectors.etl`).
    target : path or URL
        Address of the target.
    columns : sequence of str, optional
        Fields to copy, and dotted paths into structs; all by default.
    filter : pyarrow.compute.Expression or mapping, optional
        Documents to copy; all by default.
    batch_size : int, optional
        Maximum number of documents in a record batch.
    if_exists : {"error", "append", "replace", "upsert"}
        Action if the target exists, default "error". "append" rewrites files with the new
        documents at their end. "upsert" replaces documents with the same ``_id``, in GODB files and
        databases.
    id_column : str, optional
        Field with the document ids, default ``_id``.
    partition_by : sequence of str
        Columns that partition a folder of Parquet files, or a Delta table; none by default.
    format : str, optional
        Format of the target, such as ``"parquet"`` or ``"delta"``; by its name by default.
    format_options : mapping
        Options of a format that has any. Each of the source and the target gets the options that it
        has. Protobuf has ``descriptor``, the path of a descriptor set, and ``message``, the full
        name of the messages.
    storage_options : mapping, optional
        Keyword arguments for the file systems of URLs; see :func:`~godb_arrow.scan_godb`.
    progress : bool
        Whether to show a progress bar in a terminal or notebook, default True.
    mode : {"copy", "sync"}
        With "sync", only what changed since the last such copy moves, deletions included. The
        source is a collection of a data directory. The target is such a collection, a GODB file, a
        table of a database, a Delta table or a folder of Parquet files. It may also be a local
        NDJSON file, which gets one line for each change.

    Returns
    -------
    CopySummary
        Result of the copy, which is also logged.

    Raises
    ------
    TargetExists
        The target exists, with ``if_exists="error"``.
    InvalidOption
        Neither the source nor the target has one of the options.
    GodbError
        The copy failed (see :mod:`godb_arrow.errors`). The target is unchanged.

    Examples
    --------
    >>> import os, tempfile, godb_arrow
    >>> folder = tempfile.mkdtemp()
    >>> users = os.path.join(folder, "users.godb")
    >>> _ = godb_arrow.write_godb([{"name": "Ada", "age": 36}, {"name": "Bob"}], users, "users")
    >>> target = os.path.join(folder, "users.parquet")
    >>> copy(users, target, columns=["name"], progress=False).documents
    2
    """
    check_if_exists(if_exists)
    if mode != "copy":
        chosen = (columns, filter, batch_size, id_column, format_options or None)
        _check_sync(mode, chosen)
        return _copy_changes(
            source,
            os.fspath(target),
            if_exists,
            format,
            list(partition_by),
            storage_options,
            shown=progress,
        )
    started = time.perf_counter()
    with ExitStack() as stack:
        if storage_options is not None:
            stack.enter_context(with_options([source, target], storage_options))
        to = target_of(os.fspath(target), format, list(partition_by), id_column, format_options)
        stack.enter_context(error_context("copy to", to.name))
        origin = origin_of(source, batch_size, format_options)
        check_options(format_options, (origin.format, "read"), (to.format, "write"))
        if if_exists == "error" and to.exists():
            raise to.refuse_existing()
        with (
            progress_bar(origin.total(), shown=progress) as count,
            origin.opened(to.takes_documents, columns, filter) as data,
        ):
            documents = 0

            def note(more: int) -> None:
                nonlocal documents
                documents += more
                count(more)

            to.write(counted(data, note), if_exists)
        summary = CopySummary(
            without_secrets(origin.name),
            without_secrets(to.name),
            documents,
            to.size(),
            time.perf_counter() - started,
            origin.conflicts(),
        )
    logger.info("copied %s", summary)
    return summary


def _check_sync(mode: object, options: Sequence[Any]) -> None:
    if mode != "sync":
        raise InvalidOption(f"mode is {mode!r}", advice='use "copy" or "sync"')
    if any(option is not None for option in options):
        raise InvalidOption(
            'mode="sync" copies whole documents',
            advice="omit columns, filter, batch_size, id_column and format_options",
        )


def _copy_changes(
    source: Any,
    target: str,
    if_exists: IfExists,
    format: str | None,
    partition_by: list[str],
    storage_options: StorageOptions,
    *,
    shown: bool,
) -> CopySummary:
    """Copy what changed since the last incremental copy."""
    from godb_arrow.connectors.etl.sync import open_source, sync
    from godb_arrow.connectors.etl.sync_targets import sync_target

    started = time.perf_counter()
    with ExitStack() as stack:
        if storage_options is not None:
            stack.enter_context(with_options([target], storage_options))
        to = target_of(target, format, partition_by, None)
        stack.enter_context(error_context("copy changes to", to.name))
        collection = open_source(source, stack)
        name = source if isinstance(source, str) else collection.name
        count = stack.enter_context(progress_bar(None, shown=shown))
        with sync_target(to, if_exists) as opened:
            moved, is_whole = sync(collection, opened, if_exists, count)
        summary = CopySummary(
            without_secrets(str(name)),
            without_secrets(to.name),
            moved.documents,
            to.size(),
            time.perf_counter() - started,
            [],
            moved.deleted,
            is_whole,
        )
    logger.info("copied %s", summary)
    return summary
