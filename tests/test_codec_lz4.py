"""One raw LZ4 block in pieces, against the lz4 package."""

from __future__ import annotations

import random

import lz4.block
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godb_arrow.codec import BlockDecoder, BlockEncoder
from godb_arrow.errors import CorruptFile

chunks = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda data, n: data * n, st.binary(min_size=1, max_size=9), st.integers(1, 5000)),
    st.integers(1, 90_000).map(lambda n: random.Random(n).randbytes(n)),
)
contents = st.lists(chunks, max_size=8).map(b"".join)


def decode(block: bytes, step: int) -> bytes:
    decoder = BlockDecoder()
    pieces = [decoder.decode(block[at : at + step]) for at in range(0, len(block), step)]
    decoder.finish()
    return b"".join(pieces)


@given(contents, st.integers(1, 70_000))
def test_decodes_what_lz4_encodes(content: bytes, step: int) -> None:
    assert decode(lz4.block.compress(content, store_size=False), step) == content


def test_decodes_byte_by_byte() -> None:
    content = b"abcd" * 300 + random.Random(1).randbytes(700) + bytes(90_000)
    assert decode(lz4.block.compress(content, store_size=False), 1) == content


@given(contents, st.integers(1, 400_000), st.sampled_from([None, 2, 10]), st.booleans())
def test_lz4_decodes_what_we_encode(
    content: bytes, step: int, ratio: int | None, high: bool
) -> None:
    encoder = BlockEncoder(max_ratio=ratio, high=high)
    block = b"".join(encoder.encode(content[at : at + step]) for at in range(0, len(content), step))
    block += encoder.finish(b"the end", 3) + b"123"
    whole = content + b"the end123"
    assert lz4.block.decompress(block, uncompressed_size=len(whole)) == whole
    assert block.endswith(b"the end123")
    if ratio is not None:
        assert len(whole) <= ratio * len(block)
    assert decode(block, 65_536) == whole


def test_the_ratio_is_used_up() -> None:
    encoder = BlockEncoder(max_ratio=10)
    block = encoder.encode(bytes(5_000_000)) + encoder.finish(b"")
    assert 500_000 <= len(block) < 510_000


def test_history_reaches_64_kib_across_pieces() -> None:
    noise = random.Random(3).randbytes(65_535)
    content = noise + noise + noise[:100]
    encoder = BlockEncoder()
    block = b"".join(encoder.encode(content[at : at + 1000]) for at in range(0, len(content), 1000))
    block += encoder.finish(b"")
    assert decode(block, 777) == content


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
