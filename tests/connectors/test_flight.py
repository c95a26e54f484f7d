"""The server on the network: what is right is served, everything else refused."""

from __future__ import annotations

import datetime as dt
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as fl
import pytest
from support.processes import run_python
from support.settings import LONG

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.connectors.flight.access import Slots
from godb_arrow.connectors.flight.client import RemoteEngine, connect
from godb_arrow.connectors.flight.idle import Idle, IdleWatch
from godb_arrow.connectors.flight.server import FlightServer

TOKEN = "a token for the tests"
DAY = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
DOCUMENTS = [
    {"_id": "a", "name": "Ada", "age": 36, "at": DAY, "geo": {"cc": "GB"}, "mixed": 1},
    {"_id": "b", "name": "Bob", "age": None, "geo": {"cc": "DE"}, "mixed": "two"},
    {"_id": "c", "name": "Cy", "age": 9},
]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StorageEngine]:
    with StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("people").insert_many(DOCUMENTS)
        numbers = pa.table({"n": list(range(50_000)), "t": [f"text {n}" for n in range(50_000)]})
        engine.create_collection("numbers").insert_many(numbers)
        engine.save()
        yield engine


@pytest.fixture
def server(engine: StorageEngine) -> Iterator[FlightServer]:
    with FlightServer(engine, token=TOKEN, max_streams=2, max_message_bytes=200_000) as server:
        yield server


@pytest.fixture
def remote(server: FlightServer) -> Iterator[RemoteEngine]:
    with connect(f"grpc://127.0.0.1:{server.port}", token=TOKEN) as remote:
        yield remote


def plain(server: FlightServer, token: str | None = TOKEN) -> tuple[Any, Any]:
    """pyarrow.flight alone, as in the README."""
    client = fl.connect(f"grpc://127.0.0.1:{server.port}")
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    return client, fl.FlightCallOptions(headers=headers)


def test_collections_are_here_as_they_are_there(engine: StorageEngine, remote: Any) -> None:
    assert sorted(remote) == ["numbers", "people"]
    assert len(remote) == 2
    people = remote["people"]
    assert len(people) == 3
    assert people.schema.equals(engine["people"].schema)
    assert people.to_arrow().equals(engine["people"].to_arrow())
    assert people.to_arrow(["name", "geo.cc"]).to_pydict() == {
        "name": ["Ada", "Bob", "Cy"], "geo.cc": ["GB", "DE", None],
    }  # fmt: skip
    assert pa.table(people).num_rows == 3
    assert [one["_id"] for one in people] == ["a", "b", "c"]
    assert people.to_pandas(["age"])["age"].tolist()[0] == 36
    assert people.profile(["age"])["age"].max == 36
    assert remote["numbers"].to_arrow().num_rows == 50_000
    assert remote.health()["status"] == "ok"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"name": "Ada"}, ["Ada"]),
        ({"name": ["Cy", "Ada"]}, ["Ada", "Cy"]),
        ({"age": None}, ["Bob"]),
        ({"at": DAY}, ["Ada"]),
        ({"mixed": "two"}, ["Bob"]),
        (pc.field("age") > 10, ["Ada"]),
        ((pc.field("geo", "cc") == "DE") | (pc.field("age") < 10), ["Bob", "Cy"]),
        (pc.starts_with(pc.field("name"), "A") & pc.field("age").is_valid(), ["Ada"]),
        (
            godb_arrow.RowFilter(["name"], lambda b: pc.equal(pc.utf8_length(b["name"]), 2)),
            ["Cy"],
        ),
    ],
)
def test_filters_are_evaluated_there(remote: Any, condition: Any, expected: list[str]) -> None:
    assert remote["people"].to_arrow(["name"], condition).column("name").to_pylist() == expected


def test_polars_and_duckdb_on_a_server(remote: Any) -> None:
    pl = pytest.importorskip("polars")
    pytest.importorskip("duckdb")
    from godb_arrow.connectors import duckdb, polars

    lazy = polars.scan_godb(remote["numbers"]).filter(pl.col("n") > 49_990).select("t")
    assert len(lazy.collect()) == 9
    with duckdb.connect(remote) as sql:
        assert sql.sql("select count(*) from numbers where n < 7").fetchall() == [(7,)]


def test_any_flight_client_will_do(server: FlightServer) -> None:
    client, options = plain(server)
    names = [info.descriptor.path[0].decode() for info in client.list_flights(options=options)]
    assert names == ["numbers", "people"]
    info = client.get_flight_info(fl.FlightDescriptor.for_path("people"), options)
    assert info.total_records == 3
    table = client.do_get(info.endpoints[0].ticket, options).read_all()
    assert table.num_rows == 3
    ticket = {"collection": "people", "columns": ["name"], "filter": {"geo.cc": "DE"}}
    table = client.do_get(fl.Ticket(json.dumps(ticket).encode()), options).read_all()
    assert table.to_pydict() == {"name": ["Bob"]}
    command = fl.FlightDescriptor.for_command(json.dumps(ticket).encode())
    assert client.get_schema(command, options).schema.names == sorted(DOCUMENTS[0], key=list(
        client.get_schema(command, options).schema.names).index)  # fmt: skip
    assert client.get_flight_info(command, options).schema.names == ["name"]
    (health,) = client.do_action(fl.Action("health", b""), options)
    assert json.loads(health.body.to_pybytes())["collections"] == 2
    assert [action.type for action in client.list_actions(options)] == ["health"]
    client.close()


def test_uploads(engine: StorageEngine, remote: Any) -> None:
    assert remote.insert_many("new", [{"_id": "x", "n": 1}, {"_id": "y", "n": 2}]) == 2
    assert remote.upsert_many("new", pa.table({"_id": ["y"], "n": [3]})) == 1
    assert engine.find_all("new") == [{"_id": "x", "n": 1}, {"_id": "y", "n": 3}]
    assert remote.insert_many("keyed", pa.table({"k": ["a"]}), id_column="k") == 1
    odd = [{"_id": "1", "n": 1}, {"_id": "2", "late": [1], "n": "text"}, {"_id": "3", "n": 1.5}]
    assert remote.insert_many("odd", iter(odd)) == 3
    found = {one["_id"]: one for one in engine.find_all("odd")}
    assert [found[key]["n"] for key in "123"] == [1, "text", 1.5], "mixed types stay whole"
    assert found["2"]["late"] == [1], "also a field that the first document does not have"
    assert remote.insert_many("none", []) == 0
    assert remote.insert_many("numbered", [{"n": 1}]) == remote.insert_many("numbered", [{"n": 2}])
    assert [one["_id"] for one in engine.find_all("numbered")] == ["1", "2"], "the server's ids"
    mixed = [{"n": 3}, {"_id": "1", "n": 4}, {"n": 5, "late": DAY}, {"_id": "9", "n": 6}]
    assert remote.upsert_many("numbered", iter(mixed)) == 4
    found = {one["_id"]: one for one in engine.find_all("numbered")}
    assert {key: one["n"] for key, one in found.items()} == {
        "1": 4, "2": 2, "3": 3, "4": 5, "9": 6,
    }, "ids that the server generates replace no document"  # fmt: skip
    assert found["4"]["late"] == DAY
    assert remote.upsert_many("numbered", [{}, {"_id": "2"}]) == 2
    assert engine.get("numbered", "10") == {"_id": "10"}
    with pytest.raises(godb_arrow.InvalidDocument):
        remote.insert_many("odd", [{"_id": "4", "n": object()}])
    before = engine.find_all("new")
    with pytest.raises(godb_arrow.DuplicateId, match="'x'"):
        remote.insert_many("new", [{"_id": "z"}, {"_id": "x"}])
    with pytest.raises(godb_arrow.LimitExceeded, match="smaller batches"):
        remote.insert_many("large", [{"t": "x" * 300_000}])
    assert engine.find_all("new") == before
    assert "large" not in engine, "nothing was made for what was refused"


_CLIENT = """
import json, os, sys
import pyarrow as pa, pyarrow.flight as fl
port, token, command, how = sys.argv[1:]
client = fl.connect(f"grpc://127.0.0.1:{port}")
options = fl.FlightCallOptions(headers=[(b"authorization", b"Bearer " + token.encode())])
descriptor = fl.FlightDescriptor.for_command(command.encode())
writer, answers = client.do_put(descriptor, pa.schema([("a", pa.int64())]), options)
for batch in range(10):
    writer.write_table(pa.table({"a": list(range(1000))}))
if how == "kill":
    os.kill(os.getpid(), 9)
if how == "exception":
    with writer:
        raise ValueError
if how == "wrong count":
    writer.write_metadata(json.dumps({"rows": 9000}).encode())
if how == "no json":
    writer.write_metadata(b"[" * 1000)
if how == "whole":
    writer.write_metadata(json.dumps({"rows": 10000}).encode())
if how in ("whole", "wrong count", "no json"):
    writer.done_writing()
    print(answers.read().to_pybytes().decode())
    writer.close()
"""  # and else it ends, which closes the stream


class _Watched(FlightServer):
    """Says when an upload has ended, and how."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ended = threading.Event()
        self.error: BaseException | None = None

    def do_put(self, *arguments: Any) -> bytes:
        try:
            return super().do_put(*arguments)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()


@pytest.mark.parametrize("collection", ["people", "new"] if LONG else ["new"])
@pytest.mark.parametrize(("how", "end"), [
    ("kill", False), ("kill", True), ("end", True), ("exception", True), ("wrong count", True),
    ("no json", True),
])  # fmt: skip
def test_an_upload_that_is_cut_off_stores_nothing(
    how: str, end: bool, collection: str, engine: StorageEngine
) -> None:
    before = engine.find_all("people")
    command = {"collection": collection} | ({"end": True} if end else {})
    with _Watched(engine, token=TOKEN) as server:
        run_python(_CLIENT, server.port, TOKEN, json.dumps(command), how)
        assert server.ended.wait(60)
        assert "nothing was stored" in str(server.error)
        assert engine.find_all("people") == before
        assert "new" not in engine
        with connect(f"grpc://127.0.0.1:{server.port}", token=TOKEN) as remote:
            assert remote.insert_many(collection, [{"_id": "last"}]) == 1  # its slot is free


@pytest.mark.parametrize("command", [{"collection": "new", "end": True}, {"collection": "new"}])
def test_an_upload_that_says_its_end_is_stored(
    command: dict[str, Any], engine: StorageEngine
) -> None:
    with FlightServer(engine, token=TOKEN) as server:
        done = run_python(_CLIENT, server.port, TOKEN, json.dumps(command), "whole")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"documents": 10_000}
        assert engine.count("new") == 10_000


def test_a_client_that_fails_while_it_sends_stores_nothing(
    engine: StorageEngine, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own error closes the stream as if that were all."""
    from godb_arrow.connectors.flight import client

    class Interrupted:
        @staticmethod
        def dumps(found: dict[str, Any]) -> str:
            if "rows" in found:
                raise KeyboardInterrupt
            return json.dumps(found)

    monkeypatch.setattr(client, "json", Interrupted)
    with pytest.raises((KeyboardInterrupt, godb_arrow.GodbError)):
        remote.insert_many("new", pa.table({"n": [1, 2, 3]}))
    monkeypatch.undo()
    assert remote.insert_many("another", pa.table({"n": [1]})) == 1
    assert "new" not in engine


@pytest.mark.parametrize("bad", [
    pa.table({"_id": ["x", "x"]}), pa.table({"_id": ["x", None]}),
    pa.table({"n": [1], "m": pa.array([pa.scalar(dt.timedelta(days=1))], pa.duration("us"))})
    .append_column("i", pa.array([None], pa.month_day_nano_interval())),
    pa.table({"x": [b"1" * 150_000] * 8}),
], ids=["twice", "no id", "type", "memory"])  # fmt: skip
def test_a_failed_upload_leaves_no_empty_collection(bad: pa.Table, tmp_path: Path) -> None:
    with (
        StorageEngine(tmp_path, max_document_bytes=100_000) as engine,
        FlightServer(engine, token=TOKEN) as server,
        connect(f"grpc://127.0.0.1:{server.port}", token=TOKEN) as remote,
    ):
        with pytest.raises(godb_arrow.GodbError):
            remote.insert_many("new", bad)
        assert engine.collections() == []
        engine.create_collection("empty")
        with pytest.raises(godb_arrow.GodbError):
            remote.insert_many("empty", bad)
        assert engine.collections() == ["empty"], "what was there stays"
    with StorageEngine(tmp_path) as engine:
        assert engine.collections() == ["empty"]


@pytest.mark.parametrize("first", ["fails", "succeeds"])
def test_uploads_to_the_same_new_collection(
    first: str, engine: StorageEngine, server: FlightServer
) -> None:
    """One that fails takes away nothing of the other."""
    made, other_done = threading.Event(), threading.Event()
    insert_many = godb_arrow.Collection.insert_many

    def slow(collection: Any, table: Any, **options: Any) -> Any:
        if table.num_rows == 2:
            made.set()
            assert other_done.wait(30)
        return insert_many(collection, table, **options)

    def upload(table: pa.Table) -> None:
        with connect(f"grpc://127.0.0.1:{server.port}", token=TOKEN) as remote:
            if table.num_rows == 2 and first == "fails":
                with pytest.raises(godb_arrow.DuplicateId):
                    remote.insert_many("new", table)
            else:
                remote.insert_many("new", table)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(godb_arrow.Collection, "insert_many", slow)
        table = pa.table({"_id": ["a", "a" if first == "fails" else "b"]})
        thread = threading.Thread(target=upload, args=(table,))
        thread.start()
        assert made.wait(30)
        upload(pa.table({"_id": ["c"]}))
        other_done.set()
        thread.join()
    assert len(engine["new"]) == (1 if first == "fails" else 3)
    with pytest.raises(godb_arrow.CollectionNotFound):
        engine.drop_collection("nowhere", if_empty=True)
    engine.drop_collection("new", if_empty=True)
    assert "new" in engine
    engine["new"].delete_many(None)
    engine.drop_collection("new", if_empty=True)
    assert "new" not in engine


@pytest.mark.parametrize("token", [None, "", "a token for the test", TOKEN + "x"])
def test_who_has_no_token_gets_nothing(server: FlightServer, token: str | None) -> None:
    client, options = plain(server, token)
    people = fl.FlightDescriptor.for_path("people")
    ticket = fl.Ticket(b'{"collection": "people"}')
    for request in (
        lambda: list(client.list_flights(options=options)),
        lambda: client.get_flight_info(people, options),
        lambda: client.get_schema(people, options),
        lambda: client.do_get(ticket, options).read_all(),
        lambda: list(client.do_action(fl.Action("health", b""), options)),
        lambda: client.list_actions(options),
        lambda: uploaded(client, people, options),
    ):
        # pyarrow's get_schema raises a plain OSError.
        with pytest.raises((fl.FlightUnauthenticatedError, OSError), match="missing or wrong"):
            request()
    client.close()
    if token:
        with (
            connect(f"grpc://127.0.0.1:{server.port}", token=token) as remote,
            pytest.raises(godb_arrow.AccessDenied, match="missing or wrong"),
        ):
            remote["people"]


def uploaded(client: Any, descriptor: Any, options: Any) -> None:
    table = pa.table({"n": [1]})
    writer, _ = client.do_put(descriptor, table.schema, options)
    with writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    "ticket",
    [
        b"", b"\xff\xfe", b"[]", b"{}", b'{"collection": 1}', b"[" * 100_000,
        b'{"collection": "people", "columns": "name"}',
        b'{"collection": "people", "columns": [1]}',
        b'{"collection": "people", "columns": ["nothing"]}',
        b'{"collection": "people", "filter": {"age": {"$gtt": 1}}}',
        b'{"collection": "people", "filter": {"age": {"$date": "x"}}}',
        b'{"collection": "people", "filter": ' + b'{"$not": ' * 200 + b"{}" + b"}" * 201,
        b'{"collection": "people", "substrait": "!", "fields": ["age"]}',
        b'{"collection": "people", "substrait": "AAAA", "fields": ["age"]}',
        b'{"collection": "people", "other": 1}',
        b'{"collection": "people", "columns": ["' + b"x" * (1 << 20) + b'"]}',
    ],
)  # fmt: skip
def test_bad_tickets_are_refused(server: FlightServer, ticket: bytes) -> None:
    client, options = plain(server)
    with pytest.raises(fl.FlightServerError) as caught:
        client.do_get(fl.Ticket(ticket), options).read_all()
    assert "Traceback" not in str(caught.value)
    with pytest.raises(fl.FlightServerError, match="there is no collection"):
        client.do_get(fl.Ticket(b'{"collection": "../people"}'), options).read_all()
    assert client.get_flight_info(fl.FlightDescriptor.for_path("people"), options)
    client.close()


def test_answers_have_no_details_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # pytest keeps what is logged, with its errors and their files, until the test has ended.
    caplog.set_level(logging.CRITICAL, "godb_arrow.connectors.flight.server")
    folder = tmp_path / "secret place"
    with StorageEngine(folder) as engine:
        engine.create_collection("people").insert_many(DOCUMENTS)
        categories = pa.array(["a", "b"] * 50).dictionary_encode()
        engine.create_collection("categories").insert_many(pa.table({"c": categories}))
    with StorageEngine(folder) as engine, FlightServer(engine, token=TOKEN) as server:
        client, options = plain(server)
        assert client.do_get(fl.Ticket(b'{"collection": "categories"}'), options).read_all()
        for name in ("people", "categories"):
            with open(folder / "collections" / f"{name}.godb", "r+b") as file:
                file.truncate(30)
        said = []
        for ticket in (b'{"collection": "people"}', b'{"collection": "categories"}', b"{}"):
            for call in (
                lambda ticket=ticket: client.do_get(fl.Ticket(ticket), options).read_all(),
                lambda ticket=ticket: client.get_flight_info(
                    fl.FlightDescriptor.for_command(ticket), options
                ),
                lambda: list(client.do_action(fl.Action("none", b""), options)),
                lambda ticket=ticket: client.get_schema(
                    fl.FlightDescriptor.for_command(ticket), options
                ),
                lambda: list(client.do_exchange(fl.FlightDescriptor.for_path("c"), options)[1]),
            ):
                try:
                    call()  # the front of a file may be enough
                except (fl.FlightServerError, pa.ArrowException, OSError) as error:
                    said.append(str(error))
        assert len(said) >= 12
        assert any("names no collection" in text for text in said)
        for word in ("secret place", "Traceback", str(Path(godb_arrow.__file__).parent)):
            assert word not in "".join(said)
        client.close()


def test_what_an_upload_unpacks_to_is_limited(server: FlightServer) -> None:
    count = 100_000
    long = pa.array(["x" * 1000])
    small = {
        "nulls": pa.nulls(count),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([count], pa.int32()), long),
        "categories": pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int8()), long),
        "list of nulls": pa.ListArray.from_arrays([0, 1_000_000], pa.nulls(1_000_000)),
    }
    client, options = plain(server)
    for name, array in small.items():
        batch = pa.record_batch({"a": array})
        assert batch.nbytes < 1_000_000
        descriptor = fl.FlightDescriptor.for_path("new")
        with pytest.raises((fl.FlightServerError, OSError), match="send smaller batches"):
            writer, answers = client.do_put(descriptor, batch.schema, options)
            writer.write_batch(batch)
            writer.done_writing()
            answers.read()
            writer.close()
        assert "new" not in server._engine, name
    client.close()


def test_an_upload_whose_offsets_lie_is_refused(server: FlightServer) -> None:
    offsets = np.array([0, 8, 8], np.int32)  # of two rows; the second one is null
    buffers = [pa.py_buffer(b"\1"), pa.py_buffer(offsets), pa.py_buffer(b"mine....")]
    batch = pa.record_batch([pa.Array.from_buffers(pa.binary(), 2, buffers)], ["b"])
    offsets[1] = 4000  # pyarrow has looked at them already
    client, options = plain(server)
    with pytest.raises((fl.FlightServerError, OSError), match="not valid"):
        writer, answers = client.do_put(fl.FlightDescriptor.for_path("new"), batch.schema, options)
        writer.write_batch(batch)
        writer.done_writing()
        answers.read()
        writer.close()
    assert "new" not in server._engine
    client.close()


def test_streams_are_counted_and_given_back(engine: StorageEngine, remote: Any) -> None:
    # More than what is on its way without anybody reading.
    engine.create_collection("large").insert_many(pa.table({"t": ["x" * 100] * 400_000}))
    first = remote["large"].stream_batches()
    second = remote["large"].stream_batches()
    next(first), next(second)
    with pytest.raises(godb_arrow.StorageError, match="too many"):
        remote["people"].to_arrow()
    assert sum(len(batch) for batch in first) > 300_000
    assert remote["people"].to_arrow().num_rows == 3, "one ended"
    del second
    for _ in range(5):
        assert remote["people"].to_arrow().num_rows == 3
    with pytest.raises(godb_arrow.FieldNotFound):
        remote["people"].stream_batches(schema=pa.schema({"nothing": pa.int8()}))
    ages = remote["people"].stream_batches(schema=pa.schema({"age": pa.int8()})).read_all()
    assert ages.schema.field("age").type == pa.int8()
    for _ in range(5):  # what is refused takes no place
        with pytest.raises(godb_arrow.GodbError):
            remote.stream({"collection": "nothing"}).read_all()


def test_a_server_without_a_token_listens_to_itself_only(engine: StorageEngine) -> None:
    with pytest.raises(godb_arrow.InvalidOption, match="any client"):
        FlightServer(engine, "0.0.0.0", token=None)
    with pytest.raises(godb_arrow.InvalidOption, match="characters"):
        FlightServer(engine, token="short")
    with FlightServer(engine, token=None) as server:
        with connect(f"grpc://127.0.0.1:{server.port}") as remote:
            assert len(remote["people"]) == 3
        with pytest.raises(godb_arrow.InvalidOption, match="cannot listen"):
            FlightServer(engine, port=server.port, token=None)
    with (
        connect(f"grpc://127.0.0.1:{server.port}") as remote,
        pytest.raises(godb_arrow.StorageError),
    ):
        remote["people"]


def test_a_read_only_server(engine: StorageEngine, tmp_path: Path) -> None:
    with (
        StorageEngine(tmp_path / "data", read_only=True) as reading,
        FlightServer(reading, token=None) as server,
        connect(f"grpc://127.0.0.1:{server.port}") as remote,
    ):
        assert len(remote["people"]) == 3
        with pytest.raises(godb_arrow.AccessDenied, match="read-only"):
            remote.insert_many("people", [{"n": 1}])


def certificate(folder: Path) -> tuple[bytes, bytes]:
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout",
         str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("openssl is not there")
    return (folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes()


def test_tls(engine: StorageEngine, tmp_path: Path) -> None:
    made = certificate(tmp_path)
    with FlightServer(engine, "localhost", token=TOKEN, tls=made) as server:
        location = f"grpc+tls://localhost:{server.port}"
        with connect(location, token=TOKEN, tls_authority=made[0]) as remote:
            assert len(remote["people"]) == 3
        with connect(location, token=TOKEN) as remote, pytest.raises(godb_arrow.StorageError):
            remote["people"]  # a certificate that nobody knows
        with (
            connect(f"grpc://localhost:{server.port}", token=TOKEN) as remote,
            pytest.raises(godb_arrow.StorageError),
        ):
            remote["people"]


@pytest.mark.parametrize("made", [(b"", b""), (b"no certificate", b"no key")])
def test_what_is_no_certificate_is_refused(
    engine: StorageEngine, made: tuple[bytes, bytes]
) -> None:
    with pytest.raises(godb_arrow.InvalidOption, match="certificate"):
        FlightServer(engine, "localhost", token=TOKEN, tls=made)


def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(TOKEN + "\n")
    main = "from godb_arrow.cli.command import main; main(prog_name='godb-arrow')"
    serve = [sys.executable, "-c", main, "serve", str(tmp_path / "data"), "--port", "0"]
    refused = subprocess.run(serve, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--token-file" in refused.stderr
    command = [*serve, "--create", "--token-file", str(tmp_path / "token")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("serving 0 collections on 127.0.0.1:")
        with connect(f"grpc://127.0.0.1:{line.rpartition(':')[2].strip()}", token=TOKEN) as remote:
            count = 200_000
            table = pa.table({"n": list(range(count)), "t": ["some text"] * count})
            assert remote.insert_many("numbers", table) == count
            reader = remote["numbers"].stream_batches()
            rows = next(reader).num_rows
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            rows += sum(batch.num_rows for batch in reader)
            assert rows == count, "a stream that runs is not cut off"
        assert "saved and closed" in process.stderr.read()
        assert process.wait(30) == 0
    with StorageEngine(tmp_path / "data") as engine:
        assert engine.count("numbers") == count
    # A thread of gRPC that has called Python once is counted as a dummy.
    names = [thread.name for thread in threading.enumerate()]
    assert len([name for name in names if not name.startswith("Dummy")]) < 20, names


def test_a_signal_to_another_thread_ends_the_server(tmp_path: Path) -> None:
    program = """
import signal, sys, threading, time
from godb_arrow.cli.command import main

def end():
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.01)
    time.sleep(0.5)  # the main thread waits by then, on most machines
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(60)

threading.Thread(target=end, daemon=True).start()
main(["serve", sys.argv[1], "--create", "--insecure", "--port", "0"])
"""
    done = run_python(program, tmp_path / "data", timeout=30)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "saved and closed")


def test_a_server_that_has_ended_leaves_no_thread(engine: StorageEngine) -> None:
    before = {thread.name for thread in threading.enumerate()}
    with FlightServer(engine, token=TOKEN) as server:
        with connect(f"grpc://127.0.0.1:{server.port}", token=TOKEN) as remote:
            remote["people"].to_arrow()
        assert "godb-arrow-idle" in {thread.name for thread in threading.enumerate()}

    def left() -> list[str]:
        names = {thread.name for thread in threading.enumerate()} - before
        return [name for name in names if not name.startswith("Dummy")]

    assert _in_time(lambda: not left()), left()


def test_categories(tmp_path: Path) -> None:
    values = pa.array(["a", "b", None] * 50).dictionary_encode()
    lists = pa.ListArray.from_arrays(pa.array(range(151), pa.int32()), values)
    table = pa.table({"c": values, "l": lists, "n": range(150)})
    with (
        StorageEngine(tmp_path) as engine,
        FlightServer(engine, token=TOKEN) as server,
        connect(f"grpc://127.0.0.1:{server.port}", token=TOKEN) as remote,
    ):
        collection = engine.create_collection("c")
        for part in (table, table.slice(1, 2)):
            collection.insert_many(part)
            engine.save()
        found = remote["c"].to_arrow(["c", "l"])
        assert found["c"].to_pylist() == [*table["c"].to_pylist(), "b", None]
        assert pa.types.is_dictionary(found.schema.field("c").type)
        assert remote["c"].to_arrow(["c"], {"n": 3}).num_rows == 1
        assert remote["c"].to_arrow(["c"], {"n": 999}).num_rows == 0


def test_a_token_for_reading_does_not_upload(engine: StorageEngine) -> None:
    reading = "for reading only, 16"
    with FlightServer(engine, token=TOKEN, read_only_token=reading) as server:
        place = f"grpc://127.0.0.1:{server.port}"
        with connect(place, token=reading) as remote:
            assert len(remote["people"].to_arrow()) == 3
            with pytest.raises(godb_arrow.GodbError, match="reading only"):
                remote.insert_many("people", [{"name": "Eve"}])
        with connect(place, token=TOKEN) as remote:
            remote.insert_many("people", [{"name": "Dan"}])
        with connect(place, token="neither of them, 16"), pytest.raises(godb_arrow.GodbError):
            list(remote)
    assert engine["people"].count({"name": "Eve"}) == 0
    assert engine["people"].count({"name": "Dan"}) == 1


@pytest.mark.parametrize(
    ("token", "reading"),
    [(TOKEN, TOKEN), (None, "for reading only, 16"), (TOKEN, "short"), (f"{TOKEN}\n", None),
     ("sixteen ü characters", None), (f"one {TOKEN}\r\nx: y", None)],
)  # fmt: skip
def test_tokens_that_no_header_has_are_refused(
    engine: StorageEngine, token: str | None, reading: str | None
) -> None:
    with pytest.raises(godb_arrow.InvalidOption):
        FlightServer(engine, token=token, read_only_token=reading)


def test_one_client_does_not_take_all_streams(engine: StorageEngine) -> None:
    slots = Slots(3, 2)
    first = [slots.take(f"ipv4:10.0.0.1:{port}") for port in (1, 2)]
    with pytest.raises(fl.FlightUnavailableError, match="this client"):
        slots.take("ipv4:10.0.0.1:3")
    second = slots.take("ipv6:[::1]:4")
    with pytest.raises(fl.FlightUnavailableError, match="too many streams run"):
        slots.take("ipv4:10.0.0.2:5")
    first[0]()
    first[0]()  # counts once
    slots.take("ipv4:10.0.0.1:6")
    second()
    slots.take("ipv4:10.0.0.2:7")


# --- idle clients, and memory -----------------------------------------------------------------


def _in_time(condition: Any, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def test_a_stream_that_no_client_reads_ends(engine: StorageEngine) -> None:
    engine.create_collection("large").insert_many(pa.table({"t": ["x" * 100] * 400_000}))
    with FlightServer(engine, token=TOKEN, max_streams=1, max_idle=0.3) as server:
        client, options = plain(server)
        ticket = fl.Ticket(b'{"collection": "large"}')
        idle = client.do_get(ticket, options)
        assert len(idle.read_chunk().data)
        assert engine.memory_stats().streams == 1
        assert _in_time(lambda: engine.memory_stats().streams == 0), "its snapshot is released"
        people = client.do_get(fl.Ticket(b'{"collection": "people"}'), options)
        assert people.read_all().num_rows == 3, "its slot is free"
        with pytest.raises(fl.FlightTimedOutError, match="idle"):
            idle.read_all()
        slow = client.do_get(ticket, options)  # A client that reads now and then is not idle.
        rows = 0
        for chunk in slow:
            rows += len(chunk.data)
            time.sleep(0.01)
        assert rows == 400_000
        client.close()


def test_a_stream_that_cannot_be_released_is_logged_and_the_others_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    released: list[str] = []

    def fail() -> None:
        raise OSError("no space left")

    watch = IdleWatch(0.05)
    broken = Idle(fail, lambda: released.append("first"))
    broken.wait()
    watch.add(broken)
    assert _in_time(lambda: released == ["first"])
    other = Idle(lambda: released.append("second"))
    other.wait()
    watch.add(other)
    assert _in_time(lambda: released == ["first", "second"])
    watch.stop()
    assert "could not be released" in caplog.text


def test_an_upload_that_sends_nothing_ends(engine: StorageEngine) -> None:
    with _Watched(engine, token=TOKEN, max_streams=1, max_idle=0.3) as server:
        client, options = plain(server)
        batch = pa.record_batch({"t": ["x" * 1000] * 5000})
        writer, _ = client.do_put(fl.FlightDescriptor.for_path("new"), batch.schema, options)
        writer.write_batch(batch)
        with connect(f"grpc://127.0.0.1:{server.port}", token=TOKEN) as remote:
            assert _in_time(lambda: not server._slots._running), "its slot is free"
            assert remote.insert_many("other", [{"n": 1}]) == 1
        server.ended.clear()
        with pytest.raises((fl.FlightError, OSError), match="idle"):
            writer.write_batch(batch)
            writer.done_writing()
            writer.close()
        assert server.ended.wait(20)
        assert isinstance(server.error, fl.FlightTimedOutError)
        assert "new" not in engine
        client.close()


@pytest.mark.parametrize("verb", ["insert_many", "upsert_many"])
def test_an_upload_waits_on_the_disk(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine counts the documents of an upload, whose batches wait in a temporary file."""
    kinds = []
    insert = getattr(godb_arrow.Collection, verb)

    def noted(collection: Any, data: Any, **options: Any) -> Any:
        kinds.append(type(data))
        return insert(collection, data, **options)

    monkeypatch.setattr(godb_arrow.Collection, verb, noted)
    table = pa.table({"_id": [str(n) for n in range(30_000)], "t": ["x" * 200] * 30_000})
    words = pa.table({"_id": ["a", "b"], "c": pa.array(["x", "y"]).dictionary_encode()})
    with (
        StorageEngine(tmp_path, max_memory="32MiB") as engine,
        FlightServer(engine, token=TOKEN) as server,
        connect(f"grpc://127.0.0.1:{server.port}", token=TOKEN) as remote,
    ):
        assert getattr(remote, verb)("c", table) == 30_000
        assert getattr(remote, verb)("words", words) == 2
        assert issubclass(kinds[0], pa.RecordBatchReader)
        assert kinds[1] is pa.Table
        assert engine["c"].to_arrow().sort_by("_id") == table.sort_by("_id")
        assert [one["c"] for one in engine.find_all("words")] == ["x", "y"]


def test_an_upload_is_a_file_beyond_one_mebibyte() -> None:
    from godb_arrow.connectors.flight.upload import ReceivedBatches

    words = ["a", "b", "c"] * 100
    batches = [
        pa.record_batch({"n": list(range(300)), "w": pa.array(words[at:] + words[:at])
                         .dictionary_encode(), "t": ["x" * 1000] * 300})
        for at in range(9)
    ]  # fmt: skip
    received = ReceivedBatches()
    received.schema = batches[0].schema
    received.add(batches[0])
    assert received.data() == pa.Table.from_batches(batches[:1])
    for batch in batches[1:]:
        received.add(batch)
    expected = pa.Table.from_batches(batches).to_pydict()
    for _ in range(2):
        data = received.data()
        assert isinstance(data, pa.RecordBatchReader)
        assert data.read_all().to_pydict() == expected
    received.close()
    received.close()


@pytest.mark.parametrize("value", [0, -1, "soon", None, True])
def test_a_time_that_makes_no_sense_is_refused(value: Any, engine: StorageEngine) -> None:
    with pytest.raises(godb_arrow.InvalidOption, match="max_idle"):
        FlightServer(engine, token=TOKEN, max_idle=value)
