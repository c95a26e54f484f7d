"""Python code in other processes, which may crash."""

from __future__ import annotations

import os
import subprocess
import sys


def run_python(
    code: str, *arguments: object, backend: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code with arguments, and with a codec if one is named; return status and output."""
    environment = dict(os.environ)
    if backend is not None:
        environment["GODB_ARROW_CODEC"] = backend
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment, check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
