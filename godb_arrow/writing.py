"""Documents, tables and DataFrames to GODB files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any, Literal, get_args

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from godb_arrow import codec
from godb_arrow.codec.compression import check_compression
from godb_arrow.codec.entries import Chunk
from godb_arrow.codec.sizes import pack_if_worthwhile
from godb_arrow.encoding import (
    ROWS,
    Encoded,
    IdSequence,
    Rows,
    batches_with_ids,
    encode_rows,
    id_column_of,
    ids_of,
    repeated_ids,
    rows_of,
    stored_schema,
    threads,
)
from godb_arrow.errors import (
    CollectionExists,
    DuplicateId,
    InvalidOption,
    SourceNotFound,
    error_context,
)
from godb_arrow.file_writer import CollectionData, compressed_chunk, write_file
from godb_arrow.format import (
    HINTS_KEY,
    TAIL_SIZE,
    CollectionHint,
    CollectionSection,
    GodbReader,
    is_sealed,
    read_hints,
    split_map,
)
from godb_arrow.options import CompressionName, ReadOptions
from godb_arrow.parallel import ordered_map
from godb_arrow.schema import ID_FIELD, DocumentSummary, FieldSummary, Kind, infer_schema
from godb_arrow.statistics import Row, covered, decode_statistics, statistics_of
from godb_arrow.storage.object_store import Expected, is_url
from godb_arrow.storage.replace import replace_file
from godb_arrow.storage.source import Source, open_source, spool

__all__ = ["CompatibilityWarning", "write_godb"]

IfExists = Literal["replace", "append", "upsert", "fail"]

_OPTIONS = ReadOptions(max_document_bytes=1 << 30)


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
) -> int:
    """Write a collection to a GODB file that, with LZ4, go-db reads, too.

    The file is replaced at once or not at all. Other collections that it has, its indexes,
    metadata and unknown keys stay; documents that are kept are copied byte by byte.

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

    Returns
    -------
    int
        How many documents were written.

    Raises
    ------
    DuplicateId
        Documents share an id; the message names such ids.
    InvalidDocument
        A value cannot be stored; the message has the document and the path to the value.
    UnsupportedType
        A column cannot be stored; the message names it.
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
    if not isinstance(collection, str):
        raise InvalidOption(f"the collection's name is {collection!r}", advice="give a string")
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else "<file>"
    with error_context("write", name, collection):
        existing = read_existing(path, collection)
        if existing.has_collection and if_exists == "fail":
            raise CollectionExists(
                "the file has that collection already",
                advice='use if_exists="replace" or "append"',
            )
        stored = getattr(data, "stored_entries", None)  # a collection's: copied byte by byte
        rows = rows_of(data, id_column) if stored is None or id_column else None
        with _Draft(data.schema if rows is None else rows.schema) as draft:
            if if_exists in ("append", "upsert"):
                existing.agree_on_schema(draft)
            if if_exists == "append":
                existing.copy_collection(draft)
            kept = draft.count
            draft.replaced = [] if if_exists == "upsert" else None
            if rows is not None:
                draft.add(rows, id_column, omit_nulls)
            else:
                for entries in data.stored_entries():
                    draft.add_existing(entries)
            if draft.replaced is not None:
                kept = existing.copy_others(draft)
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
    return draft.count - kept


@dataclass(frozen=True, slots=True)
class _Part:
    """Entries: spooled, or the rows of a table that is in memory anyway, to be encoded later."""

    count: int
    start: int = 0
    size: int = 0
    raw: bytes = b""
    batch: pa.RecordBatch | None = None
    ids: pa.Array | None = None
    omit_nulls: bool = False
    statistics: Row | None = None
    ascending: str | None = None  # the column with the ids, where these ascend

    def encode(self, fields: pa.Schema | None) -> Chunk:
        """The entries, with the statistics of some fields."""
        if self.batch is not None:
            raw, sizes = codec.encode(self.batch, self.ids, self.omit_nulls)
            known = statistics_of(self.batch, fields, self.ascending) if fields else None
            return Chunk(raw, self.count, known, sizes=pack_if_worthwhile(sizes))
        raw = self.raw
        if not fields:
            return Chunk(raw, self.count)
        if self.statistics is not None:
            return Chunk(raw, self.count, self.statistics)
        entries = codec.scan_entries(raw, 0, self.count, len(raw) + 1, 0)
        return Chunk(raw, self.count, decode_statistics(entries, fields))


def _greatest_if_ascending(ids: Sequence[pa.Array]) -> int | None:
    """The greatest number among ids that each come behind the one before; else None."""
    greatest = 0
    last: bytes | None = None
    for array in ids:
        first = array[0].as_py()
        if last is not None and (len(first), first) <= (len(last), last):
            return None
        found = codec.ids_ascend(array)
        if found is None:
            return None
        greatest = max(greatest, found)
        last = array[-1].as_py()
    return greatest


_AHEAD = 4  # pieces that wait for being hashed and written
_MANY = 1000  # documents, below which statistics are not worthwhile


class _Draft:
    """Entries of one collection on their way to a file, with what must be known first.

    A GODB file begins with the counts and the schema. So documents and streams are encoded and
    spooled before the first byte is written; of tables only the ids are looked at.
    """

    def __init__(self, schema: pa.Schema | None) -> None:
        self._schema = schema
        self._file = spool()
        self._parts: list[_Part] = []
        self._written = 0
        self._hashes = bytearray()
        self._all_differ = True  # ids were generated, or each comes behind the one before
        self._unhashed: list[pa.Array] = []  # which therefore are not remembered
        self.replaced: list[pa.Array] | None = None  # ids of documents that take others' place
        self.count = 0
        self.sequence = IdSequence()
        self.summary = DocumentSummary()
        self._infer = schema is None

    def __enter__(self) -> _Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, rows: Rows, id_column: str | None, omit_nulls: bool) -> None:
        """Encode rows."""
        if rows.in_memory and not self._infer:
            given = id_column_of(rows, id_column) is not None
            pairs = list(batches_with_ids(rows, id_column, self.sequence))
            first = self.replaced is None and not self._parts
            greatest = _greatest_if_ascending([ids for _, ids in pairs]) if first else None
            if greatest is None:
                for _, ids in pairs:
                    self._note(ids, given, codec.survey_ids(ids))
            else:
                self._unhashed.extend(ids for _, ids in pairs)
                self.sequence.see_greatest(greatest)
            ascending = None if greatest is None else id_column_of(rows, id_column)
            for batch, ids in pairs:
                part = _Part(
                    len(ids), batch=batch, ids=ids, omit_nulls=omit_nulls, ascending=ascending
                )
                self._parts.append(part)
                self.count += len(ids)
            return
        fields = None if self._infer else covered(self._hint_schema())
        for encoded in encode_rows(rows, id_column, omit_nulls, self.sequence, fields):
            self._append(encoded)

    def _note(self, ids: pa.Array, given: bool, survey: tuple[bytes, int]) -> None:
        if self.replaced is not None:
            if not given:
                raise InvalidOption(
                    "documents without ids cannot take the place of others",
                    advice='give them ids, or use if_exists="append"',
                )
            self.replaced.append(ids)
        self._all_differ = self._all_differ and not given
        hashes, greatest = survey
        self._hashes += hashes
        self.sequence.see_greatest(greatest)

    def _append(self, encoded: Encoded) -> None:
        self._note(encoded.ids, encoded.given, codec.survey_ids(encoded.ids))
        if self._infer:
            codec.infer(encoded.entries(), self.summary)
        self._file.write(encoded.chunk)
        part = _Part(
            len(encoded.ids), self._written, len(encoded.chunk), statistics=encoded.statistics
        )
        self._parts.append(part)
        self._written += len(encoded.chunk)
        self.count += len(encoded.ids)

    def in_front(self, add: Callable[[], None]) -> None:
        """Put what a function adds before what is there."""
        there, self._parts = self._parts, []
        add()
        self._parts += there

    def add_existing(self, entries: codec.Entries) -> None:
        """Copy entries of a file, as they are."""
        ids = ids_of(entries)
        at = 0
        for part in entries.split():
            self._append(Encoded(bytes(part.raw()), ids.slice(at, len(part)), given=True))
            at += len(part)

    def infer_all(self) -> None:
        """From now on, and for what is there, derive the schema from the documents."""
        self._infer = True
        self._schema = None

    def chunks(
        self, fields: pa.Schema | None = None, compression: CompressionName | None = None
    ) -> Iterator[Chunk]:
        """The entries' bytes, in order, with the statistics of some fields."""

        def encode(part: _Part) -> Chunk:
            chunk = part.encode(fields)
            return chunk if compression is None else compressed_chunk(chunk, compression)

        workers = threads() if self.count > ROWS else 1
        return ordered_map(encode, self._loaded(), workers, _AHEAD)

    def left_to_compress(self) -> int | None:
        """How many threads the file's writer needs: one, where chunks come compressed."""
        return 1 if self.count > ROWS else None

    def _loaded(self) -> Iterator[_Part]:
        for part in self._parts:
            if part.batch is None:
                self._file.seek(part.start)
                part = replace(part, raw=self._file.read(part.size))
            yield part

    def entries(self) -> Iterator[codec.Entries]:
        """The entries, in runs."""
        for chunk in self.chunks():
            data = bytes(chunk.data)
            yield codec.scan_entries(data, 0, chunk.documents, len(data) + 1, 0)

    def check_ids(self) -> None:
        """Raise DuplicateId if an id occurs twice."""
        if self._all_differ:
            return
        for ids in self._unhashed:
            self._hashes += codec.survey_ids(ids)[0]
        if not codec.has_equal(self._hashes):
            return
        repeated = repeated_ids(one for entries in self.entries() for one in entries.ids())
        if repeated:
            raise DuplicateId(repeated)

    def data(self, name: str, compression: CompressionName, *, plain: bool) -> CollectionData:
        """What the file's writer needs."""
        schema = self._hint_schema()
        hint = CollectionHint(
            self.count, self.sequence.next_id, schema, plain=plain, compression=compression
        )
        fields = covered(schema) if self.count > _MANY else None
        return CollectionData(name, self.count, self.chunks(fields, compression), hint)

    def _hint_schema(self) -> pa.Schema:
        return infer_schema(self.summary) if self._schema is None else stored_schema(self._schema)


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


@dataclass(slots=True)
class ExistingFile:
    """What a file holds before it is rewritten."""

    source: Source | None = None
    collection: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    hints: dict[str, CollectionHint] = field(default_factory=dict)
    metadata: dict[bytes, bytes] = field(default_factory=dict)
    others: dict[str, bytes] = field(default_factory=dict)
    version: Expected = None

    @property
    def has_collection(self) -> bool:
        return self.collection in self.counts

    def _sections(self, stream: Any) -> Iterator[CollectionSection]:
        assert self.source is not None
        for section in GodbReader(stream, self.source.size()).sections():
            if isinstance(section, CollectionSection):
                yield section

    def agree_on_schema(self, draft: _Draft) -> None:
        """Before the collection's documents go into a draft with others."""
        if not self.has_collection:
            return
        hint = self.hints.get(self.collection)
        recorded = None if hint is None else hint.schema
        if draft._schema is not None and (
            recorded is None or not recorded.equals(draft._schema, check_metadata=True)
        ):
            draft.infer_all()
        if hint is not None and hint.next_id is not None:
            draft.sequence.next_id = hint.next_id

    def copy_others(self, draft: _Draft) -> int:
        """Put those of the collection's documents in front that the draft's do not replace."""
        new, draft.replaced = draft.replaced or [], None
        ids = pa.chunked_array(new, pa.binary()).combine_chunks()
        before = draft.count
        draft.in_front(lambda: self.copy_collection(draft, ids))
        return draft.count - before

    def copy_collection(self, draft: _Draft, without: pa.Array | None = None) -> None:
        """Put the collection's documents, but for those with some ids, into a draft."""
        if self.source is None or not self.has_collection:
            return
        with self.source.open() as stream:
            for section in self._sections(stream):
                if section.name == self.collection:
                    for entries in section.entries(_OPTIONS):
                        if without is not None:
                            replaced = pc.is_in(ids_of(entries), value_set=without)
                            rows = np.flatnonzero(~replaced.to_numpy(zero_copy_only=False))
                            entries = entries.take(rows)
                        if len(entries):
                            draft.add_existing(entries)

    def kept(self) -> list[CollectionData]:
        """The other collections, to be copied as they are."""
        names = [name for name in self.counts if name != self.collection]
        if not names:
            return []
        copier = self._copier()
        return [
            CollectionData(
                name, self.counts[name], copier(name), self._hint_of(name)
            )
            for name in names
        ]  # fmt: skip

    def _hint_of(self, name: str) -> CollectionHint:
        """That of a collection that is kept, beside another one."""
        hint = self.hints.get(name)
        return CollectionHint(self.counts[name]) if hint is None else replace(hint, plain=False)

    def _copier(self) -> Callable[[str], Iterator[Chunk]]:
        """Reads the file once, though each collection has an iterator of its own."""

        def copies() -> Iterator[tuple[str, codec.Entries]]:
            assert self.source is not None
            with self.source.open() as stream:
                for section in self._sections(stream):
                    if section.name != self.collection:
                        for entries in section.entries(_OPTIONS):
                            yield from ((section.name, part) for part in entries.split())

        def describe(found: tuple[str, codec.Entries]) -> tuple[str, Chunk]:
            name, entries = found
            hint = self.hints.get(name)
            known = None
            if hint is not None and hint.schema is not None and hint.count > _MANY:
                known = decode_statistics(entries, covered(hint.schema))
            return name, Chunk(entries.raw(), len(entries), known)

        stream = ordered_map(describe, copies(), threads())
        ahead: list[tuple[str, Chunk]] = []

        def copy(name: str) -> Iterator[Chunk]:
            while True:
                found = ahead.pop() if ahead else next(stream, None)
                if found is None:
                    return
                if found[0] != name:
                    ahead.append(found)
                    return
                yield found[1]

        return copy

    def with_index_of(self, draft: _Draft) -> dict[str, bytes]:
        """The other top-level keys, with go-db's index of the collection made anew."""
        raw = self.others.get("indexes")
        if raw is None or not self.has_collection:
            return self.others
        indexes = _load_map(raw)
        fields = indexes.get(self.collection)
        if not isinstance(fields, dict) or not fields:
            return self.others
        ids: dict[Any, list[str] | None] = {name: [] for name in fields}
        for entries in draft.entries():
            for position in range(len(entries)):
                _index(entries.id(position), codec.load(entries.document(position)), ids)
        # go-db stops working on an index over a list or map.
        indexes[self.collection] = {name: found for name, found in ids.items() if found is not None}
        return {**self.others, "indexes": codec.pack(indexes)}


def _index(identity: str, document: dict[Any, Any], ids: dict[Any, list[str] | None]) -> None:
    for name, found in ids.items():
        value = identity if name == ID_FIELD else document.get(name)
        if isinstance(value, (list, dict)):
            ids[name] = None
        elif value is not None and found is not None:
            found.append(identity)


def read_existing(path: Any, collection: str) -> ExistingFile:
    """What a file has beside a collection; nothing, if there is no such file."""
    existing = ExistingFile(collection=collection)
    if not isinstance(path, (str, os.PathLike, Source)):
        return existing
    source = open_source(path)
    if isinstance(path, (str, os.PathLike)) and is_url(os.fspath(path)):
        # Of what is read from now on; if it is replaced meanwhile, the new file is not written.
        existing.version = source.version() or "absent"
    try:
        sealed = is_sealed(source.tail(TAIL_SIZE))
    except SourceNotFound:
        return existing
    if source.size() == 0:
        return existing
    existing.source = source
    with source.open() as stream:
        for section in GodbReader(stream, source.size()).sections():
            if isinstance(section, CollectionSection):
                existing.counts[section.name] = section.count
            elif section.key == "metadata":
                raw = section.read()
                existing.metadata = split_map(raw)
                existing.metadata.pop(codec.pack(HINTS_KEY), None)
                existing.hints = read_hints(raw) if sealed else {}
                if len(existing.hints) == 1:
                    ((name, hint),) = existing.hints.items()
                    if hint.plain and not hint.indexes:  # there is nothing else in the file
                        existing.counts[name] = hint.count
                        return existing
            else:
                existing.others[section.key] = section.read()
    return existing


def _load_map(raw: bytes) -> dict[Any, Any]:
    loaded: Any = msgpack.unpackb(
        raw, raw=False, unicode_errors="surrogateescape", strict_map_key=False, timestamp=0
    )
    return loaded if isinstance(loaded, dict) else {}
