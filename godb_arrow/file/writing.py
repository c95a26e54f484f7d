"""Documents, tables and DataFrames written to GODB files."""

from __future__ import annotations

import os
import warnings
from typing import IO, Any

from godb_arrow.codec.compression import check_compression
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.rows import rows_of
from godb_arrow.errors import InvalidOption, error_context
from godb_arrow.file.draft import Draft
from godb_arrow.file.existing import read_existing
from godb_arrow.file.writer import write_file
from godb_arrow.keywords import explain_keywords
from godb_arrow.options import (
    DEFAULT_DOCUMENT_BYTES,
    CompressionName,
    IfExists,
    check_document_limit,
    check_if_exists,
)
from godb_arrow.schema import FieldSummary, Kind
from godb_arrow.storage.lock import lock_file
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.replace import replace_file
from godb_arrow.storage.several import named_collection
from godb_arrow.storage.url_options import StorageOptions, with_options

__all__ = ["CompatibilityWarning", "write_godb"]


class CompatibilityWarning(UserWarning):
    """Documents were written that godb_arrow reads, but go-db does not."""


@explain_keywords
def write_godb(
    data: Any,
    path: str | os.PathLike[str] | IO[bytes],
    collection: str | None = None,
    *,
    id_column: str | None = None,
    if_exists: IfExists = "replace",
    omit_nulls: bool = False,
    compression: CompressionName = "lz4",
    max_document_bytes: int = DEFAULT_DOCUMENT_BYTES,
    storage_options: StorageOptions = None,
) -> int:
    """Write a collection to a GODB file, which go-db can read if it is compressed with LZ4.

    The file is replaced atomically. Its other collections, indexes, metadata and unknown keys are
    kept, and documents that are kept are copied byte for byte. Threads and processes may write the
    same local file at the same time, without losing each other's documents.

    Parameters
    ----------
    data : DataFrame, Table, RecordBatch, RecordBatchReader, Arrow stream or iterable of dicts
        The documents. A collection of an engine or of ``open_godb`` is copied byte for byte.
        Others are a pandas DataFrame, any pyarrow object with rows, any object that has
        ``__arrow_c_stream__`` (Polars, DuckDB and many more), or dicts. Streams are not cached in
        memory.
    path : path, URL or open binary file
        File to write. An open file gets this collection only. A path may name the collection, as
        in ``"shop.godb#users"``.
    collection : str, optional
        Name of the collection. Required unless the path names it.
    id_column : str, optional
        Field with the document ids, which are strings or integers, default ``_id``. Without such
        a field, ids are generated as go-db does: "1", "2", …
    if_exists : {"error", "append", "replace", "upsert"}
        Action if the file has this collection, default "replace". "upsert" replaces documents with
        the same ids and appends the others. It needs memory for the new ids.
    omit_nulls : bool
        Whether to omit nulls of a table from the documents, default False. Otherwise they are
        stored as nil.
    compression : str
        Compression of the file: "lz4", the default, "lz4hc", "zstd" or "none". "lz4hc" makes
        smaller files, which are written many times slower and read as fast. "zstd" makes files a
        third smaller than "lz4", written and read in a third more time. go-db cannot read "zstd"
        and "none". A level may follow, up to "lz4hc:12" and "zstd:22".
    max_document_bytes : int
        Maximum MessagePack bytes of a new document with its id, default 64 MiB. Readers have the
        same option and default.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.

    Returns
    -------
    int
        Number of documents written.

    Raises
    ------
    DuplicateId
        Documents share an id. The error names such ids.
    DocumentTooLarge
        A document has more than `max_document_bytes`. The error names the document.
    InvalidDocument
        A value cannot be stored. The error has the document and the path to the value.
    UnsupportedType
        A column cannot be stored. The error names the column.
    WriteConflict
        Another program replaced the file at the same moment, or another writer does not finish.
    StorageError
        The file cannot be written, and is unchanged.

    Warns
    -----
    CompatibilityWarning
        Documents have extension types, or keys other than strings, which go-db refuses.

    Notes
    -----
    Types are stored as follows:

    - bool, integers, floats, strings, binary, lists, structs, null and timestamps with a zone are
      stored unchanged. The file records the Arrow schema, so the same types are read again.
    - Datetimes without a zone are stored as if they were UTC, and read without a zone again.
    - Dates become timestamps at midnight. Times of day and durations become integers, in
      nanoseconds. Decimals become strings. Categoricals and dictionaries become their values, and
      the categories and their order are recorded. All are read with their original type, unless
      another program rewrites the file.
    - A DataFrame's index becomes columns, which ``read_godb`` restores. A plain range is only
      recorded. NaN in numeric columns are nulls, as in ``pyarrow.Table.from_pandas``.
    - ``arrow.json`` columns become the values that the text encodes.
    - Maps with keys other than strings, unions, intervals, complex numbers, and object columns of
      mixed types raise an error with the column's name. ``df.to_dict("records")`` stores mixed
      values unchanged.
    - Dicts may also have NumPy scalars, ``Decimal`` and ``UUID`` (stored as strings), dates, times
      and timedeltas.

    Examples
    --------
    >>> import io, godb_arrow
    >>> import pandas as pd
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb(pd.DataFrame({"age": [36, 41]}), file, "users")
    2
    """
    check_if_exists(if_exists)
    check_compression(compression)
    limit = check_document_limit("max_document_bytes", max_document_bytes)
    name = "<file>"
    if isinstance(path, (str, os.PathLike)):
        name = os.fspath(path)
        if collection is None or name.endswith(f"#{collection}"):  # else the sign is the file's own
            name, collection = named_collection(name, collection)
        path = name
        if not is_url(name) and os.path.isdir(os.path.expanduser(name)):
            raise InvalidOption(
                f"{name} is a folder",
                advice="write to a file in it; StorageEngine writes to a data directory",
            )
    if not isinstance(collection, str):
        raise InvalidOption(
            f"the collection's name is {collection!r}",
            advice='give a string, such as write_godb(data, path, "users")',
        )
    with with_options(path, storage_options), error_context("write", name, collection):
        existing = read_existing(path, collection)
        if if_exists == "error":
            existing.refuse_collection()
        stored = getattr(data, "stored_entries", None)  # of a collection, to copy unchanged
        rows = rows_of(data, id_column) if stored is None or id_column else None
        schema = data.stored_schema if rows is None else rows.schema
        with Draft(schema, limit, compression) as draft:
            if if_exists in ("append", "upsert"):
                existing.agree_on_schema(draft)
                draft.sequence = IdSequence(existing.next_id)
            draft.replaced = [] if if_exists == "upsert" else None
            if rows is not None:
                draft.add(rows, id_column, omit_nulls)
            else:
                for entries in data.stored_entries():
                    draft.add_checked(entries)
            written = draft.count
            # The caller's data may be slow, or may write the same file. So it is read before the
            # file is locked.
            with lock_file(path):
                existing = existing.refreshed(path)
                if if_exists == "error":
                    existing.refuse_collection()
                if if_exists in ("append", "upsert"):
                    existing.agree_on_schema(draft)
                    existing.join(draft)
                draft.check_ids()
                _warn_of_incompatible(draft.summary)
                kept_as_is = existing.kept()
                others = existing.with_index_of(draft.entries())
                plain = not (kept_as_is or others or existing.metadata)
                collections = [*kept_as_is, draft.data(collection, plain=plain)]
                with replace_file(path, expected=existing.version) as stream:
                    write_file(
                        stream,
                        collections,
                        metadata=existing.metadata,
                        others=others,
                        compression=compression,
                        threads=None if kept_as_is else draft.left_to_compress(),
                    )
    return written


def _warn_of_incompatible(summary: FieldSummary) -> None:
    problem = _incompatible(summary, "")
    if problem is not None:
        path, what, document = problem
        warnings.warn(
            f"go-db cannot read this file: {what} in {path or 'the document'} "
            f"(first in document {document!r})",
            CompatibilityWarning,
            stacklevel=4,
        )


def _incompatible(summary: FieldSummary, path: str) -> tuple[str, str, str] | None:
    kinds = (
        (Kind.ODD_KEY, "a key that is not a UTF-8 string"),
        (Kind.EXTENSION, "an extension type"),
    )
    for flag, what in kinds:
        if summary.kinds & flag:
            return path, what, summary.first[flag]
    children = [(f"{path}.{name}".lstrip("."), child) for name, child in summary.fields.items()]
    children += [(f"{path}[]", child) for child in (summary.item, summary.values) if child]
    problems = (_incompatible(child, child_path) for child_path, child in children)
    return next((problem for problem in problems if problem is not None), None)
