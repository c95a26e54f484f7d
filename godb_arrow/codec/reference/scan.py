"""Location of documents in bytes, by the heads of MessagePack values."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from godb_arrow.codec.entries import CheckedEntries, Entries
from godb_arrow.codec.reference.dicts import load, load_pairs
from godb_arrow.codec.reference.ids import hash_id, id_number
from godb_arrow.errors import CorruptFile, DepthExceeded
from godb_arrow.options import MAX_DEPTH
from godb_arrow.schema import ID_FIELD

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "SCAN_PROBLEMS",
    "copied",
    "count_present",
    "describe",
    "find_entry",
    "gather",
    "invalid_head",
    "measure",
    "scan_entries",
    "scan_extent",
    "skip_items",
]

_STRING_HEADS = frozenset((*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB))
_MAP_HEADS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_CONTAINER_BYTES = bytes((*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF))

# msgpack adds the byte of an extension's type to its length in 32 bits, so that the largest length
# overflows to 0. Documents with these bytes are skipped without msgpack.
_LARGEST_EXTENSION = b"\xc9\xff\xff\xff\xff"

# By first byte: the number of bytes of the length, and the unit of the length. See the MessagePack
# specification, https://github.com/msgpack/msgpack/blob/master/spec.md
_BYTES, _ITEMS, _PAIRS = 0, 1, 2
_SIZED: dict[int, tuple[int, int, int]] = {
    0xC4: (1, _BYTES, 0), 0xC5: (2, _BYTES, 0), 0xC6: (4, _BYTES, 0),
    0xC7: (1, _BYTES, 1), 0xC8: (2, _BYTES, 1), 0xC9: (4, _BYTES, 1),
    0xD9: (1, _BYTES, 0), 0xDA: (2, _BYTES, 0), 0xDB: (4, _BYTES, 0),
    0xDC: (2, _ITEMS, 0), 0xDD: (4, _ITEMS, 0),
    0xDE: (2, _PAIRS, 0), 0xDF: (4, _PAIRS, 0),
}  # fmt: skip
_FIXED: dict[int, int] = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
    0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip

_KINDS_BY_HEAD: tuple[tuple[range, str], ...] = (
    (range(0x80), "an int"), (range(0x80, 0x90), "a map"), (range(0x90, 0xA0), "an array"),
    (range(0xA0, 0xC0), "a string"), (range(0xC0, 0xC1), "nil"),
    (range(0xC1, 0xC2), "a byte that begins no value"), (range(0xC2, 0xC4), "a bool"),
    (range(0xC4, 0xC7), "binary"), (range(0xC7, 0xCA), "an extension type"),
    (range(0xCA, 0xCC), "a float"), (range(0xCC, 0xD4), "an int"),
    (range(0xD4, 0xD9), "an extension type"), (range(0xD9, 0xDC), "a string"),
    (range(0xDC, 0xDE), "an array"), (range(0xDE, 0xE0), "a map"), (range(0xE0, 0x100), "an int"),
)  # fmt: skip


def scan_entries(
    data: bytes | memoryview,
    start: int,
    count: int,
    max_bytes: int,
    base: int,
    fields: tuple[str, ...] = (),
) -> Entries:
    """Find the whole entries at the start of a buffer.

    Parameters
    ----------
    data : bytes or memoryview
        Decompressed bytes of a collection. Entries in a view may only be decoded, because their
        ids and documents are views, too.
    start : int
        Offset of the first entry.
    count : int
        Maximum number of entries.
    max_bytes : int
        Number of bytes of entries after which to stop.
    base : int
        Offset of ``data[0]`` in the body, for messages.
    fields : tuple of str
        Fields whose positions a compiled codec records; this codec does not.

    Returns
    -------
    Entries
        Entries that are complete in the buffer, perhaps none.

    Raises
    ------
    CorruptFile
        An id is not a string, a document not a map, or the bytes are not MessagePack.
    DepthExceeded
        A document nests deeper than 128 levels.
    """
    data = bytes(data)
    bounds = array("q", [start])
    size = len(data)
    if _LARGEST_EXTENSION in data:
        unpacker: Any = _Skipper(data, start)
    else:
        unpacker = msgpack.Unpacker(max_buffer_size=size + 1)
        unpacker.feed(memoryview(data)[start:])
    position = start
    try:
        while len(bounds) // 2 < count and position - start < max_bytes and position < size:
            if data[position] not in _STRING_HEADS:
                raise _bad_id(data, position, base)
            unpacker.skip()
            document = start + unpacker.tell()
            if document >= size:
                break
            if data[document] not in _MAP_HEADS:
                raise _bad_document(data, document, base)
            unpacker.skip()
            end = start + unpacker.tell()
            _check_depth(data, document, end, base)
            bounds.append(document)
            bounds.append(end)
            position = end
    except msgpack.OutOfData:
        pass
    except msgpack.StackError as error:
        raise _too_deep(data, position, base) from error
    except (ValueError, msgpack.UnpackException) as error:
        if isinstance(error, (CorruptFile, DepthExceeded)):
            raise
        raise _not_messagepack(data, position, base) from error
    return Entries(data, bounds, base)


class _Skipper:
    """Subset of msgpack's Unpacker that finds documents."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._start = self._position = start

    def skip(self) -> None:
        end, items, payload = skip_items(self._data, self._position, 1)
        if items or payload:
            raise msgpack.OutOfData
        self._position = end

    def tell(self) -> int:
        return self._position - self._start


def _bad_id(data: bytes, at: int, base: int) -> CorruptFile:
    found = describe(data[at])
    return CorruptFile(f"a document id is a string, but found {found}", offset=base + at)


def _bad_document(data: bytes, at: int, base: int) -> CorruptFile:
    found = describe(data[at])
    return CorruptFile(f"a document is a map, but found {found}", offset=base + at)


def _not_messagepack(data: bytes, at: int, base: int) -> CorruptFile:
    return CorruptFile("this document is not valid MessagePack", offset=base + at)


def _too_deep(data: bytes, at: int, base: int) -> DepthExceeded:
    return DepthExceeded(
        f"the document at byte {base + at} of the decompressed body nests deeper than "
        f"{MAX_DEPTH} levels",
        advice="reduce the nesting",
    )


SCAN_PROBLEMS: dict[int, Callable[[bytes, int, int], CorruptFile | DepthExceeded]] = {
    1: _bad_id,
    2: _bad_document,
    3: _not_messagepack,
    4: _too_deep,
}
"""Errors by the kernel's numbers of problems with entries."""


def _check_depth(data: bytes, start: int, end: int, base: int) -> None:
    if end - start <= MAX_DEPTH:
        return
    document = data[start:end]
    if len(document) - len(document.translate(None, _CONTAINER_BYTES)) <= MAX_DEPTH:
        return
    open_items = [1]  # number of remaining items of each open container
    position = start
    while open_items:
        position, payload, items = _item(data, position)
        position += payload
        open_items[-1] -= 1
        if items >= 0:
            open_items.append(items)
            if len(open_items) - 1 > MAX_DEPTH:
                raise _too_deep(data, start, base)
        while open_items and not open_items[-1]:
            open_items.pop()


def copied(data: memoryview) -> bytes:
    """Return a copy of bytes in borrowed memory."""
    return bytes(data)


def gather(
    data: bytes | memoryview, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> bytes:
    """Concatenate parts of bytes.

    Parameters
    ----------
    data : bytes or memoryview
        Bytes to take the parts of.
    starts, ends : arrays of int64
        Offsets where each part begins and ends.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        A part is not within the bytes.
    """
    spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
    if not all(0 <= first <= last <= len(data) for first, last in spans):
        raise ValueError("a part is not within the bytes")
    view = memoryview(data)
    return b"".join([view[first:last] for first, last in spans])


def measure(data: bytes | memoryview, count: int) -> npt.NDArray[np.uint32] | None:
    """Return the sizes of entries whose leading fields can be decoded without the rest.

    Parameters
    ----------
    data : bytes or memoryview
        Entries, one after the other.
    count : int
        Number of entries.

    Returns
    -------
    array of uint32 or None
        Bytes of each entry. None where entries are damaged, or a document has a key twice or a
        key that is no UTF-8 string. Later keys of such a document may change its earlier fields.
    """
    try:
        entries = scan_entries(bytes(data), 0, count, len(data) + 1, 0)
    except (CorruptFile, DepthExceeded):
        return None
    if len(entries) != count or entries.bounds[-1] != len(data):
        return None
    if any(_has_odd_keys(entries.document(index)) for index in range(count)):
        return None
    return np.diff(np.frombuffer(entries.bounds, np.int64)[::2]).astype(np.uint32)


def _has_odd_keys(document: bytes) -> bool:
    unpacker = msgpack.Unpacker(max_buffer_size=len(document) + 1)
    unpacker.feed(document)
    seen = set()
    count, position = unpacker.read_map_header(), unpacker.tell()
    for _ in range(count):
        end, _, _ = skip_items(document, position, 1)
        try:
            key = msgpack.unpackb(document[position:end], raw=False)
        except (ValueError, msgpack.UnpackException):
            return True
        if not isinstance(key, str) or key in seen:
            return True
        seen.add(key)
        position, _, _ = skip_items(document, end, 1)
    return False


def scan_extent(
    data: bytes | memoryview, start: int, count: int, max_bytes: int, base: int
) -> tuple[int, int]:
    """Return the number of whole entries at the start of a buffer, and their end.

    See :func:`scan_entries` for parameters and errors.
    """
    entries = scan_entries(data, start, count, max_bytes, base)
    return len(entries), entries.bounds[-1]


def skip_items(data: bytes | memoryview, position: int, items: int) -> tuple[int, int, int]:
    """Skip MessagePack values without decoding them, at any depth of nesting.

    Parameters
    ----------
    data : bytes or memoryview
        Bytes of MessagePack.
    position : int
        Offset of the first value.
    items : int
        Number of values to skip.

    Returns
    -------
    position : int
        Offset after the skipped values.
    items : int
        Number of values still to skip, including the content of open containers.
    payload : int
        Bytes of a string or binary beyond the end of `data`, to be skipped first.

    Raises
    ------
    CorruptFile
        A byte begins no MessagePack value; ``offset`` counts in `data`.
    """
    size = len(data)
    while items and position < size:
        try:
            body, payload, children = _item(data, position)
        except IndexError:
            break
        items += max(children, 0) - 1
        position = body + payload
        if position > size:
            return size, items, position - size
    return position, items, 0


def invalid_head(position: int) -> CorruptFile:
    """Return the error for the only byte that begins no value."""
    return CorruptFile("the byte c1 begins no MessagePack value", offset=position)


def _item(data: bytes | memoryview, position: int) -> tuple[int, int, int]:
    """Return the end of a value's head, its bytes after it, and its children (-1 if a scalar)."""
    head = data[position]
    if head < 0x80 or head >= 0xE0:
        return position + 1, 0, -1
    if head >= 0xC0:
        fixed = _FIXED.get(head)
        if fixed is not None:
            return position + 1, fixed, -1
        sized = _SIZED.get(head)
        if sized is None:
            raise invalid_head(position)
        width, counts, extra = sized
        end = position + 1 + width
        if end > len(data):
            raise IndexError
        length = int.from_bytes(data[position + 1 : end], "big")
        if counts == _BYTES:
            return end, length + extra, -1
        return end, 0, length * counts
    if head >= 0xA0:
        return position + 1, head & 0x1F, -1
    if head >= 0x90:
        return position + 1, 0, head & 0x0F
    return position + 1, 0, 2 * (head & 0x0F)


def describe(head: int) -> str:
    """Describe the kind of MessagePack value that a first byte begins."""
    return next(name for heads, name in _KINDS_BY_HEAD if head in heads)


def count_present(entries: Entries, names: Sequence[str]) -> list[int]:
    """Count the documents that have each of some fields, with any value.

    Parameters
    ----------
    entries : Entries
        Documents to inspect.
    names : sequence of str
        Names of the fields, all different.

    Returns
    -------
    list of int
    """
    counts = dict.fromkeys(names, 0)
    for index in range(len(entries)):
        for name in load(entries.document(index)):
            if isinstance(name, str) and name in counts:
                counts[name] += 1
    return list(counts.values())


def check_entries(entries: Entries) -> CheckedEntries:
    """Check entries, and hash their ids.

    Parameters
    ----------
    entries : Entries
        Scanned entries.

    Returns
    -------
    CheckedEntries
    """
    damaged, differing = [], []
    hashes = bytearray()
    greatest = 0
    for row, identity in enumerate(entries.ids()):
        hashes += hash_id(identity).to_bytes(8, sys.byteorder)
        greatest = max(greatest, id_number(identity.encode("utf-8", "surrogateescape")))
        try:
            pairs = load_pairs(entries.document(row))
        except (ValueError, msgpack.UnpackException, OverflowError):
            damaged.append(row)
            continue
        if any(key == ID_FIELD and value != identity for key, value in pairs):
            differing.append(row)
    is_measurable = not damaged and measure(entries.raw(), len(entries)) is not None
    return CheckedEntries(damaged, differing, bytes(hashes), greatest, is_measurable)


def find_entry(entries: Entries, identity: str) -> int:
    """Find an entry by its id.

    Parameters
    ----------
    entries : Entries
        Documents to search.
    identity : str
        Document id.

    Returns
    -------
    int
        Index of the last entry with this id, or -1.
    """
    for index in reversed(range(len(entries))):
        if entries.id(index) == identity:
            return index
    return -1
