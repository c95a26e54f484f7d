"""Work on several threads: order, errors, and no thread left behind."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import run_python
from support.settings import LONG

import godb_arrow
from godb_arrow.codec import BACKEND
from godb_arrow.parallel import OrderedMap, available_cores, ordered_map


def workers() -> int:
    return sum(thread.name.startswith("godb-arrow") for thread in threading.enumerate())


def wait_for_workers() -> int:
    for _ in range(200):
        if not workers():
            break
        time.sleep(0.02)
    return workers()


def slow(number: int) -> int:
    time.sleep(0.002 * (number % 3))
    return number


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order(threads: int) -> None:
    assert list(ordered_map(slow, iter(range(50)), threads)) == list(range(50))
    assert list(ordered_map(slow, iter([]), threads)) == []
    assert wait_for_workers() == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_in_its_place(threads: int) -> None:
    def fail(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        return number

    results = ordered_map(fail, iter(range(10)), threads)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert wait_for_workers() == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_of_the_iterator_comes_behind_its_items(threads: int) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise ValueError("broken")

    results = ordered_map(slow, items(), threads)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(results)


def test_stopping_early_joins_the_threads_and_closes_the_items() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    results = ordered_map(slow, items(), 3)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert workers() == 0
    assert closed == [True]


def test_few_items_are_under_way_and_a_caller_who_stops_leaves_no_thread() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = ordered_map(slow, items(), 3)
    next(results)
    assert wait_for_workers() == 0, "they end when there is nothing to do"
    assert len(taken) <= 6
    assert [next(results) for _ in range(20)] == list(range(1, 21))
    assert len(taken) <= 26


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("parallel") / "large.godb"
    rows = ({"n": n, "s": f"text {n * 7919 % 10007}", "f": n / 3} for n in range(60_000))
    godb_arrow.write_godb(rows, target, "c")
    assert target.stat().st_size > 300_000
    return target


def test_threads_do_not_change_what_is_read(large: Path) -> None:
    whole = godb_arrow.read_table(large, threads=1)
    for threads in (2, 4):
        for options in ({}, {"use_hints": False}, {"batch_size": 1000}):
            found = godb_arrow.read_table(large, threads=threads, **options)  # type: ignore[arg-type]
            assert found.equals(whole)
    assert whole.column("n").to_pylist() == list(range(60_000))


@pytest.mark.skipif(BACKEND == "reference", reason="the reference codec uses no threads")
def test_a_stream_that_is_closed_early_leaves_no_thread(large: Path) -> None:
    reader = godb_arrow.scan_godb(large, batch_size=1000, threads=3)
    reader.read_next_batch()
    reader.close()
    assert wait_for_workers() == 0
    del reader


def test_damage_is_found_on_any_thread(large: Path) -> None:
    damaged = bytearray(large.read_bytes())
    damaged[len(damaged) // 2] ^= 16
    for threads in (1, 3):
        with pytest.raises(godb_arrow.FormatError):
            godb_arrow.read_table(bytes(damaged), threads=threads)
    assert wait_for_workers() == 0


def test_the_cores_of_this_process() -> None:
    assert available_cores() >= 1


def test_a_thread_that_closes_its_own_map_waits_for_no_other() -> None:
    """The garbage collector closes a dropped stream on any thread, also on one of the stream."""
    found: list[OrderedMap[int]] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            if number == 20:
                found[0].close()
            yield number

    found.append(ordered_map(abs, items(), 3, 5))
    reader = threading.Thread(target=list, args=(found[0],), daemon=True)
    reader.start()
    reader.join(60)
    assert not reader.is_alive()


INTERRUPTS = """
import faulthandler, random, signal, sys, time
from godb_arrow.parallel import ordered_map

faulthandler.dump_traceback_later(50, exit=True)
signal.signal(signal.SIGALRM, signal.default_int_handler)
source = random.Random(1)

def work(number):
    return sum(range(300))

ended = 0
for _ in range(int(sys.argv[1])):
    results = ordered_map(work, iter(range(3000)), 3)
    try:
        signal.setitimer(signal.ITIMER_REAL, source.uniform(0.0005, 0.02))
        for _ in results:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        ended += 1
    results.close()
assert ended
print("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals to itself")
def test_an_interrupt_never_loses_a_lock() -> None:
    done = run_python(INTERRUPTS, 2000 if LONG else 100)
    assert done.stdout.strip() == "done", done.stderr[-3000:]


def test_no_thread_starts_where_no_result_may_wait() -> None:
    by: list[str] = []

    def work(number: int) -> int:
        by.append(threading.current_thread().name)
        return number

    may_wait = False
    results = ordered_map(work, iter(range(9)), 4, may_wait=lambda: may_wait)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert by == [threading.current_thread().name] * 3
    may_wait = True
    assert list(results) == [3, 4, 5, 6, 7, 8]
    assert set(by[3:]) - {threading.current_thread().name}
    assert not wait_for_workers()
