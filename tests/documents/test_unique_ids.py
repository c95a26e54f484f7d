"""Equal ids are found without keeping all of them in memory."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import godb_arrow
from godb_arrow.documents import json_source, unique_ids
from godb_arrow.documents.json_source import JsonSource
from godb_arrow.documents.unique_ids import HashFile, has_equal_hash


@pytest.mark.parametrize("in_memory", [10, 1 << 20])
def test_equal_hashes_are_found(in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unique_ids, "_HASHES_IN_MEMORY", in_memory)
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2**64, 5000, np.uint64, endpoint=False)
    for repeated in (False, True):
        if repeated:
            values[4321] = values[17]
        parts = [values[at : at + 700].tobytes() for at in range(0, 5000, 700)]
        assert has_equal_hash(iter(parts), 5000) is repeated


def test_a_file_of_hashes_is_read_in_parts() -> None:
    file = HashFile()
    places = [file.add(bytes([n] * 8 * n)) for n in range(1, 5)]
    assert [file.read(place, n)[:1] for n, place in enumerate(places, 1)] == [
        b"\1", b"\2", b"\3", b"\4"
    ]  # fmt: skip
    file.close()


@pytest.mark.parametrize(
    ("ids", "repeated"),
    [
        (list(range(300)), None),
        ([*range(200), 150], "150"),
        ([*range(200), 199], "199"),
        (list(range(300, 0, -1)), None),
        ([*range(300, 0, -1), 7], "7"),
        ([*range(100), "x", *range(100, 200), 50], "50"),
        ([*range(50), "", *range(50, 90)], None),
    ],
)
@pytest.mark.parametrize("if_exists", ["replace", "append"])
def test_ids_of_a_file(
    ids: list[Any], repeated: str | None, if_exists: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_source, "_BLOCK_BYTES", 200)
    monkeypatch.setattr(unique_ids, "_HASHES_IN_MEMORY", 40)
    text = "\n".join(f'{{"_id":{n if isinstance(n, int) else chr(34) + n + chr(34)}}}' for n in ids)
    file = io.BytesIO()
    source = JsonSource(io.BytesIO(text.encode()), "x")
    if repeated is None:
        assert godb_arrow.write_godb(source, file, "c", if_exists=if_exists) == len(ids)
        found = godb_arrow.read_documents(file.getvalue())
        assert [document["_id"] for document in found] == [str(n) for n in ids]
    else:
        with pytest.raises(godb_arrow.DuplicateId, match=f"'{repeated}'"):
            godb_arrow.write_godb(source, file, "c", if_exists=if_exists)


def test_ids_of_a_file_and_of_new_documents(tmp_path: Any) -> None:
    path = tmp_path / "x.godb"
    godb_arrow.write_godb([{"_id": str(n)} for n in range(1, 50)], path, "c")
    added = JsonSource(io.BytesIO(b'{"n":1}\n{"n":2}'), "x")
    assert godb_arrow.write_godb(added, path, "c", if_exists="append") == 2
    assert [document["_id"] for document in godb_arrow.read_documents(path)][-2:] == ["50", "51"]
    with pytest.raises(godb_arrow.DuplicateId, match="'7'"):
        again = JsonSource(io.BytesIO(b'{"_id":"7"}'), "x")
        godb_arrow.write_godb(again, path, "c", if_exists="append")
