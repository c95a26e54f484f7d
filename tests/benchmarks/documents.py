"""Documents beside their peers: whole commands and libraries, each in a process of its own.

    python tests/benchmarks/documents.py [--rows N] [--repeat N] [--only WORDS] [--json FILE]
                                         [--peers FOLDER] [--check]

A run of a command takes the time from the start of a process to its end, the imports included. A
run of a library takes the time of its work, which :mod:`programs` measures in a process of its own.
Runs of the peers alternate, so that other load of the machine affects all of them. A peer that is
not installed is skipped, and named. ``--peers`` is a folder of further packages, from ``pip install
--no-deps --target FOLDER msgspec ormsgpack orjson lmdb pylance``.

The results are medians: seconds, seconds of the processor, peak MiB, and the ratios "of", which are
the times of a peer divided by ours. On a machine with other load, compare the times of the
processor. ``--check`` exits with 1 if a ratio misses its target.
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
_PROGRAMS = Path(__file__).with_name("programs.py")
_INSERTS = 20_000, 2_000  # at most, of single documents: synced from time to time, and each


@dataclass
class Run:
    """Program of one peer: Python code with arguments.

    `needs` are the packages that the code imports. `output` is a file for what it prints, and
    `created` a file that is deleted before each run. Without code, :mod:`programs` gets
    the arguments and prints the seconds.
    """

    peer: str
    code: str = ""
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
        start = ["-c", self.code] if self.code else [str(_PROGRAMS)]
        with tempfile.TemporaryFile() as printed, open(self.output or os.devnull, "wb") as output:
            started = time.perf_counter()
            program = subprocess.Popen(
                [sys.executable, *start, *self.arguments], stdout=output if self.code else printed
            )
            _, status, usage = os.wait4(program.pid, 0)
            seconds = time.perf_counter() - started
            used = usage.ru_utime + usage.ru_stime
            program.returncode = os.waitstatus_to_exitcode(status)
            if program.returncode:
                raise SystemExit(f"{self.peer} failed: {self.arguments}")
            if not self.code:
                printed.seek(0)
                seconds, used = map(float, printed.read().split()[-2:])
        self.seconds.append(seconds)
        self.processor_seconds.append(used)
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
    prepared: set[tuple[str, ...]] = field(default_factory=set)

    def prepare(self, *arguments: str) -> None:
        """Run a program that makes files, once."""
        if arguments not in self.prepared:
            subprocess.run(
                [sys.executable, str(_PROGRAMS), *arguments], check=True, stdout=subprocess.DEVNULL
            )
            self.prepared.add(arguments)

    def stores(self) -> tuple[str, str]:
        """Make collections of the engine, SQLite and LMDB; return the folder and their size."""
        folder, count = self.target(f"stores-{self.rows}"), str(self.rows)
        self.prepare("make_stores", folder, count)
        return folder, count

    def of(self, shape: str, kind: str) -> str:
        return self.made[shape][kind]

    def target(self, name: str) -> str:
        return str(self.folder / name)


def make_files(folder: Path, shape: str, rows: int) -> dict[str, str]:
    """Make the files of a shape; another process imports what that needs, for honest peaks."""
    code = (
        "import json, sys; from pathlib import Path; from data import make_files; "
        "made = make_files(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), shuffled=True); "
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


def ours(*arguments: str, name: str = _OURS) -> Run:
    """Return a run of a program of ours."""
    return Run(name, arguments=list(arguments))


def peer(name: str, needs: tuple[str, ...], *arguments: str) -> Run:
    """Return a run of a program of a peer."""
    return Run(name, arguments=list(arguments), needs=needs)


@ROWS.append
def stream(files: Files) -> Iterator[Comparison]:
    source = files.of("flat", "godb")
    decoders = ("msgspec", "ormsgpack", "msgpack")
    yield Comparison(
        "stream documents as dicts",
        ours("stream_godb_arrow", source),
        [peer(name, (name,), "stream_decoder", name, source) for name in decoders],
        files.rows,
        target=1.8,
    )


@ROWS.append
def insert_many(files: Files) -> Iterator[Comparison]:
    folder, count = files.target("inserted"), str(files.rows)
    yield Comparison(
        "insert_many of dicts",
        ours("insert_many_godb_arrow", folder, count),
        [peer("SQLite", (), "insert_many_sqlite", folder, count)],
        files.rows,
        target=4,
    )


@ROWS.append
def get(files: Files) -> Iterator[Comparison]:
    stores = files.stores()
    yield Comparison(
        f"get by id, of {files.rows:,}",
        ours("get_godb_arrow", *stores),
        [peer("SQLite", (), "get_sqlite", *stores)],
        20_000,
        target=3,
    )
    yield Comparison(
        f"get by id, of {files.rows:,}, beside LMDB",
        ours("get_godb_arrow", *stores),
        [peer("LMDB and msgspec", ("lmdb", "msgspec"), "get_lmdb", *stores)],
        20_000,
    )
    yield Comparison(f"first get, of {files.rows:,}", ours("get_godb_arrow_cold", *stores))


@ROWS.append
def find(files: Files) -> Iterator[Comparison]:
    stores = files.stores()
    sqlite = peer("SQLite", (), "find_sqlite", *stores)
    name = f"find by an index, of {files.rows:,}"
    yield Comparison(name, ours("find_godb_arrow", *stores), [sqlite], 2_000, target=1.5)
    sqlite = peer("SQLite", (), "find_range_sqlite", *stores)
    range_of_ours = ours("find_range_godb_arrow", *stores)
    yield Comparison(f"{name}, ranges with a limit", range_of_ours, [sqlite], 2_000, target=1.5)
    unsaved = ours("find_unsaved_godb_arrow", files.target("unsaved"), stores[1])
    sqlite = peer("SQLite", (), "find_sqlite", *stores)
    yield Comparison(f"{name}, before a save", unsaved, [sqlite], 2_000, target=1.5)


@ROWS.append
def insert(files: Files) -> Iterator[Comparison]:
    targets = {"interval": (1.5, 1.5), "commit": (1.0, 2.0)}
    peers = {"interval": "normal", "commit": "full"}
    folder = files.target("single")
    for (durability, reached), most in zip(targets.items(), _INSERTS, strict=True):
        count = str(min(files.rows, most))
        for threads, target in zip(("1", "4"), reached, strict=True):
            synchronous = peers[durability]
            arguments = folder, synchronous, threads, count
            yield Comparison(
                f'insert one by one, "{durability}", {threads} thread{"s"[: threads != "1"]}',
                ours("insert_godb_arrow", folder, durability, threads, count),
                [peer(f"SQLite {synchronous.upper()}", (), "insert_sqlite", *arguments)],
                int(count),
                target=target,
            )


@ROWS.append
def dumps(files: Files) -> Iterator[Comparison]:
    dump, target = files.target(f"flat-{files.rows}.bson"), files.target("copied")
    if importlib.util.find_spec("bson") is None:
        return
    files.prepare("make_bson", files.of("flat", "godb"), dump)
    yield Comparison(
        "BSON → GODB, flat",
        ours("copy_godb_arrow", dump, f"{target}.godb"),
        [peer("bson", ("bson",), "decode_bson", dump)],
        files.rows,
        target=2,
    )
    yield Comparison(
        "GODB → BSON, flat",
        ours("copy_godb_arrow", files.of("flat", "godb"), f"{target}.bson"),
        [peer("bson", ("bson",), "encode_bson", files.of("flat", "godb"))],
        files.rows,
        target=2,
    )


@ROWS.append
def tables(files: Files) -> Iterator[Comparison]:
    for shape in ("flat", "nested"):
        made = files.made[shape]
        folder = files.target(f"columns-{shape}-{files.rows}")
        os.makedirs(folder, exist_ok=True)
        files.prepare("make_columns", made["godb"], folder)
        parquet = f"{folder}/zstd.parquet"
        yield Comparison(
            f"file → table, {shape}",
            ours("table_godb_arrow", made["godb"]),
            [
                peer("Parquet (zstd), pyarrow", (), "table_parquet", parquet),
                peer("Parquet (zstd), Polars", ("polars",), "table_polars", parquet),
                peer("Lance", ("lance",), "table_lance", f"{folder}/table.lance"),
            ],
            files.rows,
            target=1,
        )
        fixed = ours("table_godb_arrow", made["godb"], name="keys in one order")
        yield Comparison(
            f"file → table, {shape}, keys in random order",
            ours("table_godb_arrow", made["shuffled"]),
            [fixed],
            files.rows,
            target=1 / 1.25,
        )
        recorded = ours("table_godb_arrow", made["godb"], name="recorded schema")
        yield Comparison(
            f"file → table, {shape}, inferred schema",
            ours("table_godb_arrow", made["godb"], "inferred"),
            [recorded],
            files.rows,
            target=1 / 1.4,
        )


def measure(comparison: Comparison, repeat: int) -> dict[str, Any]:
    """Run our program and the peers in turn; return the medians."""
    skipped = {run.peer: run.missing() for run in comparison.peers if run.missing()}
    runs = [comparison.ours, *(run for run in comparison.peers if run.peer not in skipped)]
    for _ in range(repeat):
        for run in runs:
            run.start()
    our_seconds = statistics.median(comparison.ours.seconds)
    our_processor_seconds = statistics.median(comparison.ours.processor_seconds)
    found: dict[str, Any] = {
        "row": comparison.name,
        "documents": comparison.documents,
        "target": comparison.target,
        "max_seconds": comparison.seconds,
        "runs": [
            {
                "peer": run.peer,
                "seconds": round(statistics.median(run.seconds), 6),
                "processor_seconds": round(statistics.median(run.processor_seconds), 3),
                "peak_mebibytes": round(max(run.peak_mebibytes)),
                "of": round(statistics.median(run.seconds) / our_seconds, 2),
                "processor_of": round(
                    statistics.median(run.processor_seconds) / our_processor_seconds, 2
                ),
            }
            for run in runs
        ],
        "skipped": skipped,
    }
    ratios = [run["of"] for run in found["runs"][1:]]
    found["reached"] = (
        comparison.target is None or not ratios or min(ratios) >= comparison.target
    ) and (comparison.seconds is None or our_seconds <= comparison.seconds)
    return found


def show(found: dict[str, Any]) -> None:
    print(f"\n{found['row']}{'' if found['reached'] else '  (below its target)'}\n")
    print("| | seconds | of | processor seconds | of | documents/s | peak MiB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for run in found["runs"]:
        rate = f"{found['documents'] / run['seconds']:,.0f}" if found["documents"] else ""
        print(
            f"| {run['peer']} | {run['seconds']:.3f} | {run['of']:.2f} "
            f"| {run['processor_seconds']:.3f} | {run['processor_of']:.2f} "
            f"| {rate} | {run['peak_mebibytes']} |",
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
        folder.mkdir(parents=True, exist_ok=True)
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
