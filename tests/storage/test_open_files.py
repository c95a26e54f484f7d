"""Open files as sources: many readers share one file, and none moves it."""

from __future__ import annotations

import io
import itertools
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

import godb_arrow

ROWS = 20_000


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("open") / "numbers.godb"
    texts = [os.urandom(8).hex() for _ in range(ROWS)]
    godb_arrow.write_godb(pa.table({"n": range(ROWS), "text": texts}), target, "numbers")
    return target


class Plain(io.RawIOBase):
    """An open file without weak references to it, as C libraries have them."""

    __slots__ = ("_inner",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._inner.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._inner.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(size)


@pytest.mark.parametrize("rows", [1, 1_000, 8_000, ROWS])
@pytest.mark.parametrize("kind", [io.BytesIO, Plain])
def test_files_in_memory_of_any_size(kind: type[io.BytesIO] | type[Plain], rows: int) -> None:
    file = io.BytesIO()
    texts = [os.urandom(8).hex() for _ in range(rows)]
    godb_arrow.write_godb(pa.table({"text": texts}), file, "c")
    opened = kind(file.getvalue())
    assert godb_arrow.read_table(opened).num_rows == rows
    assert godb_arrow.read_document(opened, "1")["text"] == texts[0]
    assert sum(batch.num_rows for batch in godb_arrow.scan_godb(opened)) == rows


def test_two_streams_of_one_handle(path: Path) -> None:
    with path.open("rb") as file:
        handle = godb_arrow.open_godb(file)
        streams = [handle.stream_batches(batch_size=500) for _ in range(2)]
        rows = [0, 0]
        for pair in itertools.zip_longest(*streams):
            for index, batch in enumerate(pair):
                rows[index] += 0 if batch is None else batch.num_rows
    assert rows == [ROWS, ROWS]


def test_threads_that_open_one_file(path: Path) -> None:
    with path.open("rb") as file, ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(lambda _: godb_arrow.read_table(file), range(8)))
    assert all(table.equals(tables[0]) for table in tables)
    assert tables[0].num_rows == ROWS


def test_the_position_of_a_file_stays(path: Path) -> None:
    data = b"before" + path.read_bytes()
    file = io.BytesIO(data)
    file.seek(6)
    assert godb_arrow.read_table(file).num_rows == ROWS
    assert file.tell() == 6
    assert godb_arrow.open_godb(file).get("1")["n"] == 0


def test_a_memory_map(path: Path) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        handle = godb_arrow.open_godb(mapped)  # which has no method seekable before Python 3.13
        readers = [handle.stream_batches(["n"], batch_size=999) for _ in range(2)]
        assert [reader.read_all().num_rows for reader in readers] == [ROWS, ROWS]
