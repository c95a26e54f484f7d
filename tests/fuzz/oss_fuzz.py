"""Entry points for OSS-Fuzz, guided by coverage, from the corpus beside this file.

    pip install atheris
    python tests/fuzz/oss_fuzz.py documents -max_total_time=60 tests/fuzz/corpus/documents
    python tests/fuzz/oss_fuzz.py sealed -max_total_time=60 tests/fuzz/corpus/sealed
    python tests/fuzz/oss_fuzz.py --replay                  # the corpus once, without atheris

The target ``documents`` compares both codecs on MessagePack, and reads GODB files. The target
``sealed`` changes fields of sealed artefacts. Other options go to libFuzzer, which adds the inputs
that reach new code to the first folder. Keep a new input in the corpus if it found a fault.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

CORPUS = Path(__file__).parent / "corpus"


def documents(data: bytes) -> None:
    """Compare the codecs on bytes whose first one chooses a plan; the last choice reads a file."""
    import differential

    import godb_arrow
    from godb_arrow import GodbError

    if not data:
        return
    kind = data[0] % (len(differential.PLANS) + 1)
    if kind < len(differential.PLANS):
        differential.check(data[1:], differential.PLANS[kind])
        return
    try:
        for name in godb_arrow.list_collections(data[1:]):
            godb_arrow.read_table(data[1:], name)
    except GodbError:
        pass


def sealed(data: bytes) -> None:
    """Run the execution of the fuzzer of sealed artefacts that bytes choose."""
    import sealed as fuzzer

    fuzzer.one_input(data)


TARGETS: dict[str, Callable[[bytes], None]] = {"documents": documents, "sealed": sealed}


def replay() -> int:
    """Run each input of the corpus once; return their number."""
    count = 0
    for name, target in TARGETS.items():
        for path in sorted((CORPUS / name).iterdir()):
            try:
                target(path.read_bytes())
            except BaseException:
                print(f"this input failed: {path}", file=sys.stderr)
                raise
            count += 1
    return count


def main() -> None:
    if sys.argv[1:] == ["--replay"]:
        print(replay())
        return
    import atheris

    target = TARGETS[sys.argv.pop(1)]
    with atheris.instrument_imports(include=["godb_arrow"]):
        target(b"")
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
