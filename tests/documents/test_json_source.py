"""Documents of JSON text: blocks, ids, and errors with their lines."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import godb_arrow
from godb_arrow.documents import json_source
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.json_source import JsonSource
from godb_arrow.errors import DepthExceeded, DocumentTooLarge, InvalidDocument

ROWS: list[dict[str, Any]] = [
    {"n": n, "text": "}\\n{" * (n % 5), "deep": {"list": [{}, {"x": "\n{"}]}} for n in range(200)
]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_source, "_BLOCK_BYTES", 300)


def source(text: str | bytes) -> JsonSource:
    return JsonSource(io.BytesIO(text.encode() if isinstance(text, str) else text), "x.json")


def stored(text: str | bytes, **options: Any) -> list[dict[str, Any]]:
    file = io.BytesIO()
    godb_arrow.write_godb(source(text), file, "c", **options)
    return list(godb_arrow.read_documents(file.getvalue()))


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("between", ["\n", "", "\r\n", " \n\n\n ", "\n" * 400])
@pytest.mark.parametrize("in_array", [False, True])
def test_documents_of_any_layout(indent: int | None, between: str, in_array: bool) -> None:
    texts = [json.dumps(row, indent=indent) for row in ROWS]
    text = f"[{between}{f',{between}'.join(texts)}]" if in_array else between.join(texts)
    for ending in ("", "\n", " \r\n\n"):
        assert list(source(text + ending)) == ROWS
    assert list(source(b"\xef\xbb\xbf" + text.encode())) == ROWS


@pytest.mark.parametrize("text", ["", "\n", " \r\n ", "[]", " [ ] \n"])
def test_no_documents(text: str) -> None:
    assert list(source(text)) == []
    assert stored(text) == []


def test_many_small_documents_are_cut_into_chunks() -> None:
    text = "\n".join(f'{{"n":{n}}}' for n in range(40_000))
    json_source._BLOCK_BYTES = 1 << 20
    chunks = list(source(text).encode_documents("_id", IdSequence(), 1 << 20))
    assert [len(chunk.ids) for chunk in chunks] == [16_384, 16_384, 7_232]
    assert chunks[-1].ids[-1].as_py() == b"40000"


def test_ids_are_those_that_dicts_would_get(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows: list[dict[str, Any]] = []
    for n in range(300):
        kind = rng.randrange(4)
        identity = {0: {"_id": f"x{n}"}, 1: {"_id": 1000 * n}}.get(kind, {})
        row = {"n": n, **identity} if rng.random() < 0.5 else {**identity, "n": n}
        rows.append(row)
    text = "\n".join(map(json.dumps, rows))
    file = io.BytesIO()
    godb_arrow.write_godb(rows, file, "c")
    right = list(godb_arrow.read_documents(file.getvalue()))
    found = stored(text)
    assert found == right
    assert [list(document) for document in found] == [list(document) for document in right]


def test_ids_of_another_field() -> None:
    rows = [{"key": n, "_id": "former" if n % 2 else str(n)} for n in range(50)]
    found = stored("\n".join(map(json.dumps, rows)), id_column="key")
    assert [document["_id"] for document in found] == [str(n) for n in range(50)]
    with pytest.raises(InvalidDocument, match="document number 30 has no field 'key'"):
        stored("\n".join(json.dumps({"key": n} if n != 30 else {}) for n in range(50)),
               id_column="key")  # fmt: skip


@pytest.mark.parametrize("value", [None, 1.5, True, [], {}])
def test_an_id_of_another_type_is_refused(value: Any) -> None:
    rows = [{"_id": str(n) if n != 33 else value} for n in range(50)]
    with pytest.raises(InvalidDocument, match="document number 33 has the id"):
        stored("\n".join(map(json.dumps, rows)))


def test_equal_ids_are_refused() -> None:
    with pytest.raises(godb_arrow.DuplicateId, match="'7'"):
        stored("\n".join(json.dumps({"_id": n % 40 or 7}) for n in range(60)))


GOOD = '{"a":1}\n' * 100


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        (GOOD + '{"a":1}}\n' + GOOD, 101, 8),
        (GOOD + '{"é":é}\n' + GOOD, 101, 6),
        (GOOD + '\n\n{"a":\n "x" 1}' + GOOD, 104, 6),
        (GOOD + '{"a":"' + GOOD, 101, 9),
        (GOOD + "5\n" + GOOD, 101, 1),
        (GOOD + '{"a":1', 101, 7),
        (GOOD + '{"a":1}\n{"a":\n\n', 102, 6),
        ("[" + GOOD.replace("\n", ",\n") + '{"a":1}\n{}]', 102, 1),
        ("[" + GOOD.replace("\n", ",\n") + '{"a":1}\n', 101, 8),
        ("[" + GOOD.replace("\n", ",\n") + "]", 100, 9),
        ("[{}]\n{}", 1, 4),
        (GOOD.replace("\n", "") + '{"é":é}', 1, 706),
        ("[{}] ]", 1, 4),
        ("[5]", 1, 2),
        ("[,{}]", 1, 2),
        ("[{},,{}]", 1, 5),
        (GOOD + '{"a":"\\ud8"}', 101, 8),
    ],
)
def test_errors_have_line_and_column(text: str, line: int, column: int) -> None:
    with pytest.raises(InvalidDocument, match=f"line {line}, column {column} of x.json: "):
        list(source(text))
    with pytest.raises(InvalidDocument, match=f"line {line}, column {column} of x.json: "):
        stored(text)


def test_values_that_cannot_be_stored_have_their_line() -> None:
    with pytest.raises(InvalidDocument, match=r"line 101 of x.json: the value at a.b .* 64 bits"):
        stored(GOOD + '{"a":{"b":99999999999999999999}}')
    with pytest.raises(DepthExceeded, match=r"line 101 of x.json: .*deeper than 128"):
        stored(GOOD + '{"a":' + "[" * 128 + "]" * 128 + "}")
    with pytest.raises(DocumentTooLarge, match="document '101'"):
        stored(GOOD + json.dumps({"a": "x" * 2000}), max_document_bytes=1024)


def test_other_encodings_are_named() -> None:
    with pytest.raises(InvalidDocument, match="UTF-16"):
        list(source('{"a":1}'.encode("utf-16")))
    with pytest.raises(InvalidDocument, match=r"line 1, column 7 .* not UTF-8"):
        list(source(b'{"a":"\xe9"}'))


def test_a_document_of_any_size_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_source, "_MAX_TEXT_BYTES", 1000)
    assert list(source('{"a":"' + "x" * 900 + '"}')) == [{"a": "x" * 900}]
    with pytest.raises(DocumentTooLarge, match="more than 1000 bytes of JSON"):
        list(source('{"a":"' + "x" * 1500))


def test_types_are_those_of_dicts() -> None:
    rows = [{"a": n if n < 150 else n / 2, f"f{n % 3}": [None, {"x": str(n)}]} for n in range(200)]
    files = io.BytesIO(), io.BytesIO()
    godb_arrow.write_godb(rows, files[0], "c")
    godb_arrow.write_godb(source("\n".join(map(json.dumps, rows))), files[1], "c")
    assert files[0].getvalue() == files[1].getvalue()


def test_an_error_stops_a_copy_and_leaves_no_threads(tmp_path: Path) -> None:
    path = tmp_path / "x.godb"
    godb_arrow.write_godb([{"n": 1}], path, "c")
    before = path.read_bytes()
    with pytest.raises(InvalidDocument, match="line 5001"):
        godb_arrow.write_godb(source('{"a":1}\n' * 5000 + "x"), path, "c")
    assert path.read_bytes() == before


def test_a_collection_of_an_engine_takes_them(tmp_path: Path) -> None:
    with godb_arrow.StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert({"n": 0})
        users.insert_many(source(GOOD))
        assert users.count() == 101
        assert users.get("101") == {"_id": "101", "a": 1}


def test_extended_json_of_mongodb() -> None:
    text = (
        b'{"_id":{"$oid":"507f1f77bcf86cd799439011"},"n":{"$numberLong":"5"},"l":[{"$date":0}]}\n'
        b'{"_id":"x","n":6,"d":{"$numberDecimal":"1.50"},"t":{"$time":"1970-01-01T00:00:00Z"}}\n'
        b'{"n":7}\n'
    )
    table = godb_arrow.read_ndjson(text, extended=True)
    assert table.select(["_id", "n", "d"]).to_pylist() == [
        {"_id": "507f1f77bcf86cd799439011", "n": 5, "d": None},
        {"_id": "x", "n": 6, "d": "1.50"},
        {"_id": "1", "n": 7, "d": None},
    ]
    assert str(table.schema.field("t").type) == "timestamp[us, tz=UTC]"
    with pytest.raises(InvalidDocument, match=r"line 2 of .*\$numberLong"):
        godb_arrow.read_ndjson(b'{"n":1}\n{"n":{"$numberLong":"x"}}', extended=True)


def test_json_as_a_table() -> None:
    text = "\n".join(json.dumps(row) for row in ROWS)
    table = godb_arrow.read_ndjson(text.encode())
    assert table.column("n").to_pylist() == list(range(200))
    assert "_id" not in table.schema.names
    few = godb_arrow.read_ndjson(text.encode(), columns=["n"], filter={"n": {"$gt": 197}})
    assert few.to_pydict() == {"n": [198, 199]}
    given = godb_arrow.read_ndjson(text.encode(), schema=pa.schema({"n": pa.float64()}))
    assert given.schema.types == [pa.float64()]
    with pytest.raises(godb_arrow.TypeMismatch):
        godb_arrow.read_ndjson(b'{"n":"x"}', schema=pa.schema({"n": pa.int64()}))
    assert godb_arrow.read_ndjson(b"").num_rows == 0
