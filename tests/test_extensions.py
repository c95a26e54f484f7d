"""Other packages add compressions, policies, formats, storage and workers by entry points."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from support import extensions as installed

import godb_arrow
from godb_arrow import InvalidOption, StorageEngine, extensions

ROWS = [{"n": n, "text": "repeated " * 9} for n in range(3000)]

PAGE = (Path(__file__).parents[1] / "docs" / "extension_points.md").read_text()


def example(heading: str) -> tuple[str, str]:
    """Return the module and the entry point of a section of the documentation."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    source, entry = re.findall(r"```(?:python|toml)\n(.*?)```", section, re.DOTALL)
    assert len(source.strip().splitlines()) < 25
    return source, entry.replace('"', "").partition("]\n")[2].strip()


BZIP2, BZIP2_ENTRY = example("Compressions")
POLICY, POLICY_ENTRY = example("Eviction policies")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    installed.forget()


def stored(compression: str) -> bytes:
    file = io.BytesIO()
    godb_arrow.write_godb(ROWS, file, "c", compression=compression)
    return file.getvalue()


def test_another_package_adds_a_compression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.install(tmp_path, monkeypatch, "my_bzip2", BZIP2, compressions=BZIP2_ENTRY)
    data = stored("bzip2:5")
    assert data[6] == 200
    assert len(data) < len(stored("none")) / 3
    for options in ({}, {"use_hints": False}):
        assert godb_arrow.read_table(data, **options).column("n").to_pylist()[-1] == 2999  # type: ignore[arg-type]
    assert godb_arrow.verify_godb(data).ok
    with StorageEngine(tmp_path / "data", compression="bzip2") as engine:
        engine.create_collection("c").insert_many(ROWS)
    with StorageEngine(tmp_path / "data") as engine:
        assert engine["c"].compression == "bzip2"
        assert engine["c"].find({"n": 17})[0]["n"] == 17


def test_damaged_bytes_of_an_extension_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.install(tmp_path, monkeypatch, "my_bzip2", BZIP2, compressions=BZIP2_ENTRY)
    data = stored("bzip2")
    for at in range(8, len(data), 397):
        damaged = bytearray(data)
        damaged[at] ^= 1
        for source in (bytes(damaged), data[:at]):
            try:
                found = godb_arrow.read_table(source, "c", use_hints=False)
            except godb_arrow.FormatError:
                continue
            assert len(found) == len(ROWS)
    head = bytearray(data)
    assert head[8:12] == b"\xc1GAX"
    head[16:20] = b"\xff\xff\xff\x7f"  # 2 GiB
    with pytest.raises(godb_arrow.CorruptFile, match="claims"):
        godb_arrow.read_table(bytes(head), "c")


def test_a_file_of_an_unknown_compression_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as now:
        installed.install(tmp_path, now, "my_bzip2", BZIP2, compressions=BZIP2_ENTRY)
        data = stored("bzip2")
    installed.forget()
    with pytest.raises(godb_arrow.UnsupportedFlags, match="install the package that adds"):
        godb_arrow.read_table(data)


@pytest.mark.parametrize(
    "text", ["raise RuntimeError('no')", "bzip2 = object()", BZIP2.replace("200", "1")]
)
def test_a_wrong_extension_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    installed.install(tmp_path, monkeypatch, "my_bzip2", text, compressions=BZIP2_ENTRY)
    with pytest.raises(InvalidOption, match="bzip2"):
        stored("bzip2")


def test_another_package_adds_an_eviction_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.install(
        tmp_path, monkeypatch, "my_policy", POLICY,
        eviction_policies=POLICY_ENTRY,
    )  # fmt: skip
    with StorageEngine(tmp_path / "data", eviction_policy="largest") as engine:
        engine.create_collection("c").insert({})
    with pytest.raises(InvalidOption, match="did you mean 'largest'"):
        StorageEngine(tmp_path / "data", eviction_policy="largets")


@pytest.mark.parametrize("policy", ["lru", "LFU", "ttl:5min"])
def test_policies_have_names(tmp_path: Path, policy: str) -> None:
    StorageEngine(tmp_path, eviction_policy=policy).close()


@pytest.mark.parametrize("policy", ["fifo", "ttl", "lru:5", 5, godb_arrow.LRU])
def test_a_wrong_policy_is_an_error(tmp_path: Path, policy: str) -> None:
    with pytest.raises(InvalidOption, match="eviction_policy"):
        StorageEngine(tmp_path, eviction_policy=policy)


def test_no_package_adds_anything_by_default() -> None:
    assert not any(map(extensions.extension_names, extensions.GROUPS))


def test_another_package_adds_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, entry = example("Background workers")
    folder = tmp_path / "packages"
    folder.mkdir()
    installed.install(folder, monkeypatch, "my_tidy", source, workers=entry)
    with StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("old_users")
        engine.add_worker("tidy")
        assert next(w for w in engine.stats().workers if w.name == "tidy").interval == 3600
        engine.remove_worker("tidy")
        engine.add_worker("tidy", "10ms")
        engine.start_background_workers()
        deadline = time.monotonic() + 10
        while "old_users" in engine and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "old_users" not in engine
        with pytest.raises(InvalidOption, match=r"no function for the worker 'x'.*tidy"):
            engine.add_worker("x")


def test_another_package_adds_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = example("Storage")
    (tmp_path / "my_store.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    fsspec.register_implementation("team", "my_store.TeamStore")  # as fsspec does at import
    godb_arrow.write_godb(ROWS[:2], "team://users.godb", "users")
    assert len(godb_arrow.read_table("team://users.godb")) == 2
    with StorageEngine("team://data") as engine:
        engine.create_collection("c").insert({"n": 1})
    assert godb_arrow.read_table("team://data#c").column("n").to_pylist() == [1]
