"""Memory of freed columns is used again, and columns that are in use keep theirs."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from support.processes import run_python
from support.settings import for_seeds

from godb_arrow import codec
from godb_arrow.codec import pack_entry, plan_columns, reference
from godb_arrow.memory.buffers import forget_buffers, pooled_bytes
from godb_arrow.schema import DocumentSummary, infer_schema

native = pytest.importorskip("godb_arrow.codec.native")

MAX_POOLED = 64 << 20
ROWS = 9_000  # whose columns of numbers are large enough for the pool


@pytest.fixture(autouse=True)
def _empty_pool() -> Iterator[None]:
    native._native.shrink_blocks(MAX_POOLED, True)  # whatever other tests closed
    forget_buffers()
    yield
    forget_buffers()


def entries_of(chance: random.Random, rows: int = ROWS) -> codec.Entries:
    """Return documents that mostly have the same fields, texts of any size, and nulls."""
    mean, absent = chance.choice([3, 30, 300]), chance.choice([0, 0.01, 0.5])
    late = chance.choice([0, rows // 2])  # from here on, texts are longer
    documents = []
    for row in range(rows):
        document: dict[str, Any] = {
            "n": chance.getrandbits(60),
            "f": chance.random(),
            "s": "x" * chance.randrange(mean if row < late else 2 * mean),
            "l": ["ab" * chance.randrange(4) for _ in range(chance.randrange(4))],
            "m": {"x": row, "y": "é" * chance.randrange(9)},
            "b": row % 3 == 0,
        }
        if chance.random() < absent:
            document[chance.choice(list(document))] = None
        if chance.random() < absent / 10:
            del document[chance.choice(list(document))]
        documents.append(pack_entry(str(row), document))
    data = b"".join(documents)
    return codec.scan_entries(data, 0, rows, len(data) + 1, 0)


def plan_of(entries: codec.Entries) -> codec.DecodePlan:
    summary = DocumentSummary()
    codec.infer(entries, summary)
    return plan_columns(infer_schema(summary))


def decode(module: Any, entries: codec.Entries, plan: codec.DecodePlan) -> pa.RecordBatch:
    arrays = module.decode(entries, plan)
    batch = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in plan.columns])
    batch.validate(full=True)
    return batch


def never(data: bytes | memoryview, count: int) -> codec.Entries:
    raise AssertionError("the entries are not scanned")


@for_seeds(6, long=200)
def test_columns_in_used_memory_are_the_same(seed: int) -> None:
    chance = random.Random(seed)
    expected = []
    for _ in range(3):
        entries = entries_of(chance, chance.choice([ROWS, ROWS // 3, 2 * ROWS]))
        plan = plan_of(entries)
        expected.append((entries, plan, decode(reference, entries, plan)))
    alive: list[tuple[pa.RecordBatch, pa.RecordBatch]] = []
    for _ in range(12):
        entries, plan, right = chance.choice(expected)
        if chance.random() < 0.5:
            found = decode(native, entries, plan)
        else:
            unscanned = codec.UnscannedEntries(entries.data, len(entries), never)
            arrays = native.decode_unscanned(unscanned, plan)
            found = pa.RecordBatch.from_arrays(arrays, names=right.schema.names)
        assert found.equals(right)
        alive.append((found, right))
        if len(alive) > 2:
            del alive[chance.randrange(len(alive))]
        del found, right
        assert all(one.equals(other) for one, other in alive)
        assert pooled_bytes() <= MAX_POOLED


def addresses(batch: pa.RecordBatch) -> set[int]:
    """Return the addresses of large buffers."""
    buffers = (buffer for column in batch.columns for buffer in column.buffers())
    return {buffer.address for buffer in buffers if buffer is not None and buffer.size >= 1 << 16}


def test_freed_columns_are_pooled_and_forgotten() -> None:
    entries = entries_of(random.Random(1))
    plan = plan_of(entries)
    batch = decode(native, entries, plan)
    column, before, size = batch.column("n"), addresses(batch), batch.nbytes
    own, numbers = column.buffers()[1].address, column.to_pylist()
    assert pooled_bytes() == 0
    del batch
    gc.collect()
    assert 8 * ROWS <= pooled_bytes() <= size * 5 // 4
    again = decode(native, entries, plan)
    assert addresses(again) & before
    assert own not in addresses(again)
    assert column.to_pylist() == numbers
    del column, again
    gc.collect()
    assert pooled_bytes() >= 16 * ROWS
    forget_buffers()
    assert pooled_bytes() == 0


def test_the_pool_has_a_limit() -> None:
    chance = random.Random(2)
    many = [entries_of(chance, ROWS + 500 * step) for step in range(4)]
    alive = []
    total = 0
    while total < 2 * MAX_POOLED:
        entries = many[len(alive) % 4]
        alive.append(decode(native, entries, plan_of(entries)))
        total += alive[-1].nbytes
    alive.clear()
    gc.collect()
    assert MAX_POOLED // 2 < pooled_bytes() <= MAX_POOLED


def test_small_columns_are_not_pooled() -> None:
    entries = entries_of(random.Random(3), 20)
    decode(native, entries, plan_of(entries))
    gc.collect()
    assert pooled_bytes() == 0


def test_text_has_about_the_memory_that_it_needs() -> None:
    """The first documents tell how much memory the others need."""
    documents = [pack_entry(str(n), {"s": "x" * 20, "t": "y" * 300}) for n in range(ROWS)]
    data = b"".join(documents)
    entries = codec.scan_entries(data, 0, ROWS, len(data) + 1, 0)
    batch = decode(native, entries, plan_of(entries))
    size = batch.nbytes
    del batch
    gc.collect()
    assert pooled_bytes() <= size * 5 // 4


def test_memory_that_was_not_needed_is_released() -> None:
    """The first documents have long texts where the others have short ones, and the reverse."""
    sizes = [(300, 20)] * 600 + [(20, 300)] * (ROWS - 600)
    documents = [
        pack_entry(str(n), {"t": "y" * first, "u": "z" * second})
        for n, (first, second) in enumerate(sizes)
    ]
    data = b"".join(documents)
    entries = codec.scan_entries(data, 0, ROWS, len(data) + 1, 0)
    batch = decode(native, entries, plan_of(entries))
    size = batch.nbytes
    del batch
    gc.collect()
    assert 8 * ROWS <= pooled_bytes() <= size * 5 // 4


def test_threads_share_the_pool() -> None:
    chance = random.Random(4)
    work = []
    for _ in range(3):
        entries = entries_of(chance)
        plan = plan_of(entries)
        work.append((entries, plan, decode(native, entries, plan)))
    failures: list[int] = []

    def run(seed: int) -> None:
        own = random.Random(seed)
        alive: list[tuple[pa.RecordBatch, pa.RecordBatch]] = []
        for _ in range(25):
            entries, plan, right = own.choice(work)
            alive.append((decode(native, entries, plan), right))
            if not all(one.equals(other) for one, other in alive):
                failures.append(seed)
            if len(alive) > 3:
                del alive[own.randrange(4)]

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_decodes_while_another_thread_uses_the_pool() -> None:
    entries = entries_of(random.Random(5))
    plan = plan_of(entries)
    ended = threading.Event()

    def busy() -> None:
        while not ended.is_set():
            decode(native, entries, plan)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                columns = native.decode(entries, plan)
                del columns
                os._exit(0 if pooled_bytes() >= 0 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        ended.set()
        thread.join()


_LIMITS = """
import gc
from godb_arrow import codec
from godb_arrow.codec import native
from godb_arrow.memory.buffers import pooled_bytes
from godb_arrow.memory.limit import Memory
from godb_arrow.schema import DocumentSummary, infer_schema
data = b"".join(codec.pack_entry(str(n), {"n": n}) for n in range(20_000))
entries = codec.scan_entries(data, 0, 20_000, len(data) + 1, 0)
summary = DocumentSummary()
codec.infer(entries, summary)
plan = codec.plan_columns(infer_schema(summary))
for limit in (1 << 40, 16 << 20):
    memory = Memory(limit)
    native.decode(entries, plan)
    gc.collect()
    print(pooled_bytes())
"""


def test_a_low_memory_limit_closes_the_pool() -> None:
    done = run_python(_LIMITS, backend="native")
    large, small = map(int, done.stdout.split())
    assert large >= 160_000
    assert small == 0
