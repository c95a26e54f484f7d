"""Streams of a snapshot's record batches and documents, prefetched, in constant memory."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, Generic, Self, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.codec.runs import Run
from godb_arrow.display import table_of
from godb_arrow.documents.json_lines import runs_of
from godb_arrow.documents.loading import load_chunks
from godb_arrow.errors import ForkedProcess, error_context
from godb_arrow.memory.limit import Counted
from godb_arrow.options import ReadOptions
from godb_arrow.parallel import OrderedMap, available_cores, ordered_map
from godb_arrow.query.column_selection import select_in_columns
from godb_arrow.query.decoder import ProjectionDecoder
from godb_arrow.query.filters import Filter
from godb_arrow.query.projection import Projection, project, with_wanted
from godb_arrow.query.selection import without_rows
from godb_arrow.schema import check_complete
from godb_arrow.snapshots.base import Base, Wanted
from godb_arrow.snapshots.find import candidate_runs, matching
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.sorting import SortedDocuments, sorted_matching

__all__ = ["BatchStream", "DocumentStream"]

logger = logging.getLogger(__name__)


_Item = TypeVar("_Item")
_BATCHES = "batches"
_Part: TypeAlias = "tuple[Run, Rows | None]"
"""Documents, and the superseded or deleted rows among them."""
_Match = tuple[codec.Entries, Any]  # documents, and the matching rows among them
_MANY_DOCUMENTS = 1000


class _Stream(Generic[_Item]):
    """Iterator that can be used once, also with ``async for``, and closed early.

    A stream that is neither exhausted nor closed frees everything when it is collected, without
    waiting and without a lock (see :class:`~godb_arrow.parallel.OrderedMap`).
    """

    def __init__(
        self,
        items: Iterator[Any],
        opened: weakref.WeakSet[Any] | None,
        maps: list[OrderedMap[Any]],
    ) -> None:
        self._items = items
        self._maps = maps  # threads that work for the stream
        self._process = os.getpid()
        self._taking = threading.Lock()
        self._opened = weakref.WeakSet() if opened is None else opened
        self._opened.add(self)

    def _name_it(self, name: str, text: str) -> None:
        """Note what the stream reads, for its text and the log."""
        self._text = f"{name!r}{text}"
        logger.debug("streaming %s", self._text)

    _text = ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._text}>"

    def _repr_html_(self) -> str:
        return table_of(type(self).__name__, {"reads": self._text})

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Item:
        self._check_process()
        with self._taking:
            item: _Item = self._take(self._items)
            return item

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise ForkedProcess(
                "the stream belongs to the parent process", advice="open it in this process"
            )

    def _take(self, items: Iterator[Any]) -> Any:
        """Return the next of the items; the caller holds the lock."""
        try:
            return next(items)
        except BaseException:  # The stream ends or fails.
            self._opened.discard(self)
            self._maps.clear()
            raise

    def __aiter__(self) -> AsyncIterator[_Item]:
        return self._items_async()

    async def _items_async(self) -> AsyncIterator[_Item]:
        try:
            while True:
                items = await asyncio.to_thread(self._some)
                if not items:
                    return
                for item in items:
                    yield item
        finally:
            self.close()

    def _some(self) -> list[_Item]:
        """Return the next items, at least one unless the stream is exhausted."""
        return [item for _, item in zip(range(self._at_once), self, strict=False)]

    _at_once = 1

    def close(self) -> None:
        """End the threads of the stream, and release its buffers and files."""
        if self._process != os.getpid():
            return  # The threads belong to the parent, and a lock may never be released here.
        with self._taking:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
            for threads in self._maps:
                threads.close()
            self._items = iter(())
            self._opened.discard(self)

    def abort(self, check: Callable[[], None]) -> None:
        """Stop, and raise the error of a check when more items are requested."""
        self.close()
        self._items = _raising(check)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _raising(check: Callable[[], None]) -> Iterator[Any]:
    check()
    yield from ()


class BatchStream(_Stream[pa.RecordBatch]):
    """Stream of a snapshot's record batches: an iterator, async iterator and Arrow stream.

    Parameters
    ----------
    snapshot : Snapshot
        Snapshot to read.
    name : str
        Name of the collection, for messages.
    columns : sequence of str, optional
        Fields, and dotted paths into structs; all by default.
    condition : pyarrow.compute.Expression or mapping, optional
        Documents to keep; all by default.
    schema : pyarrow.Schema, optional
        Schema of the batches; by default the schema of the documents.
    options : ReadOptions
        Limits of a batch, and number of threads.
    indexed : sequence of str
        Fields that have an index.
    opened : WeakSet, optional
        Set of open streams, to which this one is added.

    Attributes
    ----------
    schema : pyarrow.Schema
        Schema of the batches.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        name: str,
        *,
        columns: Sequence[str] | None = None,
        condition: Filter | None = None,
        schema: pa.Schema | None = None,
        options: ReadOptions,
        indexed: Sequence[str] = (),
        opened: weakref.WeakSet[Any] | None = None,
    ) -> None:
        with error_context("stream", collection=name):
            given = schema is not None
            if schema is None:
                schema = snapshot.schema()
                if columns is None:
                    check_complete(schema)
                schema = with_wanted(schema, columns, condition, snapshot.entries)
            projection = project(schema, columns, condition)
            decoder = ProjectionDecoder(
                projection,
                strict=not given and columns is None,
                on_mismatch=options.on_mismatch if given else "error",
                exact=not given,
            )
        self.schema: pa.Schema = projection.schema
        work = _Work(snapshot, projection, decoder, options)
        # A predicate reads documents, whatever their columns are. Statistics and indexes of an
        # expression know no values that the given schema makes null.
        is_predicate = projection.predicate is not None
        work.has_statistics = is_predicate or not given or options.on_mismatch == "error"
        if is_predicate or not given:
            work.runs = candidate_runs(snapshot, projection, indexed)
        if not given:
            whole = projection.decoded.equals(snapshot.base.schema())
            work.may_hold = work.runs is None and whole and projection.predicate is None
        maps: list[OrderedMap[Any]] = []
        super().__init__(_in_context(work.batches(maps), name), opened, maps)
        self._name_it(name, "" if columns is None else f", columns {list(columns)}")

    def reader(self) -> pa.RecordBatchReader:
        """Return the stream as a reader of pyarrow."""
        return pa.RecordBatchReader.from_batches(self.schema, self)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader().__arrow_c_stream__(requested_schema)


def _in_context(items: Iterator[_Item], name: str) -> Iterator[_Item]:
    with error_context("stream", collection=name):
        yield from items


class _Work:
    """Decoder of a snapshot's runs, which uses cached batches where it can."""

    def __init__(
        self,
        snapshot: Snapshot,
        projection: Projection,
        decoder: ProjectionDecoder,
        options: ReadOptions,
    ) -> None:
        self.snapshot = snapshot
        self.projection = projection
        self.decoder = decoder
        self.options = options
        self.runs: Iterator[codec.Entries] | None = None  # selected by an index
        self.may_hold = False
        self.has_statistics = True  # which say what the filter keeps
        # Cached batches of files, and the matching rows in them.
        self._rows: dict[Base, tuple[list[pa.RecordBatch], list[Any]] | None] = {}

    def batches(self, maps: list[OrderedMap[Any]]) -> Iterator[pa.RecordBatch]:
        rows = 0
        for batch in self._unbounded(maps):
            rows += batch.num_rows
            size = self.options.batch_size
            slices = [batch.slice(start, size) for start in range(0, batch.num_rows, size)]
            del batch  # The caller alone keeps what it gets.
            slices.reverse()
            while slices:
                yield slices.pop()
        if not rows:
            yield from self.decoder.no_rows()

    def _unbounded(self, maps: list[OrderedMap[Any]]) -> Iterator[pa.RecordBatch]:
        if self.runs is not None:
            yield from self._decoded(((Run.of(run), None) for run in self.runs), maps)
            return
        base = self.snapshot.base
        # Superseded or deleted documents may not fit the schema of the others.
        if len(self.snapshot.superseded_rows()) < base.count:
            held = all(self._held(file) for _, file in base.files())
            usable = not held and self.has_statistics
            wanted = base.pieces_matching(self.projection) if usable else None
            for start, file, part in base.selected(wanted):
                batches = self._held(file)
                if batches:
                    yield from self._from_held(file, batches, start)
                else:
                    hold = self.may_hold and part is None  # Only whole files are cached.
                    runs = self._file_runs(file, start, part, () if hold else self.decoder.fields)
                    yield from self._decoded(runs, maps, file if hold else None)
        overlaid = ((Run.of(run), None) for run in self.snapshot.overlay_parts())
        yield from self._decoded(overlaid, maps)

    def _held(self, file: Base) -> list[pa.RecordBatch] | None:
        """Return the cached batches of a file, if they have all wanted fields."""
        if file in self._rows:
            known = self._rows[file]
            return None if known is None else known[0]
        found: list[pa.RecordBatch] | None = file.view(_BATCHES)
        if not found or not _covers(found[0].schema, self.projection.decoded):
            return None
        predicate = self.projection.predicate
        if predicate is None:
            return found
        rows = []
        for batch in found:
            selected = select_in_columns(batch, predicate)
            if selected is None:  # The columns do not tell.
                self._rows[file] = None
                return None
            rows.append(selected)
        self._rows[file] = found, rows
        return found

    def _file_runs(
        self, file: Base, start: int, wanted: Wanted | None, fields: tuple[str, ...]
    ) -> Iterator[_Part]:
        for run in file.runs(wanted, fields):
            yield run, self.snapshot.superseded_in(start + run.start, run.documents)

    def _from_held(
        self, file: Base, held: list[pa.RecordBatch], start: int
    ) -> Iterator[pa.RecordBatch]:
        names = self.projection.decoded.names
        whole = held[0].schema.names == names
        selected = self._rows.pop(file, None)
        if selected is not None:
            for batch, rows in zip(*selected, strict=True):
                deleted = self.snapshot.superseded_in(start, batch.num_rows)
                start += batch.num_rows
                kept = pa.array(without_rows(rows, deleted))
                yield self.projection.pick(batch if whole else batch.select(names), kept)
            return
        for batch in held:
            live = _without_rows(batch, self.snapshot.superseded_in(start, batch.num_rows))
            start += batch.num_rows
            yield self.projection.apply(live if whole else live.select(names))

    def _decoded(
        self,
        runs: Iterator[_Part],
        maps: list[OrderedMap[Any]],
        holder: Base | None = None,
    ) -> Iterator[pa.RecordBatch]:
        memory = self.snapshot.base.memory
        hold = whole_runs = (
            holder is not None
        )  # Deleted documents fit the base's own schema, but no other.
        kept: list[pa.RecordBatch] = []
        kept_bytes = 0
        counted = Counted(memory)

        def decode(part: _Part) -> tuple[pa.RecordBatch | None, pa.RecordBatch, Counted]:
            run, superseded = part
            whole = None
            if whole_runs:
                whole = self.decoder.whole_run(run)
                result = self.projection.apply(
                    whole if superseded is None else _without_rows(whole, superseded)
                )
            else:
                result = self.decoder.decode_run(run, () if superseded is None else superseded)
            return whole, result, Counted(memory, streams=result.nbytes)

        threads = self.options.threads or available_cores()
        if codec.BACKEND == "reference" or self.snapshot.count < _MANY_DOCUMENTS:
            threads = 1
        parts = self.decoder.split(runs, self.options.batch_bytes)
        results = ordered_map(decode, parts, threads, self.decoder.ahead, memory.may_read_ahead)
        maps.append(results)
        try:
            for whole, result, waiting in results:
                waiting.release()
                if hold and whole is not None:
                    hold = memory.may_build(whole.nbytes)
                    if hold:
                        kept_bytes += whole.nbytes
                        counted.add(views=whole.nbytes)
                        kept.append(whole)
                    else:
                        kept.clear()
                        counted.release()
                ready = [result]
                del whole, result  # The caller alone keeps what it gets.
                if ready[0].num_rows:
                    yield ready.pop()
        finally:
            counted.release()
            memory.tidy()
        if hold and holder is not None:
            holder.hold(_BATCHES, kept, kept_bytes)


def _covers(held: pa.Schema, wanted: pa.Schema) -> bool:
    names = set(held.names)
    return all(
        f.name in names and held.field(f.name).equals(f, check_metadata=True) for f in wanted
    )


def _without_rows(batch: pa.RecordBatch, superseded: Rows) -> pa.RecordBatch:
    if not len(superseded):
        return batch
    keep = np.ones(batch.num_rows, bool)
    keep[superseded] = False
    return batch.filter(pa.array(keep))


class DocumentStream(codec.ChunkIterator, _Stream[dict[Any, Any]]):
    """Stream of a snapshot's documents: an iterator and an async iterator of dicts.

    Parameters
    ----------
    snapshot : Snapshot
        Snapshot to read.
    name : str
        Name of the collection, for messages.
    condition : pyarrow.compute.Expression or mapping, optional
        Documents to keep; all by default.
    indexed : sequence of str
        Fields that have an index.
    shape : callable, optional
        Function that converts each document.
    opened : WeakSet, optional
        Set of open streams, to which this one is added.
    order : SortedDocuments, optional
        Order of the documents; by default they come as they are stored.
    """

    _at_once = 256

    def __init__(
        self,
        snapshot: Snapshot,
        name: str,
        *,
        condition: Filter | None = None,
        indexed: Sequence[str] = (),
        shape: Callable[[dict[Any, Any]], dict[Any, Any]] | None = None,
        opened: weakref.WeakSet[Any] | None = None,
        order: SortedDocuments | None = None,
    ) -> None:
        codec.ChunkIterator.__init__(self)
        maps: list[OrderedMap[Any]] = []
        self._name = name
        self._is_whole = shape is None
        if order is None:
            self._matches = _matching_runs(snapshot, condition, indexed, maps)
        else:
            self._matches = sorted_matching(snapshot, condition, indexed, order)
        chunks = _chunks(self._matches)
        if shape is not None:
            chunks = ([*map(shape, chunk)] for chunk in chunks)
        self._chunks = _in_context(chunks, name)
        _Stream.__init__(self, self._chunks, opened, maps)
        self._name_it(name, ", documents")

    def _fill(self) -> None:
        """Load the next documents, unless another thread did."""
        self._check_process()
        with self._taking:
            if not self.has_items:
                self.give(self._take(self._items))

    def close(self) -> None:
        """End the threads of the stream, and release its buffers and files."""
        super().close()
        if self._process == os.getpid():
            self.give([])

    def runs(self) -> _Stream[Any]:
        """Return the stream itself, which from now on has runs of documents instead of dicts.

        Returns
        -------
        stream of Entries or Documents
            Documents in MessagePack, for :func:`godb_arrow.documents.json_lines.json_lines`.
        """
        with self._taking:
            if self._items is self._chunks:  # neither closed nor aborted
                documents = itertools.chain.from_iterable(self._chunks)
                runs: Any = _whole(self._matches) if self._is_whole else runs_of(documents)
                self._items = _in_context(([run] for run in runs), self._name)
                self._at_once = 1
                self.give([])
        return self


def _chunks(matches: Generator[_Match, None, None]) -> Iterator[list[dict[Any, Any]]]:
    with closing(matches):
        for run, rows in matches:
            yield from load_chunks(run, None if len(rows) == len(run) else rows)


def _whole(matches: Generator[_Match, None, None]) -> Iterator[Any]:
    with closing(matches):
        for run, rows in matches:
            yield run if len(rows) == len(run) else codec.take(run, np.asarray(rows, np.int64))


def _matching_runs(
    snapshot: Snapshot,
    condition: Filter | None,
    indexed: Sequence[str],
    maps: list[OrderedMap[Any]],
) -> Generator[_Match, None, None]:
    memory = snapshot.base.memory
    matches = matching(snapshot, condition, indexed)
    is_loaded = snapshot.base.is_loaded

    def count(match: _Match) -> tuple[_Match, Counted]:
        run = match[0]
        is_counted = is_loaded or snapshot.unsaved.has_run_of(run.data)
        return match, Counted(memory, streams=0 if is_counted else run.nbytes)

    # A thread reads the next run from the file while the caller uses the documents of this one.
    from_file = not is_loaded and snapshot.count >= _MANY_DOCUMENTS
    ahead = 2 if from_file and codec.BACKEND == "native" else 1
    runs = ordered_map(count, matches, ahead, may_wait=memory.may_read_ahead)
    maps.append(runs)
    try:
        for match, counted in runs:
            yield match
            counted.release()
            del match, counted
    finally:
        memory.tidy()
