"""Updates of documents in MessagePack: only the values that a step names are decoded."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from godb_arrow.codec.entries import Entries
from godb_arrow.codec.reference.dicts import load
from godb_arrow.codec.reference.scan import skip_items
from godb_arrow.codec.values import pack
from godb_arrow.errors import CorruptFile, GodbError, LimitExceeded
from godb_arrow.schema import ID_FIELD

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["PatchOperator", "PatchStep", "PatchedDocuments", "patch_documents"]

_MAP_HEADS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_ARRAY_HEADS = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))
_EXTENSION_HEADS = frozenset((*range(0xC7, 0xCA), *range(0xD4, 0xD9)))
_EXTENSION_BYTES = bytes(sorted(_EXTENSION_HEADS))
_STRING_WIDTHS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_TIMESTAMP_HEADS = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")
_MAX_COMPARED_KEYS = 64  # of a map, each of which is compared with the others
_MAX_PAIRS = (1 << 32) - 1
_MIN_INTEGER, _MAX_INTEGER = -(1 << 63), (1 << 64) - 1


class PatchOperator(enum.IntEnum):
    """Operators of a step."""

    SET = 0
    UNSET = 1
    INC = 2
    MIN = 3
    MAX = 4


class PatchStep(NamedTuple):
    """Change of one place in a document.

    Attributes
    ----------
    operator : PatchOperator
        The operator.
    parts : tuple of bytes
        Names of the fields on the way to the place, in UTF-8.
    value : bytes
        Packed operand, which is a number and not NaN for INC, MIN and MAX. It is empty for UNSET.
    """

    operator: PatchOperator
    parts: tuple[bytes, ...]
    value: bytes


class PatchedDocuments(NamedTuple):
    """Entries of the documents that changed.

    Attributes
    ----------
    data : bytes
        The entries, one after the other.
    changed : array of int64
        Positions of these documents among the rows.
    """

    data: bytes
    changed: npt.NDArray[np.int64]


class _Other(Exception):
    """Signal that a document must be decoded to be changed."""


class _Fields(NamedTuple):
    """Map in a document, and where some of its fields are."""

    begin: int
    body: int
    end: int
    pairs: int
    places: dict[bytes, tuple[int, int, int]]  # begin of key and value, and end of the value


def patch_documents(
    entries: Entries, rows: npt.NDArray[np.int64], steps: Sequence[PatchStep]
) -> PatchedDocuments | None:
    """Change documents by steps, one after the other, and keep the bytes of all other values.

    Parameters
    ----------
    entries : Entries
        Scanned documents.
    rows : array of int64
        Indices of the documents to change.
    steps : sequence of PatchStep
        The changes.

    Returns
    -------
    PatchedDocuments or None
        None if a document must be decoded. Its field ``_id`` differs from its id, or it has an
        invalid extension. Or a step leads into a list or to a repeated field. Or the step cannot
        change or compare the value there, such as one that is not packed in its shortest form.
    """
    data, changed = bytearray(), []
    for position, row in enumerate(rows.tolist()):
        identity = bytes(entries.data[entries.bounds[2 * row] : entries.bounds[2 * row + 1]])
        before = document = bytes(entries.document(row))
        try:
            _check_id(document, identity)
            for step in steps:
                document = _patched(document, step)
        except _Other:
            return None
        if document is not before:
            data += identity + document
            changed.append(position)
    return PatchedDocuments(bytes(data), np.array(changed, np.int64))


def _check_id(document: bytes, identity: bytes) -> None:
    field = ID_FIELD.encode()
    place = _fields(document, 0, [field]).places.get(field)
    if place is None or document[place[1] : place[2]] != identity or not _is_short(identity):
        raise _Other
    if len(document.translate(None, _EXTENSION_BYTES)) < len(document):
        try:
            load(document)
        except CorruptFile as error:  # an invalid timestamp
            raise _Other from error
        except LimitExceeded:
            return  # Equal hashes of keys make only dicts slow.


def _patched(document: bytes, step: PatchStep) -> bytes:
    """Return a document after a step; the same object if it is unchanged."""
    at, parts = 0, step.parts
    for depth, part in enumerate(parts):
        if document[at] not in _MAP_HEADS:
            if step.operator is PatchOperator.UNSET and document[at] not in _ARRAY_HEADS:
                return document
            raise _Other
        rest = b".".join(parts[depth:])
        fields = _fields(document, at, [part, rest])
        place = fields.places.get(rest)
        if place is not None:
            return _changed(document, step, fields, place)
        inner = fields.places.get(part)
        if inner is None:
            if step.operator is PatchOperator.UNSET:
                return document
            return _inserted(document, fields, parts[depth:], step.value)
        at = inner[1]
    raise AssertionError  # The rest of the last part is the part.


def _changed(
    document: bytes, step: PatchStep, fields: _Fields, place: tuple[int, int, int]
) -> bytes:
    key, begin, end = place
    if step.operator is PatchOperator.UNSET:
        head = _map_head(fields.pairs - 1)
        kept = document[fields.body : key] + document[end:]
        return document[: fields.begin] + head + kept
    before, after = document[begin:end], step.value
    if step.operator is not PatchOperator.SET:
        after = _NUMBERS[step.operator](_number(before), load(step.value), step.value)
    if after == before:
        return document
    if not _is_short(before):
        raise _Other
    return document[:begin] + after + document[end:]


def _inserted(document: bytes, fields: _Fields, parts: Sequence[bytes], value: bytes) -> bytes:
    if fields.pairs == _MAX_PAIRS:
        raise _Other
    for part in reversed(parts[1:]):
        value = b"\x81" + _packed_text(part) + value
    pair = _packed_text(parts[0]) + value
    content = document[fields.body : fields.end] + pair
    head = _map_head(fields.pairs + 1)
    return document[: fields.begin] + head + content + document[fields.end :]


def _fields(document: bytes, at: int, wanted: Sequence[bytes]) -> _Fields:
    """Locate fields of the map at an offset."""
    if document[at] not in _MAP_HEADS:
        raise _Other
    pairs, body = _count_at(document, at, 0xDE)
    places: dict[bytes, tuple[int, int, int]] = {}
    position = body
    for _ in range(pairs):
        begin = skip_items(document, position, 1)[0]
        end = skip_items(document, begin, 1)[0]
        name = _text_of(document, position, begin)
        if name is not None and name in wanted:
            if name in places:
                raise _Other
            places[name] = (position, begin, end)
        position = end
    return _Fields(at, body, position, pairs, places)


def _text_of(document: bytes, begin: int, end: int) -> bytes | None:
    """Return the bytes of a string; None of another value."""
    head = document[begin]
    if 0xA0 <= head < 0xC0:
        return document[begin + 1 : end]
    width = _STRING_WIDTHS.get(head)
    return None if width is None else document[begin + 1 + width : end]


def _packed_text(text: bytes) -> bytes:
    return pack(text.decode("utf-8", "surrogateescape"))


def _count_at(raw: bytes, at: int, long_head: int) -> tuple[int, int]:
    """Return the number of elements or pairs of a container, and the end of its head."""
    if raw[at] < long_head:
        return raw[at] & 0x0F, at + 1
    body = at + (3 if raw[at] == long_head else 5)
    return int.from_bytes(raw[at + 1 : body], "big"), body


def _map_head(pairs: int) -> bytes:
    return _head(pairs, 0x80, 0xDE)


def _head(count: int, short_head: int, long_head: int) -> bytes:
    if count < 1 << 4:
        return bytes([short_head | count])
    if count < 1 << 16:
        return bytes([long_head]) + count.to_bytes(2, "big")
    return bytes([long_head + 1]) + count.to_bytes(4, "big")


def _is_short(raw: bytes) -> bool:
    """Return whether a value is packed in its shortest form, so that others have other bytes.

    Keys of maps are strings, all different and not too many. There is no NaN and no extension but
    for timestamps.
    """
    return _short_end(raw, 0) is not None


def _short_end(raw: bytes, at: int) -> int | None:
    """Return the end of a value that is packed in its shortest form; None for another one."""
    head = raw[at]
    if head in _MAP_HEADS:
        return _short_end_of_map(raw, at)
    if head in _ARRAY_HEADS:
        count, position = _count_at(raw, at, 0xDC)
        if raw[at:position] != _head(count, 0x90, 0xDC):
            return None
        for _ in range(count):
            end = _short_end(raw, position)
            if end is None:
                return None
            position = end
        return position
    end = skip_items(raw, at, 1)[0]
    return end if _is_short_scalar(raw[at:end]) else None


def _short_end_of_map(raw: bytes, at: int) -> int | None:
    pairs, position = _count_at(raw, at, 0xDE)
    if raw[at:position] != _map_head(pairs) or pairs > _MAX_COMPARED_KEYS:
        return None
    names = set()
    for _ in range(pairs):
        begin = _short_end(raw, position)
        name = None if begin is None else _text_of(raw, position, begin)
        if begin is None or name is None or name in names:
            return None
        names.add(name)
        end = _short_end(raw, begin)
        if end is None:
            return None
        position = end
    return position


def _is_short_scalar(raw: bytes) -> bool:
    if raw[0] in _EXTENSION_HEADS and not raw.startswith(_TIMESTAMP_HEADS):
        return False
    try:
        value: Any = load(raw)
        return not (isinstance(value, float) and math.isnan(value)) and pack(value) == raw
    except (GodbError, ValueError, TypeError):
        return False


def _number(raw: bytes) -> Any:
    value: Any = load(raw) if _is_short_scalar(raw) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Other
    return value


def _inc(before: Any, amount: Any, packed: bytes) -> bytes:
    del packed
    after = before + amount
    if isinstance(after, float):
        if math.isnan(after):
            raise _Other
    elif not _MIN_INTEGER <= after <= _MAX_INTEGER:
        raise _Other
    return pack(after)


def _min(before: Any, amount: Any, packed: bytes) -> bytes:
    return packed if amount < before else pack(before)


def _max(before: Any, amount: Any, packed: bytes) -> bytes:
    return packed if amount > before else pack(before)


_NUMBERS: dict[PatchOperator, Callable[[Any, Any, bytes], bytes]] = {
    PatchOperator.INC: _inc,
    PatchOperator.MIN: _min,
    PatchOperator.MAX: _max,
}
