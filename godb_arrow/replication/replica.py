"""Sending side of replication: one thread for each follower of an engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from godb_arrow.directory.journal import Journal
from godb_arrow.directory.journal_copy import MissingRecords
from godb_arrow.display import table_of
from godb_arrow.errors import (
    GodbError,
    ReplicationFailed,
)
from godb_arrow.replication.follower import Copied, Follower
from godb_arrow.replication.status import FollowerStatus, follower_status

__all__ = ["Replica", "ReplicationMode"]


logger = logging.getLogger(__name__)

ReplicationMode = Literal["asynchronous", "acknowledged"]
_MAX_WAITING_BYTES = 128 << 20  # of a journal, kept for a follower


@dataclass(slots=True, eq=False)
class Replica:
    """Follower that an engine updates.

    Attributes
    ----------
    mode : {"asynchronous", "acknowledged"}
        Whether a change returns before or after the follower has it.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     replica = engine.replicate_to(tempfile.mkdtemp())
    ...     replica.step().files, replica.mode
    (0, 'asynchronous')
    """

    _follower: Follower
    _journal: Journal
    mode: ReplicationMode
    _remove: Callable[[Replica], None]
    _shipped: int = 0
    _failure: GodbError | None = None
    _stopped: bool = field(default=False, init=False)

    @property
    def target(self) -> str:
        """Path or URL of the follower."""
        return self._follower.target

    def status(self) -> FollowerStatus:
        """Return the state of the follower."""
        return follower_status(self.target)

    @property
    def lag(self) -> float | None:
        """Seconds since the follower last had all changes; None before the first time."""
        moment = self._follower.caught_up
        return None if moment is None else max(0.0, time.time() - moment)

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else self.mode
        return f"<Replica {self.target!r}, {state}>"

    def _repr_html_(self) -> str:
        state = "stopped" if self._stopped else self.mode
        lag = None if self.lag is None else f"{self.lag:.1f} s"
        return table_of("replica", {"target": self.target, "mode": state, "lag": lag})

    def step(self) -> Copied:
        """Update the follower now."""
        copied = self._follower.step()
        logger.debug(
            "replicated to %s: %d files, %d bytes, last change %d",
            self.target, copied.files, copied.size, self._follower.record,
        )  # fmt: skip
        self._note(self._follower.record)
        return copied

    def _note(self, number: int) -> None:
        self._shipped = number
        # The journal keeps the records that the follower lacks, up to a limit.
        held = number + 1 if self._journal.size <= _MAX_WAITING_BYTES else None
        self._journal.release(self, held, follower=True)

    def acknowledge(self, number: int | None) -> None:
        """Wait until the follower has stored a record, or without a number all files, too.

        Raises
        ------
        ReplicationFailed
            The follower has not confirmed the change, and may never have it. It is applied here.
        """
        if self.mode != "acknowledged" or self._stopped:
            return
        try:
            if number is None:
                self.step()
            elif number > self._shipped:
                try:
                    self._note(self._follower.ship())
                except MissingRecords:
                    self.step()
        except GodbError as error:
            raise ReplicationFailed(
                f"the change is applied here, but the follower {self.target} has not confirmed it",
                advice="repair the follower, or stop the replica to continue without it",
            ) from error

    def check(self) -> None:
        """Write to the follower that acknowledges changes, before a change that is irreversible.

        Raises
        ------
        ReplicationFailed
            The follower cannot be written. ``applied`` is "no".
        """
        if self.mode != "acknowledged" or self._stopped:
            return
        try:
            self.step()
        except GodbError as error:
            failed = ReplicationFailed(
                f"nothing was changed, because the follower {self.target} cannot be written",
                advice="repair the follower, or stop the replica to continue without it",
            )
            failed.applied = "no"
            raise failed from error

    def stop(self) -> None:
        """Stop updating the follower, which can then be promoted."""
        if not self._stopped:
            self._stopped = True
            self._remove(self)
            self._journal.release(self, None, follower=True)
            self._follower.close()
