"""Document ids: generated ids, ids of encoded documents, duplicates."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.documents.rows import is_text
from godb_arrow.errors import GodbError, InvalidDocument, UnsupportedType
from godb_arrow.schema import ID_FIELD

__all__ = ["IdSequence", "id_of", "ids_in", "ids_of", "pack_ids", "repeated_ids"]


class IdSequence:
    """The ids that are generated: "1", "2", … as go-db does, behind every number seen.

    Parameters
    ----------
    next_id : int
        The number that comes next.
    """

    def __init__(self, next_id: int = 1) -> None:
        self.next_id = next_id
        self._lock = threading.Lock()

    def take(self, count: int) -> pa.Array:
        """The next ids, as a binary array."""
        with self._lock:
            first = self.next_id
            self.next_id += count
        numbers = pa.array(np.arange(first, first + count, dtype=np.int64))
        return numbers.cast(pa.string()).cast(pa.binary())

    def take_one(self) -> str:
        """The next id."""
        with self._lock:
            self.next_id += 1
            return str(self.next_id - 1)

    def see(self, identity: str) -> None:
        """Stay behind an id that somebody else chose."""
        if identity.isascii() and identity.isdigit() and len(identity) < 19:
            self.see_greatest(int(identity))

    def see_greatest(self, number: int) -> None:
        """Stay behind a number."""
        with self._lock:
            self.next_id = max(self.next_id, number + 1)


def number_of(identity: str) -> int | None:
    """The number that an id is, written as ids are generated."""
    if identity.isdigit() and identity.isascii() and identity[0] != "0" and len(identity) < 19:
        return int(identity)
    return None


def identify(
    found: Any, sequence: IdSequence, id_field: str = ID_FIELD, index: int = 0
) -> tuple[str, dict[Any, Any], bool]:
    """The id of a document, the document with it, and whether it had one.

    Parameters
    ----------
    found : mapping
        A document, as a caller gives it.
    sequence : IdSequence
        Gives it an id where it has none.
    id_field : str
        The field with the id.
    index : int
        Its number, for messages.

    Raises
    ------
    InvalidDocument
        It is no mapping, or has no good id.
    """
    if not isinstance(found, Mapping):
        raise InvalidDocument(
            f"document number {index} is a {type(found).__name__}, not a dict",
            advice="give an iterable of dicts",
        )
    document = dict(found)
    given = id_field in document
    if given:
        identity = id_of(document[id_field], f"document number {index}")
        sequence.see(identity)
    elif id_field == ID_FIELD:
        identity = sequence.take_one()
    else:
        raise InvalidDocument(
            f"document number {index} has no field {id_field!r} for its id",
            advice="give every document one, or leave out id_column",
        )
    return identity, with_id(document, identity), given


def with_id(document: dict[Any, Any], identity: str) -> dict[Any, Any]:
    """The document, with its id where documents have it."""
    if document.get(ID_FIELD) != identity:
        document = {ID_FIELD: identity, **document}
        document[ID_FIELD] = identity
    return document


def pack_ids(ids: Iterable[str]) -> pa.Array:
    """Ids as a binary array."""
    raw = [identity.encode("utf-8", "surrogateescape") for identity in ids]
    return pa.array(raw, pa.binary())


_ID_PLAN = codec.plan_columns(pa.schema({ID_FIELD: pa.string()}))


def ids_of(entries: codec.Entries) -> pa.Array:
    """The ids of entries as a binary array, without a Python object for each."""
    try:
        return codec.decode_batch(entries, _ID_PLAN).column(0).cast(pa.binary())
    except GodbError:  # an id that is not UTF-8
        return pack_ids(entries.ids())


def repeated_ids(ids: Iterable[str]) -> list[str]:
    """Those of some ids that occur more than once, in the order in which they do."""
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for identity in ids:
        if identity in seen:
            repeated[identity] = None
        seen.add(identity)
    return list(repeated)


def id_of(value: Any, where: str) -> str:
    """A document id as the string that it is stored as."""
    if isinstance(value, str):
        return value
    if hasattr(value, "item") and not isinstance(value, (bytes, bytearray)):
        value = value.item()  # a NumPy scalar
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InvalidDocument(
        f"{where} has the id {value!r}", advice="document ids are strings or integers"
    )


def ids_in(column: pa.Array, name: str, before: int) -> pa.Array:
    """Return the ids that a column gives, as strings."""
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
