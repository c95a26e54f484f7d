"""Metrics of an engine for Prometheus."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from godb_arrow.connectors import missing
from godb_arrow.engine.engine import StorageEngine

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

__all__ = ["register"]

_MEBIBYTE = 1 << 20
_GAUGES = {
    "cache_bytes": "Bytes of cached views",
    "changes_bytes": "Bytes of unsaved changes",
    "stream_bytes": "Bytes of documents and batches in streams",
    "write_bytes": "Bytes of documents that inserts collect",
    "collections": "Collections",
    "streams": "Open streams",
    "journal_bytes": "Bytes of the journal",
    "dirty_documents": "Documents that changed since their file was saved",
}
_COUNTERS = {
    "hits": "Cache hits",
    "misses": "Cache misses",
    "evictions": "Evicted views",
}


def register(engine: StorageEngine, registry: CollectorRegistry | None = None) -> None:
    """Export an engine's statistics to Prometheus.

    Parameters
    ----------
    engine : StorageEngine
        Engine to observe. It is not kept alive, and has no metrics once it is closed.
    registry : prometheus_client.CollectorRegistry, optional
        Registry for the metrics; the process's default registry by default.

    Raises
    ------
    MissingDependency
        prometheus-client is not installed.

    Examples
    --------
    >>> import tempfile, godb_arrow, prometheus_client
    >>> from godb_arrow.connectors.prometheus import register
    >>> registry = prometheus_client.CollectorRegistry()
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     register(engine, registry)
    ...     registry.get_sample_value("godb_arrow_collections", {"data_dir": engine.data_dir})
    0
    """
    try:
        import prometheus_client
    except ImportError as error:
        raise missing("metrics", "prometheus-client") from error
    if registry is None:
        registry = prometheus_client.REGISTRY
    registry.register(_Collector(engine))


class _Collector:
    def __init__(self, engine: StorageEngine) -> None:
        self._engine = weakref.ref(engine)

    def describe(self) -> list[Any]:
        """Return no families, because their labels depend on the engine."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the families of metrics, when Prometheus requests them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        engine = self._engine()
        if engine is None or engine.closed:
            return
        stats = engine.stats()
        where = [engine.data_dir]
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"godb_arrow_{name}", text, labels=["data_dir"])
            gauge.add_metric(where, getattr(stats.memory, name))
            yield gauge
        counts = {name: getattr(stats.memory, name) for name in _COUNTERS} | {
            "checkpoints": stats.checkpoints,
            "failed_checkpoints": stats.failed_checkpoints,
            "journal_syncs": stats.journal_syncs,
            "expired_documents": stats.expired_documents,
        }
        for name, count in counts.items():
            text = _COUNTERS.get(name, name.replace("_", " ").capitalize())
            counter = CounterMetricFamily(f"godb_arrow_{name}", text, labels=["data_dir"])
            counter.add_metric(where, count)
            yield counter
        sizes = {"limit_bytes": "Memory limit", "allocated_bytes": "Memory use"}
        values = (stats.memory.limit_mb, stats.memory.alloc_mb)
        for (name, text), mebibytes in zip(sizes.items(), values, strict=True):
            gauge = GaugeMetricFamily(f"godb_arrow_{name}", text, labels=["data_dir"])
            gauge.add_metric(where, mebibytes * _MEBIBYTE)
            yield gauge
        ages = GaugeMetricFamily(
            "godb_arrow_worker_age_seconds",
            "Time since a background worker last ran",
            labels=["data_dir", "worker"],
        )
        for health in stats.workers:
            if health.age is not None:
                ages.add_metric([*where, health.name], health.age)
        yield ages
        lags = GaugeMetricFamily(
            "godb_arrow_follower_lag_seconds",
            "Time since a follower last had all changes",
            labels=["data_dir", "follower"],
        )
        for replica in engine.replicas:
            if replica.lag is not None:
                lags.add_metric([*where, replica.target], replica.lag)
        yield lags
        for name in ("runs", "failures"):
            text, labels = f"Background workers: {name}", ["data_dir", "worker"]
            family = CounterMetricFamily(f"godb_arrow_worker_{name}", text, labels=labels)
            for health in stats.workers:
                family.add_metric([*where, health.name], getattr(health, name))
            yield family
