"""Commands import only what they use, so that they start quickly."""

from __future__ import annotations

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
    print(*sorted(set(sys.modules) & set({names})), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["--version"], ["numpy", "pyarrow", "msgpack", "godb_arrow.codec"]),
        (["head", "FILE"], ["pandas", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet",
                            "godb_arrow.engine.engine", "godb_arrow.snapshots", "tqdm", "fsspec"]),
        (["cat", "FILE"], ["pandas", "pyarrow.compute", "pyarrow.parquet",
                           "godb_arrow.engine.engine"]),
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
    )
    assert done.stderr.split() == []
    assert done.stdout
