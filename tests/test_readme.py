"""The README's examples run."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import godb_arrow

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
USERS = [
    {"name": "Ada", "age": 36, "city": "Rome"},
    {"name": "Bob", "age": 41, "city": "Oslo"},
    {"name": "Cy", "age": 52, "city": "Rome"},
]


def test_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in BLOCKS if "background_save" in block)
    names = {"df": pd.DataFrame({"name": ["Bob"], "age": [41]})}
    exec(compile(code, "README.md", "exec"), names)
    assert names["frame"]["age"].tolist() == [41, 37]
    assert [path.name for path in (tmp_path / "data" / "collections").iterdir()] == ["users.godb"]


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    godb_arrow.write_godb(USERS, "users.godb", "users")
    with godb_arrow.StorageEngine("data") as engine:
        engine.create_collection("users").insert_many(USERS)
    yield


def run(marker: str) -> dict[str, Any]:
    found = [block for block in BLOCKS if marker in block]
    assert found, f"the README has no example with {marker}"
    names: dict[str, Any] = {}
    for code in found:
        exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize(
    ("needs", "marker", "check"),
    [
        ("pandas", "connectors.pandas import to_godb",
         lambda n: godb_arrow.list_collections("adults.godb") == {"adults": 1}),
        ("polars", "import polars", lambda n: n["names"]["name"].to_list() == ["Bob", "Cy"]),
        ("duckdb", "import duckdb",
         lambda n: n["oldest"] == [(52,)] and sorted(n["rows"]) == [("Oslo", 1), ("Rome", 2)]),
        ("datafusion", "import datafusion",
         lambda n: n["table"].num_rows == 3 and n["few"].num_rows == 2
         and n["context"].sql("select age from users where name = 'Ada'").to_pydict()
         == {"age": [36]}),
        ("pandas", "restore_backup",
         lambda n: len(n["yesterday"]) == 50_000 and Path("elsewhere/collections").is_dir()),
        ("dask", "import dask", lambda n: n["total"] == 499_500),
        ("fsspec", "memory://", lambda n: n["frame"]["age"].tolist() == [36]),
        ("pyarrow.flight", "FlightServer",
         lambda n: n["frame"]["name"].tolist() == ["Ada", "Cy"] and n["table"].num_rows == 2),
        ("matplotlib", ".profile(", lambda n: n["profile"]["age"].max == 52),
    ],
)  # fmt: skip
def test_an_example_of_each_connector(needs: str, marker: str, check: Any) -> None:
    pytest.importorskip(needs)
    assert check(run(marker))


@pytest.mark.usefixtures("users")
def test_etl() -> None:
    pytest.importorskip("deltalake")
    pytest.importorskip("adbc_driver_sqlite")
    names = run("connectors.etl import copy")
    assert names["summary"].documents == 2
    assert Path("lake/users/city=Oslo").is_dir()


@pytest.mark.usefixtures("users")
def test_http() -> None:
    """A real server and a real client; and a client that goes away."""
    pytest.importorskip("fastapi")
    uvicorn = pytest.importorskip("uvicorn")
    httpx = pytest.importorskip("httpx")
    names = run("import FastAPI")
    engine = names["engine"]
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
            gc.collect()  # the error of a client that has gone holds what it was reading
        assert engine.stats().memory.streams == 0, "who went away is served no more"
    server.should_exit = True
    thread.join()
    engine.close()
