"""Engines of this process: one for each directory, and none in a forked child.

A directory that this process has open cannot be opened again. There is one exception, as when the
cell of a notebook runs again. The statement assigns the new engine to the variable of the former
engine, which is closed first.
"""

from __future__ import annotations

import dis
import gc
import logging
import os
import sys
import threading
import weakref
from types import FrameType
from typing import Any, Protocol

from godb_arrow.directory.data_directory import DataDirectory
from godb_arrow.directory.opening import open_directory
from godb_arrow.errors import DirectoryLocked
from godb_arrow.memory.limit import Memory

__all__ = ["close_later", "forget_engine", "note_engine", "open_own_directory"]

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """An engine, with the members that this module uses."""

    @property
    def data_dir(self) -> str:
        """Data directory."""

    @property
    def closed(self) -> bool:
        """Whether the engine was closed."""

    def close(self) -> None:
        """Save and close."""

    def _forget_in_child(self) -> None: ...


_OWN_MODULES = ("godb_arrow.engine.", "godb_arrow.keywords")

_engines: weakref.WeakSet[Any] = weakref.WeakSet()
_opened_at: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_closers: list[threading.Thread] = []


def note_engine(engine: Engine) -> None:
    """Note an engine, and the line that opened it."""
    _engines.add(engine)
    frame = _caller(engine)
    if frame is not None:
        _opened_at[engine] = f"{frame.f_code.co_filename}, line {frame.f_lineno}"


def forget_engine(engine: Engine) -> None:
    """Forget an engine that was closed."""
    _engines.discard(engine)


def close_later(engine: Engine) -> None:
    """Close an engine that is not referenced any longer, on a thread of its own.

    The garbage collector may find it on a thread that has a lock which saving needs. At the end of
    the interpreter this does nothing, since a new thread would never run, and the process would
    hang. The engine was closed at exit before, or could not be saved.
    """
    if sys.is_finalizing():
        return

    def close() -> None:
        try:
            engine.close()
        except Exception:
            logger.exception("closing %r, which nothing used any longer, failed", engine)

    thread = threading.Thread(target=close, name="godb-arrow-closer")
    _closers[:] = [*(closer for closer in _closers if closer.is_alive()), thread]
    try:
        thread.start()
    except RuntimeError:  # the interpreter shuts down
        close()


def open_own_directory(
    data_dir: str | os.PathLike[str], memory: Memory, **options: bool
) -> DataDirectory:
    """Open a data directory; close an unused engine of this process that has it open.

    Parameters
    ----------
    data_dir : path or URL
        The directory.
    memory : Memory
        Memory limit.
    **options
        See :func:`open_directory`.

    Raises
    ------
    DirectoryLocked
        Another process has the directory open, or a used engine of this process.
    """
    try:
        return open_directory(data_dir, memory, **options)
    except DirectoryLocked as error:
        _release_own_lock(data_dir, error)
        return open_directory(data_dir, memory, **options)


def _release_own_lock(data_dir: str | os.PathLike[str], locked: DirectoryLocked) -> None:
    """Close a former engine of this process that is not used any longer.

    Parameters
    ----------
    data_dir : path
        The directory that is locked.
    locked : DirectoryLocked
        The error of the attempt to open it.

    Raises
    ------
    DirectoryLocked
        Another process has the directory open, or an engine of this process that is in use.
    """
    path = os.path.realpath(os.path.expanduser(os.fspath(data_dir)))
    gc.collect()
    for thread in _closers:
        if thread is not threading.current_thread():
            thread.join()
    former = next(
        (
            engine
            for engine in list(_engines)
            if not engine.closed and os.path.realpath(engine.data_dir) == path
        ),
        None,
    )
    if former is None:
        if not _closers:
            raise locked
        return
    if not _is_replaced(former):
        locked.message = "this process has the data directory open already" + (
            f": see {_opened_at[former]}" if former in _opened_at else ""
        )
        locked.advice = "use that engine, or close it first; or open with read_only=True"
        raise locked
    logger.info("%r is closed: the statement that opened it runs again", former)
    former.close()


def _caller(engine: object = None) -> FrameType | None:
    """Return the frame that opens an engine, outside of this package and of subclasses."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        is_initializer = frame.f_code.co_name == "__init__" and "self" in frame.f_locals
        if not name.startswith(_OWN_MODULES) and not is_initializer:
            return frame
        frame = frame.f_back
    return None


def _is_replaced(former: Engine) -> bool:
    """Return whether the statement that opens an engine assigns it to the former's variable."""
    frame = _caller()
    if frame is None:
        return False
    stored = next(
        (
            instruction
            for instruction in dis.get_instructions(frame.f_code)
            if instruction.offset > frame.f_lasti
        ),
        None,
    )
    if stored is None or not stored.opname.startswith("STORE_"):
        return False
    name = stored.argval
    if stored.opname in ("STORE_NAME", "STORE_FAST", "STORE_DEREF"):
        return frame.f_locals.get(name) is former
    if stored.opname == "STORE_GLOBAL":
        return frame.f_globals.get(name) is former
    return False


def _in_child() -> None:
    """Forget the engines after a fork, since they belong to the parent."""
    for engine in list(_engines):
        engine._forget_in_child()
    _engines.clear()
    _closers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
