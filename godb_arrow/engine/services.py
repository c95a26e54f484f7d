"""Services that an engine offers to its collections."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from godb_arrow.directory.data_directory import DataDirectory
from godb_arrow.memory.limit import Memory
from godb_arrow.options import EngineOptions

__all__ = ["Reservation", "Services"]


logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Services:
    """What the collections of an engine share.

    Attributes
    ----------
    options : EngineOptions
        How the engine works.
    directory : DataDirectory
        Where files and journal are.
    memory : Memory
        What may be taken.
    reserve : callable
        Reserves the bytes that a change will take; saves others' changes where needed.
    check_writable : callable
        Raises when the engine is closed or may not write.
    check_open : callable
        Raises when the engine is closed.
    check_process : callable
        Raises in a forked child of the process that opened the engine.
    acknowledge : callable
        Waits until followers have a record of the journal, or, without one, all files; where
        somebody wants that.
    look_again : callable
        Called with a collection that is only read and its base, whose files are gone. Gives the
        collection the current ones; returns whether they differ.
    streams : WeakSet
        The streams that are open.
    """

    options: EngineOptions
    directory: DataDirectory
    memory: Memory
    reserve: Callable[[object, int], None]
    check_writable: Callable[[], None]
    check_open: Callable[[], None]
    check_process: Callable[[], None]
    acknowledge: Callable[[int | None], None]
    look_again: Callable[[Any, Any], bool]
    streams: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)

    def reserved(self, size: int) -> Reservation:
        """Reserve memory for a change, until it is made and counted.

        The caller holds no lock of a collection: saving others' changes may need it.

        Raises
        ------
        MemoryLimitExceeded
            The memory cannot be reserved when the context is entered.
        """
        return Reservation(self, size)


class Reservation:
    """Memory that is reserved for a change while the context lasts."""

    # A class, and no generator: every insert enters one.
    __slots__ = ("_services", "_size")

    def __init__(self, services: Services, size: int) -> None:
        self._services = services
        self._size = size

    def __enter__(self) -> None:
        try:
            self._services.reserve(self, self._size)
        except BaseException:
            self._services.memory.release(self)
            raise

    def __exit__(self, *_: object) -> None:
        self._services.memory.release(self)
