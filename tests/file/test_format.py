"""The GODB file: header, body, damage, bombs, and what go-db reads of what we write."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.block
import msgpack
import pyarrow as pa
import pytest
import xxhash
from support.handmade import HEADER, documents, file_of, go_read, mapping, string
from support.settings import LONG

import godb_arrow
from godb_arrow import CorruptFile, GodbError

TINY = file_of(
    mapping(
        (
            string("collections"),
            mapping((string("t"), mapping((string("1"), mapping((string("a"), b"\x01")))))),
        )
    )
)


def written(data: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    godb_arrow.write_godb(data, file, "c", **options)
    return file.getvalue()


def body_of(data: bytes) -> bytes:
    return bytes(lz4.block.decompress(data[8:], uncompressed_size=64 << 20))


def test_reads_a_file_made_by_hand() -> None:
    assert list(godb_arrow.read_documents(TINY)) == [{"_id": "1", "a": 1}]


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"", godb_arrow.EmptyFile, "empty"),
        (b"GODB\x01", godb_arrow.TruncatedHeader, "5 bytes"),
        (b"PK\x03\x04....", godb_arrow.WrongMagic, "GODB"),
        (b"P", godb_arrow.WrongMagic, "GODB"),
        (b"GODB\x02\x00\x00\x00\x00", godb_arrow.UnsupportedVersion, "version 2"),
        (b"GODB\x01\x00\x03\x00\x00", godb_arrow.UnsupportedFlags, "0x0003"),
    ],
)
def test_each_bad_header_has_an_error_of_its_own(
    data: bytes, error: type[GodbError], says: str
) -> None:
    with pytest.raises(error, match=says) as raised:
        godb_arrow.read_table(data)
    assert isinstance(raised.value, ValueError)


def collections(value: bytes) -> bytes:
    return file_of(mapping((string("collections"), value)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (HEADER, "top level"),
        (HEADER + b"\x10", "LZ4 block ends inside"),
        (HEADER + b"\x0f\x05\x00\x00", "reaches back"),
        (HEADER + b"\x0f\x00\x00\x00", "distance 0"),
        (file_of(b"\x93\x01\x02\x03"), "map, but found an array"),
        (file_of(b"\x81\x01\x02"), "string, but found an int"),
        (collections(b"\x90"), "'collections' is a map, but found an array"),
        (collections(mapping((string("t"), b"\x05"))), "collection 't' is a map"),
        (
            collections(mapping((string("t"), mapping((b"\x01", b"\x80"))))),
            "document id is a string",
        ),
        (
            collections(mapping((string("t"), mapping((string("1"), b"\x91\x01"))))),
            "document is a map",
        ),
        (collections(mapping((string("t"), mapping((string("1"), b"\xc1"))))), "byte that begins"),
        (collections(mapping((string("t"), b"\x82" + string("1") + b"\x80"))), "1 of 2 documents"),
        (collections(mapping((string("t"), b"\x80"), (string("t"), b"\x80"))), "occurs twice"),
        (collections(b"\x80") + b"\x00", "LZ4"),
    ],
)
def test_damage_names_what_was_expected_and_where(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.godb"
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match=says) as raised:
        godb_arrow.read_table(path, "t")
    assert "damaged.godb" in str(raised.value)
    assert f"byte {raised.value.offset}" in str(raised.value)


def test_damage_in_lz4_is_placed_in_the_file() -> None:
    with pytest.raises(CorruptFile) as raised:
        godb_arrow.read_table(HEADER + b"\x0f\x05\x00\x00")
    assert (raised.value.where, raised.value.offset) == ("file", 9)


def test_every_truncation_is_noticed() -> None:
    for whole in (TINY, written([{"a": n, "b": "x" * n} for n in range(50)])):
        for end in range(len(whole)):
            with pytest.raises(GodbError):
                godb_arrow.read_table(whole[:end], None)


FLIPPED = {
    "one document": [{"a": 1}],
    "very regular": [{"name": "user", "city": "Berlin", "age": 30}] * 40,
    "varied": [{"n": n * n, "s": f"text {n}", "l": [n, None]} for n in range(30)],
}


@pytest.mark.parametrize("name", FLIPPED)
def test_every_flipped_bit_of_a_file_we_wrote_is_noticed(name: str) -> None:
    whole = written(FLIPPED[name])
    for position in range(0, len(whole) * 8, 1 if LONG else 3):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(GodbError):
            list(godb_arrow.read_documents(bytes(damaged), "c"))


def test_a_flip_that_lz4_cannot_see_is_noticed() -> None:
    """Another distance, to the same bytes: the decompressed body is the same."""
    whole = written([{"k": "abcdefgh" * 40} for _ in range(20)])
    original = body_of(whole)
    found = 0
    for position in range(64, len(whole) * 8):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        try:
            same = body_of(bytes(damaged)) == original
        except lz4.block.LZ4BlockError:
            continue
        if same:
            found += 1
            with pytest.raises(godb_arrow.ChecksumMismatch):
                godb_arrow.read_table(bytes(damaged))
    assert found, "the test needs such a flip"


def test_checksums_are_those_that_the_format_describes() -> None:
    whole = written([{"a": 1}])
    body = body_of(whole)
    top = msgpack.unpackb(body)
    at = body.rindex(b"\xa8checksum")
    assert top["checksum"] == xxhash.xxh3_64_intdigest(body[:at])
    assert top["file_checksum"] == xxhash.xxh3_64_intdigest(whole[:-26])
    assert list(top) == ["metadata", "collections", "file_checksum", "checksum"]


def bomb_lengths() -> dict[str, bytes]:
    claim = struct.pack(">I", 2**32 - 1)
    inside = {
        "string": b"\xdb" + claim,
        "binary": b"\xc6" + claim,
        "extension": b"\xc9" + claim + b"\x05",
        "array": b"\xdd" + claim,
        "map": b"\xdf" + claim,
    }
    found = {f"value: {name}": documents(raw) for name, raw in inside.items()}
    found["id"] = collections(mapping((string("t"), b"\x81" + b"\xdb" + claim)))
    found["name"] = collections(b"\x81\xdb" + claim)
    found["top-level key"] = file_of(b"\x81\xdb" + claim)
    found["collections"] = collections(b"\xdf" + claim)
    found["documents"] = collections(mapping((string("t"), b"\xdf" + claim)))
    found["other value"] = file_of(mapping((string("indexes"), b"\xc6" + claim)))
    found["literals"] = HEADER + b"\xf0" + b"\xff" * 3000
    return found


BOMBS = bomb_lengths()


@pytest.mark.parametrize("name", BOMBS)
def test_a_length_that_claims_gigabytes_is_refused_at_once(name: str) -> None:
    started = time.monotonic()
    with pytest.raises(GodbError):
        godb_arrow.read_table(BOMBS[name], "t")
    assert time.monotonic() - started < 10


def test_a_match_that_claims_gigabytes_takes_no_memory() -> None:
    # 16 MiB of length bytes stand for 4 GiB of output, in one document.
    prefix = b"\x81\xabcollections\x81\xa1t\x81\xa11\x81\xa1v\xdb\xff\xff\xff\xff"
    bomb = HEADER + bytes([(15 << 4) | 15, len(prefix) - 15]) + prefix + b"\x01\x00"
    bomb += b"\xff" * (16 << 20) + b"\x00" + b"\x50aaaaa"
    with pytest.raises(godb_arrow.DocumentTooLarge, match="max_document_bytes"):
        godb_arrow.read_table(bomb, max_document_bytes=1 << 20)


def test_document_size_is_limited_by_an_option() -> None:
    data = written([{"a": "x" * 2_000_000}])
    with pytest.raises(godb_arrow.DocumentTooLarge):
        godb_arrow.read_table(data, max_document_bytes=1_000_000)
    assert godb_arrow.read_table(data).num_rows == 1


def nested(levels: int) -> bytes:
    """A value that, in a document, makes it nest `levels` deep."""
    return b"\x91" * (levels - 2) + b"\x90" if levels > 1 else b"\x01"


@pytest.mark.parametrize("make", [nested, lambda n: (b"\x81\xa1k" * (n - 2)) + b"\x80"])
def test_depth_128_is_read_and_129_refused(make: Callable[[int], bytes]) -> None:
    assert godb_arrow.read_table(documents(make(128))).num_rows == 1
    (document,) = godb_arrow.read_documents(documents(make(128)))
    assert godb_arrow.read_table(written([document])).num_rows == 1
    for levels in (129, 300, 5000, 100_000):
        with pytest.raises(godb_arrow.DepthExceeded, match="128"):
            godb_arrow.read_table(documents(make(levels)))
        with pytest.raises(godb_arrow.DepthExceeded):
            list(godb_arrow.read_documents(documents(make(levels))))


def test_deep_columns_travel_through_the_c_interface() -> None:
    table = godb_arrow.read_table(documents(nested(128)))
    reader = godb_arrow.scan_godb(documents(nested(128)))
    assert pa.RecordBatchReader.from_stream(reader).read_all().equals(table)


def test_other_top_level_keys_are_passed_over_wherever_they_are() -> None:
    odd = b"\x93\xc7\x01\x05a\xc0\x81\x01\xa1x"
    data = file_of(
        mapping(
            (string("zzz"), odd),
            (string("metadata"), b"\xc0"),
            (string("collections"), mapping((string("t"), mapping((string("1"), b"\x80"))))),
            (string("indexes"), b"\x81\xa1t\x81\xa1x\xc0"),
        )
    )
    assert godb_arrow.list_collections(data) == {"t": 1}
    assert godb_arrow.read_table(data).column("_id").to_pylist() == ["1"]


def test_large_other_values_are_passed_over_in_pieces() -> None:
    blob = b"\xc6" + struct.pack(">I", 3_000_000) + bytes(range(250)) * 12_000
    data = file_of(
        mapping((string("x"), blob), (string("collections"), mapping((string("t"), b"\x80"))))
    )
    assert godb_arrow.list_collections(data) == {"t": 0}


def test_nil_stands_for_an_empty_map() -> None:
    assert godb_arrow.list_collections(collections(b"\xc0")) == {}
    assert godb_arrow.list_collections(collections(b"\x81\xa1t\xc0")) == {"t": 0}


def test_bytes_after_the_map_are_read_over_as_in_go_db_and_reported() -> None:
    data = file_of(body_of(TINY) + b"trailing")
    assert godb_arrow.read_table(data).num_rows == 1
    assert "8 bytes follow" in godb_arrow.verify_godb(data).problems[0]


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"a": 1}],
        [{"a": 1, "n": None, "l": [1, {"x": 2.5}], "t": "é", "b": b"\x00"}],
        [{"k": "x" * 200}] * 3000,
        [{"k": "x" * 2_000_000}],
        [{"k": bytes(1000)}] * 50,
    ],
    ids=["empty", "one", "kinds", "regular", "one regular", "zeros"],
)
def test_go_db_reads_what_we_write(data: list[dict[str, Any]]) -> None:
    top = go_read(written(data))
    found = list(top["collections"]["c"].values())
    assert found == [{"_id": str(n), **document} for n, document in enumerate(data, 1)]


def test_incompressible_data_is_written_and_read() -> None:
    import random

    data = [{"b": random.Random(n).randbytes(5000)} for n in range(100)]
    whole = written(data)
    assert len(body_of(whole)) <= len(whole)
    assert go_read(whole)["collections"]["c"]["1"]["b"] == data[0]["b"]
    assert [d["b"] for d in godb_arrow.read_documents(whole)] == [d["b"] for d in data]


def test_files_of_any_ratio_are_read() -> None:
    collection = b"".join(string(str(n)) + b"\x81\xa1k\xd9\xff" + b"x" * 255 for n in range(1000))
    body = mapping((string("collections"), b"\x81\xa1t\xdf\x00\x00\x03\xe8" + collection))
    data = file_of(body)
    assert len(body) > 30 * len(data)
    assert godb_arrow.read_table(data).num_rows == 1000


def test_a_file_without_our_keys_reads_the_same() -> None:
    rows = [{"a": n, "s": str(n), "f": n / 2} for n in range(100)]
    ours = written(rows)
    top = msgpack.unpackb(body_of(ours))
    plain = file_of(msgpack.packb({"collections": top["collections"]}))
    assert godb_arrow.read_table(plain).equals(godb_arrow.read_table(ours))


def test_a_file_with_a_checksum_only_is_checked() -> None:
    body = b"\x82" + string("collections") + mapping((string("t"), b"\x80"))
    right = xxhash.xxh3_64(body).digest()
    assert godb_arrow.verify_godb(file_of(body + string("checksum") + b"\xcf" + right)).checksum
    with pytest.raises(godb_arrow.ChecksumMismatch):
        godb_arrow.list_collections(file_of(body + string("checksum") + b"\xcf" + right[::-1]))


def forged(metadata: dict[str, Any], collections: dict[str, Any]) -> bytes:
    """A sealed file, with right checksums, that says anything."""
    body = b"\x84" + b"".join(
        msgpack.packb(part)
        for part in ("metadata", metadata, "collections", collections)
    )  # fmt: skip
    ending = b"\xadfile_checksum\xcf"
    literals = len(body) + len(ending) + 26
    block = b"\xf0" + b"\xff" * ((literals - 15) // 255) + bytes([(literals - 15) % 255])
    start = HEADER + block + body + ending
    file_hash = xxhash.xxh3_64(start).digest()
    content = xxhash.xxh3_64(body + ending + file_hash).digest()
    return start + file_hash + b"\xa8checksum\xcf" + content


def hinted(collections: Any) -> dict[str, Any]:
    checksum = xxhash.xxh3_64_intdigest(msgpack.packb(collections))
    return {"godb_arrow": {"collections": collections, "checksum": checksum}}


def test_hints_that_lie_never_lead_to_wrong_data() -> None:
    rows = {"1": {"_id": "1", "a": 1, "b": "x"}, "2": {"_id": "2", "a": 2.5, "b": "y"}}
    right = godb_arrow.read_table(file_of(msgpack.packb({"collections": {"c": rows}})))
    for schema in (
        pa.schema({"_id": pa.string(), "a": pa.int64(), "b": pa.string()}),
        pa.schema({"_id": pa.string(), "a": pa.float64()}),
        pa.schema({"_id": pa.string(), "a": pa.string(), "b": pa.int64()}),
    ):
        hint = {"count": 2, "next_id": 3, "schema": schema.serialize().to_pybytes()}
        data = forged(hinted({"c": hint}), {"c": rows})
        assert godb_arrow.read_schema(data).equals(schema), "the hint is used"
        assert godb_arrow.read_table(data).equals(right)
        assert not godb_arrow.verify_godb(data).ok
        with pytest.raises(godb_arrow.TypeMismatch, match="use_hints"):
            godb_arrow.scan_godb(data).read_all()


INTERVALS = pa.schema({"m": pa.month_day_nano_interval()}).serialize().to_pybytes()


@pytest.mark.parametrize(
    "metadata",
    [
        {"godb_arrow": 5},
        {"godb_arrow": {"collections": {}}},
        hinted({"c": {"count": "x"}}),
        hinted({"c": {"count": 1, "schema": b"nonsense"}}),
        hinted(
            {
                "c": {
                    "count": 1,
                    "schema": pa.schema({"m": pa.month_day_nano_interval()})
                    .serialize()
                    .to_pybytes(),
                }
            }
        ),
        hinted([]),
        {"godb_arrow": {"collections": {"c": {"count": 9}}, "checksum": 5}},
        {},
    ],
)
def test_hints_that_make_no_sense_are_left_alone(metadata: dict[str, Any]) -> None:
    data = forged(metadata, {"c": {"1": {"a": 1}}})
    assert godb_arrow.read_table(data).to_pylist() == [{"_id": "1", "a": 1}]


def test_a_hint_for_a_file_that_was_changed_since_is_not_used() -> None:
    ours = written([{"a": 1}])
    top = msgpack.unpackb(body_of(ours))
    top["collections"]["c"]["2"] = {"_id": "2", "new": "field"}
    del top["checksum"], top["file_checksum"]  # go-db drops keys that it does not know
    changed = file_of(msgpack.packb(top))
    assert godb_arrow.read_schema(changed).names == ["_id", "a", "new"]
    assert godb_arrow.list_collections(changed) == {"c": 2}
