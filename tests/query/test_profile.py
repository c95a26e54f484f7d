"""Profiles of fields of every type, and what they say of values and their counts."""

from __future__ import annotations

import io
import math

import numpy as np
import pyarrow as pa
import pytest
from support.arrow_types import columns

import godb_arrow
from godb_arrow.query.profile import Profile

UNSTORED = ("month_day_nano_interval", "dense union", "map of numbers")
COLUMNS = {name: column for name, column in columns() if name.split(", ")[0] not in UNSTORED}


def profile_of(table: pa.Table) -> Profile:
    file = io.BytesIO()
    godb_arrow.write_godb(table, file, "c")
    return godb_arrow.open_godb(file.getvalue(), batch_size=4096).profile()


@pytest.mark.parametrize("part", range(8))
def test_a_profile_never_fails_for_a_type(part: int) -> None:
    for name in list(COLUMNS)[part::8]:
        column = COLUMNS[name]
        profile = profile_of(pa.table({"x": column, "n": range(len(column))}))
        assert profile["n"].max == len(column) - 1, name
        assert "≈" not in repr(profile)
        assert profile._repr_html_()
        assert len(profile.to_pandas()) == len(profile)


def test_plots_of_every_type() -> None:
    pytest.importorskip("matplotlib")
    plain = {name: column for name, column in COLUMNS.items() if name.endswith(", plain")}
    table = pa.table({name: pa.concat_arrays([column] * 9)[:3] for name, column in plain.items()})
    assert profile_of(table).plot().axes


def test_values_that_datetime_cannot_hold() -> None:
    far = pa.array([2**40, 0, None], pa.int64())
    profile = profile_of(pa.table({"t": far.cast(pa.timestamp("s"))}))
    assert profile["t"].max == np.datetime64(2**40, "s")
    assert profile["t"].min == np.datetime64(0, "s")
    assert profile["t"].histogram is not None


def test_distinct_counts_are_bounded_and_marked_as_estimates() -> None:
    count = 3_000
    profile = profile_of(
        pa.table({"unique": range(count), "reals": np.linspace(0, 1, count), "few": [1] * count})
    )
    for name in ("unique", "reals"):
        assert profile[name].is_estimate
        assert 0.8 * count < (profile[name].distinct or 0) <= count
    assert (profile["few"].distinct, profile["few"].is_estimate) == (1, False)
    assert "≈" in repr(profile)
    assert "≈" in profile._repr_html_()


def test_bins_of_whole_numbers_have_as_many_values_each() -> None:
    numbers = np.repeat(np.arange(100, 173), 5)
    counts, edges = profile_of(pa.table({"n": numbers}))["n"].histogram or ([], [])
    assert sum(counts) == len(numbers)
    assert len(set(counts[:-1])) == 1  # no false gaps
    assert set(np.diff(edges)) == {edges[1] - edges[0]}


def test_numbers_of_few_values_are_bars_in_their_order() -> None:
    pytest.importorskip("matplotlib")
    profile = profile_of(pa.table({"stars": [5, 5, 5, 1, 4, 4], "many": range(6)}))
    assert profile["stars"].has_few_values
    (stars,) = [axis for axis in profile.plot().axes if axis.get_title(loc="left")[:5] == "stars"]
    assert [label.get_text() for label in stars.get_yticklabels()] == ["1", "4", "5"]
    assert not profile_of(pa.table({"n": range(50)}))["n"].has_few_values


def test_not_a_number_is_one_value() -> None:
    profile = profile_of(pa.table({"x": [math.nan] * 5_000 + [1.0]}))
    value, count = profile["x"].top[0]
    assert math.isnan(value)
    assert count == 5_000
    assert (profile["x"].distinct, profile["x"].min) == (2, 1.0)


def test_constants_and_unique_texts_are_sentences_and_no_bars() -> None:
    pytest.importorskip("matplotlib")
    ids = [f"id {n}" for n in range(500)]
    profile = profile_of(pa.table({"year": [2013] * 500, "key": ids, "n": [1, 2] * 250}))
    figure = profile.plot()
    year, key, n = figure.axes[:3]
    assert year.texts[0].get_text() == "2013\nin all 500 documents that have it"
    assert key.texts[0].get_text() == "500 different values"
    assert n.get_xlabel() == "documents"
    picture, metadata = figure._repr_png_()  # type: ignore[attr-defined]
    assert picture.startswith(b"\x89PNG") and "year, key, n" in metadata["alt"]
