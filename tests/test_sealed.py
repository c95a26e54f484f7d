"""Sealed artefacts with single changed fields, in a brief run of the fuzzer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.settings import examples

FUZZER = Path(__file__).parent / "fuzz" / "sealed.py"


@pytest.mark.parametrize("target", ["file", "parts", "journal", "backup", "flight"])
def test_readers_are_right_or_refuse(target: str) -> None:
    count = str(examples(100, long=20_000))
    done = subprocess.run(
        [sys.executable, str(FUZZER), target, count], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
