"""Read and write the same documents as GODB and as NDJSON, beside other libraries.

    pip install -e '.[bench]'
    python tests/benchmarks/read_write.py

The peers read NDJSON with all cores, as they do by default.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from data import make_files, pack_documents
from harness import Peer, compare, write_results

import godb_arrow
from godb_arrow import codec

OURS = ("godb_arrow", "pyarrow.compute", "pandas", "xxhash", "lz4.block")


def godb_table(path: Path) -> Any:
    return godb_arrow.read_table(path)


def godb_inferred(path: Path) -> Any:
    return godb_arrow.read_table(path, use_hints=False)


def godb_stream(path: Path) -> int:
    with godb_arrow.scan_godb(path) as reader:
        return sum(batch.num_rows for batch in reader)


def godb_two_columns(path: Path) -> Any:
    names = godb_arrow.read_schema(path).names
    return godb_arrow.read_table(path, columns=names[1:3])


def godb_pandas(path: Path) -> Any:
    return godb_arrow.read_godb(path)


def godb_pandas_arrow(path: Path) -> Any:
    return godb_arrow.read_godb(path, dtype_backend="pyarrow")


def arrow_json(path: Path) -> Any:
    import pyarrow.json

    return pyarrow.json.read_json(path)


def polars_ndjson(path: Path) -> Any:
    import polars as pl

    return pl.read_ndjson(path)


def duckdb_json(path: Path) -> Any:
    import duckdb

    return duckdb.sql(f"select * from read_json('{path}')").to_arrow_table()


def lz4_body(path: Path) -> Any:
    import lz4.block

    body = path.read_bytes()[8:]
    return lz4.block.decompress(body, uncompressed_size=10 * len(body))


def polars_pandas(path: Path) -> Any:
    import polars as pl

    return pl.read_ndjson(path).to_pandas()


def pandas_json(path: Path) -> Any:
    import pandas as pd

    return pd.read_json(path, lines=True)


def msgpack_objects(documents: list[bytes]) -> Any:
    import msgpack
    import pyarrow as pa

    rows = [msgpack.unpackb(document, timestamp=3) for document in documents]
    return pa.Table.from_pylist(rows)


def load_arrow(path: Path) -> Any:
    import pyarrow as pa

    with pa.ipc.open_file(path) as file:
        return file.read_all()


def load_pandas(path: Path) -> Any:
    return load_arrow(path).to_pandas()


def load_polars(path: Path) -> Any:
    import polars as pl

    return pl.DataFrame(load_arrow(path))


def write_godb(table: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        godb_arrow.write_godb(table, os.path.join(folder, "x.godb"), "c")


def load_for(arrow: Path, target: Path, compression: str) -> tuple[Any, Path, str]:
    return load_arrow(arrow), target, compression


def write_compressed(given: tuple[Any, Path, Any]) -> None:
    table, path, compression = given
    godb_arrow.write_godb(table, path, "c", compression=compression)


def write_pandas(frame: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        frame.to_json(os.path.join(folder, "x.ndjson"), orient="records", lines=True)


def write_polars(frame: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        frame.write_ndjson(os.path.join(folder, "x.ndjson"))


def run(folder: Path, shape: str, rows: int, repeat: int) -> None:
    files = make_files(folder, shape, rows, shuffled=True)
    sizes = ", ".join(f"{name} {path.stat().st_size / 2**20:.1f} MiB" for name, path in
                      files.items() if name != "arrow")  # fmt: skip
    print(f"\n## {rows:,} {shape} documents ({sizes})")
    godb, ndjson, arrow, shuffled = (files[n] for n in ("godb", "ndjson", "arrow", "shuffled"))
    compare(
        f"File to Arrow table, {shape}",
        [
            Peer("godb_arrow", godb_table, (godb,), OURS),
            Peer("godb_arrow, keys in random order", godb_table, (shuffled,), OURS),
            Peer("godb_arrow, schema inferred", godb_inferred, (godb,), OURS),
            Peer("godb_arrow, random order, inferred", godb_inferred, (shuffled,), OURS),
            Peer("godb_arrow, streamed", godb_stream, (godb,), OURS),
            Peer("godb_arrow, 2 columns", godb_two_columns, (godb,), OURS),
            Peer("lz4.block.decompress of the body", lz4_body, (godb,), ["lz4.block"]),
            Peer("polars.read_ndjson", polars_ndjson, (ndjson,), ["polars"]),
            Peer("pyarrow.json.read_json", arrow_json, (ndjson,), ["pyarrow.json"]),
            Peer("DuckDB read_json", duckdb_json, (ndjson,), ["duckdb", "pyarrow"]),
            Peer("msgpack, Table.from_pylist", msgpack_objects, (godb,), ["msgpack", "pyarrow"],
                 pack_documents),
        ],
        rows=rows,
        repeat=repeat,
    )  # fmt: skip
    compare(
        f"File to pandas, {shape}",
        [
            Peer("godb_arrow.read_godb", godb_pandas, (godb,), OURS),
            Peer("godb_arrow, dtype_backend='pyarrow'", godb_pandas_arrow, (godb,), OURS),
            Peer("pandas.read_json(lines=True)", pandas_json, (ndjson,), ["pandas"]),
            Peer("polars to pandas", polars_pandas, (ndjson,), ["polars", "pandas"]),
        ],
        rows=rows,
        repeat=repeat,
    )
    compare(
        f"Table to file, {shape}",
        [
            Peer("godb_arrow.write_godb", write_godb, (arrow,), OURS, load_arrow),
            Peer("DataFrame.to_json(lines=True)", write_pandas, (arrow,), ["pandas"], load_pandas),
            Peer("polars write_ndjson", write_polars, (arrow,), ["polars"], load_polars),
        ],
        rows=rows,
        repeat=repeat,
    )


def compressions(folder: Path, shape: str, rows: int, repeat: int) -> None:
    """Compare the compressions of files."""
    arrow = make_files(folder, shape, rows)["arrow"]
    table = load_arrow(arrow)
    names = ("lz4", "zstd", "none", "lz4hc")
    paths = {name: folder / f"{shape}-{rows}-{name}.godb" for name in names}
    for name, path in paths.items():
        write_compressed((table, path, name))
    sizes = ", ".join(f"{name} {path.stat().st_size / 1e6:.1f} MB" for name, path in paths.items())
    print(f"\n## Compressions, {rows:,} {shape} documents ({sizes})")
    compare(
        f"Compressions: table to file, {shape}",
        [Peer(one, write_compressed, (arrow, paths[one], one), OURS, load_for) for one in names],
        rows=rows,
        repeat=repeat,
    )
    compare(
        f"Compressions: file to table, {shape}",
        [Peer(name, godb_table, (path,), OURS) for name, path in paths.items()],
        rows=rows,
        repeat=repeat,
    )


def stream_memory(folder: Path, rows: int) -> None:
    """Measure the memory of streaming a file, and a file that is five times as large."""
    files = []
    for count in (rows, 5 * rows):
        path = folder / f"stream-{count}.godb"
        if not path.exists():
            documents = (
                {"n": n, "name": f"user {n:07d}", "score": n / 7, "on": n % 2 == 0}
                for n in range(count)
            )
            godb_arrow.write_godb(documents, path, "c")
        files.append(Peer(f"{count:,} documents", godb_stream, (path,), OURS))
    compare("Streaming: memory", files, rows=rows, repeat=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flat", type=int, default=1_000_000, help="flat documents; none with 0")
    parser.add_argument("--nested", type=int, default=1_000_000, help="nested documents")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the files here, and use them again")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    # Threads of BLAS would count as memory, and have nothing to do here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    print(f"godb_arrow {godb_arrow.__version__}, {codec.BACKEND} codec, Python "
          f"{platform.python_version()}, {os.cpu_count()} cores")  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        counts = {"flat": arguments.flat, "nested": arguments.nested}
        chosen = {shape: count for shape, count in counts.items() if count}
        for shape, count in chosen.items():
            run(folder, shape, count, arguments.repeat)
        for shape, count in chosen.items():
            compressions(folder, shape, count, arguments.repeat)
        if arguments.flat:
            stream_memory(folder, arguments.flat)
    write_results(arguments.json)


if __name__ == "__main__":
    main()
