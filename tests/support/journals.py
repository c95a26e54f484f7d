"""Journals of version 1, and data directories as 0.1.0 left them, put together from bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import xxhash

from godb_arrow.codec.entries import Chunk
from godb_arrow.directory.journal_reader import read_journal
from godb_arrow.file.existing import read_existing
from godb_arrow.file.hints import CollectionHint
from godb_arrow.file.locate import locate
from godb_arrow.file.writer import CollectionData, write_file
from godb_arrow.options import ReadOptions
from godb_arrow.snapshots.manifest import Manifest

SECTOR = 512


def header_1(first: int) -> bytes:
    """Return the header of a segment of version 1."""
    head = b"GODBJRNL" + struct.pack("<IIQ", 1, 0, first)
    return head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little")


def record_1(number: int, durable: int, meta: dict[str, Any], parts: Sequence[bytes] = ()) -> bytes:
    """Return a record of version 1."""
    packed = msgpack.packb({**meta, "parts": [len(part) for part in parts]})
    payload = struct.pack("<I", len(packed)) + packed + b"".join(parts)
    head = struct.pack("<QQQ", len(payload), number, durable)
    return head + xxhash.xxh3_64_intdigest(head + payload).to_bytes(8, "little") + payload


def segment_1(metas: Sequence[dict[str, Any]], first: int = 1) -> tuple[bytes, list[int]]:
    """Return a segment of version 1, and the end of each of its records."""
    data, ends = header_1(first), []
    for number, meta in enumerate(metas, first):
        data += record_1(number, 32, meta)
        ends.append(len(data))
    return data, ends


def as_version_1(folder: Path) -> None:
    """Make a data directory that was not closed what 0.1.0 would have left."""
    journal = folder / "journal"
    records = list(read_journal(str(journal)))
    for path in journal.iterdir():
        path.unlink()
    first = records[0].number
    data = header_1(first)
    for record in records:
        data += record_1(record.number, 32, record.meta, record.parts)
    (journal / "00000001.journal").write_bytes(data)
    for path in (folder / "collections").glob("*.godb"):
        with_hint(path, lambda hint: replace(hint, run=b"", directory=b""))
    for path in (folder / "collections").glob("*.parts/*.manifest"):
        manifest = replace(Manifest.unpack(path.read_bytes()), run=b"", directory=b"")
        path.write_bytes(manifest.pack())
    (folder / "godb_arrow.id").unlink(missing_ok=True)


def with_hint(path: Path, change: Any) -> None:
    """Write a file again that has one collection, with another hint."""
    stored = locate(str(path), None, ReadOptions())
    hint = change(stored.hint or CollectionHint(stored.count))
    others = read_existing(str(path), stored.name).others
    chunks = [Chunk(run.raw(), len(run)) for run in stored.entries()]
    path.unlink()  # readers have the file before
    with path.open("wb") as stream:
        data = CollectionData(stored.name, stored.count, chunks, hint)
        write_file(stream, [data], others=others)
