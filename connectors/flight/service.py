"""Flight's calls over gRPC: methods, statuses and threads.

The server of pyarrow unpacks messages before a program sees them, and sends tracebacks of Python.
This module receives and sends the messages of Flight itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Protocol

import pyarrow.flight as fl

from godb_arrow.connectors import missing
from godb_arrow.connectors.flight.errors import sent_error
from godb_arrow.errors import InvalidOption

try:
    import grpc
except ImportError as error:
    raise missing("flight", "grpcio") from error

__all__ = ["Call", "Methods", "Service", "server_credentials"]

logger = logging.getLogger(__name__)

_PATH = "/arrow.flight.protocol.FlightService/"
_STATUSES: dict[type[fl.FlightError], tuple[grpc.StatusCode, str]] = {
    fl.FlightUnauthenticatedError: (grpc.StatusCode.UNAUTHENTICATED, "Unauthenticated"),
    fl.FlightUnauthorizedError: (grpc.StatusCode.PERMISSION_DENIED, "Unauthorized"),
    fl.FlightUnavailableError: (grpc.StatusCode.UNAVAILABLE, "Unavailable"),
    fl.FlightCancelledError: (grpc.StatusCode.CANCELLED, "Cancelled"),
    fl.FlightTimedOutError: (grpc.StatusCode.DEADLINE_EXCEEDED, "TimedOut"),
    fl.FlightInternalError: (grpc.StatusCode.INTERNAL, "Internal"),
    fl.FlightServerError: (grpc.StatusCode.UNKNOWN, "Failed"),
}
"""Code of gRPC and detail of Arrow for each error, as Arrow's own server sends them."""
_ARROW_IO_ERROR = "5"  # code of arrow::Status
_MAX_MESSAGE_OVERHEAD = 1 << 20  # for what a message has beside its data
_SHORT_CALLS = 8  # threads for calls that are neither streams nor uploads
_MAX_WAITING_CALLS = 256
_CANCELLED_SECONDS = 0.1


class Call:
    """Call of a client.

    Parameters
    ----------
    context : grpc.ServicerContext
        Context of the call.
    """

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._ended = threading.Event()
        if not context.add_callback(self._ended.set):
            self._ended.set()
        self.may_write = False

    @property
    def peer(self) -> str:
        """Address of the client, such as ``"ipv4:127.0.0.1:5000"``."""
        return str(self._context.peer())

    def header(self, name: str) -> bytes:
        """Return the first header of a name, or no bytes."""
        for key, value in self._context.invocation_metadata():
            if key.lower() == name:
                return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
        return b""

    def was_cancelled(self) -> bool:
        """Return whether the client cancelled the call, or its connection ended.

        gRPC reports the end of a connection as the end of the messages first.
        """
        return self._ended.wait(_CANCELLED_SECONDS)

    def cancel(self) -> None:
        """End the call, also while it waits for its client."""
        self._context.cancel()


class Methods(Protocol):
    """Methods of Flight, which :class:`FlightServer` has."""

    def check_access(self, call: Call) -> None:
        """Set the rights of the client, or raise an error of Flight."""

    def list_flights(self, call: Call, criteria: bytes) -> Iterator[fl.FlightInfo]:
        """Yield a description of each collection."""

    def get_flight_info(self, call: Call, descriptor: fl.FlightDescriptor) -> fl.FlightInfo:
        """Return a description of one collection or result."""

    def get_schema(self, call: Call, descriptor: fl.FlightDescriptor) -> fl.SchemaResult:
        """Return a schema."""

    def do_get(self, call: Call, ticket: fl.Ticket) -> Iterator[bytes]:
        """Return the messages of a stream."""

    def do_put(self, call: Call, messages: Iterator[bytes]) -> bytes:
        """Receive an upload, and return the answer."""

    def do_exchange(self, call: Call, messages: Iterator[bytes]) -> Iterator[bytes]:
        """Return the messages that answer others."""

    def do_action(self, call: Call, action: fl.Action) -> Iterator[bytes]:
        """Yield the results of an action."""

    def list_actions(self, call: Call) -> Iterator[bytes]:
        """Yield the descriptions of all actions."""


def server_credentials(
    tls: tuple[bytes, bytes], client_authority: bytes | None
) -> grpc.ServerCredentials:
    """Return the certificates of a server.

    Parameters
    ----------
    tls : tuple of bytes
        Certificate chain and private key, in PEM.
    client_authority : bytes or None
        Certificates that sign the certificates of clients. If given, clients need one.
    """
    chain, key = tls
    return grpc.ssl_server_credentials(
        [(key, chain)], client_authority, require_client_auth=client_authority is not None
    )


class Service:
    """Server of gRPC for the methods of Flight, which runs until :meth:`stop`.

    Parameters
    ----------
    methods : Methods
        What the calls do.
    address : str
        Host and port to listen on.
    credentials : grpc.ServerCredentials or None
        Certificates, or None for connections without TLS.
    max_message_bytes : int
        Maximum size of the data in a message of a client, in bytes.
    max_streams : int
        Maximum number of streams and uploads at the same time, each of which has a thread.

    Raises
    ------
    InvalidOption
        The port is in use, or the certificates are invalid.
    """

    def __init__(
        self,
        methods: Methods,
        address: str,
        credentials: grpc.ServerCredentials | None,
        *,
        max_message_bytes: int,
        max_streams: int,
    ) -> None:
        self._is_stopping = False
        self._workers = _Workers(max_streams + _SHORT_CALLS)
        self._server = grpc.server(
            self._workers,
            handlers=[_Handlers(methods)],
            maximum_concurrent_rpcs=max_streams + _MAX_WAITING_CALLS,
            options=[
                ("grpc.max_receive_message_length", max_message_bytes + _MAX_MESSAGE_OVERHEAD),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # Otherwise two servers share one port.
                # gRPC unpacks its own compression without a limit. The set has only "identity".
                ("grpc.per_message_decompression", 0),
                ("grpc.compression_enabled_algorithms_bitset", 1),
            ],
        )
        try:
            if credentials is None:
                self.port: int = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
            if self.port == 0:
                raise RuntimeError("no address could be bound")
        except (RuntimeError, ValueError) as error:
            self._workers.shutdown()
            raise InvalidOption(
                f"cannot listen on {address}: {error}",
                advice="choose another port, and check the certificates",
            ) from error
        self._server.start()

    def end_idle(self, call: Call) -> bool:
        """Cancel a call that waits for its client in vain, if a stop or other calls wait for it.

        Otherwise the call stays. A client that goes on gets an error which says why it ended;
        pyarrow raises KeyboardInterrupt for a cancelled call.

        Returns
        -------
        bool
            Whether the call was cancelled.
        """
        if self._is_stopping or self._workers.are_busy:
            call.cancel()
            return True
        return False

    def wait(self) -> None:
        """Wait until the server is stopped."""
        self._server.wait_for_termination()

    def stop(self, grace: float | None) -> None:
        """Accept no more calls, and wait for the open ones.

        Parameters
        ----------
        grace : float or None
            Time in seconds that open calls have, or None for as long as they take.
        """
        self._is_stopping = True
        self._server.stop(threading.TIMEOUT_MAX if grace is None else grace).wait()
        self._workers.shutdown()


class _Handlers(grpc.GenericRpcHandler):
    """Handlers of the methods by their path."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods
        one, many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        both = grpc.stream_stream_rpc_method_handler
        descriptor, serialized = fl.FlightDescriptor.deserialize, _serialized
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "ListFlights": many(self._many("list_flights", _criteria, serialized)),
            "GetFlightInfo": one(self._one("get_flight_info", descriptor, serialized)),
            "GetSchema": one(self._one("get_schema", descriptor, serialized)),
            "DoGet": many(self._many("do_get", fl.Ticket.deserialize, bytes)),
            "DoPut": both(self._put),
            "DoExchange": both(self._many("do_exchange", _sent, bytes)),
            "DoAction": many(self._many("do_action", fl.Action.deserialize, _result)),
            "ListActions": many(self._many("list_actions", None, bytes)),
        }
        self._handlers = {_PATH + name: handler for name, handler in handlers.items()}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method, or None for one that does not exist."""
        return self._handlers.get(details.method)

    def _one(
        self, name: str, read: Callable[[bytes], Any], write: Callable[[Any], bytes]
    ) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            with _Answer(context, self._methods) as call:
                return write(getattr(self._methods, name)(call, _read(read, request)))
            return b""  # for a client that has disconnected

        return answer

    def _many(
        self, name: str, read: Callable[[Any], Any] | None, write: Callable[[Any], bytes]
    ) -> Callable[[Any, grpc.ServicerContext], Iterator[bytes]]:
        def answers(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            with _Answer(context, self._methods) as call:
                arguments = [] if read is None else [_read(read, request)]
                for result in getattr(self._methods, name)(call, *arguments):
                    yield write(result)

        return answers

    def _put(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        with _Answer(context, self._methods) as call:
            yield self._methods.do_put(call, _sent(messages))


class _Answer:
    """Context of a call, which checks its token and sends its errors to the client."""

    def __init__(self, context: grpc.ServicerContext, methods: Methods) -> None:
        self._context = context
        self._methods = methods

    def __enter__(self) -> Call:
        call = Call(self._context)
        try:
            self._methods.check_access(call)
        except Exception as error:
            self._refuse(error)
        return call

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        if self._context.is_active():
            self._refuse(error)
        logger.debug("a client has disconnected", exc_info=error)
        return True

    def _refuse(self, failure: Exception) -> None:
        """End the call with an error, without a traceback or other details of the server."""
        error: Any = failure
        if not isinstance(failure, fl.FlightError):
            logger.error("a request failed", exc_info=failure)
            error = fl.FlightInternalError("the request failed; see the server's log")
        code, detail = next(status for kind, status in _STATUSES.items() if isinstance(error, kind))
        text = str(error.args[0]) if error.args else detail
        metadata: list[tuple[str, str | bytes]] = [
            ("x-arrow-status", _ARROW_IO_ERROR),
            ("x-arrow-status-detail-bin", detail.encode()),
            ("x-arrow-status-message-bin", text.encode("utf-8", "replace")),
        ]
        if error.extra_info:
            metadata.append(("grpc-status-details-bin", bytes(error.extra_info)))
        self._context.set_trailing_metadata(tuple(metadata))
        self._context.abort(code, text)


def _sent(messages: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the messages of a client, whose connection may end."""
    try:
        yield from messages
    except grpc.RpcError as error:
        raise fl.FlightCancelledError("the client disconnected; nothing was stored") from error


def _read(read: Callable[[Any], Any], request: Any) -> Any:
    """Parse a request of a client."""
    try:
        return read(request)
    except Exception as error:
        refused = InvalidOption("the request is not valid", advice="send it with a Flight library")
        raise sent_error(refused) from error


def _serialized(answer: Any) -> bytes:
    return bytes(answer.serialize())


def _criteria(request: bytes) -> bytes:
    return request  # No criteria are known, so that all collections are listed.


def _result(body: bytes) -> bytes:
    return bytes(fl.Result(body).serialize())


class _Workers(ThreadPoolExecutor):
    """Threads for calls, which do not keep the process alive.

    The interpreter waits for threads of the standard executor when it ends, also for a stream whose
    client does not read.

    Parameters
    ----------
    most : int
        Maximum number of threads.
    """

    def __init__(self, most: int) -> None:
        super().__init__(1)  # which starts no thread before a task
        self._most = most
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._started: list[threading.Thread] = []
        self._unfinished = 0  # number of tasks
        self._lock = threading.Lock()

    @property
    def are_busy(self) -> bool:
        """Whether a further task would wait for a thread."""
        return self._unfinished >= self._most

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function on one of the threads."""
        future: Future[Any] = Future()
        with self._lock:
            self._unfinished += 1
            if len(self._started) < min(self._unfinished, self._most):
                thread = threading.Thread(target=self._run, name="godb-arrow-flight", daemon=True)
                self._started.append(thread)
                thread.start()
        self._tasks.put((future, lambda: function(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads after their tasks."""
        with self._lock:
            threads = list(self._started)
        for _ in threads:
            self._tasks.put(None)
        for thread in threads if wait else ():
            if thread is not threading.current_thread():
                thread.join()

    def _run(self) -> None:
        while True:
            task = self._tasks.get()
            if task is None:
                return
            future, function = task
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
            finally:
                with self._lock:
                    self._unfinished -= 1
            del task, future, function  # A waiting thread keeps nothing of a call.
