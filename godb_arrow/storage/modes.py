"""Permission bits of all files that godb_arrow creates, by one rule.

1. A new file gets 0666 without the bits of the umask, which the kernel removes. The umask of the
   process is never changed.
2. A file that replaces another one keeps its mode and its group.
3. A file with documents of another file has no permission that this file or an enclosing folder
   denies. Journal segments, parts, manifests, copies and backups are such files.
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass

from godb_arrow.storage.inside import open_to_read

__all__ = ["UNLIMITED", "Access", "restrict_file"]


logger = logging.getLogger(__name__)
_READ_WRITE = 0o666
_OWNER = 0o700
_GROUP = 0o070
_OTHERS = 0o007
_NO_PERMISSIONS = 0o7000  # set-user-id, set-group-id and sticky bits


@dataclass(frozen=True, slots=True)
class Access:
    """Permissions that new files may have at most.

    Attributes
    ----------
    mode : int
        Bits for reading and writing; all by default.
    group : int or None
        Group to which the group's bits apply; None for any group.

    Examples
    --------
    >>> oct((Access(0o640) & Access(0o604)).new_file)
    '0o600'
    """

    mode: int = _READ_WRITE
    group: int | None = None

    @classmethod
    def of_file(cls, status: os.stat_result) -> Access:
        """Return the access that a file grants."""
        return cls(stat.S_IMODE(status.st_mode) & _READ_WRITE, status.st_gid)

    @classmethod
    def of_folder(cls, status: os.stat_result) -> Access:
        """Return the access that a folder grants to the files in it."""
        return cls(stat.S_IMODE(status.st_mode) & _READ_WRITE)

    def __and__(self, other: Access) -> Access:
        groups = {group for group in (self.group, other.group) if group is not None}
        mode = self.mode & other.mode
        if len(groups) > 1:  # The bits of one group must not apply to the other.
            mode = _without_group(mode, self.mode & other.mode)
        return Access(mode, self.group if other.group is None else other.group)

    @property
    def new_file(self) -> int:
        """Mode of a new file."""
        return self.mode | (_OWNER & _READ_WRITE)

    def restrict(self, descriptor: int) -> None:
        """Remove denied permissions from an open file or folder."""
        self.apply(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode))

    def apply(self, descriptor: int, mode: int) -> None:
        """Set the mode of an open file or folder, without the permissions that are denied."""
        status = os.fstat(descriptor)
        # The permission to read a folder includes entering it. Executing a file reveals nothing.
        execute = (self.mode & 0o444) >> 2 if stat.S_ISDIR(status.st_mode) else 0o111
        mode &= self.mode | _OWNER | _NO_PERMISSIONS | execute
        for_others = _without_group(mode, mode)
        if mode != for_others and self.group is not None and self.group != status.st_gid:
            try:
                os.fchown(descriptor, -1, self.group)
            except OSError:  # Only a member of a group can assign a file to it.
                mode = for_others
        if mode != stat.S_IMODE(status.st_mode):
            os.fchmod(descriptor, mode)


UNLIMITED = Access()
"""Unlimited permissions, subject to the umask."""


def _without_group(mode: int, others: int) -> int:
    """Return a mode that grants the group no more than it grants all others."""
    return (mode & ~_GROUP) | (mode & (others & _OTHERS) << 3)


def restrict_file(path: str, access: Access) -> None:
    """Remove denied permissions from a file inside a folder."""
    with open_to_read(path, is_read=False) as stream:
        try:
            access.restrict(stream.fileno())
        except PermissionError:  # Another user owns the file.
            logger.warning("%s keeps its mode, because another user owns it", path)
