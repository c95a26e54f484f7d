"""Draw the pictures of the documentation: the flow of data, and charts of measured results.

    python tools/charts.py

Charts are drawn from the JSON files in docs/results, which the programs in tests/benchmarks write
with --json. Each picture is an SVG in two forms, for light and for dark pages.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"

_ROW_INCHES = 0.3
_MAX_LINEAR_RATIO = 15.0  # above which a panel has a logarithmic axis


@dataclass(frozen=True)
class Theme:
    """Colours of the pictures for one kind of page."""

    name: str
    text: str
    line: str
    box: str
    ours: str
    peer: str


THEMES = (
    Theme("light", "#1f2328", "#6e7781", "#eef2f8", "#3949ab", "#b0b7c3"),
    Theme("dark", "#e6edf3", "#9198a1", "#2a3040", "#8c9eff", "#59616d"),
)


@dataclass(frozen=True)
class Panel:
    """Comparison in a chart: a row of a file of results, with the peers to show.

    `peers` maps names in the results to labels; None shows all under their own names.
    """

    file: str
    row: str
    title: str
    peers: dict[str, str] | None = None
    unit: str = "documents"


_READERS = {
    "godb_arrow": "godb_arrow",
    "DuckDB read_json": "DuckDB, NDJSON",
    "pyarrow.json.read_json": "pyarrow, NDJSON",
    "polars.read_ndjson": "Polars, NDJSON",
}
_TO_PANDAS = {
    "godb_arrow.read_godb": "godb_arrow",
    "polars to pandas": "Polars to pandas",
    "pandas.read_json(lines=True)": "pandas.read_json",
}
_WAYS = {
    "pushed down": "godb_arrow, pushed down",
    "through a full table": "godb_arrow, full table",
    "on NDJSON": "NDJSON",
}


CHARTS: dict[str, list[Panel]] = {
    "read": [
        Panel("read_write", "File to Arrow table, nested", "file to Arrow table", _READERS),
        Panel("read_write", "File to pandas, nested", "file to pandas", _TO_PANDAS),
    ],
    "read_and_write": [
        Panel("read_write", "File to Arrow table, flat", "flat documents to Arrow"),
        Panel("read_write", "File to Arrow table, nested", "nested documents to Arrow"),
        Panel("read_write", "File to pandas, nested", "nested documents to pandas"),
        Panel("read_write", "Table to file, nested", "nested table to file"),
    ],
    "queries": [
        Panel("copy_and_query", "Polars, here and there, from a file", "Polars, scattered", _WAYS),
        Panel("copy_and_query", "Polars, in one place, from a file", "Polars, clustered", _WAYS),
        Panel("copy_and_query", "DuckDB, here and there, from a file", "DuckDB, scattered", _WAYS),
        Panel("copy_and_query", "DuckDB, in one place, from a file", "DuckDB, clustered", _WAYS),
    ],
    "engine": [
        Panel("engine", "Insert 10,000 documents one by one, 1 thread", "insert one by one"),
        Panel("engine", "Insert 10,000 documents one by one, 1 thread, synced", "insert, synced"),
        Panel("engine", "Get documents by id, of 1,000,000", "get by id", unit="times"),
        Panel(
            "engine",
            "Find by a field with an index, of 1,000,000",
            "find by an index",
            unit="times",
        ),
        Panel(
            "engine",
            "Find by a field without an index, of 1,000,000",
            "find without an index",
            unit="times",
        ),
        Panel("engine", "Stream 1,000,000 documents as record batches", "stream record batches"),
    ],
    "cache": [
        Panel("engine", "Cache: 0% puts", "cache, gets only", unit="operations"),
        Panel("engine", "Cache: 10% puts", "cache, a tenth puts", unit="operations"),
        Panel("engine", "Cache: 50% puts", "cache, half puts", unit="operations"),
    ],
}


def draw(name: str, panels: Sequence[Panel], results: Path, target: Path, theme: Theme) -> None:
    """Draw one chart: a panel of bars for each comparison, with our time as 1."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    shown = [(panel, *_runs_of(panel, results)) for panel in panels]
    heights = [len(runs) + 1.5 for _, runs, _ in shown]
    style = {
        "svg.fonttype": "none", "svg.hashsalt": "godb_arrow", "font.family": "sans-serif",
        "font.size": 10, "text.color": theme.text, "axes.labelcolor": theme.text,
        "xtick.color": theme.line, "ytick.color": theme.text, "axes.edgecolor": theme.line,
    }  # fmt: skip
    with plt.rc_context(style):
        figure, axes = plt.subplots(
            len(shown), 1, figsize=(7.5, _ROW_INCHES * sum(heights)), squeeze=False,
            gridspec_kw={"height_ratios": heights}, layout="constrained",
        )  # fmt: skip
        for axis, (panel, runs, documents) in zip(axes[:, 0], shown, strict=True):
            scale = " (logarithmic)" if _bars(axis, runs, theme) else ""
            axis.set_title(f"{panel.title}, {documents:,} {panel.unit}{scale}", loc="left",
                           fontsize=10, color=theme.text)  # fmt: skip
        path = target / f"{name}-{theme.name}.svg"
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def _runs_of(panel: Panel, results: Path) -> tuple[list[tuple[str, float, float]], int]:
    """Return label, ratio and seconds of each peer, and the number of documents."""
    rows: list[dict[str, Any]] = json.loads((results / f"{panel.file}.json").read_text())
    (row,) = [row for row in rows if row["row"] == panel.row]
    runs = [
        (panel.peers[run["peer"]] if panel.peers else run["peer"], run["of"], run["seconds"])
        for run in row["runs"]
        if panel.peers is None or run["peer"] in panel.peers
    ]
    return runs, row["documents"]


def _bars(axis: Any, runs: list[tuple[str, float, float]], theme: Theme) -> bool:
    """Draw the bars of a panel; return whether its axis is logarithmic."""
    labels = [label for label, _, _ in runs]
    ratios = [ratio for _, ratio, _ in runs]
    colors = [theme.ours if label.startswith("godb_arrow") else theme.peer for label in labels]
    # A logarithmic bar begins at its axis, which is below the smallest ratio.
    logarithmic = max(ratios) / min(ratios) > _MAX_LINEAR_RATIO
    axis.barh(range(len(runs)), ratios, color=colors, height=0.7)
    axis.set_yticks(range(len(runs)), labels)
    axis.invert_yaxis()
    if logarithmic:
        axis.set_xscale("log")
        axis.set_xlim(min(ratios) / 2, max(ratios) * 2.5)
    else:
        axis.set_xlim(0, max(ratios) * 1.25)
    for row, (_, ratio, seconds) in enumerate(runs):
        shown = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
        axis.annotate(f"{shown} × ({seconds:.2g} s)", (ratio, row), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    axis.set_xticks([])
    axis.minorticks_off()
    axis.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    return bool(logarithmic)


_FLOW = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 316" role="img"
     font-family="system-ui, sans-serif" font-size="15" text-anchor="middle" fill="{text}">
<title>Flow of data</title>
<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"
 orient="auto"><path d="M0 0L10 5L0 10z" fill="{line}"/></marker></defs>
<g fill="{box}" stroke="{line}">
<rect x="20" y="10" width="270" height="52" rx="8"/>
<rect x="20" y="120" width="270" height="56" rx="8"/>
<rect x="400" y="120" width="150" height="56" rx="8"/>
<rect x="20" y="244" width="530" height="60" rx="8"/>
<rect x="640" y="120" width="240" height="56" rx="8"/>
<rect x="640" y="10" width="240" height="52" rx="8"/>
</g>
<g stroke="{line}" stroke-width="1.6" fill="none" marker-end="url(#a)">
<path d="M155 62V118"/><path d="M290 148H398"/><path d="M155 176V242"/>
<path d="M550 274H760V178"/><path d="M760 120V64"/>
</g>
<text x="155" y="42">dicts, DataFrames, record batches</text>
<text x="155" y="143" font-weight="600">changes, as documents</text>
<text x="155" y="164" font-size="13">in memory, visible at once</text>
<text x="475" y="143" font-weight="600">journal</text>
<text x="475" y="164" font-size="13">survives a crash</text>
<text x="285" y="270" font-weight="600">GODB files</text>
<text x="285" y="291" font-size="13">MessagePack in LZ4, in pieces with checksums</text>
<text x="760" y="143" font-weight="600">record batches</text>
<text x="760" y="164" font-size="13">of one snapshot</text>
<text x="760" y="33">pandas, Polars, DuckDB,</text>
<text x="760" y="52">Dask, Spark, Flight, …</text>
<g font-size="13" fill="{line}">
<text x="166" y="94" text-anchor="start">encode</text>
<text x="344" y="139">append</text>
<text x="166" y="206" text-anchor="start">save: unmodified documents</text>
<text x="166" y="224" text-anchor="start">are copied byte for byte</text>
<text x="748" y="214" text-anchor="end">decode only the columns</text>
<text x="748" y="232" text-anchor="end">and documents that are needed</text>
<text x="771" y="94" text-anchor="start">Arrow streams</text>
</g>
</svg>
"""


def draw_flow(target: Path, theme: Theme) -> None:
    """Draw the flow of data."""
    text = _FLOW.format(text=theme.text, line=theme.line, box=theme.box)
    (target / f"flow-{theme.name}.svg").write_text(text, encoding="utf-8")


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=DOCS / "results")
    parser.add_argument("--images", type=Path, default=DOCS / "images")
    options = parser.parse_args()
    options.images.mkdir(parents=True, exist_ok=True)
    for theme in THEMES:
        draw_flow(options.images, theme)
        for name, panels in CHARTS.items():
            draw(name, panels, options.results, options.images, theme)


if __name__ == "__main__":
    main()
