"""Client of the Flight server: collections of an engine on another machine."""

from __future__ import annotations

import base64
import io
import json
import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, Unpack

import pyarrow as pa
import pyarrow.flight as fl

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.connectors.flight.errors import client_errors
from godb_arrow.documents.encoding import encode_rows
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.loading import load_run
from godb_arrow.documents.rows import rows_of
from godb_arrow.errors import InvalidOption
from godb_arrow.file.reading import read_table
from godb_arrow.file.writing import write_godb
from godb_arrow.options import MAX_DOCUMENT_BYTES, ReadKeywords
from godb_arrow.query.extended_json import filter_to_json
from godb_arrow.query.filters import Filter, RowFilter
from godb_arrow.query.projection import narrow, project
from godb_arrow.query.scannable import Scannable
from godb_arrow.schema import ID_FIELD, storage_schema

__all__ = ["RemoteCollection", "RemoteEngine", "connect"]


logger = logging.getLogger(__name__)


# --- engine -----------------------------------------------------------------------------------


def connect(
    location: str, *, token: str | None = None, tls_authority: bytes | None = None
) -> RemoteEngine:
    """Connect to a server of :class:`FlightServer`.

    Parameters
    ----------
    location : str
        URL such as ``"grpc://127.0.0.1:8815"`` or ``"grpc+tls://…"``.
    token : str, optional
        Token that the server requires.
    tls_authority : bytes, optional
        Certificates in PEM that sign the server's; the system's by default.

    Returns
    -------
    RemoteEngine
        Mapping of names to collections. Close it, or use it as a context manager.

    Raises
    ------
    StorageError
        The first use fails, because the server cannot be reached or refuses.
    """
    return RemoteEngine(location, token, tls_authority)


class RemoteEngine(Mapping[str, "RemoteCollection"]):
    """Collections of a server, as :func:`connect` returns them."""

    def __init__(self, location: str, token: str | None, tls_authority: bytes | None) -> None:
        with client_errors(location):
            self._client = fl.FlightClient(location, tls_root_certs=tls_authority)
        headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        self._options = fl.FlightCallOptions(headers=headers)
        self.location = location

    def __getitem__(self, name: str) -> RemoteCollection:
        descriptor = fl.FlightDescriptor.for_path(name)
        with client_errors(self.location):
            info = self._client.get_flight_info(descriptor, self._options)
        return RemoteCollection(self, name, info)

    def __iter__(self) -> Iterator[str]:
        with client_errors(self.location):
            flights = self._client.list_flights(options=self._options)
            return iter([flight.descriptor.path[0].decode() for flight in flights])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def health(self) -> dict[str, Any]:
        """Return the state that the server reports."""
        with client_errors(self.location):
            (answer,) = self._client.do_action(fl.Action("health", b""), self._options)
            health: dict[str, Any] = json.loads(answer.body.to_pybytes())
            return health

    def insert_many(self, name: str, data: Any, *, id_column: str | None = None) -> int:
        """Insert all documents or none into a collection, which is created if it is missing.

        Parameters
        ----------
        name : str
            Name of the collection.
        data : DataFrame, Table, Arrow stream or iterable of dicts
            Documents to insert.
        id_column : str, optional
            Field with the ids, default ``_id``.

        Returns
        -------
        int
            Number of documents inserted.

        Raises
        ------
        DuplicateId
            Ids occur twice, or exist already.
        DuplicateValue, SchemaViolation
            A document does not fulfil the constraints of the collection.
        """
        return self._put(name, data, id_column, upsert=False)

    def upsert_many(self, name: str, data: Any, *, id_column: str | None = None) -> int:
        """Insert documents, and replace those with the same ids: all of them or none.

        Parameters
        ----------
        name, data, id_column
            See :meth:`insert_many`.

        Returns
        -------
        int
            Number of documents inserted or replaced.

        Raises
        ------
        DuplicateValue, SchemaViolation
            A document does not fulfil the constraints of the collection.
        """
        return self._put(name, data, id_column, upsert=True)

    def _put(self, name: str, data: Any, id_column: str | None, *, upsert: bool) -> int:
        rows = rows_of(data, id_column)
        wanted: dict[str, Any] = {"collection": name, "upsert": upsert, "id_column": id_column}
        if rows.schema is None:
            table = _as_columns(rows.documents, id_column)
            if ID_FIELD in table.column_names and table.column(ID_FIELD).null_count:
                wanted["generate_ids"] = True
        else:
            table = pa.Table.from_batches(rows.batches, rows.schema)
        # A last message confirms the end, since a process that ends also closes its stream.
        wanted["end"] = True
        descriptor = fl.FlightDescriptor.for_command(json.dumps(wanted).encode())
        with client_errors(self.location):
            writer, answers = self._client.do_put(descriptor, table.schema, self._options)
            with writer:
                writer.write_table(table, max_chunksize=16_384)
                writer.write_metadata(json.dumps({"rows": table.num_rows}).encode())
                writer.done_writing()
                answer = answers.read()
        return int(json.loads(answer.to_pybytes())["documents"])

    def stream(self, wanted: dict[str, Any]) -> pa.RecordBatchReader:
        """Stream the record batches of a ticket."""
        ticket = fl.Ticket(json.dumps(wanted).encode())
        with client_errors(self.location):
            reader = self._client.do_get(ticket, self._options).to_reader()
        return pa.RecordBatchReader.from_batches(reader.schema, _received(reader, self.location))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RemoteEngine {self.location!r}>"


def _as_columns(documents: Iterable[Any], id_column: str | None) -> pa.Table:
    """Return documents as the columns of a GODB file, with mixed types as JSON text.

    The id of a document without one is null, so that the server generates it.
    """
    has_id: list[bool] = []
    token = secrets.token_hex(8)

    def with_ids() -> Iterator[Any]:
        for document in documents:
            lacks_id = isinstance(document, Mapping) and ID_FIELD not in document
            has_id.append(not lacks_id)
            # A temporary file needs unique ids. The server never gets the generated ones.
            yield {ID_FIELD: f"{token}-{len(has_id)}", **document} if lacks_id else document

    with io.BytesIO() as file:
        limit = MAX_DOCUMENT_BYTES  # The server applies its own limit.
        write_godb(with_ids(), file, "upload", id_column=id_column, max_document_bytes=limit)
        table = read_table(file.getvalue(), "upload", max_document_bytes=limit)
    if all(has_id):
        return table
    if not any(has_id) or id_column is not None:
        return table.drop_columns([ID_FIELD])
    ids = pc.if_else(pa.array(has_id), table.column(ID_FIELD), None)
    return table.set_column(table.column_names.index(ID_FIELD), ID_FIELD, ids)


def _received(reader: pa.RecordBatchReader, location: str) -> Iterator[pa.RecordBatch]:
    with client_errors(location):
        yield from reader


class RemoteCollection(Scannable):
    """Collection of a server, which is read each time with columns and filter pushed down."""

    def __init__(self, engine: RemoteEngine, name: str, info: fl.FlightInfo) -> None:
        self._engine = engine
        self._name = name
        self._schema: pa.Schema = info.schema
        self._count = info.total_records

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self._name

    @property
    def schema(self) -> pa.Schema:
        """Schema of the record batches at the time when this object was created."""
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
        """Stream record batches; the server determines the options."""
        if schema is not None and columns is None:
            columns = schema.names
        plan = project(self._schema, columns, filter)
        wanted: dict[str, Any] = {"collection": self._name, "columns": columns and list(columns)}
        condition = plan.condition
        if isinstance(condition, RowFilter):  # Only this process can evaluate it.
            wanted["columns"] = plan.decoded.names
            reader = narrow(self._engine.stream(wanted), columns, condition)
        else:
            if isinstance(filter, Mapping):
                wanted["filter"] = filter_to_json(filter)
            elif condition is not None:
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
        encoded = encode_rows(rows, None, True, IdSequence(), max_document_bytes=MAX_DOCUMENT_BYTES)
        return self._schema, (chunk.entries() for chunk in encoded)

    def __repr__(self) -> str:
        return f"<RemoteCollection {self._name!r} of {self._engine.location}>"


def _serialized(schema: pa.Schema, condition: pc.Expression, fields: list[str]) -> dict[str, Any]:
    import pyarrow.substrait

    bound = storage_schema(pa.schema([schema.field(name) for name in fields]))
    raw = bytes(pyarrow.substrait.serialize_expressions([condition], ["kept"], bound))
    return {"fields": fields, "substrait": base64.b64encode(raw).decode()}
