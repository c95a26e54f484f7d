"""Deterministic schedules of threads: one thread runs at a time, and a seed chooses which.

A task is a thread of the simulation. It pauses before it acquires a lock, after it releases one,
and when it waits, starts or joins a thread. It also pauses before each call of the disk. At each
pause the schedule chooses the task that runs next. The same seed gives the same schedule.
"""

from __future__ import annotations

import _thread
import gc
import random
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any

from support.disks import FaultyDisk, using

__all__ = ["Schedule", "ScheduleFailed", "SteppedDisk", "simulated"]

_MAX_STEPS = 400_000
_STAY = (0.0, 0.5, 0.9, 0.97)  # chances that a task continues, of which a seed has one
_TIME_OUT = 0.05  # chance of a wait to time out while other tasks can run
_FRAMES_SHOWN = 8


class ScheduleFailed(AssertionError):
    """Failure of a schedule: no task can run, or the tasks do not end."""


class _Abandoned(BaseException):
    """Ends the other tasks of a schedule that failed."""


class _Task:
    """Thread of a schedule, and what the thread waits for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ident = 0
        self.baton = _thread.allocate_lock()  # the task runs when it gets the baton
        self.baton.acquire()
        self.what = "start"
        self.ready: Callable[[], bool] | None = None
        self.may_time_out = False
        self.is_done = self.is_abandoned = False

    def can_run(self) -> bool:
        return self.ready is None or self.ready()


class Schedule:
    """Order of the steps of some threads, drawn from a seed.

    Parameters
    ----------
    seed : int
        Seed of all choices.

    Attributes
    ----------
    random : random.Random
        Choices of the schedule. A scenario may draw from it, too.
    trace : list of str
        Steps so far: the task, and the call that comes next.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.trace: list[str] = []
        self.errors: list[tuple[str, BaseException]] = []
        self._stay = self.random.choice(_STAY)
        self._main = _Task("main")
        self._main.ident = _thread.get_ident()
        self._alive = [self._main]
        self._tasks = {self._main.ident: self._main}
        self._count = {"lock": 0, "thread": 0}
        self._held: dict[object, list[SimulatedLock]] = {}
        self._orders: dict[tuple[SimulatedLock, SimulatedLock], set[SimulatedLock]] = {}
        self._failure = ""
        self._over = False

    def number(self, kind: str) -> int:
        """Return the number of the next object of a kind."""
        self._count[kind] += 1
        return self._count[kind]

    def current(self) -> object:
        """Return the owner of a lock that the caller acquires."""
        return self._tasks.get(_thread.get_ident()) or _thread.get_ident()

    def pause(
        self, what: str, ready: Callable[[], bool] | None = None, *, may_time_out: bool = False
    ) -> bool:
        """Pause until the schedule chooses the caller as the next task.

        Parameters
        ----------
        what : str
            Call that the caller is about to make, for the trace.
        ready : callable, optional
            Condition for the caller to go on.
        may_time_out : bool
            Whether the caller may go on all the same.

        Returns
        -------
        bool
            Whether the condition holds.
        """
        task = self._tasks.get(_thread.get_ident())
        if task is None:  # the simulation is over, and there is one thread
            return ready is None or ready()
        if self._over:
            if task.is_abandoned or task is self._main:
                return True
            task.is_abandoned = True
            raise _Abandoned
        task.what, task.ready, task.may_time_out = what, ready, may_time_out
        chosen = self._choose(task)
        if chosen is not task:
            chosen.baton.release()
            task.baton.acquire()
            if self._over:
                task.is_abandoned = True
                raise _Abandoned
            if self._failure and task is self._main:
                raise ScheduleFailed(self._failure)
        held = task.can_run()
        task.ready, task.may_time_out = None, False
        self.trace.append(f"{task.name}: {what}")
        return held

    def _choose(self, current: _Task | None) -> _Task:
        """Choose the next task, or the main one where the schedule failed."""
        ready = [task for task in self._alive if task.can_run()]
        waiting = [task for task in self._alive if task.may_time_out and task not in ready]
        if len(self.trace) > _MAX_STEPS:
            return self._fail(f"the tasks do not end after {_MAX_STEPS} steps")
        if not ready and not waiting:
            return self._fail("deadlock")
        if current in ready and self.random.random() < self._stay:
            return current
        if waiting and (not ready or self.random.random() < _TIME_OUT):
            return self.random.choice(waiting)
        return self.random.choice(ready)

    def _fail(self, reason: str) -> _Task:
        if self._failure:
            return self._main
        frames = sys._current_frames()
        lines = [f"seed {self.seed}: {reason}"]
        for task in self._alive:
            lines.append(f"{task.name} waits for: {task.what}")
            stack = [
                line
                for line in traceback.format_stack(frames.get(task.ident))
                if "support/schedules.py" not in line and "threading.py" not in line
            ]
            lines += [line.rstrip() for line in stack[-_FRAMES_SHOWN:]]
        self._failure = "\n".join(lines)
        if self._tasks.get(_thread.get_ident()) is self._main:
            raise ScheduleFailed(self._failure)
        return self._main

    def note_acquired(self, owner: object, lock: SimulatedLock, *, waits: bool) -> None:
        """Note that a task has one lock more, and fail if another order of locks was seen.

        Two tasks that acquire two locks in two orders can wait for each other forever. Only a third
        lock around both, or an acquisition that does not wait, excludes that.
        """
        held = self._held.setdefault(owner, [])
        for before in held if waits and isinstance(owner, _Task) else ():
            others = {other for other in held if other is not before}
            around = self._orders.get((lock, before))
            if around is not None and not around & others:
                raise ScheduleFailed(
                    f"seed {self.seed}: {lock} is acquired under {before}, and the other way round"
                )
            self._orders[before, lock] = self._orders.get((before, lock), others) & others
        held.append(lock)

    def note_released(self, owner: object, lock: SimulatedLock) -> None:
        """Note that a task has one lock less."""
        self._held[owner].remove(lock)

    def add(self, task: _Task) -> None:
        """Add a task: its thread starts."""
        self._alive.append(task)

    def run(self, task: _Task, function: Callable[[], None]) -> None:
        """Run a task on its thread, from its first turn to its end."""
        task.ident = _thread.get_ident()
        task.baton.acquire()
        self._tasks[task.ident] = task
        try:
            if not self._over:
                function()
        except _Abandoned:
            pass
        except BaseException as error:
            self.errors.append((task.name, error))
        finally:
            task.is_done = True
            del self._tasks[task.ident]
            if not self._over:
                self._alive.remove(task)
                self._choose(None).baton.release()

    def end(self) -> list[str]:
        """End the simulation, and return the names of the tasks that had not ended.

        One thread uses the locks from now on.
        """
        left = [task for task in self._alive if task is not self._main and not task.is_done]
        self._over = True
        for task in left:
            if task.baton.locked():
                task.baton.release()
        self._tasks.pop(self._main.ident, None)
        for thread in threading.enumerate():
            if isinstance(thread, SimulatedThread) and thread.task in left:
                threading.Thread.join(thread, 10)
        return [task.name for task in left]


class SimulatedLock:
    """Lock of a schedule, reentrant or not."""

    def __init__(self, schedule: Schedule, *, reentrant: bool) -> None:
        self._schedule = schedule
        self._reentrant = reentrant
        self._owner: object = None
        self._depth = 0
        frame = sys._getframe(1)
        while frame.f_back is not None and __file__ == frame.f_code.co_filename:
            frame = frame.f_back
        place = frame.f_code.co_filename.rpartition("/")[2]
        self._name = f"lock {schedule.number('lock')} of {place}, line {frame.f_lineno}"

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock; another task may run before."""
        owner = self._schedule.current()
        if self._reentrant and self._depth and self._owner is owner:
            self._depth += 1
            return True
        ready = self._is_free if blocking else None
        self._schedule.pause(f"acquire {self._name}", ready, may_time_out=blocking and timeout >= 0)
        if self._depth:
            if blocking and timeout < 0 and isinstance(owner, int):
                raise RuntimeError(f"{self._name} is still locked after the simulation")
            return False
        self._owner, self._depth = owner, 1
        self._schedule.note_acquired(owner, self, waits=blocking and timeout < 0)
        return True

    def release(self) -> None:
        """Release the lock; another task may run after that."""
        if not self._depth:
            raise RuntimeError(f"{self._name} is not locked")
        self._depth -= 1
        if not self._depth:
            self._schedule.note_released(self._owner, self)
            self._owner = None
            self._schedule.pause(f"released {self._name}")

    def locked(self) -> bool:
        """Return whether a task has the lock."""
        return self._depth > 0

    def __repr__(self) -> str:
        return self._name

    def _is_free(self) -> bool:
        return self._depth == 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SimulatedCondition:
    """Condition variable of a schedule, with a lock of its own unless one is given."""

    def __init__(self, schedule: Schedule, lock: SimulatedLock | None = None) -> None:
        self._schedule = schedule
        self._lock = lock or SimulatedLock(schedule, reentrant=False)
        self._waiting: list[object] = []

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until another task notifies; the lock is free meanwhile."""
        token = object()
        self._waiting.append(token)
        self._lock.release()
        try:
            return self._schedule.pause(
                "wait for a condition",
                lambda: token not in self._waiting,
                may_time_out=timeout is not None,
            )
        finally:
            if token in self._waiting:
                self._waiting.remove(token)
            self._lock.acquire()

    def wait_for(self, predicate: Callable[[], bool]) -> bool:
        """Wait until a predicate is true."""
        while not predicate():
            self.wait()
        return True

    def notify(self, count: int = 1) -> None:
        """Wake tasks that wait: the first ones."""
        del self._waiting[:count]

    def notify_all(self) -> None:
        """Wake all tasks that wait."""
        self._waiting.clear()


class SimulatedQueue:
    """Unbounded queue of a schedule, as ``queue.SimpleQueue``."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        """Add an item; another task may run after that."""
        self._items.append(item)
        self._schedule.pause("put into a queue")

    def get(self) -> Any:
        """Wait for an item, and take it."""
        self._schedule.pause("take from a queue", lambda: bool(self._items))
        return self._items.popleft()


class SimulatedEvent:
    """Event of a schedule. A wait with a timeout may time out whenever the schedule chooses."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether the event is set."""
        return self._is_set

    def set(self) -> None:
        """Set the event; another task may run after that."""
        self._is_set = True
        self._schedule.pause("set an event")

    def clear(self) -> None:
        """Clear the event."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set; return whether it is."""
        return self._schedule.pause(
            "wait for an event", self.is_set, may_time_out=timeout is not None
        )


class SimulatedThread(threading.Thread):
    """Thread that runs when its schedule chooses so."""

    def __init__(self, schedule: Schedule, *args: Any, **options: Any) -> None:
        self._number = schedule.number("thread")
        super().__init__(*args, **options)
        self.daemon = True  # a schedule that failed must not keep the process
        self._schedule = schedule
        self.task = _Task(f"{self.name.removeprefix('godb-arrow-')} {self._number}")

    def __hash__(self) -> int:
        return self._number  # sets of threads have the same order in each run

    def start(self) -> None:
        """Start the thread; its first turn comes when the schedule chooses so."""
        self._schedule.add(self.task)
        super().start()
        self._schedule.pause(f"started {self.task.name}")

    def run(self) -> None:
        """Run the target, one turn after another."""
        self._schedule.run(self.task, super().run)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended."""
        ended = self._schedule.pause(
            f"join {self.task.name}",
            lambda: self.task.is_done,
            may_time_out=timeout is not None,
        )
        if ended:
            super().join()

    def is_alive(self) -> bool:
        """Return whether the thread has not ended."""
        return self.ident is not None and not self.task.is_done


class _Threading:
    """Module ``threading`` as the package sees it during a simulation."""

    def __init__(self, schedule: Schedule) -> None:
        self.Lock = partial(SimulatedLock, schedule, reentrant=False)
        self.RLock = partial(SimulatedLock, schedule, reentrant=True)
        self.Condition = partial(SimulatedCondition, schedule)
        self.Event = partial(SimulatedEvent, schedule)
        self.Thread = partial(SimulatedThread, schedule)

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


class _Clock:
    """Replacement of the module ``time``, whose clock advances by a second at each call."""

    def __init__(self) -> None:
        self._now = time.time() + 60  # later than any file

    def time(self) -> float:
        """Return a time later than the last one."""
        self._now += 1
        return self._now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class SteppedDisk(FaultyDisk):
    """Disk whose every call is a step of a schedule.

    Attributes
    ----------
    late : list of str
        Calls after the directory was closed, with the stack of the caller.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule
        self.is_closed = False
        self.late: list[str] = []

    def fsync(self, descriptor: int) -> None:
        """Pause only: no power is cut."""
        self._call("fsync")

    def sync_folder(self, path: str) -> None:
        """Pause only: no power is cut."""
        self._call("sync_folder")

    def _call(self, name: str) -> None:
        self._schedule.pause(f"disk.{name}")
        super()._call(name)
        if self.is_closed:
            stack = traceback.format_stack(sys._getframe(1), _FRAMES_SHOWN)
            self.late.append(f"{name} at\n{''.join(stack)}")


@contextmanager
def simulated(seed: int) -> Iterator[tuple[Schedule, SteppedDisk]]:
    """Simulate the threads and locks that the package makes, and its calls of the disk.

    Parameters
    ----------
    seed : int
        Seed of the schedule.

    Yields
    ------
    tuple of Schedule and SteppedDisk

    Raises
    ------
    ScheduleFailed
        No task can run, or tasks are left at the end.
    """
    schedule = Schedule(seed)
    disk = SteppedDisk(schedule)
    replacements: dict[str, tuple[Any, Any]] = {
        "threading": (threading, _Threading(schedule)),
        "SimpleQueue": (SimpleQueue, partial(SimulatedQueue, schedule)),
        "time": (time, _Clock()),
    }
    replaced = [
        (module, name, before, after)
        for key, module in sorted(sys.modules.items())
        for name, (before, after) in replacements.items()
        if key.startswith("godb_arrow") and getattr(module, name, None) is before
    ]
    # The garbage collector would run finalizers, and so steps, at other places in each run.
    gc.disable()
    for module, name, _, after in replaced:
        setattr(module, name, after)
    left: list[str] = []
    try:
        with using(disk):
            try:
                yield schedule, disk
            finally:
                left = schedule.end()
    finally:
        for module, name, before, _ in replaced:
            setattr(module, name, before)
        gc.enable()
    for task, error in schedule.errors:
        error.add_note(f"seed {seed}, task {task}")
        raise error
    if left:
        raise ScheduleFailed(f"seed {seed}: tasks are left: {left}")
