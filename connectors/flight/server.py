"""Server for the collections of an engine by Arrow Flight.

A *ticket*, and the command of an upload, is JSON::

    {"collection": "users", "columns": ["name", "user.geo.cc"], "filter": {"city": "Berlin"}}

``filter`` has a value for each field, or a list for any of several values. Alternatively,
``substrait`` has a serialized expression over ``fields``. Any Flight client can send tickets, with
the token in the header ``authorization: Bearer …``.

The command of an upload has ``collection``, and optionally ``upsert``, ``id_column`` and ``end``.
With ``"end": true`` the last message of the upload has no record batch, but metadata in JSON such
as ``{"rows": 1000}``. An upload without this message, or with another number of rows, is
incomplete and stores nothing. Without ``end`` the server only detects that a client was killed or
cancelled the call. It cannot detect a Python process that ends early, which closes its stream.

A stream or upload whose client does nothing for a time is ended, and releases all that it has.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self

import pyarrow as pa
import pyarrow.flight as fl

from godb_arrow.connectors.etl.files import documents_of
from godb_arrow.connectors.flight.access import Slots, checked_tokens, may_write
from godb_arrow.connectors.flight.arrow_messages import Upload, messages_of
from godb_arrow.connectors.flight.errors import sent_error
from godb_arrow.connectors.flight.idle import Idle, IdleWatch
from godb_arrow.connectors.flight.service import Call, Service, server_credentials
from godb_arrow.connectors.flight.ticket import filter_of_request, parsed, request_of
from godb_arrow.connectors.flight.upload import ReceivedBatches, check_batch, unpacked_bytes
from godb_arrow.connectors.flight.wire import action_type_bytes, put_result_bytes
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.errors import (
    AccessDenied,
    CollectionExists,
    CollectionNotFound,
    EngineClosed,
    FormatError,
    GodbError,
    InvalidOption,
    LimitExceeded,
    StorageError,
)
from godb_arrow.options import parse_duration
from godb_arrow.query.projection import project
from godb_arrow.schema import ID_FIELD

__all__ = ["FlightServer"]


logger = logging.getLogger(__name__)
_MAX_END_BYTES = 1 << 10  # of the message that ends an upload


# --- server -----------------------------------------------------------------------------------


class FlightServer:
    """Server of an engine's collections.

    Parameters
    ----------
    engine : StorageEngine
        Engine to serve. It stays open when the server is closed.
    host : str
        Address to listen on.
    port : int
        Port to listen on. With 0 a free port is chosen, which :attr:`port` returns.
    token : str or None
        Token that every request must have, of at least 16 characters. None, for no token, is
        possible on a loopback address only.
    read_only_token : str or None
        Second token, for clients that may read and not upload. Default: none.
    tls : tuple of bytes, optional
        Certificate chain and private key, in PEM.
    client_authority : bytes, optional
        Certificates in PEM that sign the certificates of clients.
    max_streams : int
        Maximum number of streams and uploads at the same time. Further calls are refused.
    max_streams_per_client : int or None
        Maximum number of them for one address of clients, default no limit of its own.
    max_message_bytes : int
        Maximum size of a record batch in bytes, for streams and uploads.
    max_upload_bytes : int
        Maximum size of an upload in bytes, which is inserted as a whole. It waits in a temporary
        file until it is complete.
    max_idle : float, timedelta or str
        Time that a stream or upload waits for its client, default 5 minutes. Then it ends.

    Raises
    ------
    InvalidOption
        The token is missing or short, or the port is in use.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
    >>> _ = engine.create_collection("users").insert_many([{"name": "Ada", "age": 36}])
    >>> from godb_arrow.connectors.flight import connect
    >>> with FlightServer(engine, token="a secret of sixteen") as server:
    ...     with connect(f"grpc://127.0.0.1:{server.port}", token="a secret of sixteen") as remote:
    ...         remote["users"].to_arrow(["age"]).to_pydict()
    {'age': [36]}
    >>> engine.close()
    """

    def __init__(
        self,
        engine: StorageEngine,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        token: str | None,
        read_only_token: str | None = None,
        tls: tuple[bytes, bytes] | None = None,
        client_authority: bytes | None = None,
        max_streams: int = 16,
        max_streams_per_client: int | None = None,
        max_message_bytes: int = 64 << 20,
        max_upload_bytes: int = 1 << 30,
        max_idle: float | dt.timedelta | str = "5min",
    ) -> None:
        if token is None and not _is_loopback(host):
            raise InvalidOption(
                f"without a token, any client could read and write by {host}",
                advice="give a token, or listen on a loopback address",
            )
        tokens = checked_tokens(token, read_only_token)
        if token is not None and tls is None and not _is_loopback(host):
            logger.warning("the token and the data are sent unencrypted by %s; give tls", host)
        self._engine = engine
        self._slots = Slots(max_streams, max_streams_per_client)
        self._max_message = max_message_bytes
        self._max_upload = max_upload_bytes
        self._watch = IdleWatch(parse_duration("max_idle", max_idle))
        self._tokens = tokens
        shown = f"[{host}]" if ":" in host else host
        self._service = Service(
            self,
            f"{shown}:{port}",
            None if tls is None else server_credentials(tls, client_authority),
            max_message_bytes=max_message_bytes,
            max_streams=max_streams,
        )

    @property
    def port(self) -> int:
        """Port that the server listens on."""
        return self._service.port

    def wait(self) -> None:
        """Wait until the server is shut down."""
        self._service.wait()

    serve = wait

    def shutdown(self, grace: float | None = None) -> None:
        """Stop the server after its open calls.

        Parameters
        ----------
        grace : float or None
            Time in seconds after which open calls are cancelled. Default: never.
        """
        self._service.stop(grace)
        self._watch.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def check_access(self, call: Call) -> None:
        """Check the token of a call, and set what the client may do."""
        call.may_write = may_write(call.header("authorization"), self._tokens)

    def list_flights(self, call: Call, criteria: bytes) -> Iterator[fl.FlightInfo]:
        """Yield the schema and size of each collection."""
        with _flight_errors():
            for name in self._engine.collections():
                yield self._info(name, {"collection": name})

    def get_flight_info(self, call: Call, descriptor: fl.FlightDescriptor) -> fl.FlightInfo:
        """Return the schema and size of a collection, or of the result of a ticket."""
        with _flight_errors():
            wanted = request_of(descriptor)
            return self._info(wanted["collection"], wanted)

    def get_schema(self, call: Call, descriptor: fl.FlightDescriptor) -> fl.SchemaResult:
        """Return the schema of a collection."""
        with _flight_errors():
            name = request_of(descriptor)["collection"]
            return fl.SchemaResult(self._engine[name].schema)

    def do_exchange(self, call: Call, messages: Iterator[bytes]) -> Iterator[bytes]:
        """Refuse, since there is nothing to exchange."""
        raise fl.FlightServerError("there is no exchange; use do_get and do_put")

    def _info(self, name: str, wanted: dict[str, Any]) -> fl.FlightInfo:
        collection = self._engine[name]
        schema = collection.schema
        if wanted.get("columns") is not None:
            schema = project(schema, wanted["columns"], None).schema
        whole = set(wanted) <= {"collection"}
        endpoint = fl.FlightEndpoint(json.dumps(wanted).encode(), [])
        return fl.FlightInfo(
            schema,
            fl.FlightDescriptor.for_path(name),
            [endpoint],
            len(collection) if whole else -1,
            collection.info().disk_bytes if whole else -1,
        )

    def do_get(self, call: Call, ticket: fl.Ticket) -> Iterator[bytes]:
        """Yield the result of a ticket, from a snapshot at the time of the call."""
        with _flight_errors():
            wanted = parsed(ticket.ticket)
            slot = self._slots.take(call.peer)
            try:
                collection = self._engine[wanted["collection"]]
                stream = collection.stream(
                    wanted.get("columns"),
                    filter_of_request(wanted),
                    batch_bytes=self._max_message // 4,
                )
                idle = Idle(slot, stream.close, end=partial(self._service.end_idle, call))
                self._watch.add(idle)
                for message in messages_of(stream.schema, self._bounded(stream)):
                    idle.wait()
                    yield message
                    idle.go_on()
            finally:
                slot()

    def _bounded(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Divide batches that are larger than a message may be."""
        for batch in batches:
            parts = max(1, -(-batch.nbytes // self._max_message))
            rows = max(1, -(-batch.num_rows // parts))
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows)

    def do_put(self, call: Call, messages: Iterator[bytes]) -> bytes:
        """Insert all documents of an upload or none; create the collection if it is missing.

        An upload that is incomplete, or whose client was killed or cancelled it, stores nothing.
        """
        with _flight_errors():
            if not call.may_write:
                raise fl.FlightUnauthorizedError("the token is for reading only")
            slot = self._slots.take(call.peer)
            received = ReceivedBatches()
            try:
                idle = Idle(slot, received.close, end=partial(self._service.end_idle, call))
                self._watch.add(idle)
                upload = Upload(_waited_for(messages, idle), self._max_message)
                wanted = request_of(upload.descriptor)
                # The upload is checked before the collection is created.
                self._receive(upload, received, must_end=bool(wanted.get("end")))
                if not wanted.get("end") and call.was_cancelled():
                    raise fl.FlightCancelledError("the client disconnected; nothing was stored")
                count = self._store(wanted, received)
                return put_result_bytes(json.dumps({"documents": count}).encode())
            finally:
                slot()
                received.close()

    def _store(self, wanted: dict[str, Any], received: ReceivedBatches) -> int:
        """Insert a whole upload, and return its number of documents."""
        name = wanted["collection"]
        while True:
            is_new = name not in self._engine
            if is_new:
                try:
                    self._engine.create_collection(name)
                except CollectionExists:
                    is_new = False  # Another upload created the collection first.
            collection = self._engine[name]
            put = collection.upsert_many if wanted.get("upsert") else collection.insert_many
            try:
                data: Any = received.data()
                if wanted.get("generate_ids"):
                    data = _without_null_ids(data)
                return len(put(data, id_column=wanted.get("id_column")))
            except CollectionNotFound:
                if is_new:
                    raise
                # The other upload failed and dropped its collection, so this one creates it.
            except BaseException:
                if is_new:
                    with suppress(CollectionNotFound):
                        self._engine.drop_collection(name, if_empty=True)
                raise

    def _receive(self, upload: Upload, received: ReceivedBatches, *, must_end: bool) -> None:
        """Receive the record batches of an upload, and check that it is complete."""
        received.schema = upload.schema
        total = rows = 0
        end: Any = None
        for batch, app_metadata in upload:
            if batch is None:
                end = _parsed_end(app_metadata)
                continue
            rows += batch.num_rows
            check_batch(batch)
            size = unpacked_bytes(batch)
            total += size
            if size > self._max_message:
                raise LimitExceeded(
                    f"a record batch has {size} bytes, more than {self._max_message}",
                    advice="send smaller batches",
                )
            if total > self._max_upload:
                raise LimitExceeded(
                    f"the upload has more than {self._max_upload} bytes",
                    advice="send it in several uploads",
                )
            received.add(batch)
        if must_end and end != rows:
            raise InvalidOption(
                f"the upload ended after {rows} rows and is incomplete; nothing was stored",
                advice="send it again",
            )

    def do_action(self, call: Call, action: fl.Action) -> Iterator[bytes]:
        """Yield for ``health`` whether the server works, and how many streams run."""
        if action.type != "health":
            raise fl.FlightServerError(f"the action {action.type!r} is unknown; use health")
        with _flight_errors():
            memory = self._engine.memory_stats()
            answer = {
                "status": "closed" if self._engine.closed else "ok",
                "collections": memory.collections,
                "streams": memory.streams,
                "memory_mb": round(memory.alloc_mb, 1),
            }
            yield json.dumps(answer).encode()

    def list_actions(self, call: Call) -> Iterator[bytes]:
        """Yield the only action."""
        yield action_type_bytes("health", "State of the server, as JSON.")


def _waited_for(messages: Iterator[bytes], idle: Idle) -> Iterator[bytes]:
    """Yield the messages of a client, and note how long it takes to send them."""
    while True:
        idle.wait()
        try:
            message = next(messages, None)
        finally:
            idle.go_on()
        if message is None:
            return
        yield message


def _without_null_ids(data: pa.Table | pa.RecordBatchReader) -> Iterator[dict[str, Any]]:
    """Yield rows as documents, without the field ``_id`` where it is null."""
    reader = data.to_reader() if isinstance(data, pa.Table) else data
    for document in documents_of(reader):
        if document.get(ID_FIELD) is None:
            document.pop(ID_FIELD, None)
        yield document


def _parsed_end(metadata: bytes) -> Any:
    """Return the number of rows in the message that ends an upload, or None for others."""
    if len(metadata) > _MAX_END_BYTES:
        return None
    try:
        end = json.loads(metadata)
    except (ValueError, RecursionError):
        return None
    return end.get("rows") if isinstance(end, dict) else None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _flight_errors() -> Iterator[None]:
    """Convert errors to Flight's, without paths, tracebacks or other details of the server.

    Only errors of Flight's own are sent without the traceback of Python. Their extra information is
    the name of our error, with its attributes.
    """
    try:
        yield
    except fl.FlightError:
        raise
    except AccessDenied as error:
        raise fl.FlightUnauthorizedError(f"{error.message}; {error.advice}") from None
    except (StorageError, FormatError, EngineClosed):  # The caller cannot help.
        logger.exception("a request failed")
        raise fl.FlightServerError("the storage failed; see the server's log") from None
    except GodbError as error:
        raise sent_error(error) from None
    except Exception:
        logger.exception("a request failed")
        raise fl.FlightServerError("the request failed; see the server's log") from None
