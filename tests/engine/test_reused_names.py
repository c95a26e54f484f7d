"""Names that collections get again lose no documents, whatever is saved before a kill."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.disks import FaultyDisk, using
from support.engines import crash
from support.settings import LONG

from godb_arrow import Follower, StorageEngine, promote, verify_godb, write_godb
from godb_arrow.engine.replacing import replace_collection

NAMES = ("a", "b", "c")
_SEEDS = 400 if LONG else 2
_STEPS = 24 if LONG else 10
_EVERY = 5 if LONG else 9  # calls of the disk, of which one is tried in a random run
State = dict[str, list[str]]

SCRIPTS = [
    "create b, insert b, rename b a, create b, insert b, checkpoint b",
    "create b, insert b, rename b a, create b, insert b, tag b",
    "create b, insert b, rename b a, create b, insert b, folder b",
    "create b, insert b, rename b a, create b, rename a c, insert c, tag b, save",
    "create b, insert b, rename b a, create b, rename a c, create a, checkpoint a, checkpoint b",
    "create b, insert b, rename b a, crash, create b, insert b, checkpoint b",
    "create b, insert b, rename b a, attach b, checkpoint b",
    "create a, create b, insert a, insert b, rename a t, rename b a, rename t b, save",
    "create a, create b, insert a, insert b, rename a t, rename b a, rename t b, checkpoint b",
    "create a, create b, insert a, insert b, rename a t, rename b a, rename t b, checkpoint a",
    "create a, create b, save, insert a, insert b, rename a t, rename b a, rename t b, tag b",
    "create b, create o, transact b o, rename b a, create b, insert b, checkpoint b",
    "create b, insert b, save, insert b, rename b a, rename a c, create a, insert a, checkpoint a",
    "create b, insert b, drop b, create b, insert b, checkpoint b, drop b, create b, tag b",
    "create b, insert b, rename b a, drop a, create b, insert b, checkpoint b, create a, insert a",
    "create a, tag a, insert a, create c, rename c b, rename a c, rename b t, rename c a, "
    "rename t c, save",
    "create a, insert a, tag a, rename a b, checkpoint b",
    "create a, insert a, tag a, rename a b, rename b c, save",
    "create a, insert a, tag a, drop a",
    "create b, insert b, replace b, rename b a, create b, insert b, tag b",
    "create b, insert b, tag b, replace b, rename b a, create b, replace b, checkpoint b",
    "create c, insert c, tag c, insert c, create b, insert b, rename b a, rename a b, rename c a, "
    "tag a",
]  # fmt: skip


class CopyingDisk(FaultyDisk):
    """Copies a directory before some calls, as a kill at that moment leaves it."""

    def __init__(self, folder: Path, copies: Path, choice: random.Random, every: int) -> None:
        super().__init__()
        self._folder, self._copies = folder, copies
        self._choice, self._every = choice, every
        self.copies: list[Path] = []

    def _call(self, name: str) -> None:
        super()._call(name)
        # A folder without its manifests is what recovery could take for nothing.
        if name == "remove_folder" or self._choice.randrange(self._every) == 0:
            self.copies.append(self._copies / f"{len(self.calls)}-{name}")
            shutil.copytree(self._folder, self.copies[-1])


def state_of(engine: StorageEngine) -> State:
    return {
        name: sorted(document["_id"] for document in engine[name]) for name in engine.collections()
    }


class Run:
    """Operations on an engine, each compared with a model, and after a kill at any moment."""

    def __init__(self, folder: Path, versions: str | None, seed: int, every: int = 1) -> None:
        self.folder, self.copies, self.file = folder / "data", folder / "copies", folder / "x.godb"
        self.options: dict[str, Any] = {} if versions is None else {"versions": versions}
        self.choice, self.every = random.Random(seed), every
        self.model: State = {}
        self.log: list[str] = []
        self.number = 0
        self.engine = self.open(self.folder)

    def open(self, folder: Path, **options: Any) -> StorageEngine:
        return StorageEngine(folder, **self.options, **options)

    def new_id(self) -> str:
        self.number += 1
        return f"{self.number:04d}"

    def do(self, operation: str, *, may_be_killed: bool = False) -> None:
        self.log.append(operation)
        before = {name: list(ids) for name, ids in self.model.items()}
        self.copies.mkdir()
        disk = CopyingDisk(self.folder, self.copies, self.choice, self.every)
        with using(disk):
            verb, *names = operation.split()
            getattr(self, verb)(*names)
        assert state_of(self.engine) == self.model, self.log
        survivor = self.choice.choice([None, *disk.copies]) if may_be_killed else None
        if survivor is not None:
            crash(self.engine)
            shutil.rmtree(self.folder)
            shutil.copytree(survivor, self.folder)
        for copy in disk.copies:
            self.check(copy, [before, self.model])
        shutil.rmtree(self.copies)
        if survivor is not None:
            self.log.append(f"killed at {survivor.name}")
            self.engine = self.open(self.folder)
            self.model = state_of(self.engine)

    def check(self, copy: Path, wanted: list[State]) -> None:
        """Check a directory that a kill left: read, recovered, changed, and saved."""
        context = f"{copy.name} of {self.log}"
        with self.open(copy, read_only=True) as reader:
            assert state_of(reader) in wanted, context
        engine = self.open(copy)
        state = state_of(engine)
        assert state in wanted, context
        way = self.choice.randrange(4)
        if state and way < 2:
            engine[self.choice.choice(sorted(state))].checkpoint()
        if way < 3:
            crash(engine)
            engine = self.open(copy)
            assert state_of(engine) == state, context
        engine.save()
        assert state_of(engine) == state, context
        engine.close()
        with self.open(copy) as engine:
            assert state_of(engine) == state, context
        assert len(list((copy / "collections").iterdir())) == len(state), context
        assert verify_godb(copy).ok, context

    def follow(self) -> None:
        """Check a follower, and the directory that it becomes."""
        target = self.folder.parent / "follower"
        with Follower(self.folder, target) as follower:
            follower.step()
        promote(target)
        with self.open(target) as engine:
            assert state_of(engine) == self.model, self.log
            engine.save()
            assert state_of(engine) == self.model, self.log

    def create(self, name: str) -> None:
        self.engine.create_collection(name)
        self.model[name] = []

    def insert(self, name: str) -> None:
        self.model[name].append(self.new_id())
        self.engine.insert(name, {"_id": self.model[name][-1]})

    def transact(self, *names: str) -> None:
        with self.engine.transaction() as transaction:
            for name in names:
                self.model[name].append(self.new_id())
                transaction[name].insert({"_id": self.model[name][-1]})

    def rename(self, name: str, new_name: str) -> None:
        self.engine.rename_collection(name, new_name)
        self.model[new_name] = self.model.pop(name)

    def drop(self, name: str) -> None:
        self.engine.drop_collection(name)
        del self.model[name]

    def attach(self, name: str) -> None:
        self.model[name] = [self.new_id()]
        write_godb([{"_id": self.model[name][0]}], self.file, name)
        self.engine.load_collection_metadata(self.file)
        self.file.unlink()

    def replace(self, name: str) -> None:
        self.model[name] = [self.new_id()]
        write_godb([{"_id": self.model[name][0]}], self.file, name)
        replace_collection(self.engine, name, str(self.file))
        self.file.unlink()

    def checkpoint(self, name: str) -> None:
        self.engine[name].checkpoint()

    def tag(self, name: str) -> None:
        self.engine.tag(name, self.new_id())

    def folder_of(self, name: str) -> None:
        self.engine[name].to_folder()

    def pack(self, name: str) -> None:
        self.engine[name].pack()

    def save(self) -> None:
        self.engine.save()

    def reopen(self) -> None:
        self.engine.close()
        self.engine = self.open(self.folder)

    def crash(self) -> None:
        crash(self.engine)
        self.engine = self.open(self.folder)

    def next_operations(self) -> list[str]:
        """Return random operations that are possible now."""
        choice, used = self.choice, sorted(self.model)
        free = [name for name in NAMES if name not in self.model]
        verbs = ["reopen", "crash", "save"]
        verbs += ["create", "create", "attach"] if free else []
        verbs += ["insert"] * 4 + ["transact", "drop", "replace"] if used else []
        verbs += ["checkpoint"] * 3 + ["tag", "folder_of", "pack"] if used else []
        verbs += ["rename"] * 4 if used and free else []
        verbs += ["swap"] * 2 if len(used) > 1 and "t" not in used else []
        verb = choice.choice(verbs)
        if verb == "swap":
            one, other = choice.sample(used, 2)
            return [f"rename {one} t", f"rename {other} {one}", f"rename t {other}"]
        if verb == "rename":
            return [f"rename {choice.choice(used)} {choice.choice(free)}"]
        if verb == "transact":
            return [f"transact {' '.join(choice.sample(used, min(2, len(used))))}"]
        if verb in ("create", "attach"):
            return [f"{verb} {choice.choice(free)}"]
        return [verb if verb in ("reopen", "crash", "save") else f"{verb} {choice.choice(used)}"]


@pytest.mark.parametrize("versions", [None, "all"] if LONG else [None])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_name_is_used_again(tmp_path: Path, script: str, versions: str | None) -> None:
    run = Run(tmp_path, versions, 1)
    *before, last = script.replace("folder ", "folder_of ").split(", ")
    run.every = 1 << 30
    for operation in before:
        run.do(operation)
    run.every = 1 if LONG else 6
    run.do(last)
    crash(run.engine)
    run.check(run.folder, [run.model])


def test_a_file_in_place_of_a_dropped_one_stays(tmp_path: Path) -> None:
    run = Run(tmp_path, "all", 1, 1 << 30)
    for operation in ("create b", "insert b", "create a", "insert a", "drop a", "rename b a"):
        run.do(operation)
    leftover = run.folder / "collections" / "a.parts" / "00000001.godb"
    leftover.parent.mkdir()
    leftover.write_bytes(b"of a killed save")
    for operation in ("crash", "checkpoint a", "rename a b"):
        run.do(operation)
    run.do("save")
    run.reopen()
    assert state_of(run.engine) == run.model
    run.engine.close()


@pytest.mark.parametrize("versions", [None, "all"])
def test_random_names(tmp_path: Path, versions: str | None) -> None:
    for seed in range(_SEEDS):
        run = Run(tmp_path / str(seed), versions, seed, _EVERY)
        for _ in range(_STEPS):
            for operation in run.next_operations():
                run.do(operation, may_be_killed=run.choice.randrange(4) == 0)
                if run.log[-1].startswith("killed"):
                    break
        run.engine.close()
        run.follow()
        shutil.rmtree(tmp_path / str(seed))
