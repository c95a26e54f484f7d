"""Document ids: generated ids, ids of encoded documents, duplicates."""

from __future__ import annotations

import functools
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.display import kind_of
from godb_arrow.errors import GodbError, InvalidDocument, LimitExceeded, UnsupportedType
from godb_arrow.schema import ID_FIELD, is_text

__all__ = [
    "IDS_OF_A_JOB",
    "IdSequence",
    "SharedIds",
    "id_of",
    "ids_in",
    "ids_of",
    "pack_ids",
    "pack_wanted",
    "repeated_ids",
    "texts_of",
]

_REGIONS = ((20, 18), (24, 14), (28, 10), (32, 6))
"""Bits of a writer's ids, and bits of the writers, in each region of a job's numbers."""

IDS_OF_A_JOB = sum(1 << (ids + writers) for ids, writers in _REGIONS)
"""Number of ids that are reserved for a job whose writers work in several processes."""


class IdSequence:
    """Sequence of generated ids "1", "2", … like go-db's, each above every number seen before.

    A number is an id of decimal digits without leading zeros, below 2**62. Other ids, such as
    longer numbers, are never generated, so the sequence ignores them.

    Parameters
    ----------
    next_id : int
        Number of the next id.
    """

    def __init__(self, next_id: int = 1) -> None:
        self.next_id = next_id
        self._lock = threading.Lock()

    def take(self, count: int) -> pa.Array:
        """Return the next ids as a binary array.

        Raises
        ------
        LimitExceeded
            No numbers are left.
        """
        first = self.reserve(count)
        numbers = pa.array(np.arange(first, first + count, dtype=np.int64))
        return numbers.cast(pa.string()).cast(pa.binary())

    def take_one(self) -> str:
        """Return the next id."""
        return str(self.reserve(1))

    def reserve(self, count: int) -> int:
        """Reserve consecutive numbers and return the first."""
        with self._lock:
            first = self._first_of(count)
            self.next_id = first + count
            return first

    def reserve_together(self, count: int) -> int | None:
        """Reserve consecutive numbers and return the first; None if too few are left in a row."""
        with self._lock:
            if not self._has(count):
                return None
            first = self.next_id
            self.next_id = first + count
            return first

    def release(self, first: int, count: int) -> None:
        """Return reserved numbers, unless others were reserved after them."""
        with self._lock:
            if self.next_id == first + count:
                self.next_id = first

    def _has(self, count: int) -> bool:
        """Return whether `count` numbers are left in a row; the caller holds the lock."""
        return self.next_id + count <= codec.MAX_NUMBER

    def _first_of(self, count: int) -> int:
        """Return the first of `count` free numbers; the caller holds the lock."""
        if not self._has(count):
            raise LimitExceeded(
                f"the next id is {self.next_id + count - 1}, but generated ids end at 2**62",
                advice='give the documents an "_id"',
            )
        return self.next_id

    def see(self, identity: str) -> None:
        """Continue after an id that the caller chose."""
        number = number_of(identity)
        if number is not None:
            self.see_number(number)

    def see_number(self, number: int) -> None:
        """Continue after a number."""
        with self._lock:
            self.next_id = max(self.next_id, number + 1)


class SharedIds(IdSequence):
    """Sequence of one writer among several that share the ids reserved for a job.

    Each writer has a block of the first region, which serves many writers. A writer with more
    documents continues in the next region, which has larger blocks for fewer writers.

    Parameters
    ----------
    first : int or None
        First of the :data:`IDS_OF_A_JOB` reserved numbers; None if none are reserved.
    writer : int
        Number of the writer, from 0 and unique in the job.

    Examples
    --------
    >>> SharedIds(5, 0).take_one(), SharedIds(5, 1).take_one()
    ('5', '1048581')
    """

    def __init__(self, first: int | None, writer: int) -> None:
        super().__init__(0)
        self._writer = writer
        self._end = 0
        self._blocks = iter(() if first is None or writer < 0 else _blocks_of(first, writer))

    def _has(self, count: int) -> bool:
        return self.next_id + count <= self._end

    def _first_of(self, count: int) -> int:
        while not self._has(count):
            block = next(self._blocks, None)
            if block is None:
                raise LimitExceeded(
                    f"writer {self._writer} has more documents than reserved ids",
                    advice='give the documents an "_id", or use more writers',
                )
            self.next_id, self._end = block.start, block.stop
        return self.next_id

    def see_number(self, number: int) -> None:
        """Continue after a number, if it is in this writer's block."""
        with self._lock:
            if self.next_id <= number < self._end:
                self.next_id = number + 1


def _blocks_of(first: int, writer: int) -> Iterator[range]:
    for ids, writers in _REGIONS:
        if writer < 1 << writers:
            start = first + (writer << ids)
            yield range(start, start + (1 << ids))
        first += 1 << (ids + writers)


def number_of(identity: str) -> int | None:
    """Return the number of an id that could be generated, else None."""
    return codec.id_number(identity.encode()) or None if identity.isascii() else None


def identify(
    row: Any, sequence: IdSequence, id_field: str = ID_FIELD, index: int = 0
) -> tuple[str, dict[Any, Any], bool]:
    """Return the id of a document, the document with that id, and whether it had one.

    Parameters
    ----------
    row : mapping
        Document from the caller.
    sequence : IdSequence
        Source of an id where the document has none.
    id_field : str
        Field with the id.
    index : int
        Number of the document, for messages.

    Raises
    ------
    InvalidDocument
        The document is no mapping, or has no valid id.
    """
    if not isinstance(row, Mapping):
        raise InvalidDocument(
            f"document number {index} is {kind_of(row)}, not a dict",
            advice="give an iterable of dicts",
        )
    document = dict(row)
    given = id_field in document
    if given:
        identity = id_of(document[id_field], f"document number {index}")
        sequence.see(identity)
    elif id_field == ID_FIELD:
        identity = sequence.take_one()
    else:
        raise InvalidDocument(
            f"document number {index} has no field {id_field!r} for its id",
            advice=f"give every document a field {id_field!r}, or omit id_column",
        )
    return identity, codec.with_id(document, identity), given


def pack_ids(ids: Iterable[str]) -> pa.Array:
    """Pack ids as a binary array."""
    raw = [identity.encode("utf-8", "surrogateescape") for identity in ids]
    return pa.array(raw, pa.binary())


def texts_of(ids: pa.Array) -> list[str]:
    """Return the ids of a binary array as strings."""
    try:
        texts: list[str] = ids.cast(pa.string()).to_pylist()
    except pa.ArrowInvalid:
        texts = [raw.decode("utf-8", "surrogateescape") for raw in ids.to_pylist()]
    return texts


def pack_wanted(ids: Iterable[str]) -> pa.Array:
    """Pack ids to look for, without those with half of a surrogate pair, which no document has."""
    raw = []
    for identity in ids:
        try:
            raw.append(identity.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            continue
    return pa.array(raw, pa.binary())


@functools.cache
def _id_plan() -> codec.DecodePlan:
    return codec.plan_columns(pa.schema({ID_FIELD: pa.string()}))


def ids_of(entries: codec.Entries) -> pa.Array:
    """Return the ids of entries as a binary array, without a Python object for each."""
    try:
        return codec.decode_batch(entries, _id_plan()).column(0).cast(pa.binary())
    except GodbError:  # an id that is not UTF-8
        return pack_ids(entries.ids())


def repeated_ids(ids: Iterable[str]) -> list[str]:
    """Return the ids that occur more than once, in the order of their repetition."""
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for identity in ids:
        if identity in seen:
            repeated[identity] = None
        seen.add(identity)
    return list(repeated)


def id_of(value: Any, where: str) -> str:
    """Return a document id as the string that is stored."""
    if isinstance(value, str):
        return value
    if hasattr(value, "item") and not isinstance(value, (bytes, bytearray)):
        value = value.item()  # a NumPy scalar
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, uuid.UUID) or type(value).__name__ == "ObjectId":
        return str(value)
    raise InvalidDocument(
        f"{where} has the id {value!r}",
        advice="document ids are strings or integers, or UUIDs and ObjectIds as strings",
    )


def ids_in(column: pa.Array, name: str, before: int) -> pa.Array:
    """Return the ids of a column as strings."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_integer(column.type) or is_text(column.type)):
        raise UnsupportedType(
            f"column {name!r} of type {column.type} cannot give the ids",
            advice="document ids are strings or integers",
        )
    if column.null_count:
        row = before + column.is_null().to_pylist().index(True)
        raise InvalidDocument(
            f"row {row} has no id in column {name!r}", advice="give every row an id"
        )
    return column.cast(pa.string()).cast(pa.binary())
