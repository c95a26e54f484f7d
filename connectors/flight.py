"""Collections on the network, by Arrow Flight: a server, and a client whose collections are ours.

A *ticket* (and a command of an upload) is JSON::

    {"collection": "users", "columns": ["name", "user.geo.cc"], "filter": {"city": "Berlin"}}

``filter`` has the values that fields must have, lists for any of several. Instead, ``substrait``
may have a serialized expression over ``fields``, as our own client sends it. Any Flight client
can send them; the token goes into the header ``authorization: Bearer …``.
"""

from __future__ import annotations

import base64
import hmac
import io
import ipaddress
import json
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as fl

from godb_arrow import codec
from godb_arrow.documents.encoding import encode_rows
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.loading import load_run
from godb_arrow.documents.rows import rows_of
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.errors import (
    AccessDenied,
    CollectionNotFound,
    GodbError,
    InvalidOption,
    LimitExceeded,
    StorageError,
)
from godb_arrow.file.reading import read_table
from godb_arrow.file.writing import write_godb
from godb_arrow.options import ReadKeywords
from godb_arrow.query.filters import Filter, RowFilter, rows_where
from godb_arrow.query.projection import narrow, project
from godb_arrow.query.scannable import Scannable
from godb_arrow.schema import ID_FIELD, storage_schema

__all__ = ["FlightServer", "RemoteCollection", "RemoteEngine", "connect"]

logger = logging.getLogger(__name__)

_LONGEST_TICKET = 1 << 20
_SHORTEST_TOKEN = 16
_AUTHENTICATION = "godb-arrow-token"


# --- the server -------------------------------------------------------------------------------


class FlightServer(fl.FlightServerBase):  # type: ignore[misc]
    """Serves the collections of an engine.

    Parameters
    ----------
    engine : StorageEngine
        What to serve. It is not closed with the server.
    host : str
        Where to listen.
    port : int
        With 0 a free one is taken; :attr:`port` says which.
    token : str or None
        What every request must have, of at least 16 characters; None (nobody is asked) is
        possible on a loopback address only.
    tls : tuple of bytes, optional
        Certificate chain and private key, in PEM.
    client_authority : bytes, optional
        Certificates in PEM that sign those which clients must have.
    max_streams : int
        How many streams and uploads run at the same time; who comes then is told to come again.
    max_message_bytes : int
        The largest record batch that is taken or given.
    max_upload_bytes : int
        The largest upload; each is inserted as a whole.

    Raises
    ------
    InvalidOption
        A token is missing or short, or the port is taken.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
    >>> _ = engine.create_collection("users").insert_many([{"name": "Ada", "age": 36}])
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
        tls: tuple[bytes, bytes] | None = None,
        client_authority: bytes | None = None,
        max_streams: int = 16,
        max_message_bytes: int = 64 << 20,
        max_upload_bytes: int = 1 << 30,
    ) -> None:
        if token is None and not _is_loopback(host):
            raise InvalidOption(
                f"everybody could read and write by {host}",
                advice="give a token; without one the server listens on a loopback address only",
            )
        if token is not None and len(token) < _SHORTEST_TOKEN:
            raise InvalidOption(
                f"the token has {len(token)} characters",
                advice=f"give at least {_SHORTEST_TOKEN}, such as secrets.token_urlsafe()",
            )
        if token is not None and tls is None and not _is_loopback(host):
            logger.warning("the token and the data travel unencrypted by %s: give tls", host)
        self._engine = engine
        self._slots = threading.BoundedSemaphore(max_streams)
        self._max_message = max_message_bytes
        self._max_upload = max_upload_bytes
        scheme = "grpc" if tls is None else "grpc+tls"
        shown = f"[{host}]" if ":" in host else host
        try:
            super().__init__(
                f"{scheme}://{shown}:{port}",
                middleware={} if token is None else {_AUTHENTICATION: _TokenCheck(token)},
                tls_certificates=None if tls is None else [tls],
                verify_client=client_authority is not None,
                root_certificates=client_authority,
            )
        except (pa.ArrowException, OSError) as error:
            raise InvalidOption(
                f"cannot listen on {host}:{port}: {error}", advice="choose another port"
            ) from error

    def list_flights(
        self, context: fl.ServerCallContext, criteria: bytes
    ) -> Iterator[fl.FlightInfo]:
        """Each collection, with its schema and size."""
        with _flight_errors():
            for name in self._engine.collections():
                yield self._info(name, {"collection": name})

    def get_flight_info(
        self, context: fl.ServerCallContext, descriptor: fl.FlightDescriptor
    ) -> fl.FlightInfo:
        """One collection, or what a ticket would give of it."""
        with _flight_errors():
            wanted = _wanted_of(descriptor)
            return self._info(wanted["collection"], wanted)

    def get_schema(
        self, context: fl.ServerCallContext, descriptor: fl.FlightDescriptor
    ) -> fl.SchemaResult:
        """The schema of a collection."""
        with _flight_errors():
            return fl.SchemaResult(self._engine[_wanted_of(descriptor)["collection"]].schema)

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
        """Stream what a ticket asks for; a snapshot of when it was asked for."""
        with _flight_errors():
            wanted = _parsed(ticket.ticket)
            slot = self._take_slot()
            try:
                collection = self._engine[wanted["collection"]]
                reader = collection.stream_batches(
                    wanted.get("columns"), _filter_of(wanted), batch_bytes=self._max_message // 4
                )
                batches = _Guarded(self._bounded(reader), slot)
                return fl.GeneratorStream(reader.schema, batches)
            except BaseException:
                slot()
                raise

    def _bounded(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batches that are not larger than a message may be."""
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
        """Insert an upload: all of it or nothing. The collection is made if need be."""
        with _flight_errors():
            wanted = _wanted_of(descriptor)
            mode = wanted.get("mode", "insert")
            if mode not in ("insert", "upsert"):
                raise InvalidOption(f"mode is {mode!r}", advice="use insert or upsert")
            slot = self._take_slot()
            try:
                # Before the collection is made, the upload is looked at.
                source = pa.RecordBatchReader.from_batches(reader.schema, self._upload(reader))
                table = source.read_all()
                name = wanted["collection"]
                if name not in self._engine:
                    self._engine.create_collection(name)
                collection = self._engine[name]
                put = collection.upsert_many if mode == "upsert" else collection.insert_many
                ids = put(table, id_column=wanted.get("id_column"))
                writer.write(json.dumps({"documents": len(ids)}).encode())
            finally:
                slot()

    def _upload(self, reader: fl.MetadataRecordBatchReader) -> Iterator[pa.RecordBatch]:
        total = 0
        for chunk in reader:
            size = chunk.data.nbytes
            total += size
            if size > self._max_message:
                raise LimitExceeded(
                    f"a record batch has {size} bytes, and {self._max_message} may be",
                    advice="send smaller batches",
                )
            if total > self._max_upload:
                raise LimitExceeded(
                    f"the upload has more than {self._max_upload} bytes",
                    advice="send it in several uploads",
                )
            yield chunk.data

    def do_action(self, context: fl.ServerCallContext, action: fl.Action) -> Iterator[bytes]:
        """``health``: whether the server works, and how many streams run."""
        if action.type != "health":
            raise pa.ArrowInvalid(f"there is no action {action.type!r}; the only one is health")
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
        """The one that there is."""
        return [("health", "Whether the server works, as JSON.")]

    def _take_slot(self) -> Callable[[], None]:
        if not self._slots.acquire(blocking=False):
            raise fl.FlightUnavailableError("too many streams run; come again later")
        left = [self._slots.release]
        return lambda: left.pop()() if left else None


class _Guarded:
    """Batches whose slot is given back when they end, or when nobody wants them any more."""

    def __init__(self, batches: Iterator[pa.RecordBatch], release: Callable[[], None]) -> None:
        self._batches = batches
        self._release = release
        weakref.finalize(self, release)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            with _flight_errors():
                return next(self._batches)
        except BaseException:
            self._release()
            raise


class _TokenCheck(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    def __init__(self, token: str) -> None:
        super().__init__()
        self._expected = f"Bearer {token}".encode()

    def start_call(self, info: fl.CallInfo, headers: Mapping[str, list[Any]]) -> None:
        found = [value for name, value in headers.items() if name.lower() == "authorization"]
        given = found[0][0] if found and found[0] else ""
        raw = given if isinstance(given, bytes) else str(given).encode("utf-8", "replace")
        if not hmac.compare_digest(raw, self._expected):
            raise fl.FlightUnauthenticatedError("the token is missing or wrong")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _flight_errors() -> Iterator[None]:
    """Say our errors in Flight's words, without what would tell of the server's disk."""
    try:
        yield
    except CollectionNotFound as error:
        raise pa.ArrowKeyError(f"{error.message}; {error.advice}") from error
    except AccessDenied as error:
        raise fl.FlightUnauthorizedError(f"{error.message}; {error.advice}") from error
    except StorageError as error:
        logger.exception("a request failed")
        raise fl.FlightServerError("the storage failed; the server's log says more") from error
    except GodbError as error:
        raise pa.ArrowInvalid(f"{error.message}; {error.advice}") from error


def _wanted_of(descriptor: fl.FlightDescriptor) -> dict[str, Any]:
    if descriptor.descriptor_type == fl.DescriptorType.CMD:
        return _parsed(descriptor.command)
    path = descriptor.path
    if not path or len(path) != 1:
        raise InvalidOption("the path is not one name", advice="give the collection's name")
    return {"collection": path[0].decode("utf-8", "surrogateescape")}


_KINDS: dict[str, type | tuple[type, ...]] = {
    "collection": str, "columns": list, "filter": dict, "fields": list, "substrait": str,
    "mode": str, "id_column": str,
}  # fmt: skip


def _parsed(raw: bytes) -> dict[str, Any]:
    """A ticket or command, checked."""
    if len(raw) > _LONGEST_TICKET:
        raise LimitExceeded(f"the ticket has {len(raw)} bytes", advice="ask for less")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidOption("the ticket is not JSON", advice="see the documentation") from error
    if not isinstance(found, dict) or not isinstance(found.get("collection"), str):
        raise InvalidOption("the ticket names no collection", advice='give {"collection": …}')
    for key, value in found.items():
        if key not in _KINDS or (value is not None and not isinstance(value, _KINDS[key])):
            raise InvalidOption(f"the ticket's {key!r} is not understood", advice="leave it out")
    for key in ("columns", "fields"):
        if any(not isinstance(name, str) for name in found.get(key) or ()):
            raise InvalidOption(f"the ticket's {key!r} are not all names", advice="give strings")
    return found


def _filter_of(wanted: dict[str, Any]) -> Filter | None:
    if wanted.get("substrait") is None:
        found: Filter | None = wanted.get("filter")
        return found
    import pyarrow.substrait

    try:
        raw = base64.b64decode(wanted["substrait"], validate=True)
        bound = pyarrow.substrait.deserialize_expressions(raw)
        (expression,) = bound.expressions.values()
    except (ValueError, pa.ArrowException, NotImplementedError) as error:
        raise InvalidOption(
            f"the expression is not understood: {error}", advice="use a filter of values"
        ) from error
    return RowFilter(wanted.get("fields") or [], lambda batch: _kept(batch, expression))


def _kept(batch: pa.RecordBatch, expression: pc.Expression) -> pa.Array:
    kept = np.zeros(batch.num_rows, bool)
    kept[rows_where(batch.cast(storage_schema(batch.schema)), expression).to_numpy()] = True
    return pa.array(kept)


# --- the client -------------------------------------------------------------------------------


def connect(
    location: str, *, token: str | None = None, tls_authority: bytes | None = None
) -> RemoteEngine:
    """Connect to a server of :class:`FlightServer`.

    Parameters
    ----------
    location : str
        Such as ``"grpc://127.0.0.1:8815"``, or ``"grpc+tls://…"``.
    token : str, optional
        What the server wants.
    tls_authority : bytes, optional
        Certificates in PEM that sign the server's; the system's, if left out.

    Returns
    -------
    RemoteEngine
        A mapping of names to collections; close it, or use it with ``with``.

    Raises
    ------
    StorageError
        At the first use, when the server cannot be reached or refuses.
    """
    return RemoteEngine(location, token, tls_authority)


class RemoteEngine(Mapping[str, "RemoteCollection"]):
    """The collections of a server; :func:`connect` makes it."""

    def __init__(self, location: str, token: str | None, tls_authority: bytes | None) -> None:
        with _client_errors(location):
            self._client = fl.FlightClient(location, tls_root_certs=tls_authority)
        headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        self._options = fl.FlightCallOptions(headers=headers)
        self.location = location

    def __getitem__(self, name: str) -> RemoteCollection:
        descriptor = fl.FlightDescriptor.for_path(name)
        with _client_errors(self.location):
            info = self._client.get_flight_info(descriptor, self._options)
        return RemoteCollection(self, name, info)

    def __iter__(self) -> Iterator[str]:
        with _client_errors(self.location):
            flights = self._client.list_flights(options=self._options)
            return iter([flight.descriptor.path[0].decode() for flight in flights])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def health(self) -> dict[str, Any]:
        """What the server says of itself."""
        with _client_errors(self.location):
            (answer,) = self._client.do_action(fl.Action("health", b""), self._options)
            found: dict[str, Any] = json.loads(answer.body.to_pybytes())
            return found

    def insert_many(
        self, name: str, data: Any, *, mode: str = "insert", id_column: str | None = None
    ) -> int:
        """Insert documents into a collection, which is made if need be: all or none.

        Parameters
        ----------
        name : str
            The collection.
        data : DataFrame, Table, Arrow stream or iterable of dicts
            The documents.
        mode : {"insert", "upsert"}
            What becomes of those whose id is there.
        id_column : str, optional
            The field with the ids, in place of ``_id``.

        Returns
        -------
        int
            How many documents were inserted.
        """
        rows = rows_of(data, id_column)
        if rows.schema is None:
            table = _as_columns(rows.documents, id_column)
        else:
            table = pa.Table.from_batches(rows.batches, rows.schema)
        wanted = {"collection": name, "mode": mode, "id_column": id_column}
        descriptor = fl.FlightDescriptor.for_command(json.dumps(wanted).encode())
        with _client_errors(self.location):
            writer, answers = self._client.do_put(descriptor, table.schema, self._options)
            with writer:
                writer.write_table(table, max_chunksize=16_384)
                writer.done_writing()
                answer = answers.read()
        return int(json.loads(answer.to_pybytes())["documents"])

    def stream(self, wanted: dict[str, Any]) -> pa.RecordBatchReader:
        """The record batches of a ticket."""
        ticket = fl.Ticket(json.dumps(wanted).encode())
        with _client_errors(self.location):
            reader = self._client.do_get(ticket, self._options).to_reader()
        return pa.RecordBatchReader.from_batches(reader.schema, _received(reader, self.location))

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RemoteEngine {self.location!r}>"


def _as_columns(documents: Iterable[Any], id_column: str | None) -> pa.Table:
    """Documents as the columns that a GODB file of them has: mixed types as JSON text."""
    has_ids = False

    def looked_at() -> Iterator[Any]:
        nonlocal has_ids
        for document in documents:
            has_ids = has_ids or (isinstance(document, Mapping) and ID_FIELD in document)
            yield document

    with io.BytesIO() as file:
        write_godb(looked_at(), file, "upload", id_column=id_column)
        table = read_table(file.getvalue(), "upload")
    # Ids that were generated here are not the server's.
    return (
        table if has_ids or ID_FIELD not in table.column_names else table.drop_columns([ID_FIELD])
    )


def _received(reader: pa.RecordBatchReader, location: str) -> Iterator[pa.RecordBatch]:
    with _client_errors(location):
        yield from reader


@contextmanager
def _client_errors(location: str) -> Iterator[None]:
    try:
        yield
    except GodbError:
        raise
    except (fl.FlightUnauthenticatedError, fl.FlightUnauthorizedError) as error:
        raise AccessDenied(f"the server at {location} refused: {_first_line(error)}") from error
    except KeyError as error:
        raise CollectionNotFound(f"the server at {location} says: {_first_line(error)}") from error
    except pa.ArrowInvalid as error:
        raise InvalidOption(f"the server at {location} says: {_first_line(error)}") from error
    except (fl.FlightError, pa.ArrowException, OSError) as error:
        raise StorageError(f"the server at {location}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    text = str(error.args[0] if error.args else error)
    return text.partition(" Detail: ")[0].partition(". gRPC client debug context")[0]


class RemoteCollection(Scannable):
    """A collection of a server, read anew each time: columns and filters are sent there."""

    def __init__(self, engine: RemoteEngine, name: str, info: fl.FlightInfo) -> None:
        self._engine = engine
        self._name = name
        self._schema: pa.Schema = info.schema
        self._count = info.total_records

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._name

    @property
    def schema(self) -> pa.Schema:
        """The schema that the record batches had when the collection was looked up."""
        return self._schema

    def __len__(self) -> int:
        return max(0, int(self._count))

    def __iter__(self) -> Iterator[dict[Any, Any]]:
        for run in self._entries()[1]:
            yield from load_run(run)

    def stream_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        schema: pa.Schema | None = None,
        **options: Unpack[ReadKeywords],
    ) -> pa.RecordBatchReader:
        """The documents as a ``pyarrow.RecordBatchReader``; options are the server's."""
        if schema is not None and columns is None:
            columns = schema.names
        plan = project(self._schema, columns, filter)
        wanted: dict[str, Any] = {"collection": self._name, "columns": columns and list(columns)}
        condition = plan.condition
        if isinstance(condition, RowFilter):  # it works here only
            wanted["columns"] = plan.decoded.names
            reader = narrow(self._engine.stream(wanted), columns, condition)
        else:
            if condition is not None:
                wanted |= _serialized(self._schema, condition, sorted(plan.needed))
            reader = self._engine.stream(wanted)
        try:
            return reader if schema is None else reader.cast(schema)
        except (pa.ArrowException, ValueError) as error:
            raise InvalidOption(
                f"the schema does not fit the collection: {error}", advice="choose other types"
            ) from error

    def _entries(self) -> tuple[pa.Schema, Iterator[codec.Entries]]:
        rows = rows_of(self.stream_batches(), None)
        encoded = encode_rows(rows, None, True, IdSequence())
        return self._schema, (one.entries() for one in encoded)

    def __repr__(self) -> str:
        return f"<RemoteCollection {self._name!r} of {self._engine.location}>"


def _serialized(schema: pa.Schema, condition: pc.Expression, fields: list[str]) -> dict[str, Any]:
    import pyarrow.substrait

    bound = storage_schema(pa.schema([schema.field(name) for name in fields]))
    raw = bytes(pyarrow.substrait.serialize_expressions([condition], ["kept"], bound))
    return {"fields": fields, "substrait": base64.b64encode(raw).decode()}
