"""Fuzz the codec guided by coverage, from a corpus of valid files and documents.

    pip install atheris
    python tests/fuzz/coverage.py -max_total_time=60

Options go to libFuzzer. What fails is an input on which the kernel and the reference codec
disagree, or any error that is not a GodbError.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["godb_arrow"]):
    import godb_arrow
    from godb_arrow import GodbError

import differential
import mutate


def one_input(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    kind = provider.ConsumeIntInRange(0, len(differential.PLANS))
    rest = provider.ConsumeBytes(len(data))
    if kind < len(differential.PLANS):
        differential.check(rest, differential.PLANS[kind])
        return
    try:
        for name in godb_arrow.list_collections(rest):
            godb_arrow.read_table(rest, name)
    except GodbError:
        pass


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate([*differential.corpus(), *mutate.seeds()]):
            Path(folder, str(number)).write_bytes(seed + b"\0")
        atheris.Setup([*sys.argv, folder], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
