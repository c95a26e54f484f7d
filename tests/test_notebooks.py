"""The notebooks run from top to bottom, and are committed with what they show."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from test_prose import _banned, _faults_of_prose, _paragraphs

LONG = os.environ.get("GODB_ARROW_LONG") == "1"
FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def read(name: str) -> Any:
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_there_are_seven() -> None:
    assert NOTEBOOKS == [
        "01_quickstart", "02_pandas_loading", "03_batch_etl", "04_exploration",
        "05_engine_internals", "06_backups_and_versions", "07_troubleshooting",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_committed_with_outputs(name: str) -> None:
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [one for one in outputs if one.output_type == "error"]
    pictures = [one for one in outputs if "image/png" in one.get("data", {})]
    assert pictures
    for picture in pictures:
        assert picture.metadata["image/png"]["alt"], "a text for screen readers"
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert not re.findall(r"/(?:tmp|home|root|work)/[a-z]", text), "no paths of a machine"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_its_prose_follows_the_rules(name: str) -> None:
    text = "\n\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    assert [*_faults_of_prose(text, 1), *_banned(_paragraphs(text, 1))] == []


@pytest.mark.parametrize(
    "names",
    [[name] for name in NOTEBOOKS] if LONG else [NOTEBOOKS[::2], NOTEBOOKS[1::2]],
    ids=" ".join,
)
def test_they_run(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Several in one process, which takes longer to start than most notebooks."""
    nbclient = pytest.importorskip("nbclient")
    for needed in ("ipykernel", "matplotlib", "duckdb", "polars", "moto", "s3fs", "deltalake"):
        pytest.importorskip(needed)
    from jupyter_client.manager import KernelManager
    from nbformat import v4

    monkeypatch.setenv("GODB_ARROW_NOTEBOOK_SCALE", "1" if LONG else "0.05")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(cwd=str(FOLDER))
    try:
        for name in names:
            notebook = read(name)
            notebook.cells.insert(0, v4.new_code_cell("%reset -f"))
            client = nbclient.NotebookClient(notebook, km=kernel, timeout=600)
            try:
                client.execute()
            except nbclient.exceptions.CellExecutionError as error:
                error.add_note(f"in {name}")
                raise
            client.kc.stop_channels()
    finally:
        kernel.shutdown_kernel(now=True)
