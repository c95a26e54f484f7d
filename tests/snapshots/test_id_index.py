"""Files that lead from ids to rows: read alike by both codecs."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.processes import run_python

WRITE = """
import sys, godb_arrow
with godb_arrow.StorageEngine(sys.argv[1]) as engine:
    users = engine.create_collection("users")
    users.insert_many([{"n": n} for n in range(10)])
    users.to_folder()
"""

READ = """
import sys, godb_arrow
with godb_arrow.StorageEngine(sys.argv[1]) as engine:
    users = engine["users"]
    assert users.get("3") == {"_id": "3", "n": 2}
    try:
        users.insert({"_id": "3"})
    except godb_arrow.DuplicateId:
        sys.exit()
    raise AssertionError("an id occurs twice")
"""


@pytest.mark.parametrize(("writer", "reader"), [("native", "reference"), ("reference", "native")])
def test_a_codec_finds_the_ids_that_the_other_wrote(
    tmp_path: Path, writer: str, reader: str
) -> None:
    assert run_python(WRITE, tmp_path, backend=writer).returncode == 0
    assert run_python(READ, tmp_path, backend=reader).returncode == 0
