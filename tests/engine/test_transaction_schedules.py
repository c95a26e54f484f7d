"""Transactions beside writers, saves and streams in many orders: all or nothing, the first wins.

Each document has a counter ``n``, which each change of it increases. Transactions read the counter
and write it, so a change that they overlooked would be lost. They also increase ``t`` in the
documents of one id in both collections, and move euros inside of each collection.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.schedules import Schedule, ScheduleFailed, SteppedDisk, simulated
from support.settings import LONG

from godb_arrow import StorageEngine, TransactionConflict
from godb_arrow.engine import transaction, workers

SEEDS = 1_000 if LONG else 6
NAMES = ("a", "b")
KEYS = [f"k{n}" for n in range(5)]
EUROS = 10
TURNS = 6  # of each transaction task, and of the plain writer
Document = tuple[str, str]
"""Name of a collection, and id."""


@dataclass
class Attempt:
    """A change, with the numbers of steps of the schedule between which it happened.

    A transaction reads between `begin` and `begun`, and takes effect between `commit` and `end`.
    """

    documents: set[Document]
    begin: int
    begun: int
    commit: int = 0
    end: int = 0
    conflict: set[Document] = field(default_factory=set)
    is_plain: bool = False


class Bank:
    """Tasks on two collections, and all that they changed."""

    def __init__(
        self, engine: StorageEngine, schedule: Schedule, disk: SteppedDisk, copy_to: Path
    ) -> None:
        self.engine, self.schedule, self.disk = engine, schedule, disk
        self.done: list[Attempt] = []
        self.refused: list[Attempt] = []
        self.open: list[Attempt] = []
        self.copied: tuple[list[Attempt], list[Attempt]] | None = None
        self.working = 0
        self._copy_to = copy_to
        for name in NAMES:
            collection = engine.create_collection(name)
            if schedule.seed % 4:
                collection.to_folder()
            collection.insert_many([{"_id": key, "n": 0, "t": 0, "euros": EUROS} for key in KEYS])
        engine.save()

    def now(self) -> int:
        return len(self.schedule.trace)

    def run(self, **tasks: Callable[[], None]) -> None:
        """Run tasks side by side, to their ends; `working` counts those that write."""

        def task(name: str, function: Callable[[], None]) -> None:
            try:
                function()
            finally:
                self.working -= name.startswith(("transactor", "writer"))

        self.working = sum(name.startswith(("transactor", "writer")) for name in tasks)
        threads = [
            workers.threading.Thread(target=task, args=item, name=item[0]) for item in tasks.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # --- tasks --------------------------------------------------------------------------------

    def transactor(self) -> None:
        """Change documents of both collections, and sometimes roll back."""
        draw = self.schedule.random
        for _ in range(TURNS):
            first, second = draw.sample(KEYS[: draw.choice((2, 5))], 2)
            begin = self.now()
            tx = self.engine.transaction()
            attempt = Attempt({(name, key) for name in NAMES for key in (first, second)},
                              begin, self.now())  # fmt: skip
            for name in NAMES:
                for key, amount in ((first, -1), (second, 1)):
                    found = tx[name].get(key)
                    change = {"n": found["n"] + 1, "euros": found["euros"] + amount}
                    tx[name].update(key, change | {"t": found["t"] + (key == first)})
            assert sum(one["euros"] for one in tx["a"]) == EUROS * len(KEYS)
            if draw.random() < 0.1:
                tx.rollback()
                continue
            attempt.commit = self.now()
            self.open.append(attempt)
            try:
                tx.commit()
            except TransactionConflict as error:
                assert error.collection is not None and error.applied == "no"
                attempt.conflict = {(error.collection, key) for key in error.ids}
                self.refused.append(attempt)
            else:
                self.done.append(attempt)
            finally:
                attempt.end = self.now()
                self.open.remove(attempt)

    def writer(self) -> None:
        """Change documents outside of transactions: one, or several with one call."""
        draw = self.schedule.random
        for _ in range(TURNS):
            collection = self.engine[name := draw.choice(NAMES)]
            keys = draw.sample(KEYS, draw.choice((1, 1, 3)))
            attempt = Attempt({(name, key) for key in keys}, self.now(), self.now(), is_plain=True)
            attempt.commit = attempt.begin
            self.open.append(attempt)
            if len(keys) == 1:
                collection.update(keys[0], {"$inc": {"n": 1}})
            else:
                collection.update_many({"_id": keys}, {"$inc": {"n": 1}})
            attempt.end = self.now()
            self.open.remove(attempt)
            self.done.append(attempt)

    def saver(self) -> None:
        """Save, and sometimes merge files, as long as there are writers."""
        while self.working:
            self.engine.save()
            if self.schedule.random.random() < 0.3:
                self.engine.compact()

    def streamer(self) -> None:
        """Stream each collection, and both in a transaction, as long as there are writers."""
        draw = self.schedule.random
        while self.working:
            name = draw.choice(NAMES)
            if draw.random() < 0.5:
                with self.engine[name].stream(["euros"], threads=2) as stream:
                    euros = [euros for batch in stream for euros in batch["euros"].to_pylist()]
            else:
                euros = [one["euros"] for one in self.engine[name].find_all_stream()]
            assert (len(euros), sum(euros)) == (len(KEYS), EUROS * len(KEYS))
            with self.engine.transaction() as tx:
                first = {one["_id"]: one["t"] for one in tx["a"].find_all_stream()}
                self.schedule.pause("read the other collection")
                assert {one["_id"]: one["t"] for one in tx["b"].find_all_stream()} == first

    def copier(self) -> None:
        """Copy the directory, as a kill at that moment leaves it."""
        draw, trace = self.schedule.random, self.schedule.trace
        ends = len(trace) + draw.randrange(2_000)
        is_inside = draw.random() < 0.7  # of the commit of a transaction

        def is_time() -> bool:
            if not self.working:
                return True
            is_committing = any(not attempt.is_plain for attempt in self.open)
            is_inside_now = is_committing and "disk.write" in trace[-1]
            return len(trace) >= ends and (is_inside_now or not is_inside)

        self.schedule.pause("wait to copy", is_time)
        self.copied = list(self.done), list(self.open)
        shutil.copytree(self.engine.data_dir, self._copy_to)

    # --- at the end ---------------------------------------------------------------------------

    def check(self) -> None:
        with StorageEngine(self.engine.data_dir) as engine:
            check_documents(engine, self.done, [])
        if self.copied is not None:
            with StorageEngine(self._copy_to) as killed:
                check_documents(killed, *self.copied)
        for attempt in self.done:
            if not attempt.is_plain:
                overlooked = [
                    other
                    for other in self.done
                    if other is not attempt
                    and other.documents & attempt.documents
                    and attempt.begun < other.commit
                    and other.end < attempt.commit
                ]
                assert not overlooked, f"{attempt} came after {overlooked}"
        for attempt in self.refused:
            assert attempt.conflict and attempt.conflict <= attempt.documents
            for document in attempt.conflict:
                assert any(
                    document in other.documents
                    and other.end > attempt.begin
                    and other.commit < attempt.end
                    for other in self.done
                ), f"nothing changed {document} beside {attempt}"


def check_documents(engine: StorageEngine, done: list[Attempt], maybe: list[Attempt]) -> None:
    """Check that all changes happened, and of others all or nothing."""
    found = {name: {one["_id"]: one for one in engine[name].find()} for name in NAMES}
    for documents in found.values():
        assert sorted(documents) == KEYS
        assert sum(one["euros"] for one in documents.values()) == EUROS * len(KEYS)
    assert all(found["a"][key]["t"] == found["b"][key]["t"] for key in KEYS)
    happened: Counter[Document] = Counter()
    for attempt in done:
        happened.update(attempt.documents)
    left = Counter({(name, key): found[name][key]["n"] for name in NAMES for key in KEYS})
    left.subtract(happened)
    assert min(left.values()) >= 0, "a change was lost"
    options = [Counter[Document]()]
    for attempt in maybe:
        options += [option + Counter(attempt.documents) for option in options]
    assert +left in options, f"{+left} is not of whole changes {maybe}"


def play(folder: Path, seed: int) -> tuple[Bank, list[str]]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        with simulated(seed) as (schedule, disk):
            engine = StorageEngine(
                folder / "data",
                durability=("interval", "commit")[seed % 2],
                sync_interval=1,
                part_size="16KiB",
                part_grace=0.001,
                threads=2,
            )
            bank = Bank(engine, schedule, disk, folder / "copy")
            bank.run(
                transactor1=bank.transactor,
                transactor2=bank.transactor,
                writer=bank.writer,
                saver=bank.saver,
                streamer=bank.streamer,
                copier=bank.copier,
            )
            engine.close()
            disk.is_closed = True
        bank.check()
    except ScheduleFailed:
        raise
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    return bank, schedule.trace


def test_transactions_are_whole_and_the_first_wins_in_any_order(tmp_path: Path) -> None:
    done: Counter[str] = Counter()
    for seed in range(SEEDS):
        bank, _ = play(tmp_path / "bank", seed)
        done["transactions"] += sum(not one.is_plain for one in bank.done)
        done["conflicts"] += len(bank.refused)
        done["under way in a copy"] += bool(bank.copied and bank.copied[1])
    assert done["transactions"] > 3 * SEEDS
    assert done["conflicts"] > SEEDS / 2
    assert done["under way in a copy"] > SEEDS / 10


def test_a_seed_gives_the_same_schedule_again(tmp_path: Path) -> None:
    _, first = play(tmp_path / "bank", 3)
    _, again = play(tmp_path / "bank", 3)
    assert again == first


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the last committer win."""
    monkeypatch.setattr(transaction, "_check", lambda _: None)


def divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a record for each collection."""
    journaled = transaction.Transaction._journaled

    def several(self: Any, meta: Any, parts: Any, plans: Any) -> int:
        last = 0
        for number, plan in enumerate(plans):
            described = {**meta, "w": [meta["w"][number]]}
            last = journaled(self, described, [parts[number]], [plan])
        return last

    monkeypatch.setattr(transaction.Transaction, "_journaled", several)


@pytest.mark.parametrize("fault", [unchecked, divided] if LONG else [unchecked])
def test_faults_of_transactions_are_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch], None],
) -> None:
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        for seed in range(100):
            play(tmp_path / "bank", seed)
