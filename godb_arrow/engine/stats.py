"""Statistics of an engine: collections, cache, memory, workers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from godb_arrow.display import Table, quantity
from godb_arrow.engine.catalog import Catalog
from godb_arrow.engine.context import EngineContext
from godb_arrow.engine.expirer import Expirer
from godb_arrow.engine.saver import Saver
from godb_arrow.engine.workers import WorkerHealth, Workers
from godb_arrow.memory.buffers import pooled_bytes

__all__ = ["MEBIBYTE", "EngineStats", "MemoryStats", "StatsReader"]


MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """Memory use of an engine.

    Attributes
    ----------
    alloc_mb : float
        MiB of cached views, unsaved changes, streams, and documents that inserts collect.
    peak_mb : float
        Peak memory use in MiB.
    limit_mb : float
        Memory limit in MiB.
    cache_size : int
        Number of cached views.
    cache_bytes, changes_bytes, stream_bytes : int
        Bytes of cached views, of unsaved changes, and of documents and batches in streams.
    write_bytes : int
        Bytes of documents that inserts collect before they are changes or files.
    buffer_bytes : int
        Bytes of the buffers that all readers of the process share, beside the limit.
    hits, misses, evictions : int
        Cache hits, misses and evictions.
    hit_rate : float
        Part of the cache lookups that were hits, from 0 to 1.
    collections : int
        Number of collections.
    streams : int
        Number of open streams.
    threads : int
        Number of threads of the process.
    journal_bytes : int
        Bytes of the journal on the disk.
    dirty_documents : int
        Number of documents with unsaved changes.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp(), max_memory="64MiB") as engine:
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    ...     stats = engine.memory_stats()
    >>> stats.limit_mb, stats.collections, stats.dirty_documents
    (64.0, 1, 1)
    """

    alloc_mb: float
    peak_mb: float
    limit_mb: float
    cache_size: int
    cache_bytes: int
    changes_bytes: int
    stream_bytes: int
    write_bytes: int
    buffer_bytes: int
    hits: int
    misses: int
    evictions: int
    collections: int
    streams: int
    threads: int
    journal_bytes: int
    dirty_documents: int

    @property
    def hit_rate(self) -> float:
        """Part of the cache lookups that were hits, from 0 to 1."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0

    def _repr_html_(self) -> str:
        table = Table(["memory", ""], f"{self.alloc_mb:.1f} of {self.limit_mb:.1f} MiB")
        table.add("views", f"{self.cache_size} of {quantity(self.cache_bytes)}")
        table.add("changes", f"{self.dirty_documents} of {quantity(self.changes_bytes)}")
        table.add("streams", f"{self.streams} with {quantity(self.stream_bytes)}")
        table.add("inserts", quantity(self.write_bytes))
        table.add("shared buffers", quantity(self.buffer_bytes))
        table.add("hits, misses", f"{self.hits}, {self.misses} ({self.hit_rate:.0%})")
        table.add("evictions", self.evictions)
        table.add("journal", quantity(self.journal_bytes))
        return table.html()


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Statistics of an engine.

    Attributes
    ----------
    memory : MemoryStats
        Memory use.
    workers : list of WorkerHealth
        Background workers.
    checkpoints, failed_checkpoints : int
        Number of checkpoints that wrote files, and of those that failed.
    journal_syncs : int
        Number of syncs of the journal.
    expired_documents : int
        Number of documents that were deleted since they had expired.
    recovered_records : int
        Number of journal records that were replayed when the engine was opened.
    torn_bytes : int
        Bytes that were cut off the journal when the engine was opened.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    ...     engine.save()
    ...     engine.stats().checkpoints
    1
    """

    memory: MemoryStats
    workers: list[WorkerHealth]
    checkpoints: int
    failed_checkpoints: int
    journal_syncs: int
    expired_documents: int
    recovered_records: int
    torn_bytes: int

    def _repr_html_(self) -> str:
        table = Table(["worker", "running", "runs", "failures", "last error"])
        for worker in self.workers:
            error = worker.last_error or ""
            table.add(worker.name, worker.running, worker.runs, worker.failures, error)
        done = Table(["engine", ""])
        done.add("checkpoints", f"{self.checkpoints}, {self.failed_checkpoints} failed")
        done.add("journal syncs", self.journal_syncs)
        done.add("expired documents", self.expired_documents)
        done.add("recovered changes", self.recovered_records)
        return self.memory._repr_html_() + table.html() + done.html()


class StatsReader:
    """Reads the statistics of an engine.

    Parameters
    ----------
    context : EngineContext
        Context of the engine.
    catalog : Catalog
        Its collections.
    saver : Saver
        Counts checkpoints.
    expirer : Expirer
        Counts expired documents.
    workers : sequence of Workers
        Its background workers.
    recovered_records : int
        Number of journal records that were replayed.
    """

    def __init__(
        self,
        context: EngineContext,
        catalog: Catalog,
        saver: Saver,
        expirer: Expirer,
        workers: Sequence[Workers],
        recovered_records: int,
    ) -> None:
        self._context = context
        self._catalog = catalog
        self._saver = saver
        self._expirer = expirer
        self._workers = workers
        self._recovered_records = recovered_records

    def memory(self) -> MemoryStats:
        """Return the memory use."""
        context, catalog = self._context, self._catalog
        memory, directory = context.memory, context.directory
        cache = memory.cache.stats()
        with catalog.lock:
            used = catalog.used()
        for collection in used:
            collection.store.recount()
        return MemoryStats(
            alloc_mb=memory.used / MEBIBYTE,
            peak_mb=memory.peak / MEBIBYTE,
            limit_mb=memory.limit / MEBIBYTE,
            cache_size=cache.values,
            cache_bytes=cache.bytes,
            changes_bytes=memory.changes,
            stream_bytes=memory.streams,
            write_bytes=memory.writes,
            buffer_bytes=pooled_bytes(),
            hits=cache.hits,
            misses=cache.misses,
            evictions=cache.evictions,
            collections=len(catalog),
            streams=len(context.streams),
            threads=threading.active_count(),
            journal_bytes=0 if directory.read_only else directory.journal.size,
            dirty_documents=sum(len(collection.store.overlay) for collection in used),
        )

    def engine(self) -> EngineStats:
        """Return all statistics."""
        directory, saver = self._context.directory, self._saver
        journal = None if directory.read_only else directory.journal
        return EngineStats(
            memory=self.memory(),
            workers=[health for workers in self._workers for health in workers.health()],
            checkpoints=saver.checkpoints,
            failed_checkpoints=saver.failed_checkpoints,
            journal_syncs=journal.syncs if journal else 0,
            expired_documents=self._expirer.expired,
            recovered_records=self._recovered_records,
            torn_bytes=journal.torn if journal else 0,
        )
