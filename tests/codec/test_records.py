"""Records of the journal and single documents: both codecs write the same bytes."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.settings import examples
from support.strategies import scalars, texts

from godb_arrow import GodbError
from godb_arrow.codec.reference import records as reference
from godb_arrow.codec.values import pack
from godb_arrow.documents.ids import IdSequence, identify, number_of

native = pytest.importorskip("godb_arrow.codec.native")


def some_bytes(chance: random.Random, size: int) -> bytes:
    """Return bytes that are random, zero, or zero but for a few."""
    kind = chance.random()
    if kind < 0.3:
        return bytes(size)
    data = bytearray(chance.randbytes(size) if kind < 0.6 else size)
    for _ in range(chance.randrange(6) if size else 0):
        data[chance.randrange(size)] = chance.randrange(256)
    return bytes(data)


def test_records_have_the_same_bytes() -> None:
    chance = random.Random(20)
    for turn in range(4000):
        most = 300 if turn % 2 else 3000 if turn % 100 else 100_000
        parts = [some_bytes(chance, chance.randrange(most)) for _ in range(chance.randrange(3))]
        meta = {
            "n": chance.randrange(1 << 62),
            "c": "ä\udcff"[: chance.randrange(3)],
            "d": [some_bytes(chance, chance.randrange(80)).hex()],
        }
        where = chance.randrange(1 << 60), chance.randrange(1 << 40), chance.randrange(1 << 20) * 16
        assert native.pack_record(*where, meta, parts) == reference.pack_record(*where, meta, parts)


def test_checksums_of_every_size_are_the_same() -> None:
    data = bytes(range(1, 256)) * 5
    for size in (*range(200), *range(900, 1200)):
        record = size, size, 16 * size, {}, [data[:size]]
        assert native.pack_record(*record) == reference.pack_record(*record), size


@given(
    st.dictionaries(texts, st.one_of(scalars, st.lists(scalars, max_size=3)), max_size=5),
    st.one_of(st.none(), texts, st.integers(-5, 1 << 70)),
)
@settings(max_examples=examples(200, long=3000))
def test_a_single_document_is_packed_as_in_two_steps(document: dict[Any, Any], own: Any) -> None:
    if own is not None:
        document = {"first": 1, "_id": own, **document}
    has_id = "_id" in document
    packed = native.pack_single(document, 0 if has_id else 17)
    sequence = IdSequence(17)
    try:
        identity, made, was_given = identify(document, sequence)
        raw = pack(made)
    except GodbError:
        assert packed is None
        return
    assert was_given == has_id
    if packed is not None:
        entry = pack(identity) + raw
        assert packed == (identity, entry, raw, number_of(identity) or 0)


@pytest.mark.parametrize("codec", [native, reference], ids=["native", "reference"])
def test_short_writes_are_those_of_the_system(codec: Any, tmp_path: Path) -> None:
    path = tmp_path / "written"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    expected = b""
    for data in (b"", b"a", b"x" * 70_000, memoryview(b"view"), bytearray(b"array"), b"b" * 65_536):
        assert codec.write_short(descriptor, data) == len(data)
        expected += bytes(data)
    assert path.read_bytes() == expected
    os.close(descriptor)
    with pytest.raises(OSError) as caught:
        codec.write_short(descriptor, b"closed")
    assert caught.value.errno == errno.EBADF
    reading = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError):
        codec.write_short(reading, b"read only")
    os.close(reading)
    front, back = os.pipe()
    os.set_blocking(back, False)
    with pytest.raises(BlockingIOError):
        while codec.write_short(back, b"x" * 4096):
            pass
    os.close(front)
    os.close(back)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs another process")
def test_after_a_slow_write_others_release_the_interpreter_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released: list[int] = []
    module = native._native
    write = os.write
    monkeypatch.setattr(
        module, "os_write", lambda descriptor, data: released.append(1) or write(descriptor, data)
    )
    front, back = os.pipe()
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; time.sleep(0.2); sys.stdin.buffer.read()"],
        stdin=front,
    )
    os.close(front)
    for _ in range(1001):  # earlier slow writes are forgotten
        native.write_short(back, b"")
    released.clear()
    while not released:
        native.write_short(back, b"x" * 65_536)  # waits until the reader has begun
    before = len(released)
    for _ in range(3):
        native.write_short(back, b"x")
    assert len(released) == before + 3
    os.close(back)
    assert reader.wait(10) == 0
