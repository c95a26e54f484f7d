"""Documents beside their peers: whole commands and libraries, each in a process of its own.

    python tests/benchmarks/documents.py [--rows N] [--repeat N] [--only WORDS] [--json FILE]
                                         [--peers FOLDER] [--check]

A run takes the time from the start of a process to its end, the imports included. Runs of the peers
alternate, so that other load of the machine affects all of them. A peer that is not installed is
skipped, and named. ``--peers`` is a folder of further packages, from ``pip install --target``.

The results are medians: seconds, seconds of the processor, peak MiB, and the ratio "of", which is
the time of a peer divided by ours. ``--check`` exits with 1 if a ratio misses its target.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FEW_ROWS = 20_000  # in continuous integration
_GODB_ARROW = "from godb_arrow.cli.command import main; main(prog_name='godb-arrow')"
_OURS = "godb_arrow"


@dataclass
class Run:
    """Program of one peer: Python code with arguments.

    `needs` are the packages that the code imports. `output` is a file for what it prints, and
    `created` a file that is deleted before each run.
    """

    peer: str
    code: str
    arguments: list[str] = field(default_factory=list)
    needs: tuple[str, ...] = ()
    output: Path | None = None
    created: Path | None = None
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    peak_mebibytes: list[float] = field(default_factory=list)

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def start(self) -> None:
        """Run the program once, and note what it took."""
        if self.created is not None:
            self.created.unlink(missing_ok=True)
        with open(self.output or os.devnull, "wb") as output:
            started = time.perf_counter()
            program = subprocess.Popen(
                [sys.executable, "-c", self.code, *self.arguments], stdout=output
            )
            _, status, usage = os.wait4(program.pid, 0)
            seconds = time.perf_counter() - started
            program.returncode = os.waitstatus_to_exitcode(status)
        if program.returncode:
            raise SystemExit(f"{self.peer} failed: {self.arguments}")
        self.seconds.append(seconds)
        self.processor_seconds.append(usage.ru_utime + usage.ru_stime)
        self.peak_mebibytes.append(usage.ru_maxrss / 1024)


@dataclass
class Comparison:
    """Row of the table: our run, the peers', and what must be reached.

    `target` is the min ratio to the fastest peer, `seconds` the max time; None for no condition.
    """

    name: str
    ours: Run
    peers: list[Run] = field(default_factory=list)
    documents: int = 0
    target: float | None = None
    seconds: float | None = None


@dataclass
class Files:
    """Files that the rows read, and a folder for what they write."""

    folder: Path
    rows: int
    made: dict[str, dict[str, str]]

    def of(self, shape: str, kind: str) -> str:
        return self.made[shape][kind]

    def target(self, name: str) -> str:
        return str(self.folder / name)


def make_files(folder: Path, shape: str, rows: int) -> dict[str, str]:
    """Make the files of a shape; another process imports what that needs, for honest peaks."""
    code = (
        "import json, sys; from pathlib import Path; from data import make_files; "
        "made = make_files(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])); "
        "print(json.dumps({kind: str(path) for kind, path in made.items()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), shape, str(rows)],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": _with_path(str(Path(__file__).parent))},
    )
    made: dict[str, str] = json.loads(done.stdout)
    return made


def _with_path(folder: str) -> str:
    return os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), folder]))


Row = Callable[[Files], Iterator[Comparison]]
ROWS: list[Row] = []
"""Functions that yield rows of the table; add one with ``@ROWS.append``."""


def command(*arguments: str, output: Path | None = None, created: Path | None = None) -> Run:
    """Return a run of the command ``godb-arrow``."""
    return Run(_OURS, _GODB_ARROW, list(arguments), output=output, created=created)


def polars(code: str, *arguments: str) -> Run:
    return Run("Polars", f"import sys, polars as pl; {code}", list(arguments), ("polars",))


def duckdb(code: str, *arguments: str) -> Run:
    return Run("DuckDB", f"import sys, duckdb; duckdb.sql({code})", list(arguments), ("duckdb",))


@ROWS.append
def ndjson_to_godb(files: Files) -> Iterator[Comparison]:
    for shape in ("flat", "nested"):
        source, target = files.of(shape, "ndjson"), files.target("imported")
        yield Comparison(
            f"NDJSON → GODB, {shape}",
            command("import", "-q", source, f"{target}.godb", created=Path(f"{target}.godb")),
            [
                polars(
                    "pl.read_ndjson(sys.argv[1]).write_parquet(sys.argv[2])",
                    source,
                    f"{target}-{shape}-polars.parquet",
                ),
                duckdb(
                    "f\"copy (from read_ndjson('{sys.argv[1]}')) to '{sys.argv[2]}'\"",
                    source,
                    f"{target}-{shape}-duckdb.parquet",
                ),
            ],
            files.rows,
            target=1,
        )


@ROWS.append
def godb_to_ndjson(files: Files) -> Iterator[Comparison]:
    for shape in ("flat", "nested"):
        source, target = files.of(shape, "godb"), files.target("exported.ndjson")
        parquet = files.target(f"imported-{shape}")
        peers = [
            polars(
                "pl.read_parquet(sys.argv[1]).write_ndjson(sys.argv[2])",
                f"{parquet}-polars.parquet",
                target,
            ),
            duckdb(
                "f\"copy (from '{sys.argv[1]}') to '{sys.argv[2]}' (format json)\"",
                f"{parquet}-duckdb.parquet",
                target,
            ),
        ]
        yield Comparison(
            f"GODB → NDJSON (export), {shape}",
            command("export", "-q", source, target),
            peers,
            files.rows,
            target=1,
        )
        yield Comparison(
            f"GODB → NDJSON (cat), {shape}",
            command("cat", "-q", source, output=Path(target)),
            documents=files.rows,
        )


@ROWS.append
def verify(files: Files) -> Iterator[Comparison]:
    for shape, seconds in (("flat", 0.5), ("nested", 1.0)):
        yield Comparison(
            f"verify, {shape}",
            command("verify", "-q", files.of(shape, "godb")),
            documents=files.rows,
            seconds=seconds,
        )


@ROWS.append
def start(files: Files) -> Iterator[Comparison]:
    yield Comparison("godb-arrow --version", command("--version"), seconds=0.2)
    small = make_files(files.folder, "flat", 100)["godb"]
    yield Comparison("head of a small file", command("head", small), seconds=0.3)


def measure(comparison: Comparison, repeat: int) -> dict[str, Any]:
    """Run our program and the peers in turn; return the medians."""
    skipped = {run.peer: run.missing() for run in comparison.peers if run.missing()}
    runs = [comparison.ours, *(run for run in comparison.peers if run.peer not in skipped)]
    for _ in range(repeat):
        for run in runs:
            run.start()
    ours = statistics.median(comparison.ours.seconds)
    found: dict[str, Any] = {
        "row": comparison.name,
        "documents": comparison.documents,
        "runs": [
            {
                "peer": run.peer,
                "seconds": round(statistics.median(run.seconds), 3),
                "processor_seconds": round(statistics.median(run.processor_seconds), 3),
                "peak_mebibytes": round(max(run.peak_mebibytes)),
                "of": round(statistics.median(run.seconds) / ours, 2),
            }
            for run in runs
        ],
        "skipped": skipped,
    }
    ratios = [run["of"] for run in found["runs"][1:]]
    found["reached"] = (
        comparison.target is None or not ratios or min(ratios) >= comparison.target
    ) and (comparison.seconds is None or ours <= comparison.seconds)
    return found


def show(found: dict[str, Any]) -> None:
    print(f"\n{found['row']}{'' if found['reached'] else '  (below its target)'}\n")
    print("| | seconds | of | processor seconds | documents/s | peak MiB |")
    print("|---|---:|---:|---:|---:|---:|")
    for run in found["runs"]:
        rate = f"{found['documents'] / run['seconds']:,.0f}" if found["documents"] else ""
        print(
            f"| {run['peer']} | {run['seconds']:.3f} | {run['of']:.2f} "
            f"| {run['processor_seconds']:.3f} | {rate} | {run['peak_mebibytes']} |",
            flush=True,
        )
    for peer, missing in found["skipped"].items():
        print(f"\n{peer} is skipped: {', '.join(missing)} is not installed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=_FEW_ROWS, help="documents in each file")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each program")
    parser.add_argument("--only", default="", help="rows whose name has all these words")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--peers", help="folder of further packages")
    parser.add_argument("--folder", type=Path, help="folder of the files, kept for the next run")
    parser.add_argument("--check", action="store_true", help="fail if a target is missed")
    options = parser.parse_args()
    if options.peers:
        sys.path.append(options.peers)
        os.environ["PYTHONPATH"] = _with_path(options.peers)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        made = {shape: make_files(folder, shape, options.rows) for shape in ("flat", "nested")}
        files = Files(folder, options.rows, made)
        results = []
        for row in ROWS:
            for comparison in row(files):
                if all(word in comparison.name for word in options.only.split()):
                    results.append(measure(comparison, options.repeat))
                    show(results[-1])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if options.check and not all(found["reached"] for found in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
