"""Statistics of an engine: collections, cache, memory, workers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from godb_arrow.display import Table, quantity
from godb_arrow.engine.workers import WorkerHealth

if TYPE_CHECKING:
    pass

__all__ = ["MEBIBYTE", "EngineStats", "MemoryStats"]


logger = logging.getLogger(__name__)

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """What an engine holds in memory.

    Attributes
    ----------
    alloc_mb : float
        MiB of views, changes and stream buffers.
    peak_mb : float
        The most that was.
    limit_mb : float
        What may be.
    cache_size : int
        Views that are held.
    cache_bytes, changes_bytes, stream_bytes : int
        Bytes of views, of changes that are not saved, and of batches that wait in streams.
    hits, misses, evictions : int
        Of the cache.
    collections : int
        How many there are.
    streams : int
        How many are open.
    threads : int
        Threads of the process.
    journal_bytes : int
        Bytes of the journal on the disk.
    dirty_documents : int
        Documents that changed since their file was written.

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
    hits: int
    misses: int
    evictions: int
    collections: int
    streams: int
    threads: int
    journal_bytes: int
    dirty_documents: int

    def _repr_html_(self) -> str:
        table = Table(["memory", ""], f"{self.alloc_mb:.1f} of {self.limit_mb:.1f} MiB")
        table.add("views", f"{self.cache_size} of {quantity(self.cache_bytes)}")
        table.add("changes", f"{self.dirty_documents} of {quantity(self.changes_bytes)}")
        table.add("streams", f"{self.streams} with {quantity(self.stream_bytes)}")
        table.add("hits, misses", f"{self.hits}, {self.misses}")
        table.add("evictions", self.evictions)
        table.add("journal", quantity(self.journal_bytes))
        return table.html()


@dataclass(frozen=True, slots=True)
class EngineStats:
    """How an engine is getting on.

    Attributes
    ----------
    memory : MemoryStats
        What it holds.
    workers : list of WorkerHealth
        Its background workers.
    checkpoints, failed_checkpoints : int
        Files that were written, or could not be.
    journal_syncs : int
        How often the journal was synced.
    recovered_records : int
        Changes that the journal had when the engine was opened.
    torn_bytes : int
        Bytes that were cut off the journal then.

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
    recovered_records: int
    torn_bytes: int

    def _repr_html_(self) -> str:
        table = Table(["worker", "running", "runs", "failures", "last error"])
        for one in self.workers:
            table.add(one.name, one.running, one.runs, one.failures, one.last_error or "")
        done = Table(["engine", ""])
        done.add("checkpoints", f"{self.checkpoints}, {self.failed_checkpoints} failed")
        done.add("journal syncs", self.journal_syncs)
        done.add("recovered changes", self.recovered_records)
        return self.memory._repr_html_() + table.html() + done.html()
