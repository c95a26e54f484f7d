"""One raw LZ4 block in pieces, against the lz4 package."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import lz4.block
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godb_arrow.codec import BACKEND, BlockDecoder, compress_piece, decode_pieces, reference
from godb_arrow.codec.blocks import Compressed, Content, compress_block
from godb_arrow.codec.reference.lz4 import Piece, cut_out
from godb_arrow.errors import CorruptFile

chunks = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda data, n: data * n, st.binary(min_size=1, max_size=9), st.integers(1, 5000)),
    st.integers(1, 90_000).map(lambda n: random.Random(n).randbytes(n)),
)
contents = st.lists(chunks, max_size=8).map(b"".join)


def filled(decoder: Any, fetch: Callable[[], bytes], room: int = 99_991) -> bytes:
    """Return the whole output, decoded into a buffer that is moved as soon as it is full."""
    output, history = b"", 0
    while True:
        buffer = memoryview(bytearray(history + room))
        buffer[:history] = output[len(output) - history :]
        end = decoder.fill(buffer, 0, history, history + room, fetch)
        output += bytes(buffer[history:end])
        if end < history + room:
            return output
        history = min(len(output), 64 << 10)


def decode(block: bytes, step: int) -> bytes:
    parts = iter([block[at : at + step] for at in range(0, len(block), step)])
    return filled(BlockDecoder(), lambda: next(parts, b""))


@given(contents, st.integers(1, 70_000))
def test_decodes_what_lz4_encodes(content: bytes, step: int) -> None:
    assert decode(lz4.block.compress(content, store_size=False), step) == content


def test_decodes_byte_by_byte() -> None:
    content = b"abcd" * 300 + random.Random(1).randbytes(700) + bytes(90_000)
    assert decode(lz4.block.compress(content, store_size=False), 1) == content


def compressor(
    max_ratio: int | None = None, high: bool = False
) -> Callable[[bytes], tuple[bytes, bytes]]:
    return lambda content: compress_piece(content, max_ratio, high)


def encode(
    content: bytes,
    step: int = 1 << 20,
    *,
    max_ratio: int | None = None,
    high: bool = False,
    **options: Any,
) -> bytes:
    chunks = (Content(content[at : at + step]) for at in range(0, len(content), step))
    return b"".join(compress_block(compressor(max_ratio, high), chunks, **options))


@given(contents, st.integers(2000, 400_000), st.sampled_from([None, 2, 10]), st.booleans())
def test_lz4_decodes_what_we_encode(
    content: bytes, step: int, ratio: int | None, high: bool
) -> None:
    options: dict[str, Any] = {
        "max_ratio": ratio, "high": high, "ending": lambda compressed: [b"the ", b"end"]
    }  # fmt: skip
    block = encode(content, step, reserve=3, threads=1 + step % 2, **options) + b"123"
    whole = content + b"the end123"
    assert lz4.block.decompress(block, uncompressed_size=len(whole)) == whole
    assert block.endswith(b"the end123")
    if ratio is not None:
        assert len(whole) <= ratio * len(block)
    assert decode(block, 65_536) == whole


@pytest.mark.parametrize("size", [1_000_000, 3_000_000])
def test_pieces_of_a_large_block_fit_together(size: int) -> None:
    rng = random.Random(size)
    words = [rng.randbytes(rng.randrange(1, 90)) for _ in range(500)]
    content = b"".join(rng.choice(words) for _ in range(size // 45))
    for threads in (1, 3):
        block = encode(content, 500_001, threads=threads, max_ratio=10)
        assert lz4.block.decompress(block, uncompressed_size=len(content)) == content
        assert decode(block, 10_007) == content
    assert len(block) < 1.1 * len(lz4.block.compress(content, store_size=False))


def test_the_ratio_is_used_up() -> None:
    block = encode(bytes(5_000_000), max_ratio=10)
    assert 500_000 <= len(block) < 525_000


@given(contents, st.integers(1, 70_000), st.integers(1, 200_000))
def test_the_history_is_where_the_caller_left_it(content: bytes, step: int, room: int) -> None:
    content = content[: 99 * room]
    block = lz4.block.compress(content, store_size=False)
    parts = iter([block[at : at + step] for at in range(0, len(block), step)])
    assert filled(BlockDecoder(), lambda: next(parts, b""), room) == content


def test_an_error_while_filling_passes_through() -> None:
    def fail() -> bytes:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        BlockDecoder().fill(memoryview(bytearray(10)), 0, 0, 10, fail)


@pytest.mark.parametrize("places", [(0, 5, 11), (6, 5, 7), (0, 8, 7)])
def test_output_outside_of_the_buffer_is_refused(places: tuple[int, int, int]) -> None:
    if BACKEND == "native":
        with pytest.raises(ValueError, match="not within the buffer"):
            BlockDecoder().fill(memoryview(bytearray(10)), *places, lambda: b"")


@pytest.mark.parametrize(
    ("block", "says"),
    [
        (b"\x10", "ends inside"),
        (b"\xf0\xff", "ends inside"),
        (b"\x10a\x01", "ends inside"),
        (b"\x1fa\x01\x00\xff", "ends inside"),
        (b"\x10a\x02\x00\x50abcde", "reaches back 2"),
        (b"\x10a\x00\x00\x50abcde", "distance 0"),
        (b"\x00\x01\x00\x50abcde", "reaches back 1"),
    ],
)
@pytest.mark.parametrize("step", [1, 100])
def test_every_length_and_distance_is_checked(block: bytes, says: str, step: int) -> None:
    with pytest.raises(CorruptFile, match=says):
        decode(block, step)


@given(contents, st.data())
def test_damage_is_an_error_or_other_output(content: bytes, data: st.DataObject) -> None:
    block = bytearray(lz4.block.compress(content, store_size=False))
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    results = set()
    for step in (1 if len(block) < 500 else 97, 10_000_000):
        try:
            results.add(decode(bytes(block), step))
        except CorruptFile:
            results.add(b"an error, whatever the pieces")
    assert len(results) == 1


def blocks_and_pieces(contents: list[bytes], **options: Any) -> tuple[bytes, list[Piece]]:
    """A block, and where its pieces are."""
    found: list[Compressed] = []

    def ending(compressed: list[Compressed]) -> list[bytes]:
        found.extend(compressed)
        return [b"be", b"hind"]

    block = b"".join(compress_block(compressor(**options), map(Content, contents), ending=ending))
    pieces = []
    at = skip = 0
    for length, tail, size, *_ in found:
        pieces.append(Piece(at, length, skip, tail, size))
        at, skip = at + length, tail + (0 if length else skip)
    return block, pieces


def _refuse(content: bytes) -> tuple[bytes, bytes]:
    raise AssertionError("it was compressed before")


@given(st.lists(chunks, min_size=1, max_size=6), st.booleans())
def test_each_piece_decodes_by_itself(contents: list[bytes], high: bool) -> None:
    block, pieces = blocks_and_pieces(contents, high=high, max_ratio=10)
    for codec in (decode_pieces, reference.decode_pieces):
        assert [codec(block, [piece]) for piece in pieces] == contents
        assert codec(block, pieces) == b"".join(contents)
    # What was cut out of one block can be put into another one, without being compressed again.
    again = [
        Content(content, cut_out(block, piece))
        for content, piece in zip(contents, pieces, strict=True)
    ]
    block = b"".join(compress_block(_refuse, iter(again[::-1])))
    whole = b"".join(contents[::-1])
    assert lz4.block.decompress(block, uncompressed_size=len(whole)) == whole


@given(st.lists(chunks, min_size=1, max_size=4), st.data())
def test_damaged_pieces_are_refused_by_both_codecs(
    contents: list[bytes], data: st.DataObject
) -> None:
    block, pieces = blocks_and_pieces(contents)
    damaged = bytearray(block)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    piece = pieces[data.draw(st.integers(0, len(pieces) - 1))]
    name = data.draw(st.sampled_from(Piece._fields))
    change = data.draw(st.sampled_from([0, 0, 1, -1, 7, 1000, 1 << 40]))
    piece = piece._replace(**{name: max(0, min(getattr(piece, name) + change, 1 << 24))})
    results = set()
    for codec in (decode_pieces, reference.decode_pieces):
        try:
            results.add(codec(bytes(damaged), [piece]))
        except CorruptFile:
            results.add(b"an error, in both")
    assert len(results) == 1
