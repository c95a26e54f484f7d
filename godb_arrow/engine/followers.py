"""Followers of an engine: adding, feeding and ending them."""

from __future__ import annotations

import datetime as dt
import logging
import os
from typing import get_args

from godb_arrow.directory.data_directory import DataDirectory
from godb_arrow.engine.workers import BackgroundFailure, Workers
from godb_arrow.errors import GodbError, InvalidOption
from godb_arrow.options import Durability, parse_duration
from godb_arrow.replication.follower import Follower
from godb_arrow.replication.replica import Replica, ReplicationMode
from godb_arrow.storage.url_options import StorageOptions

__all__ = ["Followers"]


logger = logging.getLogger(__name__)


class Followers:
    """Followers that an engine keeps up to date.

    Parameters
    ----------
    directory : DataDirectory
        Directory that they follow.
    durability : {"interval", "commit", "checkpoint"}
        Durability of the engine.
    syncer : Workers
        Workers that feed the followers.
    failure : BackgroundFailure
        Receives errors of the workers.
    """

    def __init__(
        self,
        directory: DataDirectory,
        durability: Durability,
        syncer: Workers,
        failure: BackgroundFailure,
    ) -> None:
        self._directory = directory
        self._durability = durability
        self._syncer = syncer
        self._failure = failure
        self._replicas: tuple[Replica, ...] = ()  # replaced, never changed: writers iterate it

    def all(self) -> list[Replica]:
        """Return the followers."""
        return list(self._replicas)

    def add(
        self,
        target: str | os.PathLike[str],
        mode: ReplicationMode,
        interval: float | str | dt.timedelta,
        *,
        replace: bool,
        storage_options: StorageOptions = None,
    ) -> Replica:
        """Add a follower; when this returns, the follower has everything.

        Parameters
        ----------
        target, mode, interval, replace, storage_options
            See :meth:`StorageEngine.replicate_to`.

        Returns
        -------
        Replica

        Raises
        ------
        InvalidOption, TargetExists, DirectoryLocked, StorageError
        """
        if mode not in get_args(ReplicationMode):
            raise InvalidOption(
                f"mode is {mode!r}", advice=f"use {' or '.join(get_args(ReplicationMode))}"
            )
        if mode == "acknowledged" and self._durability == "checkpoint":
            raise InvalidOption(
                'nothing is journalled with durability="checkpoint"',
                advice='use another durability, or mode="asynchronous"',
            )
        seconds = parse_duration("interval", interval)
        follower = Follower(
            self._directory.path, target, replace=replace, storage_options=storage_options
        )
        replica = Replica(follower, self._directory.journal, mode, self._remove)
        try:
            replica.step()
        except BaseException:
            follower.close()
            raise
        self._replicas = (*self._replicas, replica)
        self._syncer.add(f"replica {replica.target}", seconds, lambda: self._step(replica))
        self._syncer.start()
        return replica

    def check(self) -> None:
        """Write to each follower that acknowledges changes, before an irrevocable change.

        Raises
        ------
        ReplicationFailed
            A follower cannot be written.
        """
        for replica in self._replicas:
            replica.check()

    def acknowledge(self, number: int | None) -> None:
        """Wait for the followers that acknowledge changes.

        Parameters
        ----------
        number : int or None
            Sequence number of the change; None waits for all files.

        Raises
        ------
        ReplicationFailed
        """
        for replica in self._replicas:
            if replica.mode == "acknowledged":
                self._directory.journal.sync(number)
                replica.acknowledge(number)

    def end(self) -> None:
        """Bring each follower up to date if possible, and stop it."""
        for replica in self._replicas:
            try:
                self._step(replica)
            except GodbError:
                logger.exception("%s is not up to date", replica)
            finally:
                replica.stop()

    def _step(self, replica: Replica) -> None:
        try:
            replica.step()
        except GodbError as error:
            self._failure.note(error)
            raise

    def _remove(self, replica: Replica) -> None:
        self._replicas = tuple(other for other in self._replicas if other is not replica)
        self._syncer.remove(f"replica {replica.target}")
