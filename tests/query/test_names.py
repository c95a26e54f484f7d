"""Names with halves of surrogate pairs, which JSON of strangers may have, are refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support import forge

import godb_arrow
from godb_arrow import GodbError, StorageEngine

RAW = b"\xa12\x82\xa1n\x02\xa1\x80\x05"  # a document whose second key is no UTF-8
FILE = forge.godb_file(forge.collection("c", [forge.entry("1", {"n": 1}), RAW], hint=None))
NAMES = ["\udc80", "n.\udc80", "\ud800", "n.\ud800"]  # of raw bytes, and half of a pair

FILE_READERS: dict[str, Callable[[str], Any]] = {
    "read_table": lambda name: godb_arrow.read_table(FILE, columns=[name]),
    "read_godb": lambda name: godb_arrow.read_godb(FILE, columns=[name]),
    "scan_godb": lambda name: list(godb_arrow.scan_godb(FILE, columns=[name])),
    "filter": lambda name: godb_arrow.read_table(FILE, filter={name: 5}),
    "exists": lambda name: godb_arrow.read_table(FILE, filter={name: {"$exists": True}}),
    "nested filter": lambda name: godb_arrow.read_table(FILE, filter={"$or": [{name: 5}]}),
    "value": lambda name: godb_arrow.read_table(FILE, filter={"n": name}),
    "profile": lambda name: godb_arrow.open_godb(FILE).profile([name]),
}
VERBS: dict[str, Callable[[Any, str], Any]] = {
    "create_index": lambda c, name: c.create_index(name),
    "find": lambda c, name: c.find({name: 5}),
    "sort": lambda c, name: c.find(sort=name),
    "distinct": lambda c, name: c.distinct(name),
    "to_arrow": lambda c, name: c.to_arrow([name]),
    "columns": lambda c, name: c.find({}, columns=[name]),
    "tag": lambda c, name: c.tag(name),
    "update_many": lambda c, name: c.update_many({"n": 1}, {"$set": {name: 5}}),
    "get": lambda c, name: c.get(name, None),
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("reader", FILE_READERS)
def test_readers_of_files(reader: str, name: str) -> None:
    try:
        FILE_READERS[reader](name)
    except GodbError as error:
        assert repr(name) in str(error) or "surrogate" in str(error)


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_of_collections(verb: str, tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": 1}, {"n": 2, "\udc80": 5}])
        for name in NAMES:
            try:
                VERBS[verb](collection, name)
            except GodbError as error:
                assert str(error)
        assert collection.find({"\udc80": 5})[0]["n"] == 2
        engine.save()
        assert len(collection.find({"n": 2})) == 1


@pytest.mark.parametrize("is_nested", [False, True])
def test_time_zones_of_other_languages(is_nested: bool) -> None:
    """Arrow has names of time zones as bytes, and strangers send any."""
    kind = pa.timestamp("us", "Zone/Mine")
    values: pa.Array = pa.array([1, 2], pa.int64()).cast(kind)
    if is_nested:
        values = pa.StructArray.from_arrays([values], ["inner"])
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"t": values})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    raw = sink.getvalue().to_pybytes().replace(b"Zone/Mine", b"Zone/\xff\xfe\xfdx")
    table = pa.ipc.open_stream(raw).read_all()
    with pytest.raises(godb_arrow.UnsupportedType, match="time zone"):
        godb_arrow.write_godb(table, io.BytesIO(), "c")
