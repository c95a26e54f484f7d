"""Names of collections, and of their files."""

from __future__ import annotations

import logging
import os
import re

import xxhash

from godb_arrow.errors import (
    InvalidCollectionName,
)
from godb_arrow.snapshots.manifest import is_part_name

__all__ = [
    "ATTACHED",
    "check_name",
    "file_name",
    "is_attached_name",
    "is_stored_name",
    "name_of",
    "stem",
]


logger = logging.getLogger(__name__)
ATTACHED = ".attached"
"""Suffix of the copy of a file whose collections were loaded."""

_ATTACHED_NAME = re.compile(r"[0-9a-f]{32}\.attached")
_MAX_NAME_BYTES = 255
_MAX_STEM_BYTES = 200
_MAX_FILE_NAME_BYTES = 255  # on most file systems
_UNSAFE = {0x25, *b'/\\:*?"<>|', *range(0x20), 0x7F}
_HASHED = "%~"  # does not occur in escaped names


def check_name(name: object) -> str:
    """Check that a name has 1 to 255 bytes of UTF-8, and return it.

    Raises
    ------
    InvalidCollectionName
        The name is not valid.
    """
    problem = None
    if not isinstance(name, str):
        raise InvalidCollectionName(f"the name is {name!r}", advice="give a string")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        problem = "is not valid UTF-8"
    else:
        if not 1 <= size <= _MAX_NAME_BYTES:
            problem = f"has {size} bytes"
    if problem:
        raise InvalidCollectionName(
            f"the name {name[:50]!r} {problem}", advice="a name has 1 to 255 bytes of UTF-8"
        )
    return name


def is_attached_name(name: object) -> bool:
    """Return whether a name is one that engines give to attached files."""
    return isinstance(name, str) and _ATTACHED_NAME.fullmatch(name) is not None


def stem(name: str) -> str:
    """Return the file name of a collection without its extension."""
    stem = file_name(name)
    if len(stem.encode()) <= _MAX_STEM_BYTES:
        return stem
    return (
        stem.encode()[:80].decode(errors="ignore")
        + _HASHED
        + xxhash.xxh3_128_hexdigest(name.encode())
    )


def name_of(stem: str) -> str | None:
    """Return the collection's name for a file's stem, or None if only the file records it."""
    if _HASHED in stem:
        return None
    raw = re.sub(
        rb"%([0-9A-F]{2})",
        lambda match: bytes([int(match[1], 16)]),
        stem.encode("utf-8", "surrogateescape"),
    )
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def is_stored_name(name: str) -> bool:
    """Return whether a file below the folder of collections may have a name.

    These are files of collections, attached files, and files in the folder of a collection.

    Examples
    --------
    >>> is_stored_name("users.godb"), is_stored_name("users.parts/00000001.ids")
    (True, True)
    >>> is_stored_name("../users.godb"), is_stored_name("users.parts/notes.txt")
    (False, False)
    """
    first, slash, part = name.partition("/")
    if first.startswith(".") or {"\\", "\0"} & {*first}:
        return False
    try:
        if len(os.fsencode(first)) > _MAX_FILE_NAME_BYTES:
            return False
    except UnicodeEncodeError:
        return False
    if slash:
        return first.endswith(".parts") and is_part_name(part)
    return first.endswith(".godb") or is_attached_name(first)


def file_name(name: str) -> str:
    """Return a file name for any name of a collection, different for different names.

    Parameters
    ----------
    name : str
        Any text.

    Returns
    -------
    str
        The name itself if it can be a file name, else with ``%XX`` for the other bytes.

    Examples
    --------
    >>> file_name("users"), file_name("a/b"), file_name(".."), file_name("")
    ('users', 'a%2Fb', '%2E%2E', '%')
    """
    if not name:
        return "%"
    raw = name.encode("utf-8", "surrogateescape")
    unsafe = {*_UNSAFE, 0x2E} if not name.strip(".") else _UNSAFE
    if name.startswith("."):
        raw, head = raw[1:], "%2E"
    else:
        head = ""
    escaped = b"".join(b"%%%02X" % byte if byte in unsafe else bytes((byte,)) for byte in raw)
    try:
        return head + escaped.decode()
    except UnicodeDecodeError:
        return head + "".join(f"%{b:02X}" if b > 0x7F else chr(b) for b in escaped)
