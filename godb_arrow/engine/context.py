"""Context of an engine: what its collections, its saver and its workers share."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

from godb_arrow.directory.data_directory import DataDirectory
from godb_arrow.engine.followers import Followers
from godb_arrow.engine.lifecycle import Lifecycle
from godb_arrow.memory.limit import Memory
from godb_arrow.options import EngineOptions

__all__ = ["EngineContext"]


@dataclass(slots=True)
class EngineContext:
    """Options, directory, memory and state of an engine. All of them know no collection.

    Attributes
    ----------
    options : EngineOptions
        Options of the engine.
    directory : DataDirectory
        Files and journal.
    memory : Memory
        Memory limit.
    lifecycle : Lifecycle
        State of the engine, with its checks.
    followers : Followers
        Followers that acknowledge changes.
    streams : WeakSet
        Open streams.
    turn : RLock or None
        Lock of the thread that inserts a document; None where each insert waits for the disk.
    """

    options: EngineOptions
    directory: DataDirectory
    memory: Memory
    lifecycle: Lifecycle
    followers: Followers
    streams: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    turn: threading.RLock | None = None

    def __post_init__(self) -> None:
        if self.options.durability != "commit":
            self.turn = threading.RLock()

    def sync(self, number: int | None) -> None:
        """Wait until a change is as durable as the engine promises.

        Parameters
        ----------
        number : int or None
            Sequence number of the change; None if the journal has no record of it.

        Raises
        ------
        StorageError, ReplicationFailed
        """
        if number is None:
            return
        if self.options.durability == "commit":
            self.directory.journal.commit(number)
        self.followers.acknowledge(number)
