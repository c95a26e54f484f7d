"""Collections as Arrow streams and datasets, wherever they are."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

import godb_arrow
from godb_arrow import FieldNotFound, Scannable, StorageEngine

DOCUMENTS = [
    {"_id": "a", "name": "Ada", "age": 36, "tags": ["x"], "geo": {"cc": "GB"}, "mixed": 1},
    {"_id": "b", "name": "Bob", "age": None, "geo": {"cc": "DE"}, "mixed": "two"},
    {"_id": "c", "name": "Cy", "age": 9, "tags": [], "score": 0.5},
]


class Consumer:
    """Somebody who knows the protocol only."""

    def __init__(self, stream: Any, requested: pa.Schema | None = None) -> None:
        capsule = stream.__arrow_c_stream__(
            None if requested is None else requested.__arrow_c_schema__()
        )
        self.table = pa.RecordBatchReader._import_from_c_capsule(capsule).read_all()


@pytest.fixture(params=["file", "engine, saved", "engine, changed"])
def people(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scannable]:
    if request.param == "file":
        path = tmp_path / "people.godb"
        godb_arrow.write_godb(DOCUMENTS, path, "people")
        handle = godb_arrow.open_godb(path)
        yield handle
        handle.close()
        return
    with StorageEngine(tmp_path) as engine:
        people = engine.create_collection("people")
        if request.param == "engine, saved":
            people.insert_many(DOCUMENTS)
            engine.save()
        else:
            people.insert_many([*DOCUMENTS[:2], {"_id": "c", "name": "old"}])
            engine.save()
            people.replace("c", DOCUMENTS[2])
        yield people


def test_it_is_read_anew_by_each_consumer(people: Scannable) -> None:
    first, second = Consumer(people).table, Consumer(people).table
    assert first.equals(second)
    assert first.schema.equals(people.schema)
    assert first.column("name").to_pylist() == ["Ada", "Bob", "Cy"]
    assert pa.table(people).equals(first)
    assert pa.schema(people).equals(people.schema)
    assert len(people) == 3
    assert [one["_id"] for one in people] == ["a", "b", "c"]


def test_fields_are_parts_of_filters(people: Scannable) -> None:
    table = people.to_arrow(["name"], (people["age"] > 10) | (people["geo.cc"] == "DE"))
    assert table.column("name").to_pylist() == ["Ada", "Bob"]
    assert "geo.cc" in people._ipython_key_completions_()
    with pytest.raises(FieldNotFound):
        people["nothing"]


def test_a_requested_schema_is_honoured(people: Scannable) -> None:
    wanted = pa.schema({"age": pa.int16(), "name": pa.large_string(), "mixed": pa.string()})
    table = Consumer(people, wanted).table
    assert table.schema.equals(wanted)
    assert table.to_pydict() == {
        "age": [36, None, 9], "name": ["Ada", "Bob", "Cy"], "mixed": ["1", '"two"', None],
    }  # fmt: skip
    other = Consumer(people, pa.schema({"nobody": pa.int8()})).table
    assert other.schema.equals(people.schema), "best effort: the stream as it is"


def test_a_dataset_pushes_down(people: Scannable) -> None:
    dataset = people.to_dataset()
    assert dataset.schema.equals(people.schema)
    assert dataset.count_rows() == 3
    assert dataset.count_rows(filter=ds.field("age") > 10) == 1
    table = dataset.to_table(columns=["name"], filter=pc.field("geo", "cc") == "DE")
    assert table.to_pydict() == {"name": ["Bob"]}
    assert dataset.head(2, columns=["name"]).num_rows == 2
    assert sum(batch.num_rows for batch in dataset.to_batches()) == 3
    (fragment,) = dataset.get_fragments()
    assert fragment.scanner(columns=["age"], filter=ds.field("age") == 9).to_table().num_rows == 1
    assert fragment.count_rows(ds.field("name") == "Ada") == 1
    twice = dataset.to_table(columns={"twice": ds.field("age") * 2})
    assert twice.to_pydict() == {"twice": [72, None, 18]}


def test_datafusion_takes_the_dataset_and_the_stream(people: Scannable) -> None:
    datafusion = pytest.importorskip("datafusion")
    context = datafusion.SessionContext()
    context.register_dataset("people", people.to_dataset())
    rows = context.sql("select name from people where age > 10").to_pylist()
    assert rows == [{"name": "Ada"}]
    assert context.from_arrow(people).count() == 3


def test_adbc_takes_the_stream(people: Scannable, tmp_path: Path) -> None:
    sqlite = pytest.importorskip("adbc_driver_sqlite.dbapi")
    with sqlite.connect(str(tmp_path / "one.db")) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("people", people.stream_batches(["name", "age"]))
        cursor.execute("select name from people where age < 10")
        assert cursor.fetchall() == [("Cy",)]


def test_a_profile_says_what_is_there(people: Scannable) -> None:
    profile = people.profile()
    assert profile.documents == 3
    assert set(profile) == {"_id", "name", "age", "tags", "geo.cc", "mixed", "score"}
    age = profile["age"]
    assert (age.type, age.absent, age.nulls, age.distinct, age.min, age.max) == (
        "int64", 0, 1, 2, 9, 36,
    )  # fmt: skip
    assert (profile["tags"].absent, profile["tags"].nulls) == (1, 0)
    assert (profile["mixed"].type, profile["mixed"].absent) == ("json", 1)
    assert (profile["_id"].absent, profile["_id"].distinct) == (None, 3)
    assert profile["name"].top[0] == ("Ada", 1)
    counts, edges = profile["age"].histogram or ([], [])
    assert sum(counts) == 2
    assert edges[0] <= 9
    assert edges[-1] >= 36
    assert "<script" not in profile._repr_html_()
    assert "age" in repr(profile)
    assert profile.to_pandas().loc["age", "max"] == 36
    assert list(people.profile(["name"])) == ["name"]
    with pytest.raises(FieldNotFound):
        profile["nobody"]


def test_a_profile_of_many_values_is_close(tmp_path: Path) -> None:
    count = 60_000
    day = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    table = pa.table({
        "unique": list(range(count)),
        "few": [f"v{n % 7}" for n in range(count)],
        "skewed": ["often" if n % 10 else str(n) for n in range(count)],
        "real": [float("nan") if n == 5 else n * n / 7 - 1e6 for n in range(count)],
        "when": [day + dt.timedelta(minutes=n) for n in range(count)],
        "flag": [n % 3 == 0 for n in range(count)],
        "raw": [bytes([n % 251]) for n in range(count)],
        "empty": pa.nulls(count, pa.int64()),
    })  # fmt: skip
    godb_arrow.write_godb(table, tmp_path / "a.godb", "a")
    profile = godb_arrow.open_godb(tmp_path / "a.godb", batch_size=4096).profile(progress=False)
    assert abs(profile["unique"].distinct / count - 1) < 0.15
    assert profile["few"].distinct == 7
    assert dict(profile["few"].top)["v0"] == -(-count // 7)
    value, least = profile["skewed"].top[0]
    assert value == "often"
    assert 0.8 * 0.9 * count < least <= 0.9 * count
    assert profile["when"].max == day + dt.timedelta(minutes=count - 1)
    assert profile["real"].max == pytest.approx((count - 1) ** 2 / 7 - 1e6)
    for name in ("unique", "real", "when"):
        counts, edges = profile[name].histogram
        assert sum(counts) == count - (name == "real")
        assert len(edges) == len(counts) + 1
        assert (edges[1:] > edges[:-1]).all()
    assert profile["raw"].min is None
    assert profile["empty"].nulls == count
    pytest.importorskip("matplotlib")
    figure = profile.plot()
    assert len(figure.axes) >= 7
    figure.savefig(tmp_path / "plot.png", dpi=40)


def test_reprs_are_small_escaped_and_read_no_documents(tmp_path: Path) -> None:
    from godb_arrow.file.locate import StoredCollection

    odd = "<b>&"
    with StorageEngine(tmp_path) as engine:
        engine.create_collection(odd).insert_many([{"n": 1}])
        godb_arrow.write_godb([{"n": 1}], tmp_path / "one.godb", odd)
    with pytest.MonkeyPatch.context() as patch, StorageEngine(tmp_path) as engine:
        patch.setattr(StoredCollection, "entries", lambda _: pytest.fail("documents were read"))
        handle = godb_arrow.open_godb(tmp_path / "one.godb")
        shown = [
            engine,
            engine[odd],
            engine.info(odd),
            engine.stats(),
            engine.memory_stats(),
            handle,
        ]
        for one in shown:
            text = one._repr_html_()
            assert odd not in text
            assert "<script" not in text
            assert repr(one)
        assert "&lt;b&gt;&amp;" in engine._repr_html_()
        assert engine._ipython_key_completions_() == [odd]
        assert engine[odd]._ipython_key_completions_() == ["_id", "n"]
