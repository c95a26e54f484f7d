"""Ctrl-C ends a long call of the kernel soon, instead of at its end."""

from __future__ import annotations

import sys

import pytest
from support.processes import run_python

from godb_arrow import codec

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals to itself")

# Processor time, which other programs do not disturb. A signal comes after a quarter of the call.
PROGRAM = """
import io, json, signal, sys, tempfile, time
import godb_arrow, numpy, pandas, pyarrow as pa
from godb_arrow import StorageEngine, codec
from godb_arrow.snapshots.index_names import keys_builder

kind = sys.argv[1]
big = {"_id": "big", "a": [{"k": n, "s": "text"} for n in range(700_000)]}
wide = {"_id": "wide", "m": {f"key {n}": n for n in range(900_000)}}
engine = StorageEngine(tempfile.mkdtemp(), max_memory="2GB")
c = engine.create_collection("c")

def pack(document):
    def call():
        try:
            c.replace(document["_id"], document)
        except godb_arrow.DocumentNotFound:
            c.insert(document)
    return call

def unsaved():
    count = 1_200_000
    c.insert_many(pa.table({"n": range(count), "x": numpy.random.rand(count)}))

if kind == "dict of a list":
    c.insert(big)
    call = lambda: c.get("big")
elif kind == "dict of a map":
    c.insert(wide)
    call = lambda: c.get("wide")
elif kind == "document of a list":
    call = pack(big)
elif kind == "document of a map":
    call = pack(wide)
elif kind == "unsaved, sorted":
    unsaved()
    call = lambda: c.find(sort="x", limit=10)
elif kind == "unsaved, columns":
    unsaved()
    call = lambda: c.to_arrow()
elif kind == "unsaved, filter":
    unsaved()
    call = lambda: c.find({"x": {"$lt": -1}, "m": {"$exists": True}})
elif kind == "verify":
    file = io.BytesIO()
    table = pa.table({"_id": [str(n) for n in range(300_000)], "n": range(300_000)})
    godb_arrow.write_godb(table, file, "c")
    call = lambda: godb_arrow.verify_godb(file.getvalue())
elif kind == "sorted ids":
    hashes = numpy.random.bytes(8 * 2_000_000)
    call = lambda: codec.sort_hashes(hashes)
elif kind in ("sorted keys", "merged keys", "rows of keys"):
    count = 200_000
    texts = pa.array(numpy.random.permutation(count)).cast(pa.string())
    columns = {"x": numpy.random.rand(count), "t": texts}
    data, _ = codec.encode(pa.record_batch(columns), texts.cast(pa.binary()), False)
    entries = codec.scan_entries(data, 0, count, len(data) + 1, 0)
    builders = [keys_builder("t" if kind == "sorted keys" else "x") for _ in range(3)]
    for builder in builders:
        for _ in range(6 if kind == "sorted keys" else 3):
            builder.add(entries)
    if kind == "sorted keys":
        call = lambda: builders.pop().keys()
    elif kind == "rows of keys":
        keys = builders[0].keys()
        call = lambda: keys.rows([(0.0, 1.0)] * 6)
    else:
        keys = [builder.keys() for builder in builders]
        places = [numpy.arange(3 * count) * 3 + n for n in range(3)]
        call = lambda: codec.SortedKeys.merge(keys, places, 9 * count)
elif kind == "ndjson":
    text = "\\n".join(json.dumps({"n": n, "t": "x" * 50}) for n in range(200_000))
    with tempfile.NamedTemporaryFile(suffix=".ndjson", delete=False) as file:
        file.write(text.encode())
    call = lambda: godb_arrow.write_godb(godb_arrow.read_ndjson(file.name), io.BytesIO(), "c")

call()
start = time.process_time()
call()
whole = time.process_time() - start

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGPROF, interrupt)
start = time.process_time()
signal.setitimer(signal.ITIMER_PROF, whole / 4)
try:
    call()
    signal.setitimer(signal.ITIMER_PROF, 0)
    print("not interrupted")
except KeyboardInterrupt:
    print((time.process_time() - start) / whole, whole)
    if len(sys.argv) > 2:
        print(call() is not None)
"""
KINDS = [
    "dict of a list", "dict of a map", "document of a list", "document of a map",
    "unsaved, sorted", "unsaved, columns", "unsaved, filter", "verify", "ndjson",
    "sorted ids", "sorted keys", "merged keys", "rows of keys",
]  # fmt: skip


@pytest.mark.skipif(codec.BACKEND == "reference", reason="Python code is interrupted anyway")
@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_ends_a_long_call(kind: str) -> None:
    done = run_python(PROGRAM, kind)
    assert done.returncode == 0, done.stderr[-3000:]
    part, whole = map(float, done.stdout.split())
    # A call of less than 100 ms may end with its first check.
    assert part < 0.7 or whole < 0.1, done.stdout


HANDLERS = """
import signal
from godb_arrow import codec

class Mine(ValueError):
    pass

def interrupt(number, frame):
    # The handler may use the codec, too.
    assert codec.load(codec.pack({"a": [1, {"b": 2}]})) == {"a": [1, {"b": 2}]}
    if raises:
        raise Mine("from the handler")

value = {"a": [{"k": n, "s": [n, "text"]} for n in range(120_000)]}
packed = codec.pack(value)
signal.signal(signal.SIGPROF, interrupt)
for call, expected in ((lambda: codec.load(packed), value), (lambda: codec.pack(value), packed)):
    for raises in (False, True):
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0 if raises else 0.002)
        try:
            assert call() == expected
            assert not raises
        except Mine:
            assert raises
        signal.setitimer(signal.ITIMER_PROF, 0)
    assert call() == expected
print("done")
"""


def test_a_handler_may_use_the_codec_and_its_error_is_raised() -> None:
    done = run_python(HANDLERS)
    assert done.stdout.strip() == "done", done.stderr[-3000:]
