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
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import pyarrow as pa
import pyarrow.flight as fl

from godb_arrow.connectors.etl.files import documents_of
from godb_arrow.connectors.flight.access import (
    AUTHENTICATION,
    Slots,
    TokenCheck,
    check_may_write,
    checked_tokens,
)
from godb_arrow.connectors.flight.errors import SchemaRefused, sent_error
from godb_arrow.connectors.flight.idle import Idle, IdleWatch
from godb_arrow.connectors.flight.ticket import filter_of_request, parsed, request_of
from godb_arrow.connectors.flight.upload import ReceivedBatches, check_batch, unpacked_bytes
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
from godb_arrow.snapshots.streaming import BatchStream

__all__ = ["FlightServer"]


logger = logging.getLogger(__name__)
_MAX_END_BYTES = 1 << 10  # of the message that ends an upload


# --- server -----------------------------------------------------------------------------------


class FlightServer(fl.FlightServerBase):  # type: ignore[misc]
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
        scheme = "grpc" if tls is None else "grpc+tls"
        shown = f"[{host}]" if ":" in host else host
        try:
            super().__init__(
                f"{scheme}://{shown}:{port}",
                middleware={AUTHENTICATION: TokenCheck(tokens)} if tokens else {},
                tls_certificates=None if tls is None else [tls],
                verify_client=client_authority is not None,
                root_certificates=client_authority,
            )
        except (pa.ArrowException, OSError) as error:
            raise InvalidOption(
                f"cannot listen on {host}:{port}: {error}", advice="choose another port"
            ) from error

    def shutdown(self) -> None:
        """Stop the server after its open calls."""
        super().shutdown()
        self._watch.stop()

    def __exit__(self, *_: object) -> None:
        self.shutdown()  # pyarrow would call its own

    def list_flights(
        self, context: fl.ServerCallContext, criteria: bytes
    ) -> Iterator[fl.FlightInfo]:
        """Yield the schema and size of each collection."""
        with _flight_errors():
            for name in self._engine.collections():
                yield self._info(name, {"collection": name})

    def get_flight_info(
        self, context: fl.ServerCallContext, descriptor: fl.FlightDescriptor
    ) -> fl.FlightInfo:
        """Return the schema and size of a collection, or of the result of a ticket."""
        with _flight_errors():
            wanted = request_of(descriptor)
            return self._info(wanted["collection"], wanted)

    def get_schema(
        self, context: fl.ServerCallContext, descriptor: fl.FlightDescriptor
    ) -> fl.SchemaResult:
        """Return the schema of a collection."""
        try:
            with _flight_errors():
                name = request_of(descriptor)["collection"]
                return fl.SchemaResult(self._engine[name].schema)
        except fl.FlightError as error:
            raise SchemaRefused(str(error)) from None

    def do_exchange(
        self,
        context: fl.ServerCallContext,
        descriptor: fl.FlightDescriptor,
        reader: fl.MetadataRecordBatchReader,
        writer: fl.MetadataRecordBatchWriter,
    ) -> None:
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

    def do_get(self, context: fl.ServerCallContext, ticket: fl.Ticket) -> fl.FlightDataStream:
        """Stream the result of a ticket, from a snapshot at the time of the call."""
        with _flight_errors():
            wanted = parsed(ticket.ticket)
            slot = self._slots.take(context.peer())
            try:
                collection = self._engine[wanted["collection"]]
                stream = collection.stream(
                    wanted.get("columns"),
                    filter_of_request(wanted),
                    batch_bytes=self._max_message // 4,
                )
                batches = _Guarded(stream, self._bounded(stream), slot)
                self._watch.add(batches.idle)
                if any(map(_has_dictionary, stream.schema.types)):
                    # A stream of a generator sends the dictionaries of tables only.
                    tables = map(pa.Table.from_batches, ([batch] for batch in batches))
                    return fl.GeneratorStream(stream.schema, tables)
                return fl.GeneratorStream(stream.schema, batches)
            except BaseException:
                slot()
                raise

    def _bounded(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Divide batches that are larger than a message may be."""
        for batch in batches:
            parts = max(1, -(-batch.nbytes // self._max_message))
            rows = max(1, -(-batch.num_rows // parts))
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows)

    def do_put(
        self,
        context: fl.ServerCallContext,
        descriptor: fl.FlightDescriptor,
        reader: fl.MetadataRecordBatchReader,
        writer: fl.FlightMetadataWriter,
    ) -> None:
        """Insert all documents of an upload or none; create the collection if it is missing.

        An upload that is incomplete, or whose client was killed or cancelled it, stores nothing.
        """
        with _flight_errors():
            check_may_write(context)
            wanted = request_of(descriptor)
            slot = self._slots.take(context.peer())
            received = ReceivedBatches(reader.schema)
            try:
                idle = Idle(slot, received.close)
                self._watch.add(idle)
                # The upload is checked before the collection is created.
                self._receive(reader, received, idle, must_end=bool(wanted.get("end")))
                if context.is_cancelled():
                    raise fl.FlightCancelledError("the client disconnected; nothing was stored")
                count = self._store(wanted, received)
                writer.write(json.dumps({"documents": count}).encode())
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

    def _receive(
        self,
        reader: fl.MetadataRecordBatchReader,
        received: ReceivedBatches,
        idle: Idle,
        *,
        must_end: bool,
    ) -> None:
        """Receive the record batches of an upload, and check that it is complete."""
        total = rows = 0
        end: Any = None
        for chunk in _waited_for(reader, idle):
            if chunk.data is None:
                end = _parsed_end(chunk.app_metadata)
                continue
            rows += chunk.data.num_rows
            check_batch(chunk.data)
            size = unpacked_bytes(chunk.data)
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
            received.add(chunk.data)
        if must_end and end != rows:
            raise InvalidOption(
                f"the upload ended after {rows} rows and is incomplete; nothing was stored",
                advice="send it again",
            )

    def do_action(self, context: fl.ServerCallContext, action: fl.Action) -> Iterator[bytes]:
        """Return for ``health`` whether the server works, and how many streams run."""
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

    def list_actions(self, context: fl.ServerCallContext) -> list[tuple[str, str]]:
        """Return the only action."""
        return [("health", "State of the server, as JSON.")]


def _waited_for(chunks: Iterator[Any], idle: Idle) -> Iterator[Any]:
    """Yield the messages of a client, and note how long it takes to send them."""
    chunks = iter(chunks)
    while True:
        idle.wait()
        try:
            chunk = next(chunks, None)
        finally:
            idle.go_on()
        if chunk is None:
            return
        yield chunk


def _without_null_ids(data: pa.Table | pa.RecordBatchReader) -> Iterator[dict[str, Any]]:
    """Yield rows as documents, without the field ``_id`` where it is null."""
    reader = data.to_reader() if isinstance(data, pa.Table) else data
    for document in documents_of(reader):
        if document.get(ID_FIELD) is None:
            document.pop(ID_FIELD, None)
        yield document


def _has_dictionary(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_dictionary(kind.storage_type)
    children = (kind.field(index).type for index in range(kind.num_fields))
    return pa.types.is_dictionary(kind) or any(map(_has_dictionary, children))


class _Guarded:
    """Batches that release their slot when they end, are collected, or are idle for too long."""

    def __init__(
        self, stream: BatchStream, batches: Iterator[pa.RecordBatch], release: Callable[[], None]
    ) -> None:
        self._batches = batches
        self._release = release
        self.idle = Idle(release, stream.close)
        self.idle.wait()
        weakref.finalize(self, release)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            self.idle.go_on()
            with _flight_errors():
                batch = next(self._batches, None)
            if batch is None:
                raise StopIteration
            self.idle.wait()
            return batch
        except BaseException:
            self._release()
            raise


def _parsed_end(metadata: pa.Buffer | None) -> Any:
    """Return the number of rows in the message that ends an upload, or None for others."""
    if metadata is None or metadata.size > _MAX_END_BYTES:
        return None
    try:
        end = json.loads(metadata.to_pybytes())
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
