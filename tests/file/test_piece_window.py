"""Pieces of documents that do not compress are read alone, without their neighbours' literals."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest

import godb_arrow
from godb_arrow import CorruptFile, FormatError, StorageEngine, codec
from godb_arrow.codec.reference import lz4
from godb_arrow.codec.reference.lz4 import Piece
from godb_arrow.file.piece_window import PieceReader

_PIECE_BYTES = 70_000


class Counting(io.BytesIO):
    """File that counts the bytes that are read."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        size = super().readinto(buffer)
        self.count += size
        return size


def joined(parts: list[bytes]) -> tuple[bytes, list[Piece]]:
    """Compress pieces and join them to a block, as a writer does; return it and their places."""
    waiting, block, pieces = b"", b"", []
    skip = 0
    for part in parts:
        sequences, literals = lz4.compress_piece(part, None, False)
        at, own = len(block), sequences
        joined_sequences, waiting = lz4.join(waiting, own, bytes(literals))
        block += joined_sequences
        pieces.append(Piece(at, len(joined_sequences), skip, len(literals), len(part)))
        skip = len(literals) + (0 if joined_sequences else skip)
    count = len(waiting)
    return block + bytes([min(count, 15) << 4]) + lz4.extension(count) + waiting, pieces


@pytest.fixture(scope="module")
def parts() -> list[bytes]:
    """Pieces that do not compress, between others."""
    noise = random.Random(1)
    mixed = [noise.randbytes(_PIECE_BYTES) for _ in range(5)]
    plain = b"document " * 3000
    return [
        plain,
        *mixed[:3],
        noise.randbytes(_PIECE_BYTES // 2) + plain,
        mixed[3],
        plain,
        mixed[4],
    ]


def test_every_window_decodes_to_its_pieces(parts: list[bytes]) -> None:
    block, pieces = joined(parts)
    assert codec.decode_pieces(block, pieces) == b"".join(parts)
    for first in range(len(parts)):
        for last in range(first + 1, len(parts) + 1):
            for reuse in (False, True):
                stream = Counting(b"before" + block)
                moved = [piece._replace(at=piece.at + 6) for piece in pieces[first:last]]
                window = PieceReader(stream).read(moved, len(block), reuse=reuse)
                expected = b"".join(parts[first:last])
                assert codec.decode_pieces(window.data, window.pieces) == expected
                assert stream.count <= len(expected) + 80_000, (first, last)


@pytest.mark.parametrize("change", [0x00, 0x10, 0xE0, 0xF0])
@pytest.mark.parametrize("length", [b"\x00", b"\xff\x00", b"\xff" * 9, b"\xff" * 500_000])
def test_a_forged_head_of_a_run_is_an_error(parts: list[bytes], change: int, length: bytes) -> None:
    _, pieces = joined(parts)
    piece = next(piece for piece in pieces if piece.skip > _PIECE_BYTES)
    stream = Counting(bytes([change]) + length)
    with pytest.raises(CorruptFile):
        window = PieceReader(stream).read([piece._replace(at=0)], 0)
        codec.decode_pieces(window.data, window.pieces)


def test_a_collection_of_noise_is_read_once(tmp_path: Path) -> None:
    noise = random.Random(2)
    texts = [noise.randbytes(200_000) for _ in range(30)]
    path = tmp_path / "noise.godb"
    godb_arrow.write_godb([{"_id": str(n), "t": text} for n, text in enumerate(texts)], path, "c")
    file = Counting(path.read_bytes())
    assert [document["t"] for document in godb_arrow.read_documents(file, "c")] == texts
    assert file.count < 1.6 * len(file.getvalue())
    with StorageEngine(tmp_path / "data", part_size="64MiB") as engine:
        engine.load_collection_metadata(path)
        engine.insert("c", {"_id": "new", "t": b""})
        engine.save()  # copies the pieces
        assert [document["t"] for document in engine.find_all("c")] == [*texts, b""]
    assert godb_arrow.verify_godb(tmp_path / "data").ok


def test_a_forged_index_of_noise_leads_nowhere(tmp_path: Path) -> None:
    noise = random.Random(3)
    path = tmp_path / "noise.godb"
    rows = [{"_id": str(n), "t": noise.randbytes(200_000)} for n in range(12)]
    godb_arrow.write_godb(rows, path, "c")
    data = bytearray(path.read_bytes())
    for _ in range(60):
        damaged = bytearray(data)
        at = noise.randrange(len(damaged) - 2000, len(damaged))
        damaged[at] ^= 1 << noise.randrange(8)
        try:
            found = list(godb_arrow.read_documents(bytes(damaged), "c"))
        except FormatError:
            continue
        assert found == rows
