"""A source tree without the compiled kernel says so when it is imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_CODE = "import godb_arrow; print(godb_arrow.codec.BACKEND)"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose kernel was not compiled."""
    folder = tmp_path_factory.mktemp("clone")
    no_kernel = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(ROOT / "godb_arrow", folder / "godb_arrow", ignore=no_kernel)
    shutil.copy(ROOT / "setup.py", folder)
    return folder


def start(tree: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    names = ("PYTHONPATH", "GODB_ARROW_CODEC")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        [sys.executable, "-c", _CODE], cwd=tree, env={**environment, **variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip


def test_a_tree_without_the_kernel_warns(tree: Path) -> None:
    done = start(tree)
    assert done.stdout == "reference\n"
    assert "without the compiled kernel" in done.stderr and "pip install -e ." in done.stderr
    assert str(tree) in done.stderr


def test_a_codec_that_was_chosen_does_not_warn(tree: Path) -> None:
    assert start(tree, GODB_ARROW_CODEC="reference").stderr == ""


def test_an_installed_package_without_the_kernel_does_not_warn(tree: Path) -> None:
    (tree / "setup.py").unlink()
    assert start(tree).stderr == ""
