"""An S3 server that refuses requests and loses answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class Faulty:
    """A WSGI application that answers as it is told, and else as the server would."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.fault: Callable[[str, str], str | None] = lambda method, path: None
        self.requests: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append(f"{method} {path}")
        fault = self.fault(method, path)
        if fault == "refuse":
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        if fault == "lose the answer":
            list(self._app(environ, lambda *_: None))
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        return self._app(environ, start_response)


@pytest.fixture(scope="module")
def faulty() -> Iterator[Faulty]:
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server")
    serving = pytest.importorskip("werkzeug.serving")
    app = Faulty(server.DomainDispatcherApplication(server.create_backend_app))
    made = serving.make_server("127.0.0.1", 0, app, threaded=True)
    made.log_startup = lambda: None
    made.RequestHandlerClass.log_request = lambda *_: None
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.server_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "x")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "y")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        yield app
    made.shutdown()
    thread.join()
