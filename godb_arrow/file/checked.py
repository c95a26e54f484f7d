"""Records of a file that were compared with its documents.

A file may lie about its documents. Checksums find accidents, but an attacker can compute them, too.

Sizes of documents are compared with the documents before they are used. Statistics let readers
skip pieces, whose documents a reader does not see. The skipped pieces of small collections are
therefore read and compared. Of larger collections, one random skipped piece is compared, once for
each field: a comparison takes longer than a filter that skips most pieces. Results of comparisons
are remembered while the file is unchanged.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from godb_arrow.storage.source import HeldFile, Source

__all__ = ["EXACT_BYTES", "CheckedRecords", "checked_records", "chosen_pieces"]

EXACT_BYTES = 8 << 20
"""Bytes of documents up to which skipping saves too little to take statistics on trust."""

_MAX_FILES = 1024


@dataclass(slots=True)
class CheckedRecords:
    """Records of a collection in a file that were compared with its documents.

    Attributes
    ----------
    read_before : set of int
        Pieces that were read. A piece that is read again is worth a comparison of its sizes.
    measured : set of int
        Pieces whose recorded sizes are right.
    described : set of tuple
        Piece and field of statistics that are right.
    sampled : set of str
        Fields whose statistics were compared in a piece.
    sizes_lie, statistics_lie : bool
        Whether some of them were wrong, so that none are used.
    """

    read_before: set[int] = field(default_factory=set)
    measured: set[int] = field(default_factory=set)
    described: set[tuple[int, str]] = field(default_factory=set)
    sampled: set[str] = field(default_factory=set)
    sizes_lie: bool = False
    statistics_lie: bool = False


_known: OrderedDict[object, CheckedRecords] = OrderedDict()
_lock = threading.Lock()


def checked_records(source: Source, name: str) -> CheckedRecords:
    """Return what was compared before of a collection in a file, if that is the same file."""
    if not isinstance(source, HeldFile):
        return CheckedRecords()
    key = (source.identity(), name)
    with _lock:
        records = _known.setdefault(key, CheckedRecords())
        _known.move_to_end(key)
        if len(_known) > _MAX_FILES:
            _known.popitem(last=False)
    return records


def chosen_pieces(
    pieces: Sequence[int], sizes: Sequence[int], *, is_sampled: bool = False
) -> list[int]:
    """Return the pieces to compare with their statistics: all if they are small, else any one.

    Parameters
    ----------
    pieces : sequence of int
        Pieces that were not compared yet.
    sizes : sequence of int
        Size of each of them in bytes.
    is_sampled : bool
        Whether another piece was compared before, so that one is enough; default False.
    """
    if sum(sizes) <= EXACT_BYTES:
        return list(pieces)
    if is_sampled:
        return []
    import secrets

    return [secrets.choice(pieces)]
