"""Health of engines, their logs and series, and what notebooks show of results."""

from __future__ import annotations

import dataclasses
import logging
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from click.testing import CliRunner

import godb_arrow
from godb_arrow import LRUCache, StorageEngine
from godb_arrow.cli.command import main
from godb_arrow.connectors.etl import copy
from godb_arrow.connectors.prometheus import register


def test_a_healthy_engine(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        engine.create_collection("users").insert({"n": 1})
        health = engine.health()
        assert health.ok and not health.problems
        assert (health.collections, health.dirty_documents) == (1, 1)
        assert health.free_bytes and health.limit_bytes == 10**9
    with pytest.raises(godb_arrow.EngineClosed):
        engine.health()


def test_problems_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from godb_arrow.engine import health as module

    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise ValueError("no")

    with StorageEngine(tmp_path / "data") as engine:
        replica = engine.replicate_to(tmp_path / "follower")
        assert engine.health().follower_lag.keys() == {replica.target}
        engine.add_worker("mine", "1ms", fail)
        engine.start_background_workers()
        assert failed.wait(10)
        engine.stop_background_workers()
        monkeypatch.setattr(module, "_MAX_LAG_SECONDS", -1)
        monkeypatch.setattr(module, "_MIN_FREE_BYTES", 1 << 60)
        problems = "; ".join(engine.health().problems)
        assert "worker 'mine' failed: ValueError: no" in problems
        assert "s behind" in problems and "the disk has only" in problems


def test_a_stuck_worker_is_a_problem() -> None:
    from godb_arrow.engine.health import health_of
    from godb_arrow.engine.stats import EngineStats, MemoryStats
    from godb_arrow.engine.workers import WorkerHealth

    memory = MemoryStats(*[0] * len(fields(MemoryStats)))
    stuck = WorkerHealth("saver", True, 1.0, 5, 0, 0.0, 0.1, None, age=60.0)
    stats = EngineStats(memory, [stuck], *[0] * (len(fields(EngineStats)) - 2))
    assert "has not run for 60 s" in health_of("s3://x", stats, None, []).problems[0]


def test_the_command(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("users").insert({"n": 1})
        engine.replicate_to(tmp_path / "follower").step()
        result = CliRunner().invoke(main, ["health", str(tmp_path / "data")])
        assert result.exit_code == 0, result.output
        assert "healthy" in result.output and "an engine" in result.output
    result = CliRunner().invoke(main, ["health", str(tmp_path / "follower")])
    assert result.exit_code == 0 and "behind" in result.output and "no engine" in result.output
    (tmp_path / "data" / "collections" / "users.godb").write_bytes(b"GODB")
    result = CliRunner().invoke(main, ["health", str(tmp_path / "data")])
    assert result.exit_code == 1 and "header" in result.output


def test_steps_are_logged_at_debug(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "godb_arrow")
    with StorageEngine(tmp_path / "data", part_size="1KiB", max_memory="1MiB") as engine:
        numbers = engine.create_collection("numbers")
        for first in range(0, 900, 300):
            numbers.insert_many([{"n": n, "text": "x" * 50} for n in range(first, first + 300)])
            engine.save()
        numbers.delete_many({"n": {"$lt": 250}})
        engine.save()
        engine.compact()
        engine.backup(tmp_path / "backups")
        engine.replicate_to(tmp_path / "follower")
        list(numbers.find_all_stream())
        numbers.find({"n": 5})
        numbers.get("700")
    cache: LRUCache[str, int] = LRUCache(1)
    assert cache.put("a", 1, 1) and cache.put("b", 1, 1)
    for text in (
        "recovered", "saved 'numbers'", "compacted 'numbers'", "backed up", "replicated to",
        "streaming 'numbers'", "evicted 1 values", "loaded",
    ):  # fmt: skip
        assert text in caplog.text, text


def test_series_of_memory_workers_and_followers(tmp_path: Path) -> None:
    registry = prometheus_client.CollectorRegistry()
    with StorageEngine(tmp_path / "data", max_memory="64MiB") as engine:
        register(engine, registry)
        replica = engine.replicate_to(tmp_path / "follower")
        engine.add_worker("mine", "1h", lambda: None)
        engine.start_background_workers()
        where = {"data_dir": engine.data_dir}

        def value(name: str, **labels: str) -> Any:
            return registry.get_sample_value(f"godb_arrow_{name}", {**where, **labels})

        assert value("limit_bytes") == 64 << 20
        assert value("allocated_bytes") >= 0
        assert 0 <= value("worker_age_seconds", worker="mine") < 60
        assert 0 <= value("follower_lag_seconds", follower=replica.target) < 60


def test_everything_is_shown_as_text_and_as_a_table(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data", part_size="1KiB") as engine:
        users = engine.create_collection("users")
        users.insert_many([{"n": n, "<b>": "<i>"} for n in range(300)])
        engine.save()
        path = tmp_path / "x.godb"
        engine.save_to_file(path)
        shown = [
            engine, users, engine.stats(), engine.memory_stats(), engine.health(), users.info(),
            engine.infos(), users.explain({"n": 3}), users.find_page(limit=3), users.versions(),
            users.versions()[-1], engine.backup(tmp_path / "b"),
            engine.replicate_to(tmp_path / "f"),
            godb_arrow.list_backups(tmp_path / "b"), users.find_all_stream(), users.stream(["n"]),
            users.profile(), engine.replicas[0].status(), engine.stats().workers[0],
            godb_arrow.verify_godb(tmp_path / "data"), godb_arrow.inspect_godb(path),
            godb_arrow.inspect_godb(path).collections[0], LRUCache(9), LRUCache(9).stats(),
            copy(path, tmp_path / "x.parquet", progress=False),
        ]  # fmt: skip
        for one in shown:
            table = one._repr_html_()
            assert "<table>" in table, one
            assert "<i>" not in table and "<b>" not in table, one
            assert len(repr(one)) < 5000 and " at 0x" not in repr(one), one
        report = godb_arrow.verify_godb(path)
        assert repr(report) == f"<FileReport {str(path)!r}, valid, {{'users': 300}}>"
        for stream in shown:
            if hasattr(stream, "__next__"):
                stream.close()


def test_progress_bars_are_silent_without_a_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    godb_arrow.write_godb([{"n": 1}], tmp_path / "x.godb", "x")
    copy(tmp_path / "x.godb", tmp_path / "x.parquet")
    godb_arrow.open_godb(tmp_path / "x.godb").profile(progress=True)
    assert capfd.readouterr() == ("", "")


def test_the_command_names_each_problem_in_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("users").insert({"n": 1})
        engine.replicate_to(tmp_path / "follower")
    status = godb_arrow.follower_status(tmp_path / "follower")
    place = "godb_arrow.cli.check.follower_status"
    monkeypatch.setattr(place, lambda _: dataclasses.replace(status, consistent=False))
    found = CliRunner().invoke(main, ["health", str(tmp_path / "follower")])
    assert found.exit_code == 1
    assert "the follower is not consistent" in found.output and "healthy" not in found.output
