"""Messages of Flight: what Arrow would unpack is known before it does, and nothing changes."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import forge
from support.arrow_types import columns
from support.flight_messages import descriptor_bytes, upload_messages
from support.settings import for_seeds

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.connectors.flight.arrow_messages import Upload, messages_of
from godb_arrow.connectors.flight.client import connect
from godb_arrow.connectors.flight.server import FlightServer
from godb_arrow.connectors.flight.service import Call
from godb_arrow.connectors.flight.wire import FlightData, flight_data_bytes
from godb_arrow.ipc_header import read_ipc_header, unpacked_body_bytes

TOKEN = "a token for the tests"
MEBIBYTE = 1 << 20
PUT = "/arrow.flight.protocol.FlightService/DoPut"
HEADERS = [("authorization", f"Bearer {TOKEN}")]
BYTES_HEADERS = [(b"authorization", f"Bearer {TOKEN}".encode())]


def arrow_reads(array: pa.Array) -> bool:
    """Return whether Arrow reads the type, which dictionaries of extension types are not."""
    batch = pa.record_batch({"a": array})
    try:
        return bool(pa.ipc.open_stream(forge.ipc_stream(batch)).schema == batch.schema)
    except pa.ArrowInvalid:
        return False


ARRAYS = [(name, array) for name, array in columns() if arrow_reads(array)]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StorageEngine]:
    with StorageEngine(tmp_path / "data") as engine:
        yield engine


def received(messages: list[bytes], limit: int = MEBIBYTE) -> list[pa.RecordBatch]:
    return [chunk.batch for chunk in Upload(iter(messages), limit) if chunk.batch is not None]


# --- messages ---------------------------------------------------------------------------------


@given(st.binary(), st.binary(min_size=1))
def test_a_message_is_read_as_it_was_written(body: bytes, header: bytes) -> None:
    found = FlightData.parse(descriptor_bytes("c") + flight_data_bytes(header, body))
    assert (found.header, found.body) == (header, body)
    assert fl.FlightDescriptor.deserialize(found.descriptor).path == [b"c"]


@given(st.binary(max_size=40))
def test_bytes_that_are_no_message_are_a_value_error(message: bytes) -> None:
    try:
        found = FlightData.parse(message)
    except ValueError:
        return
    assert len(found.header) + len(found.body) + len(found.app_metadata) <= len(message)


def test_unknown_fields_are_skipped() -> None:
    known = flight_data_bytes(b"header", b"body")
    others = (b"\x20\xff\x01", b"\x29" + b"x" * 8, b"\x35" + b"y" * 4, b"\x3a\x02zz")
    for other in others:
        found = FlightData.parse(other + known + other)
        assert (found.header, found.body) == (b"header", b"body")
    for bad in (b"\x0b", b"\xff" * 11, b"\x12\x05abc", b"\x12", b"\x29abc"):
        with pytest.raises(ValueError, match=r"message|wire type"):
            FlightData.parse(known + bad)


# --- record batches ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "array"), ARRAYS, ids=[name for name, _ in ARRAYS])
def test_every_type_is_sent_and_received(name: str, array: pa.Array) -> None:
    """Both ways, also from Arrow's own messages, compressed and not."""
    batch = pa.record_batch({"a": array, "n": list(range(len(array)))})
    parts = [batch, batch.slice(1), batch.slice(0, 0), batch]
    sent = list(messages_of(batch.schema, iter(parts)))
    sent[0] = descriptor_bytes("c") + sent[0]
    assert received(sent) == parts
    for compression in (None, "lz4", "zstd"):
        options = pa.ipc.IpcWriteOptions(compression=compression)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
            writer.write_batch(batch)
        messages = upload_messages(sink.getvalue().to_pybytes())
        assert received(messages) == [batch], compression
        # What is declared is at least what Arrow allocates.
        limit = sum(
            unpacked_body_bytes(read_ipc_header(data.header), data.body)
            for data in map(FlightData.parse, messages)
        )
        (unpacked,) = received(messages, limit)
        assert unpacked.get_total_buffer_size() <= limit
        with pytest.raises(godb_arrow.LimitExceeded):
            received(messages, limit - 1)


def test_a_compressed_message_is_refused_before_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    zeros = pa.record_batch({"n": np.zeros(MEBIBYTE, np.int64)})
    unpacked: list[int] = []

    def noted(upload: Upload) -> pa.RecordBatch:
        unpacked.append(1)
        raise AssertionError("Arrow has unpacked it")

    monkeypatch.setattr(Upload, "_unpacked", noted)
    for compression in ("lz4", "zstd"):
        messages = upload_messages(forge.ipc_stream(zeros, compression))
        assert sum(map(len, messages)) < 100_000
        with pytest.raises(godb_arrow.LimitExceeded, match="smaller batches"):
            received(messages, 8 * MEBIBYTE - 1)
    words = pa.array(["x" * MEBIBYTE] * 3).dictionary_encode()
    many = pa.record_batch({"w": words, "v": pa.array(["y" * MEBIBYTE]).dictionary_encode().take(
        [0, 0, 0])})  # fmt: skip
    with pytest.raises(godb_arrow.LimitExceeded):
        received(upload_messages(forge.ipc_stream(many, "zstd")), 2 * MEBIBYTE - 1)
    assert not unpacked


def test_lies_of_a_header_are_refused() -> None:
    batch = pa.record_batch({"n": [1] * 1000, "m": [2] * 1000})
    data = FlightData.parse(upload_messages(forge.ipc_stream(batch, "lz4"))[1])
    header = read_ipc_header(data.header)
    body = bytearray(data.body)
    assert unpacked_body_bytes(header, body) == 16_000
    for length in (len(body) - 1, len(body) + 1):
        with pytest.raises(ValueError, match="declares"):
            unpacked_body_bytes(header._replace(body_bytes=length), body)
    offset, length = next(buffer for buffer in header.buffers if buffer[1])
    for buffer in ((offset, len(body) + 1), (-8, length), (1 << 62, 1 << 62), (offset, 7)):
        with pytest.raises(ValueError, match="leaves"):
            unpacked_body_bytes(header._replace(buffers=[buffer]), body)
    body[offset : offset + 8] = (-2).to_bytes(8, "little", signed=True)
    with pytest.raises(ValueError, match="negative"):
        unpacked_body_bytes(header, body)
    count = data.header.index(len(header.buffers).to_bytes(4, "little") + bytes(8))
    many = bytearray(data.header)
    many[count : count + 4] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(ValueError, match="a vector leaves"):
        read_ipc_header(bytes(many))
    for end in range(len(data.header)):
        try:
            read_ipc_header(data.header[:end])
        except ValueError:
            continue


def test_the_former_compression_counts() -> None:
    """Version 4 of the format had no field for it, and Arrow still reads it."""
    header = b"\x10\0\0\0" + bytes(100)
    data = FlightData.parse(upload_messages(forge.ipc_stream(pa.record_batch({"n": [1, 2]})))[1])
    assert not read_ipc_header(data.header).is_compressed
    former = read_ipc_header(data.header + b"ARROW:experimental_compression" + header)
    assert former.is_compressed
    assert len(former.buffers) == 2
    declared = (1 << 40).to_bytes(8, "little")
    assert unpacked_body_bytes(former, declared + bytes(data.body[8:])) == 1 << 40


def test_dictionaries_without_a_batch_do_not_collect() -> None:
    words = pa.record_batch({"w": pa.array(["x" * 1000]).dictionary_encode()})
    first, dictionary, batch = upload_messages(forge.ipc_stream(words))
    assert len(received([first, dictionary, batch], 4000)) == 1
    with pytest.raises(godb_arrow.LimitExceeded):
        received([first, *[dictionary] * 5, batch], 4000)


def test_messages_in_a_wrong_order_are_refused() -> None:
    batch = pa.record_batch({"w": pa.array(["x"]).dictionary_encode(), "n": [1]})
    first, dictionary, last = upload_messages(forge.ipc_stream(batch))
    schema = first[len(descriptor_bytes("c")) :]
    wrong = ([], [b""], [schema], [descriptor_bytes("c")], [first, last], [first, schema],
             [first, dictionary, dictionary[:-9]], [dictionary],
             [first, dictionary, last, schema], [b"\x0a\x01\xff" + schema])  # fmt: skip
    for messages in wrong:
        with pytest.raises(godb_arrow.InvalidOption, match="the upload is not valid"):
            received(messages)
    text = [first, b"\x1a\x02{}", dictionary, b"\x1a\x02{}", last, b"\x1a\x02{}"]
    assert received(text) == [batch], "metadata may stand anywhere"


@for_seeds(75, long=20_000)
def test_changed_messages_are_refused_or_stay_within_the_limit(seed: int) -> None:
    rng = random.Random(seed)
    _, array = ARRAYS[seed % len(ARRAYS)]
    batch = pa.record_batch({"a": array, "t": ["some text"] * len(array)})
    compression = rng.choice([None, "lz4", "zstd"])
    messages = [bytearray(one) for one in upload_messages(forge.ipc_stream(batch, compression))]
    for _ in range(40):
        changed = [bytearray(one) for one in messages]
        for _ in range(rng.choice([1, 1, 2, 5])):
            one = rng.choice(changed)
            at = rng.randrange(len(one))
            number = rng.choice([0, 1, 255, 1 << 20, (1 << 31) - 1, (1 << 40) + 1, (1 << 64) - 1])
            width = rng.choice([1, 1, 2, 4, 8])
            one[at : at + width] = number.to_bytes(8, "little")[:width]
        try:
            for found in received([bytes(one) for one in changed], 100_000):
                assert found.get_total_buffer_size() <= 100_000 + len(b"".join(changed))
        except godb_arrow.GodbError:
            continue


# --- calls -------------------------------------------------------------------------------------


class _Context:
    """Context whose connection ends a moment after the messages."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self._seconds is None:
            return False
        threading.Timer(self._seconds, callback).start()
        return True


@pytest.mark.parametrize(("seconds", "cancelled"), [(None, True), (0.01, True), (1.0, False)])
def test_the_end_of_a_connection_is_known_a_moment_later(
    seconds: float | None, cancelled: bool
) -> None:
    context: Any = _Context(seconds)
    assert Call(context).was_cancelled() is cancelled


# --- server -----------------------------------------------------------------------------------


_SERVER = """
import sys, tempfile
import godb_arrow
from godb_arrow.connectors.flight import FlightServer

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if "VmHWM" in line)

with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    server = FlightServer(engine, token=sys.argv[1], max_message_bytes=4 << 20)
    before = peak()
    print(server.port, flush=True)
    sys.stdin.readline()
    print(peak() - before, len(engine), flush=True)
    server.shutdown(1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of /proc")
def test_no_compression_makes_the_server_allocate() -> None:
    """Neither that of Arrow, nor that of gRPC."""
    zeros = pa.record_batch({"n": np.zeros(32 * MEBIBYTE, np.int64)})
    arrow = upload_messages(forge.ipc_stream(zeros, "zstd"))
    plain = [descriptor_bytes("c"), flight_data_bytes(b"", bytes(256 * MEBIBYTE))]
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, TOKEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for messages, compression, expected in (
            (arrow, grpc.Compression.NoCompression, "smaller batches"),
            (plain, grpc.Compression.Gzip, "gzip"),
            (plain, grpc.Compression.Deflate, "deflate"),
            (plain, grpc.Compression.NoCompression, "larger than max"),
        ):
            with (
                grpc.insecure_channel(f"127.0.0.1:{port}", compression=compression) as channel,
                pytest.raises(grpc.RpcError, match=expected),
            ):
                list(channel.stream_stream(PUT)(iter(messages), metadata=HEADERS))
        process.stdin.write("\n")
        process.stdin.flush()
        grown, collections = map(int, process.stdout.readline().split())
    assert collections == 0
    assert grown < 100_000, f"{grown} KiB"


def test_a_message_above_the_limit_is_the_same_error_at_the_client(engine: StorageEngine) -> None:
    large = pa.table({"t": ["x" * 300_000] * 20})
    with (
        FlightServer(engine, token=TOKEN, max_message_bytes=200_000) as server,
        connect(f"grpc://127.0.0.1:{server.port}", token=TOKEN) as remote,
    ):
        for table in (large, large.slice(0, 1)):
            with pytest.raises(godb_arrow.LimitExceeded, match="smaller batches"):
                remote.insert_many("c", table)
    assert "c" not in engine


@pytest.mark.parametrize("request_bytes", [b"\xff", b"\x0a\xff", b"\x12\x05a"])
@pytest.mark.parametrize(
    "method",
    [
        "ListFlights",
        "GetFlightInfo",
        "GetSchema",
        "DoGet",
        "DoPut",
        "DoAction",
        "DoExchange",
        "Handshake",
        "PollFlightInfo",
    ],
)
def test_requests_that_are_no_messages_are_refused(
    engine: StorageEngine, method: str, request_bytes: bytes
) -> None:
    with (
        FlightServer(engine, token=TOKEN) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        path = f"/arrow.flight.protocol.FlightService/{method}"
        try:
            answers = list(channel.stream_stream(path)(iter([request_bytes]), metadata=HEADERS))
        except grpc.RpcError as error:
            assert "Traceback" not in str(error)
            codes = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED)
            assert error.code() in codes, error
        else:
            assert (method, answers) == ("ListFlights", [])
        with pytest.raises(grpc.RpcError) as refused:
            list(channel.stream_stream(path)(iter([request_bytes])))
        assert refused.value.code() in (grpc.StatusCode.UNAUTHENTICATED,
                                        grpc.StatusCode.UNIMPLEMENTED)  # fmt: skip


def large(engine: StorageEngine) -> None:
    engine.create_collection("large").insert_many(pa.table({"t": ["x" * 100] * 400_000}))


def test_clients_that_never_read_again_do_not_keep_the_threads(engine: StorageEngine) -> None:
    large(engine)
    with FlightServer(engine, token=TOKEN, max_streams=1, max_idle=0.1) as server:
        place = f"grpc://127.0.0.1:{server.port}"
        with connect(place, token=TOKEN) as remote, contextlib.ExitStack() as open_clients:
            streams = []
            for _ in range(12):  # more than there are threads
                options = fl.FlightCallOptions(headers=BYTES_HEADERS)
                client = open_clients.enter_context(fl.connect(place))
                stream = client.do_get(fl.Ticket(b'{"collection": "large"}'), options)
                assert len(stream.read_chunk().data)
                streams.append(stream)  # otherwise its end cancels the call
                for _ in range(200):
                    if not server._slots._running:
                        break
                    time.sleep(0.05)
            assert len(remote["large"]) == 400_000


def test_the_server_stops_although_a_client_never_reads_again(engine: StorageEngine) -> None:
    large(engine)
    options = fl.FlightCallOptions(headers=BYTES_HEADERS)
    server = FlightServer(engine, token=TOKEN, max_idle=0.1)
    with fl.connect(f"grpc://127.0.0.1:{server.port}") as client:
        stream = client.do_get(fl.Ticket(b'{"collection": "large"}'), options)
        assert len(stream.read_chunk().data)
        server.shutdown()
        assert engine.memory_stats().streams == 0


def test_a_grace_time_ends_streams(engine: StorageEngine) -> None:
    large(engine)
    options = fl.FlightCallOptions(headers=BYTES_HEADERS)
    server = FlightServer(engine, token=TOKEN)
    with fl.connect(f"grpc://127.0.0.1:{server.port}") as client:
        stream = client.do_get(fl.Ticket(b'{"collection": "large"}'), options)
        assert len(stream.read_chunk().data)
        server.shutdown(0.1)
        assert engine.memory_stats().streams == 0
        with pytest.raises((fl.FlightError, OSError)):
            stream.read_all()


_UNREAD = """
import tempfile
import pyarrow as pa, pyarrow.flight as fl
import godb_arrow
from godb_arrow.connectors.flight import FlightServer
engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
engine.create_collection("large").insert_many(pa.table({"t": ["x" * 100] * 400_000}))
server = FlightServer(engine, token=None)
client = fl.connect(f"grpc://127.0.0.1:{server.port}")
stream = client.do_get(fl.Ticket(b'{"collection": "large"}'))
print(len(stream.read_chunk().data) > 0)
"""


def test_a_process_with_an_open_stream_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _UNREAD], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_an_upload_from_a_client_of_another_language(engine: StorageEngine) -> None:
    """The descriptor alone first, then the schema, and metadata with a record batch."""
    batch = pa.record_batch({"_id": ["a", "b"], "n": [1, 2]})
    first, second = upload_messages(forge.ipc_stream(batch))
    start = descriptor_bytes("c")
    messages = [start, first[len(start) :], second + b'\x1a\x09{"rows":2']
    with (
        FlightServer(engine, token=TOKEN) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        (answer,) = channel.stream_stream(PUT)(iter(messages), metadata=HEADERS)
    assert json.loads(answer[2:]) == {"documents": 2}
    assert engine.find_all("c") == batch.to_pylist()


def test_without_grpcio_the_extra_is_named_and_clients_work() -> None:
    done = subprocess.run(
        [sys.executable, "-c", """
import sys
sys.modules["grpc"] = None
import godb_arrow
from godb_arrow.connectors.flight import connect
connect("grpc://127.0.0.1:1").close()
try:
    from godb_arrow.connectors.flight import FlightServer
except godb_arrow.MissingDependency as error:
    print(error)
"""], capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "godb-arrow[flight]" in done.stdout, done.stderr
