"""Code on the pages of the documentation runs as it stands there, in an empty folder."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from support.pages import blocks_of, run_page

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = [page for page in PAGES if blocks_of(page.read_text())]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    run_page(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_have_one_title(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    assert len(re.findall(r"^# .+", prose, re.MULTILINE)) == 1


def test_the_http_page_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server and a real client; and a client that disconnects."""
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("fastapi")
    uvicorn = pytest.importorskip("uvicorn")
    httpx = pytest.importorskip("httpx")
    names = run_page(ROOT / "docs" / "http.md", close=False)
    engine = names["engine"]
    engine.create_collection("users").insert({"name": "Ada", "age": 36, "city": "Rome"})
    engine.create_collection("many").insert_many(pa.table({"t": ["x" * 100] * 200_000}))
    server = uvicorn.Server(uvicorn.Config(names["app"], port=0, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        answer = client.get("/users.ndjson")
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.text.splitlines()[0] == '{"_id":"1","name":"Ada","age":36,"city":"Rome"}'
        table = pa.ipc.open_stream(client.get("/many.arrow").content).read_all()
        assert table.num_rows == 200_000
        assert client.get("/nobody.ndjson").status_code == 404
        with client.stream("GET", "/many.ndjson") as answer:
            assert next(answer.iter_lines()).startswith('{"_id":"1"')
        ends = time.monotonic() + 10
        while engine.stats().memory.streams and time.monotonic() < ends:
            time.sleep(0.02)
            gc.collect()  # the error of a client that has gone holds the stream that it read
        assert engine.stats().memory.streams == 0, "a client that disconnected is served no longer"
    server.should_exit = True
    thread.join()
    engine.close()
