"""The godb-arrow command, as a program."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import click
import msgpack
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from support.handmade import file_of

import godb_arrow
from godb_arrow.cli.command import main

PROGRAM = [
    sys.executable,
    "-c",
    "from godb_arrow.cli.command import main; main(prog_name='godb-arrow')",
]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which saves most of its time."""
    found = CliRunner().invoke(main, list(map(str, arguments)), prog_name="godb-arrow")
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return subprocess.CompletedProcess(arguments, found.exit_code, found.stdout, found.stderr)


def run_program(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command as a program."""
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def users(tmp_path: Path) -> Path:
    target = tmp_path / "users.godb"
    rows = [{"name": f"n{i}", "age": i, "city": "Rome" if i % 2 else "Oslo"} for i in range(50)]
    godb_arrow.write_godb(rows, target, "users")
    return target


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    target = tmp_path / "shop.godb"
    collections = {"users": {"1": {"n": 1}}, "../escape": {"1": {"m": 2}}}
    target.write_bytes(file_of(msgpack.packb({"collections": collections})))
    return target


def test_help_teaches() -> None:
    found = run_program("--help")
    assert found.returncode == 0
    for word in (
        "info",
        "schema",
        "head",
        "cat",
        "export",
        "import",
        "verify",
        "demo",
        "users.godb",
    ):
        assert word in found.stdout
    assert "godb-arrow export users.godb" in run("export", "--help").stdout


def test_info(users: Path, shop: Path) -> None:
    found = run("info", users)
    assert found.returncode == 0, found.stderr
    for text in ("version 1, flags 0", "'users': 50 documents", "age", "int64", "ratio", "sealed"):
        assert text in found.stdout
    assert "another program" in run("info", shop).stdout


def test_schema_and_head(users: Path) -> None:
    assert run("schema", users).stdout.split() == [
        "_id", "string", "name", "string", "age", "int64", "city", "string",
    ]  # fmt: skip
    lines = run("head", users, "-n", 2, "--columns", "name,age").stdout.splitlines()
    assert [line.split() for line in lines] == [["name", "age"], ["n0", "0"], ["n1", "1"]]


def test_cat(users: Path) -> None:
    lines = run("cat", users, "-n", 3).stdout.splitlines()
    assert [json.loads(line)["age"] for line in lines] == [0, 1, 2]


def test_cat_into_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    target = tmp_path / "big.godb"
    godb_arrow.write_godb(({"s": "x" * 100, "n": n} for n in range(20_000)), target, "c")
    program = subprocess.Popen(
        [*PROGRAM, "cat", str(target)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    assert program.stderr is not None
    with program.stdout as out, program.stderr as err:
        out.readline()
        out.close()
        assert err.read() == b""
    assert program.wait() == 0


@pytest.mark.parametrize("extension", ["parquet", "arrow", "csv", "ndjson"])
def test_export_and_import(users: Path, tmp_path: Path, extension: str) -> None:
    target = tmp_path / f"people.{extension}"
    done = run("export", users, target, "--where", "city=Rome", "--where", "age=[1,3,5]")
    assert done.returncode == 0, done.stderr
    assert "3 rows" in done.stderr
    back = tmp_path / "back.godb"
    done = run("import", target, back)
    assert "3 documents in 'people'" in done.stderr
    assert [row["age"] for row in godb_arrow.read_documents(back)] == [1, 3, 5]
    again = run("import", target, back)
    assert again.returncode == 2
    assert "if_exists" in again.stderr
    run("import", target, back, "-c", "people", "--if-exists", "append", "--id", "name")
    assert godb_arrow.list_collections(back)["people"] in (3, 6)


def test_export_of_several_collections_stays_in_its_folder(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    refused = run("export", shop, out / "x.parquet")
    assert refused.returncode == 2
    assert "{collection}" in refused.stderr
    done = run("export", shop, out / "{collection}.parquet")
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(out)) == ["%2E.%2Fescape.parquet", "users.parquet"]
    assert pyarrow.parquet.read_table(out / "users.parquet").num_rows == 1


def test_export_with_columns_and_quiet(users: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    done = run("export", users, target, "--columns", "age,name", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert pd.read_csv(target).columns.tolist() == ["age", "name"]


def test_verify(users: Path, shop: Path) -> None:
    valid = run("verify", users, shop)
    assert valid.returncode == 0
    assert "valid, 50 documents, checksums match" in valid.stdout
    damaged = bytearray(users.read_bytes())
    damaged[100] ^= 1
    users.write_bytes(damaged)
    found = run("verify", users, shop)
    assert found.returncode == 1
    assert "users.godb" in found.stderr
    assert "shop.godb: valid" in found.stdout


def test_verify_and_repair_a_data_directory(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    engine = godb_arrow.StorageEngine(folder)
    engine.create_collection("c").insert_many([{"n": n} for n in range(5)])
    engine.insert("c", {"n": 5})
    engine.close(discard=True)
    valid = run("verify", folder)
    assert valid.returncode == 0, valid.stderr
    assert "valid" in valid.stdout
    assert "the journal is valid, 3 changes" in run("repair", folder).stdout
    path = max((folder / "journal").iterdir(), key=lambda one: one.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    found = run("verify", folder)
    assert found.returncode == 1
    assert f"{path.name}, byte" in found.stderr
    repaired = run("repair", folder)
    assert repaired.returncode == 1
    assert path.name in repaired.stderr
    assert "2 changes kept" in repaired.stdout
    assert run("verify", folder).returncode == 0
    with godb_arrow.StorageEngine(folder) as engine:
        assert len(engine["c"]) == 5
    for command in ("verify", "repair"):
        missing = run(command, tmp_path / "dta")
        assert missing.returncode == 2
    assert not (tmp_path / "dta").exists()


def test_errors_are_one_line_and_exit_status_2(users: Path, tmp_path: Path) -> None:
    for arguments in (
        ("info", tmp_path / "nowhere.godb"),
        ("head", users, "--columns", "nope"),
        ("cat", users, "-c", "nope"),
        ("export", users, tmp_path / "x.docx"),
        ("export", users, tmp_path / "x.csv", "--where", "age"),
        ("import", tmp_path / "gone.csv", tmp_path / "y.godb"),
    ):
        found = run(*arguments)
        assert found.returncode == 2, arguments
        assert len(found.stderr.splitlines()) == 1
        assert found.stderr.startswith("godb-arrow: ")
    assert run("frobnicate").returncode == 2


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    found = run_program("info", tmp_path / "nowhere.godb", "--debug")
    assert found.returncode != 0
    assert "Traceback" in found.stderr
    assert "SourceNotFound" in found.stderr


def test_demo() -> None:
    found = run("demo")
    assert found.returncode == 0, found.stderr
    for text in ("27,004 documents", "record batches", "documents/s", "carrier", "the same"):
        assert text in found.stdout


def test_a_progress_bar_on_a_terminal_only(users: Path, tmp_path: Path) -> None:
    controlling, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run(
        [*PROGRAM, "export", str(users), str(tmp_path / "x.csv")], stderr=terminal, check=True
    )
    os.close(terminal)
    shown = os.read(controlling, 100_000).decode()
    os.close(controlling)
    assert done.returncode == 0
    assert "documents" in shown
    assert "%|" in shown


def test_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "a.ndjson", tmp_path / "shop.godb"
    source.write_text('{"_id": "a", "n": 1}\n{"_id": "b", "n": 2}\n')
    result = run("copy", str(source), f"{target}#orders")
    assert result.returncode == 0, result.stderr
    assert "2 documents" in result.stderr
    result = run("copy", f"{target}#orders", str(tmp_path / "o.parquet"), "-w", "n=2")
    assert "1 document" in result.stderr
    result = run("copy", str(source), f"{target}#orders")
    assert result.returncode == 2
    assert "exists already" in result.stderr
    result = run("copy", str(source), f"{target}#orders", "--if-exists", "upsert", "-q")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_each_command_has_help_and_is_documented(name: str) -> None:
    root = Path(__file__).parents[2]
    pages = [root / "README.md", *(root / "docs").glob("*.md")]
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.help
    assert any(f"godb-arrow {name}" in page.read_text() for page in pages)


def test_no_control_characters_of_documents_reach_a_terminal(tmp_path: Path) -> None:
    line = "all is well"
    evil = f"\x1b]0;owned\x07\x1b[2J\n{line}\x9b2J\x85{line}\u2028{line}\u202e\u2066\x7f\u200f"
    path = tmp_path / "x.godb"
    godb_arrow.write_godb([{evil: {evil: 1}, "a": evil}], path, "c")
    for command in (
        ["info", path], ["schema", path], ["head", path], ["cat", path], ["cat", "--plain", path],
        ["verify", path], ["head", path, "--columns", "\x1b[31mx"], ["info", f"{path}\x1b[31m"],
        ["schema", path, "-c", "\x1b[31mx"], ["cat", path, "-c", "\x9b31mx"],
        ["copy", path, "-"], ["copy", path, "-", "--columns", "a"],
    ):  # fmt: skip
        done = run(*command)
        printed = done.stdout + done.stderr
        assert printed
        assert all(c.isprintable() for line in printed.splitlines() for c in line), command
        assert not any(line.startswith("all is well") for line in printed.splitlines()), command
    lines = run("cat", path).stdout.encode()
    assert godb_arrow.read_ndjson(io.BytesIO(lines)).column("a").to_pylist() == [evil]


def test_an_import_follows_names_of_collections_and_data_directories(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,age\nAda,36\n")
    shop, data = tmp_path / "shop.godb", tmp_path / "data"
    with godb_arrow.StorageEngine(data) as engine:
        engine.create_collection("users").insert({"name": "Bob"})
    assert run("import", tmp_path / "a.csv", f"{shop}#people").returncode == 0
    assert godb_arrow.list_collections(shop) == {"people": 1}
    twice = run("import", tmp_path / "a.csv", f"{shop}#people", "-c", "users")
    assert twice.returncode == 2 and "name it once" in twice.stderr
    assert run("import", tmp_path / "a.csv", f"{data}#people").returncode == 0
    assert run("import", tmp_path / "a.csv", data, "--if-exists", "error").returncode == 0
    done = run("import", tmp_path / "a.csv", data, "-c", "users", "--if-exists", "append")
    assert "1 document in 'users'" in done.stderr
    assert godb_arrow.list_collections(data) == {"a": 1, "people": 1, "users": 2}
    assert run("import", tmp_path / "a.csv", data, "--if-exists", "error").returncode == 2
    assert (
        "set_compression" in run("import", tmp_path / "a.csv", data, "--compression", "zstd").stderr
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "data", "shop.godb"]


def test_head_shows_moments_after_the_year_9999(tmp_path: Path) -> None:
    path = tmp_path / "far.godb"
    far = pa.array([1 << 40], pa.timestamp("s"))
    godb_arrow.write_godb(pa.table({"x": far, "z": far.cast(pa.timestamp("s", "UTC"))}), path, "c")
    done = run("head", path)
    assert done.returncode == 0 and done.stdout.count("36812-02-20") == 2
    assert run("head", path, "-n", 1 << 70).returncode == 2
