"""Rules of a collection beside its indexes, as files and the journal have them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

import msgpack

from godb_arrow.errors import CorruptFile, UnsupportedVersion

__all__ = ["Rules"]

_VALIDATION, _EXPIRY = "validation", "expiry"
_MAX_SECONDS = dt.timedelta.max.total_seconds()


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of a collection.

    Attributes
    ----------
    validation : dict or None
        What validates the documents, in plain values.
    expiry : dict of str to float
        Seconds after which documents expire, by the field that has their time.
    """

    validation: dict[str, Any] | None = None
    expiry: dict[str, float] = field(default_factory=dict)

    def pack(self) -> bytes:
        """Pack the rules; no rules are no bytes."""
        content: dict[str, Any] = {}
        if self.validation is not None:
            content[_VALIDATION] = self.validation
        if self.expiry:
            content[_EXPIRY] = self.expiry
        packed: bytes = msgpack.packb(content, unicode_errors="surrogateescape")
        return packed if content else b""

    @classmethod
    def unpack(cls, packed: bytes) -> Rules:
        """Unpack rules, which may be damaged.

        Raises
        ------
        CorruptFile
        UnsupportedVersion
            They have a rule that this program does not know.
        """
        if not packed:
            return cls()
        try:
            content = msgpack.unpackb(packed, raw=False, unicode_errors="surrogateescape")
            unknown = sorted(map(str, content.keys() - {_VALIDATION, _EXPIRY}))
            validation, expiry = content.get(_VALIDATION), content.get(_EXPIRY, {})
            if not isinstance(validation, dict | None):
                raise TypeError("the validation is no map")
            expiry = {str(name): _seconds(seconds) for name, seconds in expiry.items()}
        except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
            raise CorruptFile(
                f"the rules of the collection are damaged: {error!r}",
                offset=0,
                where="file",
                advice="restore the collection from a backup",
            ) from error
        if unknown:
            raise UnsupportedVersion(
                f"the collection has the rules {unknown}, which this program does not know",
                advice="update godb-arrow",
            )
        return cls(validation, expiry)


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= _MAX_SECONDS:
        raise ValueError(f"a time of {value!r} seconds")
    return float(value)
