"""Documents of any source as NDJSON, on all cores and in constant memory."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import CHUNK_BYTES
from godb_arrow.documents.encoding import threads
from godb_arrow.documents.json_source import JsonSource
from godb_arrow.documents.rows import rows_of
from godb_arrow.parallel import ordered_map

__all__ = ["Run", "json_lines", "lines_of", "runs_of", "terminal_lines"]

_CONTROLS = re.compile(
    rb"\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]"
)
"""UTF-8 of DEL, of C1 controls, of line separators, and of controls of the text's direction."""

_DOCUMENTS_AT_ONCE = 1000  # dicts that are packed before they are written

Run: TypeAlias = codec.Entries | codec.Documents
"""Consecutive documents in MessagePack, with or without the ids of a collection."""


def runs_of(documents: Any) -> Iterator[Run]:
    """Yield documents of any source in MessagePack, in runs.

    Parameters
    ----------
    documents : collection, JsonSource, RecordBatchReader or iterable of dict
        The documents. Rows of record batches become documents in which nulls are nil.

    Yields
    ------
    Entries or Documents
    """
    stored = getattr(documents, "stored_entries", None)
    if stored is not None:
        for entries in stored():
            yield from entries.split()
    elif isinstance(documents, JsonSource):
        yield from documents.documents()
    elif isinstance(documents, pa.RecordBatchReader):
        for batch in rows_of(documents, None).batches:
            yield codec.encode_documents(batch)
    else:
        yield from _runs_of_dicts(documents)


def _runs_of_dicts(documents: Iterable[Mapping[Any, Any]]) -> Iterator[codec.Documents]:
    packed: list[bytes] = []
    size = 0
    for document in documents:
        packed.append(codec.pack(document))
        size += len(packed[-1])
        if len(packed) == _DOCUMENTS_AT_ONCE or size >= CHUNK_BYTES:
            yield _joined(packed)
            packed, size = [], 0
    if packed:
        yield _joined(packed)


def _joined(packed: list[bytes]) -> codec.Documents:
    bounds = np.cumsum([0, *map(len, packed)], dtype=np.int64)
    return codec.Documents(b"".join(packed), array("q", bounds.tobytes()))


def terminal_lines(lines: bytes) -> bytes:
    """Return JSON that cannot control a terminal, of the same value.

    JSON escapes the controls of ASCII only. Terminals obey others, too.

    Examples
    --------
    >>> terminal_lines('{"name": "\\x9b2J"}'.encode())
    b'{"name": "\\\\u009b2J"}'
    """
    if not codec.may_have_controls(lines):
        return lines
    return _CONTROLS.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), lines)


def lines_of(documents: Any, *, plain: bool = False) -> Iterator[tuple[bytes, int]]:
    """Write documents of any source of :func:`runs_of` as :func:`json_lines` does."""

    def write(entries: codec.Entries) -> tuple[bytes, int]:
        return codec.json_lines(entries, plain=plain), len(entries)

    map_entries = getattr(documents, "map_entries", None)
    return (
        json_lines(runs_of(documents), plain=plain) if map_entries is None else map_entries(write)
    )


def json_lines(runs: Iterator[Run], *, plain: bool = False) -> Iterator[tuple[bytes, int]]:
    """Write runs of documents as NDJSON, on all cores.

    Parameters
    ----------
    runs : iterator of Entries or Documents
        The documents.
    plain : bool
        See :func:`godb_arrow.codec.jsontext.to_json_text`.

    Yields
    ------
    lines : bytes
        Lines of a run.
    count : int
        Number of documents in the run.
    """

    def write(run: Run) -> tuple[bytes, int]:
        return codec.json_lines(run, plain=plain), len(run)

    return ordered_map(write, runs, threads())
