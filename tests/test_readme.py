"""The README's examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in BLOCKS if "StorageEngine(" in block)
    names = {"df": pd.DataFrame({"name": ["Bob"], "age": [41]})}
    exec(compile(code, "README.md", "exec"), names)
    assert names["frame"]["age"].tolist() == [41, 37]
    assert [path.name for path in (tmp_path / "data" / "collections").iterdir()] == ["users.godb"]
