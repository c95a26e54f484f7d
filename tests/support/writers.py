"""Programs that tests run as other processes and kill."""

from __future__ import annotations

WRITER = """
import sys, threading
from godb_arrow import StorageEngine

folder, durability, first, part_size = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
engine = StorageEngine(
    folder, durability=durability, max_memory="2MiB", background_save=0.05,
    part_size=part_size, keep_versions=2, part_grace=0.05,
)
engine.start_background_workers()
said = threading.Lock()

def say(*words):
    with said:
        sys.stdout.write(" ".join(map(str, words)) + "\\n")
        sys.stdout.flush()

def write(thread):
    events = engine[f"events{thread % 2}"]
    number = first
    while True:
        key = f"{thread}-{number}"
        events.insert({"_id": key, "v": number, "text": "x" * 50})
        say("put", events.name, key, number)
        if number % 5 == 0:
            events.update(key, {"v": -number})
            say("put", events.name, key, -number)
        if number % 7 == 0:
            events.delete(key)
            say("gone", events.name, key)
        if number % 20 == 0:
            batch = [{"_id": f"{key}-{i}", "v": i, "text": "y" * 200} for i in range(100)]
            events.insert_many(batch)
            say("batch", events.name, key)
        number += 1

for name in ("events0", "events1"):
    if name not in engine:
        engine.create_collection(name)
say("ready")
for thread in range(4):
    threading.Thread(target=write, args=(thread,), daemon=True).start()
while True:
    threading.Event().wait(0.1)
    engine.compact()
"""
