"""Compaction: small parts are joined, large ones are left alone, and closing is waited for."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import msgpack
import pyarrow as pa
import pytest
from support import forge
from support.disks import using

from godb_arrow import GodbError, StorageEngine
from godb_arrow.storage.local import Disk

PART_SIZE = 64 << 10
SCHEMA = pa.schema({"_id": pa.string(), "text": pa.string()})


def part(number: int, documents: int, first_id: int, size: int = 10) -> forge.Part:
    rows = [
        {"_id": str(n), "text": f"{n:x}".ljust(size, "x")}
        for n in range(first_id, first_id + documents)
    ]
    return forge.Part(number, forge.collection("a", rows, schema=SCHEMA))


def directory(folder: Path, parts: list[forge.Part]) -> Path:
    tree = forge.part_folder(parts, SCHEMA)
    return forge.write_tree(folder, forge.under("collections/a.parts", tree))


def after_large(share: float, small: int) -> list[forge.Part]:
    """Return a part of a share of the part size, and small ones after it."""
    count = int(PART_SIZE * share / 1000)
    large = part(1, count, 1, size=990)
    return [large, *(part(n + 2, 1, count + n + 1) for n in range(small))]


@pytest.mark.parametrize(
    "share",
    (0.1, 0.4, 0.55, 0.7, 0.9),
)
def test_small_parts_after_a_large_one_are_joined(tmp_path: Path, share: float) -> None:
    directory(tmp_path, after_large(share, 60))
    with StorageEngine(tmp_path, part_size=PART_SIZE) as engine:
        ids = [document["_id"] for document in engine["a"]]
        engine.compact("a")
        assert engine["a"].versions()[-1].parts <= 2
        assert [document["_id"] for document in engine["a"]] == ids


def test_saves_of_single_documents_do_not_rewrite_a_large_part(tmp_path: Path) -> None:
    directory(tmp_path, after_large(0.1, 15))
    with StorageEngine(tmp_path, part_size=PART_SIZE) as engine:
        engine["a"].insert({"text": "last"})
        engine.save()
        assert engine["a"].versions()[-1].parts == 2, "small parts are joined"
    newest = max((tmp_path / "collections" / "a.parts").glob("*.manifest"))
    parts = msgpack.unpackb(newest.read_bytes()[8:-8])["parts"]
    assert parts[0][0] == 1, "number of the first part"


class ClosingDisk(Disk):
    """Closes an engine while a thread compacts it, and notes which files it replaces later."""

    def __init__(self, engine: StorageEngine, compactor: threading.Thread) -> None:
        self._compactor = compactor
        self._closer = threading.Thread(target=engine.close, kwargs={"discard": True})
        self.late: list[str] = []

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        if threading.current_thread() is self._compactor and self._closer.ident is None:
            self._closer.start()
            self._closer.join(timeout=2)  # closing may wait for the compaction
        return super().open(path, flags, mode)

    def replace(self, source: str, target: str) -> None:
        is_late = self._closer.ident is not None and not self._closer.is_alive()
        if threading.current_thread() is self._compactor and is_late:
            self.late.append(Path(target).name)
        super().replace(source, target)

    def wait(self) -> None:
        self._compactor.join()
        self._closer.join()


def test_no_compaction_writes_after_close(tmp_path: Path) -> None:
    directory(tmp_path, [part(n + 1, 100, 100 * n + 1) for n in range(40)])
    engine = StorageEngine(tmp_path, part_size=PART_SIZE)

    def compact() -> None:
        with suppress(GodbError):
            engine.compact("a")

    compactor = threading.Thread(target=compact)
    disk = ClosingDisk(engine, compactor)
    with using(disk):
        compactor.start()
        disk.wait()
    assert not disk.late, "another engine may have opened the directory"
    with StorageEngine(tmp_path) as again:
        assert len(again["a"]) == 4000
