"""Writing: from everything, ids, rewriting, atomicity."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lz4.block
import msgpack
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support.handmade import file_of, go_read

import godb_arrow
from godb_arrow.codec import pack_entry
from godb_arrow.codec.entries import Chunk
from godb_arrow.file.hints import CollectionHint
from godb_arrow.file.writer import CollectionData, write_file


def back(data: Any, **options: Any) -> Any:
    file = io.BytesIO()
    godb_arrow.write_godb(data, file, "c", **options)
    return file.getvalue()


class Stream:
    """Something that is known by nothing but its Arrow stream."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


def test_every_kind_of_data() -> None:
    table = pa.table({"a": [1, 2, None], "s": ["x", None, "z"]})
    kinds = [
        table,
        table.to_batches()[0],
        table.to_reader(),
        Stream(table),
        table.to_pandas(types_mapper=pd.ArrowDtype),
    ]
    for data in kinds:
        found = godb_arrow.read_table(back(data))
        assert found.to_pylist() == table.to_pylist()
    rows = table.to_pylist()
    for documents in (rows, iter(rows), (row for row in rows), tuple(rows)):
        assert [d["a"] for d in godb_arrow.read_documents(back(documents))] == [1, 2, None]


@pytest.mark.parametrize("data", [{"a": 1}, "text", 5, None, b"x"])
def test_what_is_no_data_is_refused(data: Any) -> None:
    with pytest.raises(godb_arrow.InvalidOption, match="DataFrame"):
        back(data)


def test_a_document_that_is_no_dict_is_named_by_its_number() -> None:
    with pytest.raises(godb_arrow.InvalidDocument, match="number 1 is a list"):
        back([{"a": 1}, [1]])
    with pytest.raises(godb_arrow.InvalidDocument, match=r"document '2' \(number 1\).*at a\.b"):
        back([{"a": 1}, {"a": {"b": object()}}])


def test_ids_are_generated_as_go_db_does() -> None:
    stored = go_read(back([{"a": 1}, {"a": 2}]))["collections"]["c"]
    assert stored == {"1": {"_id": "1", "a": 1}, "2": {"_id": "2", "a": 2}}
    assert list(go_read(back(pa.table({"a": [1, 2]})))["collections"]["c"]) == ["1", "2"]


def test_ids_from_id_and_from_a_column() -> None:
    rows = [{"_id": "x", "k": 7}, {"_id": 5, "k": 8}]
    assert list(go_read(back(rows))["collections"]["c"]) == ["x", "5"]
    assert [d["_id"] for d in godb_arrow.read_documents(back(rows))] == ["x", "5"]
    assert list(go_read(back(rows, id_column="k"))["collections"]["c"]) == ["7", "8"]
    table = pa.table({"_id": ["x", "y"], "k": pa.array([7, 8], pa.int8())})
    assert godb_arrow.read_table(back(table)).equals(table)
    keyed = godb_arrow.read_table(back(table, id_column="k"))
    assert keyed.to_pylist() == [{"_id": "7", "k": 7}, {"_id": "8", "k": 8}]
    frame = pd.DataFrame({"_id": [3, 4], "k": [1, 2]})
    assert godb_arrow.read_table(back(frame)).column("_id").to_pylist() == ["3", "4"]
    words = pa.table({"_id": pa.array(["x", "y"]).dictionary_encode()})
    assert godb_arrow.read_table(back(words)).column("_id").to_pylist() == ["x", "y"]


def test_generated_ids_go_on_after_given_ones() -> None:
    rows: list[dict[str, Any]] = [{"_id": "7"}, {}, {"_id": "word"}, {}]
    assert list(go_read(back(rows))["collections"]["c"]) == ["7", "8", "word", "9"]


@pytest.mark.parametrize(
    ("data", "options", "error", "says"),
    [
        ([{"_id": None}], {}, godb_arrow.InvalidDocument, "number 0 has the id None"),
        ([{"_id": 1.5}], {}, godb_arrow.InvalidDocument, "strings or integers"),
        ([{"_id": True}], {}, godb_arrow.InvalidDocument, "strings or integers"),
        ([{"a": 1}], {"id_column": "k"}, godb_arrow.InvalidDocument, "no field 'k'"),
        (
            pa.table({"a": [1]}),
            {"id_column": "k"},
            godb_arrow.InvalidOption,
            "column 'k' does not exist",
        ),
        (pa.table({"_id": [1.5]}), {}, godb_arrow.UnsupportedType, "cannot give the ids"),
        (pa.table({"_id": ["x", None]}), {}, godb_arrow.InvalidDocument, "row 1 has no id"),
    ],
)
def test_ids_that_make_no_sense(data: Any, options: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        back(data, **options)


@pytest.mark.parametrize(
    "data",
    [
        [{"_id": "a"}, {"_id": "b"}, {"_id": "a"}, {"_id": "b"}],
        pa.table({"_id": ["a", "b"] * 2}),
        pa.Table.from_batches(pa.table({"_id": ["a", "b"]}).to_batches() * 2),
    ],
)
def test_duplicate_ids_are_named(data: Any, tmp_path: Path) -> None:
    target = tmp_path / "x.godb"
    with pytest.raises(godb_arrow.DuplicateId, match="'a', 'b'") as raised:
        godb_arrow.write_godb(data, target, "c")
    assert raised.value.ids == ["a", "b"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ids", [[["1", "2"], ["2", "3"]], [[""], [""]], [["1", "2"], ["1"]]])
def test_duplicates_at_the_edges_of_batches_are_found(ids: list[list[str]]) -> None:
    batches = [pa.record_batch({"_id": part}) for part in ids]
    with pytest.raises(godb_arrow.DuplicateId):
        back(pa.Table.from_batches(batches))


def test_ids_with_the_same_hash_are_no_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("godb_arrow.codec.survey_ids", lambda ids: (bytes(8 * len(ids)), 0))
    assert len(list(godb_arrow.read_documents(back([{"_id": "a"}, {"_id": "b"}])))) == 2


def test_nulls_are_stored_or_left_out() -> None:
    table = pa.table({"a": [1, None]})
    assert go_read(back(table))["collections"]["c"]["2"] == {"_id": "2", "a": None}
    assert go_read(back(table, omit_nulls=True))["collections"]["c"]["2"] == {"_id": "2"}
    assert godb_arrow.read_table(back(table, omit_nulls=True)).equals(table)


FRAMES = {
    "plain": pd.DataFrame({"i": [1, 2], "f": [1.5, np.nan], "s": ["x", None], "b": [True, False]}),
    "named index": pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="key")),
    "dates as index": pd.DataFrame({"a": [1, 2]}, index=pd.date_range("2024-01-01", periods=2)),
    "several indexes": pd.DataFrame(
        {"a": [1, 2]}, index=pd.MultiIndex.from_tuples([("x", 1), ("y", 2)], names=["k", "n"])
    ),
    "range index": pd.DataFrame({"a": [1, 2]}, index=pd.RangeIndex(10, 14, 2)),
    "categories": pd.DataFrame({"c": pd.Categorical(["b", None, "a"], categories=["c", "b", "a"])}),
    "ordered categories": pd.DataFrame(
        {"c": pd.Categorical(["lo", "hi"], categories=["lo", "mid", "hi"], ordered=True)}
    ),
    "datetimes": pd.DataFrame({"t": pd.to_datetime(["2024-01-01T00:00:00.000000001", None])}),
    "datetimes with a zone": pd.DataFrame(
        {"t": pd.to_datetime(["2024-06-01", "2024-12-01"]).tz_localize("Europe/Berlin")}
    ),
    "timedeltas": pd.DataFrame({"d": pd.to_timedelta(["1 days", "00:00:00.5"])}),
    "nullable": pd.DataFrame(
        {
            "i": pd.array([1, None], dtype="Int64"),
            "b": pd.array([True, None], dtype="boolean"),
            "f": pd.array([1.5, None], dtype="Float64"),
            "s": pd.array(["x", None], dtype="string"),
        }
    ),
    "large integers": pd.DataFrame({"i": pd.array([2**53 + 1, None], dtype="Int64")}),
    "small types": pd.DataFrame(
        {"i": np.array([1], "int8"), "u": np.array([2], "uint64"), "f": np.array([3], "float32")}
    ),
    "dates and decimals": pd.DataFrame(
        {"d": [dt.date(2024, 1, 1)], "m": [decimal.Decimal("1.50")], "t": [dt.time(1, 2, 3)]}
    ),
    "numbers as names": pd.DataFrame({0: [1], 1: [2]}),
    "no rows": pd.DataFrame({"a": pd.Series([], dtype="int64")}),
    "no columns": pd.DataFrame(index=pd.RangeIndex(3)),
    "lists": pd.DataFrame({"l": [[1, 2], None]}),
    "arrow types": pd.DataFrame({"a": pd.array([1, None], dtype=pd.ArrowDtype(pa.int8()))}),
    "periods": pd.DataFrame({"p": pd.period_range("2024-01", periods=2, freq="M")}),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_dataframe_is_read_as_it_was_written(name: str) -> None:
    frame = FRAMES[name]
    found = godb_arrow.read_godb(back(frame))
    if name == "lists":
        found["l"] = [None if value is None else list(value) for value in found["l"]]
    pd.testing.assert_frame_equal(found, frame, check_freq=False)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (pd.DataFrame({"fine": [1], "z": [1j]}), "z"),
        (pd.DataFrame({"fine": [1, 2], "mixed": [1, "x"]}), "mixed.*to_dict"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "a"),
        (pd.DataFrame({"o": [object()]}), "o"),
    ],
)
def test_what_a_dataframe_cannot_store_is_named(frame: pd.DataFrame, says: str) -> None:
    with pytest.raises(godb_arrow.UnsupportedType, match=says):
        back(frame)


def test_types_that_documents_cannot_hold_are_named() -> None:
    interval = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    keyed = pa.array([[(1, 2)]], pa.map_(pa.int8(), pa.int8()))
    whole = pa.table({"bad": interval})
    for table in (whole, whole.slice(0, 0), pa.table({"bad": keyed})):
        with pytest.raises(godb_arrow.UnsupportedType, match="column 'bad'"):
            back(table)
    with pytest.raises(godb_arrow.UnsupportedType, match="two columns"):
        back(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"]))
    twice = pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int8()))
    with pytest.raises(godb_arrow.UnsupportedType, match="same key twice"):
        back(pa.table({"m": twice}))
    with pytest.raises(godb_arrow.UnsupportedType, match="nanoseconds"):
        back(pa.table({"d": pa.array([2**60], pa.duration("s"))}))


def test_json_text_becomes_the_values_that_it_stands_for() -> None:
    first = back([{"v": 1}, {"v": "1"}, {"v": {"deep": [None, b"x"]}}])
    table = godb_arrow.read_table(first)
    assert table.schema.field("v").type == pa.json_(pa.string())
    again = list(godb_arrow.read_documents(back(table)))
    assert again == list(godb_arrow.read_documents(first))


def test_extension_types_keep_their_storage() -> None:
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None], pa.binary(16)))
    table = pa.table({"u": uuids})
    assert godb_arrow.read_table(back(table)).equals(table)


def test_slices_are_written_as_slices() -> None:
    table = pa.table(
        {
            "l": [[n] for n in range(9)],
            "m": pa.array([[("k", n)] for n in range(9)], pa.map_(pa.string(), pa.int8())),
            "s": [{"x": n} for n in range(9)],
        }
    )
    assert godb_arrow.read_table(back(table.slice(4, 3))).equals(table.slice(4, 3))


# --- Rewriting files ------------------------------------------------------------------------

SHOP = {
    "zebra": {"kept": [1, {"deep": b"x"}]},
    "metadata": {"by": "go", "at": msgpack.Timestamp(5, 0)},
    "collections": {
        "users": {"1": {"_id": "1", "name": "Ada"}, "9": {"_id": "9", "name": "Bob"}},
        "odd": {"1": {"e": msgpack.ExtType(9, b"x"), "f": 1.0, "i": 1}},
        "none": {},
    },
    "indexes": {
        "users": {"name": ["9", "1"], "tags": ["1"]},
        "odd": {"x": ["1"]},
        "none": {"_id": None},
    },
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    target = tmp_path / "shop.godb"
    target.write_bytes(file_of(msgpack.packb(SHOP)))
    return target


def top_of(path: Path) -> dict[str, Any]:
    body = lz4.block.decompress(path.read_bytes()[8:], uncompressed_size=1 << 20)
    return dict(msgpack.unpackb(body, timestamp=0))


def test_a_rewrite_keeps_everything_else(shop: Path) -> None:
    assert godb_arrow.write_godb([{"total": 5}], shop, "orders") == 1
    top = top_of(shop)
    assert top["collections"] == {**SHOP["collections"], "orders": {"1": {"_id": "1", "total": 5}}}
    assert list(top["collections"]) == ["users", "odd", "none", "orders"]
    assert top["indexes"] == SHOP["indexes"]
    assert top["zebra"] == SHOP["zebra"]
    ours = top["metadata"].pop("godb_arrow")
    assert top["metadata"] == SHOP["metadata"]
    assert {name: hint["count"] for name, hint in ours["collections"].items()} == {
        "users": 2, "odd": 1, "none": 0, "orders": 1,
    }  # fmt: skip
    assert godb_arrow.verify_godb(shop).ok


def test_rewriting_twice_copies_our_own_hints(shop: Path) -> None:
    godb_arrow.write_godb(pa.table({"n": pa.array([1], pa.int8())}), shop, "small")
    godb_arrow.write_godb([{"x": 1}], shop, "more")
    assert godb_arrow.read_schema(shop, "small") == pa.schema({"n": pa.int8()})
    assert godb_arrow.verify_godb(shop).ok
    assert len(top_of(shop)) == 6


@pytest.mark.filterwarnings("ignore::godb_arrow.CompatibilityWarning")
def test_documents_that_stay_are_copied_byte_by_byte(shop: Path) -> None:
    before = lz4.block.decompress(shop.read_bytes()[8:], uncompressed_size=1 << 20)
    raw = msgpack.packb("odd") + msgpack.packb(SHOP["collections"]["odd"])[1:]
    godb_arrow.write_godb([{"x": 1}], shop, "more")
    godb_arrow.write_godb([{"x": 1}], shop, "odd", if_exists="append", id_column=None)
    after = lz4.block.decompress(shop.read_bytes()[8:], uncompressed_size=1 << 20)
    document = raw[len(msgpack.packb("odd")) :]
    assert document in before
    assert document in after


def test_replacing_a_collection_makes_its_index_anew(shop: Path) -> None:
    godb_arrow.write_godb([{"name": "Cy", "tags": ["list"]}, {"name": None}], shop, "users")
    top = top_of(shop)
    assert list(top["collections"]["users"]) == ["1", "2"]
    # go-db stops working on an index over a list, so that one is gone.
    assert top["indexes"]["users"] == {"name": ["1"]}
    assert top["indexes"]["odd"] == {"x": ["1"]}


def test_appending(shop: Path) -> None:
    assert godb_arrow.write_godb([{"name": "Cy"}], shop, "users", if_exists="append") == 1
    rows = list(godb_arrow.read_documents(shop, "users"))
    assert [row["_id"] for row in rows] == ["1", "9", "10"]
    table = pa.table({"name": ["Di"], "age": pa.array([5], pa.int8())})
    godb_arrow.write_godb(table, shop, "users", if_exists="append")
    assert godb_arrow.read_schema(shop, "users").names == ["_id", "name", "age"]
    assert godb_arrow.read_table(shop, "users").num_rows == 4
    with pytest.raises(godb_arrow.DuplicateId, match="'9'"):
        godb_arrow.write_godb([{"_id": "9"}], shop, "users", if_exists="append")
    assert godb_arrow.verify_godb(shop).ok


@pytest.mark.parametrize("count", [1, 9])
def test_a_recorded_count_that_lies_never_makes_a_damaged_file(count: int, tmp_path: Path) -> None:
    path = tmp_path / "x.godb"
    rows = b"".join(b"\xa1%d\x80" % n for n in range(3))
    with path.open("wb") as stream:
        hint = CollectionHint(count, plain=True)
        write_file(stream, [CollectionData("a", 3, [Chunk(rows, 3)], hint)])
    before = path.read_bytes()
    with pytest.raises(godb_arrow.GodbError, match=f"3 documents instead of the {count}"):
        godb_arrow.write_godb([{"n": 1}], path, "b", if_exists="append")
    assert path.read_bytes() == before
    assert len(godb_arrow.read_table(path)) == 3
    engine = godb_arrow.StorageEngine(tmp_path / "data")
    assert engine.load_collection_metadata(path) == {"a": 3}
    engine.close()


def test_appending_the_same_schema_keeps_it(tmp_path: Path) -> None:
    target = tmp_path / "x.godb"
    table = pa.table({"n": pa.array([1, 2], pa.int8())})
    for _ in range(3):
        godb_arrow.write_godb(table, target, "c", if_exists="append")
    found = godb_arrow.read_table(target)
    assert found.equals(pa.concat_tables([table] * 3))
    assert [d["_id"] for d in godb_arrow.read_documents(target)] == list("123456")


def test_ids_of_deleted_documents_do_not_come_again(tmp_path: Path) -> None:
    target = tmp_path / "x.godb"
    godb_arrow.write_godb([{"_id": "50"}], target, "c")
    godb_arrow.write_godb([{"a": 1}], target, "c", if_exists="append")
    assert [d["_id"] for d in godb_arrow.read_documents(target)] == ["50", "51"]


def test_if_exists_fail(shop: Path) -> None:
    before = shop.read_bytes()
    with pytest.raises(godb_arrow.CollectionExists, match="'users'"):
        godb_arrow.write_godb([{"a": 1}], shop, "users", if_exists="error")
    assert shop.read_bytes() == before
    godb_arrow.write_godb([{"a": 1}], shop, "new", if_exists="error")


def test_a_damaged_file_is_not_written_over(shop: Path) -> None:
    shop.write_bytes(shop.read_bytes()[:-5])
    before = shop.read_bytes()
    with pytest.raises(godb_arrow.CorruptFile):
        godb_arrow.write_godb([{"a": 1}], shop, "users")
    assert shop.read_bytes() == before


def test_reading_from_the_file_that_is_written(shop: Path) -> None:
    reader = godb_arrow.scan_godb(shop, "users", filter={"name": "Bob"})
    godb_arrow.write_godb(reader, shop, "users")
    assert [d["name"] for d in godb_arrow.read_documents(shop, "users")] == ["Bob"]


# --- Nothing is lost ------------------------------------------------------------------------


def failing() -> Iterator[dict[str, Any]]:
    yield {"a": 1}
    raise RuntimeError("the source broke")


def test_a_failure_leaves_the_old_file_and_nothing_else(shop: Path) -> None:
    before = shop.read_bytes()
    with pytest.raises(RuntimeError, match="the source broke"):
        godb_arrow.write_godb(failing(), shop, "users")
    assert shop.read_bytes() == before
    assert os.listdir(shop.parent) == ["shop.godb"]


@pytest.mark.parametrize("call", ["fdatasync", "replace", "fchmod"])
def test_a_failing_system_call_leaves_the_old_file(
    shop: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    before = shop.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(f"godb_arrow.storage.local.os.{call}", fail)
        with pytest.raises(godb_arrow.DiskFull, match=r"write .*shop\.godb, collection 'users'"):
            godb_arrow.write_godb([{"a": 1}], shop, "users")
    assert shop.read_bytes() == before
    assert os.listdir(shop.parent) == ["shop.godb"]


def test_go_db_is_not_surprised_without_a_warning() -> None:
    for row in ({"a": {1: 2}}, {"a": [msgpack.ExtType(5, b"")]}, {5: 1}, {"a": {b"k": 1}}):
        with pytest.warns(godb_arrow.CompatibilityWarning, match="go-db cannot read"):
            back([row])


def test_to_a_url_and_to_an_open_file(tmp_path: Path) -> None:
    godb_arrow.write_godb([{"a": 1}], "memory://out/x.godb", "c")
    godb_arrow.write_godb([{"b": 1}], "memory://out/x.godb", "d")
    assert godb_arrow.list_collections("memory://out/x.godb") == {"c": 1, "d": 1}
    with (tmp_path / "x.godb").open("wb") as file:
        godb_arrow.write_godb([{"a": 1}], file, "c")
    assert godb_arrow.list_collections(tmp_path / "x.godb") == {"c": 1}


def test_options_are_checked(tmp_path: Path) -> None:
    for options in ({"if_exists": "x"}, {"compression": "zip"}):
        with pytest.raises(godb_arrow.InvalidOption, match=next(iter(options))):
            back([], **options)
    with pytest.raises(godb_arrow.InvalidOption):
        godb_arrow.write_godb([], tmp_path / "x.godb", 5)  # type: ignore[arg-type]
    with pytest.raises(godb_arrow.InvalidOption, match="cannot write to int"):
        godb_arrow.write_godb([], 5, "c")  # type: ignore[arg-type]
    with pytest.raises(godb_arrow.SourceNotFound, match="folder"):
        godb_arrow.write_godb([], tmp_path / "no" / "x.godb", "c")


def test_any_name_for_a_collection() -> None:
    for name in ("", "a/b", "..", "名前 with space", "x" * 300):
        file = io.BytesIO()
        godb_arrow.write_godb([{"a": 1}], file, name)
        assert godb_arrow.list_collections(file.getvalue()) == {name: 1}


def test_lz4hc_is_smaller_and_read_by_go_db() -> None:
    rows = [{"a": n * n, "s": f"some text {n % 17}"} for n in range(5000)]
    high = back(rows, compression="lz4hc")
    assert len(high) < len(back(rows))
    assert len(go_read(high)["collections"]["c"]) == 5000


def test_a_stream_larger_than_the_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("godb_arrow.storage.source._SPOOL_BYTES_IN_MEMORY", 10_000)
    rows = [{"n": n, "s": "x" * 100} for n in range(40_000)]
    table = godb_arrow.read_table(back(iter(rows)))
    assert table.column("n").to_pylist() == list(range(40_000))


def test_a_stream_that_fails_is_an_error_of_ours(tmp_path: Path) -> None:
    class Stream:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            def batches() -> Iterator[pa.RecordBatch]:
                yield pa.record_batch({"n": [1]})
                raise RuntimeError("no more")

            reader = pa.RecordBatchReader.from_batches(pa.schema({"n": pa.int64()}), batches())
            return reader.__arrow_c_stream__()

    with pytest.raises(godb_arrow.GodbError, match="no more"):
        godb_arrow.write_godb(Stream(), tmp_path / "s.godb", "s")
    assert not (tmp_path / "s.godb").exists()


def test_upsert_takes_the_place_of_the_same_ids(tmp_path: Path) -> None:
    path = tmp_path / "u.godb"
    first = [{"_id": "a", "v": 1}, {"_id": "b", "v": 2}, {"_id": "7", "v": 3}]
    assert godb_arrow.write_godb(first, path, "c", if_exists="upsert") == 3
    godb_arrow.write_godb([{"n": 1}], path, "other")
    new = [{"_id": "b", "v": "x"}, {"_id": "c", "w": 3}]
    assert godb_arrow.write_godb(new, path, "c", if_exists="upsert") == 2
    expected = [first[0], first[2], *new]
    assert list(godb_arrow.read_documents(path, "c")) == expected
    assert isinstance(godb_arrow.read_schema(path, "c").field("v").type, pa.JsonType)
    assert godb_arrow.list_collections(path) == {"c": 4, "other": 1}
    table = pa.table({"_id": ["a", "d"], "v": ["t", None]})
    assert godb_arrow.write_godb(table, path, "c", if_exists="upsert", omit_nulls=True) == 2
    found = {one["_id"]: one for one in godb_arrow.read_documents(path, "c")}
    assert found["a"] == {"_id": "a", "v": "t"}
    assert set(found) == {"a", "b", "c", "d", "7"}
    before = path.read_bytes()
    with pytest.raises(godb_arrow.InvalidOption, match="without ids"):
        godb_arrow.write_godb([{"v": 1}], path, "c", if_exists="upsert")
    with pytest.raises(godb_arrow.DuplicateId):
        godb_arrow.write_godb([new[0], new[0]], path, "c", if_exists="upsert")
    assert path.read_bytes() == before
    godb_arrow.write_godb([{"v": 1}], path, "c", if_exists="append")
    assert {one["_id"] for one in godb_arrow.read_documents(path, "c")} == {*found, "8"}
    assert godb_arrow.verify_godb(path).ok


def test_a_collection_is_copied_as_it_is(tmp_path: Path) -> None:
    documents = [{"_id": "a", "v": None}, {"_id": "b"}, {"_id": "c", "v": msgpack.ExtType(9, b"x")}]
    with pytest.warns(godb_arrow.CompatibilityWarning):
        godb_arrow.write_godb(documents, tmp_path / "a.godb", "a")
    collection = godb_arrow.open_godb(tmp_path / "a.godb")
    assert godb_arrow.write_godb(collection, tmp_path / "b.godb", "b") == 3
    assert list(godb_arrow.read_documents(tmp_path / "b.godb")) == documents
    kept = [one.id(0) for one in collection.stored_entries({"_id": "b"})]
    assert kept == ["b"]


def _of_size(identity: str, size: int) -> dict[str, Any]:
    """A document that has some bytes of MessagePack with its id."""
    document = {"_id": identity, "x": b"1" * 70_000}
    return {"_id": identity, "x": b"1" * (70_000 + size - len(pack_entry(identity, document)))}


@pytest.mark.parametrize("kind", ["documents", "table", "stream", "collection", "upsert"])
def test_a_document_that_readers_would_refuse_is_not_written(kind: str, tmp_path: Path) -> None:
    limit = 1 << 20
    path = tmp_path / "a.godb"
    godb_arrow.write_godb([{"_id": "1"}, {"_id": "large"}], path, "c")

    def write(size: int) -> int:
        documents = [{"_id": "a", "x": b""}, _of_size("large", size), {"_id": "b", "x": b""}]
        data: Any = documents
        if kind in ("table", "stream"):
            data = pa.Table.from_pylist(documents)
            data = data if kind == "table" else data.to_reader()
        elif kind == "collection":
            godb_arrow.write_godb(documents, tmp_path / "other.godb", "c")
            data = godb_arrow.open_godb(tmp_path / "other.godb")
        if_exists = "upsert" if kind == "upsert" else "replace"
        return godb_arrow.write_godb(data, path, "c", if_exists=if_exists, max_document_bytes=limit)

    with pytest.raises(godb_arrow.DocumentTooLarge, match=f"'large' has {limit + 1} bytes"):
        write(limit + 1)
    assert list(godb_arrow.read_documents(path)) == [{"_id": "1"}, {"_id": "large"}]
    assert os.listdir(tmp_path) in (["a.godb"], ["a.godb", "other.godb"], ["other.godb", "a.godb"])
    assert write(limit) == 3
    found = {one["_id"]: one for one in godb_arrow.read_documents(path, max_document_bytes=limit)}
    assert found["large"] == _of_size("large", limit)
    assert godb_arrow.read_table(path, max_document_bytes=limit).num_rows == len(found)


def test_documents_that_a_file_has_already_stay_whatever_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.godb"
    godb_arrow.write_godb([_of_size("large", 2 << 20)], path, "c")
    godb_arrow.write_godb([{"_id": "1"}], path, "c", if_exists="append", max_document_bytes=1 << 20)
    assert [document["_id"] for document in godb_arrow.read_documents(path)] == ["large", "1"]


@pytest.mark.parametrize("limit", [0, -1, 100, (1 << 30) + 1, "huge", None])
def test_a_limit_that_makes_no_sense_is_refused(limit: Any, tmp_path: Path) -> None:
    with pytest.raises(godb_arrow.InvalidOption, match="max_document_bytes"):
        godb_arrow.write_godb([], tmp_path / "a.godb", "c", max_document_bytes=limit)


@pytest.mark.parametrize("form", ["batch", "table", "reader"])
def test_rows_without_columns_are_documents(form: str) -> None:
    batch = pa.RecordBatch.from_struct_array(pa.array([{}] * 3, pa.struct([])))
    rows = {
        "batch": batch,
        "table": pa.Table.from_batches([batch]),
        "reader": pa.RecordBatchReader.from_batches(batch.schema, [batch]),
    }[form]
    file = io.BytesIO()
    assert godb_arrow.write_godb(rows, file, "c") == 3
    assert len(godb_arrow.open_godb(file.getvalue())) == 3


def test_the_path_may_name_the_collection(tmp_path: Path) -> None:
    path = tmp_path / "shop.godb"
    assert godb_arrow.write_godb([{"n": 1}], f"{path}#users") == 1
    assert godb_arrow.read_table(f"{path}#users").num_rows == 1
    assert godb_arrow.write_godb([{"n": 1}], f"{path}#users", "users", if_exists="append") == 1
    assert godb_arrow.list_collections(path) == {"users": 2}
    for place, name in ((path, None), (tmp_path, "users")):
        with pytest.raises(godb_arrow.InvalidOption):
            godb_arrow.write_godb([{"n": 1}], place, name)
    own = tmp_path / "c#.godb"  # the sign belongs to the file's name
    assert godb_arrow.write_godb([{"n": 1}], own, "orders") == 1
    assert godb_arrow.write_godb([{"n": 1}], f"{own}#users") == 1
    assert godb_arrow.list_collections(own) == {"orders": 1, "users": 1}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["c#.godb", "shop.godb"]
