"""How the kernel is compiled, and what CI installs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from godb_arrow.codec import native

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF files")


def _readelf(*options: str) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    path = native._native.__file__
    assert path is not None
    return subprocess.run(
        ["readelf", *options, path], capture_output=True, text=True, check=True
    ).stdout


def test_the_kernel_is_hardened() -> None:
    symbols = _readelf("--dyn-syms", "--wide")
    assert "__stack_chk_fail" in symbols
    assert re.search(r"__(memcpy|memmove|memset|snprintf|printf|read)_chk", symbols)
    assert "GNU_RELRO" in _readelf("--program-headers", "--wide")
    assert "NOW" in _readelf("--dynamic", "--wide")
    stack = next(line for line in _readelf("-lW").splitlines() if "GNU_STACK" in line)
    assert "RWE" not in stack


def test_ci_installs_locked_versions() -> None:
    """All packages that the project names are locked, at versions that it allows."""
    locked = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    text = (ROOT / "pyproject.toml").read_text()
    needed = re.findall(r'"([A-Za-z0-9-]+)(?:\[[a-z]+\])?>=([0-9.]+)', text)
    assert len(needed) > 20
    for name, least in needed:
        if name.lower() in locked:
            version = [int(one) for one in re.findall(r"\d+", locked[name.lower()])[:3]]
            assert version >= [int(one) for one in least.split(".")], name
    for name in ("pyarrow", "msgpack", "lz4", "pandas", "xxhash", "filelock", "fsspec", "click"):
        assert name in locked
