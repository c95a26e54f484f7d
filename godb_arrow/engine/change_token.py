"""Tokens of the change feed: positions in the changes of a directory, as text."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import msgpack
import xxhash

from godb_arrow.errors import InvalidCursor
from godb_arrow.file.hints import JournalPosition

__all__ = ["ChangeToken"]

_FORMAT = 1
_CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class ChangeToken:
    """Position after a change.

    Attributes
    ----------
    position : JournalPosition
        Run and sequence number of the last change.
    collection : str or None
        Name of the collection whose changes are read; None for all collections.
    offset : tuple of int or None
        Segment and offset of the record after the change, where it probably is.
    version : tuple of (int, float) or None
        Number and time of the saved version with exactly these changes, if there is one.
    begun : bytes
        UUID of a later run of the journal, which has no change yet; empty without such a run.

    Examples
    --------
    >>> token = ChangeToken(JournalPosition(bytes(16), 7), "users")
    >>> ChangeToken.unpack(token.pack()) == token
    True
    """

    position: JournalPosition
    collection: str | None = None
    offset: tuple[int, int] | None = None
    version: tuple[int, float] | None = None
    begun: bytes = b""

    def pack(self) -> str:
        """Return the token as text."""
        fields = [
            _FORMAT, self.position.run, self.position.number, self.collection,
            self.offset, self.version,
        ]  # fmt: skip
        if self.begun not in (b"", self.position.run):
            fields.append(self.begun)
        data: bytes = msgpack.packb(fields, unicode_errors="surrogateescape")
        data += xxhash.xxh32_digest(data)
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    @classmethod
    def unpack(cls, token: object) -> ChangeToken:
        """Return the token of a text.

        Raises
        ------
        InvalidCursor
            The text is no token.
        """
        try:
            if not isinstance(token, str):
                raise TypeError
            padded = token + "=" * (-len(token) % 4)
            data = base64.b64decode(padded, altchars=b"-_", validate=True)
            packed, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
            if xxhash.xxh32_digest(packed) != checksum:
                raise ValueError
            content = msgpack.unpackb(packed, unicode_errors="surrogateescape", use_list=False)
            number_of_format, run, number, collection, offset, version, *later = content
            if number_of_format != _FORMAT or len(later) > 1:
                raise ValueError
            return cls(JournalPosition(run, number), collection, offset, version, *later)
        except (binascii.Error, ValueError, TypeError, msgpack.UnpackException) as error:
            raise InvalidCursor(
                f"{token!r} is not a token of changes",
                advice="give the token of a snapshot or of an earlier feed",
            ) from error
