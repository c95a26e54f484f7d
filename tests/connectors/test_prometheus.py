"""Statistics in Prometheus' exposition."""

from __future__ import annotations

import sys
from pathlib import Path

import prometheus_client
import pytest

import godb_arrow
from godb_arrow.connectors.prometheus import register


def test_the_exposition_has_the_engine_while_it_is_open(tmp_path: Path) -> None:
    registry = prometheus_client.CollectorRegistry()
    with godb_arrow.StorageEngine(tmp_path) as engine:
        register(engine, registry)
        engine.create_collection("c").insert_many([{}, {}])
        text = prometheus_client.generate_latest(registry).decode()
        assert f'godb_arrow_collections{{data_dir="{tmp_path}"}} 1.0' in text
        assert f'godb_arrow_dirty_documents{{data_dir="{tmp_path}"}} 2.0' in text
        assert 'worker="journal-sync"' in text
        engine.save()
        name = "godb_arrow_checkpoints_total"
        assert registry.get_sample_value(name, {"data_dir": str(tmp_path)}) == 1
    assert prometheus_client.generate_latest(registry) == b""


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with (
        godb_arrow.StorageEngine(tmp_path) as engine,
        pytest.raises(godb_arrow.MissingDependency, match=r"godb-arrow\[metrics\]"),
    ):
        register(engine)
