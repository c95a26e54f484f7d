"""The ways in which files are compressed: all are read alike, and what is damaged is an error."""

from __future__ import annotations

import io
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.settings import LONG

import godb_arrow
from godb_arrow import StorageEngine, codec
from godb_arrow.cli.command import main
from godb_arrow.codec.compression import check_compression, compression_of
from godb_arrow.codec.frames import ZSTD, FrameDecoder
from godb_arrow.codec.reference.lz4 import Piece
from godb_arrow.engine.part_writer import PartWriter, commit_parts
from godb_arrow.replication.verify import verify_godb

ALL = ["lz4", "lz4hc", "zstd", "none"]
FLAGS = {"lz4": 0, "lz4hc": 0, "zstd": 1, "none": 2}


def table(rows: int) -> pa.Table:
    n = np.arange(rows)
    return pa.table({"n": n, "text": [f"number {one % 1000} of many" for one in n]})


def stored(rows: pa.Table, compression: Any) -> bytes:
    file = io.BytesIO()
    godb_arrow.write_godb(rows, file, "c", compression=compression)
    return file.getvalue()


@pytest.mark.parametrize("compression", ALL)
@pytest.mark.parametrize("rows", [0, 3, 100_000])
def test_every_compression_is_read_from_both_sides(
    tmp_path: Path, compression: str, rows: int
) -> None:
    """From the beginning, and by pieces where there are any."""
    data = stored(table(rows), compression)
    assert int.from_bytes(data[6:8], "little") == FLAGS[compression]
    for source in (io.BytesIO(data), data):
        found = godb_arrow.read_table(source)
        assert found.column("n").to_pylist() == list(range(rows))
    unhinted = godb_arrow.read_table(data, use_hints=False)
    assert unhinted.column("n").to_pylist() == list(range(rows)) if rows else True
    path = tmp_path / "x.godb"
    path.write_bytes(data)
    assert verify_godb(path).ok
    if rows == 100_000:
        explained = godb_arrow.open_godb(path).explain(pc.field("n") >= 99_990)
        assert explained.pieces > explained.pieces_read == 1


def test_zstd_is_smaller_and_none_is_messagepack() -> None:
    rows = table(100_000)
    sizes = {one: len(stored(rows, one)) for one in ALL}
    assert sizes["zstd"] < sizes["lz4hc"] < sizes["lz4"] < sizes["none"]
    body = stored(table(3), "none")[8:]
    assert "number 2 of many" in str(codec.load(body)["collections"])


def test_further_documents_and_collections_go_into_such_files(tmp_path: Path) -> None:
    path = tmp_path / "x.godb"
    godb_arrow.write_godb(table(50_000), path, "a", compression="zstd")
    godb_arrow.write_godb(table(10), path, "b", compression="none")
    godb_arrow.write_godb(table(10), path, "a", if_exists="append", compression="zstd")
    assert godb_arrow.list_collections(path) == {"a": 50_010, "b": 10}
    assert godb_arrow.read_table(path, "a").num_rows == 50_010
    assert verify_godb(path).ok


@given(
    st.lists(st.binary(max_size=200), max_size=6),
    st.binary(max_size=40).filter(lambda one: one[:4] != b"\x28\xb5\x2f\xfd"),
    st.integers(1, 50),
    st.integers(1, 300),
)
def test_frames_decode_to_what_they_were_made_of(
    contents: list[bytes], behind: bytes, step: int, count: int
) -> None:
    """Given in steps of any size, and piece by piece."""
    made = [ZSTD.compress(content) for content in contents]
    body = b"".join(made) + behind
    steps = iter([body[at : at + step] for at in range(0, len(body), step)])
    decoder, found, end = FrameDecoder(ZSTD), b"", count
    while end == count:
        buffer = memoryview(bytearray(count))
        end = decoder.fill(buffer, 0, 0, count, lambda: next(steps, b""))
        found += bytes(buffer[:end])
    assert found == b"".join(contents) + behind
    at = 0
    zstd = check_compression("zstd")
    for content, sequences in zip(contents, made, strict=True):
        piece = Piece(at, len(sequences), 0, 0, len(content))
        assert zstd.decode_pieces(body, [piece]) == content
        assert zstd.cut_out(body, piece) == (sequences, b"")
        at += len(sequences)


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_damaged_files_are_errors(compression: str) -> None:
    data = stored(table(30_000), compression)
    expected = godb_arrow.read_table(data)
    rng = np.random.default_rng(1)
    for at in rng.integers(8, len(data), 1000 if LONG else 50).tolist():
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        for source in (bytes(damaged), data[:at]):
            for options in ({}, {"use_hints": False}):
                try:
                    found = godb_arrow.read_table(source, "c", **options)
                except godb_arrow.FormatError:
                    continue
                # What was flipped is in the index of pieces, or in a checksum of the whole.
                assert found.equals(expected)


def test_what_claims_too_much_is_refused() -> None:
    frame = ZSTD.compress(b"a" * 1000)
    claims = bytearray(frame[:4]) + bytes([0xA0]) + (1 << 31).to_bytes(4, "little") + b"\x01\0\0"
    for bad, text in (
        (bytes(claims), "claims"),
        (frame[:4] + bytes([0x20 | 1]) + frame[5:], "dictionary"),
        (frame[:4] + bytes([0x00, 0x58]) + frame[6:], "does not declare"),
        (frame[:-5], "ends inside"),
    ):
        body = iter([bad])
        with pytest.raises(godb_arrow.CorruptFile, match=text):
            FrameDecoder(ZSTD).fill(memoryview(bytearray(10)), 0, 0, 10, partial(next, body, b""))
    zstd, plain = check_compression("zstd"), check_compression("none")
    for piece in (
        Piece(0, len(frame), 0, 0, 999),
        Piece(0, len(frame), 0, 0, 1001),
        Piece(0, len(frame), 0, 1, 1000),
        Piece(1, len(frame) - 1, 0, 0, 1000),
        Piece(0, len(frame) + 1, 0, 0, 1000),
    ):
        for one in (zstd, plain):
            with pytest.raises(godb_arrow.CorruptFile, match="does not decode"):
                one.decode_pieces(frame, [piece])
    assert compression_of(3) is None and compression_of(256) is None


@pytest.mark.parametrize("compression", ALL)
@pytest.mark.parametrize("part_size", ["1KiB", "128MiB"])
def test_a_collection_keeps_its_compression(
    tmp_path: Path, compression: Any, part_size: str
) -> None:
    options = {"part_size": part_size, "part_grace": 0.001}
    with StorageEngine(tmp_path, compression=compression, **options) as engine:
        engine.create_collection("c").insert_many(table(2000))
        engine.create_collection("other", compression="lz4")
    with StorageEngine(tmp_path, **options) as engine:
        collection = engine["c"]
        assert (collection.compression, engine["other"].compression) == (compression, "lz4")
        for _ in range(3):
            collection.insert_many(table(500))
            engine.save()
        collection.compact(thorough=True)
        assert len(collection) == 3500
        files = [p for p in (tmp_path / "collections").rglob("*.godb") if p.name != "other.godb"]
        assert {path.read_bytes()[6] for path in files} == {FLAGS[compression]}
        engine.pack("c")
        assert (tmp_path / "collections" / "c.godb").read_bytes()[6] == FLAGS[compression]
    assert all(verify_godb(path).ok for path in (tmp_path / "collections").iterdir())


def test_the_compression_is_chosen_anew_and_survives_a_crash(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path)
    engine.create_collection("made", compression="zstd").insert({"n": 1})
    collection = engine.create_collection("c")
    collection.insert_many(table(1000))
    engine.save()
    before = (tmp_path / "collections" / "c.godb").stat().st_size
    collection.create_index("n")
    collection.set_compression("zstd")
    with pytest.raises(godb_arrow.InvalidOption, match="use one of lz4, lz4hc, zstd, none"):
        collection.set_compression("gzip")  # type: ignore[arg-type]
    with pytest.raises(godb_arrow.InvalidOption):
        engine.create_collection("x", compression="gzip")  # type: ignore[arg-type]
    engine.close(discard=True)
    with StorageEngine(tmp_path) as engine:
        assert engine["made"].compression == engine["c"].compression == "zstd"
        assert engine["c"].indexes == ("n",)
        assert engine["c"].state.value == "dirty"
        engine.save()
        assert (tmp_path / "collections" / "c.godb").stat().st_size < before
        assert len(engine["c"]) == 1000
    with pytest.warns(godb_arrow.OptionWarning, match="compression is 'gzip'"):
        StorageEngine(tmp_path, compression="gzip").close()  # type: ignore[arg-type]


def test_files_of_other_processes_and_bulks_are_compressed_so(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        engine.create_collection("c", compression="zstd")
    writer = PartWriter.of(tmp_path, "c")
    commit_parts(tmp_path, "c", writer.write(table(1000), 0))
    with StorageEngine(tmp_path, max_memory="1MiB") as engine:
        engine.insert_many("c", ({"n": n, "text": "x" * 300} for n in range(10_000)))
        assert len(engine["c"]) == 11_000
        files = list((tmp_path / "collections").rglob("*.godb"))
        assert len(files) > 2
        assert {path.read_bytes()[6] for path in files} == {1}


def test_pieces_are_copied_only_between_files_of_one_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StorageEngine(tmp_path, compression="zstd") as engine:
        engine.create_collection("c").insert_many(table(200_000))
    calls = []
    original = pa.Codec.compress
    real = pa.Codec

    class Counted:
        def __init__(self, *args: Any, **options: Any) -> None:
            self._codec = real(*args, **options)

        def compress(self, data: bytes, **options: Any) -> Any:
            calls.append(len(data))
            return original(self._codec, data, **options)

    monkeypatch.setattr(pa, "Codec", Counted)
    with StorageEngine(tmp_path) as engine:
        engine["c"].insert({"n": -1})
        engine.save()
        assert sum(calls) < 2 << 20  # of some 10 MB
        engine["c"].set_compression("none")
        engine.save()
        assert len(engine["c"]) == 200_001
        assert engine["c"].count(pc.field("n") < 5) == 6


def test_the_command_says_who_reads_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "x.godb")
    for compression, readers in (("lz4", "go-db, godb_arrow"), ("zstd", "godb_arrow")):
        source = str(tmp_path / "c.csv")
        Path(source).write_text("n\n1\n2\n")
        arguments = ["import", source, path, "--if-exists", "replace", "--compression", compression]
        assert CliRunner().invoke(main, arguments).exit_code == 0
        shown = CliRunner().invoke(main, ["info", path]).output
        assert f"compression  {compression}; read by {readers}\n" in shown
    data = str(tmp_path / "data")
    with StorageEngine(data) as engine:
        engine.create_collection("c").insert({"n": 1})
    done = CliRunner().invoke(main, ["compression", data, "c", "zstd"])
    assert done.exit_code == 0 and "c: zstd" in done.output
    assert Path(data, "collections", "c.godb").read_bytes()[6] == 1
    assert os.listdir(data)


def test_a_frame_of_very_many_blocks_is_refused_soon() -> None:
    """Blocks without content were passed again for each chunk of the file that was read."""
    descriptor = bytes([0b1010_0000]) + (1000).to_bytes(4, "little")  # a single segment
    frame = b"\x28\xb5\x2f\xfd" + descriptor + bytes(3) * 1_300_000
    start = time.process_time()
    with pytest.raises(godb_arrow.CorruptFile, match="more than 4,096 blocks"):
        godb_arrow.read_table(b"GODB\x01\x00\x01\x00" + frame)
    assert time.process_time() - start < 1
