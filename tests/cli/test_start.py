"""Commands import only what they use, so that they start quickly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import godb_arrow

_CODE = """
import sys
from godb_arrow.cli.command import main
try:
    main(prog_name="godb-arrow")
finally:
    found = [name for name in {names} if name in sys.modules]
    print(*[n for n in found if "Deferred" not in type(sys.modules[n]).__name__], file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["--version"], ["numpy", "pyarrow", "msgpack", "godb_arrow.codec"]),
        (["head", "FILE"], ["pandas", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet",
                            "godb_arrow.engine.engine", "godb_arrow.snapshots", "tqdm", "fsspec"]),
        (["cat", "FILE"], ["pandas", "numpy", "pyarrow", "godb_arrow.engine.engine"]),
        (["export", "FILE", "out.ndjson"], ["numpy", "pyarrow", "godb_arrow.engine.engine"]),
        (["export", "FILE", "out.parquet"], ["pandas", "godb_arrow.engine.engine"]),
    ],
)  # fmt: skip
def test_a_command_imports_what_it_uses(
    arguments: list[str], unused: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "users.godb"
    godb_arrow.write_godb([{"name": "Ada", "tags": ["x"]}, {"name": "Bob"}], path, "users")
    given = [str(path) if argument == "FILE" else argument for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", _CODE.format(names=unused), *given],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stderr.splitlines()[-1] == ""
    assert done.stdout or list(tmp_path.glob("out.*"))


def test_a_large_file_is_written_as_json_without_numpy(tmp_path: Path) -> None:
    documents = [{"number": number, "text": "x" * 100} for number in range(20_000)]
    godb_arrow.write_godb(documents, tmp_path / "many.godb", "many")
    code = _CODE.format(names=["numpy", "pyarrow"])
    arguments = ["export", "many.godb", "out.ndjson"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, check=True, cwd=tmp_path
    )
    assert done.stderr.decode().splitlines()[-1] == ""
    lines = (tmp_path / "out.ndjson").read_text().splitlines()
    assert [*map(json.loads, lines)] == [
        {"_id": str(row + 1), **document} for row, document in enumerate(documents)
    ]


_RACE = """
import sys, threading
from godb_arrow.cli.deferred import defer
defer("{name}")
import {name} as module
start, found = threading.Barrier(8), []
def use():
    start.wait()
    try:
        found.append(module.answer())
    except Exception as error:
        found.append(type(error).__name__)
threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*found, type(module).__name__)
"""


def deferred(folder: Path, content: str) -> list[str]:
    """What eight threads find that use a deferred module at once, and the module's class."""
    (folder / "slow_module.py").write_text(content)
    done = subprocess.run(
        [sys.executable, "-c", _RACE.format(name="slow_module")],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
    )
    return done.stdout.split()


def test_threads_that_use_a_deferred_module_wait_for_it(tmp_path: Path) -> None:
    slow = "import time\ntime.sleep(0.05)\ndef answer():\n    return 42\n"
    assert deferred(tmp_path, slow) == [*["42"] * 8, "module"]


def test_a_deferred_module_that_fails_is_an_error_for_each_use(tmp_path: Path) -> None:
    found = deferred(tmp_path, "import a_module_that_is_missing\n")
    assert found == [*["ModuleNotFoundError"] * 8, "_DeferredModule"]
