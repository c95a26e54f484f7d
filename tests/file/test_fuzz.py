"""Damaged files: each variant reads correctly or raises a GodbError, in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.settings import examples

PROGRAM = Path(__file__).parents[1] / "fuzz" / "mutate.py"


def test_damaged_files_never_crash_hang_or_take_memory() -> None:
    count = examples(3_000, long=100_000)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(count), "7"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert sum(report["outcomes"].values()) == count
    assert report["outcomes"]["CorruptFile"] > count / 10
    assert report["outcomes"]["read"] > count / 100
    assert report["grown"] <= report["allowed"]


def test_the_two_codecs_agree_on_damaged_documents() -> None:
    pytest.importorskip("godb_arrow.codec.native")
    count = examples(2_000, long=100_000)
    program = PROGRAM.with_name("differential.py")
    done = subprocess.run(
        [sys.executable, str(program), str(count), "3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert sum(report.values()) == count
    assert report["decoded"] > count / 20


def test_the_corpus_holds() -> None:
    program = PROGRAM.with_name("oss_fuzz.py")
    done = subprocess.run(
        [sys.executable, str(program), "--replay"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 50
