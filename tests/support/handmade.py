"""GODB files put together by hand, without the code under test; and go-db's rules for reading."""

from __future__ import annotations

import struct
from typing import Any

import lz4.block
import msgpack

HEADER = b"GODB\x01\x00\x00\x00"


def string(text: str | bytes) -> bytes:
    """Return a MessagePack string of fewer than 32 bytes."""
    raw = text.encode() if isinstance(text, str) else text
    assert len(raw) < 32
    return bytes([0xA0 | len(raw)]) + raw


def mapping(*pairs: tuple[bytes, bytes]) -> bytes:
    """Return a MessagePack map of at most 15 pairs, given as bytes."""
    assert len(pairs) < 16
    return bytes([0x80 | len(pairs)]) + b"".join(key + value for key, value in pairs)


def file_of(body: bytes) -> bytes:
    """Return a file as go-db writes it, with this decompressed body."""
    return HEADER + lz4.block.compress(body, store_size=False)


def documents(*values: bytes, name: str = "c", field: str = "v") -> bytes:
    """Return a file with one document for each value, in the field `field`."""
    entries = [
        (string(str(n)), mapping((string("_id"), string(str(n))), (string(field), value)))
        for n, value in enumerate(values, 1)
    ]
    head = b"\xdf" + struct.pack(">I", len(entries))
    collection = head + b"".join(key + value for key, value in entries)
    return file_of(mapping((string("collections"), mapping((string(name), collection)))))


def go_read(data: bytes) -> dict[str, Any]:
    """Read a file by go-db's rules: its magic, its buffer size, its types."""
    assert data[:4] == b"GODB"
    assert data[4] == 1
    body = data[8:]
    # The Go program allocates ten times the size of the body.
    decompressed = lz4.block.decompress(body, uncompressed_size=10 * len(body))
    unpacker = msgpack.Unpacker(
        raw=False, unicode_errors="surrogateescape", timestamp=0, ext_hook=_refuse
    )
    unpacker.feed(decompressed)
    top: dict[str, Any] = unpacker.unpack()  # strict_map_key: integer keys are refused
    for name, collection in top["collections"].items():
        assert isinstance(name, str)
        for identity, document in collection.items():
            assert isinstance(identity, str)
            assert isinstance(document, dict)
    assert not _has_timestamp(top.get("metadata", {}).get("godb_arrow"))
    return top


def _refuse(code: int, data: bytes) -> Any:
    raise AssertionError(f"go-db refuses the extension type {code}")


def _has_timestamp(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_timestamp(item) for item in value.values())
    if isinstance(value, list):
        return any(_has_timestamp(item) for item in value)
    return isinstance(value, msgpack.Timestamp)
