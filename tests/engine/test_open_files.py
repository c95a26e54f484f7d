"""Files that engines and handles have open: few, and none once they are closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.files import open_files

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.snapshots.readable import snapshot_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc")

MOST = 200
PARTS = 260


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with more files than an engine keeps open."""
    folder = tmp_path_factory.mktemp("many")
    with StorageEngine(folder, part_size="1KiB", durability="checkpoint") as engine:
        for n in range(MOST + 50):
            engine.create_collection(f"c{n}").insert({"n": n})
        engine.create_collection("parts").insert_many(
            [{"n": n, "text": "x" * 1000} for n in range(PARTS)]
        )
    assert len(list((folder / "collections" / "parts.parts").glob("*.godb"))) == PARTS
    return folder


@pytest.mark.parametrize("read_only", [False, True])
def test_an_engine_closes_files_that_were_not_used_for_long(many: Path, read_only: bool) -> None:
    with StorageEngine(many, read_only=read_only) as engine:
        for _ in range(2):
            for n in range(MOST + 50):
                assert engine[f"c{n}"].find_all() == [{"_id": "1", "n": n}]
            assert MOST - 10 < len(open_files(many)) <= MOST
        for _ in range(2):
            assert sum(one["n"] for one in engine["parts"]) == sum(range(PARTS))
            assert len(open_files(many)) <= MOST
    assert not open_files(many)


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import godb_arrow
from godb_arrow.snapshots.readable import snapshot_of
from godb_arrow import StorageEngine

folder, parts = sys.argv[1], int(sys.argv[2])
with StorageEngine(folder, read_only=sys.argv[3] == "True") as engine:
    names = [name for name in engine.collections() if name != "parts"]
    few = names[:100]
    for _ in range(2):
        for name in few:
            assert [one["n"] for one in engine[name]] == [int(name[1:])]
        streams = [engine["parts"].find_all_stream() for _ in range(3)]
        for _ in range(parts):
            for stream in streams:
                next(stream)
        assert engine["parts"].count({"n": list(range(7))}) == 7
        assert engine.to_arrow("parts", ["n"]).num_rows == parts
        assert engine["parts"].get("9")["n"] == 8
        assert [info.documents for info in engine.infos()] == [1] * len(names) + [parts]
paths = [os.path.join(folder, "collections", f"{name}.godb") for name in few]
handles = [godb_arrow.open_godb(path) for path in paths]
for _ in range(2):
    for name, handle in zip(few, handles, strict=True):
        assert len(handle) == 1 and handle.get("1")["n"] == int(name[1:])
"""


@pytest.mark.parametrize("read_only", [False, True])
def test_readers_work_in_a_process_that_may_have_few_files_open(
    many: Path, read_only: bool
) -> None:
    subprocess.run(
        [sys.executable, "-c", LIMITED, str(many), str(PARTS), str(read_only)],
        check=True,
        timeout=120,
    )


def test_files_close_when_their_last_reader_ends(tmp_path: Path) -> None:
    """Also those that were read when the engine was closed, or when too many others were used."""
    with StorageEngine(tmp_path, part_size="1KiB", keep_versions=2) as engine:
        engine.create_collection("file").insert({"n": 1})
        parts = engine.create_collection("parts")
        parts.insert_many([{"n": n, "text": "x" * 1000} for n in range(5)])
    with StorageEngine(tmp_path, read_only=True) as engine:
        snapshot = snapshot_of(engine["file"])
        parts = engine["parts"]
        version = parts.at_version(parts.versions()[-1].version)
        engine._components.memory.files.shrink(0)
        assert len(open_files(tmp_path)) == 6
        del snapshot
        assert len(open_files(tmp_path)) == 5
        snapshot = snapshot_of(engine["file"])
    assert snapshot.count == 1 and len(version.to_arrow()) == 5 and open_files(tmp_path)
    del snapshot, version
    assert not open_files(tmp_path)


def test_a_handle_reads_the_file_that_it_opened(tmp_path: Path) -> None:
    path = tmp_path / "c.godb"
    godb_arrow.write_godb([{"n": 1}], path, "c")
    handle = godb_arrow.open_godb(path)
    rows = iter(handle)
    godb_arrow.write_godb([{"n": n} for n in range(9)], path, "c", if_exists="replace")
    assert [one["n"] for one in rows] == [1] and len(handle) == 1
    path.unlink()
    assert handle.to_arrow(["n"]).to_pydict() == {"n": [1]}
    assert "n" in handle.schema.names
    assert open_files(tmp_path)
    del handle, rows
    assert not open_files(tmp_path)


def test_reading_a_file_is_not_disturbed_by_one_that_takes_its_place(tmp_path: Path) -> None:
    """Schema and documents are of the same file."""
    path = tmp_path / "c.godb"
    godb_arrow.write_godb([{"n": n} for n in range(5000)], path, "c")
    reader = godb_arrow.scan_godb(path, batch_size=10)
    godb_arrow.write_godb([{"other": "text"}] * 3, path, "c", if_exists="replace")
    assert reader.read_all().column("n").to_pylist() == list(range(5000))
    assert not open_files(tmp_path)
    errors = []
    path.write_bytes(path.read_bytes()[:-9])
    for _ in range(3):
        with pytest.raises(godb_arrow.GodbError) as caught:
            godb_arrow.read_table(path, use_hints=False)
        errors.append(caught.value)
    assert not open_files(tmp_path), "also while its error is kept"
