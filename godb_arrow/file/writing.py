"""Documents, tables and DataFrames to GODB files."""

from __future__ import annotations

import os
import warnings
from typing import IO, Any, Literal, get_args

from godb_arrow.codec.compression import check_compression
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.rows import rows_of
from godb_arrow.errors import InvalidOption, error_context
from godb_arrow.file.draft import Draft
from godb_arrow.file.existing import read_existing
from godb_arrow.file.writer import write_file
from godb_arrow.options import DEFAULT_DOCUMENT_BYTES, CompressionName, check_document_limit
from godb_arrow.schema import FieldSummary, Kind
from godb_arrow.storage.lock import lock_file
from godb_arrow.storage.replace import replace_file

__all__ = ["CompatibilityWarning", "write_godb"]


IfExists = Literal["replace", "append", "upsert", "fail"]


class CompatibilityWarning(UserWarning):
    """Documents were stored that godb_arrow reads back, and go-db does not."""


def write_godb(
    data: Any,
    path: str | os.PathLike[str] | IO[bytes],
    collection: str,
    *,
    id_column: str | None = None,
    if_exists: IfExists = "replace",
    omit_nulls: bool = False,
    compression: CompressionName = "lz4",
    max_document_bytes: int = DEFAULT_DOCUMENT_BYTES,
) -> int:
    """Write a collection to a GODB file that, with LZ4, go-db reads, too.

    The file is replaced at once or not at all. Other collections that it has, its indexes,
    metadata and unknown keys stay; documents that are kept are copied byte by byte. Threads and
    processes may write the same local file at the same time: nothing that one of them wrote is
    lost.

    Parameters
    ----------
    data : DataFrame, Table, RecordBatch, RecordBatchReader, Arrow stream or iterable of dicts
        The documents: a collection of an engine or of ``open_godb``, which is copied byte by
        byte, a pandas DataFrame, anything of pyarrow with rows, any object that has
        ``__arrow_c_stream__`` (Polars, DuckDB and many more), or dicts. Streams are not held in
        memory.
    path : path, URL or open binary file
        Where to write. An open file gets this collection only.
    collection : str
        The collection's name.
    id_column : str, optional
        The field with the document ids; strings or integers. Without it ``_id`` is used where
        there is one, and otherwise ids are generated as go-db does: "1", "2", …
    if_exists : {"replace", "append", "upsert", "fail"}
        What to do when the file has that collection. "upsert" puts documents in the place of
        those with the same id, and the others behind; their ids are in memory meanwhile.
    omit_nulls : bool
        Leave nulls of a table out of the documents, instead of storing nil.
    compression : {"lz4", "lz4hc", "zstd", "none"}
        "lz4hc" looks harder for matches: smaller files, written many times slower, read as
        fast, and by the same programs. "zstd" makes files a third smaller than "lz4", written and
        read in a third more time; with "none" nothing is compressed. go-db reads neither of these.
    max_document_bytes : int
        Max MessagePack bytes of a new document with its id, default 64 MiB. Readers have the same
        option and default.

    Returns
    -------
    int
        How many documents were written.

    Raises
    ------
    DuplicateId
        Documents share an id; the message names such ids.
    DocumentTooLarge
        A document has more than `max_document_bytes`; the message names it.
    InvalidDocument
        A value cannot be stored; the message has the document and the path to the value.
    UnsupportedType
        A column cannot be stored; the message names it.
    WriteConflict
        Another program replaced the file at the same moment, or another writer does not finish.
    StorageError
        The file cannot be written. What was there before is still there.

    Warns
    -----
    CompatibilityWarning
        Documents have extension types, or keys other than strings, which go-db refuses.

    Notes
    -----
    Types, and what becomes of them:

    - bool, integers, floats, strings, binary, lists, structs, null and timestamps with a zone:
      as they are. The file records the Arrow schema, so that they are read as what they were.
    - datetimes without a zone: stored as if they were UTC; read without a zone again.
    - dates: timestamps at midnight. Times of day and durations: integers, in nanoseconds.
      Decimals: strings. Categoricals and dictionaries: their values; categories and their
      order are recorded. All are read as what they were, as long as the file is not rewritten
      by another program.
    - a DataFrame's index: stored as columns, restored by ``read_godb``; a plain range is only
      recorded. Its NaN in numeric columns are nulls, as in ``pyarrow.Table.from_pandas``.
    - ``arrow.json`` columns: the values that the text stands for.
    - maps with keys other than strings, unions, intervals, complex numbers, and object columns
      of mixed types are refused with the column's name. ``df.to_dict("records")`` stores mixed
      values as they are.
    - dicts: also NumPy scalars, ``Decimal`` (as string), ``UUID`` (as string), dates, times and
      timedeltas.

    Examples
    --------
    >>> import io, godb_arrow
    >>> import pandas as pd
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb(pd.DataFrame({"age": [36, 41]}), file, "users")
    2
    """
    if if_exists not in get_args(IfExists):
        raise InvalidOption(
            f"if_exists is {if_exists!r}", advice=f"use one of {', '.join(get_args(IfExists))}"
        )
    check_compression(compression)
    limit = check_document_limit("max_document_bytes", max_document_bytes)
    if not isinstance(collection, str):
        raise InvalidOption(f"the collection's name is {collection!r}", advice="give a string")
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else "<file>"
    with error_context("write", name, collection):
        existing = read_existing(path, collection)
        if if_exists == "fail":
            existing.refuse_collection()
        stored = getattr(data, "stored_entries", None)  # a collection's: copied byte by byte
        rows = rows_of(data, id_column) if stored is None or id_column else None
        schema = data.schema if rows is None else rows.schema
        with Draft(schema, limit) as draft:
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
            # The caller's data, which may take its time, was read before: no other writer waits
            # for it, and it may write the same file.
            with lock_file(path):
                existing = existing.refreshed(path)
                if if_exists == "fail":
                    existing.refuse_collection()
                if if_exists in ("append", "upsert"):
                    existing.agree_on_schema(draft)
                    existing.join(draft)
                draft.check_ids()
                _warn_of_incompatible(draft.summary)
                kept_as_is = existing.kept()
                others = existing.with_index_of(draft)
                plain = not (kept_as_is or others or existing.metadata)
                collections = [*kept_as_is, draft.data(collection, compression, plain=plain)]
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
    found = _incompatible(summary, "")
    if found is not None:
        path, what, document = found
        warnings.warn(
            f"go-db cannot read this file: {what} in {path or 'the document'} "
            f"(first in document {document!r})",
            CompatibilityWarning,
            stacklevel=3,
        )


def _incompatible(summary: FieldSummary, path: str) -> tuple[str, str, str] | None:
    for flag, what in ((Kind.ODD_KEY, "a key that is not a UTF-8 string"),
                       (Kind.EXTENSION, "an extension type")):  # fmt: skip
        if summary.kinds & flag:
            return path, what, summary.first[flag]
    children = [(f"{path}.{name}".lstrip("."), child) for name, child in summary.fields.items()]
    children += [(f"{path}[]", child) for child in (summary.item, summary.values) if child]
    found = (_incompatible(child, child_path) for child_path, child in children)
    return next((one for one in found if one is not None), None)
