"""Datasets of collections: every method of pyarrow's works, whichever side reads."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from pyarrow import acero
from support.settings import LONG

import godb_arrow
from godb_arrow.query.dataset import CollectionDataset

ROWS = [{"n": n, "s": str(n % 7)} for n in range(100)]
OTHER = pa.table({"s": ["1", "2"], "v": [10, 20]})


@pytest.fixture
def dataset(tmp_path: Path) -> CollectionDataset:
    godb_arrow.write_godb(ROWS, tmp_path / "c.godb", "c")
    return godb_arrow.open_godb((tmp_path / "c.godb").read_bytes()).to_dataset()


def numbers(found: Any) -> list[int]:
    table = found if isinstance(found, pa.Table) else found.to_table()
    return sorted(table["n"].to_pylist())


SOME = pc.field("n") > 90
PROCESSES = 60 if LONG else 1

SCANS_AND_EXIT = """
import io, godb_arrow, pyarrow.dataset as ds

def scan(rows):
    file = io.BytesIO()
    godb_arrow.write_godb([{"n": n} for n in range(rows)], file, "c")
    dataset = godb_arrow.open_godb(file.getvalue()).to_dataset()
    dataset.join(dataset, "n")
    dataset.filter(ds.field("n") > 3).sort_by("n")
    dataset.to_table(columns={"m": ds.field("n")})
    return dataset

dataset = scan(10)
scan(20)
"""
LAST = list(range(91, 100))


def test_filters_and_projections(dataset: CollectionDataset) -> None:
    few = dataset.filter(SOME)
    assert numbers(few) == LAST
    assert few.count_rows() == few.count_rows(SOME) == 9
    assert numbers(few.filter(pc.field("s") == "1")) == [92, 99]
    assert numbers(few.to_table(filter=pc.field("n") < 95)) == [91, 92, 93, 94]
    assert few.head(2).num_rows == 2
    assert few.take([0, 8])["n"].to_pylist() == [91, 99]
    doubled = dataset.to_table(columns={"m": pc.field("n") * 2, "k": pc.field("s")}, filter=SOME)
    assert doubled["m"].to_pylist() == [2 * n for n in LAST]
    assert dataset.to_table(columns={"one": pc.scalar(1)}).num_rows == 100
    assert dataset.to_table(columns=[]).num_rows == 100
    assert sum(len(batch) for batch in dataset.to_batches(batch_size=10)) == 100


def test_scans_of_arrow_itself(dataset: CollectionDataset) -> None:
    assert dataset.join(ds.dataset(OTHER), "s").to_table().num_rows == 100
    joined = dataset.filter(SOME).join(ds.dataset(OTHER), "s", join_type="inner")
    assert numbers(joined.to_table()) == [92, 93, 99]
    ordered = dataset.filter(SOME).sort_by([("n", "descending")]).to_table()
    assert ordered["n"].to_pylist() == LAST[::-1]
    assert ds.dataset([dataset, dataset]).to_table().num_rows == 200
    assert numbers(ds.dataset([dataset.filter(SOME)]).to_table()) == LAST
    assert dataset.replace_schema(dataset.schema).to_table().num_rows == 100
    assert ds.Scanner.from_dataset(dataset, filter=SOME).to_table().num_rows == 9
    scan = acero.Declaration("scan", acero.ScanNodeOptions(dataset))
    assert scan.to_table().num_rows == 100
    assert str(dataset.partition_expression) == "true"


def test_fragments(dataset: CollectionDataset) -> None:
    (fragment,) = dataset.filter(SOME).get_fragments()
    assert fragment.physical_schema.equals(dataset.schema)
    assert numbers(fragment.to_table()) == numbers(fragment.scanner().to_table()) == LAST
    assert fragment.count_rows() == 9
    assert fragment.head(1).num_rows == fragment.take([0]).num_rows == 1
    assert sum(len(batch) for batch in fragment.to_batches()) == 9
    assert str(fragment.partition_expression) == "true"


def test_copies_by_pickle(dataset: CollectionDataset) -> None:
    copied = pickle.loads(pickle.dumps(dataset.filter(SOME)))
    assert numbers(copied) == LAST
    assert "CollectionDataset" in repr(copied)


def test_written_as_parquet(dataset: CollectionDataset, tmp_path: Path) -> None:
    ds.write_dataset(dataset, tmp_path / "parquet", format="parquet")
    assert numbers(ds.dataset(tmp_path / "parquet")) == list(range(100))


@pytest.mark.parametrize("process", range(PROCESSES))
def test_processes_end_while_arrow_drops_a_scan(process: int) -> None:
    subprocess.run([sys.executable, "-c", SCANS_AND_EXIT], check=True, capture_output=True)
