"""The sending side of replication: one thread that feeds one follower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from godb_arrow.directory.journal import Journal
from godb_arrow.directory.journal_copy import MissingRecords
from godb_arrow.errors import (
    GodbError,
    ReplicationFailed,
)
from godb_arrow.replication.follower import Copied, Follower
from godb_arrow.replication.status import FollowerStatus, follower_status

__all__ = ["Replica", "ReplicationMode"]


ReplicationMode = Literal["asynchronous", "acknowledged"]
_MOST_HELD = 128 << 20  # bytes of a journal that wait for a follower


@dataclass(slots=True, eq=False)
class Replica:
    """A follower that an engine keeps up to date.

    Attributes
    ----------
    mode : {"asynchronous", "acknowledged"}
        Whether a change returns before the follower has it, or after.

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
        """The follower."""
        return self._follower.target

    def status(self) -> FollowerStatus:
        """How far it is."""
        return follower_status(self.target)

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else self.mode
        return f"<Replica {self.target!r}, {state}>"

    def step(self) -> Copied:
        """Bring it up to date now."""
        copied = self._follower.step()
        self._note(self._follower.record)
        return copied

    def _note(self, number: int) -> None:
        self._shipped = number
        # What the follower lacks stays in the journal; but not without end.
        held = number + 1 if self._journal.size <= _MOST_HELD else None
        self._journal.release(self, held, follower=True)

    def acknowledge(self, number: int | None) -> None:
        """Wait until the follower has a record on its disk; without a number, all files, too.

        Raises
        ------
        ReplicationFailed
            It has not, and may never have; here the change is done.
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
                f"the change is done here, but the follower {self.target} has not got it",
                advice="see to the follower, or stop the replica to go on without it",
            ) from error

    def check(self) -> None:
        """Write to the follower that acknowledges changes, before a change that cannot be undone.

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
                f"nothing was changed, since the follower {self.target} cannot be written",
                advice="see to the follower, or stop the replica to go on without it",
            )
            failed.applied = "no"
            raise failed from error

    def stop(self) -> None:
        """Let the follower be; it stays as it is, and can be promoted."""
        if not self._stopped:
            self._stopped = True
            self._remove(self)
            self._journal.release(self, None, follower=True)
            self._follower.close()
