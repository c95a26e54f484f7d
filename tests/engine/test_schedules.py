"""Writers, savers, compactors and closers in many orders: nothing acknowledged is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
from support.schedules import Schedule, ScheduleFailed, SteppedDisk, simulated
from support.settings import LONG

import godb_arrow
from godb_arrow import (
    CollectionNotFound,
    DocumentNotFound,
    EngineClosed,
    StorageEngine,
    VersionNotFound,
)
from godb_arrow.engine import workers
from godb_arrow.options import Durability

SEEDS = 750 if LONG else 5  # of each scenario
DURABILITIES = get_args(Durability)
LIMIT = "1MiB"
TEXT = "some text " * 12
LARGE = 1200  # documents: a stream of them has threads
ROUNDS = 8  # of each writer
READS = ("documents", "batches", "version", "numbers", "page")


def open_engine(folder: Path, seed: int, **options: Any) -> StorageEngine:
    return StorageEngine(
        folder, durability=DURABILITIES[seed % 3], sync_interval=1, part_size="16KiB",
        part_grace=0.001, max_memory=LIMIT, threads=2, **options,
    )  # fmt: skip


@dataclass
class Change:
    """Values that a verb gives to documents, and the verb's collection."""

    where: int
    values: dict[str, int | None]  # None: deleted


@dataclass
class Model:
    """Documents that must be there, by key, and changes under way, which may be.

    Each key is one task's. Collections have numbers: their names may change.
    """

    sure: dict[str, int] = field(default_factory=dict)
    owner: dict[str, int] = field(default_factory=dict)  # the collection of a key
    open: list[Change] = field(default_factory=list)
    names: dict[int, set[str | None]] = field(default_factory=dict)  # None: not there

    def begin(self, where: int, values: dict[str, int | None]) -> Change:
        change = Change(where, values)
        self.open.append(change)
        self.owner.update(dict.fromkeys(values, where))
        return change

    def end(self, change: Change, applied: str) -> None:
        if applied == "unknown":
            return
        self.open.remove(change)
        if applied == "yes":
            for key, value in change.values.items():
                self.sure.pop(key, None)
                if value is not None:
                    self.sure[key] = value

    def copy(self) -> Model:
        return Model(
            dict(self.sure), dict(self.owner), list(self.open),
            {number: set(names) for number, names in self.names.items()},
        )  # fmt: skip

    def check(self, engine: StorageEngine) -> None:
        """Check that the engine has what must be there, and nothing that must not."""
        there = set(engine.collections())
        homes = {number: names & there for number, names in self.names.items()}
        for number, names in self.names.items():
            assert homes[number] or None in names, f"collection {names} is not there"
        allowed = {name for names in self.names.values() for name in names}
        assert there <= allowed, f"{there - allowed} must not be there"
        found: dict[str, int] = {}
        for name in there:
            documents = list(engine[name].find_all_stream())
            assert len(engine[name]) == len(documents)
            assert len({document["_id"] for document in documents}) == len(documents)
            for document in documents:
                key = document["k"]
                assert key not in found, f"{key} is there twice"
                assert name in homes[self.owner[key]], f"{key} is in {name}"
                found[key] = document["v"]
        expected = {key: value for key, value in self.sure.items() if homes[self.owner[key]]}
        unsure = {number for number, names in self.names.items() if None in names}
        for change in self.open:
            now = [found.get(key) for key in change.values]
            before = [expected.get(key) for key in change.values]
            after = list(change.values.values())
            gone = [None] * len(now) if change.where in unsure else before
            assert now in (before, after, gone), f"{change.values} is {now}, was {before}"
            for key, value in zip(change.values, now, strict=True):
                expected.pop(key, None)
                if value is not None:
                    expected[key] = value
        for number in unsure:  # perhaps its name is another collection's by now
            keys = [key for key in self.owner if self.owner[key] == number]
            if not any(key in found for key in keys):
                for key in keys:
                    expected.pop(key, None)
        assert found == expected


class Story:
    """Tasks that use an engine, a copy of its directory on the way, and what must be there."""

    def __init__(
        self, engine: StorageEngine, schedule: Schedule, disk: SteppedDisk, copy_to: Path
    ) -> None:
        self.engine = engine
        self.schedule = schedule
        self.disk = disk
        self.model = Model()
        self.late: list[str] = []
        self.handles: dict[int, godb_arrow.Collection] = {}
        self.not_found: set[int] = set()
        self.working = self.writers = 0  # tasks
        self.copy: Model | None = None  # when the directory was copied
        self._copy_to = copy_to
        for name in ("a", "b"):
            self._note(engine.create_collection(name), name)
        for name in ("a", "b"):
            engine[name].to_folder()
        for turn in range(4):  # small files, to be joined
            for number, name in enumerate(("a", "b")):
                keys = [f"{name}{turn}.{n}" for n in range(5)]
                added: dict[str, int | None] = dict.fromkeys(keys, turn)
                documents = [{"_id": key, "k": key, "v": turn} for key in keys]
                self.change(number, added, engine[name].insert_many, documents)
            engine.save()

    def add_large(self) -> None:
        """Add a collection whose streams have threads."""
        large = self.engine.create_collection("large")
        self._note(large, "large")
        for first in range(0, LARGE, 400):
            keys = [f"l{n}" for n in range(first, first + 400)]
            large.insert_many([{"_id": key, "k": key, "v": 0} for key in keys])
            self.model.owner.update(dict.fromkeys(keys, len(self.handles) - 1))
            self.model.sure.update(dict.fromkeys(keys, 0))
        self.engine.save()

    def _note(self, collection: godb_arrow.Collection, name: str) -> int:
        number = len(self.model.names)
        self.handles[number] = collection
        self.model.names[number] = {name}
        return number

    def change(
        self, where: int, values: dict[str, int | None], verb: Callable[..., Any], *arguments: Any
    ) -> Any:
        """Run a verb that changes documents, and note how that ended."""
        change = self.model.begin(where, values)
        try:
            result = verb(*arguments)
        except godb_arrow.GodbError as error:
            self.model.end(change, error.applied)
            if isinstance(error, CollectionNotFound):
                self.not_found.add(where)
            raise
        self.model.end(change, "yes")
        return result

    def until_closed(self, steps: Iterator[Any], is_writer: bool) -> None:
        """Take the steps of a task; the engine may be closed, or a collection dropped."""
        try:
            for _ in steps:
                pass
        except EngineClosed:
            assert self.engine._lifecycle.is_closing or self.engine.closed
        except CollectionNotFound:
            pass  # the collections that were not dropped are checked at the end
        finally:
            self.working -= 1
            self.writers -= is_writer

    def run(self, **tasks: Callable[[], Iterator[Any]]) -> None:
        """Run tasks side by side, to their ends."""
        threads = [
            workers.threading.Thread(
                target=self.until_closed, args=(task(), is_writer(name)), name=name
            )
            for name, task in tasks.items()
        ]
        self.working = len(threads)
        self.writers = sum(map(is_writer, tasks))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # --- tasks --------------------------------------------------------------------------------

    def writer(self, number: int) -> Iterator[None]:
        """Insert, update, upsert and delete documents of its own."""
        draw = self.schedule.random
        ids: dict[tuple[int, str], str] = {}
        for turn in range(ROUNDS):
            where = draw.choice((0, 1, *self.handles))
            target = self.handles[where]
            keys = [f"w{number}.{turn}.{n}" for n in range(draw.choice((1, 3, 70)))]
            documents = [{"k": key, "v": turn, "text": TEXT} for key in keys]
            if draw.random() < 0.5:
                documents = [{"_id": document["k"], **document} for document in documents]
            values: dict[str, int | None] = dict.fromkeys(keys, turn)
            verb = draw.choice(("insert", "update", "upsert", "delete"))
            own = [key for key in ids if key[0] == where]
            if verb == "insert" or len(own) < 4:
                if len(keys) == 1:
                    made = [self.change(where, values, target.insert, documents[0])]
                else:
                    made = self.change(where, values, target.insert_many, documents)
                ids.update(zip([(where, key) for key in keys], made, strict=True))
            else:
                chosen = draw.sample(own, draw.choice((1, 3)))
                values = {key: turn if verb != "delete" else None for _, key in chosen}
                if verb == "update":
                    changes = {ids[one]: {"v": turn} for one in chosen}
                    self.change(where, values, target.update_by_id, changes)
                elif verb == "upsert":
                    documents = [{"_id": ids[one], "k": one[1], "v": turn} for one in chosen]
                    self.change(where, values, target.upsert_many, documents)
                else:
                    for one in chosen:
                        identity = ids.pop(one)
                        self.change(where, {one[1]: None}, target.delete, identity)
            yield

    def saver(self) -> Iterator[None]:
        """Save again and again as long as there are writers."""
        for _ in range(20):
            yield self.engine.save()
            if not self.writers:
                return

    def compactor(self) -> Iterator[Any]:
        """Compact again and again as long as there are writers."""
        for _ in range(40):
            yield self.engine.compact()
            if not self.writers:
                return

    def namer(self, prefix: str = "n") -> Iterator[None]:
        """Create, rename and drop collections."""
        draw = self.schedule.random
        known: list[int] = []
        for turn in range(ROUNDS):
            step = draw.choice(("create", "rename", "drop")) if known else "create"
            if step == "create":
                name, number = f"{prefix}{turn % 4}", len(self.model.names)
                if any(name in self.model.names[one] for one in known):
                    continue
                self.model.names[number] = {name, None}
                with self._naming(number, {None}, {name}):
                    self.handles[number] = self.engine.create_collection(name)
                known.append(number)
            else:
                number = draw.choice(known)
                (before,) = self.model.names[number]
                assert before is not None
                after = None if step == "drop" else f"{prefix}r{turn}"
                self.model.names[number] = {before, after}
                with self._naming(number, {before}, {after}):
                    if after is None:
                        known.remove(number)
                        del self.handles[number]
                        self.engine.drop_collection(before)
                    else:
                        self.engine.rename_collection(before, after)
            yield

    def _naming(self, number: int, before: set[str | None], after: set[str | None]) -> Any:
        return _Naming(self.model, number, before, after)

    def reader(self) -> Iterator[None]:
        """Read collections; some streams are left before their ends."""
        draw = self.schedule.random
        for _ in range(8):
            collection = draw.choice(list(self.handles.values()))
            with suppress(CollectionNotFound, VersionNotFound, DocumentNotFound):
                self._read(collection, draw.choice(READS))
            yield

    def _read(self, collection: godb_arrow.Collection, how: str) -> None:
        draw = self.schedule.random
        if how == "documents":
            keys = [document["k"] for document in collection.find_all_stream()]
            assert len(set(keys)) == len(keys)
        elif how == "batches":
            with collection.stream(threads=2) as stream:
                for _ in stream:
                    if draw.random() < 0.2:
                        break
        elif how == "version":
            for info in collection.versions():
                version = collection.at_version(info.version)
                assert len(list(version)) == len(version) == info.documents
        elif how == "numbers":
            assert collection.info().documents >= 0
            assert collection.indexes == ()
            assert collection.count({"v": 0}) >= 0
        else:
            page = collection.find_page(limit=3)
            for document in page.documents:
                assert collection.get(document["_id"])["k"] == document["k"]

    def _wait(self, purpose: str) -> None:
        """Wait for some steps of other tasks, perhaps until one writes, or until none works."""
        draw, trace = self.schedule.random, self.schedule.trace
        ends = len(trace) + draw.random() * draw.choice((500, 2000, 5000))
        step = draw.choice(("", "disk.", "disk.replace"))

        def is_time() -> bool:
            return self.working <= 0 or (len(trace) >= ends and step in trace[-1])

        self.working -= 1
        self.schedule.pause(f"wait to {purpose}", is_time)
        self.working += 1

    def closer(self) -> Iterator[None]:
        """Close the engine after a while."""
        self._wait("close")
        yield
        self.engine.close()
        self.disk.is_closed = True

    def copier(self) -> Iterator[None]:
        """Copy the directory, as a kill at that moment leaves it."""
        self._wait("copy")
        self.copy = self.model.copy()
        shutil.copytree(self.engine.data_dir, self._copy_to)
        yield

    def bulk(self, number: int) -> Iterator[None]:
        """Insert more than memory holds, from a generator that uses the engine."""
        target = self.engine["a"]
        keys = [f"g{number}.{n}" for n in range(700)]

        def documents() -> Iterator[dict[str, Any]]:
            for index, key in enumerate(keys):
                if index % 150 == 7:
                    own = f"h{number}.{index}"
                    document = {"k": own, "v": index}
                    self.change(0, {own: index}, target.insert, document)
                    assert len(target.find({"k": own})) == 1
                if index % 400 == 8:
                    self.engine.save()
                document = {"k": key, "v": number, "text": TEXT * 8}
                yield document if number == 1 else {"_id": key, **document}

        self.change(0, dict.fromkeys(keys, number), target.insert_many, documents())
        yield

    # --- at the end ---------------------------------------------------------------------------

    def check(self) -> None:
        assert not self.disk.late, "written after close():\n" + "\n".join(self.disk.late)
        for number in self.not_found:
            assert None in self.model.names[number], "not found, but never dropped"
        with StorageEngine(self.engine.data_dir) as again:
            self.model.check(again)
        if self.copy is not None and self.engine.options.durability != "checkpoint":
            with StorageEngine(self._copy_to) as killed:
                self.copy.check(killed)


def is_writer(task: str) -> bool:
    return task.startswith(("writer", "bulk"))


class _Naming:
    """Notes which names a collection may have, when a verb has ended."""

    def __init__(
        self, model: Model, number: int, before: set[str | None], after: set[str | None]
    ) -> None:
        self._names = model.names
        self._number = number
        self._ends = {"no": before, "yes": after}

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        applied = "yes" if error is None else getattr(error, "applied", "unknown")
        if applied in self._ends:
            self._names[self._number] = self._ends[applied]


def play(folder: Path, seed: int, scenario: Callable[[Story], None]) -> list[str]:
    """Play a scenario with a seed, check the directory, and return the trace."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        with simulated(seed) as (schedule, disk):
            engine = open_engine(folder / "data", seed)
            story = Story(engine, schedule, disk, folder / "copy")
            scenario(story)
            engine.close()
            disk.is_closed = True
        story.check()
    except ScheduleFailed:
        raise
    except BaseException as error:
        error.add_note(f"seed {seed}, durability {DURABILITIES[seed % 3]}")
        raise
    return schedule.trace


def everything(story: Story) -> None:
    story.add_large()
    story.run(
        writer1=lambda: story.writer(1),
        writer2=lambda: story.writer(2),
        writer3=lambda: story.writer(3),
        saver=story.saver,
        compactor=story.compactor,
        namer1=lambda: story.namer("n"),
        namer2=lambda: story.namer("m"),
        reader=story.reader,
        closer=story.closer,
        copier=story.copier,
    )


def with_workers(story: Story) -> None:
    """The saver and the closer are workers of the engine, and another thread closes it, too."""
    story.engine.add_worker("saver", 1, story.engine.save)
    story.engine.start_background_workers()
    story.run(
        writer1=lambda: story.writer(1),
        writer2=lambda: story.writer(2),
        compactor=story.compactor,
        namer=story.namer,
        closer1=story.closer,
        closer2=story.closer,
        copier=story.copier,
    )


def with_bulks(story: Story) -> None:
    story.run(
        bulk1=lambda: story.bulk(1),
        bulk2=lambda: story.bulk(2),
        writer=lambda: story.writer(1),
        saver=story.saver,
        compactor=story.compactor,
        closer=story.closer,
        copier=story.copier,
    )


def with_names(story: Story) -> None:
    """A collection is renamed, dropped and saved while others write and read it."""

    def change(number: int) -> Iterator[None]:
        for turn in range(3):
            keys = [f"c{number}.{turn}.{n}" for n in range(3)]
            documents = [{"_id": key, "k": key, "v": 0} for key in keys]
            added: dict[str, int | None] = dict.fromkeys(keys, 0)
            story.change(moved, added, target.insert_many, documents)
            changes = {key: {"v": 1} for key in keys[:2]}
            updated: dict[str, int | None] = dict.fromkeys(keys[:2], 1)
            story.change(moved, updated, target.update_by_id, changes)
            story.change(moved, {keys[2]: None}, target.delete, keys[2])
            yield

    def name() -> Iterator[None]:
        for turn, after in enumerate(("n1", "n2", None if story.schedule.seed % 2 else "n3")):
            before = f"n{turn}"
            story.model.names[moved] = {before, after}
            with story._naming(moved, {before}, {after}):
                if after is None:
                    story.engine.drop_collection(before)
                else:
                    story.engine.rename_collection(before, after)
            yield story.engine.save()

    target = story.engine.create_collection("n0")
    moved = story._note(target, "n0")
    story.engine.save()
    story.run(writer1=lambda: change(1), writer2=lambda: change(2), namer=name,
              reader=story.reader, saver=story.saver)  # fmt: skip


SCENARIOS = {
    "everything": everything,
    "workers": with_workers,
    "bulks": with_bulks,
    "names": with_names,
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost_in_any_order(tmp_path: Path, scenario: str) -> None:
    for seed in range(SEEDS):
        play(tmp_path / "story", seed, SCENARIOS[scenario])


@pytest.mark.parametrize("scenario", ["everything", "workers"])
def test_a_seed_gives_the_same_schedule_again(tmp_path: Path, scenario: str) -> None:
    first = play(tmp_path / "story", 5, SCENARIOS[scenario])
    again = play(tmp_path / "story", 5, SCENARIOS[scenario])
    assert again == first
    assert play(tmp_path / "story", 8, SCENARIOS[scenario]) != first


def test_two_orders_of_locks_are_reported_and_deadlocks_with_their_stacks() -> None:
    def play_two_locks(seed: int) -> None:
        with simulated(seed):
            simulated_threading: Any = workers.threading
            locks = [simulated_threading.Lock(), simulated_threading.Lock()]

            def take(first: int, second: int) -> None:
                with locks[first], locks[second]:
                    pass

            threads = [
                simulated_threading.Thread(target=take, args=order, name=f"taker{order[0]}")
                for order in ((0, 1), (1, 0))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    deadlocks, orders = [], []
    for seed in range(10):
        with pytest.raises(ScheduleFailed) as failed:
            play_two_locks(seed)
        found = str(failed.value)
        (deadlocks if "deadlock" in found else orders).append(found)
    assert deadlocks and orders  # the order alone is a fault, also where nothing came of it
    for failure in deadlocks:
        assert "taker0" in failure
        assert "with locks[first], locks[second]" in failure
        assert "waits for: acquire lock" in failure
    assert all("the other way round" in failure for failure in orders)


def test_a_save_leaves_no_thread(tmp_path: Path) -> None:
    """The last thread that reads documents may start after it is needed."""
    for seed in range(750 if LONG else 30):
        with simulated(seed), StorageEngine(tmp_path / str(seed), threads=2) as engine:
            found = engine.create_collection("c")
            found.to_folder()
            for _ in range(2):
                found.insert_many([{"n": n} for n in range(70)])
                engine.save()
            found.insert({"n": 1})
