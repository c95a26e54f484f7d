"""Loading of decompressed entries as Python dicts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from godb_arrow import codec
from godb_arrow.documents.ids import with_id
from godb_arrow.errors import (
    CorruptFile,
)
from godb_arrow.schema import ID_FIELD

__all__ = ["load_entry", "load_run"]


logger = logging.getLogger(__name__)


def load_entry(entries: codec.Entries, index: int) -> dict[Any, Any]:
    """Return a document as a dict, with the id that the collection has for it."""
    identity = entries.id(index)
    try:
        document = codec.load(entries.document(index))
    except CorruptFile as error:
        error.offset += entries.base + entries.bounds[2 * index + 1]
        error.message = f"document {identity!r} is {error.message}"
        raise
    return with_id(document, identity)


def load_run(entries: codec.Entries) -> Iterator[dict[Any, Any]]:
    """Yield the documents of a run as dicts, each with the id that the collection has for it."""
    loaded = codec.load_entries(bytes(entries.raw()), len(entries))
    if loaded is None:
        for index in range(len(entries)):
            yield load_entry(entries, index)
        return
    for identity, document in zip(loaded[::2], loaded[1::2], strict=True):
        if document.get(ID_FIELD) == identity:
            yield document
        else:
            yield with_id(document, identity)
