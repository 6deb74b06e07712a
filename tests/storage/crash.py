"""``make crash``: kill a writing store at random moments, many times, and look whether everything is there.

Each round a process writes records and prints the number of each as it is acknowledged, with checkpoints and new log
segments every few dozen; it is killed (half the time together with its checkpoint process), the store is opened, and what
must be there is compared with what is.  ``--seed`` repeats the moments, as far as the machine does.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pydistdb_storage.engine import Space
from pydistdb_storage.log_file import SPARE_SEGMENTS
from pydistdb_storage.logged_engine import LoggedEngine

WRITER = """
import os, sys
import pydistdb_storage.log_file
pydistdb_storage.log_file.SEGMENT_BYTES = 20_000
from pydistdb_storage.engine import Space, WriteBatch
from pydistdb_storage.logged_engine import LoggedEngine
engine = LoggedEngine(sys.argv[1], checkpoint_operations=60)
number = int(engine.latest().get(Space.STATE, b"number") or b"0")
while True:
    number += 1
    batch = WriteBatch()
    if number % 7 == 0:
        batch.clear_range(Space.LOG, b"", b"%08d" % (number - 3))
    batch.put(Space.STATE, b"number", b"%d" % number)
    batch.put(Space.VERSIONS, b"%08d" % number, bytes(50))
    batch.put(Space.LOG, b"%08d" % number, bytes(50))
    if number > 3:
        batch.delete(Space.VERSIONS, b"%08d" % (number - 3))
    begun = engine.begin([batch]) if number // 50 % 2 else None
    if begun is None:
        engine.apply([batch])
    else:
        os.fdatasync(engine.log_file[0])
        engine.finish(begun)
    engine.latest()
    print(number, flush=True)
"""
MOST_WRITES = 900


def one_round(store: Path, rand: random.Random) -> int:
    """Write, kill, open and compare; returns the last number found."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert writer.stdout is not None
    acknowledged = 0
    for _ in range(rand.randrange(1, MOST_WRITES)):
        acknowledged = int(writer.stdout.readline())
    if rand.random() < 0.5:
        os.killpg(writer.pid, signal.SIGKILL)
    else:
        writer.kill()
    for line in writer.stdout.read().split("\n")[:-1]:
        acknowledged = int(line)
    writer.wait()
    writer.stdout.close()
    engine = LoggedEngine(store)
    view = engine.latest()
    number = int(view.get(Space.STATE, b"number") or b"0")
    assert number - acknowledged in (0, 1), f"{acknowledged} was acknowledged, {number} is there"
    rows = [int(key) for key, _ in view.scan(Space.VERSIONS, b"", b"\xff")]
    assert rows == [row for row in (number - 2, number - 1, number) if row > 0], f"rows {rows} after {number}"
    first = max(number // 7 * 7 - 3, 1)
    entries = [int(key) for key, _ in view.scan(Space.LOG, b"", b"\xff")]
    assert entries == list(range(first, number + 1)), f"entries {entries} after {number}"
    engine.close()
    return number


def main() -> None:
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rand = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="pydistdb-crash-") as folder:
        for number in range(1, given.rounds + 1):
            written = one_round(Path(folder), rand)
            if number % 50 == 0 or number == given.rounds:
                print(f"{number} kills, {written} commits, nothing lost", flush=True)
        assert len(list((Path(folder) / "log").glob("*.spare"))) <= SPARE_SEGMENTS


if __name__ == "__main__":
    main()
