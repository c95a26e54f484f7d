"""JSON text to documents and back: the kernel and the reference codec agree on any text.

The cases have the same kinds as the public suites of JSON parsers: text that every parser must
accept, text that it must refuse, and text of which the grammar leaves the meaning open.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from array import array
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.json_texts import alike_text, random_text
from support.strategies import raw_values, tables

from godb_arrow import GodbError, codec
from godb_arrow.codec import Documents, Entries, load, pack, pack_entry, reference
from godb_arrow.codec.jsontext import from_json_text
from godb_arrow.codec.reference.jsonread import JsonError
from godb_arrow.documents.json_lines import _CONTROLS, terminal_lines

native = pytest.importorskip("godb_arrow.codec.native")
CODECS = [native, reference]
LONG = os.environ.get("GODB_ARROW_LONG") == "1"


def outcome(module: Any, text: bytes, **options: Any) -> Any:
    try:
        found = module.read_json(text, **options)
    except JsonError as error:
        return error.message, error.offset, type(error.error)
    return found.data, found.bounds


def documents_of(text: bytes, **options: Any) -> list[dict[Any, Any]]:
    """Read documents with both codecs, which must agree."""
    found, right = (outcome(module, text, **options) for module in CODECS)
    assert found == right
    data, bounds = found
    documents = Documents(data, bounds)
    return [load(documents.document(row)) for row in range(len(documents))]


VALID: list[tuple[str, Any]] = [
    ('""', ""),
    ('" "', " "),
    (r'"\"\\\/\b\f\n\r\t"', '"\\/\b\f\n\r\t'),
    (r'"\u0000"', "\0"),
    (r'"\u00e9\u20AC\uD83D\ude00"', "é€😀"),
    ('"é€😀 and a text of more than sixteen bytes"', "é€😀 and a text of more than sixteen bytes"),
    ('"\u007f\u2028\u2029\ufeff"', "\u007f\u2028\u2029\ufeff"),
    ('"' + "x" * 31 + '"', "x" * 31),
    ('"' + "x" * 32 + '"', "x" * 32),
    ('"' + "x" * 255 + '"', "x" * 255),
    ('"' + "x" * 70_000 + '"', "x" * 70_000),
    (r'"xxxxxxxxxxxxxxxxxxxx\n' + "y" * 300 + '"', "x" * 20 + "\n" + "y" * 300),
    ("0", 0),
    ("-0", 0),
    ("-0.0", -0.0),
    ("127", 127),
    ("128", 128),
    ("-32", -32),
    ("-33", -33),
    ("65535", 65535),
    ("-32769", -32769),
    ("4294967296", 4294967296),
    ("9223372036854775808", 2**63),
    ("18446744073709551615", 2**64 - 1),
    ("-9223372036854775808", -(2**63)),
    ("1.5", 1.5),
    ("123e2", 12300.0),
    ("1E+2", 100.0),
    ("1e-2", 0.01),
    ("0e1", 0.0),
    ("9007199254740993.0", 9007199254740992.0),
    ("0.1e23", 1e22),
    ("1.7976931348623157e308", 1.7976931348623157e308),
    ("5e-324", 5e-324),
    ("2.2250738585072011e-308", 2.2250738585072011e-308),
    ("123456789012345678901234567890.5", 123456789012345678901234567890.5),
    ("0." + "0" * 30 + "1", 1e-31),
    ("true", True),
    ("false", False),
    ("null", None),
    ("[]", []),
    ("[ 1 ,\t[ ] , {} ]", [1, [], {}]),
    (json.dumps(list(range(20))), list(range(20))),
    (json.dumps({f"key {n}": n for n in range(100)}), {f"key {n}": n for n in range(100)}),
    ("[" * 127 + "]" * 127, None),
    ("{}", {}),
    ('{"":0,"a":{"a":1}}', {"": 0, "a": {"a": 1}}),
]


@pytest.mark.parametrize(("text", "value"), VALID, ids=lambda value: repr(value)[:20])
def test_valid_values(text: str, value: Any) -> None:
    for spaced in (f'{{"v":{text}}}', f' \r\n\t{{ "v" :\n{text}\t, "w":1 }}\r\n'):
        (found,) = documents_of(spaced.encode())
        if value is not None or text == "null":
            assert found["v"] == value
            assert type(found["v"]) is type(value)
            if isinstance(value, float):
                assert math.copysign(1, found["v"]) == math.copysign(1, value)


INVALID = [
    "", "{", "}", '{"v"', '{"v":', '{"v":1', '{"v":1,', '{"v":1,}', '{"v":1]', '{"v" 1}',
    '{v:1}', "{'v':1}", '{"v":1 "w":2}', '{,"v":1}', '{1:1}', '{"v":[1,]}', '{"v":[,1]}',
    '{"v":[1 2]}', '{"v":[1}', '{"v":01}', '{"v":-01}', '{"v":1.}', '{"v":.5}', '{"v":-}',
    '{"v":+1}', '{"v":1e}', '{"v":1e+}', '{"v":1.e1}', '{"v":0x1}', '{"v":1_000}', '{"v":--1}',
    '{"v":tru}', '{"v":True}', '{"v":nul}', '{"v":nulll}', '{"v":nan}', '{"v":"', '{"v":"\t"}',
    '{"v":"\n"}', '{"v":"a\0"}', r'{"v":"\x41"}', r'{"v":"\u12"}', r'{"v":"\u12g4"}',
    r'{"v":"\U0041"}', r'{"v":"\"}', '{"v":"x\\', '{"v":1}}', '{"v":1} x', '{"v":1},{"v":2}',
    '{"v":1}\f', '{"v":1/**/}', '{"v":1}//', "1", '"x"', "null", "[1]", "\0", '{"v":\0}',
    '{"v":"' + "x" * 15 + "\x1f" + '"}', '{"v":"' + "x" * 16 + "\x01" + '"}',
]  # fmt: skip


@pytest.mark.parametrize("text", INVALID, ids=lambda text: repr(text)[:30])
def test_invalid_text(text: str) -> None:
    found, right = (outcome(module, text.encode()) for module in CODECS)
    assert found == right
    if text:
        assert len(found) == 3, found
        assert 0 <= found[1] <= len(text)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b"\xc0\xaf",
        b"\xe0\x80\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"\x80",
        b"\xed\xa0\x80",
    ],
    ids=repr,
)
def test_bytes_that_are_no_utf8(raw: bytes) -> None:
    for text in (b'{"v":"' + raw + b'"}', b'{"' + raw + b"x" * 20 + b'":1}'):
        found, right = (outcome(module, text) for module in CODECS)
        assert found == right
        assert len(found) == 3, found


def test_what_the_grammar_leaves_open() -> None:
    assert documents_of(b'{"a":1,"b":2,"a":3}') == [{"a": 3, "b": 2}]
    assert documents_of(b'{"a":1e400,"b":-1e400,"c":1e-400}') == [
        {"a": math.inf, "b": -math.inf, "c": 0.0}
    ]
    (found,) = documents_of(b'{"a":NaN,"b":Infinity,"c":-Infinity}')
    assert math.isnan(found["a"])
    assert (found["b"], found["c"]) == (math.inf, -math.inf)
    assert documents_of(b'\xef\xbb\xbf{"a":1}\n\xef\xbb\xbf{"a":2}') == [{"a": 1}, {"a": 2}]
    # A lone surrogate stands for a byte that is not UTF-8, as in file names; others have no byte.
    assert documents_of(rb'{"a":"x\udcffy"}') == [{"a": "x\udcffy"}]
    assert documents_of(rb'{"a":"\udcc3\udca9"}') == [{"a": "é"}]
    for text in (rb'{"a":"\ud800"}', rb'{"a":"\ud83dx"}', rb'{"a":"\ude00\ud83d"}'):
        assert {outcome(module, text)[2].__name__ for module in CODECS} == {"InvalidDocument"}


@pytest.mark.parametrize("text", ["18446744073709551616", "-9223372036854775809", "1" * 5000])
def test_integers_beyond_64_bits_are_refused(text: str) -> None:
    found, right = (outcome(module, f'{{"a":{{"b":{text}}}}}'.encode()) for module in CODECS)
    assert found == right
    assert "64 bits" in found[0] or "digits" in found[0]


@pytest.mark.parametrize("depth", [126, 127, 128, 5000, 100_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_depth(depth: int, brackets: tuple[str, str]) -> None:
    opened, closed = brackets
    text = (f'{{"v":{opened * depth}1{closed * depth}}}').encode()
    found, right = (outcome(module, text) for module in CODECS)
    assert found == right
    assert (len(found) == 2) == (depth <= 127)
    if depth > 127:
        assert found[2].__name__ == "DepthExceeded"


def test_many_keys_and_keys_that_look_alike() -> None:
    alike = {f"same beginning {n:04d} same end": n for n in range(300)}
    assert documents_of(json.dumps({"v": alike, **alike}).encode()) == [{"v": alike, **alike}]
    repeated = json.dumps(alike)[:-1] + ',"same beginning 0123 same end":"last"}'
    (found,) = documents_of(repeated.encode())
    assert found == {**alike, "same beginning 0123 same end": "last"}
    assert list(found) == list(alike)


FORMS = [
    '{"$time":"2024-02-29T06:30:00.25Z"}', '{"$time":"2023-02-29T06:30:00Z"}',
    '{"$time":"0001-01-01T00:00:00Z"}', '{"$time":"0000-01-01T00:00:00Z"}',
    '{"$time":"9999-12-31T23:59:59.999999999Z"}', '{"$time":"2024-01-01T00:00:00"}',
    '{"$time":"2024-01-01T00:00:60Z"}', '{"$time":"2024-1-1T0:0:0Z"}',
    '{"$time":"1900-02-29T00:00:00Z"}', '{"$time":"2000-02-29T00:00:00Z"}',
    '{"$time":"2024-01-01T00:00:00.Z"}', '{"$time":"2024-01-01T00:00:00.1234567891Z"}',
    '{"$time":"2024-01-01 00:00:00Z"}', '{"$time":"tomorrow"}', '{"$time":""}', '{"$time":"Z"}',
    '{"$time":[0,0]}', '{"$time":[17179869184,1]}', '{"$time":[-1,999999999]}',
    '{"$time":[1,1000000000]}', '{"$time":[1]}', '{"$time":[1.5,0]}', '{"$time":5}',
    '{"$time":[9223372036854775807,0]}', '{"$time":[9223372036854775808,0]}',
    '{"$time":[true,0]}', '{"$time":null}', '{"$bytes":""}', '{"$bytes":"00fF"}',
    '{"$bytes":"0"}', '{"$bytes":"0 0"}', '{"$bytes":"00 ff"}', '{"$bytes":"zz"}',
    '{"$bytes":5}', '{"$bytes":"%s"}' % ("ab" * 300), '{"$float":"NaN"}', '{"$float":"Inf"}',
    '{"$float":"-Inf"}', '{"$float":"Infinity"}', '{"$float":"-Infinity"}', '{"$float":"x"}',
    '{"$ext":[5,"6162"]}', '{"$ext":[5,""]}', '{"$ext":[127,"%s"]}' % ("00" * 16),
    '{"$ext":[127,"%s"]}' % ("00" * 17), '{"$ext":[128,"00"]}', '{"$ext":[-1,"00"]}',
    '{"$ext":[5,"0"]}', '{"$ext":[5]}', '{"$ext":["5","00"]}', '{"$map":[[1,"a"],["b",[]]]}',
    '{"$map":[[[1],{"x":2}]]}', '{"$map":[]}', '{"$map":5}', '{"$time":1,"x":2}', '{"$x":1}',
    '{"$time":{"$bytes":"00"}}', '{"$map":[["a",{"$time":[1,2]}]]}',
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_reserved_forms(form: str) -> None:
    text = f'{{"v":{form},"l":[{form},{form}]}}'.encode()
    found, right = (outcome(module, text) for module in CODECS)
    assert found == right
    if len(found) == 2:
        assert found[0] == pack(from_json_text(text))
    alone = [outcome(module, form.encode()) for module in CODECS]  # may be no document
    assert alone[0] == alone[1]


def test_any_text_means_the_same_to_both_codecs() -> None:
    rng = random.Random(7)
    read = 0
    for _ in range(1500):
        text = random_text(rng)
        options = {"in_array": rng.random() < 0.4, "is_first": rng.random() < 0.8}
        found, right = (outcome(module, text, **options) for module in CODECS)
        assert found == right, (text, options)
        read += len(found) == 2
    assert 300 < read < 1200


def test_documents_of_nearly_the_same_keys_mean_the_same_to_both_codecs() -> None:
    rng = random.Random(9)
    read = 0
    for _ in range(20_000 if LONG else 600):
        text = alike_text(rng)
        found, right = (outcome(module, text) for module in CODECS)
        assert found == right, text
        read += len(found) == 2
    assert read > 200


MANY_KEYS = json.dumps({f"k{n}": n for n in range(70)})


@pytest.mark.parametrize(
    "lines",
    [
        ['{"a":1,"b":2}', '{"a":1,"b":2,"a":3}', '{"a":1,"b":2}'],
        ['{"a":1,"b":2,"c":3}', '{"a":1,"c":2}', '{"c":1,"a":2}', '{"a":1,"c":2,"c":3}'],
        ['{"a":1}', '{"a": 1}', '{"a":\t1 }', '{ "a":1}', "{}", "{ }", '{"a":1}'],
        ['{"a":{"b":1}}', '{"a":{"b":1,"b":2}}', '{"a":[{"b":1},{"c":2},{"b":3}]}', '{"a":2}'],
        ['{"a":1,"b":2}', '{"a":1,,"b":2}', '{"a":1,"b":2}'],
        ['{"a":1,"b":2}', '{"a":1,}', '{"a":1,"b":2}'],
        ['{"a":1,"b":2}', '{,"b":2}', '{"a":1,"b":2}'],
        ['{"a":1,"b":2}', '{"a":1"b":2}', '{"a":1,"b":2}'],
        [r'{"a":1,"\u0061b":2}', r'{"a":1,"\u0061b":3}', '{"a":1,"ab":2,"a":5}'],
        [json.dumps({f"k{n}": n for n in range(70)} | more) for more in ({}, {"k3": 1}, {})],
        [MANY_KEYS, MANY_KEYS, MANY_KEYS[:-1] + ', "k66": 0}', MANY_KEYS],
        [json.dumps({"x" * n: n for n in range(25, 40)})] * 3,
        ['{"$time":"2024-02-29T06:30:00Z"}', '{"v":{"$bytes":"00"}}', '{"v":{"$bytes":"01"}}'] * 2,
    ],
)  # fmt: skip
def test_expected_keys(lines: list[str]) -> None:
    # Spaces after the text let the kernel compare whole vectors up to its end.
    for text in ("\n".join(lines), "\n".join(lines * 20)):
        for more in ("", "\n" + " " * 64):
            found, right = (outcome(module, (text + more).encode()) for module in CODECS)
            assert found == right


def test_scanners_find_the_ends_of_documents() -> None:
    rng = random.Random(8)
    for _ in range(300):
        scanners = [module.JsonScanner() for module in CODECS]
        text = random_text(rng)
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(4)))
        for first, last in itertools.pairwise([0, *cuts, len(text)]):
            ends = [scanner.scan(text[first:last], 0) for scanner in scanners]
            assert ends[0] == ends[1], text


@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "_id", "$time", "é"]), raw_values)))
def test_documents_of_any_kind_are_written_and_read_again(found: list[dict[str, Any]]) -> None:
    packed = [pack(document) for document in found]
    bounds = array("q", np.cumsum([0, *map(len, packed)], dtype=np.int64).tobytes())
    documents = Documents(b"".join(packed), bounds)
    for plain in (False, True):
        lines, right = (module.json_lines(documents, plain=plain) for module in CODECS)
        assert lines == right
    for line in native.json_lines(documents).splitlines():
        try:
            right = pack(from_json_text(line))
        except GodbError:
            continue  # a map with an unusual key that became a value that cannot be packed
        if isinstance(from_json_text(line), dict):
            assert outcome(native, line)[0] == right


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.text(max_size=20),
            st.dictionaries(st.sampled_from(["_id", "a", "$time", "long name of a field"]),
                            raw_values, max_size=4),
        ),
        max_size=4,
    ),
    st.booleans(),
)  # fmt: skip
def test_lines_of_entries_have_their_ids(
    found: list[tuple[str, dict[str, Any]]], plain: bool
) -> None:
    data = b"".join(pack_entry(identity, document) for identity, document in found)
    entries = native.scan_entries(data, 0, len(found), len(data) + 1, 0)
    lines, right = (module.json_lines(entries, plain=plain) for module in CODECS)
    assert lines == right
    for line, (identity, document) in zip(lines.splitlines(), found, strict=True):
        if "$map" not in line.decode():
            assert json.loads(line).get("_id", document.get("_id")) in (identity, None)


def test_lines_of_a_damaged_extension_name_the_document() -> None:
    data = pack("x") + b"\x81\xa1a\xc7\x03\xff\x00\x00\x00"
    entries = Entries(data, array("q", [0, 2, len(data)]))
    for module in CODECS:
        with pytest.raises(GodbError, match="document 'x'"):
            module.json_lines(entries)


@given(
    st.lists(st.dictionaries(st.sampled_from(["_id", "key", "x"]),
             st.one_of(st.text(max_size=40), st.integers(-(2**63), 2**64 - 1), st.just({})),
             max_size=18)),
    st.sampled_from(["_id", "key"]),
)  # fmt: skip
def test_documents_become_the_same_entries(found: list[dict[str, Any]], field: str) -> None:
    wide = [{**document, **{f"f{n}": n for n in range(14)}} for document in found]
    text = "\n".join(map(json.dumps, found + wide)).encode()
    documents = reference.read_json(text)
    both = [module.Identification(documents, field) for module in CODECS]
    assert both[0].invalid == both[1].invalid
    assert both[0].generated.tolist() == both[1].generated.tolist()
    if both[0].invalid < 0:
        numbers = np.arange(7, 7 + len(both[0].generated))
        (entries, ids), (right, right_ids) = (one.entries(numbers) for one in both)
        assert (entries, ids.to_pylist()) == (right, right_ids.to_pylist())
        scanned = native.scan_entries(entries.data, 0, len(entries), len(entries.data) + 1, 0)
        assert scanned.bounds == entries.bounds
        for row, identity in enumerate(entries.ids()):
            assert load(entries.document(row))["_id"] == identity


@settings(max_examples=20)
@given(tables())
def test_rows_become_the_same_documents(table: pa.Table) -> None:
    for batch in table.to_batches():
        try:
            right = reference.encode_documents(batch)
        except GodbError as error:
            with pytest.raises(type(error)):
                native.encode_documents(batch)
        else:
            assert native.encode_documents(batch) == right


@given(st.binary(max_size=300), st.sampled_from([b"", b"\n" * 20_000, b"\n\n x" * 9_000]))
def test_line_feeds_are_counted(text: bytes, more: bytes) -> None:
    for one in (text, text + more, more + text):
        assert codec.count_line_feeds(one) == one.count(b"\n")


CONTROLS = ["", "\x7f", "\x80", "\x9b", "\u061c", "\u200e", "\u2029", "\u202e", "\u2069", "é"]


@given(st.binary(max_size=40), st.integers(0, 5000), st.sampled_from(CONTROLS))
def test_texts_that_may_have_controls(text: bytes, before: int, more: str) -> None:
    text = b"x" * before + text + more.encode()
    expected = reference.may_have_controls(text)
    assert codec.may_have_controls(text) == expected
    assert expected or terminal_lines(text) == _CONTROLS.sub(b"?", text)
