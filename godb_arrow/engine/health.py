"""Health of an engine: what an operator must know, and what is wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from godb_arrow.display import Table, quantity
from godb_arrow.engine.stats import EngineStats
from godb_arrow.errors import GodbError
from godb_arrow.replication.replica import Replica

__all__ = ["EngineHealth", "health_of"]

_MAX_LAG_SECONDS = 60.0
_MISSED_RUNS = 3  # of a worker, after which it counts as stuck
_SLACK_SECONDS = 5.0
_MIN_FREE_BYTES = 256 << 20
_FULL_RATIO = 0.95  # of the memory limit, for unsaved changes


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """Health of an engine.

    Attributes
    ----------
    data_dir : str
        Data directory.
    problems : list of str
        What is wrong; empty for a healthy engine.
    collections, dirty_documents : int
        Number of collections, and of documents with unsaved changes.
    memory_bytes, limit_bytes : int
        Memory use and limit.
    journal_bytes : int
        Bytes of the journal.
    free_bytes : int or None
        Free bytes of the disk; None on an object store.
    follower_lag : dict of str to float or None
        Seconds since each follower had all changes, by target; None before the first time.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     health = engine.health()
    >>> health.ok, health.collections
    (True, 0)
    """

    data_dir: str
    problems: list[str] = field(default_factory=list)
    collections: int = 0
    dirty_documents: int = 0
    memory_bytes: int = 0
    limit_bytes: int = 0
    journal_bytes: int = 0
    free_bytes: int | None = None
    follower_lag: dict[str, float | None] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def rows(self) -> list[tuple[str, str]]:
        """Return names and values for a table."""
        rows = [
            ("state", "healthy" if self.ok else "; ".join(self.problems)),
            ("collections", f"{self.collections:,}"),
            ("unsaved documents", f"{self.dirty_documents:,}"),
            ("memory", f"{quantity(self.memory_bytes)} of {quantity(self.limit_bytes)}"),
            ("journal", quantity(self.journal_bytes)),
        ]
        if self.free_bytes is not None:
            rows.append(("free disk", quantity(self.free_bytes)))
        for target, lag in self.follower_lag.items():
            shown = "has never had all changes" if lag is None else f"{lag:.1f} s behind"
            rows.append((f"follower {target}", shown))
        return rows

    def _repr_html_(self) -> str:
        table = Table(["health", ""], self.data_dir)
        for row in self.rows():
            table.add(*row)
        return table.html()


def health_of(
    data_dir: str,
    stats: EngineStats,
    failure: GodbError | None,
    replicas: Sequence[Replica],
) -> EngineHealth:
    """Find what is wrong in the statistics of an engine.

    Parameters
    ----------
    data_dir : str
        Data directory.
    stats : EngineStats
        Its statistics.
    failure : GodbError or None
        Error of the background that no caller has seen.
    replicas : sequence of Replica
        Its followers.
    """
    problems = [] if failure is None else [f"the background failed: {failure}"]
    for worker in stats.workers:
        if worker.last_failed:
            problems.append(f"the worker {worker.name!r} failed: {worker.last_error}")
        elif worker.age is not None and worker.running:
            allowed = _MISSED_RUNS * worker.interval + (worker.last_seconds or 0) + _SLACK_SECONDS
            if worker.age > allowed:
                problems.append(f"the worker {worker.name!r} has not run for {worker.age:.0f} s")
    memory = stats.memory
    limit = int(memory.limit_mb * 2**20)
    if memory.changes_bytes > _FULL_RATIO * limit:
        problems.append("unsaved changes fill the memory limit")
    lags = {replica.target: replica.lag for replica in replicas}
    for replica in replicas:
        lag = lags[replica.target]
        if lag is not None and lag > _MAX_LAG_SECONDS:
            problems.append(f"the follower {replica.target} is {lag:.0f} s behind")
    free = _free_bytes(data_dir)
    if free is not None and free < _MIN_FREE_BYTES:
        problems.append(f"the disk has only {quantity(free)} left")
    return EngineHealth(
        data_dir=data_dir,
        problems=problems,
        collections=memory.collections,
        dirty_documents=memory.dirty_documents,
        memory_bytes=int(memory.alloc_mb * 2**20),
        limit_bytes=limit,
        journal_bytes=memory.journal_bytes,
        free_bytes=free,
        follower_lag=lags,
    )


def _free_bytes(data_dir: str) -> int | None:
    with suppress(OSError):
        if os.path.isdir(data_dir):
            return shutil.disk_usage(data_dir).free
    return None
