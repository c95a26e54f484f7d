"""Limits and choices for reading and writing, checked once where they enter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from godb_arrow.errors import InvalidOption

__all__ = ["MAX_DEPTH", "OnConflict", "OnMismatch", "ReadKeywords", "ReadOptions"]

OnConflict = Literal["json", "error"]
OnMismatch = Literal["error", "null"]

MAX_DEPTH = 128
"""Levels of maps and arrays that a document may nest; the document itself is the first."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How documents become record batches.

    Parameters
    ----------
    batch_size : int
        Documents in a record batch, at most.
    batch_bytes : int
        MessagePack bytes in a record batch, at most (a larger document has a batch of its own).
    max_document_bytes : int
        MessagePack bytes in a document, at most; what claims more is refused before memory
        is taken for it.
    on_conflict : {"json", "error"}
        What becomes of a field whose values no single Arrow type can hold: JSON text, or
        :class:`~godb_arrow.TypeConflict`.
    on_mismatch : {"error", "null"}
        What becomes of a value that does not fit a schema given by the caller.
    sample : int or None
        Look at this many documents only when inferring the schema; None looks at all.
    use_hints : bool
        Trust the schema that godb_arrow recorded in a file that nobody changed since.
    threads : int or None
        Threads that decompress and decode; None takes as many as there are cores. Small files
        are read without threads.

    Raises
    ------
    InvalidOption
        An option is out of range.

    Examples
    --------
    >>> from godb_arrow.options import ReadOptions
    >>> ReadOptions(batch_size=1000).batch_size
    1000
    """

    batch_size: int = 65_536
    batch_bytes: int = 8 << 20
    max_document_bytes: int = 64 << 20
    on_conflict: OnConflict = "json"
    on_mismatch: OnMismatch = "error"
    sample: int | None = None
    use_hints: bool = True
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "batch_bytes", "max_document_bytes"):
            _check_count(name, getattr(self, name))
        for name in ("sample", "threads"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        _check_choice("on_conflict", self.on_conflict, ("json", "error"))
        _check_choice("on_mismatch", self.on_mismatch, ("error", "null"))


class ReadKeywords(TypedDict, total=False):
    """The fields of :class:`ReadOptions`, as keyword arguments of the reading functions."""

    batch_size: int
    batch_bytes: int
    max_document_bytes: int
    on_conflict: OnConflict
    on_mismatch: OnMismatch
    sample: int | None
    use_hints: bool
    threads: int | None


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidOption(f"{name} is {value!r}", advice="give a whole number of at least 1")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidOption(f"{name} is {value!r}", advice=f"use one of {', '.join(choices)}")
