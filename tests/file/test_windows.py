"""The window over a decompressed body: lent to threads, moved and reused."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from typing import Any

import lz4.block
import msgpack
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.handmade import HEADER, file_of

import godb_arrow
from godb_arrow.codec.runs import BorrowedEntries
from godb_arrow.file.locate import locate
from godb_arrow.file.reader import CollectionSection, GodbReader
from godb_arrow.memory import buffers
from godb_arrow.memory.buffers import DECODED
from godb_arrow.options import ReadOptions

LIMITS = [
    {"batch_bytes": 9000},
    {"batch_bytes": 70_000},
    {"batch_bytes": 400_000},
    {"batch_size": 31},
    {"batch_size": 1000},
    {},
]


def documents(count: int) -> dict[str, dict[str, Any]]:
    """Return documents of many sizes. Text that repeats after 60 KiB needs all of the history."""
    rng = random.Random(4)
    far = [rng.randbytes(30).hex() for _ in range(900)]
    found: dict[str, dict[str, Any]] = {}
    for n in range(count):
        size = 150_000 if n % 997 == 996 else 9000 if n % 211 == 210 else n % 40
        text = rng.randbytes(size // 2).hex() if n % 3 else "ab" * (size // 2)
        found[f"{n}"] = {"_id": f"{n}", "n": n, "text": text, "far": far[n % len(far)]}
    return found


@pytest.fixture(scope="module")
def content() -> dict[str, dict[str, Any]]:
    return documents(3000)


@pytest.fixture(scope="module")
def data(content: dict[str, dict[str, Any]]) -> bytes:
    return file_of(msgpack.packb({"collections": {"c": content}, "indexes": {}}))


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Overwrite each buffer as soon as it is released, so that later uses of it show."""
    give = type(DECODED).give

    def spoil(pool: Any, view: memoryview) -> None:
        if isinstance(view.obj, bytearray):
            memoryview(view.obj)[:] = b"\xc1" * len(view.obj)
        give(pool, view)

    monkeypatch.setattr(buffers._Buffers, "give", spoil)
    yield
    buffers.forget_buffers()


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("threads", [1, 2])
def test_windows_have_the_documents(
    content: dict[str, dict[str, Any]], data: bytes, limits: dict[str, int], threads: int,
    spoilt: None,
) -> None:  # fmt: skip
    """All threads decode what the file has, whatever the windows and who releases them."""
    expected = list(content.values())
    batches = list(godb_arrow.scan_godb(data, threads=threads, **limits))  # type: ignore[arg-type]
    assert pa.Table.from_batches(batches).to_pylist() == expected
    assert godb_arrow.read_table(data, threads=threads, **limits).to_pylist() == expected  # type: ignore[arg-type]
    kept = godb_arrow.read_table(data, filter={"n": {"$gt": 2500}}, threads=threads, **limits)  # type: ignore[arg-type]
    assert kept.to_pylist() == expected[2501:]
    kept = godb_arrow.read_table(data, filter=pc.field("n") < 99, columns=["far"], threads=threads)
    assert kept.to_pylist() == [{"far": row["far"]} for row in expected[:99]]


@pytest.mark.parametrize("unscanned", [False, True])
def test_every_window_may_wait(
    content: dict[str, dict[str, Any]], data: bytes, unscanned: bool, spoilt: None
) -> None:
    """Runs that nobody has released stay as they are, in any order of use."""
    options = ReadOptions(batch_size=700)
    runs = list(locate(data, "c", options).runs(("n", "far"), unscanned=unscanned))
    body = msgpack.packb({"collections": {"c": content}, "indexes": {}})
    assert sum(run.documents for run in runs) == len(content)
    assert [run.start for run in runs[1:]] == [run.start + run.documents for run in runs[:-1]]
    random.Random(2).shuffle(runs)
    for number, run in enumerate(runs):
        borrowed = run.borrowed() if number % 2 else BorrowedEntries(run.load(), lambda: None)
        entries = borrowed.entries
        assert len(entries.places) == 8 * len(entries) * bool(entries.fields)
        for index in (0, len(entries) - 1):
            document = entries.document(index)
            assert msgpack.unpackb(document) == content[str(run.start + index)]
            at = entries.base + entries.bounds[2 * index + 1]
            assert body[at : at + len(document)] == document
        borrowed.release()


@pytest.mark.parametrize("compression", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("limits", LIMITS[1:4])
def test_windows_of_every_compression(
    content: dict[str, dict[str, Any]], compression: Any, limits: dict[str, int], spoilt: None
) -> None:
    file = io.BytesIO()
    rows = list(content.values())
    godb_arrow.write_godb(rows, file, "c", compression=compression)
    found = godb_arrow.read_table(file.getvalue(), use_hints=False, **limits)  # type: ignore[arg-type]
    assert found.to_pylist() == rows


def test_offsets_of_entries_and_of_errors_do_not_depend_on_windows(
    content: dict[str, dict[str, Any]],
) -> None:
    body = bytearray(msgpack.packb({"collections": {"c": content}}))
    reader = GodbReader(io.BytesIO(file_of(bytes(body))), None)
    for section in reader.sections():
        assert isinstance(section, CollectionSection)
        for entries in section.entries(ReadOptions(batch_bytes=50_000)):
            at = entries.base + entries.bounds[1]
            assert bytes(body[at : at + 9]) == entries.document(0)[:9]
    at = body.index(b"\xa42600\x84")
    body[at + 5] = 0xC1
    for limits in LIMITS:
        for threads in (1, 2):
            with pytest.raises(godb_arrow.CorruptFile) as raised:
                godb_arrow.read_table(
                    file_of(bytes(body)), schema=pa.schema({"n": pa.int64()}), threads=threads,
                    **limits,  # type: ignore[arg-type]
                )  # fmt: skip
            assert raised.value.offset == at + 5


def test_damaged_blocks_have_the_same_error_with_all_threads(data: bytes) -> None:
    rng = random.Random(1)
    for _ in range(12):
        damaged = bytearray(data)
        damaged[rng.randrange(8, len(data))] ^= 1 << rng.randrange(8)
        errors = []
        for threads in (1, 2):
            try:
                table = godb_arrow.read_table(bytes(damaged), threads=threads)
            except godb_arrow.GodbError as error:
                errors.append((type(error), str(error), getattr(error, "offset", None)))
            else:
                errors.append((pa.Table, str(table.to_pylist()), None))
        assert errors[0] == errors[1]


def test_a_file_that_is_read_again_allocates_no_window(data: bytes) -> None:
    buffers.forget_buffers()
    for _ in range(3):
        godb_arrow.read_table(data, threads=1, batch_bytes=300_000)
        sizes = [len(buffer) for _, buffer in DECODED._free]
    assert sizes
    identities = {id(buffer) for _, buffer in DECODED._free}
    godb_arrow.read_table(data, threads=1, batch_bytes=300_000)
    assert {id(buffer) for _, buffer in DECODED._free} & identities
    assert sum(sizes) < 4 << 20


def test_a_stream_that_ends_early_leaves_the_pool_whole(data: bytes) -> None:
    expected = godb_arrow.read_table(data)
    for threads in (1, 2):
        stream = godb_arrow.scan_godb(data, threads=threads, batch_bytes=100_000)
        first = stream.read_next_batch()
        stream.close()
        del stream
        assert godb_arrow.read_table(data, threads=threads).equals(expected)
        assert pa.Table.from_batches([first]).equals(expected.slice(0, first.num_rows))


def test_matches_reach_back_as_far_as_they_can() -> None:
    """The text of each document is a match of the one before, 65,535 bytes earlier."""
    text = random.Random(8).randbytes(65_535 - 9)
    body = msgpack.packb({"collections": {"c": {f"{n}": {"b": text} for n in range(10, 50)}}})
    block = lz4.block.compress(body, mode="high_compression", store_size=False)
    assert len(block) < 80_000
    for limits in LIMITS[:3]:
        table = godb_arrow.read_table(HEADER + block, **limits)  # type: ignore[arg-type]
        assert table["b"].to_pylist() == [text] * 40
