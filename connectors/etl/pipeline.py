"""Copies between GODB and everything else: files, folders, tables and databases.

An *address* is a path or URL, with ``#name`` behind it where there is more than one thing in it::

    shop.godb#orders                 a collection of a file
    data#orders                      a collection of an engine's data directory
    users.parquet, users.ndjson, …   a file: Parquet, Arrow IPC, CSV, NDJSON, BSON
    s3://bucket/users.parquet        the same, on any file system that fsspec knows
    lake/users                       a folder of Parquet files, or a Delta table
    sqlite:///shop.db#users          a table of a database that has an ADBC driver
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from godb_arrow.connectors.etl.addresses import origin_of, target_of
from godb_arrow.connectors.etl.base import Mode, counted
from godb_arrow.display import progress_bar, quantity
from godb_arrow.errors import InvalidOption, error_context
from godb_arrow.query.filters import Filter
from godb_arrow.query.scannable import Scannable

__all__ = ["CopySummary", "copy"]


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CopySummary:
    """What a copy did.

    Attributes
    ----------
    source, target : str
        From where, and to where.
    documents : int
        How many documents or rows were copied.
    bytes : int or None
        Bytes of the target afterwards, where that is known.
    seconds : float
        How long it took.
    conflicts : list of str
        Fields of mixed types, which are JSON text as columns.
    """

    source: str
    target: str
    documents: int
    bytes: int | None
    seconds: float
    conflicts: list[str]

    @property
    def rate(self) -> float:
        """Documents a second."""
        return self.documents / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        size = "" if self.bytes is None else f", {quantity(self.bytes)}"
        mixed = f", mixed types in {', '.join(self.conflicts)}" if self.conflicts else ""
        return (
            f"{self.source} → {self.target}: {self.documents:,} documents{size}, "
            f"{self.seconds:.1f} s, {self.rate:,.0f}/s{mixed}"
        )


def copy(
    source: str | os.PathLike[str] | Scannable | Any,
    target: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    batch_size: int | None = None,
    mode: Mode = "error",
    id_column: str | None = None,
    partition_by: Sequence[str] = (),
    format: str | None = None,
    progress: bool = True,
) -> CopySummary:
    """Copy documents or rows from one place to another, in constant memory.

    The target has all of it afterwards, or what it had before (or nothing, where a collection of
    a data directory was being overwritten): a copy that failed or was killed is run again.
    Between documents (GODB, NDJSON, BSON) nothing is changed on the way; to columns, the types
    are those of :func:`~godb_arrow.read_schema`.

    Parameters
    ----------
    source : path, URL, Collection, DataFrame, Table or Arrow stream
        Where from: see :mod:`godb_arrow.connectors.etl` for addresses.
    target : path or URL
        Where to.
    columns : sequence of str, optional
        Fields to copy, and dotted paths into structs; all, if left out.
    filter : pyarrow.compute.Expression or mapping, optional
        Which documents.
    batch_size : int, optional
        Documents in a record batch, at most.
    mode : {"error", "append", "overwrite", "upsert"}
        What to do when the target is there: an error; put the documents behind (files are
        written anew for that); in its place; or each in the place of the one with the same
        ``_id``, which GODB and databases can.
    id_column : str, optional
        The field with the ids, where it is not ``_id``.
    partition_by : sequence of str
        Columns by whose values a folder of Parquet files, or a Delta table, is parted.
    format : str, optional
        What the target is, where its name does not tell: ``"parquet"``, ``"delta"``, ….
    progress : bool
        Whether to show a progress bar, in a terminal or a notebook.

    Returns
    -------
    CopySummary
        It is logged, too.

    Raises
    ------
    TargetExists
        The target is there, with ``mode="error"``.
    GodbError
        See :mod:`godb_arrow.errors`; the target is as it was.

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
    if mode not in get_args(Mode):
        raise InvalidOption(f"mode is {mode!r}", advice=f"use one of {', '.join(get_args(Mode))}")
    started = time.perf_counter()
    to = target_of(os.fspath(target), format, list(partition_by), id_column)
    with error_context("copy to", to.name):
        origin = origin_of(source, batch_size)
        if mode == "error" and to.exists():
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

            to.write(counted(data, note), mode)
    summary = CopySummary(
        origin.name,
        to.name,
        documents,
        to.size(),
        time.perf_counter() - started,
        origin.conflicts(),
    )
    logger.info("copied %s", summary)
    return summary
