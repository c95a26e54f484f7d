"""Commits of several threads share syncs: none waits for ever, and errors reach each."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from godb_arrow import StorageError
from godb_arrow.directory import commit_queue
from godb_arrow.directory.commit_queue import CommitQueue
from godb_arrow.directory.journal import Journal
from godb_arrow.storage import local


class Durable:
    """Journal of which records up to a number are durable."""

    def __init__(self) -> None:
        self.number = 0

    def is_durable(self, number: int) -> bool:
        return self.number >= number


def made_queue() -> tuple[CommitQueue, Durable]:
    durable = Durable()
    return CommitQueue(durable.is_durable), durable


def in_thread(work: Any, *arguments: Any) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work(*arguments))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_one_thread_syncs_for_those_that_wait() -> None:
    queue, durable = made_queue()
    assert queue.leads(1)
    started = [in_thread(queue.leads, number) for number in (2, 3, 4)]
    wait_until(lambda: len(queue._waiters) == 3)
    durable.number = 3
    queue.pass_on()
    for thread, _ in started:
        thread.join(10)
    assert [results for _, results in started] == [[False], [False], [True]]
    durable.number = 4
    queue.pass_on()
    assert not queue.leads(4)
    assert queue.leads(5)


def test_a_thread_that_nobody_wakes_syncs_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_queue, "_MAX_WAIT_SECONDS", 0.01)
    queue, durable = made_queue()
    assert queue.leads(1)  # An interrupt keeps it from passing on.
    assert queue.leads(2)
    durable.number = 2
    queue.pass_on()
    assert queue.leads(3) and not queue._waiters
    durable.number = 4
    assert not queue.leads(4), "somebody else synced it"


@pytest.mark.parametrize("leads", [False, True])
def test_an_interrupted_thread_passes_on(leads: bool) -> None:
    queue, _ = made_queue()
    assert queue.leads(1)

    class Interrupted:
        def __init__(self, lock: Any) -> None:
            self.lock = lock

        def acquire(self, timeout: float) -> bool:
            if leads:
                queue.pass_on()
            raise KeyboardInterrupt

        def release(self) -> None:
            self.lock.release()

    made = commit_queue._Waiter

    def waiter(number: int) -> Any:
        one = made(number)
        one.woken = Interrupted(one.woken)  # type: ignore[assignment]
        return one

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit_queue, "_Waiter", waiter)
        with pytest.raises(KeyboardInterrupt):
            queue.leads(2)
    if not leads:
        queue.pass_on()
    assert queue.leads(3)


def test_all_threads_that_wait_for_a_failing_disk_get_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(str(tmp_path))
    assert list(journal.recover()) == []
    entered, go = threading.Event(), threading.Event()

    def failing(_: int) -> None:
        entered.set()
        assert go.wait(10)
        raise OSError(5, "the disk is broken")

    monkeypatch.setattr(local.disk, "fsync", failing)
    started = [in_thread(journal.commit, journal.append("key", {})) for _ in range(4)]
    assert entered.wait(10)
    wait_until(lambda: len(journal._commits._waiters) == 3)
    go.set()
    for thread, _ in started:
        thread.join(10)
    assert all(isinstance(results[0], StorageError) for _, results in started)
    assert {results[0].applied for _, results in started} == {"unknown"}
    monkeypatch.undo()
    journal.close()


def test_commits_of_threads_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(str(tmp_path))
    assert list(journal.recover()) == []
    monkeypatch.setattr(local.disk, "fsync", lambda _: time.sleep(0.002))

    def work() -> None:
        for _ in range(30):
            number = journal.append("key", {})
            journal.commit(number)
            assert journal.is_durable(number)

    started = [in_thread(work) for _ in range(6)]
    for thread, _ in started:
        thread.join(30)
    assert [results for _, results in started] == [[None]] * 6
    assert journal.syncs <= 180
    monkeypatch.undo()
    journal.close()
